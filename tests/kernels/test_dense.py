"""Both sides of the gate: the kernel and plain torch give one value and one gradient, over the tables."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from equipoise.kernels import cpu, dense
from equipoise.losses import LOSSES, CrossEntropy, GammaCrossEntropy, Loss, RowLoss, SimilarityCrossEntropy
from equipoise.penalties import PENALTIES, Balance, Entropy, LogitRange
from support.definitions import TEST_CLASSES, settings_of
from support.row_samples import NAMED_ROW_LOSSES, SUMS, hard_rows

pytestmark = pytest.mark.skipif(not cpu.available(), reason="the kernel was not compiled")

C, F64 = TEST_CLASSES, torch.float64
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
BY_DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).split(".")[1])
WEIGHT = torch.linspace(0.0, 2.0, C).double()  # of few digits, which every dtype but the halves has
MASKED_TARGET = 2  # among the hard rows


@dataclass(frozen=True)
class Case:
    """A call of a loss."""

    logits: Tensor
    target: Tensor | None
    weight: Tensor | None = None
    sample_weight: Tensor | None = None
    reduction: str = "none"
    mask: Tensor | None = None

    def to(self, dtype: torch.dtype) -> "Case":
        """Return the same call with floating tensors of a dtype."""
        cast = {
            name: value.to(dtype)
            for name, value in vars(self).items()
            if isinstance(value, Tensor) and value.is_floating_point()
        }
        return replace(self, **cast)

    def without(self, row: int) -> "Case":
        """Return the same call without a row."""
        kept = torch.arange(len(self.logits)) != row
        changed = {name: value[kept] for name, value in self._of_rows().items()}
        return replace(self, **changed)

    def _of_rows(self) -> dict[str, Tensor]:
        found = {"logits": self.logits, "target": self.target, "sample_weight": self.sample_weight}
        return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True)
class Result:
    """The value of a call and its gradient."""

    value: Tensor
    grad: Tensor


def evaluate(case: Case, run: Callable[[Tensor, Case], Tensor]) -> Result:
    leaf = case.logits.clone().requires_grad_()
    value = run(leaf, case)
    upstream = torch.linspace(1, 2, max(1, value.numel()), dtype=value.dtype)[: value.numel()]
    (grad,) = torch.autograd.grad(value, leaf, upstream.reshape(value.shape))
    return Result(value.detach(), grad)


def ours(loss: Loss) -> Callable[[Tensor, Case], Tensor]:
    def run(logits: Tensor, case: Case) -> Tensor:
        return loss(
            logits,
            case.target,
            case.weight,
            sample_weight=case.sample_weight,
            mask=case.mask,
            reduction=case.reduction,  # pyright: ignore[reportArgumentType]
        )

    return run


def in_torch(loss: Loss) -> Callable[[Tensor, Case], Tensor]:
    def run(logits: Tensor, case: Case) -> Tensor:
        if case.mask is not None:
            logits = logits.masked_fill(~case.mask, -torch.inf)
        return loss.in_torch(logits, case.target, case.weight, case.sample_weight, reduction=case.reduction)

    return run


def near(
    one: Result,
    two: Result,
    logits: Tensor,
    eps: float,
    half: torch.dtype | None = None,
    *,
    floor: float = 0.0,
) -> None:
    """Agree to 64 units of each row, or of all where a batch is reduced; 0 stays 0 and nan nan.

    A unit is eps (1 + max|z|). Rows in which largest logits tie have gradients that cancel. A floor is for
    values that cancel.
    """
    finite = torch.where(logits.isfinite(), logits, 0.0)
    unit = eps * (1 + finite.abs().amax(1))
    tiny = torch.finfo(torch.float32 if eps > 1e-10 else F64).tiny
    assert torch.equal(one.value.isnan(), two.value.isnan())
    assert torch.equal(one.grad.isnan(), two.grad.isnan())
    if two.value.ndim == 0:
        unit = unit.amax()
    error = (one.value.double() - two.value).abs()
    size = two.value.abs() + (floor if two.value.ndim else 1e-3)
    assert (error <= 64 * unit * size + 4 * tiny)[~error.isnan()].all(), f"{one.value} is not {two.value}"
    best = logits.amax(1, keepdim=True)
    tied = (logits >= best - 1e-2 * (1 + best.abs())).sum(1) > 1
    largest = two.grad.abs().amax(1).maximum(torch.where(tied, two.grad.abs().amax().nan_to_num(), 0.0))
    allowed = (64 * unit * largest)[:, None] + 4 * tiny
    if half is not None:  # the entries of a gradient are rounded
        allowed = allowed + torch.finfo(half).eps * two.grad.abs() + torch.finfo(half).smallest_normal
    error = (one.grad.double() - two.grad).abs().nan_to_num()
    assert (error <= allowed.nan_to_num()).all(), (error / allowed).amax(1)
    assert (one.grad[logits == -torch.inf].nan_to_num() == 0).all()


def cases(dtype: torch.dtype) -> list[Case]:
    """Return calls with all kinds of rows, weights, ignored rows and reductions."""
    logits, target = hard_rows(C)
    ignored = target.clone()
    ignored[[0, 6]] = -100
    samples = torch.linspace(0.0, 1.5, len(logits), dtype=F64)
    found = [
        Case(logits, target),
        Case(logits, ignored, reduction="mean"),
        Case(logits, ignored, WEIGHT, reduction="none"),
        Case(logits, target, WEIGHT, samples, reduction="sum"),
        Case(logits, ignored, None, samples, reduction="mean"),
        Case(logits, ignored, WEIGHT, samples, reduction="mean"),
    ]
    return [case.to(dtype) for case in found]


@BY_DTYPE
@NAMED_ROW_LOSSES
def test_the_kernel_and_plain_torch_agree(loss: Loss, dtype: torch.dtype) -> None:
    """The kernel and plain torch agree in value and gradient."""
    half = dtype if dtype.itemsize == 2 else None
    eps = torch.finfo(torch.float32 if half else dtype).eps
    floor = 1.0 if loss in SUMS else 0.0
    for case in cases(dtype):
        found, exact = evaluate(case, ours(loss)), case.to(F64)
        assert found.value.dtype == (torch.float32 if half else dtype)
        assert found.grad.dtype == dtype
        same = evaluate(case, in_torch(loss))
        near(found, Result(same.value.double(), same.grad.double()), exact.logits, eps, half, floor=floor)
        case = case.without(MASKED_TARGET)  # what stands for infinity depends on the dtype
        found, exact = evaluate(case, ours(loss)), case.to(F64)
        near(found, evaluate(exact, in_torch(loss)), exact.logits, eps, half, floor=floor)


def test_the_kernel_ran() -> None:
    """All the calls above went through it, but for losses of full logits."""
    missing = [
        loss
        for entry in LOSSES + PENALTIES
        for loss in settings_of(entry)
        if isinstance(loss, RowLoss) and dense.prepared(loss, C, F64).compiled is None
    ]
    assert all(dense.prepared(loss, C, F64).trace.reads_full_logits for loss in missing)
    case = cases(F64)[0]
    names = {type(node).__name__ for node in graph(ours(CrossEntropy())(case.logits.requires_grad_(), case))}
    assert "_DenseBackward" in names


def graph(value: Tensor) -> list[Any]:
    found, waiting = [], [value.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found.append(node)
            waiting += [parent for parent, _ in node.next_functions]
    return found


@pytest.mark.parametrize(
    "other", [GammaCrossEntropy(0.1 + 1e-9), CrossEntropy(), GammaCrossEntropy(0.1) + 1e-9 * Entropy()]
)
def test_another_loss_is_found(other: Loss) -> None:
    """A loss with another option is found by the comparison."""
    case, loss = cases(F64)[0], GammaCrossEntropy(0.1)
    near(evaluate(case, ours(loss)), evaluate(case, in_torch(loss)), case.logits, 2e-16)
    with pytest.raises(AssertionError):
        near(evaluate(case, ours(other)), evaluate(case, in_torch(loss)), case.logits, 2e-16)


@pytest.mark.parametrize("part", ["weight", "sample_weight", "target"])
def test_a_call_without_a_part_is_found(part: str) -> None:
    """A call without target or weights is found by the comparison."""
    case, loss = cases(F64)[3], CrossEntropy()
    other = torch.zeros_like(case.target) if part == "target" else None  # pyright: ignore[reportArgumentType]
    changed = replace(case, **{part: other})
    with pytest.raises(AssertionError):
        near(evaluate(changed, ours(loss)), evaluate(case, in_torch(loss)), case.logits, 2e-16)


@NAMED_ROW_LOSSES
@pytest.mark.parametrize("one", [False, True], ids=["each row", "one row"])
def test_masks(loss: Loss, one: bool) -> None:
    """Masked classes are left out by the kernel as by plain torch."""
    logits, target = hard_rows(C)
    mask = torch.arange(C) != 3
    if not one:
        mask = (torch.rand(logits.shape) > 0.3) | F.one_hot(target, C).bool()
    case = Case(logits, torch.where(target == 3, 4, target), mask=mask, reduction="none")
    found, expected = evaluate(case, ours(loss)), evaluate(case, in_torch(loss))
    expected = Result(expected.value, torch.where(mask, expected.grad, 0.0))
    found = Result(found.value, torch.where(mask, found.grad, found.grad.nan_to_num()))
    near(found, expected, logits.masked_fill(~mask, -torch.inf), 2.3e-16)


@NAMED_ROW_LOSSES
def test_dimensions_of_logits(loss: Loss) -> None:
    """Logits of more dimensions are rows in another layout."""
    logits = torch.randn(2, C, 3, 2, dtype=F64)
    target = torch.randint(C, (2, 3, 2))
    target[0, 1, 1] = -100
    rows = Case(logits.movedim(1, -1).reshape(-1, C), target.reshape(-1), WEIGHT)
    expected = evaluate(rows, in_torch(loss))
    leaf = logits.clone().requires_grad_()
    value = loss(leaf, target, WEIGHT, reduction="none")
    assert value.shape == target.shape
    (grad,) = torch.autograd.grad(value, leaf, torch.linspace(1, 2, 12, dtype=F64).reshape(2, 3, 2))
    found = Result(value.detach().reshape(-1), grad.movedim(1, -1).reshape(-1, C))
    near(found, expected, rows.logits, 2.3e-16)
    alone = loss(logits[0, :, 0, 0], target[0, 0, 0], WEIGHT, reduction="none")
    torch.testing.assert_close(alone, value[0, 0, 0].detach(), rtol=1e-13, atol=1e-300)


def orders(*terms: Loss) -> list[Loss]:
    one, two, three = terms
    return [one + two + three, three + one + two, two + three + one, one + (three + two)]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(
    "terms",
    [
        (CrossEntropy(), 0.3 * Balance(), LogitRange(width=2.0)),
        (GammaCrossEntropy(0.2), -0.1 * Entropy(), 0.5 * LogitRange(width=2.0)),
        (
            SimilarityCrossEntropy(torch.eye(C).tolist()),
            0.3 * CrossEntropy(label_smoothing=0.1),
            0.2 * SimilarityCrossEntropy(torch.full((C, C), 1 / C).tolist()),
        ),
    ],
    ids=["balance", "rows", "tables"],
)
def test_sums_in_any_order(terms: tuple[Loss, ...], reduction: str) -> None:
    """A sum of losses is the sum of their values and gradients, in any order."""
    logits, target = torch.randn(9, C, dtype=F64), torch.arange(9) % C
    target[4] = -100
    case = Case(logits, target, WEIGHT, reduction=reduction)
    parts = [evaluate(case, ours(term)) for term in terms]
    value, grad = sum(part.value for part in parts), sum(part.grad for part in parts)
    for total in orders(*terms):
        found = evaluate(case, ours(total))
        torch.testing.assert_close(found.value, value, rtol=1e-13, atol=1e-15)
        torch.testing.assert_close(found.grad, grad, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("classes", [1, 2, 3, 17, 100, 1000, 5000])
@pytest.mark.parametrize("loss", SUMS, ids=["three", "three again", "smoothing", "brier"])
def test_widths(loss: Loss, classes: int) -> None:
    """Any number of classes and rows is right, as the vectors are full or not."""
    for rows in (1, 63, 130):
        case = Case(3 * torch.randn(rows, classes), torch.randint(classes, (rows,)))
        exact = case.to(F64)
        near(evaluate(case, ours(loss)), evaluate(exact, in_torch(loss)), exact.logits, 4e-7, floor=1.0)
