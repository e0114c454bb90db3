"""Better labels, groups, times and a file of test rows: read, or refused by place."""

import datetime
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from equipoise.compare.dataset import UNKNOWN
from equipoise.compare.files import read
from equipoise.compare.splits import splits

ROWS = 60


def table(rows=ROWS, seed=0):
    generator = np.random.default_rng(seed)
    kind = np.array(["pear", "apple", "fig"], dtype=object)[np.arange(rows) % 3]
    better = kind.copy()
    better[::5] = "fig"
    return pd.DataFrame(
        {
            "weight": generator.normal(size=rows).round(3),
            "colour": np.where(generator.random(rows) < 0.5, "red", "green").astype(object),
            "fruit": kind,
            "expert": better,
            "tree": [f"tree {k // 4} of {seed}" for k in range(rows)],
            "day": [f"2024-0{1 + k // 20}-{1 + k % 20:02}" for k in range(rows)],
        }
    )


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(frame, name):
    if name.endswith(".parquet"):
        frame.to_parquet(name)
    elif name.endswith(".npz"):
        np.savez(name, X=frame[["weight"]], y=np.array(list(frame["fruit"])), **{
            column: np.array(list(frame[column])) for column in ("expert", "tree", "day")
        })  # fmt: skip
    else:
        frame.to_csv(name, index=False, sep="\t" if name.endswith(".tsv") else ",")
    return name


def load(path, **options):
    return read(path, None if path.endswith(".npz") else "fruit", **options)


