"""Training of many small networks together, for the studies, optionally with the logits of every epoch."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from equipoise.compare.dataset import Dataset
from equipoise.compare.encode import Encoder
from equipoise.losses import Loss
from equipoise.objective import Objective
from equipoise.training import Copies, Options, Rows, Trained, predict, train

WIDTH = 128
TOGETHER = 64  # copies at once: more gain nothing on a processor, and their rows take memory


@final
@dataclass(frozen=True)
class Parts:
    """The rows of one copy, as numbers.

    Args:
        train: Inputs and observed classes.
        validation: Likewise.
        test: Likewise; the classes are those it is measured on.
        seed: Decides the initial weights and the order of the batches.
    """

    train: Rows
    validation: Rows
    test: Rows
    seed: int

    def seeded(self, seed: int) -> "Parts":
        """Return the same rows with another seed."""
        return replace(self, seed=seed)


def parts_of(
    dataset: Dataset,
    train: NDArray[np.int64],
    validation: NDArray[np.int64],
    test: NDArray[np.int64],
    observed: NDArray[np.int64],
    target: NDArray[np.int64],
    seed: int,
) -> Parts:
    """Return rows of a data set as numbers.

    Args:
        dataset: Whose features are encoded as the training rows say.
        train: Places of its rows.
        validation: Likewise.
        test: Likewise.
        observed: Classes (N,) of training and validation rows.
        target: Classes (N,) of test rows.
        seed: As in `Parts`.
    """
    inputs = torch.from_numpy(Encoder(dataset, train).transform(dataset.features))
    labels, wanted = torch.from_numpy(observed), torch.from_numpy(target)
    return Parts(
        Rows(inputs[train], labels[train]),
        Rows(inputs[validation], labels[validation]),
        Rows(inputs[test], wanted[test]),
        seed,
    )


def halves(labels: NDArray[np.int64], seed: int) -> tuple[NDArray[np.int64], ...]:
    """Return stratified places of rows: half to train, a tenth to validate, two fifths to test."""
    rows, stratified = np.arange(len(labels)), train_test_split
    rest, test = stratified(rows, test_size=0.4, stratify=labels, random_state=seed)
    size = round(0.1 * len(rows))
    train, validation = stratified(rest, test_size=size, stratify=labels[rest], random_state=seed)
    return train, validation, test


@final
@dataclass(frozen=True)
class Recording:
    """Results of K copies in E epochs.

    Attributes:
        trained: Result of the training loop.
        validation: Logits (E, K, V, C) of the validation rows after each epoch.
        test: Logits (E, K, M, C) of the test rows.
        predictions: Predicted classes (E, K, N) of the training rows.
    """

    trained: Sequence[Trained]
    validation: Tensor
    test: Tensor
    predictions: Tensor

    def curve(self, name: str) -> NDArray[np.float64]:
        """Return a value on the validation rows after each epoch, (K, E); nan where it is not finite."""
        points = [[point[name] for point in each.curve if point["epoch"]] for each in self.trained]
        return np.array(points, dtype=np.float64)


def networks(parts: Sequence[Parts], classes: int, width: int = WIDTH) -> Copies:
    """Return untrained networks of one hidden layer, each from its own seed."""
    models = []
    for each in parts:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(each.seed)
            features = each.train.inputs.shape[1]
            models.append(nn.Sequential(nn.Linear(features, width), nn.ReLU(), nn.Linear(width, classes)))
    return Copies(models)


def record(loss: Loss, parts: Sequence[Parts], classes: int, options: Options) -> Recording:
    """Train a copy on each of the parts, for all epochs, and keep the logits after each."""
    model = networks(parts, classes)
    rows = {name: torch.stack([getattr(each, name).inputs for each in parts]) for name in _PARTS}
    kept: Mapping[str, list[Tensor]] = {name: [] for name in _PARTS}

    @torch.no_grad()
    def watch(epoch: int) -> None:
        del epoch
        for name, inputs in rows.items():
            logits = model(inputs)
            kept[name].append(logits.argmax(dim=-1) if name == "train" else logits)

    trained = _train(model, loss, parts, replace(options, to_the_end=True), watch)
    validation, test, predictions = (torch.stack(kept[name]) for name in ("validation", "test", "train"))
    return Recording(trained, validation, test, predictions)


_PARTS = ("train", "validation", "test")


def _train(model: Copies, loss: Loss, parts: Sequence[Parts], options: Options, watch: Any) -> list[Trained]:
    return train(
        model,
        Objective(loss),
        [each.train for each in parts],
        [each.validation for each in parts],
        options,
        [each.seed for each in parts],
        watch=watch,
    )


@final
@dataclass(frozen=True)
class Ended:
    """Result of one copy.

    Attributes:
        parts: Its rows.
        validation: Logits (V, C) of the validation rows at the chosen epoch.
        test: Logits (M, C) of the test rows at the chosen epoch.
        last: Logits (M, C) of the test rows after the last epoch trained.
    """

    parts: Parts
    validation: Tensor
    test: Tensor
    last: Tensor


def ended(
    loss: Loss, parts: Sequence[Parts], classes: int, options: Options, width: int = WIDTH
) -> Iterator[list[Ended]]:
    """Train a copy on each of the parts, many at once, and yield the results in the order of the parts."""
    for start in range(0, len(parts), TOGETHER):
        some = parts[start : start + TOGETHER]
        trained = _train(networks(some, classes, width), loss, some, options, None)
        template = networks(some[:1], classes, width)
        yield [
            Ended(
                own,
                predict(template, copy.state, own.validation.inputs),
                predict(template, copy.state, own.test.inputs),
                predict(template, copy.last, own.test.inputs),
            )
            for copy, own in zip(trained, some, strict=True)
        ]
