import re

import numpy as np
import pandas as pd
import pytest

from equipoise.compare.encode import MOST_CATEGORIES, Encoder
from equipoise.compare.files import read
from equipoise.compare.splits import splits

ROWS = 60


def table(rows=ROWS):
    generator = np.random.default_rng(0)
    kind = np.array(["pear", "apple", "fig"], dtype=object)[np.arange(rows) % 3]
    return pd.DataFrame(
        {
            "weight": generator.normal(size=rows),
            "count": generator.integers(0, 9, size=rows),
            "colour": np.where(generator.random(rows) < 0.5, "red", "green, or so"),
            "ripe": generator.random(rows) < 0.5,
            "fruit": kind,
        }
    )


def write(frame, path):
    match path.suffix:
        case ".csv":
            frame.to_csv(path, index=False)
        case ".tsv":
            frame.to_csv(path, index=False, sep="\t")
        case ".parquet":
            frame.to_parquet(path)
    return str(path)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_tables_of_every_kind_are_the_same_data(suffix, tmp_path):
    """CSV, TSV, Parquet and NPZ files of a table give the same features, labels and classes."""
    frame = table()
    frame.loc[3, "weight"] = np.nan
    frame.loc[4, "colour"] = None
    dataset = read(write(frame, tmp_path / f"fruit{suffix}"), "fruit")
    assert dataset.classes == ("apple", "fig", "pear")
    assert [dataset.classes[label] for label in dataset.labels] == list(frame["fruit"])
    parts = splits(dataset, 5)[0]
    numbers = Encoder(dataset, parts.train).transform(dataset.features)
    # weight and its missing mark if a training row has one, count, two colours and missing, ripe or not
    assert numbers.shape[0] == ROWS
    assert numbers.shape[1] in (6, 7, 8)
    assert np.isfinite(numbers).all()
    assert numbers.dtype == np.float32


def test_suffixes_agree_and_other_data_does_not(tmp_path):
    """The fingerprint depends on the data, not on the format of the file."""
    prints = {
        read(write(table(), tmp_path / f"fruit{suffix}"), "fruit").fingerprint()
        for suffix in (".csv", ".tsv", ".parquet")
    }
    assert len(prints) == 1
    changed = table()
    changed.loc[0, "colour"] = "blue"
    prints.add(read(write(changed, tmp_path / "changed.csv"), "fruit").fingerprint())
    prints.add(read(write(table(), tmp_path / "same.csv"), "fruit", ("ripe",)).fingerprint())
    relabelled = table()
    relabelled["fruit"] = relabelled["fruit"].replace("pear", "plum")
    prints.add(read(write(relabelled, tmp_path / "relabelled.csv"), "fruit").fingerprint())
    assert len(prints) == 4


def encoded_with_moved_rows(encode, folder, part):
    """Training rows as numbers, before and after the rows of another part were changed beyond recognition."""
    frame = table()
    dataset = read(write(frame, folder / "fruit.csv"), "fruit")
    parts = splits(dataset, 5)[0]
    moved = getattr(parts, part)
    frame.loc[moved, "weight"] += 1000.0
    frame.loc[moved, "colour"] = "never seen in training"
    frame.loc[moved, "count"] = np.nan
    changed = read(write(frame, folder / "moved.csv"), "fruit")
    both = [encode(each, parts) for each in (dataset, changed)]
    assert np.isfinite(both[1]).all()
    return [numbers[parts.train] for numbers in both]


@pytest.mark.parametrize("part", ["validation", "test"])
def test_what_is_learnt_is_learnt_from_the_training_rows(part, tmp_path):
    """Scaling and categories come from the training rows only."""
    before, after = encoded_with_moved_rows(
        lambda each, parts: Encoder(each, parts.train).transform(each.features), tmp_path, part
    )
    np.testing.assert_array_equal(after, before)
    assert before[:, 0].mean() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("part", ["validation", "test"])
