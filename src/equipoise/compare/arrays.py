"""Conversion of arrays, tensors, data frames and torch data sets to a `Dataset`."""

import reprlib
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, default_collate
from torch.utils.data import Dataset as TorchDataset

from equipoise.compare.dataset import Dataset
from equipoise.compare.refusal import refusal
from equipoise.compare.rows import ARRAYS, Rows, build, feature, require_finite, weights, words

__all__ = ["as_array", "as_column", "features_of", "from_arrays", "reason"]

TORCH = (TorchDataset, DataLoader)


def from_arrays(
    X: Any,  # noqa: N803
    y: Any = None,
    *,
    test: Any = None,
    clean: Any = None,
    groups: Any = None,
    time: Any = None,
    sample_weight: Any = None,
    name: str | None = None,
) -> Dataset:
    """Return the data set of arrays, tensors, data frames or torch data sets; see `compare`.

    Raises:
        ValueError: If a value cannot be used in training; the message names the argument and the row.

    Example:
        >>> found = from_arrays(np.arange(40.0).reshape(20, 2) % 7, ["no", "yes"] * 10)
        >>> found.classes, found.features.shape, found.labels[:4]
        (('no', 'yes'), (20, 2), array([0, 1, 0, 1]))
    """
    rows, more = _rows(X, y, "X"), None
    places, size = rows.known.index, len(rows.known)
    if test is not None:
        pair = (test, None) if isinstance(test, TORCH) else test
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            way = "give the test rows and their labels"
            raise refusal("test", "be a pair (X, y) or a data set of torch", _kind(test), way)
        more = _rows(pair[0], pair[1], "X of test")
        places = places.append(more.known.index)
    if clean is not None:
        judged = rows if more is None else more
        judged["clean"] = as_column(clean, "clean", judged.known.index)
    for role, option, given in (("group", "groups", groups), ("time", "time", time)):
        if given is not None:
            column = as_column(given, option, places)
            rows[role] = column[:size]
            if more is not None:
                more[role] = column[size:]
    if sample_weight is not None:
        rows["weight"] = weights(as_column(sample_weight, "sample_weight", rows.known.index))
        if more is not None:
            more["weight"] = pd.Series(1.0, more.known.index)
    return build(name or "data from Python", rows, more, ARRAYS, [])


def features_of(X: Any, like: Dataset) -> pd.DataFrame | NDArray[Any]:  # noqa: N803
    """Return new X in the format of the features of a data set.

    Raises:
        ValueError: If columns or shape differ, or a number cannot be used.
    """
    found, wanted = _features(_pairs(X)[0] if isinstance(X, TORCH) else X), like.features
    places = _places(found)
    if not len(places):
        raise refusal("X", "have a row or more", "none", "give the rows to predict")
    if not isinstance(wanted, pd.DataFrame):
        array = as_array(found.to_numpy()) if isinstance(found, pd.DataFrame) else found
        if array.shape[1:] != wanted.shape[1:] or (array.dtype.kind, wanted.dtype.kind) == ("f", "i"):
            rule = f"be like that of the data, (N, {str(wanted.shape[1:])[1:]} of {wanted.dtype}"
            raise refusal("X", rule, f"{array.shape} of {array.dtype}", "convert X to that dtype and shape")
        require_finite(array, places)
        return array.astype(wanted.dtype)
    if not isinstance(found, pd.DataFrame) or {*found} != {*wanted}:
        given = ", ".join(map(repr, found)) if isinstance(found, pd.DataFrame) else _kind(X)
        rule = f"be a DataFrame with the columns {', '.join(map(repr, wanted))}"
        raise refusal("X", rule, given, "give all these columns")
    columns = {}
    for name, column in wanted.items():
        given = found[name].set_axis(places)
        columns[name] = feature(given, ARRAYS)[0] if column.dtype == np.float64 else words(given)
        if column.dtype == np.float64 != columns[name].dtype:
            rule = f"have numbers in column {name!r}"
            raise refusal("X", rule, repr(columns[name][0]), "convert the column to numbers")
    return pd.DataFrame(columns, places)


def as_array(given: Any, where: str = "") -> NDArray[Any]:
    """Return an array (N, ...) of float32, float64 or int64."""
    if sparse.issparse(given) or (isinstance(given, Tensor) and given.layout != torch.strided):
        way = "to_dense" if isinstance(given, Tensor) else "toarray"
        raise refusal("X", "be dense", _kind(given), f"give X.{way}()")
    array = _numpy(given, "X", "(N, D) or of more dimensions")
    if array.ndim < 2:
        shape = _kind(given) if array.ndim == 0 else array.shape
        rule = "be (N, D) or have more dimensions"
        raise refusal("X", rule, f"{shape}{where}", "give one row per sample")
    if array.dtype.kind not in "biuf":
        raise refusal("X", "hold real numbers", f"{array.dtype}{where}", "give categories in a DataFrame")
    if array.dtype.kind == "u" and array.size and array.max() >= 2**63:
        raise refusal("X", "be below 2^63", f"{array.max()}{where}", "give floats")
    if array.dtype.kind == "f":
        return array.astype(np.float32 if array.dtype.itemsize <= 4 else np.float64)
    return array.astype(np.float32 if array.dtype.itemsize == 1 and array.dtype.kind in "bu" else np.int64)


