"""`Recorder`, which records elementwise operations of torch as a program."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn, final

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from equipoise.statistics.states import SoftTargets, StateName

MOST = 192  # registers of a kernel


class Operand(NamedTuple):
    """Operand of an instruction: a "state" (by name), "constant", "option" or "result" (by number)."""

    kind: str
    value: Any


class Instruction(NamedTuple):
    """One elementwise operation."""

    op: str
    operands: tuple[Operand, ...]


@final
@dataclass(frozen=True)
class Program:
    """The loss of a row as elementwise instructions on its states.

    Args:
        separate: Whether the sums are over the classes without the target.
        instructions: The instructions; each reads states, constants, options and earlier results.
        result: The operand that is the loss.
        options: Tensors whose values are read at each call, such as scheduled values.
        class_weight: The class weights of the recording, replaced by those of a call; None without.
        added: (C, C); the row of the target is added to the logits before their states are computed; or None.
    """

    separate: bool
    instructions: tuple[Instruction, ...]
    result: Operand
    options: tuple[Tensor, ...]
    class_weight: Tensor | None
    added: Tensor | None = None

    def operands(self) -> list[Operand]:
        """Return all operands, each once."""
        found = [operand for line in self.instructions for operand in line.operands]
        return list(dict.fromkeys([*found, self.result]))


class NotRecordableError(Exception):
    """The loss uses an operation that a program cannot represent."""


# Name of a torch function, without underscores, to the operation of a program.
OPS: dict[str, str] = {
    name: name
    for name in (
        *("neg", "add", "sub", "mul", "div", "exp", "log", "log1p", "expm1", "sigmoid", "softplus", "tanh"),
        *("sqrt", "relu", "abs", "maximum", "minimum", "pow", "gt", "lt", "eq", "ne", "ge", "le", "where"),
        *("clamp", "detach"),
    )
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
NEUTRAL = {"add": 0.0, "sub": 0.0, "mul": 1.0, "div": 1.0, "pow": 1.0}  # neutral second operands
REVERSED = ("rsub", "rtruediv", "rdiv", "rpow")
SAME = ("to", "as_tensor", "contiguous", "type_as", "float", "double", "clone", "expand_as")
READS = ("shape", "dtype", "device", "ndim", "size", "dim", "is_floating_point", "numel", "format", "repr")
BOOLEAN = ("gt", "lt", "eq", "ne", "ge", "le", "and", "or", "not", "where", "detach")  # operations on bools
LINEAR_FROM = 20.0  # torch's softplus returns its argument above this


class Recorder(TorchFunctionMode):
    """Records operations on states, and on other tensors, which become options.

    Args:
        rows: Number of example rows.
        dtype: Dtype of the statistics.
    """

    def __init__(self, rows: int, dtype: torch.dtype) -> None:
        super().__init__()
        self._rows, self._dtype = rows, dtype
        self._kept: list[Any] = []  # keeps tensors alive whose id is a key
        self._known: dict[int, Operand] = {}
        self._constants: set[int] = set()  # tensors made from Python numbers
        self._computed: set[int] = set()  # other intermediate tensors
        self._options: list[Tensor] = []
        self._instructions: list[Instruction] = []
        self._numbers: dict[Instruction, Operand] = {}
        self._inputs: dict[StateName, Tensor] = {}
        self._refused = ""

    def input(self, name: StateName) -> Tensor:
        """Return example values of a state."""
        if name not in self._inputs:
            numbers = torch.linspace(0.5, 1.5, self._rows, dtype=self._dtype).requires_grad_()
            self._inputs[name] = numbers
            self._known[id(numbers)] = Operand("state", name)
        return self._inputs[name]

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        read = list(_tensors((args, kwargs)))
        full_name = getattr(func, "__name__", str(func))
        name = full_name.strip("_")
        for tensor in read:
            self._meet(tensor)
        if not any(id(tensor) in self._known for tensor in read):
            out = func(*args, **kwargs)
            constant = all(id(tensor) in self._constants for tensor in read)
            for made in _tensors(out):
                self._kept.append(made)
                (self._constants if constant else self._computed).add(id(made))
            return out
        if (full_name.endswith("_") and not full_name.startswith("__")) or kwargs.pop("inplace", False):
            self._refuse(f"it changes a tensor in place: {full_name}")
        out = func(*args, **kwargs)
        if not isinstance(out, Tensor):
            if name != "get" and name not in READS:  # "get" is the getter of a property
                self._refuse(f"it looks at a value: {name}")
            return out
        first = args[0] if args else None
        if name in SAME and isinstance(first, Tensor) and id(first) in self._known:
            narrowed = first.dtype == self._dtype and out.dtype != first.dtype
            if narrowed or not self._fits(out, exact=first.dtype == torch.bool):
                self._refuse(f"it computes in {out.dtype}")
            self._alias(out, self._operand(first))
        elif name not in OPS or not self._fits(out, exact=name == "where" and _are_exact(args[1:])):
            self._refuse(f"it is not elementwise, or not known to a kernel: {name}")
        else:
            self._write(name, func, args, kwargs, out)
        return out

    def _meet(self, tensor: Tensor) -> None:
        """Record a 0-d tensor from outside as an option; refuse the result of a custom autograd function."""
        if isinstance(tensor.grad_fn, torch.autograd.function.BackwardCFunction):
            self._refuse("it has a gradient of its own")
        number = id(tensor)
        if tensor.ndim or number in self._known or number in self._constants or number in self._computed:
            return
        self._known[number] = Operand("option", len(self._options))
        self._options.append(tensor)

    def _refuse(self, reason: str) -> NoReturn:
        self._refused = self._refused or reason  # the loss may catch the error
        raise NotRecordableError(reason)

    def _fits(self, out: Tensor, *, exact: bool) -> bool:
        """Return whether a tensor is (N,) or 0-d, with a dtype that converts without rounding."""
        if not out.ndim:
            return out.dtype in (torch.float32, torch.float64, torch.bool)
        if out.shape != (self._rows,):
            return False
        return out.dtype in (self._dtype, torch.bool) or (exact and out.dtype == torch.float32)

    def _operand(self, value: Any) -> Operand:
        if isinstance(value, Tensor):
            if id(value) in self._known:
                return self._known[id(value)]
            if id(value) not in self._constants or value.numel() != 1:
                self._refuse(f"it uses a tensor of shape {tuple(value.shape)}")
            value = value.item()
        if not isinstance(value, (int, float, bool)):
            self._refuse(f"it uses {value!r}")
        return Operand("constant", float(value))

    def _write(
        self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor
    ) -> None:
        op = OPS[name]
        if op == "clamp":
            low, high = _bounds(name, args, kwargs)
            args = args[0], -math.inf if low is None else low, math.inf if high is None else high
        elif name == "square":
            args = args[0], args[0]
        elif name == "reciprocal":
            args = 1.0, args[0]
        elif func is Tensor.where:
            args = args[1], args[0], args[2]
        if name in REVERSED:
            args = args[::-1]
        if kwargs or (op in ("softplus", "relu") and len(args) > 1):
            self._refuse(f"it calls {name} with options")
        if out.dtype == torch.bool and op not in BOOLEAN:
            self._refuse(f"it calls {name} with bools")
        operands = tuple(self._operand(value) for value in args)
        found = self._simplified(op, operands) or self._line(op, *operands)
        if op == "softplus":
            linear = self._line("gt", *operands, Operand("constant", LINEAR_FROM))
            found = self._line("where", linear, *operands, found)
        if not torch.is_grad_enabled():
            found = self._line("detach", found)
        self._alias(out, found)

    def _simplified(self, op: str, operands: tuple[Operand, ...]) -> Operand | None:
        """Return the operand that an operation returns unchanged, or None."""
        first, *others = operands
        if op == "where" and first.kind == "constant":
            return others[0 if first.value else 1]
        if op in NEUTRAL and others[-1] == Operand("constant", NEUTRAL[op]):
            return first
        if op in ("add", "mul") and first == Operand("constant", NEUTRAL[op]):
            return others[0]
        return None

    def _line(self, op: str, *operands: Operand) -> Operand:
        """Return the result of an instruction, which is recorded once."""
        line = Instruction(op, operands)
        if line not in self._numbers:
            self._numbers[line] = Operand("result", len(self._instructions))
            self._instructions.append(line)
        return self._numbers[line]

    def _alias(self, out: Tensor, operand: Operand) -> None:
        self._kept.append(out)
        self._known[id(out)] = operand

    def program(self, result: Tensor, separate: bool, class_weight: Tensor | None) -> Program:
        """Return the program, without instructions that the result does not use."""
        if self._refused:
            raise NotRecordableError(self._refused)
        if not isinstance(result, Tensor) or id(result) not in self._known:
            self._refuse("its loss is not made of what a row answers")
        if result.shape != (self._rows,) or result.dtype != self._dtype:
            self._refuse(f"its loss has shape {tuple(result.shape)} and {result.dtype}")
        self._meet(result)
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
        program = Program(separate, lines, moved(last), tuple(self._options), class_weight)
        if len(lines) + sum(operand.kind != "result" for operand in program.operands()) > MOST:
            raise NotRecordableError(f"its program has {len(lines)} instructions, more than a kernel takes")
        return program


def _are_exact(values: Sequence[Any]) -> bool:
    """Return whether the values are Python numbers that every dtype represents exactly."""
    return all(isinstance(value, int | float) and value in (0, 1) for value in values)


def _tensors(values: Any) -> Iterator[Tensor]:
    """Return the tensors in nested lists, tuples and dicts."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _tensors(value)
    elif isinstance(values, dict):
        yield from _tensors(list(values.values()))


def _bounds(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """Return the lower and the upper bound of a clamp."""
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
