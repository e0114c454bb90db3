"""One unit of work: a candidate in one setting, trained on all splits of a repeat, measured and kept."""

import hashlib
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import equipoise
from equipoise.calibration import Calibration
from equipoise.calibration.solve import crossfit_nll_batch
from equipoise.compare.calibrated import calibrated_probs, fitted
from equipoise.compare.context import run_context
from equipoise.compare.dataset import Dataset
from equipoise.compare.encode import Encoder
from equipoise.compare.measures import MEASURES, Predictions, chance_calibration_errors
from equipoise.compare.records import Record, Setting
from equipoise.compare.settings import Training
from equipoise.compare.spec import Spelled
from equipoise.compare.splits import Split, flip
from equipoise.compare.store import Store, digest
from equipoise.training import Alone, Copies, Options, Rows, Trained, predict, separable, train

__all__ = ["Conditions", "Unit", "measured", "run_beside", "run_unit", "shared_key", "unit_key"]

CHANCE_DRAWS = 50
MOST_TOGETHER = 2**27  # numbers in the features of the copies that are trained together
_LIBRARIES = ("torch", "numpy", "scikit-learn", "scipy", "pandas", "torchmetrics", "optuna")


@dataclass(frozen=True)
class Conditions:
    """What all trainings of a comparison share.

    Attributes:
        dataset: Rows with classes.
        splits: Parts of the rows, all those of a repeat one after another.
        repeats: Number of repeats.
        training: How to train.
        noise: Transition matrix [true, observed] of the training and validation labels.
        costs: Costs [true, predicted], or None.
        seed: Decides label noise, initial weights and batches.
    """

    dataset: Dataset
    splits: tuple[Split, ...]
    repeats: int
    training: Training
    noise: NDArray[np.float64]
    costs: NDArray[np.float64] | None
    seed: int = 0

    @property
    def noisy(self) -> bool:
        """Whether any label may be flipped."""
        return not np.array_equal(self.noise, np.eye(len(self.noise)))

    @property
    def nll_of(self) -> str:
        """Which labels calibrated probabilities are of: "clean" where test labels are known to be better."""
        return "clean" if self.noisy or self.dataset.clean is not None else "observed"

    def of_repeat(self, repeat: int) -> range:
        """Places of the splits of a repeat."""
        each = len(self.splits) // self.repeats
        return range(repeat * each, (repeat + 1) * each)

    def observed(self, repeat: int) -> NDArray[np.int64]:
        """Labels (N,) as training and validation rows have them."""
        return (
            flip(self.dataset.labels, self.noise, self.seed + repeat) if self.noisy else self.dataset.labels
        )


@dataclass(frozen=True)
class Unit:
    """A candidate in one setting on the splits of one repeat.

    Attributes:
        key: Name of its record.
        spelled: The objective.
        setting: The setting.
        repeat: Which repeat.
        baseline: Whether to keep what only plain cross entropy is asked: its last epoch and its validation
            logits.
    """

    key: str
    spelled: Spelled
    setting: Setting
    repeat: int
    baseline: bool


def versions() -> dict[str, str]:
    """Versions of everything that has a hand in a result."""
    found = {name: version(name) for name in _LIBRARIES}
    return {"equipoise": equipoise.__version__, "python": platform.python_version(), **found}


def sources() -> str:
    """Digest of this package's code, so that a result does not outlive the code that made it."""
    root = Path(str(equipoise.__file__)).parent
    files = sorted(root.rglob("*.py"))
    return digest(
        [[str(file.relative_to(root)), hashlib.sha256(file.read_bytes()).hexdigest()] for file in files]
    )


