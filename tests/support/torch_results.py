"""Values and gradients of the fused loss and of torch, and the distance between them in roundings."""

from collections.abc import Sequence

import torch
from torch import Tensor

WIDE = [torch.float64, torch.float32]

# In eps of the largest number in the result, or of 1; 3.0 were seen.
ROUNDINGS = 16


def results(value: Tensor, leaves: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return the value and the gradients of a weighted sum of the losses."""
    weights = 1 + torch.arange(value.numel(), dtype=value.dtype).reshape(value.shape) / 8
    return (value, *torch.autograd.grad((value * weights).sum(), leaves))


def distance(mine: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """Largest difference, each relative to the largest number of its tensor or to 1."""
    worst = 0.0
    for one, other in zip(mine, theirs, strict=True):
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        assert torch.equal(one.isnan(), other.isnan())
        if one.numel():
            size = 1 + other.nan_to_num().abs().max()
            worst = max(worst, ((one - other).nan_to_num().abs().max() / size).item())
    return worst
