"""Ordered classes: cross entropy and the ranked probability score, by likeliest class and by costs.

python examples/ordinal.py    party identification (anes96, 7 classes) and rating of a marriage (fair, 5)

Needs pip install 'equipoise[compare]' statsmodels. In each split every loss has the same rows, initial
weights and batches. The epoch is that of the smallest validation value of the loss; a temperature is then
fitted to the validation rows by the same loss.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from paired import interval, shown
from sklearn.model_selection import train_test_split
from statsmodels.datasets import anes96, fair
from torch import Tensor, nn

from equipoise.costs import decide, ordinal
from equipoise.losses import CrossEntropy, RankedProbabilityScore
from equipoise.metrics import mean_cost

DATA: dict[str, Any] = {"anes96": anes96, "fair": fair}
LOSSES = {
    "cross entropy": CrossEntropy(),
    "RankedProbabilityScore": RankedProbabilityScore(),
    "both": CrossEntropy() + RankedProbabilityScore(),
}
POWERS = {"absolute": 1, "squared": 2}
TEMPERATURES = np.geomspace(0.25, 4, 41)
OVERLAP = 0.2 / 0.6  # test rows over training rows
WAYS = LIKELIEST, DECIDED = "likeliest", "decided by costs"


def rows_of(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return features (N, D) and classes (N,) from 0, in their order."""
    data = DATA[name].load_pandas()
    if name == "fair":  # the rating, by all but the number of affairs
        return data.exog.drop(columns="rate_marriage").to_numpy(), data.exog.rate_marriage.to_numpy(int) - 1
    return data.data.drop(columns=["PID", "popul", "vote"]).to_numpy(), data.endog.to_numpy(int)


def trained(loss: Any, parts: dict[str, tuple[Tensor, Tensor]], seed: int, epochs: int) -> dict[str, Tensor]:
    """Return the calibrated probabilities (N, C) of the validation and test rows at the best epoch."""
    torch.manual_seed(seed)
    rows, target = parts["train"]
    model = nn.Sequential(nn.Linear(rows.shape[1], 32), nn.ReLU(), nn.Linear(32, int(target.max()) + 1))
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    best, logits = torch.inf, {}
    for _ in range(epochs):
        for batch in torch.randperm(len(rows)).split(64):
            optimiser.zero_grad()
            loss(model(rows[batch]), target[batch]).backward()
            optimiser.step()
        with torch.inference_mode():
            value = loss(model(parts["validation"][0]), parts["validation"][1]).item()
            if value < best:
                best = value
                logits = {name: model(parts[name][0]).double() for name in ("validation", "test")}
    values = [loss(logits["validation"] / t, parts["validation"][1]).item() for t in TEMPERATURES]
    return {name: (z / TEMPERATURES[np.argmin(values)]).softmax(1) for name, z in logits.items()}


def measured(name: str, seed: int, epochs: int) -> list[dict[str, Any]]:
    """Return the mean costs on the test rows of one split, for each loss and each class taken."""
    x, y = rows_of(name)
    train, others = train_test_split(np.arange(len(y)), test_size=0.4, stratify=y, random_state=seed)
    validation, test = train_test_split(others, test_size=0.5, stratify=y[others], random_state=seed)
    x = (x - x[train].mean(0)) / x[train].std(0)
    split = {"train": train, "validation": validation, "test": test}
    parts = {part: (torch.tensor(x[k]).float(), torch.tensor(y[k])) for part, k in split.items()}
    found = []
    for loss_name, loss in LOSSES.items():
        probs = trained(loss, parts, seed, epochs)["test"].numpy()
        for cost_name, power in POWERS.items():
            costs = ordinal(probs.shape[1], power=power)
            for way, taken in ((LIKELIEST, probs.argmax(1)), (DECIDED, decide(probs, costs))):
                cost = mean_cost(y[test], taken, costs.array)
                found.append(
                    {"costs": cost_name, "loss": loss_name, "taken": way, "seed": seed, "cost": cost}
                )
    return found


def table(found: pd.DataFrame) -> str:
    """Return mean costs, and paired differences from cross entropy read in two ways, as Markdown."""
    heads = ["costs", "loss", "class taken", "mean cost", *(f"less cross entropy, {way}" for way in WAYS)]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for cost_name in POWERS:
        costs = found[found.costs == cost_name].pivot_table("cost", "seed", ["loss", "taken"])
        plain = [("cross entropy", way) for way in WAYS]
        for key in [(loss, way) for loss in LOSSES for way in WAYS]:
            less = ["" if key == of else shown(interval(costs[key], costs[of], OVERLAP), 3) for of in plain]
            cells = [cost_name, *key, f"{costs[key].mean():.3f}", *less]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> dict[str, pd.DataFrame]:
    """Train on each split and print a table for each data set."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=60)
    given = parser.parse_args(argv)
    tables = {}
    for name in given.data:
        runs = [line for seed in range(given.seeds) for line in measured(name, seed, given.epochs)]
        tables[name] = pd.DataFrame(runs)
        print(f"{name}, {given.seeds} splits\n\n{table(tables[name])}\n", flush=True)
    return tables


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
