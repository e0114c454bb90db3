"""The statistics: a few numbers per row of logits, of which nearly every loss is made."""

from equipoise.stats.base import Stat, State, ask, finite_limit
from equipoise.stats.peaks import Entropy, Excess, LogSumExp
from equipoise.stats.simple import ClassCount, Largest, MeanLogit, Smallest
from equipoise.stats.targets import ExpectedLogProb, LogOdds

__all__ = [
    "ClassCount",
    "Entropy",
    "Excess",
    "ExpectedLogProb",
    "Largest",
    "LogOdds",
    "LogSumExp",
    "MeanLogit",
    "Smallest",
    "Stat",
    "State",
    "ask",
    "finite_limit",
]
