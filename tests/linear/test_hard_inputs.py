"""Fused losses and statistics of hard inputs: extreme, shifted, empty, strided, half precision, used twice.

The tests of quack and of cut cross entropy cover these situations; the tests here are written anew.
"""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Categorical

from equipoise import linear
from equipoise.losses import CrossEntropy, GammaCrossEntropy, Loss
from support.heads import (
    CLOSE,
    SMALL_BLOCKS,
    Head,
    fused,
    head,
    our_policy,
    plain,
    plain_policy,
    with_gradients,
)
from support.torch_results import ROUNDINGS, WIDE, distance, results

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("scale", [1e-30, 10.0, 1e4])
def test_extreme_logits(scale: float, dtype: torch.dtype) -> None:
    """Logits of any size lose no more digits than rounding the inputs does."""
    hidden = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], dtype=dtype) * scale
    weight = torch.zeros(64, 2, dtype=dtype)
    weight[:, 0] = 1.0  # rows 0 and 1 see the same logit for every class
    weight[7, 1] = 1.0  # row 2 is sure of class 7, row 3 of everything else
    given = Head(hidden.requires_grad_(), weight.requires_grad_(), torch.tensor([0, 63, 7, 7]))
    mine = results(fused(given, reduction="none"), given.leaves)
    exact = given.to(torch.float64)
    truth = results(plain(exact, reduction="none"), exact.leaves)
    assert all(part.isfinite().all() for part in mine)
    assert distance([part.double() for part in mine], truth) <= ROUNDINGS * torch.finfo(dtype).eps
    assert mine[0][:2].tolist() == pytest.approx([math.log(64)] * 2, rel=1e-6)
    if scale > 1:
        assert 0 <= mine[0][2].item() <= 64 * math.exp(-scale)
        assert mine[0][3].item() == pytest.approx(scale + math.log(63), rel=1e-6)


@pytest.mark.parametrize("loss", [CrossEntropy(), GammaCrossEntropy(0.1)], ids=repr)
def test_a_shift_of_all_logits_changes_nothing(loss: Loss) -> None:
    given, shift = head(40, 8, 507), torch.randn(8, dtype=torch.float64)
    moved = Head(given.hidden, given.weight + 100 * shift, given.target)
    bias = torch.zeros(507, dtype=torch.float64)
    one = results(fused(given, loss=loss), given.leaves)
    assert (moved.hidden @ moved.weight.T).abs().max() > 200
    assert distance(results(fused(moved, loss=loss), given.leaves), one) <= CLOSE
    higher = loss.linear(given.hidden, given.weight, given.target, linear_bias=bias + 100)
    assert distance(results(higher, given.leaves), one) <= CLOSE
    bias[3] = 1e-6  # the control: one class alone
    higher = loss.linear(given.hidden, given.weight, given.target, linear_bias=bias + 100)
    assert distance(results(higher, given.leaves), one) > CLOSE


