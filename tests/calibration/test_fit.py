"""Temperature and label noise against scipy, scikit-learn and simulation, and the laws of the fit."""

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from equipoise.calibration import Calibration, Prior, fit
from equipoise.calibration.likelihood import Channel, Symmetric
from equipoise.calibration.solve import crossfit_nll_batch, fit_batch
from equipoise.costs import ClassMatrix
from support.simulated_labels import Floats, simulated

pytestmark = pytest.mark.slow  # fits to simulated data
SETS = 200
NORMAL = 1.959963984540054


def softmax(logits: Floats) -> Floats:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def coverage(sets: int, *, factor: float = 1.0, **options: Any) -> float:
    """Return how often the interval holds the noise, its half-widths times a factor."""
    found = [fit(*simulated(seed, **options)) for seed in range(sets)]
    held = 0
    for each in found:
        low, high = each.noise_interval or (np.nan, np.nan)
        low, high = each.noise - factor * (each.noise - low), each.noise + factor * (high - each.noise)
        held += low <= options["noise"] <= high
    return held / sets


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.4, 0.6])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_temperature_and_noise_are_recovered(temperature: float, noise: float) -> None:
    found = fit(*simulated(0, 20000, 5, temperature=temperature, noise=noise))
    assert found.temperature == pytest.approx(temperature, rel=0.06)
    assert found.noise == pytest.approx(noise, abs=0.015)
    plain = fit(*simulated(0, 20000, 5, temperature=temperature, noise=noise), noise=0)
    assert (plain.temperature > 1.2 * temperature) == (noise > 0)  # the control: noise passes for doubt


@pytest.mark.slow
def test_the_interval_covers_as_often_as_it_says() -> None:
    noisy: dict[str, Any] = {"rows": 180, "classes": 10, "noise": 0.4, "spread": 6.0}
    least = 0.95 - 3 * (0.95 * 0.05 / SETS) ** 0.5
    assert coverage(SETS, **noisy) >= least
    assert coverage(SETS, **noisy | {"noise": 0.0}) >= least  # where 0 is the end of the range
    assert coverage(SETS, factor=0.5, **noisy) < least - 0.1  # the control


def test_no_harm_on_clean_labels() -> None:
    """Mean NLL of clean labels, beside that of a temperature alone, in expectation over fresh rows."""
    for spread in (6.0, 3.0, 2.0, 1.5):
        rows = [simulated(seed, 180, 10, spread=spread) for seed in range(SETS)]
        logits, target = np.stack([each[0] for each in rows]), np.stack([each[1] for each in rows])
        fresh = simulated(1000, 2000, 10, spread=spread)[0]
        true = softmax(fresh / 2)

        def nll(noise: float | None, logits: Any, target: Any, fresh: Any, true: Any) -> Floats:
            fits = [Calibration(t, 0.0, None, 10) for t in fit_batch(logits, target, noise=noise).temperature]
            return np.array([-(true * np.log(each.probs(fresh) + 1e-300)).sum(1).mean() for each in fits])

        alone, fitted, given = (nll(noise, logits, target, fresh, true) for noise in (0, None, 0.1))
        assert (fitted - alone).mean() < 0.005
        assert (given - alone).mean() > 0.005  # the control: noise that is not there


def textbook(
    logits: Floats, target: Any, a: float, s: float, *, on: float = 1.0, mean: float = -2.0
) -> float:
    classes = logits.shape[1]
    observed = s / classes + (1 - s) * softmax(logits / np.exp(a))
    data = -np.log(observed[np.arange(len(target)), target]).sum()
    return data + a**2 / 2 + on * (np.log(s / (1 - s)) - mean) ** 2 / 8


