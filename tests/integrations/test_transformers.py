"""transformers' Trainer and models with an objective: the same numbers as from whole logits."""

import copy
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("transformers", reason="transformers is not installed", exc_type=ImportError)

import transformers as hf
from peft import LoraConfig, get_peft_model
from transformers import Trainer, TrainingArguments

from equipoise import Objective
from equipoise.integrations.transformers import (
    ObjectiveCallback,
    compute_loss_func,
    fuse_lm_head,
    token_metrics,
)
from equipoise.losses import CrossEntropy, Focal, GammaCrossEntropy
from equipoise.penalties import Entropy
from equipoise.schedules import Cosine, Linear
from support.causal_models import ADAPTERS, ARCHITECTURES, SMALL, V, batch, lora, make
from support.trainer_options import OPTIONS

LOSS = GammaCrossEntropy(gamma=0.2) + 0.1 * Entropy()


def dense(model: Any, tokens: Tensor, labels: Tensor, loss: Any = LOSS) -> Tensor:
    logits = model(input_ids=tokens).logits
    return loss(logits[:, :-1].reshape(-1, V), labels[:, 1:].reshape(-1))


def gradients(model: nn.Module) -> dict[str, Tensor]:
    found = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
    model.zero_grad()
    return found


def check_fused(model: Any, base: Any = None, router: float = 0.0) -> None:
    """Compare loss and gradients with those of whole logits."""
    tokens, labels = batch()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    expected = dense(model, tokens, labels)
    if router:
        expected = expected + router * model(input_ids=tokens).aux_loss
    expected.backward()
    slopes = gradients(model)
    keys = list(model.state_dict())
    fuse_lm_head(model, LOSS)
    output = model(input_ids=tokens, labels=labels)
    output.loss.backward()
    assert output.logits is None
    torch.testing.assert_close(output.loss, expected, rtol=1e-6, atol=0)
    found = gradients(model)
    assert found.keys() == slopes.keys()
    for name, slope in slopes.items():
        torch.testing.assert_close(found[name], slope, rtol=1e-5, atol=1e-6 * float(slope.abs().max()))
    assert list(model.state_dict()) == keys


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_fused_model_has_the_loss_and_gradients_of_whole_logits(name: str) -> None:
    model = make(name)
    check_fused(model, router=model.config.router_aux_loss_coef if "router" in name else 0.0)


@ADAPTERS
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft's
def test_adapters(options: dict[str, Any]) -> None:
    """A fused model with adapters has the loss and gradients of a plain one, and so with them disabled."""
    check_fused(model := lora(**options))
    tokens, labels = batch()
    with model.disable_adapter(), torch.no_grad():
        torch.testing.assert_close(
            model(input_ids=tokens, labels=labels).loss, dense(model, tokens, labels), rtol=1e-6, atol=0
        )


class Widest(TorchDispatchMode):
    """The most rows of a tensor with as many columns as the vocabulary, among all that are ever made."""

    rows = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for each in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(each, Tensor) and each.ndim > 0 and each.shape[-1] == V:
                self.rows = max(self.rows, each.numel() // V)
        return made


def widest(folder: Path, model: Any, train: bool) -> int:
    rows = [{"input_ids": tokens, "labels": labels} for tokens, labels in zip(*batch(6, 20), strict=True)]
    trainer = Trainer(model=model, args=arguments(folder, max_steps=1), train_dataset=rows)
    with Widest() as found:
        trainer.train() if train else trainer.evaluate(rows)
    return found.rows


@pytest.mark.parametrize("train", [True, False])
def test_the_logits_are_never_made(train: bool, tmp_path: Path) -> None:
    model = make()
    assert widest(tmp_path, model, train) >= (6 * 20 if train else 5 * 20)  # the plain model's are seen
    fuse_lm_head(model, LOSS, block_bytes=4 * V * 8)
    assert widest(tmp_path, model, train) < 20


def test_a_pass_without_labels_has_logits_and_undo_leaves_nothing(tmp_path: Path) -> None:
    model = make("llama, tied").eval()
    tokens, labels = batch()
    before, attributes = model(input_ids=tokens), set(vars(model)) | set(vars(model.lm_head))
    generated = model.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=3)
    fused = fuse_lm_head(model, LOSS)
    assert model(input_ids=tokens, labels=labels).logits is None
    assert model.lm_head(torch.zeros(2, 16)).shape == (2, V)
    assert torch.equal(model(input_ids=tokens).logits, before.logits)
    again = model.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=3)
    assert torch.equal(again, generated)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    model.save_pretrained(tmp_path)
    loaded = hf.LlamaForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded(input_ids=tokens).logits, before.logits)
    fused.undo()
    assert set(vars(model)) | set(vars(model.lm_head)) == attributes
    assert model(input_ids=tokens, labels=labels).logits is not None


