"""`fuse_lm_head`: a causal language model computes its loss from hidden states in its forward pass."""

import inspect
from dataclasses import make_dataclass
from typing import Any, final
from weakref import WeakKeyDictionary

import numpy as np
import torch
from accelerate.state import GradientState
from torch import Tensor, nn
from transformers.loss.loss_utils import LOSS_MAPPING, ForCausalLMLoss
from transformers.modeling_utils import PreTrainedModel
from transformers.trainer_utils import unwrap_peft_model

from equipoise import linear
from equipoise._batch import IGNORE_INDEX
from equipoise.integrations._measures import MEASURES, measured
from equipoise.integrations.transformers.heads import DeferredLogits, caller, parts, place
from equipoise.integrations.transformers.outputs import shifted
from equipoise.integrations.transformers.training import read_objective
from equipoise.losses.base import Loss
from equipoise.objective import Objective
from equipoise.statistics import Entropy, LogOdds, Margin


def fuse_lm_head(
    model: nn.Module, objective: Loss | Objective, *, block_bytes: int | None = None
) -> "FusedHead":
    r"""Make a causal language model compute its loss from hidden states, without materialising the logits.

    A forward pass with labels then returns the objective's loss and no logits; one without labels, as in
    `generate`, returns logits as before. Parameters, state dict and tied weights of the model do not change.
    The architecture may scale the logits by a number and cap them softly; any other operation on the logits
    raises in the first pass with labels.

    The loss is divided as in `compute_loss_func`: by `num_items_in_batch` if the Trainer passes it, else by
    the number of labels that are not ignored. `shift_labels` are not shifted again. Fuse a model before its
    Trainer is constructed: the constructor decides how the Trainer counts.

    In evaluation mode the output has `token_statistics`, of which `token_metrics` computes means.

    Args:
        model: A causal language model, or a peft model of one. Add adapters first: a forward pass raises if
            the head has been replaced after the call.
        objective: The loss, or an `Objective` with reduction "mean".
        block_bytes: As in `Loss.linear`.

    Returns:
        The `FusedHead`; its `undo()` restores the model.

    Shapes:
        As the model. token_statistics (B, T, 4): negative log-likelihood, entropy, whether the target is the
        likeliest token, and its probability; -100 for ignored labels.

    Raises:
        TypeError: If objective is not an objective, or the head neither a linear layer nor LoRA of one.
        ValueError: If objective has another reduction or ignore_index; if the model is not a causal language
            model, is fused or wrapped already, or shards its head over ranks; if the LoRA of its head has
            dropout, or is not one plain adapter. In a pass with labels, if a part of the head is offloaded.
        NotImplementedError: In a pass with labels, if the architecture does anything else with the logits.
        RuntimeError: In a pass with labels, if another function computes the loss, `model.forward` is called
            without the hooks of the model, or the Trainer has removed the labels from a batch.

    Numerics:
        As `Loss.linear`. LoRA factors in float32 are multiplied in half precision if the head is in half
        precision.

    Example:
        >>> from equipoise.losses import GammaCrossEntropy
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> config = LlamaConfig(
        ...     vocab_size=32, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
        ... )
        >>> model = LlamaForCausalLM(config)
        >>> fused = fuse_lm_head(model, GammaCrossEntropy(0.1))
        >>> tokens = torch.arange(6).view(2, 3)
        >>> output = model(input_ids=tokens, labels=tokens)
        >>> output.loss.backward()
        >>> print(output.logits)
        None
        >>> fused.undo()
    """
    base, read = unwrap_peft_model(model), read_objective(objective)
    head: Any = base.get_output_embeddings() if isinstance(base, PreTrainedModel) else None
    loss = LOSS_MAPPING.get(str(getattr(base, "loss_type", None)), ForCausalLMLoss)  # transformers' default
    if head is None or loss is not ForCausalLMLoss or getattr(base.config, "is_encoder_decoder", False):
        raise ValueError(
            f"model must be a causal language model of transformers, got {type(base).__name__}; "
            "for another use compute_loss_func, and fuse a model before it is compiled or wrapped"
        )
    if (getattr(base, "tp_size", None) or 1) > 1:
        raise ValueError(f"model must hold its head whole, got tp_size {base.tp_size}; use compute_loss_func")
    own = vars(head).get(place(head))
    if own is not None and getattr(own, "__func__", None) is not type(head).forward:
        raise ValueError(
            f"model must have the forward pass of its class in its head, got {own!r}; "
            "undo what replaced it, such as an earlier fuse_lm_head"
        )
    parts(head)
    return FusedHead(base, head, read, block_bytes)


