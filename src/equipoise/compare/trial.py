"""Training and evaluation of a unit: a candidate in one setting on some splits."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from equipoise.calibration import Calibration
from equipoise.calibration.solve import crossfit_nll_batch
from equipoise.compare.calibrated import calibrated_probs, fitted
from equipoise.compare.context import run_context
from equipoise.compare.dataset import Dataset
from equipoise.compare.measures import MEASURES, Predictions, chance_calibration_errors
from equipoise.compare.networks import inputs_of, network
from equipoise.compare.objectives import Candidate
from equipoise.compare.records import Record, Setting
from equipoise.compare.settings import Settings
from equipoise.compare.splits import Split, flip
from equipoise.training import Alone, Copies, Options, Rows, Trained, predict, train

__all__ = ["Conditions", "Unit", "for_trees", "measured", "options", "row_weight", "run_beside", "run_unit"]
__all__ += ["values_of"]

CHANCE_DRAWS = 50
MOST_FOR_TREES = 2 * 10**7  # numbers in a table
MOST_TOGETHER = 2**27  # numbers in the features of copies that are trained together


@dataclass(frozen=True)
class Conditions:
    """The conditions shared by all trainings of a comparison.

    Attributes:
        dataset: Rows with classes.
        splits: Splits of the rows, repeat by repeat.
        settings: Options of training.
        noise: Transition matrix [true, observed] of the training and validation labels.
        costs: Costs [true, predicted], or None.
    """

    dataset: Dataset
    splits: tuple[Split, ...]
    settings: Settings
    noise: NDArray[np.float64]
    costs: NDArray[np.float64] | None

    @property
    def repeats(self) -> int:
        """Number of repeats."""
        return self.settings.repeats

    @property
    def noisy(self) -> bool:
        """Whether any label may be flipped."""
        return not np.array_equal(self.noise, np.eye(len(self.noise)))

    @property
    def nll_of(self) -> str:
        """Label of calibrated probabilities: "clean" if test labels are more reliable, else "observed"."""
        return "clean" if self.noisy or self.dataset.clean is not None else "observed"

    def of_repeat(self, repeat: int) -> range:
        """Return the indices of the splits of a repeat."""
        each = len(self.splits) // self.repeats
        return range(repeat * each, (repeat + 1) * each)

    def repeat_of(self, place: int) -> int:
        """Return the repeat of a split."""
        return place // (len(self.splits) // self.repeats)

    def seed(self, place: int) -> int:
        """Return the seed of initial weights and batches on a split."""
        return 1000 * self.settings.random_state + place

    def observed(self, repeat: int) -> NDArray[np.int64]:
        """Return the labels (N,) of training and validation rows, with noise."""
        labels = self.dataset.labels
        return flip(labels, self.noise, self.settings.random_state + repeat) if self.noisy else labels


@dataclass(frozen=True)
class Unit:
    """A candidate in one setting on splits that are trained together.

    Attributes:
        key: Key of its record.
        of: Index of its candidate in the plan.
        tried: Index of the setting among those of the candidate.
        candidate: The objective with the parameters of the setting.
        setting: The setting.
        places: Indices of the splits, all of one repeat.
    """

    key: str
    of: int
    tried: int
    candidate: Candidate
    setting: Setting
    places: tuple[int, ...]

    @property
    def baseline(self) -> bool:
        """Whether it is plain cross entropy, of which the last epoch and validation logits are stored too."""
        return self.of == 0


def run_unit(unit: Unit, conditions: Conditions) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Train and evaluate a unit; return its records and predictions, split by split."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # with more, sums and so results would depend on the number of jobs
    try:
        with torch.random.fork_rng(devices=[]):
            found = _run(unit, conditions)
    finally:
        torch.set_num_threads(threads)
    arrays = {name: np.concatenate([each[name] for _, each in found]) for name in found[0][1]}
    return {"records": [asdict(record) for record, _ in found]}, arrays


def for_trees(dataset: Dataset) -> bool:
    """Return whether rows are a table on which boosted trees take no longer than the candidates."""
    return dataset.features.ndim == 2 and dataset.features.size <= MOST_FOR_TREES


def run_beside(place: int, conditions: Conditions) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Train and evaluate the context models on one split."""
    split, dataset = conditions.splits[place], conditions.dataset
    found = run_context(
        inputs_of(dataset, split.train, "mlp").numpy() if for_trees(dataset) else None,
        conditions.observed(0),
        dataset.target,
        split,
        len(dataset.classes),
        nll_of=conditions.nll_of,
        costs=conditions.costs,
        class_weight=conditions.settings.class_weight,
    )
    return {name: values_of(each) for name, each in found.items()}, {}


@dataclass(frozen=True)
class _Prepared:
    """A split as tensors."""

    place: int
    split: Split
    inputs: Tensor
    observed: Tensor
    weight: Tensor | None

    def rows(self, part: NDArray[np.int64]) -> Rows:
        return Rows(
            self.inputs[part], self.observed[part], None if self.weight is None else self.weight[part]
        )


_Kept = tuple[Record, dict[str, NDArray[Any]]]