def test_a_copy_has_a_head_of_its_own() -> None:
    model, (tokens, labels) = make(), batch()
    fuse_lm_head(model, LOSS)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.lm_head.weight.mul_(2)
        for each in (twin, model):
            torch.testing.assert_close(
                each(input_ids=tokens, labels=labels).loss, dense(each, tokens, labels), rtol=1e-6, atol=0
            )


def test_a_pass_that_fails_leaves_no_trace() -> None:
    model, (tokens, labels) = make(), batch()
    fuse_lm_head(model, LOSS)
    with pytest.raises(ValueError, match="target"):
        model(input_ids=tokens, labels=labels[:, 1:])
    assert model.lm_head(torch.zeros(2, 16)).shape == (2, V)
    assert model(input_ids=tokens).logits.shape == (3, 9, V)


def test_shifted_labels_are_taken_as_they_are() -> None:
    model, (tokens, labels) = make(), batch()
    fuse_lm_head(model, LOSS)
    shift = F.pad(labels[:, 1:], (0, 1), value=-100)
    plain = model(input_ids=tokens, labels=labels).loss
    assert torch.equal(model(input_ids=tokens, labels=labels, shift_labels=shift).loss, plain)
    moved = model(input_ids=tokens, labels=labels, shift_labels=shift.roll(1, 0)).loss
    assert (moved - plain).abs() > 1e-4


def test_tuples_and_half_precision() -> None:
    model, (tokens, labels) = make().bfloat16(), batch()
    expected = dense(model, tokens, labels)
    fuse_lm_head(model, LOSS)
    (loss,) = model(input_ids=tokens, labels=labels, return_dict=False, use_cache=False)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=1e-3, atol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model.float()(input_ids=tokens, labels=labels).loss
    torch.testing.assert_close(loss, expected, rtol=1e-2, atol=0)


def test_class_weights_are_factors_and_no_part_of_the_count() -> None:
    model, (tokens, labels) = make(), batch()
    objective = Objective(CrossEntropy(), weight=torch.linspace(0.1, 3, V))
    logits, target = model(input_ids=tokens).logits[:, :-1].reshape(-1, V), labels[:, 1:].reshape(-1)
    kept = (target != -100).sum()
    expected = objective(logits, target, reduction="sum") / kept
    fuse_lm_head(model, objective)
    for count in (None, kept, int(kept)):
        given = {} if count is None else {"num_items_in_batch": count}
        torch.testing.assert_close(model(input_ids=tokens, labels=labels, **given).loss, expected)
        found = compute_loss_func(objective, model)({"logits": model(input_ids=tokens).logits}, labels, count)
        torch.testing.assert_close(found, expected)
    assert (objective(logits, target) - expected).abs() > 0.1  # torch's mean divides by the weights


# The Trainer

TEXT = [
    {"input_ids": tokens, "labels": torch.where(torch.arange(12) < i, -100, tokens)}
    for i, tokens in enumerate(batch(8, 12)[0])
]


def arguments(folder: Path, **options: Any) -> TrainingArguments:
    given: dict[str, Any] = dict(
        output_dir=str(folder),
        per_device_train_batch_size=8,
        per_device_eval_batch_size=5,
        learning_rate=0.5,
    )
    return TrainingArguments(**OPTIONS | given | options)


def parameters(model: nn.Module) -> Tensor:
    return torch.cat([each.detach().flatten() for each in model.parameters()])


def logged(trainer: Trainer, name: str = "loss") -> list[float]:
    return [entry[name] for entry in trainer.state.log_history if "loss" in entry]


