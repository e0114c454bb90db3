"""What the tests of maps share: settings, a gradient, and masks."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from equipoise.maps import MAPS, ClippedLogits, GumbelSoftmax, Projected, Sparsemax, StraightThrough
from support.map_definitions import settings_of

CLASSES = 6
SETTINGS = [
    pytest.param(entry, map, id=f"{entry.name}-{index}")
    for entry in MAPS
    for index, map in enumerate(settings_of(entry))
]
EVERY = [
    *(map for entry in MAPS for map in settings_of(entry)),
    *(
        StraightThrough(each)
        for each in (Projected(0.02), Sparsemax(), ClippedLogits(-2.0, 2.0), GumbelSoftmax())
    ),
]
RANDOM = (GumbelSoftmax(temperature=0.7), StraightThrough(GumbelSoftmax()))
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
every = pytest.mark.parametrize("map", EVERY, ids=repr)
both = pytest.mark.parametrize("form", ["probs", "log_probs"])
inf, nan = math.inf, math.nan


def slope(function: Callable[[Tensor], Tensor], logits: Tensor, weight: Tensor) -> Tensor:
    """Gradient of a weighted sum of a map's answers, without the minus infinity of a masked class."""
    leaf = logits.clone().requires_grad_()
    value = function(leaf)
    return torch.autograd.grad((value.masked_fill(value == -inf, 0.0) * weight).sum(), leaf)[0]


def allowed_in(shape: tuple[int, ...]) -> Tensor:
    """A mask that allows at least two classes of each row, not the same ones in all."""
    mask = torch.rand(shape) > 0.4
    mask[..., :2] = True
    return mask
