"""Measures of predictions on test rows: their formulas, direction, and which of them decide.

Accuracy and the calibrated NLL decide a comparison; with costs, only the cost of decisions. The others are
for information. Raw probabilities are the softmax of the logits; calibrated ones use the calibration fitted
to the validation rows of the split.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from equipoise.costs import decide
from equipoise.metrics import area_under_risk_coverage, severity

__all__ = ["ECE_BINS", "MEASURES", "Measure", "Predictions", "calibration_error", "confusion"]
__all__ += ["chance_calibration_errors", "recall_per_class"]

ECE_BINS = 15
LONG = 1e6  # larger numbers are shown with three digits and an exponent
SMALLEST = float(np.finfo(np.float64).eps)  # probabilities are clamped to it, as in scikit-learn's log_loss


@dataclass(frozen=True)
class Predictions:
    """Probabilities of test rows, raw and calibrated, with their classes.

    Attributes:
        probs: Softmax of the logits, (M, C).
        calibrated: Calibrated probabilities (M, C) of the observed label, or, if test labels are more
            reliable than training labels, of the clean label.
        target: Classes (M,) of the test rows, clean ones if known.
        costs: Costs (C, C) [true, predicted], if any.
    """

    probs: NDArray[np.float64]
    calibrated: NDArray[np.float64]
    target: NDArray[np.int64]
    costs: NDArray[np.float64] | None = None

    @cached_property
    def finite(self) -> bool:
        """Whether every probability, raw and calibrated, is a finite number."""
        return bool(np.isfinite(self.probs).all() and np.isfinite(self.calibrated).all())

    @cached_property
    def likeliest(self) -> NDArray[np.int64]:
        """The class of largest raw probability, (M,)."""
        return self.probs.argmax(axis=1)

    @cached_property
    def cheapest(self) -> NDArray[np.int64]:
        """The class of smallest expected cost under the calibrated probabilities, (M,)."""
        return decide(self.calibrated, self.given_costs)

    @property
    def given_costs(self) -> NDArray[np.float64]:
        """The costs; raises ValueError without any."""
        if self.costs is None:
            raise ValueError("a measure of cost must have costs, got none; give Predictions its costs")
        return self.costs

    @property
    def one_hot(self) -> NDArray[np.bool_]:
        """The classes as one-hot rows (M, C)."""
        return self.target[:, None] == np.arange(self.probs.shape[1])

    @cached_property
    def present(self) -> NDArray[np.int64]:
        """The classes that the test rows have."""
        return np.unique(self.target)


@dataclass(frozen=True)
class Measure:
    """A measure of predictions.

    Attributes:
        name: Name in the results.
        title: Name in tables.
        meaning: Explanation in one line.
        formula: Function of finite predictions that returns a number, or scores (M,) whose mean is the
            measure.
        better: "higher" or "lower"; None for a descriptive measure.
        needs_costs: Whether it needs costs.
        percent: Whether it is shown in per cent.
        by_row: Whether the formula returns scores.
    """

    name: str
    title: str
    meaning: str
    formula: Callable[[Predictions], Any]
    better: str | None
    needs_costs: bool = False
    percent: bool = False
    by_row: bool = False

    def of(self, predictions: Predictions) -> float:
        """Return the measure of predictions; nan if a probability, raw or calibrated, is not finite."""
        return float(np.mean(self.formula(predictions))) if predictions.finite else float("nan")

    @property
    def rows(self) -> Callable[[Predictions], NDArray[np.float64]] | None:
        """Function from predictions to scores (M,) whose mean is the measure, nan as in `of`; or None."""

        def scores(seen: Predictions) -> NDArray[np.float64]:
            return self.formula(seen).astype(np.float64) if seen.finite else np.full(len(seen.target), np.nan)

        return scores if self.by_row else None

    def show(self, value: float) -> str:
        """Return a value as text."""
        if np.isnan(value):
            return "\u2013"
        if self.percent:
            return f"{100 * value:.1f} %"
        if abs(value) >= LONG:
            return f"{value:.3g}"
        return f"{value:.3f}" if value == 0 or abs(value) >= 5e-4 else f"{value:.0e}"

    def show_difference(self, value: float) -> str:
        """Return a difference as text, without its unit."""
        if np.isnan(value):
            return "\u2013"
        if abs(value) >= LONG:
            return f"{value:+.3g}"
        if self.needs_costs and 0 < abs(value) < 5e-4:  # costs may have any scale
            return f"{value:+.0e}"
        shown = f"{100 * value:+.1f}" if self.percent else f"{value:+.3f}"
        return shown if float(shown) else shown.replace("-", "+")


def calibration_error(probabilities: NDArray[np.float64], target: NDArray[np.int64]) -> float:
    """Return the expected calibration error of the top label from probabilities (N, C), never logits.

    It is torchmetrics' `multiclass_calibration_error`, which drops a confidence of exactly 1.
    """
    if not np.isfinite(probabilities).all():
        return float("nan")
    confidence = probabilities.max(axis=1)
    return _binned_error(_bins(confidence), (probabilities.argmax(axis=1) == target) - confidence)


def chance_calibration_errors(probabilities: NDArray[np.float64], draws: int, seed: int) -> list[float]:
    """Return calibration errors of a perfectly calibrated model, with hits drawn by its confidences."""
    if not np.isfinite(probabilities).all():
        return [float("nan")] * draws
    confidence = probabilities.max(axis=1)
    bins, generator = _bins(confidence), np.random.default_rng(seed)
    return [
        _binned_error(bins, (generator.random(len(confidence)) < confidence) - confidence)
        for _ in range(draws)
    ]


def _bins(confidence: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the bin of each confidence."""
    edges = torch.linspace(0, 1, ECE_BINS + 1).numpy()  # torchmetrics' edges; numpy's differ in the last bit
    return np.searchsorted(edges[1:-1], confidence.astype(np.float32), side="right")


