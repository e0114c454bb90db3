"""A fused loss is the dense one: every loss, order, block, option and dtype."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from equipoise import Objective, linear
from equipoise.losses import (
    Brier,
    CrossEntropy,
    GammaCrossEntropy,
    Loss,
    PairwiseCrossEntropy,
    Reweighted,
    RowLoss,
    SimilarityCrossEntropy,
    TaiLrWeight,
)
from equipoise.penalties import Balance, Decisiveness, Entropy, LogitRange
from equipoise.schedules import Linear
from equipoise.statistics import RowStatistics
from support.definitions import TEST_CLASSES, ring
from support.linear_cases import BOTH_WAYS, ORDERS, ROW_LOSSES, THREE, Case, case, same


@BOTH_WAYS
@pytest.mark.parametrize(("reduction", "grad"), ORDERS)
@pytest.mark.parametrize("loss", ROW_LOSSES)
def test_every_loss_is_the_dense_one(loss: Loss, reduction: str, grad: str) -> None:
    c = case()
    dense = loss(c.logits(), c.target, reduction=reduction)
    upstream = torch.randn_like(dense)
    rows_of_three = 3 * TEST_CLASSES * 8
    for block_bytes in (None, rows_of_three, 1):
        fused = c.fused(loss, reduction=reduction, grad=grad, block_bytes=block_bytes)
        same(c, fused, dense, upstream)


@dataclass(frozen=True)
class Wrong(RowLoss):
    """Cross entropy whose slope is not its derivative."""

    def per_row(self, row: RowStatistics, /) -> Tensor:
        odds = row.log_odds()
        return -F.logsigmoid(odds) + 1e-9 * (odds - odds.detach())


def test_the_comparison_finds_a_wrong_slope_and_a_wrong_value() -> None:
    c = case()
    dense = CrossEntropy()(c.logits(), c.target)
    for wrong in (Wrong(), CrossEntropy(label_smoothing=1e-9)):
        with pytest.raises(AssertionError):
            same(c, c.fused(wrong), dense)


@BOTH_WAYS
@pytest.mark.parametrize(("n", "v", "d"), [(1, 1, 1), (5, 1, 3), (1, 9, 4), (64, 33, 1), (33, 130, 17)])
@pytest.mark.parametrize("loss", [THREE, Brier(), Decisiveness(num_classes=9), LogitRange(width=1.0)])
def test_shapes_and_blocks(loss: Loss, n: int, v: int, d: int) -> None:
    """The fused loss is the dense one for any shape and block."""
    c = case(n, v, d)
    for reduction, grad in ORDERS:
        dense = loss(c.logits(), c.target, reduction=reduction)
        for block_bytes in (None, 8 * v, 8 * 3 * v + 1, 8 * n):
            fused = c.fused(loss, reduction=reduction, grad=grad, block_bytes=block_bytes)
            same(c, fused, dense, rounds=256)


@BOTH_WAYS
def test_a_block_has_all_classes_of_a_row_at_least() -> None:
    c = case(6, 700, 4)
    plan = linear.explain(
        THREE, c.hidden, c.weight, c.target, linear_bias=c.bias, reduction="none", block_bytes=8 * 600
    )
    assert plan.rows == 1
    dense = THREE(c.logits(), c.target, reduction="none")
    fused = c.fused(THREE, reduction="none", block_bytes=8 * 600)
    same(c, fused, dense, torch.randn(6, dtype=torch.float64), rounds=256)


@BOTH_WAYS
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_nothing_to_count(reduction: str) -> None:
    """Without a row that counts the fused loss is the dense one: 0 or nan."""
    empty = case(0)
    for grad in ("auto", "recompute"):
        fused = empty.fused(THREE, reduction=reduction, grad=grad)
        same(empty, fused, THREE(empty.logits(), empty.target, reduction=reduction))
        ignored = case()
        ignored.target.fill_(-100)
        fused = ignored.fused(THREE, reduction=reduction, grad=grad)
        dense = THREE(ignored.logits(), ignored.target, reduction=reduction)
        assert torch.equal(dense.isnan(), fused.isnan())
        assert all(bool((g == 0).all()) for g in ignored.grads(fused))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("grad", ["auto", "recompute"])
def test_class_weights_sample_weights_and_shapes(reduction: str, grad: str) -> None:
    c = case(12)
    weights, per_row = torch.rand(TEST_CLASSES, dtype=torch.float64), torch.rand(12, dtype=torch.float64)
    for loss in (CrossEntropy(label_smoothing=0.1), THREE, SimilarityCrossEntropy(torch.eye(TEST_CLASSES))):
        dense = loss(c.logits(), c.target, weight=weights, reduction="none") * per_row
        counted = torch.where(c.target == -100, 0.0, weights[c.target.clamp(min=0)] * per_row)
        expected = {"none": dense, "sum": dense.sum(), "mean": dense.sum() / counted.sum()}[reduction]
        options: dict[str, Any] = {"weight": weights, "reduction": reduction, "grad": grad}
        fused = c.fused(loss, sample_weight=per_row, **options)
        same(c, fused, expected)
        shaped = loss.linear(
            c.hidden.view(3, 4, -1),
            c.weight,
            c.target.view(3, 4),
            linear_bias=c.bias,
            sample_weight=per_row.view(3, 4),
            **options,
        )
        assert shaped.shape == ((3, 4) if reduction == "none" else ())
        same(c, shaped.reshape(fused.shape), expected)


def test_a_weight_of_one_row_is_that_row() -> None:
    c = case()
    one = F.one_hot(torch.tensor(4), 7).double()
    single = GammaCrossEntropy(0.1)(c.logits()[4:5], c.target[4:5])
    same(
        c,
        c.fused(GammaCrossEntropy(0.1), sample_weight=one),
        single,
    )


def test_a_given_denominator_makes_micro_batches_one_batch() -> None:
    c = case(12)
    count = (c.target != -100).sum()
    whole = c.fused(THREE)
    parts = sum(
        THREE.linear(
            c.hidden[i : i + 3], c.weight, c.target[i : i + 3], linear_bias=c.bias, denominator=count
        )
        for i in range(0, 12, 3)
    )
    same(c, torch.as_tensor(parts), whole)
    same(c, c.fused(THREE, denominator=11), whole)
    with pytest.raises(AssertionError):
        same(c, c.fused(THREE, denominator=12), whole)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("loss", [THREE, PairwiseCrossEntropy(ring(TEST_CLASSES, 0.5, 3.0))])
@pytest.mark.parametrize(
    "needed", [(True, False, False), (False, True, False), (False, False, True), (False,) * 3]
)
def test_what_is_frozen_gets_no_gradient_and_costs_no_product(
    loss: Loss, reduction: str, needed: tuple[bool, ...]
) -> None:
    c = case()
    assert c.bias is not None
    for part, wanted in zip((c.hidden, c.weight, c.bias), needed, strict=True):
        part.requires_grad_(wanted)
    fused = c.fused(loss, reduction=reduction)
    dense = loss(c.logits(), c.target, reduction=reduction)
    assert fused.requires_grad == any(needed)
    plan = linear.explain(loss, c.hidden, c.weight, c.target, linear_bias=c.bias, reduction=reduction)
    again = any(needed) and reduction == "none"
    assert plan.products == 1 + sum(needed[:2]) + again
    if any(needed):
        same(c, fused, dense, torch.rand_like(fused))
    else:
        torch.testing.assert_close(fused, dense)


@BOTH_WAYS
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("loss", [THREE, PairwiseCrossEntropy(ring(TEST_CLASSES, 0.5, 3.0))])
def test_scale_cap_and_low_rank_adapter(loss: Loss, reduction: str) -> None:
    c = case()
    a = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    b = torch.randn(TEST_CLASSES, 2, dtype=torch.float64, requires_grad=True)
    assert c.bias is not None
    z = 0.7 * (c.hidden @ (c.weight + 0.3 * b @ a).T) + c.bias
    dense = loss(2 * torch.tanh(z / 2), c.target, reduction=reduction)
    for block_bytes in (None, 3 * TEST_CLASSES * 8):
        fused = c.fused(
            loss, reduction=reduction, lora=(a, b, 0.3), logit_scale=0.7, softcap=2.0, block_bytes=block_bytes
        )
        same(c, fused, dense, torch.ones_like(dense))
        for leaf in (a, b):
            one, two = (torch.autograd.grad(x.sum(), leaf, retain_graph=True)[0] for x in (fused, dense))
            torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-13)
    c.weight.requires_grad_(False)  # the usual case: only the adapter is trained
    fused = loss.linear(c.hidden.detach(), c.weight, c.target, lora=(a, b))
    dense = loss(c.hidden.detach() @ (c.weight + b @ a).T, c.target)
    for one, two in zip(*(torch.autograd.grad(x, (a, b)) for x in (fused, dense)), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-13)


def test_tied_weights() -> None:
    """A table that is both embedding and head gets the sum of both gradients."""
    table = nn.Embedding(9, 4).double()
    tokens, target = torch.randint(9, (6,)), torch.randint(9, (6,))
    grads = []
    for fused in (True, False):
        hidden = torch.tanh(table(tokens))
        loss = THREE.linear(hidden, table.weight, target) if fused else THREE(hidden @ table.weight.T, target)
        grads.append(torch.autograd.grad(loss, table.weight)[0])
    torch.testing.assert_close(*grads, rtol=1e-12, atol=1e-14)


def test_target_probabilities() -> None:
    """The fused loss of target probabilities is the dense one."""
    c = case()
    soft = torch.rand(7, TEST_CLASSES, dtype=torch.float64)
    soft /= soft.sum(1, keepdim=True)
    for loss in (THREE, CrossEntropy(label_smoothing=0.2), SimilarityCrossEntropy(torch.eye(TEST_CLASSES))):
        for reduction, grad in ORDERS:
            dense = loss(c.logits(), soft, reduction=reduction)
            fused = loss.linear(
                c.hidden, c.weight, soft, linear_bias=c.bias, reduction=reduction, grad=grad, block_bytes=200
            )
            same(c, fused, dense, torch.rand_like(dense))


def test_penalties_need_no_target() -> None:
    c = case()
    penalty = Entropy() + LogitRange(width=1.0)
    same(c, penalty.linear(c.hidden, c.weight, None, linear_bias=c.bias), penalty(c.logits()))


@BOTH_WAYS
def test_masked_classes() -> None:
    """A bias of minus infinity leaves its class out."""
    c = case(6, 20, 5)
    assert c.bias is not None
    with torch.no_grad():
        c.bias[torch.arange(0, 20, 3)] = -torch.inf  # 15 is among them
    c.target[:] = torch.tensor([1, 4, -100, 7, 8, 19])
    loss = THREE + 0.1 * LogitRange(width=0.5) + CrossEntropy(label_smoothing=0.1)
    kept = c.bias.detach() > -torch.inf
    for reduction, grad in ORDERS:
        fused = c.fused(loss, reduction=reduction, grad=grad, block_bytes=8 * 20 * 2)
        dense = loss(c.logits(), c.target, reduction=reduction)
        torch.testing.assert_close(fused, dense)
        ours, theirs = c.grads(fused), c.grads(dense)
        torch.testing.assert_close(ours[0], theirs[0])
        torch.testing.assert_close(ours[1], theirs[1])
        assert (ours[1][~kept] == 0).all()


@BOTH_WAYS
def test_odd_memory_layouts() -> None:
    """Strided, transposed and expanded inputs and gradients give the dense loss."""
    c = case(6, 9, 4)
    strided = torch.randn(4, 12, dtype=torch.float64).t()[::2].requires_grad_()
    turned = torch.randn(4, 9, dtype=torch.float64).t().requires_grad_()
    expanded = torch.randn(1, 4, dtype=torch.float64).expand(6, 4).detach().requires_grad_()
    for hidden in (strided, expanded):
        other = Case(hidden, turned, c.target)
        same(other, THREE.linear(hidden, turned, c.target), THREE(other.logits(), c.target))
    out = THREE.linear(strided, turned, c.target, reduction="none")
    dense = THREE(strided @ turned.T, c.target, reduction="none")
    same(Case(strided, turned, c.target), out, dense, torch.ones((), dtype=torch.float64).expand(6))


@BOTH_WAYS
@pytest.mark.parametrize(("reduction", "grad"), ORDERS)
def test_backward_twice_is_the_same_twice(reduction: str, grad: str) -> None:
    c = case()
    fused = c.fused(THREE, reduction=reduction, grad=grad)
    total = 3 * fused.sum()
    first = torch.autograd.grad(total, c.leaves, retain_graph=True)
    kept = [grad.clone() for grad in first]
    for grad_ in first:
        grad_.add_(1)  # what a user does with a gradient is not ours to see
    for again, before in zip(torch.autograd.grad(total, c.leaves), kept, strict=True):
        assert torch.equal(again, before)


def test_gradients_accumulate_over_calls() -> None:
    c = case()
    fused = c.fused(THREE)
    fused.backward(retain_graph=True)
    before = c.weight.grad
    assert before is not None
    once = before.clone()
    fused.backward(retain_graph=True)
    fused.backward()
    assert c.weight.grad is not None
    torch.testing.assert_close(c.weight.grad, 3 * once)


@pytest.mark.parametrize(("reduction", "grad"), ORDERS)
@pytest.mark.parametrize("loss", [THREE, PairwiseCrossEntropy(ring(TEST_CLASSES, 0.5, 3.0))])
def test_a_second_derivative_is_refused(loss: Loss, reduction: str, grad: str) -> None:
    c = case()
    fused = c.fused(loss, reduction=reduction, grad=grad)
    with pytest.raises(
        RuntimeError, match=r"create_graph must be False .* use loss\(hidden @ linear_weight.T, target\)"
    ):
        torch.autograd.grad(fused.sum(), c.leaves, create_graph=True)
    torch.autograd.grad(fused.sum(), c.leaves)  # nothing is broken


@dataclass(frozen=True)
class Centred(RowLoss):
    """A loss of a row that depends on the rows beside it."""

    def per_row(self, row: RowStatistics, /) -> Tensor:
        odds = row.log_odds()
        return (odds - odds.mean()) ** 2


@pytest.mark.parametrize("loss", [Centred(), CrossEntropy() + 0.1 * Centred(), Entropy() + Balance()])
def test_a_loss_that_mixes_rows_is_rejected(loss: Loss) -> None:
    c = case()
    with pytest.raises(ValueError, match="a fused loss must look at one row at a time, got"):
        loss.linear(c.hidden, c.weight, c.target)
    with pytest.raises(ValueError, match="must look at one row at a time"):
        linear.explain(loss, c.hidden, c.weight, c.target)


def test_a_learnable_number_in_the_loss_gets_its_gradient() -> None:
    c = case()
    gamma = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    loss = GammaCrossEntropy(gamma)  # pyright: ignore[reportArgumentType]
    assert linear.explain(loss, c.hidden, c.weight, c.target).grad == "recompute"
    fused, dense = c.fused(loss), loss(c.logits(), c.target)
    same(c, fused, dense)
    for one, two in zip(*(torch.autograd.grad(x, gamma) for x in (fused, dense)), strict=True):
        torch.testing.assert_close(one, two)
    weights = torch.rand(7, dtype=torch.float64, requires_grad=True)
    fused = c.fused(THREE, sample_weight=weights)
    rows = THREE(c.logits(), c.target, reduction="none")
    counted = torch.where(c.target == -100, 0.0, weights)
    dense = (rows * weights).sum() / counted.sum()
    for one, two in zip(*(torch.autograd.grad(x, weights) for x in (fused, dense)), strict=True):
        torch.testing.assert_close(one, two)


def test_a_stopped_gradient_in_the_loss_is_kept() -> None:
    c = case()
    loss = Reweighted(TaiLrWeight(0.2, 0.1))
    same(c, c.fused(loss), loss(c.logits(), c.target))


def test_an_objective_is_fused_with_its_schedule_and_weights() -> None:
    c = case()
    objective = Objective(
        GammaCrossEntropy(), weight=torch.rand(TEST_CLASSES), schedules={"gamma": Linear(0, 0.5, steps=4)}
    )
    for _ in range(3):
        same(
            c,
            c.fused(objective),
            objective(c.logits(), c.target),
        )
        objective.step()
    assert objective.scheduled()["gamma"] == 0.375