def trained(folder: Path, how: str, size: int, steps: int) -> tuple[Trainer, Tensor]:
    model, func = make(), None
    if how == "fused":
        fuse_lm_head(model, LOSS)
    elif how == "func":
        func = compute_loss_func(LOSS, model)
    else:  # the trap: a mean of each batch

        def func(outputs: Any, labels: Tensor, num_items_in_batch: Any) -> Tensor:
            return dense(lambda input_ids: outputs, labels, labels) / steps

    args = arguments(folder, per_device_train_batch_size=size, gradient_accumulation_steps=steps)
    trainer = Trainer(model=model, args=args, train_dataset=TEXT, compute_loss_func=func)
    trainer.train()
    return trainer, parameters(model)


@pytest.mark.parametrize("how", ["fused", "func", "mean of each batch"])
def test_a_step_is_the_same_however_it_is_cut(how: str, tmp_path: Path) -> None:
    whole, expected = trained(tmp_path, how, 8, 1)
    cut, found = trained(tmp_path, how, 2, 4)
    tokens, labels = (torch.stack([row[name] for row in TEXT]) for name in ("input_ids", "labels"))
    first = dense(make(), tokens, labels).item()
    assert logged(whole)[0] == pytest.approx(first, rel=1e-6)
    assert (expected - parameters(make())).abs().max() > 5e-3
    difference = (found - expected).abs().max()
    if how == "mean of each batch":
        assert difference > 1e-4
    else:
        assert difference < 1e-6
        assert logged(cut) == pytest.approx(logged(whole), rel=1e-6)


def test_a_model_without_a_loss_type_is_counted_as_its_labels_are_shifted(tmp_path: Path) -> None:
    tokens, labels = (torch.stack([row[name] for row in TEXT]) for name in ("input_ids", "labels"))
    model = make("gpt2")
    assert model.loss_type is None
    trainer = Trainer(model=model, args=arguments(tmp_path), train_dataset=TEXT)
    first = dense(model.eval(), tokens, labels, CrossEntropy()).item()
    assert trainer.evaluate(TEXT)["eval_loss"] < 0.99 * first  # as the first labels are counted
    fuse_lm_head(model, CrossEntropy())
    trainer = Trainer(model=model, args=arguments(tmp_path, per_device_eval_batch_size=8), train_dataset=TEXT)
    assert trainer.evaluate(TEXT)["eval_loss"] == pytest.approx(first, rel=1e-6)


