r"""Elementwise functions whose values, first and second derivatives are exact in both tails.

torch's functions lose digits in a derivative: that of `torch.sigmoid`, :math:`s (1 - s)`, cancels for s near
1; that of `torch.expm1`, its value plus 1, cancels for values near -1; the second derivative of
`F.logsigmoid` is not exact. The functions here consist of operations whose derivatives are products and
quotients of positive numbers, so derivatives of any order, in any mode of autograd, are exact too. At 0 their
derivative is that of one branch, not the mean of two as for `abs` and `maximum`: both branches are the same
function.

All but `softmax` are elementwise.
"""

import torch
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

    `F.softplus` is linear above 20 and loses digits there; its second derivative is 0 above any threshold.
    """
    positive = odds.relu()
    return positive + torch.log1p(torch.exp(torch.sub(odds, positive, alpha=2)))


def expm1(exponent: Tensor) -> Tensor:
    """Return e^exponent - 1."""
    low = exponent < -0.5
    return torch.where(low, torch.exp(exponent) - 1, torch.expm1(torch.where(low, 0.0, exponent)))


def log_add(one: Tensor, two: Tensor) -> Tensor:
    """Return log(e^one + e^two); one of the two may be minus infinity.

    For that the second derivative of `torch.logaddexp` is nan.
    """
    gap = one - two
    negative = gap < 0
    small = torch.exp(torch.where(negative, gap, -gap))
    return torch.where(negative, two, one) + torch.log1p(small)


def log_affine_sigmoid(odds: Tensor, low: Tensor, gain: Tensor, rest: Tensor) -> Tensor:
    """Return log(low + gain p) for p = sigmoid(odds), without a subtraction.

    Args:
        odds: Log odds of p.
        low: At least 0.
        gain: At least 0.
        rest: 1 - low - gain, at least 0; an argument, as the difference would cancel.
    """
    small = log_add(low.log(), gain.log() + log_sigmoid(odds))
    complement = rest + gain * sigmoid(-odds)  # 1 - (low + gain p)
    upper = complement < 0.5
    return torch.where(upper, torch.log1p(-torch.where(upper, complement, 0.0)), small)


def softmax(logits: Tensor) -> Tensor:
    """Return the softmax over the last dimension; its largest entry is differentiated as 1 minus the others.

    So the gradient of a sum of c_k p_k is computed from c_k minus the c of the likeliest class, and is exact
    for nearly certain rows; `torch.softmax` subtracts a mean of c instead, which cancels. A class with a
    logit of minus infinity has probability 0 and gradient 0; a row of such classes has nan for both.
    """
    probs = logits.softmax(-1)
    total = probs.sum(-1, keepdim=True)
    likeliest = probs.detach().argmax(-1, keepdim=True)
    return probs.scatter_add(-1, likeliest, total.detach() - total)  # adds 0, with the derivative of -total
