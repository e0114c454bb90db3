"""Arrays, tensors, tables and data sets of torch: brought into one form, or refused by argument and row."""

import doctest
import re

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset

from equipoise.compare import arrays
from equipoise.compare.arrays import features_of, from_arrays
from equipoise.compare.dataset import UNKNOWN
from equipoise.compare.encode import Encoder
from equipoise.compare.files import read
from equipoise.compare.splits import splits
from support.array_cases import FRAME, PAIRS, RANDOM, ROWS, Items, X, Y, changed, refused


def test_the_example_runs():
    """The example in the module's docstring prints what it shows."""
    assert doctest.testmod(arrays).failed == 0


ARRAYS = {
    "float64": (X, np.float64),
    "float32": (X.astype(np.float32), np.float32),
    "float16": (X.astype(np.float16), np.float32),
    "long double": (X.astype(np.longdouble), np.float64),
    "big endian": (X.astype(">f8"), np.float64),
    "integers": (np.arange(120).reshape(40, 3) % 11, np.int64),
    "int16": (np.arange(120, dtype=np.int16).reshape(40, 3) % 11, np.int64),
    "bytes": (np.arange(120, dtype=np.uint8).reshape(40, 3), np.float32),
    "bools": (X > 0, np.float32),
    "images": (RANDOM.random((40, 1, 4, 4)).astype(np.float32), np.float32),
    "not contiguous": (np.asfortranarray(X)[:, ::-1], np.float64),
    "read only": (np.broadcast_to(X[:, :1], (40, 3)), np.float64),
    "lists": (X.tolist(), np.float64),
    "rows": ([*X], np.float64),
    "tensor": (torch.from_numpy(X), np.float64),
    "requires grad": (torch.from_numpy(X).requires_grad_(), np.float64),
    "bfloat16": (torch.from_numpy(X).bfloat16(), np.float32),
    "token ids": (torch.arange(120).reshape(40, 3) % 50, np.int64),
    "tensors": ([*torch.from_numpy(X)], np.float64),
    "masked, nothing masked": (np.ma.masked_invalid(X), np.float64),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_arrays_of_any_kind_keep_their_numbers(case):
    """Lists, arrays and tensors of each dtype keep their values."""
    given, kind = ARRAYS[case]
    found = from_arrays(given, Y)
    rows = [row.detach().double().numpy() if isinstance(row, torch.Tensor) else row for row in given]
    expected = np.asarray(rows, dtype=np.float64)
    assert found.features.dtype == kind
    np.testing.assert_allclose(found.features, expected, rtol=1e-6)
    assert found.features.dtype.isnative
    assert (found.name, found.classes, found.notes) == ("data from Python", ("no", "yes"), ())
    assert Encoder(found, np.arange(30)).transform(found.features).shape == (40, found.features[0].size)


LABELS = {
    "text": (Y, ("no", "yes")),
    "objects": (Y.astype(object), ("no", "yes")),
    "integers": (np.arange(ROWS) % 3 * 5, ("0", "5", "10")),
    "tensor": (torch.arange(ROWS) % 2, ("0", "1")),
    "whole floats": (np.arange(ROWS) % 3 * 5.0, ("0", "5", "10")),
    "floats": (np.arange(ROWS) % 2 / 2, ("0.0", "0.5")),
    "float32": (np.float32([0.1, np.pi])[np.arange(ROWS) % 2], ("0.1", "3.1415927")),
    "bools": (np.arange(ROWS) % 2 == 0, ("False", "True")),
    "list": ([*"yx"] * 20, ("x", "y")),
    "list of tensors": ([*(torch.arange(ROWS) % 2)], ("0", "1")),
    "categories": (pd.Categorical(["x", "y"] * 20, categories=["y", "x", "z"]), ("x", "y")),
    "series with another index": (pd.Series(Y, index=range(100, 140)), ("no", "yes")),
    "nullable": (pd.Series([3, 4] * 20, dtype="Int64"), ("3", "4")),
    "past 2^63": (np.array([2**64 - 2, 2**64 - 1] * 20, dtype=np.uint64), (str(2**64 - 2), str(2**64 - 1))),
    "20 digits": ([10**20, 10**20 + 1] * 20, (str(10**20), str(10**20 + 1))),
    "bytes": (Y.astype("S"), ("no", "yes")),
    "days": (np.array(["2024-01-02", "2024-01-03"] * 20, dtype="M8[D]"), ("2024-01-02", "2024-01-03")),
    "markup": (["<script>alert(1)</script>", "=cmd()\n"] * 20, ("<script>alert(1)</script>", "=cmd()")),
}  # fmt: skip


@pytest.mark.parametrize("case", LABELS)
def test_classes_are_called_what_they_are_given_as(case):
    """Classes have the names of the given labels."""
    given, classes = LABELS[case]
    found = from_arrays(X, given)
    assert set(found.classes) == set(classes)
    assert found.classes == classes or case == "markup"
    assert (np.bincount(found.labels) >= ROWS // 3).all()


def test_a_table_is_read_as_a_file_is(tmp_path):
    """A data frame gives the same data set as the same table in a file."""
    FRAME.assign(y=Y).to_parquet(tmp_path / "t.parquet")
    file = read(str(tmp_path / "t.parquet"), "y")
    found = from_arrays(FRAME, Y)
    assert found.fingerprint() == file.fingerprint()
    assert list(found.features) == ["a", "b", "c", "d"]
    words = str(found.features["b"].dtype)
    assert words != "float64"
    assert [str(kind) for kind in found.features.dtypes] == ["float64", words, "float64", words]
    assert found.features["b"].isna().sum() == FRAME["b"].isna().sum() > 9
    labelled = FRAME.set_index(pd.Index([f"p{k}" for k in range(ROWS)]))
    assert from_arrays(labelled, Y).place(3) == "index 'p3'"
    assert from_arrays(FRAME, Y).place(3) == "index 3"
    assert from_arrays(X, Y).place(3) == "row 4"


def test_a_data_set_of_torch_is_read_once_and_in_order():
    """A torch data set is read once, in order."""
    items = Items([(torch.full((1, 2, 2), float(k)), "ab"[k % 2]) for k in range(ROWS)])
    found = from_arrays(items)
    assert items.reads == list(range(ROWS))
    assert found.features.shape == (ROWS, 1, 2, 2)
    np.testing.assert_array_equal(found.features[:, 0, 0, 0], np.arange(ROWS))
    assert found.classes == ("a", "b")
    tensors = TensorDataset(torch.from_numpy(X), torch.arange(ROWS) % 2)
    np.testing.assert_array_equal(from_arrays(tensors).features, X)
    part = from_arrays(ConcatDataset([Subset(tensors, range(20)), Subset(tensors, range(20, 40))]))
    assert part.fingerprint() == from_arrays(tensors).fingerprint()
    tested = from_arrays(tensors, test=Subset(tensors, range(7)))
    assert tested.test.sum() == 7
    assert Items([(np.zeros(2), np.int64(0))] * 3)[0][1] == 0


def test_test_rows_come_last_with_what_is_known_of_them():
    """Test rows follow the training rows, with their clean labels, groups and weights."""
    clean = np.array(["no"] * 6 + [None] * 4, dtype=object)
    groups = [*(np.arange(ROWS) // 4), *(100 + np.arange(10))]
    weight = np.where(np.arange(ROWS) < 3, 0, 2.0)
    for rows, test in ((X, X[:10] + 1), (FRAME, FRAME[:10])):
        found = from_arrays(rows, Y, test=(test, Y[:10]), clean=clean, groups=groups, sample_weight=weight)
        assert found.notes[0] == "3 rows without weight were left out"
        assert "4 rows without a value in 'clean' are never test rows" in found.notes
        np.testing.assert_array_equal(found.test, np.arange(47) >= 37)
        np.testing.assert_array_equal(found.weight, [2.0] * 37 + [1.0] * 10)
        np.testing.assert_array_equal(found.clean, [UNKNOWN] * 37 + [0] * 6 + [UNKNOWN] * 4)
        assert found.groups[0] == found.groups[0]
        assert len(set(found.groups[-10:])) == 10
        assert len(splits(found)[0].test) == 6
        assert found.place(37).endswith(" of the test rows")
    more = FRAME[:10].assign(extra=1)[["extra", "d", "c", "b", "a"]]
    found = from_arrays(FRAME, Y, test=(more, Y[:10]))
    assert list(found.features) == [*FRAME]
    assert found.notes == ("columns of X of test that are not in X were left out: 'extra'",)


def test_better_labels_times_and_weights_without_test_rows():
    """Clean labels, times and weights are kept for data without test rows."""
    clean = np.where(np.arange(ROWS) < 5, np.nan, np.arange(ROWS) % 2)
    found = from_arrays(X, np.arange(ROWS) % 2, clean=clean, sample_weight=torch.arange(ROWS), name="mine")
    assert found.name == "mine"
    assert (found.clean == UNKNOWN).sum() == 4
    assert found.weight[0] == 1
    assert len(found.labels) == ROWS - 1
    days = pd.date_range("2024-01-01", periods=ROWS)
    for time in (days, days.to_numpy(), pd.Series(days), [str(day) for day in days], [*days]):
        np.testing.assert_array_equal(np.diff(from_arrays(X, Y, time=time).time), 86400)
    np.testing.assert_array_equal(from_arrays(X, Y, time=torch.arange(ROWS)).time, np.arange(ROWS))
    roles = {"time": range(ROWS), "groups": range(ROWS), "clean": Y[::-1], "sample_weight": [2] * ROWS}
    prints = [from_arrays(X, Y, **{role: column}).fingerprint() for role, column in roles.items()]
    assert len({from_arrays(X, Y).fingerprint(), *prints}) == 5
    assert from_arrays(X.astype(np.float32), Y).fingerprint() != from_arrays(X, Y).fingerprint()


def test_labels_of_rows_may_be_there_twice_and_columns_called_like_roles():
    """Duplicate index labels and columns with the names of roles are allowed."""
    frame = FRAME.set_axis([*range(20)] * 2).rename(columns={"a": "label", "c": "weight"})
    roles = {"groups": [*range(ROWS), *range(100, 105)], "clean": [*Y[:5]]}
    found = from_arrays(frame, Y, test=(frame[:5], Y[:5]), sample_weight=[2] * ROWS, **roles)
    assert list(found.features) == ["label", "b", "weight", "d"]
    assert (found.place(21), found.place(41)) == ("index 1", "index 1 of the test rows")
    np.testing.assert_array_equal(found.features["label"], [*X[:, 0], *X[:5, 0]])
    np.testing.assert_array_equal(found.groups, np.arange(45))
    refused("got words in 'label' of X of test", frame, Y, test=(frame.assign(label="x"), Y))


def test_dates_as_text_are_warned_of():
    """Dates given as text cause a warning."""
    days = [f"2024-01-{1 + k % 19:02}" for k in range(ROWS)]
    (warning,) = from_arrays(FRAME.assign(day=days), Y).warnings
    assert warning.startswith(
        "'day' holds dates, such as '2024-01-01' in index 0, and each is read as a category; "
    )
    assert warning.endswith("or leave it out [EQ005]")
    digits = from_arrays(FRAME.assign(c=[str(k % 5) for k in range(ROWS)]), Y)
    assert digits.notes == ("'c' is read as categories: '0' in index 0 is text",)


def test_new_rows_are_brought_into_the_form_of_the_data():
    """New rows get the columns and categories of the data set."""
    table = from_arrays(FRAME, Y)
    encoder = Encoder(table, np.arange(ROWS))
    again = features_of(FRAME[["d", "c", "b", "a"]], table)
    np.testing.assert_array_equal(encoder.transform(again), encoder.transform(table.features))
    unseen = features_of(FRAME[:1].assign(b="blue", a=np.nan), table)
    assert np.isfinite(encoder.transform(unseen)).all()
    images = from_arrays(RANDOM.random((ROWS, 1, 2, 2)).astype(np.float32), Y)
    assert features_of(torch.zeros(3, 1, 2, 2, dtype=torch.float64), images).dtype == np.float32
    tokens = from_arrays(torch.arange(80).reshape(40, 2), Y)
    assert features_of([[1, 2]], tokens).dtype == np.int64
    plain = from_arrays(X, Y)
    np.testing.assert_array_equal(features_of(pd.DataFrame(X), plain), X)
    np.testing.assert_array_equal(
        features_of(TensorDataset(torch.from_numpy(X), torch.zeros(ROWS)), plain), X
    )
    for new, like, says in (
        (
            FRAME[["a"]],
            table,
            "X must be a DataFrame with the columns 'a', 'b', 'c', 'd', got 'a'; give all these columns",
        ),
        (X, table, "X must be a DataFrame with the columns 'a', 'b', 'c', 'd', got ndarray"),
        (
            FRAME.assign(a="x"),
            table,
            "X must have numbers in column 'a', got 'x'; convert the column to numbers",
        ),
        (X[:, :2], plain, "X must be like that of the data, (N, 3,) of float64, got (40, 2) of float64"),
        (X[:, :2], tokens, "X must be like that of the data, (N, 2,) of int64, got (40, 2) of float64"),
        (changed(np.inf), plain, "X must be finite in float32, got inf in row 3, column 2"),
        (DataLoader(PAIRS), plain, "X must be a data set of torch, got a DataLoader; pass its .dataset"),
        (FRAME[:0], table, "X must have a row or more, got none"),
        (FRAME, plain, "X must hold real numbers, got object"),
    ):
        with pytest.raises(ValueError, match=re.escape(says)):
            features_of(new, like)


def attempt(*given):
    try:
        return from_arrays(*given), ""
    except ValueError as error:
        return None, str(error)


@pytest.mark.parametrize("kind", ["float32", "float64", "object", "Float64"])
def test_zero_and_minus_zero_are_one_class(kind):
    """Labels 0.0 and -0.0 are equal numbers, so they are one class, beside 0.5 too."""
    labels = pd.Series([0.0, -0.0, 0.5] * 8, dtype=kind)
    found, refused = attempt(np.arange(24.0)[:, None], labels)
    assert refused == ""
    assert found.classes == ("0.0", "0.5")
    assert found.labels.tolist() == [0, 0, 1] * 8


KINDS = st.sampled_from(
    ["f2", "f4", "f8", ">f8", "i1", "i8", ">i4", "u1", "u8", "?", "c8", "U3", "S2", "M8[D]", "m8[s]", "O"]
)


@settings(max_examples=300)
@given(st.data())
def test_any_array_is_read_as_it_is_or_refused_in_one_line(draw):
    """A random array is read with its values, or refused in one line."""
    shape = draw.draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
    shape = (24, *shape[1:]) if draw.draw(st.booleans()) else shape
    numbers = draw.draw(
        KINDS.flatmap(lambda kind: hnp.arrays(kind, shape) if kind != "O" else st.just(np.full(shape, None)))
    )
    kind = draw.draw(KINDS.filter(lambda kind: kind != "O"))
    values = draw.draw(st.lists(hnp.from_dtype(np.dtype(kind)), min_size=2, max_size=3))
    labels = np.array([values[k % len(values)] for k in range(24)], dtype=kind)
    found, refused = attempt(numbers, labels)
    if found is None:
        assert re.fullmatch(r"(X|y|every class) must [^\n]*", refused)
        return
    np.testing.assert_array_equal(found.features, numbers.astype(found.features.dtype))
    assert len(found.classes) == len(set(labels.tolist()))
    assert len({*zip(labels.tolist(), found.labels.tolist(), strict=True)}) == len(found.classes)
