"""Models, objectives and arguments that `integrations.transformers` refuses, and what the errors say."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("transformers", reason="transformers is not installed", exc_type=ImportError)

import transformers as hf
from peft import LoraConfig, get_peft_model
from transformers import Trainer

from equipoise import Objective
from equipoise.integrations.transformers import (
    ObjectiveCallback,
    compute_loss_func,
    fuse_lm_head,
    token_metrics,
)
from support.causal_models import SMALL, V, batch, lora, make
from support.trained_models import LOSS, TEXT, arguments


def test_a_missing_library_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, "equipoise.integrations.transformers")
    with pytest.raises(ImportError, match=r"^integrations\.transformers needs transformers; pip install"):
        importlib.import_module("equipoise.integrations.transformers")


def unfusable(case: str) -> None:
    tokens, labels = batch()
    if case == "other head":
        model = make()
        model.set_output_embeddings(nn.Sequential(model.lm_head))
        fuse_lm_head(model, LOSS)
    if case == "no causal model":
        fuse_lm_head(hf.BertForMaskedLM(hf.BertConfig(**SMALL)), LOSS)
    if case == "sharded":
        model = make()
        model._tp_size = 2
        fuse_lm_head(model, LOSS)
    if case == "twice":
        fuse_lm_head(model := make(), LOSS)
        fuse_lm_head(model, LOSS)
    if case == "no loss":
        fuse_lm_head(make(), "cross entropy")  # pyright: ignore[reportArgumentType]
    if case == "sum":
        fuse_lm_head(make(), Objective(LOSS, reduction="sum"))
    if case == "ignore_index":
        compute_loss_func(Objective(LOSS, ignore_index=0), make())
    if case == "several labels":
        model = make()
        model.config.problem_type = "multi_label_classification"
        compute_loss_func(LOSS, model)
    if case == "unknown shift":
        compute_loss_func(LOSS, make("gpt2"))
    if case == "no labels":
        compute_loss_func(LOSS, make())({"logits": torch.zeros(2, 3, V)}, None)
    if case == "dropout":
        fuse_lm_head(lora(target_modules=["lm_head"], lora_dropout=0.1), LOSS)
    if case == "dora":
        fuse_lm_head(lora(target_modules=["lm_head"], use_dora=True), LOSS)
    if case == "adapter afterwards":
        fuse_lm_head(model := make(), LOSS)
        get_peft_model(model, LoraConfig(target_modules=["lm_head"]))(input_ids=tokens, labels=labels)
    if case == "resized afterwards":
        fuse_lm_head(model := make(), LOSS)
        model.resize_token_embeddings(V + 3, mean_resizing=False)
        model(input_ids=tokens, labels=labels)
    if case == "labels taken away":
        fuse_lm_head(model := make(), LOSS)
        model(input_ids=tokens, num_items_in_batch=3)
    if case == "loss of its own":
        model = hf.BartForCausalLM(
            hf.BartConfig(
                vocab_size=V, d_model=16, decoder_layers=1, decoder_ffn_dim=16, decoder_attention_heads=2
            )
        )
        fuse_lm_head(model, LOSS)
        model(input_ids=tokens, labels=labels)
    if case == "replica":
        fuse_lm_head(model := make(), LOSS)
        replica = model._replicate_for_data_parallel()
        replica(input_ids=tokens, labels=labels)
    if case == "callback of a loss":
        ObjectiveCallback(LOSS)  # pyright: ignore[reportArgumentType]
    if case == "length":
        ObjectiveCallback(Objective(LOSS), length=0)
    if case == "other predictions":
        token_metrics(hf.EvalPrediction(predictions=torch.zeros(2, 3, V).numpy(), label_ids=labels.numpy()))


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft's
@pytest.mark.parametrize(
    ("case", "error", "words"),
    [
        (
            "other head",
            TypeError,
            r"^the head must be a torch.nn.Linear, or LoRA of one, got torch\.nn\..*\.Sequential; leave the",
        ),
        (
            "no causal model",
            ValueError,
            "^model must be a causal language model of .*, got BertForMaskedLM; for another",
        ),
        ("sharded", ValueError, "^model must hold its head whole, got tp_size 2; use compute_loss_func$"),
        (
            "twice",
            ValueError,
            "^model must have the forward pass of its class in its head, got .*; undo what",
        ),
        (
            "no loss",
            TypeError,
            "^objective must be a loss or an Objective, got 'cross entropy'; Obj",
        ),
        (
            "sum",
            ValueError,
            "^objective must have reduction 'mean', got 'sum'; the Trainer says what to divide",
        ),
        ("ignore_index", ValueError, "^objective must have ignore_index -100, .*, got 0; set those labels"),
        ("several labels", ValueError, "^model must have one label per item, got .*multi_label.*; a softmax"),
        (
            "unknown shift",
            ValueError,
            "^model must have a loss_type .*, got none for GPT2LMHeadModel; before",
        ),
        ("no labels", ValueError, "^labels must be given, got None; add them to the batches$"),
        (
            "dropout",
            ValueError,
            "^the LoRA of the head must be one plain adapter .*, got lora_dropout=0.1; cha",
        ),
        (
            "dora",
            ValueError,
            "^the LoRA of the head must be .*, got the variant DoraLinearVariant; change that",
        ),
        (
            "adapter afterwards",
            NotImplementedError,
            "^logits of a fused head may only be .*, got them .*; for",
        ),
        (
            "resized afterwards",
            RuntimeError,
            "^the head of a fused model must not be replaced, got .*; call fuse",
        ),
        (
            "labels taken away",
            RuntimeError,
            "^labels must reach a fused model, got num_items_in_batch .*; leave",
        ),
        (
            "loss of its own",
            NotImplementedError,
            "^logits of a fused head may only be .*, got them .*; for this",
        ),
        ("replica", RuntimeError, "^a fused model must not be replicated by DataParallel; use one process"),
        ("callback of a loss", TypeError, "^objective must be an Objective, got .*; a loss alone has no"),
        ("length", ValueError, "^length must be above 0, got 0; None for the optimiser's steps$"),
        ("other predictions", ValueError, r"^predictions must be .* got \(2, 3, 61\); see fuse_lm_head$"),
    ],
)
def test_what_is_refused(case: str, error: type[Exception], words: str) -> None:
    """A model that cannot be fused is refused with its reason."""
    with pytest.raises(error, match=words):
        unfusable(case)


@pytest.mark.parametrize("options", [{"use_liger_kernel": True}, {"label_smoothing_factor": 0.1}])
def test_the_callback_refuses_what_would_compute_the_loss_elsewhere(
    options: dict[str, Any], tmp_path: Path
) -> None:
    (name,) = options
    callback = ObjectiveCallback(Objective(LOSS))
    with pytest.raises(ValueError, match=f"^{name} must be left out with an objective, got .*; the Trainer"):
        Trainer(model=make(), args=arguments(tmp_path, **options), callbacks=[callback])


def test_label_smoothing_is_refused_without_the_callback_too(tmp_path: Path) -> None:
    fuse_lm_head(model := make(), LOSS)
    args = arguments(tmp_path, label_smoothing_factor=0.1)
    with pytest.raises(RuntimeError, match=r"^labels must reach a fused model"):
        Trainer(model=model, args=args, train_dataset=TEXT).train()


@pytest.mark.parametrize(
    "act",
    [
        lambda z: z[..., :3],
        lambda z: z + 1.0,
        lambda z: 1.0 - z,
        lambda z: z * torch.ones(()),
        lambda z: z / True,
        lambda z: z.tanh() * -1.0,
        lambda z: z.tanh().tanh(),
        lambda z: torch.logsumexp(z, -1),
        lambda z: z.view(-1),
    ],
)
def test_what_else_is_done_to_pending_logits_raises(act: Callable[[Any], Any]) -> None:
    class OddForCausalLM(hf.LlamaForCausalLM):
        def forward(self, input_ids: Tensor, labels: Tensor | None = None, **kwargs: Any) -> Any:
            logits = act(self.lm_head(self.model(input_ids).last_hidden_state))
            return self.loss_function(logits, labels, V)

    model, (tokens, labels) = OddForCausalLM(hf.LlamaConfig(**SMALL)), batch()
    fuse_lm_head(model, LOSS)
    with pytest.raises(
        NotImplementedError, match=r"^logits of a fused head may only be scaled by a number and"
    ):
        model(input_ids=tokens, labels=labels)
