"""Costs, similarities and label noise over classes, checked and in the order of the classes."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from equipoise.compare.codes import with_code
from equipoise.compare.early import flip_share, require_matrix, suffix_of
from equipoise.costs import ClassMatrix, from_groups, read
from equipoise.costs.io import corner_is_predicted, read_table
from equipoise.costs.matrix import Kind, labelled

__all__ = ["as_costs", "as_noise", "as_similarity", "looks_transposed", "costs_from_similarity"]

Floats = NDArray[np.float64]
# Range of the largest cost: differences below 1e-12 are rounding, and squares overflow in float32
SMALLEST, LARGEST = 1e-6, 1e15


def as_costs(given: Any, classes: tuple[str, ...], where: str = "costs") -> Floats:
    """Return costs [true, predicted], (C, C), at least 0, with the smallest of each row on the diagonal."""
    costs, at = _matrix(given, classes, "costs", where)
    if (costs < 0).any():
        raise ValueError(f"{where} must be 0 or more, got {costs.min():g}{at}; add a constant to every entry")
    if not SMALLEST <= costs.max() <= LARGEST:
        raise ValueError(
            f"{where} must have a largest entry from {SMALLEST:g} to {LARGEST:g}, got {costs.max():g}{at}; "
            "count costs in another unit"
        )
    return costs


def as_similarity(given: Any, classes: tuple[str, ...], where: str = "similarity") -> Floats:
    """Return similarities [true, class], (C, C), whose rows sum to one."""
    return _matrix(given, classes, "similarity", where)[0]


def as_noise(given: Any, classes: tuple[str, ...]) -> Floats:
    """Return label noise [true, observed], (C, C), from a matrix whose rows sum to one, or from one rate."""
    rate = flip_share(given)
    if rate is None:
        return as_similarity(given, classes, "noise")
    others = rate / max(len(classes) - 1, 1)
    return as_similarity(np.where(np.eye(len(classes)), 1 - rate, others), classes, "noise")


def costs_from_similarity(similarity: Floats) -> Floats:
    """Return the costs of a similarity S: S[true, true] - S[true, predicted]."""
    return similarity.diagonal()[:, None] - similarity


def looks_transposed(
    name: str, given: Any, matrix: Floats, classes: tuple[str, ...], counts: NDArray[np.int64]
) -> tuple[str, ...]:
    """Return warnings if a given matrix may be transposed.

    Signs of that are a corner that says so, and, for costs, mistakes that cost more the commoner the true
    class and the rarer the predicted class (by `counts` (C,)): usually, it is costly to miss a rare class.
    """
    found, corner, at = [], "", "the table"
    if isinstance(given, pd.DataFrame):
        corner = str(given.index.name or "")
    elif suffix_of(given) not in (None, ".npy", ".toml"):
        corner, at = read_table(given, name, len(classes)).corner, str(given)
    if corner_is_predicted(corner):
        found.append(
            with_code(
                "EQ009",
                f"{name} may be transposed: {at} has {corner!r} in its corner, and its rows are read as "
                "true classes; if they are predictions, exchange rows and columns",
            )
        )
    if name == "costs" and counts.max() >= 1.5 * counts.min():
        others = matrix * (1 - np.eye(len(classes)))
        if _slope(others.sum(axis=1), counts) > 0.5 and _slope(others.sum(axis=0), counts) < -0.5:
            found.append(
                with_code(
                    "EQ010",
                    "costs may be transposed: read as [true, predicted], it is dearer to miss the common "
                    f"{classes[counts.argmax()]!r} than the rare {classes[counts.argmin()]!r}; if it should "
                    "be the other way round, exchange rows and columns",
                )
            )
    return tuple(found)


def _slope(costs: Floats, counts: NDArray[np.int64]) -> float:
    """Return the correlation of costs with the log of the class counts; 0 for equal costs."""
    if np.ptp(costs) <= 1e-9 * costs.max():
        return 0.0
    return float(np.corrcoef(costs, np.log(np.maximum(counts, 1)))[0, 1])


def _matrix(given: Any, classes: tuple[str, ...], kind: Kind, name: str) -> tuple[Floats, str]:
    """Return a matrix of a kind in the order of the classes, and its origin: " in FILE" or ""."""
    count, at = len(classes), ""
    if isinstance(given, str | os.PathLike):
        text = str(given)
        at = f" in {text}" if suffix_of(given) and text.isprintable() else f" in {text!r}"
        given = _from_text(os.fspath(given), kind, name, count)
    if isinstance(given, ClassMatrix) and given.kind != kind:
        raise ValueError(f"{name} must be of kind {kind!r}, got {given.kind!r}; make it with kind={kind!r}")
    try:
        named = isinstance(given, ClassMatrix | pd.DataFrame)
        values, names = labelled(given, kind) if named else (given, None)
        values = _numbers(values, kind)
        if names is None:
            # Names 0, 1, ... are no names, unless the classes have these names
            numbers = [str(place) for place in range(count)]
            names = numbers if named and {*numbers} == {*classes} else classes
            if values.shape != (count, count):
                got = " x ".join(map(str, values.shape)) or "one value"
                raise ValueError(
                    f"{kind} must be {count} x {count}, a row and a column for each class, got {got}; class "
                    "names around it are allowed"
                )
        with np.errstate(over="ignore"):
            return np.array(ClassMatrix(values, names, kind=kind).ordered(classes)), at
    except ValueError as error:
        rule, _, way = " ".join(str(error).split()).partition("; ")
        rule = rule.replace(kind, name, 1) if rule.startswith(kind) else f"{name}: {rule}"
        raise ValueError(f"{rule}{at}; {way}") from error


def _from_text(text: str, kind: Kind, name: str, count: int) -> Any:
    """Return the matrix of groups or of a file, as a data frame if it names the classes."""
    suffix = suffix_of(text)
    require_matrix(text, name)
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
    table = read_table(text, name, count)
    return pd.DataFrame(table.values, table.rows, table.columns) if table.rows else table.values


def _numbers(given: Any, name: str) -> Floats:
    """Return an array of floats from any array-like of real numbers; masked entries become nan."""
    try:
        if isinstance(given, Tensor):
            given = given.detach().cpu().to_dense()
            given = given.double() if given.is_floating_point() else given
        values = np.ma.asarray(given)
        if values.dtype.kind not in "biufO":
            raise TypeError(f"the array holds {values.dtype}")
        with np.errstate(over="ignore"):
            return np.ma.filled(values.astype(np.float64), np.nan)
    except Exception as error:  # numpy, pandas and torch raise many kinds
        raise ValueError(
            f"{name} must hold numbers, got {type(given).__name__}; {_first_line(error)}"
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
