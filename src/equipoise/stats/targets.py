"""Statistics of the target: its log odds, and the expected log-probability under a soft target."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from equipoise.stats.base import Stat, State, above, ask, exp_scaled, finite_limit, lowered
from equipoise.stats.peaks import Excess, excess, merge_peaks, peak_of, softmax
from equipoise.stats.simple import Largest


@final
@dataclass(frozen=True)
class LogOdds(Stat):
    r"""Log odds of the target: :math:`c z_y - \log\sum_{k \ne y} e^{c z_k}`, c the scale.

    The target is left out of the sum, so at scale 1 `sigmoid(m)` is p_y and `sigmoid(-m)` is 1 - p_y, both to
    the last digit. A target with no rival has the largest log odds that stay finite, a masked target the
    smallest.
    """

    scale: float = 1.0

    def hit(self, target: Tensor | None, start: int = 0, stop: int | None = None) -> Tensor:
        """Return the place (N,) of the target in the run of classes, -1 where it is elsewhere."""
        if target is None:
            raise ValueError("target must be given, got None; only penalties can do without one")
        if stop is None:  # the whole row
            return target
        return torch.where((target >= start) & (target < stop), target - start, -1)

    def of(self, block: Tensor, hit: Tensor | None, /) -> State:
        """State: the target's logit, the largest of the others, the sum of the others relative to it."""
        place, elsewhere = self._place(hit)
        picked = block.gather(1, place)
        rest = block.scatter(1, place, torch.where(elsewhere, picked, -torch.inf))
        top = rest.amax(1)
        total = exp_scaled(above(rest, top), self.scale).sum(1)
        return picked.masked_fill(elsewhere, -torch.inf)[:, 0], top, total

    def merge(self, one: State, two: State, /) -> State:
        """Join two blocks."""
        top, low_one, low_two = lowered(one[1], two[1])
        total = one[2] * torch.exp(self.scale * low_one) + two[2] * torch.exp(self.scale * low_two)
        return torch.maximum(one[0], two[0]), top, total

    def value(self, state: State, /) -> Tensor:
        """Log odds (N,), finite."""
        target, top, total = state
        limit = finite_limit(target.dtype)
        odds = self.scale * (target - top) - total.log()
        return odds.clamp(-limit, limit).masked_fill(top == -torch.inf, limit)

    def slope(self, block: Tensor, hit: Tensor | None, state: State, /) -> Tensor:
        """Scale times one at the target, and minus the distribution over the others elsewhere."""
        target, top, total = state
        place, elsewhere = self._place(hit)
        # the target may lie far above the others: bounded, as its entry is replaced
        gaps = above(block, top).clamp(max=0)
        alone = total == 0
        others = exp_scaled(gaps, self.scale) * (-self.scale / total.masked_fill(alone, 1.0))[:, None]
        own = self.scale * ((target > -torch.inf) & ~alone).to(block.dtype)
        return others.scatter(1, place, torch.where(elsewhere, others.gather(1, place), own[:, None]))

    def every(self, logits: Tensor, /) -> Tensor:
        """Log odds (N, C) of every class.

        All but the largest logit can be taken out of the common sum without cancelling; the largest has a sum
        of its own.
        """
        limit = finite_limit(logits.dtype)
        masked = logits == -torch.inf
        highest, places = logits.max(1, keepdim=True)
        scaled = self.scale * (
            torch.where(masked, 0.0, logits) - torch.where(highest == -torch.inf, 0.0, highest)
        )
        terms = torch.where(masked, 0.0, torch.exp(scaled)).scatter(1, places, 0.0)
        rest = terms.sum(1, keepdim=True)
        odds = scaled - torch.log1p(rest - terms)
        largest = ask(LogOdds(self.scale), logits, places[:, 0])[:, None]
        return torch.where(masked, -limit, odds).scatter(1, places, largest)

    @staticmethod
    def _place(hit: Tensor | None) -> tuple[Tensor, Tensor]:
        assert hit is not None
        return hit.clamp(min=0)[:, None], (hit < 0)[:, None]


@final
@dataclass(frozen=True, eq=False)
class ExpectedLogProb(Stat):
    r"""Expected log-probability under a soft target t: :math:`\sum_k t_k \log p_k`, masked classes left out.

    Args:
        rows: The soft target, (C, C) to take the row of the target's class, or (C,) for one that is the same
            for every row.
    """

    rows: Tensor

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ExpectedLogProb) and self.rows is other.rows

    def __hash__(self) -> int:
        return id(self.rows)

    def hit(self, target: Tensor | None, start: int = 0, stop: int | None = None) -> Tensor | None:
        """Return the soft target's (N, B) or (1, B) entries for the run of classes."""
        if self.rows.ndim == 1:
            return self.rows[None, start:stop]
        if target is None:
            raise ValueError("target must be given, got None; only penalties can do without one")
        return self.rows[target, start:stop]

    def of(self, block: Tensor, hit: Tensor | None, /) -> State:
        """State: largest, ties, smaller, the expected gap below the largest, and the soft target's sum."""
        *peak, gaps = peak_of(block, 1.0)
        soft = self._kept(block, hit)
        bounded = gaps.masked_fill(gaps == -torch.inf, 0.0)
        return *peak, -(soft * bounded).sum(1), soft.sum(1)

    def merge(self, one: State, two: State, /) -> State:
        """Join two blocks."""
        _, low_one, low_two = lowered(one[0], two[0])
        gap = sum(
            state[3] - low.masked_fill(low == -torch.inf, 0.0) * state[4]
            for state, low in ((one, low_one), (two, low_two))
        )
        return *merge_peaks(one, two, 1.0), torch.as_tensor(gap), one[4] + two[4]

    def value(self, state: State, /) -> Tensor:
        """Expected log-probability (N,), zero or negative."""
        return -(state[4] * excess(state) + state[3])

    def slope(self, block: Tensor, hit: Tensor | None, state: State, /) -> Tensor:
        """Soft target less its sum times the softmax."""
        return self._kept(block, hit) - state[4][:, None] * softmax(block, state, 1.0)

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