def as_column(given: Any, option: str, places: pd.Index, where: str = "") -> pd.Series:
    """Return a column (N,) of any type, indexed by the description of each row's place."""
    plain = isinstance(given, list | tuple) and not any(isinstance(each, Tensor) for each in given)
    if plain or isinstance(given, pd.Series | pd.Index | pd.api.extensions.ExtensionArray):
        column = pd.Series(given, dtype=object if plain else None)
    else:
        array = _numpy(given, option, "(N,)")
        if array.ndim != 1 or array.dtype.kind == "V":
            got = array.dtype if array.dtype.kind == "V" else array.shape if array.ndim else _kind(given)
            one = array.shape[1:] == (1,)
            way = f"take its one column with {option}.squeeze(1)" if one else "give one value per row"
            raise refusal(option, "be an array (N,)", f"{got}{where}", way)
        if array.dtype.kind == "S":
            array = np.array([each.decode("utf-8", "backslashreplace") for each in array.tolist()], dtype="U")
        if array.dtype.kind == "M":  # as text with the digits that are needed
            array = np.where(np.isnat(array), "", array.astype(str))
        column = pd.Series(array, dtype=object if array.dtype.kind in "OU" else None)
    if len(column) != len(places):
        rule, got = f"be an array ({len(places)},)", f"({len(column)},){where}"
        raise refusal(option, rule, got, "give one value per row")
    return column.set_axis(places).rename(option)


def _rows(given: Any, y: Any, source: str) -> Rows:
    """Return features and labels as given, without roles."""
    if isinstance(given, TORCH):
        if y is not None:
            raise refusal(
                "y", "be left out with a data set of torch", _kind(y), "the data set has the labels"
            )
        given, y = _pairs(given)
    elif y is None:
        raise refusal("y", "be given with X", None, "only a data set of torch has labels of its own")
    part, where = ("", "") if source == "X" else (" of the test rows", " in test")
    features = _features(given, where)
    places = pd.Index([f"{place}{part}" for place in _places(features)], dtype=object)
    if isinstance(features, pd.DataFrame):
        features = features.set_axis(places)
    rows = Rows(source, features, pd.DataFrame(index=places))
    rows["label"] = as_column(y, "y", places, where)
    return rows


def _pairs(data: Any) -> tuple[Any, list[Any]]:
    """Return inputs and labels of a data set, read once and in order."""
    if isinstance(data, DataLoader):  # which may shuffle, drop or change rows
        raise refusal("X", "be a data set of torch", "a DataLoader", "pass its .dataset")
    if isinstance(data, IterableDataset) or not hasattr(data, "__len__"):
        raise refusal("X", "be a data set with a length", _kind(data), "collect its items in a TensorDataset")
    items = [data[place] for place in range(len(data))]
    for place, item in enumerate(items):
        if not isinstance(item, tuple | list) or len(item) != 2:
            got, way = f"{_kind(item)} in row {place + 1}", "wrap X in a data set that returns pairs"
            raise refusal("X", "be a data set of (inputs, label) pairs", got, way)
    try:
        inputs = default_collate([inputs for inputs, _ in items]) if items else np.zeros((0, 0))
    except (TypeError, RuntimeError, ValueError, KeyError) as error:
        way = f"convert the inputs: {reason(error)}"
        raise refusal(
            "X", "be a data set whose inputs are tensors of one shape", "other inputs", way
        ) from error
    return inputs, [label for _, label in items]


def _features(given: Any, where: str = "") -> pd.DataFrame | NDArray[Any]:
    """Return a data frame with different column names as text, or an array."""
    if not isinstance(given, pd.DataFrame):
        return as_array(given, where)
    table = given.set_axis(given.columns.map(str), axis=1)
    if not table.columns.is_unique:
        twice = table.columns[table.columns.duplicated()][0]
        raise refusal("X", "have columns of different names", f"{twice!r} twice", "rename one")
    return table


def _numpy(given: Any, option: str, shape: str) -> NDArray[Any]:
    """Return an array in memory, with nan for masked values."""
    try:
        if isinstance(given, Tensor):
            given = given.detach().cpu().resolve_conj().resolve_neg()
            return (given.float() if given.dtype == torch.bfloat16 else given).numpy()
        if isinstance(given, list | tuple) and any(isinstance(each, Tensor) for each in given):
            return np.stack([_numpy(each, option, shape) for each in given])
        if isinstance(given, np.ma.MaskedArray):
            return np.ma.filled(given.astype(np.float64), np.nan)
        array = np.asarray(given)
        return array.astype(array.dtype.newbyteorder("="), copy=False)
    except Exception as error:  # rows of unequal length, or any error of an object that is no array
        raise refusal(option, f"be an array {shape}", _kind(given), reason(error)) from error


def _places(features: pd.DataFrame | NDArray[Any]) -> pd.Index:
    """Return the place of each row, in words: its index label in a data frame, else its number."""
    if isinstance(features, pd.DataFrame):
        return pd.Index([f"index {label!r}" for label in features.index.tolist()], dtype=object)
    return pd.Index([f"row {row + 1}" for row in range(len(features))], dtype=object)


def _kind(given: Any) -> str:
    """Return a short description of a value, for an error."""
    return type(given).__name__ if not isinstance(given, str) else reprlib.repr(given)


def reason(error: Exception) -> str:
    """Return the message of an exception in one short line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
