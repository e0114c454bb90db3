"""Conversion of tables and NPZ files to a data set."""

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from equipoise.compare.arrays import as_array, as_column, reason
from equipoise.compare.checks import warn_of_header
from equipoise.compare.dataset import Dataset
from equipoise.compare.paths import kind
from equipoise.compare.refusal import printable, refusal
from equipoise.compare.rows import FILES, MISSING, NPZ, Rows, build, converted
from equipoise.costs.io import NUMBER, SEPARATORS, read_cells
from equipoise.naming import nearest

__all__ = ["read_arrays", "read_tables"]

_CODE = re.compile(r"[+-]?(?:0\d.*|\d+[eE]\d+)")  # 007 and 2E10 may be names


def read_arrays(path: str, test: str | None, roles: dict[str, str]) -> Dataset:
    """Return the data set of an NPZ file, and of one with test rows."""
    _require_one_use({}, roles)
    rows = _npz(path, "data", {role: roles[role] for role in roles if test is None or role != "clean"})
    return build(Path(path).name, rows, _npz(test, "test", roles) if test else None, NPZ, [])


def read_tables(
    path: str, target: str | None, drop: Sequence[str], test: str | None, roles: dict[str, str]
) -> Dataset:
    """Return the data set of a table, and of one with test rows."""
    drop, roles = [name.strip() for name in drop], {role: name.strip() for role, name in roles.items()}
    table, notes = _table(path, target, "data")
    header = [*table]
    if target is None:
        way = f"give one of {', '.join(map(printable, table.columns[-8:]))}"
        raise refusal("target", "name the column with the classes", "none", way)
    target = target.strip()
    for option, name in (("target", target), *(("drop", name) for name in drop), *roles.items()):
        if name not in table and not (option == "clean" and test is not None):
            way = nearest(name, [*table])
            if table.shape[1] == 1 and kind(path, "data") == "text":
                way = "the file has one column; put commas, semicolons or tabs between the cells of a row"
            raise refusal(option, f"be a column of {path}", repr(name), way)
    if target in drop:
        raise refusal("drop", "leave the target in the table", f"{target!r} for both", "name another target")
    its_own = (
        test is not None and roles.get("clean") == target
    )  # the labels of the test rows are the clean ones
    mine = {role: name for role, name in roles.items() if not (its_own and role == "clean")}
    _require_one_use({target: "target"}, mine)
    rows, more = _as_rows(table, path, target, drop, mine), None
    if test is not None:
        table, said = _table(test, target, "test")
        notes += said
        for name in (target, *roles.values()):
            if name not in table:
                rule, got = f"have the columns of {path}", f"no {name!r} in {test}"
                raise refusal("test", rule, got, nearest(name, [*table]))
        more = _as_rows(table, test, target, drop, roles)
    parse = _numbers if kind(path, "data") == "text" else None
    dataset = build(Path(path).name, rows, more, FILES, notes, parse)
    return replace(dataset, warnings=(*(warn_of_header(header, path) if parse else ()), *dataset.warnings))


def _require_one_use(uses: dict[str, str], roles: dict[str, str]) -> None:
    for option, name in roles.items():
        if uses.setdefault(name, option) != option:
            got = f"{name!r}, which is the {uses[name]}"
            raise refusal(option, "have a column of its own", got, "name another column")


def _as_rows(table: pd.DataFrame, path: str, target: str, drop: Sequence[str], roles: dict[str, str]) -> Rows:
    """Return the columns of a table by role."""
    used = [name for name in (target, *drop, *roles.values()) if name in table]
    rows = Rows(path, table.drop(columns=used), pd.DataFrame(index=table.index))
    for role, name in {"label": target, **roles}.items():
        if name in table:
            rows[role] = table[name]
    return rows


def _table(path: str, target: str | None, option: str) -> tuple[pd.DataFrame, list[str]]:
    """Return the cells of a table, indexed by the place of each row, and notes about the format."""
    try:
        table, where, notes = (_parquet if kind(path, option) == "parquet" else _text)(path, target, option)
    except OSError as error:
        why = (error.strerror or type(error).__name__).lower()
        raise refusal(option, "be a file that can be read", repr(path), why) from error
    for place in np.flatnonzero(table.columns.duplicated()):
        name = table.columns[place]
        first = [*table.columns].index(name) + 1
        got = f"{name!r} as columns {first} and {place + 1} in {where}"
        raise refusal(option, "have columns of different names", got, "rename one")
    return table, notes


