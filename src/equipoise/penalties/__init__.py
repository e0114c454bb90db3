"""Penalties: terms that look at the model's confidence alone and need no target."""

from equipoise import naming
from equipoise.losses.table import Entry
from equipoise.penalties import decide as _decide
from equipoise.penalties import reach as _reach
from equipoise.penalties.decide import Balance, Decisiveness, Entropy, Gini
from equipoise.penalties.reach import LogitRange, ZLoss
from equipoise.penalties.strength import matched_weight

PENALTIES: tuple[Entry, ...] = (*_decide.ENTRIES, *_reach.ENTRIES)

__all__ = [
    "PENALTIES",
    "Balance",
    "Decisiveness",
    "Entropy",
    "Gini",
    "LogitRange",
    "ZLoss",
    "matched_weight",
]

naming.answer_names(__name__)
