"""Losses, rows and marks of the tests of dense losses."""

import pytest
import torch
from torch import Tensor

from equipoise.kernels import cpu
from equipoise.losses import CrossEntropy, GammaCrossEntropy
from equipoise.penalties import Entropy, LogitRange

BOTH_WAYS = pytest.mark.usefixtures("_both_ways")
COMPILED = pytest.mark.skipif(not cpu.available(), reason="the kernel was not compiled")
THREE = GammaCrossEntropy(0.1) + 0.1 * Entropy() + LogitRange(width=1.0)
LOSSES = pytest.mark.parametrize("loss", [CrossEntropy(), THREE], ids=["cross entropy", "three"])
F64 = torch.float64


def rows(count: int = 6, classes: int = 8, dtype: torch.dtype = F64) -> tuple[Tensor, Tensor]:
    return torch.randn(count, classes, dtype=dtype), torch.arange(count) % classes


def gradient(value: Tensor, leaf: Tensor, upstream: Tensor | None = None) -> Tensor:
    return torch.autograd.grad(value, leaf, upstream)[0]
