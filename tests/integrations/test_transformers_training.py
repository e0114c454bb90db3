"""Training and evaluation by transformers' Trainer: steps, schedules, resumed runs, classifiers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("transformers", reason="transformers is not installed", exc_type=ImportError)

import transformers as hf
from transformers import Trainer

from equipoise import Objective
from equipoise.integrations.transformers import (
    ObjectiveCallback,
    compute_loss_func,
    fuse_lm_head,
    token_metrics,
)
from equipoise.losses import CrossEntropy, Focal, GammaCrossEntropy
from equipoise.schedules import Cosine, Linear
from support.causal_models import SMALL, V, batch, make
from support.trained_models import LOSS, TEXT, arguments, dense


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
