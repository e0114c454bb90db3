"""A gate over 16 sections: penalties and maps that make it one-hot, measured on handwritten digits.

python examples/routing.py                     trains every gate, prints the table, draws the picture
python examples/routing.py --tune --seeds 4    compares the weights of the penalties
Needs pip install 'equipoise[compare,entmax]'.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch
from joblib import Parallel, delayed
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from equipoise.compare.statistics import compare_paired
from equipoise.maps import Softmax, Sparsemax, StraightThrough
from equipoise.metrics import boundary_mass, choices_used, effective_choices
from equipoise.objective import Objective
from equipoise.penalties import Balance, Decisiveness, Entropy, Gini
from equipoise.schedules import Linear

SECTIONS, RANK, CLASSES, OVERLAP = 16, 4, 10, 0.4 / 0.6  # all seeds split the same rows: test / training
MAPS = {"colder": Softmax(0.25), "sparsemax": Sparsemax(), "straight-through": StraightThrough(Softmax())}
PENALTIES = {  # and weights, by --tune; they rise from 0 over the first half of the training
    "q - q^2": (1.0 * Decisiveness(), 0.1),
    "entropy": (1.0 * Entropy(), 1.0),
    "Gini": (1.0 * Gini(), 1.0),
    "entropy + balance": (Entropy() + Balance(), 30.0),
    "q - q^2 + balance": (Decisiveness() + Balance(), 30.0),
}
GATES = ["no help", "colder", "annealed", *PENALTIES, "sparsemax", "straight-through"]
MEASURES = ["accuracy", "chosen only", "gap", "choices per row", "margin <= 0.5", "sections used"]


class Sections(nn.Module):
    """A linear gate, and 16 linear maps of rank 4 from pixels to classes."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(64, SECTIONS)
        self.down = nn.Parameter(torch.randn(64, SECTIONS * RANK) / 8)
        self.up = nn.Parameter(torch.randn(SECTIONS * RANK, CLASSES) / RANK**0.5)
        self.bias = nn.Parameter(torch.zeros(SECTIONS, CLASSES))

    def forward(self, pixels: Tensor, use: Tensor) -> Tensor:
        """Return logits (N, 10) of pixels (N, 64) when section k counts use[:, k]."""
        return (pixels @ self.down * use.repeat_interleave(RANK, dim=1)) @ self.up + use @ self.bias


