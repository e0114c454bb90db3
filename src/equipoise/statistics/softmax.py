"""Statistics of the softmax: log odds of the target, log-sum-exp, entropy."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from equipoise.statistics.base import Compute, Statistic
from equipoise.statistics.states import RowStates, Sums, finite_limit


def _log_total(sums: Sums, scale: float) -> Tensor:
    """Return the log of the sum of e^(scale (z - base)); 0 without a class."""
    return torch.log1p(sums.excess_exp(scale).clamp(min=0))


def _log_ratio(sums: Sums, scale: float) -> Tensor:
    """Return log(sum / part of the largest logits) of that sum; exact near 0, as is its gradient."""
    return torch.log1p(sums.rest_exp(scale) / sums.max_exp(scale).clamp(min=1))


def _tie_curvature(sums: Sums, ties: Tensor) -> Tensor:
    """Return half the sum of (z - mean z)^2 over the largest logits: 0 up to its first derivative."""
    mean = torch.log(sums.max_exp().clamp(min=1) / ties)  # 0, with the derivative of the mean of z - base
    return (sums.max_square - ties * mean * mean) / 2


@final
@dataclass(frozen=True)
class LogOdds(Statistic):
    r"""Log odds of the target: :math:`c z_y - \log\sum_{k \ne y} e^{c z_k}`, c the scale.

    The sum is over the classes without the target, so at scale 1 `sigmoid(m)` is p_y and `sigmoid(-m)` is
    1 - p_y, both exact to the last digit. If all other classes are masked, the log odds are `finite_limit`,
    if the target is masked, minus `finite_limit`.
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

        For every class but the largest, its term is subtracted from the common sum without cancellation; for
        the largest, the sum over the others is computed separately.
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
    r"""Log-sum-exp of the logits at a scale c: :math:`\log\sum_k e^{c z_k}`."""

    scale: float = 1.0

    def finalize(self, states: RowStates, /) -> Tensor:
        """Return the log-sum-exp (N,)."""
        base = states.all.base
        return (base if self.scale == 1 else self.scale * base) + _log_total(states.all, self.scale)


@final
@dataclass(frozen=True)
class LogSumExpGap(Statistic):
    r"""Log-sum-exp at a scale c minus the largest scaled logit: :math:`\log\sum_k e^{c (z_k - \max z)}`.

    At scale 1 it is minus the log of the largest probability. It lies between 0 and log C, and is exact near
    0, where the difference of the two statistics would cancel. Where several logits are the largest, the
    derivatives are those with the mean of these logits in place of the largest, up to the second order.

    Args:
        scale: c.
        exclude_target: Whether sum and maximum are over the classes without the target.
    """

    scale: float = 1.0
    exclude_target: bool = False

    @property
    def separates_target(self) -> bool:
        """Whether the target is kept out of the sums over classes."""
        return self.exclude_target

    def finalize(self, states: RowStates, /) -> Tensor:
        """Return the gap (N,); 0 without a class."""
        sums = states.others if self.exclude_target else states.all
        ties = sums.max_exp(self.scale).detach().clamp(min=1)
        gap = ties.log() + _log_ratio(sums, self.scale)
        if sums.first_order:
            return gap
        return gap + self.scale**2 * _tie_curvature(sums, ties) / ties

    def for_each_class(self, logits: Tensor, compute: Compute, /) -> Tensor:
        """Return the gap (N, C) with every class as the target, (N, 1) if it is the same for every target."""
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

        With P and R the sums of e^(z - base) at and below the largest logit, T = P + R, and D the sum of the
        terms of R times z - base, the entropy is log T - D / T = log P + log(T / P) - D / T. The last two are
        of the size of R / T, as are their gradients. If several logits are the largest, log P is the log of
        their number, and a term is added whose value and gradient are 0, but not its second derivative.
        """
        sums = states.all
        top, rest = sums.max_exp().clamp(min=1), sums.rest_exp()
        ties, total = top.detach(), top + rest
        terms = torch.log(top / ties) * rest - sums.rest_gap
        if not sums.first_order:
            terms = terms - _tie_curvature(sums, ties)
        return ties.log() + _log_ratio(sums, 1.0) + terms / total
