"""What a statistic is.

A `Stat` is one number per row, computed block by block of classes: `of` reads a block, `merge` joins two
blocks, `value` reads the answer off the joined state, and `slope` is the derivative of that answer with
respect to a block of logits. Any split of the classes gives the same number, so a block on one device, a tile
in a kernel and a shard on a rank are the same code.

A masked class is a logit of minus infinity: it has probability zero, slope zero and no part in any mean,
smallest logit or count.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

State = tuple[Tensor, ...]


class Stat(ABC):
    """One number per row of logits, mergeable over blocks of classes.

    Shapes:
        block (N, B) floating, a run of B of the C classes; hit: what `hit` returns for that run; states are
        tuples of (N,) tensors; value (N,); slope (N, B).
    """

    def hit(self, target: Tensor | None, start: int = 0, stop: int | None = None) -> Tensor | None:
        """Return what `of` and `slope` need of the target in classes start to stop, or in the whole row."""
        del target, start, stop
        return None

    @abstractmethod
    def of(self, block: Tensor, hit: Tensor | None, /) -> State:
        """Return the state of one block."""

    @abstractmethod
    def merge(self, one: State, two: State, /) -> State:
        """Return the state of two blocks together; commutative and associative."""

    @abstractmethod
    def value(self, state: State, /) -> Tensor:
        """Return the (N,) statistic."""

    @abstractmethod
    def slope(self, block: Tensor, hit: Tensor | None, state: State, /) -> Tensor:
        """Return the (N, B) derivative of the value, given the state of all classes."""

    def every(self, logits: Tensor, /) -> Tensor:
        """Return the statistic (N, C) for every class as the target; (N, 1) if it reads no target."""
        return ask(self, logits, None)[:, None]


BLOCK = 2**20  # logits worked on at a time: their temporaries stay in cache, and in memory already touched


class _Ask(torch.autograd.Function):
    """A statistic of dense logits; the logits alone are kept for the backward pass."""

    generate_vmap_rule = True

    @staticmethod
    def forward(stat: Stat, logits: Tensor, hit: Tensor | None) -> tuple[Tensor, ...]:
        parts = [stat.of(logits[rows], _cut(hit, rows)) for rows in _row_blocks(logits)]
        state = parts[0] if len(parts) == 1 else tuple(map(torch.cat, zip(*parts, strict=True)))
        return stat.value(state).clone(), *state  # the value may be one of the states

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.stat, logits, hit = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(logits, hit, *output[1:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, None]:
        logits, hit, *state = ctx.saved_tensors
        grad, blocks = grads[0][:, None], _row_blocks(logits)
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():  # a second derivative is wanted
            return None, grad * ctx.stat.slope(logits, hit, ctx.stat.of(logits, hit)), None
        if len(blocks) == 1:
            return None, grad * ctx.stat.slope(logits, hit, tuple(state)), None
        result = torch.empty_like(logits)
        for rows in blocks:
            slope = ctx.stat.slope(logits[rows], _cut(hit, rows), tuple(part[rows] for part in state))
            torch.mul(slope, grad[rows], out=result[rows])
        return None, result, None


def _row_blocks(logits: Tensor) -> list[slice]:
    """Cut the rows into blocks; in one where a compiler or an accelerator does better."""
    rows = max(1, BLOCK // logits.shape[1])
    if logits.device.type != "cpu" or torch.compiler.is_compiling() or len(logits) <= rows:
        return [slice(None)]
    return [slice(start, start + rows) for start in range(0, len(logits), rows)]


def _cut(hit: Tensor | None, rows: slice) -> Tensor | None:
    """Rows of what a statistic sees of the target, unless it sees the same for all."""
    return hit if hit is None or (hit.ndim == 2 and len(hit) == 1) else hit[rows]


def ask(stat: Stat, logits: Tensor, target: Tensor | None, /) -> Tensor:
    """Return the statistic (N,) of dense logits and targets, twice differentiable in the logits."""
    answers: Any = _Ask.apply(stat, logits, stat.hit(target))
    return answers[0]


def finite_limit(dtype: torch.dtype) -> float:
    """Stand-in for infinity: large beyond any logit, small enough that sums of a few stay finite."""
    return torch.finfo(dtype).max / 8


def above(logits: Tensor, top: Tensor) -> Tensor:
    """Logits less `top`; a row or a class with nothing in it stays at minus infinity, never nan."""
    return logits - top.clamp(min=-finite_limit(top.dtype))[:, None]


def exp_scaled(gaps: Tensor, scale: float) -> Tensor:
    """Return e^(scale gaps), written over the gaps."""
    return (gaps if scale == 1 else gaps.mul_(scale)).exp_()


def lowered(one: Tensor, two: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the larger of two maxima and how far each lies below it: zero or negative, never nan."""
    top = torch.maximum(one, two)
    base = top.clamp(min=-finite_limit(top.dtype))
    return top, one - base, two - base
