"""The calibrated classifier: scikit-learn's own checks, its temperature scaling, and wrong labels."""

import pickle
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits, make_blobs
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, Perceptron
from sklearn.model_selection import KFold, ShuffleSplit, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator, check_sample_weight_equivalence_on_dense_data

from equipoise.calibration import fit
from equipoise.costs import ClassMatrix
from equipoise.integrations.sklearn import NoisyCalibratedClassifier

pytestmark = pytest.mark.slow  # whole trainings

NAMES = np.array(["cat", "dog", "eel"])


@pytest.fixture(scope="module")
def data() -> tuple[Any, Any, Any]:
    """Return three overlapping clouds, their named classes, and labels of which a third is wrong."""
    rows, target, *_ = make_blobs(600, 4, cluster_std=4.0, random_state=1)
    random = np.random.default_rng(0)
    wrong = (target + random.integers(1, 3, 600)) % 3
    return rows, NAMES[target], NAMES[np.where(random.random(600) < 0.3, wrong, target)]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # some checks warn of what they do themselves
def test_the_checks_of_scikit_learn() -> None:
    results = check_estimator(NoisyCalibratedClassifier(), on_skip=None)
    by_status: dict[str, list[str]] = {}
    for result in results:
        by_status.setdefault(result["status"], []).append(result["check_name"])
    assert len(by_status.pop("passed")) >= 55
    assert by_status in ({}, {"skipped": ["check_array_api_input"]})  # needs SCIPY_ARRAY_API to be set


@pytest.mark.filterwarnings("default")
def test_the_checks_can_fail() -> None:
    class Forgetful(NoisyCalibratedClassifier):  # pyright: ignore[reportGeneralTypeIssues]
        def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:  # noqa: N803
            return super().fit(X, y)

    check_sample_weight_equivalence_on_dense_data("Noisy", NoisyCalibratedClassifier())
    with pytest.raises(AssertionError, match="is not equivalent to fitting with removed or repeated"):
        check_sample_weight_equivalence_on_dense_data("Forgetful", Forgetful())


@pytest.mark.parametrize(
    "inner", [LogisticRegression(), RandomForestClassifier(20, max_depth=3, random_state=0), Perceptron()]
)
def test_without_noise_it_is_the_temperature_scaling_of_scikit_learn(inner: Any, data: Any) -> None:
    rows, _, labels = data
    theirs = CalibratedClassifierCV(inner, method="temperature", cv=3, ensemble=False).fit(rows, labels)
    ours = NoisyCalibratedClassifier(inner, noise=0, cv=3).fit(rows, labels)
    np.testing.assert_allclose(ours.predict_proba(rows), theirs.predict_proba(rows), rtol=1e-5, atol=1e-9)
    noisy = NoisyCalibratedClassifier(inner, cv=3).fit(rows, labels)
    assert np.abs(noisy.predict_proba(rows) - theirs.predict_proba(rows)).max() > 0.05  # the control


def test_it_finds_the_noise_and_the_wrong_labels(data: Any) -> None:
    rows, clean, labels = data
    model = NoisyCalibratedClassifier().fit(rows, labels)
    low, high = model.calibration_.noise_interval
    assert low < (labels != clean).mean() < high
    assert model.classes_.tolist() == NAMES.tolist()
    wrong = model.wrong_label_probs_
    assert wrong[labels != clean].mean() > 2 * wrong[labels == clean].mean()
    observed, probs = model.predict_observed_proba(rows), model.predict_proba(rows)
    assert observed.max() < 0.8 < probs.max()
    np.testing.assert_allclose(observed.sum(1), 1)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict_proba(rows), probs)
    assert again.calibration_ == model.calibration_
    frame = pytest.importorskip("pandas", reason="pandas is not installed").DataFrame(rows, columns=[*"abcd"])
    assert clone(model).fit(frame, labels).feature_names_in_.tolist() == [*"abcd"]
    assert cross_val_predict(clone(model), rows, labels, cv=2, method="predict_proba").shape == (600, 3)


