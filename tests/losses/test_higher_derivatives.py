"""Forward mode, second derivatives and their batched forms, of every loss and penalty."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, final

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError

from equipoise.costs import ClassMatrix
from equipoise.losses import LOSSES, Entry, HierarchicalCrossEntropy, Loss, RowLoss
from equipoise.penalties import PENALTIES
from equipoise.statistics import RowStatistics
from support.definitions import settings_of

CLASSES = 5
SETTINGS = [
    pytest.param(entry, loss, id=f"{entry.name}-{index}")
    for entry in LOSSES + PENALTIES
    for index, loss in enumerate(settings_of(entry))
]
pytestmark = [
    pytest.mark.slow,  # each loss in each transform
    # torch's own: of its first use of forward mode, and of linearize for any function
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated"),
    pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node"),
]
every = pytest.mark.parametrize(("entry", "loss"), SETTINGS)
masks = pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])


def of_five_classes(loss: Loss) -> Loss:
    """Return the loss with its matrix or tree cut to five classes."""
    if isinstance(loss, HierarchicalCrossEntropy):
        return replace(loss, tree=((0, 3), (1, 2, 4)))
    changes: dict[str, Any] = {}
    for name, value in vars(loss).items():
        if isinstance(value, ClassMatrix):
            part = value.array[:CLASSES, :CLASSES]
            changes[name] = part / part.sum(1, keepdims=True) if name == "similarity" else part
    return replace(loss, **changes)  # pyright: ignore[reportArgumentType]


def case(loss: Loss, masked: bool) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """Return the sum of a loss as a function of the logits of three rows, and the logits."""
    generator = torch.Generator().manual_seed(1)
    logits = 2 * torch.randn(3, CLASSES, generator=generator, dtype=torch.float64)
    target = logits.argsort(1)[torch.arange(3), torch.tensor([4, 0, 2])]  # right, wrong, between
    mask = torch.zeros(3, CLASSES, dtype=torch.bool)
    if masked:
        mask[torch.arange(3), logits.argsort(1)[torch.arange(3), torch.tensor([1, 4, 0])]] = True
    fitted = of_five_classes(loss)
    return lambda z: fitted(z.masked_fill(mask, -torch.inf), target, reduction="sum"), logits


def by_autograd(function: Callable[[Tensor], Tensor], logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradient and the Hessian by two backward passes."""
    leaf = logits.clone().requires_grad_()
    (first,) = torch.autograd.grad(function(leaf), leaf, create_graph=True)
    numbers = first.flatten()
    second = [torch.autograd.grad(x, leaf, retain_graph=True)[0] for x in numbers]
    return first.detach(), torch.stack(second).reshape(*logits.shape, *logits.shape)


def close(one: Tensor, two: Tensor) -> None:
    torch.testing.assert_close(one, two, rtol=1e-11, atol=1e-13)


def check_transforms(function: Callable[[Tensor], Tensor], logits: Tensor) -> None:
    """Check every transform of `torch.func` against autograd."""
    value, (first, second) = function(logits), by_autograd(function, logits)
    direction = torch.randn_like(logits)
    close(torch.func.grad(function)(logits), first)
    out, along = torch.func.jvp(function, (logits,), (direction,))
    close(out, value)
    close(along, (first * direction).sum())
    close(torch.func.jacfwd(function)(logits), first)
    close(torch.func.jacrev(function)(logits), first)
    close(torch.func.hessian(function)(logits), second)
    close(torch.func.jacrev(torch.func.jacrev(function))(logits), second)
    _, along = torch.func.jvp(torch.func.grad(function), (logits,), (direction,))
    close(along, (second * direction).sum((2, 3)))


def check_numerically(function: Callable[[Tensor], Tensor], logits: Tensor, *, fast: bool = False) -> None:
    """Check derivatives in both modes against differences, one at a time and batched.

    `fast` compares second derivatives along random directions, not entry by entry.
    """
    leaf = logits.clone().requires_grad_()
    torch.autograd.gradcheck(
        function, (leaf,), check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True
    )
    torch.autograd.gradgradcheck(
        function, (leaf,), check_batched_grad=True, check_fwd_over_rev=True, fast_mode=fast
    )


@every
@masks
def test_transforms_agree_with_autograd(entry: Entry, loss: Loss, masked: bool) -> None:
    """Forward mode, `torch.func` and autograd agree."""
    del entry  # modes agree on a designed gradient too
    check_transforms(*case(loss, masked))


