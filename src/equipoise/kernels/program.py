"""`Compiled`: a recorded program, encoded for the compiled kernel."""

import ctypes
from typing import final

import torch
from torch import Tensor

from equipoise.kernels import cpu
from equipoise.statistics.record import Operand, Program, uses
from equipoise.statistics.states import SoftTargets, StateName

TOO_MUCH = f"it reads more than {cpu.SCALES} scales or one table of soft targets"  # if not `fits`


@final
class Compiled:
    """A program for the compiled kernel.

    Args:
        program: The program; `fits` must be true.

    Attributes:
        address: Address of the struct for the kernel.
        kept: Number of values per row that the backward pass needs.
        added: (C, C); the row of the target is added to the logits; or None.
        tensors: Tensors whose values are read at each call, without class weights.
    """

    def __init__(self, program: Program) -> None:
        operands = program.operands()
        states = [operand for operand in operands if operand.kind == "state"]
        constants = [operand for operand in operands if operand.kind == "constant"]
        options = [operand for operand in operands if operand.kind == "option"]
        scales = _scales(program)
        place = {operand: k for k, operand in enumerate([*states, *constants, *options])}
        first = len(place)

        def register(operand: Operand) -> int:
            return first + operand.value if operand.kind == "result" else place[operand]

        numbers = [_state_id(operand.value, scales) for operand in states]
        code = [
            cpu.Instruction(cpu.OPS[op], *(register(operand) for operand in read))
            for op, read in program.instructions
        ]
        self._inputs = (ctypes.c_int32 * max(1, len(numbers)))(*numbers)
        values = [operand.value for operand in constants] + [0.0] * len(options)
        self._constants = (ctypes.c_double * max(1, len(values)))(*values)
        self._options = [program.options[operand.value] for operand in options]
        self._first_option = len(constants)
        self._code = (cpu.Instruction * max(1, len(code)))(*code)
        self._soft = next(
            (name.parameter for name in uses(program) if isinstance(name.parameter, SoftTargets)), None
        )
        self._weight = program.class_weight
        soft = [self._soft.table] if self._soft and self._soft.table is not self._weight else []
        self.added: Tensor | None = program.added
        self.tensors: list[Tensor] = [*self._options, *soft, *([] if self.added is None else [self.added])]
        self._structure = cpu.Program(
            program.separate,
            len(scales),
            (ctypes.c_double * cpu.SCALES)(*scales),
            sum(1 << number for number in set(numbers)),
            len(numbers),
            self._inputs,
            len(values),
            self._constants,
            len(program.instructions),
            self._code,
            register(program.result),
        )
        self.address: int = ctypes.addressof(self._structure)
        self.kept: int = cpu.library().equipoise_kept(self.address)

    def read_options(self) -> None:
        """Read the values of options that are tensors."""
        for k, option in enumerate(self._options):
            self._constants[self._first_option + k] = option.item()

    def table(self, weight: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        """Return the soft targets of a call, given its class weights (C,), in the dtype of the kernel."""
        if self._soft is None:
            return None
        table = weight if self._soft.table is self._weight else self._soft.table
        assert table is not None
        return table.detach().to(dtype).contiguous()


def fits(program: Program) -> bool:
    """Return whether the kernel can run a program."""
    soft = {name.parameter for name in uses(program) if _is_soft(name)}
    return len(_scales(program)) <= cpu.SCALES and len(soft) <= 1


def _scales(program: Program) -> list[float]:
    found = {name.parameter for name in uses(program) if name.kind in ("max_exp", "rest_exp")}
    return sorted(scale for scale in found if isinstance(scale, float | int))


def _is_soft(name: StateName) -> bool:
    return isinstance(name.parameter, SoftTargets)


def _state_id(name: StateName, scales: list[float]) -> int:
    if name.kind in ("max_exp", "rest_exp"):
        assert isinstance(name.parameter, float | int)
        return cpu.STATES[name.kind] + scales.index(name.parameter)
    return cpu.STATES[name.kind]
