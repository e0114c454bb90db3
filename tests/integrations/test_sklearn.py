"""scikit-learn's own checks, and the classifier in its pipelines, searches and calibration."""

import pickle
import re
from typing import Any

import numpy as np
import pytest
import torch

from support.definitions import settings_of

pytest.importorskip("sklearn", reason="scikit-learn is not installed")
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator, check_sample_weight_equivalence_on_dense_data

from equipoise import Objective
from equipoise.costs import ClassMatrix, decide
from equipoise.integrations.sklearn import ObjectiveClassifier
from equipoise.losses import LOSSES, CrossEntropy, Focal, GammaCrossEntropy, SimilarityCrossEntropy
from equipoise.penalties import PENALTIES, Balance, Entropy, LogitRange
from equipoise.schedules import Linear
from support.sklearn_cases import COSTS, NAMES, quick

pytestmark = pytest.mark.usefixtures("plain_memory")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # some checks warn of what they do themselves
def test_the_checks_of_scikit_learn() -> None:
    results = check_estimator(ObjectiveClassifier(), on_skip=None)
    by_status: dict[str, list[str]] = {}
    for result in results:
        by_status.setdefault(result["status"], []).append(result["check_name"])
    assert len(by_status.pop("passed")) >= 55
    assert by_status in ({}, {"skipped": ["check_array_api_input"]})  # needs SCIPY_ARRAY_API to be set


def test_the_checks_can_fail() -> None:
    class Forgetful(ObjectiveClassifier):  # pyright: ignore[reportGeneralTypeIssues]
        def _train(self, X: Any, y: Any, sample_weight: Any, passes: int | None) -> None:  # noqa: N803
            super()._train(X, y, None, passes)

    given: Any = {"max_iter": 20, "n_iter_no_change": np.inf}
    check_sample_weight_equivalence_on_dense_data("ObjectiveClassifier", ObjectiveClassifier(**given))
    with pytest.raises(AssertionError, match="is not equivalent to fitting with removed or repeated"):
        check_sample_weight_equivalence_on_dense_data("Forgetful", Forgetful(**given))


@pytest.mark.parametrize("entry", [*LOSSES, *PENALTIES], ids=lambda entry: entry.name)
def test_any_objective_trains(entry: Any, data: Any) -> None:
    """Every loss of the tables trains, pickles and is cloned as part of an objective."""
    rows, labels = data
    labels = np.arange(len(labels)) % 8  # as many classes as the matrices of the tables have
    loss = settings_of(entry)[0]
    model = quick(CrossEntropy() + 0.1 * loss, max_iter=2).fit(rows, labels)
    probs = model.predict_proba(rows)
    np.testing.assert_allclose(probs.sum(1), 1, rtol=1e-12)
    assert not np.array_equal(probs, quick(max_iter=2).fit(rows, labels).predict_proba(rows))
    again = pickle.loads(pickle.dumps(model))
    assert np.array_equal(again.predict_proba(rows), probs)
    assert repr(clone(model).objective) == repr(model.objective)


def test_it_learns_and_keeps_what_a_classifier_keeps(data: Any) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    rows, labels = data
    frame = pandas.DataFrame(rows, columns=list("abcd"))
    model = quick(max_iter=60).fit(frame, labels)
    assert model.classes_.tolist() == NAMES.tolist()
    assert model.feature_names_in_.tolist() == list("abcd")
    assert (model.n_features_in_, model.n_iter_, len(model.loss_curve_)) == (4, 60, 60)
    assert model.loss_curve_[-1] < 0.8 * model.loss_curve_[0]
    assert set(model.predict(frame)) <= set(NAMES)
    assert model.score(frame, labels) > 0.7
    logits = model.decision_function(frame)
    assert np.array_equal(NAMES[logits.argmax(1)], model.predict(frame))
    softmax = torch.tensor(logits).softmax(1).numpy()  # plain, whatever the objective
    np.testing.assert_allclose(model.predict_proba(frame), softmax, rtol=1e-12)


