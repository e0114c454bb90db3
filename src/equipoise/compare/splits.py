"""Which rows train, which validate and which test, for every repeat; and label noise."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from equipoise.compare.dataset import UNKNOWN, Dataset

__all__ = ["Split", "flip", "splits"]

LATEST = 0.2  # share of rows that test where there are times
VALIDATION = 10  # one part in so many of what is left validates
OTHER_SEEDS = 2**16  # far from those of repeats, so that no part is drawn twice
Places = NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Places of the rows of each part, sorted.

    Attributes:
        train: Rows whose labels the model learns.
        validation: Rows that choose the epoch and the setting, and that fit the calibration.
        test: Rows that decide nothing, by which the model is judged.
    """

    train: Places
    validation: Places
    test: Places


def splits(dataset: Dataset, folds: int = 10, repeats: int = 1, random_state: int = 0) -> tuple[Split, ...]:
    """Return the parts of the rows for every fold of every repeat, repeat by repeat.

    By default the test parts are those of stratified k-fold cross-validation, shuffled anew in each repeat,
    and a tenth of the remaining rows, drawn in the same way, validates. Rows of a group stay in one part, so
    that parts of few or unequal groups are only about as large.
    Where there is one test part, there is one split per repeat: with times the test part is the latest fifth
    of the rows and validation the latest tenth of the others, in every repeat, where rows of one time stay in
    one part; with a file of test rows, validation is drawn anew in each repeat. Rows whose better label is
    unknown in data that has better labels never test: in cross-validation they train and validate, unless
    a row of their group tests; of the latest fifth, and of a file of test rows, they are left out.

    Args:
        dataset: Rows with classes.
        folds: Parts of a cross-validation, 2 or more; of no account where there is one test part.
        repeats: How often, 1 or more.

    Returns:
        folds x repeats splits, or one for each repeat.

    Raises:
        ValueError: If there are fewer rows, groups or times than that takes, or a class would have no
            training row.

    Example:
        >>> labels = np.repeat([0, 1], 50)
        >>> found = splits(Dataset("made", np.zeros((100, 1)), labels, ("a", "b")), folds=5, repeats=2)
        >>> len(found), [len(part) for part in vars(found[0]).values()]
        (10, [72, 8, 20])
    """
    if folds < 2:
        raise ValueError(f"folds must be 2 or more, got {folds}; 10 is the default")
    if repeats < 1:
        raise ValueError(f"repeats must be 1 or more, got {repeats}; 1 is the default")
    if dataset.time is not None:
        return (_by_time(dataset, dataset.time),) * repeats
    return tuple(split for repeat in range(repeats) for split in _drawn(dataset, folds, repeat))


def flip(labels: NDArray[np.int64], noise: NDArray[np.float64], seed: int) -> NDArray[np.int64]:
    """Return labels with noise: each row's observed class is drawn from the row of its true class.

    Args:
        labels: True classes.
        noise: Transition matrix [true, observed].
        seed: Decides the flips, the same for every objective and every split of a repeat.

    Shapes:
        labels (N,); noise (C, C) with rows that sum to one; result (N,).
    """
    steps = noise.cumsum(axis=1)
    steps /= steps[:, -1:]
    drawn = np.random.default_rng([seed, 1]).random(len(labels))
    return (drawn[:, None] >= steps[labels]).sum(axis=1)


def _drawn(dataset: Dataset, folds: int, repeat: int) -> Iterator[Split]:
    rows = np.arange(len(dataset.labels))
    judged = rows if dataset.clean is None else np.flatnonzero(dataset.clean != UNKNOWN)
    if dataset.test is not None:
        rows = np.flatnonzero(~dataset.test)
        parts = [(np.intersect1d(np.flatnonzero(dataset.test), judged), rows)]
    else:
        parts = [(np.sort(test), _others(dataset, test)) for test in _folds(dataset, judged, folds, repeat)]
    # Groups are slow to part, so they are parted for validation once, and each split takes what it may
    tenths = None if dataset.groups is None else _folds(dataset, rows, None, repeat + OTHER_SEEDS)
    for test, rest in parts:
        _require_classes(dataset, rest)
        if tenths is None:
            found = _folds(dataset, rest, None, repeat)
        else:
            found = [part[np.isin(part, rest, assume_unique=True)] for part in tenths]
        yield _validated(dataset, rest, test, found)


