"""CSV, TSV and Parquet files as columns of features and classes, and what was converted on the way."""

import re
import shlex
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from equipoise.spelling import nearest
from equipoise.targets.files import NUMBER, SEPARATORS, read_cells

__all__ = ["LARGEST", "SUFFIXES", "Table", "number_names", "order", "read_table", "warn_of_identifier"]

SUFFIXES = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".parquet": None, ".pq": None}
LARGEST = float(np.finfo(np.float32).max)  # models are trained in float32
_MISSING = {  # what pandas takes for a missing value, in lower case
    *("#n/a", "#n/a n/a", "#na", "-1.#ind", "-1.#qnan", "-nan", "1.#ind", "1.#qnan"),
    *("<na>", "n/a", "na", "nan", "none", "null"),
}
_CODE = re.compile(r"[+-]?(?:0\d.*|\d+[eE]\d+)")  # 007 and 2E10 are numbers that may be meant as names
# 1,234 and 0,5 and $3 and 40 %, and dates and times
_LIKE_A_NUMBER = re.compile(r"\W{0,3}\d[\d.,'\u2019_\s:/+TZ-]*(?:[eE][+-]?\d+)?\W{0,2}")
_IDENTIFIER_NAME = re.compile(
    r"(?:^|[^a-z])(?:id|ids|uid|uuid|guid|identifier|index|idx|key|nr|no|number|row|serial|unnamed)(?:[^a-z]|$)"
)


@dataclass(frozen=True)
class Table:
    """Rows with classes, as a file has them.

    Attributes:
        features: An array (N, D), or columns of floats, or of strings with nan where missing. The index says
            in which "line" or "row" of the file.
        labels: Class of each row.
        classes: Different labels, in order.
        notes: What was converted or left out.
        warnings: What looks wrong without being certainly wrong.
    """

    features: pd.DataFrame | NDArray[np.float64]
    labels: list[str]
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Column:
    """A column before anything is converted.

    Attributes:
        path: Which file it is from.
        name: What the file calls it.
        kind: "text" in a CSV or TSV, or what Arrow's type holds: see `_arrow_kind`.
        unit: What `places` count from 1: "line" of a text, or "row".
        places: Where each value is, (N,).
        values: Text without surrounding blanks, or the values of a Parquet file with None where missing.
    """

    path: str
    name: str
    kind: str
    unit: str
    places: NDArray[np.int64]
    values: list[Any]

    def take(self, rows: NDArray[np.int64]) -> "_Column":
        """The column with some of its rows."""
        return replace(self, places=self.places[rows], values=[self.values[row] for row in rows])

    def place(self, row: int) -> str:
        """Where a row is, in words."""
        return f"{self.unit} {self.places[row]}"


def read_table(path: str, target: str | None, drop: Sequence[str]) -> Table:
    """Read a table, and refuse what could only be read by guessing.

    Args:
        path: A file with one of the suffixes.
        target: Column with the classes.
        drop: Columns to leave out.

    Raises:
        ValueError: If the file cannot be read or a column cannot be used; names file, column and place.
    """
    target, drop = target and target.strip(), [name.strip() for name in drop]
    separator = SUFFIXES[Path(path).suffix.lower()]
    columns, notes = _read_parquet(path) if separator is None else _read_text(path, separator, target)
    if target is None:
        raise ValueError(
            f"target must name the column with the classes, got none; add --target with one of "
            f"{', '.join(map(_shown, [*columns][-8:]))}"
        )
    for option, name in (("target", target), *(("drop", name) for name in drop)):
        if name not in columns:
            way = nearest(name, columns)
            if separator is not None and len(columns) == 1:
                way = "the file has one column; put commas, semicolons or tabs between the cells of a row"
            raise ValueError(f"{option} must be a column of {path}, got {name!r}; {way}")
    column = columns[target]()
    found, numeric = _labels(column)
    known = np.flatnonzero([label is not None for label in found])
    labels = [label for label in found if label is not None]
    if len(labels) < len(found):
        notes.append(f"{len(found) - len(labels)} rows without a value in {_shown(target)} were left out")
    index = pd.Index(column.places[known], name=column.unit)
    features, warnings = {}, []
    for name in columns:
        if name != target and name not in drop:
            column = columns[name]().take(known)
            features[name], converted = _feature(column)
            notes += converted
            different, way = len(set(column.values)), f"with {_drop(name)}"
            warnings += warn_of_identifier(repr(name), features[name], different, way)
    counts = Counter(labels)
    notes += [
        f"{label!r} in {target!r} is a class of {count} rows; leave its cells empty if the class is unknown"
        for label, count in counts.items()
        if label.lower() in _MISSING
    ]
    classes = order(counts, numeric=numeric)
    warnings += _alike(target, classes)
    return Table(pd.DataFrame(features, index), labels, classes, tuple(notes), tuple(warnings))


