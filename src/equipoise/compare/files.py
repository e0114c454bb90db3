"""`read`: data from tables, NPZ files and scikit-learn's digits."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equipoise.compare.paths import kind
from equipoise.compare.refusal import refusal

if TYPE_CHECKING:
    from equipoise.compare.dataset import Dataset

__all__ = ["read"]


def read(
    path: str | Path | None,
    target: str | None = None,
    drop: Sequence[str] = (),
    *,
    test: str | Path | None = None,
    clean: str | None = None,
    group: str | None = None,
    time: str | None = None,
) -> "Dataset":
    """Return the data of files; ambiguous contents raise.

    The file of test rows must have the same format and columns; its rows come last. `clean`, `group` and
    `time` name columns, or arrays of an NPZ file, that are not features. With `test`, only the test rows need
    `clean`, which may be the target: then the test labels are the more reliable ones.

    Raises:
        ValueError: If a value cannot be used in training; the message names file, column and place.
        ImportError: If a file needs a library that is not installed.
    """
    drop = [drop] if isinstance(drop, str) else list(drop)
    path, test = (None if each is None else os.fspath(each) for each in (path, test))
    named = {"clean": clean, "group": group, "time": time}
    source = {"data": path, "target": target, "drop": drop or None, "test": test} | named
    roles = {role: name for role, name in named.items() if name is not None}
    if path is None:
        for option, name in {"target": target, "drop": drop or None, "test": test, **roles}.items():
            if name is not None:
                rule = "be left out with scikit-learn's digits"
                raise refusal(option, rule, repr(name), "name a data file")
        return _digits(source)
    holds = kind(path, "data")
    if test is not None and kind(test, "test") != holds:
        raise refusal(
            "test",
            "be a file of the kind of the data",
            f"{test!r} for {path!r}",
            "convert one of the two files",
        )
    if test is not None and os.path.samefile(test, path):
        way = "leave it out for cross-validation"
        raise refusal("test", "be another file than the data", repr(test), way)
    if holds == "npz" and (target is not None or drop):
        got, way = repr(target or drop[0]), "the classes are the array y of an NPZ file"
        raise refusal("target and drop", "be left out without a table", got, way)
    from equipoise.compare.tables import read_arrays, read_tables  # needs torch and pandas

    found = read_arrays(path, test, roles) if holds == "npz" else read_tables(path, target, drop, test, roles)
    return replace(found, source=source)


def _digits(source: dict[str, Any]) -> "Dataset":
    import numpy as np
    from sklearn.datasets import load_digits

    from equipoise.compare.dataset import Dataset

    digits: Any = load_digits()
    classes = tuple(map(str, digits.target_names))
    return Dataset(
        "scikit-learn's digits", digits.data, digits.target.astype(np.int64), classes, source=source
    )
