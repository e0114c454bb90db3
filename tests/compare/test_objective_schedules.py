"""Schedules in the text of an objective: which number they change, when, and what is refused."""

import re
from typing import Any

import pytest
import torch

from equipoise import Objective
from equipoise.compare.objectives import Scheduled
from equipoise.losses import CrossEntropy, Focal, GammaCrossEntropy, Sum
from equipoise.parsing import from_text
from equipoise.penalties import Entropy
from equipoise.schedules import Cosine, Linear
from support.read_objectives import COSTS, read, scheduled


def test_a_schedule_changes_one_number_over_the_share_of_training():
    text = "GammaCrossEntropy(gamma=Linear(0, 0.5)) + Cosine(0.2, 0, steps=0.5) * Entropy()"
    objective = scheduled(text, 200)
    assert objective.loss == GammaCrossEntropy(gamma=0.0) + 0.2 * Entropy()
    assert objective.schedules == {"gamma": Linear(0, 0.5, 200), "Entropy": Cosine(0.2, 0, 100)}
    for _ in range(100):
        objective.step()
    assert objective.scheduled() == {"Entropy": 0.0, "gamma": 0.25}
    assert scheduled(text, 1).schedules["Entropy"] == Cosine(0.2, 0, 1)


def test_an_objective_without_a_schedule_has_none():
    made = read("Focal() + 0.1 * Entropy()")
    assert made.schedules == {}
    assert made.loss == from_text("Focal() + 0.1 * Entropy()")


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("CrossEntropy() - Linear(0, 0.1) * Entropy()", 0.0, -0.1),
        ("CrossEntropy() + 2 * (Entropy() * Cosine(0.1, 0.5))", 0.2, 1.0),
        ("CrossEntropy() + Linear(end=0.2, start=0.1, steps=0.5) / 2 * Entropy()", 0.05, 0.1),
        ("CrossEntropy() + Linear(0.1, 0.2) * Entropy()", 0.1, 0.2),
        ("CrossEntropy() + 3 * -(2 * Linear(0.1, 0.2)) * Entropy() / 2", -0.3, -0.6),
        ("CrossEntropy() + Linear(1, 0) * Entropy()", 1, 0),
        ("CrossEntropy() + Linear(0.5, 0.5, 1) * Entropy()", 0.5, 0.5),
        ("CrossEntropy() + Linear(0.5, 0.5) * Entropy()", 0.5, 0.5),
        ("Linear(1, 2) * Entropy()", 1, 2),
    ],
)
def test_a_sign_or_a_factor_in_front_of_a_schedule_counts(text, start, end):
    objective = scheduled(text)
    assert objective.scheduled()["Entropy"] == pytest.approx(start)
    objective.set_step(10)
    assert objective.scheduled()["Entropy"] == pytest.approx(end)
    again = read(read(text).text)  # what it is written as makes it again
    assert again.same(read(text))


def test_two_numbers_may_have_the_same_schedule():
    made = read("GammaCrossEntropy(gamma=Linear(0, 0.5)) + Linear(0, 0.5) * Entropy()")
    assert {key: each.over(7) for key, each in made.schedules.items()} == {
        "gamma": Linear(0, 0.5, 7),
        "Entropy": Linear(0, 0.5, 7),
    }


def test_steps_of_two_or_more_are_those_of_the_optimiser():
    text = "GammaCrossEntropy(gamma=Linear(0, 0.5, steps=7))"
    assert scheduled(text, 1000).schedules == {"gamma": Linear(0, 0.5, 7)}
    given = Objective(GammaCrossEntropy(), schedules={"gamma": Linear(0, 0.5, 7)})
    assert read(read(given).name).same(read(given))
    assert read(text).same(read(given))


def test_an_objective_is_read_with_its_schedules_and_stays_as_it_was():
    given = Objective(0.5 * GammaCrossEntropy(0.3) + Entropy(), schedules={"gamma": Cosine(0, 1, 50)})
    for _ in range(3):
        given.step()
    before = given.scheduled()
    made = read(given)
    assert repr(made.objective(10)) == repr(Objective(made.loss, schedules={"gamma": Cosine(0, 1, 50)}))
    assert made.loss == 0.5 * GammaCrossEntropy(0.0) + Entropy()
    assert made.objective(10) is not made.objective(10)
    assert made.objective(10).steps == 0
    assert given.scheduled() == before != made.objective(10).scheduled()
    assert given.steps == 3


@pytest.mark.parametrize(
    ("option", "value"),
    [("weight", torch.ones(3)), ("ignore_index", 0), ("reduction", "sum")],
)
def test_an_objective_does_not_weigh(option, value):
    given: Any = Objective(CrossEntropy(), **{option: value})
    with pytest.raises(
        ValueError, match=rf"objectives must leave {option} at its default, got .*; class_weight"
    ):
        read(given)
    read(Objective(CrossEntropy(), ignore_index=int("-100")))


