"""What the Trainer asks for: a loss function that divides by its count, and a callback for the schedules."""

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

    The loss is the sum over the items that count, divided by their number: that of all the batches and
    processes of the step, which the Trainer supplies, or of the batch where it does not. A step is therefore
    the same however it is cut into batches. Class weights are factors on the items and not part of their
    number, as the Trainer counts items alone: with weights that are not one on average the loss is so much
    larger than `objective(logits, labels)`.

    What the head is, is read from the model's `loss_type`, its class and its config, never from shapes: one
    label for a row (sequences, images, video, audio, next sentence, multiple choice), for a token (token
    classification, audio frames, masked, causal and sequence-to-sequence language models) or for a pixel
    (semantic segmentation, whose logits are enlarged to the size of the labels as transformers does). Any
    other head raises. A module of one's own must have one label per row, unless its `loss_type` says more,
    as in `model.loss_type = "ForTokenClassification"`.

    A causal language model's labels are shifted by the rule that the Trainer counts by. Its logits are all
    held at once; `fuse_lm_head` does without.

    Args:
        objective: The loss, or an `Objective` with reduction "mean".
        model: The model of the Trainer; DataParallel, DistributedDataParallel, FSDP, torch.compile and peft
            may wrap it.

    Shapes:
        The model's logits (B, C), (B, T, C) or (B, C, H, W); labels without C: classes, -100 for none; or in
        the shape of the logits: probabilities, which a model that shifts does not take.

    Raises:
        TypeError: If objective is none.
        ValueError: If objective has another reduction or ignore_index; if the head has no one label per item
            (questions, objects, CTC, several labels, regression, one output) or a second head beside it; if
            the model is a language model whose class does not say whether it shifts, or that does not do as
            the Trainer counts. In a pass, if outputs or labels have other shapes; if there are no labels, or
            some that the model ignores and the Trainer counts; or if an encoder-decoder was not given the
            decoder's inputs, which the Trainer keeps it from making of the labels.

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
        model.loss_type = base.loss_type  # the Trainer counts by what it is given, such as a wrapper

    def loss_func(
        outputs: Any, labels: Tensor | None, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        if labels is None:
            raise ValueError("labels must be given, got None; add them to the batches")
        logits, target = head.rows(outputs, labels)
        read.to(logits.device)
        per_item = target.shape[1:].numel()  # of probabilities the Trainer counts every number
        count = (target != IGNORE_INDEX).sum() if num_items_in_batch is None else num_items_in_batch
        total = read(logits, target, reduction="sum")
        # DataParallel has a count per device, and the Trainer multiplies by their number.
        return total * per_item / torch.as_tensor(count, device=total.device).sum()

    return loss_func


@final
class ObjectiveCallback(TrainerCallback):
    """Moves the schedules of an objective with the Trainer's steps, and logs their values.

    Before each step of the optimiser, whatever the number of batches in it, the schedules are set by the
    Trainer's step, so that a run resumed from a checkpoint has the values of one that was never interrupted.
    Beside each loss the Trainer logs the values it was computed with.

    Args:
        objective: The objective that the Trainer's model or loss function has.
        length: How many of the schedules' steps the whole training is; None for as many as the optimiser's.
            With 100 a schedule's steps are percent of a training of any length.

    Raises:
        TypeError: If objective is no `Objective`.
        ValueError: If length is not above 0; when the Trainer is made, if its arguments would have something
            else compute the loss.

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
        """Refuse arguments that would have the loss computed by something else."""
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
        """Leave the schedules where the training ended."""
        del args, control, kwargs
        self._seek(state)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Add the values in force to the logs of the training loss."""
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
    """Return an objective that the Trainer's counts fit."""
    if not isinstance(objective, Objective):
        return Objective(check_loss("objective", objective, "a loss or an Objective"))
    if objective.reduction != "mean":
        raise ValueError(
            f"objective must have reduction 'mean', got {objective.reduction!r}; "
            "the Trainer says what to divide by"
        )
    if objective.ignore_index != IGNORE_INDEX:
        raise ValueError(
            f"objective must have ignore_index {IGNORE_INDEX}, which the Trainer counts by, got "
            f"{objective.ignore_index}; set those labels to {IGNORE_INDEX}"
        )
    return objective