def test_the_loss_curve_is_the_loss_on_the_whole_batch(data: Any) -> None:
    rows, labels = data
    model = quick("GammaCrossEntropy(gamma=0.3) + 0.1 * Balance()", learning_rate_init=1e-30).fit(
        rows, labels
    )
    logits, target = (
        torch.tensor(model.decision_function(rows)),
        torch.tensor(model.classes_.searchsorted(labels)),
    )
    expected = (GammaCrossEntropy(0.3) + 0.1 * Balance())(logits, target).item()
    assert model.loss_curve_[0] == pytest.approx(expected, rel=1e-12)


def test_the_same_seed_gives_the_same_model_and_no_generator_of_torch_moves(data: Any) -> None:
    before = torch.get_rng_state()
    probs = [quick(random_state=seed).fit(*data).predict_proba(data[0]) for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(probs[0], probs[1])
    assert not np.array_equal(probs[0], probs[2])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_it_computes_in_the_dtype_of_the_rows(data: Any, dtype: Any) -> None:
    rows, labels = data
    model = quick(schedules={"label_smoothing": "Linear(0, 0.1, 9)"}).fit(rows.astype(dtype), labels)
    assert {str(each.dtype) for each in model.module_.parameters()} == {f"torch.{np.dtype(dtype)}"}
    assert model.predict_proba(rows.astype(np.float32)).dtype == np.float64


SUM = "GammaCrossEntropy(gamma=0.1) + Focal() + 0.5 * LogitRange(low=-4, high=4)"


def test_numbers_of_the_objective_are_parameters() -> None:
    assert quick().get_params()["objective__label_smoothing"] == 0.0
    model = quick(SUM)
    inner = {name: value for name, value in model.get_params().items() if "__" in name}
    assert inner == {
        "objective__GammaCrossEntropy": 1.0,
        "objective__GammaCrossEntropy.gamma": 0.1,
        "objective__min_weight": 0.0,
        "objective__Focal": 1.0,
        "objective__Focal.gamma": 2.0,
        "objective__LogitRange": 0.5,
        "objective__low": -4,
        "objective__high": 4,
    }
    model.set_params(**{"objective__Focal.gamma": np.float64(3.0), "objective__LogitRange": np.int64(2)})
    assert model.objective == GammaCrossEntropy(0.1) + Focal(3.0) + 2 * LogitRange(low=-4, high=4)
    assert repr(model.objective).count("np.") == 0
    model.set_params(objective__low=5, objective__high=9)  # both at once: each alone would not fit
    assert clone(model).get_params() == model.get_params()
    again = quick().set_params(**model.get_params())
    assert again.objective == model.objective
    assert again.set_params(objective=Focal(), objective__gamma=1.0).objective == Focal(1.0)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"objective__gama": 1.0}, "objective__gama must name a value of "),
        (
            {"objective__gamma": 1.0},
            "objective__gamma must say which of GammaCrossEntropy.gamma, Focal.gamma",
        ),
        ({"objective__min_weight": 2.0}, "min_weight must be in [0, 1], got 2.0"),
        ({"depth": 3}, "Invalid parameter 'depth'"),
    ],
)
def test_a_wrong_parameter_is_refused_and_changes_nothing(params: Any, message: str) -> None:
    model = quick(SUM)
    with pytest.raises(ValueError, match=re.escape(message)):
        model.set_params(**params)
    assert model.objective == SUM


def test_a_number_must_be_a_number() -> None:
    with pytest.raises(TypeError, match="objective__Focal must be a Python number, got 'a'"):
        quick(SUM).set_params(objective__Focal="a")


def test_a_search_over_the_numbers_of_the_objective(data: Any) -> None:
    pipeline = make_pipeline(StandardScaler(), quick("GammaCrossEntropy() - 0.1 * Entropy()", max_iter=5))
    at = "objectiveclassifier__objective__"
    grid = {at + "gamma": np.array([0.0, 0.7]), at + "Entropy": [-0.1, -3.0]}
    search = GridSearchCV(pipeline, grid, cv=2, scoring="neg_log_loss").fit(*data)
    scores = search.cv_results_["mean_test_score"]
    assert len(set(scores)) == 4  # every setting had a part in its training
    best = search.best_estimator_[-1]
    expected = (
        GammaCrossEntropy(search.best_params_[at + "gamma"]) + search.best_params_[at + "Entropy"] * Entropy()
    )
    assert best.objective == best.objective_.loss == expected


