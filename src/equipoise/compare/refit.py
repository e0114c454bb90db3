"""`refit`: training of a comparison's winner for use."""

from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn

from equipoise.calibration import Calibration, fit
from equipoise.compare.arrays import as_column, features_of, from_arrays
from equipoise.compare.calibrated import calibrated_probs
from equipoise.compare.dataset import Dataset
from equipoise.compare.networks import Inputs, network
from equipoise.compare.results import Result
from equipoise.compare.splits import splits
from equipoise.compare.trial import options, row_weight
from equipoise.compare.verdict import Verdict
from equipoise.costs import decide
from equipoise.training import Alone, Rows, predict, train

__all__ = ["Refitted", "refit"]

VALIDATION = 10  # one in this number of rows chooses the epoch and fits the calibration


@final
@dataclass(frozen=True, eq=False)
class Refitted:
    """A trained classifier with its calibration.

    Attributes:
        module: The network at its best epoch, from inputs to logits.
        calibration: Temperature and share of wrong labels, fitted to the validation rows.
        classes: The classes, in the order of the logits.
        epoch: The chosen epoch, from 1.
        nll_of: Label of the probabilities: "clean" or "observed".
        costs: Costs [true, predicted], by which `predict` chooses the class; None for the likeliest.
    """

    module: nn.Module
    calibration: Calibration
    classes: NDArray[Any]
    epoch: int
    nll_of: str
    costs: NDArray[np.float64] | None
    _inputs: Inputs
    _like: Dataset

    def logits(self, X: Any) -> torch.Tensor:  # noqa: N803
        """Return logits (M, C) of rows in the format of the training rows."""
        return predict(Alone(self.module), None, self._inputs(features_of(X, self._like)))

    def predict_proba(self, X: Any) -> NDArray[np.float64]:  # noqa: N803
        """Return calibrated probabilities (M, C) in the order of `classes`."""
        return calibrated_probs(self.calibration, self.logits(X).double(), self.nll_of).numpy()

    def predict(self, X: Any) -> NDArray[Any]:  # noqa: N803
        """Return the class (M,) of each row: with costs, of smallest expected cost, else the likeliest."""
        probs = self.predict_proba(X)
        return self.classes[probs.argmax(axis=1) if self.costs is None else decide(probs, self.costs)]


def refit(result: Result, judged: Verdict, X: Any, y: Any, sample_weight: Any) -> Refitted:  # noqa: N803
    """Train the winner on all rows but a validation part; see `Comparison.fit`."""
    plan, settings = result.plan, result.plan.settings
    compared = plan.conditions.dataset
    dataset = X if isinstance(X, Dataset) else from_arrays(X, y, sample_weight=sample_weight)
    if dataset.classes != compared.classes:
        raise ValueError(
            f"y must have the classes of the comparison, {', '.join(compared.classes)}, got "
            f"{', '.join(dataset.classes)}; give rows of each"
        )
    unit, _ = result.chosen(judged.winner)
    setting = unit.setting
    features = features_of(dataset.features, compared)
    dataset = replace(dataset, features=features, test=None, time=None, clean=None)
    folds = min(VALIDATION, int(np.bincount(dataset.labels).max()))
    first = splits(dataset, folds, 1, settings.random_state)[0]
    training, validation = np.union1d(first.train, first.validation), first.test
    inputs = Inputs(dataset, training, settings.model)
    rows, labels = inputs(features), torch.from_numpy(dataset.labels)
    weight = row_weight(labels, training, dataset, settings.class_weight)
    batches = -(-len(training) // settings.batch_size)

    def part(places: NDArray[np.int64]) -> Rows:
        return Rows(rows[places], labels[places], None if weight is None else weight[places])

    with torch.random.fork_rng(devices=[]):
        made = network(settings, setting.width, dataset, rows, settings.random_state)
        model = Alone(made)
        (trained,) = train(
            model,
            unit.candidate.objective(settings.epochs * batches),
            [part(training)],
            [part(validation)],
            options(settings, setting, to_the_end=False),
            [settings.random_state],
        )
    logits = predict(model, trained.state, rows[validation])  # this also loads the weights into the module
    if not logits.isfinite().all():
        raise FloatingPointError(
            f"{judged.winner.candidate.name} must have finite logits in training, got infinite ones; lower "
            "lr "
            f"from {setting.lr:g} and compare again"
        )
    return Refitted(
        made,
        fit(logits, labels[validation]),
        _as_given(X, y, dataset.classes),
        trained.epoch,
        result.nll_of,
        plan.conditions.costs if plan.costs_from == "costs" else None,
        inputs,
        dataset,
    )


def _as_given(X: Any, y: Any, classes: tuple[str, ...]) -> NDArray[Any]:  # noqa: N803
    """Return the classes in the type of the given labels (numbers, bools, ...), not as text."""
    if y is None:
        whole = not isinstance(X, Dataset) and all(name.lstrip("-").isdigit() for name in classes)
        return np.array([int(name) for name in classes] if whole else classes)
    found = pd.unique(pd.Series(as_column(y, "y", pd.RangeIndex(len(y)))).dropna())
    named = {str(int(v)) if isinstance(v, float) and v == int(v) else str(v).strip(): v for v in found}
    return np.array([named.get(name, name) for name in classes])