def _others(dataset: Dataset, test: Places) -> Places:
    """The rows that are in no group of a test row, or all others without groups."""
    if dataset.groups is None:
        return np.setdiff1d(np.arange(len(dataset.labels)), test, assume_unique=True)
    return np.flatnonzero(~np.isin(dataset.groups, dataset.groups[test]))


def _validated(dataset: Dataset, rest: Places, test: Places, parts: list[Places]) -> Split:
    """The split whose validation part is nearest to a tenth of the rest and leaves every class to train."""
    for validation in sorted(parts, key=lambda part: abs(len(part) - len(rest) / VALIDATION)):
        train = np.setdiff1d(rest, validation, assume_unique=True)
        if len(validation) and not _missing(dataset, train):
            return Split(train, np.sort(validation), test)
    # Not reached without groups, where no fold takes more of a class than its share
    groups = 0 if dataset.groups is None else len(np.unique(dataset.groups[rest]))
    raise ValueError(
        f"group must leave every class rows to train beside those that validate, got {groups} groups "
        f"beside a test part of {dataset.name}; merge small classes, or name another column"
    )


def _missing(dataset: Dataset, train: Places) -> list[str]:
    """Classes without a training row."""
    counts = np.bincount(dataset.labels[train], minlength=len(dataset.classes))
    return [dataset.classes[place] for place in np.flatnonzero(counts == 0)]


def _require_classes(dataset: Dataset, train: Places) -> None:
    for name in _missing(dataset, train):
        why = "merge or remove small classes"
        if dataset.groups is not None:
            why = "its rows are in too few groups: merge or remove it, or give another --group"
        if dataset.time is not None:
            why = "all its rows are late: merge or remove it, or leave out --time"
        raise ValueError(
            f"every class must have training rows, got none of class {name!r} in {dataset.name}; {why}"
        )


def _folds(dataset: Dataset, rows: Places, folds: int | None, seed: int) -> list[Places]:
    """The parts of stratified, shuffled cross-validation of some rows; None for ten, or what there can be."""
    labels = dataset.labels[rows]
    groups = None if dataset.groups is None else dataset.groups[rows]
    most, what = int(np.bincount(labels).max()), "rows of the commonest class"
    if groups is not None:
        most, what = min(most, len(np.unique(groups))), "groups, or rows of the commonest class"
    if folds is None:
        folds = max(min(VALIDATION, most), 2)
    if folds > most:
        raise ValueError(
            f"folds must be at most the number of {what}, got {folds} for {most} in {dataset.name}; "
            "lower --folds"
        )
    splitter: Any = StratifiedKFold if groups is None else StratifiedGroupKFold
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of classes rarer than folds; ours are in checks.py
        parts = splitter(folds, shuffle=True, random_state=seed).split(rows, labels, groups)
        return [rows[part] for _, part in parts]


def _by_time(dataset: Dataset, time: NDArray[np.float64]) -> Split:
    rest, test = _latest(dataset, time, np.arange(len(time)), LATEST)
    late = len(test)
    if dataset.clean is not None:
        test = test[dataset.clean[test] != UNKNOWN]
    if not len(test):
        raise ValueError(
            f"clean must be known of some test rows, got none among the latest {late} rows of "
            f"{dataset.name}; leave out --time or --clean"
        )
    train, validation = _latest(dataset, time, rest, 1 / VALIDATION)
    _require_classes(dataset, train)
    return Split(train, validation, test)


def _latest(dataset: Dataset, time: NDArray[np.float64], rows: Places, share: float) -> tuple[Places, Places]:
    """The earlier rows and the later ones, where the later ones are nearest to a share and no time is cut."""
    times, counts = np.unique(time[rows], return_counts=True)
    if len(times) < 2:
        raise ValueError(
            f"time must have three values or more, to train, to validate and to test, got "
            f"{len(np.unique(time))} in {dataset.name}; name another column"
        )
    later = len(rows) - counts.cumsum()[:-1]
    last = times[np.abs(later - share * len(rows)).argmin()]
    return rows[time[rows] <= last], rows[time[rows] > last]
