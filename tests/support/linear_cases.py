"""Heads and targets for the tests of fused losses, and how they are held against the dense ones."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from equipoise import Objective
from equipoise.losses import LOSSES, GammaCrossEntropy, Loss, RowLoss
from equipoise.penalties import PENALTIES, Entropy, ZLoss
from support.definitions import TEST_CLASSES, settings_of

EPS = torch.finfo(torch.float64).eps
THREE = GammaCrossEntropy(0.1) + 0.1 * Entropy() + 0.01 * ZLoss()
ROW_LOSSES = [
    pytest.param(loss, id=f"{entry.name}-{index}")
    for entry in LOSSES + PENALTIES
    for index, loss in enumerate(settings_of(entry))
    if isinstance(loss, RowLoss)
] + [pytest.param(THREE, id="sum of three")]
BOTH_WAYS = pytest.mark.usefixtures("_both_ways")
ORDERS = [("mean", "auto"), ("sum", "recompute"), ("none", "auto")]


@dataclass
class Case:
    """A head, targets, and what the dense computation makes of them."""

    hidden: Tensor
    weight: Tensor
    target: Tensor
    bias: Tensor | None = None

    @property
    def leaves(self) -> list[Tensor]:
        parts = [self.hidden, self.weight] + ([] if self.bias is None else [self.bias])
        return [part for part in parts if part.requires_grad]

    def logits(self) -> Tensor:
        return F.linear(self.hidden, self.weight, self.bias)

    def fused(self, loss: Loss | Objective, **options: Any) -> Tensor:
        """Return the loss of the head without its logits."""
        return loss.linear(self.hidden, self.weight, self.target, linear_bias=self.bias, **options)

    def grads(self, value: Tensor, upstream: Tensor | None = None) -> list[Tensor]:
        up = torch.ones_like(value) if upstream is None else upstream
        return list(torch.autograd.grad(value, self.leaves, up, retain_graph=True))


def case(
    n: int = 7, v: int = TEST_CLASSES, d: int = 5, *, bias: bool = True, dtype: torch.dtype = torch.float64
) -> Case:
    hidden = torch.randn(n, d, dtype=dtype, requires_grad=True)
    weight = torch.randn(v, d, dtype=dtype, requires_grad=True)
    target = torch.randint(v, (n,))
    if n > 2:
        target[2] = -100
    return Case(hidden, weight, target, torch.randn(v, dtype=dtype, requires_grad=True) if bias else None)


def same(c: Case, fused: Tensor, dense: Tensor, upstream: Tensor | None = None, *, rounds: int = 64) -> None:
    """Value and gradients agree to some roundings of what was summed."""
    reach = rounds * EPS * (1 + max((c.logits().abs().max().item() if c.hidden.numel() else 0), 1))
    torch.testing.assert_close(fused, dense, rtol=reach, atol=reach, equal_nan=True)
    for ours, theirs in zip(c.grads(fused, upstream), c.grads(dense, upstream), strict=True):
        size = max(1.0, theirs.abs().max().item() if theirs.numel() else 0.0)
        torch.testing.assert_close(ours, theirs, rtol=reach, atol=reach * size, equal_nan=True)
