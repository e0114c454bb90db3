"""Tables and arrays as data sets: columns become features and classes, and notes say what was converted."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from equipoise.compare.checks import alike, warn_of_columns
from equipoise.compare.columns import SUFFIXES, Column, drop_option, printable, read_columns
from equipoise.compare.dataset import Dataset
from equipoise.compare.roles import Roles, class_names, class_places, order, read_roles
from equipoise.spelling import nearest
from equipoise.targets.files import NUMBER

__all__ = ["read_table"]

LARGEST = float(np.finfo(np.float32).max)  # models are trained in float32
_MISSING = {  # what pandas takes for a missing value, in lower case
    *("#n/a", "#n/a n/a", "#na", "-1.#ind", "-1.#qnan", "-nan", "1.#ind", "1.#qnan"),
    *("<na>", "n/a", "na", "nan", "none", "null"),
}
_CODE = re.compile(r"[+-]?(?:0\d.*|\d+[eE]\d+)")  # 007 and 2E10 are numbers that may be meant as names
# 1,234 and 0,5 and $3 and 40 %, and dates and times
_LIKE_A_NUMBER = re.compile(r"\W{0,3}\d[\d.,'\u2019_\s:/+TZ-]*(?:[eE][+-]?\d+)?\W{0,2}")


def read_table(
    path: str, target: str | None, drop: Sequence[str], test: str | None = None, roles: Roles | None = None
) -> Dataset:
    """Read a table, and refuse what could only be read by guessing.

    Args:
        path: A file with one of the suffixes.
        target: Column with the classes.
        drop: Columns to leave out.
        test: A file of the same kind with the same columns, whose rows are the test part.
        roles: Columns that are no features.

    Raises:
        ValueError: If a file cannot be read or a column cannot be used; names file, column and place.
    """
    roles, target, drop = roles or Roles(), target and target.strip(), [name.strip() for name in drop]
    columns, notes = read_columns(path, target)
    target = _require_columns(path, columns, target, drop, roles, test)
    names = [name for name in columns if name not in (target, *drop, *(name for _, name in roles.given))]
    read, rows = columns, len(columns[target]().places)
    if test is not None:
        read, more = _join(path, columns, test, (target, *names), roles)
        notes += more
    column = read[target]()
    found, numeric = class_names(column)
    known = np.flatnonzero([label is not None for label in found])
    if len(known) < len(found):
        notes.append(f"{len(found) - len(known)} rows without a value in {printable(target)} were left out")
    column = column.take(known)
    main = int((known < rows).sum())
    labels = [label for label in found if label is not None]
    counts = Counter(labels[:main])
    classes = order(counts, numeric=numeric)
    of_test = None if test is None else np.arange(len(known)) >= main
    places = class_places([*labels], classes, "test", target, column.places)
    fields, said = read_roles(roles, lambda name: read[name]().take(known), places, classes, target, of_test)
    index = pd.Index([column.place(row) for row in range(len(known))], dtype=object)
    features, different = {}, []
    for name in names:
        column = read[name]().take(known)
        features[name], converted = _feature(column)
        different.append(len(set(column.values[:main])))
        notes += converted
    notes += [
        f"{label!r} in {target!r} is a class of {count} rows; leave its cells empty if the class is unknown"
        for label, count in counts.items()
        if label.lower() in _MISSING
    ]
    frame = pd.DataFrame(features, index)
    warnings = warn_of_columns(frame.iloc[:main], places[:main], classes, different) + alike(target, classes)
    notes, warnings = tuple(notes + said), tuple(warnings)
    return Dataset(path, frame, places, classes, notes, warnings, test=of_test, **fields)


def _require_columns(
    path: str,
    columns: dict[str, Callable[[], Column]],
    target: str | None,
    drop: Sequence[str],
    roles: Roles,
    test: str | None,
) -> str:
    """The target, once every column that is named is there and has one use."""
    if target is None:
        raise ValueError(
            f"target must name the column with the classes, got none; add --target with one of "
            f"{', '.join(map(printable, [*columns][-8:]))}"
        )
    uses = {target: "target"}
    for option, name in (("target", target), *(("drop", name) for name in drop), *roles.given):
        if name not in columns and not (option == "clean" and test is not None):
            way = nearest(name, columns)
            if SUFFIXES[Path(path).suffix.lower()] is not None and len(columns) == 1:
                way = "the file has one column; put commas, semicolons or tabs between the cells of a row"
            raise ValueError(f"{option} must be a column of {path}, got {name!r}; {way}")
        of_test = option == "clean" and name == target and test is not None  # its own labels are better
        if option not in ("target", "drop") and uses.setdefault(name, option) != option and not of_test:
            raise ValueError(
                f"{option} must be a column of its own, got {name!r}, which is the {uses[name]}; name another"
            )
    return target


def _join(
    path: str, columns: dict[str, Callable[[], Column]], test: str, wanted: Sequence[str], roles: Roles
) -> tuple[dict[str, Callable[[], Column]], list[str]]:
    """The columns with the rows of another file after their own, and how that was read."""
    more, notes = read_columns(test, wanted[0], "test")
    used = dict.fromkeys((*wanted, *(name for _, name in roles.given)))
    for name in used:
        if name not in more:
            raise ValueError(
                f"test must have the columns of {path}, got no {name!r} in {test}; {nearest(name, more)}"
            )
    extra = [name for name in more if name not in columns and name not in used]
    if extra:
        notes.append(f"columns of {test} that are not in {path} were left out: {', '.join(map(repr, extra))}")

    def joined(name: str) -> Column:
        rows = more[name]()
        if name in columns:
            return columns[name]().join(rows)
        places = columns[wanted[0]]().places  # clean labels that only test rows have
        return Column(path, name, rows.kind, places, [None] * len(places)).join(rows)

    return {name: partial(joined, name) for name in used}, notes


def _feature(column: Column) -> tuple[NDArray[Any], list[str]]:
    """A column as floats, or as strings with nan where missing, and what was converted."""
    values: NDArray[Any]
    if column.kind == "text":
        values, notes = _text_feature(column)
    elif column.kind == "words":
        values, notes = _objects(column), []
    elif column.kind in ("floating", "exact", "nothing"):
        values, notes = column.floats(), []
        if column.kind == "exact":
            pairs = zip(column.values, values.tolist(), strict=True)
            notes = _converted(
                column, values, [row for row, (value, read) in enumerate(pairs) if value not in (None, read)]
            )
    else:
        raise ValueError(
            f"columns must be numbers or categories, got {column.kind} in {column.name!r} of {column.path}; "
            f"turn it into numbers or add {drop_option(column.name)}"
        )
    if values.dtype == np.float64 and (bad := np.flatnonzero(np.abs(values) > LARGEST)).size:
        value = values[bad[0]]
        shown = "infinity" if np.isinf(value) else f"{value:g}, which float32 cannot hold,"
        raise ValueError(
            f"features must be finite or missing, got {shown} in {column.places[bad[0]]}, "
            f"column {column.name!r}; rescale the column, leave the cell empty if it is unknown, or add "
            f"{drop_option(column.name)}"
        )
    return values, notes


def _text_feature(column: Column) -> tuple[NDArray[Any], list[str]]:
    cells: list[str] = column.values
    others = [row for row, cell in enumerate(cells) if not NUMBER.fullmatch(cell)]
    odd = next((row for row in others if cells[row] and cells[row].lower() not in _MISSING), None)
    if odd is not None:
        notes = []
        if 2 * sum(bool(_LIKE_A_NUMBER.fullmatch(cell)) for cell in cells) > sum(map(bool, cells)):
            shown = f"{cells[odd]!r} in {column.place(odd)}"
            notes = [f"{column.name!r} is read as categories: {shown} is no number"]
        return _objects(column), notes
    missing = dict.fromkeys(others, "nan")
    numbers = np.array([float(missing.get(row, cell)) for row, cell in enumerate(cells)], dtype=np.float64)
    large = np.flatnonzero((np.abs(numbers) >= 2**53) & np.isfinite(numbers)).tolist()
    kinds = (
        [row for row in np.flatnonzero(np.isnan(numbers)).tolist() if cells[row]],
        [row for row, cell in enumerate(cells) if _CODE.fullmatch(cell)],
        [
            row
            for row in large
            if cells[row].lstrip("+-").isdigit() and Decimal(cells[row]) != float(numbers[row])
        ],
    )
    return numbers, [note for rows in kinds for note in _converted(column, numbers, rows)]


def _objects(column: Column) -> NDArray[Any]:
    """The values as an array of text, nan where missing."""
    values = np.full(len(column.values), np.nan, dtype=object)
    values[:] = [np.nan if word is None else word for word in column.words()]
    return values


def _converted(column: Column, numbers: NDArray[Any], rows: list[int]) -> list[str]:
    """A note of the first of the rows whose value was converted, and of how many there are."""
    if not rows:
        return []
    first, number = column.values[rows[0]], float(numbers[rows[0]])
    shown = "missing" if np.isnan(number) else repr(number)
    more = f", and {len(rows) - 1} more such cells" if len(rows) > 1 else ""
    return [f"{column.name!r} is read as numbers: {str(first)!r} in {column.place(rows[0])} as {shown}{more}"]
