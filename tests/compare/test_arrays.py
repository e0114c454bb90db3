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
from scipy import sparse
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset, Subset, TensorDataset
from torch.utils.data import Dataset as TorchDataset

from equipoise.compare import arrays
from equipoise.compare.arrays import features_of, from_arrays
from equipoise.compare.dataset import UNKNOWN
from equipoise.compare.encode import Encoder
from equipoise.compare.files import read
from equipoise.compare.splits import splits

ROWS = 40
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(ROWS, 3))
Y = np.array(["no", "yes"])[np.arange(ROWS) % 2]
FRAME = pd.DataFrame(
    {
        "a": X[:, 0],
        "b": np.where(RANDOM.random(ROWS) < 0.5, "red", None),
        "c": np.arange(ROWS) % 7,
        "d": Y == "no",
    }
)
FRAME["d"] = RANDOM.random(ROWS) < 0.5


class Items(TorchDataset):
    def __init__(self, items):
        self.items = items
        self.reads = []

    def __len__(self):
        return len(self.items)

    def __getitem__(self, place):
        self.reads.append(place)
        return self.items[place]


class Stream(IterableDataset):
    def __iter__(self):
        return iter([(torch.zeros(2), 0)])


def refused(says, *given, **options):
    with pytest.raises(ValueError, match=re.escape(says)) as caught:
        from_arrays(*given, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


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
    given, classes = LABELS[case]
    found = from_arrays(X, given)
    assert set(found.classes) == set(classes)
    assert found.classes == classes or case == "markup"
    assert (np.bincount(found.labels) >= ROWS // 3).all()


def test_a_table_is_read_as_a_file_is(tmp_path):
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
    frame = FRAME.set_axis([*range(20)] * 2).rename(columns={"a": "label", "c": "weight"})
    roles = {"groups": [*range(ROWS), *range(100, 105)], "clean": [*Y[:5]]}
    found = from_arrays(frame, Y, test=(frame[:5], Y[:5]), sample_weight=[2] * ROWS, **roles)
    assert list(found.features) == ["label", "b", "weight", "d"]
    assert (found.place(21), found.place(41)) == ("index 1", "index 1 of the test rows")
    np.testing.assert_array_equal(found.features["label"], [*X[:, 0], *X[:5, 0]])
    np.testing.assert_array_equal(found.groups, np.arange(45))
    refused("got words in 'label' of X of test", frame, Y, test=(frame.assign(label="x"), Y))


def changed(value, row=2, column=1):
    found = X.copy()
    found[row, column] = value
    return found


COMPLEX = X + 0j
RECORDS = np.zeros(ROWS, dtype=[("a", "f8"), ("b", "i4")])
PAIRS = TensorDataset(torch.from_numpy(X), torch.arange(ROWS) % 2)
REFUSED = {
    "a nan": ((changed(np.nan), Y), {}, "X must be finite in float32, got nan in row 3, column 2, and 1 suc"),
    "1e300": ((changed(1e300), Y), {}, "X must be finite in float32, got 1e+300 in row 3, column 2"),
    "1e200 in a table": ((FRAME.assign(a=1e200), Y), {}, "X must be finite or missing, got 1e+200, which fl"),
    "infinity in a table": ((FRAME.assign(a=[10**400] * ROWS), Y), {}, "got infinity in index 0, column 'a'"),
    "a nan in images": ((changed(np.nan).reshape(10, 3, 2, 2), Y[:10]), {},
     "got nan in row 1, column (1, 1, 1)"),
    "masked": ((np.ma.masked_greater(X, 2), Y), {}, "X must be finite in float32, got nan in row"),
    "words": ((Y[:, None], Y), {}, "X must hold real numbers, got <U3; give categories in a DataFrame"),
    "complex": ((COMPLEX, Y), {}, "X must hold real numbers, got complex128"),
    "objects": ((X.astype(object), Y), {}, "X must hold real numbers, got object"),
    "records": ((RECORDS[:, None], Y), {}, "X must hold real numbers, got [('a',"),
    "uint64": ((np.full((ROWS, 2), 2**64 - 1, dtype=np.uint64), Y), {},
     "X must be below 2^63, got 1844674407370"),
    "one dimension": ((X[:, 0], Y), {}, "X must be (N, D) or have more dimensions, got (40,); give one row"),
    "a path": (("t.csv", Y), {}, "X must be (N, D) or have more dimensions, got 't.csv'"),
    "a series": ((FRAME["a"], Y), {}, "X must be (N, D) or have more dimensions, got (40,)"),
    "nothing": ((None, Y), {}, "got NoneType"),
    "unequal rows": (([[1, 2], [3]] * 20, Y), {}, "X must be an array (N, D) or of more dimensions, got lis"),
    "unequal tensors": (([torch.zeros(2), torch.zeros(3)] * 20, Y), {},
     "X must be an array (N, D) or of more"),
    "sparse": ((sparse.csr_matrix(X), Y), {}, "X must be dense, got csr_matrix; give X.toarray()"),
    "a sparse array": ((sparse.coo_array(X), Y), {}, "X must be dense, got coo_array; give X.toarray()"),
    "a sparse tensor": ((torch.from_numpy(X).to_sparse(), Y), {}, "X must be dense, got Tensor; give X.to_d"),
    "dates": ((FRAME.assign(a=pd.Timestamp("2024")), Y), {},
     "got times in 'a' of X; turn it into numbers, or leave it out"),
    "lists in a table": ((FRAME.assign(a=[[1]] * ROWS), Y), {}, "X must be numbers or categories, got list "),
    "names twice": ((pd.concat([FRAME, FRAME], axis=1), Y), {}, "X must have columns of different names, go"),
    "no columns": ((FRAME[[]], Y), {}, "X must have rows and columns beside the classes, got 40 rows and 0 "),
    "no numbers": ((X[:, :0], Y), {}, "X must have rows and columns beside the classes, got 40 rows and 0 c"),
    "no rows": ((X[:0], Y[:0]), {}, "X must have rows and columns beside the classes, got 0 rows and 3 colu"),
    "no y": ((X,), {}, "y must be given with X, got None"),
    "y too short": ((X, Y[:39]), {}, "y must be an array (40,), got (39,); give one value per row"),
    "a column": ((X, np.arange(ROWS)[:, None]), {}, "y must be an array (N,), got (40, 1); take its one col"),
    "a table of one": ((X, pd.DataFrame({"y": Y})), {}, "y must be an array (N,), got (40, 1); take its one"),
    "one-hot": ((X, np.eye(2)[np.arange(ROWS) % 2]), {}, "y must be an array (N,), got (40, 2); give one va"),
    "one label": ((X, 3), {}, "y must be an array (N,), got int"),
    "nan labels": ((X, np.where(np.arange(ROWS) == 3, np.nan, 1.0)), {},
     "y must be known of every row, got none in row 4, and 0"),
    "None": ((X, [None, *Y[1:]]), {}, "y must be known of every row, got none in row 1, and 0 more such row"),
    "infinite labels": ((X, [np.inf] * ROWS), {}, "y must be known of every row, got 'inf' in row 1"),
    "records in y": ((X, RECORDS), {}, "y must be an array (N,), got [('a',"),
    "complex y": ((X, COMPLEX[:, 0]), {}, "y must hold names or numbers, got complex in row 1; write it as "),
    "lists in y": ((X, [1, [2]] * 20), {}, "y must hold names or numbers, got list in row 2; write it as "),
    "one class": ((X, ["a"] * ROWS), {}, "X must have two classes or more, got only 'a' in data from Python"),
    "a rare class": ((X, ["a"] * 38 + ["b"] * 2), {}, "every class must have 5 rows or more, got 2 of class"),
    "few rows": ((X[:16], Y[:16]), {}, "X must have 20 rows or more, got 16 in"),
    "regression": ((X, X[:, 0]), {},
     "y must hold classes, got 40 different numbers in 40 rows of data from Python: it looks like numbers t"),
    "a loader": ((DataLoader(PAIRS),), {}, "X must be a data set of torch, got a DataLoader; pass its .dat"),
    "a loader of test rows": ((X, Y), {"test": DataLoader(PAIRS)}, "got a DataLoader; pass its .dataset"),
    "dicts of other keys": ((Items([({k: 1}, 0) for k in "ab"]),), {},
     "X must be a data set whose inputs are tensors of one shape"),
    "an int past all floats": ((FRAME.assign(a=[None, -(10**400)] * 20), Y), {},
     "X must be finite or missing, got infinity in index 1, column 'a'"),
    "a stream": ((Stream(),), {}, "X must be a data set with a length, got Stream; collect its items in a T"),
    "no pairs": ((Items([torch.zeros(2)] * ROWS),), {}, "X must be a data set of (inputs, label) pairs, got"),
    "triples": ((Items([(1, 2, 3)] * ROWS),), {}, "(inputs, label) pairs, got tuple in row 1"),
    "half a letter": ((X, ["\ud800", "a"] * 20), {}, "y must hold text in Unicode, got '\\ud800' in row 1"),
    "half a letter in X": ((FRAME.assign(b=pd.Series(["\udce9"] * ROWS, dtype=object)), Y), {},
                           "X must hold text in Unicode, got '\\udce9' in index 0, column 'b'"),
    "a data set and y": ((Items([]), Y), {}, "y must be left out with a data set of torch, got ndarray; it "),
    "inputs of two shapes": ((Items([(torch.zeros(k), 0) for k in (2, 3)]),), {},
     "X must be a data set whose inputs are tensors of one shape"),
    "pictures": ((Items([(object(), 0)] * ROWS),), {}, "X must be a data set whose inputs are tensors of on"),
    "dicts": ((Items([({"x": torch.zeros(2)}, 0)] * ROWS),), {}, "got dict"),
    "single numbers": ((Items([(1.0, 0)] * ROWS),), {}, "X must be (N, D) or have more dimensions, got (40,"),
    "an empty data set": ((Items([]),), {}, "X must have rows and columns beside the classes, got 0 rows"),
    "a test of three": ((X, Y), {"test": (X, Y, Y)}, "test must be a pair (X, y) or a data set of torch, go"),
    "a test array": ((X, Y), {"test": X}, "test must be a pair (X, y) or a data set of torch, got ndarray"),
    "a test without labels": ((X, Y), {"test": (X, None)}, "y must be given with X, got None"),
    "a test of other columns": ((X, Y), {"test": (X[:, :2], Y)},
     "test must have X and y like those of X, got ndarray (2,) in X of test for ndarray (3,)"),
    "a test table": ((X, Y), {"test": (FRAME, Y)}, "got DataFrame (4,) in X of test for ndarray (3,)"),
    "a test column less": ((FRAME, Y), {"test": (FRAME[["a"]], Y)},
     "test must have the columns of X, got no 'b' in X of test"),
    "a test column of words": ((FRAME, Y), {"test": (FRAME.assign(a="x"), Y)},
     "got words in 'a' of X of test for floating"),
    "test labels of a kind": ((X, Y), {"test": (X, range(ROWS))}, "got exact in 'y' of X of test for words"),
    "a nan in test": ((X, Y), {"test": (changed(np.nan), Y)}, "got nan in row 3 of the test rows, column 2"),
    "a test row too few": ((X, Y), {"test": (X, Y[1:])}, "y must be an array (40,), got (39,) in test"),
    "another test class": ((X, Y), {"test": (X, ["maybe"] * ROWS)},
     "test must have only classes that 'y' has, got 'maybe' in row 1 of the test rows"),
    "no test rows": ((X, Y), {"test": (X[:0], Y[:0])}, "test must have rows with a class, got none beside t"),
    "clean of all rows": ((X, Y), {"test": (X[:5], Y[:5]), "clean": Y},
     "clean must be an array (5,), got (40,)"),
    "another class": ((X, Y), {"clean": ["maybe", *Y[1:]]}, "clean must have only classes that 'y' has, got"),
    "no better label": ((X, Y), {"clean": [None] * ROWS}, "clean must name the class of some rows, got none"),
    "a group too few": ((X, Y), {"groups": range(39)}, "groups must be an array (40,), got (39,)"),
    "an unknown group": ((X, Y), {"groups": [np.nan, *range(39)]}, "groups must be known of every row, got "),
    "a group in both": ((X, Y), {"test": (X, Y), "groups": [0] * 80},
     "groups must be different in test rows, got '0' and 0 more"),
    "time and groups": ((X, Y), {"groups": range(ROWS), "time": range(ROWS)},
     "time must be left out, got 'time' with groups; a"),
    "time and test": ((X, Y), {"test": (X, Y), "time": range(80)}, "time must be left out, got 'time' with"),
    "no times": ((X, Y), {"time": ["soon"] * ROWS}, "time must hold numbers or ISO dates such as 2024-01-31"),
    "a negative weight": ((X, Y), {"sample_weight": [-1, *range(39)]},
     "sample_weight must be 0 or more and finite, got '-1' in row 1"),
    "a nan weight": ((X, Y), {"sample_weight": [np.nan] * ROWS}, "sample_weight must be 0 or more and finit"),
    "a weight of words": ((X, Y), {"sample_weight": Y}, "sample_weight must be 0 or more and finite, got 'n"),
    "weights of words and a test": ((X, Y), {"test": (X, Y), "sample_weight": Y},
                                    "sample_weight must be 0 or more and finite, got 'no' in row 1"),
    "no weight at all": ((X, Y), {"sample_weight": [0] * ROWS}, "X must have rows and columns beside the cl"),
    "weights of test rows": ((X, Y), {"test": (X, Y), "sample_weight": [1] * 80},
     "sample_weight must be an array (40,), got (80,)"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_refused_by_argument(case):
    given, options, says = REFUSED[case]
    refused(says, *given, **options)


def test_dates_as_text_are_warned_of():
    days = [f"2024-01-{1 + k % 19:02}" for k in range(ROWS)]
    (warning,) = from_arrays(FRAME.assign(day=days), Y).warnings
    assert warning.startswith(
        "'day' holds dates, such as '2024-01-01' in index 0, and each is read as a category; "
    )
    assert warning.endswith("or leave it out")
    digits = from_arrays(FRAME.assign(c=[str(k % 5) for k in range(ROWS)]), Y)
    assert digits.notes == ("'c' is read as categories: '0' in index 0 is text",)


def test_new_rows_are_brought_into_the_form_of_the_data():
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
            "X must be a DataFrame with the columns 'a', 'b', 'c', 'd', got 'a'; give them all",
        ),
        (X, table, "X must be a DataFrame with the columns 'a', 'b', 'c', 'd', got ndarray"),
        (FRAME.assign(a="x"), table, "X must have numbers in column 'a', got 'x'; make numbers of it"),
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


KINDS = st.sampled_from(
    ["f2", "f4", "f8", ">f8", "i1", "i8", ">i4", "u1", "u8", "?", "c8", "U3", "S2", "M8[D]", "m8[s]", "O"]
)


@settings(max_examples=300)
@given(st.data())
def test_any_array_is_read_as_it_is_or_refused_in_one_line(draw):
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