@pytest.mark.parametrize("seed", range(6))
def test_the_mode_and_the_interval_are_those_that_scipy_finds(seed: int) -> None:
    optimize = pytest.importorskip("scipy.optimize", reason="scipy is not installed")
    rows, classes = (40, 200)[seed % 2], (2, 3, 12)[seed % 3]
    logits, target = simulated(seed, rows, classes, noise=0.3)

    def minimum(on: float, s: float | None = None) -> tuple[float, Floats]:
        starts = [(a, logit) for a in (-1.0, 0.0, 1.0, 2.0) for logit in (-3.0, -1.0, 0.5)]

        def value(at: Floats) -> float:
            share = 1 / (1 + np.exp(-np.clip(at[1], -14, 14))) if s is None else s
            return textbook(logits, target, float(at[0]), float(share), on=on)

        tried = [
            optimize.minimize(
                value, start, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12, "maxiter": 4000}
            )
            for start in (starts if s is None else starts[:4])
        ]
        best = min(tried, key=lambda each: each.fun)
        return best.fun, best.x

    found = fit(logits, target)
    _, mode = minimum(1.0)
    most = (classes - 1) / classes
    assert np.log(found.temperature) == pytest.approx(mode[0], abs=1e-6)
    assert found.noise == pytest.approx(most / (1 + np.exp(-mode[1])), abs=1e-6)
    assert found.noise_interval is not None
    limit = minimum(0.0)[0] + NORMAL**2 / 2
    for end in found.noise_interval:
        if 0 < end < most and end != found.noise:
            assert minimum(0.0, end / most)[0] == pytest.approx(limit, abs=2e-4)
        else:  # the whole range is in
            assert minimum(0.0, float(np.clip(end / most, 1e-9, 1 - 1e-9)))[0] < limit


@pytest.mark.parametrize("kind", ["symmetric", "channel", "soft"])
def test_derivatives_are_those_of_differences(kind: str) -> None:
    logits, target = simulated(3, 30, 4, noise=0.3)
    random = np.random.default_rng(0)
    labels: Any = random.dirichlet(np.ones(4), 30) if kind == "soft" else target
    weight, step = random.random(30), 1e-5
    matrix = random.dirichlet(np.ones(4), 4)
    parts = (logits[None], labels[None], weight[None])
    likelihood = Channel(*parts, matrix) if kind == "channel" else Symmetric(*parts)

    def at(a: float, logit: float) -> Any:
        return likelihood.derivatives(np.array([a]), np.array([1 / (1 + np.exp(-logit))]))

    here, right = at(0.3, -1.0), (at(0.3 + step, -1.0), at(0.3 - step, -1.0))
    up = (at(0.3, -1.0 + step), at(0.3, -1.0 - step))
    for (ahead, behind), value, slopes in (
        (right, here.a, ("value", here.aa, "a")),
        (up, here.logit, ("value", here.ll, "logit")),
    ):
        difference = (ahead.value - behind.value) / (2 * step)
        assert difference == pytest.approx(value, rel=1e-6, abs=1e-7)
        second = (getattr(ahead, slopes[2]) - getattr(behind, slopes[2])) / (2 * step)
        assert second == pytest.approx(slopes[1], rel=1e-6, abs=1e-7)
    mixed = (up[0].a - up[1].a) / (2 * step)
    assert mixed == pytest.approx(here.al, rel=1e-6, abs=1e-7)


@pytest.mark.filterwarnings("ignore:Since FrozenEstimator does not appear to accept")
@pytest.mark.parametrize("classes", [2, 5])
def test_without_noise_it_is_the_temperature_scaling_of_scikit_learn(classes: int) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.frozen import FrozenEstimator

    class Given(ClassifierMixin, BaseEstimator):
        def fit(self, X: Any, y: Any) -> Any:  # noqa: N803
            self.classes_, self.n_features_in_ = np.unique(y), X.shape[1]
            return self

        def decision_function(self, X: Any) -> Floats:  # noqa: N803
            return X if X.shape[1] > 2 else (X[:, 1] - X[:, 0]) / 2  # which it takes for (-x, x)

        def predict(self, X: Any) -> Any:  # noqa: N803
            return X.argmax(1)

    logits, target = simulated(1, 400, classes, noise=0.2)
    weight = np.random.default_rng(0).random(400)
    model = CalibratedClassifierCV(FrozenEstimator(Given().fit(logits, target)), method="temperature")
    model.fit(logits, target, sample_weight=weight)
    ours = fit(logits, target, noise=0, sample_weight=weight)
    beta = np.mean([part.calibrators[0].beta_ for part in model.calibrated_classifiers_])
    assert 1 / ours.temperature == pytest.approx(beta, rel=1e-6)
    np.testing.assert_allclose(ours.probs(logits), model.predict_proba(logits), rtol=1e-5)
    noisy = fit(logits, target, sample_weight=weight)
    assert 1 / noisy.temperature != pytest.approx(beta, rel=1e-3)  # the control


