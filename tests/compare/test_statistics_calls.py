"""Calls of paired differences: by hand, mirrored, exchanged; errors."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from equipoise.compare.statistics import Difference, call, compare_paired, compare_rows, worthwhile_difference

MIRROR = {"better": "worse", "worse": "better", "equal": "equal", "undecided": "undecided"}
finite = st.floats(-10, 10).map(lambda value: round(value, 6))


def ends(found: Difference):
    return found.mean, found.low, found.high


# --- the call ---


def test_the_call_by_hand():
    assert call(0.02, 0.01, 0.03, "higher", 0.005) == "better"
    assert call(0.004, 0.001, 0.007, "higher", 0.005) == "undecided"  # sure, and not worth having
    assert call(0.003, 0.001, 0.005, "higher", 0.005) == "equal"
    assert call(0.005, 0.005, 0.005, "higher", 0.005) == "better"  # asked before equal
    assert call(-0.02, -0.03, -0.01, "higher", 0.005) == "worse"
    assert call(-0.02, -0.03, -0.01, "lower", 0.005) == "better"
    assert call(0.02, -0.01, 0.05, "higher", 0.005) == "undecided"
    assert call(0.02, 0.01, 0.03, None) is None
    assert call(0.915 - 0.91, 0.001, 0.01, "higher", 0.005) == "better"  # less than 0.005 by rounding
    assert call(float("nan"), float("nan"), float("nan"), "higher") == "undecided"


@given(st.tuples(finite, finite, finite).map(sorted), st.floats(0, 3))
def test_directions_are_mirrored(sides, worthwhile):
    """The call of the negated differences with the other direction is the same."""
    low, mean, high = sides
    said = call(mean, low, high, "higher", worthwhile)
    assert call(-mean, -high, -low, "lower", worthwhile) == said
    # Worse is the mirror image of better, but where the interval is within what is not worth having.
    other = call(mean, low, high, "lower", worthwhile)
    assert said is not None
    if max(abs(low), abs(high)) > worthwhile + 1e-9:
        assert other == MIRROR[said]


@given(
    st.lists(finite, min_size=3, max_size=12),
    st.integers(0, 2**32 - 1),
    st.floats(0, 0.3),
    st.sampled_from([compare_paired, compare_rows]),
)
def test_exchanging_candidate_and_baseline_mirrors_everything(values, seed, worthwhile, compare):
    generator = np.random.default_rng(seed)
    plain, candidate = np.array(values), generator.permutation(values)
    if compare is compare_rows:
        plain, candidate = plain[None], candidate[None]
    for better in ("higher", "lower"):
        [there] = compare([candidate], plain, better, worthwhile=worthwhile)
        [back] = compare([plain], candidate, better, worthwhile=worthwhile)
        assert ends(back) == pytest.approx((-there.mean, -there.high, -there.low), abs=1e-9)
        [turned] = compare(
            [-candidate], -plain, "lower" if better == "higher" else "higher", worthwhile=worthwhile
        )
        assert turned.call == there.call
        [order] = compare([candidate[..., ::-1]], plain[..., ::-1], better, worthwhile=worthwhile)
        assert ends(order) == pytest.approx(ends(there), abs=1e-9)


@given(st.lists(finite, min_size=3, max_size=12), st.floats(0, 0.5), st.integers(1, 30))
def test_more_comparisons_and_more_overlap_decide_less(values, ratio, comparisons):
    assume(np.ptp(values) > 1e-6)
    plain = np.zeros(len(values))
    [once] = compare_paired([values], plain, "higher", comparisons=1)
    [often] = compare_paired([values], plain, "higher", comparisons=comparisons, test_ratio=ratio)
    assert often.low <= once.low + 1e-12
    assert often.high >= once.high - 1e-12


def test_smallest_differences_are_as_given_and_a_share_of_costs():
    given_ = {"accuracy": 0.005, "calibrated_nll": 0.01}
    assert worthwhile_difference(given_, "calibrated_nll", 9.0) == 0.01
    assert worthwhile_difference(given_, "decided_cost", -2.0) == pytest.approx(0.04)
    assert worthwhile_difference({"decided_cost": 7.0}, "decided_cost", 2.0) == 7.0
    assert worthwhile_difference(given_, "brier", 0.5) == 0.0


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: compare_paired([[1.0, 2.0]], [1.0, 2.0, 3.0], "higher"), ("splits", "(2,)", "nan")),
        (lambda: compare_paired([[1.0]], [1.0], "up"), ("better", "'up'", "None")),
        (lambda: compare_paired([[1.0]], [1.0], "higher", test_ratio=-1), ("test_ratio", "0 or more", "-1")),
        (lambda: compare_paired([[1.0]], [1.0], "higher", worthwhile=-1), ("worthwhile", "0 or more", "-1")),
        (
            lambda: compare_paired([[1.0]], [1.0], "higher", comparisons=-1),
            ("comparisons", "0 or more", "-1"),
        ),
        (lambda: compare_rows([[1.0, 2.0]], [[1.0, 2.0]] * 2, "higher"), ("(R, M)", "(2, 2)", "nan")),
        (
            lambda: compare_rows([[[1.0, 2.0]]], [[1.0, 2.0]], "higher", groups=[1, 2, 3]),
            ("groups", "(3,)", "2 rows"),
        ),
    ],
)
def test_errors_name_the_argument_the_rule_and_the_value(wrong, words):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        wrong()
    assert all(word in str(caught.value) for word in words)
