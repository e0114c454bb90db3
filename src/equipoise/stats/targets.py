"""Statistics of the target: its log odds, and the expected log-probability under a soft target."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from equipoise.stats.base import Ask, Stat, State
from equipoise.stats.peaks import LogSumExpGap, excess, lowered, merge_peaks, peak_of, share
from equipoise.stats.simple import Largest, merge_extremes
from equipoise.stats.slope import Slope
from equipoise.stats.tile import Tile, at_target, finite_limit, scaled


@final
@dataclass(frozen=True)
class LogOdds(Stat):
    r"""Log odds of the target: :math:`c z_y - \log\sum_{k \ne y} e^{c z_k}`, c the scale.

    The target is left out of the sum, so at scale 1 `sigmoid(m)` is p_y and `sigmoid(-m)` is 1 - p_y, both to
    the last digit. A target with no rival has the largest log odds that stay finite, a masked target the
    smallest.
    """

    scale: float = 1.0

    size: ClassVar[int] = 3

    @property
    def apart(self) -> bool:
        """Whether the target must be kept out of the sums over classes."""
        return True

    @property
    def light(self) -> float | None:
        """Its scale: one softmax is all it looks at."""
        return self.scale

    def of(self, tile: Tile, /) -> State:
        """State: the target's logit, the largest of the others, the sum of the others relative to it."""
        assert tile.own is not None
        return tile.own, tile.top, tile.total(self.scale)

    def merge(self, one: State, two: State, /) -> State:
        """Join two tiles."""
        top, low_one, low_two = lowered(one[1], two[1])
        total = one[2] * torch.exp(self.scale * low_one) + two[2] * torch.exp(self.scale * low_two)
        return torch.maximum(one[0], two[0]), top, total

    def value(self, state: State, /) -> Tensor:
        """Log odds (N,), finite."""
        target, top, total = state
        limit = finite_limit(target.dtype)
        odds = scaled(self.scale, target - top) - total.log()
        return odds.clamp(-limit, limit).masked_fill(top == -torch.inf, limit)

    def slope(self, state: State, /) -> Slope:
        """Scale times one at the target, and minus the distribution over the others elsewhere."""
        target, top, total = state  # which is 0 where there is no rival, and else at least 1
        own = scaled(self.scale, ((target > -torch.inf) & (total > 0)).to(total.dtype))
        return Slope(top, {self.scale: -self.scale / total.clamp(min=1)}, own=own)

    def every(self, logits: Tensor, ask: Ask, /) -> Tensor:
        """Log odds (N, C) of every class.

        All but the largest logit can be taken out of the common sum without cancelling; the largest has a sum
        of its own.
        """
        limit = finite_limit(logits.dtype)
        masked = logits == -torch.inf
        highest, places = logits.max(1, keepdim=True)
        exponents = self.scale * (
            torch.where(masked, 0.0, logits) - torch.where(highest == -torch.inf, 0.0, highest)
        )
        terms = torch.where(masked, 0.0, torch.exp(exponents)).scatter(1, places, 0.0)
        rest = terms.sum(1, keepdim=True)
        odds = exponents - torch.log1p(rest - terms)
        largest = ask(LogOdds(self.scale), logits, places[:, 0])[:, None]
        return torch.where(masked, -limit, odds).scatter(1, places, largest)


@final
@dataclass(frozen=True)
class Margin(Stat):
    """How far the target's logit lies above the largest of the others; positive where it is the likeliest.

    A target with no rival has the largest margin that stays finite, a masked target the smallest. Several
    rivals share the slope.
    """

    size: ClassVar[int] = 3

    @property
    def apart(self) -> bool:
        """Whether the target must be kept out of the sums over classes."""
        return True

    def of(self, tile: Tile, /) -> State:
        """State: the target's logit, the largest of the others, and how many share it."""
        assert tile.own is not None
        return tile.own, tile.top, tile.ties

    def merge(self, one: State, two: State, /) -> State:
        """Join two tiles."""
        return torch.maximum(one[0], two[0]), *merge_extremes(one[1:], two[1:])

    def value(self, state: State, /) -> Tensor:
        """Margin (N,), finite."""
        target, top, ties = state
        limit = finite_limit(target.dtype)
        return (target - top).clamp(-limit, limit).masked_fill(ties == 0, limit)

    def slope(self, state: State, /) -> Slope:
        """One at the target, minus one at the largest of the others."""
        target, top, ties = state
        there = (target > -torch.inf) & (ties > 0)
        both = there.to(target.dtype)
        return Slope(marks=((top, -share(ties) * both),), own=both)

    def every(self, logits: Tensor, ask: Ask, /) -> Tensor:
        """Margin (N, C) of every class: but for the largest it is to the largest."""
        limit = finite_limit(logits.dtype)
        places = logits.argmax(1)
        margins = logits - ask(Largest(), logits, None).clamp(min=-limit)[:, None]
        own = ask(self, logits, places)[:, None]
        return margins.clamp(min=-limit).scatter(1, places[:, None], own)


