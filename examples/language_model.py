"""Losses for a language model, on the source of Python's standard library.

Trains a tokenizer and llama models, fine-tunes them on text with wrong tokens, all with the fused head, and
compares time and memory with the plain Trainer. Prints tables, writes all numbers and a picture. Needs pip
install 'equipoise[compare,transformers]' torchmetrics.
"""

import argparse
import json
import re
import resource
import subprocess
import sys
import sysconfig
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from sklearn.calibration import calibration_curve
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor
from torchmetrics.functional.classification import binary_calibration_error
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from equipoise import Objective, linear
from equipoise.compare.statistics import compare_paired
from equipoise.integrations.transformers import ObjectiveCallback, fuse_lm_head
from equipoise.label_noise import convert
from equipoise.losses import CrossEntropy, DFTWeight, GammaCrossEntropy, Loss, Reweighted
from equipoise.schedules import Linear
from equipoise.statistics import LogOdds, LogSumExpGap, Margin

LEFT_OUT = {"dist-packages", "site-packages", "encodings", "idle_test", "test", "tests"}
END, CLEAN, BINS = "<|end|>", "gamma 0, no wrong tokens", 15
COSTS: dict[str, Loss | None] = {
    "plain Trainer": None,
    "fused": CrossEntropy(),
    "fused, gamma 1e-07": GammaCrossEntropy(1e-7),
}
MIB = 2**20


def read_files(every: int = 1) -> dict[str, str]:
    """Return one in a number of the standard library's modules, without tests and character tables."""
    folder = Path(sysconfig.get_path("stdlib"))
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.py"))
    names = [name for name in names if not LEFT_OUT & set(name.split("/"))]
    names = [name for name in names if not name.startswith("_sysconfigdata")]  # differs between machines
    return {name: (folder / name).read_text(encoding="utf-8", errors="replace") for name in names[::every]}


def part_of(name: str) -> str:
    """Return the part of a file (training, fine-tuning, validation), by a hash of its name."""
    share = zlib.crc32(name.encode()) % 20
    return "validation" if share == 0 else "tuning" if share <= 3 else "training"


def read_text(files: dict[str, str], vocabulary: int, length: int) -> dict[str, Tensor]:
    """Return windows (K, length) of tokens for each part; the tokenizer has seen the training part alone."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, initial_alphabet=alphabet, special_tokens=[END], show_progress=False
    )
    tokenizer.train_from_iterator((files[name] for name in files if part_of(name) == "training"), trainer)
    windows = {}
    for part in ("training", "tuning", "validation"):
        encoded = tokenizer.encode_batch([files[name] + END for name in files if part_of(name) == part])
        tokens = torch.tensor([token for file in encoded for token in file.ids])
        windows[part] = tokens[: len(tokens) // length * length].view(-1, length)
    return windows


def corrupt(windows: Tensor, noise: float, vocabulary: int, seed: int) -> Tensor:
    """Replace a share of the tokens by other ones, each equally likely."""
    generator = torch.Generator().manual_seed(seed)
    other = torch.randint(1, vocabulary, windows.shape, generator=generator)
    hit = torch.rand(windows.shape, generator=generator) < noise
    return torch.where(hit, (windows + other) % vocabulary, windows)


def make_model(given: argparse.Namespace, seed: int) -> LlamaForCausalLM:
    """Return a small llama model, its weights drawn from a seed."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=given.vocabulary,
        hidden_size=given.hidden,
        intermediate_size=4 * given.hidden,
        num_hidden_layers=given.layers,
        num_attention_heads=4,
        max_position_embeddings=given.length,
        tie_word_embeddings=True,
        initializer_range=0.05,
        use_cache=False,
    )
    return LlamaForCausalLM(config)


