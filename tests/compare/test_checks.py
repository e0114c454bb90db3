"""Columns, classes and rows that look wrong are warned of by name, and the like that are right are not."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine

from equipoise.compare.checks import warn_of_columns, warn_of_parts
from equipoise.compare.dataset import Dataset
from equipoise.compare.files import read
from equipoise.compare.splits import Split, splits

ROWS = 300
SPREAD = np.random.default_rng(0)
LABELS = SPREAD.choice(4, ROWS, p=[0.5, 0.3, 0.15, 0.05])
NAMES = np.array(["ash", "beech", "elm", "oak"], dtype=object)
CODES = np.array([7.0, -1.0, 3.0, 0.5])
NOISY = np.where(SPREAD.random(ROWS) < 0.3, SPREAD.choice(4, ROWS), LABELS)


def words(values):
    return np.array([np.nan if value is None else str(value) for value in values], dtype=object)


def sparse(values, share):
    """The values with a share of them missing."""
    found = values.copy()
    found[np.random.default_rng(1).random(ROWS) < share] = np.nan
    return found


LEAKS = {
    "the class": NAMES[LABELS],
    "the class in other words": words(f"tree {label}" for label in LABELS),
    "the class as a number": LABELS.astype(float),
    "the class as a code": CODES[LABELS],
    "a finer class": words(f"{label}.{k % 3}" for k, label in enumerate(LABELS)),
    "a number made of the class": CODES[LABELS] + SPREAD.normal(0, 1e-3, ROWS),
    "the class with one slip": np.where(
        np.arange(ROWS) == np.flatnonzero(LABELS == 0)[0], "oak", NAMES[LABELS]
    ),
}
NO_LEAKS = {
    "noise": SPREAD.normal(size=ROWS),
    "a strong measurement": LABELS + SPREAD.normal(0, 0.3, ROWS),
    "the class with tenths missing": sparse(LABELS + SPREAD.normal(0, 1e-3, ROWS), 0.1),
    "words": words(SPREAD.integers(0, 9, ROWS)),
    "names nearly all different": words(k % 250 for k in range(ROWS)),
    "whether it is the commonest class": words(LABELS == 0),
    "yes and no": np.where(SPREAD.random(ROWS) < 0.5, "yes", "no").astype(object),
    "a class and a number": np.where(SPREAD.random(ROWS) < 0.5, NAMES[NOISY], "birch").astype(object),
    "names of classes by chance": NAMES[SPREAD.choice(4, ROWS)],
}


def warned(values, labels=LABELS, classes=tuple(NAMES)):
    """Warnings of a column between two that are none."""
    rows = len(labels)
    frame = pd.DataFrame({"x": SPREAD.normal(size=rows), "n m": values, "y": SPREAD.normal(size=rows)})
    return warn_of_columns(frame, labels, classes)


@pytest.mark.parametrize("case", LEAKS)
def test_a_column_that_is_the_class_is_warned_of_by_name(case):
    """A column that determines the class causes a warning with its name."""
    (warning,) = warned(LEAKS[case])
    assert warning.startswith("'n m' may be the class in another form: alone it tells the classes apart with")
    assert warning.endswith("leave it out with drop")


@pytest.mark.parametrize("case", NO_LEAKS)
def test_control_a_column_that_is_not_the_class_is_not(case):
    """A column that does not determine the class causes no warning."""
    assert warned(NO_LEAKS[case]) == []


def test_a_missing_value_may_be_the_leak():
    """A column whose missing values determine the class causes a warning."""
    values = np.where(LABELS > 1, np.nan, SPREAD.normal(size=ROWS))
    (warning,) = warned(values, (LABELS > 1).astype(np.int64), ("alive", "dead"))
    assert "may be the class in another form" in warning
    assert warned(sparse(values, 0.2), (LABELS > 1).astype(np.int64), ("alive", "dead")) == []


@pytest.mark.parametrize("missing", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["names", "numbers"])
def test_another_label_is_warned_of(kind, missing):
    """A column that holds a noisy copy of the label causes a warning."""
    values, classes = (NAMES[NOISY], tuple(NAMES))
    if kind == "numbers":
        values, classes = NOISY + 1.0, ("1", "2", "3", "4")
    (warning,) = warned(sparse(values, missing), LABELS, classes)
    assert warning.startswith(
        "'n m' may be another label: all its values are classes, those of the target in "
    )
    assert "of the two as clean" in warning
    # control: numbers that are no classes, of a survey's other question
    assert warned(NOISY + 2.0, LABELS, ("1", "2", "3", "4")) == []
    other = np.clip(LABELS + SPREAD.integers(-2, 3, ROWS), 0, 3) + 1.0
    assert warned(other, LABELS, ("1", "2", "3", "4")) == []


def test_classes_of_one_row_and_no_rows_are_not_looked_at():
    """Classes of one row and empty data cause no warning."""
    assert warned(np.arange(5) % 2 * 1.0, np.array([0, 0, 0, 0, 1]), ("a", "b")) == []
    assert warned(np.zeros(0), np.zeros(0, dtype=np.int64), ("a", "b")) == []


def test_constant_columns_are_named_in_one_line():
    """Constant columns are named together in one warning."""
    frame = pd.DataFrame({"x": NAMES[NOISY], "a b": 1.0, "c": np.full(ROWS, np.nan), "d": "same"})
    frame["x"] = SPREAD.normal(size=ROWS)
    assert warn_of_columns(frame, LABELS, tuple(NAMES)) == [
        "the same value in every row tells nothing of the class, got that in 'a b', 'c', 'd'; check the "
        "data, or leave such columns out"
    ]
    numbers = SPREAD.normal(size=(ROWS, 9))
    assert warn_of_columns(numbers, LABELS, tuple(NAMES)) == []
    numbers[:, 3] = 7
    (warning,) = warn_of_columns(numbers, LABELS, tuple(NAMES))
    assert "tells nothing of the class, got that in column 4 of X; " in warning
    numbers[:, 1:8] = 7
    (warning,) = warn_of_columns(numbers, LABELS, tuple(NAMES))
    assert "column 6 of X and 2 more; " in warning
    nearly = np.zeros(ROWS)
    nearly[5] = 1
    assert warned(nearly) == []


SETS = {"iris": load_iris, "wine": load_wine, "breast cancer": load_breast_cancer}


@pytest.mark.parametrize("name", SETS)
def test_real_data_is_not_warned_of(name):
    """Real tables cause no warning."""
    found = SETS[name](as_frame=True)
    classes = tuple(found.target_names)
    labels = found.target.to_numpy()
    features = found.data.astype(float)
    assert warn_of_columns(features, labels, classes) == []
    dataset = Dataset(name, features, labels, classes)
    assert warn_of_parts(dataset, splits(dataset)) == []
    # control: the same data with a leak, and with every row twice
    assert len(warn_of_columns(features.assign(leak=labels * 2.0), labels, classes)) == 1
    twice = Dataset(name, pd.concat([features, features]), np.tile(labels, 2), classes)
    (warning,) = warn_of_parts(twice, splits(twice))
    assert "test rows (" in warning


def test_digits_are_not_warned_of():
    """The digits cause no warning."""
    found = load_digits()
    kept = found.data[:, found.data.std(axis=0) > 0]
    assert warn_of_columns(kept, found.target, tuple("0123456789")) == []


def parts(rows, tests):
    """A split whose test rows are given."""
    rest = np.setdiff1d(np.arange(rows), tests)
    return Split(rest[10:], rest[:10], np.array(tests))


def test_copied_rows_are_counted_across_parts_with_those_of_another_class():
    """Copied rows are counted across parts, and those with another class separately."""
    features = np.random.default_rng(0).normal(size=(200, 3))
    labels = np.arange(200) % 2
    features[100:104] = features[0:4]  # four test rows that were trained on or validated with,
    labels[100:102], labels[102:104] = labels[0:2], 1 - labels[2:4]  # two of them with another class
    features[110] = features[111]  # and two in one part, which is no matter
    dataset = Dataset("made", features, labels, ("a", "b"))
    (warning,) = warn_of_parts(dataset, [parts(200, range(100, 200))])
    assert warning.startswith(
        "4 of 100 test rows (4.0%) have the features of a row that was trained on, 2 of them"
    )
    assert "with groups" in warning
    table = pd.DataFrame(features).astype({0: str})
    assert warn_of_parts(Dataset("made", table, labels, ("a", "b")), [parts(200, range(100, 200))]) == [
        warning
    ]
    # controls: one copy in a hundred, and copies that a group keeps together
    once = Dataset(
        "made",
        np.concatenate([features[:100], features[150:], features[:1]]),
        np.append(labels[:150], 0),
        ("a", "b"),
    )
    assert warn_of_parts(once, [parts(151, range(51, 151))]) == []
    twice = Dataset("made", np.tile(features[:100], (2, 1)), np.tile(labels[:100], 2), ("a", "b"))
    assert len(warn_of_parts(twice, splits(twice))) == 1
    kept = Dataset("made", twice.features, twice.labels, ("a", "b"), groups=np.tile(np.arange(100), 2))
    assert warn_of_parts(kept, splits(kept)) == []


def test_rows_that_are_equal_by_chance_are_no_copies():
    """Rows that are equal by chance are not reported as copies."""
    generator = np.random.default_rng(0)
    features = pd.DataFrame({name: generator.choice(list("pqrs"), 400) for name in "abc"}, dtype=object)
    labels = generator.integers(0, 2, 400)
    dataset = Dataset("made", features, labels, ("a", "b"))
    assert warn_of_parts(dataset, splits(dataset)) == []
    # control: with a column that tells rows apart, equal rows are copies
    marked = features.assign(d=np.tile(generator.normal(size=200), 2))
    marked.iloc[200:, :3] = marked.iloc[:200, :3].to_numpy()
    assert len(warn_of_parts(Dataset("made", marked, labels, ("a", "b")), splits(dataset))) == 1


def test_classes_that_test_parts_lack_are_named():
    """A warning names the classes that some test part lacks."""
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [50, 7, 6]))
    features = np.random.default_rng(0).normal(size=(63, 2))
    dataset = Dataset("made", features, labels, ("a", "b", "c"))
    (warning,) = warn_of_parts(dataset, splits(dataset, 10))
    assert warning.startswith("up to 4 of 10 test parts lack rows of 'c', 'b', and cannot say ")
    assert warning.endswith("merge or remove such classes, or lower folds")
    (warning,) = warn_of_parts(dataset, splits(dataset, 7))
    assert warning.startswith("up to 1 of 7 test parts lack rows of 'c', and ")
    assert warn_of_parts(dataset, splits(dataset, 6)) == []
    late = Dataset("made", features, np.sort(labels)[::-1].copy(), ("a", "b", "c"), time=np.arange(63.0))
    (warning,) = warn_of_parts(late, splits(late))
    assert warning.startswith("the test part lacks rows of 'b', 'c', and ")
    assert warning.endswith("; merge or remove such classes")


def test_classes_of_test_parts_are_the_better_labels():
    """Classes of test parts are taken from the clean labels."""
    labels = np.arange(100) % 2
    dataset = Dataset("made", np.random.default_rng(0).normal(size=(100, 2)), labels, ("a", "b"))
    assert warn_of_parts(dataset, splits(dataset, 5)) == []
    wrong = replace(dataset, clean=np.zeros(100, dtype=np.int64))  # every label of "b" is wrong
    (warning,) = warn_of_parts(wrong, splits(wrong, 5))
    assert warning.startswith("up to 5 of 5 test parts lack rows of 'b', and ")


@pytest.mark.parametrize("shape", [(200, 1, 8, 8), (200, 5, 2)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_copied_images_are_found_and_their_pixels_are_no_columns(shape, dtype):
    """Copied images are found, and their pixels are not checked as columns."""
    features = np.random.default_rng(0).integers(0, 255, shape).astype(dtype)
    features[..., 0] = 7
    features[100:104] = features[:4]
    labels = np.arange(200) % 2
    dataset = Dataset("made", features, labels, ("a", "b"))
    assert warn_of_columns(features, labels, ("a", "b")) == []
    (warning,) = warn_of_parts(dataset, [parts(200, range(100, 200))])
    assert warning.startswith(
        "4 of 100 test rows (4.0%) have the features of a row that was trained on, 0 of"
    )
    features[100:104] += np.arange(4).reshape(4, *[1] * (features.ndim - 1)).astype(dtype)
    assert warn_of_parts(dataset, [parts(200, range(100, 200))]) == []  # 1 of 100 is left


def test_zero_with_either_sign_is_the_same_feature():
    """0.0 and -0.0 are the same value when copies are counted."""
    features = np.where(np.random.default_rng(0).random((200, 40)) < 0.5, 0.0, 1.0)
    features[100:] = np.where(features[:100] == 0, -0.0, 1.0)
    dataset = Dataset("made", features, np.arange(200) % 2, ("a", "b"))
    (warning,) = warn_of_parts(dataset, [parts(200, range(100, 200))])
    assert warning.startswith("100 of 100 test rows")


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.int8, np.uint16])
def test_numbers_of_any_kind_are_looked_at_alike(dtype):
    """The warnings are the same for each dtype of numbers."""
    kinds = {
        "row numbers": (np.arange(ROWS) % 251 if dtype == np.int8 else np.arange(ROWS), dtype != np.int8),
        "the class": (LABELS * 3, True),
        "another label": (NOISY, True),
        "a count": (SPREAD.integers(0, 50, ROWS), False),
        "the same": (np.full(ROWS, 3), True),
    }
    for values, expected in kinds.values():
        given = np.stack([SPREAD.integers(0, 9, ROWS), values % 128], 1).astype(dtype)
        if values is kinds["row numbers"][0] and expected:
            given[:, 1] = np.arange(ROWS)
        found = warn_of_columns(given, LABELS, tuple("0123"))
        assert len(found) == expected
        assert all("column 2 of X" in warning for warning in found)
        frame = pd.DataFrame(given, columns=["a", "column 2 of X"])
        assert [each.replace("'", "") for each in warn_of_columns(frame, LABELS, tuple("0123"))] == found


@pytest.mark.parametrize("kind", ["normal", "imbalanced", "words", "hundred classes"])
def test_ten_thousand_rows_of_a_hundred_columns_take_less_than_a_second(kind):
    """The checks of 10,000 rows and 100 columns take less than a second."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 100 if kind == "hundred classes" else 10, 10_000)
    if kind == "imbalanced":
        labels = (generator.random(10_000) < 0.01).astype(np.int64)
    features = generator.normal(size=(10_000, 100)) + labels[:, None] / 3
    if kind == "words":
        features = pd.DataFrame(generator.integers(0, 50, (10_000, 100)).astype(str).astype(object))
    dataset = Dataset("made", features, labels, tuple(map(str, range(labels.max() + 1))))
    found = splits(dataset)
    began = time.process_time()
    assert warn_of_columns(features, labels, dataset.classes) + warn_of_parts(dataset, found) == []
    assert time.process_time() - began < 1


