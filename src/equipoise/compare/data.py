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
from sklearn.preprocessing import LabelEncoder, OneHotEncoder, StandardScaler

from equipoise.compare.store import digest
from equipoise.spelling import nearest

__all__ = ["Dataset", "Split", "TEST_SHARE", "VALIDATION_SHARE", "encode", "flip", "load", "split"]

TEST_SHARE, VALIDATION_SHARE = 0.4, 0.1
SMALLEST_CLASS = 5  # any fewer and a class can be missing from the training or the test part
MOST_CATEGORIES = 64  # a column of identifiers must not become a column per row
_TABLES = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".parquet": None, ".pq": None}


@dataclass(frozen=True)
class Dataset:
    """Rows with classes.

    Attributes:
        name: What to call it.
        features: A table, or an array (N, D).
        labels: Classes (N,) as places in `classes`.
        classes: Names of the classes, sorted as they were in the data.
        notes: What a reader has to know about how it was read.
    """

    name: str
    features: pd.DataFrame | NDArray[np.float64]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()

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
    if suffix in _TABLES:
        return _load_table(str(path), suffix, target, drop)
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
        return _dataset("scikit-learn's digits", digits.data, digits.target)
    return _load_arrays(path)


def _load_table(path: str, suffix: str, target: str | None, drop: tuple[str, ...]) -> Dataset:
    table: Any
    try:
        if _TABLES[suffix] is None:
            table = pd.read_parquet(path)
        else:
            table = pd.read_csv(path, sep=_TABLES[suffix], low_memory=False)
    except ImportError as error:
        raise ImportError(
            "equipoise compare needs pyarrow for Parquet; pip install 'equipoise[compare]'"
        ) from error
    except Exception as error:  # pandas and pyarrow raise many kinds for a file they cannot read
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"data must be a readable table, got {path!r}; {reason}") from error
    table.columns = [str(name) for name in table.columns]
    if target is None:
        raise ValueError(
            f"target must name the column with the classes, got none; add --target with one of "
            f"{', '.join(table.columns[-8:])}"
        )
    for option, name in (("target", target), *(("drop", name) for name in drop)):
        if name not in table.columns:
            raise ValueError(
                f"{option} must be a column of {path}, got {name!r}; {nearest(name, table.columns)}"
            )
    if len(set(table.columns)) < len(table.columns):
        raise ValueError(
            f"data must have columns of different names, got {path!r} with a repeated one; rename it"
        )
    known = table[table[target].notna()]
    missing = len(table) - len(known)
    notes = (f"{missing} rows without a value in {target} were left out",) if missing else ()
    columns = [name for name in known.columns if name != target and name not in drop]
    features = pd.DataFrame({name: _column(path, name, known[name]) for name in columns}).reset_index(
        drop=True
    )
    return _dataset(Path(path).name, features, known[target].to_numpy(dtype=object), notes)


def _column(path: str, name: str, column: Any) -> NDArray[Any]:
    """A column as floats, or as strings with nan where missing."""
    if pd.api.types.is_datetime64_any_dtype(column) or pd.api.types.is_timedelta64_dtype(column):
        raise ValueError(
            f"columns must be numbers or categories, got times in {name!r} of {path}; "
            f"turn it into numbers or add --drop {name}"
        )
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        numbers = column.to_numpy(dtype=np.float64, na_value=np.nan)
        if np.isinf(numbers).any():
            raise ValueError(
                f"features must be finite or missing, got infinity in {name!r} of {path}; "
                "leave the cell empty if it is unknown"
            )
        return numbers
    words = np.full(len(column), np.nan, dtype=object)
    present = column.notna().to_numpy()
    words[present] = [str(value) for value in column[present]]
    return words


def _load_arrays(path: str) -> Dataset:
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
    numbers = features.reshape(len(features), -1).astype(np.float64)
    if not np.isfinite(numbers).all():
        bad = int((~np.isfinite(numbers)).any(axis=1).sum())
        raise ValueError(
            f"X must be finite, got nan or infinity in {bad} rows of {path}; remove or fill them in"
        )
    return _dataset(Path(path).name, numbers, labels)


def _dataset(
    name: str, features: pd.DataFrame | NDArray[Any], targets: NDArray[Any], notes: tuple[str, ...] = ()
) -> Dataset:
    """The data set, once its classes are known to be enough."""
    if len(targets) == 0 or features.shape[1] == 0:
        raise ValueError(
            f"data must have rows and columns beside the classes, got {len(targets)} rows and "
            f"{features.shape[1]} columns in {name}; check the file"
        )
    encoder = LabelEncoder()
    labels = np.asarray(encoder.fit_transform(_comparable(targets)), dtype=np.int64)
    found: Any = encoder.classes_
    classes: tuple[str, ...] = tuple(str(label) for label in found)
    counts = np.bincount(labels)
    smallest = int(counts.argmin())
    if len(classes) < 2:
        raise ValueError(
            f"data must have two classes or more, got only {str(found[0])!r} in {name}; check the target"
        )
    if counts[smallest] < SMALLEST_CLASS:
        raise ValueError(
            f"every class must have {SMALLEST_CLASS} rows or more, got {counts[smallest]} of class "
            f"{classes[smallest]!r} ({len(classes)} classes in {name}); merge or remove small classes"
        )
    if math.floor(len(labels) * (1 - TEST_SHARE) * VALIDATION_SHARE) < 1 or _validation_rows(
        len(labels)
    ) < len(classes):
        raise ValueError(
            f"data must have {math.ceil(len(classes) / VALIDATION_SHARE)} rows or more for {len(classes)} "
            f"classes, got {len(labels)} in {name}; merge classes or add rows"
        )
    return Dataset(name, features, labels, classes, notes)


def _comparable(targets: NDArray[Any]) -> NDArray[Any]:
    """Targets as integers if all of them are whole numbers, else as floats if numbers, else as strings."""
    if targets.dtype == object:
        kinds = {type(value) for value in targets}
        if any(
            not issubclass(kind, int | float | np.integer | np.floating) or kind is bool for kind in kinds
        ):
            return np.array([str(value) for value in targets])
        targets = targets.astype(np.float64)
    if np.issubdtype(targets.dtype, np.floating):
        if not np.isfinite(targets).all():
            raise ValueError("target must be finite, got nan or infinity; remove those rows")
        if (targets == np.round(targets)).all():
            return targets.astype(np.int64)
    return targets if np.issubdtype(targets.dtype, np.number) else targets.astype(str)


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
    """All rows as numbers (N, D): missing filled in, categories one-hot, scaled, as the training rows say."""
    if not isinstance(dataset.features, pd.DataFrame):
        scaler = StandardScaler().fit(dataset.features[train])
        return np.asarray(scaler.transform(dataset.features), dtype=np.float32)
    numeric = [name for name, kind in dataset.features.dtypes.items() if kind == np.float64]
    categorical = [name for name in dataset.features.columns if name not in numeric]
    filled = SimpleImputer(strategy="median", keep_empty_features=True, add_indicator=True)
    one_hot = OneHotEncoder(
        handle_unknown="infrequent_if_exist", max_categories=MOST_CATEGORIES, sparse_output=False
    )
    transformer = ColumnTransformer(
        [("numbers", make_pipeline(filled, StandardScaler()), numeric), ("categories", one_hot, categorical)],
        sparse_threshold=0,
    )
    transformer.fit(dataset.features.iloc[train])
    return np.asarray(transformer.transform(dataset.features), dtype=np.float32)
