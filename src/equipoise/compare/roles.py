"""Columns that are no features: better labels, groups and times."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from equipoise.compare.columns import Column
from equipoise.compare.dataset import UNKNOWN
from equipoise.spelling import nearest
from equipoise.targets.files import NUMBER

__all__ = ["Roles", "class_names", "class_places", "decimal", "number_names", "order", "read_roles"]


@dataclass(frozen=True)
class Roles:
    """Names of columns, or of arrays, that are no features.

    Attributes:
        clean: Labels that are known to be better.
        group: What keeps rows together.
        time: When a row is from.
    """

    clean: str | None = None
    group: str | None = None
    time: str | None = None

    def __post_init__(self) -> None:
        uses: dict[str, str] = {}
        for option, name in self.given:
            if uses.setdefault(name, option) != option:
                raise ValueError(
                    f"{option} must be a column of its own, got {name!r}, which is the {uses[name]}; "
                    "name another"
                )

    @property
    def given(self) -> tuple[tuple[str, str], ...]:
        """Option and name of those that there are."""
        return tuple((option, name) for option, name in vars(self).items() if name is not None)


def read_roles(
    roles: Roles,
    read: Callable[[str], Column],
    labels: NDArray[np.int64],
    classes: tuple[str, ...],
    target: str,
    test: NDArray[np.bool_] | None,
) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """The fields `clean`, `groups` and `time` of a data set, and notes.

    Args:
        roles: What to read.
        read: The column of a name.
        labels: Observed classes (N,).
        classes: Names of the classes.
        target: Name of the column with the classes.
        test: Rows of a file of test rows (N,), or None.

    Raises:
        ValueError: If a column does not hold what it is for; names file, column and place.
    """
    found: dict[str, NDArray[Any]] = {}
    notes: list[str] = []
    if roles.clean is not None:
        if roles.clean == target and test is not None:
            found["clean"] = np.where(test, labels, UNKNOWN)
        else:
            found["clean"], notes = _clean(read(roles.clean), labels, classes, target, test)
    if roles.group is not None:
        found["groups"] = _groups(read(roles.group), test)
    if roles.time is not None:
        found["time"] = _times(read(roles.time))
    return found, notes


def order(labels: Iterable[str], *, numeric: bool) -> tuple[str, ...]:
    """Return the different labels, sorted as numbers or as text."""
    return tuple(sorted(set(labels), key=lambda label: (decimal(label) if numeric else 0, label)))


def number_names(values: NDArray[Any], option: str = "target") -> list[str]:
    """Return the names of classes that are given as numbers: integers where all are whole."""
    if np.issubdtype(values.dtype, np.floating):
        if not np.isfinite(values).all():
            raise ValueError(f"{option} must be finite, got nan or infinity; remove those rows")
        if (values == np.round(values)).all() and (np.abs(values) < 2**63).all():
            values = values.astype(np.int64)
    return [str(value) for value in values]


def decimal(label: str) -> Decimal | None:
    """The number that a label spells, if it spells a finite one."""
    try:
        number = Decimal(label) if NUMBER.fullmatch(label) else None
    except InvalidOperation:  # exponents have a limit, of 18 digits
        return None
    return number if number is not None and number.is_finite() else None


def class_names(column: Column, option: str = "target") -> tuple[list[str | None], bool]:
    """The class of each row, None if it has none, and whether all classes are numbers."""
    if column.kind == "floating":
        numbers = column.floats()
        labels = np.full(len(numbers), None, dtype=object)
        labels[~np.isnan(numbers)] = number_names(numbers[~np.isnan(numbers)], option)
        return list(labels), True
    if column.kind not in ("text", "exact", "words", "times", "nothing"):
        raise ValueError(
            f"{option} must hold names or numbers, got {column.kind} in {column.name!r} of {column.path}; "
            "write it as text"
        )
    words = column.words()
    if column.kind == "text":
        return words, all(word is None or decimal(word) is not None for word in set(words))
    return words, column.kind == "exact"


def class_places(
    names: list[str | None], classes: tuple[str, ...], option: str, target: str, places: NDArray[Any]
) -> NDArray[np.int64]:
    """The classes (N,) as places in `classes`, `UNKNOWN` where there is none.

    Args:
        names: Class of each row.
        classes: Names of all classes.
        option: What errors call the names.
        target: Name of the column with the classes.
        places: Where each row is.
    """
    known: Mapping[str | None, int] = {name: place for place, name in enumerate(classes)} | {None: UNKNOWN}
    for row, name in enumerate(names):
        if name is not None and name not in known:
            raise ValueError(
                f"{option} must have only classes that {target!r} has, got {name!r} in {places[row]}; "
                f"{nearest(name, classes)}"
            )
    return np.array([known[name] for name in names], dtype=np.int64)


def _clean(
    column: Column,
    labels: NDArray[np.int64],
    classes: tuple[str, ...],
    target: str,
    test: NDArray[np.bool_] | None,
) -> tuple[NDArray[np.int64], list[str]]:
    clean = class_places(class_names(column, "clean")[0], classes, "clean", target, column.places)
    known = clean != UNKNOWN
    judged = known if test is None else known & test
    if not judged.any():
        raise ValueError(
            f"clean must name the class of some {'' if test is None else 'test '}rows, got none in "
            f"{column.name!r} of {column.path}; leave it out"
        )
    differing = int((clean[known] != labels[known]).sum())
    notes = [
        f"{differing} of {known.sum()} labels ({differing / known.sum():.1%}) differ from those in "
        f"{column.name!r}, which test rows are judged by"
    ]
    left = int((~known).sum() if test is None else (test & ~known).sum())
    if left:
        notes.append(f"{left} rows without a value in {column.name!r} are never test rows")
    return clean, notes


def _groups(column: Column, test: NDArray[np.bool_] | None) -> NDArray[np.int64]:
    words = column.words()
    if None in words:
        raise ValueError(
            f"group must be known of every row, got none in {column.places[words.index(None)]}, column "
            f"{column.name!r}; fill it in, or remove those rows"
        )
    groups, names = pd.factorize(np.array(words, dtype=object))
    both = [] if test is None else np.intersect1d(groups[test], groups[~test])
    if len(both):
        raise ValueError(
            f"group must be different in test rows, got {names[both[0]]!r} and {len(both) - 1} more of "
            f"{column.name!r} in both files; remove their rows from one"
        )
    return groups.astype(np.int64)


def _times(column: Column) -> NDArray[np.float64]:
    """Numbers as they are, or ISO dates as seconds since 1970, in which a time without zone is UTC."""
    words = column.words()
    numeric = column.kind in ("floating", "exact") or (
        column.kind == "text" and all(word is not None and NUMBER.fullmatch(word) for word in words)
    )
    if numeric:
        times = np.array([np.nan if word is None else float(word) for word in words], dtype=np.float64)
    else:
        read = pd.to_datetime(pd.Series(words, dtype=object), format="ISO8601", utc=True, errors="coerce")
        times = (read - pd.Timestamp(0, tz="UTC")).dt.total_seconds().to_numpy(dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(times))
    if bad.size:
        raise ValueError(
            f"time must hold numbers or ISO dates such as 2024-01-31, got "
            f"{'nothing' if words[bad[0]] is None else repr(words[bad[0]])} in {column.places[bad[0]]}, "
            f"column {column.name!r}, and {bad.size - 1} more such rows; rewrite the column, "
            "or remove those rows"
        )
    return times
