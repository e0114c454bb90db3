"""The models beside the candidates see what the candidates see, and test rows tell them nothing."""

import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_info, threadpool_limits

from equipoise.compare.context import COMMONEST, TREES, run_context
from equipoise.compare.measures import MEASURES

BY_NAME = {measure.name: measure for measure in MEASURES}


def made(rows: int = 600, classes: int = 3, noise: float = 0.0, seed: int = 0) -> Any:
    """Blobs whose classes are unequally common, in three parts, with some labels flipped."""
    generator = np.random.default_rng(seed)
    shares = np.arange(classes, 0, -1.0)
    target = generator.choice(classes, size=rows, p=shares / shares.sum())
    inputs = (generator.normal(size=(rows, 4)) + 2 * np.eye(classes, 4)[target]).astype(np.float32)
    wrong = generator.random(rows) < noise
    observed = np.where(wrong, (target + generator.integers(1, classes, rows)) % classes, target)
    train, validation, test = np.split(generator.permutation(rows), [rows // 2, 2 * rows // 3])
    return inputs, observed, target, SimpleNamespace(train=train, validation=validation, test=test), classes


@pytest.fixture
def silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_the_commonest_class_is_the_prior_of_the_training_rows():
    """The model of the commonest class predicts the class shares of the training rows."""
    inputs, observed, target, split, classes = made(noise=0.2)
    seen = run_context(inputs, observed, target, split, classes)[COMMONEST]
    shares = np.bincount(observed[split.train], minlength=classes) / len(split.train)
    assert seen.probs == pytest.approx(np.tile(shares, (len(split.test), 1)))
    assert np.array_equal(seen.calibrated, seen.probs)
    assert BY_NAME["accuracy"].of(seen) == (target[split.test] == shares.argmax()).mean()
    assert BY_NAME["balanced_accuracy"].of(seen) == pytest.approx(1 / classes)
    everywhere = np.bincount(observed, minlength=classes) / len(observed)
    assert seen.probs[0] != pytest.approx(everywhere)  # the control: not those of all rows


def test_trees_know_more_than_the_commonest_class_and_see_features():
    """Trees are better than the commonest class and depend on the features."""
    inputs, observed, target, split, classes = made()
    seen = run_context(inputs, observed, target, split, classes)
    for name in ("accuracy", "calibrated_nll"):
        measure = BY_NAME[name]
        gain = measure.of(seen[TREES]) - measure.of(seen[COMMONEST])
        assert gain * {"higher": 1, "lower": -1}[str(measure.better)] > 0.2
    blind = run_context(np.zeros_like(inputs), observed, target, split, classes)
    assert BY_NAME["accuracy"].of(blind[TREES]) == BY_NAME["accuracy"].of(seen[COMMONEST])


def test_trees_are_those_of_scikit_learn_stopped_on_the_validation_rows():
    """The trees are those of scikit-learn with early stopping on the validation rows."""
    inputs, observed, target, split, classes = made(noise=0.2)
    seen = run_context(inputs, observed, target, split, classes)[TREES]
    model = HistGradientBoostingClassifier(early_stopping=True, random_state=0)
    parts = {"X_val": inputs[split.validation], "y_val": observed[split.validation]}
    model.fit(inputs[split.train], observed[split.train], **parts)
    assert seen.probs == pytest.approx(model.predict_proba(inputs[split.test]), rel=1e-12)
    assert model.n_iter_ < 100
    assert np.array_equal(seen.target, target[split.test])


def test_test_rows_tell_nothing():
    """Labels of test rows do not change the context models."""
    inputs, observed, target, split, classes = made(noise=0.3)
    seen = run_context(inputs, observed, target, split, classes)
    for changed in (split.test, split.validation):
        leaked = observed.copy()
        leaked[changed] = (leaked[changed] + 1) % classes
        other = run_context(inputs, leaked, target, split, classes)
        same = np.array_equal(other[TREES].probs, seen[TREES].probs) and np.array_equal(
            other[TREES].calibrated, seen[TREES].calibrated
        )
        assert same is (changed is split.test)  # the control: validation labels do tell something
    rows = split.test[:50]  # and rows do not depend on which others are tested
    fewer = SimpleNamespace(train=split.train, validation=split.validation, test=rows)
    part = run_context(inputs, observed, target, fewer, classes)[TREES]
    assert np.array_equal(part.calibrated, seen[TREES].calibrated[:50])


def test_calibration_is_of_the_labels_asked_for():
    """Probabilities of the trees are calibrated to the labels that are asked for."""
    inputs, observed, target, split, classes = made(rows=3000, noise=0.4)
    as_given = run_context(inputs, observed, observed, split, classes, nll_of="observed")[TREES]
    clean = run_context(inputs, observed, target, split, classes, nll_of="clean")[TREES]
    assert np.array_equal(clean.probs, as_given.probs)
    assert clean.calibrated.max() > 0.9 > as_given.calibrated.max()
    for seen, other in ((as_given, clean), (clean, as_given)):
        assert seen.calibrated.sum(axis=1) == pytest.approx(np.ones(len(split.test)), rel=1e-14)
        assert np.array_equal(seen.calibrated.argmax(axis=1), seen.likeliest)
        nll = BY_NAME["calibrated_nll"]
        assert nll.of(seen) < nll.of(type(seen)(other.probs, other.calibrated, seen.target))


def test_two_runs_agree_to_the_bit_whatever_the_number_of_threads():
    """Two runs give identical bits for any number of threads."""
    arguments = made(noise=0.2)
    with threadpool_limits(2, user_api="openmp"):
        before = {pool["filepath"]: pool["num_threads"] for pool in threadpool_info()}
        one = run_context(*arguments)[TREES]
        after = {pool["filepath"]: pool["num_threads"] for pool in threadpool_info()}
        assert {path: after[path] for path in before} == before  # and it is put back; more may be loaded
    two = run_context(*arguments)[TREES]
    assert np.array_equal(one.probs, two.probs)
    assert np.array_equal(one.calibrated, two.calibrated)


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize("lacking", ["train", "validation", "test"])
def test_a_class_that_a_part_lacks_breaks_nothing(lacking):
    """A class that a part lacks is handled."""
    inputs, observed, target, split, classes = made(noise=0.1)
    rows = getattr(split, lacking)
    for lost in range(classes):
        kept = rows[(observed[rows] != lost) & (target[rows] != lost)]
        parts = SimpleNamespace(**{**vars(split), lacking: kept})
        for seen in run_context(inputs, observed, target, parts, classes, costs=1 - np.eye(classes)).values():
            assert seen.probs.shape == (len(parts.test), classes)
            assert (seen.probs[:, lost] == 0).all() == (lacking == "train")
            for measure in MEASURES:
                assert np.isfinite(measure.of(seen)), measure.name


@pytest.mark.usefixtures("silent")
def test_one_class_alone_among_the_training_rows_breaks_nothing():
    """Training rows of a single class are handled."""
    inputs, observed, target, split, classes = made()
    observed[split.train] = 1
    for seen in run_context(inputs, observed, target, split, classes).values():
        assert (seen.likeliest == 1).all()
        assert np.isfinite(seen.calibrated).all()


def test_balanced_weights_reach_the_trees():
    """Balanced class weights reach the trees."""
    inputs, observed, target, split, classes = made(classes=4)
    plain = run_context(inputs, observed, target, split, classes)
    balanced = run_context(inputs, observed, target, split, classes, class_weight="balanced")
    assert np.array_equal(plain[COMMONEST].probs, balanced[COMMONEST].probs)
    assert balanced[TREES].probs[:, -1].mean() > plain[TREES].probs[:, -1].mean()


def test_without_features_there_are_no_trees():
    """Without features, only the commonest class is shown."""
    inputs, observed, target, split, classes = made()
    alone = run_context(None, observed, target, split, classes)
    both = run_context(inputs, observed, target, split, classes)
    assert set(alone) == {COMMONEST}
    np.testing.assert_array_equal(alone[COMMONEST].probs, both[COMMONEST].probs)