def test_evaluation_reports_the_statistics_of_all_tokens(tmp_path: Path) -> None:
    model = make()
    fuse_lm_head(model, LOSS)
    rows = [{name: value[: 12 - i % 3].tolist() for name, value in row.items()} for i, row in enumerate(TEXT)]
    collate = hf.DataCollatorForSeq2Seq(
        hf.PreTrainedTokenizerFast(tokenizer_object=_tokenizer(), pad_token="<pad>"), label_pad_token_id=-100
    )
    trainer = Trainer(
        model=model,
        args=arguments(tmp_path, per_device_eval_batch_size=3),
        data_collator=collate,
        compute_metrics=token_metrics,
    )
    found = trainer.evaluate(rows)
    nll, right, entropy = [], [], []
    for row in rows:
        logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1].detach().double()
        target = torch.tensor(row["labels"][1:])
        kept = target != -100
        log_probs = logits.log_softmax(-1)[kept]
        nll.append(-log_probs.gather(1, target[kept][:, None])[:, 0])
        right.append(logits.argmax(-1)[kept] == target[kept])
        entropy.append(-(log_probs.exp() * log_probs).sum(-1))
    expected = {
        "eval_nll": torch.cat(nll).mean(),
        "eval_perplexity": torch.cat(nll).mean().exp(),
        "eval_target_prob": (-torch.cat(nll)).exp().mean(),
        "eval_accuracy": torch.cat(right).double().mean(),
        "eval_entropy": torch.cat(entropy).mean(),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(float(value), rel=1e-5), name
    assert trainer.predict(rows).predictions.shape == (8, 12, 4)


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models

    return Tokenizer(models.WordLevel({"<pad>": 0}, unk_token="<pad>"))


def run(
    folder: Path,
    schedule: Any,
    how: str = "fused",
    *,
    stop: int | None = None,
    length: float | None = None,
    **options: Any,
) -> tuple[Trainer, Objective]:
    """Train six steps of two batches, or until a stop, with a scheduled gamma."""
    objective = Objective(GammaCrossEntropy(), schedules={"gamma": schedule})
    model, func = make(), None
    if how == "fused":
        fuse_lm_head(model, objective)
    else:
        func = compute_loss_func(objective, model)
    args = arguments(
        folder,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        max_steps=6,
        optim="adamw_torch",
        learning_rate=0.01,
        save_strategy="steps",
        save_steps=3,
    )
    callbacks: list[Any] = [ObjectiveCallback(objective, length=length)]
    if stop is not None:
        callbacks.append(Stop(stop))
    trainer = Trainer(model=model, args=args, train_dataset=TEXT, compute_loss_func=func, callbacks=callbacks)
    trainer.train(**options)
    return trainer, objective


class Stop(hf.TrainerCallback):
    """Ends the training as if it had been interrupted after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step == self.step


@pytest.mark.parametrize("how", ["fused", "func"])
def test_a_schedule_moves_once_per_step_of_the_optimiser(how: str, tmp_path: Path) -> None:
    trainer, objective = run(tmp_path, Linear(0, 0.6, steps=6), how)
    assert logged(trainer, "gamma") == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])
    assert objective.steps == 6
    assert objective.scheduled() == {"gamma": pytest.approx(0.6)}


def test_a_schedule_in_percent_of_the_training(tmp_path: Path) -> None:
    trainer, _ = run(tmp_path, Linear(0, 0.6, steps=50), length=100)
    assert logged(trainer, "gamma") == pytest.approx([0, 0.2, 0.4, 0.6, 0.6, 0.6])


@pytest.mark.parametrize("schedule", [Linear(0, 0.6, steps=6), Cosine(0.6, 0, steps=6)])
def test_a_run_that_resumes_is_the_run_that_was_not_interrupted(schedule: Any, tmp_path: Path) -> None:
    whole, expected = run(tmp_path / "whole", schedule)
    run(tmp_path / "part", schedule, stop=3)
    resumed, found = run(
        tmp_path / "part", schedule, resume_from_checkpoint=str(tmp_path / "part" / "checkpoint-3")
    )
    assert torch.equal(parameters(resumed.model), parameters(whole.model))
    assert logged(resumed, "gamma") == logged(whole, "gamma")
    assert len(set(logged(whole, "gamma"))) > 3
    assert found.scheduled() == expected.scheduled()


# compute_loss_func


@pytest.mark.parametrize("kind", ["sequence", "token", "soft"])
def test_classifiers(kind: str, tmp_path: Path) -> None:
    """Classifiers train with an objective as with the same loss computed apart."""
    sizes = {name: SMALL[name] for name in ("vocab_size", "hidden_size", "num_hidden_layers")}
    config = hf.BertConfig(
        **sizes,
        intermediate_size=16,
        num_attention_heads=2,
        num_labels=4,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    loss = Focal(gamma=1.0)
    labels: dict[str, Any] = {
        "sequence": torch.arange(8) % 4,
        "token": torch.where(torch.arange(12) < torch.arange(8)[:, None], -100, 1),
        "soft": torch.rand(8, 4).softmax(1),
    }
    rows = [
        {"input_ids": row["input_ids"], "labels": label}
        for row, label in zip(TEXT, labels[kind], strict=True)
    ]

    def classifier() -> Any:
        torch.manual_seed(0)
        return (hf.BertForTokenClassification if kind == "token" else hf.BertForSequenceClassification)(
            config
        )

    found = []
    for size, steps in ((8, 1), (2, 4)):
        model = classifier()
        args = arguments(tmp_path, per_device_train_batch_size=size, gradient_accumulation_steps=steps)
        func = compute_loss_func(loss, model)
        trainer = Trainer(
            model=model, args=args, train_dataset=rows, eval_dataset=rows, compute_loss_func=func
        )
        trainer.train()
        found.append((logged(trainer)[0], parameters(model)))
    logits = classifier()(input_ids=torch.stack([row["input_ids"] for row in rows])).logits
    expected = loss(logits.flatten(0, -2), labels[kind].flatten() if kind != "soft" else labels[kind])
    for value, _ in found:
        assert value == pytest.approx(expected.item(), rel=1e-6)
    assert (found[0][1] - found[1][1]).abs().max() < 1e-6


def test_encoder_decoders_are_not_shifted() -> None:
    model = hf.T5ForConditionalGeneration(
        hf.T5Config(
            vocab_size=V, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0
        )
    ).eval()
    tokens, labels = batch()
    output = model(input_ids=tokens, labels=labels)
    assert torch.isclose(compute_loss_func(CrossEntropy(), model)(output, labels), output.loss)


# What is refused


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
