"""Models with each head of transformers, a batch for each, and their losses as textbooks have them."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from transformers import TrainingArguments

hf: Any = transformers  # whose models take any options of a config
V, T, N = 23, 5, 8
BERT: dict[str, Any] = dict(
    vocab_size=V,
    hidden_size=8,
    intermediate_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_labels=4,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)
LLAMA: dict[str, Any] = dict(BERT, pad_token_id=0, bos_token_id=1, eos_token_id=2)
IMAGE: dict[str, Any] = dict(BERT, image_size=16, patch_size=8)
SEQ2SEQ: dict[str, Any] = dict(
    vocab_size=V,
    d_model=8,
    encoder_layers=1,
    decoder_layers=1,
    encoder_attention_heads=2,
    decoder_attention_heads=2,
    encoder_ffn_dim=8,
    decoder_ffn_dim=8,
    max_position_embeddings=16,
    dropout=0.0,
    scale_embedding=False,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
    decoder_start_token_id=2,
    forced_eos_token_id=None,
)
T5: dict[str, Any] = dict(
    vocab_size=V,
    d_model=8,
    d_kv=4,
    d_ff=8,
    num_layers=1,
    num_heads=2,
    dropout_rate=0.0,
    decoder_start_token_id=0,
    num_labels=4,
)
WAVES: dict[str, Any] = dict(
    BERT,
    conv_dim=(8,),
    conv_kernel=(8,),
    conv_stride=(4,),
    num_conv_pos_embeddings=4,
    num_conv_pos_embedding_groups=2,
    classifier_proj_size=8,
    hidden_dropout=0.0,
    attention_dropout=0.0,
    activation_dropout=0.0,
    feat_proj_dropout=0.0,
    final_dropout=0.0,
    layerdrop=0.0,
    apply_spec_augment=False,
    tdnn_dim=(8,),
    tdnn_kernel=(1,),
    tdnn_dilation=(1,),
    xvector_output_dim=8,
)
SEGFORMER: dict[str, Any] = dict(
    num_encoder_blocks=1,
    depths=[1],
    sr_ratios=[1],
    hidden_sizes=[8],
    num_attention_heads=[2],
    patch_sizes=[7],
    strides=[4],
    mlp_ratios=[1],
    decoder_hidden_size=8,
    classifier_dropout_prob=0.0,
    drop_path_rate=0.0,
    hidden_dropout_prob=0.0,
    num_labels=4,
    semantic_loss_ignore_index=-100,
)
BEIT: dict[str, Any] = dict(
    IMAGE,
    num_hidden_layers=4,
    out_indices=[1, 2, 3, 4],
    drop_path_rate=0.0,
    semantic_loss_ignore_index=-100,
)


def segformer(**options: Any) -> Any:
    return plain_norm(hf.SegformerForSemanticSegmentation(hf.SegformerConfig(**SEGFORMER | options)))


def beit(**options: Any) -> Any:
    return plain_norm(hf.BeitForSemanticSegmentation(hf.BeitConfig(**BEIT | options)))


def plain_norm(model: Any) -> Any:
    """Leave out batch normalisation, under which a step depends on how it is cut into batches."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, nn.Identity())
    return model


def encoder_decoder() -> Any:
    config = hf.BertConfig(**LLAMA)
    both = hf.EncoderDecoderConfig.from_encoder_decoder_configs(config, copy.deepcopy(config))
    both.pad_token_id, both.decoder_start_token_id = 0, 1
    return hf.EncoderDecoderModel(both)


def declared(model: Any, loss_type: str) -> Any:
    model.loss_type = loss_type
    return model


def tokens(*shape: int) -> Tensor:
    return torch.randint(3, V, shape)


def classes(*shape: int, of: int = 4) -> Tensor:
    return torch.randint(0, of, shape)


def partly(labels: Tensor) -> Tensor:
    """Ignore an uneven part of each row."""
    labels = labels.clone()
    for i, row in enumerate(labels):
        row.flatten()[: i % 3] = -100
    return labels


# Each head: how to make the model, and a batch of N items.
Make = tuple[Callable[[], Any], Callable[[], dict[str, Tensor]]]


def text(labels: Callable[[], Tensor]) -> Callable[[], dict[str, Tensor]]:
    return lambda: {"input_ids": tokens(N, T), "labels": labels()}


