"""Blocks of logits: states, and the gradient of the logits from that of the states, by kernels or torch."""

import ctypes
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Protocol, final

import torch
from torch import Tensor

from equipoise.kernels import cpu
from equipoise.kernels.gate import is_plain
from equipoise.kernels.program import Compiled
from equipoise.statistics.states import SoftTargets, StateName

CONSTANTS = ("base", "min_base", "count", "greater", "max_soft", "rest_soft", "target_soft")  # no gradient
BASE, MIN_BASE = StateName("base"), StateName("min_base")
PIECE = 2**20  # logits per piece of a block for torch on a CPU: they stay in the last cache


@cache
def _keep_freed_memory() -> None:
    """Make the C library keep freed memory: page faults of new memory take longer than the computation.

    glibc returns freed memory to the system beyond twice the largest mapped allocation that was freed, if
    that was below 32 MiB; this allocates and frees 31 MiB.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)


@final
@dataclass(frozen=True)
class Block:
    """Logits of some rows, of all classes or of consecutive ones.

    Args:
        logits: (N, B), the output of a matrix product, each row contiguous.
        names: The states to compute.
        separate: Whether the sums are over the classes without the target.
        target: (N,) class of each row, an index among all classes; None if no statistic reads it.
        start: Class of the first column; None if the columns are all classes.
        softcap: s, for logits s tanh(z / s); None for no cap.
    """

    logits: Tensor
    names: Sequence[StateName]
    separate: bool
    target: Tensor | None = None
    start: int | None = None
    softcap: float | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the states: float32 at least."""
        return torch.float32 if self.logits.dtype.itemsize < 4 else self.logits.dtype

    def rows(self, rows: slice) -> "Block":
        """Return the block of a slice of the rows."""
        target = None if self.target is None else self.target[rows]
        return replace(self, logits=self.logits[rows], target=target)

    def pieces(self) -> Iterator[slice]:
        """Yield slices of the rows; on a CPU the logits of each stay in the cache."""
        _keep_freed_memory()
        count, classes = self.logits.shape
        size = max(1, PIECE // max(1, classes) if self.logits.is_cpu else count)
        for start in range(0, max(1, count), size):
            yield slice(start, min(start + size, count))


class Backend(Protocol):
    """Interface of backends: the states of blocks, and the gradients of their logits."""

    name: str

    def states(self, block: Block) -> dict[StateName, Tensor]:
        """Return the states (N,) by name."""
        ...

    def write_gradient(
        self, block: Block, states: Mapping[StateName, Tensor], grads: Mapping[StateName, Tensor], out: Tensor
    ) -> None:
        """Write the gradient of the logits, before the soft cap, to `out` (N, B), which may be the logits.

        Args:
            block: The block.
            states: Its states, or those of all classes if it has only some; `base` and `min_base` are read.
            grads: The gradients (N,) of states by name; missing ones are 0.
            out: In the dtype of the logits or of the states.
        """
        ...


@final
class CppBackend:
    """The compiled kernel, on a CPU."""

    name = "cpp"

    def states(self, block: Block) -> dict[StateName, Tensor]:
        """Return the states (N,) by name."""
        block = _with_contiguous_target(block)
        program, names, table = _request(block.names, block)
        out = block.logits.new_empty(len(names), len(block.logits), dtype=block.dtype)
        if not cpu.library().equipoise_states(ctypes.addressof(program), _pack(block, table), out.data_ptr()):
            assert block.target is not None
            classes = block.logits.shape[1]
            wrong = block.target[(block.target < 0) | (block.target >= classes)]
            raise ValueError(f"target must be in [0, {classes}), got {int(wrong[0])}; leave such rows out")
        return dict(zip(names, out.unbind(), strict=True))

    def write_gradient(
        self, block: Block, states: Mapping[StateName, Tensor], grads: Mapping[StateName, Tensor], out: Tensor
    ) -> None:
        """Write the gradient of the logits to `out`."""
        block = _with_contiguous_target(block)
        program, names, table = _request([n for n in grads if n.kind not in CONSTANTS], block)
        constants = [BASE, MIN_BASE][: 1 + any(name.kind == "min_exp" for name in names)]
        kept = torch.stack(
            [*(states[name] for name in constants), *(grads[name].to(block.dtype) for name in names)]
        )
        cpu.library().equipoise_gradient(
            ctypes.addressof(program),
            _pack(block, table),
            kept.data_ptr(),
            1,
            kept.shape[1],
            None,
            1.0,
            out.data_ptr(),
            out.stride(0),
            out.dtype == block.dtype,
        )


def losses_by_program(
    compiled: Compiled,
    block: Block,
    factor: Tensor,
    *,
    weight: Tensor | None,
    skip_zero_weight: bool,
    out: Tensor | None,
) -> Tensor:
    """Return the losses (N,) of a block of complete rows times a factor, and write their gradient.

    The loss and gradient of a row with factor 0 are 0, even if its logits are nan.

    Args:
        compiled: The loss; `read_options` has been called.
        block: The block; `names` and `separate` are those of the program.
        factor: (N,).
        weight: (C,) class weights.
        skip_zero_weight: Whether loss and gradient of a row are 0 if the weight of its class is 0.
        out: (N, C) for the gradient of the logits, which may be the logits; None for no gradient.
    """
    block, factor = _with_contiguous_target(block), factor.contiguous()
    weight = None if weight is None else weight.contiguous()
    losses, sums = torch.empty_like(factor), (ctypes.c_double * 2)()
    table = compiled.table(weight, block.dtype)
    library, address = cpu.library(), ctypes.addressof(sums)
    rows = -1, None if weight is None else weight.data_ptr(), factor.data_ptr(), skip_zero_weight
    head, to = (compiled.address, _pack(block, table), *rows), losses.data_ptr()
    if out is None:
        library.equipoise_losses(*head, to, None, address)
    else:
        written = out.data_ptr(), out.stride(0), out.dtype == block.dtype
        library.equipoise_losses_and_gradient(*head, None, 1.0, to, *written, address)
    return losses


def _with_contiguous_target(block: Block) -> Block:
    """Return the block with contiguous targets, which the kernel needs."""
    if block.target is None or block.target.is_contiguous():
        return block
    return replace(block, target=block.target.contiguous())


def _pack(block: Block, table: Tensor | None) -> bytes:
    """Return a block as the struct of the kernel; the caller must keep its tensors alive."""
    logits, target = block.logits, block.target
    return cpu.pack_logits(
        logits.data_ptr(),
        cpu.KINDS[logits.dtype],
        logits.stride(0),
        *logits.shape,
        0 if target is None else target.data_ptr(),
        -1 if block.start is None else block.start,
        block.softcap or 0.0,
        0 if table is None else table.data_ptr(),
        0 if table is None or table.ndim == 1 else table.stride(0),
        torch.get_num_threads(),
    )


def fits(names: Sequence[StateName]) -> bool:
    """Return whether the compiled kernel can compute these states in one call."""
    soft = {name.parameter for name in names if isinstance(name.parameter, SoftTargets)}
    return len(_scales(names)) <= cpu.SCALES and len(soft) <= 1 and is_plain(*(one.table for one in soft))


def _scales(names: Sequence[StateName]) -> list[float]:
    return sorted({n.parameter for n in names if n.kind in ("max_exp", "rest_exp")})  # pyright: ignore[reportArgumentType]


def _request(names: Sequence[StateName], block: Block) -> tuple[cpu.Program, list[StateName], Tensor | None]:
    """Return a program that computes states, their names in its order, and soft targets."""
    scales = _scales(names)
    soft = next((name.parameter for name in names if isinstance(name.parameter, SoftTargets)), None)

    def number(name: StateName) -> int:
        if name.kind not in ("max_exp", "rest_exp"):
            return cpu.STATES[name.kind]
        return cpu.STATES[name.kind] + scales.index(name.parameter)  # pyright: ignore[reportArgumentType]

    order = sorted(dict.fromkeys(names), key=number)
    used = sum(1 << number(name) for name in order)
    factors = (ctypes.c_double * cpu.SCALES)(*scales)
    program = cpu.Program(block.separate, len(scales), factors, used, 0, None, 0, None, 0, None, 0)
    table = None if soft is None else soft.table.detach().to(block.dtype).contiguous()
    return program, order, table
