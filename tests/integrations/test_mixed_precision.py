"""Fused heads in mixed precision, compiled, checkpointed, in two processes, which run this file too."""

import itertools
import sys
from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from support.processes import run_ranks
from support.trainer_options import OPTIONS

pytestmark = pytest.mark.slow

for library in ("transformers", "trl", "lightning"):
    pytest.importorskip(library, reason=f"{library} is not installed", exc_type=ImportError)

V, ROWS, BATCH, STEPS = 53, 16, 4, 4
HALF = ROWS // BATCH // 2  # steps of an epoch, after which a run that resumes was stopped
EPS = torch.finfo(torch.float32).eps


@dataclass(frozen=True)
class Run:
    """One way to train: four steps of two batches of four rows each."""

    library: str
    precision: str
    compiled: str = ""  # the compiler's backend; "inductor" is the default of each library
    checkpointing: bool = False
    processes: int = 1
    resumed: bool = False

    @property
    def name(self) -> str:
        """A name for a folder."""
        return "-".join(map(str, astuple(self)))


# Every pair of a library, a precision, a compiler or none, checkpointing and a number of processes occurs.
# transformers, TRL and Accelerate take fp16 on a CPU and compute in float32, without autocast.
RUNS = [
    Run("transformers", "fp32", "aot_eager", processes=2),
    Run("transformers", "bf16", "inductor", checkpointing=True),
    Run("transformers", "fp16", checkpointing=True, resumed=True),
    Run("transformers", "bf16", processes=2, resumed=True),
    Run("trl", "fp32", checkpointing=True, processes=2, resumed=True),
    Run("trl", "bf16", checkpointing=True, resumed=True),  # bf16 and checkpointing are the defaults
    Run("trl", "bf16", "aot_eager", checkpointing=True),
    Run("trl", "bf16", checkpointing=True, processes=2),
    Run("trl", "fp16"),
    Run("accelerate", "fp32", "inductor"),
    Run("accelerate", "bf16", "aot_eager", resumed=True),
    Run("accelerate", "bf16", checkpointing=True, processes=2),
    Run("accelerate", "fp16", checkpointing=True, processes=2, resumed=True),
    Run("lightning", "fp32", checkpointing=True),
    Run("lightning", "bf16", processes=2, resumed=True),
    Run("lightning", "fp16", "aot_eager", checkpointing=True),
    Run("lightning", "fp16", resumed=True),
]


def test_the_runs_cover_every_pair() -> None:
    values = [(*astuple(run)[:2], bool(run.compiled), *astuple(run)[3:]) for run in RUNS]
    columns = list(zip(*values, strict=True))
    assert [len(set(column)) for column in columns] == [4, 3, 2, 2, 2, 2]
    for one, other in itertools.combinations(columns, 2):
        assert set(zip(one, other, strict=True)) == set(itertools.product(set(one), set(other)))


def check(run: Run, folder: Path) -> None:
    """Compare a fused head with a plain one in the same precision, which is neither compiled nor resumed."""
    same = Run(run.library, run.precision, processes=run.processes)
    fused, plain, truth = (
        torch.tensor(train(*each, folder), dtype=torch.float64)
        for each in ((run, True), (same, False), (replace(same, precision="fp32"), False))
    )
    assert len(fused) == len(truth) == (STEPS if run.library in ("transformers", "trl") else 2 * STEPS), run
    assert close(fused, plain, truth), (run, fused, plain, truth)
    assert not close(fused * 1.01, plain, truth), run  # as from another count of the labels
    assert len(set(truth.tolist())) == len(truth), run
    half = run.precision == "bf16" or (run.precision == "fp16" and run.library == "lightning")
    assert half == bool((plain - truth).abs().max() > 8 * EPS * truth.max()), run  # it is in force


def close(fused: torch.Tensor, plain: torch.Tensor, truth: torch.Tensor) -> bool:
    """Whether a fused head is no further from float32 than twice what a plain one is, or four roundings."""
    # Measured: 1.8e-3 for both in bfloat16, 1e-4 in float16, and one rounding between the two everywhere;
    # twice, as compilers and processors round in another order.
    error, of_plain = ((losses - truth).abs().max() for losses in (fused, plain))
    return bool(error <= 2 * of_plain + 4 * EPS * truth.max())


def test_in_two_processes(tmp_path: Path) -> None:
    """The runs of two processes, which check what they find; see `main`."""
    run_ranks(__file__, tmp_path, 2, timeout=400)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.* is deprecated:FutureWarning")  # Lightning's
@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # the compiler's
@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("run", [run for run in RUNS if run.processes == 1], ids=lambda run: run.name)
def test_in_one_process(run: Run, tmp_path: Path) -> None:
    """A run in mixed precision is as near to float32 as one with a plain head."""
    check(run, tmp_path)


def make(fused: bool, checkpointing: bool) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    from equipoise.integrations.transformers import fuse_lm_head
    from equipoise.losses import CrossEntropy

    torch.manual_seed(0)
    sizes: dict[str, Any] = dict(vocab_size=V, hidden_size=16, intermediate_size=16, num_hidden_layers=2)
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, pad_token_id=0, eos_token_id=1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8 if parameter.ndim > 1 else 1)  # so that logits differ, and rounding shows
    if checkpointing:
        model.gradient_checkpointing_enable()
    if fused:
        fuse_lm_head(model, CrossEntropy())
    return model


def rows() -> list[dict[str, torch.Tensor]]:
    """Tokens, and labels of which an uneven part counts."""
    tokens = torch.randint(2, V, (ROWS, 10), generator=torch.Generator().manual_seed(1))
    labels = torch.where(torch.arange(10) < torch.arange(ROWS)[:, None] % 6, -100, tokens)
    return [{"input_ids": a, "labels": b} for a, b in zip(tokens, labels, strict=True)]