def pairs() -> dict[str, Tensor]:
    return {
        "input_ids": tokens(N, T),
        "labels": partly(tokens(N, T - 1)),
        "decoder_input_ids": tokens(N, T - 1),
    }


def image(*labels: int) -> Callable[[], dict[str, Tensor]]:
    return lambda: {"pixel_values": torch.randn(N, 3, 16, 16), "labels": partly(classes(N, *labels))}


def picture() -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(N, 3, 16, 16), "labels": classes(N)}


def one_hot_frames() -> dict[str, Tensor]:
    return {"input_values": torch.randn(N, 28), "labels": F.one_hot(classes(N, 6), 4).float()}


ROWS = text(lambda: classes(N))
WORDS = text(lambda: partly(tokens(N, T)))
HEADS: dict[str, Make] = {
    "sequence, bert": (lambda: hf.BertForSequenceClassification(hf.BertConfig(**BERT)), ROWS),
    "sequence, llama": (lambda: hf.LlamaForSequenceClassification(hf.LlamaConfig(**LLAMA)), ROWS),
    "sequence, t5": (
        lambda: hf.T5ForSequenceClassification(hf.T5Config(**T5, eos_token_id=2)),
        lambda: {"input_ids": F.pad(tokens(N, T), (0, 1), value=2), "labels": classes(N)},
    ),
    "sequence, declared": (
        lambda: hf.BertForSequenceClassification(
            hf.BertConfig(**BERT, problem_type="single_label_classification")
        ),
        ROWS,
    ),
    "next sentence": (
        lambda: hf.BertForNextSentencePrediction(hf.BertConfig(**BERT)),
        text(lambda: classes(N, of=2)),
    ),
    "multiple choice": (
        lambda: hf.BertForMultipleChoice(hf.BertConfig(**BERT)),
        lambda: {"input_ids": tokens(N, 3, T), "labels": classes(N, of=3)},
    ),
    "image, vit": (lambda: hf.ViTForImageClassification(hf.ViTConfig(**IMAGE)), picture),
    "image, resnet": (
        lambda: plain_norm(
            hf.ResNetForImageClassification(
                hf.ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], num_labels=4)
            )
        ),
        picture,
    ),
    "video": (
        lambda: hf.VideoMAEForVideoClassification(hf.VideoMAEConfig(**IMAGE, num_frames=2)),
        lambda: {"pixel_values": torch.randn(N, 2, 3, 16, 16), "labels": classes(N)},
    ),
    "audio, spectrogram": (
        lambda: hf.ASTForAudioClassification(hf.ASTConfig(**BERT, max_length=24, num_mel_bins=16)),
        lambda: {"input_values": torch.randn(N, 24, 16), "labels": classes(N)},
    ),
    "audio, wave": (
        lambda: hf.Wav2Vec2ForSequenceClassification(hf.Wav2Vec2Config(**WAVES)),
        lambda: {"input_values": torch.randn(N, 28), "labels": classes(N)},
    ),
    "audio frames": (
        lambda: hf.Wav2Vec2ForAudioFrameClassification(hf.Wav2Vec2Config(**WAVES)),
        one_hot_frames,
    ),
    "token, as many as classes": (
        lambda: hf.BertForTokenClassification(hf.BertConfig(**BERT | {"num_labels": T})),
        text(lambda: partly(classes(N, T, of=T))),
    ),
    "token, t5": (
        lambda: hf.T5ForTokenClassification(hf.T5Config(**T5)),
        text(lambda: partly(classes(N, T))),
    ),
    "masked, bert": (lambda: hf.BertForMaskedLM(hf.BertConfig(**BERT)), WORDS),
    "masked, distilbert": (
        lambda: hf.DistilBertForMaskedLM(
            hf.DistilBertConfig(
                vocab_size=V, dim=8, hidden_dim=8, n_layers=1, n_heads=2, dropout=0.0, attention_dropout=0.0
            )
        ),
        WORDS,
    ),
    "masked, without a loss_type": (
        lambda: hf.FlaubertWithLMHeadModel(
            hf.FlaubertConfig(
                vocab_size=V, n_words=V, emb_dim=8, n_layers=1, n_heads=2, dropout=0.0, attention_dropout=0.0
            )
        ),
        WORDS,
    ),
    "causal, llama": (lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**LLAMA)), WORDS),
    "causal, gpt2": (
        lambda: declared(
            hf.GPT2LMHeadModel(
                hf.GPT2Config(
                    vocab_size=V,
                    n_embd=8,
                    n_layer=1,
                    n_head=2,
                    resid_pdrop=0.0,
                    embd_pdrop=0.0,
                    attn_pdrop=0.0,
                )
            ),
            "ForCausalLM",
        ),
        WORDS,
    ),
    "not shifted, as declared": (
        lambda: declared(hf.BartForCausalLM(hf.BartConfig(**SEQ2SEQ)), "ForMaskedLM"),
        WORDS,
    ),
    "sequence to sequence, bart": (lambda: hf.BartForConditionalGeneration(hf.BartConfig(**SEQ2SEQ)), pairs),
    "sequence to sequence, mbart": (
        lambda: hf.MBartForConditionalGeneration(hf.MBartConfig(**SEQ2SEQ)),
        pairs,
    ),
    "sequence to sequence, marian": (lambda: hf.MarianMTModel(hf.MarianConfig(**SEQ2SEQ)), pairs),
    "sequence to sequence, pegasus": (
        lambda: hf.PegasusForConditionalGeneration(hf.PegasusConfig(**SEQ2SEQ)),
        pairs,
    ),
    "sequence to sequence, t5": (lambda: hf.T5ForConditionalGeneration(hf.T5Config(**T5)), pairs),
    "sequence to sequence, two berts": (encoder_decoder, pairs),
    "pixels, as wide as classes": (segformer, image(4, 4)),
    "pixels, of a larger map": (segformer, image(13, 17)),
    "pixels, beit": (lambda: beit(use_auxiliary_head=False), image(16, 16)),
}