EVERY_ROLE = {"clean": "expert", "group": "tree", "time": "day"}
SUFFIXES = [".csv", ".tsv", ".parquet", ".npz"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_columns_with_a_role_are_read_and_are_no_features(suffix):
    """Columns with a role are read for that role and are not features."""
    frame = table()
    path = write(frame, f"t{suffix}")
    drop = {} if suffix == ".npz" else {"drop": ("day",)}
    grouped = load(path, clean="expert", group="tree", **drop)
    assert [grouped.classes[place] for place in grouped.clean] == list(frame["expert"])
    assert [grouped.classes[place] for place in grouped.target] == list(frame["expert"])
    np.testing.assert_array_equal(grouped.groups, np.arange(ROWS) // 4)
    assert grouped.time is None
    differ = int((frame["fruit"] != frame["expert"]).sum())
    assert any(note.startswith(f"{differ} of 60 labels ({differ / 60:.1%}) differ") for note in grouped.notes)
    timed = load(path, time="day")
    assert (timed.clean, timed.groups, timed.one_test) == (None, None, True)
    assert (np.diff(timed.time[:20]) == 86400).all()
    np.testing.assert_array_equal(timed.target, timed.labels)
    if suffix != ".npz":
        assert list(grouped.features) == ["weight", "colour"]
        assert list(timed.features) == ["weight", "colour", "expert", "tree"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_rows_of_a_file_come_last_with_labels_of_their_own(suffix):
    """Rows of the test file follow the others, with their own labels."""
    path, other = write(table(), f"t{suffix}"), write(table(30, seed=1), f"u{suffix}")
    alone = load(path)
    dataset = load(path, test=other)
    np.testing.assert_array_equal(dataset.test, np.arange(90) >= 60)
    np.testing.assert_array_equal(dataset.labels[:60], alone.labels)
    assert [dataset.classes[place] for place in dataset.labels[60:]] == list(table(30, seed=1)["fruit"])
    features = np.asarray(dataset.features)[:, 0]
    np.testing.assert_array_equal(features[:60], np.asarray(alone.features)[:, 0])
    np.testing.assert_array_equal(features[60:], table(30, seed=1)["weight"])
    both = load(path, test=other, clean="expert", group="tree")
    assert [both.classes[place] for place in both.clean[60:]] == list(table(30, seed=1)["expert"])
    np.testing.assert_array_equal(both.groups, np.concatenate([np.arange(60) // 4, 15 + np.arange(30) // 4]))
    own = load(path, test=other, clean="y" if suffix == ".npz" else "fruit")
    np.testing.assert_array_equal(own.clean, np.where(own.test, own.labels, UNKNOWN))
    number = 31 if suffix in (".csv", ".tsv") else 30
    assert dataset.place(89).split()[1] == str(number)
    assert len({each.fingerprint() for each in (alone, dataset, both, own)}) == 4


def test_files_may_be_paths_and_names_have_blanks_around_them():
    """Paths may be `Path` objects, and names may have surrounding blanks."""
    write(table(), "t.csv")
    write(table(30, seed=1), "u.csv")
    found = read(Path("t.csv"), " fruit ", test=Path("u.csv"), clean=" expert", group="tree ", drop=(" day",))
    assert list(found.features) == ["weight", "colour"]
    wanted = load("t.csv", test="u.csv", clean="expert", group="tree", drop=("day",))
    assert found.fingerprint() == wanted.fingerprint()


def test_every_role_decides_the_fingerprint():
    """Each role changes the fingerprint."""
    path = write(table(), "t.csv")
    drop = ("expert", "tree", "day")
    prints = [load(path, drop=drop, **{option: name}).fingerprint() for option, name in EVERY_ROLE.items()]
    assert len({load(path, drop=drop).fingerprint(), *prints}) == 4
    changed = table()
    changed.loc[3, "expert"] = "apple"
    other = load(write(changed, "u.csv"), drop=drop, clean="expert").fingerprint()
    assert other not in prints


def test_test_rows_may_be_in_another_order_of_columns_with_more_of_them():
    """A test file may have another order of columns and further columns."""
    write(table(), "t.csv")
    other = table(30, seed=1)[["day", "fruit", "weight", "tree", "expert", "colour"]].assign(
        note="x", **{"no te": 1}
    )
    write(other.astype({"colour": object}), "u.tsv")
    dataset = load("t.csv", test="u.tsv", drop=("day",))
    assert list(dataset.features) == ["weight", "colour", "expert", "tree"]
    assert list(dataset.features["weight"][60:]) == list(other["weight"])
    assert "columns of u.tsv that are not in t.csv were left out: 'note', 'no te'" in dataset.notes


def test_kinds_are_those_of_both_files_together():
    """The type of a column is decided by both files together."""
    frame, other = table(), table(30, seed=1).astype({"weight": object})
    write(frame, "t.csv")
    other.loc[2, "weight"] = "heavy"
    other.loc[3, "weight"] = ""
    other.loc[4, "fruit"] = None
    write(other, "u.csv")
    dataset = load("t.csv", test="u.csv")
    assert "'weight' is read as categories: 'heavy' in line 4 of u.csv is no number" in dataset.notes
    assert "1 rows without a value in fruit were left out" in dataset.notes
    assert dataset.features["weight"].iloc[0] == str(frame["weight"].iloc[0])
    assert dataset.test.sum() == 29
    assert dataset.place(64) == "line 7 of u.csv"
    frame["count"] = 1 + np.arange(ROWS) // 2
    other = table(30, seed=1).assign(count=0.5)
    write(frame, "t.parquet")
    write(other, "u.parquet")
    assert load("t.parquet", test="u.parquet").features["count"].iloc[-1] == 0.5


def test_clean_labels_of_test_rows_alone_are_enough():
    """Clean labels are needed in the test file only."""
    write(table().drop(columns="expert"), "t.csv")
    other = table(30, seed=1)
    other.loc[:9, "expert"] = None
    for suffix in (".csv", ".parquet"):
        write(table().drop(columns="expert"), f"t{suffix}")
        write(other, f"u{suffix}")
        dataset = load(f"t{suffix}", test=f"u{suffix}", clean="expert")
        assert (dataset.clean[:70] == UNKNOWN).all()
        assert (dataset.clean[70:] != UNKNOWN).all()
        assert "10 rows without a value in 'expert' are never test rows" in dataset.notes
        np.testing.assert_array_equal(splits(dataset)[0].test, np.arange(70, 90))
    np.savez("t.npz", X=np.zeros((30, 1)), y=np.arange(30) % 2)
    np.savez(
        "u.npz", X=np.zeros((20, 1)), y=np.arange(20) % 2, better=np.where(np.arange(20) < 5, np.nan, 1.0)
    )
    dataset = load("t.npz", test="u.npz", clean="better")
    np.testing.assert_array_equal(dataset.clean, [UNKNOWN] * 35 + [1] * 15)


def test_rows_without_a_better_label_are_said():
    """The number of rows without a clean label is noted."""
    frame = table()
    frame.loc[:19, "expert"] = None
    dataset = load(write(frame, "t.csv"), clean="expert")
    assert (dataset.clean[:20] == UNKNOWN).all()
    assert "20 rows without a value in 'expert' are never test rows" in dataset.notes
    np.testing.assert_array_equal(dataset.target[:20], dataset.labels[:20])


DAY = datetime.date(2024, 1, 31)
TIMES = {
    "numbers": ([3, 1.5, "2e3", -7], [3, 1.5, 2000, -7]),
    "years": ([2001, 1999, 2024, 2000], [2001, 1999, 2024, 2000]),
    "days": (["2024-01-31", "1969-12-31", "2024-02-01", "1600-01-01"], None),
    "moments": (["2024-01-31T12:00", "2024-01-31 12:00:01", "2024-01-31T12:00:00.5Z", "2024-01-31"], None),
    "zones": (["2024-01-31T12:00+02:00", "2024-01-31T12:00Z", "2024-01-31T12:00", "2024-01-31 00-09"], None),
}  # fmt: skip
SECONDS = {
    "days": [1706659200, -86400, 1706745600, -11676096000],
    "moments": [1706702400, 1706702401, 1706702400.5, 1706659200],
    "zones": [1706695200, 1706702400, 1706702400, 1706691600],
}


@pytest.mark.parametrize("case", TIMES)
def test_times_are_numbers_or_iso_dates(case):
    """Times are numbers or ISO dates."""
    cells, expected = TIMES[case]
    frame = table().assign(day=np.array(cells, dtype=object)[np.arange(ROWS) % 4])
    dataset = load(write(frame, "t.csv"), time="day")
    assert list(dataset.time[:4]) == (expected or SECONDS[case])


@pytest.mark.parametrize(
    ("values", "first"),
    [
        ([DAY, DAY + datetime.timedelta(1)], 1706659200),
        ([datetime.datetime(2024, 1, 31, 12), datetime.datetime(2024, 1, 31)], 1706702400),
        ([2.5, 1.0], 2.5),
        ([7, 9], 7),
        (["2024-01-31", "2024-02-01"], 1706659200),
    ],
)
def test_times_of_parquet_are_of_any_type_that_has_an_order(values, first):
    """Times in Parquet may be of any ordered type."""
    frame = table().assign(day=np.array(values, dtype=object)[np.arange(ROWS) % 2])
    dataset = load(write(frame.assign(day=list(frame["day"])), "t.parquet"), time="day")
    assert dataset.time[0] == first


def changed(row, column, value):
    frame = table()
    frame[column] = frame[column].astype(object)
    frame.loc[row, column] = value
    return frame


REFUSED = {
    "no such time": (table(), {"time": "dya"}, "time must be a column of t.csv, got 'dya'; did you mean"),
    "no such group": (table(), {"group": "g"}, "group must be a column of t.csv, got 'g'"),
    "no such clean": (table(), {"clean": "c"}, "clean must be a column of t.csv, got 'c'"),
    "the target": (table(), {"clean": "fruit"}, "clean must have a column of its own, got 'fruit', which is"),
    "one for two": (table(), {"clean": "tree", "group": "tree"},
                    "group must have a column of its own, got 'tree', which is the clean; name another"),
    "time and group": (table(), {"time": "day", "group": "tree"}, "time must be left out, got 'day' with"),
    "no date": (changed(2, "day", "31/01/2024"), {"time": "day"},
                "time must hold numbers or ISO dates such as 2024-01-31, got '31/01/2024' in line 4 of t.csv"
                ", "
                "column 'day', and 0 more such rows; rewrite"),
    "no time": (changed(2, "day", None), {"time": "day"}, "got none in line 4 of t.csv, column 'day',"),
    "words": (table(), {"time": "tree"}, "got 'tree 0 of 0' in line 2 of t.csv, column 'tree', and 59 more"),
    "infinity": (table().assign(day=[np.inf, *range(59)]), {"time": "day"}, "got 'inf' in line 2 of t.csv"),
    "no group": (changed(5, "tree", None), {"group": "tree"},
                 "group must be known of every row, got none in line 7 of t.csv, column 'tree', and 0 more"),
    "another class": (changed(5, "expert", "figs"), {"clean": "expert"},
                      "clean must have only classes that 'fruit' has, got 'figs' in line 7 of t.csv; did"),
    "a column called y": (changed(5, "tree", None).rename(columns={"tree": "y"}), {"group": "y"},
                          "got none in line 7 of t.csv, column 'y', and 0 more such rows"),
    "an empty name": (table(), {"group": ""}, "group must be a column of t.csv, got ''"),
    "no better label": (table().assign(expert=None), {"clean": "expert"},
                        "clean must name the class of some rows, got none in 'expert'; leave clean out"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_columns_that_cannot_have_their_role_are_refused_by_place(case):
    """A column that cannot have its role is refused with the row."""
    frame, options, says = REFUSED[case]
    with pytest.raises(ValueError, match=re.escape(says)) as caught:
        load(write(frame, "t.csv"), **options)
    assert "\n" not in str(caught.value)


OTHER = table(30, seed=1)
REFUSED_FILES = {
    "a column less": (OTHER.drop(columns="colour"), {}, "test must have the columns of t.csv, got no"),
    "a target less": (OTHER.drop(columns="fruit"), {}, "test must have the columns of t.csv, got no 'fruit'"),
    "a group less": (OTHER.drop(columns="tree"), {"group": "tree"}, "got no 'tree' in u.csv"),
    "a clean less": (OTHER.drop(columns="expert"), {"clean": "expert"}, "got no 'expert' in u.csv"),
    "another class": (OTHER.assign(fruit="kiwi"), {}, "test must have only classes that 'fruit' has, got"),
    "no class": (OTHER.assign(fruit=None), {}, "test must have rows with a class, got none beside those of"),
    "no clean": (OTHER.assign(expert=None), {"clean": "expert"}, "clean must name the class of some test"),
    "a time": (OTHER, {"time": "day"}, "time must be left out, got 'day' with test; that is the test part"),
    "a group in both": (table(30), {"group": "tree"},
                        "group must be different in test rows, got 'tree 0 of 0' and 7 more of 'tree' in"),
    "infinity": (OTHER.assign(weight=np.inf), {}, "got infinity in line 2 of u.csv, column 'weight'"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED_FILES)
def test_files_of_test_rows_that_do_not_fit_are_refused(case):
    """A test file that does not match the data is refused."""
    frame, options, says = REFUSED_FILES[case]
    write(table(), "t.csv")
    with pytest.raises(ValueError, match=re.escape(says)) as caught:
        load("t.csv", test=write(frame, "u.csv"), **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("other", "content", "says"),
    [
        ("no.csv", None, "test must be a file, got 'no.csv', which is not there; check the path"),
        ("u.xlsx", b"", "test must end in .csv, .tsv, .parquet or .npz, got 'u.xlsx'"),
        (
            "u.npz",
            b"",
            "test must be a file of the kind of the data, got 'u.npz' for 't.csv'; convert one of",
        ),
        (
            "u.parquet",
            b"",
            "test must be a file of the kind of the data, got 'u.parquet' for 't.csv'; convert",
        ),
        ("t.csv", None, "test must be another file than the data, got 't.csv'; leave it out for"),
        ("u.csv", b"", "test must have a header, got an empty file 'u.csv'"),
        (
            "u.csv",
            b"a,b\n1\n",
            "test must have rows of one length, got 1 cells in line 2 and 2 in line 1 of u.csv",
        ),
        (
            "u.csv",
            b"a,a\n1,1\n",
            "test must have columns of different names, got 'a' as columns 1 and 2 in line 1",
        ),
    ],
)
def test_files_that_are_no_test_rows_are_refused(other, content, says):
    """A test file of another format, or the data file itself, is refused."""
    write(table(), "t.csv")
    if content is not None:
        Path(other).write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(says)):
        load("t.csv", test=other)


def test_parquet_without_pyarrow_is_refused(monkeypatch):
    """Parquet without pyarrow is refused with the command that installs it."""
    write(table(), "t.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ImportError, match=r"needs pyarrow for Parquet; pip install 'equipoise\[parquet\]'"):
        load("t.parquet")


def test_parquet_files_of_other_kinds_are_refused():
    """A Parquet test file with another type of column is refused."""
    write(table(), "t.parquet")
    write(OTHER.assign(weight="heavy"), "u.parquet")
    says = "test must have columns like those of t.parquet, got words in 'weight' of u.parquet"
    with pytest.raises(ValueError, match=re.escape(says)):
        load("t.parquet", test="u.parquet")


X = np.zeros((30, 2))
Y = np.arange(30) % 2


@pytest.mark.parametrize(
    ("arrays", "others", "options", "says"),
    [
        ({}, {}, {"group": "g"}, "group must name an array of t.npz beside X and y, got 'g' of X, y; add it"),
        ({}, {}, {"time": "X"}, "time must name an array of t.npz beside X and y, got 'X' of X, y; add it"),
        ({}, {}, {"clean": "y"}, "clean must name an array of t.npz beside X and y, got 'y' of X, y; add it"),
        ({"g": Y[:9]}, {}, {"group": "g"}, "group must be an array (30,), got (9,) in t.npz; give one"),
        ({"g": Y}, {}, {"group": "g", "time": "g"}, "time must have a column of its own, got 'g'"),
        ({"g": Y}, {}, {"group": "g", "clean": "g"}, "group must have a column of its own, got 'g', which"),
        ({"c": Y + 1}, {}, {"clean": "c"}, "clean must have only classes that 'y' has, got '2' in row 2 of"),
        ({"c": np.full(30, np.inf)}, {}, {"clean": "c"}, "clean must be known of every row, got 'inf'"),
        ({"t": Y + 0j}, {}, {"time": "t"}, "time must hold numbers or ISO dates such as 2024-01-31, got"),
        ({}, {"X": X[:, :1], "y": Y}, {}, "test must have X and y like those of t.npz, got ndarray (1,)"),
        ({}, {"X": X, "y": Y.astype(str)}, {}, "test must have columns like those of t.npz"),
        ({}, {"X": X, "y": Y + 1}, {}, "test must have only classes that 'y' has, got '2' in row 2 of u.npz"),
        ({}, {"X": X}, {}, "test must hold the arrays X and y, got X in u.npz"),
        ({"g": Y}, {"X": X, "y": Y}, {"group": "g"}, "group must name an array of u.npz beside X and y, got"),
    ],
)  # fmt: skip
def test_arrays_that_do_not_fit_are_refused(arrays, others, options, says):
    """Arrays of test rows or roles that do not match are refused."""
    np.savez("t.npz", X=X, y=Y, **arrays)
    if others:
        np.savez("u.npz", **others)
        options = options | {"test": "u.npz"}
    with pytest.raises(ValueError, match=re.escape(says)) as caught:
        load("t.npz", **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("option", ["test", *EVERY_ROLE])
def test_digits_have_no_other_columns(option):
    """Options for columns are refused for the digits."""
    with pytest.raises(ValueError, match=f"{option} must be left out with scikit-learn's digits, got 'a'"):
        read(None, None, **{option: "a"})