@pytest.mark.parametrize("shape", [(0,), (3, 0)])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("grad", ["auto", "recompute"])
def test_an_empty_batch(shape: tuple[int, ...], reduction: str, grad: str) -> None:
    """An empty batch gives torch's value, and gradients that are 0."""
    hidden = torch.randn(*shape, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(9, 4, dtype=torch.float64, requires_grad=True)
    given = Head(hidden, weight, torch.zeros(shape, dtype=torch.long))
    value = fused(given, reduction=reduction, grad=grad)
    logits = (hidden @ weight.T).reshape(-1, 9)
    truth = F.cross_entropy(logits, given.target.reshape(-1), reduction=reduction)
    truth = truth.reshape(shape) if reduction == "none" else truth
    mine = results(value, given.leaves)
    assert distance(mine, results(truth, given.leaves)) == 0
    assert bool(value.isnan().any()) == (reduction == "mean")
    if reduction != "mean":
        assert not mine[2].any()
    row = linear.row_statistics(hidden, weight, given.target)
    assert row.entropy.shape == row.log_odds().shape == (0,)
    assert not torch.autograd.grad(row.entropy.sum() + row.log_odds().sum(), weight)[0].any()


@pytest.mark.parametrize("block_bytes", [None, SMALL_BLOCKS])
def test_an_expanded_upstream_gradient(block_bytes: int | None) -> None:
    given = head(40, 8, 507)
    upstream = torch.tensor(-1.5, dtype=torch.float64).expand(40)
    assert upstream.stride() == (0,)
    mine = torch.autograd.grad(
        fused(given, reduction="none", block_bytes=block_bytes), given.leaves, upstream
    )
    row = linear.row_statistics(given.hidden, given.weight, block_bytes=block_bytes)
    entropy = torch.autograd.grad(row.entropy, given.leaves, upstream)
    truth = Categorical(logits=given.hidden @ given.weight.T).entropy()
    other = upstream.clone()
    other[0] += 1e-9  # the control: one row differs
    for grad, same in ((upstream, True), (other, False)):
        theirs = torch.autograd.grad(plain(given, reduction="none"), given.leaves, grad)
        of_entropy = torch.autograd.grad(truth, given.leaves, grad, retain_graph=True)
        assert (distance(mine, theirs) <= CLOSE) == same
        assert (distance(entropy, of_entropy) <= CLOSE) == same


def spread(values: Tensor) -> Tensor:
    """Return the same numbers, not side by side in memory."""
    wide = torch.full((*(2 * size for size in values.shape),), 7, dtype=values.dtype)
    places = tuple(slice(0, None, 2) for _ in values.shape)
    wide[places] = values
    return wide[places]


def turned(values: Tensor) -> Tensor:
    return values.mT.contiguous().mT if values.ndim > 1 else spread(values)


@pytest.mark.parametrize("lay", [spread, turned])
@pytest.mark.parametrize(
    "how", [{}, {"grad": "recompute", "block_bytes": SMALL_BLOCKS}], ids=["auto", "blocks"]
)
@pytest.mark.parametrize("soft", [False, True])
def test_inputs_that_are_not_contiguous(lay: Any, how: dict[str, Any], soft: bool) -> None:
    given, bias = head(60, 8, 507), torch.randn(507, dtype=torch.float64)
    target = torch.randn(60, 507, dtype=torch.float64).softmax(1) if soft else given.target
    of_class = torch.rand(507, dtype=torch.float64)
    parts = [part.detach() for part in (given.hidden, given.weight, bias, target, of_class)]
    hidden, weight, shift, laid, weights = [lay(part) for part in parts]
    assert not any(part.is_contiguous() for part in (hidden, weight, shift, laid, weights))
    leaves = [part.requires_grad_() for part in (hidden, weight, shift)]
    value = CrossEntropy().linear(hidden, weight, laid, linear_bias=shift, weight=weights, **how)
    mine = results(value, leaves)
    others = [part.clone().requires_grad_() for part in parts[:3]]
    logits = others[0] @ others[1].T + others[2]
    theirs = results(F.cross_entropy(logits, target, weight=of_class), others)
    assert distance(mine, theirs) <= CLOSE
    assert distance(mine, [*theirs[:2], theirs[2].flip(0), theirs[3]]) > CLOSE


WAYS = [
    {"reduction": "mean"},
    {"reduction": "sum"},
    {"reduction": "none"},
    {"reduction": "mean", "grad": "recompute"},
]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_another_backward_gives_the_same_again(way: dict[str, Any], dtype: torch.dtype) -> None:
    given = head(23, 8, 101).to(dtype)
    total = fused(given, **way).sum()
    total.backward(retain_graph=True)
    assert all(leaf.grad is not None for leaf in given.leaves)
    once = [leaf.grad.clone() for leaf in given.leaves if leaf.grad is not None]
    for count in (2, 3, 4):  # sums of a power of two times are exact, thrice nearly
        total.backward(retain_graph=True)
        for leaf, first in zip(given.leaves, once, strict=True):
            assert leaf.grad is not None
            assert distance([leaf.grad], [first * count]) <= 4 * torch.finfo(dtype).eps
    for leaf in given.leaves:
        assert leaf.grad is not None
        leaf.grad.fill_(5)  # as clipping does, in place: it must not reach what the next pass will give
    (3 * total).backward()
    for leaf, first in zip(given.leaves, once, strict=True):
        assert leaf.grad is not None
        assert distance([leaf.grad], [first * 3 + 5]) <= 4 * torch.finfo(dtype).eps
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        total.backward()


def test_another_backward_of_the_rows_gives_the_same_again() -> None:
    given = head(23, 8, 101)
    nll, entropy = our_policy(given, 1.1)
    one = torch.autograd.grad(nll.sum(), given.leaves, retain_graph=True)
    two = torch.autograd.grad(entropy.sum(), given.leaves, retain_graph=True)
    both = torch.autograd.grad(nll.sum() + entropy.sum(), given.leaves)
    assert distance([a + b for a, b in zip(one, two, strict=True)], both) <= CLOSE
    assert distance(one, both) > CLOSE


# Half precision is no worse than without fusing.


def of_half(
    given: Head, bias: Tensor | None, of: str, grad: str = "auto", block_bytes: int | None = None
) -> tuple[Tensor, ...]:
    """Return per-row losses, and the gradients of their mean, fused or plain."""
    leaves = [*given.leaves, *([] if bias is None else [bias])]
    if of == "fused":
        call: Any = (given.hidden, given.weight, given.target)
        rows = CrossEntropy().linear(*call, linear_bias=bias, reduction="none", block_bytes=block_bytes)
        mean = CrossEntropy().linear(*call, linear_bias=bias, grad=grad, block_bytes=block_bytes)
    else:
        logits = F.linear(given.hidden, given.weight, bias)
        logits = logits.float() if logits.dtype == torch.bfloat16 else logits
        rows = F.cross_entropy(logits, given.target, reduction="none")
        mean = F.cross_entropy(logits, given.target)
    return rows, *torch.autograd.grad(mean, leaves)


def errors(mine: Sequence[Tensor], theirs: Sequence[Tensor], exact: Sequence[Tensor]) -> list[float]:
    """Return our error in units of plain torch's, of each result: root mean squares.

    The largest errors of the two are single draws, and differ more.
    """
    found = []
    for one, other, true in zip(mine, theirs, exact, strict=True):
        least = torch.finfo(torch.float32).eps * true.norm()
        found.append(((one - true).norm() / ((other - true).norm() + least)).item())
    return found


# The limit of cut cross entropy is 1.1, that of quack 2. With several blocks the product of each is rounded
# before it is added to the others in float32: 1.36 for the gradient of the bias, the largest of them. A scale
# that is no power of two rounds the hidden states once more: 1.34.
ONE_BLOCK, BLOCKS = 1.1, 1.5


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("grad", ["forward", "recompute"])
@pytest.mark.parametrize("block_bytes", [None, 2**15])
@pytest.mark.parametrize("size", [(252, 123, 507), (256, 128, 512), (255, 24, 2000)], ids=str)
def test_bfloat16_is_no_worse_than_unfused(
    size: tuple[int, int, int], block_bytes: int | None, grad: str, biased: bool
) -> None:
    given = head(*size).to(torch.bfloat16)
    bias = (torch.randn(size[2]) / 50).to(torch.bfloat16).requires_grad_() if biased else None
    wide = bias.detach().double().requires_grad_() if bias is not None else None
    exact = of_half(given.to(torch.float64), wide, "plain")
    theirs = of_half(given, bias, "plain")
    mine = of_half(given, bias, "fused", grad=grad, block_bytes=block_bytes)
    assert mine[0].dtype == torch.float32
    assert {part.dtype for part in mine[1:]} == {torch.bfloat16}
    found = errors(mine, theirs, exact)
    assert found[0] <= ONE_BLOCK
    assert max(found) <= (BLOCKS if block_bytes else ONE_BLOCK)
    worse = [2 * part.double() - true for part, true in zip(theirs, exact, strict=True)]
    assert min(errors(worse, theirs, exact)) > BLOCKS


@pytest.mark.parametrize(
    ("temperature", "block_bytes", "limit"),
    [
        (1.0, None, ONE_BLOCK),
        (0.5, None, ONE_BLOCK),
        (1.0, 2**15, BLOCKS),
        (0.8, None, BLOCKS),
        (0.8, 2**15, BLOCKS),
    ],
)
def test_a_policy_in_bfloat16_is_no_worse_than_unfused(
    temperature: float, block_bytes: int | None, limit: float
) -> None:
    given = head(521, 64, 507).to(torch.bfloat16)
    wide, upstream = given.to(torch.float64), [torch.randn(521) for _ in range(2)]
    exact = with_gradients(plain_policy(wide, temperature), wide, [grad.double() for grad in upstream])
    theirs = with_gradients(plain_policy(given, temperature), given, upstream)
    mine = with_gradients(our_policy(given, temperature, block_bytes=block_bytes), given, upstream)
    assert max(errors(mine, theirs, exact)) <= limit
    worse = [2 * part.double() - true for part, true in zip(theirs, exact, strict=True)]
    assert min(errors(worse, theirs, exact)) > BLOCKS
