"""`NoisyCalibratedClassifier`, which calibrates another classifier on labels of which some may be wrong."""

# ruff: noqa: N803, N806 - X is scikit-learn's name

import warnings
from typing import Any, Self, final

import numpy as np
from numpy.typing import NDArray

from equipoise.calibration import Calibration, fit
from equipoise.costs import ClassMatrix

try:
    from sklearn.base import clone
    from sklearn.frozen import FrozenEstimator
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import check_cv
    from sklearn.utils import _safe_indexing, get_tags, indexable
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import (
        _check_sample_weight,
        check_is_fitted,
        column_or_1d,
        has_fit_parameter,
    )

    from equipoise.integrations.sklearn.bases import BaseEstimator, ClassifierMixin, MetaEstimatorMixin
except ImportError as _error:
    raise ImportError("integrations.sklearn needs scikit-learn; pip install 'equipoise[sklearn]'") from _error


@final
class NoisyCalibratedClassifier(ClassifierMixin, MetaEstimatorMixin, BaseEstimator):
    """Wrapper of a classifier that fits a temperature and the rate of wrong labels to held-out rows.

    It fits the classifier on the training folds, and `equipoise.calibration.fit` to its logits of the test
    folds; then it fits the classifier again on all rows. Wrap a fitted classifier in a
    `sklearn.frozen.FrozenEstimator`: all rows are then used for the calibration, and should be other rows
    than those of its training.

    `predict_proba` returns the probabilities of the clean label; use it if labels are known to be noisy. For
    clean but ambiguous labels use `predict_observed_proba`, or noise=0, which is scikit-learn's temperature
    scaling: the fit cannot distinguish noise from the sharpness of a classifier trained with an improper loss
    (gamma, GCE, focal, hinge), and `predict_proba` would be far too confident.

    Args:
        estimator: A classifier with `predict_proba` or `decision_function`; None for `LogisticRegression()`.
        noise: "fit", a rate, a transition matrix [true, observed] in the order of `classes_` or named, or 0,
            as in `equipoise.calibration.fit`.
        cv: Number of folds, a splitter, or the splits, as in `CalibratedClassifierCV`; None for 5 stratified
            folds. Not used for a FrozenEstimator. Rows in no test fold are not used for the calibration.

    Attributes:
        classes_: The classes, sorted.
        estimator_: The classifier, trained on all rows.
        calibration_: The `equipoise.calibration.Calibration`: temperature, noise, its interval, notes.
        wrong_label_probs_: (N,) probability that the label of a row is wrong, from held-out logits; nan for a
            row in no test fold.
        n_features_in_: Number of features, if the classifier has this attribute.
        feature_names_in_: Names of the features, if the classifier has this attribute.

    Raises:
        TypeError: When fitted, if the classifier has no scores, or noise is none of the above.
        ValueError: When fitted, if y has fewer than two classes, or noise is out of range.

    Numerics:
        Logits are log(p + 2.2e-16), as in scikit-learn, or the decision function; a 1-D decision function is
        taken as the log odds of the second class.

    Example:
        >>> draws = np.random.default_rng(0)
        >>> rows = draws.normal(size=(600, 2))
        >>> labels = np.where(draws.random(600) < 0.2, rows[:, 0] < 0, rows[:, 0] > 0)
        >>> model = NoisyCalibratedClassifier().fit(rows, labels)
        >>> round(model.calibration_.noise, 2), round(float(np.mean(labels != (rows[:, 0] > 0))), 2)
        (0.21, 0.22)
    """

    def __init__(self, estimator: Any = None, *, noise: Any = "fit", cv: Any = None) -> None:
        self.estimator = estimator
        self.noise = noise
        self.cv = cv

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Calibrate on held-out rows, and fit the classifier to all rows.

        Args:
            X: (N, D) features, or other inputs of the classifier.
            y: (N,) observed labels.
            sample_weight: (N,) weights for the calibration, and for the classifier if it supports them.

        Warns:
            UserWarning: If there are weights and the classifier does not support them.
        """
        check_classification_targets(y)
        X, y = indexable(X, y)
        y = column_or_1d(y, warn=True)
        classes, target = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(
                f"y must have at least 2 classes, got {len(classes)} class: {classes.tolist()}; a "
                "classifier needs two classes"
            )
        estimator = LogisticRegression() if self.estimator is None else self.estimator
        weight = None if sample_weight is None else _check_sample_weight(sample_weight, X, dtype=np.float64)
        passed = weight is not None and has_fit_parameter(estimator, "sample_weight")
        frozen = isinstance(estimator, FrozenEstimator)
        if weight is not None and not passed and not frozen:
            warnings.warn(
                f"{type(estimator).__name__} takes no sample_weight: the weights are for calibration only",
                stacklevel=2,
            )

        def trained(rows: Any = None) -> Any:
            part = np.arange(len(y)) if rows is None else rows
            weights = {"sample_weight": weight[part]} if weight is not None and passed else {}
            features = X if rows is None else _safe_indexing(X, rows)
            fresh: Any = clone(estimator)
            return fresh.fit(features, y[part], **weights)

        self.classes_: NDArray[Any] = classes
        self.estimator_: Any = trained()
        logits, tested = np.zeros((len(y), len(classes))), np.zeros(len(y), bool)
        if frozen:
            logits, tested = self._logits(self.estimator_, X), np.ones(len(y), bool)
        else:
            folds: Any = check_cv(self.cv, y, classifier=True)
            for train, test in folds.split(X, y):
                logits[test] = self._logits(trained(train), _safe_indexing(X, test))
                tested[test] = True
        counted = tested.astype(np.float64) if weight is None else tested * weight
        self.calibration_: Calibration = fit(logits, target, noise=self._noise(), sample_weight=counted)
        self.wrong_label_probs_: NDArray[np.float64] = np.where(
            tested, self.calibration_.wrong_label_probs(logits, target), np.nan
        )
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(self.estimator_, name):
                setattr(self, name, getattr(self.estimator_, name))
        return self

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the likeliest class of each row, which the calibration does not change."""
        probs = self.predict_proba(X)
        return self.classes_[probs.argmax(1)]

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return probabilities of the clean label (N, C); only for labels known to be noisy."""
        check_is_fitted(self)
        return self.calibration_.probs(self._logits(self.estimator_, X))

    def predict_observed_proba(self, X: Any) -> NDArray[np.float64]:
        """Return probabilities of the observed label, which may be wrong (N, C)."""
        check_is_fitted(self)
        return self.calibration_.observed_probs(self._logits(self.estimator_, X))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        inner = get_tags(LogisticRegression() if self.estimator is None else self.estimator)
        tags.input_tags.sparse = inner.input_tags.sparse
        tags.input_tags.pairwise = inner.input_tags.pairwise
        return tags

    def _logits(self, estimator: Any, X: Any) -> NDArray[np.float64]:
        """Return logits (N, C) in the order of `classes_`, very low for a class absent from the fold."""
        nothing = np.finfo(np.float64).eps
        if hasattr(estimator, "predict_proba"):
            found = np.log(np.asarray(estimator.predict_proba(X), np.float64) + nothing)
        elif hasattr(estimator, "decision_function"):
            found = np.asarray(estimator.decision_function(X), np.float64)
            found = np.stack((-found / 2, found / 2), 1) if found.ndim == 1 else found
        else:
            raise TypeError(
                f"estimator must have predict_proba or decision_function, got {estimator!r}; use another one"
            )
        if len(estimator.classes_) == len(self.classes_):
            return found
        logits = np.full((len(found), len(self.classes_)), found.min(1, keepdims=True) + np.log(nothing))
        logits[:, np.searchsorted(self.classes_, estimator.classes_)] = found
        return logits

    def _noise(self) -> Any:
        """Return the noise; a matrix with names is put in the order of the classes."""
        named = hasattr(self.noise, "columns") or getattr(self.noise, "classes", None) is not None
        return (
            ClassMatrix(self.noise, kind="similarity").ordered(self.classes_.tolist())
            if named
            else self.noise
        )


__all__ = ["NoisyCalibratedClassifier"]
