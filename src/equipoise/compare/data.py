"""Data in: a table, embeddings or scikit-learn's digits, then splits, numbers and label noise for a seed."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.util import hash_pandas_object
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_digits
from sklearn.impute import SimpleImputer
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from equipoise.compare.store import digest
from equipoise.compare.tables import (
    LARGEST,
    SUFFIXES,
    Table,
    number_names,
    order,
    read_table,
    warn_of_identifier,
)

__all__ = ["Dataset", "Split", "TEST_SHARE", "VALIDATION_SHARE", "encode", "flip", "load", "split"]

TEST_SHARE, VALIDATION_SHARE = 0.4, 0.1
SMALLEST_CLASS = 5  # any fewer and a class can be missing from the training or the test part
LARGEST_SCALED = 1e30  # leaves room in float32 for sums over features and hidden units
MOST_CATEGORIES = 64  # a column of identifiers must not become a column per row


@dataclass(frozen=True)
class Dataset:
    """Rows with classes.

    Attributes:
        name: What to call it.
        features: A table, whose index says in which "line" or "row" of the file, or an array (N, D).
        labels: Classes (N,) as places in `classes`.
        classes: Names of the classes, sorted as they were in the data.
        notes: What a reader has to know about how it was read.
        warnings: What looks wrong without being certainly wrong.
    """

    name: str
    features: pd.DataFrame | NDArray[np.float64]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def fingerprint(self) -> str:
        """Digest of everything in the data that decides a result."""
        if isinstance(self.features, pd.DataFrame):
            hashing: Any = hash_pandas_object
            hashed = hashing(self.features, index=False)
            content = [[str(name), str(kind)] for name, kind in self.features.dtypes.items()]
            raw = np.asarray(hashed).tobytes()
        else:
            content, raw = [list(self.features.shape)], np.ascontiguousarray(self.features).tobytes()
        return digest([content, digest(raw), digest(self.labels.tobytes()), list(self.classes)])


@dataclass(frozen=True)
class Split:
    """Places of the rows of each part."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]


def load(path: str | None, target: str | None, drop: tuple[str, ...] = ()) -> Dataset:
    """Read and check the data.

    Args:
        path: CSV, TSV, Parquet or NPZ file; None for scikit-learn's digits.
        target: Column with the classes, for a table.
        drop: Columns to leave out, for a table.

    Raises:
        ValueError: If there is anything that training could not work with.
    """
    suffix = "" if path is None else Path(path).suffix.lower()
    if path is not None and not Path(path).is_file():
        raise ValueError(f"data must be a file, got {path!r}, which is not there; check the path")
    if path is not None and suffix in SUFFIXES:
        return _dataset(Path(path).name, read_table(path, target, drop), f", column {target!r}")
    if path is not None and suffix != ".npz":
        raise ValueError(
            f"data must end in .csv, .tsv, .parquet or .npz, got {path!r}; convert it to one of these"
        )
    if target is not None or drop:
        raise ValueError(
            f"target and drop must be left out without a table, got {target or drop[0]!r}; "
            "the classes are the array y of an NPZ file, and the digits have theirs"
        )
    if path is None:
        digits: Any = load_digits()
        return _dataset("scikit-learn's digits", _table(digits.data, digits.target))
    return _dataset(Path(path).name, _load_arrays(path))


