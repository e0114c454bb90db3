"""Rows with classes, and what is known of them beside their features."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.util import hash_pandas_object

from equipoise.compare.store import digest

__all__ = ["Dataset", "UNKNOWN"]

UNKNOWN = -1  # in `clean`: nothing better than the label is known of this row


@dataclass(frozen=True)
class Dataset:
    """Rows with classes.

    Attributes:
        name: What to call it.
        features: A table, whose index says where each row is, or an array (N, D).
        labels: Observed classes (N,) as places in `classes`.
        classes: Names of the classes, sorted as they were in the data.
        notes: What a reader has to know about how it was read.
        warnings: What looks wrong without being certainly wrong.
        clean: Classes that are known to be better (N,), `UNKNOWN` where there is none; None without any.
        groups: Group of each row (N,); rows of a group are never in different parts. None without groups.
        time: When each row is from (N,); the latest rows are the test part. None without times.
        test: True for the rows of a file of test rows (N,), which come last. None without such a file.
    """

    name: str
    features: pd.DataFrame | NDArray[np.float64]
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
        """Where a row is in its file, in words."""
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
            content, raw = [list(self.features.shape)], np.ascontiguousarray(self.features).tobytes()
        rows = (self.labels, self.clean, self.groups, self.time, self.test)
        known = [None if each is None else digest(each.tobytes()) for each in rows]
        return digest([content, digest(raw), known, list(self.classes)])