def order(labels: Iterable[str], *, numeric: bool) -> tuple[str, ...]:
    """Return the different labels, sorted as numbers or as text."""
    return tuple(sorted(set(labels), key=lambda label: (_decimal(label) if numeric else 0, label)))


def number_names(values: NDArray[Any]) -> list[str]:
    """Return the names of classes that are given as numbers: integers where all are whole."""
    if np.issubdtype(values.dtype, np.floating):
        if not np.isfinite(values).all():
            raise ValueError("target must be finite, got nan or infinity; remove those rows")
        if (values == np.round(values)).all() and (np.abs(values) < 2**63).all():
            values = values.astype(np.int64)
    return [str(value) for value in values]


def warn_of_identifier(name: str, values: NDArray[Any], different: int, way: str) -> list[str]:
    """Return a warning if a column looks like an identifier or a row number.

    Whole numbers do if all differ and they never fall (or never rise) from row to row, or their column has
    a name for it, or so many would hardly differ by chance. Words do if nine in ten differ.

    Args:
        name: Of the column.
        values: Floats, or strings.
        different: Number of different values, as they were in the file.
        way: How to leave the column out.
    """
    rows = len(values)
    if values.dtype == np.float64:
        if different < max(rows, 2) or not np.isfinite(values).all() or (values != np.round(values)).any():
            return []
        steps = np.diff(values)
        # Of values with this spread, rows^2 / (7 spread) pairs are equal by chance: above 5, none is unlikely
        crowded = rows**2 > 35 * values.std()
        named = _IDENTIFIER_NAME.search(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
        if not ((steps >= 0).all() or (steps <= 0).all() or crowded or named):
            return []
        what = "another whole number in every row"
    else:
        if different <= 0.9 * rows:
            return []
        what = "another word in nearly every row"
    return [f"{name} may be an identifier or a row number: it has {what}; if it is, leave it out {way}"]


def _alike(target: str, classes: tuple[str, ...]) -> list[str]:
    """Warnings of classes that are the same number, or the same word but for case, blanks and marks."""
    first: dict[Any, str] = {}
    return [
        f"{first[key]!r} and {label!r} in {target!r} are two classes, although they look alike; "
        "spell them alike if they are one"
        for label in classes
        for key in [_key(label)]
        if first.setdefault(key, label) != label
    ]


def _key(label: str) -> Any:
    """What labels have in common that are spelled nearly alike."""
    letters = "".join(
        letter for letter in unicodedata.normalize("NFKC", label) if unicodedata.category(letter) != "Cf"
    )
    number = _decimal(letters)
    return " ".join(letters.casefold().split()) if number is None else number


def _decimal(label: str) -> Decimal | None:
    """The number that a label spells, if it spells a finite one."""
    try:
        number = Decimal(label) if NUMBER.fullmatch(label) else None
    except InvalidOperation:  # exponents have a limit, of 18 digits
        return None
    return number if number is not None and number.is_finite() else None


def _read_text(path: str, own: str, target: str | None) -> tuple[dict[str, Callable[[], _Column]], list[str]]:
    """The columns of a text file by name, and how it was read."""
    found = read_cells(path, "data", own, target)
    if not found.rows:
        raise ValueError(f"data must have a header, got an empty file {path!r}; name the columns in line 1")
    header, *rows = found.rows
    names = [name or f"Unnamed: {place}" for place, name in enumerate(header)]  # as pandas calls them
    _require_distinct(names, f"line {found.lines[0]} of {path}")
    places = np.array(found.lines[1:], dtype=np.int64)
    cells = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in names]
    columns = {
        name: partial(_Column, path, name, "text", "line", places, values)
        for name, values in zip(names, cells, strict=True)
    }
    separated = f"the cells of {path} are separated by {SEPARATORS[found.separator]}"
    return columns, [separated] if found.separator != own else []


def _read_parquet(path: str) -> tuple[dict[str, Callable[[], _Column]], list[str]]:
    """The columns of a Parquet file by name, without the index that pandas wrote, and no notes."""
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ImportError(
            "equipoise compare needs pyarrow for Parquet; pip install 'equipoise[compare]'"
        ) from error
    try:
        table: Any = ParquetFile(path).read()
    except Exception as error:  # pyarrow raises many kinds for a file it cannot read
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"data must be a readable table, got {path!r}; {reason}") from error
    written = table.schema.pandas_metadata or {}
    indices = written.get("index_columns", ())
    categories = [each["name"] for each in written.get("columns", ()) if each["pandas_type"] == "categorical"]
    names = [name for name in table.schema.names if name not in indices]
    _require_distinct([name.strip() for name in names], path)
    places = np.arange(1, len(table) + 1)

    def column(name: str) -> _Column:
        found = table.column(name)
        kind = _arrow_kind(found.type)
        kind = "words" if name in categories and kind in ("exact", "floating") else kind
        return _Column(path, name.strip(), kind, "row", places, found.to_pylist())

    return {name.strip(): partial(column, name) for name in names}, []


