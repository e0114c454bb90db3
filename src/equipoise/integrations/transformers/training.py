"""For the Trainer: a loss function that divides by the Trainer's count, and a callback for schedules."""

from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor, nn
from transformers.trainer_callback import TrainerCallback

from equipoise._batch import IGNORE_INDEX
from equipoise.integrations.transformers.outputs import Head, unwrapped
from equipoise.losses.base import Loss, check_loss
from equipoise.objective import Objective


def compute_loss_func(objective: Loss | Objective, model: nn.Module) -> Callable[..., Tensor]:
    r"""Return an objective as the Trainer's `compute_loss_func`, for a head with one label per item.

    The loss is the sum over the items that are not ignored, divided by their number: `num_items_in_batch`,
    the number in all batches and processes of the step, if the Trainer passes it, else the number in the
    batch. So a step does not depend on how it is divided into batches. The Trainer counts items without class
    weights: if the weights are c on average, the loss is c times `objective(logits, labels)`.

    The kind of head is determined by the model's `loss_type`, class and config, never by shapes: one label
    per row (sequences, images, video, audio, next sentence, multiple choice), per token (token
    classification, audio frames, masked, causal and sequence-to-sequence language models) or per pixel
    (semantic segmentation, whose logits are enlarged to the size of the labels as in transformers). Any other
    head raises. Your own module must have one label per row, unless you set its `loss_type`, for example
    `model.loss_type = "ForTokenClassification"`.

    The labels of a causal language model are shifted by the rule by which the Trainer counts. All its logits
    are materialised; to avoid that use `fuse_lm_head`.

    Args:
        objective: The loss, or an `Objective` with reduction "mean".
        model: The model of the Trainer; DataParallel, DistributedDataParallel, FSDP, torch.compile and peft
            may wrap it.

    Shapes:
        The model's logits (B, C), (B, T, C) or (B, C, H, W); labels of the same shape without C: classes,
        -100 to ignore one; or with C: probabilities, unless the model shifts labels.

    Raises:
        TypeError: If objective is not an objective.
        ValueError: If objective has another reduction or ignore_index; if the head does not have one label
            per item (questions, objects, CTC, several labels, regression, one output), or the model has a
            second head; if it is unknown whether a language model shifts labels, or it does not shift as the
            Trainer counts. In a pass, if outputs or labels have other shapes; if there are no labels, or
            labels that the model ignores and the Trainer counts; or if an encoder-decoder gets no decoder
            inputs, which it cannot make itself because the Trainer removes the labels.

    Numerics:
        As the objective: half precision is computed in float32.

    Example:
        >>> from equipoise.losses import GammaCrossEntropy
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(
        ...     vocab_size=32, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
        ... )
        >>> model = BertForSequenceClassification(config)
        >>> loss_func = compute_loss_func(GammaCrossEntropy(0.1), model)  # for the Trainer
        >>> outputs = model(input_ids=torch.arange(6).view(2, 3))
        >>> loss_func(outputs, torch.tensor([0, 1]), num_items_in_batch=2).shape
        torch.Size([])
    """
    base: Any = unwrapped(model)
    head, read = Head.of(base), read_objective(objective)
    if head.shift and base is not model:
        model.loss_type = base.loss_type  # the Trainer reads that of the wrapper

    def loss_func(
        outputs: Any, labels: Tensor | None, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        if labels is None:
            raise ValueError("labels must be given, got None; add them to the batches")
        logits, target = head.rows(outputs, labels)
        read.to(logits.device)
        per_item = target.shape[1:].numel()  # the Trainer counts each of the C probabilities
        count = (target != IGNORE_INDEX).sum() if num_items_in_batch is None else num_items_in_batch
        total = read(logits, target, reduction="sum")
        # DataParallel passes one count per device; the Trainer multiplies the loss by the number of devices.
        return total * per_item / torch.as_tensor(count, device=total.device).sum()

    return loss_func


@final
class ObjectiveCallback(TrainerCallback):
    """Sets the schedules of an objective to the Trainer's step, and logs their values.

    The schedules are set before each step of the optimiser, for any number of batches per step, to the
    Trainer's step, so a run resumed from a checkpoint has the same values as an uninterrupted one. The
    Trainer logs the values together with the loss that was computed with them.

    Args:
        objective: The objective of the Trainer's model or loss function.
        length: Number of schedule steps in the whole training; None for the number of optimiser steps. With
            100, the steps of a schedule are per cent of a training of any length.

    Raises:
        TypeError: If objective is not an `Objective`.
        ValueError: If length is not above 0; when the Trainer is constructed, if by its arguments another
            function would compute the loss.

    Example:
        >>> from equipoise import Objective
        >>> from equipoise.losses import GammaCrossEntropy
        >>> from equipoise.schedules import Linear
        >>> rising = {"gamma": Linear(0, 0.5, steps=50)}
        >>> objective = Objective(GammaCrossEntropy(), schedules=rising)
        >>> callback = ObjectiveCallback(objective, length=100)  # gamma rises in the first half
    """

    def __init__(self, objective: Objective, *, length: float | None = None) -> None:
        if not isinstance(objective, Objective):
            raise TypeError(
                f"objective must be an Objective, got {objective!r}; a loss alone has no schedule"
            )
        if length is not None and not length > 0:
            raise ValueError(f"length must be above 0, got {length}; None for the optimiser's steps")
        self.objective = objective
        self.length = length

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Raise if by an argument of the Trainer another function would compute the loss."""
        del state, control, kwargs
        for name in ("use_liger_kernel", "label_smoothing_factor"):
            if value := getattr(args, name):
                raise ValueError(
                    f"{name} must be left out with an objective, got {value}; the Trainer would not use both"
                )

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set the schedules."""
        del args, control, kwargs
        self._seek(state)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set the schedules to the last step."""
        del args, control, kwargs
        self._seek(state)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Add the current values to the logs of the training loss."""
        del args, control, kwargs
        if logs is None or "loss" not in logs:
            return
        found = self.objective.scheduled()
        logs |= found
        state.log_history[-1] |= found

    def _seek(self, state: Any) -> None:
        step = state.global_step
        self.objective.set_step(step if self.length is None else self.length * step / state.max_steps)


def read_objective(objective: Loss | Objective) -> Objective:
    """Return the objective; raise unless reduction and ignore_index are those of the Trainer."""
    if not isinstance(objective, Objective):
        return Objective(check_loss("objective", objective, "a loss or an Objective"))
    if objective.reduction != "mean":
        raise ValueError(
            f"objective must have reduction 'mean', got {objective.reduction!r}; the Trainer chooses the "
            "divisor"
        )
    if objective.ignore_index != IGNORE_INDEX:
        raise ValueError(
            f"objective must have ignore_index {IGNORE_INDEX}, which the Trainer counts by, got "
            f"{objective.ignore_index}; set those labels to {IGNORE_INDEX}"
        )
    return objective