BAD_SCHEDULES = [
    (
        "GammaCrossEntropy(gamma=Linear(0, 0.5, steps=1.5))",
        "Linear: steps must be a share of training in (0, 1]",
    ),
    (
        "GammaCrossEntropy(gamma=Linear(0, 0.5, steps=7.0))",
        "or an integer of 2 or more, got 7.0; leave it out",
    ),
    ("GammaCrossEntropy(gamma=Linear(0, 0.5, 0))", "or an integer of 2 or more, got 0"),
    ("GammaCrossEntropy(gamma=Linear(0, 0.5, -1))", "or an integer of 2 or more, got -1"),
    ("GammaCrossEntropy(gamma=Linear(0, 0.5, 'a'))", "or an integer of 2 or more, got 'a'"),
    ("GammaCrossEntropy(gamma=Linear(0, 0.5, [1]))", "or an integer of 2 or more, got [1]"),
    ("GammaCrossEntropy(gamma=Linear(0, 0.5, True))", "must use only names, options, numbers"),
    ("GammaCrossEntropy(gamma=Linear(0, 0.5, steps=n))", "must use a known name, got 'n'"),
    (
        "CrossEntropy() + Linear(0.1, 0.2) * Linear(0.1, 0.3) * Entropy()",
        "a schedule must be one number of the objective but for a factor, got 'Linear(0.1, 0.2)' in",
    ),
    ("CrossEntropy() + 1 / Linear(1, 2) * Entropy()", "but for a factor, got 'Linear(1, 2)' in"),
    ("GammaCrossEntropy(gamma=Linear(0, 0.5) + 0)", "but for a factor, got 'Linear(0, 0.5)' in"),
    ("GammaCrossEntropy(gamma=0.5 - Linear(0, 0.5))", "but for a factor, got 'Linear(0, 0.5)' in"),
    ("Linear(0, 0.5) * (Entropy() + Gini())", "but for a factor, got 'Linear(0, 0.5)' in"),
    ("0 * (Linear(1, 2) + 1) * Entropy() + CrossEntropy()", "but for a factor, got 'Linear(1, 2)' in"),
    ("Reweighted(TaiLrWeight(Linear(0, 0.5)))", "but for a factor, got 'Linear(0, 0.5)' in"),
    ("ExpectedCost([[0, Linear(1, 2)], [1, 0]])", "but for a factor, got 'Linear(1, 2)' in"),
    ("GammaCrossEntropy(Linear(Linear(0, 0.1), 0.5))", "but for a factor, got 'Linear(0, 0.1)' in"),
    (
        "(1 / Linear(1, 2)) * Focal() + Linear(1, 2) * (Entropy() + Gini())",
        "but for a factor, got 'Linear(1, 2)' in",
    ),
    (
        "GammaCrossEntropy(gamma=Linear(0, 2))",
        "'GammaCrossEntropy(gamma=Linear(0, 2))': gamma must be in [0, 1], got 2",
    ),
    (
        "GammaCrossEntropy(gamma=Linear(-1, 0))",
        "GammaCrossEntropy: gamma must be in [0, 1], got Linear(-1, 0)",
    ),
    ("GammaCrossEntropy(gamma=Linear(0))", "Linear: missing a required argument: 'end'"),
    ("Linear(0, 1e308) * 100 * Entropy()", "must have finite numbers, got 'Linear(0, 1e+308) * 100'"),
    ("Linear(0, 1) / 0 * Entropy()", "must have finite numbers, got 'Linear(0, 1) / 0'"),
    ("Linear(0, 1)", "must be a loss, got 'Linear(0, 1)'"),
]


@pytest.mark.parametrize(("text", "message"), BAD_SCHEDULES)
def test_a_schedule_that_fits_nothing_is_refused(text, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        read(text)
    assert "\n" not in str(caught.value)


def test_steps_that_are_a_matrix_are_refused():
    with pytest.raises(ValueError, match="steps must be a share of training"):
        read("GammaCrossEntropy(gamma=Linear(0, 0.5, costs))", {"costs": COSTS})


@pytest.mark.parametrize(
    "text",
    [
        "GammaCrossEntropy(gamma=Linear(0, 0.5)) - Cosine(0, 0.1, 0.5) * Entropy()",
        "GammaCrossEntropy(gamma=Linear(0, 0.5, 9)) + Linear(1, 1, 1) * Entropy()",
    ],
)
def test_code_to_paste_runs_with_its_schedules(text):
    space: dict[str, Any] = {"logits": torch.zeros(3, 2), "target": torch.tensor([0, 1, 1])}
    exec(read(text).code({}), space)
    want = scheduled(text, 1000)
    want.step()
    assert repr(space["objective"]) == repr(want)
    assert space["objective"].scheduled() == want.scheduled()


def test_a_scheduled_number_counts_as_its_start():
    number = Scheduled(Linear(0.25, 1, 9), None)
    assert float(number) == 0.25
    assert number != 0.25
    assert number == Scheduled(Linear(0.25, 1, 9), None) != Scheduled(Linear(0.25, 1, 9), 0.5)
    assert len({number, Scheduled(Linear(0.25, 1, 9), None)}) == 1
    assert isinstance(Sum(((number, Focal()),)), Sum)
