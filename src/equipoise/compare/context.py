"""Context models, shown with the candidates but not compared: the commonest class, boosted trees."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits

from equipoise.compare.calibrated import calibrated_probs, fitted
from equipoise.compare.measures import SMALLEST, Predictions

if TYPE_CHECKING:
    from equipoise.compare.splits import Split

__all__ = ["COMMONEST", "TREES", "run_context"]

COMMONEST, TREES = "commonest class", "HistGradientBoostingClassifier"


def run_context(
    inputs: NDArray[np.float32] | None,
    observed: NDArray[np.int64],
    target: NDArray[np.int64],
    split: "Split",
    classes: int,
    *,
    costs: NDArray[np.float64] | None = None,
    nll_of: str = "observed",
    class_weight: str | None = None,
) -> dict[str, Predictions]:
    """Return the predictions of the context models for the test rows of a split, raw and calibrated.

    Trees are trained on the same features (N, D) and observed labels (N,) as the candidates; the validation
    rows determine their number and calibration. Both models are evaluated by `target` (N,). Without features
    there are no trees.
    """
    validation, test = split.validation, split.test
    seen = np.zeros((len(observed), 1), np.float32) if inputs is None else inputs
    prior = DummyClassifier(strategy="prior").fit(seen[split.train], observed[split.train])
    shares = _probs(prior, seen[test], classes)
    found = {COMMONEST: Predictions(shares, shares, target[test], costs)}
    if inputs is None:
        return found
    with threadpool_limits(1, user_api="openmp"):  # for results that do not depend on the number of threads
        model = prior if len(prior.classes_) < 2 else _trees(inputs, observed, split, class_weight)
        probs, held_out = (_probs(model, inputs[rows], classes) for rows in (test, validation))
    fit = fitted(_logits(held_out), observed[validation])
    calibrated = probs if fit is None else calibrated_probs(fit, _logits(probs), nll_of)
    return found | {TREES: Predictions(probs, calibrated, target[test], costs)}


def _trees(inputs: Any, observed: Any, split: "Split", class_weight: str | None) -> Any:
    """Return scikit-learn's boosted trees with default options, except the early stopping."""
    labels = observed[split.train]
    # scikit-learn raises for validation labels without a training row
    known = split.validation[np.isin(observed[split.validation], labels)]
    stopping: dict[str, Any] = {"X_val": inputs[known], "y_val": observed[known]} if len(known) else {}
    # Trees of 8 leaves take less than half the time and are as good on digits, but lose 4 to 10 points where
    # features act together; a learning rate of 0.2 loses 4 on digits with 40 % wrong labels. Fewer bins, 15
    # leaves, or stopping after 3 or 5 iterations without a gain save up to 40 % and lose up to 1.5 points.
    early: Any = bool(stopping)
    model = HistGradientBoostingClassifier(early_stopping=early, class_weight=class_weight, random_state=0)
    return model.fit(inputs[split.train], labels, **stopping)


def _probs(model: Any, inputs: Any, classes: int) -> NDArray[np.float64]:
    """Return probabilities (M, C), 0 for a class that the model has not seen."""
    probs = np.zeros((len(inputs), classes))
    probs[:, model.classes_] = model.predict_proba(inputs)
    return probs


def _logits(probs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the log of the probabilities, clamped to the eps of float64 from below."""
    return np.log(np.maximum(probs, SMALLEST))
