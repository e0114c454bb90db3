"""Callbacks for Lightning: steps of schedules, and a log of the model's confidence.

Set an `Objective` as an attribute of the LightningModule and pass the callbacks to the trainer,
`Trainer(callbacks=[ScheduleCallback(), ConfidenceMonitor()])`. Checkpoints contain the step of the schedules.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, final

import torch
from torch import Tensor

from equipoise import linear
from equipoise._batch import no_autocast, read_batch
from equipoise.integrations._measures import measured
from equipoise.losses.rows import rows_of
from equipoise.objective import Objective
from equipoise.statistics import Entropy, LogOdds

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError as _error:
    raise ImportError(
        "integrations.lightning needs lightning; pip install 'equipoise[lightning]'"
    ) from _error


_LOGGED = ("target_prob", "entropy")  # names of measures


class _Hooks(Callback):
    """Base of the callbacks: registers hooks on objectives, and removes them when training ends."""

    def __init__(self, objective: str | None = None) -> None:
        self.objective = objective
        self._hooks = ExitStack()

    def _objectives(self, module: LightningModule) -> dict[str, Objective]:
        """Return the chosen objectives by name."""
        found = {
            name.removesuffix("._orig_mod"): each  # which torch.compile appends
            for name, each in module.named_modules()
            if isinstance(each, Objective)
        }
        if not found or self.objective not in (None, *found):
            raise ValueError(
                f"objective must name an Objective of the LightningModule, got {self.objective!r}; it has "
                f"{', '.join(map(repr, found)) or 'none, set self.objective = Objective(...) in __init__'}"
            )
        return {name: each for name, each in found.items() if self.objective in (None, name)}

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the hooks off."""
        self._hooks.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Take the hooks off."""
        self._hooks.close()


@final
class ScheduleCallback(_Hooks):
    """Advances the schedules of the objectives by one step after each step of the optimiser.

    It does not advance them after batches that only accumulate a gradient, nor after steps that a gradient
    scaler skips. The step is in the `state_dict` of the objective, and so in every checkpoint: a run resumes
    exactly.

    Args:
        objective: Name of an `Objective` in the LightningModule, such as "objective" or "heads.0.objective";
            None for all objectives.
        optimizer: Index of the optimiser whose steps count; None if there is only one.

    Raises:
        ValueError: When training starts, if there is no such objective or optimiser.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[ScheduleCallback()], accelerator="cpu", logger=False,
        ...                   enable_checkpointing=False)
    """

    def __init__(self, objective: str | None = None, *, optimizer: int | None = None) -> None:
        super().__init__(objective)
        self.optimizer = optimizer

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Follow the optimiser."""
        objectives, optimizers = self._objectives(pl_module), trainer.optimizers
        index = 0 if self.optimizer is None and len(optimizers) == 1 else self.optimizer
        if index is None or index not in range(len(optimizers)):
            raise ValueError(
                f"optimizer must be the index of one of {len(optimizers)} optimisers, got {self.optimizer}"
            )
        follow = partial(_advance, list(objectives.values()))
        self._hooks.callback(optimizers[index].register_step_post_hook(follow).remove)


def _advance(objectives: Sequence[Objective], optimizer: Any, *_: Any) -> None:
    # A scaler that skips a step does not call the optimiser, except a fused one, whose kernel skips it.
    if not getattr(optimizer, "found_inf", False):
        for objective in objectives:
            objective.step()