def _run(unit: Unit, conditions: Conditions) -> list[_Kept]:
    """Return the records and predictions of a unit, split by split."""
    settings, dataset = conditions.settings, conditions.dataset
    observed = torch.from_numpy(conditions.observed(conditions.repeat_of(unit.places[0])))
    together: dict[tuple[int, ...], list[_Prepared]] = {}
    found: dict[int, _Kept] = {}
    for place in unit.places:
        split = conditions.splits[place]
        inputs = inputs_of(dataset, split.train, settings.model)
        weight = row_weight(observed, split.train, dataset, settings.class_weight)
        shape = (inputs.shape[1], -(-len(split.train) // settings.batch_size))
        group = together.setdefault(shape, [])
        group.append(_Prepared(place, split, inputs, observed, weight))
        if len(group) >= MOST_TOGETHER // inputs.numel():
            found |= _finish(unit, conditions, together.pop(shape))  # now, to free memory
    for group in together.values():
        found |= _finish(unit, conditions, group)
    return [found[place] for place in sorted(found)]


def _finish(unit: Unit, conditions: Conditions, group: Sequence[_Prepared]) -> dict[int, _Kept]:
    """Train and evaluate some splits together; return the record and predictions of each."""
    began = time.perf_counter()
    settings, setting = conditions.settings, unit.setting
    seeds = [conditions.seed(each.place) for each in group]
    networks = [network(settings, setting.width, conditions.dataset, each.inputs, seed)
                for each, seed in zip(group, seeds, strict=True)]  # fmt: skip
    together = Alone(networks[0]) if settings.own_model else Copies(networks)
    template = together if settings.own_model else Copies(networks[:1])
    batches = -(-len(group[0].split.train) // settings.batch_size)
    trained = train(
        together,
        unit.candidate.objective(settings.epochs * batches),
        [each.rows(each.split.train) for each in group],
        [each.rows(each.split.validation) for each in group],
        options(settings, setting, to_the_end=unit.baseline),
        seeds,
    )
    found = {
        each.place: _measure(unit, conditions, each, one, template)
        for each, one in zip(group, trained, strict=True)
    }
    seconds = round((time.perf_counter() - began) / len(group), 3)
    return {place: (replace(record, seconds=seconds), arrays) for place, (record, arrays) in found.items()}


def options(settings: Settings, setting: Setting, *, to_the_end: bool) -> Options:
    """Return the options of training of a candidate in a setting."""
    return Options(
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        lr=setting.lr,
        weight_decay=setting.weight_decay,
        patience=settings.patience,
        stop=settings.stop,  # pyright: ignore[reportArgumentType]
        to_the_end=to_the_end,
        device=settings.device,
    )


def measured(
    logits: Tensor, target: NDArray[np.int64], conditions: Conditions, fit: Calibration | None
) -> Predictions:
    """Return the predictions of test rows from logits (M, C); without a fit, calibrated equals raw."""
    probs = logits.double().softmax(dim=1)
    calibrated = probs if fit is None else calibrated_probs(fit, logits.double(), conditions.nll_of)
    return Predictions(probs.numpy(), calibrated.numpy(), target, conditions.costs)


def values_of(predictions: Predictions) -> dict[str, float | None]:
    """Return the value of each measure, None if it is not finite."""
    wanted = [each for each in MEASURES if predictions.costs is not None or not each.needs_costs]
    found = {each.name: each.of(predictions) for each in wanted}
    return {name: value if np.isfinite(value) else None for name, value in found.items()}


def row_weight(
    observed: Tensor, train: NDArray[np.int64], dataset: Dataset, class_weight: str | None
) -> Tensor | None:
    """Return the weights (N,) of rows in the loss: sample weights times balanced class weights; or None."""
    weight = None if dataset.weight is None else torch.tensor(dataset.weight, dtype=torch.float32)
    if class_weight is None:
        return weight
    own = torch.ones(len(observed)) if weight is None else weight
    sums = torch.zeros(len(dataset.classes)).index_add(0, observed[train], own[train])
    return own * (sums.sum() / (len(sums) * sums.clamp(min=1e-30)))[observed]


def _measure(
    unit: Unit, conditions: Conditions, prepared: _Prepared, trained: Trained, template: Copies | Alone
) -> _Kept:
    """Return the record and predictions of one training."""
    split, inputs, dataset = prepared.split, prepared.inputs, conditions.dataset
    validation = predict(template, trained.state, inputs[split.validation])
    labels = prepared.observed[split.validation]
    target = dataset.target[split.test]
    logits = predict(template, trained.state, inputs[split.test])
    fit = fitted(validation, labels)
    arrays = {
        "logits": logits.numpy(),
        "target": target,
        "row": split.test,
        "split": np.full(len(split.test), prepared.place),
    }
    if unit.baseline:
        arrays |= {
            "last_logits": predict(template, trained.last, inputs[split.test]).numpy(),
            "validation_logits": validation.numpy(),
            "validation_target": labels.numpy(),
            "validation_row": split.validation,
            "validation_split": np.full(len(split.validation), prepared.place),
        }
    finite = bool(logits.isfinite().all()) and fit is not None
    measures: dict[str, float | None] = {}
    chance: list[float] = []
    if finite:
        predictions = measured(logits, target, conditions, fit)
        measures = values_of(predictions)
        chance = chance_calibration_errors(predictions.probs, CHANCE_DRAWS, prepared.place)
    record = Record(
        split=prepared.place,
        setting=unit.setting,
        epoch=trained.epoch,
        temperature=1.0 if fit is None else fit.temperature,
        noise=0.0 if fit is None else fit.noise,
        score=float(crossfit_nll_batch(validation[None], labels[None])[0]),
        curve=trained.curve,
        measures=measures,
        finite=finite,
        chance_ece=chance,
        flipped=float((prepared.observed.numpy()[split.train] != dataset.labels[split.train]).mean()),
        seconds=0.0,
    )
    return record, arrays
