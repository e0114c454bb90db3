"""The statistics: a few numbers per row of logits, from which nearly every loss that shapes confidence is made.

A `Stat` is one number per row. It is computed block by block of classes: `of` reads a block, `merge` joins
two blocks, `value` reads the answer off the joined state, and `slope` is the derivative of that answer with
respect to a block of logits. Any split of the classes gives the same number, so a block on one device, a tile
in a kernel and a shard on a rank are the same code.

A masked class is a logit of minus infinity: it has probability zero, slope zero and no part in any mean,
smallest logit or count.

Sums over classes are kept relative to the largest logit and without the largest logit's own term, so that
one minus the largest probability, the entropy of a nearly certain row and their like keep every digit.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

State = tuple[Tensor, ...]


class Stat(ABC):
    """One number per row of logits, mergeable over blocks of classes.

    Shapes:
        block (N, B) floating, a run of B of the C classes; hit: what `hit` returns for that run; states are tuples
        of (N,) tensors; value (N,); slope (N, B).
    """

    def hit(self, target: Tensor | None, start: int, stop: int) -> Tensor | None:
        """Return what `of` and `slope` need of the target in the classes start to stop; nothing by default."""
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
        """Return the (N, C) statistic with every class in turn as the target; (N, 1) if it reads no target."""
        return ask(self, logits, None)[:, None]


def finite_limit(dtype: torch.dtype) -> float:
    """Stand-in for infinity: large beyond any logit, small enough that sums of a few stay finite."""
    return torch.finfo(dtype).max / 8


def _above(logits: Tensor, top: Tensor) -> Tensor:
    """Logits less `top`; a row or a class with nothing in it stays at minus infinity, never nan."""
    return logits - torch.where(top == -torch.inf, torch.zeros_like(top), top)[:, None]


def _lowered(one: Tensor, two: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the larger of two maxima and how far each lies below it: zero or negative, never nan."""
    top = torch.maximum(one, two)
    base = torch.where(top == -torch.inf, torch.zeros_like(top), top)
    return top, one - base, two - base


@final
@dataclass(frozen=True)
class LogOdds(Stat):
    r"""Log odds of the target: :math:`c z_y - \log\sum_{k \ne y} e^{c z_k}`, c the scale.

    The target is left out of the sum, so at scale 1 `sigmoid(m)` is p_y and `sigmoid(-m)` is 1 - p_y, both to the last
    digit. A target with no rival has the largest log odds that stay finite, a masked target the smallest.
    """

    scale: float = 1.0

    def hit(self, target: Tensor | None, start: int, stop: int) -> Tensor:
        """Return the place (N,) of the target in the run of classes, -1 where it is elsewhere."""
        if target is None:
            raise ValueError("target must be given, got None; only penalties can do without one")
        return torch.where((target >= start) & (target < stop), target - start, -1)

    def of(self, block: Tensor, hit: Tensor | None, /) -> State:
        """State: the target's logit, the largest of the others, the sum of the others relative to it."""
        place, found = self._place(hit)
        picked = block.gather(1, place)
        hidden = torch.full_like(picked, -torch.inf)
        rest = block.scatter(1, place, torch.where(found, hidden, picked))
        top = rest.amax(1)
        total = torch.exp(self.scale * _above(rest, top)).sum(1)
        return torch.where(found, picked, hidden)[:, 0], top, total

    def merge(self, one: State, two: State, /) -> State:
        """Join two blocks."""
        top, low_one, low_two = _lowered(one[1], two[1])
        total = one[2] * torch.exp(self.scale * low_one) + two[2] * torch.exp(self.scale * low_two)
        return torch.maximum(one[0], two[0]), top, total

    def value(self, state: State, /) -> Tensor:
        """Log odds (N,), finite."""
        target, top, total = state
        limit = finite_limit(target.dtype)
        alone = top == -torch.inf
        odds = self.scale * (target - torch.where(alone, torch.zeros_like(top), top)) - torch.where(
            alone, torch.ones_like(total), total
        ).log()
        return torch.where(alone, torch.full_like(odds, limit), odds.clamp(-limit, limit))

    def slope(self, block: Tensor, hit: Tensor | None, state: State, /) -> Tensor:
        """Scale times one at the target, and minus the distribution over the others elsewhere."""
        _, top, total = state
        place, found = self._place(hit)
        # the target may lie far above the others; its entry is replaced below
        others = torch.exp(self.scale * _above(block, top).clamp(max=0)) / torch.where(total > 0, total, 1.0)[:, None]
        own = torch.where(found & (block.gather(1, place) > -torch.inf) & (total > 0)[:, None], 1.0, 0.0)
        kept = others.gather(1, place)
        return self.scale * (-others).scatter(1, place, torch.where(found, own.to(block.dtype), -kept))

    def every(self, logits: Tensor, /) -> Tensor:
        """Log odds (N, C) of every class.

        All but the largest logit can be taken out of the common sum without cancelling; the largest has a sum of its own.
        """
        limit = finite_limit(logits.dtype)
        masked = logits == -torch.inf
        above, places = logits.max(1, keepdim=True)
        scaled = self.scale * (torch.where(masked, 0.0, logits) - torch.where(above == -torch.inf, 0.0, above))
        terms = torch.where(masked, 0.0, torch.exp(scaled)).scatter(1, places, 0.0)
        rest = terms.sum(1, keepdim=True)
        odds = scaled - torch.log1p(rest - terms)
        largest = ask(LogOdds(self.scale), logits, places[:, 0])[:, None]
        return torch.where(masked, -limit, odds).scatter(1, places, largest)

    @staticmethod
    def _place(hit: Tensor | None) -> tuple[Tensor, Tensor]:
        assert hit is not None
        return hit.clamp(min=0)[:, None], (hit >= 0)[:, None]