def _load_arrays(path: str) -> Table:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = dict(archive.items())
    except Exception as error:  # numpy and zipfile raise many kinds for a file they cannot read
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"data must be a readable NPZ file without pickles, got {path!r}; {reason}"
        ) from error
    for wanted in ("X", "y"):
        if wanted not in arrays:
            found = ", ".join(arrays) or "nothing"
            raise ValueError(
                f"data must hold the arrays X and y, got {found} in {path}; save with np.savez(X=, y=)"
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
    return _table(numbers, labels)


def _table(numbers: NDArray[np.float64], labels: NDArray[Any]) -> Table:
    """Arrays as a table, with a warning of columns that look like identifiers."""
    numeric = np.issubdtype(labels.dtype, np.integer) or np.issubdtype(labels.dtype, np.floating)
    names = number_names(labels) if numeric else [label.strip() for label in labels.astype(str)]
    warnings = []
    whole = (numbers == np.round(numbers)).all(axis=0)
    for place in np.flatnonzero(whole):
        column = numbers[:, place]
        warnings += warn_of_identifier(f"column {place + 1} of X", column, len(np.unique(column)), "of X")
    return Table(numbers, names, order(names, numeric=numeric), warnings=tuple(warnings))


def _dataset(name: str, table: Table, column: str = "") -> Dataset:
    """The data set, once its classes are known to be enough."""
    features, classes = table.features, table.classes
    if len(table.labels) == 0 or features.shape[1] == 0:
        raise ValueError(
            f"data must have rows and columns beside the classes, got {len(table.labels)} rows and "
            f"{features.shape[1]} columns in {name}; check the file"
        )
    places = {label: place for place, label in enumerate(classes)}
    labels = np.array([places[label] for label in table.labels], dtype=np.int64)
    counts = np.bincount(labels)
    smallest = int(counts.argmin())
    if len(classes) < 2:
        raise ValueError(
            f"data must have two classes or more, got only {table.labels[0]!r} in {name}{column}; "
            "check the target"
        )
    if counts[smallest] < SMALLEST_CLASS:
        place = _place(features, int((labels == smallest).argmax()))
        raise ValueError(
            f"every class must have {SMALLEST_CLASS} rows or more, got {counts[smallest]} of class "
            f"{classes[smallest]!r} in {name}{column}, {place} ({len(classes)} classes); "
            "merge or remove small classes"
        )
    if math.floor(len(labels) * (1 - TEST_SHARE) * VALIDATION_SHARE) < 1 or _validation_rows(
        len(labels)
    ) < len(classes):
        raise ValueError(
            f"data must have {math.ceil(len(classes) / VALIDATION_SHARE)} rows or more for {len(classes)} "
            f"classes, got {len(labels)} in {name}{column}; merge classes or add rows"
        )
    return Dataset(name, features, labels, classes, table.notes, table.warnings)


def _place(features: pd.DataFrame | NDArray[Any], row: int) -> str:
    """Where a row is in its file, in words."""
    if isinstance(features, pd.DataFrame):
        return f"{features.index.name} {features.index[row]}"
    return f"row {row + 1}"


def _validation_rows(count: int) -> int:
    return round(count * VALIDATION_SHARE)


def split(dataset: Dataset, seed: int) -> Split:
    """Stratified parts of the rows: half to train, a tenth to validate, four tenths to test."""
    rows = np.arange(len(dataset.labels))
    stratified: Any = train_test_split
    rest, test = stratified(rows, test_size=TEST_SHARE, stratify=dataset.labels, random_state=seed)
    train, validation = stratified(
        rest, test_size=_validation_rows(len(rows)), stratify=dataset.labels[rest], random_state=seed
    )
    return Split(train, validation, test)


def flip(labels: NDArray[np.int64], noise: NDArray[np.float64], parts: Split, seed: int) -> NDArray[np.int64]:
    """Labels with noise in the training and validation parts, and the test part as it was.

    Args:
        labels: True classes.
        noise: Transition matrix [true, observed].
        parts: Which rows are in which part.
        seed: Decides the flips, the same for every objective.

    Shapes:
        labels (N,); noise (C, C) with rows that sum to one; result (N,).
    """
    observed = labels.copy()
    noisy = np.sort(np.concatenate([parts.train, parts.validation]))
    steps = noise.cumsum(axis=1)
    steps /= steps[:, -1:]
    drawn = np.random.default_rng([seed, 1]).random(len(noisy))
    observed[noisy] = (drawn[:, None] >= steps[labels[noisy]]).sum(axis=1)
    return observed


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
            f"{scaled[row, column]:g} in {_place(features, row)}, column {numeric[column]!r}; "
            "rescale the column or leave the cell empty"
        )
    return scaled.astype(np.float32)
