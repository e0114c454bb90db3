"""One training loop: several copies of a network at once, each stopped at its own best epoch.

Copies of a small network cost little more together than one alone: most of the time of a small step goes to
calling operations. Each copy has its own rows, initial weights, order of batches and best epoch; no copy sees
another. A copy that has stopped stays among them: sums over fewer copies run in another order, and a loss
against itself would no longer differ by exactly 0.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, final, get_args

import torch
from torch import Tensor, nn

from equipoise.calibration.solve import fit_batch
from equipoise.losses.base import BatchLoss
from equipoise.objective import Objective

Stop = Literal["calibrated", "own", "accuracy", "nll", "none"]
STOPS: tuple[str, ...] = get_args(Stop)
Point = dict[str, float | None]  # one epoch of a curve: "epoch" and the four values of `_scores`


@dataclass(frozen=True)
class Rows:
    """Rows of one copy.

    Args:
        inputs: (N, ...) features.
        target: (N,) classes.
        weight: (N,) weights in the mean loss of a batch, or None where rows count alike.
    """

    inputs: Tensor
    target: Tensor
    weight: Tensor | None = None


@dataclass(frozen=True)
class Options:
    """How to train.

    Args:
        epochs: Passes over the rows at most.
        batch_size: Rows per step.
        lr: Learning rate of AdamW.
        weight_decay: Weight decay of AdamW.
        patience: Epochs without a better one after which a copy stops.
        stop: What chooses the epoch, on the validation rows: "calibrated", the NLL of the labels after a
            calibration of temperature and noise; "own", the objective's own value; "accuracy"; "nll", without
            calibration; "none", the last epoch.
        to_the_end: Train for all epochs, even if each copy has stopped; the epochs chosen stay the same.
    """

    epochs: int = 100
    batch_size: int = 128
    lr: float = 3e-3
    weight_decay: float = 1e-4
    patience: int = 20
    stop: Stop = "calibrated"
    to_the_end: bool = False


@dataclass
class Trained:
    """A copy after training.

    Attributes:
        epoch: The epoch chosen, from 1; 0 if no epoch had finite logits, or the last is to be taken and had
            not.
        state: Its parameters then, in the order of `parameters()`.
        last: Its parameters after the last epoch trained, which is that of all copies.
        curve: Values on the validation rows, epoch by epoch, from 0, before the first step, until it stopped.
        stopped: Whether it has diverged or its patience has ended; no later epoch is chosen.
    """

    epoch: int = 0
    best: float = float("inf")
    state: list[Tensor] = field(default_factory=list)
    last: list[Tensor] = field(default_factory=list)
    curve: list[Point] = field(default_factory=list)
    stopped: bool = False


@final
class Copies(nn.Module):
    """Networks of linear layers and ReLU with the same shapes, computed together.

    Args:
        models: Each a `nn.Linear`, or a `nn.Sequential` of `nn.Linear` and `nn.ReLU`.

    Shapes:
        inputs (K, B, D), logits (K, B, C), for K networks.
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        layers = [[each for each in model.modules() if isinstance(each, nn.Linear)] for model in models]
        together = list(zip(*layers, strict=True))
        self.weights = nn.ParameterList(
            torch.stack([each.weight.detach().T for each in same]).contiguous() for same in together
        )
        self.biases = nn.ParameterList(
            torch.stack([each.bias.detach() for each in same])[:, None] for same in together
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits of each network for its own rows."""
        for place, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            inputs = torch.baddbmm(bias, inputs if place == 0 else inputs.relu(), weight)
        return inputs


@final
class Alone(nn.Module):
    """Any network as `Copies` of one.

    Args:
        model: From (B, ...) to logits (B, C).
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        """Return (1, B, C) logits of (1, B, ...) inputs."""
        return self.model(inputs[0])[None]


def separable(objective: Objective) -> bool:
    """Whether rows of several copies may share a call: nothing in the objective reads a batch as a whole."""
    return not any(isinstance(term, BatchLoss) for _, term in objective.loss.terms())


def train(
    model: Copies | Alone,
    objective: Objective,
    rows: Sequence[Rows],
    validation: Sequence[Rows],
    options: Options,
    seeds: Sequence[int],
    watch: Callable[[int], None] | None = None,
) -> list[Trained]:
    """Train copies of a network, each until its own best epoch.

    A copy whose logits are not finite on its validation rows has diverged, and stops.

    Args:
        model: The copies, in place.
        objective: What all of them minimise; its schedules take one step with each step of training.
        rows: For each copy, what it is trained on; the same number of batches for each.
        validation: For each copy, what chooses its epoch.
        options: How to train.
        seeds: For each copy, what decides the order of its batches.
        watch: Called after each epoch with its number.

    Returns:
        For each copy, its weights at the epoch chosen and its curve.

    Numerics:
        A copy's gradient is that of the mean loss over its own batch, as if it were alone. Sums run in
        another order than alone, which changes the last digits.
    """
    parameters = list(model.parameters())
    optimiser = torch.optim.AdamW(parameters, lr=options.lr, weight_decay=options.weight_decay, fused=True)
    shared = _Stacked(rows, options.batch_size)
    held_out = _Stacked(validation, max(len(each.target) for each in validation))
    orders = [torch.Generator().manual_seed(seed) for seed in seeds]
    found = [Trained() for _ in rows]
    in_order = held_out.all()
    _note(model, objective, found, in_order, 0, options)
    for epoch in range(1, options.epochs + 1):
        for batch in shared.batches(shared.order(orders)):
            optimiser.zero_grad()
            _means(objective, model(batch.inputs), batch).sum().backward()
            optimiser.step()
            objective.step()
        _note(model, objective, found, in_order, epoch, options)
        if watch is not None:
            watch(epoch)
        if not options.to_the_end and all(copy.stopped for copy in found):
            break
    for place, copy in enumerate(found):
        copy.last = _state(model, place)
        copy.state = copy.state or copy.last
    return found


@dataclass(frozen=True)
class _Batch:
    """A batch of every copy.

    Args:
        inputs: (K, B, ...).
        target: (K, B).
        share: (K, B) of each row in the mean of its copy, 0 for rows that fill up a shorter one.
        even: Whether rows count alike.
    """

    inputs: Tensor
    target: Tensor
    share: Tensor
    even: bool


class _Stacked:
    """Rows of all copies as one tensor, those of the shorter ones filled up."""

    def __init__(self, rows: Sequence[Rows], batch_size: int) -> None:
        self.sizes = [len(each.target) for each in rows]
        self.batch_size = batch_size
        steps = {-(-size // batch_size) for size in self.sizes}
        if len(steps) > 1:
            raise ValueError(f"rows must have the same number of batches, got {self.sizes} rows")
        self.inputs = nn.utils.rnn.pad_sequence([each.inputs for each in rows], batch_first=True)
        self.target = nn.utils.rnn.pad_sequence([each.target for each in rows], batch_first=True)
        self.even = all(each.weight is None for each in rows)
        weights = [
            torch.ones(len(each.target), dtype=self.inputs.dtype) if each.weight is None else each.weight
            for each in rows
        ]
        self.weight = nn.utils.rnn.pad_sequence(weights, batch_first=True)

    def order(self, generators: Sequence[torch.Generator]) -> Tensor:
        """Return (K, N) places of the rows of each copy in a new order, filled up with -1."""
        orders = [
            torch.randperm(size, generator=generator)
            for size, generator in zip(self.sizes, generators, strict=True)
        ]
        return nn.utils.rnn.pad_sequence(orders, batch_first=True, padding_value=-1)

    def batches(self, order: Tensor) -> Iterator[_Batch]:
        """Yield the batches of an epoch."""
        which = torch.arange(len(order))[:, None]
        for places in order.split(self.batch_size, dim=1):
            kept, places = places >= 0, places.clamp(min=0)
            weight = torch.where(kept, self.weight[which, places], 0.0)
            share = weight / weight.sum(dim=1, keepdim=True)
            yield _Batch(self.inputs[which, places], self.target[which, places], share, self.even)

    def all(self) -> _Batch:
        """Return all rows, in their order, as one batch."""
        in_order = [torch.arange(size) for size in self.sizes]
        return next(self.batches(nn.utils.rnn.pad_sequence(in_order, batch_first=True, padding_value=-1)))


def _means(objective: Objective, logits: Tensor, batch: _Batch) -> Tensor:
    """The mean loss (K,) of each copy."""
    if len(logits) == 1:  # the mean of one copy is the loss itself, also where a term sees the whole batch
        return objective(logits[0], batch.target[0], row_weight=None if batch.even else batch.share[0])[None]
    losses = objective(logits.flatten(0, 1), batch.target.flatten(), reduction="none")
    return (losses.view_as(batch.share) * batch.share).sum(dim=1)


@torch.no_grad()
def _note(
    model: nn.Module,
    objective: Objective,
    found: list[Trained],
    batch: _Batch,
    epoch: int,
    options: Options,
) -> None:
    """Value each copy on its validation rows, keep its best weights, and say which have stopped."""
    model.eval()
    scores = _scores(objective, model(batch.inputs), batch)
    for place, kept in enumerate(found):
        if kept.stopped and not options.to_the_end:
            continue
        at = {name: values[place] for name, values in scores.items()}
        finite = all(map(math.isfinite, at.values()))
        kept.curve.append(
            {"epoch": epoch} | {name: v if math.isfinite(v) else None for name, v in at.items()}
        )
        if kept.stopped or epoch == 0:
            continue
        value = (at | {"none": -epoch, "accuracy": -at["accuracy"]})[options.stop]
        if finite and value < kept.best:
            kept.best, kept.epoch, kept.state = value, epoch, _state(model, place)
        if not finite and options.stop == "none":
            kept.epoch, kept.state = 0, []  # the last epoch is this one, and no earlier one stands in for it
        kept.stopped = not finite or epoch - kept.epoch >= options.patience
    model.train()


def _scores(objective: Objective, logits: Tensor, batch: _Batch) -> dict[str, list[float]]:
    """Each copy's values on its validation rows; nan where a logit is not finite."""
    kept = (batch.share > 0).double()
    mean = kept / kept.sum(dim=1, keepdim=True)
    exact = logits.double()
    nll = nn.functional.cross_entropy(exact.flatten(0, 1), batch.target.flatten(), reduction="none")
    hits = (logits.argmax(dim=-1) == batch.target).double()
    broken = ((~logits.isfinite().all(dim=-1)) & (kept > 0)).any(dim=1)
    values = {
        "calibrated": torch.from_numpy(fit_batch(exact, batch.target, weight=kept).nll),
        "own": _means(objective, logits, batch),
        "accuracy": (hits * mean).sum(dim=1),
        "nll": (nll.view_as(mean) * mean).sum(dim=1),
    }
    return {name: each.masked_fill(broken, math.nan).tolist() for name, each in values.items()}


@torch.no_grad()
def predict(model: Copies | Alone, state: Sequence[Tensor], inputs: Tensor) -> Tensor:
    """Return the logits (N, C) of a network of one copy with other parameters.

    Args:
        model: The network; its parameters are replaced.
        state: Parameters, from `Trained`.
        inputs: (N, ...) features.
    """
    for parameter, kept in zip(model.parameters(), state, strict=True):
        parameter.copy_(kept.view_as(parameter))
    return model.eval()(inputs[None])[0]


def _state(model: nn.Module, place: int) -> list[Tensor]:
    """A copy of the parameters of one copy of the network."""
    own = isinstance(model, Copies)
    return [(each[place] if own else each).detach().clone() for each in model.parameters()]
