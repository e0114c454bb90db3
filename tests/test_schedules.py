"""Schedules are functions of the step, and stay within their bounds."""

import copy
import pickle
from itertools import pairwise
from math import cos, inf, pi

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise import Objective
from equipoise.losses import GammaCrossEntropy
from equipoise.schedules import Cosine, Linear, Schedule

VALUE = st.floats(-1e6, 1e6)
STEPS = st.integers(1, 10_000)
SCHEDULES = st.one_of(
    st.builds(Linear, VALUE, VALUE, STEPS),
    st.builds(Cosine, VALUE, VALUE, STEPS),
)


def at(schedule: Schedule, progress: float) -> float:
    """Return the step at a share of the schedule's way."""
    return progress * (schedule.steps if isinstance(schedule, Linear | Cosine) else 1)


@settings(max_examples=100)
@given(SCHEDULES, st.floats(-2, 3))
def test_values_stay_within_the_bounds(schedule: Schedule, progress: float) -> None:
    """Values stay within the bounds."""
    low, high = sorted(schedule.bounds())
    slack = 1e-15 * max(abs(low), abs(high))
    value = schedule(at(schedule, progress))
    assert isinstance(value, float)
    assert low - slack <= value <= high + slack


@settings(max_examples=100)
@given(SCHEDULES)
def test_the_ends_are_exact_and_hold_beyond(schedule: Schedule) -> None:
    """The ends are exact, and hold before and after."""
    start, end = schedule.bounds()
    assert schedule(at(schedule, 0.0)) == start
    assert schedule(at(schedule, -1.0)) == start
    assert schedule(at(schedule, 2.0)) == end
    assert schedule(at(schedule, 1.0)) == end
    assert schedule(10**12) == end


@settings(max_examples=100)
@given(SCHEDULES, st.lists(st.floats(-0.5, 1.5), min_size=2, max_size=10))
def test_values_move_one_way(schedule: Schedule, progress: list[float]) -> None:
    """Values change in one direction."""
    start, end = schedule.bounds()
    values = [schedule(at(schedule, share)) for share in sorted(progress)]
    slack = 1e-15 * max(abs(start), abs(end))
    for before, after in pairwise(values):
        assert (after - before) * (1 if end >= start else -1) >= -slack


def test_the_way_between_the_ends() -> None:
    """Values between the ends follow the formula."""
    for step in range(11):
        assert Linear(2.0, 7.0, steps=10)(step) == pytest.approx(2 + step / 2, rel=1e-15)
        assert Cosine(2.0, 7.0, steps=10)(step) == pytest.approx(4.5 - 2.5 * cos(pi * step / 10), rel=1e-15)
        assert Linear(0.3, 0.3, 1)(step) == 0.3


def test_cosine_is_slow_at_both_ends() -> None:
    """Cosine is slow at both ends and fastest in the middle."""
    steps = [Cosine(0, 1, steps=100)(step) for step in range(101)]
    moves = [after - before for before, after in pairwise(steps)]
    assert max(moves[0], moves[-1]) < 0.05 * max(moves)
    assert moves.index(max(moves)) in (49, 50)


@pytest.mark.parametrize("schedule", [Linear(0.5, 0.5, 1), Linear(0, 1, 7), Cosine(0, 1, 7)], ids=repr)
def test_a_schedule_has_no_state(schedule: Schedule) -> None:
    """A schedule is a function of the step, and copies and pickles."""
    grid = [0, 3, 7, 1, 0.5, 100, 0.2, 0]
    first = [schedule(point) for point in grid]
    assert [schedule(point) for point in reversed(grid)] == first[::-1]
    for again in (copy.deepcopy(schedule), pickle.loads(pickle.dumps(schedule))):
        assert again == schedule
        assert hash(again) == hash(schedule)
        assert [again(point) for point in grid] == first
    with pytest.raises(AttributeError):
        schedule.start = 3.0  # pyright: ignore[reportAttributeAccessIssue]


def test_a_schedule_of_the_users_own_can_be_used() -> None:
    """A schedule of the user's own works in an objective."""

    class Stairs(Schedule):
        def __call__(self, step: float, /) -> float:
            return min(0.1 * (step // 2), 0.3)

        def bounds(self) -> tuple[float, float]:
            return 0.0, 0.3

    objective = Objective(GammaCrossEntropy(), schedules={"gamma": Stairs()})
    values = []
    for _ in range(9):
        values.append(objective.scheduled()["gamma"])
        objective(torch.zeros(2, 3), torch.tensor([0, 1]))
        objective.step()
    assert values == pytest.approx([0, 0, 0.1, 0.1, 0.2, 0.2, 0.3, 0.3, 0.3])


@pytest.mark.parametrize("value", [inf, -inf, float("nan")])
def test_values_must_be_finite(value: float) -> None:
    """The ends must be finite."""
    for make in (
        lambda x: Linear(x, 1, 10),
        lambda x: Linear(0, x, 10),
        lambda x: Cosine(x, 1, 10),
        lambda x: Cosine(0, x, 10),
    ):
        with pytest.raises(ValueError, match="must be finite, got"):
            make(value)
