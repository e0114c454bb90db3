"""`Record` of a training: one per candidate and split."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["Record", "Setting", "mean", "value"]


@dataclass(frozen=True)
class Setting:
    """The values that tuning may change.

    Attributes:
        objective: The objective as text, with its numbers.
        lr: Learning rate of AdamW.
        weight_decay: Weight decay of AdamW.
        width: Hidden units of the mlp.
    """

    objective: str
    lr: float
    weight_decay: float
    width: int


@dataclass(frozen=True)
class Record:
    """A candidate on one split, in the setting chosen by the validation rows of that split.

    Attributes:
        split: Index of the split.
        setting: The setting.
        epoch: The chosen epoch, from 1; 0 if no epoch had finite logits.
        temperature: Temperature fitted to the validation rows.
        noise: Share of wrong labels fitted to the validation rows.
        score: Value by which settings are chosen: NLL of each half of the validation labels, calibrated on
            the other half.
        curve: For each epoch, accuracy, NLL, calibrated NLL and value of the objective on the validation
            rows; None for a value that is not finite.
        measures: Value of each measure on the test rows, or None.
        finite: Whether all logits of the test rows are finite.
        chance_ece: Calibration errors of a perfectly calibrated model with these confidences, by simulation.
        flipped: Share of training labels flipped by the comparison.
        seconds: Time of the training; that of trainings that ran together is divided evenly.
    """

    split: int
    setting: Setting
    epoch: int
    temperature: float
    noise: float
    score: float
    curve: list[dict[str, float | None]]
    measures: dict[str, float | None]
    finite: bool
    chance_ece: list[float]
    flipped: float
    seconds: float


def value(record: Mapping[str, Any], measure: str) -> float:
    """Return the value of a measure in a record, or nan."""
    found = record.get(measure)
    return float("nan") if found is None else float(found)


def mean(values: ArrayLike) -> float:
    """Return the mean of the finite values; nan without any."""
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known)]
    return float(known.mean()) if known.size else float("nan")
