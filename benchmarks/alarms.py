"""False calls and power of the command's rule.

`python -m benchmarks.alarms STUDY` trains the missing comparisons, with a line of JSON with raw scores for
each, and `--table` prints tables by the current rule. The studies:

- null: cross entropy against itself, with other seeds. Every call is false.
- close: losses that nearly agree, for which cross-validation may be invalid. Their true difference is known
  from a large synthetic population. Bayle, Janson, Mackey (arXiv 2508.04409): intervals from cross-validation
  are valid if the difference between two learners is stable, that is, if exchanging one training row changes
  it by little relative to its standard deviation. Two close learners may both be stable and their difference
  not, as this standard deviation vanishes; a loss against itself, with seeds exchanged, is symmetric about 0
  and does not show it.
- power: gamma cross entropy against plain, where it is known to be better, by folds and repeats.

Each comparison has new rows, splits, noise, initial weights and batches. Those of a pool (a real data set)
are independent given the pool, and binomial standard errors are valid for this pool; those of the synthetic
population are independent. Both losses of a pair have the same splits, and in "close" and "power" the same
seeds, as in the command.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from benchmarks.alarm_tables import TRUTH_BLOCK, tables
from benchmarks.copies import Ended, Parts, ended, halves, parts_of
from benchmarks.datasets import named
from benchmarks.label_noise import symmetric
from equipoise.calibration import Calibration
from equipoise.calibration.solve import fit_batch
from equipoise.compare.dataset import Dataset
from equipoise.compare.splits import splits
from equipoise.losses import CrossEntropy, GammaCrossEntropy, Loss
from equipoise.training import Options

MEASURES = ("accuracy", "calibrated_nll")
LAST = ("last_accuracy", "last_nll")  # what the old command compared: last epoch, raw
OLD_SEEDS = 8
BLOCK = 8  # comparisons trained together
RESULTS = Path(__file__).parent / "results" / "alarms"

Scores = dict[str, list[float]]
Places = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]


@final
@dataclass(frozen=True)
class Pool:
    """Source of the rows of a comparison.

    Args:
        name: Name of a data set, or "made" for the synthetic population.
        rows: Drawn without replacement for each comparison, as many as the folds divide.
        noise: Share of wrong labels, symmetric.
        clean_test: Whether test labels stay clean, as with `--noise`; else they are like the others.
    """

    name: str
    rows: int
    noise: float = 0.0
    clean_test: bool = False

    def draw(self, seed: int) -> tuple[Dataset, NDArray[np.int64], NDArray[np.int64]]:
        """Return the rows of a comparison, in random order, and their observed and test classes."""
        if self.name == "made":
            whole = population(self.rows, seed)
        else:
            whole = named(self.name).dataset()
            order = np.random.default_rng([seed, 5]).permutation(len(whole.labels))[: self.rows]
            features: Any = whole.features
            kept = features.iloc[order] if hasattr(features, "iloc") else features[order]
            whole = Dataset(whole.name, kept, whole.labels[order], whole.classes)
        observed = symmetric(whole.features, whole.labels, self.noise, seed)
        return whole, observed, whole.labels if self.clean_test else observed


def population(rows: int, seed: int, *, classes: int = 5, columns: int = 10) -> Dataset:
    """Return rows of the synthetic population: overlapping Gaussian classes, the same in all draws."""
    centres = np.random.default_rng(15).normal(size=(classes, columns)) * 0.8
    random = np.random.default_rng([seed, 4])
    labels = random.integers(0, classes, rows)
    features = centres[labels] + random.normal(size=(rows, columns))
    return Dataset("made", features, labels.astype(np.int64), tuple("abcdefgh"[:classes]))


@final
@dataclass(frozen=True)
class Study:
    """Pairs of losses on pools.

    Args:
        name: Name of the study.
        pools: Sources of the rows.
        baseline: The loss compared with.
        candidates: The losses compared with it.
        designs: Folds and repeats.
        comparisons: Number of comparisons for each pool.
        same_seeds: Whether candidate and baseline have the same initial weights and batches.
    """

    name: str
    pools: tuple[Pool, ...]
    baseline: Loss
    candidates: tuple[Loss, ...]
    designs: tuple[tuple[int, int], ...]
    comparisons: int
    same_seeds: bool = True


PLAIN = CrossEntropy()
STUDIES = {
    one.name: one
    for one in (
        Study("null", (Pool("wine", 170), Pool("digits", 500, 0.2)), PLAIN, (PLAIN,), ((10, 1),), 200, False),
        Study(
            "close",
            (Pool("made", 300, 0.1),),
            PLAIN,
            (GammaCrossEntropy(gamma=0.05), CrossEntropy(label_smoothing=0.01)),
            ((10, 1),),
            400,
        ),
        Study(
            "power",
            (Pool("digits", 1790, 0.4, clean_test=True), Pool("anes96", 940, 0.3)),
            PLAIN,
            (GammaCrossEntropy(gamma=0.5),),
            ((5, 4), (10, 4)),
            20,
        ),
    )
}


def folds_of(dataset: Dataset, folds: int, repeats: int) -> list[Places]:
    """Return training, validation and test rows as the command parts them."""
    return [(each.train, each.validation, each.test) for each in splits(dataset, folds, repeats)]


def scores(some: Sequence[Ended], *, clean_test: bool) -> Scores:
    """Return accuracy and NLL of each copy on its test rows: best epoch calibrated, and last epoch raw."""
    padded = partial(pad_sequence, batch_first=True)
    weight = padded([torch.ones(len(each.validation)) for each in some])
    observed = padded([each.parts.validation.target for each in some])
    fitted = fit_batch(padded([each.validation for each in some]), observed, weight=weight)
    found: Scores = {name: [] for name in (*MEASURES, *LAST)}
    for each, temperature, noise in zip(some, fitted.temperature, fitted.noise, strict=True):
        target, classes = each.parts.test.target, each.test.shape[1]
        fit = Calibration(float(temperature), float(noise), None, classes)
        calibrated = (fit.probs if clean_test else fit.observed_probs)(each.test.double())
        found["accuracy"].append(_accuracy(each.test, target))
        found["calibrated_nll"].append(_nll(calibrated, target))
        found["last_accuracy"].append(_accuracy(each.last, target))
        found["last_nll"].append(_nll(each.last.double().softmax(dim=1), target))
    return found


def _accuracy(logits: Tensor, target: Tensor) -> float:
    return float((logits.argmax(dim=1) == target).double().mean())


def _nll(probs: Tensor, target: Tensor) -> float:
    return -float(probs.gather(1, target[:, None]).clamp(min=1e-300).log().mean())


def train_all(
    loss: Loss, parts: Sequence[Parts], classes: int, *, clean_test: bool, to_the_end: bool = False
) -> Scores:
    """Return the scores of a copy trained on each of the parts, in their order."""
    found: Scores = {name: [] for name in (*MEASURES, *LAST)}
    for some in ended(loss, parts, classes, Options(to_the_end=to_the_end)):
        for name, values in scores(some, clean_test=clean_test).items():
            found[name] += values
    return found


def compare_block(study: Study, pool: Pool, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Return the lines of some comparisons, trained together."""
    lines: list[dict[str, Any]] = [
        {"study": study.name, "pool": pool.name, "seed": seed, "designs": {}} for seed in seeds
    ]
    drawn = [pool.draw(seed) for seed in seeds]
    classes = len(drawn[0][0].classes)
    for design in (*study.designs, None):  # None: the old splits
        parts: list[Parts] = []
        sizes = []
        for seed, (dataset, observed, target) in zip(seeds, drawn, strict=True):
            if design is None:
                places: list[Places] = [halves(target, 1000 * seed + k) for k in range(OLD_SEEDS)]
            else:
                places = folds_of(replace(dataset, labels=target), *design)
            first = 100_000 * seed
            parts += [parts_of(dataset, *p, observed, target, first + k) for k, p in enumerate(places)]
            sizes.append(len(places))
        how = {"clean_test": pool.clean_test, "to_the_end": design is None}
        found = [train_all(study.baseline, parts, classes, **how)]
        shifted = parts if study.same_seeds else [each.seeded(each.seed + 50_000) for each in parts]
        found += [train_all(loss, shifted, classes, **how) for loss in study.candidates]
        name = "old" if design is None else f"{design[0]}x{design[1]}"
        ends = np.cumsum(sizes)
        for line, begin, end in zip(lines, ends - sizes, ends, strict=True):
            line["designs"][name] = [{key: each[key][begin:end] for key in each} for each in found]
    return lines


