"""Largest and smallest logit, margin and rank of the target."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from equipoise.statistics.base import Compute, Statistic
from equipoise.statistics.states import RowStates, Sums, finite_limit


def _with_gradient(base: Tensor, ties: Tensor) -> Tensor:
    """Return the base, its gradient shared by equal logits; `ties` is the sum of e^(z - base) over these."""
    ties = ties.clamp(min=1)
    return base + torch.log(ties / ties.detach())


def _largest(sums: Sums) -> Tensor:
    return _with_gradient(sums.base, sums.max_exp())


@final
@dataclass(frozen=True)
class Largest(Statistic):
    """Largest logit; if several are equal, they share the gradient."""

    def finalize(self, states: RowStates, /) -> Tensor:
        """Return the largest logit (N,)."""
        return _largest(states.all)


@final
@dataclass(frozen=True)
class Smallest(Statistic):
    """Smallest logit of the classes that are not masked; if several are equal, they share the gradient."""

    def finalize(self, states: RowStates, /) -> Tensor:
        """Return the smallest logit (N,)."""
        return _with_gradient(states.all.min_base, states.all.min_exp)


@final
@dataclass(frozen=True)
class Margin(Statistic):
    """Logit of the target minus the largest other logit; positive if the target is the likeliest class.

    If all other classes are masked it is `finite_limit`, if the target is masked minus `finite_limit`. Equal
    largest other logits share the gradient.
    """

    @property
    def separates_target(self) -> bool:
        """Whether the target is kept out of the sums over classes."""
        return True

    def finalize(self, states: RowStates, /) -> Tensor:
        """Return the margin (N,), finite."""
        limit = finite_limit(states.target_logit.dtype)
        gap = (states.target_logit - _largest(states.others)).clamp(-limit, limit)
        return torch.where(states.others.max_exp() == 0, limit, gap)

    def for_each_class(self, logits: Tensor, compute: Compute, /) -> Tensor:
        """Return the margin (N, C) of every class: that of the largest is over the second largest."""
        limit = finite_limit(logits.dtype)
        places = logits.argmax(1)
        margins = logits - compute(Largest(), logits, None).clamp(min=-limit)[:, None]
        own = compute(self, logits, places)[:, None]
        return margins.clamp(min=-limit).scatter(1, places[:, None], own)


@final
@dataclass(frozen=True)
class Rank(Statistic):
    """Number of classes with a larger logit than the target: 0 if it is the likeliest. It has no gradient.

    A block of classes cannot be counted before the target's logit is known, so it needs complete rows.
    """

    @property
    def separates_target(self) -> bool:
        """Whether the target is kept out of the sums over classes."""
        return True

    def finalize(self, states: RowStates, /) -> Tensor:
        """Return the rank (N,), floating."""
        return states.others.greater

    def for_each_class(self, logits: Tensor, compute: Compute, /) -> Tensor:
        """Return the rank (N, C) of every class, from (N, C, C) comparisons."""
        del compute
        return (logits[:, None] > logits[:, :, None]).sum(2).to(logits.dtype)
