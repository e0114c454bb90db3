"""Models, outputs and labels of transformers that no softmax loss fits, or that would be read in two ways."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("transformers", reason="transformers is not installed", exc_type=ImportError)

from transformers import Trainer
from transformers.models.auto import modeling_auto

from equipoise import Objective
from equipoise.integrations.transformers import compute_loss_func
from equipoise.losses import CrossEntropy
from support.transformers_heads import (
    BERT,
    IMAGE,
    LLAMA,
    OUTPUTS,
    SEQ2SEQ,
    WAVES,
    N,
    Plain,
    T,
    V,
    arguments,
    beit,
    classes,
    declared,
    hf,
    rows,
    segformer,
    tokens,
)

# What is refused


def only(name: str, config: Any, **options: Any) -> Callable[[], Any]:
    return lambda: getattr(hf, name)(config(**options))


NO_HEAD = r"^model must have a head with one label per row, token or pixel, got {}; call the objective in"
ONE_LABEL = r"^model must have one label per item, got problem_type '{}' of {}; a softmax"
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "questions": (only("BertForQuestionAnswering", hf.BertConfig, **BERT), NO_HEAD),
    "questions on images": (only("ViltForQuestionAnswering", hf.ViltConfig, **IMAGE), NO_HEAD),
    "questions, encoder-decoder": (only("BartForQuestionAnswering", hf.BartConfig, **SEQ2SEQ), NO_HEAD),
    "two heads": (only("BertForPreTraining", hf.BertConfig, **BERT), NO_HEAD),
    "replaced tokens": (only("ElectraForPreTraining", hf.ElectraConfig, **BERT), NO_HEAD),
    "objects": (only("YolosForObjectDetection", hf.YolosConfig, **IMAGE | {"image_size": [16, 16]}), NO_HEAD),
    "ctc": (only("Wav2Vec2ForCTC", hf.Wav2Vec2Config, **WAVES), NO_HEAD),
    "speakers": (only("Wav2Vec2ForXVector", hf.Wav2Vec2Config, **WAVES), NO_HEAD),
    "depth": (only("GLPNForDepthEstimation", hf.GLPNConfig), NO_HEAD),
    "no head": (only("BertModel", hf.BertConfig, **BERT), NO_HEAD),
    "time series": (only("PatchTSTForClassification", hf.PatchTSTConfig, d_model=8), NO_HEAD),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_head_without_one_label_per_item_is_named(case: str) -> None:
    """A head without one label per item is refused by name."""
    build, words = REFUSED[case]
    model = build()
    with pytest.raises(ValueError, match=words.format(type(model).__name__)):
        compute_loss_func(CrossEntropy(), model)


ONE_LABEL_EACH = {
    "SEQUENCE_CLASSIFICATION",
    "IMAGE_CLASSIFICATION",
    "VIDEO_CLASSIFICATION",
    "AUDIO_CLASSIFICATION",
    "AUDIO_FRAME_CLASSIFICATION",
    "TOKEN_CLASSIFICATION",
    "MULTIPLE_CHOICE",
    "NEXT_SENTENCE_PREDICTION",
    "SEMANTIC_SEGMENTATION",
    "MASKED_LM",
    "CAUSAL_LM",
    "SEQ_TO_SEQ_CAUSAL_LM",
    "SPEECH_SEQ_2_SEQ",
}
OF_SEVERAL_HEADS = {
    "IMAGE_TEXT_TO_TEXT",
    "MULTIMODAL_LM",
    "PRETRAINING",
    "TEXT_TO_WAVEFORM",
    "VISUAL_QUESTION_ANSWERING",
}
MAPPINGS = {
    name.removeprefix("MODEL_FOR_").removesuffix("_MAPPING_NAMES"): names.values()
    for name, names in vars(modeling_auto).items()
    if name.startswith("MODEL_FOR_") and name.endswith("_MAPPING_NAMES")
}


def without_parameters(name: str) -> Any:
    """Return a model of a class as transformers names its head, without its layers."""
    cls = getattr(hf, name)
    model = cls.__new__(cls)
    nn.Module.__init__(model)
    model.config = hf.PreTrainedConfig()
    model.config.is_encoder_decoder = False
    with torch.device("meta"):
        named = type(name, (hf.PreTrainedModel,), {"config_class": hf.PreTrainedConfig})(
            hf.PreTrainedConfig()
        )
    model.loss_type = named.loss_type
    return model


def message(model: Any) -> str:
    """Return what a model is refused with, or nothing."""
    try:
        compute_loss_func(CrossEntropy(), model)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("mapping", sorted(MAPPINGS.keys() - OF_SEVERAL_HEADS))
def test_every_class_of_transformers_is_taken_or_refused(mapping: str) -> None:
    """Every model class of transformers is accepted, or refused with a reason."""
    names = [one for each in MAPPINGS[mapping] for one in ((each,) if isinstance(each, str) else each)]
    for name in {*names[:2], names[-1]}:  # all of them take minutes to import
        said = message(without_parameters(name))
        if mapping not in ONE_LABEL_EACH:
            assert re.match(NO_HEAD.format(name), said)
        elif said:
            assert re.match(
                f"^model must (have a loss_type|shift its labels).* got .*{name}.* set model", said
            )


def bert(head: str = "SequenceClassification", **options: Any) -> Any:
    return getattr(hf, f"BertFor{head}")(hf.BertConfig(**BERT | options))


def mixtral() -> Any:
    options = LLAMA | {"num_key_value_heads": 1, "num_local_experts": 2, "output_router_logits": True}
    return hf.MixtralForCausalLM(hf.MixtralConfig(**options))


def prophet() -> Any:
    return hf.ProphetNetForConditionalGeneration(
        hf.ProphetNetConfig(
            vocab_size=V,
            hidden_size=8,
            encoder_ffn_dim=8,
            decoder_ffn_dim=8,
            num_encoder_layers=1,
            num_decoder_layers=1,
            num_encoder_attention_heads=2,
            num_decoder_attention_heads=2,
            max_position_embeddings=16,
        )
    )


def named(loss_type: str) -> Any:
    return declared(Plain(OUTPUTS["dict"], 6, 4), loss_type)


WORD = {"input_ids": tokens(N, T)}
HIDDEN = {"hidden": torch.zeros(2, 3, 6)}
PIXELS = {"pixel_values": torch.zeros(2, 3, 16, 16)}
PASSES: dict[str, tuple[Callable[[], Any], dict[str, Tensor], Tensor, str]] = {
    "several labels": (
        lambda: bert(problem_type="multi_label_classification"),
        WORD,
        torch.ones(N, 4),
        ONE_LABEL.format("multi_label_classification", "BertForSequenceClassification"),
    ),
    "several labels, not declared": (
        bert,
        WORD,
        torch.ones(N, 4),
        "^labels must sum to one when they are probabilities, got other sums for BertFor.*; a softmax loss",
    ),
    "several labels, as integers": (
        bert,
        WORD,
        torch.ones(N, 4, dtype=torch.long),
        r"^labels must be \(B,\) classes or .*, got \(8, 4\) for logits \(8, 4\) of BertForSequence",
    ),
    "regression": (
        lambda: bert(problem_type="regression"),
        WORD,
        torch.ones(N, 4),
        ONE_LABEL.format("regression", "BertForSequenceClassification"),
    ),
    "one output": (
        lambda: bert(num_labels=1),
        WORD,
        torch.ones(N),
        "^logits must have two classes or more, got one output of BertForSequenceC.*; a softmax over it is",
    ),
    "one output, integers": (
        lambda: bert(num_labels=1),
        WORD,
        torch.zeros(N, dtype=torch.long),
        "^logits must have two classes or more, got one output of BertForSequenceClassification; a softmax",
    ),
    "one output for a token": (
        lambda: bert("TokenClassification", num_labels=1),
        WORD,
        torch.zeros(N, T, dtype=torch.long),
        "^logits must have two classes or more, got one output of BertForTokenClassification; a softmax",
    ),
    "one output for a pixel": (
        lambda: segformer(num_labels=1),
        PIXELS,
        classes(2, 4, 4, of=1),
        "^logits must have two classes or more, got one output of SegformerForSemanticSegmentation; a sof",
    ),
    "labels of other tokens": (
        lambda: bert("TokenClassification"),
        WORD,
        classes(T, N),
        r"^labels must be \(B, T\) classes or .*, got \(5, 8\) for logits \(8, 5, 4\) of BertForTokenClassi",
    ),
    "probabilities that are shifted": (
        lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**LLAMA)),
        WORD,
        torch.full((N, T, V), 1 / V),
        "^labels must be classes for LlamaForCausalLM, which shifts them, got torch.float32; the Trainer",
    ),
    "labels not shifted, but counted as if": (
        lambda: hf.BartForCausalLM(hf.BartConfig(**SEQ2SEQ)),
        WORD,
        tokens(N, T),
        "^model must shift its labels, .*, got BartForCausalLM, which computes a loss of its own; before",
    ),
    "a second loss, of the router": (
        mixtral,
        WORD,
        tokens(N, T),
        "^outputs must have logits and no others, got aux_loss, router_logits in Moe.* of Mixtral",
    ),
    "a second loss, of tokens to come": (
        prophet,
        WORD | {"decoder_input_ids": tokens(N, T)},
        tokens(N, T),
        "^outputs must have logits and no others, got logits_ngram in ProphetNetSeq2SeqLMOutput of Prophet",
    ),
    "a second head for pixels": (
        beit,
        PIXELS,
        classes(2, 16, 16),
        "^model must have one head, got use_auxiliary_head True of BeitForSemanticSegmentation; set",
    ),
    "pixels that the Trainer counts": (
        lambda: segformer(semantic_loss_ignore_index=255, num_labels=300),
        PIXELS,
        torch.full((2, 4, 4), 255),
        "^ignored labels must be -100, .*, got 255, which SegformerForSemantic.* ignores; set",
    ),
    "pixels of no map": (
        segformer,
        PIXELS,
        classes(2),
        r"^labels must be \(B, H, W\) classes or .*, got \(2,\)",
    ),
    "more dimensions than are known": (
        lambda: Plain(OUTPUTS["dict"], 6, 4),
        HIDDEN,
        classes(2, 3),
        r"^logits must be \(B, C\), got \(2, 3, 4\) in dict of Plain; for another head set model.loss_type",
    ),
    "a square map of nothing known": (
        lambda: Plain(lambda logits: logits[:, :, None].expand(2, 4, 4, 4), 6, 4),
        {"hidden": torch.zeros(2, 4, 6)},
        classes(2, 4, 4),
        r"^logits must be \(B, C\), got \(2, 4, 4, 4\) in Tensor of Plain; for another head set model",
    ),
    "fewer dimensions than are said": (
        lambda: named("ForTokenClassification"),
        {"hidden": torch.zeros(2, 6)},
        classes(2),
        r"^logits must be \(B, T, C\), got \(2, 4\) in dict of Plain; for another head",
    ),
    "a head that is said": (lambda: named("ForCTC"), HIDDEN, classes(2, 3), NO_HEAD.format("Plain")),
    "no logits": (
        lambda: Plain(lambda logits: {"scores": logits}, 6, 4),
        {"hidden": torch.zeros(2, 6)},
        classes(2),
        "^outputs must have logits and no others, got none in dict of Plain; call the objective in",
    ),
    "a loss for logits": (
        lambda: Plain(lambda logits: (logits.sum(), logits), 6, 4),
        {"hidden": torch.zeros(2, 6)},
        classes(2),
        r"^logits must be \(B, C\), got \(\) in tuple of Plain; for another head",
    ),
}


@pytest.mark.parametrize("case", PASSES)
def test_a_pass_without_one_label_per_item_is_named(case: str) -> None:
    """Outputs or labels without one label per item are refused."""
    build, inputs, labels, words = PASSES[case]
    model = build()
    with pytest.raises(ValueError, match=words):
        compute_loss_func(CrossEntropy(), model)(model(**inputs), labels)


def test_the_way_out_of_a_question(tmp_path: Path) -> None:
    """What the message says: the objective in compute_loss of a Trainer subclass."""

    class Answering(Trainer):
        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            del num_items_in_batch
            outputs = model(input_ids=inputs["input_ids"])
            start = objective(outputs.start_logits, inputs["start_positions"])
            loss = (start + objective(outputs.end_logits, inputs["end_positions"])) / 2
            return (loss, outputs) if return_outputs else loss

    objective = Objective(CrossEntropy())
    model = hf.BertForQuestionAnswering(hf.BertConfig(**BERT | {"num_labels": 2}))
    batch = {"input_ids": tokens(N, T), "start_positions": classes(N), "end_positions": classes(N)}
    own = model.eval()(**batch).loss.item()
    trainer = Answering(model, arguments(tmp_path, N), train_dataset=rows(batch))
    assert trainer.evaluate(rows(batch))["eval_loss"] == pytest.approx(own, rel=1e-6)
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(own, rel=1e-6)
