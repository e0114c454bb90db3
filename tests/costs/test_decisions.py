"""Decisions by cost: the right number for a published question; arrays and tensors decide alike."""

from typing import Any

import numpy as np
import pytest
import torch

from equipoise.costs import ABSTAIN, ClassMatrix, conditional_risk, decide, ordinal, top_k
from equipoise.losses import ExpectedCost, PairwiseCrossEntropy, SoftmaxMargin
from support.decision_errors import COSTS

ILL = [[0.0, 1.0], [20.0, 0.0]]  # well, ill


def dirichlet(*shape: int, classes: int = 3) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).dirichlet([0.7] * classes, size=shape)


def test_the_published_question_has_its_right_answer() -> None:
    """Discuss.pytorch.org/t/110051: 35 % faulty, 65 % not; missing a faulty one costs 10, a false alarm 1."""
    costs, probs = np.array([[0.0, 10.0], [1.0, 0.0]]), np.array([0.35, 0.65])
    np.testing.assert_allclose(conditional_risk(probs, costs), [0.65, 3.5], rtol=1e-15)
    assert decide(probs, costs) == 0
    # what was posted multiplies each column of costs by the probability of the decision, not of the truth
    posted = (costs * probs).sum(0)
    np.testing.assert_allclose(posted, [0.35, 6.5], rtol=1e-15)
    assert not np.allclose(conditional_risk(probs, costs), posted)
    np.testing.assert_allclose(conditional_risk(probs, costs.T), [6.5, 0.35], rtol=1e-15)
    assert decide(probs, costs.T) == 1


def test_expected_cost_by_the_sum_that_defines_it() -> None:
    probs = dirichlet(4, 5)
    costs = np.random.default_rng(1).random((3, 6))
    found = conditional_risk(probs, costs)
    assert found.shape == (4, 5, 6)
    for place in np.ndindex(4, 5, 6):
        by_hand = sum(probs[(*place[:2], y)] * costs[y, place[2]] for y in range(3))
        assert found[place] == pytest.approx(by_hand, rel=1e-14)
    assert not np.allclose(conditional_risk(probs, COSTS), conditional_risk(probs, COSTS.T))