def truth(study: Study, pool: Pool, draws: int, rows: int = 20_000) -> list[dict[str, list[float]]]:
    """Return the scores of the losses for each of many training sets.

    Each draw has its own training and validation rows, as many as a fold leaves, and test rows that the draws
    of one block share.

    Args:
        study: With a made pool.
        pool: The pool.
        draws: How many training sets.
        rows: Test rows of each.
    """
    folds = study.designs[0][0]
    kept = pool.rows - pool.rows // folds
    held_out = round(kept / 10)
    totals: list[dict[str, list[float]]] = [
        {name: [] for name in (*MEASURES, *LAST)} for _ in (study.baseline, *study.candidates)
    ]
    for begin in range(0, draws, TRUTH_BLOCK):
        fresh, observed_fresh, _ = Pool(pool.name, rows, pool.noise).draw(2_000_000 + begin)
        parts = []
        for draw in range(begin, min(begin + TRUTH_BLOCK, draws)):
            own, observed, _ = Pool(pool.name, kept, pool.noise).draw(1_000_000 + draw)
            features = np.concatenate([np.asarray(own.features), np.asarray(fresh.features)])
            labels = np.concatenate([observed, observed_fresh])
            joined = Dataset("made", features, labels, own.classes)
            train, validation = np.arange(held_out, kept), np.arange(held_out)
            test = np.arange(kept, len(labels))
            parts.append(parts_of(joined, train, validation, test, labels, labels, draw))
        for total, loss in zip(totals, (study.baseline, *study.candidates), strict=True):
            for name, values in train_all(loss, parts, len(fresh.classes), clean_test=False).items():
                total[name] += values
    return totals


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the missing comparisons of a study, or print its tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.alarms")
    parser.add_argument(
        "study", choices=(*STUDIES, "truth"), help="truth: the difference in the made population"
    )
    parser.add_argument("--comparisons", type=int, help="of each pool, if not as many as the study has")
    parser.add_argument("--draws", type=int, default=2048, help="training sets of the truth")
    parser.add_argument("--shard", default="0/1", help="i/n: every n-th block from the i-th, for n processes")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print the tables of what is there")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.table:
        print(tables(options.study, read(options.out, options.study), read_truth(options.out)))
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    if options.study == "truth":
        study = STUDIES["close"]
        (options.out / "truth.json").write_text(
            json.dumps(truth(study, study.pools[0], options.draws)) + "\n"
        )
        return 0
    study, (shard, shards) = STUDIES[options.study], map(int, options.shard.split("/"))
    count = options.comparisons or study.comparisons
    for pool in study.pools:
        for begin in range(shard * BLOCK, count, shards * BLOCK):
            end = min(begin + BLOCK, count)
            path = options.out / f"{study.name}-{pool.name}-{begin:04d}-{end:04d}.jsonl"
            if not path.exists():
                lines = compare_block(study, pool, range(begin, end))
                path.with_suffix(".part").write_text("".join(json.dumps(line) + "\n" for line in lines))
                path.with_suffix(".part").replace(path)
                print(path.stem, flush=True)
    return 0


def read(folder: Path, study: str) -> list[dict[str, Any]]:
    """Return the lines of a study, one for each pool and seed."""
    paths = sorted(folder.glob(f"{study}-*.jsonl"))
    lines = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
    return list({(line["pool"], line["seed"]): line for line in lines}.values())


def read_truth(folder: Path) -> list[Mapping[str, list[float]]]:
    """Return the scores of the made population; empty if they were not computed."""
    path = folder / "truth.json"
    return json.loads(path.read_text()) if path.exists() else []


if __name__ == "__main__":
    sys.exit(main())