@final
class ConfidenceMonitor(_Hooks):
    r"""Logs the model's confidence on its training batches, and the current scheduled values.

    For an attribute named `objective`, it logs `objective/target_prob`, the mean probability of the targets,
    `objective/entropy`, the mean entropy of the rows in nats, and for a schedule of gamma `objective/gamma`,
    its value in this step. The means are over all batches of an accumulated gradient, all ranks and all
    calls, without rows of `ignore_index`, weighted by `sample_weight` but not by class weights.

    It computes them only in the steps that Lightning logs, one in `log_every_n_steps`, and does not change
    the loss and its gradient. It observes calls of the objective, `self.objective(logits, target)` and
    `self.objective.linear(...)`; for the latter it computes the logits a second time, block by block, and
    logs only the entropy if targets are probabilities. It does not observe calls of `self.objective.loss`.

    Args:
        objective: As in `ScheduleCallback`.

    Raises:
        ValueError: When training starts, if there is no such objective.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[ConfidenceMonitor()], accelerator="cpu", logger=False,
        ...                   enable_checkpointing=False, log_every_n_steps=50)
    """

    def __init__(self, objective: str | None = None) -> None:
        super().__init__(objective)
        self._watched: dict[str, Objective] = {}
        self._in_force: dict[str, float] = {}
        self._sums: dict[str, Tensor] = {}  # by name: sum and count of target_prob, and of entropy, (2, 2)
        self._looking = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Register hooks on the calls of the objectives."""
        self._watched = self._objectives(pl_module)
        self._sums = {name: torch.zeros(2, 2, device=pl_module.device) for name in self._watched}
        for name, objective in self._watched.items():
            after_call = partial(self._after_call, name)
            self._hooks.callback(objective.register_forward_hook(after_call, with_kwargs=True).remove)
            vars(objective)["linear"] = partial(
                self._linear, name, objective
            )  # torch's hooks do not cover it
            self._hooks.callback(vars(objective).pop, "linear")

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Decide whether this step is logged, and record the scheduled values."""
        self._looking = trainer._logger_connector.should_update_logs
        if self._looking:
            self._in_force = {
                f"{name}/{path}": value
                for name, objective in self._watched.items()
                for path, value in objective.scheduled().items()
            }

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the means over the batches of a step."""
        if not self._looking or trainer.fit_loop._should_accumulate():
            return
        values = dict(self._in_force)
        for name, sums in self._sums.items():
            total = trainer.strategy.reduce(sums, reduce_op="sum")
            for key, (summed, count) in zip(_LOGGED, total.tolist(), strict=True):
                if count:
                    values[f"{name}/{key}"] = summed / count
            sums.zero_()
        pl_module.log_dict(values, on_step=True, on_epoch=False)
        self._looking = False

    def _after_call(
        self, name: str, objective: Objective, args: Any, kwargs: dict[str, Any], output: Tensor
    ) -> None:
        if self._looking:
            self._sums[name] += _of_logits(objective, *args, **kwargs)

    def _linear(self, name: str, objective: Objective, *args: Any, **options: Any) -> Tensor:
        loss = Objective.linear(objective, *args, **options)
        if self._looking:
            self._sums[name] += _of_hidden(objective, *args, **options)
        return loss


@torch.no_grad()
def _of_logits(
    objective: Objective,
    logits: Tensor,
    target: Tensor | None = None,
    *,
    sample_weight: Tensor | None = None,
    mask: Tensor | None = None,
    **_: Any,
) -> Tensor:
    """Return sum and count of the target probability and of the entropy, (2, 2)."""
    batch = read_batch(logits, target, None, objective.ignore_index, sample_weight, mask)
    with no_autocast(batch.logits.device):
        if batch.target is not None:
            row = rows_of(batch, [LogOdds(), Entropy()])
            return _sums(measured(row, _LOGGED), batch.kept, batch.sample_weight)
        batch = batch.gathered()
        sums = _sums(measured(rows_of(batch, [Entropy()]), ["entropy"]), None, batch.sample_weight)
        if batch.soft is None:
            return _without_target(sums)
        probs = (batch.soft * batch.logits.softmax(1)).sum(1, keepdim=True)
        return torch.cat((_sums(probs, None, batch.sample_weight), sums))


@torch.no_grad()
def _of_hidden(
    objective: Objective,
    hidden: Tensor,
    linear_weight: Tensor,
    target: Tensor | None = None,
    *,
    linear_bias: Tensor | None = None,
    sample_weight: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """Return the sums of `_of_logits` for the logits of a linear layer, block by block."""
    options = {name: value for name, value in options.items() if name in linear.ROW_OPTIONS}
    counts = None if sample_weight is None else sample_weight.reshape(-1)
    if target is None or target.is_floating_point():
        row = linear.row_statistics(
            hidden, linear_weight, linear_bias=linear_bias, stats=[Entropy()], **options
        )
        return _without_target(_sums(measured(row, ["entropy"]), None, counts))
    options = {"ignore_index": objective.ignore_index} | options
    row = linear.row_statistics(
        hidden, linear_weight, target, linear_bias=linear_bias, stats=[LogOdds(), Entropy()], **options
    )
    return _sums(measured(row, _LOGGED), target.reshape(-1) != options["ignore_index"], counts)


def _sums(values: Tensor, kept: Tensor | None, sample_weight: Tensor | None) -> Tensor:
    """Return the weighted sum and the sum of the weights of each column of values (N, k), (k, 2)."""
    counts = torch.ones_like(values[:, 0]) if sample_weight is None else sample_weight.to(values)
    counts = (counts if kept is None else torch.where(kept, counts, 0.0))[:, None]
    summed = torch.where(counts > 0, values * counts, 0.0).sum(0)
    return torch.stack((summed, counts.sum().expand_as(summed)), 1)


def _without_target(sums: Tensor) -> Tensor:
    """Return sums of the entropy (1, 2) below those of no target probability, (2, 2)."""
    return torch.cat((torch.zeros_like(sums), sums))


__all__ = ["ConfidenceMonitor", "ScheduleCallback"]