@final
class FusedHead:
    """The changes that `fuse_lm_head` makes to a model; `undo` reverts them.

    Args:
        model: The model.
        head: The output embeddings of the model.
        objective: The objective.
        block_bytes: Memory for a block of logits.
    """

    # The model only gets bound methods, so that a deep copy of the model uses the head of the copy.

    def __init__(
        self, model: Any, head: nn.Module, objective: Objective, block_bytes: int | None = None
    ) -> None:
        self.objective = objective
        self._block_bytes = block_bytes
        self._model = model
        self._head = head
        self._labelled: bool | None = None  # None between passes
        self._loss_computed = False
        self._statistics: Tensor | None = None
        self._before = {name: vars(model)[name] for name in _REPLACED if name in vars(model)}
        self._hooks = (
            model.register_forward_pre_hook(self._begin, with_kwargs=True),
            model.register_forward_hook(self._end, always_call=True),
        )
        vars(head)[place(head)] = self._forward
        model.loss_function = self._loss
        model.loss_type = "ForCausalLM"  # the Trainer counts by it; GPT-2's and other classes have none

    def undo(self) -> None:
        """Restore the model; a second call does nothing."""
        for hook in self._hooks:
            hook.remove()
        head, model = vars(self._head), vars(self._model)
        if head.get("forward") == self._forward:
            del head["forward"]
        if head.get("_old_forward") == self._forward:
            head["_old_forward"] = type(self._head).forward.__get__(self._head)
        if model.get("_loss_function") == self._loss:
            for name in _REPLACED:
                model.pop(name, None)
            model |= self._before

    def _begin(self, model: nn.Module, args: Any, kwargs: Any) -> None:
        """Record whether this forward pass has labels."""
        if model is not self._model:
            raise RuntimeError(
                "a fused model must not be replicated by DataParallel; use one process per device (torchrun)"
            )
        if kwargs.get("fused_lm_head"):
            raise RuntimeError(
                "a fused model must compute its loss with model.loss_function, got fused_lm_head=True from "
                f"{caller('torch', 'peft', 'accelerate')}; for SFTTrainer take the subclass of "
                "docs/transformers.md, and give other trainers of TRL, whose loss is their own, a plain model"
            )
        given = inspect.signature(type(model).forward).bind_partial(model, *args, **kwargs).arguments
        labelled = given.get("labels", kwargs.get("labels")) is not None
        if not labelled and kwargs.get("num_items_in_batch") is not None:
            raise RuntimeError(
                "labels must reach a fused model, got num_items_in_batch without them; "
                "leave out the Trainer's compute_loss_func and label_smoothing_factor"
            )
        self._labelled, self._loss_computed, self._statistics = labelled, False, None

    def _forward(self, hidden: Tensor, options: dict[str, Any] | None = None) -> Any:
        """Return the logits, or `DeferredLogits` if the pass has labels; in its second call, the loss.

        The loss is computed in a call of the head because FSDP gathers the weights only for such a call.
        """
        if options is not None:
            return self._compute(hidden, *parts(self._head), **options)
        if self._labelled:
            return DeferredLogits(hidden, len(parts(self._head)[0]))
        return type(self._head).forward(self._head, hidden)

    def _loss(
        self,
        logits: Any,
        labels: Tensor,
        vocab_size: int | None = None,
        num_items_in_batch: Tensor | int | None = None,
        ignore_index: int = IGNORE_INDEX,
        shift_labels: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Return the loss; replaces transformers' `ForCausalLMLoss`."""
        del vocab_size, kwargs  # options of the attention, which transformers' loss ignores too
        if self._labelled is None:
            raise RuntimeError(
                "a fused model must be called as model(...), got model.forward(...) from "
                f"{caller('transformers')}, so that its hooks did not run; call it, or use compute_loss_func"
            )
        if not isinstance(logits, DeferredLogits):
            raise RuntimeError(
                "the head of a fused model must not be replaced, got logits of another one; "
                "call fuse_lm_head after adding adapters or resizing the embeddings"
            )
        target = shifted(labels) if shift_labels is None else shift_labels
        count = (target != ignore_index).sum() if num_items_in_batch is None else num_items_in_batch
        options = {
            "target": target,
            "count": count,
            "ignore_index": ignore_index,
            "logit_scale": logits.scale,
            "softcap": logits.softcap,
            "block_bytes": self._block_bytes,
        }
        self._loss_computed = True
        return self._head(logits.hidden, options)

    def _compute(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        lora: linear.Lora | None,
        *,
        target: Tensor,
        count: Tensor | int,
        **options: Any,
    ) -> Tensor:
        """Return the loss; in evaluation mode, store the statistics."""
        if weight.is_meta:
            raise ValueError(
                "the head must have its weight in memory, got one on the meta device; offload the head as a "
                "whole, or leave it out of the target_modules of the adapter"
            )
        hidden, target = hidden.to(weight.device), target.to(weight.device)
        count = count.to(weight.device) if isinstance(count, Tensor) else count
        if not self._model.training:
            self._statistics = _statistics(hidden, weight, target, bias, lora=lora, **options)
        objective = self.objective.to(hidden.device)
        return objective.linear(
            hidden, weight, target, linear_bias=bias, lora=lora, denominator=count, **options
        )

    def _end(self, model: nn.Module, args: Any, output: Any) -> Any:
        """Return the output without logits and with the statistics."""
        del model, args
        labelled, self._labelled = self._labelled, None
        if not labelled or output is None:  # None if the pass has raised
            return None
        if not self._loss_computed:
            raise RuntimeError(
                "a fused model must compute its loss with model.loss_function, got one that does not; "
                "leave out use_liger_kernel, or use compute_loss_func for this architecture"
            )
        if isinstance(output, tuple):
            return tuple(value for value in output if not isinstance(value, DeferredLogits))
        found = {name: value for name, value in output.items() if not isinstance(value, DeferredLogits)}
        return _with_statistics(type(output), found | {"token_statistics": self._statistics})


_REPLACED = ("_loss_function", "loss_type")


def _with_statistics(output: type, values: dict[str, Any]) -> Any:
    """Return an output of a subclass with a field for statistics, so that pytree functions include it."""
    if output not in _FUSED:
        field = ("token_statistics", Tensor | None, None)
        methods = {"__reduce__": _reduce}
        _FUSED[output] = make_dataclass(
            f"Fused{output.__name__}", [field], bases=(output,), namespace=methods
        )
    return _FUSED[output](**values)


def _reduce(output: Any) -> tuple[Any, ...]:
    """Return constructor and arguments for pickle and copy, as the output's class is in no module."""
    return _with_statistics, (type(output).__bases__[0], dict(output))


_FUSED: dict[type, type] = {dict: dict}  # no functools.cache, which torch.compile warns about


@torch.no_grad()
def _statistics(
    hidden: Tensor, weight: Tensor, target: Tensor, bias: Tensor | None, **options: Any
) -> Tensor:
    """Return the statistics (B, T, 4) of each token."""
    row = linear.row_statistics(
        hidden, weight, target, linear_bias=bias, stats=[LogOdds(), Entropy(), Margin()], **options
    )
    kept = target != options["ignore_index"]
    return torch.where(kept[..., None], measured(row).view(*target.shape, 4), _NO_LABEL)


_NO_LABEL = -100.0  # the Trainer's padding value; no statistic has it, and nan is that of a diverged model


def token_metrics(prediction: Any, compute_result: bool | None = None) -> dict[str, float]:
    """Return means over all tokens of an evaluation: `Trainer(compute_metrics=token_metrics)`.

    The negative log-likelihood is that of plain cross entropy for every objective, so that models trained
    with different objectives can be compared. If the statistics of one token are nan, so are the means.

    Args:
        prediction: The Trainer's `EvalPrediction` of a model with a fused head.
        compute_result: For `batch_eval_metrics=True`, with one call per batch: False accumulates the batch,
            True also returns the means of all batches and resets the sums.

    Returns:
        nll, perplexity (its exponential), entropy, accuracy and target_prob, the mean probability of the
        target; the Trainer reports them as eval_nll and so on. An empty dict if compute_result is False.

    Raises:
        ValueError: If the predictions are not statistics of tokens.

    Example:
        >>> from types import SimpleNamespace
        >>> statistics = np.array([[[0.5, 1.0, 1, 0.6], [-100] * 4], [[1.5, 1.0, 0, 0.2], [-100] * 4]])
        >>> token_metrics(SimpleNamespace(predictions=statistics))["accuracy"]
        0.5
    """
    found = _counted(prediction.predictions)
    sums = np.append(found.sum(0, dtype=np.float64), len(found))
    if compute_result is not None:
        loader = GradientState().active_dataloader
        batches = _BATCHES.setdefault(token_metrics if loader is None else loader, [])
        batches.append(sums)
        if not compute_result:
            return {}
        sums = np.sum(batches, 0)
        batches.clear()
    # Invalid: no token; over: the perplexity overflows.
    with np.errstate(invalid="ignore", over="ignore"):
        means = dict(zip(MEASURES, (sums[:-1] / sums[-1]).tolist(), strict=True))
        return means | {"perplexity": float(np.exp(means["nll"]))}


# For each batch of a running evaluation, sums of the statistics and number of tokens, (5,). Keyed by data
# loader, so that an interrupted evaluation does not add to the next.
_BATCHES: WeakKeyDictionary[Any, list[Any]] = WeakKeyDictionary()


def _counted(predictions: Any) -> Any:
    """Return the statistics (N, 4) of the tokens that have a label."""
    if isinstance(predictions, list):  # eval_do_concat_batches=False
        return np.concatenate([_counted(each) for each in predictions])
    found = predictions[-1] if isinstance(predictions, tuple) else predictions
    found = found.cpu().numpy() if isinstance(found, Tensor) else found
    if not isinstance(found, np.ndarray) or found.ndim != 3 or found.shape[-1] != 4:
        got = getattr(found, "shape", type(found).__name__)
        raise ValueError(f"predictions must be statistics (B, T, 4) of tokens, got {got}; see fuse_lm_head")
    return found[found[..., 0] != _NO_LABEL]
