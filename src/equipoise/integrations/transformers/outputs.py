"""Logits and labels of a model's output: their layout, and the pairing of logits with labels."""

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, final

import torch
import torch.nn.functional as F
from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn
from transformers.loss.loss_utils import (
    LOSS_MAPPING,
    ForCausalLMLoss,
    ForMaskedLMLoss,
    ForSemanticSegmentationLoss,
    ForSequenceClassificationLoss,
    ForTokenClassification,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)
from transformers.trainer_utils import unwrap_peft_model

from equipoise._batch import IGNORE_INDEX

# transformers' losses of one label per row, token or pixel, and the shapes of their logits and labels.
_SHAPES = {
    ForSequenceClassificationLoss: ("(B, C)", "(B,)"),
    ForTokenClassification: ("(B, T, C)", "(B, T)"),
    ForMaskedLMLoss: ("(B, T, C)", "(B, T)"),
    ForCausalLMLoss: ("(B, T, C)", "(B, T)"),
    ForSemanticSegmentationLoss: ("(B, C, H, W)", "(B, H, W)"),
}
# Keys are parts of class names. transformers' table lacks heads that compute one of these losses themselves,
# and some language models.
_LOSSES = LOSS_MAPPING | {
    "ForMultipleChoice": ForSequenceClassificationLoss,
    "ForNextSentencePrediction": ForSequenceClassificationLoss,
    "ForAudioFrameClassification": ForTokenClassification,
    "ForSpeechToText": ForCausalLMLoss,
    "ForTextToText": ForCausalLMLoss,
    "MarianMTModel": ForCausalLMLoss,
    "EncoderDecoderModel": ForCausalLMLoss,
}
_LANGUAGE_MODELS = dict.fromkeys(MODEL_FOR_MASKED_LM_MAPPING_NAMES.values(), ForMaskedLMLoss) | dict.fromkeys(
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values(), ForCausalLMLoss
)


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside wrappers of torch, accelerate, DeepSpeed and peft."""
    inner = unwrap_peft_model(extract_model_from_parallel(model, keep_torch_compile=False))
    return model if inner is model else unwrapped(inner)


def shifted(labels: Tensor) -> Tensor:
    """Return the label of each position: the next one; `IGNORE_INDEX` for the last."""
    return F.pad(labels[..., 1:], (0, 1), value=IGNORE_INDEX)


@final
@dataclass(frozen=True, kw_only=True)
class Head:
    """The layout of a model's logits and labels.

    Args:
        name: The class of the model.
        shapes: Shapes of the logits and of the labels.
        shift: Whether the target of position i is label i + 1.
        ignored: A label that the model's own loss ignores although the Trainer counts it.
        decoder: Record of the inputs of an encoder-decoder; None for other models.
    """

    name: str
    shapes: tuple[str, str]
    shift: bool
    ignored: int
    decoder: "_DecoderInputs | None"

    @classmethod
    def of(cls, model: nn.Module) -> Self:
        """Return the head of a model, by its class, `loss_type` and config; raise if no softmax loss fits."""
        name, config, loss = type(model).__name__, getattr(model, "config", None), _loss(model)
        family = next((each for each in type(model).__mro__ if _is_architecture(each)), None)
        if loss not in _SHAPES and not (loss is None and family is None):
            raise ValueError(
                f"model must have a head with one label per row, token or pixel, got {name}; call the "
                "objective in compute_loss of a Trainer subclass, or, where the logits are those of such a "
                "head, name it before the Trainer is made, as model.loss_type = 'ForTokenClassification'"
            )
        problem = getattr(config, "problem_type", None)
        if problem not in (None, "single_label_classification"):
            raise ValueError(
                f"model must have one label per item, got problem_type {problem!r} of {name}; "
                "a softmax loss does not fit it"
            )
        if loss is ForSemanticSegmentationLoss and getattr(config, "use_auxiliary_head", False):
            raise ValueError(
                f"model must have one head, got use_auxiliary_head True of {name}; "
                "set model.config.use_auxiliary_head = False to train without the loss of the other"
            )
        generates = loss in (ForCausalLMLoss, ForMaskedLMLoss)
        decodes = generates and getattr(config, "is_encoder_decoder", False)
        shift, declared = loss is ForCausalLMLoss and not decodes, str(getattr(model, "loss_type", None))
        if shift and LOSS_MAPPING.get(declared) is not ForCausalLMLoss:
            raise ValueError(
                f"model must have a loss_type from which the Trainer counts labels, got none for {name}; "
                "before the "
                "Trainer is made set model.loss_type = 'ForCausalLM' if its labels are shifted, "
                "'ForMaskedLM' if not"
            )
        # Decoders of encoder-decoders, such as BartForCausalLM, do not shift labels, but are counted as if.
        if shift and declared == "ForCausalLM" and family is not None and not _uses_loss_function(family):
            raise ValueError(
                f"model must shift its labels, as the Trainer counts them, got {name}, which computes a loss "
                "of its own; before the Trainer is made set model.loss_type = 'ForMaskedLM', which does not"
            )
        # Unknown classes must have one label per row: in logits (B, 4, 4, 4) any dimension could be C.
        shapes = _SHAPES[loss or ForSequenceClassificationLoss]
        segments = loss is ForSemanticSegmentationLoss and config is not None
        ignored = getattr(config, "semantic_loss_ignore_index", getattr(config, "loss_ignore_index", 255))
        return cls(
            name=name,
            shapes=shapes,
            shift=shift,
            ignored=ignored if segments else IGNORE_INDEX,
            decoder=_DecoderInputs(model) if decodes else None,
        )

    def rows(self, outputs: Any, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (N, C) and labels, (N,) classes or (N, C) probabilities."""
        if self.decoder is not None and not self.decoder.given:
            raise ValueError(
                f"decoder_input_ids must be in the batches of {self.name}, got none; the Trainer takes the "
                "labels out before the model can make them: DataCollatorForSeq2Seq(tokenizer, model=model)"
            )
        logits, (expected, of_labels) = self._logits(outputs), self.shapes
        if logits.ndim != expected.count(",") + 1:
            raise ValueError(
                f"logits must be {expected}, got {tuple(logits.shape)} in {type(outputs).__name__} of "
                f"{self.name}; for another head set model.loss_type, as to 'ForTokenClassification', before "
                "the Trainer is made"
            )
        labels = labels.to(logits.device)
        if logits.ndim == 4 and labels.ndim in (3, 4):
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            logits = F.interpolate(logits, labels.shape[-2:], mode="bilinear").movedim(1, -1)
            labels = labels.movedim(1, -1) if labels.ndim == 4 else labels
        if logits.shape[-1] == 1:
            raise ValueError(
                f"logits must have two classes or more, got one output of {self.name}; a softmax over it is "
                "constant: give the model num_labels=2, or train it with another loss"
            )
        if labels.is_floating_point() and labels.shape == logits.shape:
            target = self._probabilities(labels)
        elif labels.shape in (logits.shape[:-1], (*logits.shape[:-1], 1)):
            target = self._classes(labels.reshape(logits.shape[:-1]))
        else:
            raise ValueError(
                f"labels must be {of_labels} classes or have the shape of the logits as probabilities, got "
                f"{tuple(labels.shape)} for logits {tuple(logits.shape)} of {self.name}"
            )
        return logits.flatten(0, -2), target

    def _logits(self, outputs: Any) -> Tensor:
        found, others = outputs, []
        if isinstance(outputs, Mapping):
            found = outputs.get("logits")
            others = [
                each
                for each, value in outputs.items()
                if value is not None and each != "logits" and ("logits" in each or each == "aux_loss")
            ]
        elif isinstance(outputs, (tuple, list)):
            found = outputs[0]
        if not isinstance(found, Tensor) or others:
            got = ", ".join(others) or "none"
            raise ValueError(
                f"outputs must have logits and no others, got {got} in {type(outputs).__name__} of "
                f"{self.name}; call the objective in compute_loss of a Trainer subclass, or switch off what "
                "adds to the loss, such as output_router_logits"
            )
        return found

    def _probabilities(self, labels: Tensor) -> Tensor:
        if self.shift:
            raise ValueError(
                f"labels must be classes for {self.name}, which shifts them, got {labels.dtype}; "
                "the Trainer does not count shifted probabilities"
            )
        if ((labels.sum(-1) - 1).abs() > 0.01).any():
            raise ValueError(
                f"labels must sum to one when they are probabilities, got other sums for {self.name}; "
                "a softmax loss does not fit several labels per item"
            )
        return labels.flatten(0, -2)

    def _classes(self, labels: Tensor) -> Tensor:
        if self.ignored != IGNORE_INDEX and (labels == self.ignored).any():
            raise ValueError(
                f"ignored labels must be {IGNORE_INDEX}, by which the Trainer counts, got "
                f"{self.ignored}, which {self.name} ignores; set those labels, and the index that "
                f"its config ignores, to {IGNORE_INDEX}"
            )
        return (shifted(labels) if self.shift else labels).flatten()


