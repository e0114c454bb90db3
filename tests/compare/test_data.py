import re

import numpy as np
import pandas as pd
import pytest

from equipoise.compare import data
from equipoise.compare.matrices import read_noise

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
    frame = table()
    frame.loc[3, "weight"] = np.nan
    frame.loc[4, "colour"] = None
    dataset = data.load(write(frame, tmp_path / f"fruit{suffix}"), "fruit")
    assert dataset.classes == ("apple", "fig", "pear")
    assert [dataset.classes[label] for label in dataset.labels] == list(frame["fruit"])
    parts = data.split(dataset, 0)
    numbers = data.encode(dataset, parts.train)
    # weight and its missing mark if a training row has one, count, two colours and missing, ripe or not
    assert numbers.shape[0] == ROWS
    assert numbers.shape[1] in (6, 7, 8)
    assert np.isfinite(numbers).all()
    assert numbers.dtype == np.float32


def test_suffixes_agree_and_other_data_does_not(tmp_path):
    prints = {
        data.load(write(table(), tmp_path / f"fruit{suffix}"), "fruit").fingerprint()
        for suffix in (".csv", ".tsv", ".parquet")
    }
    assert len(prints) == 1
    changed = table()
    changed.loc[0, "colour"] = "blue"
    prints.add(data.load(write(changed, tmp_path / "changed.csv"), "fruit").fingerprint())
    prints.add(data.load(write(table(), tmp_path / "same.csv"), "fruit", ("ripe",)).fingerprint())
    relabelled = table()
    relabelled["fruit"] = relabelled["fruit"].replace("pear", "plum")
    prints.add(data.load(write(relabelled, tmp_path / "relabelled.csv"), "fruit").fingerprint())
    assert len(prints) == 4


def test_what_is_learnt_is_learnt_from_the_training_rows(tmp_path):
    frame = table()
    dataset = data.load(write(frame, tmp_path / "fruit.csv"), "fruit")
    parts = data.split(dataset, 0)
    before = data.encode(dataset, parts.train)
    frame.loc[parts.test, "weight"] += 1000.0
    frame.loc[parts.test, "colour"] = "never seen in training"
    moved = data.load(write(frame, tmp_path / "moved.csv"), "fruit")
    after = data.encode(moved, parts.train)
    np.testing.assert_array_equal(after[parts.train], before[parts.train])
    assert before[parts.train][:, 0].mean() == pytest.approx(0, abs=1e-6)
    assert np.isfinite(after).all()
    # control: fitted on all rows the training rows would have moved
    everything = data.encode(moved, np.arange(ROWS))
    assert not np.allclose(everything[parts.train][:, 0], before[parts.train][:, 0])


def test_rows_without_a_class_are_left_out_and_said(tmp_path):
    frame = table()
    frame.loc[[0, 7], "fruit"] = None
    dataset = data.load(write(frame, tmp_path / "fruit.csv"), "fruit")
    assert len(dataset.labels) == ROWS - 2
    assert dataset.notes == ("2 rows without a value in fruit were left out",)
    assert data.load(write(table(), tmp_path / "whole.csv"), "fruit").notes == ()


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
    frame = table()
    frame["fruit"] = np.array(classes, dtype=object)[np.arange(ROWS) % 3]
    assert data.load(write(frame, tmp_path / "fruit.csv"), "fruit").classes == names


def test_empty_and_constant_and_endless_columns_train(tmp_path):
    frame = table()
    frame["empty"] = np.nan
    frame["constant"] = 1.0
    frame["name"] = [f"row {row}" for row in range(ROWS)]
    dataset = data.load(write(frame, tmp_path / "fruit.csv"), "fruit")
    numbers = data.encode(dataset, data.split(dataset, 0).train)
    assert np.isfinite(numbers).all()
    assert numbers.shape[1] <= 10 + data.MOST_CATEGORIES


def test_arrays_of_embeddings(tmp_path):
    path = tmp_path / "embeddings.npz"
    generator = np.random.default_rng(0)
    labels = np.array(["cat", "dog"])[np.arange(ROWS) % 2]
    np.savez(path, X=generator.normal(size=(ROWS, 3, 2)).astype(np.float32), y=labels)
    dataset = data.load(str(path), None)
    assert dataset.classes == ("cat", "dog")
    assert data.encode(dataset, data.split(dataset, 0).train).shape == (ROWS, 6)


def test_digits_are_the_default():
    dataset = data.load(None, None)
    assert dataset.features.shape == (1797, 64)
    assert dataset.classes == tuple("0123456789")


def test_parts_are_stratified_disjoint_and_depend_on_the_seed():
    dataset = data.load(None, None)
    parts = data.split(dataset, 0)
    together = np.concatenate([parts.train, parts.validation, parts.test])
    assert sorted(together) == list(range(1797))
    assert (len(parts.train), len(parts.validation), len(parts.test)) == (898, 180, 719)
    for rows in (parts.train, parts.validation, parts.test):
        shares = np.bincount(dataset.labels[rows], minlength=10) / len(rows)
        np.testing.assert_allclose(shares, np.bincount(dataset.labels) / 1797, atol=0.01)
    assert not np.array_equal(parts.test, data.split(dataset, 1).test)
    np.testing.assert_array_equal(parts.test, data.split(dataset, 0).test)


def flipped_test_labels(dataset, observed, parts):
    return int((observed[parts.test] != dataset.labels[parts.test]).sum())


