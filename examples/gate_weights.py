"""The weight of a gate's penalty, chosen by the hard gate's validation score, on data other than digits.

python examples/gate_weights.py    a table for each of three data sets; eleven minutes on one core

Needs pip install 'equipoise[compare]' statsmodels. In each seed every gate has the same rows, initial weights
and batches. The test rows are only used to report.
"""

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from paired import interval, shown
from sklearn.model_selection import train_test_split
from statsmodels.datasets import fair
from torch import Tensor, nn
from torch.nn import functional as F

from equipoise.maps import Softmax, StraightThrough
from equipoise.metrics import choices_used
from equipoise.objective import Objective
from equipoise.penalties import Balance, Entropy
from equipoise.schedules import Linear

SECTIONS, WEIGHTS = 16, (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
NO_HELP, STRAIGHT, ONE, CHOSEN = "no help", "straight-through", "one section", "chosen weight"
GATES = {NO_HELP: 0.0, **{f"weight {weight:g}": weight for weight in WEIGHTS}, STRAIGHT: 0.0, ONE: 0.0}
Split = dict[str, tuple[Tensor, Tensor]]


def regression(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a piecewise linear function of 8 numbers: 8 regions around centres, each with its own slopes."""
    rng = np.random.default_rng(seed)
    centres, slopes, x = rng.normal(size=(8, 8)), rng.normal(size=(8, 8)), rng.normal(size=(3000, 8))
    region = ((x[:, None] - centres) ** 2).sum(2).argmin(1)
    return x, (x * slopes[region]).sum(1) + 0.5 * rng.normal(size=len(x))


def clusters(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return 5 classes of 4 Gaussian clusters each, in 8 dimensions."""
    rng = np.random.default_rng(seed)
    centres, cluster = rng.normal(size=(20, 8)), rng.integers(20, size=3000)
    return centres[cluster] + 0.75 * rng.normal(size=(3000, 8)), cluster % 5


def affairs(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return 6366 answers of a survey by 8 numbers, and whether there was an affair."""
    del seed
    data: Any = fair.load_pandas()
    return data.exog.to_numpy(), (data.endog > 0).to_numpy(int)


DATA: dict[str, tuple[Callable[[int], tuple[np.ndarray, np.ndarray]], float]] = {
    "regression": (regression, 0.0),  # new rows in each seed
    "clusters": (clusters, 0.0),
    "affairs": (affairs, 0.2 / 0.6),  # the same rows in each seed: test rows over training rows
}


class Sections(nn.Module):
    """A linear gate, and linear sections."""

    def __init__(self, features: int, sections: int, outputs: int) -> None:
        super().__init__()
        self.gate = nn.Linear(features, sections)
        self.sections = nn.Linear(features, sections * outputs)

    def forward(self, rows: Tensor, use: Tensor) -> Tensor:
        """Return outputs (N, O) of rows (N, D) when section k counts use[:, k]."""
        return torch.einsum("nk,nko->no", use, self.sections(rows).unflatten(1, (use.shape[1], -1)))


def loss_of(output: Tensor, target: Tensor) -> Tensor:
    """Return the task's loss: squared error for a number, cross entropy for a class."""
    return F.mse_loss(output[:, 0], target) if target.is_floating_point() else F.cross_entropy(output, target)


def score(output: Tensor, target: Tensor) -> float:
    """Return R2 for a number, accuracy for a class, in %."""
    if target.is_floating_point():
        return 100 * (1 - F.mse_loss(output[:, 0], target) / target.var(correction=0)).item()
    return 100 * (output.argmax(1) == target).double().mean().item()


def split_of(name: str, seed: int) -> Split:
    """Return standardised rows and targets to train, to validate and to test."""
    x, y = DATA[name][0](seed)
    classes = None if y.dtype.kind == "f" else y
    train, others = train_test_split(np.arange(len(y)), test_size=0.4, stratify=classes, random_state=seed)
    classes = None if classes is None else y[others]
    validation, test = train_test_split(others, test_size=0.5, stratify=classes, random_state=seed)
    x = (x - x[train].mean(0)) / x[train].std(0)
    y = (y - y[train].mean()) / y[train].std() if classes is None else y
    parts = {"train": train, "validation": validation, "test": test}
    kind = torch.float32 if classes is None else torch.int64
    return {part: (torch.tensor(x[k]).float(), torch.tensor(y[k]).to(kind)) for part, k in parts.items()}


def train(gate: str, split: Split, seed: int, steps: int, sections: int = SECTIONS) -> dict[str, Any]:
    """Train one network; return its scores with the gate as trained (soft) and with one section (hard)."""
    torch.manual_seed(seed)
    rows, target = split["train"]
    outputs = 1 if target.is_floating_point() else int(target.max()) + 1
    model = Sections(rows.shape[1], 1 if gate == ONE else sections, outputs)
    shape = StraightThrough(Softmax()) if gate == STRAIGHT else Softmax()
    rising = Linear(0.0, GATES[gate], steps=max(1, steps // 2))  # from the training's own length
    penalty = Objective(Entropy() + Balance(), schedules={"Entropy": rising, "Balance": rising})
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    order = torch.cat([torch.randperm(len(rows)) for _ in range(-(-64 * steps // len(rows)))])
    for batch in order[: 64 * steps].split(64):
        logits = model.gate(rows[batch])
        loss = loss_of(model(rows[batch], shape.probs(logits)), target[batch])
        optimiser.zero_grad()
        (loss + penalty(logits) if GATES[gate] else loss).backward()
        optimiser.step()
        penalty.step()
    found: dict[str, Any] = {"gate": gate, "seed": seed}
    with torch.inference_mode():
        for part in ("validation", "test"):
            rows, target = split[part]
            shares = shape.probs(model.gate(rows))
            chosen = F.one_hot(shares.argmax(1), shares.shape[1]).float()
            found[f"{part} soft"] = score(model(rows, shares), target)
            found[f"{part} hard"] = score(model(rows, chosen), target)
        found["used"] = choices_used(chosen)
    return found


def choose(runs: pd.DataFrame) -> pd.DataFrame:
    """Return, for each seed, the run whose weight, 0 among them, has the best hard validation score."""
    tried = runs[~runs.gate.isin([STRAIGHT, ONE])]
    best = tried.loc[tried.groupby("seed")["validation hard"].idxmax()]
    return best.assign(weight=best.gate.map(GATES), gate=CHOSEN)


def table(runs: pd.DataFrame, overlap: float) -> str:
    """Return means on the test rows, and paired differences of the hard score with 95 % intervals."""
    together = pd.concat([runs, choose(runs)])
    soft, hard, used = (together.pivot_table(c, "seed", "gate") for c in ("test soft", "test hard", "used"))
    lines = [
        "| gate | soft | hard | less no help | less straight-through | sections used |",
        "|---" * 6 + "|",
    ]
    for gate in (*GATES, CHOSEN):
        less = [
            "" if gate == other else shown(interval(hard[gate], hard[other], overlap), 1)
            for other in (NO_HELP, STRAIGHT)
        ]
        means = f"{soft[gate].mean():.1f} | {hard[gate].mean():.1f}"
        lines.append(f"| {gate} | {means} | {less[0]} | {less[1]} | {used[gate].mean():.1f} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> dict[str, pd.DataFrame]:
    """Train every gate on every split and print a table for each data set."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--sections", type=int, default=SECTIONS)
    given = parser.parse_args(argv)
    found = {}
    for name in given.data:
        splits = {seed: split_of(name, seed) for seed in range(given.seeds)}
        runs = [
            train(gate, split, seed, given.steps, given.sections)
            for seed, split in splits.items()
            for gate in GATES
        ]
        found[name] = pd.DataFrame(runs)
        weights = ", ".join(f"{weight:g}" for weight in choose(found[name]).weight)
        print(f"{name}, {given.seeds} seeds; weights chosen: {weights}\n")
        print(f"{table(found[name], DATA[name][1])}\n", flush=True)
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
