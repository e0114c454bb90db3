"""Measures against values worked out by hand, on parts that lack classes, and on rows that are not finite."""

import re
import warnings

import numpy as np
import pytest
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    brier_score_loss,
    log_loss,
    roc_auc_score,
)

from equipoise import metrics
from equipoise.compare.measures import (
    MEASURES,
    Predictions,
    calibration_error,
    chance_calibration_errors,
    confusion,
    recall_per_class,
)
from equipoise.costs import ABSTAIN, decide
from support.predictions import drawn

PROBS = np.array([[0.7, 0.2, 0.1], [0.3, 0.1, 0.6], [0.05, 0.05, 0.9], [0.5, 0.4, 0.1]])
CALIBRATED = np.array([[0.6, 0.2, 0.2], [0.3, 0.2, 0.5], [0.1, 0.1, 0.8], [0.45, 0.4, 0.15]])
TARGET = np.array([0, 0, 2, 1])
COSTS = np.array([[0.0, 1.0, 2.0], [5.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
BY_NAME = {measure.name: measure for measure in MEASURES}
BY_HAND = {
    "accuracy": 2 / 4,
    "calibrated_nll": -np.log([0.6, 0.3, 0.8, 0.4]).mean(),
    "nll": -np.log([0.7, 0.3, 0.9, 0.4]).mean(),
    "brier": np.mean([0.09 + 0.04 + 0.01, 0.49 + 0.01 + 0.36, 0.0025 * 2 + 0.01, 0.25 + 0.36 + 0.01]),
    "aurc": (0 + 0 + 1 / 3 + 2 / 4) / 4,
    "balanced_accuracy": (1 / 2 + 0 + 1) / 3,
    "macro_f1": (1 / 2 + 0 + 2 / 3) / 3,
    "roc_auc": ((2 + 1) / 4 + 1 + 1) / 3,  # class 0: .7 and .3 against .05 and .5
    "average_precision": ((1 + 2 / 3) / 2 + 1 + 1) / 3,
    "cost": (0 + 2 + 0 + 5) / 4,
    "decided_cost": (1 + 1 + 0 + 0) / 4,
    "severity": (2 + 5) / 2,
}


def measured(costs=COSTS, probs=PROBS, target=TARGET, calibrated=None):
    seen = Predictions(probs, CALIBRATED if probs is PROBS and calibrated is None else probs, target, costs)
    return {
        measure.name: measure.of(seen) for measure in MEASURES if costs is not None or not measure.needs_costs
    }


def test_the_names_are_those_of_the_results():
    """The names of the measures are those of the results."""
    assert set(BY_NAME) == {*BY_HAND, "ece"}
    assert len(BY_NAME) == len(MEASURES)


@pytest.mark.parametrize("name", BY_HAND)
def test_measures_by_hand(name):
    """Each measure has the value worked out by hand."""
    assert measured()[name] == pytest.approx(BY_HAND[name])


def test_calibrated_probabilities_are_read_where_they_decide_and_nowhere_else():
    """Only the measures that are defined on calibrated probabilities read them."""
    raw = {name: measure.of(Predictions(PROBS, PROBS, TARGET, COSTS)) for name, measure in BY_NAME.items()}
    differ = {name for name, value in measured().items() if value != pytest.approx(raw[name])}
    assert differ == {"calibrated_nll", "decided_cost"}


def test_what_may_decide_is_a_mean_over_rows():
    """Each deciding measure is a mean over rows with a direction."""
    assert BY_NAME["decided_cost"].needs_costs
    assert all(
        BY_NAME[name].rows is not None and BY_NAME[name].better
        for name in ("accuracy", "calibrated_nll", "decided_cost")
    )


def test_control_transposed_costs_give_other_numbers():
    """Transposed costs give other numbers."""
    probs, target = drawn(200, 3)
    right, transposed = measured(COSTS, probs, target), measured(COSTS.T, probs, target)
    for name in ("cost", "decided_cost", "severity"):
        assert transposed[name] != pytest.approx(right[name])


def test_the_cheapest_decision_costs_least_among_all_decisions_when_probabilities_are_true():
    """With true probabilities, decisions of smallest expected cost have the smallest cost."""
    probs, target = drawn(4000, 3)
    right = measured(COSTS, probs, target)
    decided_by_transposed = Predictions(probs, probs, target, COSTS.T).cheapest
    assert right["decided_cost"] < right["cost"]
    assert metrics.mean_cost(target, decided_by_transposed, COSTS) > right["cost"]


ROWS = {"accuracy", "calibrated_nll", "nll", "brier", "cost", "decided_cost"}


def test_which_measures_are_means_over_rows():
    """The measures with values per row are exactly those listed."""
    assert {measure.name for measure in MEASURES if measure.rows} == ROWS


@pytest.mark.parametrize("name", sorted(ROWS))
def test_the_mean_of_the_rows_is_the_measure(name):
    """The mean of the values per row is the measure."""
    probs, target = drawn(500, 3)
    probs[:5] = np.eye(3)[(target[:5] + 1) % 3]  # sure and wrong
    probs[5:9] = np.eye(3)[target[5:9]]  # sure and right
    seen = Predictions(probs, 0.9 * probs + 0.1 / 3, target, COSTS)
    rows = BY_NAME[name].rows(seen)
    assert rows.shape == (500,)
    assert rows.dtype == np.float64
    assert np.isfinite(rows).all()
    assert rows.mean() == pytest.approx(BY_NAME[name].of(seen), rel=1e-12)
    # a score that another candidate may not share is the point: rows differ, and follow their order
    back = Predictions(probs[::-1].copy(), seen.calibrated[::-1].copy(), target[::-1].copy(), COSTS)
    assert np.array_equal(BY_NAME[name].rows(back), rows[::-1])
    assert len(np.unique(rows)) > 1


def test_a_probability_of_zero_costs_what_it_does_in_scikit_learn():
    """A probability of zero is clipped as in scikit-learn."""
    seen = Predictions(*[np.array([[1.0, 0.0], [0.0, 1.0]])] * 2, np.array([1, 1]))
    expected = -np.log(np.finfo(np.float64).eps)
    for name in ("nll", "calibrated_nll"):
        assert BY_NAME[name].rows(seen) == pytest.approx([expected, 0], abs=1e-15)
        assert BY_NAME[name].of(seen) == pytest.approx(expected / 2, rel=1e-14)
    assert log_loss([1, 1], seen.probs, labels=[0, 1]) == BY_NAME["nll"].of(seen)


@pytest.fixture
def silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize("missing", [[0], [3], [1, 2], [0, 1, 2]])
def test_classes_that_a_test_part_lacks_break_nothing(missing):
    """Measures are finite on parts that lack classes."""
    probs, target = drawn(400, 4)
    kept = ~np.isin(target, missing)
    probs, target = probs[kept], target[kept]
    assert np.isin(probs.argmax(axis=1), missing).any()  # predicted all the same
    values = measured(1 - np.eye(4), probs, target)
    ranked = {"roc_auc", "average_precision"}
    one_class = len(np.unique(target)) == 1
    assert {name for name, value in values.items() if np.isnan(value)} == (ranked if one_class else set())
    seen = Predictions(probs, probs, target)
    recalls = recall_per_class(seen)
    assert np.array_equal(np.flatnonzero(np.isnan(recalls)), missing)
    assert np.nanmean(recalls) == pytest.approx(values["balanced_accuracy"])
    assert confusion(seen).shape == (4, 4)
    assert confusion(seen).sum() == len(target)
    assert (confusion(seen)[missing] == 0).all()


def test_control_scikit_learn_warns_of_what_is_averaged_with_care_here():
    """scikit-learn warns where the measures average over the present classes."""
    probs, target = drawn(400, 4)
    probs, target = probs[target != 0], target[target != 0]
    with pytest.warns(UserWarning, match="classes not in y_true"):
        plain = balanced_accuracy_score(target, probs.argmax(axis=1))
    assert plain == pytest.approx(measured(None, probs, target)["balanced_accuracy"])


def test_ranking_is_that_of_scikit_learn_where_every_class_is_present():
    """AUC and average precision agree with scikit-learn if every class is present."""
    for classes in (2, 5):
        probs, target = drawn(300, classes)
        values = measured(None, probs, target)
        plain = probs[:, 1] if classes == 2 else probs
        expected = roc_auc_score(target, plain, multi_class="ovr", average="macro")
        assert values["roc_auc"] == pytest.approx(expected)
        per_class = [average_precision_score(target == k, probs[:, k]) for k in range(classes)]
        assert values["average_precision"] == pytest.approx(np.mean(per_class))
        lost = measured(None, probs[:, ::-1].copy(), target)
        assert lost["roc_auc"] < 0.5 < values["roc_auc"]
        assert lost["average_precision"] < values["average_precision"]


def test_what_accuracy_hides():
    """A model that always names the commonest class is accurate, and every other measure shows it."""
    target = np.array([0] * 95 + [1] * 5)
    probs = np.tile([0.95, 0.05], (100, 1))
    values = measured(None, probs, target)
    assert values["accuracy"] == 0.95
    assert values["balanced_accuracy"] == 0.5
    assert values["macro_f1"] == pytest.approx(0.95 / 1.95)
    assert values["roc_auc"] == 0.5
    assert recall_per_class(Predictions(probs, probs, target)).tolist() == [1, 0]
    assert confusion(Predictions(probs, probs, target)).tolist() == [[95, 0], [5, 0]]


def test_confusion_is_indexed_by_the_true_class_first():
    """The confusion matrix is indexed by the true class first."""
    assert confusion(Predictions(PROBS, PROBS, TARGET)).tolist() == [[1, 0, 1], [1, 0, 0], [0, 0, 1]]


def test_two_classes_are_measured():
    """Measures have their hand-computed values for two classes."""
    two = measured(None, np.array([[0.8, 0.2], [0.4, 0.6]]), np.array([0, 0]))
    assert two["brier"] == pytest.approx((0.04 + 0.04 + 0.36 + 0.36) / 2)


def test_severity_without_mistakes_is_nan():
    """Severity without mistakes is nan, and the mean cost 0."""
    assert np.isnan(metrics.severity([0, 1], [0, 1], COSTS))
    assert metrics.mean_cost([0, 1], [0, 1], COSTS) == 0


def test_a_decision_not_taken_is_no_class():
    """A row without a decision costs the price of abstaining."""
    costs = np.array([[0.0, 1.0], [20.0, 0.0]])
    chosen = decide(np.array([[0.99, 0.01], [0.9, 0.1], [0.2, 0.8]]), costs, abstain=0.5)
    assert chosen.tolist() == [0, ABSTAIN, 1]
    assert metrics.mean_cost([1, 0, 0], chosen, costs, abstain=0.25) == (20 + 0.25 + 1) / 3
    for measure in (metrics.mean_cost, metrics.severity):
        with pytest.raises(ValueError, match="predicted must be classes, got -1, which is no decision"):
            measure([1, 0, 0], chosen, costs)  # was read as the last class
    same = metrics.mean_cost([1, 0, 0], [0, 0, 1], costs, abstain=0.25)
    assert same == metrics.mean_cost([1, 0, 0], [0, 0, 1], costs)


def test_risk_coverage_reads_the_order_alone_and_shares_ties():
    """Risk-coverage depends only on the order of confidences, and ties share their mistakes."""
    area = metrics.area_under_risk_coverage
    assert area(PROBS, TARGET) == pytest.approx(BY_HAND["aurc"])
    sharper = np.array([[0.97, 0.02, 0.01], [0.03, 0.01, 0.96], [0.005, 0.005, 0.99], [0.95, 0.04, 0.01]])
    assert area(sharper, TARGET) == pytest.approx(BY_HAND["aurc"])
    backwards = PROBS[:, [1, 2, 0]], np.array([1, 1, 0, 1])
    assert area(*backwards) != pytest.approx(BY_HAND["aurc"])
    tied = np.array([[0.6, 0.4]] * 4)
    for target in ([0, 0, 1, 1], [1, 1, 0, 0], [0, 1, 0, 1]):
        assert area(tied, target) == pytest.approx(0.5)
    with pytest.raises(ValueError, match=r"target must be \(4,\) beside probabilities"):
        area(tied, [0, 1])


def test_measures_that_are_means_over_rows_are_those_of_scikit_learn():
    """Measures that are means over rows agree with scikit-learn."""
    for classes in (2, 5):
        probs, target = drawn(400, classes)
        values = measured(None, probs, target)
        labels = range(classes)
        assert values["nll"] == pytest.approx(log_loss(target, probs, labels=labels), rel=1e-13)
        brier = brier_score_loss(target, probs, labels=labels, scale_by_half=False)
        assert values["brier"] == pytest.approx(brier, rel=1e-13)


@pytest.mark.parametrize(
    "row", [[np.nan, 0.5, 0.5], [0.5, 0.5, np.nan], [np.nan] * 3, [np.inf, 0.5, 0.5], [0.5, 0.5, -np.inf]]
)
def test_one_row_that_is_not_finite_makes_every_measure_nan(row):
    """One row that is not finite makes every measure nan."""
    broken = PROBS.copy()
    broken[1] = row
    for seen in (Predictions(broken, PROBS, TARGET, COSTS), Predictions(PROBS, broken, TARGET, COSTS)):
        for measure in MEASURES:
            assert np.isnan(measure.of(seen)), measure.name
            if measure.rows is not None:
                assert np.isnan(measure.rows(seen)).all(), measure.name
                assert measure.rows(seen).shape == TARGET.shape
        assert np.isnan(recall_per_class(seen)).all()
    assert np.isnan(calibration_error(broken, TARGET))
    assert np.isnan(chance_calibration_errors(broken, 3, 0)).all()
    assert np.isfinite(list(measured().values())).all()
    lost = confusion(Predictions(broken, PROBS, TARGET))
    assert lost.tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 1]]  # without the row
    assert confusion(Predictions(np.full_like(PROBS, np.nan), PROBS, TARGET)).tolist() == [[0] * 3] * 3


def test_the_calibration_error_is_never_called():
    """The calibration error has no direction; each other measure has one."""
    directions = {measure.name: measure.better for measure in MEASURES}
    assert {name for name, better in directions.items() if better is None} == {"ece"}
    higher = {"accuracy", "balanced_accuracy", "macro_f1", "roc_auc", "average_precision"}
    assert {name for name, better in directions.items() if better == "higher"} == higher
    assert set(directions.values()) == {None, "higher", "lower"}


CALLED = [name for name, measure in BY_NAME.items() if measure.better and name != "severity"]


@pytest.mark.parametrize("name", CALLED)  # severity is of the mistakes alone, which are other ones
def test_better_is_where_the_true_probabilities_are(name):
    """The true probabilities are better than permuted ones in each measure."""
    probs, target = drawn(4000, 3)
    worse = np.random.default_rng(1).permuted(probs, axis=1)
    costs = np.array([[0.0, 1.0, 4.0], [3.0, 0.0, 1.0], [1.0, 2.0, 0.0]])
    gain = measured(costs, probs, target)[name] - measured(costs, worse, target)[name]
    assert gain * {"higher": 1, "lower": -1}[BY_NAME[name].better] > 0.05


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: metrics.mean_cost([0, 1], [0], COSTS), "target and predicted must be (N,) and (N,),"),
        (lambda: metrics.severity([], [], COSTS), "target and predicted must be (N,) and (N,), got (0,)"),
        (lambda: metrics.mean_cost([0], [0], COSTS[:2]), "costs must be (C, C) indexed [true,"),
        (lambda: metrics.mean_cost([0, -1], [0, 1], COSTS), "target must be in [0, 3) beside costs of 3"),
        (lambda: metrics.mean_cost([0], [3], COSTS), "predicted must be in [0, 3) beside costs of 3"),
        (lambda: metrics.mean_cost([0], [3], COSTS, abstain=1), "predicted must be in [0, 3) beside"),
        (lambda: metrics.severity([0], [-2], COSTS), "classes, got -2; give the index of each class"),
        (lambda: metrics.smallest_probability([0.5, 0.5]), "probabilities must be (N, C), got (2,)"),
        (lambda: metrics.mean_target_probability(PROBS, [0]), "target must be (4,) beside"),
        (lambda: BY_NAME["cost"].of(Predictions(PROBS, PROBS, TARGET)), "a measure of cost must have costs"),
    ],
)  # fmt: skip
def test_messages(wrong, message):
    """An error of the measures names the argument, the rule and the value."""
    with pytest.raises(ValueError, match=re.escape(message)):
        wrong()