def test_control_a_planted_leak_of_other_rows_is_found(part, tmp_path):
    """An encoder that also learns from other rows changes when these rows move."""

    def leaky(each, parts):
        return Encoder(each, np.concatenate([parts.train, getattr(parts, part)])).transform(each.features)

    before, after = encoded_with_moved_rows(leaky, tmp_path, part)
    assert before.shape != after.shape or not np.allclose(after, before)


def test_rows_without_a_class_are_left_out_and_said(tmp_path):
    """Rows without a class are left out, with a note."""
    frame = table()
    frame.loc[[0, 7], "fruit"] = None
    dataset = read(write(frame, tmp_path / "fruit.csv"), "fruit")
    assert len(dataset.labels) == ROWS - 2
    assert dataset.notes == ("2 rows without a value in fruit were left out",)
    assert read(write(table(), tmp_path / "whole.csv"), "fruit").notes == ()


@pytest.mark.parametrize(
    ("classes", "names"),
    [
        ([10, 9, 8], ("8", "9", "10")),
        ([1.0, 2.0, np.nan], ("1.0", "2.0")),
        ([0.5, 1.5, 2.5], ("0.5", "1.5", "2.5")),
        ([True, False, True], ("False", "True")),
        (["10", "9", "b"], ("10", "9", "b")),
    ],
)
def test_classes_keep_their_names_and_order(classes, names, tmp_path):
    """Classes keep their names, sorted as text or as numbers."""
    frame = table()
    frame["fruit"] = np.array(classes, dtype=object)[np.arange(ROWS) % 3]
    assert read(write(frame, tmp_path / "fruit.csv"), "fruit").classes == names


def test_empty_and_constant_and_endless_columns_train(tmp_path):
    """Empty and constant columns, and columns of distinct words, can be encoded."""
    frame = table()
    frame["empty"] = np.nan
    frame["constant"] = 1.0
    frame["name"] = [f"row {row}" for row in range(ROWS)]
    dataset = read(write(frame, tmp_path / "fruit.csv"), "fruit")
    numbers = Encoder(dataset, splits(dataset, 5)[0].train).transform(dataset.features)
    assert np.isfinite(numbers).all()
    assert numbers.shape[1] <= 10 + MOST_CATEGORIES


def test_arrays_of_embeddings(tmp_path):
    """Features of more than two dimensions are read and flattened."""
    path = tmp_path / "embeddings.npz"
    generator = np.random.default_rng(0)
    labels = np.array(["cat", "dog"])[np.arange(ROWS) % 2]
    np.savez(path, X=generator.normal(size=(ROWS, 3, 2)).astype(np.float32), y=labels)
    dataset = read(str(path), None)
    assert dataset.classes == ("cat", "dog")
    assert Encoder(dataset, splits(dataset, 5)[0].train).transform(dataset.features).shape == (ROWS, 6)


def test_digits_are_the_default():
    """Without a file, the data are the digits of scikit-learn."""
    dataset = read(None, None)
    assert dataset.features.shape == (1797, 64)
    assert dataset.classes == tuple("0123456789")


