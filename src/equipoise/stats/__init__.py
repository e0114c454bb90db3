"""The statistics: a few numbers per row of logits, of which nearly every loss is made."""

from equipoise.stats.base import PIECE, Group, Stat, State, ask, ask_all, row_blocks
from equipoise.stats.fast import FastTile, Rooms
from equipoise.stats.peaks import Entropy, Excess, LogSumExp
from equipoise.stats.simple import ClassCount, Largest, MeanLogit, Smallest
from equipoise.stats.slope import Slope, mix
from equipoise.stats.targets import ExpectedLogProb, LogOdds, Margin, Rank
from equipoise.stats.tile import Tile, finite_limit, some

__all__ = [
    "PIECE",
    "ClassCount",
    "Entropy",
    "Excess",
    "Group",
    "ExpectedLogProb",
    "FastTile",
    "Largest",
    "LogOdds",
    "LogSumExp",
    "Margin",
    "MeanLogit",
    "Rank",
    "Rooms",
    "Slope",
    "Smallest",
    "Stat",
    "State",
    "Tile",
    "ask",
    "ask_all",
    "finite_limit",
    "mix",
    "row_blocks",
    "some",
]
