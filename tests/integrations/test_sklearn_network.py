"""`ObjectiveClassifier` beside MLPClassifier: arguments, rules for the end, own modules, sparse rows."""

import inspect
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("sklearn", reason="scikit-learn is not installed")
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import load_digits, make_blobs
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

from equipoise.integrations.sklearn import ObjectiveClassifier
from equipoise.losses import Brier
from support.sklearn_cases import NAMES, quick

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("plain_memory")]  # whole trainings


@pytest.fixture(scope="module")
def data() -> tuple[Any, Any]:
    """Return three overlapping clouds with named classes."""
    rows, labels, *_ = make_blobs(150, 4, cluster_std=4.0, random_state=1)
    return rows, NAMES[labels]


def same(one: Any, other: Any, rows: Any) -> bool:
    return np.array_equal(one.predict_proba(rows), other.predict_proba(rows))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_arguments_and_attributes_are_those_of_the_perceptron(data: Any) -> None:
    ours, theirs = (inspect.signature(each).parameters for each in (ObjectiveClassifier, MLPClassifier))
    shared = ours.keys() & theirs.keys()
    assert {name: ours[name].default for name in shared} == {name: theirs[name].default for name in shared}
    assert theirs.keys() - shared == {
        "solver",  # Adam
        "learning_rate",  # of SGD, as are the next three
        "power_t",
        "momentum",
        "nesterovs_momentum",
        "beta_1",  # torch's defaults are the same
        "beta_2",
        "epsilon",
        "max_fun",  # of L-BFGS
    }
    adam = inspect.signature(torch.optim.AdamW).parameters
    betas = (theirs["beta_1"].default, theirs["beta_2"].default)
    assert (adam["betas"].default, adam["eps"].default) == (betas, theirs["epsilon"].default)
    options = {"hidden_layer_sizes": (5, 6), "max_iter": 5, "random_state": 0}
    for stopping in (False, True):
        one, other = (
            kind(**options, early_stopping=stopping).fit(*data)
            for kind in (ObjectiveClassifier, MLPClassifier)
        )
        missing = {name for name in vars(other) if name.endswith("_")} - vars(one).keys()
        assert missing == {"coefs_", "intercepts_", "t_"}
        for name in ("n_layers_", "n_outputs_", "out_activation_", "n_features_in_"):
            assert getattr(one, name) == getattr(other, name)
        for name in ("best_loss_", "validation_scores_", "best_validation_score_"):
            assert (getattr(one, name) is None) == (getattr(other, name) is None)
        assert len(one.loss_curve_) == one.n_iter_


@pytest.mark.parametrize("stopping", [False, True])
@pytest.mark.parametrize("patience", [2, 5])
def test_training_ends_by_the_rule_of_the_perceptron(stopping: bool, patience: int, data: Any) -> None:
    model = quick(
        max_iter=500, n_iter_no_change=patience, tol=0.004, early_stopping=stopping, validation_fraction=0.2
    ).fit(*data)
    values = [-score for score in model.validation_scores_] if stopping else model.loss_curve_
    assert len(values) == model.n_iter_ < 500
    best, waited = np.inf, 0
    for value in values:
        assert waited <= patience  # it has not ended before
        waited = waited + 1 if value > best - 0.004 else 0
        best = min(best, value)
    assert waited == patience + 1
    if not stopping:
        assert (model.best_loss_, model.loss_) == (min(values), values[-1])
        assert model.validation_scores_ is model.best_validation_score_ is None
        assert same(model, quick(max_iter=len(values)).fit(*data), data[0])  # the last weights
        return
    assert (model.best_validation_score_, model.best_loss_) == (-best, None)
    rows, labels = data
    kept, held_out = train_test_split(
        np.arange(150), test_size=0.2, stratify=labels, random_state=model._seed
    )
    assert model.score(rows[held_out], labels[held_out]) == pytest.approx(-best)  # the best weights
    again = quick(max_iter=values.index(best) + 1, early_stopping=True, validation_fraction=0.2).fit(*data)
    assert same(again, model, rows)
    assert model.n_iter_ > again.n_iter_
    moved = rows.copy()
    moved[held_out[0]] = moved[held_out[1]]  # held-out rows train nothing
    assert again.loss_curve_ == again.fit(moved, labels).loss_curve_
    moved[kept[0]] += 1
    assert again.loss_curve_ != clone(again).fit(moved, labels).loss_curve_


