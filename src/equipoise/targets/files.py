"""Matrices from CSV and TOML files with class names."""

import csv
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from equipoise.targets.build import from_groups
from equipoise.targets.matrix import Kind, Matrix


def read(path: str | Path, kind: Kind, classes: Sequence[object] | None = None) -> Matrix:
    """Return the matrix in a file, with its class names.

    A CSV has the class names as first row and first column, a row per true class, and any word in the corner.
    A TOML file has `groups = "horse, zebra | whale, shark"`, with `within` and `between` if wanted, or a
    table per true class, in which `otherwise` stands for every class that is not named, except itself:

    .. code-block:: toml

        [ill]
        well = 6
        [well]
        otherwise = 1

    What is not given is 0; a class that a row of similarities does not name itself keeps what is left of 1.

    Args:
        path: A file that ends in .csv, .tsv or .toml.
        kind: "similarity" or "costs": what it holds.
        classes: Order of the classes; None for that of the rows of the file.

    Raises:
        ValueError: If there is no such file, it cannot be read, names do not agree or are not classes, or it
            is no matrix of its kind. A corner that says that rows are predictions is an error: see
            `corner_is_predicted`.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "costs.csv"
        >>> _ = path.write_text("true,well,ill" + chr(10) + "well,0,1" + chr(10) + "ill,6,0" + chr(10))
        >>> print(read(path, "costs"))
        costs[true, predicted]
              well  ill
        well     0    1
        ill      6    0
    """
    if classes is not None:
        return read(path, kind).ordered(classes)
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".tsv", ".toml") or not path.is_file():
        raise ValueError(
            f"{kind} must be a CSV or TOML file that is there, got {str(path)!r}; check the path"
        )
    text = _text(path, kind)
    if suffix == ".toml":
        return _from_toml(path, kind, text)
    rows = cells(path, kind, text)
    width = len(rows[0]) if rows else 0
    if len(rows) != width or width < 2:
        raise ValueError(
            f"{kind} must have a row and a column of names around a row per class, got {len(rows)} rows of "
            f"{width} cells in {path}; add the names"
        )
    across, down = rows[0][1:], [row[0] for row in rows[1:]]
    if sorted(across) != sorted(down):
        odd = sorted(set(across) ^ set(down))
        raise ValueError(
            f"{kind} must have the same names across and down, got {odd[0] if odd else across[0]!r} in one "
            f"only in {path}; name each class in both"
        )
    if corner_is_predicted(rows[0][0]):
        raise ValueError(
            f"{kind} must have a row per true class, got {rows[0][0]!r} in the corner of {path}, so it looks "
            "transposed; exchange rows and columns"
        )
    order = [across.index(name) for name in down]
    values = [[number(path, kind, row[1 + k]) for k in order] for row in rows[1:]]
    return Matrix(values, kind, down)


def corner_is_predicted(corner: str) -> bool:
    r"""Return whether the corner of a table says that its rows are predictions, its columns the truth.

    Example:
        >>> corner_is_predicted("predicted \\ true"), corner_is_predicted("true \\ predicted")
        (True, False)
    """
    words = corner.lower().replace("_", " ").split()
    return bool(words) and words[0].strip("\\/|:,").split("\\")[0].split("/")[0] in (
        "predicted",
        "prediction",
        "predictions",
        "pred",
        "decision",
        "decided",
        "guess",
    )


def cells(path: str | Path, kind: str, text: str) -> list[list[str]]:
    """Return the cells of a CSV or TSV, rows of one length."""
    separator = "\t" if "\t" in text else ","
    rows = [
        [cell.strip() for cell in row]
        for row in csv.reader(text.splitlines(), delimiter=separator)
        if any(cell.strip() for cell in row)
    ]
    width = max((len(row) for row in rows), default=0)
    ragged = next((row for row in rows if len(row) != width), None)
    if ragged is not None:
        raise ValueError(
            f"{kind} must have rows of one length, got {len(ragged)} and {width} cells in {path}; "
            "fill in every entry"
        )
    return rows


def number(path: str | Path, kind: str, cell: Any) -> float:
    """Return the number in a cell."""
    try:
        if not isinstance(cell, bool):
            return float(cell)
    except (TypeError, ValueError):
        pass
    raise ValueError(
        f"{kind} must hold numbers, got {cell!r} in {path}; "
        "class names go in the first row and the first column only"
    )


def _text(path: Path, kind: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{kind} must be text in UTF-8, got {str(path)!r}; {error}") from error


def _from_toml(path: Path, kind: Kind, text: str) -> Matrix:
    try:
        found: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{kind} must be TOML, got {str(path)!r}; {error}") from error
    if "groups" in found and not isinstance(found["groups"], Mapping):
        extra = sorted(set(found) - {"groups", "within", "between"})
        if extra:
            raise ValueError(
                f"{kind} must have only groups, within and between beside groups, got {extra[0]!r} in "
                f"{path}; or give a table per class"
            )
        shares = {name: number(path, kind, found[name]) for name in ("within", "between") if name in found}
        return from_groups(found["groups"], kind, within=shares.get("within"), between=shares.get("between"))
    names = list(found)
    for name, row in found.items():
        if not isinstance(row, Mapping):
            raise ValueError(
                f"{kind} must have a table per true class, got {row!r} for {name!r} in {path}; write [{name}]"
            )
        for other in row:
            if other not in (*names, "otherwise"):
                raise ValueError(
                    f"{kind} must have a table for every class, got {other!r} without one in {path}; "
                    f"add [{other}]"
                )
    array = np.zeros((len(names), len(names)))
    for i, row in enumerate(found.values()):
        rest = number(path, kind, row.get("otherwise", 0))
        array[i] = [number(path, kind, row.get(name, 0 if name == names[i] else rest)) for name in names]
        if kind == "similarity" and names[i] not in row:
            array[i, i] = 1 - array[i].sum()
    return Matrix(array, kind, names)
