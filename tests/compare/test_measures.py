import re

import numpy as np
import pytest
import torch

from equipoise import metrics
from equipoise.compare.measures import MEASURES, Predictions, calibration_error, chance_calibration_errors
from equipoise.compare.statistics import BETTER, WORSE

PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.3, 0.1, 0.6], [0.05, 0.05, 0.9], [0.5, 0.4, 0.1]])
TARGET = np.array([0, 0, 2, 1])
COSTS = np.array([[0.0, 1.0, 2.0], [5.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
BY_HAND = {
    "accuracy": 2 / 4,
    "nll": -np.log([0.7, 0.3, 0.9, 0.4]).mean(),
    "brier": np.mean([0.09 + 0.04 + 0.01, 0.49 + 0.01 + 0.36, 0.0025 * 2 + 0.01, 0.25 + 0.36 + 0.01]),
    "aurc": (0 + 0 + 1 / 3 + 2 / 4) / 4,
    "cost": (0 + 2 + 0 + 5) / 4,
    "decided_cost": (1 + 2 + 0 + 0) / 4,
    "severity": (2 + 5) / 2,
    "mean_target_probability": (0.7 + 0.3 + 0.9 + 0.4) / 4,
    "smallest_probability": 0.05,
}


def measured(costs=COSTS, probabilities=PROBABILITIES, target=TARGET):
    seen = Predictions(probabilities, target, costs)
    return {
        measure.name: measure.of(seen) for measure in MEASURES if costs is not None or not measure.needs_costs
    }


@pytest.mark.parametrize("name", BY_HAND)
def test_measures_by_hand(name):
    assert measured()[name] == pytest.approx(BY_HAND[name])


def test_control_transposed_costs_give_other_numbers():
    right, transposed = measured(), measured(COSTS.T)
    for name in ("cost", "decided_cost", "severity"):
        assert transposed[name] != pytest.approx(right[name])


def test_the_cheapest_decision_costs_least_among_all_decisions_when_probabilities_are_true():
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet([0.5] * 3, size=4000)
    target = (generator.random((4000, 1)) > probabilities.cumsum(axis=1)).sum(axis=1)
    right = measured(COSTS, probabilities, target)
    decided_by_transposed = Predictions(probabilities, target, COSTS.T).cheapest
    assert right["decided_cost"] < right["cost"]
    assert metrics.expected_cost(target, decided_by_transposed, COSTS) > right["cost"]


def test_absent_classes_and_two_classes_are_measured():
    assert np.isfinite(measured(None, PROBABILITIES[:3], np.array([0, 0, 2]))["nll"])
    two = measured(None, np.array([[0.8, 0.2], [0.4, 0.6]]), np.array([0, 0]))
    assert two["brier"] == pytest.approx((0.04 + 0.04 + 0.36 + 0.36) / 2)


def test_severity_without_mistakes_is_nan():
    assert np.isnan(metrics.severity([0, 1], [0, 1], COSTS))
    assert metrics.expected_cost([0, 1], [0, 1], COSTS) == 0


def test_risk_coverage_reads_the_order_alone_and_shares_ties():
    area = metrics.area_under_risk_coverage
    assert area(PROBABILITIES, TARGET) == pytest.approx(BY_HAND["aurc"])
    sharper = np.array([[0.97, 0.02, 0.01], [0.03, 0.01, 0.96], [0.005, 0.005, 0.99], [0.95, 0.04, 0.01]])
    assert area(sharper, TARGET) == pytest.approx(BY_HAND["aurc"])
    backwards = PROBABILITIES[:, [1, 2, 0]], np.array([1, 1, 0, 1])
    assert area(*backwards) != pytest.approx(BY_HAND["aurc"])
    tied = np.array([[0.6, 0.4]] * 4)
    for target in ([0, 0, 1, 1], [1, 1, 0, 0], [0, 1, 0, 1]):
        assert area(tied, target) == pytest.approx(0.5)
    with pytest.raises(ValueError, match=r"target must be \(4,\) beside probabilities"):
        area(tied, [0, 1])


def test_calibration_error_by_hand_and_from_probabilities_only():
    probabilities = np.array([[0.9, 0.1]] * 10)
    target = np.array([0] * 5 + [1] * 5)
    assert calibration_error(probabilities, target) == pytest.approx(0.4)
    # logits that happen to lie in [0, 1] would be taken for probabilities: never pass logits
    assert calibration_error(torch.logit(torch.tensor(probabilities)).numpy() / 10, target) != pytest.approx(
        0.4
    )


def by_definition(probabilities, target, bins=15):
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == target
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
        probabilities = generator.dirichlet([0.3] * classes, size=500)
        for share in (0.0, 0.1, 0.5, 1.0):
            sure = generator.random(500) < share
            probabilities[sure] = np.eye(classes)[probabilities[sure].argmax(axis=1)]
            for nearly in (probabilities, np.where(probabilities == 1, 1 - 1e-9, probabilities)):
                target = generator.integers(classes, size=500)
                error = calibration_error(nearly, target)
                assert error == pytest.approx(by_definition(nearly, target), abs=2e-6)


@pytest.mark.parametrize(
    "row", [[np.nan, 0.5, 0.5], [0.5, 0.5, np.nan], [np.nan] * 3, [np.inf, 0.5, 0.5], [0.5, 0.5, -np.inf]]
)
def test_one_row_that_is_not_finite_makes_every_measure_nan(row):
    probabilities = PROBABILITIES.copy()
    probabilities[1] = row
    for name, value in measured(COSTS, probabilities).items():
        assert np.isnan(value), name
    assert np.isnan(calibration_error(probabilities, TARGET))
    assert np.isnan(chance_calibration_errors(probabilities, 3, 0)).all()
    assert np.isfinite(list(measured().values())).all()


def test_chance_band_holds_a_calibrated_model_and_not_an_overconfident_one():
    generator = np.random.default_rng(1)
    probabilities = generator.dirichlet([1.0] * 4, size=300)
    target = (generator.random((300, 1)) > probabilities.cumsum(axis=1)).sum(axis=1)
    most = np.quantile(chance_calibration_errors(probabilities, 100, 0), 0.95)
    assert calibration_error(probabilities, target) <= most
    sharpened = probabilities**4 / (probabilities**4).sum(axis=1, keepdims=True)
    most = np.quantile(chance_calibration_errors(sharpened, 100, 0), 0.95)
    assert calibration_error(sharpened, target) > 2 * most


def test_chance_band_is_that_of_the_survey_and_depends_on_the_seed_alone():
    confidence = np.random.default_rng(2).beta(20, 1, size=899)
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    drawn = chance_calibration_errors(probabilities, 100, 3)
    assert np.median(drawn) == pytest.approx(0.010, abs=0.003)
    assert np.quantile(drawn, 0.95) == pytest.approx(0.018, abs=0.004)
    assert drawn == chance_calibration_errors(probabilities, 100, 3)
    assert drawn != chance_calibration_errors(probabilities, 100, 4)


def test_the_calibration_error_is_never_called():
    directions = {measure.name: measure.better for measure in MEASURES}
    assert directions["ece"] is None
    assert directions == {
        "accuracy": "higher",
        "nll": "lower",
        "brier": "lower",
        "aurc": "lower",
        "ece": None,
        "cost": "lower",
        "decided_cost": "lower",
        "severity": "lower",
        "mean_target_probability": None,
        "smallest_probability": None,
    }
    assert BETTER not in directions.values()
    assert WORSE not in directions.values()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: metrics.expected_cost([0, 1], [0], COSTS), "target and predicted must be (N,) and (N,),"),
        (lambda: metrics.severity([], [], COSTS), "target and predicted must be (N,) and (N,), got (0,)"),
        (lambda: metrics.expected_cost([0], [0], COSTS[:2]), "costs must be (C, C) indexed [true,"),
        (lambda: metrics.smallest_probability([0.5, 0.5]), "probabilities must be (N, C), got (2,)"),
        (lambda: metrics.mean_target_probability(PROBABILITIES, [0]), "target must be (4,) beside"),
    ],
)  # fmt: skip
def test_messages(wrong, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        wrong()


def test_numbers_are_shown_with_care():
    by_name = {measure.name: measure for measure in MEASURES}
    assert by_name["accuracy"].show(0.9234) == "92.3 %"
    assert by_name["accuracy"].show_difference(-0.0123) == "-1.2"
    assert by_name["nll"].show(0.1) == "0.100"
    assert by_name["smallest_probability"].show(3e-12) == "3e-12"
    assert by_name["smallest_probability"].show(0) == "0.000"
    assert by_name["nll"].show(float("nan")) == "\u2013"