@final
class _DecoderInputs:
    """Hook that records whether the last pass of an encoder-decoder had decoder inputs, or labels."""

    def __init__(self, model: nn.Module) -> None:
        self.given: bool = True  # before the first pass
        self._names = list(inspect.signature(type(model).forward).parameters)[1:]
        model.register_forward_pre_hook(self, with_kwargs=True)

    def __call__(self, model: nn.Module, args: Any, kwargs: Any) -> None:
        del model
        found = dict(zip(self._names, args, strict=False)) | kwargs
        names = ("decoder_input_ids", "decoder_inputs_embeds", "labels")
        self.given = any(found.get(name) is not None for name in names)

    def __deepcopy__(self, memo: Any) -> Self:
        return self  # a copy of the model has the same loss


def _loss(model: nn.Module) -> Any:
    """Return the name of transformers' loss for a model, by `loss_type` or by the names of its classes."""
    names = [cls.__name__ for cls in type(model).__mro__]
    for name in (str(getattr(model, "loss_type", None)), *names):
        if found := re.search("|".join(_LOSSES), name):
            return _LOSSES[found[0]]
    return next((_LANGUAGE_MODELS[name] for name in names if name in _LANGUAGE_MODELS), None)


def _is_architecture(cls: type) -> bool:
    return cls.__module__.startswith("transformers.models.") and not cls.__name__.endswith("PreTrainedModel")


def _uses_loss_function(cls: Any) -> bool:
    return "loss_function" in inspect.unwrap(cls.forward).__code__.co_names