def test_a_trained_classifier_calibrates_on_all_rows(data: Any) -> None:
    rows, _, labels = data
    trained = make_pipeline(StandardScaler(), LogisticRegression()).fit(rows[:300], labels[:300])
    model = NoisyCalibratedClassifier(FrozenEstimator(trained)).fit(rows[300:], labels[300:])
    logits = np.log(trained.predict_proba(rows[300:]))
    expected = fit(logits, np.searchsorted(NAMES, labels[300:]))
    assert model.calibration_.temperature == pytest.approx(expected.temperature, rel=1e-9)
    weight = np.arange(300) % 2.0
    weighed = NoisyCalibratedClassifier(FrozenEstimator(trained)).fit(rows[300:], labels[300:], weight)
    half = NoisyCalibratedClassifier(FrozenEstimator(trained)).fit(rows[301::2], labels[301::2])
    assert weighed.calibration_.temperature == pytest.approx(half.calibration_.temperature, rel=1e-9)


def test_noise_may_be_given(data: Any) -> None:
    rows, _, labels = data
    shares = np.array([[0.6, 0.3, 0.1], [0.0, 1.0, 0.0], [0.2, 0.2, 0.6]])
    plain = NoisyCalibratedClassifier(noise=shares).fit(rows, labels)
    turned = [2, 0, 1]
    named = ClassMatrix(shares[np.ix_(turned, turned)], NAMES[turned].tolist(), kind="similarity")
    by_name = NoisyCalibratedClassifier(noise=named).fit(rows, labels)
    np.testing.assert_allclose(by_name.predict_proba(rows), plain.predict_proba(rows), rtol=1e-12)
    wrong = NoisyCalibratedClassifier(noise=shares[np.ix_(turned, turned)]).fit(rows, labels)
    assert np.abs(wrong.predict_proba(rows) - plain.predict_proba(rows)).max() > 1e-3  # the control
    assert NoisyCalibratedClassifier(noise=0.3).fit(rows, labels).calibration_.noise == 0.3


def test_folds_may_lack_a_class_or_leave_rows_out(data: Any) -> None:
    rows, _, labels = data
    some = np.concatenate([np.flatnonzero(labels != "eel"), np.flatnonzero(labels == "eel")])
    model = NoisyCalibratedClassifier(cv=KFold(3)).fit(rows[some], labels[some])  # one fold has no eels
    assert np.isfinite(model.wrong_label_probs_).all()
    assert model.predict_proba(rows).shape == (600, 3)
    part = NoisyCalibratedClassifier(cv=ShuffleSplit(1, test_size=0.5, random_state=0)).fit(rows, labels)
    assert np.isnan(part.wrong_label_probs_).sum() == 300


def test_what_it_says(data: Any) -> None:
    """One class, an estimator without weights or without scores: each is named in an error or a warning."""
    rows, _, labels = data
    with pytest.raises(ValueError, match=r"y must have at least 2 classes, got 1 class: \['cat'\]"):
        NoisyCalibratedClassifier().fit(rows, np.repeat("cat", 600))
    with pytest.warns(UserWarning, match="LinearDiscriminantAnalysis takes no sample_weight"):
        NoisyCalibratedClassifier(LinearDiscriminantAnalysis()).fit(rows, labels, np.ones(600))

    class Silent(LinearDiscriminantAnalysis):
        predict_proba = decision_function = property()  # pyright: ignore

    with pytest.raises(TypeError, match="estimator must have predict_proba or decision_function, got Silent"):
        NoisyCalibratedClassifier(Silent()).fit(rows, labels)


@pytest.mark.slow
def test_on_digits_with_wrong_labels_it_is_nearer_to_the_clean_ones() -> None:
    digits = load_digits()
    random = np.random.default_rng(0)
    clean = digits.target[:900]
    labels = np.where(random.random(900) < 0.4, (clean + random.integers(1, 10, 900)) % 10, clean)
    inner = make_pipeline(StandardScaler(), LogisticRegression(C=0.01))
    scores = {}
    for noise in ("fit", 0):
        model = NoisyCalibratedClassifier(inner, noise=noise).fit(digits.data[:900], labels)
        probs = model.predict_proba(digits.data[900:])
        scores[noise] = -np.log(probs[np.arange(len(probs)), digits.target[900:]]).mean()
    assert scores["fit"] < 0.7 * scores[0]
