"""The table of measures: what is read from the predictions of a trial, and which way is better."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss

from equipoise.decisions import decide
from equipoise.metrics import (
    area_under_risk_coverage,
    expected_cost,
    mean_target_probability,
    severity,
    smallest_probability,
)

__all__ = ["ECE_BINS", "MEASURES", "Measure", "Predictions", "calibration_error", "chance_calibration_errors"]

ECE_BINS = 15
LARGEST_CONFIDENCE = (
    1 - 1e-7
)  # what a confidence counts for: torchmetrics drops one of exactly 1 from the last bin


@dataclass(frozen=True)
class Predictions:
    """Probabilities (N, C) in float64 against true classes (N,), with costs [true, predicted] if any."""

    probabilities: NDArray[np.float64]
    target: NDArray[np.int64]
    costs: NDArray[np.float64] | None = None

    @cached_property
    def likeliest(self) -> NDArray[np.int64]:
        """The class of largest probability, (N,)."""
        return self.probabilities.argmax(axis=1)

    @cached_property
    def cheapest(self) -> NDArray[np.int64]:
        """The class of smallest expected cost, (N,)."""
        return decide(self.probabilities, self.given_costs)

    @property
    def given_costs(self) -> NDArray[np.float64]:
        """The costs, which have to be there."""
        if self.costs is None:
            raise ValueError("a measure of cost must have costs, got none; give Predictions its costs")
        return self.costs

    @property
    def classes(self) -> NDArray[np.int64]:
        """Every class, seen or not."""
        return np.arange(self.probabilities.shape[1])


@dataclass(frozen=True)
class Measure:
    """A row of the table.

    Attributes:
        name: As in the results.
        title: As a reader sees it.
        meaning: One line for someone who has not met it.
        formula: From finite predictions to a number.
        better: "higher" or "lower"; None for what is described and never called better or worse.
        needs_costs: Whether it can only be had with costs.
        percent: Whether it is shown in per cent.
    """

    name: str
    title: str
    meaning: str
    formula: Callable[[Predictions], float]
    better: str | None
    needs_costs: bool = False
    percent: bool = False

    def of(self, predictions: Predictions) -> float:
        """Return the measure of predictions; nan if a probability is not finite."""
        finite = np.isfinite(predictions.probabilities).all()
        return self.formula(predictions) if finite else float("nan")

    def show(self, value: float) -> str:
        """A value as a reader sees it."""
        if np.isnan(value):
            return "\u2013"
        if self.percent:
            return f"{100 * value:.1f} %"
        return f"{value:.3f}" if value == 0 or abs(value) >= 5e-4 else f"{value:.0e}"

    def show_difference(self, value: float) -> str:
        """A difference as a reader sees it, without its unit."""
        if np.isnan(value):
            return "\u2013"
        return f"{100 * value:+.1f}" if self.percent else f"{value:+.3f}"


def calibration_error(probabilities: NDArray[np.float64], target: NDArray[np.int64]) -> float:
    """Expected calibration error of the top label: 15 bins, absolute differences.

    Args:
        probabilities: Never logits, which torchmetrics would take for probabilities if they lie in [0, 1].
        target: True classes.

    Returns:
        The error; nan if a probability is not finite.
    """
    from torchmetrics.functional.classification import multiclass_calibration_error  # seconds to import

    if not np.isfinite(probabilities).all():
        return float("nan")  # torchmetrics would take the rows for logits
    return float(
        multiclass_calibration_error(
            torch.from_numpy(probabilities).clamp(0, LARGEST_CONFIDENCE),
            torch.from_numpy(target),
            num_classes=probabilities.shape[1],
            n_bins=ECE_BINS,
            norm="l1",
            validate_args=False,
        )
    )


def chance_calibration_errors(probabilities: NDArray[np.float64], draws: int, seed: int) -> list[float]:
    """Calibration errors of a perfectly calibrated model: its labels are drawn from its own probabilities.

    Args:
        probabilities: (N, C).
        draws: How many times to draw all labels.
        seed: Decides the draws.

    Returns:
        An error for each draw; nan if a probability is not finite.
    """
    if not np.isfinite(probabilities).all():
        return [float("nan")] * draws
    generator = torch.Generator().manual_seed(seed)
    labels = torch.multinomial(torch.from_numpy(probabilities), draws, replacement=True, generator=generator)
    return [calibration_error(probabilities, column) for column in labels.T.contiguous().numpy()]


def _brier(predictions: Predictions) -> float:
    whole: Any = False  # halved is what scikit-learn does to two classes and not to more
    score = brier_score_loss(
        predictions.target, predictions.probabilities, labels=predictions.classes, scale_by_half=whole
    )
    return float(score)


MEASURES = (
    Measure(
        "accuracy", "Accuracy", "share of test rows whose likeliest class is right",
        lambda seen: float(accuracy_score(seen.target, seen.likeliest)), "higher", percent=True,
    ),
    Measure(
        "nll", "NLL", "negative log likelihood: how surprised the model is by the true classes",
        lambda seen: float(log_loss(seen.target, seen.probabilities, labels=seen.classes)), "lower",
    ),
    Measure(
        "brier", "Brier", "mean squared distance of probabilities from the truth, 0 to 2", _brier, "lower",
    ),
    Measure(
        "ece", "ECE", "calibration error: how far stated confidence is from the share that is right",
        lambda seen: calibration_error(seen.probabilities, seen.target), None,
    ),
    Measure(
        "aurc", "AURC", "share of mistakes among the surest rows: whether doubt is where the mistakes are",
        lambda seen: area_under_risk_coverage(seen.probabilities, seen.target), "lower",
    ),
    Measure(
        "cost", "Cost, likeliest", "mean cost when the likeliest class is taken",
        lambda seen: expected_cost(seen.target, seen.likeliest, seen.given_costs), "lower", needs_costs=True,
    ),
    Measure(
        "decided_cost", "Cost, decided", "mean cost when the class of smallest expected cost is taken",
        lambda seen: expected_cost(seen.target, seen.cheapest, seen.given_costs), "lower", needs_costs=True,
    ),
    Measure(
        "severity", "Severity", "mean cost of the mistakes alone, likeliest class taken",
        lambda seen: severity(seen.target, seen.likeliest, seen.given_costs), "lower", needs_costs=True,
    ),
    Measure(
        "mean_target_probability", "Mean p(true)", "mean probability given to the true class",
        lambda seen: mean_target_probability(seen.probabilities, seen.target), None,
    ),
    Measure(
        "smallest_probability", "Smallest p", "smallest probability given to any class in any test row",
        lambda seen: smallest_probability(seen.probabilities), None,
    ),
)  # fmt: skip
