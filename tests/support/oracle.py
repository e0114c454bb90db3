"""Exact values of the losses: the textbook definition on exact probabilities.

It shares nothing with the code but the table.
"""

from types import SimpleNamespace
from typing import Any

import mpmath

from equipoise.losses import Loss
from equipoise.losses.table import Entry
from support.definitions import Exact, definition_of


def truth(entry: Entry, loss: Loss, logits: list[float], y: int) -> Any:
    """Return the exact loss of one row; doubling the working digits must not change it."""
    reach = max(abs(z) for z in logits if z != -float("inf"))
    digits = 60 + int(2 * reach)  # 1 - p may be as small as exp(-2 reach), e^reach has reach / 2 digits
    value, finer = (_evaluate(entry, loss, logits, y, d) for d in (digits, 2 * digits))
    assert abs(value - finer) <= abs(finer) * mpmath.mpf(10) ** -25
    return value


def _evaluate(entry: Entry, loss: Loss, logits: list[float], y: int, digits: int) -> Any:
    with mpmath.workdps(digits):
        kept = [k for k, z in enumerate(logits) if z != -float("inf")]
        z = [mpmath.mpf(logits[k]) for k in kept]
        terms = [mpmath.exp(value) for value in z]
        total = mpmath.fsum(terms)
        row = Exact(
            mp=mpmath,
            z=z,
            p=[term / total for term in terms],
            y=kept.index(y),
            kept=kept,
            num_classes=len(logits),
        )
        exact = {name: mpmath.mpf(v) if isinstance(v, (int, float)) else v for name, v in vars(loss).items()}
        return definition_of(entry)(SimpleNamespace(**exact), row)
