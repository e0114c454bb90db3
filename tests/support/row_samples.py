"""Rows of logits of every kind, and the losses of the tables by name."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import pytest
import torch
from torch import Tensor

from equipoise.losses import LOSSES, Brier, CrossEntropy, GammaCrossEntropy, RowLoss
from equipoise.penalties import PENALTIES, Entropy, LogitRange, ZLoss
from equipoise.statistics import RowStatistics
from support.definitions import settings_of

SUMS = [
    GammaCrossEntropy(0.1) + 0.1 * Entropy() + LogitRange(width=2.0),
    LogitRange(width=2.0) + 0.1 * Entropy() + GammaCrossEntropy(0.1),
    CrossEntropy(label_smoothing=0.1) - 0.2 * ZLoss(),
    Brier() + ZLoss(),
]
NAMED_ROW_LOSSES = pytest.mark.parametrize(
    "loss",
    [
        pytest.param(loss, id=f"{entry.name}-{index}")
        for entry in LOSSES + PENALTIES
        for index, loss in enumerate(settings_of(entry))
        if isinstance(loss, RowLoss)
    ]
    + [pytest.param(loss, id=f"sum-{index}") for index, loss in enumerate(SUMS)],
)


def hard_rows(classes: int, seed: int = 1, spread: float = 3.0) -> tuple[Tensor, Tensor]:
    """Return logits (14, C) in float64 and targets.

    Among them are masked classes and targets, a target with no other class beside it, ties of all and of the
    largest, sure rows that are right and wrong, wide rows and rows far from 0.
    """
    source = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(14, classes, dtype=torch.float64, generator=source)
    target = torch.randint(classes, (14,), generator=source)
    places, other = torch.arange(14), (target + 1) % classes
    logits[1, torch.randperm(classes, generator=source)[: classes // 2]] = -torch.inf
    logits[1, target[1]] = 0.5
    logits[2, target[2]] = -torch.inf
    logits[2, other[2]] = 0.25  # which is the target where there is one class
    logits[3] = logits[3, 0]
    logits[4, torch.arange(classes) != target[4]] = -torch.inf
    logits[5, target[5]], logits[6, other[6]] = 40.0, 40.0
    logits[7] *= 10
    logits[8] += 300
    logits[9, : classes // 2 + 1] = logits[9].max() + 1
    logits[places[10], target[10]] = logits[10].max()
    logits[11, target[11]] = logits[11].max() + 2
    logits[11, other[11]] = logits[11, target[11]]
    return logits, target


@final
@dataclass(frozen=True)
class Written(RowLoss):
    """A loss as a user would write one."""

    compute: Callable[[RowStatistics], Tensor]

    def per_row(self, row: RowStatistics, /) -> Tensor:
        return self.compute(row)


def odds_with(act: Callable[[Tensor], Tensor]) -> Written:
    return Written(lambda row: act(row.log_odds()))
