"""skorch trains with an `Objective`, with its defaults and as the page on scikit-learn says."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("skorch", reason="skorch is not installed")
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNetClassifier
from skorch.callbacks import Callback

from equipoise import Objective, costs, maps
from equipoise.losses import CrossEntropy, Focal, GammaCrossEntropy
from equipoise.penalties import Balance, Entropy
from equipoise.schedules import Linear
from support.sklearn_cases import COSTS

pytestmark = pytest.mark.usefixtures("plain_memory")


@pytest.fixture(scope="module")
def data() -> tuple[Any, Any]:
    """Return three overlapping clouds."""
    rows, labels, *_ = make_blobs(90, 4, cluster_std=4.0, random_state=1)
    return rows.astype(np.float32), labels


class Step(Callback):
    """Steps the schedules after each batch, as the page has it."""

    def on_batch_end(self, net: Any, training: bool = False, **kwargs: Any) -> None:
        if training:
            net.criterion_.step()


def quick(criterion: Any = Objective, **options: Any) -> Any:
    """Return a classifier with skorch's defaults, but silent and short."""
    torch.manual_seed(0)
    given = {"module__in_features": 4, "module__out_features": 3, "max_epochs": 3, "verbose": 0}
    return NeuralNetClassifier(torch.nn.Linear, criterion=criterion, **given | options)


def logits(net: Any, rows: Any) -> torch.Tensor:
    with torch.no_grad():
        return net.module_(torch.from_numpy(rows))


def test_it_trains_as_with_the_loss_of_torch(data: Any) -> None:
    rows, labels = data
    ours = quick(criterion__loss=CrossEntropy(), predict_nonlinearity=maps.Softmax().probs).fit(rows, labels)
    theirs = quick(torch.nn.CrossEntropyLoss).fit(rows, labels)
    np.testing.assert_allclose(ours.predict_proba(rows), theirs.predict_proba(rows), rtol=1e-5)
    assert np.array_equal(ours.predict(rows), theirs.predict(rows))
    for column in ("train_loss", "valid_loss", "valid_acc"):
        np.testing.assert_allclose(ours.history[:, column], theirs.history[:, column], rtol=1e-5)
    weight = torch.tensor([1.0, 1.0, 5.0])
    weighed = quick(
        Objective.from_config, criterion__loss="CrossEntropy()", criterion__weight=[1.0, 1.0, 5.0]
    ).fit(rows, labels)
    by_torch = quick(torch.nn.CrossEntropyLoss, criterion__weight=weight).fit(rows, labels)
    np.testing.assert_allclose(logits(weighed, rows), logits(by_torch, rows), rtol=1e-4, atol=1e-6)


def test_control_without_a_nonlinearity_it_returns_logits(data: Any) -> None:
    net = quick(criterion__loss=Focal()).fit(*data)
    assert np.array_equal(net.predict_proba(data[0]), logits(net, data[0]).numpy())
    assert abs(net.predict_proba(data[0]).sum(1) - 1).max() > 0.1


@pytest.mark.parametrize(
    "made", [maps.Softmax(), maps.Floored(0.05), maps.Projected(0.05), maps.Entmax(1.5)], ids=repr
)
def test_a_map_makes_the_probabilities(made: maps.Map, data: Any) -> None:
    rows, labels = data
    net = quick(criterion__loss=GammaCrossEntropy(0.3), predict_nonlinearity=made.probs).fit(rows, labels)
    probs = net.predict_proba(rows)
    np.testing.assert_array_equal(probs, made.probs(logits(net, rows)).numpy())
    np.testing.assert_allclose(probs.sum(1), 1, rtol=1e-5)
    assert probs.min() >= made.min_prob(3) * (1 - 1e-6)
    assert costs.decide(probs, COSTS).shape == (90,)
    for again in (pickle.loads(pickle.dumps(net)), clone(net).fit(rows, labels)):
        assert abs(again.predict_proba(rows).sum(1) - 1).max() < 1e-5
    assert np.array_equal(pickle.loads(pickle.dumps(net)).predict_proba(rows), probs)


def test_a_search_over_an_option(data: Any) -> None:
    rows, labels = data
    softmax = maps.Softmax().probs
    texts = [f"GammaCrossEntropy(gamma={gamma}) + 0.1 * Balance()" for gamma in (0.0, 0.9)]
    made = [GammaCrossEntropy(gamma) + 0.1 * Balance() for gamma in (0.0, 0.9)]
    found = []
    for criterion, losses in ((Objective.from_config, texts), (Objective, made)):
        net = quick(criterion, criterion__loss=losses[0], predict_nonlinearity=softmax, lr=0.1)
        pipeline = make_pipeline(StandardScaler(), net)
        grid = {"neuralnetclassifier__criterion__loss": losses}
        torch.manual_seed(0)
        search = GridSearchCV(pipeline, grid, cv=2, scoring="neg_log_loss", error_score="raise").fit(
            rows, labels
        )
        scores = search.cv_results_["mean_test_score"]
        assert np.isfinite(scores).all()
        assert len(set(scores)) == 2  # each loss had its part
        best = search.best_estimator_[-1]
        assert best.criterion_.loss == made[int(scores.argmax())]
        found.append(scores)
    np.testing.assert_allclose(*found, rtol=1e-6)


def test_clone_and_set_params_make_the_criterion_anew(data: Any) -> None:
    rows, labels = data
    net = quick(criterion__loss=CrossEntropy(), criterion__reduction="sum").fit(rows, labels)
    other = clone(net).set_params(criterion__loss=Focal() - 0.1 * Entropy()).initialize()
    assert other.criterion_.loss == Focal() - 0.1 * Entropy()
    assert other.criterion_.reduction == "sum"
    assert net.set_params(criterion__loss=Focal()).criterion_.loss == Focal()
    probs = cross_val_predict(
        quick(criterion__loss=CrossEntropy(), predict_nonlinearity=maps.Softmax().probs),
        rows,
        labels,
        cv=3,
        method="predict_proba",
    )
    assert probs.shape == (90, 3)


def test_schedules_step_with_the_batches_and_are_saved(data: Any, tmp_path: Path) -> None:
    rows, labels = data

    def made() -> Any:
        return quick(
            criterion__loss=GammaCrossEntropy(),
            criterion__schedules={"gamma": Linear(0.0, 0.5, steps=100)},
            predict_nonlinearity=maps.Softmax().probs,
            callbacks=[Step()],
            iterator_train__batch_size=24,
        )

    net = made().fit(rows, labels)
    batches = 3 * 3  # of the four fifths that skorch does not validate on
    assert net.criterion_.steps == batches
    assert net.criterion_.scheduled() == {"gamma": pytest.approx(0.5 * batches / 100)}
    assert made().set_params(callbacks=None).fit(rows, labels).criterion_.steps == 0  # the control
    files = {f"f_{part}": tmp_path / f"{part}.pt" for part in ("params", "criterion", "optimizer")}
    net.save_params(**files)
    again = made().initialize()
    again.load_params(**files)
    for other in (again, pickle.loads(pickle.dumps(net))):
        assert other.criterion_.scheduled() == net.criterion_.scheduled()
        assert np.array_equal(other.predict_proba(rows), net.predict_proba(rows))
    torch.manual_seed(1)
    net.partial_fit(rows, labels)
    torch.manual_seed(1)
    again.partial_fit(rows, labels)
    assert again.criterion_.steps == net.criterion_.steps == 2 * batches
    np.testing.assert_allclose(again.predict_proba(rows), net.predict_proba(rows), rtol=1e-6)
