"""Fused models in two processes, under the Trainer's DDP and under FSDP2; this file is also what they run."""

import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from support.processes import run_ranks
from support.trainer_options import OPTIONS

pytestmark = pytest.mark.slow

pytest.importorskip("transformers", reason="transformers is not installed", exc_type=ImportError)

V, RANKS = 53, 2


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the processes report, beside what one process finds."""
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(__file__, folder, RANKS, timeout=120)
    reports = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(RANKS)]
    return {"alone": trainer_report(folder, 4), "ranks": reports}


def test_two_processes_take_the_steps_of_one(found: Any) -> None:
    for report in found["ranks"]:
        difference = torch.tensor(report["parameters"]) - torch.tensor(found["alone"]["parameters"])
        assert difference.abs().max() < 1e-6
        assert report["losses"] == pytest.approx(found["alone"]["losses"], rel=1e-6)


def test_a_count_of_each_process_takes_others(found: Any) -> None:
    difference = torch.tensor(found["ranks"][0]["local"]) - torch.tensor(found["alone"]["parameters"])
    assert difference.abs().max() > 1e-5


def test_evaluation_gathers_the_tokens_of_all(found: Any) -> None:
    for report in found["ranks"]:
        assert report["metrics"] == pytest.approx(found["alone"]["metrics"], rel=1e-5)


def test_a_schedule_moves_alike_in_all_processes(found: Any) -> None:
    for report in found["ranks"]:
        assert report["gamma"] == pytest.approx([0, 0.2, 0.4])


@pytest.mark.parametrize("group", ["root", "tied", "head", "head kept whole"])
def test_sharded_parameters_have_the_gradients_of_whole_ones(group: str, found: Any) -> None:
    for report in found["ranks"]:
        assert report["fsdp"][group]["loss"] < 1e-6
        assert report["fsdp"][group]["gradient"] < 1e-6
        assert report["fsdp"][group]["largest"] > 1e-3


def make(**options: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=V,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            **options,
        )
    )


def batch() -> tuple[Tensor, Tensor]:
    """Tokens, and labels of which an uneven part counts."""
    tokens = torch.randint(0, V, (8, 10), generator=torch.Generator().manual_seed(1))
    return tokens, torch.where(torch.arange(10) < torch.arange(8)[:, None], -100, tokens)


def trainer_report(folder: Path, size: int, **options: Any) -> dict[str, Any]:
    """Train for three steps of eight rows in two parts, with a gamma that rises."""
    from transformers import Trainer, TrainingArguments

    from equipoise import Objective
    from equipoise.integrations.transformers import ObjectiveCallback, fuse_lm_head, token_metrics
    from equipoise.losses import GammaCrossEntropy
    from equipoise.schedules import Linear

    objective = Objective(GammaCrossEntropy(), schedules={"gamma": Linear(0, 0.6, steps=3)})
    model = make()
    fuse_lm_head(model, objective)
    rows = [dict(zip(("input_ids", "labels"), pair, strict=True)) for pair in zip(*batch(), strict=True)]
    args = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=size,
        per_device_eval_batch_size=3,
        gradient_accumulation_steps=2,
        learning_rate=0.5,
        **OPTIONS,
        **options,
    )
    trainer = Trainer(
        model=model,
        args=args,
        train_dataset=rows,
        callbacks=[ObjectiveCallback(objective)],
        compute_metrics=token_metrics,
    )
    trainer.train()
    metrics = trainer.evaluate(rows[:7])  # fewer rows than the processes' batches have room for
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    return {
        "parameters": torch.cat([each.detach().flatten() for each in model.parameters()]).tolist(),
        "losses": [entry["loss"] for entry in logs],
        "gamma": [entry["gamma"] for entry in logs],
        "metrics": {name: metrics[f"eval_{name}"] for name in ("nll", "entropy", "accuracy", "target_prob")},
    }


def fsdp_report(group: str) -> dict[str, float]:
    """Compare loss and gradients of a sharded fused model with those of whole logits."""
    import torch.distributed as dist
    from torch.distributed.fsdp import fully_shard

    from equipoise.integrations.transformers import fuse_lm_head
    from equipoise.losses import GammaCrossEntropy

    loss = GammaCrossEntropy(0.2)
    model = make(tie_word_embeddings=group == "tied")
    whole = copy.deepcopy(model)
    tokens, labels = batch()
    expected = loss(whole(input_ids=tokens).logits[:, :-1].reshape(-1, V), labels[:, 1:].reshape(-1))
    expected.backward()
    fuse_lm_head(model, loss)
    mesh = dist.init_device_mesh("cpu", (RANKS,))
    if group.startswith("head"):
        fully_shard(model.lm_head, mesh=mesh, reshard_after_forward=group == "head")
    fully_shard(model.model.layers[0], mesh=mesh)
    fully_shard(model, mesh=mesh)
    mine = slice(dist.get_rank(), None, RANKS)
    count = (labels[:, 1:] != -100).sum()
    value = model(input_ids=tokens[mine], labels=labels[mine], num_items_in_batch=count).loss
    (value * RANKS).backward()
    dist.all_reduce(total := value.detach().clone())
    pairs = [(a.grad, b.grad) for a, b in zip(model.parameters(), whole.parameters(), strict=True)]
    return {
        "loss": float((total - expected.detach()).abs()),
        "gradient": max(float((a.full_tensor() - b).abs().max()) for a, b in pairs),
        "largest": max(float(b.abs().max()) for _, b in pairs),
    }


def main(folder: Path) -> None:
    import warnings

    import torch.distributed as dist

    warnings.simplefilter("error")
    dist.init_process_group("gloo")
    report = trainer_report(folder, 2) | {
        "local": trainer_report(folder, 2, average_tokens_across_devices=False)["parameters"],
        "fsdp": {group: fsdp_report(group) for group in ("root", "tied", "head", "head kept whole")},
    }
    (folder / f"{dist.get_rank()}.json").write_text(json.dumps(report))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
