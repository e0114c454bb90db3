"""Costs, similarities and label noise over classes, checked and in the order of the classes."""

import os
from numbers import Real
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from equipoise.naming import nearest
from equipoise.targets import Matrix, from_groups, read
from equipoise.targets.files import NUMBER, corner_is_predicted, matrix_cells, number

__all__ = ["as_costs", "as_noise", "as_similarity", "looks_transposed", "lost_similarity"]

Floats = NDArray[np.float64]
Kind = Literal["similarity", "costs"]
# Of the largest cost: differences below 1e-12 count as rounding, and squares overflow in float32
SMALLEST, LARGEST = 1e-6, 1e15
TEXTS = (".npy", ".toml")  # suffixes of files that are not tables of text


def as_costs(given: Any, classes: tuple[str, ...], where: str = "costs") -> Floats:
    """Return costs [true, predicted], (C, C), 0 or more, where being right costs least in its row."""
    costs, at = _matrix(given, classes, "costs", where)
    if (costs < 0).any():
        raise ValueError(f"{where} must be 0 or more, got {costs.min():g}{at}; add a constant to every entry")
    if not SMALLEST <= costs.max() <= LARGEST:
        raise ValueError(
            f"{where} must have a largest entry from {SMALLEST:g} to {LARGEST:g}, got {costs.max():g}{at}; "
            "count costs in another unit"
        )
    true, wrong = np.unravel_index((costs - costs.diagonal()[:, None]).argmin(), costs.shape)
    if costs[true, wrong] < costs[true, true]:
        way = "are they gains? take the largest gain minus each"
        if (costs >= costs.diagonal()).all():
            way = "each is smallest in its column, so it looks transposed: exchange rows and columns"
        raise ValueError(
            f"{where} must be smallest where [true, predicted] agree, got {costs[true, true]:g} for "
            f"{classes[true]!r} as itself and {costs[true, wrong]:g} as {classes[wrong]!r}{at}; {way}"
        )
    return costs


def as_similarity(given: Any, classes: tuple[str, ...], where: str = "similarity") -> Floats:
    """Return similarities [true, class], (C, C), whose rows sum to one."""
    shares, at = _matrix(given, classes, "similarity", where)
    if (shares < 0).any():
        raise ValueError(f"{where} must be 0 or more, got {shares.min():g}{at}; its rows are shares")
    with np.errstate(over="ignore"):
        sums, columns = shares.sum(axis=1), shares.sum(axis=0)
    worst = int(np.abs(sums - 1).argmax())
    if abs(sums[worst] - 1) > 1e-6:
        way = "divide each row by its sum"
        if np.abs(columns - 1).max() <= 1e-6:
            way = "its columns do, so it looks transposed: exchange rows and columns"
        raise ValueError(
            f"{where} must have rows that sum to one, got {sums[worst]:g} for class {classes[worst]!r}{at}; "
            f"{way}"
        )
    return shares / sums[:, None]


def as_noise(given: Any, classes: tuple[str, ...]) -> Floats:
    """Return label noise [true, observed], (C, C), from shares like similarities or from one rate for all."""
    if not (isinstance(given, str | Real) and NUMBER.fullmatch(str(given).strip())):
        return as_similarity(given, classes, "noise")
    rate = float(given)
    if not 0 <= rate < 1:
        raise ValueError(f"noise must be a share in [0, 1), got {given}; 0.4 flips four labels in ten")
    others = rate / max(len(classes) - 1, 1)
    return as_similarity(np.where(np.eye(len(classes)), 1 - rate, others), classes, "noise")


def lost_similarity(similarity: Floats) -> Floats:
    """Return the costs that a similarity implies: how much less alike the predicted class is than the true.

    This is 1 - similarity wherever a class is wholly alike to itself, and 0 on the diagonal always.
    """
    return similarity.diagonal()[:, None] - similarity


def looks_transposed(
    name: str, given: Any, matrix: Floats, classes: tuple[str, ...], counts: NDArray[np.int64]
) -> tuple[str, ...]:
    """Return warnings if a matrix may have its rows and columns the wrong way round.

    It may if its corner says so; and costs may if confusions get dearer the commoner the missed class is and
    the rarer the class it is taken for, where it is the rare class that is usually dear to miss.

    Args:
        name: "costs" or "similarity".
        given: What the matrix was made from.
        matrix: Indexed [true, class].
        classes: Names of the classes.
        counts: Rows of each class, (C,).
    """
    found = []
    corner, at = "", "it"
    if isinstance(given, pd.DataFrame):
        corner = str(given.index.name or "")
    elif _is_file(given) and Path(given).suffix.lower() not in TEXTS:
        corner, at = matrix_cells(given, name)[1][0][0], _printable(given)
    if corner_is_predicted(corner):
        found.append(
            f"{name} may be transposed: {at} has {corner!r} in its corner, and its rows are read as "
            "true classes; if they are predictions, exchange rows and columns"
        )
    if name == "costs" and len(classes) > 1 and counts.max() >= 1.5 * counts.min():
        others = matrix * (1 - np.eye(len(classes)))
        missed, taken = _slope(others.sum(axis=1), counts), _slope(others.sum(axis=0), counts)
        if missed > 0.5 and taken < -0.5:
            found.append(
                f"costs may be transposed: read as [true, predicted], it is dearer to miss the common "
                f"{classes[counts.argmax()]!r} than the rare {classes[counts.argmin()]!r}; if it should be "
                "the other way round, exchange rows and columns"
            )
    return tuple(found)


