"""Statistics of the softmax: log odds of the target, log-sum-exp, entropy."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from equipoise.statistics.base import Compute, Statistic
from equipoise.statistics.states import RowStates, Sums, finite_limit


def _log_total(sums: Sums, scale: float) -> Tensor:
    """Log of the sum of e^(scale (z - base)); 0 where there is no class."""
    return torch.log1p(sums.excess_exp(scale).clamp(min=0))


def _log_ratio(sums: Sums, scale: float) -> Tensor:
    """Log of that sum over the part of the largest; exact near 0, as is its gradient."""
    return torch.log1p(sums.rest_exp(scale) / sums.max_exp(scale).clamp(min=1))


@final
@dataclass(frozen=True)
class LogOdds(Statistic):
    r"""Log odds of the target: :math:`c z_y - \log\sum_{k \ne y} e^{c z_k}`, c the scale.

    The target is left out of the sum, so at scale 1 `sigmoid(m)` is p_y and `sigmoid(-m)` is 1 - p_y, both to
    the last digit. A target with no other class beside it has the largest log odds that stay finite, a masked
    target the smallest.
    """

    scale: float = 1.0

    @property
    def separates_target(self) -> bool:
        """Whether the target is kept out of the sums over classes."""
        return True

    def finalize(self, states: RowStates, /) -> Tensor:
        """Return the log odds (N,), finite."""
        others, limit = states.others, finite_limit(states.target_logit.dtype)
        gap = states.target_logit - others.base
        gap = (gap if self.scale == 1 else self.scale * gap).clamp(-limit, limit)
        alone = others.excess_exp(self.scale) < 0
        return torch.where(alone, limit, gap - _log_total(others, self.scale))

    def for_each_class(self, logits: Tensor, compute: Compute, /) -> Tensor:
        """Return the log odds (N, C) of every class.

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
        odds = exponents - torch.log1p(terms.sum(1, keepdim=True) - terms)
        largest = compute(self, logits, places[:, 0])[:, None]
        return torch.where(masked, -limit, odds).scatter(1, places, largest)


@final
@dataclass(frozen=True)
class LogSumExp(Statistic):
    r"""Log of the sum of exponentials at a scale c: :math:`\log\sum_k e^{c z_k}`."""

    scale: float = 1.0

    def finalize(self, states: RowStates, /) -> Tensor:
        """Return the log-sum-exp (N,)."""
        base = states.all.base
        return (base if self.scale == 1 else self.scale * base) + _log_total(states.all, self.scale)


@final
@dataclass(frozen=True)
class LogSumExpGap(Statistic):
    r"""How far the log-sum-exp at a scale c lies above the largest: :math:`\log\sum_k e^{c (z_k - \max z)}`.

    At scale 1 it is minus the log of the largest probability. Between 0 and log C, and exact near 0, where
    the difference of a log-sum-exp and a largest logit has no digits left.

    Args:
        scale: c.
        exclude_target: Whether it is of all classes but the target.
    """

    scale: float = 1.0
    exclude_target: bool = False

    @property
    def separates_target(self) -> bool:
        """Whether the target is kept out of the sums over classes."""
        return self.exclude_target

    def finalize(self, states: RowStates, /) -> Tensor:
        """Return the gap (N,); 0 where there is no class."""
        sums = states.others if self.exclude_target else states.all
        ties = sums.max_exp(self.scale).detach().clamp(min=1)
        return ties.log() + _log_ratio(sums, self.scale)

    def for_each_class(self, logits: Tensor, compute: Compute, /) -> Tensor:
        """Return the gap (N, C) for every class as the target, (N, 1) if that has no part in it."""
        if not self.exclude_target:
            return compute(self, logits, None)[:, None]
        highest, places = logits.max(1, keepdim=True)
        gaps = logits - torch.where(highest == -torch.inf, 0.0, highest)
        terms = torch.exp(self.scale * gaps)
        below = terms.scatter(1, places, 0.0)
        others = torch.log1p((below.sum(1, keepdim=True) - below).clamp(min=0))
        return others.scatter(1, places, compute(self, logits, places[:, 0])[:, None])


@final
@dataclass(frozen=True)
class Entropy(Statistic):
    r"""Entropy of the softmax in nats: :math:`-\sum_k p_k \log p_k`."""

    def finalize(self, states: RowStates, /) -> Tensor:
        """Return the entropy (N,), between 0 and log C.

        With P and R the sums at and below the largest logit, T = P + R, and D the sum below it times the gap,
        the parts of log T - D / T are written relative to P. Each is then of the size of R / T, as is its
        gradient. Several classes at the largest logit add their number, and a term whose value and gradient
        are 0 there but whose second derivative is not.
        """
        sums = states.all
        top, rest = sums.max_exp().clamp(min=1), sums.rest_exp()
        ties, total = top.detach(), top + rest
        terms = torch.log(top / ties) * rest - sums.rest_gap
        if isinstance(sums.max_square, Tensor):
            terms = terms + (sums.max_gap * sums.max_gap / ties - sums.max_square) / 2
        return ties.log() + _log_ratio(sums, 1.0) + terms / total