def train(name: str, seed: int, epochs: int, tried: float | None) -> dict[str, object]:
    """Train one network and measure it on test rows; with a weight to be tried, on validation rows."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)  # the same split, initial weights and batches for every gate
    data = train_test_split(*load_digits(return_X_y=True), test_size=0.4, random_state=seed)
    if tried is not None:  # without the test rows
        data = train_test_split(data[0], data[2], test_size=0.25, random_state=seed)
    x, unseen, y, truth = map(torch.tensor, data)
    x, unseen = x.float() / 16 - 0.5, unseen.float() / 16 - 0.5
    model, scale, steps = Sections(), [], epochs * -(-len(x) // 64)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    term, weight = PENALTIES.get(name, (0.0 * Entropy(), 0.0))
    rising = Linear(0, weight if tried is None else tried, steps=max(1, steps // 2))
    penalty = Objective(term, schedules={type(part).__name__: rising for _, part in term.terms()})

    def use(logits: Tensor) -> Tensor:
        cooled = Softmax(Linear(1.0, 0.1, steps)(penalty.steps) if name == "annealed" else 1.0)
        return MAPS.get(name, cooled).probs(logits)

    for _ in range(epochs):
        scale.append(model.gate(x).std(1).mean().item())
        for batch in torch.randperm(len(x)).split(64):
            logits = model.gate(x[batch])
            loss = nn.functional.cross_entropy(model(x[batch], use(logits)), y[batch])
            optimiser.zero_grad()
            (loss + penalty(logits) if name in PENALTIES else loss).backward()
            optimiser.step()
            penalty.step()
    with torch.no_grad():
        scale.append(model.gate(x).std(1).mean().item())
        shares = use(model.gate(unseen))
        chosen = nn.functional.one_hot(shares.argmax(1), SECTIONS).float()
        right = [100 * (model(unseen, u).argmax(1) == truth).double().mean() for u in (shares, chosen)]
    measures = (*right, right[0] - right[1], effective_choices(shares), boundary_mass(shares, 0.5))
    found = dict(zip(MEASURES, map(float, (*measures, choices_used(chosen))), strict=True))
    return {"gate": name, "seed": seed, "weight": tried or weight, **found, "scale": scale}


def table(found: pd.DataFrame) -> str:
    """Return the means over seeds and, with intervals, paired differences from no help, as Markdown."""
    lines = {name: name for name in GATES}
    for column, better in zip(MEASURES, ("higher", "higher", "lower", None, None, None), strict=True):
        plain, *others = found.pivot_table(column, "seed", "gate")[GATES].T.to_numpy()
        compared = compare_paired(others, plain, better, test_ratio=OVERLAP)
        for name, values, d in zip(GATES, [plain, *others], [None, *compared], strict=True):
            change = f" {d.mean:+.1f} ({d.low:.1f} to {d.high:.1f}) {d.call}" if d and better else ""
            lines[name] += f" | {values.mean():.{1 if better else 2}f}{change}"
    head = [" | ".join(["gate", *MEASURES]), " | ".join(["---"] * 7)]
    return "\n".join(f"| {line} |" for line in [*head, *lines.values()])


def picture(found: pd.DataFrame, path: Path) -> None:
    """Draw the accuracies of each gate, soft and hard, and the spread of the logits at two temperatures."""
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "routing", "font.size": 9}):
        figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
        soft, hard = (found.pivot_table(c, "gate").loc[GATES[::-1], c] for c in MEASURES[:2])
        left.hlines(GATES[::-1], hard, soft, color="0.7", linewidth=3, zorder=1)
        left.scatter(soft, GATES[::-1], label="as trained")
        left.scatter(hard, GATES[::-1], marker="D", s=24, label="only the chosen section")
        left.legend(title="test accuracy in %; the line is the gap", bbox_to_anchor=(0.9, -0.06), ncols=2)
        for name, t, colour in (("no help", 1.0, "C0"), ("colder", 0.25, "C3")):
            scale = torch.tensor(found[found.gate == name].scale.tolist()).mean(0)
            right.plot(scale, color=colour, linestyle="--", label=f"T = {t:g}: the logits z")
            right.plot(scale / t, color=colour, label=f"T = {t:g}: z / T, which softmax sees")
            print(f"T = {t:g}: z / T spreads {scale[0] / t:.2f} before training, {scale[-1] / t:.2f} after")
        right.set(xlabel="epoch", ylabel="standard deviation over the 16 sections", ylim=(0, None))
        right.legend()
        figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    """Compare the gates; or, with --tune, the weights of the penalties on validation rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for option, value in (("--seeds", 8), ("--epochs", 60), ("--jobs", 2)):
        parser.add_argument(option, type=int, default=value)
    parser.add_argument("--out", type=Path, default=Path("routing"), help="folder for numbers and picture")
    parser.add_argument("--tune", action="store_true", help="try weights, with seeds of its own")
    given = parser.parse_args(argv)
    names, weights = (PENALTIES, (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)) if given.tune else (GATES, (None,))
    seeds = range(100, 100 + given.seeds) if given.tune else range(given.seeds)
    runs = [(name, seed, given.epochs, weight) for name in names for weight in weights for seed in seeds]
    found = pd.DataFrame(Parallel(n_jobs=given.jobs)(delayed(train)(*run) for run in runs))
    given.out.mkdir(parents=True, exist_ok=True)
    found.drop(columns="scale").to_csv(
        given.out / ("tuning.csv" if given.tune else "routing.csv"), index=False
    )
    if not given.tune:
        picture(found, given.out / "routing.svg")
    tried = found.pivot_table(["chosen only", "sections used"], "gate", "weight").round(1)
    print(tried.to_string() if given.tune else table(found))


if __name__ == "__main__":
    main()