# Cells of a column, and the number that is shown, or none.
COMMAS = {
    "decimal": (["29,1", "3", "-0,5"], "29,1"),
    "thousands": (["1,234", "900"], "1,234"),
    "points": (["29.1", "3.5"], None),
    "words": (["a,b", "29,1"], None),
    "no comma": (["29 kg", "30 kg"], None),
}


@pytest.mark.parametrize("case", COMMAS)
def test_numbers_with_decimal_commas_are_warned_of(case, tmp_path, monkeypatch):
    """A column of numbers with commas, which becomes one of categories, is warned of."""
    monkeypatch.chdir(tmp_path)
    cells, shown = COMMAS[case]
    rows = "".join(f"{k % 9};{cells[k % len(cells)]};{'xy'[k % 2]}\n" for k in range(40))
    Path("t.csv").write_text(f"a;b;label\n{rows}")
    found = [each for each in read("t.csv", target="label").warnings if "commas" in each]
    assert len(found) == (shown is not None)
    if shown is not None:
        assert found[0].startswith(
            f"'b' holds numbers with commas, such as {shown!r} in line 2, and each is read"
        )
        assert found[0].endswith("write decimal points, and no separators of thousands")


HEADERS = {"31,20.5,yes": True, "31,20,yes": True, "0,1,yes": False, "1,2,yes": False, "a,b,yes": False}


@pytest.mark.parametrize("header", HEADERS)
def test_a_file_without_a_header_is_warned_of(header, tmp_path, monkeypatch):
    """Names of columns that are numbers are warned of, but for 0, 1, 2, ...."""
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text(f"{header}\n" + "".join(f"{k % 9},{k % 7},{'xy'[k % 2]}\n" for k in range(40)))
    found = [each for each in read("t.csv", target="yes").warnings if "line 1" in each]
    assert len(found) == HEADERS[header]
    if found:
        assert found[0].startswith("line 1 of t.csv has the names of the columns, got '31', '20")
        assert found[0].endswith("if it is a row, write names above it")
