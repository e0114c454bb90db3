"""`ObjectiveClassifier` with a module of the user's own."""

from typing import Any, final

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("sklearn", reason="scikit-learn is not installed")
from sklearn.base import clone
from sklearn.datasets import load_digits, make_blobs
from sklearn.model_selection import GridSearchCV

from support.sklearn_cases import NAMES, quick

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("plain_memory")]  # whole trainings


@pytest.fixture(scope="module")
def data() -> tuple[Any, Any]:
    """Return three overlapping clouds with named classes."""
    rows, labels, *_ = make_blobs(150, 4, cluster_std=4.0, random_state=1)
    return rows, NAMES[labels]


def same(one: Any, other: Any, rows: Any) -> bool:
    return np.array_equal(one.predict_proba(rows), other.predict_proba(rows))


@final
class Images(nn.Module):
    """A small convolutional network with dropout and batch normalisation."""

    def __init__(self, features: Any, classes: int) -> None:
        super().__init__()
        self.features = features
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Flatten(),
            nn.Linear(144, classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


@pytest.fixture(scope="module")
def images() -> tuple[Any, Any]:
    digits: Any = load_digits()
    return digits.images[:400, None] / 16, digits.target[:400]


def test_a_module_of_ones_own_on_images(images: Any) -> None:
    rows, labels = images
    options: Any = {"max_iter": 12, "batch_size": 32, "early_stopping": True}
    model = quick(module=Images, **options).fit(rows[:300], labels[:300])
    assert model.module_.features == (1, 8, 8)
    assert model.score(rows[300:], labels[300:]) > 0.8
    assert not hasattr(model, "n_layers_")
    state = torch.get_rng_state()
    assert same(clone(model).fit(rows[:300], labels[:300]), model, rows)
    assert torch.equal(torch.get_rng_state(), state)
    assert not same(clone(model).set_params(random_state=1).fit(rows[:300], labels[:300]), model, rows)
    with pytest.raises(
        ValueError, match=r"X must have rows of shape \(1, 8, 8\), as in fit, got \(1, 4, 16\)"
    ):
        model.predict(rows.reshape(-1, 1, 4, 16))
    with pytest.raises(ValueError, match="Found array with dim 4"):
        quick().fit(rows, labels)


def test_a_network_is_copied_and_trained_from_the_weights_it_has(data: Any) -> None:
    rows, labels = data
    network = nn.Linear(4, 3)
    before = network.weight.detach().clone()
    for made in (network, nn.Sequential(network)):
        model = quick(module=made, alpha=0.0).fit(rows, labels)
        assert torch.equal(network.weight, before)
        assert not torch.equal(next(model.module_.parameters()), before)
    start = quick(module=network, learning_rate_init=1e-30).fit(rows, labels)
    assert torch.equal(start.module_.weight, before)
    assert start.predict_proba(rows).dtype == np.float64  # X is float64, the network float32
    search = GridSearchCV(quick(max_iter=2), {"module": [None, network, lambda f, c: nn.Linear(f, c)]}, cv=2)
    assert search.fit(rows, labels).cv_results_["mean_test_score"].shape == (3,)


def test_integers_stay_integers_for_a_module_of_ones_own() -> None:
    words = np.arange(240).reshape(60, 4) % 7
    module = nn.Sequential(nn.Embedding(7, 3), nn.Flatten(), nn.Linear(12, 2))
    model = quick(module=module, max_iter=60, learning_rate_init=0.05).fit(words, words[:, 0] > 3)
    assert model.score(words, words[:, 0] > 3) > 0.9