def _peak(block: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the largest logit, how many share it, the sum of the smaller ones relative to it, and the gaps."""
    top = block.amax(1)
    gaps = _above(block, top)
    ties = gaps == 0
    smaller = torch.exp(scale * gaps).masked_fill(ties, 0.0)
    return top, ties.sum(1).to(block.dtype), smaller.sum(1), gaps


def _merge_peaks(one: State, two: State, scale: float) -> State:
    """Join (largest, how many share it, sum of the smaller)."""
    top, low_one, low_two = _lowered(one[0], two[0])
    ties = torch.zeros_like(top)
    smaller = torch.zeros_like(top)
    for state, low in ((one, low_one), (two, low_two)):
        leads = low == 0
        shrunk = torch.exp(scale * low)
        ties = ties + torch.where(leads, state[1], 0.0)
        smaller = smaller + shrunk * (state[2] + torch.where(leads, 0.0, state[1]))
    return top, ties, smaller


def _excess(state: State) -> Tensor:
    """Log of the sum over classes relative to the largest; 0 where every class is masked."""
    return torch.log1p(state[2] + (state[1] - 1).clamp(min=0))


def _softmax(block: Tensor, state: State, scale: float) -> Tensor:
    """Softmax of the scaled logits in this block."""
    return torch.exp(scale * _above(block, state[0]) - _excess(state)[:, None])


def _share(block: Tensor, state: State) -> Tensor:
    """One at the largest logit, shared equally where several are the largest."""
    return torch.where(_above(block, state[0]) == 0, 1 / state[1].clamp(min=1)[:, None], 0.0)


@final
@dataclass(frozen=True)
class LogSumExp(Stat):
    r"""Log of the sum of exponentials at a scale c: :math:`\log\sum_k e^{c z_k}`."""

    scale: float = 1.0

    def of(self, block: Tensor, hit: Tensor | None, /) -> State:
        """State: the largest logit, how many share it, the sum of the smaller ones relative to it."""
        del hit
        return _peak(block, self.scale)[:3]

    def merge(self, one: State, two: State, /) -> State:
        """Join two blocks."""
        return _merge_peaks(one, two, self.scale)

    def value(self, state: State, /) -> Tensor:
        """Log-sum-exp (N,)."""
        return self.scale * state[0] + _excess(state)

    def slope(self, block: Tensor, hit: Tensor | None, state: State, /) -> Tensor:
        """Scale times the softmax at that scale."""
        del hit
        return self.scale * _softmax(block, state, self.scale)


@final
@dataclass(frozen=True)
class Excess(Stat):
    r"""How far the log-sum-exp at a scale c lies above the largest logit: :math:`\log\sum_k e^{c (z_k - \max z)}`.

    At scale 1 it is minus the log of the largest probability. Between 0 and log C, and exact near 0, where the
    difference of a log-sum-exp and a largest logit has no digits left.
    """

    scale: float = 1.0

    def of(self, block: Tensor, hit: Tensor | None, /) -> State:
        """State: as for `LogSumExp`."""
        del hit
        return _peak(block, self.scale)[:3]

    def merge(self, one: State, two: State, /) -> State:
        """Join two blocks."""
        return _merge_peaks(one, two, self.scale)

    def value(self, state: State, /) -> Tensor:
        """Excess (N,)."""
        return _excess(state)

    def slope(self, block: Tensor, hit: Tensor | None, state: State, /) -> Tensor:
        """Scale times softmax less one at the largest."""
        del hit
        return self.scale * (_softmax(block, state, self.scale) - _share(block, state))


@final
@dataclass(frozen=True)
class Entropy(Stat):
    r"""Entropy of the softmax in nats: :math:`-\sum_k p_k \log p_k`."""

    def of(self, block: Tensor, hit: Tensor | None, /) -> State:
        """State: largest, ties, sum of the smaller e^gap, and the sum of e^gap times minus the gap."""
        del hit
        *peak, gaps = _peak(block, 1.0)
        bounded = gaps.masked_fill(gaps == -torch.inf, 0.0)
        return *peak, -(torch.exp(gaps) * bounded).sum(1)

    def merge(self, one: State, two: State, /) -> State:
        """Join two blocks."""
        top, low_one, low_two = _lowered(one[0], two[0])
        spread = torch.zeros_like(top)
        for state, low in ((one, low_one), (two, low_two)):
            drop = low.masked_fill(low == -torch.inf, 0.0)
            spread = spread + torch.exp(low) * (state[3] - drop * (state[1] + state[2]))
        return *_merge_peaks(one, two, 1.0), spread

    def value(self, state: State, /) -> Tensor:
        """Entropy (N,), between 0 and log C."""
        return _excess(state) + self._mean_gap(state)

    def slope(self, block: Tensor, hit: Tensor | None, state: State, /) -> Tensor:
        """Minus p times how far the logit lies above the mean logit under p."""
        del hit
        gaps = _above(block, state[0])
        bounded = gaps.masked_fill(gaps == -torch.inf, 0.0)
        return -_softmax(block, state, 1.0) * (bounded + self._mean_gap(state)[:, None])

    @staticmethod
    def _mean_gap(state: State) -> Tensor:
        """How far the mean logit under p lies below the largest."""
        return state[3] / (state[1] + state[2]).clamp(min=1)


@final
@dataclass(frozen=True)
class MeanLogit(Stat):
    """Mean of the logits of the classes that are not masked."""

    def of(self, block: Tensor, hit: Tensor | None, /) -> State:
        """State: sum and count."""
        del hit
        masked = block == -torch.inf
        return block.masked_fill(masked, 0.0).sum(1), (~masked).sum(1).to(block.dtype)

    def merge(self, one: State, two: State, /) -> State:
        """Join two blocks."""
        return one[0] + two[0], one[1] + two[1]

    def value(self, state: State, /) -> Tensor:
        """Mean (N,)."""
        return state[0] / state[1].clamp(min=1)

    def slope(self, block: Tensor, hit: Tensor | None, state: State, /) -> Tensor:
        """One over the count."""
        del hit
        return torch.where(block == -torch.inf, 0.0, 1 / state[1].clamp(min=1)[:, None])


@final
@dataclass(frozen=True)
class ClassCount(Stat):
    """How many classes are not masked. Its slope is zero."""

    def of(self, block: Tensor, hit: Tensor | None, /) -> State:
        """State: the count."""
        del hit
        return ((block != -torch.inf).sum(1).to(block.dtype),)

    def merge(self, one: State, two: State, /) -> State:
        """Join two blocks."""
        return (one[0] + two[0],)

    def value(self, state: State, /) -> Tensor:
        """Count (N,), floating."""
        return state[0]

    def slope(self, block: Tensor, hit: Tensor | None, state: State, /) -> Tensor:
        """Zero."""
        del hit, state
        return torch.zeros_like(block)


def _of_extreme(values: Tensor) -> State:
    """State of the largest of the values: it, and how many share it."""
    top = values.amax(1)
    return top, ((values == top[:, None]) & (values > -torch.inf)).sum(1).to(values.dtype)


def _merge_extremes(one: State, two: State) -> State:
    top = torch.maximum(one[0], two[0])
    return top, torch.where(one[0] == top, one[1], 0.0) + torch.where(two[0] == top, two[1], 0.0)


@final
@dataclass(frozen=True)
class Largest(Stat):
    """Largest logit. Where several are the largest they share the slope."""

    def of(self, block: Tensor, hit: Tensor | None, /) -> State:
        """State: largest, and how many share it."""
        del hit
        return _of_extreme(block)

    def merge(self, one: State, two: State, /) -> State:
        """Join two blocks."""
        return _merge_extremes(one, two)

    def value(self, state: State, /) -> Tensor:
        """Largest (N,)."""
        return state[0]

    def slope(self, block: Tensor, hit: Tensor | None, state: State, /) -> Tensor:
        """One at the largest."""
        del hit
        return _share(block, state)


@final
@dataclass(frozen=True)
class Smallest(Stat):
    """Smallest logit of the classes that are not masked. Where several are the smallest they share the slope."""

    def of(self, block: Tensor, hit: Tensor | None, /) -> State:
        """State: minus the smallest, and how many share it."""
        del hit
        return _of_extreme(self._negated(block))

    def merge(self, one: State, two: State, /) -> State:
        """Join two blocks."""
        return _merge_extremes(one, two)

    def value(self, state: State, /) -> Tensor:
        """Smallest (N,)."""
        return -state[0]

    def slope(self, block: Tensor, hit: Tensor | None, state: State, /) -> Tensor:
        """One at the smallest."""
        del hit
        return _share(self._negated(block), state)

    @staticmethod
    def _negated(block: Tensor) -> Tensor:
        return torch.where(block == -torch.inf, block, -block)


@final
@dataclass(frozen=True, eq=False)
class ExpectedLogProb(Stat):
    r"""Expected log-probability under a soft target t: :math:`\sum_k t_k \log p_k`, masked classes left out.

    Args:
        rows: The soft target, (C, C) to take the row of the target's class, or (C,) for one that is the same for every row.
    """

    rows: Tensor

    def hit(self, target: Tensor | None, start: int, stop: int) -> Tensor | None:
        """Return the soft target's (N, B) or (1, B) entries for the run of classes."""
        if self.rows.ndim == 1:
            return self.rows[None, start:stop]
        if target is None:
            raise ValueError("target must be given, got None; only penalties can do without one")
        return self.rows[target, start:stop]

    def of(self, block: Tensor, hit: Tensor | None, /) -> State:
        """State: largest, ties, smaller, the expected gap below the largest, and the soft target's sum."""
        *peak, gaps = _peak(block, 1.0)
        soft = self._kept(block, hit)
        bounded = gaps.masked_fill(gaps == -torch.inf, 0.0)
        return *peak, -(soft * bounded).sum(1), soft.sum(1)

    def merge(self, one: State, two: State, /) -> State:
        """Join two blocks."""
        _, low_one, low_two = _lowered(one[0], two[0])
        gap = sum(
            state[3] - low.masked_fill(low == -torch.inf, 0.0) * state[4]
            for state, low in ((one, low_one), (two, low_two))
        )
        return *_merge_peaks(one, two, 1.0), torch.as_tensor(gap), one[4] + two[4]

    def value(self, state: State, /) -> Tensor:
        """Expected log-probability (N,), zero or negative."""
        return -(state[4] * _excess(state) + state[3])

    def slope(self, block: Tensor, hit: Tensor | None, state: State, /) -> Tensor:
        """Soft target less its sum times the softmax."""
        return self._kept(block, hit) - state[4][:, None] * _softmax(block, state, 1.0)

    def every(self, logits: Tensor, /) -> Tensor:
        """Expected log-probability (N, C) with each row of the matrix in turn as the soft target."""
        if self.rows.ndim == 1:
            return ask(self, logits, None)[:, None]
        masked = logits == -torch.inf
        gaps = logits.masked_fill(masked, 0.0) - ask(Largest(), logits, None)[:, None]
        return (gaps - ask(Excess(), logits, None)[:, None]).masked_fill(masked, 0.0) @ self.rows.T

    @staticmethod
    def _kept(block: Tensor, hit: Tensor | None) -> Tensor:
        assert hit is not None
        return torch.where(block == -torch.inf, 0.0, hit)


class _Ask(torch.autograd.Function):
    """A statistic of dense logits; the logits alone are kept for the backward pass."""

    generate_vmap_rule = True

    @staticmethod
    def forward(stat: Stat, logits: Tensor, hit: Tensor | None) -> tuple[Tensor, ...]:
        state = stat.of(logits, hit)
        return stat.value(state).clone(), *state  # the value may be one of the states

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.stat, logits, hit = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(logits, hit, *output[1:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, None]:
        logits, hit, *state = ctx.saved_tensors
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():  # a second derivative is wanted
            state = ctx.stat.of(logits, hit)
        return None, grads[0][:, None] * ctx.stat.slope(logits, hit, tuple(state)), None


def ask(stat: Stat, logits: Tensor, target: Tensor | None, /) -> Tensor:
    """Return the statistic (N,) of dense logits (N, C) for targets (N,), differentiable in the logits, twice if need be."""
    return _Ask.apply(stat, logits, stat.hit(target, 0, logits.shape[1]))[0]  # pyright: ignore[reportIndexIssue, reportOptionalSubscript]