def _shown(name: str) -> str:
    """A name, in one line."""
    return name if name.isprintable() else repr(name)


def _drop(name: str) -> str:
    """The option that leaves a column out, as a shell reads it."""
    return f"--drop {shlex.quote(name) if name.isprintable() else f'${name!r}'}"


def _require_distinct(names: list[str], where: str) -> None:
    for place, name in enumerate(names):
        if names.index(name) < place:
            raise ValueError(
                f"data must have columns of different names, got {name!r} as columns "
                f"{names.index(name) + 1} and {place + 1} in {where}; rename one"
            )


def _labels(column: _Column) -> tuple[list[str | None], bool]:
    """The class of each row, None if it has none, and whether all classes are numbers."""
    if column.kind == "floating":
        numbers = _floats(column)
        labels = np.full(len(numbers), None, dtype=object)
        labels[~np.isnan(numbers)] = number_names(numbers[~np.isnan(numbers)])
        return list(labels), True
    if column.kind not in ("text", "exact", "words", "times", "nothing"):
        raise ValueError(
            f"target must hold names or numbers, got {column.kind} in {column.name!r} of {column.path}; "
            "write it as text"
        )
    words = _words(column)
    if column.kind == "text":
        return words, all(word is None or _decimal(word) is not None for word in set(words))
    return words, column.kind == "exact"


def _feature(column: _Column) -> tuple[NDArray[Any], list[str]]:
    """A column as floats, or as strings with nan where missing, and what was converted."""
    values: NDArray[Any]
    if column.kind == "text":
        values, notes = _text_feature(column)
    elif column.kind == "words":
        values, notes = _objects(column), []
    elif column.kind in ("floating", "exact", "nothing"):
        values, notes = _floats(column), []
        if column.kind == "exact":
            pairs = zip(column.values, values.tolist(), strict=True)
            notes = _converted(
                column, values, [row for row, (value, read) in enumerate(pairs) if value not in (None, read)]
            )
    else:
        raise ValueError(
            f"columns must be numbers or categories, got {column.kind} in {column.name!r} of {column.path}; "
            f"turn it into numbers or add {_drop(column.name)}"
        )
    if values.dtype == np.float64 and (bad := np.flatnonzero(np.abs(values) > LARGEST)).size:
        value = values[bad[0]]
        shown = "infinity" if np.isinf(value) else f"{value:g}, which float32 cannot hold,"
        raise ValueError(
            f"features must be finite or missing, got {shown} in {column.place(bad[0])} of {column.path}, "
            f"column {column.name!r}; rescale the column, leave the cell empty if it is unknown, or add "
            f"{_drop(column.name)}"
        )
    return values, notes


def _text_feature(column: _Column) -> tuple[NDArray[Any], list[str]]:
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


def _arrow_kind(kind: Any) -> str:
    """What an Arrow type holds: floating, exact, words, times or nothing; other types by their own name."""
    from pyarrow import types

    if types.is_dictionary(kind):
        values = _arrow_kind(kind.value_type)
        return "words" if values in ("floating", "exact", "times") else values
    kinds = {
        "floating": types.is_floating(kind),
        "exact": types.is_integer(kind) or types.is_decimal(kind),
        "words": types.is_boolean(kind) or kind in ("string", "large_string", "string_view"),
        "times": types.is_temporal(kind),
        "nothing": types.is_null(kind),
    }
    return next((name for name, found in kinds.items() if found), str(kind))


def _floats(column: _Column) -> NDArray[np.float64]:
    return np.array([np.nan if value is None else float(value) for value in column.values], dtype=np.float64)


def _words(column: _Column) -> list[str | None]:
    """The values as text without surrounding blanks, None where nothing is left."""
    return [None if value is None else str(value).strip() or None for value in column.values]


def _objects(column: _Column) -> NDArray[Any]:
    """The values as an array of text, nan where missing."""
    values = np.full(len(column.values), np.nan, dtype=object)
    values[:] = [np.nan if word is None else word for word in _words(column)]
    return values


def _converted(column: _Column, numbers: NDArray[Any], rows: list[int]) -> list[str]:
    """A note of the first of the rows whose value was converted, and of how many there are."""
    if not rows:
        return []
    first, number = column.values[rows[0]], float(numbers[rows[0]])
    shown = "missing" if np.isnan(number) else repr(number)
    more = f", and {len(rows) - 1} more such cells" if len(rows) > 1 else ""
    return [f"{column.name!r} is read as numbers: {str(first)!r} in {column.place(rows[0])} as {shown}{more}"]
