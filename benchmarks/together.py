"""Time the trainings of a default comparison one after another and together, on two cores.

`python -m benchmarks.together` trains cross entropy and the five default candidates on the ten folds of
scikit-learn's digits with 40 % wrong labels, as `equipoise compare --noise 0.4` does: the mlp of 128 hidden
units, 100 epochs in float32, the epoch chosen by the calibrated NLL of the validation rows, then a
calibration and the probabilities of the test rows. The first way trains each network alone, the second the
ten folds of an objective together. Both use two processes of one thread each and run first in turn; ratios
are taken within a repeat. Before that, 30 steps in float64 must agree to 1e-9; otherwise nothing is timed.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from joblib import Parallel, delayed
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold
from torch import nn

from benchmarks.measure import Spread
from benchmarks.report import machine, table
from equipoise import calibration
from equipoise.compare.statistics import compare_paired
from equipoise.objective import Objective
from equipoise.training import Alone, Copies, Options, Rows, Trained, predict, train

EPOCHS, BATCH, WIDTH, FOLDS, RATE = 100, 128, 128, 10, 0.4
STEPS = -(-1456 // BATCH)  # in an epoch, over 0.9 x 0.9 of the 1797 rows
EXACT, STEPS_EXACT = 1e-9, 30
MOST_ACCURACY = 0.002
CLOCKS = "seconds", "processor seconds"  # the second is without the time of other programs
WORTHWHILE = {"accuracy": 0.005, "nll": 0.01}
OUT = Path(__file__).parent / "results" / "together.json"
Config = dict[str, Any]


def objectives(epochs: int) -> dict[str, Config]:
    """Return the baseline and the default candidates, with schedules over all steps."""
    rising = {"gamma": f"Linear(0, 0.5, steps={epochs * STEPS})"}
    return {
        "CrossEntropy()": {"loss": "CrossEntropy()"},
        "GammaCrossEntropy(gamma=0.5)": {"loss": "GammaCrossEntropy(gamma=0.5)"},
        "CrossEntropy(label_smoothing=0.1)": {"loss": "CrossEntropy(label_smoothing=0.1)"},
        "GammaCrossEntropy(gamma=Linear(0, 0.5))": {"loss": "GammaCrossEntropy()", "schedules": rising},
        "GeneralizedCrossEntropy(q=0.7)": {"loss": "GeneralizedCrossEntropy(q=0.7)"},
        "SymmetricCrossEntropy(alpha=0.1, beta=1.0)": {"loss": "SymmetricCrossEntropy(alpha=0.1, beta=1.0)"},
    }


@final
@dataclass(frozen=True)
class Fold:
    """Rows of a fold.

    Args:
        place: Number of the fold, the seed of its initial weights and of the order of its batches.
        train: Training rows with observed classes.
        validation: Validation rows with observed classes.
        test: Test rows with true classes.
    """

    place: int
    train: Rows
    validation: Rows
    test: Rows

    def network(self) -> nn.Module:
        """Return the untrained network of this fold."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.place)
            return nn.Sequential(nn.Linear(64, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 10)).to(self.dtype)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the features."""
        return self.train.inputs.dtype


def folds(dtype: torch.dtype = torch.float32) -> list[Fold]:
    """Return the ten folds of digits, with wrong labels where labels are observed."""
    digits: Any = load_digits()
    inputs, true = torch.tensor(digits.data / 16, dtype=dtype), digits.target
    draws = np.random.default_rng(0)
    wrong = draws.random(len(true)) < RATE * 10 / 9  # a wrong label is drawn from all ten
    observed = np.where(wrong, draws.integers(10, size=len(true)), true)

    def rows(part: NDArray[np.int64], labels: NDArray[np.int64]) -> Rows:
        return Rows(inputs[part], torch.from_numpy(labels[part]))

    found = []
    for place, (rest, test) in enumerate(_split(np.arange(len(true)), true)):
        fit, validation = next(_split(rest, true))
        found.append(Fold(place, rows(fit, observed), rows(validation, observed), rows(test, true)))
    return found


def _split(rows: NDArray[np.int64], labels: NDArray[np.int64]) -> Any:
    for one, other in StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(rows, labels[rows]):
        yield rows[one], rows[other]


def trained(config: Config, some: Sequence[Fold], options: Options) -> tuple[Copies | Alone, list[Trained]]:
    """Train on some folds together, or on one alone; return a network to predict with, and the copies."""
    models = [fold.network() for fold in some]
    together = len(models) > 1
    model = Copies(models) if together else Alone(models[0])
    copies = train(
        model,
        Objective.from_config(**config),
        [fold.train for fold in some],
        [fold.validation for fold in some],
        options,
        [fold.place for fold in some],
    )
    return Copies(models[:1]) if together else model, copies


def measured(config: Config, some: Sequence[Fold], epochs: int) -> tuple[float, list[dict[str, float]]]:
    """Return processor seconds, and accuracy and calibrated NLL on the test rows of some folds."""
    torch.set_num_threads(1)
    began = time.process_time()
    model, copies = trained(config, some, Options(epochs=epochs, batch_size=BATCH))
    found = []
    for copy, fold in zip(copies, some, strict=True):
        validation = predict(model, copy.state, fold.validation.inputs)
        fit = calibration.fit(validation, fold.validation.target)
        probs = torch.as_tensor(fit.probs(predict(model, copy.state, fold.test.inputs)))
        hits = (probs.argmax(dim=1) == fold.test.target).double().mean()
        nll = nn.functional.nll_loss(probs.log(), fold.test.target)
        found.append({"accuracy": hits.item(), "nll": nll.item()})
    return time.process_time() - began, found


def largest_difference(config: Config) -> float:
    """Return the largest difference of weights between both ways, after 30 steps in float64."""
    some = folds(torch.float64)[:3]
    options = Options(epochs=-(-STEPS_EXACT // STEPS), batch_size=BATCH, stop="none")
    _, together = trained(config, some, options)
    most = 0.0
    for copy, fold in zip(together, some, strict=True):
        _, (alone,) = trained(config, [fold], options)
        weights = [*alone.state[::2], *alone.state[1::2]]
        for ours, theirs in zip(copy.state, weights, strict=True):
            other = theirs.T if theirs.ndim > 1 else theirs[None]
            most = max(most, float((ours - other).abs().max()))
    return most


def calls(values: dict[str, list[dict[str, float]]], measure: str) -> list[str | None]:
    """Return the call of each candidate against the first objective."""
    first, *others = [[fold[measure] for fold in found] for found in values.values()]
    better = {"accuracy": "higher", "nll": "lower"}[measure]
    judged = compare_paired(
        others,
        first,
        better,
        test_ratio=1 / (FOLDS - 1),
        worthwhile=WORTHWHILE[measure],
        comparisons=2 * len(others),
    )
    return [each.call for each in judged]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and return the exit status: 1 if the two ways disagree."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.together", description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    named = objectives(options.epochs)
    exact = {name: largest_difference(config) for name, config in named.items()}
    if (worst := max(exact.values())) > EXACT:
        print(f"Nothing was timed: weights differ by {worst:.1e} after {STEPS_EXACT} steps.", file=sys.stderr)
        return 1
    data, workers = folds(), Parallel(n_jobs=2)
    ways = {"one after another": [[fold] for fold in data], "together": [data]}
    seconds: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    values: dict[str, dict[str, list[dict[str, float]]]] = {}
    with workers:
        workers(
            delayed(measured)(named["CrossEntropy()"], [data[0]], 1) for _ in range(4)
        )  # so that the imports are not timed
        for repeat in range(options.repeats):
            for way in list(ways)[:: -1 if repeat % 2 else 1]:
                tasks = [(config, some) for config in named.values() for some in ways[way]]
                began = time.perf_counter()
                found: Any = workers(delayed(measured)(*task, options.epochs) for task in tasks)
                seconds[way].append((time.perf_counter() - began, sum(taken for taken, _ in found)))
                every = [fold for _, group in found for fold in group]
                values[way] = {
                    name: every[place * FOLDS : (place + 1) * FOLDS] for place, name in enumerate(named)
                }
    return _report(named, exact, seconds, values, options.out)


def _report(
    named: dict[str, Config],
    exact: dict[str, float],
    seconds: dict[str, list[tuple[float, float]]],
    values: dict[str, dict[str, list[dict[str, float]]]],
    out: Path,
) -> int:
    """Print the tables, write the file, and return 1 if the results of both ways differ."""
    about = machine()
    print(table(("", ""), [(name, str(value)) for name, value in about.items()]))
    print(
        table(
            (f"{len(named) * FOLDS} trainings on 2 cores", *CLOCKS),
            [
                (way, *(", ".join(f"{each:.1f}" for each in clock) for clock in zip(*taken, strict=True)))
                for way, taken in seconds.items()
            ],
        )
    )
    for place, clock in enumerate(CLOCKS):
        pairs = zip(*seconds.values(), strict=True)
        ratio = Spread.of([alone[place] / together[place] for alone, together in pairs])
        took = f"{ratio.median:.2f} times as many ({ratio.low:.2f} to {ratio.high:.2f})"
        print(f"One after another takes {took} {clock}.\n")
    lines, same = [], True
    called = {
        way: {measure: [None, *calls(found, measure)] for measure in WORTHWHILE}
        for way, found in values.items()
    }
    for place, name in enumerate(named):
        means = {
            way: {measure: np.mean([fold[measure] for fold in found[name]]) for measure in WORTHWHILE}
            for way, found in values.items()
        }
        one, other = means["one after another"], means["together"]
        words = [[called[way][measure][place] for measure in WORTHWHILE] for way in means]
        same &= words[0] == words[1] and abs(one["accuracy"] - other["accuracy"]) < MOST_ACCURACY
        lines.append(
            (
                f"`{name}`",
                f"{exact[name]:.0e}",
                f"{100 * one['accuracy']:.2f} / {100 * other['accuracy']:.2f} %",
                f"{one['nll']:.4f} / {other['nll']:.4f}",
                " / ".join(", ".join(str(word or "-") for word in each) for each in words),
            )
        )
    columns = ("objective", "weights after 30 steps, float64", "accuracy", "NLL", "call: accuracy, NLL")
    print("One after another / together:\n")
    print(table(columns, lines))
    print("The calls are the same." if same else "The two ways do NOT come to the same.")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(
        json.dumps({"machine": about, "seconds": seconds, "exact": exact, "values": values}, indent=1)
    )
    print(f"Written to {out}")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