@pytest.mark.slow
@every
@masks
def test_derivatives_agree_with_differences(entry: Entry, loss: Loss, masked: bool) -> None:
    """Derivatives agree with finite differences, except designed gradients."""
    function, logits = case(loss, masked)
    if entry.reweighted:
        with pytest.raises(GradcheckError):
            check_numerically(function, logits)
    else:
        check_numerically(function, logits, fast=masked or loss is not settings_of(entry)[0])


@pytest.mark.slow
@pytest.mark.parametrize("entry", LOSSES + PENALTIES, ids=lambda entry: entry.name)
def test_linearize_gives_the_value_and_the_derivative_along_a_direction(entry: Entry) -> None:
    """`linearize` gives the value and the directional derivative."""
    function, logits = case(settings_of(entry)[0], masked=False)
    direction = torch.randn_like(logits)
    out, push = torch.func.linearize(function, logits)
    close(out, function(logits))
    close(push(direction), (torch.func.grad(function)(logits) * direction).sum())


def differences(function: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
    """Return the Hessian by central differences of the gradient."""
    steps = 1e-5 * torch.eye(logits.numel(), dtype=logits.dtype).reshape(-1, *logits.shape)
    gradient = torch.func.grad(function)
    return torch.stack([gradient(logits + step) - gradient(logits - step) for step in steps]) / 2e-5


@every
@pytest.mark.parametrize(
    "row", [[0.9, 0.9, -0.5, 0, -1.7], [-0.3, 0.7, 0.7, -1, 0.2], [0.4, 0.4, 0.4, -1, -3], [0.2] * 5], ids=str
)
def test_second_derivatives_where_the_largest_logits_are_equal(
    entry: Entry, loss: Loss, row: list[float]
) -> None:
    """The Hessian is that of differences where the largest logits, kept out of the sums, are equal."""
    fitted, logits = of_five_classes(loss), torch.tensor([row], dtype=torch.float64)
    for target in (0, 1, 4):

        def function(z: Tensor, target: int = target) -> Tensor:
            return fitted(z, torch.tensor([target]), reduction="sum")

        second = by_autograd(function, logits)[1].reshape(5, 1, 5)
        if not entry.reweighted:  # its gradient is not that of its value
            torch.testing.assert_close(second, differences(function, logits), rtol=1e-6, atol=1e-8)


class _Exp(torch.autograd.Function):
    """The exponential; its backward pass is right, once."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.exp(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient * torch.exp(x.detach())


@final
@dataclass(frozen=True)
class OldFunction(RowLoss):
    """Goes through an autograd Function that knows neither forward mode nor second derivatives."""

    def per_row(self, row: RowStatistics, /) -> Tensor:
        return _Exp.apply(row.log_odds())


@final
@dataclass(frozen=True)
class HalfDetached(RowLoss):
    """Its gradient leaves out a part of the value."""

    def per_row(self, row: RowStatistics, /) -> Tensor:
        odds = row.log_odds()
        return -F.logsigmoid(odds) + 1e-3 * odds.detach() ** 2


@final
@dataclass(frozen=True)
class OnceOnly(RowLoss):
    """Its first derivative is right, its second is not."""

    def per_row(self, row: RowStatistics, /) -> Tensor:
        odds = row.log_odds()
        constant = odds.detach()
        return constant**2 + 2 * constant * (odds - constant)


@masks
def test_derivatives_that_are_not_there_are_found(masked: bool) -> None:
    """Missing derivatives are found by the checks."""
    with pytest.raises(Exception, match=r"setup_context|forward AD|jvp"):
        check_transforms(*case(OldFunction(), masked))
    with pytest.raises((AssertionError, RuntimeError)):
        check_numerically(*case(OldFunction(), masked))
    with pytest.raises(GradcheckError):
        check_numerically(*case(HalfDetached(), masked))
    function, logits = case(OnceOnly(), masked)
    leaf = logits.clone().requires_grad_()
    assert torch.autograd.gradcheck(function, (leaf,), check_forward_ad=True)
    with pytest.raises((GradcheckError, RuntimeError)):
        check_numerically(function, logits)


def test_transforms_that_disagree_are_found() -> None:
    """Transforms that disagree are found by the checks."""
    function, logits = case(OnceOnly(), False)
    first = by_autograd(function, logits)[0]
    close(torch.func.jacfwd(function)(logits), first)
    with pytest.raises(AssertionError):
        close(torch.func.jacfwd(case(HalfDetached(), False)[0])(logits), first)


def test_rows_are_right_wrong_and_masked() -> None:
    """The rows of the checks are right, wrong and masked."""
    function, logits = case(settings_of(LOSSES[0])[0], True)
    gradient = torch.func.grad(function)(logits)
    assert (gradient == 0).sum(1).tolist() == [1, 1, 1]
    assert len(set(logits.flatten().tolist())) == logits.numel()
