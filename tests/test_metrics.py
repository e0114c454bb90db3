"""Measures of choice against values worked out by hand; those of cost are tested with the comparison."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from equipoise.metrics import (
    area_under_risk_coverage,
    boundary_mass,
    choices_used,
    effective_choices,
    mean_target_probability,
    smallest_probability,
)

CERTAIN = [[0.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]
EVEN = [[0.25, 0.25, 0.25, 0.25]] * 2
RIVALS = [[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]]


@pytest.mark.parametrize(
    ("probs", "each", "used"),
    [
        (CERTAIN, 1.0, 2.0),
        (EVEN, 4.0, 4.0),
        (RIVALS, 2.0, 4.0),
        ([*CERTAIN, *EVEN], 2.5, math.exp(0.75 * math.log(8 / 3) + 0.25 * math.log(8))),
        ([[0.5, 0.25, 0.25]], 2 * math.sqrt(2), 2 * math.sqrt(2)),  # half of a bit and half of two: 1.5 bits
        ([[1.0]], 1.0, 1.0),
    ],
)
def test_numbers_of_choices(probs: list[list[float]], each: float, used: float) -> None:
    """The effective numbers of choices are those worked out by hand."""
    assert effective_choices(probs) == pytest.approx(each, rel=1e-14)
    assert choices_used(probs) == pytest.approx(used, rel=1e-14)


def test_a_decided_gate_may_use_one_section_or_all() -> None:
    """One-hot rows have one effective choice; `choices_used` tells whether they differ."""
    spread, collapsed = np.eye(16), np.eye(16)[np.zeros(16, dtype=int)]
    assert effective_choices(spread) == effective_choices(collapsed) == 1.0
    assert choices_used(spread) == pytest.approx(16)
    assert choices_used(collapsed) == 1.0  # the measure that must tell them apart


def test_the_mean_is_over_rows_and_not_of_their_entropy() -> None:
    """`effective_choices` averages exponentials of entropies."""
    probs = [CERTAIN[0], EVEN[0]]
    assert effective_choices(probs) == 2.5
    assert effective_choices(probs) != pytest.approx(math.exp(math.log(4) / 2))  # the other order: 2


@pytest.mark.parametrize(
    ("width", "share"), [(0.0, 0.25), (0.124, 0.25), (0.125, 0.5), (0.5, 0.75), (0.99, 0.75), (1.0, 1.0)]
)
def test_rows_near_a_boundary(width: float, share: float) -> None:
    """`boundary_mass` counts rows within the width."""
    # margins 0, 1/8, 1/2 and 1, all exact in binary; the two largest are not in the first columns
    probs = [[0.0, 0.5, 0.5], [0.125, 0.375, 0.5], [0.125, 0.6875, 0.1875], [0.0, 0.0, 1.0]]
    assert boundary_mass(probs, width) == share


def test_nothing_depends_on_the_order_of_choices_or_rows() -> None:
    """The measures do not depend on the order of rows and choices."""
    probs = np.random.default_rng(0).dirichlet(np.full(16, 0.3), size=200)
    mixed = np.random.default_rng(1).permuted(probs, axis=1)
    other = probs[::-1, ::-1]
    assert effective_choices(other) == pytest.approx(effective_choices(probs), rel=1e-12)
    assert boundary_mass(other, 0.3) == boundary_mass(probs, 0.3)
    assert choices_used(other) == pytest.approx(choices_used(probs), rel=1e-12)
    assert 0.1 < boundary_mass(probs, 0.3) < 0.9  # the rows do differ
    assert choices_used(mixed) != pytest.approx(choices_used(probs), rel=1e-6)  # columns mixed within rows


def test_tensors_are_taken_and_half_precision_is_counted_in_float64() -> None:
    """Tensors are accepted, and half precision is computed in float64."""
    probs = torch.tensor(RIVALS)
    for given in (probs, probs.half(), probs.numpy()):
        assert effective_choices(given) == pytest.approx(2, rel=1e-14)
        assert choices_used(given) == pytest.approx(4, rel=1e-14)
        assert boundary_mass(given, 0.1) == 1.0


@pytest.mark.parametrize("probs", [[0.5, 0.5], np.zeros((0, 3)), [[[1.0]]]])
def test_rows_are_asked_for(probs: list[float]) -> None:
    """Probabilities must be (N, C)."""
    for measure in (effective_choices, choices_used, lambda p: boundary_mass(p, 0.1)):
        with pytest.raises(ValueError, match=r"probabilities must be \(N, C\), got .*; give one row per"):
            measure(probs)


PROBABILITIES = [
    smallest_probability,
    effective_choices,
    choices_used,
    lambda probs: mean_target_probability(probs, [1] * len(probs)),
    lambda probs: area_under_risk_coverage(probs, [1] * len(probs)),
    lambda probs: boundary_mass(probs, 0.1),
    lambda probs: boundary_mass(probs, 1.0),
]


@pytest.mark.parametrize(
    "kind",
    [np.array, torch.tensor, lambda probs: torch.tensor(probs, dtype=torch.float16)],
)
@pytest.mark.parametrize(
    "row", [[0.5, math.nan], [math.nan, 0.5], [math.nan] * 2, [math.inf, 0.3], [0.3, -math.inf]]
)
@pytest.mark.parametrize("measure", PROBABILITIES)
def test_one_row_that_is_not_finite_makes_the_result_nan(measure: Any, row: list[float], kind: Any) -> None:
    """One row that is not finite makes the measure nan."""
    for probs in ([row], [[0.5, 0.5], row, [1.0, 0.0]]):
        assert math.isnan(measure(kind(probs)))
    assert math.isfinite(measure(kind([[0.5, 0.5], [0.25, 0.75], [1.0, 0.0]])))


@pytest.mark.parametrize("probs", [[[2.0, -1.0]], [[math.nan, 1.0], [2.0, -1.0]], [[0.4, 0.4]]])
def test_logits_are_not_taken_for_probabilities(probs: list[list[float]]) -> None:
    """Logits are refused as probabilities."""
    for measure in (effective_choices, choices_used, lambda p: boundary_mass(p, 0.1)):
        with pytest.raises(ValueError, match=r"must be non-negative and sum to one in every row.*softmax"):
            measure(probs)


@pytest.mark.parametrize("width", [-0.1, 1.1, float("nan")])
def test_the_width_is_a_difference_of_probabilities(width: float) -> None:
    """The width must be in [0, 1]."""
    with pytest.raises(ValueError, match=r"width must be in \[0, 1\], got .*; it is a difference of two"):
        boundary_mass(EVEN, width)


def test_a_margin_needs_two_choices() -> None:
    """`boundary_mass` needs two choices."""
    with pytest.raises(ValueError, match=r"at least 2 choices, got 1; a margin needs two"):
        boundary_mass([[1.0]], 0.1)