def test_held_out_rows_count_by_their_weights(data: Any) -> None:
    rows, labels = data
    options: Any = {"early_stopping": True, "validation_fraction": 0.4, "max_iter": 3, "alpha": 0.0}
    weight = np.where(labels == "eel", 5.0, 1.0)
    model = quick(**options).fit(rows, labels, sample_weight=weight)
    by_class = quick(**options, class_weight={"eel": 5.0}).fit(rows, labels)
    np.testing.assert_allclose(model.loss_curve_, by_class.loss_curve_, rtol=1e-9)
    _, held_out = train_test_split(np.arange(150), test_size=0.4, stratify=labels, random_state=model._seed)
    assert model.best_validation_score_ == pytest.approx(
        model.score(rows[held_out], labels[held_out], sample_weight=weight[held_out])
    )
    plain = by_class.score(rows[held_out], labels[held_out])  # class weights are no part of accuracy
    assert by_class.best_validation_score_ == pytest.approx(plain)
    zero = np.where(np.arange(150) % 3 == 0, 0.0, 1.0)
    left_out = quick(**options).fit(rows[zero > 0], labels[zero > 0])
    assert same(quick(**options).fit(rows, labels, sample_weight=zero), left_out, rows)


def test_a_fit_that_was_cut_off_warns(data: Any) -> None:
    with pytest.warns(ConvergenceWarning, match="max_iter must be larger for training to converge .* got 15"):
        quick(n_iter_no_change=10).fit(*data)
    with pytest.warns(ConvergenceWarning, match="max_iter must be larger"):
        quick(n_iter_no_change=10, early_stopping=True, tol=0.0).fit(*data)
    for asked_nothing in ({}, {"n_iter_no_change": 15}):
        quick(**asked_nothing).fit(*data)
    quick(n_iter_no_change=2).partial_fit(*data, classes=NAMES)


def test_a_loss_under_a_schedule_ends_nothing(data: Any) -> None:
    options: Any = {"n_iter_no_change": 2, "tol": 0.5, "max_iter": 30}
    rising = {"label_smoothing": "Linear(0.0, 0.5, steps=30)"}
    assert quick(**options).fit(*data).n_iter_ < 10
    assert quick(**options, schedules=rising).fit(*data).n_iter_ == 30
    assert quick(**options, schedules=rising, early_stopping=True).fit(*data).n_iter_ < 10


def test_alpha_is_the_penalty_of_the_perceptron(data: Any) -> None:
    """One full batch from the same weights: the same step, of weights and of biases."""
    rows, labels = data
    steps = []
    for alpha in (0.0, 300.0):
        options: Any = {"alpha": alpha, "max_iter": 1, "hidden_layer_sizes": (8,), "batch_size": 150}
        theirs = MLPClassifier(**options, learning_rate_init=0.01, random_state=0)
        theirs.partial_fit(rows, labels, classes=NAMES)
        before = [each.copy() for each in (*theirs.coefs_, *theirs.intercepts_)]
        ours = quick(**options | {"learning_rate_init": 1e-30}).fit(rows, labels)
        parameters = [*list(ours.module_.parameters())[::2], *list(ours.module_.parameters())[1::2]]
        with torch.no_grad():
            for own, given in zip(parameters, before, strict=True):
                own.copy_(torch.from_numpy(given.T))
        fresh = quick(**options, module=ours.module_).partial_fit(rows, labels, classes=NAMES)
        # Adam's first step has the size of the learning rate and the sign of the gradient: both start anew
        theirs._optimizer = type(theirs._optimizer)(theirs.coefs_ + theirs.intercepts_, 0.01)
        theirs.partial_fit(rows, labels)
        after = [each.T for each in (*theirs.coefs_, *theirs.intercepts_)]
        found = [*list(fresh.module_.parameters())[::2], *list(fresh.module_.parameters())[1::2]]
        for own, given in zip(found, after, strict=True):
            np.testing.assert_allclose(
                own.detach().numpy(), given, rtol=0, atol=1e-4
            )  # its eps has another place
        steps.append(found[0].detach().numpy() - before[0].T)
    assert np.abs(steps[0] - steps[1]).max() > 0.01  # the control


