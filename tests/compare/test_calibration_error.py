"""The calibration error against its definition and torchmetrics, and what it is by chance."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error
from torchmetrics.functional.classification.calibration_error import _ce_compute

from equipoise.compare.measures import calibration_error, chance_calibration_errors
from support.predictions import drawn


def test_calibration_error_by_hand_and_from_probabilities_only():
    probs = np.array([[0.9, 0.1]] * 10)
    target = np.array([0] * 5 + [1] * 5)
    assert calibration_error(probs, target) == pytest.approx(0.4)
    # logits that happen to lie in [0, 1] would be taken for probabilities: never pass logits
    assert calibration_error(torch.logit(torch.tensor(probs)).numpy() / 10, target) != pytest.approx(0.4)


def by_definition(probs, target, bins=15):
    confidence, right = probs.max(axis=1), probs.argmax(axis=1) == target
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    share = [
        abs(right[place == k].mean() - confidence[place == k].mean()) * (place == k).mean()
        for k in set(place)
    ]
    return sum(share)


def test_a_confidence_of_one_counts():
    assert calibration_error(np.array([[0.95, 0.05], [1.0, 0.0]]), np.array([0, 1])) == pytest.approx(0.475)
    generator = np.random.default_rng(0)
    for classes in (2, 3, 10):
        probs = generator.dirichlet([0.3] * classes, size=500)
        for share in (0.0, 0.1, 0.5, 1.0):
            sure = generator.random(500) < share
            probs[sure] = np.eye(classes)[probs[sure].argmax(axis=1)]
            for nearly in (probs, np.where(probs == 1, 1 - 1e-9, probs)):
                target = generator.integers(classes, size=500)
                error = calibration_error(nearly, target)
                assert error == pytest.approx(by_definition(nearly, target), abs=2e-6)


def by_torchmetrics(probs, target):
    """The number of torchmetrics, whose sums are float32, and that of its formula in float64."""
    # It drops a confidence of exactly 1, and the largest float32 below 1 is 6e-8 away.
    given, labels = torch.from_numpy(probs).float().clamp(max=1 - 2**-24).double(), torch.from_numpy(target)
    public = multiclass_calibration_error(given, labels, probs.shape[1], n_bins=15, norm="l1")
    confidence, guess = given.max(dim=1)
    edges = torch.linspace(0, 1, 16).double()
    return float(public), float(_ce_compute(confidence, (guess == labels).double(), edges, norm="l1"))


@pytest.mark.parametrize(("rows", "classes"), [(20, 2), (180, 10), (899, 3), (2000, 100)])
def test_the_calibration_error_is_that_of_torchmetrics(rows, classes):
    for seed, sharpness in enumerate((0.05, 0.3, 1.0, 10.0)):
        probs, target = drawn(rows, classes, seed, sharpness)
        sure = np.random.default_rng(seed).random(rows) < 0.2
        edges = np.linspace(0, 1, 16, dtype=np.float32)[[5, 9, 11, 12]]  # where a bin ends
        for kind in ("drawn", "sure", "edges"):
            if kind == "sure":
                probs[sure] = np.eye(classes)[probs[sure].argmax(axis=1)]
            if kind == "edges" and classes == 2:
                own = edges[np.arange(rows) % len(edges)].astype(np.float64)
                probs = np.stack([own, 1 - own], axis=1)
            public, exact = by_torchmetrics(probs, target)
            assert calibration_error(probs, target) == pytest.approx(exact, abs=1e-7)
            assert calibration_error(probs, target) == pytest.approx(public, abs=1e-6)


def test_chance_band_holds_a_calibrated_model_and_not_an_overconfident_one():
    probs, target = drawn(300, 4, seed=1, sharpness=1.0)
    most = np.quantile(chance_calibration_errors(probs, 100, 0), 0.95)
    assert calibration_error(probs, target) <= most
    sharpened = probs**4 / (probs**4).sum(axis=1, keepdims=True)
    most = np.quantile(chance_calibration_errors(sharpened, 100, 0), 0.95)
    assert calibration_error(sharpened, target) > 2 * most


@pytest.mark.parametrize(("rows", "classes"), [(180, 10), (899, 2), (50, 3)])
def test_chance_is_that_of_drawn_labels(rows, classes):
    probs, _ = drawn(rows, classes)
    generator = torch.Generator().manual_seed(0)
    labels = torch.multinomial(torch.from_numpy(probs), 400, replacement=True, generator=generator).numpy()
    slow = [calibration_error(probs, column) for column in labels.T.copy()]
    fast = chance_calibration_errors(probs, 400, 0)
    error = np.std(slow) * (2 / 400) ** 0.5
    assert abs(np.mean(fast) - np.mean(slow)) < 4 * error
    assert np.std(fast) == pytest.approx(np.std(slow), rel=0.15)
    flat = chance_calibration_errors(np.full_like(probs, 1 / classes), 400, 0)
    assert abs(np.mean(flat) - np.mean(slow)) > 4 * error  # another model has another chance


def test_chance_band_is_that_of_the_survey_and_depends_on_the_seed_alone():
    confidence = np.random.default_rng(2).beta(20, 1, size=899)
    probs = np.stack([confidence, 1 - confidence], axis=1)
    errors = chance_calibration_errors(probs, 100, 3)
    assert np.median(errors) == pytest.approx(0.010, abs=0.003)
    assert np.quantile(errors, 0.95) == pytest.approx(0.018, abs=0.004)
    assert errors == chance_calibration_errors(probs, 100, 3)
    assert errors != chance_calibration_errors(probs, 100, 4)


def test_a_sure_model_has_no_calibration_error_by_chance():
    assert max(chance_calibration_errors(np.eye(3), 20, 0)) < 1e-6  # what a confidence of 1 is counted as
