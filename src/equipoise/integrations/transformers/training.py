"""What the Trainer asks for: a loss function that divides by its count, and a callback for the schedules."""

from collections.abc import Callable
from typing import Any, final

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.loss.loss_utils import LOSS_MAPPING, ForCausalLMLoss
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.trainer_callback import TrainerCallback
from transformers.trainer_utils import unwrap_peft_model

from equipoise.losses.base import Loss, check_loss
from equipoise.objective import Objective
from equipoise.reduction import IGNORE_INDEX


def compute_loss_func(objective: Loss | Objective, model: nn.Module) -> Callable[..., Tensor]:
    r"""Return an objective as the Trainer's `compute_loss_func`, for a classifier or a language model.

    The loss is the sum over the items that count, divided by their number: that of all the batches and
    processes of the step, which the Trainer supplies, or of the batch where it does not. A step is therefore
    the same however it is cut into batches. Class weights are factors on the items and not part of their
    number, as the Trainer counts items alone: with weights that are not one on average the loss is so much
    larger than `objective(logits, labels)`.

    A causal language model's labels are shifted by the rule that the Trainer counts by. Its logits are all
    held at once; `fuse_lm_head` does without.

    Args:
        objective: The loss, or an `Objective` with reduction "mean".
        model: The model of the Trainer.

    Shapes:
        The model's logits (..., C); labels (...) classes, -100 for none, or (..., C) probabilities.

    Raises:
        TypeError: If objective is none.
        ValueError: If objective has another reduction or ignore_index; if the model has several labels per
            item, or is a language model whose class does not say whether it shifts; if there are no labels.

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
    base, read = unwrap_peft_model(model), read_objective(objective)
    if getattr(base.config, "problem_type", None) == "multi_label_classification":
        raise ValueError(
            "model must have one label per item, got problem_type 'multi_label_classification'; "
            "a softmax loss does not fit it"
        )
    shift = _shifts_labels(base)

    def loss_func(
        outputs: Any, labels: Tensor | None, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        if labels is None:
            raise ValueError("labels must be given, got None; add them to the batches")
        logits = outputs["logits"] if isinstance(outputs, dict) else outputs[0]
        read.to(logits.device).train(model.training)
        if labels.is_floating_point() and labels.shape == logits.shape:
            target, per_item = labels.flatten(0, -2), labels.shape[-1]  # the Trainer counts every number
        else:
            target, per_item = (shifted(labels) if shift else labels).flatten(), 1
        count = (target != IGNORE_INDEX).sum() if num_items_in_batch is None else num_items_in_batch
        total = read(logits.flatten(0, -2), target.to(logits.device), reduction="sum")
        return total * per_item / torch.as_tensor(count, device=total.device)

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

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take up the confidence that a schedule follows, where a run resumes."""
        del args, control, kwargs
        saved, shown = state.stateful_callbacks.get(_SAVED), self._shown()
        if saved is not None and shown is not None:
            shown.fill_(saved["target_prob"])

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set the schedules."""
        del args, control, kwargs
        self._seek(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keep the confidence that a schedule follows, the mean over the processes, for a checkpoint."""
        del args, control, kwargs
        if (shown := self._shown()) is not None:
            if dist.is_available() and dist.is_initialized():
                dist.all_reduce(shown)
                shown /= dist.get_world_size()
            state.stateful_callbacks[_SAVED] = {"target_prob": shown.item()}

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
        if (shown := self._shown()) is not None:
            found["target_prob"] = shown.item()
        logs |= found
        state.log_history[-1] |= found

    def _seek(self, state: Any) -> None:
        step = state.global_step
        self.objective.seek(step if self.length is None else self.length * step / state.max_steps)

    def _shown(self) -> Tensor | None:
        return dict(self.objective.named_buffers()).get("target_prob")


# Among the states of callbacks in a checkpoint; not a class's name, as the Trainer rebuilds those itself.
_SAVED = "equipoise.Objective"


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


def _shifts_labels(model: nn.Module) -> bool:
    """Whether position i is held against label i + 1, by the rule that the Trainer counts by."""
    known = LOSS_MAPPING.get(str(getattr(model, "loss_type", None)))
    causal = {cls.__name__ for cls in type(model).__mro__} & set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    if known is None and causal:
        raise ValueError(
            f"model must have a loss_type for the Trainer to count by, got none for {type(model).__name__}; "
            "before the Trainer is made set model.loss_type = 'ForCausalLM' if its labels are shifted"
        )
    return known is ForCausalLMLoss and not getattr(model.config, "is_encoder_decoder", False)


def shifted(labels: Tensor) -> Tensor:
    """Return what each position is held against; the last against nothing."""
    return F.pad(labels[..., 1:], (0, 1), value=IGNORE_INDEX)