def test_warm_start_goes_on(data: Any) -> None:
    rows, labels = data
    parts = quick(max_iter=5, warm_start=True)
    for _ in range(3):
        parts.fit(rows, labels)
    whole = quick().fit(rows, labels)
    assert same(parts, whole, rows)
    assert (parts.n_iter_, parts.loss_curve_) == (15, whole.loss_curve_)
    assert not same(quick(max_iter=5).fit(rows, labels).fit(rows, labels), whole, rows)
    with pytest.raises(
        ValueError, match=r"classes must be those of the first call, .* in fit with warm_start"
    ):
        parts.fit(rows, labels == "eel")
    with pytest.raises(ValueError, match="activation must stay 'relu' in fit with warm_start, got 'tanh'"):
        parts.set_params(activation="tanh").fit(rows, labels)
    assert same(parts, whole, rows)


def test_it_prints_as_the_perceptron_does(data: Any, capsys: pytest.CaptureFixture[str]) -> None:
    model = quick(verbose=True, max_iter=2).fit(*data)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"Iteration {n}, loss = {loss:.8f}" for n, loss in enumerate(model.loss_curve_, start=1)]
    model = quick(verbose=True, max_iter=1, early_stopping=True).fit(*data)
    assert capsys.readouterr().out.endswith(f"Validation score: {model.best_validation_score_:f}\n")
    quick().fit(*data)
    assert capsys.readouterr().out == ""


def test_rows_stay_in_their_order_without_shuffling(data: Any) -> None:
    rows, labels = data
    order = np.random.default_rng(0).permutation(150)
    curves = [
        quick(shuffle=shuffle, batch_size=50, max_iter=3).fit(rows[which], labels[which]).loss_curve_
        for shuffle in (False, True)
        for which in (np.arange(150), order)
    ]
    assert len({tuple(curve) for curve in curves}) == 4
    repeated = quick(shuffle=False, batch_size=50, max_iter=3).fit(rows, labels)
    assert repeated.loss_curve_ == curves[0]


@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
def test_activations_and_layers_are_those_of_the_perceptron(activation: Any, data: Any) -> None:
    """With its weights, the logits are those of MLPClassifier."""
    rows, labels = data
    sizes: Any = {"hidden_layer_sizes": [8, 5], "activation": activation, "max_iter": 1}
    theirs = MLPClassifier(**sizes).partial_fit(rows, labels, classes=NAMES)
    ours = quick(**sizes).fit(rows, labels)
    layers = [each for each in ours.module_ if isinstance(each, nn.Linear)]
    with torch.no_grad():
        for layer, weight, bias in zip(layers, theirs.coefs_, theirs.intercepts_, strict=True):
            layer.weight.copy_(torch.from_numpy(weight.T))
            layer.bias.copy_(torch.from_numpy(bias))
    np.testing.assert_allclose(ours.predict_proba(rows), theirs.predict_proba(rows), rtol=1e-6)


