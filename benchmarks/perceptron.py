"""Compare `ObjectiveClassifier` with `MLPClassifier` on digits in one run: accuracy, epochs, seconds.

`python -m benchmarks.perceptron` fits both with their defaults, and with early stopping, on three quarters of
the rows in float32, and prints the accuracy on the others. Each seed has its own split, initial
weights and batches. Both use one thread and run first in turn. Seconds are processor time.
"""

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

from benchmarks.report import machine, table
from equipoise.integrations.sklearn import ObjectiveClassifier

SETTINGS: dict[str, dict[str, Any]] = {"defaults": {}, "early_stopping": {"early_stopping": True}}
KINDS: tuple[Callable[..., Any], ...] = (MLPClassifier, ObjectiveClassifier)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table and return 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.perceptron", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args(arguments).seeds
    torch.set_num_threads(1)
    digits: Any = load_digits()
    rows, labels = (digits.data / 16).astype(np.float32), digits.target
    found: dict[tuple[str, str], list[tuple[float, ...]]] = {}
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # both reach the default limit of 200 epochs
        for seed in range(seeds):
            parts = train_test_split(rows, labels, random_state=seed, stratify=labels)
            train, test, observed, target = parts
            for setting, options in SETTINGS.items():
                for kind in KINDS[:: -1 if seed % 2 else 1]:
                    model = kind(**options, random_state=seed)
                    began = time.process_time()
                    model.fit(train, observed)
                    taken = time.process_time() - began
                    result = (model.score(test, target), model.n_iter_, taken)
                    found.setdefault((setting, kind.__name__), []).append(result)
    lines = []
    for (setting, name), results in sorted(found.items()):
        accuracy, passes, seconds = np.array(results).T
        lines.append(
            (
                f"`{name}`",
                setting,
                f"{100 * accuracy.mean():.2f} %",
                f"{passes.mean():.0f}",
                f"{np.median(seconds):.2f}",
                f"{1000 * np.median(seconds / passes):.1f}",
            )
        )
    print(table(("", ""), [(name, str(value)) for name, value in machine().items()]))
    columns = ("", "arguments", "accuracy", "passes", "seconds", "milliseconds per pass")
    print(table(columns, lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