def test_noise_flips_its_share_of_training_and_validation_labels_and_never_test_labels():
    dataset = data.load(None, None)
    parts = data.split(dataset, 0)
    observed = data.flip(dataset.labels, read_noise("0.4", dataset.classes), parts, 0)
    assert flipped_test_labels(dataset, observed, parts) == 0
    for rows in (parts.train, parts.validation):
        share = (observed[rows] != dataset.labels[rows]).mean()
        assert share == pytest.approx(0.4, abs=4 * np.sqrt(0.24 / len(rows)))
    wrong = observed[observed != dataset.labels]
    assert np.bincount(wrong, minlength=10).min() > 0.5 * len(wrong) / 10
    assert (data.flip(dataset.labels, read_noise("0", dataset.classes), parts, 0) == dataset.labels).all()
    assert (observed != data.flip(dataset.labels, read_noise("0.4", dataset.classes), parts, 1)).any()


def test_control_flipped_test_labels_would_be_seen():
    dataset = data.load(None, None)
    parts = data.split(dataset, 0)
    leaky = data.Split(parts.train, np.concatenate([parts.validation, parts.test]), parts.test)
    observed = data.flip(dataset.labels, read_noise("0.4", dataset.classes), leaky, 0)
    assert flipped_test_labels(dataset, observed, parts) > 200


def test_noise_by_a_matrix_goes_from_true_to_observed():
    dataset = data.load(None, None)
    parts = data.split(dataset, 0)
    noise = np.eye(10)
    noise[3] = 0
    noise[3, [3, 5]] = 0.25, 0.75
    observed = data.flip(dataset.labels, noise, parts, 0)
    rows = np.concatenate([parts.train, parts.validation])
    changed = rows[observed[rows] != dataset.labels[rows]]
    assert set(dataset.labels[changed]) == {3}
    assert set(observed[changed]) == {5}
    assert len(changed) / (dataset.labels[rows] == 3).sum() == pytest.approx(0.75, abs=0.15)


def refused(frame, tmp_path, target="fruit", drop=(), name="fruit.csv"):
    with pytest.raises(ValueError, match="must") as caught:
        data.load(write(frame, tmp_path / name), target, drop)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_bad_tables_are_refused(tmp_path):
    whole = table()
    assert "target must be a column of" in refused(whole, tmp_path, "friut")
    assert "got 'friut'; did you mean fruit?" in refused(whole, tmp_path, "friut")
    assert "drop must be a column of" in refused(whole, tmp_path, drop=("colors",))
    assert "target must name the column with the classes, got none; add --target with one of" in refused(
        whole, tmp_path, None
    )
    assert "two classes or more, got only 'fig'" in refused(whole.assign(fruit="fig"), tmp_path)
    small = whole.copy()
    small.loc[0, "fruit"] = "kiwi"
    assert "every class must have 5 rows or more, got 1 of class 'kiwi'" in refused(small, tmp_path)
    assert "every class must have 5 rows or more, got 1 of class" in refused(whole, tmp_path, "weight")
    infinite = whole.copy()
    infinite.loc[2, "weight"] = np.inf
    assert "features must be finite or missing, got infinity in line 4 of" in refused(infinite, tmp_path)
    assert "rows and columns beside the classes, got 60 rows and 0 columns" in refused(
        whole[["fruit"]], tmp_path
    )
    assert "rows and columns beside the classes, got 0 rows" in refused(whole[:0], tmp_path)
    times = whole.assign(picked=pd.Timestamp("2024-01-01"))
    assert "numbers or categories, got times in 'picked'" in refused(times, tmp_path, name="times.parquet")
    crowded = table(65)
    crowded["fruit"] = np.arange(65) % 13
    assert "130 rows or more for 13 classes, got 65" in refused(crowded, tmp_path)


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
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        data.load(str(path), None if name.endswith("npz") else "b")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"X": np.zeros((60, 2))}, "data must hold the arrays X and y, got X in"),
        ({"X": np.zeros((60, 2)), "y": np.zeros(59)}, "X must be (N, D) and y (N,), got (60, 2) and (59,)"),
        ({"X": np.zeros(60), "y": np.zeros(60)}, "X must be (N, D) and y (N,), got (60,) and (60,)"),
        ({"X": np.full((60, 2), np.nan), "y": np.zeros(60)}, "X must be finite in float32, got nan in row 1"),
        ({"X": np.full((60, 2), "a"), "y": np.zeros(60)}, "X must hold real numbers, got <U1"),
        ({"X": np.zeros((60, 2)), "y": np.full(60, np.nan)}, "target must be finite, got nan or infinity"),
        ({"X": np.array([object()] * 60), "y": np.zeros(60)}, "data must be a readable NPZ file without"),
    ],
)  # fmt: skip
def test_bad_arrays_are_refused(arrays, message, tmp_path):
    path = tmp_path / "bad.npz"
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=re.escape(message)):
        data.load(str(path), None)


def test_other_misuse_is_refused(tmp_path, blobs):
    with pytest.raises(
        ValueError, match=re.escape("data must be a file, got 'nowhere.csv', which is not there")
    ):
        data.load("nowhere.csv", "y")
    with pytest.raises(ValueError, match="target and drop must be left out without a table, got 'y'"):
        data.load(str(blobs), "y")
    with pytest.raises(ValueError, match="target and drop must be left out without a table, got 'a'"):
        data.load(None, None, ("a",))
