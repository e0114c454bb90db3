r"""Elementwise functions whose value, derivative and second derivative are exact at both ends.

torch's own lose digits in a derivative: `torch.sigmoid` has :math:`s (1 - s)`, which cancels where s is near
1; `torch.expm1` has its value plus 1, which cancels where that is near -1; `F.logsigmoid` is exact to the
first derivative but not to the second. Each function here is made of operations whose derivatives are
products and quotients of positive numbers, so autograd in any mode and to any order inherits their digits. At
0 they take one side, not the mean of both as `abs` and `maximum` do: both sides are the same function.

All but `softmax` are elementwise.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def sigmoid(odds: Tensor) -> Tensor:
    """Return 1 / (1 + e^-odds)."""
    negative = odds < 0
    small = torch.exp(torch.where(negative, odds, -odds))
    return torch.where(negative, small, 1.0) / (1 + small)


def log_sigmoid(odds: Tensor) -> Tensor:
    """Return -log(1 + e^-odds)."""
    negative = odds < 0
    small = torch.exp(torch.where(negative, odds, -odds))
    return torch.where(negative, odds, 0.0) - torch.log1p(small)


def softplus(odds: Tensor) -> Tensor:
    """Return log(1 + e^odds) of finite odds, or of minus infinity.

    `F.softplus` is linear above 20 by default and loses digits; above 40 the difference is below float64's eps.
    """
    return F.softplus(odds, threshold=40.0)


def expm1(exponent: Tensor) -> Tensor:
    """Return e^exponent - 1."""
    low = exponent < -0.5
    return torch.where(low, torch.exp(exponent) - 1, torch.expm1(torch.where(low, 0.0, exponent)))


def log_add(one: Tensor, two: Tensor) -> Tensor:
    """Return log(e^one + e^two), where one of them may be minus infinity.

    `torch.logaddexp` has nan for a second derivative there.
    """
    gap = one - two
    negative = gap < 0
    small = torch.exp(torch.where(negative, gap, -gap))
    return torch.where(negative, two, one) + torch.log1p(small)


def log_affine_sigmoid(odds: Tensor, low: Tensor, gain: Tensor, rest: Tensor) -> Tensor:
    """Return log(low + gain p) for p = sigmoid(odds), with nothing subtracted.

    Args:
        odds: Log odds of p.
        low: Not negative; what the logarithm is of at p = 0.
        gain: Not negative.
        rest: 1 - low - gain, not negative; given because the difference would cancel.
    """
    small = log_add(low.log(), gain.log() + log_sigmoid(odds))
    complement = rest + gain * sigmoid(-odds)  # what is missing to 1
    upper = complement < 0.5
    return torch.where(upper, torch.log1p(-torch.where(upper, complement, 0.0)), small)


def softmax(logits: Tensor) -> Tensor:
    """Return the softmax over the last dimension, whose largest entry is differentiated as 1 less the others.

    A sum of factors times probabilities then has a gradient made of differences to the factor of the
    likeliest class, and a row that is nearly certain keeps its digits: `torch.softmax` subtracts a mean that
    is as large as the factor itself. A class with a logit of minus infinity has probability 0 and a gradient
    of 0; where all have, both are nan.
    """
    probs = logits.softmax(-1)
    total = probs.sum(-1, keepdim=True)
    likeliest = probs.detach().argmax(-1, keepdim=True)
    return probs.scatter_add(-1, likeliest, total.detach() - total)  # 0, with minus the derivative of all
