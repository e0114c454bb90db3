"""Mistakes of different cost: mean costs of decisions by cost, and of losses with costs.

300 rows of noisy digits to train, the others to test. Missing an 8 or a 1 costs 20, any other mistake 1.
In each seed every method has the same split and initial weights. Each is evaluated by its likeliest class and
by the class of smallest expected cost. All seeds split the same 1797 digits, and intervals are corrected for
that (`compare_paired`). With so few training rows the correction makes them wide.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from equipoise.compare.statistics import compare_paired
from equipoise.costs import ClassMatrix, decide, from_groups, index_tree, unmix
from equipoise.losses import (
    CrossEntropy,
    ExpectedCost,
    HierarchicalCrossEntropy,
    PairwiseCrossEntropy,
    SimilarityCrossEntropy,
    SoftmaxMargin,
)
from equipoise.metrics import mean_cost, severity

ROWS, TRAIN, NOISE, DEAR = 1797, 300, 0.35, (1, 8)
OVERLAP = (ROWS - TRAIN) / TRAIN  # test rows over training rows
GROUPS = "0, 6 | 1, 7 | 2, 3 | 4, 9 | 5, 8"  # digits of similar shape
NAMES = [str(digit) for digit in range(10)]

costs = np.ones((10, 10))
costs[list(DEAR)] = 20
np.fill_diagonal(costs, 0)
COSTS = ClassMatrix(costs, NAMES, kind="costs")
ALIKE = from_groups(GROUPS, within=0.3).ordered(NAMES)

METHODS = {
    "cross entropy": CrossEntropy(),
    "soft targets": SimilarityCrossEntropy(ALIKE),
    "pairwise": PairwiseCrossEntropy(COSTS),
    "expected cost": CrossEntropy() + ExpectedCost(COSTS),
    "softmax margin": SoftmaxMargin(np.log1p(COSTS.array)),
    "hierarchical": HierarchicalCrossEntropy(index_tree(GROUPS, NAMES), alpha=0.5),
}


def trained(loss: Any, rows: torch.Tensor, labels: torch.Tensor, seed: int, epochs: int) -> torch.nn.Module:
    """Return a small trained network."""
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    for _ in range(epochs):
        for batch in torch.randperm(len(rows)).split(100):
            optimiser.zero_grad()
            loss(model(rows[batch]), labels[batch]).backward()
            optimiser.step()
    return model


def measured(seed: int, epochs: int) -> dict[tuple[str, str], dict[str, float]]:
    """Return accuracy, severity and mean cost of each method and decision on one split."""
    digits: Any = load_digits()
    noise = np.random.default_rng(seed).normal(scale=NOISE, size=digits.data.shape)
    rows = torch.tensor(digits.data / 16 + noise, dtype=torch.float32)
    labels = torch.tensor(digits.target)
    train, test = train_test_split(np.arange(len(rows)), train_size=TRAIN, stratify=labels, random_state=seed)
    target, found = labels[test].numpy(), {}
    for name, loss in METHODS.items():
        model = trained(loss, rows[train], labels[train], seed, epochs)
        with torch.inference_mode():
            probs = model(rows[test]).double().softmax(1).numpy()
        true = unmix(probs, ALIKE) if name == "soft targets" else probs
        ways = {"likeliest": probs.argmax(1), "cheapest": decide(true, COSTS)}
        if name == "cross entropy":
            ways["by transposed costs"] = decide(true, COSTS.T)  # the mistake to look out for
        for read, taken in ways.items():
            found[name, read] = {
                "accuracy": float((taken == target).mean()),
                "severity": severity(target, taken, COSTS.array),
                "cost": mean_cost(target, taken, COSTS.array),
            }
    return found


def table(runs: list[dict[tuple[str, str], dict[str, float]]]) -> list[dict[str, Any]]:
    """Return a row per method and decision: means over seeds, and cost minus that of the first two rows."""
    values = {key: {name: [run[key][name] for run in runs] for name in runs[0][key]} for key in runs[0]}
    spent = np.array([each["cost"] for each in values.values()])
    both = [values["cross entropy", read]["cost"] for read in ("likeliest", "cheapest")]
    others = len(spent) - 1  # the one that is compared with itself does not count
    against = [compare_paired(spent, one, "lower", test_ratio=OVERLAP, comparisons=others) for one in both]
    lower = [(spent < one).sum(axis=1).tolist() for one in both]
    lines = []
    for (method, read), *found in zip(values, *against, *lower, strict=True):
        means = {name: float(np.nanmean(of)) for name, of in values[method, read].items()}
        named = dict(zip(("against", "against_free", "lower", "lower_free"), found, strict=True))
        lines.append({"method": method, "read": read, **means, **named})
    return lines


def draw(lines: list[dict[str, Any]], out: Path) -> None:
    """Mean cost against plain cross entropy's likeliest class, with intervals."""
    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "costs"
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for k, line in enumerate(lines[::-1]):
        found, colour = line["against"], "tab:blue" if line["read"] == "cheapest" else "tab:grey"
        axes.plot([found.low, found.high], [k, k], color=colour, linewidth=3, solid_capstyle="butt")
        axes.plot(found.mean, k, "o", color=colour)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(lines)), [f"{line['method']}, {line['read']}" for line in lines[::-1]])
    axes.set_xlabel("mean cost less that of the first, simultaneous 95 % intervals")
    figure.savefig(out, metadata={"Date": None} if out.suffix == ".svg" else None)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Train, print the table, draw the picture."""
    parser = argparse.ArgumentParser(description="Digits with costly confusions.")
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--out", type=Path, default=Path("costs.svg"))
    options = parser.parse_args(argv)
    lines = table([measured(seed, options.epochs) for seed in range(options.seeds)])
    against = "less the first, lower in | less the second, lower in"
    print(f"| method | class taken | accuracy | severity | cost | {against} |")
    print("|---|---|---|---|---|---|---|")
    for line in lines:
        less = [
            f"{found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f}), {lower}"
            if found.low < found.high
            else "0"
            for found, lower in ((line["against"], line["lower"]), (line["against_free"], line["lower_free"]))
        ]
        print(
            f"| {line['method']} | {line['read']} | {100 * line['accuracy']:.1f} % | {line['severity']:.2f} "
            f"| {line['cost']:.3f} | {less[0]} | {less[1]} |"
        )
    draw(lines, options.out)
    return lines


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