def same(one: Calibration, two: Calibration, tolerance: float = 1e-9) -> bool:
    pairs = [(one.temperature, two.temperature), (one.noise, two.noise)]
    pairs += zip(one.noise_interval or (), two.noise_interval or (), strict=True)
    return all(abs(a - b) <= tolerance * (1 + abs(b)) for a, b in pairs)


def test_soft_targets_are_weighted_rows_and_weights_are_repeated_rows() -> None:
    logits, target = simulated(2, 60, 4, noise=0.3)
    soft = np.random.default_rng(0).dirichlet(np.ones(4), 60)
    spread = fit(np.repeat(logits, 4, 0), np.tile(np.arange(4), 60), sample_weight=soft.ravel())
    assert same(fit(logits, soft), replace(spread), 1e-6)
    assert same(fit(logits, np.eye(4)[target]), fit(logits, target), 1e-6)
    counts = np.arange(60) % 3
    repeated = fit(np.repeat(logits, counts, 0), np.repeat(target, counts))
    weighed = fit(logits, target, sample_weight=counts)
    assert same(weighed, repeated, 1e-6)
    assert not same(fit(logits, target), repeated, 1e-3)  # the control
    matrix = np.random.default_rng(1).dirichlet(4 * np.ones(4), 4)
    by_row = fit(np.repeat(logits, 4, 0), np.tile(np.arange(4), 60), sample_weight=soft.ravel(), noise=matrix)
    assert same(fit(logits, soft, noise=matrix), by_row, 1e-6)
    assert weighed.nll(logits, target, sample_weight=counts) == pytest.approx(
        weighed.nll(np.repeat(logits, counts, 0), np.repeat(target, counts))
    )


def test_order_of_rows_names_of_classes_and_shifts_do_not_matter() -> None:
    logits, target = simulated(4, 120, 5, noise=0.2)
    found = fit(logits, target)
    random = np.random.default_rng(0)
    order, classes = random.permutation(120), random.permutation(5)
    assert same(fit(logits[order], target[order]), found, 1e-7)
    assert same(fit(logits[:, classes], np.argsort(classes)[target]), found, 1e-7)
    assert same(fit(logits + random.normal(size=(120, 1)), target), found, 1e-6)


def test_a_matrix_of_symmetric_noise_is_the_rate() -> None:
    logits, target = simulated(5, 300, 4, noise=0.3)
    matrix = np.full((4, 4), 0.1) + 0.6 * np.eye(4)
    by_rate, by_matrix = (fit(logits, target, noise=noise) for noise in (0.3, matrix))
    assert by_matrix.noise == pytest.approx(0.3)
    assert by_matrix.temperature == pytest.approx(by_rate.temperature, rel=1e-9)
    for name in ("probs", "observed_probs"):
        np.testing.assert_allclose(getattr(by_matrix, name)(logits), getattr(by_rate, name)(logits), 1e-9)
    wrong = [each.wrong_label_probs(logits, target) for each in (by_matrix, by_rate)]
    np.testing.assert_allclose(*wrong, rtol=1e-9)
    assert by_matrix.nll(logits, target) == pytest.approx(by_rate.nll(logits, target), rel=1e-12)
    none = fit(logits, target, noise=np.eye(4))
    assert none.temperature == pytest.approx(fit(logits, target, noise=0, prior=Prior()).temperature)
    assert hash(by_matrix) == hash(replace(by_matrix, transition=ClassMatrix(matrix, kind="similarity")))