@pytest.mark.parametrize("shape", [(), (7,), (2, 3)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_arrays_and_tensors_decide_alike(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    probs = torch.from_numpy(np.asarray(dirichlet(*shape))).to(dtype)
    wide = probs.double().numpy()
    risk = conditional_risk(probs, COSTS)
    assert isinstance(risk, torch.Tensor)
    assert risk.dtype == (dtype if dtype == torch.float64 else torch.float32)
    np.testing.assert_allclose(risk.numpy(), wide @ COSTS, rtol=1e-6)
    for tensor, array in (
        (decide(probs, COSTS), decide(wide / wide.sum(-1, keepdims=True), COSTS)),
        (decide(probs, COSTS, abstain=0.3), decide(wide / wide.sum(-1, keepdims=True), COSTS, abstain=0.3)),
        (top_k(probs, COSTS, 2), top_k(wide / wide.sum(-1, keepdims=True), COSTS, 2)),
    ):
        assert isinstance(tensor, torch.Tensor)
        assert isinstance(array, np.ndarray)
        assert tensor.dtype == torch.int64
        assert array.dtype == np.int64
        np.testing.assert_array_equal(tensor.numpy(), array)


def test_the_cheapest_decision_is_best_on_average_and_the_transposed_one_is_not() -> None:
    probs = dirichlet(4000)
    true = (np.random.default_rng(2).random((4000, 1)) > probs.cumsum(1)).sum(1)

    def paid(decisions: np.ndarray[Any, Any]) -> float:
        return float(COSTS[true, decisions].mean())

    assert paid(decide(probs, COSTS)) < paid(probs.argmax(1)) < paid(decide(probs, COSTS.T))


def test_decisions_other_than_the_classes() -> None:
    treat = [[0.0, 2.0, 5.0], [50.0, 10.0, 5.0]]  # well or ill; wait, test or treat
    probs = np.array([[0.99, 0.01], [0.9, 0.1], [0.1, 0.9]])
    np.testing.assert_array_equal(decide(probs, treat), [0, 1, 2])


def test_abstention_has_its_own_cost_and_only_a_dearer_decision_gives_way_to_it() -> None:
    probs = np.array([[0.99, 0.01], [0.9, 0.1], [0.5, 0.5]])
    best = conditional_risk(probs, ILL).min(1)
    np.testing.assert_array_equal(decide(probs, ILL), [0, 1, 1])
    np.testing.assert_array_equal(decide(probs, ILL, abstain=float(best[2])), [0, ABSTAIN, 1])
    assert (decide(probs, ILL, abstain=-1) == ABSTAIN).all()
    assert (decide(probs, ILL, abstain=100) != ABSTAIN).all()
    assert ABSTAIN == -1


def test_top_k_is_in_order_and_ties_keep_theirs() -> None:
    probs = dirichlet(50)
    order = top_k(probs, COSTS, 3)
    risk = np.take_along_axis(conditional_risk(probs, COSTS), order, 1)
    assert (np.diff(risk) >= 0).all()
    np.testing.assert_array_equal(order[:, 0], decide(probs, COSTS))
    np.testing.assert_array_equal(np.sort(order), np.tile(np.arange(3), (50, 1)))
    assert top_k(np.full(3, 1 / 3), np.ones((3, 4)), 4).tolist() == [0, 1, 2, 3]
    assert top_k(torch.full((3,), 1 / 3), np.ones((3, 4)), 4).tolist() == [0, 1, 2, 3]


def as_tensor(probs: np.ndarray[Any, Any]) -> torch.Tensor:
    return torch.from_numpy(probs).requires_grad_()


@pytest.mark.parametrize("kind", [np.asarray, as_tensor])
@pytest.mark.parametrize("bad", [[np.nan] * 3, [np.nan, 0.5, 0.5], [0.5, 0.5, np.nan]])
@pytest.mark.parametrize("shape", [(), (4,), (2, 3)])
def test_a_nan_makes_its_row_nan_and_no_decision(kind: Any, bad: list[float], shape: tuple[int, ...]) -> None:
    probs, last = dirichlet(*shape), tuple(size - 1 for size in shape)
    probs[last] = bad
    risk = torch.as_tensor(conditional_risk(kind(probs), COSTS)).detach().numpy()
    assert np.isnan(risk[last]).all()
    risk[last] = probs[last] = 1 / 3
    right = probs @ COSTS
    right[last] = 1 / 3
    np.testing.assert_allclose(risk, right, rtol=1e-14)
    probs[last] = bad
    for choose in (
        lambda: decide(kind(probs), COSTS),
        lambda: decide(kind(probs), COSTS, abstain=0.1),
        lambda: top_k(kind(probs), COSTS, 2),
    ):
        with pytest.raises(ValueError, match="probs must be finite, got nan" + (" in row" if shape else ";")):
            choose()


def test_the_other_rows_are_checked_beside_a_nan() -> None:
    for probs in (np.array([[np.nan, 0.5], [0.5, 0.9]]), torch.tensor([[np.nan, 0.5], [0.5, 0.9]])):
        with pytest.raises(
            ValueError, match="probs must be 0 or more and sum to one in each row, got a row off"
        ):
            conditional_risk(probs, ILL)


@pytest.mark.parametrize(
    "held",
    [
        ExpectedCost(COSTS).costs,
        SoftmaxMargin(COSTS).costs,
        PairwiseCrossEntropy(COSTS).weights,
        ClassMatrix(COSTS, kind="costs"),
        torch.from_numpy(COSTS),
        COSTS.tolist(),
    ],
    ids=lambda held: type(held).__name__,
)
def test_the_costs_that_a_loss_holds_decide(held: Any) -> None:
    probs = dirichlet(20)
    np.testing.assert_array_equal(decide(probs, held), (probs @ COSTS).argmin(1))
    np.testing.assert_array_equal(conditional_risk(probs, held), probs @ COSTS)
    np.testing.assert_array_equal(top_k(probs, held, 3), np.argsort(probs @ COSTS, 1))


def test_gradients_flow_through_the_expected_cost() -> None:
    logits = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: conditional_risk(z.softmax(-1), COSTS), (logits,))


def test_a_matrix_and_a_tensor_of_costs_are_taken() -> None:
    probs = dirichlet(6)
    steps = ordinal(3)
    np.testing.assert_array_equal(conditional_risk(probs, steps), probs @ steps.array)
    np.testing.assert_array_equal(conditional_risk(probs, torch.from_numpy(COSTS)), probs @ COSTS)
    assert conditional_risk(np.zeros((0, 3)), COSTS).shape == (0, 3)


def test_rounding_is_not_taken_for_logits() -> None:
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        probs = (torch.randn(200, 1000) * 5).softmax(-1).to(dtype)
        assert decide(probs, np.ones((1000, 2))).shape == (200,)
    assert isinstance(ClassMatrix(COSTS, kind="costs"), ClassMatrix)