def test_numbers_are_shown_with_care():
    """Numbers are shown with a sensible number of digits."""
    assert BY_NAME["accuracy"].show(0.9234) == "92.3 %"
    assert BY_NAME["accuracy"].show_difference(-0.0123) == "-1.2"
    assert BY_NAME["accuracy"].show_difference(-0.0001) == "+0.0"
    assert BY_NAME["nll"].show_difference(-0.0004) == "+0.000"
    assert BY_NAME["decided_cost"].show_difference(-0.0004) == "-4e-04"
    assert BY_NAME["nll"].show(0.1) == "0.100"
    assert BY_NAME["nll"].show(3e-12) == "3e-12"
    assert BY_NAME["nll"].show(0) == "0.000"
    assert BY_NAME["nll"].show(float("nan")) == "\u2013"
    assert BY_NAME["cost"].show(123456.7) == "123456.700"
    assert BY_NAME["cost"].show(1.234e150) == "1.23e+150"
    assert BY_NAME["cost"].show_difference(-1.234e150) == "-1.23e+150"


@pytest.mark.parametrize("size", [1e-9, 1e150])
def test_costs_of_any_size_give_numbers(size):
    """Costs of any size give finite measures that scale with them."""
    probs, target = drawn(200, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, value in measured(size * COSTS, probs, target).items():
            assert np.isfinite(value), name
            if BY_NAME[name].needs_costs:
                assert value == pytest.approx(size * measured(COSTS, probs, target)[name], rel=1e-12)
