"""The statistics: a few numbers per row of logits, of which nearly every loss is made."""

from equipoise.stats.ask import PIECE, TRACED, ask, ask_all, direct, nothing, observed, row_blocks, traced
from equipoise.stats.base import Ask, Group, Stat, State
from equipoise.stats.block import Block
from equipoise.stats.fast import FastTile, Rooms
from equipoise.stats.peaks import Entropy, LogSumExp, LogSumExpGap
from equipoise.stats.simple import ClassCount, Largest, MeanLogit, Smallest
from equipoise.stats.slope import Slope, mix
from equipoise.stats.sums import tried
from equipoise.stats.targets import ExpectedLogProb, LogOdds, Margin, Rank
from equipoise.stats.tile import Tile, finite_limit, some, spoil

__all__ = [
    "PIECE",
    "TRACED",
    "Ask",
    "Block",
    "ClassCount",
    "Entropy",
    "LogSumExpGap",
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
    "direct",
    "finite_limit",
    "mix",
    "nothing",
    "observed",
    "row_blocks",
    "some",
    "spoil",
    "traced",
    "tried",
]