def shared_key(conditions: Conditions) -> dict[str, Any]:
    """What decides the result of every training of a comparison."""
    costs = conditions.costs
    parts = [
        [digest(np.ascontiguousarray(part).tobytes()) for part in (each.train, each.validation, each.test)]
        for each in conditions.splits[: len(conditions.splits) // conditions.repeats]
    ]
    return {
        "versions": versions(),
        "sources": sources(),
        "data": conditions.dataset.fingerprint(),
        "splits": digest(parts),
        "training": asdict(conditions.training),
        "noise": digest(conditions.noise.tobytes()),
        "costs": None if costs is None else digest(costs.tobytes()),
        "seed": conditions.seed,
    }


def unit_key(
    shared: Mapping[str, Any], setting: Setting, matrices: Mapping[str, NDArray[Any]], repeat: int
) -> str:
    """Name of a unit: a digest of everything that decides its result.

    Args:
        shared: From `shared_key`.
        setting: The objective, in its normalised spelling, and how it is trained.
        matrices: Those the objective names.
        repeat: Decides splits, noise, initial weights and batch order.
    """
    used = {
        name: digest(np.ascontiguousarray(matrix).tobytes())
        for name, matrix in matrices.items()
        if name in setting.objective
    }
    return digest([dict(shared), asdict(setting), used, repeat])[:24]


def run_unit(unit: Unit, conditions: Conditions, folder: Path) -> int:
    """Train, measure and keep one unit.

    Args:
        unit: What to train.
        conditions: What all trainings share.
        folder: Where to keep it.

    Returns:
        The number of trainings.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums in another order would make the result depend on the number of jobs
    try:
        with torch.random.fork_rng(devices=[]):
            records, arrays = _run(unit, conditions)
        Store(folder).write(unit.key, {"records": [asdict(each) for each in records]}, arrays)
    finally:
        torch.set_num_threads(threads)
    return len(records)


def run_beside(key: str, place: int, conditions: Conditions, folder: Path) -> int:
    """Train, measure and keep the models that are shown beside the candidates, on one split.

    Returns:
        0, as none of them is a training of the comparison.
    """
    split = conditions.splits[place]
    found = run_context(
        Encoder(conditions.dataset, split.train).transform(conditions.dataset.features),
        conditions.observed(0),
        conditions.dataset.target,
        split,
        len(conditions.dataset.classes),
        nll_of=conditions.nll_of,
        costs=conditions.costs,
        class_weight=conditions.training.class_weight,
    )
    Store(folder).write(key, {name: values_of(each) for name, each in found.items()}, {})
    return 0


@dataclass(frozen=True)
class _Prepared:
    """A split as tensors."""

    place: int
    split: Split
    inputs: Tensor
    observed: Tensor
    weight: Tensor | None

    def rows(self, part: NDArray[np.int64]) -> Rows:
        weight = None if self.weight is None else self.weight[part]
        return Rows(self.inputs[part], self.observed[part], weight)


def _run(unit: Unit, conditions: Conditions) -> tuple[list[Record], dict[str, NDArray[Any]]]:
    """The records and the predictions of a unit, split by split."""
    observed = torch.from_numpy(conditions.observed(unit.repeat))
    alone = not separable(unit.spelled.objective(1))
    together: dict[tuple[int, int], list[_Prepared]] = {}
    found: dict[int, tuple[Record, dict[str, NDArray[Any]]]] = {}
    for place in conditions.of_repeat(unit.repeat):
        split = conditions.splits[place]
        encoder = Encoder(conditions.dataset, split.train)
        inputs = torch.from_numpy(encoder.transform(conditions.dataset.features))
        prepared = _Prepared(place, split, inputs, observed, _row_weight(observed, split, conditions))
        shape = (inputs.shape[1], -(-len(split.train) // conditions.training.batch_size))
        together.setdefault(shape, []).append(prepared)
        if len(together[shape]) >= (1 if alone else MOST_TOGETHER // inputs.numel()):
            found |= _finish(unit, conditions, together.pop(shape))  # now, and not all in memory
    for group in together.values():
        found |= _finish(unit, conditions, group)
    ordered = [found[place] for place in sorted(found)]
    arrays = {name: np.concatenate([each[name] for _, each in ordered]) for name in ordered[0][1]}
    return [record for record, _ in ordered], arrays


def _finish(
    unit: Unit, conditions: Conditions, group: Sequence[_Prepared]
) -> dict[int, tuple[Record, dict[str, NDArray[Any]]]]:
    """Train and measure some splits together: for each, its record and predictions."""
    began = time.perf_counter()
    found = {
        prepared.place: _measure(unit, conditions, prepared, trained, template)
        for prepared, trained, template in _train(unit, conditions, group)
    }
    each = round((time.perf_counter() - began) / len(group), 3)
    return {place: (replace(record, seconds=each), arrays) for place, (record, arrays) in found.items()}


def _train(
    unit: Unit, conditions: Conditions, group: Sequence[_Prepared]
) -> list[tuple[_Prepared, Trained, Copies | Alone]]:
    """Train the networks of some splits together."""
    training, setting = conditions.training, unit.setting
    features, classes = group[0].inputs.shape[1], len(conditions.dataset.classes)
    models = []
    for prepared in group:
        torch.manual_seed(1000 * conditions.seed + prepared.place)
        models.append(build(training.model, setting.width, features, classes))
    steps = -(-len(group[0].split.train) // training.batch_size)
    options = Options(
        training.epochs,
        training.batch_size,
        setting.lr,
        setting.weight_decay,
        training.patience,
        training.stop,  # pyright: ignore[reportArgumentType]
        to_the_end=unit.baseline,
    )
    trained = train(
        Copies(models),
        unit.spelled.objective(training.epochs * steps),
        [prepared.rows(prepared.split.train) for prepared in group],
        [prepared.rows(prepared.split.validation) for prepared in group],
        options,
        [1000 * conditions.seed + prepared.place for prepared in group],
    )
    template = Copies(models[:1])
    return [(prepared, each, template) for prepared, each in zip(group, trained, strict=True)]


def build(model: str, width: int, features: int, classes: int) -> nn.Module:
    """An untrained model, its weights drawn from torch's generator."""
    if model == "linear":
        return nn.Linear(features, classes)
    return nn.Sequential(nn.Linear(features, width), nn.ReLU(), nn.Linear(width, classes))


def measured(
    logits: Tensor, target: NDArray[np.int64], conditions: Conditions, fit: Calibration | None
) -> Predictions:
    """Predictions of test rows.

    Args:
        logits: (M, C).
        target: (M,) classes.
        conditions: What all trainings share.
        fit: A `Calibration`, or None to take raw probabilities for calibrated ones.
    """
    probs = logits.double().softmax(dim=1)
    calibrated = probs if fit is None else calibrated_probs(fit, logits.double(), conditions.nll_of)
    return Predictions(probs.numpy(), calibrated.numpy(), target, conditions.costs)


def _measure(
    unit: Unit, conditions: Conditions, prepared: _Prepared, trained: Trained, template: Copies | Alone
) -> tuple[Record, dict[str, NDArray[Any]]]:
    """The record and the predictions of one training."""
    split, inputs = prepared.split, prepared.inputs
    validation = predict(template, trained.state, inputs[split.validation])
    labels = prepared.observed[split.validation]
    target = conditions.dataset.target[split.test]
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
        flipped=_flipped(conditions, prepared),
        seconds=0.0,
    )
    return record, arrays


def values_of(predictions: Predictions) -> dict[str, float | None]:
    """The value of each measure; None where JSON has no word for it."""
    wanted = [each for each in MEASURES if predictions.costs is not None or not each.needs_costs]
    found = {each.name: each.of(predictions) for each in wanted}
    return {name: value if np.isfinite(value) else None for name, value in found.items()}


def _row_weight(observed: Tensor, split: Split, conditions: Conditions) -> Tensor | None:
    """Weights (N,) that let all classes count alike, or None."""
    if conditions.training.class_weight is None:
        return None
    counts = torch.bincount(observed[split.train], minlength=len(conditions.dataset.classes)).clamp(min=1)
    return (len(split.train) / (len(counts) * counts))[observed].float()


def _flipped(conditions: Conditions, prepared: _Prepared) -> float:
    """Share of training labels that the comparison has changed."""
    train = prepared.split.train
    return float((prepared.observed.numpy()[train] != conditions.dataset.labels[train]).mean())