def test_cross_validation_and_calibration(data: Any) -> None:
    rows, labels = data
    probs = cross_val_predict(quick(), rows, labels, cv=3, method="predict_proba")
    assert probs.shape == (90, 3)
    calibrated = CalibratedClassifierCV(quick(costs=COSTS), cv=2, method="temperature").fit(rows, labels)
    likeliest = NAMES[calibrated.predict_proba(rows).argmax(1)]
    assert np.array_equal(calibrated.predict(rows), likeliest)  # calibration sees no costs: decide afterwards
    decided = NAMES[decide(calibrated.predict_proba(rows), COSTS)]
    assert (decided == "eel").sum() > (likeliest == "eel").sum()


def test_weights_and_classes_weigh(data: Any) -> None:
    rows, labels = data
    weight = np.where(labels == "eel", 3.0, 1.0)
    by_row = quick().fit(rows, labels, sample_weight=weight).predict_proba(rows)
    by_class = quick(class_weight={"eel": 3.0}).fit(rows, labels).predict_proba(rows)
    np.testing.assert_allclose(by_row, by_class, rtol=1e-9)
    assert by_row[:, 2].mean() > quick().fit(rows, labels).predict_proba(rows)[:, 2].mean() + 0.01
    half = labels != "eel"
    half[:10] = True
    balanced = quick(class_weight="balanced")
    repeated = balanced.fit(np.repeat(rows[half], 2, 0), np.repeat(labels[half], 2)).predict_proba(rows)
    weighted = balanced.fit(rows, labels, sample_weight=2.0 * half).predict_proba(rows)
    np.testing.assert_allclose(repeated, weighted, rtol=1e-6)


def test_weights_count_with_schedules_and_penalties_on_the_batch(data: Any) -> None:
    rows, labels = data
    times = np.arange(90) % 3
    schedules = {"gamma": Linear(0.0, 0.9, steps=15)}
    model = quick("GammaCrossEntropy() + 0.3 * Balance()", schedules=schedules)
    weighted = model.fit(rows, labels, sample_weight=times).predict_proba(rows)
    repeated = model.fit(rows.repeat(times, 0), labels.repeat(times)).predict_proba(rows)
    np.testing.assert_allclose(weighted, repeated, rtol=1e-4)  # the schedule is held in float32


def test_a_schedule_steps_with_the_batches(data: Any) -> None:
    schedules = {"gamma": Linear(0.0, 0.5, steps=60), "Entropy": "Linear(-0.1, -0.1, 1)"}
    model = quick("GammaCrossEntropy() + Entropy()", schedules=schedules, batch_size=30).fit(*data)
    assert model.objective_.steps == 15 * 3
    assert model.objective_.scheduled() == {"gamma": 0.375, "Entropy": -0.1}
    assert model.fit(*data).objective_.steps == 15 * 3  # anew


def test_a_linear_model_and_two_classes(data: Any) -> None:
    rows, labels = data
    model = quick(hidden_layer_sizes=()).fit(rows, labels == "eel")
    assert len(model.module_) == 1
    logits = model.decision_function(rows)
    assert logits.shape == (90,)
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), model.predict_proba(rows)[:, 1], rtol=1e-9)


