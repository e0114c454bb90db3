"""Training of several copies of a network at once, each with its own best epoch.

A step of several small networks takes little longer than a step of one, as most of its time is the overhead
of calling operations. Each copy has its own rows, initial weights, order of batches and best epoch,
independent of the others. A copy that has stopped is still computed: sums over fewer copies would run in
another order, and two copies with the same loss would no longer be equal to the bit.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from equipoise.calibration.solve import fit_batch
from equipoise.objective import Objective
from equipoise.training.networks import Alone, Copies, find_device, like, load, state_of
from equipoise.training.rows import Rows, Source, Stacked, logits_of, mean_losses
from equipoise.training.stops import SCORES, Score, Stop

Point = dict[str, float | None]  # an epoch of a curve: "epoch" and the values of `_scores`


@dataclass(frozen=True)
class Options:
    """Options of training.

    Args:
        epochs: Largest number of epochs.
        batch_size: Rows per step.
        lr: Learning rate of AdamW.
        weight_decay: Decoupled weight decay of AdamW; with 0 it is Adam.
        patience: A copy stops after this number of epochs without an improvement; infinity for never.
        stop: The value on the validation rows by which the best epoch is chosen: "calibrated", the NLL after
            a calibration of temperature and noise; "own", the value of the objective; "accuracy"; "nll",
            without calibration; "none" chooses the last epoch. Without validation rows it must be "none", and
            patience applies to the mean training loss.
        to_the_end: Train for all epochs, even if every copy has stopped; the chosen epochs are the same.
        tol: An improvement by less than this does not reset the patience.
        alpha: alpha / (2 B) times the sum of the squared weights is added to the mean loss of a batch, where
            B is the sum of its rows' weights: the L2 penalty of scikit-learn, without biases.
        shuffle: Whether each epoch has a new random order of the rows.
        device: "cpu", "cuda" or a `torch.device` of these. `Trained` has its tensors on the CPU.
        scores: Further values on the validation rows to record in the curve.
    """

    epochs: int = 100
    batch_size: int = 128
    lr: float = 3e-3
    weight_decay: float = 1e-4
    patience: float = 20
    stop: Stop = "calibrated"
    to_the_end: bool = False
    tol: float = 0.0
    alpha: float = 0.0
    shuffle: bool = True
    device: str | torch.device = "cpu"
    scores: Sequence[Score] = SCORES


@dataclass
class Trained:
    """A copy after training.

    Attributes:
        epoch: The chosen epoch, from 1; 0 if the logits of all epochs, or with stop="none" of the last, were
            not finite.
        best: The value of `stop` at that epoch (of accuracy, the negative): the smallest of all epochs.
        state: Parameters and buffers at that epoch, on the CPU, in the order of `parameters()`, `buffers()`.
        last: Parameters and buffers after the last epoch, which is the same for all copies.
        curve: Values on the validation rows for each epoch until the copy stopped; epoch 0 is untrained.
        losses: Mean training loss of each epoch until the copy stopped, computed from the batches.
        stopped: Whether the copy has diverged or its patience has ended; no later epoch is chosen.
    """

    epoch: int = 0
    best: float = math.inf
    state: list[Tensor] = field(default_factory=list)
    last: list[Tensor] = field(default_factory=list)
    curve: list[Point] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    stopped: bool = False
    waited: int = 0


def train(
    model: Copies | Alone,
    objective: Objective,
    rows: Sequence[Rows],
    validation: Sequence[Rows] | None,
    options: Options,
    seeds: Sequence[int],
    watch: Callable[[int], None] | None = None,
) -> list[Trained]:
    """Train copies of a network, and return each at its own best epoch.

    A copy with logits that are not finite on its validation rows has diverged, and stops.

    Args:
        model: The copies, trained in place.
        objective: The objective of all copies; its schedules take a step with each step of the optimiser.
        rows: The training rows of each copy; all copies must have the same number of batches.
        validation: The validation rows of each copy; None to choose the last epoch.
        options: Options of training.
        seeds: The seed of each copy for the order of its rows; the first is also used by dropout and other
            random modules.
        watch: Called after each epoch with its number.

    Returns:
        The weights of each copy at its chosen epoch, and its curve.

    Raises:
        TypeError: As `Alone`.
        ValueError: As `Alone` and `find_device`; if the model has no trainable parameter, the copies differ
            in their number of batches, or `stop` needs validation rows and there are none.

    Numerics:
        A copy's gradient is that of the mean loss over its own batch, as if trained alone, up to rounding:
        sums run in another order.
    """
    found: list[Trained] = []
    trainer = Trainer(model, objective, options, seeds)
    for epoch, copies in enumerate(trainer.run(rows, validation), start=1):
        found = copies
        if watch is not None:
            watch(epoch)
    return found


@final
class Trainer:
    """A network with its optimiser and random generators, which keep their state from one `run` to the next.

    It can be pickled. Options, except the device, and the objective may be replaced between two runs.

    Args:
        model: As in `train`.
        objective: As in `train`.
        options: As in `train`.
        seeds: As in `train`.
    """

    def __init__(
        self, model: Copies | Alone, objective: Objective, options: Options, seeds: Sequence[int]
    ) -> None:
        self.device: torch.device = find_device(options.device)
        self.model: Copies | Alone = model.to(self.device)
        self.objective: Objective = objective
        self.options: Options = options
        self._orders = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._cuda = [self.device] if self.device.type == "cuda" else []
        self._random = [
            torch.Generator(each).manual_seed(seeds[0]).get_state() for each in ("cpu", *self._cuda)
        ]
        self._optimiser: torch.optim.Optimizer | None = None

    def run(self, rows: Sequence[Rows], validation: Sequence[Rows] | None = None) -> Iterator[list[Trained]]:
        """Train, and yield the copies after each epoch: the same objects each time, updated in place.

        Args:
            rows: As in `train`.
            validation: As in `train`.
        """
        model, options = self.model, self.options
        if validation is None and options.stop != "none":
            raise ValueError(f"stop must be 'none' without validation rows, got {options.stop!r}")
        shared, found = Stacked(rows, options.batch_size, like(model)), [Trained() for _ in rows]
        held_out = None if validation is None else Stacked(validation, None, like(model))
        if len(shared.steps) > 1:
            raise ValueError(f"rows must have the same number of batches, got {shared.sizes} rows")
        _refuse_single_rows(model, shared.sizes, options.batch_size)
        self.objective.to(self.device)
        with self._randomness():
            if held_out is None:
                logits_of(model, shared, 2)  # initialises lazy modules; raises if the output is not logits
            else:
                self._note(found, held_out, None, 0)
        optimiser = self._optimiser = self._optimiser or _adam(model)
        for group in optimiser.param_groups:
            group.update(lr=options.lr, weight_decay=options.weight_decay)
        for epoch in range(1, options.epochs + 1):
            with self._randomness():
                self._note(found, held_out, self._epoch(optimiser, shared), epoch)
            yield found
            if not options.to_the_end and all(copy.stopped for copy in found):
                break
        for place, copy in enumerate(found):
            copy.last = state_of(model, place)
            copy.state = copy.state or copy.last
        model.eval()

    @contextmanager
    def _randomness(self) -> Iterator[None]:
        """Use this training's own generators inside the context, and restore torch's after it."""
        with torch.random.fork_rng(self._cuda):
            torch.set_rng_state(self._random[0])
            for device, state in zip(self._cuda, self._random[1:], strict=True):
                torch.cuda.set_rng_state(state, device)
            yield
            self._random = [torch.get_rng_state(), *map(torch.cuda.get_rng_state, self._cuda)]

    def _epoch(self, optimiser: torch.optim.Optimizer, shared: Stacked) -> list[float]:
        """Train for one epoch; return the mean loss of each copy."""
        model, alpha = self.model.train(), self.options.alpha
        penalised = model.penalised() if alpha else []
        sums, counts = [], []
        for batch in shared.batches(shared.order(self._orders if self.options.shuffle else None)):
            optimiser.zero_grad()
            means = mean_losses(self.objective, model(shared.take(batch.places)), batch)
            if not means.requires_grad:
                raise ValueError(
                    "model must have logits that depend on its trainable parameters, got logits that depend "
                    "on none of them; compute the logits outside no_grad, without detach"
                )
            means.sum().backward()
            for weight in penalised:
                if weight.grad is not None:
                    weight.grad += alpha * weight.detach() / batch.count.view(-1, *[1] * (weight.ndim - 1))
            optimiser.step()
            self.objective.step()
            sums.append(means.detach() * batch.count)
            counts.append(batch.count)
        return (torch.stack(sums).sum(dim=0) / torch.stack(counts).sum(dim=0)).tolist()

    def _note(
        self, found: list[Trained], held_out: Stacked | None, losses: list[float] | None, epoch: int
    ) -> None:
        """Score each copy on its validation rows, keep its best weights, and set `stopped`."""
        options = self.options
        scores = {} if held_out is None else self._scores(held_out)
        for place, copy in enumerate(found):
            if copy.stopped and not options.to_the_end:
                continue
            at = {name: values[place] for name, values in scores.items()}
            if scores:
                copy.curve.append({"epoch": epoch} | {name: _finite(value) for name, value in at.items()})
            if losses is None:  # before the first step
                continue
            copy.losses.append(losses[place])
            if copy.stopped:
                continue
            finite = all(map(math.isfinite, at.values() if scores else losses[place : place + 1]))
            value = losses[place]
            if scores:
                value = -epoch if options.stop == "none" else at[options.stop]
                value = -value if options.stop == "accuracy" else value
            copy.waited = 0 if finite and value < copy.best - options.tol else copy.waited + 1
            if finite and value < copy.best:
                copy.best = value
                if options.stop != "none":
                    copy.epoch, copy.state = epoch, state_of(self.model, place)
            if options.stop == "none":
                copy.epoch = epoch if finite else 0  # the last epoch, never an earlier one
            copy.stopped = not finite or copy.waited >= options.patience
            if copy.stopped:
                copy.state = copy.state or state_of(self.model, place)

    @torch.no_grad()
    def _scores(self, held_out: Stacked) -> Mapping[str, list[float]]:
        """Return the scores of each copy on its validation rows; nan if a logit is not finite."""
        (batch,) = held_out.batches(held_out.order())
        logits = logits_of(self.model, held_out)
        mean = batch.scored / batch.scored.sum(dim=1, keepdim=True)
        broken = ((~logits.isfinite().all(dim=-1)) & (batch.scored > 0)).any(dim=1).cpu()
        wanted = {*self.options.scores, self.options.stop} - {"none"}

        def value(name: str) -> Tensor:
            if name == "own":
                return mean_losses(self.objective, logits, batch)
            if name == "accuracy":
                return ((logits.argmax(dim=-1) == batch.target) * mean).sum(dim=1)
            if name == "calibrated":
                return torch.from_numpy(fit_batch(logits.double(), batch.target, weight=batch.scored).nll)
            scores = logits.double().transpose(1, 2)
            return (nn.functional.cross_entropy(scores, batch.target, reduction="none") * mean).sum(dim=1)

        ordered = [name for name in ("own", "calibrated", "accuracy", "nll") if name in wanted]
        return {name: value(name).cpu().masked_fill(broken, math.nan).tolist() for name in ordered}


@torch.no_grad()
def predict(model: Copies | Alone, state: Sequence[Tensor] | None, inputs: Tensor | Source) -> Tensor:
    """Return the logits (N, C) of a network of one copy, on the CPU.

    Args:
        model: The network, on any device; its parameters and buffers are overwritten with `state`.
        state: Parameters and buffers, from `Trained`; None to use the model's.
        inputs: (N, ...) features.
    """
    if state is not None:
        load(model, state)
    rows = Rows(inputs, torch.zeros(inputs.shape[0], dtype=torch.long))
    return logits_of(model, Stacked([rows], None, like(model)))[0].cpu()


def _adam(model: Copies | Alone) -> torch.optim.Optimizer:
    """Return AdamW for the parameters that require a gradient."""
    trainable = [each for each in model.parameters() if each.requires_grad]
    if not trainable:
        raise ValueError(
            f"model must have a parameter to train, got {len(list(model.parameters()))} of which none "
            "requires a gradient"
        )
    return torch.optim.AdamW(trainable, fused=True)


def _refuse_single_rows(model: nn.Module, sizes: Sequence[int], batch_size: int) -> None:
    """Raise if a network with batch normalisation would have a batch of a single row."""
    if any(isinstance(each, _BatchNorm) for each in model.modules()):
        for size in sizes:
            if size % batch_size == 1 or batch_size == 1:
                raise ValueError(
                    "batch_size must give no batch of one row to batch normalisation, got "
                    f"{batch_size} for {size} rows; use another batch_size"
                )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
