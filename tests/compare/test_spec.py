import re
from typing import Any

import numpy as np
import pytest
import torch

from equipoise.compare import spec
from equipoise.losses import CrossEntropy, ExpectedCost

COSTS = np.array([[0.0, 2.0], [1.0, 0.0]])


def test_a_matrix_goes_by_its_name():
    assert spec.parse("ExpectedCost(costs)", {"costs": COSTS}) == ExpectedCost(COSTS)
    assert spec.parse("ExpectedCost(costs)", {"costs": COSTS}) != ExpectedCost(COSTS.T)
    assert spec.parse("CrossEntropy()") == CrossEntropy()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ExpectedCost(costs)", "must have the matrix it names, got 'costs' without it; add --costs FILE"),
        ("ExpectedCost(cost)", "must use a known name, got 'cost'; did you mean costs?"),
        ("ExpectedCost(", "must be Python such as"),
    ],
)
def test_a_bad_text_is_refused_with_the_way_out(text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        spec.parse(text)


def test_code_to_paste_runs_and_makes_the_same_loss(tmp_path):
    np.save(tmp_path / "costs.npy", COSTS)
    named = "ExpectedCost(Matrix([[0, 1], [1, 0]], 'costs', ['ill', 'well']))"
    text = f"GammaCrossEntropy(gamma=0.5) + 0.5*ExpectedCost(costs) + Entropy() / 2 + {named}"
    code = spec.paste(text, lambda name: str(tmp_path / f"{name}.npy"))
    space = {"logits": torch.zeros(3, 2), "target": torch.tensor([0, 1, 1])}
    exec(code, space)
    assert space["loss"] == spec.parse(text, {"costs": COSTS})
    assert "from equipoise.losses import ExpectedCost, GammaCrossEntropy" in code
    assert "from equipoise.penalties import Entropy" in code


def test_code_to_paste_runs_with_its_schedules():
    text = "GammaCrossEntropy(gamma=Linear(0, 0.5)) - Cosine(0, 0.1, 0.5) * Entropy()"
    space: dict[str, Any] = {"logits": torch.zeros(3, 2), "target": torch.tensor([0, 1, 1])}
    exec(spec.paste(text, str), space)
    want = spec.read(text).objective(1000)
    want.step()
    assert repr(space["objective"]) == repr(want)
    assert space["objective"].scheduled() == want.scheduled()


def test_a_schedule_changes_one_number_over_the_share_of_training():
    text = "GammaCrossEntropy(gamma=Linear(0, 0.5)) + Cosine(0.2, 0, steps=0.5) * Entropy()"
    objective = spec.read(text).objective(200)
    assert repr(objective) == (
        "Objective(GammaCrossEntropy(gamma=0.0, min_weight=0.0) + 0.2 * Entropy(), "
        "gamma: Linear(start=0, end=0.5, steps=200), Entropy: Cosine(start=0.2, end=0, steps=100))"
    )
    for _ in range(100):
        objective.step()
    assert objective.scheduled() == {"Entropy": 0.0, "gamma": 0.25}


def test_an_objective_without_a_schedule_has_none():
    read = spec.read("Focal() + 0.1 * Entropy()")
    assert read.schedules == {}
    assert read.loss == spec.parse("Focal() + 0.1 * Entropy()")


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("CrossEntropy() - Linear(0, 0.1) * Entropy()", 0.0, -0.1),
        ("CrossEntropy() + 2 * (Entropy() * Cosine(0.1, 0.5))", 0.2, 1.0),
        ("CrossEntropy() + Linear(end=0.2, start=0.1, steps=0.5) / 2 * Entropy()", 0.05, 0.1),
        ("CrossEntropy() + Linear(0.1, 0.2) * Entropy()", 0.1, 0.2),
    ],
)
def test_a_sign_or_a_factor_in_front_of_a_schedule_counts(text, start, end):
    objective = spec.read(text).objective(10)
    assert objective.scheduled()["Entropy"] == pytest.approx(start)
    objective.seek(10)
    assert objective.scheduled()["Entropy"] == pytest.approx(end)


def test_two_numbers_may_have_the_same_schedule():
    read = spec.read("GammaCrossEntropy(gamma=Linear(0, 0.5)) + Linear(0, 0.5) * Entropy()")
    assert read.schedules == {"gamma": "Linear(0, 0.5)", "Entropy": "Linear(0, 0.5)"}


BAD_SCHEDULES = [
    (
        "GammaCrossEntropy(gamma=Linear(0, 0.5, steps=7))",
        "steps must be a share of training in (0, 1], got 7",
    ),
    ("GammaCrossEntropy(gamma=Linear(0, 0.5, 0))", "steps must be a share of training in (0, 1], got 0"),
    (
        "GammaCrossEntropy(gamma=Linear(0, 0.5, steps=n))",
        "steps must be a share of training in (0, 1], got n",
    ),
    ("GammaCrossEntropy(gamma=Linear(0.5, 0.5))", "a schedule must change one number of the objective, got"),
    (
        "CrossEntropy() + Linear(0.1, 0.2) * Linear(0.1, 0.3) * Entropy()",
        "a schedule must be a number of the objective but for a factor, got Linear(0.1, 0.3) in",
    ),
    (
        "CrossEntropy() + 1 / Linear(1, 2) * Entropy()",
        "a schedule must be a number of the objective but for a factor, got Linear(1, 2) in",
    ),
    ("GammaCrossEntropy(gamma=Linear(0, 2))", "GammaCrossEntropy: gamma must be in [0, 1], got 2"),
    ("GammaCrossEntropy(gamma=Linear(0))", "Linear: "),
]


@pytest.mark.parametrize(("text", "message"), BAD_SCHEDULES)
def test_a_schedule_that_fits_nothing_is_refused(text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        spec.read(text)
