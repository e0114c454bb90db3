"""Parts of the rows: every row tests once, and no group or time is cut."""

import hashlib
import itertools
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from sklearn.datasets import load_digits

from equipoise.compare.dataset import UNKNOWN, Dataset
from equipoise.compare.matrices import as_noise
from equipoise.compare.splits import Split, flip, splits

_FOUND = load_digits()
DIGITS = Dataset("digits", _FOUND.data, _FOUND.target.astype(np.int64), tuple("0123456789"))


def made(counts=(40, 40, 20), **more):
    """A data set with so many rows of each class, mixed."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    return Dataset("made", np.zeros((len(labels), 1)), labels, tuple("abcdefghij"[: len(counts)]), **more)


def require_parts(dataset, found):
    """Fail if parts share rows or groups, are empty or unsorted, or leave a class untrained."""
    for split in found:
        parts = (split.train, split.validation, split.test)
        together = np.concatenate(parts)
        assert len(np.unique(together)) == len(together)
        for part in parts:
            assert len(part)
            assert (np.diff(part) > 0).all()
        assert set(dataset.labels[split.train]) == set(range(len(dataset.classes)))
        if dataset.groups is not None:
            groups = [set(dataset.groups[part]) for part in parts]
            assert sum(map(len, groups)) == len(set.union(*groups))


@pytest.mark.parametrize(("folds", "repeats"), [(10, 1), (5, 3), (2, 2)])
def test_every_row_tests_once_in_a_repeat_and_a_tenth_of_the_rest_validates(folds, repeats):
    """Each row tests once per repeat, and a tenth of the other rows validates."""
    found = splits(DIGITS, folds, repeats)
    assert len(found) == folds * repeats
    require_parts(DIGITS, found)
    for repeat in range(repeats):
        tests = [split.test for split in found[repeat * folds : (repeat + 1) * folds]]
        np.testing.assert_array_equal(np.sort(np.concatenate(tests)), np.arange(1797))
    for split in found:
        assert len(split.train) + len(split.validation) + len(split.test) == 1797
        assert len(split.test) == pytest.approx(1797 / folds, abs=1)
        assert len(split.validation) == pytest.approx(1797 * (folds - 1) / folds / 10, abs=1)
        for part in (split.train, split.validation, split.test):
            counts = np.bincount(DIGITS.labels[part], minlength=10)  # rounded twice, for test and validation
            expected = np.bincount(DIGITS.labels) * len(part) / 1797
            np.testing.assert_allclose(counts, expected, rtol=0, atol=2)


def test_parts_are_those_of_the_repeat_whatever_else_is_asked():
    """The splits of a repeat do not depend on the number of repeats."""
    once, thrice = splits(DIGITS, 5, 1), splits(DIGITS, 5, 3)
    for a, b in zip(once, thrice[:5], strict=True):
        assert all(np.array_equal(*pair) for pair in zip(vars(a).values(), vars(b).values(), strict=True))
    assert not np.array_equal(thrice[0].test, thrice[5].test)


RANDOM = np.random.default_rng(1)
GROUPS = RANDOM.permutation(np.repeat(np.arange(200), RANDOM.integers(1, 20, 200)))[:1797].astype(np.int64)
KNOWN = np.where(np.random.default_rng(3).random(1797) < 0.3, DIGITS.labels, UNKNOWN)
TIMES = np.random.default_rng(2).permutation(1797) // 7 * 1.0
PARTED = {  # the fields of digits, and a digest of 5 folds and 2 repeats; trials on disk are of such splits
    "plain": ({}, "d274b0031b4c4df6"),
    "groups": ({"groups": GROUPS}, "3bb88e7bead8452d"),
    "clean": ({"clean": KNOWN}, "fdbedaa9a262f36e"),
    "test": ({"test": np.arange(1797) >= 1500}, "1d6e9c7664d7a846"),
    "time": ({"time": TIMES}, "386b90f5f9f64134"),
    "groups and clean": ({"groups": GROUPS, "clean": KNOWN}, "4266df2744e1c9de"),
    "groups and test": ({"groups": GROUPS // 2, "test": GROUPS // 2 < 20}, "dd019dfcc5cad50f"),
}


def digest(found):
    """What tells splits apart."""
    parts = [part.astype("<i8").tobytes() + b"|" for split in found for part in vars(split).values()]
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


@pytest.mark.parametrize("case", PARTED)
def test_splits_of_random_state_0_stay_as_they_are_and_others_differ(case):
    """Splits of `random_state=0` are fixed, and other seeds give others."""
    fields, expected = PARTED[case]
    dataset = replace(DIGITS, **fields)
    assert digest(splits(dataset, 5, 2)) == digest(splits(dataset, 5, 2, 0)) == expected
    others = [splits(dataset, 5, 2, state) for state in (1, 2, 2**32 - 1, np.int32(30_000))]
    for found in others:
        require_parts(dataset, found)
    if case == "time":
        assert {digest(found) for found in others} == {expected}
    else:  # no repeat of one is a repeat of another
        half = 1 if dataset.one_test else 5
        repeats = [digest(part) for found in others for part in (found[:half], found[half:])]
        different = len({*repeats, digest(splits(dataset, 5, 1))})
        # Groups of a few rows can hardly be parted otherwise: scikit-learn shuffles those that are alike
        assert different == 1 + len(repeats) or (case == "groups and test" and different > 3)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_data_is_parted_or_refused_in_one_line(data):
    """Random data are split validly, or refused in one line."""
    count = data.draw(st.integers(1, 60))
    draw = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    labels = draw.integers(0, data.draw(st.integers(1, 5)), count)
    classes = tuple("abcde"[: labels.max() + 1])
    fields = {
        "clean": np.where(draw.random(count) < 0.7, labels, UNKNOWN),
        "groups": draw.integers(0, data.draw(st.integers(1, 40)), count),
        "time": draw.integers(0, 30, count) * 1.0,
        "test": np.arange(count) >= 0.8 * count,
    }
    kept = data.draw(st.sets(st.sampled_from([*fields])))
    dataset = Dataset("made", np.zeros((count, 1)), labels, classes, **{name: fields[name] for name in kept})
    try:
        found = splits(dataset, data.draw(st.integers(2, 6)), 2, data.draw(st.integers(0, 9)))
    except ValueError as error:
        assert re.match("every class|folds|groups|time|clean", str(error))  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017
        return
    for split in found:
        if len(split.test) or "test" not in kept:  # a reader refuses test rows without a class
            parts = [set(part) for part in vars(split).values()]
            assert all(parts)
            assert not any(a & b for a, b in itertools.combinations(parts, 2))
            assert set(labels[split.train]) == set(range(len(classes)))
        if "groups" in kept and "time" not in kept:
            groups = [set(dataset.groups[part]) for part in vars(split).values()]
            assert not any(a & b for a, b in itertools.combinations(groups, 2))


def test_control_bad_parts_are_found():
    """Faulty splits are found by the check."""
    dataset = made(groups=np.arange(100) // 4)
    good = splits(dataset, 5)[0]
    require_parts(dataset, [good])
    cut = np.setdiff1d(np.arange(100), good.test)
    bad = [
        replace(good, validation=good.test),
        replace(good, validation=good.validation[:0]),
        replace(good, train=good.train[dataset.labels[good.train] != 1]),
        replace(good, train=good.train[::-1]),
        Split(cut[:40], cut[40:], good.test),  # group 10 or another is cut
    ]
    for each in bad[:4]:
        with pytest.raises(AssertionError):
            require_parts(dataset, [each])
    plain = splits(replace(dataset, groups=None), 5)
    with pytest.raises(AssertionError):
        require_parts(dataset, plain)


def test_rows_of_a_group_are_never_in_two_parts():
    """Rows of a group are never in two parts."""
    generator = np.random.default_rng(1)
    groups = generator.permutation(np.repeat(np.arange(200), generator.integers(1, 20, 200)))[:1797]
    dataset = replace(DIGITS, groups=groups.astype(np.int64))
    found = splits(dataset, 10, 2)
    require_parts(dataset, found)
    np.testing.assert_array_equal(np.sort(np.concatenate([s.test for s in found[:10]])), np.arange(1797))
    for split in found:
        assert 0.05 < len(split.test) / 1797 < 0.15
        assert 0.09 < len(split.validation) / (1797 - len(split.test)) < 0.11
        shares = np.bincount(dataset.labels[split.test], minlength=10) / len(split.test)
        assert np.abs(shares - 0.1).max() < 0.06


def test_the_largest_group_does_not_validate_where_others_can():
    """The largest group is not the validation part if others can be."""
    groups = np.concatenate([np.zeros(50), np.arange(1, 51)]).astype(np.int64)
    dataset = made((50, 50), groups=groups)
    found = splits(dataset, 5)
    require_parts(dataset, found)
    assert all(len(split.validation) <= 15 for split in found if 0 not in dataset.groups[split.test])


@pytest.mark.parametrize("ties", [1, 7, 30])
def test_the_latest_fifth_tests_and_no_time_is_cut(ties):
    """The latest fifth of the times tests, and equal times are never separated."""
    time = np.random.default_rng(2).permutation(np.arange(1797) // ties).astype(np.float64)
    dataset = replace(DIGITS, time=time)
    found = splits(dataset, 10, 3)
    assert len(found) == 3
    assert dataset.one_test
    require_parts(dataset, found)
    for split in found:
        train, validation, test = (time[part] for part in vars(split).values())
        assert train.max() < validation.min()
        assert validation.max() < test.min()
        assert len(train) + len(validation) + len(test) == 1797
        assert len(test) == pytest.approx(359, abs=(ties + 1) / 2)
        assert len(validation) == pytest.approx(len(train) / 9, abs=ties)


def test_rows_of_a_file_test_and_validation_is_drawn_anew():
    """Rows of a test file test, and each repeat draws its own validation rows."""
    dataset = replace(DIGITS, test=np.arange(1797) >= 1500)
    found = splits(dataset, 10, 3)
    assert len(found) == 3
    require_parts(dataset, found)
    for split in found:
        np.testing.assert_array_equal(split.test, np.arange(1500, 1797))
        assert len(split.validation) == 150
        assert len(split.train) == 1350
    assert not np.array_equal(found[0].validation, found[1].validation)


def test_rows_without_a_better_label_train_and_never_test():
    """Rows without a clean label train and never test."""
    known = np.random.default_rng(3).random(1797) < 0.3
    clean = np.where(known, DIGITS.labels, UNKNOWN)
    found = splits(replace(DIGITS, clean=clean), 5)
    require_parts(DIGITS, found)
    np.testing.assert_array_equal(np.sort(np.concatenate([s.test for s in found])), np.flatnonzero(known))
    for split in found:
        assert len(split.train) + len(split.validation) + len(split.test) == 1797
    groups = np.arange(1797) // 3
    grouped = replace(DIGITS, clean=clean, groups=groups)
    require_parts(grouped, splits(grouped, 5))
    late = replace(DIGITS, clean=clean, time=np.arange(1797.0))
    (split,) = splits(late)
    np.testing.assert_array_equal(split.test, np.flatnonzero(known & (np.arange(1797) >= 1438)))
    assert max(split.validation) == 1437
    of_file = replace(DIGITS, clean=clean, test=np.arange(1797) >= 1500)
    np.testing.assert_array_equal(splits(of_file)[0].test, np.flatnonzero(known & (np.arange(1797) >= 1500)))


@pytest.mark.parametrize("folds", [2, 3, 5, 10])
@pytest.mark.parametrize("counts", [(100, 5), (5,) * 4, (10, 10), (60, 30, 6, 5, 5), (200, 200, 5)])
def test_small_classes_are_parted_without_a_word_and_always_trained(counts, folds):
    """Small classes are always among the training rows."""
    dataset = made(counts)
    if folds > max(counts):
        with pytest.raises(
            ValueError, match="folds must be at most the number of rows of the commonest class"
        ):
            splits(dataset, folds)
    else:
        require_parts(dataset, splits(dataset, folds, 5))


REFUSED = [
    (made(), {"folds": 1}, "folds must be 2 or more, got 1; 10 is the default"),
    (made(), {"repeats": 0}, "repeats must be 1 or more, got 0; 1 is the default"),
    (made((5,) * 4), {"folds": 6}, "folds must be at most the number of rows of the commonest class, got 6"),
    (made(groups=np.arange(100) % 4), {"folds": 5}, "folds must be at most the number of groups, or"),
    (
        made((90, 10), groups=np.random.default_rng(0).permutation(np.repeat([0, 1], [90, 10]))),
        {"folds": 2},
        "every class must have training rows, got none of class 'a' in made; its rows are in too few groups",
    ),
    (made(time=np.zeros(100)), {}, "time must have three values or more, for training, validation"),
    (made(time=np.arange(100.0) // 50), {}, "time must have three values or more, for training, validation"),
    (
        made(clean=np.full(100, UNKNOWN), time=np.arange(100.0)),
        {},
        "clean must be known of some test rows, got none among the latest 20 rows of made",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("dataset", "options", "says"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_cannot_be_parted_is_refused(dataset, options, says):
    """Data that cannot be split are refused in one line."""
    with pytest.raises(ValueError, match=re.escape(says)) as caught:
        splits(dataset, **options)
    assert "\n" not in str(caught.value)


def test_a_class_that_only_comes_late_is_refused():
    """A class that exists only among the latest rows is refused."""
    labels = np.concatenate([np.arange(80) % 2, np.full(20, 2)])
    dataset = Dataset("made", np.zeros((100, 1)), labels, ("a", "b", "c"), time=np.arange(100.0))
    with pytest.raises(ValueError, match="got none of class 'c' in made; all its rows are late"):
        splits(dataset)


def test_a_class_that_is_in_two_groups_only_is_refused_where_it_cannot_validate():
    """A class of two groups is refused if it cannot be both in training and validation rows."""
    groups = np.arange(100) // 5
    labels = (groups >= 18).astype(np.int64)
    dataset = Dataset("made", np.zeros((100, 1)), labels, ("a", "b"), groups=groups)
    require_parts(dataset, splits(dataset, 5))  # one of them tests, the other trains: validation does without
    two = replace(dataset, groups=np.repeat([0, 1, 2, 3], [45, 45, 5, 5]))
    with pytest.raises(ValueError, match=r"groups must leave training rows .* got 2 groups beside"):
        splits(two, 2)


def test_noise_flips_its_share_of_all_labels_alike_in_every_split():
    """Label noise flips its rate of labels, the same ones in every split."""
    noise = as_noise("0.4", DIGITS.classes)
    observed = flip(DIGITS.labels, noise, 0)
    wrong = observed != DIGITS.labels
    assert wrong.mean() == pytest.approx(0.4, abs=4 * np.sqrt(0.24 / 1797))
    for split in splits(DIGITS):
        for part in (split.train, split.validation):
            assert wrong[part].mean() == pytest.approx(0.4, abs=4 * np.sqrt(0.24 / len(part)))
    assert chisquare(np.bincount(observed[wrong], minlength=10)).pvalue > 0.001
    assert (flip(DIGITS.labels, as_noise("0", DIGITS.classes), 0) == DIGITS.labels).all()
    np.testing.assert_array_equal(flip(DIGITS.labels, noise, 0), observed)
    assert (observed != flip(DIGITS.labels, noise, 1)).any()
    assert observed.dtype == np.int64


def test_noise_by_a_matrix_goes_from_true_to_observed():
    """A noise matrix is indexed [true, observed]."""
    noise = np.eye(10)
    noise[3] = 0
    noise[3, [3, 5]] = 0.25, 0.75
    observed = flip(DIGITS.labels, noise, 0)
    changed = observed != DIGITS.labels
    assert set(DIGITS.labels[changed]) == {3}
    assert set(observed[changed]) == {5}
    assert changed.sum() / (DIGITS.labels == 3).sum() == pytest.approx(0.75, abs=0.15)
    # control: the transposed matrix flips the other way round
    with pytest.raises(AssertionError):
        np.testing.assert_array_equal(
            flip(DIGITS.labels, noise.T / noise.T.sum(1, keepdims=True), 0), observed
        )
