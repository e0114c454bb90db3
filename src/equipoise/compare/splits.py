"""Splits of the rows into training, validation and test parts, for every repeat; and label noise."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from equipoise.compare.dataset import UNKNOWN, Dataset

__all__ = ["Split", "flip", "splits"]

LATEST = 0.2  # share of the test part if there are times
VALIDATION = 10  # one in this number of the other rows is for validation
OTHER_SEEDS = 2**16  # offset from the seeds of repeats, so that no seed is used twice
SPREAD = 2**17 + 1  # distance of the seeds of consecutive random states, so that their repeats differ
Places = NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Sorted indices of the rows of each part.

    The model is trained on `train`; `validation` chooses the epoch and the setting, and fits the calibration;
    `test` is used for evaluation only.
    """

    train: Places
    validation: Places
    test: Places


def splits(dataset: Dataset, folds: int = 10, repeats: int = 1, random_state: int = 0) -> tuple[Split, ...]:
    """Return the parts of the rows for every fold of every repeat, repeat by repeat.

    By default these are the folds of stratified cross-validation, shuffled in each repeat, with a stratified
    tenth of the other rows for validation. Rows of a group stay in one part, so sizes are approximate. If
    there is one test part, a repeat has one split: with times, the latest fifth is the test part and the
    latest tenth of the others is for validation, in every repeat, and rows of equal time stay together; with
    given test rows, each repeat draws the validation rows. If some rows have clean labels, rows without one
    are never test rows: in cross-validation they are for training and validation, unless a row of their group
    is a test row; otherwise they are left out.
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
    # Splitting groups is slow, so candidates for validation are drawn once, and each split uses those it may
    tenths = None if dataset.groups is None else _folds(dataset, rows, None, seed + OTHER_SEEDS)
    for test in tests:
        rest = rows[~np.isin(groups[rows], groups[test])]
        _require_classes(dataset, rest)
        found = _folds(dataset, rest, None, seed) if tenths is None else tenths
        validation = _validation(dataset, rest, [np.intersect1d(part, rest) for part in found], groups)
        yield Split(np.setdiff1d(rest, validation, assume_unique=True), validation, test)


def _validation(dataset: Dataset, rest: Places, parts: list[Places], groups: Places) -> Places:
    """Return the candidate nearest to a tenth of the rest that leaves training rows of all classes."""
    for part in sorted(parts, key=lambda part: abs(len(part) - len(rest) / VALIDATION)):
        if len(part) and not len(_missing(dataset, np.setdiff1d(rest, part, assume_unique=True))):
            return part
    # Not reached without groups, where each fold has only its share of a class
    raise ValueError(
        "groups must leave training rows beside the validation rows of every class, got "
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
    """Return the folds of stratified, shuffled cross-validation; None for ten, or as many as possible."""
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
        warnings.simplefilter(
            "ignore", UserWarning
        )  # of classes with fewer rows than folds; checks.py warns too
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
    """Return earlier and later rows, split between two times, with the later ones nearest to a share."""
    times, counts = np.unique(time[rows], return_counts=True)
    if len(times) < 2:
        raise ValueError(
            "time must have three values or more, for training, validation and test rows, got "
            f"{len(np.unique(time))} in {dataset.name}; give other times"
        )
    later = len(rows) - counts.cumsum()[:-1]
    last = times[np.abs(later - share * len(rows)).argmin()]
    return rows[time[rows] <= last], rows[time[rows] > last]
