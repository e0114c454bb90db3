"""What is kept of a training: a record for each candidate and split."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["Record", "Setting", "mean", "value"]


@dataclass(frozen=True)
class Setting:
    """What tuning may change.

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
    """One candidate on one split, in the setting that the validation rows of that split chose.

    Attributes:
        split: Which split.
        setting: The setting.
        epoch: The epoch chosen, from 1; 0 if no epoch had finite logits.
        temperature: Fitted on the validation rows.
        noise: Share of wrong labels, fitted along.
        score: What settings are chosen by: NLL of the validation labels, fitted on one half and scored on the
            other, exchanged.
        curve: For each epoch, accuracy, NLL, calibrated NLL and the objective's own value on the validation
            rows; None where it is not finite.
        measures: Value of each measure on the test rows; None where there is none.
        finite: Whether all logits of the test rows are finite.
        chance_ece: Calibration errors by chance of a perfectly calibrated model with these confidences.
        flipped: Share of training labels that the comparison itself has changed.
        seconds: Time of the training, shared evenly by those that ran together.
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
    """The value of a measure in a record; nan where there is none."""
    found = record.get(measure)
    return float("nan") if found is None else float(found)


def mean(values: ArrayLike) -> float:
    """The mean of the values that are finite; nan without any."""
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known)]
    return float(known.mean()) if known.size else float("nan")
