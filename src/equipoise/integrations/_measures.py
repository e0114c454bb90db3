"""Measures of each row that the integrations log: log-likelihood, entropy, accuracy, target probability."""

from collections.abc import Callable, Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from equipoise.statistics import RowStatistics


def _accuracy(row: RowStatistics) -> Tensor:
    odds = row.log_odds()
    return torch.where(odds.isnan(), odds, row.correct.to(odds))


MEASURES: Mapping[str, Callable[[RowStatistics], Tensor]] = {
    "nll": lambda row: -F.logsigmoid(row.log_odds()),
    "entropy": lambda row: row.entropy,
    "accuracy": _accuracy,
    "target_prob": lambda row: row.log_odds().sigmoid(),
}


def measured(row: RowStatistics, names: Iterable[str] = tuple(MEASURES)) -> Tensor:
    """Return measures of each row, (N, number of names); those of a row with nan are nan."""
    return torch.stack([MEASURES[name](row) for name in names], -1)
