"""Columns of Parquet files: classes keep their identity, features their kind."""

import datetime
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from equipoise.compare.files import read

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")

ROWS = 40


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def load(path, target="label", drop=(), **more):
    return read(str(path), target, tuple(drop), **more)


def labels_of(dataset):
    return [dataset.classes[label] for label in dataset.labels]


DAY = datetime.date(2024, 1, 2)
ARROW_CLASSES = {
    "integers past 2^53": (pa.int64(), [2**53, 2**53 + 1], None),
    "unsigned integers": (pa.uint64(), [2**64 - 2, 2**64 - 1], None),
    "decimals": (pa.decimal128(5, 2), [Decimal("1.50"), Decimal("10.00")], ["1.50", "10.00"]),
    "dates": (pa.date32(), [DAY, DAY.replace(day=3)], ["2024-01-02", "2024-01-03"]),
    "booleans": (pa.bool_(), [False, True], None),
    "whole floats": (pa.float64(), [1.0, 10.0], ["1", "10"]),
    "half precision": (pa.float16(), [0.5, 1.5], None),
    "words with blanks": (pa.string(), [" NA", "None "], ["NA", "None"]),
    "words in another layout": (pa.string_view(), ["a", "b"], None),
    "categories": (pa.dictionary(pa.int8(), pa.string()), [" x", "y"], ["x", "y"]),
}  # fmt: skip


@pytest.mark.parametrize("case", ARROW_CLASSES)
def test_classes_in_parquet_keep_their_identity(case):
    """Integers, texts and dates stay distinct classes when read from Parquet."""
    kind, values, names = ARROW_CLASSES[case]
    column = pa.array([*(values * (ROWS // 2 - 1)), None, values[0]], kind)
    parquet.write_table(pa.table({"a": [k % 3 for k in range(ROWS)], "label": column}), "t.parquet")
    dataset = load("t.parquet")
    names = names or [str(value) for value in values]
    assert dataset.classes == tuple(names)
    assert labels_of(dataset) == [*(names * (ROWS // 2 - 1)), names[0]]
    assert "1 rows without a value in label were left out" in dataset.notes


MOMENT = datetime.datetime(2024, 1, 2)
ARROW_FEATURES = {
    "lists": (pa.array([[1]] * ROWS), "got list in 'f'"),
    "structures": (pa.array([{"x": 1}] * ROWS), "got dict in 'f'"),
    "bytes": (pa.array([b"x"] * ROWS), "got bytes in 'f'"),
    "dates": (pa.array([DAY] * ROWS), "got times in 'f'"),
    "times": (pa.array([MOMENT.time()] * ROWS), "got times in 'f'"),
    "moments": (pa.array([MOMENT] * ROWS), "got times in 'f'"),
    "spans": (pa.array([MOMENT - MOMENT] * ROWS), "got times in 'f'"),
    "1e200": (pa.array([*[1.0] * 7, 1e200] * (ROWS // 8)), "got 1e+200, which float32 cannot hold, in row 8"),
}  # fmt: skip


@pytest.mark.parametrize("case", ARROW_FEATURES)
def test_columns_of_parquet_that_are_no_features_are_refused_by_name(case):
    """Parquet columns of lists, structs or bytes are refused by name."""
    column, says = ARROW_FEATURES[case]
    labels = ["x", "y"] * (ROWS // 2)
    parquet.write_table(
        pa.table({"f": column, "a": [k % 3 for k in range(ROWS)], "label": labels}), "t.parquet"
    )
    with pytest.raises(ValueError, match="must") as caught:
        load("t.parquet")
    assert says in str(caught.value)
    assert str(caught.value).endswith("or leave the column out")
    assert load("t.parquet", drop=["f"]).features.shape == (ROWS, 1)
    if case in ("lists", "structures", "bytes"):
        with pytest.raises(ValueError, match="target must hold names or numbers"):
            load("t.parquet", "f")


def test_columns_of_parquet_are_features_of_their_kind():
    """Parquet columns of each numeric, text and categorical type are read as features."""
    frame = pd.DataFrame({"c": pd.Categorical([1, 2] * (ROWS // 2)), "label": ["x", "y"] * (ROWS // 2)})
    table = pa.Table.from_pandas(frame.set_index(pd.Index([f"r{k}" for k in range(ROWS)])))
    columns = {
        "big": pa.array([2**53 + k % 2 for k in range(ROWS)]),
        "money": pa.array([Decimal("1.10"), None] * (ROWS // 2)),
        "half": pa.array([1.5, None] * (ROWS // 2), pa.float16()),
        "empty": pa.nulls(ROWS),
        "flag": pa.array([True, None] * (ROWS // 2)),
        "words": pa.array([" NA", ""] * (ROWS // 2)),
    }
    for name, column in columns.items():
        table = table.append_column(name, column)
    parquet.write_table(table, "t.parquet")
    dataset = load("t.parquet")
    expected = {"c": ["1", "2"], "big": [2.0**53, 2.0**53], "money": [1.1, np.nan], "half": [1.5, np.nan],
                "empty": [np.nan, np.nan], "flag": ["True", np.nan], "words": ["NA", np.nan]}  # fmt: skip
    for name, values in expected.items():
        assert list(dataset.features[name][:2]) == pytest.approx(values, nan_ok=True), name
    assert dataset.notes == (
        "'big' is read as numbers: '9007199254740993' in row 2 as 9007199254740992.0, and 19 more such cells",
        "'money' is read as numbers: '1.10' in row 1 as 1.1, and 19 more such cells",
    )
    parquet.write_table(pa.Table.from_arrays([columns["big"]] * 2, ["f", " f"]), "twice.parquet")
    with pytest.raises(ValueError, match="different names, got 'f' as columns 1 and 2 in twice"):
        load("twice.parquet")