def train(run: Run, fused: bool, folder: Path) -> list[float]:
    """Return the losses of a run."""
    torch._dynamo.reset()
    folder = folder / f"{run.name}-{fused}"
    by_hand = run.library in ("accelerate", "lightning")  # elsewhere an argument says so
    model = partial(make, fused, checkpointing=run.checkpointing and by_hand)
    with_library = {"transformers": with_trainer, "trl": with_trl, "accelerate": with_accelerate}
    return with_library.get(run.library, with_lightning)(run, model, folder)


def with_trainer(run: Run, model: Callable[[], Any], folder: Path) -> list[float]:
    from transformers import Trainer, TrainingArguments

    args = TrainingArguments(
        **arguments(run, folder), bf16=run.precision == "bf16", activation_checkpointing=run.checkpointing
    )
    return of_trainer(run, lambda: Trainer(model(), args, train_dataset=rows()), folder)


def with_trl(run: Run, model: Callable[[], Any], folder: Path) -> list[float]:
    from datasets import Dataset
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast, Trainer
    from trl import SFTConfig, SFTTrainer

    class ObjectiveSFTTrainer(SFTTrainer):
        compute_loss = Trainer.compute_loss
        prediction_step = Trainer.prediction_step

    words = Tokenizer(WordLevel({f"w{i}": i for i in range(V)}, unk_token="w2"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="w0", eos_token="w1")
    data = Dataset.from_list(
        [
            {"input_ids": row["input_ids"].tolist(), "completion_mask": (row["labels"] >= 0).long().tolist()}
            for row in rows()
        ]
    )
    options = arguments(run, folder)
    if run.precision == "fp32":
        options["bf16"] = False
    if not run.checkpointing:
        options["activation_checkpointing"] = False
    args = SFTConfig(**options)
    assert (args.bf16, args.gradient_checkpointing) == (run.precision == "bf16", run.checkpointing)

    def trainer() -> Any:
        return ObjectiveSFTTrainer(model(), args, train_dataset=data, processing_class=tokenizer)

    return of_trainer(run, trainer, folder)


def arguments(run: Run, folder: Path) -> dict[str, Any]:
    options = OPTIONS | {
        "output_dir": str(folder),
        "max_steps": STEPS,
        "per_device_train_batch_size": BATCH // run.processes,
        "gradient_accumulation_steps": 2,
        "learning_rate": 0.1,
        "fp16": run.precision == "fp16",
        "torch_compile": bool(run.compiled),
    }
    if run.compiled not in ("", "inductor"):
        options["torch_compile_backend"] = run.compiled
    if run.resumed:
        options |= {"save_strategy": "steps", "save_steps": HALF}
    return options


def of_trainer(run: Run, make_trainer: Callable[[], Any], folder: Path) -> list[float]:
    trainer = make_trainer()
    trainer.train()
    if run.resumed:
        trainer = make_trainer()
        trainer.train(resume_from_checkpoint=str(folder / f"checkpoint-{HALF}"))
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def with_accelerate(run: Run, model: Callable[[], Any], folder: Path) -> list[float]:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from torch.utils.data import DataLoader

    losses = []

    def steps(first: int, last: int) -> Accelerator:
        AcceleratorState._reset_state()  # it is one for the process
        accelerator = Accelerator(
            mixed_precision=run.precision if run.precision != "fp32" else None,
            cpu=True,
            gradient_accumulation_steps=2,
            dynamo_backend=run.compiled or None,
        )
        made = model()
        prepared, optimizer, loader = accelerator.prepare(
            made, torch.optim.SGD(made.parameters(), lr=0.1), DataLoader(rows(), BATCH // run.processes)
        )
        if first:
            accelerator.load_state(str(folder))
        for inputs in itertools.chain.from_iterable(loader for _ in range(first, last, HALF)):
            with accelerator.accumulate(prepared):
                loss = prepared(**inputs).loss
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
            losses.append(accelerator.gather(loss.detach()).mean().item())
        return accelerator

    if run.resumed:
        steps(0, HALF).save_state(str(folder))
        steps(HALF, STEPS)
    else:
        steps(0, STEPS)
    return losses


def with_lightning(run: Run, model: Callable[[], Any], folder: Path) -> list[float]:
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.plugins import MixedPrecision
    from torch.utils.data import DataLoader

    losses = []

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model()

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return self.model(**batch).loss

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            losses.append(self.trainer.strategy.reduce(outputs["loss"].detach(), reduce_op="mean").item())

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    precision: dict[str, Any] = {
        "fp32": {"precision": "32-true"},
        "bf16": {"precision": "bf16-mixed"},
        "fp16": {"plugins": [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))]},
    }[run.precision]

    def fit(steps: int, start: Path | None = None) -> Trainer:
        module = Module()
        trainer = Trainer(
            accelerator="cpu",
            devices=run.processes,
            strategy="ddp" if run.processes > 1 else "auto",
            accumulate_grad_batches=2,
            max_epochs=steps // HALF,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            **precision,
        )
        fitted = torch.compile(module, backend=run.compiled) if run.compiled else module
        trainer.fit(fitted, DataLoader(rows(), BATCH // run.processes), ckpt_path=start)
        return trainer

    if run.resumed:
        fit(HALF).save_checkpoint(folder / "half.ckpt")
        fit(STEPS, folder / "half.ckpt")
    else:
        fit(STEPS)
    return losses


def main(folder: Path) -> None:
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    for run in RUNS:
        if run.processes == 2:
            check(run, folder)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