def train(
    model: LlamaForCausalLM,
    windows: Tensor,
    objective: Objective | None,
    given: argparse.Namespace,
    *callbacks: TrainerCallback,
    steps: int,
    rate: float,
    seed: int,
) -> Trainer:
    """Train a model by transformers' Trainer, through the fused head unless there is no objective."""
    if objective is not None:
        fuse_lm_head(model, objective)
        callbacks = (*callbacks, ObjectiveCallback(objective))
    arguments = TrainingArguments(
        output_dir=str(given.out / "trainer"),
        max_steps=steps,
        per_device_train_batch_size=given.batch,
        learning_rate=rate,
        adam_beta2=0.95,  # of short runs
        lr_scheduler_type="cosine",
        warmup_steps=steps // 10,
        seed=seed,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    data: Any = [{"input_ids": window, "labels": window} for window in windows]
    trainer = Trainer(model, arguments, train_dataset=data, callbacks=list(callbacks))
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return trainer


@torch.no_grad()
def look(model: LlamaForCausalLM, windows: Tensor, batch: int) -> pd.DataFrame:
    """Return the statistics of each token of clean text, without materialised logits."""
    model.eval()
    seen = []
    for chunk in windows.split(batch):
        tokens = chunk.to(model.device)
        hidden = model.model(input_ids=tokens).last_hidden_state[:, :-1]
        asked = [LogOdds(), LogSumExpGap(), Margin()]
        row = linear.row_statistics(hidden, model.lm_head.weight, tokens[:, 1:], stats=asked)
        seen.append(torch.stack((row.log_odds(), row.logsumexp_gap(), row.margin), 1).cpu())
    odds, gap, margin = torch.cat(seen).double().T
    per_token = {
        "nll": -F.logsigmoid(odds),
        "target": odds.sigmoid(),
        "top": (-gap).exp(),
        "right": margin > 0,
    }
    return pd.DataFrame({name: column.numpy() for name, column in per_token.items()})


def measure(per_token: pd.DataFrame) -> pd.Series:
    """Return the measures of a model from the statistics of each token."""
    mean = per_token.mean()
    # torchmetrics drops a confidence of exactly 1
    top, right = (
        torch.tensor(per_token.top.to_numpy()).clamp(max=1 - 1e-7),
        torch.tensor(per_token.right.to_numpy()),
    )
    mean["ECE"] = binary_calibration_error(top, right.long(), n_bins=BINS, norm="l1").item()
    return mean


def unigram(text: dict[str, Tensor], vocabulary: int) -> float:
    """Return the NLL of the validation text under the token frequencies of the training text."""
    counts = torch.bincount(text["training"].flatten(), minlength=vocabulary).double() + 1
    return -(counts / counts.sum()).log()[text["validation"][:, 1:]].mean().item()


def pretraining(given: argparse.Namespace) -> dict[str, Objective]:
    """Return the objectives of training from scratch, plain cross entropy first."""
    rising = {"gamma": Linear(0, given.end, steps=given.steps)}
    return {
        "cross entropy": Objective(CrossEntropy()),
        "gamma 1e-07": Objective(GammaCrossEntropy(1e-7)),
        f"gamma 0 to {given.end:g}": Objective(GammaCrossEntropy(), schedules=rising),
    }


def fine_tuning(given: argparse.Namespace) -> dict[str, Objective]:
    """Return the objectives of fine-tuning, plain cross entropy first."""
    matched = convert(given.vocabulary, noise=given.noise).gamma
    losses = {
        "gamma 0": GammaCrossEntropy(0.0),
        f"gamma {matched:.1e}": GammaCrossEntropy(matched),
        "gamma 0.1": GammaCrossEntropy(0.1),
        "gamma 0.8": GammaCrossEntropy(0.8),
        "DFT": Reweighted(DFTWeight()),
        CLEAN: GammaCrossEntropy(0.0),
    }
    return {name: Objective(loss) for name, loss in losses.items()}


def run_seed(text: dict[str, Tensor], seed: int, given: argparse.Namespace) -> Iterator[pd.DataFrame]:
    """Train and fine-tune with every loss, from the same weights and batches; yield statistics per token."""
    wrong = corrupt(text["tuning"], given.noise, given.vocabulary, seed)
    stages = [("training", pretraining(given), given.steps, given.rate)]
    stages.append(("fine-tuning", fine_tuning(given), given.tune_steps, given.tune_rate))
    plain, before = {}, pd.DataFrame()
    for stage, objectives, steps, rate in stages:
        for name, objective in objectives.items():
            model, windows = make_model(given, seed), text["training"]
            if stage == "fine-tuning":
                model.load_state_dict(plain)
                windows = text["tuning"] if name == CLEAN else wrong
            train(model, windows, objective, given, steps=steps, rate=rate, seed=seed)
            per_token = look(model, text["validation"], given.batch)
            if not plain:
                plain, before = {key: value.clone() for key, value in model.state_dict().items()}, per_token
            print(f"seed {seed}, {stage}: {name}, perplexity {np.exp(per_token.nll.mean()):.1f}", flush=True)
            yield per_token.assign(stage=stage, name=name, seed=seed)
    yield before.assign(stage="fine-tuning", name="before", seed=seed)


class Clock(TrainerCallback):
    """Records the start time of each step."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Record the time; the Trainer has read the loss of the previous step, so a GPU has finished it."""
        self.times.append(time.perf_counter())


def peak_bytes() -> int:
    """Return the peak memory: of the GPU if there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    # On Linux a new process inherits the maxrss of its parent, but has its own VmHWM.
    if status.exists() and (mark := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return int(mark[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def cost(way: str, given: argparse.Namespace) -> dict[str, Any]:
    """Return the first loss, the time of each step and the memory of one method, in this process."""
    windows, clock, loss = torch.load(given.out / "windows.pt"), Clock(), COSTS[way]
    objective, model = None if loss is None else Objective(loss), make_model(given, 0)
    given.batch = given.cost_batch
    start = peak_bytes()
    done = train(model, windows, objective, given, clock, steps=given.cost_steps, rate=given.rate, seed=0)
    seconds, first = np.diff(clock.times).tolist(), done.state.log_history[0]["loss"]
    return {"way": way, "loss": first, "seconds": seconds, "memory": peak_bytes() - start}


def compare_costs(argv: list[str], given: argparse.Namespace) -> pd.DataFrame:
    """Return the costs of each method, in separate processes that take turns."""
    rows = []
    for _ in range(given.rounds):
        for way in COSTS:
            call = [sys.executable, __file__, *argv, "--cost", way]
            done = subprocess.run(call, stdout=subprocess.PIPE, text=True, check=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
    return pd.DataFrame(rows)


def cost_table(costs: pd.DataFrame, given: argparse.Namespace) -> str:
    """Return the median time of a step and the memory of each method as a table."""
    each = costs.explode("seconds").groupby("way", sort=False)
    step = each.seconds.median()
    lines = ["| | ms a step | as a ratio | memory in MiB | first loss |", "|---|---|---|---|---|"]
    for way, row in each.agg({"memory": "max", "loss": "first"}).iterrows():
        times = f"{1000 * step[way]:.0f} | {step[way] / step.iloc[0]:.2f}"
        lines.append(f"| {way} | {times} | {row.memory / MIB:.0f} | {row.loss:.4f} |")
    logits = 4 * given.cost_batch * given.length * given.vocabulary / MIB
    return "\n".join(lines) + f"\n\nThe logits of a step would take {logits:.0f} MiB in float32."


def table(found: pd.DataFrame) -> str:
    """Return means, and paired differences of the NLL from the first row with 95 % intervals."""
    nll = found.pivot(index="seed", columns="name", values="nll")[list(dict.fromkeys(found.name))]
    first, *others = nll.columns
    found_in = compare_paired(nll[others].to_numpy().T, nll[first], "lower")
    change = {first: ""} | {
        name: f"{d.mean:+.4f} ({d.low:.4f} to {d.high:.4f}) {d.call}"
        for name, d in zip(others, found_in, strict=True)
    }
    head = ["", "perplexity", "NLL, difference", "mean p", "accuracy", "confidence", "ECE"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for name, mean in found.groupby("name", sort=False).mean(numeric_only=True).iterrows():
        spread = f"{np.exp(mean.nll):.1f} ({np.exp(nll[name].min()):.1f} to {np.exp(nll[name].max()):.1f})"
        shares = f"{mean.target:.3f} | {100 * mean.right:.1f} % | {100 * mean.top:.1f} % | {mean.ECE:.3f}"
        lines.append(f"| {name} | {spread} | {change[name]} | {shares} |")
    return "\n".join(lines)


def draw(tokens: pd.DataFrame, path: Path) -> None:
    """Draw the accuracy of the likeliest token by its probability."""
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "language_model", "font.size": 9}):
        figure, both = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained", sharey=True)
        for axes, (stage, models) in zip(both, tokens.groupby("stage", sort=False), strict=True):
            axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
            for name, per_token in models.groupby("name", sort=False):
                right, top = calibration_curve(per_token.right, per_token.top, n_bins=BINS)
                axes.plot(top, right, marker=".", label=name)
            axes.set(xlabel="probability of the likeliest token", title=stage)
            axes.legend()
        both[0].set(ylabel="share in which it is right")
        figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main(argv: list[str] | None = None) -> None:
    """Train, fine-tune, measure; print the tables, write them, all numbers and the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    sizes = {"vocabulary": 16384, "hidden": 64, "layers": 2, "length": 128, "batch": 4, "seeds": 4}
    sizes |= {"steps": 400, "rate": 5e-3, "end": 0.1, "tune-steps": 80, "tune-rate": 1e-3, "noise": 0.25}
    sizes |= {"every": 1, "validation": 256, "rounds": 2, "cost-steps": 10, "cost-batch": 16}
    for option, value in {**sizes, "out": Path("language_model")}.items():
        parser.add_argument(f"--{option}", type=type(value), default=value)
    parser.add_argument("--cost", choices=COSTS, help="only measure this")
    argv = sys.argv[1:] if argv is None else argv
    given = parser.parse_args(argv)
    if given.cost:
        print(json.dumps(cost(given.cost, given)))
        return
    if given.seeds < 2:
        parser.error(f"--seeds must be at least 2, for an interval, got {given.seeds}")
    given.out.mkdir(parents=True, exist_ok=True)
    text = read_text(read_files(given.every), given.vocabulary, given.length)
    print(", ".join(f"{windows.numel()} tokens for {part}" for part, windows in text.items()))
    if not all(map(len, text.values())):
        parser.error(f"--every must leave text for each part, got {given.every}")
    text["validation"] = text["validation"][:: max(1, len(text["validation"]) // given.validation)]
    torch.save(text["training"], given.out / "windows.pt")
    costs = compare_costs(argv, given)
    tokens = pd.concat(
        [per_token for seed in range(given.seeds) for per_token in run_seed(text, seed, given)]
    )
    models = tokens.groupby(["stage", "name", "seed"], sort=False)
    found = models[["nll", "target", "top", "right"]].apply(measure).reset_index()
    page = [f"Tokens counted alone: perplexity {np.exp(unigram(text, given.vocabulary)):.1f}."]
    page += [f"{stage}\n\n{table(rows)}" for stage, rows in found.groupby("stage", sort=False)]
    page += [cost_table(costs, given)] if given.rounds else []
    (given.out / "tables.md").write_text("\n\n".join(page) + "\n")
    numbers = {"options": vars(given), "models": found.to_dict("records"), "costs": costs.to_dict("records")}
    (given.out / "numbers.json").write_text(json.dumps(numbers, indent=1, default=str))
    print("", *page, sep="\n\n")
    draw(tokens, given.out / "language_model.svg")


if __name__ == "__main__":
    main()