def test_a_matrix_serves_where_noise_goes_one_way() -> None:
    random = np.random.default_rng(0)
    logits, clean = simulated(6, 20000, 3)
    observed = np.where((clean == 0) & (random.random(20000) < 0.4), 1, clean)
    matrix = np.array([[0.6, 0.4, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    known = fit(logits, observed, noise=matrix)
    assert known.temperature == pytest.approx(2.0, rel=0.05)
    assert known.noise == pytest.approx((observed != clean).mean(), abs=0.01)
    turned = fit(logits, observed, noise=matrix[::-1, ::-1])
    assert turned.nll(logits, observed) > known.nll(logits, observed) + 0.1
    assert known.wrong_label_probs(logits, observed)[observed != 1].max() == 0


@pytest.mark.parametrize("noise", ["fit", 0.2, np.array([[0.7, 0.2, 0.1], [0, 1, 0], [0.3, 0.3, 0.4]])])
def test_wrong_labels_by_the_joint_table(noise: Any) -> None:
    logits, target = simulated(7, 50, 3, noise=0.2)
    found = fit(logits, target, noise=noise)
    rate = found.noise
    matrix = (
        noise if isinstance(noise, np.ndarray) else np.full((3, 3), rate / 2) + (1 - 1.5 * rate) * np.eye(3)
    )
    joint = softmax(logits / found.temperature)[:, :, None] * matrix
    rows = np.arange(50)
    expected = 1 - joint[rows, target, target] / joint[rows, :, target].sum(1)
    np.testing.assert_allclose(found.wrong_label_probs(logits, target), expected, atol=1e-14)
    np.testing.assert_allclose(found.observed_probs(logits), joint.sum(1), rtol=1e-12)
    picked = np.log(joint.sum(1)[rows, target])
    assert found.nll(logits, target) == pytest.approx(-picked.mean(), rel=1e-12)
    far = found.wrong_label_probs(np.array([[900.0, 0.0, -900.0]]), [0])
    assert np.isfinite(far).all()
    assert fit(logits, target, noise=0).wrong_label_probs(logits, target).max() == 0


def batch(problems: int, rows: int, classes: int) -> tuple[Floats, NDArray[np.int64]]:
    each = [simulated(seed, rows, classes, noise=0.1 * (seed % 5)) for seed in range(problems)]
    return np.stack([one for one, _ in each]), np.stack([two for _, two in each])


def test_problems_do_not_see_each_other_and_padding_does_not_count() -> None:
    logits, target = batch(6, 81, 5)
    together = fit_batch(torch.tensor(logits).float(), torch.tensor(target))
    logits = logits.astype(np.float32).astype(float)
    for k in range(6):
        alone = fit_batch(logits[k : k + 1], target[k : k + 1])
        assert [float(each[0]) for each in alone] == [float(each[k]) for each in together]
        whole = fit(logits[k], target[k])
        assert (whole.temperature, whole.noise) == (together.temperature[k], together.noise[k])
        assert whole.nll(logits[k], target[k]) == pytest.approx(together.nll[k], rel=1e-12)
    padded, places, weight = np.full((6, 90, 5), np.nan), np.full((6, 90), -100), np.zeros((6, 90))
    padded[:, :81], places[:, :81], weight[:, :81] = logits, target, 1.0
    np.testing.assert_allclose(fit_batch(padded, places, weight=weight), together, rtol=1e-9)
    crossed = crossfit_nll_batch(logits, target)
    np.testing.assert_allclose(crossfit_nll_batch(padded, places, weight=weight), crossed, rtol=1e-9)
    logits[2, 7, 1] = np.nan
    for broken, before in (
        (fit_batch(logits, target).nll, together.nll),
        (crossfit_nll_batch(logits, target), crossed),
    ):
        assert np.isnan(broken[2])
        np.testing.assert_array_equal(np.delete(broken, 2), np.delete(before, 2))


def test_the_crossed_score_is_that_of_the_other_half() -> None:
    logits, target = batch(3, 101, 4)
    found = crossfit_nll_batch(logits, target)
    for k in range(3):
        order = np.concatenate([np.flatnonzero(target[k] == c) for c in range(4)])
        one, two = order[::2], order[1::2]
        counts = [np.bincount(target[k][half], minlength=4) for half in (one, two)]
        assert np.abs(counts[0] - counts[1]).max() <= 1
        ones, twos = (fit(logits[k][half], target[k][half]) for half in (one, two))
        parts = (
            len(two) * ones.nll(logits[k][two], target[k][two]),
            len(one) * twos.nll(logits[k][one], target[k][one]),
        )
        assert found[k] == pytest.approx(sum(parts) / 101, rel=1e-9)
        assert found[k] > fit(logits[k], target[k]).nll(logits[k], target[k])  # not the rows it was fitted on
    known = fit_batch(logits, target, noise=0.2)
    assert set(known.noise) == {0.2}
    assert known.temperature[1] == pytest.approx(fit(logits[1], target[1], noise=0.2).temperature)


def test_ten_thousand_rows_of_a_hundred_classes_take_a_second() -> None:
    logits, target = simulated(0, 10000, 100, noise=0.3)
    started = time.process_time()
    found = fit(logits, target)
    assert time.process_time() - started < 1.0
    assert found.noise == pytest.approx(0.3, abs=0.03)
