"""Which rows train, which validate and which test, for every repeat; and label noise."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from equipoise.compare.dataset import UNKNOWN, Dataset

__all__ = ["Split", "flip", "splits"]

LATEST = 0.2  # share of rows that test where there are times
VALIDATION = 10  # one part in so many of what is left validates
OTHER_SEEDS = 2**16  # far from those of repeats, so that no part is drawn twice
SPREAD = 2**17 + 1  # between the seeds of one random state and of the next, so that their repeats differ
Places = NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Places of the rows of each part, sorted.

    The model learns the labels of `train`; `validation` chooses the epoch and the setting, and fits the
    calibration; `test` decides nothing, and judges the model.
    """

    train: Places
    validation: Places
    test: Places


def splits(dataset: Dataset, folds: int = 10, repeats: int = 1, random_state: int = 0) -> tuple[Split, ...]:
    """Return the parts of the rows for every fold of every repeat, repeat by repeat.

    By default those of stratified k-fold cross-validation, shuffled anew in each repeat; a tenth of the other
    rows, drawn likewise, validates. Rows of a group stay in one part, so parts are only about as large.
    Where there is one test part, a repeat has one split: with times, the latest fifth tests and the latest
    tenth of the others validates, in every repeat, and no time is cut; with given test rows, validation is
    drawn anew. Where some rows have better labels, rows without one never test: in cross-validation they
    train and validate, unless a row of their group tests; else they are left out.
    """
    for name, value, least, usual in (("folds", folds, 2, 10), ("repeats", repeats, 1, 1)):
        if value < least:
            raise ValueError(f"{name} must be {least} or more, got {value}; {usual} is the default")
    if dataset.time is not None:
        return (_by_time(dataset, dataset.time),) * repeats
    seeds = [repeat + SPREAD * int(random_state) for repeat in range(repeats)]
    return tuple(split for seed in seeds for split in _drawn(dataset, folds, seed))


def flip(labels: NDArray[np.int64], noise: NDArray[np.float64], seed: int) -> NDArray[np.int64]:
    """Return labels (N,) with noise: each observed class is drawn from the row [true, observed] of noise."""
    steps = noise.cumsum(axis=1)
    steps /= steps[:, -1:]
    drawn = np.random.default_rng([seed, 1]).random(len(labels))
    return (drawn[:, None] >= steps[labels]).sum(axis=1)


def _drawn(dataset: Dataset, folds: int, seed: int) -> Iterator[Split]:
    """Yield the splits of one repeat."""
    rows = np.arange(len(dataset.labels))
    groups = rows if dataset.groups is None else dataset.groups
    judged = rows if dataset.clean is None else np.flatnonzero(dataset.clean != UNKNOWN)
    if dataset.test is None:
        tests = _folds(dataset, judged, folds, seed)
    else:
        rows, tests = np.flatnonzero(~dataset.test), [judged[dataset.test[judged]]]
    # Groups are slow to part, so they are parted for validation once, and each split takes what it may
    tenths = None if dataset.groups is None else _folds(dataset, rows, None, seed + OTHER_SEEDS)
    for test in tests:
        rest = rows[~np.isin(groups[rows], groups[test])]
        _require_classes(dataset, rest)
        found = _folds(dataset, rest, None, seed) if tenths is None else tenths
        validation = _validation(dataset, rest, [np.intersect1d(part, rest) for part in found], groups)
        yield Split(np.setdiff1d(rest, validation, assume_unique=True), validation, test)


def _validation(dataset: Dataset, rest: Places, parts: list[Places], groups: Places) -> Places:
    """Return the part that is nearest to a tenth of the rest and leaves rows of all classes to train."""
    for part in sorted(parts, key=lambda part: abs(len(part) - len(rest) / VALIDATION)):
        if len(part) and not len(_missing(dataset, np.setdiff1d(rest, part, assume_unique=True))):
            return part
    # Not reached without groups, where no fold takes more of a class than its share
    raise ValueError(
        "groups must leave every class rows to train beside those that validate, got "
        f"{len(np.unique(groups[rest]))} groups beside a test part of {dataset.name}; merge small classes, "
        "or give other groups"
    )


def _missing(dataset: Dataset, train: Places) -> Places:
    return np.setdiff1d(np.arange(len(dataset.classes)), dataset.labels[train])


def _require_classes(dataset: Dataset, train: Places) -> None:
    for place in _missing(dataset, train):
        why = "merge or remove small classes"
        if dataset.groups is not None:
            why = "its rows are in too few groups: merge or remove it, or give other groups"
        if dataset.time is not None:
            why = "all its rows are late: merge or remove it, or leave out time"
        raise ValueError(
            f"every class must have training rows, got none of class {dataset.classes[place]!r} in "
            f"{dataset.name}; {why}"
        )


def _folds(dataset: Dataset, rows: Places, folds: int | None, seed: int) -> list[Places]:
    """Return the parts of stratified, shuffled cross-validation; folds None for ten, or what there can be."""
    labels, splitter = dataset.labels[rows], StratifiedKFold
    groups, what = None, "rows of the commonest class"
    most = int(np.bincount(labels, minlength=1).max())
    if dataset.groups is not None:
        groups, what = dataset.groups[rows], "groups, or rows of the commonest class"
        most, splitter = min(most, len(np.unique(groups))), StratifiedGroupKFold
    folds = folds or max(min(VALIDATION, most), 2)
    if folds > most:
        raise ValueError(
            f"folds must be at most the number of {what}, got {folds} for {most} in {dataset.name}; "
            "lower folds"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of classes rarer than folds; ours are in checks.py
        parts = splitter(folds, shuffle=True, random_state=seed % 2**32).split(rows, labels, groups)
        return [rows[part] for _, part in parts]


def _by_time(dataset: Dataset, time: NDArray[np.float64]) -> Split:
    rest, late = _latest(dataset, time, np.arange(len(time)), LATEST)
    test = late if dataset.clean is None else late[dataset.clean[late] != UNKNOWN]
    if not len(test):
        raise ValueError(
            f"clean must be known of some test rows, got none among the latest {len(late)} rows of "
            f"{dataset.name}; leave out time or clean"
        )
    train, validation = _latest(dataset, time, rest, 1 / VALIDATION)
    _require_classes(dataset, train)
    return Split(train, validation, test)


def _latest(dataset: Dataset, time: NDArray[np.float64], rows: Places, share: float) -> tuple[Places, Places]:
    """Return earlier and later rows, where the later ones are nearest to a share and no time is cut."""
    times, counts = np.unique(time[rows], return_counts=True)
    if len(times) < 2:
        raise ValueError(
            f"time must have three values or more, to train, to validate and to test, got "
            f"{len(np.unique(time))} in {dataset.name}; give other times"
        )
    later = len(rows) - counts.cumsum()[:-1]
    last = times[np.abs(later - share * len(rows)).argmin()]
    return rows[time[rows] <= last], rows[time[rows] > last]