@pytest.mark.parametrize("kind", ["csr_matrix", "csr_array", "csc_array", "coo_array", "lil_matrix"])
def test_sparse_rows_are_what_dense_ones_are(kind: str, data: Any) -> None:
    rows, labels = data
    thin = np.where(np.abs(rows) > 5, rows, 0.0)
    given = getattr(sparse, kind)(thin)
    options: Any = {"early_stopping": True, "batch_size": 32}
    one, other = quick(**options).fit(given, labels), quick(**options).fit(thin, labels)
    assert same(one, other, thin)
    np.testing.assert_array_equal(one.predict_proba(given), other.predict_proba(thin))
    assert one.partial_fit  # early stopping is for fit alone
    again = quick().partial_fit(given, labels, classes=NAMES).predict(given)
    assert np.array_equal(again, quick().partial_fit(thin, labels, classes=NAMES).predict(thin))


def test_a_wide_sparse_matrix_is_never_dense_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = sparse.random(120, 20_000, density=0.001, format="csr", random_state=0)
    sizes: list[int] = []
    plain = sparse.csr_matrix.toarray

    def toarray(self: Any, *args: Any, **options: Any) -> Any:
        sizes.append(self.shape[0])
        return plain(self, *args, **options)

    monkeypatch.setattr(type(wide), "toarray", toarray)
    quick(batch_size=20, max_iter=2).fit(wide, np.arange(120) % 3).predict(wide)
    assert max(sizes) == 20


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"module": 3},
            TypeError,
            "module must be a torch.nn.Module, or a function from (features, classes)",
        ),
        ({"module": lambda f, c: c}, TypeError, "(features, classes) to one, got int from <function"),
        (
            {"module": nn.Linear(4, 1)},
            ValueError,
            "model must return logits (B, C), a row for each input and",
        ),
        ({"module": nn.Linear(4, 2)}, ValueError, "target must be"),
        ({"activation": "gelu"}, ValueError, "activation must be one of identity, logistic, tanh, relu, got"),
        ({"alpha": -1.0}, ValueError, "alpha must be finite and at least 0, got -1.0"),
        ({"tol": -1.0}, ValueError, "tol must be finite and at least 0, got -1.0"),
        ({"n_iter_no_change": 0}, ValueError, "n_iter_no_change must be an integer of at least 1, got 0"),
        ({"validation_fraction": 0.0}, ValueError, "validation_fraction must be in (0, 1], got 0.0"),
        ({"device": "meta"}, ValueError, "device must be 'cpu', 'cuda' or 'cuda:N', got 'meta'"),
        ({"device": "cuda:77"}, ValueError, "device must be one that torch can use, got 'cuda:77' with"),
        ({"hidden_layer_sizes": "9"}, TypeError, "hidden_layer_sizes must be the widths of the layers"),
        (
            {"hidden_layer_sizes": (0,)},
            ValueError,
            "hidden_layer_sizes must be an integer of at least 1, got",
        ),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_a_wrong_argument_is_refused_when_fitted(options: Any, error: Any, message: str, data: Any) -> None:
    model = quick(**options)
    with pytest.raises(error, match=re.escape(message)):
        model.fit(*data)


def test_early_stopping_is_for_fit_alone(data: Any) -> None:
    with pytest.raises(ValueError, match="early_stopping must be False in partial_fit, got True; hold out"):
        quick(early_stopping=True).partial_fit(*data, classes=NAMES)


def test_numbers_of_numpy_are_numbers(data: Any) -> None:
    given: Any = {"alpha": np.float32(0.5), "tol": np.int64(0), "hidden_layer_sizes": np.int64(8)}
    plain = quick(alpha=0.5, tol=0, hidden_layer_sizes=8)
    assert same(quick(**given).fit(*data), plain.fit(*data), data[0])
    assert quick("Brier()", max_iter=2).set_params(objective=Brier()).fit(*data).n_iter_ == 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_it_is_as_good_as_the_perceptron_on_digits() -> None:
    digits: Any = load_digits()
    parts = train_test_split(digits.data / 16, digits.target, random_state=0, stratify=digits.target)
    train, test, observed, target = parts
    scores = []
    for kind in (MLPClassifier, ObjectiveClassifier):
        scores.append(
            kind(random_state=0, max_iter=40, learning_rate_init=0.01)
            .fit(train, observed)
            .score(test, target)
        )
    assert scores[1] > scores[0] - 0.01
