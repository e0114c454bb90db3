"""Losses of a head, block by block of rows, and their gradients from the same logits."""

from collections.abc import Iterator, Sequence
from typing import final

import torch
from torch import Tensor

from equipoise.kernels import cpu
from equipoise.kernels.block import CONSTANTS, Block, losses_by_program
from equipoise.kernels.differentiable import DifferentiableBlock, capped
from equipoise.linear.buffers import Buffers
from equipoise.linear.head import Gradients, Head, row_stride
from equipoise.linear.setup import Setup
from equipoise.statistics.reference import losses_of_logits


def compute_blocks(
    setup: Setup, head: Head, wanted: Sequence[bool], factor: Tensor, *, cast: bool = True
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """Return losses (N,) times a factor, and the gradients of their sum.

    The loss and gradient of a row with factor 0 are 0, even if its logits are nan.

    Args:
        setup: Backend, program and plan.
        head: The head.
        wanted: Whether each of its parameters requires a gradient.
        factor: (N,).
        cast: Whether gradients are cast to the dtypes of the parameters; else they have that of the sums.
    """
    blocks = list(row_blocks(head, setup))
    threads = min(setup.plan.threads, len(blocks))
    factor = factor.contiguous()  # an expanded tensor has strides of 0
    losses = torch.empty_like(factor)
    if setup.compiled is not None:
        setup.compiled.read_options()
    with Buffers(head.hidden.device) as buffers:
        first = Gradients(head, wanted, several=len(blocks) > 1, buffers=buffers if cast else None)
        gradients = [first, *(first.beside() for _ in range(1, threads))]
        memory = [BlockMemory(buffers, head, setup, gradient=any(wanted)) for _ in gradients]

        def run(thread: int) -> None:
            for rows in blocks[len(blocks) * thread // threads : len(blocks) * (thread + 1) // threads]:
                logits, out = memory[thread].views(rows)
                head.write_logits(rows, logits)
                losses[rows] = _compute_block(setup, setup.block(logits, rows), rows, factor[rows], out)
                if out is not None:
                    gradients[thread].add(rows, out)

        if threads == 1:
            run(0)
        else:
            cpu.run_in_threads(threads, run)
        for other in gradients[1:]:
            first.join(other)
        return losses, first.result(cast=cast)


def row_blocks(head: Head, setup: Setup) -> Iterator[slice]:
    """Return slices of the rows, one per block; one empty slice if there are no rows."""
    count, size = len(head.hidden), setup.plan.rows
    for start in range(0, max(1, count), size):
        yield slice(start, min(start + size, count))


@final
class BlockMemory:
    """Memory for a block of logits and for their gradient, shared if the dtypes are equal.

    Args:
        buffers: Source of the memory.
        head: The head.
        setup: Setup with the size of a block.
        gradient: Whether memory for the gradient is needed.
    """

    def __init__(self, buffers: Buffers, head: Head, setup: Setup, *, gradient: bool) -> None:
        self._classes = len(head.weight)
        dtypes = [head.logit_dtype]
        if gradient and head.hidden.dtype != head.logit_dtype:
            dtypes.append(head.hidden.dtype)
        sizes = [setup.plan.rows * row_stride(self._classes, dtype) for dtype in dtypes]
        self._memory = [buffers.take(size, dtype) for size, dtype in zip(sizes, dtypes, strict=True)]
        self._gradient = gradient

    def views(self, rows: slice) -> tuple[Tensor, Tensor | None]:
        """Return memory (R, V) for the logits of some rows and for their gradient."""
        views = [self._view(memory, rows.stop - rows.start) for memory in self._memory]
        return views[0], views[-1] if self._gradient else None

    def _view(self, memory: Tensor, count: int) -> Tensor:
        stride = row_stride(self._classes, memory.dtype)
        block = memory[: count * stride].view(count, stride)
        if stride > self._classes:  # a matrix product may read the padding, and 0 times nan is nan
            block[:, self._classes :] = 0
        return block[:, : self._classes]


def _compute_block(setup: Setup, block: Block, rows: slice, factor: Tensor, out: Tensor | None) -> Tensor:
    """Return the losses of a block times a factor, and write the gradient of their sum to `out`."""
    if setup.compiled is not None:
        return losses_by_program(
            setup.compiled,
            block,
            factor,
            weight=setup.targets.weight,
            skip_zero_weight=setup.skip_zero_weight,
            out=out,
        )
    if setup.classes is None and setup.backend.name == "torch":
        found = []
        for piece in block.pieces():
            to = None if out is None else out[piece]
            if setup.full_logits:
                of_rows = slice(rows.start + piece.start, rows.start + piece.stop)
                losses = _compute_from_full_logits(setup, block.rows(piece), of_rows, factor[piece], to)
            else:
                losses = _compute_in_torch(setup, block.rows(piece), factor[piece], to)
            found.append(losses)
        return torch.cat(found)
    if setup.full_logits:
        return _compute_from_full_logits(setup, block, rows, factor, out)
    return _compute_from_states(setup, block, factor, out)


def _compute_in_torch(setup: Setup, block: Block, factor: Tensor, out: Tensor | None) -> Tensor:
    """As `_compute_block`, by torch operations and autograd from the logits to the losses."""
    with torch.set_grad_enabled(out is not None):
        differentiable = DifferentiableBlock(block)
        states = differentiable.states()
        losses = setup.losses(states, block.target)
    if out is not None:
        differentiable.write_gradient([(losses, factor)], out)
        write_bad_rows(out, states.valid, factor)
    return _times(losses.detach(), factor)


def _compute_from_full_logits(
    setup: Setup, block: Block, rows: slice, factor: Tensor, out: Tensor | None
) -> Tensor:
    """As `_compute_block`, for a loss that needs complete rows of logits."""
    assert setup.loss is not None
    soft = None if setup.targets.soft is None else setup.targets.soft[rows]
    leaf = block.logits.detach().to(block.dtype).requires_grad_(out is not None)
    with torch.set_grad_enabled(out is not None):
        logits = capped(leaf, block.softcap)
        if setup.classes is not None:
            logits = setup.classes.gather(logits, 1)
        losses = losses_of_logits(setup.loss, logits, block.target, soft, weight=setup.targets.weight)
    if out is not None:
        out.copy_(torch.autograd.grad(losses, leaf, factor)[0]) if losses.requires_grad else out.zero_()
        _fill(out, factor == 0, torch.zeros_like(factor))
    return _times(losses.detach(), factor)


def _compute_from_states(setup: Setup, block: Block, factor: Tensor, out: Tensor | None) -> Tensor:
    """As `_compute_block`, by states: their gradient by autograd, and that of the logits by the backend."""
    numbers = setup.backend.states(block)
    if out is None:
        return _times(setup.losses(setup.states(numbers), block.target), factor)
    leaves = {
        name: number.detach().requires_grad_(name.kind not in CONSTANTS) for name, number in numbers.items()
    }
    differentiable = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}
    with torch.enable_grad():
        states = setup.states(leaves)
        losses = setup.losses(states, block.target)
    if losses.requires_grad:
        found = torch.autograd.grad(losses, list(differentiable.values()), factor, allow_unused=True)
        grads = {name: g for name, g in zip(differentiable, found, strict=True) if g is not None}
        setup.backend.write_gradient(block, numbers, grads, out)
        write_bad_rows(out, states.valid, factor)
    else:
        out.zero_()
    return _times(losses.detach(), factor)


def write_bad_rows(out: Tensor, valid: Tensor, factor: Tensor) -> None:
    """Write the gradient of rows that are not valid: nan, or 0 if the factor is 0."""
    _fill(out, valid.isnan(), torch.where(factor == 0, 0.0, torch.nan))


def _fill(out: Tensor, rows: Tensor, values: Tensor) -> None:
    """Fill the rows of `out` (N, B) given by a mask (N,) with a number."""
    if out.device.type != "cpu":  # testing whether any row is set would synchronise
        out.copy_(torch.where(rows[:, None], values[:, None].to(out.dtype), out))
    elif rows.any():
        out[rows] = values[rows, None].to(out.dtype)


def _times(losses: Tensor, factor: Tensor) -> Tensor:
    return torch.where(factor == 0, 0.0, losses * factor)