TRAINED = [  # one of each kind
    "sequence, bert",
    "next sentence",
    "multiple choice",
    "image, vit",
    "video",
    "audio, wave",
    "audio frames",
    "token, as many as classes",
    "masked, bert",
    "causal, llama",
    "causal, gpt2",
    "not shifted, as declared",
    "sequence to sequence, bart",
    "sequence to sequence, t5",
    "pixels, of a larger map",
]


def make(name: str) -> tuple[Any, dict[str, Tensor]]:
    """Return a model with logits that matter, and a batch."""
    torch.manual_seed(0)
    build, batch = HEADS[name]
    model = build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return model, batch()


def textbook(model: Any, batch: dict[str, Tensor]) -> tuple[float, float]:
    """Return cross entropy in float64 and the norm of its gradient, by the layout of each kind of head."""
    model = copy.deepcopy(model).double()
    inputs = {name: value.double() if value.is_floating_point() else value for name, value in batch.items()}
    labels = inputs.pop("labels")
    logits = model(**inputs).logits
    if type(model).__name__ in ("LlamaForCausalLM", "GPT2LMHeadModel"):
        logits, labels = logits[:, :-1], labels[:, 1:]
    if logits.ndim == 4:
        logits = F.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=False)
        logits = logits.permute(0, 2, 3, 1)
    if labels.is_floating_point():  # one-hot
        labels = labels.argmax(-1)
    log_probs = logits.reshape(-1, logits.shape[-1]).log_softmax(1)
    kept = labels.reshape(-1) != -100
    loss = -log_probs[kept, labels.reshape(-1)[kept]].mean()
    loss.backward()
    norms = [each.grad.norm() for each in model.parameters() if each.grad is not None]
    return loss.item(), torch.stack(norms).norm().item()


def arguments(folder: Path, size: int, steps: int = 1) -> TrainingArguments:
    """The Trainer's own choices: Adam, a schedule, a clipped gradient."""
    return TrainingArguments(
        str(folder),
        per_device_train_batch_size=size,
        per_device_eval_batch_size=N,
        gradient_accumulation_steps=steps,
        max_steps=1,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )


def rows(batch: dict[str, Tensor]) -> Any:
    return [{name: value[i] for name, value in batch.items()} for i in range(N)]


class Plain(nn.Module):
    """A module that knows nothing of transformers."""

    def __init__(self, outputs: Callable[[Tensor], Any], *features: int) -> None:
        super().__init__()
        self.layer = nn.Linear(features[0], features[1])
        self.outputs = outputs

    def forward(self, hidden: Tensor, labels: Tensor | None = None) -> Any:
        del labels
        return self.outputs(self.layer(hidden))


OUTPUTS: dict[str, Callable[[Tensor], Any]] = {
    "tensor": lambda logits: logits,
    "tuple": lambda logits: (logits,),
    "dict": lambda logits: {"logits": logits},
}
