"""`Dataset`: rows with classes, and their groups, times, weights and clean labels."""

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

UNKNOWN = -1  # in `clean`: the row has no better label


@dataclass(frozen=True)
class Dataset:
    """Rows with classes.

    Attributes:
        name: Name of the data.
        features: A data frame of float64 and of words, indexed by the description of each row's place; or an
            array (N, ...) of float32, float64 or int64 with two dimensions or more.
        labels: Observed classes (N,) as indices into `classes`.
        classes: Names of the classes, sorted as numbers if all are numbers, else as text.
        notes: Notes about conversions that `read` made.
        warnings: Probable mistakes in the data.
        clean: More reliable classes (N,), `UNKNOWN` for rows without; None without any.
        groups: Group of each row (N,); rows of a group are never in different parts. None without groups.
        time: Time of each row (N,); the latest rows are the test part. None without times.
        test: True for the rows of a given test part (N,), which come last. None without one.
        weight: Weights of the rows (N,), above 0, and 1 for rows of a given test part. None without weights.
        source: Arguments of `read`; None for data from Python.
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
        """The classes by which predictions are evaluated (N,): clean if known, else observed."""
        return self.labels if self.clean is None else np.where(self.clean == UNKNOWN, self.labels, self.clean)

    def place(self, row: int) -> str:
        """Return the place of a row in the input, in words; for an array, among the rows that were kept."""
        if isinstance(self.features, pd.DataFrame):
            return str(self.features.index[row])
        before = 0 if self.test is None else int((~self.test).sum())
        return f"row {row + 1}" if row < before or not before else f"row {row - before + 1} of the test rows"

    def fingerprint(self) -> str:
        """Digest of all parts of the data that influence a result."""
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
    """Return the finite number that a label is, or None."""
    try:
        number = Decimal(label) if NUMBER.fullmatch(label) else None
    except InvalidOperation:  # exponents have a limit, of 18 digits
        return None
    return number if number is not None and number.is_finite() else None
