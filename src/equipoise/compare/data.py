"""Data in: a table, arrays or scikit-learn's digits, checked, and as numbers for a model."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from equipoise.compare.arrays import digits, read_arrays
from equipoise.compare.columns import SUFFIXES
from equipoise.compare.dataset import UNKNOWN, Dataset
from equipoise.compare.roles import Roles
from equipoise.compare.tables import read_table

__all__ = ["Dataset", "UNKNOWN", "encode", "load"]

FEWEST_ROWS = 20  # of ten folds, parts of two rows
SMALLEST_CLASS = 5  # any fewer and what is said of a class, or learnt of it, is chance
LARGEST_SCALED = 1e30  # leaves room in float32 for sums over features and hidden units
MOST_CATEGORIES = 64  # a column of identifiers must not become a column per row


def load(
    path: str | None,
    target: str | None,
    drop: tuple[str, ...] = (),
    *,
    test: str | None = None,
    clean: str | None = None,
    group: str | None = None,
    time: str | None = None,
) -> Dataset:
    """Read and check the data.

    Columns named by `clean`, `group` and `time` are no features. For an NPZ file they are names of arrays.

    Args:
        path: CSV, TSV, Parquet or NPZ file; None for scikit-learn's digits.
        target: Column with the classes, for a table.
        drop: Columns to leave out, for a table.
        test: File with the test rows, of the same kind and with the same columns; its rows come last. Columns
            that only it has are left out. With `clean`, only it needs that column; and if `clean` is the
            target (y of an NPZ file), the labels of this file are those known to be better.
        clean: Column with labels known to be better, for test rows only. They have the same classes. Rows
            without one are never test rows.
        group: Column whose values keep rows together: a group is never in two parts.
        time: Column of numbers or ISO dates: the latest rows are the test part.

    Raises:
        ValueError: If there is anything that training could not work with.
    """
    roles = Roles(clean, group, time)
    for option, name in (("test", test), *roles.given):
        if path is None and name is not None:
            raise ValueError(
                f"{option} must be left out with scikit-learn's digits, got {name!r}; name a data file"
            )
    if time is not None and (test is not None or group is not None):
        other = "test" if test is not None else "group"
        why = "that file is the test part" if test is not None else "a group may be both early and late"
        raise ValueError(f"time must be left out with {other}, got {time!r}; {why}")
    if path is None:
        _require_no_columns(target, drop)
        return _checked(digits())
    suffix = _suffix("data", path)
    if test is not None and (
        (_suffix("test", test) == ".npz") != (suffix == ".npz") or _parquet(test) != _parquet(path)
    ):
        raise ValueError(
            f"test must be a file of the kind of the data, got {test!r} for {path!r}; convert one"
        )
    if test is not None and Path(test).samefile(path):
        raise ValueError(
            f"test must be another file than the data, got {test!r}; leave it out for cross-validation"
        )
    if suffix == ".npz":
        _require_no_columns(target, drop)
        return _checked(read_arrays(path, test, roles))
    return _checked(read_table(path, target, drop, test, roles), f", column {target!r}")


def _suffix(option: str, path: str) -> str:
    """The suffix of a file that is there and can be read."""
    suffix = Path(path).suffix.lower()
    if not Path(path).is_file():
        raise ValueError(f"{option} must be a file, got {path!r}, which is not there; check the path")
    if suffix != ".npz" and suffix not in SUFFIXES:
        raise ValueError(
            f"{option} must end in .csv, .tsv, .parquet or .npz, got {path!r}; convert it to one of these"
        )
    return suffix


def _parquet(path: str) -> bool:
    return SUFFIXES.get(Path(path).suffix.lower(), "") is None


def _require_no_columns(target: str | None, drop: tuple[str, ...]) -> None:
    if target is not None or drop:
        raise ValueError(
            f"target and drop must be left out without a table, got {target or drop[0]!r}; "
            "the classes are the array y of an NPZ file, and the digits have theirs"
        )


def _checked(dataset: Dataset, column: str = "") -> Dataset:
    """The data set by its file's name, once its rows and classes are known to be enough."""
    dataset = replace(dataset, name=Path(dataset.name).name)
    rows = np.arange(len(dataset.labels)) if dataset.test is None else np.flatnonzero(~dataset.test)
    where = f"{dataset.name}{column}"
    if len(rows) == 0 or dataset.features.shape[1] == 0:
        raise ValueError(
            f"data must have rows and columns beside the classes, got {len(rows)} rows and "
            f"{dataset.features.shape[1]} columns in {dataset.name}; check the file"
        )
    if dataset.test is not None and not dataset.test.any():
        raise ValueError(
            f"test must have rows with a class, got none beside those of {dataset.name}; check the file"
        )
    counts = np.bincount(dataset.labels[rows])
    smallest = int(counts.argmin())
    if len(dataset.classes) < 2:
        raise ValueError(
            f"data must have two classes or more, got only {''.join(dataset.classes)!r} in {where}; "
            "check the target"
        )
    if counts[smallest] < SMALLEST_CLASS:
        place = dataset.place(int(rows[(dataset.labels[rows] == smallest).argmax()]))
        raise ValueError(
            f"every class must have {SMALLEST_CLASS} rows or more, got {counts[smallest]} of class "
            f"{dataset.classes[smallest]!r} in {where}, {place} ({len(dataset.classes)} classes); "
            "merge or remove small classes"
        )
    if len(rows) < FEWEST_ROWS:
        raise ValueError(f"data must have {FEWEST_ROWS} rows or more, got {len(rows)} in {where}; add rows")
    return dataset


def encode(dataset: Dataset, train: NDArray[np.int64]) -> NDArray[np.float32]:
    """All rows as numbers (N, D): missing filled in, categories one-hot, scaled, as the training rows say.

    Raises:
        FloatingPointError: If a row is so far from the training rows that float32 could not hold its logits.
    """
    features = dataset.features
    if isinstance(features, pd.DataFrame):
        numeric = [name for name, kind in features.dtypes.items() if kind == np.float64]
        categorical = [name for name in features.columns if name not in numeric]
        filled = SimpleImputer(strategy="median", keep_empty_features=True, add_indicator=True)
        one_hot = OneHotEncoder(
            handle_unknown="infrequent_if_exist", max_categories=MOST_CATEGORIES, sparse_output=False
        )
        steps = [
            ("numbers", make_pipeline(filled, StandardScaler()), numeric),
            ("categories", one_hot, categorical),
        ]
        transformer = ColumnTransformer(steps, sparse_threshold=0)
        scaled = transformer.fit(features.iloc[train]).transform(features)
    else:
        numeric = [*range(1, features.shape[1] + 1)]
        scaled = StandardScaler().fit(features[train]).transform(features)
    scaled = np.asarray(scaled)
    row, column = divmod(int(np.abs(scaled).argmax()), scaled.shape[1])
    if abs(scaled[row, column]) > LARGEST_SCALED:
        raise FloatingPointError(
            f"features must be below {LARGEST_SCALED:g} standard deviations of the training rows, got "
            f"{scaled[row, column]:g} in {dataset.place(row)}, column {numeric[column]!r}; "
            "rescale the column or leave the cell empty"
        )
    return scaled.astype(np.float32)
