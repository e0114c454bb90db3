"""Three kinds of label noise at an exact rate: symmetric, by class, and instance-dependent.

Rates are shares of wrong labels. The draws depend on the seed only.
"""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

Labels = NDArray[np.int64]
Features = pd.DataFrame | NDArray[np.float64]
FEWEST_COLUMNS = 2


def symmetric(features: Features, labels: Labels, rate: float, seed: int) -> Labels:
    """Return labels of which a share, anywhere, became one of the other classes, each as likely.

    Args:
        features: Not looked at.
        labels: Clean classes (N,), each of 0 to C - 1 among them.
        rate: Share of labels to make wrong, in [0, 1).
        seed: Decides which.
    """
    del features
    random = np.random.default_rng([seed, 0])
    places = random.permutation(len(labels))[: _count(labels, rate)]
    observed, classes = labels.copy(), labels.max() + 1
    observed[places] = (labels[places] + random.integers(1, classes, len(places))) % classes
    return observed


def pairs(features: Features, labels: Labels, rate: float, seed: int) -> Labels:
    """Return labels of which a share, anywhere, became the next class; the last becomes the first.

    From a rate of 0.5 the wrong class is as common among the rows of a class as the right one.
    """
    del features
    random = np.random.default_rng([seed, 1])
    places = random.permutation(len(labels))[: _count(labels, rate)]
    observed = labels.copy()
    observed[places] = (labels[places] + 1) % (labels.max() + 1)
    return observed


def instance_dependent(features: Features, labels: Labels, rate: float, seed: int) -> Labels:
    """Return labels of which a share became the prediction of a weak model, mostly in rows of small margin.

    The model is a logistic regression on half of the columns, drawn by the seed, cross-validated, so that it
    has not seen the row. Its margin is the log of the clean class's probability over the likeliest other
    one, the runner-up. Rows are sorted by margin; with u from 0 (smallest) to 1, a row's label becomes the
    runner-up with probability 2 rate (1 - u), or 1 - 2 (1 - rate) u where the rate is above 0.5. So at 0.3
    the least sure rows are wrong six times in ten and the surest never.
    """
    margin, runner_up = margins(features, labels, seed)
    u = (margin.argsort(kind="stable").argsort() + 0.5) / len(labels)
    share = 2 * rate * (1 - u) if rate <= 0.5 else 1 - 2 * (1 - rate) * u
    places = _systematic(share, _count(labels, rate), np.random.default_rng([seed, 2]))
    observed = labels.copy()
    observed[places] = runner_up[places]
    return observed


NOISES: Mapping[str, Callable[[Features, Labels, float, int], Labels]] = {
    "symmetric": symmetric,
    "class-dependent": pairs,
    "instance-dependent": instance_dependent,
}


def margins(features: Features, labels: Labels, seed: int) -> tuple[NDArray[np.float64], Labels]:
    """Return the weak model's margin of each row (N,), small where it is unsure or wrong; its runner-up."""
    table = pd.get_dummies(features) if isinstance(features, pd.DataFrame) else pd.DataFrame(features)
    numbers = table.to_numpy(np.float64)
    numbers = np.where(np.isnan(numbers), np.nanmedian(numbers, axis=0), numbers)
    columns = numbers.shape[1]
    kept = min(columns, max(FEWEST_COLUMNS, columns // 2))
    chosen = np.sort(np.random.default_rng([seed, 3]).permutation(columns)[:kept])
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    probs = cross_val_predict(model, numbers[:, chosen], labels, cv=folds, method="predict_proba")
    rows = np.arange(len(labels))
    logs = np.log(np.maximum(probs, 1e-300))
    own = logs[rows, labels].copy()
    logs[rows, labels] = -np.inf
    runner_up = logs.argmax(axis=1)
    return own - logs[rows, runner_up], runner_up.astype(np.int64)


def _count(labels: Labels, rate: float) -> int:
    if not 0 <= rate < 1:
        raise ValueError(f"rate must be a share in [0, 1), got {rate}; 0.3 makes three labels in ten wrong")
    return round(rate * len(labels))


def _systematic(share: NDArray[np.float64], count: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Return exactly `count` places, each drawn with a probability proportional to its share, at most 1."""
    if count == 0:
        return np.empty(0, dtype=np.int64)
    order = random.permutation(len(share))
    steps = np.cumsum(share[order] * (count / share.sum()))
    steps[-1] = count
    return order[np.searchsorted(steps, random.random() + np.arange(count))]