def _binned_error(bins: NDArray[np.intp], gaps: NDArray[np.float64]) -> float:
    """Return the calibration error of rows from their bins and the values hit minus confidence."""
    return float(np.abs(np.bincount(bins, gaps)).sum() / len(gaps))


def recall_per_class(predictions: Predictions) -> NDArray[np.float64]:
    """Return the recall (C,) of each class; nan for a class without rows, or if not all values are finite."""
    if not predictions.finite:
        return np.full(predictions.probs.shape[1], np.nan)
    counts = confusion(predictions)
    with np.errstate(invalid="ignore"):
        return counts.diagonal() / counts.sum(axis=1)


def confusion(predictions: Predictions) -> NDArray[np.int64]:
    """Return the confusion matrix (C, C), [true, likeliest class], of rows with finite probabilities."""
    finite, classes = np.isfinite(predictions.probs).all(axis=1), predictions.probs.shape[1]
    pairs = classes * predictions.target[finite] + predictions.likeliest[finite]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


# Averages are over the classes among the test rows: the same for every candidate, and none whose recall or
# ranking would be 0 / 0.
def _macro_f1(seen: Predictions) -> float:
    zero: Any = 0  # scikit-learn's annotations allow only strings
    return f1_score(seen.target, seen.likeliest, labels=seen.present, average="macro", zero_division=zero)


def _ranked(score: Callable[..., Any]) -> Callable[[Predictions], float]:
    """Return the mean of a one-versus-rest score over the present classes; nan for a single class."""

    def mean(seen: Predictions) -> float:
        if len(seen.present) < 2:
            return float("nan")
        return score(seen.one_hot[:, seen.present], seen.probs[:, seen.present], average="macro")

    return mean


def _nll(probs: NDArray[np.float64], seen: Predictions) -> NDArray[np.float64]:
    """Return the NLL of each row, as in scikit-learn's log_loss."""
    true = np.take_along_axis(probs, seen.target[:, None], axis=1)[:, 0]
    return -np.log(np.clip(true, SMALLEST, 1 - SMALLEST))


MEASURES = (
    Measure(
        "accuracy", "Accuracy", "share of test rows whose likeliest class is right",
        lambda seen: seen.likeliest == seen.target, "higher", percent=True, by_row=True,
    ),
    Measure(
        "calibrated_nll", "NLL, calibrated",
        "negative log likelihood of the test labels after a calibration fitted to the validation rows",
        lambda seen: _nll(seen.calibrated, seen), "lower", by_row=True,
    ),
    Measure(
        "decided_cost", "Cost, decided",
        "mean cost when the class of smallest expected cost is taken, by calibrated probabilities",
        lambda seen: seen.given_costs[seen.target, seen.cheapest], "lower", needs_costs=True, by_row=True,
    ),
    Measure(
        "nll", "NLL, raw", "negative log likelihood of the test labels by the probabilities as they are",
        lambda seen: _nll(seen.probs, seen), "lower", by_row=True,
    ),
    Measure(
        "brier", "Brier, raw",
        "mean squared distance of the probabilities as they are from the test labels, 0 to 2",
        lambda seen: ((seen.probs - seen.one_hot) ** 2).sum(axis=1), "lower", by_row=True,
    ),
    Measure(
        "ece", "ECE, raw",
        "calibration error: how far stated confidence is from the share that is right",
        lambda seen: calibration_error(seen.probs, seen.target), None,
    ),
    Measure(
        "aurc", "AURC", "share of mistakes among the surest rows: whether doubt is where the mistakes are",
        lambda seen: area_under_risk_coverage(seen.probs, seen.target), "lower",
    ),
    Measure(
        "balanced_accuracy", "Balanced accuracy",
        "mean over the classes that the test rows have of the share of a class that is recognised",
        lambda seen: recall_per_class(seen)[seen.present].mean(), "higher", percent=True,
    ),
    Measure(
        "macro_f1", "Macro F1",
        "mean over the classes that the test rows have of F1, the harmonic mean of precision and recall",
        _macro_f1, "higher", percent=True,
    ),
    Measure(
        "roc_auc", "Area under ROC",
        "chance that a row of a class has a higher probability of it than a row of another class, mean over "
        "the classes that the test rows have",
        _ranked(roc_auc_score), "higher",
    ),
    Measure(
        "average_precision", "Average precision",
        "area under the curve of precision against recall of a class, mean over the classes that the test "
        "rows have",
        _ranked(average_precision_score), "higher",
    ),
    Measure(
        "cost", "Cost, likeliest", "mean cost when the likeliest class is taken",
        lambda seen: seen.given_costs[seen.target, seen.likeliest], "lower", needs_costs=True, by_row=True,
    ),
    Measure(
        "severity", "Severity", "mean cost of the mistakes alone, likeliest class taken",
        lambda seen: severity(seen.target, seen.likeliest, seen.given_costs), "lower", needs_costs=True,
    ),
)  # fmt: skip