def refused(frame, tmp_path, target="fruit", drop=(), name="fruit.csv"):
    with pytest.raises(ValueError, match="must") as caught:
        read(write(frame, tmp_path / name), target, drop)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_bad_tables_are_refused(tmp_path):
    """A table with an unknown target, too few rows or a single class is refused."""
    whole = table()
    assert "target must be a column of" in refused(whole, tmp_path, "friut")
    assert "got 'friut'; did you mean fruit?" in refused(whole, tmp_path, "friut")
    assert "drop must be a column of" in refused(whole, tmp_path, drop=("colors",))
    assert "target must name the column with the classes, got none; give one of" in refused(
        whole, tmp_path, None
    )
    assert "two classes or more, got only 'fig'" in refused(whole.assign(fruit="fig"), tmp_path)
    small = whole.copy()
    small.loc[0, "fruit"] = "kiwi"
    assert "every class must have 5 rows or more, got 1 of class 'kiwi'" in refused(small, tmp_path)
    assert "target must hold classes, got 60 different numbers in 60 rows of fruit.csv" in refused(
        whole, tmp_path, "weight"
    )
    infinite = whole.copy()
    infinite.loc[2, "weight"] = np.inf
    assert "features must be finite or missing, got infinity in line 4 of" in refused(infinite, tmp_path)
    assert "rows and columns beside the classes, got 60 rows and 0 columns" in refused(
        whole[["fruit"]], tmp_path
    )
    assert "rows and columns beside the classes, got 0 rows" in refused(whole[:0], tmp_path)
    times = whole.assign(picked=pd.Timestamp("2024-01-01"))
    assert "numbers or categories, got times in 'picked'" in refused(times, tmp_path, name="times.parquet")
    few = table(19)
    few["fruit"] = np.arange(19) % 2
    assert "data must have 20 rows or more, got 19 in fruit.csv, column 'fruit'; add" in refused(
        few, tmp_path
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.csv", b"", "data must have a header, got an empty file '"),
        ("ragged.csv", b"a,b\n1,2\n1,2,3,4\n", "rows of one length, got 4 cells in line 3 and 2 in line 1"),
        ("binary.csv", bytes(range(128, 256)), "data must be text in UTF-8, got '"),
        ("broken.parquet", b"no parquet", "must be a readable table, got '"),
        ("broken.npz", b"no zip", "must be a readable NPZ file without pickles, got '"),
        ("data.xlsx", b"", "must end in .csv, .tsv, .parquet or .npz, got '"),
    ],
)
def test_unreadable_files_are_refused(name, content, message, tmp_path):
    """A file that cannot be parsed is refused in one line."""
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        read(str(path), None if name.endswith("npz") else "b")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"X": np.zeros((60, 2))}, "data must hold the arrays X and y, got X in"),
        ({"X": np.zeros((60, 2)), "y": np.zeros(59)}, "y must be an array (60,), got (59,) in"),
        ({"X": np.zeros(60), "y": np.zeros(60)}, "X must be (N, D) or have more dimensions, got (60,) in"),
        ({"X": np.full((60, 2), np.nan), "y": np.zeros(60)}, "X must be finite in float32, got nan in row 1"),
        ({"X": np.full((60, 2), "a"), "y": np.zeros(60)}, "X must hold real numbers, got <U1"),
        ({"X": np.zeros((60, 2)), "y": np.full(60, np.nan)}, "y must be known of every row, got none in"),
        ({"X": np.array([object()] * 60), "y": np.zeros(60)}, "data must be a readable NPZ file without"),
    ],
)  # fmt: skip
def test_bad_arrays_are_refused(arrays, message, tmp_path):
    """An NPZ file with unusable arrays is refused."""
    path = tmp_path / "bad.npz"
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=re.escape(message)):
        read(str(path), None)


def test_a_row_far_from_the_training_rows_is_refused_by_place(tmp_path):
    """A row too far from the training rows is refused with its line and column."""
    frame = table().assign(weight=np.arange(ROWS) % 7 * 1e-9)
    frame.loc[5, "weight"] = 1e37
    dataset = read(write(frame, tmp_path / "fruit.csv"), "fruit")
    with pytest.raises(
        FloatingPointError, match=r"features must be below 1e\+30 standard .* in line 7, column"
    ):
        Encoder(dataset, np.flatnonzero(np.arange(ROWS) != 5)).transform(dataset.features)
    assert np.isfinite(Encoder(dataset, np.arange(ROWS)).transform(dataset.features)).all()


def test_other_misuse_is_refused(tmp_path, blobs):
    """A missing file and inconsistent options are refused."""
    with pytest.raises(
        ValueError, match=re.escape("data must be a file, got 'nowhere.csv', which is not there")
    ):
        read("nowhere.csv", "y")
    with pytest.raises(ValueError, match="target and drop must be left out without a table, got 'y'"):
        read(str(blobs), "y")
    with pytest.raises(ValueError, match="drop must be left out with scikit-learn's digits, got"):
        read(None, None, ("a",))
