"""Sums over classes relative to the largest logit.

They are kept without the largest logit's own term, so that one minus the largest probability, the entropy of
a nearly certain row and their like keep every digit.
"""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from equipoise.stats.base import Stat, State
from equipoise.stats.slope import Slope
from equipoise.stats.tile import Tile, finite_limit, scaled


def lowered(one: Tensor, two: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the larger of two maxima and how far each lies below it: zero or negative, never nan."""
    top = torch.maximum(one, two)
    base = top.clamp(min=-finite_limit(top.dtype))
    return top, one - base, two - base


def merge_peaks(one: State, two: State, scale: float) -> State:
    """Join (largest, how many share it, sum of the smaller)."""
    top, low_one, low_two = lowered(one[0], two[0])
    ties = torch.zeros_like(top)
    smaller = torch.zeros_like(top)
    for state, low in ((one, low_one), (two, low_two)):
        leads = low == 0
        shrunk = torch.exp(scaled(scale, low))
        ties = ties + torch.where(leads, state[1], 0.0)
        smaller = smaller + shrunk * (state[2] + torch.where(leads, 0.0, state[1]))
    return top, ties, smaller


def peak_of(tile: Tile, scale: float) -> State:
    """Return (largest, how many share it, sum of the smaller), of all classes but a target held apart."""
    return tile.top, tile.ties, tile.smaller(scale)


def excess(state: State) -> Tensor:
    """Log of the sum over classes relative to the largest; 0 where every class is masked."""
    return torch.log1p(state[2] + (state[1] - 1).clamp(min=0))


def share(ties: Tensor) -> Tensor:
    """What each of the largest gets of a slope that they share; nothing where there is none."""
    return torch.where(ties == 0, 0.0, 1 / ties.clamp(min=1))


@final
@dataclass(frozen=True)
class LogSumExp(Stat):
    r"""Log of the sum of exponentials at a scale c: :math:`\log\sum_k e^{c z_k}`."""

    scale: float = 1.0

    size: ClassVar[int] = 2

    @property
    def light(self) -> float | None:
        """Its scale: one softmax is all it looks at."""
        return self.scale

    def of(self, tile: Tile, /) -> State:
        """State: the largest logit, and the sum relative to it."""
        state = tile.top, tile.total(self.scale)
        return state if tile.own is None else self.merge(state, (tile.own, tile.own_there))

    def merge(self, one: State, two: State, /) -> State:
        """Join two tiles."""
        top, low_one, low_two = lowered(one[0], two[0])
        shrunk_one, shrunk_two = (torch.exp(scaled(self.scale, low)) for low in (low_one, low_two))
        return top, one[1] * shrunk_one + two[1] * shrunk_two

    def value(self, state: State, /) -> Tensor:
        """Log-sum-exp (N,); the smallest that stays finite where every class is masked."""
        return (scaled(self.scale, state[0]) + state[1].log()).clamp(min=-finite_limit(state[0].dtype))

    def slope(self, state: State, /) -> Slope:
        """Scale times the softmax at that scale."""
        top, total = state
        empty = total == 0
        return Slope(top, {self.scale: torch.where(empty, 0.0, self.scale / total.masked_fill(empty, 1.0))})


@final
@dataclass(frozen=True)
class LogSumExpGap(Stat):
    r"""How far the log-sum-exp at a scale c lies above the largest: :math:`\log\sum_k e^{c (z_k - \max z)}`.

    At scale 1 it is minus the log of the largest probability. Between 0 and log C, and exact near 0, where
    the difference of a log-sum-exp and a largest logit has no digits left.
    """

    scale: float = 1.0

    size: ClassVar[int] = 3

    def of(self, tile: Tile, /) -> State:
        """State: the largest logit, how many share it, the sum of the smaller ones relative to it."""
        state = peak_of(tile, self.scale)
        return state if tile.own is None else self.merge(state, tile.own_alone)

    def merge(self, one: State, two: State, /) -> State:
        """Join two tiles."""
        return merge_peaks(one, two, self.scale)

    def value(self, state: State, /) -> Tensor:
        """The gap (N,)."""
        return excess(state)

    def slope(self, state: State, /) -> Slope:
        """Scale times softmax less one at the largest."""
        softmax = torch.exp(-excess(state))
        return Slope(
            state[0],
            {self.scale: scaled(self.scale, softmax)},
            marks=((state[0], -self.scale * share(state[1])),),
        )


@final
@dataclass(frozen=True)
class Entropy(Stat):
    r"""Entropy of the softmax in nats: :math:`-\sum_k p_k \log p_k`."""

    size: ClassVar[int] = 4

    def of(self, tile: Tile, /) -> State:
        """State: largest, ties, sum of the smaller e^gap, and the sum of e^gap times minus the gap."""
        state = *peak_of(tile, 1.0), tile.spread
        return state if tile.own is None else self.merge(state, (*tile.own_alone, torch.zeros_like(tile.own)))

    def merge(self, one: State, two: State, /) -> State:
        """Join two tiles."""
        top, low_one, low_two = lowered(one[0], two[0])
        spread = torch.zeros_like(top)
        for state, low in ((one, low_one), (two, low_two)):
            drop = low.masked_fill(low == -torch.inf, 0.0)
            spread = spread + torch.exp(low) * (state[3] - drop * (state[1] + state[2]))
        return *merge_peaks(one, two, 1.0), spread

    def value(self, state: State, /) -> Tensor:
        """Entropy (N,), between 0 and log C."""
        return excess(state) + self._mean_gap(state)

    def slope(self, state: State, /) -> Slope:
        """Minus p times how far the logit lies above the mean logit under p."""
        softmax = torch.exp(-excess(state))
        return Slope(state[0], {1.0: -softmax * self._mean_gap(state)}, gap=-softmax)

    @staticmethod
    def _mean_gap(state: State) -> Tensor:
        """How far the mean logit under p lies below the largest."""
        return state[3] / (state[1] + state[2]).clamp(min=1)
