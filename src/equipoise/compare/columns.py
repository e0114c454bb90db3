"""Columns of CSV, TSV and Parquet files and of arrays, before anything in them is converted."""

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equipoise.targets.files import SEPARATORS, read_cells

__all__ = ["Column", "SUFFIXES", "drop_option", "printable", "read_columns"]

SUFFIXES = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".parquet": None, ".pq": None}
NUMERIC = ("floating", "exact", "nothing")


@dataclass(frozen=True)
class Column:
    """A column before anything is converted.

    Attributes:
        path: Which file it is from.
        name: What the file calls it.
        kind: "text" in a CSV or TSV, or what Arrow's type holds: see `_arrow_kind`.
        places: Where each value is, "line 3 of t.csv" (N,).
        values: Text without surrounding blanks, or the values of a Parquet file with None where missing.
    """

    path: str
    name: str
    kind: str
    places: NDArray[Any]
    values: list[Any]

    def take(self, rows: NDArray[np.int64]) -> "Column":
        """The column with some of its rows."""
        return replace(self, places=self.places[rows], values=[self.values[row] for row in rows])

    def place(self, row: int) -> str:
        """Where a row is, in words; without the name of the file if it is the first one."""
        return self.places[row].removesuffix(f" of {self.path}")

    def join(self, more: "Column") -> "Column":
        """The column with the rows of the same column of another file after its own."""
        kinds = {self.kind, more.kind}
        if len(kinds) > 1 and not kinds.issubset(NUMERIC):
            raise ValueError(
                f"test must have columns like those of {self.path}, got {more.kind} in {more.name!r} of "
                f"{more.path} for {self.kind}; write both files alike"
            )
        kind = self.kind if len(kinds) == 1 else "floating"
        places = np.concatenate([self.places, more.places])
        return replace(self, kind=kind, places=places, values=[*self.values, *more.values])

    def words(self) -> list[str | None]:
        """The values as text without surrounding blanks, None where nothing is left."""
        return [None if value is None else str(value).strip() or None for value in self.values]

    def floats(self) -> NDArray[np.float64]:
        """The values of a column of numbers, nan where missing."""
        return np.array(
            [np.nan if value is None else float(value) for value in self.values], dtype=np.float64
        )


def read_columns(
    path: str, target: str | None, option: str = "data"
) -> tuple[dict[str, Callable[[], Column]], list[str]]:
    """Return the columns of a file by name, each read when it is called, and how the file was read.

    Args:
        path: A file with one of the suffixes.
        target: Column with the classes, by which the separator of a text is found.
        option: What errors call the file.

    Raises:
        ValueError: If the file cannot be read; names file and place.
    """
    separator = SUFFIXES[Path(path).suffix.lower()]
    return _read_parquet(path, option) if separator is None else _read_text(path, separator, target, option)


def printable(name: str) -> str:
    """A name, in one line."""
    return name if name.isprintable() else repr(name)


def drop_option(name: str) -> str:
    """The option that leaves a column out, as a shell reads it."""
    return f"--drop {shlex.quote(name) if name.isprintable() else f'${name!r}'}"


def _read_text(
    path: str, own: str, target: str | None, option: str
) -> tuple[dict[str, Callable[[], Column]], list[str]]:
    found = read_cells(path, option, own, target)
    if not found.rows:
        raise ValueError(
            f"{option} must have a header, got an empty file {path!r}; name the columns in line 1"
        )
    header, *rows = found.rows
    names = [name or f"Unnamed: {place}" for place, name in enumerate(header)]  # as pandas calls them
    _require_distinct(names, f"line {found.lines[0]} of {path}", option)
    places = _places("line", found.lines[1:], path)
    cells = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in names]
    columns: dict[str, Callable[[], Column]] = {
        name: partial(Column, path, name, "text", places, values)
        for name, values in zip(names, cells, strict=True)
    }
    separated = f"the cells of {path} are separated by {SEPARATORS[found.separator]}"
    return columns, [separated] if found.separator != own else []


def _read_parquet(path: str, option: str) -> tuple[dict[str, Callable[[], Column]], list[str]]:
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
        raise ValueError(f"{option} must be a readable table, got {path!r}; {reason}") from error
    written: Mapping[str, Any] = table.schema.pandas_metadata or {}
    indices = written.get("index_columns", ())
    categories = [each["name"] for each in written.get("columns", ()) if each["pandas_type"] == "categorical"]
    names = [name for name in table.schema.names if name not in indices]
    _require_distinct([name.strip() for name in names], path, option)
    places = _places("row", range(1, len(table) + 1), path)

    def column(name: str) -> Column:
        found = table.column(name)
        kind = _arrow_kind(found.type)
        kind = "words" if name in categories and kind in ("exact", "floating") else kind
        return Column(path, name.strip(), kind, places, found.to_pylist())

    return {name.strip(): partial(column, name) for name in names}, []


def _places(unit: str, numbers: Any, path: str) -> NDArray[Any]:
    return np.array([f"{unit} {number} of {path}" for number in numbers], dtype=object)


def _require_distinct(names: list[str], where: str, option: str) -> None:
    for place, name in enumerate(names):
        if names.index(name) < place:
            raise ValueError(
                f"{option} must have columns of different names, got {name!r} as columns "
                f"{names.index(name) + 1} and {place + 1} in {where}; rename one"
            )


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
