"""Measures of predictions on test rows: which decide, which are read beside them, and which way is better.

Accuracy and the calibrated NLL decide; where costs are given, the cost of decisions alone. The others are
there to be read. Raw probabilities are those of the softmax; calibrated ones went through the calibration
that the validation rows of the split chose.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    brier_score_loss,
    confusion_matrix,
    f1_score,
    log_loss,
    recall_score,
    roc_auc_score,
)

from equipoise.decisions import decide
from equipoise.metrics import area_under_risk_coverage, expected_cost, severity

__all__ = [
    "ECE_BINS",
    "MEASURES",
    "Measure",
    "Predictions",
    "calibration_error",
    "chance_calibration_errors",
    "confusion",
    "recall_per_class",
]

ECE_BINS = 15
# What a confidence counts for: torchmetrics drops one of exactly 1 from the last bin.
LARGEST_CONFIDENCE = 1 - 1e-7
SMALLEST = float(np.finfo(np.float64).eps)  # what scikit-learn's log_loss takes a smaller probability for


@dataclass(frozen=True)
class Predictions:
    """Probabilities of test rows, raw and calibrated, against their classes.

    Attributes:
        probs: Softmax of the logits.
        calibrated: The same after the calibration of the split: probabilities of the observed label, or of
            the clean one where the test labels are known to be better than those trained on.
        target: Classes of the test rows, the clean ones where they are known.
        costs: Costs [true, predicted], if any.

    Shapes:
        probs (M, C) float64; calibrated (M, C) float64; target (M,) int64; costs (C, C) float64.
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
        """The costs, which have to be there."""
        if self.costs is None:
            raise ValueError("a measure of cost must have costs, got none; give Predictions its costs")
        return self.costs

    @property
    def classes(self) -> NDArray[np.int64]:
        """Every class, seen or not."""
        return np.arange(self.probs.shape[1])

    @cached_property
    def present(self) -> NDArray[np.int64]:
        """The classes that the test rows have."""
        return np.unique(self.target)


@dataclass(frozen=True)
class Measure:
    """One number that is read from predictions.

    Attributes:
        name: As in the results.
        title: As a reader sees it.
        meaning: One line for someone who has not met it.
        formula: From finite predictions to a number.
        better: "higher" or "lower"; None for what is described and never called better or worse.
        needs_costs: Whether it can only be had with costs.
        percent: Whether it is shown in per cent.
        rows: From predictions to scores (M,) whose mean is the measure, all nan where a probability is not
            finite; None where the measure is no mean over rows.
    """

    name: str
    title: str
    meaning: str
    formula: Callable[[Predictions], float]
    better: str | None
    needs_costs: bool = False
    percent: bool = False
    rows: Callable[[Predictions], NDArray[np.float64]] | None = None

    def of(self, predictions: Predictions) -> float:
        """Return the measure of predictions; nan if a probability, raw or calibrated, is not finite."""
        return self.formula(predictions) if predictions.finite else float("nan")

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
        if self.needs_costs and 0 < abs(value) < 5e-4:  # the unit of costs is the user's
            return f"{value:+.0e}"
        shown = f"{100 * value:+.1f}" if self.percent else f"{value:+.3f}"
        return shown if float(shown) else shown.replace("-", "+")


def calibration_error(probabilities: NDArray[np.float64], target: NDArray[np.int64]) -> float:
    """Return the expected calibration error of the top label: 15 bins, absolute differences.

    Args:
        probabilities: Never logits, which torchmetrics would take for probabilities if they lie in [0, 1].
        target: True classes.

    Shapes:
        probabilities (N, C); target (N,).

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
    """Return calibration errors of a perfectly calibrated model: labels drawn from its own probabilities.

    The calibration error of the top label depends on whether the likeliest class is right, and under the
    model's own probabilities it is so with a chance of its confidence. So hits are drawn, not labels, and the
    bins, which all draws share, are found once.

    Args:
        probabilities: As in `calibration_error`.
        draws: How many times to draw all labels.
        seed: Decides the draws.

    Shapes:
        probabilities (N, C).

    Returns:
        An error for each draw; nan if a probability is not finite.
    """
    if not np.isfinite(probabilities).all():
        return [float("nan")] * draws
    confidence = np.minimum(probabilities.max(axis=1), LARGEST_CONFIDENCE)
    hits = np.random.default_rng(seed).random((draws, len(confidence))) < confidence
    return _binned_errors(confidence, hits).tolist()


def _binned_errors(confidence: NDArray[np.float64], hits: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the calibration error (draws,) of confidences (N,) for hits (draws, N), as torchmetrics does."""
    edges = np.linspace(0, 1, ECE_BINS + 1, dtype=np.float32)
    places = np.searchsorted(edges, confidence.astype(np.float32), side="right") - 1
    gaps = (hits - confidence) @ np.eye(ECE_BINS)[places]
    return np.abs(gaps).sum(axis=1) / len(confidence)