def _slope(costs: Floats, counts: NDArray[np.int64]) -> float:
    """Return the correlation of costs with the logarithm of how often a class occurs; 0 for equal costs."""
    if np.ptp(costs) <= 1e-9 * costs.max():
        return 0.0
    return float(np.corrcoef(costs, np.log(np.maximum(counts, 1)))[0, 1])


def _matrix(given: Any, classes: tuple[str, ...], kind: Kind, name: str) -> tuple[Floats, str]:
    """Return finite numbers (C, C) in the order of the classes, and where they are from: " in FILE" or ""."""
    count, at = len(classes), ""
    if isinstance(given, str | os.PathLike):
        given, at = _from_text(os.fspath(given), kind, name, count), f" in {_printable(given)}"
    if isinstance(given, Matrix):
        if given.kind != kind:
            raise ValueError(f"{name} must be a matrix of kind {kind!r}, got {given!r}; build it as {kind}")
        given = pd.DataFrame(given.array, given.classes, given.classes)
    values = _numbers(given, name, at)
    # As in Matrix, names that are the numbers of the classes say nothing, unless they are their names
    numbers = [str(place) for place in range(count)]
    if isinstance(given, pd.DataFrame):
        axes = [[str(label).strip() for label in axis] for axis in given.axes]
        if at or axes != [numbers] * 2 or set(classes) == set(numbers):
            values = values[np.ix_(*[_places(names, classes, name, at) for names in axes])]
    if values.shape != (count, count):
        got = " x ".join(map(str, values.shape)) or "one value"
        raise ValueError(
            f"{name} must be {count} x {count}, a row and a column for each class, got {got}{at}; "
            "class names around it are allowed"
        )
    if not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite, got nan or infinity{at}; fill in every entry")
    return values, at


def _from_text(text: str, kind: Kind, name: str, count: int) -> Any:
    """Return the matrix that groups or a file hold, a table if classes are named in it."""
    suffix = Path(text).suffix.lower() if _is_file(text) else None
    if suffix is None and "|" not in text:
        what, way = "groups such as 'a, b | c' or a CSV, TOML or NPY file", "check the path"
        if name == "noise":
            what, way = "a share in [0, 1) or a matrix file", "write for example 0.4, or check the path"
        raise ValueError(f"{name} must be {what}, got {text!r}, which is not there; {way}")
    try:
        if suffix is None:
            return from_groups(text, kind)
        if suffix == ".toml":
            return read(text, kind)
        if suffix == ".npy":
            with Path(text).open("rb") as file:
                return np.lib.format.read_array(file, allow_pickle=False)
    except Exception as error:  # numpy raises many kinds for a file it cannot read
        raise ValueError(f"{name} must be a matrix, got {text!r}; {_first_line(error)}") from error
    lines, rows = matrix_cells(text, name)
    # Classes may be called by numbers: only the size tells their names from entries
    named = len(rows) == count + 1 == len(rows[0])
    cells = [
        [number(f"{text}, line {line}", name, cell) for cell in row[named:]]
        for line, row in zip(lines[named:], rows[named:], strict=True)
    ]
    return pd.DataFrame(cells, [row[0] for row in rows[1:]], rows[0][1:]) if named else cells or np.zeros((0, 0))


def _numbers(given: Any, name: str, at: str) -> Floats:
    """Return an array of floats of anything that holds real numbers; nan where they are masked."""
    try:
        if isinstance(given, Tensor):
            given = given.detach().cpu().to_dense()
            given = given.double() if given.is_floating_point() else given
        values = np.ma.asarray(given)
        if values.dtype.kind not in "biufO":
            raise TypeError(f"it holds {values.dtype}")
        with np.errstate(over="ignore"):
            return np.asarray(values.astype(np.float64).filled(np.nan))
    except Exception as error:  # numpy, pandas and torch raise many kinds
        raise ValueError(
            f"{name} must hold numbers, got {type(given).__name__}{at}; {_first_line(error)}"
        ) from error


def _places(names: list[str], classes: tuple[str, ...], name: str, at: str) -> list[int]:
    """Return where each class is among the names along an axis of a table."""
    for given in names:
        if given not in classes:
            raise ValueError(
                f"{name} must name the classes of the data, got {given!r}{at}; {nearest(given, classes)}"
            )
    for wanted in sorted(classes, key=names.count):  # missing ones first
        if names.count(wanted) != 1:
            got = f"{wanted!r} {names.count(wanted)} times" if wanted in names else f"none for {wanted!r}"
            raise ValueError(f"{name} must name every class once, got {got}{at}; name each in both directions")
    return [names.index(wanted) for wanted in classes]


def _is_file(given: Any) -> bool:
    return isinstance(given, str | os.PathLike) and os.path.isfile(given)  # False for a path too long, too


def _printable(path: Any) -> str:
    return str(path) if str(path).isprintable() else repr(str(path))


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
