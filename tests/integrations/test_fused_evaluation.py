"""What a fused model reports in evaluation, in every way the Trainer has to evaluate."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("transformers", reason="transformers is not installed", exc_type=ImportError)

from transformers import Trainer, TrainingArguments

from equipoise.integrations.transformers import fuse_lm_head, token_metrics
from equipoise.losses import CrossEntropy
from support.causal_models import V, batch, make
from support.trainer_options import OPTIONS

LOSS = CrossEntropy()


def broken() -> Any:
    """A model whose logits are nan for a sequence with token 3, and for no other."""
    model = make()
    with torch.no_grad():
        model.model.embed_tokens.weight[3] = torch.nan
    fuse_lm_head(model, LOSS)
    return model


def rows(count: int = 5) -> list[dict[str, Tensor]]:
    tokens, labels = batch(count, 9)
    tokens[tokens == 3] = 4
    return [
        {"input_ids": a, "labels": torch.where(b == 3, 4, b)} for a, b in zip(tokens, labels, strict=True)
    ]


def evaluate(folder: Path, model: Any, data: Any = None, **options: Any) -> tuple[dict[str, float], Trainer]:
    args = TrainingArguments(output_dir=str(folder), per_device_eval_batch_size=2, **OPTIONS | options)
    trainer = Trainer(model=model, args=args, compute_metrics=token_metrics)
    return trainer.evaluate(data or rows()), trainer


NAMES = ("nll", "perplexity", "entropy", "accuracy", "target_prob")


@pytest.mark.parametrize(
    "options", [{}, {"batch_eval_metrics": True}, {"eval_do_concat_batches": False}], ids=str
)
def test_tokens_whose_statistics_are_nan_make_the_means_nan(options: dict[str, Any], tmp_path: Path) -> None:
    """A token with nan statistics makes the means nan, unless it has no label."""
    data, model = rows(), broken()
    fine, _ = evaluate(tmp_path, model, data, **options)
    assert all(np.isfinite(fine[f"eval_{name}"]) for name in NAMES)
    data[1]["input_ids"][4] = 3
    found, _ = evaluate(tmp_path, model, data, **options)
    assert all(np.isnan(found[f"eval_{name}"]) for name in NAMES)
    data[1]["labels"][:] = -100  # what has no label has no part
    found, _ = evaluate(tmp_path, model, data, **options)
    assert all(np.isfinite(found[f"eval_{name}"]) for name in NAMES)


def test_the_statistics_of_a_sequence_that_is_nan() -> None:
    """Only the sequence with nan has nan statistics."""
    (model, data) = broken().eval(), rows(2)
    data[1]["input_ids"][4] = 3
    tokens, labels = (torch.stack([row[name] for row in data]) for name in ("input_ids", "labels"))
    found = model(input_ids=tokens, labels=labels).token_statistics
    kept = nn.functional.pad(labels[:, 1:] != -100, (0, 1))
    nan = kept & torch.tensor([[False], [True]])
    assert (found[~kept] == -100).all()
    assert found[nan].isnan().all()
    assert found[kept & ~nan].isfinite().all()


@pytest.mark.parametrize(
    "options",
    [
        {"batch_eval_metrics": True},
        {"eval_do_concat_batches": False},
        {"eval_do_concat_batches": False, "eval_accumulation_steps": 1},
        {"include_for_metrics": ["inputs", "loss"]},
        {"label_names": ["labels"]},
        {"fp16_full_eval": True},
        {"bf16_full_eval": True},
        {"bf16": True},
    ],
    ids=str,
)
def test_every_way_to_evaluate_reports_the_same(options: dict[str, Any], tmp_path: Path) -> None:
    """Each way to evaluate reports the same metrics."""

    def model() -> Any:
        fuse_lm_head(found := make(), LOSS)
        return found

    expected, _ = evaluate(tmp_path, model())
    model_, low = model(), any("16" in name for name in options)
    for _ in range(2):  # nothing is left from an evaluation for the next
        found, trainer = evaluate(tmp_path, model_, **options)
        for name in ("loss", *NAMES):
            assert found[f"eval_{name}"] == pytest.approx(expected[f"eval_{name}"], rel=2e-2 if low else 1e-6)
    predicted = trainer.predict(rows()).metrics
    assert predicted["test_nll"] == pytest.approx(expected["eval_nll"], rel=2e-2 if low else 1e-6)


def test_an_evaluation_that_breaks_off_leaves_nothing_to_the_next(tmp_path: Path) -> None:
    """An evaluation that fails does not change the metrics of the next one."""
    fuse_lm_head(model := make(), LOSS)
    expected, _ = evaluate(tmp_path, model)
    with pytest.raises(IndexError):  # in the last batch
        evaluate(
            tmp_path,
            model,
            [*rows(4), {"input_ids": torch.tensor([V]), "labels": torch.tensor([0])}],
            batch_eval_metrics=True,
        )
    found, _ = evaluate(tmp_path, model, batch_eval_metrics=True)
    assert found["eval_nll"] == pytest.approx(expected["eval_nll"], rel=1e-6)


def test_batches_by_hand() -> None:
    """Metrics of batches are those of all tokens together, and start anew with the next evaluation."""
    batches = [SimpleNamespace(predictions=np.full((1, 2, 4), value)) for value in (1.0, 2.0, 6.0)]
    for _ in range(2):
        assert token_metrics(batches[0], compute_result=False) == token_metrics(batches[1], False) == {}
        assert token_metrics(batches[2], compute_result=True)["nll"] == 3.0


def test_an_evaluation_of_the_loss_alone(tmp_path: Path) -> None:
    """An evaluation with `prediction_loss_only` has the loss of the plain model."""
    fuse_lm_head(model := make(), LOSS)
    found, _ = evaluate(tmp_path, model, prediction_loss_only=True)
    plain = Trainer(
        model=make(),
        args=TrainingArguments(output_dir=str(tmp_path), per_device_eval_batch_size=2, **OPTIONS),
    ).evaluate(rows())
    assert found["eval_loss"] == pytest.approx(plain["eval_loss"], rel=1e-6)
    assert "eval_nll" not in found


def test_means_of_extreme_tokens() -> None:
    """Means of extreme tokens are infinite or nan without warnings."""

    def metrics(*tokens: list[float]) -> dict[str, float]:
        return token_metrics(SimpleNamespace(predictions=np.array([tokens], dtype=np.float32)))

    assert metrics([1e3, 0.0, 0.0, 0.0])["perplexity"] == np.inf
    assert metrics([np.inf, 0.0, 0.0, 0.0])["nll"] == np.inf
    assert all(np.isnan(value) for value in metrics([-100.0] * 4).values())