def _text(path: str, target: str | None, option: str) -> tuple[pd.DataFrame, str, list[str]]:
    own = "," if path.lower().endswith(".csv") else "\t"
    found = read_cells(path, option, own, target and target.strip())
    if not found.rows:
        raise refusal(option, "have a header", f"an empty file {path!r}", "name the columns in line 1")
    header, *cells = found.rows
    names = [name or f"Unnamed: {place}" for place, name in enumerate(header)]  # as in pandas
    table = pd.DataFrame(cells or None, _places("line", found.lines[1:], path), names, dtype=object)
    separated = f"the cells of {path} are separated by {SEPARATORS[found.separator]}"
    notes = [separated] if found.separator != own else []
    return table, f"line {found.lines[0]} of {path}", notes


def _parquet(path: str, target: str | None, option: str) -> tuple[pd.DataFrame, str, list[str]]:
    """Return columns of dtype object, so that no number is rounded, without the index that pandas wrote."""
    # pandas.read_parquet converts integers with gaps to floats, and has no clear error for duplicate names.
    del target
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ImportError(
            "equipoise compare needs pyarrow for Parquet; pip install 'equipoise[parquet]'"
        ) from error
    try:
        read: Any = ParquetFile(path).read()
        written: Mapping[str, Any] = read.schema.pandas_metadata or {}
        words = [each["name"] for each in written.get("columns", ()) if each["pandas_type"] == "categorical"]
        columns = {}
        for place, name in enumerate(read.schema.names):
            if name not in written.get("index_columns", ()):
                values = pd.Series(read.column(place).to_pylist(), dtype=object)
                columns[place] = values.astype("category") if name in words else values
        table = pd.DataFrame(columns, range(len(read)))
        names = [read.schema.names[place].strip() for place in columns]
    except Exception as error:  # pyarrow raises many kinds for a file it cannot read
        raise refusal(option, "be a readable table", repr(path), reason(error)) from error
    places = _places("row", range(1, len(table) + 1), path)
    return table.set_axis(places).set_axis(names, axis=1), path, []


def _numbers(column: pd.Series, source: str) -> tuple[pd.Series, list[str]]:
    """Return a column of text as numbers if every cell is a number or missing, and notes of changed cells."""
    cells: list[str] = column.tolist()
    if not all(NUMBER.fullmatch(cell) or cell.lower() in MISSING for cell in cells):
        return column, []
    numbers = np.array([float("nan" if cell.lower() in MISSING else cell) for cell in cells])
    unknown = [row for row in np.flatnonzero(np.isnan(numbers)).tolist() if cells[row]]
    codes = [row for row, cell in enumerate(cells) if _CODE.fullmatch(cell)]
    notes = converted(column, numbers, unknown, source) + converted(column, numbers, codes, source)
    large = np.flatnonzero((np.abs(numbers) >= 2**53) & np.isfinite(numbers)).tolist()
    exact = {row: int(cells[row]) for row in large if cells[row].lstrip("+-").isdigit()}
    kept = [exact.get(row, number) for row, number in enumerate(numbers.tolist())] if exact else numbers
    return pd.Series(kept, column.index, object if exact else np.float64, column.name), notes


def _npz(path: str, option: str, roles: dict[str, str]) -> Rows:
    """Return the arrays X (N, ...) and y (N,) of an NPZ file, and those with a role."""
    try:
        with warnings.catch_warnings(action="ignore"), open(path, "rb") as file:
            archive = np.load(file, allow_pickle=False)
            names = list(archive.files)
            arrays = {name: archive[name] for name in {"X", "y", *roles.values()} & {*names}}
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise TypeError("it holds something else than arrays")
    except Exception as error:  # numpy and zipfile raise many kinds for a file they cannot read
        rule = "be a readable NPZ file without pickles"
        raise refusal(option, rule, repr(path), reason(error)) from error
    found = ", ".join(map(printable, names)) or "nothing"
    if not {"X", "y"} <= {*names}:
        raise refusal(option, "hold the arrays X and y", f"{found} in {path}", "save with np.savez(X=, y=)")
    for role, name in roles.items():
        taken = name == "X" or (name == "y" and not (role == "clean" and option == "test"))
        if name not in arrays or taken:
            rule = f"name an array of {path} beside X and y"
            raise refusal(role, rule, f"{name!r} of {found}", "add it with np.savez")
    features = as_array(arrays["X"], f" in {path}")
    places = _places("row", range(1, len(features) + 1), path)
    rows = Rows(path, features, pd.DataFrame(index=places))
    for role, name in {"label": "y", **roles}.items():
        option = "y" if role == "label" else role
        rows[role] = as_column(arrays[name], option, places, f" in {path}").rename(name)
    return rows


def _places(unit: str, numbers: Any, path: str) -> pd.Index:
    """Return the place of each row, in words."""
    return pd.Index([f"{unit} {number} of {path}" for number in numbers], dtype=object)
