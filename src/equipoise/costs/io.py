"""Reading class matrices with class names from CSV and TOML files."""

import csv
import io
import re
import reprlib
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from equipoise.costs.builders import from_groups
from equipoise.costs.matrix import ClassMatrix, Floats, Kind, matched

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
# float() alone would accept 1_000 and digits of other scripts
NUMBER = re.compile(r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|inf(?:inity)?|nan)", re.ASCII | re.IGNORECASE)
_NO_TEXT = re.compile(r"[\0\ud800-\udfff]")


@dataclass(frozen=True)
class Cells:
    """The cells of a text file.

    Attributes:
        separator: The character between cells.
        lines: Number of the line in which each row begins.
        rows: The cells without surrounding blanks; the first row is the header, if there is one.
    """

    separator: str
    lines: list[int]
    rows: list[list[str]]


@dataclass(frozen=True)
class Table:
    """The numbers in a text file, and the names around them if it has names.

    Attributes:
        values: The numbers.
        rows: Names of the rows; empty without names.
        columns: Names of the columns; empty without names.
        corner: The cell above the names of the rows.
    """

    values: Floats
    rows: list[str] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    corner: str = ""


def read(path: str | Path, kind: Kind, classes: Sequence[object] | None = None) -> ClassMatrix:
    """Return the matrix in a file, with its class names.

    A CSV has the class names as first row and first column, a row per true class, and any word in the corner;
    its cells may be separated by commas, semicolons, tabs or bars.
    A TOML file has `groups = "horse, zebra | whale, shark"`, optionally with `within` and `between`, or a
    table per true class, in which `otherwise` is the value for all classes without a key but the true class:

    .. code-block:: toml

        [ill]
        well = 6
        [well]
        otherwise = 1

    Missing entries are 0. If a row of similarities has no key for the true class, its diagonal entry is 1
    minus the sum of the others.

    Args:
        path: A file that ends in .csv, .tsv or .toml.
        kind: "similarity" or "costs".
        classes: Order of the classes; None for that of the rows of the file.

    Raises:
        ValueError: If the file is missing or cannot be read, names of rows and columns differ or are not
            classes, the values are no matrix of this kind, or the corner says that the rows are predictions
            (see `corner_is_predicted`).

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
    if suffix == ".toml":
        return _from_toml(path, kind, _text(path, kind))
    table = read_table(path, kind)
    if corner_is_predicted(table.corner):
        raise ValueError(
            f"{kind} must have a row per true class, got {table.corner!r} in the corner of {path}, so it "
            "looks transposed; exchange rows and columns"
        )
    values, names = matched(table.values, table.rows, table.columns, kind, f" in {path}")
    return ClassMatrix(values, names, kind=kind)


def corner_is_predicted(corner: str) -> bool:
    r"""Return whether the top left cell of a table says that rows are predictions and columns true classes.

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


def read_cells(path: str | Path, kind: str, own: str = ",", wanted: str | None = None) -> Cells:
    """Return the cells of a text file, in rows of equal length.

    The separator is one with which the first row has the cell `wanted`, if possible `own`; if there is none,
    the one that gives the first row the most cells.

    Args:
        path: The file.
        kind: Name of the contents in errors.
        own: The separator that the suffix of the file implies.
        wanted: A cell expected in the first row.

    Raises:
        ValueError: If a cell is not UTF-8, quotes do not match, or rows differ in length.
    """
    # bytes that are not UTF-8 become surrogates, so that the error can name their cell
    text = Path(path).read_bytes().decode("utf-8-sig", "surrogateescape")
    is_text = not _NO_TEXT.search(text)

    def fitness(separator: str) -> tuple[bool, bool, int]:
        try:
            first = next(_rows(path, kind, text, separator))[1]
        except (ValueError, StopIteration):
            return False, False, 0
        found = wanted in first and len(first) > 1
        return found, found and separator == own, len(first)

    separator = max([own, *SEPARATORS], key=fitness)
    lines, rows = [], []
    for line, row in _rows(path, kind, text, separator):
        lines.append(line)
        rows.append(row)
        if len(row) != len(rows[0]):
            raise ValueError(
                f"{kind} must have rows of one length, got {len(row)} cells in line {line} and "
                f"{len(rows[0])} in line {lines[0]} of {path}, separated by {SEPARATORS[separator]}; "
                "give each column a name and each row a cell for it, and quote cells with separators in them"
            )
        bad = None if is_text else next((k for k, cell in enumerate(row) if _NO_TEXT.search(cell)), None)
        if bad is not None:
            raise ValueError(
                f"{kind} must be text in UTF-8, got {reprlib.repr(row[bad])} in line {line} of {path}, "
                f"column {bad + 1} ({reprlib.repr(rows[0][bad])}); save the file as UTF-8"
            )
    return Cells(separator, lines, rows)


def read_table(path: str | Path, kind: str, count: int | None = None) -> Table:
    """Return the numbers in a text file and the names of their rows and columns.

    Names of classes may be numbers, so only the size of the file shows whether it has names.

    Args:
        path: The file.
        kind: Name of the contents in errors.
        count: Number of classes; the file has names if it has a row and a column more. None if the file must
            have names.

    Raises:
        ValueError: As `read_cells`, if a cell is not a number, or if names are missing.
    """
    found = read_cells(path, kind)
    kept = [(line, row) for line, row in zip(found.lines, found.rows, strict=True) if any(row)]
    header = kept[0][1] if kept else []
    if count is None and (len(kept) != len(header) or len(header) < 2):
        raise ValueError(
            f"{kind} must have a row and a column of names around a row per class, got {len(kept)} rows of "
            f"{len(header)} cells in {path}; add the names"
        )
    named = count is None or len(kept) == count + 1 == len(header)
    cells = [
        [number(f"{path}, line {line}", kind, cell) for cell in row[named:]] for line, row in kept[named:]
    ]
    values = np.array(cells).reshape(len(cells), -1 if cells else 0)
    return Table(values, [row[0] for _, row in kept[1:]], header[1:], header[0]) if named else Table(values)


def _rows(path: str | Path, kind: str, text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, cells without surrounding blanks) of each row that is not empty."""
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True
    )
    line = 1
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if cells not in ([], [""]):
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"{kind} must have matching quotes, got {error} in the row that begins in line {line} of {path}; "
            "close them, and double those inside a cell"
        ) from error


def number(path: str | Path, kind: str, cell: Any) -> float:
    """Return the number in a cell."""
    if NUMBER.fullmatch(cell) if isinstance(cell, str) else not isinstance(cell, bool):
        try:
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


def _from_toml(path: Path, kind: Kind, text: str) -> ClassMatrix:
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
    return ClassMatrix(array, names, kind=kind)
