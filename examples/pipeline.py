"""A scikit-learn pipeline on digits with wrong labels: search gamma or its schedule, then decide by cost.

600 rows to train, a share of them with a wrong label; the others, with true labels, to test. Missing an 8 or
a 1 costs 20, any other mistake 1. The search uses only the training rows and their labels.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import MinMaxScaler

from equipoise.costs import decide
from equipoise.integrations.sklearn import ObjectiveClassifier
from equipoise.metrics import mean_cost

GRID: list[dict[str, Any]] = [
    {"model__objective__gamma": [0.0, 0.1, 0.3, 0.5, 0.7]},
    {"model__schedules": [{"gamma": f"Linear(0.0, {end}, steps=150)"} for end in (0.5, 0.7, 0.9)]},
]
DEAR = [1, 8]

COSTS = np.ones((10, 10))
COSTS[DEAR] = 20
np.fill_diagonal(COSTS, 0)


def pipeline(epochs: int, seed: int) -> Pipeline:
    """Return the pipeline to search."""
    model = ObjectiveClassifier(
        "GammaCrossEntropy(gamma=0.0)",
        learning_rate_init=0.003,
        max_iter=epochs,
        n_iter_no_change=np.inf,
        random_state=seed,
    )
    return Pipeline([("scale", MinMaxScaler()), ("model", model)])


def measured(noise: float, epochs: int, seed: int) -> dict[str, Any]:
    """Return the choice of the search, and accuracy and mean cost of each method of training and decision."""
    digits: Any = load_digits()
    rows, test_rows, labels, target = train_test_split(
        digits.data.astype(np.float32),
        digits.target,
        train_size=600,
        stratify=digits.target,
        random_state=seed,
    )
    random = np.random.default_rng(seed)
    wrong = random.random(600) < noise
    labels = np.where(wrong, (labels + random.integers(1, 10, 600)) % 10, labels)

    plain = pipeline(epochs, seed).fit(rows, labels)
    search = GridSearchCV(pipeline(epochs, seed), GRID, cv=3).fit(rows, labels)
    calibrated = CalibratedClassifierCV(plain, method="temperature", cv=3).fit(rows, labels)
    probs = {
        "cross entropy": plain.predict_proba(test_rows),
        "cross entropy, temperature": calibrated.predict_proba(test_rows),
        "gamma cross entropy, searched": search.predict_proba(test_rows),
    }
    found: dict[str, Any] = {"chosen": search.best_params_}
    for name, given in probs.items():
        for way, taken in (("likeliest", given.argmax(1)), ("cheapest", decide(given, COSTS))):
            found[f"{name}, {way}"] = (taken == target).mean(), mean_cost(target, taken, COSTS)
    return found


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Print the mean over seeds of each line, and return the results of each seed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--noise", type=float, default=0.4, help="share of the training labels that are wrong"
    )
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args(arguments)
    found = [measured(options.noise, options.epochs, seed) for seed in range(options.seeds)]
    for each in found:
        print("chosen:", *each["chosen"].values())
    for name in list(found[0])[1:]:
        accuracy, cost = np.mean([each[name] for each in found], axis=0)
        print(f"{name:42} accuracy {100 * accuracy:5.1f} %  cost {cost:.3f}")
    return found


if __name__ == "__main__":
    main()
