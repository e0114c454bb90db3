"""Penalties: functions of the logits alone, without a target, to be added to a loss."""

from equipoise import naming
from equipoise.losses.table import Entry
from equipoise.penalties import confidence as _confidence
from equipoise.penalties import logits as _logits
from equipoise.penalties.confidence import Balance, Decisiveness, Entropy, Gini
from equipoise.penalties.logits import LogitRange, ZLoss
from equipoise.penalties.weights import matched_weight

PENALTIES: tuple[Entry, ...] = (*_confidence.ENTRIES, *_logits.ENTRIES)

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
