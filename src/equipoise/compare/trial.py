"""One trial: an objective trained on one split, its curves, its test predictions and their measures."""

import hashlib
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import equipoise
from equipoise.compare.data import Dataset, encode, flip, split
from equipoise.compare.measures import MEASURES, Predictions, chance_calibration_errors
from equipoise.compare.settings import Training
from equipoise.compare.store import Store, digest

__all__ = ["Conditions", "run_trial", "trial_key", "versions"]

CURVE_POINTS = 20
CHANCE_DRAWS = 50
_LIBRARIES = ("torch", "numpy", "scikit-learn", "scipy", "pandas", "torchmetrics")


@dataclass(frozen=True)
class Conditions:
    """What all trials of a comparison share.

    Attributes:
        dataset: Rows with classes.
        training: How to train.
        noise: Transition matrix [true, observed] of the training and validation labels.
        costs: Costs [true, predicted], or None.
    """

    dataset: Dataset
    training: Training
    noise: NDArray[np.float64]
    costs: NDArray[np.float64] | None

    @property
    def noisy(self) -> bool:
        """Whether any label may be flipped."""
        return not np.array_equal(self.noise, np.eye(len(self.noise)))


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
    """What decides the result of every trial of a comparison."""
    costs = conditions.costs
    return {
        "versions": versions(),
        "sources": sources(),
        "data": conditions.dataset.fingerprint(),
        "training": asdict(conditions.training),
        "noise": digest(conditions.noise.tobytes()),
        "costs": None if costs is None else digest(costs.tobytes()),
    }


def trial_key(shared: Mapping[str, Any], spec: str, matrices: Mapping[str, NDArray[Any]], seed: int) -> str:
    """Name of a trial: a digest of everything that decides its result.

    Args:
        shared: From `shared_key`.
        spec: The objective, in its normalised spelling.
        matrices: Those the objective names.
        seed: Decides split, noise, initial weights and batch order.
    """
    used = {
        name: digest(np.ascontiguousarray(matrix).tobytes())
        for name, matrix in matrices.items()
        if name in spec
    }
    return digest([dict(shared), spec, used, seed])[:24]


def run_trial(key: str, loss: Any, seed: int, conditions: Conditions, folder: Path) -> str:
    """Train, measure and keep one trial.

    Args:
        key: Its name.
        loss: The objective.
        seed: Decides split, noise, initial weights and batch order, so that objectives are paired.
        conditions: What all trials share.
        folder: Where to keep it.

    Returns:
        The key.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums in another order would make the result depend on the number of jobs
    try:
        began = time.perf_counter()
        record, arrays = _trial(loss, seed, conditions)
        Store(folder).write(key, record | {"seconds": round(time.perf_counter() - began, 3)}, arrays)
    finally:
        torch.set_num_threads(threads)
    return key


def _trial(loss: Any, seed: int, conditions: Conditions) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The record and the predictions of a trial."""
    dataset = conditions.dataset
    parts = split(dataset, seed)
    inputs = torch.from_numpy(encode(dataset, parts.train))
    observed = torch.from_numpy(flip(dataset.labels, conditions.noise, parts, seed))
    validation = (inputs[parts.validation], observed[parts.validation])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(conditions.training, inputs.shape[1], len(dataset.classes))
        curve = train(
            model, loss, (inputs[parts.train], observed[parts.train]), validation, conditions.training, seed
        )
    with torch.inference_mode():
        probabilities = model(inputs[parts.test]).double().softmax(dim=1).numpy()
    target = dataset.labels[parts.test]
    record: dict[str, Any] = {
        "seed": seed,
        "curve": curve,
        "flipped": _flipped(dataset.labels, observed, parts.train),
    }
    finite = bool(np.isfinite(probabilities).all())
    if finite:
        predictions = Predictions(probabilities, target, conditions.costs)
        wanted = [measure for measure in MEASURES if conditions.costs is not None or not measure.needs_costs]
        record["measures"] = {measure.name: _or_none(measure.of(predictions)) for measure in wanted}
        record["chance_ece"] = chance_calibration_errors(probabilities, CHANCE_DRAWS, seed)
    else:
        record["measures"], record["chance_ece"] = {}, []
    return record | {"finite": finite}, {"probabilities": probabilities, "target": target, "row": parts.test}


def build(training: Training, features: int, classes: int) -> nn.Module:
    """An untrained model, its weights drawn from torch's generator."""
    if training.model == "linear":
        return nn.Linear(features, classes)
    return nn.Sequential(nn.Linear(features, training.width), nn.ReLU(), nn.Linear(training.width, classes))


def train(
    model: nn.Module,
    loss: Any,
    rows: tuple[Tensor, Tensor],
    validation: tuple[Tensor, Tensor],
    training: Training,
    seed: int,
) -> list[dict[str, float | None]]:
    """Train the model in place, without early stopping.

    The training loss is not kept: its scale differs between objectives.

    Returns:
        Accuracy and NLL on the validation part, at about twenty epochs.
    """
    inputs, labels = rows
    order = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=training.lr, weight_decay=training.weight_decay, fused=True
    )
    epochs = training.epochs
    kept = {round(point) for point in np.linspace(0, epochs, min(epochs, CURVE_POINTS) + 1)}
    curve = [_validate(model, validation, 0)]
    for epoch in range(1, epochs + 1):
        for batch in torch.randperm(len(inputs), generator=order).split(training.batch_size):
            optimiser.zero_grad()
            loss(model(inputs[batch]), labels[batch]).backward()
            optimiser.step()
        if epoch in kept:
            curve.append(_validate(model, validation, epoch))
    return curve


def _validate(model: nn.Module, validation: tuple[Tensor, Tensor], epoch: int) -> dict[str, float | None]:
    inputs, labels = validation
    with torch.inference_mode():
        logits = model(inputs)
        accuracy = (logits.argmax(dim=1) == labels).double().mean().item()
        nll = nn.functional.cross_entropy(logits.double(), labels).item()
    finite = bool(logits.isfinite().all())  # else the likeliest class is none
    return {"epoch": epoch, "accuracy": accuracy if finite else None, "nll": _or_none(nll)}


def _flipped(labels: NDArray[np.int64], observed: Tensor, train: NDArray[np.int64]) -> float:
    """Share of training labels that are not the true ones."""
    return float((observed.numpy()[train] != labels[train]).mean())


def _or_none(value: float) -> float | None:
    """The value, or None where JSON has no word for it."""
    return value if np.isfinite(value) else None
