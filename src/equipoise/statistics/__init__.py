"""Per-row statistics (log odds, log-sum-exp, entropy, ...): the interface between losses and backends."""

from equipoise import naming
from equipoise.statistics.base import Statistic
from equipoise.statistics.extremes import Largest, Margin, Rank, Smallest
from equipoise.statistics.mean import ClassCount, MeanLogit
from equipoise.statistics.reference import row_statistics
from equipoise.statistics.row import FullLogits, RowStatistics
from equipoise.statistics.soft_target import ExpectedLogProb
from equipoise.statistics.softmax import Entropy, LogOdds, LogSumExp, LogSumExpGap

__all__ = [
    "ClassCount",
    "Entropy",
    "ExpectedLogProb",
    "FullLogits",
    "Largest",
    "LogOdds",
    "LogSumExp",
    "LogSumExpGap",
    "Margin",
    "MeanLogit",
    "Rank",
    "RowStatistics",
    "Smallest",
    "Statistic",
    "row_statistics",
]

naming.answer_names(__name__)