@final
@dataclass(frozen=True)
class Rank(Stat):
    """How many classes have a larger logit than the target: 0 where it is the likeliest. Its slope is zero.

    It needs whole rows, as what is counted depends on the target's logit.
    """

    size: ClassVar[int] = 2

    @property
    def apart(self) -> bool:
        """Whether the target must be kept out of the sums over classes."""
        return True

    def of(self, tile: Tile, /) -> State:
        """State: the target's logit, and how many are larger."""
        assert tile.own is not None
        return tile.own, tile.larger

    def merge(self, one: State, two: State, /) -> State:
        """Raise: a part of a row does not know the target's logit."""
        raise NotImplementedError("rows must be whole for a rank, got them in parts; ask for Margin")

    def value(self, state: State, /) -> Tensor:
        """Rank (N,), floating."""
        return state[1]

    def slope(self, state: State, /) -> Slope:
        """Zero."""
        return Slope(own=torch.zeros_like(state[1]))

    def every(self, logits: Tensor, ask: Ask, /) -> Tensor:
        """Rank (N, C) of every class, from (N, C, C) comparisons."""
        return (logits[:, None] > logits[:, :, None]).sum(2).to(logits.dtype)


@final
@dataclass(frozen=True, eq=False)
class ExpectedLogProb(Stat):
    r"""Expected log-probability under a soft target t: :math:`\sum_k t_k \log p_k`, masked classes left out.

    Args:
        rows: The soft target, (C, C) to take the row of the target's class, or (C,) for one that is the same
            for every row.
    """

    rows: Tensor

    size: ClassVar[int] = 5

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ExpectedLogProb) and self.rows is other.rows

    def __hash__(self) -> int:
        return id(self.rows)

    @property
    def reads_target(self) -> bool:
        """Whether the number depends on the target."""
        return self.rows.ndim == 2

    def of(self, tile: Tile, /) -> State:
        """State: largest, ties, smaller, the expected gap below the largest, and the soft target's sum."""
        state = *peak_of(tile, 1.0), *tile.soft(self.rows)
        if tile.own is None:
            return state
        soft = torch.where(tile.own == -torch.inf, 0.0, at_target(self.rows, tile.target))
        return self.merge(state, (*tile.own_alone, torch.zeros_like(soft), soft))

    def merge(self, one: State, two: State, /) -> State:
        """Join two tiles."""
        _, low_one, low_two = lowered(one[0], two[0])
        gap = sum(
            state[3] - low.masked_fill(low == -torch.inf, 0.0) * state[4]
            for state, low in ((one, low_one), (two, low_two))
        )
        return *merge_peaks(one, two, 1.0), torch.as_tensor(gap), one[4] + two[4]

    def value(self, state: State, /) -> Tensor:
        """Expected log-probability (N,), zero or negative."""
        return -(state[4] * excess(state) + state[3])

    def slope(self, state: State, /) -> Slope:
        """Soft target less its sum times the softmax."""
        softmax = torch.exp(-excess(state))
        return Slope(state[0], {1.0: -state[4] * softmax}, soft=((self.rows, torch.ones_like(softmax)),))

    def every(self, logits: Tensor, ask: Ask, /) -> Tensor:
        """Expected log-probability (N, C) with each row of the matrix in turn as the soft target."""
        if self.rows.ndim == 1:
            return ask(self, logits, None)[:, None]
        masked = logits == -torch.inf
        gaps = logits.masked_fill(masked, 0.0) - ask(Largest(), logits, None)[:, None]
        return (gaps - ask(LogSumExpGap(), logits, None)[:, None]).masked_fill(masked, 0.0) @ self.rows.T