def recall_per_class(predictions: Predictions) -> NDArray[np.float64]:
    """Return the share of each class's rows whose likeliest class is right.

    Shapes:
        result (C,); nan for a class without rows, and for every class if a probability is not finite.
    """
    if not predictions.finite:
        return np.full(len(predictions.classes), np.nan)
    each: Any = None  # scikit-learn's annotations know neither
    unknown: Any = np.nan
    return np.asarray(
        recall_score(
            predictions.target,
            predictions.likeliest,
            labels=predictions.classes,
            average=each,
            zero_division=unknown,
        )
    )


def confusion(predictions: Predictions) -> NDArray[np.int64]:
    """Return how many rows of each class have which likeliest class, indexed [true, predicted].

    A row with a probability that is not finite has no likeliest class and is not counted.

    Shapes:
        result (C, C) int64.
    """
    finite = np.isfinite(predictions.probs).all(axis=1)
    if not finite.any():  # scikit-learn has no matrix of no rows
        return np.zeros((len(predictions.classes),) * 2, dtype=np.int64)
    return confusion_matrix(
        predictions.target[finite], predictions.likeliest[finite], labels=predictions.classes
    )


def _nll(probs: NDArray[np.float64], seen: Predictions) -> float:
    return float(log_loss(seen.target, probs, labels=seen.classes))


def _brier(seen: Predictions) -> float:
    whole: Any = False  # halved is what scikit-learn does to two classes and not to more
    return float(brier_score_loss(seen.target, seen.probs, labels=seen.classes, scale_by_half=whole))


# Averages over classes take those that the test rows have: the same ones for every candidate, whatever it
# predicts, and none whose recall or ranking would be 0 / 0.
def _balanced_accuracy(seen: Predictions) -> float:
    # balanced_accuracy_score is this, but warns where a class is predicted that no row has
    return float(recall_score(seen.target, seen.likeliest, labels=seen.present, average="macro"))


def _macro_f1(seen: Predictions) -> float:
    zero: Any = 0
    return float(
        f1_score(seen.target, seen.likeliest, labels=seen.present, average="macro", zero_division=zero)
    )


def _ranked(score: Callable[..., Any]) -> Callable[[Predictions], float]:
    """Return the mean of a score of each present class against the rest; nan where there is no rest."""

    def mean(seen: Predictions) -> float:
        if len(seen.present) < 2:
            return float("nan")
        one_hot = seen.target[:, None] == seen.present
        return float(score(one_hot, seen.probs[:, seen.present], average="macro"))

    return mean


def _where_finite(
    scores: Callable[[Predictions], NDArray[Any]],
) -> Callable[[Predictions], NDArray[np.float64]]:
    """Return the scores of rows in float64, all nan where a probability is not finite."""

    def rows(seen: Predictions) -> NDArray[np.float64]:
        return scores(seen).astype(np.float64) if seen.finite else np.full(len(seen.target), np.nan)

    return rows


def _nll_rows(probs: NDArray[np.float64], seen: Predictions) -> NDArray[np.float64]:
    true = probs[np.arange(len(probs)), seen.target]
    return -np.log(np.clip(true, SMALLEST, 1 - SMALLEST))


def _brier_rows(seen: Predictions) -> NDArray[np.float64]:
    return ((seen.probs - (seen.target[:, None] == seen.classes)) ** 2).sum(axis=1)


MEASURES = (
    Measure(
        "accuracy", "Accuracy", "share of test rows whose likeliest class is right",
        lambda seen: float(accuracy_score(seen.target, seen.likeliest)), "higher", percent=True,
        rows=_where_finite(lambda seen: seen.likeliest == seen.target),
    ),
    Measure(
        "calibrated_nll", "NLL, calibrated",
        "negative log likelihood of the test labels after a calibration fitted to the validation rows",
        lambda seen: _nll(seen.calibrated, seen), "lower",
        rows=_where_finite(lambda seen: _nll_rows(seen.calibrated, seen)),
    ),
    Measure(
        "decided_cost", "Cost, decided",
        "mean cost when the class of smallest expected cost is taken, by calibrated probabilities",
        lambda seen: expected_cost(seen.target, seen.cheapest, seen.given_costs), "lower", needs_costs=True,
        rows=_where_finite(lambda seen: seen.given_costs[seen.target, seen.cheapest]),
    ),
    Measure(
        "nll", "NLL, raw", "negative log likelihood of the test labels by the probabilities as they are",
        lambda seen: _nll(seen.probs, seen), "lower",
        rows=_where_finite(lambda seen: _nll_rows(seen.probs, seen)),
    ),
    Measure(
        "brier", "Brier, raw",
        "mean squared distance of the probabilities as they are from the test labels, 0 to 2",
        _brier, "lower", rows=_where_finite(_brier_rows),
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
        _balanced_accuracy, "higher", percent=True,
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
        lambda seen: expected_cost(seen.target, seen.likeliest, seen.given_costs), "lower", needs_costs=True,
        rows=_where_finite(lambda seen: seen.given_costs[seen.target, seen.likeliest]),
    ),
    Measure(
        "severity", "Severity", "mean cost of the mistakes alone, likeliest class taken",
        lambda seen: severity(seen.target, seen.likeliest, seen.given_costs), "lower", needs_costs=True,
    ),
)  # fmt: skip
