"""Largest and smallest logit, the target's margin over the others and its rank."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from equipoise.statistics.base import Compute, Statistic
from equipoise.statistics.states import RowStates, Sums, finite_limit


def _with_gradient(base: Tensor, ties: Tensor) -> Tensor:
    """Return the base, with a gradient that the classes there share; `ties` is the sum of e^(z - base)."""
    ties = ties.clamp(min=1)
    return base + torch.log(ties / ties.detach())


def _largest(sums: Sums) -> Tensor:
    return _with_gradient(sums.base, sums.max_exp())


@final
@dataclass(frozen=True)
class Largest(Statistic):
    """Largest logit. Where several are the largest they share the gradient."""

    def finalize(self, states: RowStates, /) -> Tensor:
        """Return the largest logit (N,)."""
        return _largest(states.all)


@final
@dataclass(frozen=True)
class Smallest(Statistic):
    """Smallest logit of the classes that are not masked; where several are, they share the gradient."""

    def finalize(self, states: RowStates, /) -> Tensor:
        """Return the smallest logit (N,)."""
        return _with_gradient(states.all.min_base, states.all.min_exp)


@final
@dataclass(frozen=True)
class Margin(Statistic):
    """How far the target's logit lies above the largest of the others; positive where it is the likeliest.

    A target with no other class beside it has the largest margin that stays finite, a masked target the
    smallest. Several others share the gradient.
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
        """Return the margin (N, C) of every class: but for the largest it is to the largest."""
        limit = finite_limit(logits.dtype)
        places = logits.argmax(1)
        margins = logits - compute(Largest(), logits, None).clamp(min=-limit)[:, None]
        own = compute(self, logits, places)[:, None]
        return margins.clamp(min=-limit).scatter(1, places[:, None], own)


@final
@dataclass(frozen=True)
class Rank(Statistic):
    """How many classes have a larger logit than the target: 0 where it is the likeliest. It has no gradient.

    A part of the classes can count only if it knows the target's logit, so it needs complete rows.
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
