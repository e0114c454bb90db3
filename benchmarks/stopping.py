"""Compare rules that choose the epoch, and calibrations, for several losses under label noise.

`python -m benchmarks.stopping` trains each condition once and writes a JSON file for it; `--table` prints
Markdown tables of the files. The observed labels of the training and validation rows are noisy, and choose
the epoch and the calibration; accuracy and NLL are those of the clean labels of the test rows. Differences in
brackets are from the reference, over seeds, with a paired 95 % interval.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from benchmarks.calibration import nts
from benchmarks.copies import Recording, halves, parts_of, record
from benchmarks.datasets import named
from benchmarks.label_noise import NOISES
from benchmarks.report import table
from equipoise import calibration
from equipoise.losses import CrossEntropy, Focal, GammaCrossEntropy, GeneralizedCrossEntropy, Loss
from equipoise.training import Options

DATA = ("digits", "segments", "anes96")
RATES = (0.2, 0.4, 0.6)
LOSSES: tuple[Loss, ...] = (
    CrossEntropy(),
    Focal(gamma=2.0),
    GammaCrossEntropy(gamma=0.5),
    GeneralizedCrossEntropy(q=0.7),
)
PATIENCE = 20
WINDOWS = (3, 10)
RULES = ("calibrated", "own", "accuracy", "nll", "last", *(f"Label Wave {k}" for k in WINDOWS), "best")
REFERENCE = "calibrated", "T and noise"
RESULTS = Path(__file__).parent / "results" / "stopping"


@final
@dataclass(frozen=True)
class Condition:
    """Data, noise and loss of a file of results.

    Args:
        data: Name of a data set.
        noise: Kind of noise, or "none".
        rate: Share of wrong labels.
        loss: Index in `LOSSES`.
    """

    data: str
    noise: str
    rate: float
    loss: int

    @property
    def name(self) -> str:
        """Name of its file without the suffix."""
        return f"{self.data}-{self.noise}-{self.rate:g}-{type(LOSSES[self.loss]).__name__}"


def conditions(data: Sequence[str] = DATA, rates: Sequence[float] = RATES) -> list[Condition]:
    """Return all conditions, those with clean labels first."""
    kinds = [("none", 0.0), *((noise, rate) for noise in NOISES for rate in rates)]
    return [
        Condition(d, noise, rate, loss) for d in data for noise, rate in kinds for loss in range(len(LOSSES))
    ]


def first_best(values: NDArray[np.float64], patience: int) -> int:
    """Return the index of the minimum up to `patience` values without a smaller one; nan is ignored.

    Example:
        >>> first_best(np.array([3.0, 2.0, 2.5, 2.2, 1.0]), patience=2)
        1
    """
    best, at = np.inf, 0
    for place, value in enumerate(values):
        if value < best:
            best, at = value, place
        if place - at >= patience:
            break
    return at


def prediction_changes(predictions: Tensor) -> NDArray[np.float64]:
    """Return how many predictions differ from those of the epoch before.

    Shapes:
        predictions (E, N); result (E - 1,), the first entry that of the second epoch.
    """
    return (predictions[1:] != predictions[:-1]).sum(dim=1).double().numpy()


def label_wave(changes: NDArray[np.float64], window: int) -> int:
    """Return the epoch that Label Wave chooses, from 0: the first local minimum of the mean change.

    The measure is the number of changed predictions on the training rows, averaged over the last `window`
    epochs. The rule chooses the first epoch whose successor has a larger mean, else the last epoch. It uses
    neither validation rows nor labels. Yuan, Feng and Liu, ICLR 2024, arXiv 2502.07551; the window is an
    option there.

    Shapes:
        changes (E - 1,), the first entry that of the second epoch.

    Example:
        >>> label_wave(np.array([9.0, 5.0, 1.0, 4.0, 4.0, 9.0]), window=1)
        3
    """
    if len(changes) < window + 1:
        return len(changes)
    mean = np.convolve(changes, np.full(window, 1 / window), mode="valid")
    rises = np.flatnonzero(np.diff(mean) > 1e-9)
    return int(rises[0]) + window if len(rises) else len(changes)


def choices(recording: Recording, clean: Sequence[Tensor]) -> dict[str, list[int]]:
    """Return the epoch, from 0, that each rule chooses for each copy.

    Args:
        recording: Recording of K copies.
        clean: Clean classes of the test rows of each copy, used by "best" only.
    """
    copies, epochs = range(len(clean)), len(recording.test)
    found = {
        rule: [
            first_best(curve, PATIENCE) for curve in (-1 if rule == "accuracy" else 1) * recording.curve(rule)
        ]
        for rule in ("calibrated", "own", "accuracy", "nll")
    }
    found["last"] = [epochs - 1 for _ in copies]
    changes = [prediction_changes(recording.predictions[:, k]) for k in copies]
    for window in WINDOWS:
        found[f"Label Wave {window}"] = [label_wave(each, window) for each in changes]
    right = [(recording.test[:, k].argmax(dim=2) == clean[k]).double().mean(dim=1) for k in copies]
    found["best"] = [int(each.argmax()) for each in right]
    return found


@final
@dataclass(frozen=True)
class Seen:
    """Logits of one copy at one epoch, with the labels that calibrations use.

    Args:
        validation: Logits (V, C).
        observed: Observed classes (V,).
        test: Logits (M, C).
        clean: Clean classes (M,), used by "best T" only.
        rate: Share of wrong labels, used by the calibrations with a known rate only.
    """

    validation: Tensor
    observed: Tensor
    test: Tensor
    clean: Tensor
    rate: float


TEMPERATURES: Mapping[str, Callable[[Seen], float]] = {
    "raw": lambda seen: 1.0,
    "T alone": lambda seen: _temperature(seen.validation, seen.observed, 0),
    "T and noise": lambda seen: _temperature(seen.validation, seen.observed, "fit"),
    "NTS, rate given": lambda seen: nts(seen.validation.double().numpy(), seen.observed.numpy(), seen.rate),
    "T, rate given": lambda seen: _temperature(seen.validation, seen.observed, seen.rate),
    "best T": lambda seen: _temperature(seen.test, seen.clean, 0),
}
CALIBRATIONS = tuple(TEMPERATURES)


def _temperature(logits: Tensor, target: Tensor, noise: Any) -> float:
    return float(calibration.fit(logits.double(), target, noise=noise).temperature)


def measure(
    recording: Recording, observed: Sequence[Tensor], clean: Sequence[Tensor], rate: float
) -> dict[str, Any]:
    """Return accuracy and the NLL after each calibration, for each rule and copy.

    Args:
        recording: Recording of K copies.
        observed: Observed classes of the validation rows of each copy.
        clean: Clean classes of the test rows of each copy.
        rate: Share of wrong labels.
    """
    found: dict[str, Any] = {}
    for rule, epochs in choices(recording, clean).items():
        figures: dict[str, list[float]] = {"accuracy": [], **{name: [] for name in CALIBRATIONS}}
        for k, epoch in enumerate(epochs):
            validation, test = recording.validation[epoch, k], recording.test[epoch, k]
            figures["accuracy"].append(float((test.argmax(dim=1) == clean[k]).double().mean()))
            seen = Seen(validation, observed[k], test, clean[k], rate)
            for name, temperature in TEMPERATURES.items():
                scaled = test.double() / temperature(seen)
                figures[name].append(float(torch.nn.functional.cross_entropy(scaled, clean[k])))
        found[rule] = {"epoch": [epoch + 1 for epoch in epochs], **figures}
    return found


def run(condition: Condition, seeds: int, epochs: int) -> dict[str, Any]:
    """Train one condition over seeds, each with its own noise and split, and return its figures."""
    dataset = named(condition.data).dataset()
    parts = []
    for seed in range(seeds):
        labels = dataset.labels
        if condition.noise != "none":
            labels = NOISES[condition.noise](dataset.features, dataset.labels, condition.rate, seed)
        parts.append(parts_of(dataset, *halves(dataset.labels, seed), labels, dataset.labels, seed))
    recording = record(LOSSES[condition.loss], parts, len(dataset.classes), Options(epochs=epochs))
    observed, clean = ([getattr(each, part).target for each in parts] for part in ("validation", "test"))
    about = {"data": condition.data, "noise": condition.noise, "rate": condition.rate}
    return about | {
        "loss": repr(LOSSES[condition.loss]),
        "rules": measure(recording, observed, clean, condition.rate),
    }


def paired(values: Sequence[float], reference: Sequence[float]) -> tuple[float, float]:
    """Return the mean difference over seeds and half the width of its 95 % interval (Student's t).

    Example:
        >>> paired([3.0, 4.0, 5.0], [2.0, 3.0, 4.0])
        (1.0, 0.0)
    """
    differences = np.subtract(values, reference)
    if len(differences) < 2:
        return float(differences.mean()), float("nan")
    error = differences.std(ddof=1) / np.sqrt(len(differences))
    return float(differences.mean()), float(stats.t.ppf(0.975, len(differences) - 1) * error)


def rule_table(result: Mapping[str, Any]) -> str:
    """Return the figures of one condition, a line for each rule, with differences from the reference."""
    rule, fit = REFERENCE
    own = result["rules"][rule]
    lines = []
    for name, figures in result["rules"].items():
        cells = [name, f"{np.median(figures['epoch']):.0f}", _cell(figures["accuracy"], own["accuracy"])]
        cells += [_cell(figures[each], own[fit]) for each in CALIBRATIONS]
        lines.append(cells)
    return table(("epoch by", "epoch", "accuracy", *(f"NLL, {each}" for each in CALIBRATIONS)), lines)


def _cell(values: Sequence[float], reference: Sequence[float]) -> str:
    mean, half = paired(values, reference)
    if not any(np.subtract(values, reference)):
        return f"{np.mean(values):.3f}"
    return f"{np.mean(values):.3f} ({mean:+.3f} ± {half:.3f})"


def summary_table(results: Sequence[Mapping[str, Any]], data: str) -> str:
    """Return clean accuracy on a data set: a line for each loss and rule, a column for each noise."""

    def cells(rules: Mapping[str, Any]) -> dict[str, str]:
        return {rule: f"{100 * np.mean(rules[rule]['accuracy']):.1f}" for rule in RULES}

    return _summary(results, data, "epoch by", cells)


def calibration_table(results: Sequence[Mapping[str, Any]], data: str) -> str:
    """Return clean NLL at the epoch of the reference: a line for each loss and calibration."""

    def cells(rules: Mapping[str, Any]) -> dict[str, str]:
        return {name: f"{np.mean(rules[REFERENCE[0]][name]):.3f}" for name in CALIBRATIONS}

    return _summary(results, data, "calibration", cells)


def _summary(
    results: Sequence[Mapping[str, Any]], data: str, head: str, cells: Callable[[Any], Mapping[str, str]]
) -> str:
    own = [each for each in results if each["data"] == data]
    kinds = list(dict.fromkeys((each["noise"], each["rate"]) for each in own))
    found = {(each["loss"], each["noise"], each["rate"]): cells(each["rules"]) for each in own}
    lines = []
    for loss in dict.fromkeys(each["loss"] for each in own):
        columns = [found.get((loss, *kind)) for kind in kinds]
        names = next(each for each in columns if each is not None)
        lines += [(loss, name, *("" if each is None else each[name] for each in columns)) for name in names]
    heads = ["clean" if noise == "none" else f"{noise} {rate:.0%}" for noise, rate in kinds]
    return table(("loss", head, *heads), lines)


def tables(results: Sequence[Mapping[str, Any]]) -> str:
    """Return all tables as Markdown: the summaries, then a table for each condition."""
    text = []
    for data in dict.fromkeys(each["data"] for each in results):
        text.append(f"## {data}: accuracy on clean test labels, in %\n\n{summary_table(results, data)}")
        title = f"## {data}: NLL of clean test labels, epoch by {REFERENCE[0]}"
        text.append(f"{title}\n\n{calibration_table(results, data)}")
    for each in results:
        title = f"{each['data']}, {each['noise']} noise {each['rate']:g}, {each['loss']}"
        text.append(f"### {title}\n\n{rule_table(each)}")
    return "\n".join(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train the missing conditions, or print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stopping")
    parser.add_argument("--data", nargs="+", default=list(DATA))
    parser.add_argument("--rates", nargs="+", type=float, default=list(RATES))
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument(
        "--shard", default="0/1", help="i/n: every n-th condition from the i-th, for n processes"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print the tables of what is there")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    wanted = conditions(options.data, options.rates)
    paths = [options.out / f"{each.name}.json" for each in wanted]
    if options.table:
        print(tables([json.loads(path.read_text()) for path in paths if path.exists()]))
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    shard, shards = map(int, options.shard.split("/"))
    for path, condition in list(zip(paths, wanted, strict=True))[shard::shards]:
        if not path.exists():
            result = run(condition, options.seeds, options.epochs)
            path.with_suffix(".part").write_text(json.dumps(result) + "\n")
            path.with_suffix(".part").replace(path)
            print(path.stem, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
