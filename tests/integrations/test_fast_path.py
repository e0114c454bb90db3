"""In every integration, with the defaults, the compiled kernel computes all losses, as the log says."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from equipoise import Objective
from equipoise.kernels import cpu
from equipoise.losses import GammaCrossEntropy, RowLoss
from equipoise.penalties import Entropy, LogitRange
from equipoise.schedules import Linear
from equipoise.statistics import RowStatistics
from support.backend_records import recorded

pytestmark = [
    pytest.mark.usefixtures("plain_memory"),
    pytest.mark.skipif(not cpu.available(), reason="the kernels were not compiled"),
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),  # Lightning's
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.* is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning"),  # TRL's
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),  # peft's
]


@dataclass(frozen=True)
class Cosine(RowLoss):
    """A loss with an operation that no kernel has."""

    def per_row(self, row: RowStatistics, /) -> Tensor:
        return 1 - torch.sigmoid(row.log_odds()).mul(torch.pi / 2).sin() + 0 * row.entropy.cos()


ENTROPY = {"Entropy": Linear(0.1, 0.2, steps=5)}
GAMMA = GammaCrossEntropy(0.2) + 0.1 * Entropy()


def batches(count: int = 4) -> list[list[Tensor]]:
    inputs, target = torch.randn(count, 16, 6), torch.randint(5, (count, 16))
    target[:, ::7] = -100
    return [list(pair) for pair in zip(inputs, target, strict=True)]


def clouds() -> tuple[Any, Any]:
    from sklearn.datasets import make_blobs

    rows, labels, *_ = make_blobs(90, 4, cluster_std=4.0, random_state=1)
    return rows.astype(np.float32), labels


def plain_loop(loss: Any, folder: Path) -> None:
    model, objective = nn.Linear(6, 5), Objective(loss, schedules=ENTROPY, weight=torch.ones(5))
    optimizer = torch.optim.AdamW(model.parameters())
    for inputs, target in batches():
        objective(model(inputs), target).backward()
        optimizer.step()
        optimizer.zero_grad()
        objective.step()


def half_precision(loss: Any, folder: Path) -> None:
    model, head, objective = nn.Linear(6, 8), nn.Linear(8, 5), Objective(loss, schedules=ENTROPY)
    for inputs, target in batches():
        with torch.autocast("cpu", torch.bfloat16):
            objective(head(model(inputs)), target).backward()
            objective.linear(model(inputs), head.weight, target, linear_bias=head.bias).backward()


def training_loop(loss: Any, folder: Path) -> None:
    from equipoise.training import Alone, Options, Rows, train

    rows = Rows(torch.randn(70, 6), torch.randint(5, (70,)))
    options = Options(epochs=2, batch_size=16, lr=0.01, stop="own")
    train(Alone(nn.Linear(6, 5)), Objective(loss, schedules=ENTROPY), [rows], [rows], options, [0])


def with_compare(loss: Any, folder: Path) -> None:
    from equipoise.compare import compare

    rows, labels = clouds()
    compare([loss], rows, labels, folds=3, epochs=2, width=8, batch_size=32, jobs=1, progress=False)


def sklearn_estimator(loss: Any, folder: Path) -> None:
    from equipoise.integrations.sklearn import ObjectiveClassifier

    rows, labels = clouds()
    weight = np.ones(len(labels))
    for dtype in (np.float32, np.float64):
        ObjectiveClassifier(loss, schedules=ENTROPY, max_iter=3).fit(rows.astype(dtype), labels, weight)
        ObjectiveClassifier(loss, early_stopping=True, max_iter=3).fit(rows.astype(dtype), labels)


def with_skorch(loss: Any, folder: Path) -> None:
    skorch = pytest.importorskip("skorch", reason="skorch is not installed")
    shape = {"module__in_features": 4, "module__out_features": 3, "criterion__schedules": ENTROPY}
    given = {"criterion": Objective, "criterion__loss": loss, "max_epochs": 2, "verbose": 0}
    net = skorch.NeuralNetClassifier(nn.Linear, **given, **shape)
    net.fit(*clouds())


def with_lightning(loss: Any, folder: Path, *, fused: bool = False) -> None:
    lightning = pytest.importorskip("lightning.pytorch", reason="lightning is not installed")
    from equipoise.integrations.lightning import ConfidenceMonitor, ScheduleCallback

    class Net(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 5)
            self.objective = Objective(loss, schedules=ENTROPY)

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            hidden = self.body(batch[0])
            if fused:
                return self.objective.linear(hidden, self.head.weight, batch[1], linear_bias=self.head.bias)
            return self.objective(self.head(hidden), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters())

    trainer = lightning.Trainer(
        accelerator="cpu",
        callbacks=[ScheduleCallback(), ConfidenceMonitor()],
        max_steps=3,
        log_every_n_steps=1,
        logger=lightning.loggers.CSVLogger(folder),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(Net(), torch.utils.data.DataLoader(batches(), batch_size=None))


def lightning_fused(loss: Any, folder: Path) -> None:
    with_lightning(loss, folder, fused=True)


def stable_baselines3(loss: Any, folder: Path) -> None:
    """A policy whose entropy bonus is replaced by a loss of its logits, the actions as targets."""
    sb3 = pytest.importorskip("stable_baselines3", reason="stable-baselines3 is not installed")
    from equipoise.integrations.stable_baselines3 import MapActorCriticPolicy
    from equipoise.maps import Floored

    hinge = loss + LogitRange(width=4.0)

    class Hinged(MapActorCriticPolicy):  # pyright: ignore[reportGeneralTypeIssues]
        def evaluate_actions(self, obs: Any, actions: Tensor, action_masks: Any = None) -> Any:
            values, log_prob, _ = super().evaluate_actions(obs, actions, action_masks)
            logits = self.get_distribution(obs, action_masks).distribution.raw_logits
            return values, log_prob, -hinge(logits, actions.long(), reduction="none")

    kwargs = {"policy_kwargs": {"map": Floored(0.05)}, "n_steps": 64, "batch_size": 32, "n_epochs": 2}
    sb3.PPO(Hinged, "CartPole-v1", ent_coef=0.01, device="cpu", seed=0, **kwargs).learn(64)


def trainer_of(model: Any, folder: Path, data: Any, objective: Any, **more: Any) -> Any:
    import transformers as hf

    from equipoise.integrations.transformers import ObjectiveCallback
    from support.trainer_options import OPTIONS

    return hf.Trainer(
        model=model,
        args=hf.TrainingArguments(str(folder), **OPTIONS),
        train_dataset=data,
        eval_dataset=data,
        callbacks=[ObjectiveCallback(objective)],
        **more,
    )


def transformers_classifier(loss: Any, folder: Path) -> None:
    hf = pytest.importorskip("transformers", reason="transformers is not installed", exc_type=ImportError)
    from equipoise.integrations.transformers import compute_loss_func
    from support.transformers_heads import BERT, tokens

    model, objective = (
        hf.BertForSequenceClassification(hf.BertConfig(**BERT)),
        Objective(loss, schedules=ENTROPY),
    )
    data = [{"input_ids": row, "labels": row[0] % 4} for row in tokens(8, 5)]
    trainer = trainer_of(
        model, folder, data, objective, compute_loss_func=compute_loss_func(objective, model)
    )
    trainer.train()
    trainer.evaluate()


def fused_head(loss: Any, folder: Path, model: Any = None) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed", exc_type=ImportError)
    from equipoise.integrations.transformers import fuse_lm_head, token_metrics
    from support.causal_models import batch, make

    model, objective = model or make(), Objective(loss, schedules=ENTROPY)
    fuse_lm_head(model, objective)
    data = [{"input_ids": row, "labels": labels} for row, labels in zip(*batch(8, 12), strict=True)]
    trainer = trainer_of(model, folder, data, objective, compute_metrics=token_metrics)
    trainer.train()
    trainer.evaluate()


def fused_head_with_adapter(loss: Any, folder: Path) -> None:
    pytest.importorskip("peft", reason="peft is not installed")
    from support.causal_models import lora

    fused_head(loss, folder, lora(target_modules=["q_proj", "lm_head"]))


RUNS: dict[str, tuple[Callable[[Any, Path], None], set[str]]] = {
    "plain loop": (plain_loop, {"loss"}),
    "half precision": (half_precision, {"loss", "loss.linear"}),
    "training": (training_loop, {"loss"}),
    "compare": (with_compare, {"loss"}),
    "sklearn": (sklearn_estimator, {"loss"}),
    "skorch": (with_skorch, {"loss"}),
    "lightning": (with_lightning, {"loss"}),
    "lightning, fused": (lightning_fused, {"loss.linear"}),
    "stable-baselines3": (stable_baselines3, {"loss"}),
    "transformers": (transformers_classifier, {"loss"}),
    "transformers, fused head": (fused_head, {"loss.linear"}),
    "transformers, fused head with LoRA": (fused_head_with_adapter, {"loss.linear"}),
}
EVERY_RUN = pytest.mark.parametrize("name", RUNS)


def check_fast(records: list[Any], kinds: set[str], fewest: int = 3) -> None:
    """Raise unless all losses were computed by the kernel alone."""
    slow = {f"{record.backend}: {record.why_torch}" for record in records if record.backend != "cpp"}
    slow |= {record.why_torch for record in records} - {""}
    assert not slow, f"in plain torch: {slow}"
    batches = [record for record in records if record.shape[0] > 1]  # not a row to check schedules by
    assert {record.what for record in batches} == kinds
    assert len(batches) >= fewest


@EVERY_RUN
def test_the_kernel_computes_all_losses(name: str, tmp_path: Path) -> None:
    """With the defaults, the compiled kernel computes all losses of each integration."""
    run, kinds = RUNS[name]
    with recorded() as records:
        run(GAMMA, tmp_path)
    check_fast(records, kinds)


@EVERY_RUN
@pytest.mark.usefixtures("_no_kernels")
def test_a_run_without_kernels_is_found(name: str, tmp_path: Path) -> None:
    """A run without compiled kernels is found in the log."""
    run, kinds = RUNS[name]
    with recorded() as records:
        run(GAMMA, tmp_path)
    with pytest.raises(AssertionError, match=r"in plain torch: .*no kernel was compiled"):
        check_fast(records, kinds)


@EVERY_RUN
def test_a_run_with_a_loss_that_no_kernel_has_is_found(name: str, tmp_path: Path) -> None:
    """A run with a loss that no kernel supports is found in the log."""
    run, kinds = RUNS[name]
    with recorded() as records:
        run(Cosine() + 0.1 * Entropy(), tmp_path)
    with pytest.raises(AssertionError, match=r"in plain torch: .*not known to a kernel: (sin|cos)"):
        check_fast(records, kinds)
