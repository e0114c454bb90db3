"""Rows with classes, and what is known of them beside their features."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.util import hash_pandas_object

from equipoise.compare.store import digest
from equipoise.costs.io import NUMBER

__all__ = ["Dataset", "UNKNOWN", "decimal"]

UNKNOWN = -1  # in `clean`: nothing better than the label is known of this row


@dataclass(frozen=True)
class Dataset:
    """Rows with classes.

    Attributes:
        name: What to call it.
        features: A table of float64 and of words, whose index says where each row is; or an array (N, ...) of
            float32, float64 or int64 with two dimensions or more.
        labels: Observed classes (N,) as places in `classes`.
        classes: Names of the classes, sorted as numbers if all are numbers, else as text.
        notes: What a reader has to know about how it was read.
        warnings: What looks wrong without being certainly wrong.
        clean: Classes that are known to be better (N,), `UNKNOWN` where there is none; None without any.
        groups: Group of each row (N,); rows of a group are never in different parts. None without groups.
        time: When each row is from (N,); the latest rows are the test part. None without times.
        test: True for the rows of a given test part (N,), which come last. None without one.
        weight: Weights of the rows (N,), above 0, and 1 for rows of a given test part. None without weights.
        source: What `read` was called with; None for data from Python.
    """

    name: str
    features: pd.DataFrame | NDArray[Any]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    clean: NDArray[np.int64] | None = None
    groups: NDArray[np.int64] | None = None
    time: NDArray[np.float64] | None = None
    test: NDArray[np.bool_] | None = None
    weight: NDArray[np.float64] | None = None
    source: Mapping[str, Any] | None = None

    @property
    def one_test(self) -> bool:
        """Whether there is one test part, the same in every repeat."""
        return self.time is not None or self.test is not None

    @property
    def target(self) -> NDArray[np.int64]:
        """The classes to judge predictions by (N,): clean where known, else observed."""
        return self.labels if self.clean is None else np.where(self.clean == UNKNOWN, self.labels, self.clean)

    def place(self, row: int) -> str:
        """Where a row is in what was given, in words; for an array, among the rows that were kept."""
        if isinstance(self.features, pd.DataFrame):
            return str(self.features.index[row])
        before = 0 if self.test is None else int((~self.test).sum())
        return f"row {row + 1}" if row < before or not before else f"row {row - before + 1} of the test rows"

    def fingerprint(self) -> str:
        """Digest of everything in the data that decides a result."""
        if isinstance(self.features, pd.DataFrame):
            hashing: Any = hash_pandas_object
            hashed = hashing(self.features, index=False)
            content = [[str(name), str(kind)] for name, kind in self.features.dtypes.items()]
            raw = np.asarray(hashed).tobytes()
        else:
            content = [list(self.features.shape), str(self.features.dtype)]
            raw = np.ascontiguousarray(self.features).tobytes()
        rows = (self.labels, self.clean, self.groups, self.time, self.test, self.weight)
        known = [None if each is None else digest(each.tobytes()) for each in rows]
        return digest([content, digest(raw), known, list(self.classes)])


def decimal(label: str) -> Decimal | None:
    """The number that a label spells, if it spells a finite one."""
    try:
        number = Decimal(label) if NUMBER.fullmatch(label) else None
    except InvalidOperation:  # exponents have a limit, of 18 digits
        return None
    return number if number is not None and number.is_finite() else None
