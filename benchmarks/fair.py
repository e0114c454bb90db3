"""Comparison of families of losses on all data sets, with clean labels and with wrong labels of two kinds.

`python -m benchmarks.fair` flips labels in all rows of each data set, runs `compare` on it, and writes one
JSON file per comparison; existing files are not computed again. `--table` computes calls from the values and
prints the Markdown page. The clean labels are used for a second evaluation of accuracy and NLL only.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.datasets import SOURCES, named
from benchmarks.label_noise import NOISES
from equipoise import compare
from equipoise.compare.dataset import Dataset

RATE = 0.3
KINDS = ("clean", "symmetric", "instance-dependent")
CANDIDATES = (
    "GammaCrossEntropy(gamma=0.5)",
    "GeneralizedCrossEntropy(q=0.7)",
    "SymmetricCrossEntropy(alpha=0.1, beta=1.0)",
    "CrossEntropy(label_smoothing=0.1)",
    "GammaCrossEntropy(gamma=Linear(0, 0.5))",
)
# The results in docs/fair_trial.md were computed with one candidate more, of the same loss with the schedule
# FollowConfidence(0, 0.5), which was removed since (docs/decisions/0010). `fair_tables` still reads them.
KEPT = ("accuracy", "calibrated_nll", "nll", "balanced_accuracy")
RESULTS = Path(__file__).parent / "results" / "fair"


def observed(dataset: Dataset, kind: str, seed: int = 0) -> NDArray[np.int64]:
    """Return the labels that a user has."""
    if kind == "clean":
        return dataset.labels
    return NOISES[kind](dataset.features, dataset.labels, RATE, seed)


def run(
    name: str, kind: str, folds: int, tune: int, work: Path, candidates: Sequence[str] = CANDIDATES
) -> dict[str, Any]:
    """Compare on one data set and return the figures to store.

    Args:
        name: Name of the data set.
        kind: Kind of label noise.
        folds: As in `compare`.
        tune: As in `compare`.
        work: Folder of the trainings, from which an interrupted comparison resumes.
        candidates: Candidates, without plain cross entropy.
    """
    dataset = named(name).dataset()
    labels = observed(dataset, kind)
    began = time.perf_counter()
    result = compare.compare(
        candidates,
        dataset.features,
        np.array(dataset.classes)[labels],
        folds=folds,
        tune=tune,
        out=work / "out",
        jobs=1,
        progress=False,
    ).result
    found = {each.candidate.name: _kept(each, dataset.labels) for each in result.outcomes}
    beside = {each.name: float(each.mean("accuracy")) for each in result.context}
    return {
        "data": name,
        "kind": kind,
        "wrong": float((labels != dataset.labels).mean()),
        "folds": folds,
        "tune": tune,
        "noise": {"rate": result.noise.rate, "low": result.noise.low, "high": result.noise.high},
        "test_ratio": result.plan.test_ratio,
        "objectives": found,
        "beside": beside,
        "seconds": round(time.perf_counter() - began, 1),
    }


def _kept(outcome: Any, clean: NDArray[np.int64]) -> dict[str, Any]:
    """Return the figures of one candidate, those by the clean labels (N,) of the data set among them."""
    pooled = outcome.pooled
    by_split = second_look(
        pooled.predictions.probs,
        clean[pooled.rows],
        pooled.split,
        np.array([record.temperature for record in outcome.records]),
    )
    return {"values": {name: np.asarray(outcome.values[name]).tolist() for name in KEPT}, **by_split}


def second_look(
    probs: NDArray[np.float64],
    clean: NDArray[np.int64],
    split: NDArray[np.int64],
    temperature: NDArray[np.float64],
) -> dict[str, list[float]]:
    """Return accuracy and NLL by clean labels, the NLL after the temperature of each split's calibration.

    Shapes:
        probs (M, C); clean and split (M,), split a place in temperature (S,); the results have S entries.
    """
    logs = np.log(np.maximum(probs, 1e-300)) / temperature[split][:, None]
    logs -= np.logaddexp.reduce(logs, axis=1, keepdims=True)
    right = probs.argmax(axis=1) == clean
    nll = -logs[np.arange(len(clean)), clean]
    places = range(len(temperature))
    return {
        "clean_accuracy": [float(right[split == place].mean()) for place in places],
        "clean_nll": [float(nll[split == place].mean()) for place in places],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing, or print the page."""
    from benchmarks import fair_tables

    parser = argparse.ArgumentParser(prog="python -m benchmarks.fair")
    parser.add_argument("--data", nargs="+", default=[source.name for source in SOURCES])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--tune", type=int, default=8)
    parser.add_argument(
        "--shard", default="0/1", help="i/n: every n-th comparison from the i-th, for n processes"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print the page of what is there")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    wanted = [(name, kind) for name in options.data for kind in options.kinds]
    paths = [options.out / f"{name}-{kind}.json" for name, kind in wanted]
    if options.table:
        print(fair_tables.page([_read(path) for path in paths if path.exists()]))
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    shard, shards = map(int, options.shard.split("/"))
    for (name, kind), path in list(zip(wanted, paths, strict=True))[shard::shards]:
        if not path.exists():
            work = options.out / "work" / path.stem
            found = run(name, kind, options.folds, options.tune, work)
            path.with_suffix(".part").write_text(json.dumps(found) + "\n")
            path.with_suffix(".part").replace(path)
            shutil.rmtree(work)
            print(f"{path.stem}: {found['seconds']:g} s", flush=True)
    return 0


def _read(path: Path) -> Mapping[str, Any]:
    return json.loads(path.read_text())


if __name__ == "__main__":
    sys.exit(main())
