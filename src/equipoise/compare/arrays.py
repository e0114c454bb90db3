"""Arrays as data sets: NPZ files, and scikit-learn's digits."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from equipoise.compare.checks import warn_of_columns
from equipoise.compare.columns import Column
from equipoise.compare.dataset import Dataset
from equipoise.compare.roles import Roles, class_places, number_names, order, read_roles
from equipoise.compare.tables import LARGEST

__all__ = ["digits", "read_arrays"]


def digits() -> Dataset:
    """scikit-learn's digits."""
    found: Any = load_digits()
    classes = tuple(map(str, found.target_names))
    return Dataset("scikit-learn's digits", found.data, found.target.astype(np.int64), classes)


def read_arrays(path: str, test: str | None = None, roles: Roles | None = None) -> Dataset:
    """Read an NPZ file with the arrays X (N, D) and y (N,).

    Args:
        path: The file.
        test: Another such file, whose rows are the test part.
        roles: Names of arrays (N,) that are no features.

    Raises:
        ValueError: If a file cannot be read or an array cannot be used.
    """
    roles = roles or Roles()
    features, labels, columns = _load(path, roles if test is None else Roles(None, roles.group, roles.time))
    of_test, main = None, len(labels)
    if test is not None:
        more, its_labels, its_columns = _load(test, roles, "test")
        if more.shape[1] != features.shape[1] or _is_numeric(its_labels) != _is_numeric(labels):
            raise ValueError(
                f"test must have X and y like those of {path}, got {more.shape[1]} columns and "
                f"{its_labels.dtype} in {test} for {features.shape[1]} and {labels.dtype}; "
                "write both files alike"
            )
        features, labels = np.concatenate([features, more]), np.concatenate([labels, its_labels])
        of_test = np.arange(len(labels)) >= main
        columns = {
            name: (
                columns.get(name)
                or replace(column, path=path, places=_rows(path, main), values=[None] * main)
            ).join(column)
            for name, column in its_columns.items()
        }
    names = number_names(labels) if _is_numeric(labels) else [word.strip() for word in labels.astype(str)]
    classes = order(names[:main], numeric=_is_numeric(labels))
    rows = np.concatenate([_rows(path, main), _rows(test or path, len(labels) - main)])
    places = class_places([*names], classes, "test", "y", rows)
    fields, notes = read_roles(roles, columns.__getitem__, places, classes, "y", of_test)
    warnings = warn_of_columns(features[:main], places[:main], classes)
    return Dataset(path, features, places, classes, tuple(notes), tuple(warnings), test=of_test, **fields)


def _is_numeric(labels: NDArray[Any]) -> bool:
    return np.issubdtype(labels.dtype, np.integer) or np.issubdtype(labels.dtype, np.floating)


def _load(
    path: str, roles: Roles, option: str = "data"
) -> tuple[NDArray[np.float64], NDArray[Any], dict[str, Column]]:
    """Features (N, D), labels (N,), and the arrays that have a role by name."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = dict(archive.items())
    except Exception as error:  # numpy and zipfile raise many kinds for a file they cannot read
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{option} must be a readable NPZ file without pickles, got {path!r}; {reason}"
        ) from error
    found = ", ".join(arrays) or "nothing"
    for wanted in ("X", "y"):
        if wanted not in arrays:
            raise ValueError(
                f"{option} must hold the arrays X and y, got {found} in {path}; save with np.savez(X=, y=)"
            )
    features, labels = arrays["X"], arrays["y"]
    if labels.ndim != 1 or features.ndim < 2 or len(features) != len(labels):
        raise ValueError(
            f"X must be (N, D) and y (N,), got {features.shape} and {labels.shape} in {path}; "
            "give one row per sample"
        )
    if not (np.issubdtype(features.dtype, np.number) or features.dtype == np.bool_) or np.iscomplexobj(
        features
    ):
        raise ValueError(f"X must hold real numbers, got {features.dtype} in {path}; embed categories first")
    numbers = features.reshape(len(features), math.prod(features.shape[1:])).astype(np.float64)
    bad = ~(np.abs(numbers) <= LARGEST)  # nan among them
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise ValueError(
            f"X must be finite in float32, got {numbers[row, column]:g} in row {row + 1} of {path}, column "
            f"{column + 1}, and {bad.any(axis=1).sum()} such rows; remove, fill in or rescale them"
        )
    columns = {}
    for role, name in roles.given:
        if name not in arrays or name == "X" or (name == "y" and not (role == "clean" and option == "test")):
            raise ValueError(
                f"{role} must name an array of {path} beside X and y, got {name!r} of {found}; "
                f"add it with np.savez"
            )
        if arrays[name].shape != labels.shape:
            raise ValueError(
                f"{role} must be an array {labels.shape}, got {arrays[name].shape} for {name!r} of {path}; "
                "give one value per row"
            )
        columns[name] = _column(path, name, arrays[name])
    return numbers, labels, columns


def _column(path: str, name: str, values: NDArray[Any]) -> Column:
    places = _rows(path, len(values))
    if np.issubdtype(values.dtype, np.floating):
        known = [None if np.isnan(value) else float(value) for value in values]
        return Column(path, name, "floating", places, known)
    kind = "exact" if np.issubdtype(values.dtype, np.integer) else "words"
    return Column(
        path, name, kind, places, [None if word in ("", "NaT") else word for word in values.astype(str)]
    )


def _rows(path: str, count: int) -> NDArray[Any]:
    """Where each row is, in words."""
    return np.array([f"row {row + 1} of {path}" for row in range(count)], dtype=object)
