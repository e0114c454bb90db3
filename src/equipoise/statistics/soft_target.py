"""Expected log-probability under a soft target."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from equipoise.statistics.base import Compute, Statistic
from equipoise.statistics.extremes import Largest
from equipoise.statistics.softmax import LogSumExpGap
from equipoise.statistics.states import RowStates, SoftTargets


@final
@dataclass(frozen=True, eq=False)
class ExpectedLogProb(Statistic):
    r"""Expected log-probability under a soft target t: :math:`\sum_k t_k \log p_k`, without masked classes.

    Args:
        table: The soft targets, (C, C) with a row per target, or (C,) for all rows.
    """

    table: Tensor

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ExpectedLogProb) and self.table is other.table

    def __hash__(self) -> int:
        return id(self.table)

    @property
    def reads_target(self) -> bool:
        """Whether the statistic depends on the target."""
        return self.table.ndim == 2

    def finalize(self, states: RowStates, /) -> Tensor:
        """Return the expected log-probability (N,).

        The weight of the soft target below the largest logit is a sum of its own, so nothing cancels if a
        soft target has all its weight at the largest logit.
        """
        sums, soft = states.all, SoftTargets(self.table)
        top = sums.max_exp().clamp(min=1)
        ties = top.detach()
        log_top, below = torch.log(top / ties), sums.rest_soft(soft)
        shared = torch.where(ties > 1, log_top * sums.max_soft(soft) - sums.max_soft_gap(soft), 0.0)
        weight = sums.max_soft(soft) + below
        ratio = ties.log() + torch.log1p(sums.rest_exp() / top)
        return sums.rest_soft_gap(soft) - shared - log_top * below - weight * ratio

    def for_each_class(self, logits: Tensor, compute: Compute, /) -> Tensor:
        """Return the expected log-probability (N, C) with each row of the table as the soft target."""
        if self.table.ndim == 1:
            return compute(self, logits, None)[:, None]
        masked = logits == -torch.inf
        gaps = logits.masked_fill(masked, 0.0) - compute(Largest(), logits, None)[:, None]
        log_probs = gaps - compute(LogSumExpGap(), logits, None)[:, None]
        return log_probs.masked_fill(masked, 0.0) @ self.table.T
