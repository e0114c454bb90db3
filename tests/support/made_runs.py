"""Runs of candidates, made in no time, and how to look at what is found of them."""

import numpy as np
import pandas as pd

from equipoise.compare.runs import Paired

COLUMNS = ["candidate", "measure", "runs", "mean", "baseline_mean"]
COLUMNS += ["difference", "low", "high", "call", "reason"]
GAINS = {"ce": (0.0, 0.0), "mine": (0.03, 0.0), "worse": (-0.05, 0.1)}


def runs(
    count: int = 10, *, seed: int = 0, gains=None, shared: float = 0.05, own: float = 0.004
) -> pd.DataFrame:
    """Accuracy and NLL of candidates over seeds, most of whose spread they share."""
    generator = np.random.default_rng(seed)
    common = shared * generator.normal(size=count)
    rows = [
        {
            "candidate": name,
            "seed": each,
            "accuracy": 0.8 + common[each] + up + own * generator.normal(),
            "nll": 0.5 - common[each] + more + own * generator.normal(),
        }
        for name, (up, more) in (gains or GAINS).items()
        for each in range(count)
    ]
    return pd.DataFrame(rows)


def values(scores: pd.DataFrame, name: str, measure: str) -> np.ndarray:
    return scores[scores["candidate"] == name].sort_values("seed")[measure].to_numpy()


def row(found: Paired, candidate: str = "mine", measure: str = "accuracy") -> pd.Series:
    table = found.table()
    [at] = np.flatnonzero((table["candidate"] == candidate) & (table["measure"] == measure))
    return table.iloc[at]
