"""Fused losses in half precision and under autocast are as exact as unfused ones."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from equipoise.losses import CrossEntropy, GammaCrossEntropy
from support.linear_cases import BOTH_WAYS, THREE, Case, case


@BOTH_WAYS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("peaked", [1.0, 8.0])
@pytest.mark.parametrize(("blocks", "limit"), [(1, 1.1), (3, 1.4)])
def test_half_precision_is_hardly_worse_than_unfused(
    dtype: torch.dtype, reduction: str, peaked: float, blocks: int, limit: float
) -> None:
    """A CPU gives the products of each block in half precision: they are rounded before they are summed."""
    n, v, d = 257, 1009, 32
    hidden, weight = torch.randn(n, d) * peaked, torch.randn(v, d) / d**0.5
    target = torch.randint(v, (n,))
    exact = Case(hidden.to(dtype).double(), weight.to(dtype).double(), target)
    half = Case(hidden.to(dtype), weight.to(dtype), target)
    for c in (exact, half):
        for part in (c.hidden, c.weight):
            part.requires_grad_()
    up = torch.rand(n) + 0.5 if reduction == "none" else torch.ones(())
    loss = GammaCrossEntropy(1e-3)
    truth = loss(exact.logits(), target, reduction=reduction)
    unfused = loss(half.logits().float(), target, reduction=reduction)
    block_bytes = 4 * v * -(-n // blocks)
    fused = loss.linear(half.hidden, half.weight, target, reduction=reduction, block_bytes=block_bytes)
    assert fused.dtype == torch.float32
    assert error(fused, truth) <= 1.1 * error(unfused, truth) + 1e-6
    wanted = exact.grads(truth, up.double())
    for ours, theirs, right in zip(half.grads(fused, up), half.grads(unfused, up), wanted, strict=True):
        assert ours.dtype == dtype
        assert error(ours, right) <= limit * error(theirs, right)


def error(found: Tensor, truth: Tensor) -> float:
    with torch.no_grad():
        return float((found.double() - truth).norm() / truth.norm())


def test_a_scaled_float16_loss_keeps_its_small_slopes() -> None:
    n, v, d = 4096, 8, 4
    hidden = torch.randn(n, d).half().requires_grad_()
    weight = torch.randn(v, d).half().requires_grad_()
    target = torch.randint(v, (n,))
    c = Case(hidden, weight, target)
    fused = 2.0**16 * CrossEntropy().linear(hidden, weight, target, sample_weight=torch.full((n,), 1e-3))
    ours = c.grads(fused)
    dense = Case(hidden.detach().double().requires_grad_(), weight.detach().double().requires_grad_(), target)
    right = dense.grads(2.0**16 * CrossEntropy()(dense.logits(), target))
    assert all(error(one, two) < 2e-3 for one, two in zip(ours, right, strict=True))


@BOTH_WAYS
def test_autocast_multiplies_in_half_precision() -> None:
    c = case(64, 50, 16, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fused = c.fused(THREE)
        unfused = THREE(F.linear(c.hidden, c.weight, c.bias), c.target)
    exact = THREE(c.logits(), c.target)
    for ours, theirs, right in zip(c.grads(fused), c.grads(unfused), c.grads(exact), strict=True):
        assert ours.dtype == torch.float32
        assert 1e-5 < error(ours, right.double()) < 1.5 * error(theirs, right.double())
