"""`partial_fit` goes on where it was, with what has been set since, or refuses."""

import pickle
import re
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn", reason="scikit-learn is not installed")
from sklearn.base import clone

from equipoise import Objective
from equipoise.losses import Focal
from equipoise.penalties import Balance
from equipoise.schedules import Linear
from support.sklearn_cases import COSTS, NAMES, quick

pytestmark = pytest.mark.usefixtures("plain_memory")


def test_partial_fit_goes_on_where_it_was(data: Any) -> None:
    rows, labels = data
    model = quick("GammaCrossEntropy()", schedules={"gamma": Linear(0, 0.5, steps=15)})
    whole = clone(model).fit(rows, labels)
    for _ in range(14):
        model.partial_fit(rows, labels, classes=NAMES)
    model = pickle.loads(pickle.dumps(model)).partial_fit(rows, labels)  # Adam and the draws go along
    assert np.array_equal(model.predict_proba(rows), whole.predict_proba(rows))
    assert model.n_iter_ == 15
    one = labels == "dog"
    model.partial_fit(rows[one], labels[one], sample_weight=np.ones(one.sum()))  # a batch with one class
    assert model.classes_.tolist() == NAMES.tolist()


CHANGES: list[dict[str, Any]] = [
    {"objective__gamma": 0.9},
    {"objective": "Focal()"},
    {"objective": Focal() + 0.1 * Balance()},
    {"schedules": {"gamma": "Linear(0.9, 0.9, 1)"}},
    {"schedules": {"gamma": Linear(0.0, 0.9, steps=5)}},
    {"learning_rate_init": 0.1},
    {"batch_size": 30},
    {"class_weight": {"eel": 5.0}},
    {"alpha": 30.0},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
@pytest.mark.parametrize("begin", ["fit", "partial_fit"])
def test_partial_fit_has_what_was_set_since_in_force(change: Any, begin: str, data: Any) -> None:
    rows, labels = data
    plain = {"objective": "GammaCrossEntropy(gamma=0.1)", "max_iter": 1, "alpha": 3.0}
    model = quick(**plain)
    model = model.fit(rows, labels) if begin == "fit" else model.partial_fit(rows, labels, classes=NAMES)
    model.set_params(**change).partial_fit(rows, labels)
    found = [each.detach().numpy() for each in model.module_.parameters()]

    # The two passes by hand, from the same initial weights; each is one batch of all the rows.
    module = quick(**plain | {"learning_rate_init": 1e-30}).fit(rows, labels).module_
    weights, biases = list(module.parameters())[::2], list(module.parameters())[1::2]
    optimizer = torch.optim.Adam([{"params": weights}, {"params": biases}], lr=0.01)
    weight = torch.ones(90, dtype=torch.float64)
    objective = Objective.from_config(plain["objective"])
    for given in ({}, change):
        now = quick(**plain).set_params(**given)
        loss = Objective.from_config(now.objective, schedules=now.schedules)
        loss.set_step(objective.steps)
        objective = loss
        for group in optimizer.param_groups:
            group["lr"] = now.learning_rate_init
        if now.class_weight:
            weight = torch.from_numpy(np.where(labels == "eel", now.class_weight["eel"], 1.0))
        optimizer.param_groups[0]["weight_decay"] = now.alpha / weight.sum().item()
        optimizer.zero_grad()
        target = torch.from_numpy(np.searchsorted(NAMES, labels))
        objective(module(torch.from_numpy(rows)), target, sample_weight=weight).backward()
        optimizer.step()
        objective.step()
    by_hand = [each.detach().numpy() for each in module.parameters()]
    same = all(np.allclose(one, two, rtol=1e-9, atol=0) for one, two in zip(found, by_hand, strict=True))
    assert same == ("batch_size" not in change)  # which has three batches
    assert model.objective_.steps == 2 + 2 * ("batch_size" in change)


def test_partial_fit_has_costs_in_force_and_keeps_the_steps_of_schedules(data: Any) -> None:
    rows, labels = data
    model = quick("GammaCrossEntropy()", schedules={"gamma": Linear(0, 0.5, steps=10)})
    for _ in range(3):
        model.partial_fit(rows, labels, classes=NAMES)
    model.set_params(
        costs=COSTS, schedules={"gamma": Linear(0, 1.0, steps=10), "min_weight": "Linear(0.1, 0.1, 1)"}
    )
    model.partial_fit(rows, labels)
    assert model.objective_.steps == 4
    assert model.objective_.scheduled() == {"gamma": 0.4, "min_weight": 0.1}
    assert np.array_equal(model.predict(rows), NAMES[(model.predict_proba(rows) @ COSTS).argmin(1)])
    rising = {"gamma": Linear(0.0, 0.9, steps=9)}
    one, two = (quick("GammaCrossEntropy()", schedules=rising) for _ in range(2))
    for model in (one, two):
        for _ in range(3):
            model.partial_fit(rows, labels, classes=NAMES)
            if model is two:
                model.set_params(objective="GammaCrossEntropy(gamma=0.1)")  # nothing new
    assert np.array_equal(one.predict_proba(rows), two.predict_proba(rows))
    assert one.objective_.scheduled() == two.objective_.scheduled()
    assert one.objective_.scheduled()["gamma"] > 0.2


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"hidden_layer_sizes": (9,)},
            ValueError,
            "hidden_layer_sizes must stay (8,) in partial_fit, got (9,); to start again use fit",
        ),
        (
            {"hidden_layer_sizes": 9},
            ValueError,
            "hidden_layer_sizes must stay (8,) in partial_fit, got (9,); to start again use fit",
        ),
        (
            {"random_state": 1},
            ValueError,
            "random_state must stay 0 in partial_fit, got 1; to start again use",
        ),
        ({"random_state": None}, ValueError, "random_state must stay 0 in partial_fit, got None"),
        ({"learning_rate_init": 0}, ValueError, "learning_rate_init must be finite and above 0, got 0"),
        ({"batch_size": 0}, ValueError, "batch_size must be an integer of at least 1, got 0"),
        ({"objective": "Fokal()"}, ValueError, "objective must use a known name, got 'Fokal'; did you mean"),
        ({"objective": Focal}, TypeError, "objective must be a loss of equipoise or its text, got <class"),
        ({"schedules": {"q": "Linear(1, 1, 1)"}}, ValueError, "schedules['q'] must name a value of"),
        ({"costs": [[0, 1], [1, 0]]}, ValueError, "costs[true, predicted] must have a row and a column for"),
        ({"class_weight": "balanced"}, ValueError, "class_weight must be a dict or None in partial_fit"),
    ],
    ids=str,
)
def test_partial_fit_refuses_what_cannot_be_and_stays_as_it_was(
    change: Any, error: Any, message: str, data: Any
) -> None:
    rows, labels = data
    model = quick(hidden_layer_sizes=[8]).fit(rows, labels)
    before = {name: model.get_params()[name] for name in change}
    probs, objective, costs = model.predict_proba(rows), model.objective_, model.costs_
    with pytest.raises(error, match=re.escape(message)):
        model.set_params(**change).partial_fit(rows, labels)
    assert np.array_equal(model.predict_proba(rows), probs)
    assert (model.objective_, model.costs_, model.n_iter_) == (objective, costs, 15)
    untouched = quick(hidden_layer_sizes=[8]).fit(rows, labels).partial_fit(rows, labels)
    assert np.array_equal(
        model.set_params(**before).partial_fit(rows, labels).predict_proba(rows),
        untouched.predict_proba(rows),
    )


def test_a_random_state_that_is_kept_may_go_on(data: Any) -> None:
    rows, labels = data
    model = quick(random_state=np.random.RandomState(3)).partial_fit(rows, labels, classes=NAMES)
    for again in (model, pickle.loads(pickle.dumps(model))):
        again.partial_fit(rows, labels)
    with pytest.raises(ValueError, match="random_state must stay"):
        model.set_params(random_state=np.random.RandomState(3)).partial_fit(rows, labels)
