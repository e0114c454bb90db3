"""Records what a loss computes from the states of a row.

A loss, and `finalize` of the statistics that it asks for, are elementwise. Run once on made-up numbers while a
mode of torch watches, they leave a program: a list of elementwise instructions from the numbers of a state to the
loss. A kernel runs the program without knowing any statistic or loss.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, NamedTuple, final

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from equipoise.statistics.base import Statistic
from equipoise.statistics.row import FullLogits, RowFunction, RowStatistics
from equipoise.statistics.states import RowStates, SoftTargets, StateName

ROWS = 3  # made-up rows, so that what is not one number per row shows
MOST = 192  # registers of a kernel


class Operand(NamedTuple):
    """What an instruction reads: a "state", an "option" or "constant" by its value, or a "result" by number."""

    kind: str
    value: Any


class Instruction(NamedTuple):
    """One elementwise operation."""

    op: str
    operands: tuple[Operand, ...]


@final
@dataclass(frozen=True)
class Program:
    """The loss of a row as elementwise instructions on its state.

    Args:
        separate: Whether the target is kept out of the sums.
        instructions: In order; their operands are results of those before.
        result: The loss.
        options: Tensors that are read at each call, such as scheduled values.
        class_weight: The class weights of the recording, which stand for those of a call; None without.
    """

    separate: bool
    instructions: tuple[Instruction, ...]
    result: Operand
    options: tuple[Tensor, ...]
    class_weight: Tensor | None

    def operands(self) -> list[Operand]:
        """Return all operands, each once."""
        found = [operand for line in self.instructions for operand in line.operands]
        return list(dict.fromkeys([*found, self.result]))


@final
@dataclass(frozen=True)
class Trace:
    """What a loss asks of its rows, and the program it comes to.

    Args:
        statistics: In the order it asked for them.
        reads_full_logits: Whether it needs complete rows of logits.
        states: What `finalize` of the statistics reads.
        program: None where the loss cannot be recorded.
        reason: Why there is none.
    """

    statistics: tuple[Statistic, ...]
    reads_full_logits: bool
    states: tuple[StateName, ...]
    program: Program | None
    reason: str = ""

    @property
    def separate(self) -> bool:
        """Whether a statistic keeps the target out of the sums."""
        return any(statistic.separates_target for statistic in self.statistics)

    @property
    def reads_target(self) -> bool:
        """Whether a statistic depends on the target, or complete rows are read."""
        return self.reads_full_logits or any(statistic.reads_target for statistic in self.statistics)


class NotRecordableError(Exception):
    """The loss does something that no program can hold."""


def trace(
    loss: RowFunction, num_classes: int, dtype: torch.dtype, class_weight: Tensor | None = None
) -> Trace:
    """Return what a loss asks of rows of so many classes, and its program.

    An error of the loss itself is raised as it is.

    Args:
        loss: The loss.
        num_classes: C.
        dtype: Of the statistics.
        class_weight: (C,) weights, whose values do not matter; None where there are none.
    """
    options = tuple(_tensors(loss))
    class_weight = None if class_weight is None else class_weight.detach()
    with torch.no_grad():
        statistics, full = _statistics(loss, num_classes, dtype, class_weight)
        read = states_of(statistics, dtype)
        if full or not statistics:
            reason = "it reads complete rows of logits" if full else "it reads no statistic"
            return Trace(statistics, full, read, None, reason)
        separate = any(statistic.separates_target for statistic in statistics)
        try:
            program = _record(loss, num_classes, dtype, class_weight, separate, options)
        except NotRecordableError as error:
            return Trace(statistics, full, read, None, str(error))
    return Trace(statistics, full, read, program)


def states_of(statistics: Sequence[Statistic], dtype: torch.dtype) -> tuple[StateName, ...]:
    """Return what `finalize` of statistics reads, of states that may be merged, in one order."""
    names: dict[StateName, None] = {}

    def read(name: StateName) -> Tensor:
        names[name] = None
        return torch.ones(ROWS, dtype=dtype)

    separate = any(statistic.separates_target for statistic in statistics)
    states = RowStates.read(read, separate=separate, parts=2)  # what is merged is read too
    for statistic in statistics:
        statistic.finalize(states)
    for name in (StateName("base"), StateName("max_exp", 1.0)):  # which tell whether a row is valid
        names[name] = None
    return tuple(sorted(names, key=lambda name: (name.kind, str(name.parameter))))


def _tensors(loss: RowFunction) -> list[Tensor]:
    """Return the tensors in a loss: scheduled values and coefficients."""
    held: list[Any] = []
    for coefficient, term in loss.terms():
        held.append(coefficient)
        held += [getattr(term, field.name) for field in fields(term)] if is_dataclass(term) else []
    return [value for value in held if isinstance(value, Tensor)]


def _statistics(
    loss: RowFunction, num_classes: int, dtype: torch.dtype, class_weight: Tensor | None
) -> tuple[tuple[Statistic, ...], bool]:
    """Return the statistics that a loss asks for, and whether it reads full logits."""
    found: list[Statistic] = []

    def compute(statistic: Statistic) -> Tensor:
        found.append(statistic)
        return torch.ones(ROWS, dtype=dtype)

    target = torch.zeros(ROWS, dtype=torch.long)
    row = RowStatistics(
        compute,
        num_classes=num_classes,
        class_weight=class_weight,
        weight=None if class_weight is None else torch.ones(ROWS, dtype=dtype),
        full_logits=FullLogits(torch.ones(ROWS, num_classes, dtype=dtype), target),
    )
    loss.of(row)
    return tuple(found), row.reads_full_logits


def _record(
    loss: RowFunction,
    num_classes: int,
    dtype: torch.dtype,
    class_weight: Tensor | None,
    separate: bool,
    options: tuple[Tensor, ...],
) -> Program:
    recorder = _Recorder(options)
    with recorder:
        states = RowStates.read(lambda name: recorder.input(name, dtype), separate=separate)
        row = RowStatistics(
            lambda statistic: statistic.finalize(states),
            num_classes=num_classes,
            class_weight=class_weight,
            weight=None if class_weight is None else recorder.input(StateName("class_weight"), dtype),
        )
        result = loss.of(row)
    return recorder.program(result, separate, class_weight)


# Operations of torch, by the name of the function without underscores around it, and what a program calls them.
OPS: dict[str, str] = {
    name: name
    for name in "neg add sub mul div exp log log1p expm1 sigmoid softplus tanh sqrt relu abs maximum minimum pow "
    "gt lt eq ne ge le where clamp detach".split()
} | {
    "radd": "add",
    "rsub": "sub",
    "rmul": "mul",
    "truediv": "div",
    "true_divide": "div",
    "rtruediv": "div",
    "rdiv": "div",
    "rpow": "pow",
    "negative": "neg",
    "logsigmoid": "logsigmoid",
    "log_sigmoid": "logsigmoid",
    "clamp_min": "clamp",
    "clamp_max": "clamp",
    "square": "mul",
    "reciprocal": "div",
    "logical_and": "and",
    "bitwise_and": "and",
    "and": "and",
    "logical_or": "or",
    "bitwise_or": "or",
    "or": "or",
    "logical_not": "not",
    "bitwise_not": "not",
    "invert": "not",
}
NEUTRAL = {"add": 0.0, "sub": 0.0, "mul": 1.0, "div": 1.0, "pow": 1.0}  # second operands that change nothing
REVERSED = ("rsub", "rtruediv", "rdiv", "rpow")
SAME = ("to", "as_tensor", "contiguous", "type_as", "float", "double", "clone", "expand_as", "requires_grad_")
READS = ("shape", "dtype", "device", "ndim", "requires_grad", "size", "dim", "is_floating_point", "numel")


class _Recorder(TorchFunctionMode):
    """Writes down what is done to the numbers of a state and to options; other tensors are constants."""

    def __init__(self, options: Sequence[Tensor]) -> None:
        super().__init__()
        self._options = tuple(options)
        self._kept: list[Tensor] = list(options)  # what is known by its id must live
        self._known = {id(option): Operand("option", k) for k, option in enumerate(options)}
        self._instructions: list[Instruction] = []
        self._numbers: dict[Instruction, Operand] = {}
        self._inputs: dict[StateName, Tensor] = {}

    def input(self, name: StateName, dtype: torch.dtype) -> Tensor:
        """Return made-up numbers for a state."""
        if name not in self._inputs:
            numbers = torch.linspace(0.5, 1.5, ROWS, dtype=dtype)
            self._inputs[name] = numbers
            self._known[id(numbers)] = Operand("state", name)
        return self._inputs[name]

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        out = func(*args, **kwargs)
        if not any(id(value) in self._known for value in (*args, *kwargs.values())):
            return out
        name = getattr(func, "__name__", str(func)).strip("_")
        if name == "get" or name in READS or name.rstrip("_") in ("format", "repr"):
            return out  # a property
        if not isinstance(out, Tensor) or out.dtype == torch.long:
            raise NotRecordableError(f"it looks at a value: {name}")
        if name in SAME:
            self._alias(out, self._operand(args[0]))
            return out
        if name not in OPS or out.shape not in ((ROWS,), ()):
            raise NotRecordableError(f"it is not elementwise, or not known to a kernel: {name}")
        self._write(name, args, kwargs, out)
        return out

    def _operand(self, value: Any) -> Operand:
        if isinstance(value, Tensor):
            if id(value) in self._known:
                return self._known[id(value)]
            if value.numel() != 1:
                raise NotRecordableError(f"it uses a tensor of shape {tuple(value.shape)}")
            value = value.item()
        if not isinstance(value, (int, float, bool)):
            raise NotRecordableError(f"it uses {value!r}")
        return Operand("constant", float(value))

    def _write(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> None:
        op = OPS[name]
        if op == "clamp":
            low, high = _bounds(name, args, kwargs)
            args = args[0], -math.inf if low is None else low, math.inf if high is None else high
        elif name == "square":
            args = args[0], args[0]
        elif name == "reciprocal":
            args = 1.0, args[0]
        elif name == "relu":
            kwargs.pop("inplace", None)
        if name in REVERSED:
            args = args[::-1]
        if kwargs or (op == "softplus" and len(args) > 1):
            raise NotRecordableError(f"it calls {name} with options")
        operands = tuple(self._operand(value) for value in args)
        if op == "where" and operands[0].kind == "constant":
            self._alias(out, operands[1 if operands[0].value else 2])
            return
        if op in NEUTRAL and Operand("constant", NEUTRAL[op]) in operands[-1:]:
            self._alias(out, operands[0])
            return
        if op in ("add", "mul") and operands[0] == Operand("constant", NEUTRAL[op]):
            self._alias(out, operands[1])
            return
        self._append(Instruction(op, operands), out)

    def _append(self, line: Instruction, out: Tensor) -> None:
        if line not in self._numbers:
            self._numbers[line] = Operand("result", len(self._instructions))
            self._instructions.append(line)
        self._alias(out, self._numbers[line])

    def _alias(self, out: Tensor, operand: Operand) -> None:
        self._kept.append(out)
        self._known[id(out)] = operand

    def program(self, result: Tensor, separate: bool, class_weight: Tensor | None) -> Program:
        """Return what was written, without what the result does not use."""
        if not isinstance(result, Tensor) or id(result) not in self._known or result.shape != (ROWS,):
            raise NotRecordableError("its loss is not made of what a row answers")
        last = self._known[id(result)]
        used = {last}
        for number in reversed(range(len(self._instructions))):
            if Operand("result", number) in used:
                used |= set(self._instructions[number].operands)
        kept = [k for k in range(len(self._instructions)) if Operand("result", k) in used]
        place = {k: index for index, k in enumerate(kept)}

        def moved(operand: Operand) -> Operand:
            return Operand("result", place[operand.value]) if operand.kind == "result" else operand

        lines = tuple(
            Instruction(self._instructions[k].op, tuple(map(moved, self._instructions[k].operands)))
            for k in kept
        )
        program = Program(separate, lines, moved(last), self._options, class_weight)
        if len(lines) + sum(operand.kind != "result" for operand in program.operands()) > MOST:
            raise NotRecordableError(f"its program has {len(lines)} instructions, more than a kernel takes")
        return program


def _bounds(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """Return the limits of a clamp."""
    low = kwargs.pop("min", args[1] if len(args) > 1 and name != "clamp_max" else None)
    place = 1 if name == "clamp_max" else 2
    return low, kwargs.pop("max", args[place] if len(args) > place else None)


def uses(program: Program) -> tuple[StateName, ...]:
    """Return the states that a program reads."""
    return tuple(operand.value for operand in program.operands() if operand.kind == "state")


def soft_targets(program: Program) -> tuple[SoftTargets, ...]:
    """Return the soft targets that a program reads, each once."""
    found = [name.parameter for name in uses(program) if isinstance(name.parameter, SoftTargets)]
    return tuple(dict.fromkeys(found))
