"""A loss of the logits plus its target's row of a matrix: by the kernel, by plain torch, and not in parts."""

from dataclasses import dataclass, field
from typing import Any, final

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from equipoise.kernels import cpu, dense
from equipoise.losses import CrossEntropy, Loss, RowLoss, SoftmaxMargin
from equipoise.statistics import RowStatistics, row_statistics

pytestmark = pytest.mark.skipif(not cpu.available(), reason="the kernel was not compiled")

C, F64 = 5, torch.float64
COSTS = 3 * torch.rand(C, C, generator=torch.Generator().manual_seed(0), dtype=F64).fill_diagonal_(0)


@final
@dataclass(frozen=True, eq=False)
class OfSum(RowLoss):
    """The cross entropy of the logits plus a tensor that is given, or its product with a number."""

    matrix: Tensor = field(default_factory=lambda: COSTS)
    factor: float | None = None

    def per_row(self, row: RowStatistics, /) -> Tensor:
        matrix = self.matrix if self.factor is None else self.factor * self.matrix
        return -F.logsigmoid(row.plus(lambda logits: matrix.to(logits)).log_odds())


@final
@dataclass(frozen=True)
class OfBoth(RowLoss):
    """A loss that reads the logits, and the logits plus two matrices."""

    matrices: Any = (COSTS, 2 * COSTS)

    def per_row(self, row: RowStatistics, /) -> Tensor:
        sums = [row.plus(lambda logits, added=added: added.to(logits)) for added in self.matrices]
        return -row.log_odds() - sum(each.log_odds() for each in sums)


def by_kernel(loss: Loss) -> bool:
    return dense.prepared(loss, C, F64).compiled is not None  # pyright: ignore[reportArgumentType]


def rows(dtype: torch.dtype = F64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    logits = 4 * torch.randn(6, C, generator=generator, dtype=F64)
    logits[2, 3] = -torch.inf
    return logits.to(dtype).requires_grad_(), torch.tensor([0, 1, 2, 3, 4, 0])


def by_hand(logits: Tensor, target: Tensor, matrix: Tensor = COSTS, **options: Any) -> Tensor:
    return F.cross_entropy(logits + matrix[target.clamp(min=0)], target, **options)


def check(loss: Loss, matrix: Tensor = COSTS, **options: Any) -> None:
    logits, target = rows()
    ours, theirs = loss(logits, target, **options), by_hand(logits, target, matrix, **options)
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-13)
    one, two = (torch.autograd.grad(value.sum(), logits)[0] for value in (ours, theirs))
    torch.testing.assert_close(one, two, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_the_kernel_adds_the_matrix(reduction: str) -> None:
    """The kernel adds a row of the matrix to the logits."""
    loss = SoftmaxMargin(COSTS)
    assert by_kernel(loss)
    assert by_kernel(OfSum())
    check(loss, reduction=reduction)
    check(loss, reduction=reduction, weight=torch.linspace(0.5, 2, C, dtype=F64))
    with pytest.raises(AssertionError, match="not close"):
        check(loss, COSTS.T, reduction=reduction)


def test_ignored_rows_have_no_part_and_a_class_that_does_not_exist_is_refused() -> None:
    """Ignored rows have gradient 0, and an invalid class raises."""
    loss, (logits, target) = SoftmaxMargin(COSTS), rows()
    target[1] = -100
    value = loss(logits, target)
    torch.testing.assert_close(value, by_hand(logits, target))
    (grad,) = torch.autograd.grad(value, logits)
    assert grad.any(1).tolist() == [True, False, True, True, True, True]
    target[1] = C
    with pytest.raises(ValueError, match=r"target must be in \[0, 5\) .*, got 5"):
        loss(logits, target)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_logits_of_few_digits_are_added_to_in_float32(dtype: torch.dtype) -> None:
    """Logits in half precision are added in float32."""
    logits, target = rows(dtype)
    value = SoftmaxMargin(COSTS)(logits, target)
    (grad,) = torch.autograd.grad(value, logits)
    wide = logits.detach().double().requires_grad_()
    exact = by_hand(wide, target)
    (exact_grad,) = torch.autograd.grad(exact, wide)
    assert value.dtype == torch.float32
    assert grad.dtype == dtype
    torch.testing.assert_close(value.double(), exact, rtol=1e-6, atol=0)
    torch.testing.assert_close(grad.double(), exact_grad, rtol=0, atol=float(torch.finfo(dtype).eps))


def test_second_derivatives_are_those_of_the_sum() -> None:
    """Second derivatives agree with those of the sum."""
    logits, target = rows()
    found = []
    for value in (SoftmaxMargin(COSTS)(logits, target), by_hand(logits, target)):
        (grad,) = torch.autograd.grad(value, logits, create_graph=True)
        found.append(torch.autograd.grad(grad.square().sum(), logits)[0])
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-13)


def test_a_change_in_place_between_the_passes_is_found() -> None:
    """A change in place between the passes is detected."""
    logits, target = rows()
    leaf = logits.detach().clone()
    value = SoftmaxMargin(COSTS)(leaf.requires_grad_(), target)
    with torch.no_grad():
        leaf.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


def test_a_matrix_is_read_at_each_call_and_may_learn() -> None:
    """The matrix is read in each call, and may require a gradient."""
    matrix = COSTS.clone()
    loss = OfSum(matrix)
    check(loss, matrix)
    matrix.add_(torch.eye(C, dtype=F64))
    check(loss, matrix)
    learning = COSTS.clone().requires_grad_()
    logits, target = rows()
    found = [
        torch.autograd.grad(value, learning)[0]
        for value in (OfSum(learning)(logits, target), by_hand(logits, target, learning))
    ]
    torch.testing.assert_close(found[0], found[1])


def test_what_the_kernel_cannot_add_is_added_in_torch() -> None:
    """What the kernel cannot add is added by torch."""
    made_anew = OfSum(COSTS, 2.0)
    assert not by_kernel(made_anew)
    check(made_anew, 2 * COSTS)
    logits, target = rows()
    both = OfBoth(), CrossEntropy() + SoftmaxMargin(COSTS)
    assert not any(map(by_kernel, both))
    cross_entropy, once = by_hand(logits, target, 0 * COSTS), by_hand(logits, target)
    torch.testing.assert_close(both[1](logits, target), cross_entropy + once)
    odds = [row_statistics(logits + factor * COSTS[target], target).log_odds() for factor in range(3)]
    torch.testing.assert_close(both[0](logits, target), -sum(odds).mean())


@pytest.mark.parametrize("learns", [False, True])
def test_target_probabilities_and_linear_give_the_same(learns: bool) -> None:
    """Target probabilities and `linear` give the same loss."""
    loss, (logits, target) = SoftmaxMargin(COSTS), rows()
    logits = logits.detach().clamp(min=-20).requires_grad_(learns)
    expected = by_hand(logits, target)
    torch.testing.assert_close(loss(logits, F.one_hot(target, C).double()), expected)
    torch.testing.assert_close(loss.linear(logits, torch.eye(C, dtype=F64), target), expected)
