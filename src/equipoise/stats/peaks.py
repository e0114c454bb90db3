"""Sums over classes relative to the largest logit.

They are kept without the largest logit's own term, so that one minus the largest probability, the entropy of
a nearly certain row and their like keep every digit.
"""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from equipoise.stats.base import Stat, State, above, exp_scaled, finite_limit, lowered


def peak_of(block: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the largest logit, how many share it, the others' sum relative to it, and the gaps."""
    top = block.amax(1)
    gaps = above(block, top)
    ties = gaps == 0
    smaller = exp_scaled(gaps.clone(), scale).masked_fill(ties, 0.0)
    return top, ties.sum(1).to(block.dtype), smaller.sum(1), gaps


def merge_peaks(one: State, two: State, scale: float) -> State:
    """Join (largest, how many share it, sum of the smaller)."""
    top, low_one, low_two = lowered(one[0], two[0])
    ties = torch.zeros_like(top)
    smaller = torch.zeros_like(top)
    for state, low in ((one, low_one), (two, low_two)):
        leads = low == 0
        shrunk = torch.exp(scale * low)
        ties = ties + torch.where(leads, state[1], 0.0)
        smaller = smaller + shrunk * (state[2] + torch.where(leads, 0.0, state[1]))
    return top, ties, smaller


def excess(state: State) -> Tensor:
    """Log of the sum over classes relative to the largest; 0 where every class is masked."""
    return torch.log1p(state[2] + (state[1] - 1).clamp(min=0))


def softmax(block: Tensor, state: State, scale: float) -> Tensor:
    """Softmax of the scaled logits in this block."""
    return exp_scaled(above(block, state[0]), scale) * torch.exp(-excess(state))[:, None]


def share(block: Tensor, state: State) -> Tensor:
    """One at the largest logit, shared equally where several are the largest."""
    return torch.where(above(block, state[0]) == 0, 1 / state[1].clamp(min=1)[:, None], 0.0)


@final
@dataclass(frozen=True)
class LogSumExp(Stat):
    r"""Log of the sum of exponentials at a scale c: :math:`\log\sum_k e^{c z_k}`."""

    scale: float = 1.0

    def of(self, block: Tensor, hit: Tensor | None, /) -> State:
        """State: the largest logit, how many share it, the sum of the smaller ones relative to it."""
        del hit
        return peak_of(block, self.scale)[:3]

    def merge(self, one: State, two: State, /) -> State:
        """Join two blocks."""
        return merge_peaks(one, two, self.scale)

    def value(self, state: State, /) -> Tensor:
        """Log-sum-exp (N,); the smallest that stays finite where every class is masked."""
        return (self.scale * state[0] + excess(state)).clamp(min=-finite_limit(state[0].dtype))

    def slope(self, block: Tensor, hit: Tensor | None, state: State, /) -> Tensor:
        """Scale times the softmax at that scale."""
        del hit
        return self.scale * softmax(block, state, self.scale)


@final
@dataclass(frozen=True)
class Excess(Stat):
    r"""How far the log-sum-exp at a scale c lies above the largest: :math:`\log\sum_k e^{c (z_k - \max z)}`.

    At scale 1 it is minus the log of the largest probability. Between 0 and log C, and exact near 0, where
    the difference of a log-sum-exp and a largest logit has no digits left.
    """

    scale: float = 1.0

    def of(self, block: Tensor, hit: Tensor | None, /) -> State:
        """State: as for `LogSumExp`."""
        del hit
        return peak_of(block, self.scale)[:3]

    def merge(self, one: State, two: State, /) -> State:
        """Join two blocks."""
        return merge_peaks(one, two, self.scale)

    def value(self, state: State, /) -> Tensor:
        """Excess (N,)."""
        return excess(state)

    def slope(self, block: Tensor, hit: Tensor | None, state: State, /) -> Tensor:
        """Scale times softmax less one at the largest."""
        del hit
        return self.scale * (softmax(block, state, self.scale) - share(block, state))


@final
@dataclass(frozen=True)
class Entropy(Stat):
    r"""Entropy of the softmax in nats: :math:`-\sum_k p_k \log p_k`."""

    def of(self, block: Tensor, hit: Tensor | None, /) -> State:
        """State: largest, ties, sum of the smaller e^gap, and the sum of e^gap times minus the gap."""
        del hit
        *peak, gaps = peak_of(block, 1.0)
        bounded = gaps.masked_fill(gaps == -torch.inf, 0.0)
        return *peak, -(torch.exp(gaps) * bounded).sum(1)

    def merge(self, one: State, two: State, /) -> State:
        """Join two blocks."""
        top, low_one, low_two = lowered(one[0], two[0])
        spread = torch.zeros_like(top)
        for state, low in ((one, low_one), (two, low_two)):
            drop = low.masked_fill(low == -torch.inf, 0.0)
            spread = spread + torch.exp(low) * (state[3] - drop * (state[1] + state[2]))
        return *merge_peaks(one, two, 1.0), spread

    def value(self, state: State, /) -> Tensor:
        """Entropy (N,), between 0 and log C."""
        return excess(state) + self._mean_gap(state)

    def slope(self, block: Tensor, hit: Tensor | None, state: State, /) -> Tensor:
        """Minus p times how far the logit lies above the mean logit under p."""
        del hit
        gaps = above(block, state[0])
        bounded = gaps.masked_fill(gaps == -torch.inf, 0.0)
        return -softmax(block, state, 1.0) * (bounded + self._mean_gap(state)[:, None])

    @staticmethod
    def _mean_gap(state: State) -> Tensor:
        """How far the mean logit under p lies below the largest."""
        return state[3] / (state[1] + state[2]).clamp(min=1)