FLAT = [[0, 1], [1, 0]]
ALIKE = ClassMatrix(np.eye(3), NAMES, kind="similarity")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"objective": 3},
            TypeError,
            "objective must be a loss of equipoise or its text, got 3; for example",
        ),
        ({"objective": Objective(Focal())}, TypeError, "objective must be a loss of equipoise or its text"),
        ({"objective": "Fokal()"}, ValueError, "objective must use a known name, got 'Fokal'; did you mean"),
        ({"schedules": {"gamma": 1}}, ValueError, "schedules['gamma'] must name a value of CrossEntropy"),
        ({"schedules": {"label_smoothing": "L()"}}, ValueError, "schedules['label_smoothing'] must use"),
        (
            {"hidden_layer_sizes": "9"},
            TypeError,
            "hidden_layer_sizes must be the widths of the layers, got '9'; write",
        ),
        (
            {"hidden_layer_sizes": (0,)},
            ValueError,
            "hidden_layer_sizes must be an integer of at least 1, got 0",
        ),
        ({"max_iter": 0}, ValueError, "max_iter must be an integer of at least 1, got 0"),
        ({"batch_size": 2.5}, ValueError, "batch_size must be an integer of at least 1, got 2.5"),
        ({"batch_size": "all"}, ValueError, "batch_size must be an integer of at least 1, got 'all'"),
        ({"learning_rate_init": 0}, ValueError, "learning_rate_init must be finite and above 0, got 0"),
        ({"learning_rate_init": 1e300}, ValueError, "weights must stay finite in training, got nan"),
        (
            {"costs": FLAT},
            ValueError,
            "costs[true, predicted] must have a row and a column for each of cat, dog",
        ),
        ({"costs": -COSTS}, ValueError, "if it holds gains, pass its negative"),
        ({"class_weight": dict.fromkeys(NAMES, 0)}, ValueError, "class_weight must leave some row a weight"),
        (
            {"costs": ALIKE},
            ValueError,
            "costs must be of kind 'costs', got a ClassMatrix of kind 'similarity'",
        ),
        (
            {"costs": ClassMatrix(FLAT, kind="costs")},
            ValueError,
            "costs[true, predicted] must have a row and a column for each of cat, dog, eel, got (2, 2)",
        ),
    ],
)
def test_a_wrong_argument_is_refused_when_fitted(options: Any, error: Any, message: str, data: Any) -> None:
    model = quick(**options)
    with pytest.raises(error, match=re.escape(message)):
        model.fit(*data)


def test_a_frame_that_lacks_a_class_is_refused(data: Any) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.DataFrame(COSTS, index=NAMES, columns=["cat", "dog", "fish"])
    with pytest.raises(ValueError, match="costs must have the same names across and down, got 'eel' in one"):
        quick(costs=frame).fit(*data)


def test_wrong_rows_are_refused(data: Any) -> None:
    rows, labels = data
    with pytest.raises(ValueError, match=r"y must have at least 2 classes, got 1 class: \['cat'\]"):
        quick().fit(rows, ["cat"] * 90)
    with pytest.raises(ValueError, match="classes must be given in the first call of partial_fit, got None"):
        quick().partial_fit(rows, labels)
    with pytest.raises(
        ValueError, match="class_weight must be a dict or None in partial_fit, got 'balanced'"
    ):
        quick(class_weight="balanced").partial_fit(rows, labels, classes=NAMES)
    model = quick().partial_fit(rows, labels, classes=NAMES)
    with pytest.raises(ValueError, match=r"classes must be those of the first call, .* got \['cat', 'dog'\]"):
        model.partial_fit(rows, labels, classes=["dog", "cat"])
    with pytest.raises(ValueError, match=r"y must hold only the classes .* got \['fish'\] too"):
        model.partial_fit(rows[:2], ["cat", "fish"])


def test_wrong_labels_are_let_go_of() -> None:
    digits: Any = load_digits()
    rows, labels = digits.data / 16, digits.target
    random = np.random.default_rng(0)
    noisy = np.where(random.random(600) < 0.4, random.integers(10, size=600), labels[:600])
    scores = [
        quick(objective, hidden_layer_sizes=(100,), max_iter=60)
        .fit(rows[:600].astype(np.float32), noisy)
        .score(rows[600:], labels[600:])
        for objective in (None, "GammaCrossEntropy(gamma=0.5)")
    ]
    assert scores[1] > scores[0] + 0.05


def test_a_similarity_is_read_as_it_is(data: Any) -> None:
    rows, labels = data
    alike = np.array([[0.7, 0.3, 0.0], [0.3, 0.7, 0.0], [0.0, 0.0, 1.0]])
    plain, soft = (
        quick(loss, max_iter=100).fit(rows, labels).predict_proba(rows)[labels == "cat"][:, 1].mean()
        for loss in (None, SimilarityCrossEntropy(alike))
    )
    assert soft > 0.25 > 0.1 > plain  # the mixture that was learnt: `costs.unmix` is left to the user


def test_a_model_that_has_diverged_predicts_no_class(data: Any) -> None:
    rows, labels = data
    model = quick(None, max_iter=3).fit(rows, labels)
    with torch.no_grad():
        next(model.module_.parameters()).fill_(torch.nan)
    assert np.isnan(model.predict_proba(rows)).all()
    with pytest.raises(ValueError, match="probabilities must be finite to predict a class, got nan in row 0"):
        model.predict(rows)
