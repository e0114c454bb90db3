"""Losses as a user writes them by hand: the textbook formula with `log_softmax` and `gather`."""

import torch
import torch.nn.functional as F
from torch import Tensor

GAMMA = 0.1
POWER = 0.7
FOCUS = 2.0


def log_prob(logits: Tensor, target: Tensor) -> Tensor:
    """Return the target's log-probability, (N,), in float32 at least."""
    logits = logits.float() if logits.dtype.itemsize < 4 else logits
    return F.log_softmax(logits, 1).gather(1, target[:, None]).squeeze(1)


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return -log p_y."""
    return F.cross_entropy(logits, target)


def cross_entropies(logits: Tensor, target: Tensor) -> Tensor:
    """Return the sum of -log p_y."""
    return F.cross_entropy(logits, target, reduction="sum")


def gamma_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return -log(gamma + (1 - gamma) p_y) / (1 - gamma)."""
    # Not by logaddexp, division or mean: Inductor's auto-chunker has no rule for them.
    losses = torch.log(GAMMA + (1 - GAMMA) * log_prob(logits, target).exp())
    return losses.sum() * (-1 / ((1 - GAMMA) * len(target)))


def generalised_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return (1 - p_y^q) / q."""
    return -torch.expm1(POWER * log_prob(logits, target)).mean() / POWER


def focal(logits: Tensor, target: Tensor) -> Tensor:
    """Return -(1 - p_y)^gamma log p_y."""
    log_p = log_prob(logits, target)
    return -((-torch.expm1(log_p)) ** FOCUS * log_p).mean()


def linear_cross_entropy(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    """Return the cross entropy of a linear layer, in eager torch."""
    return F.cross_entropy(F.linear(hidden, weight), target)


def linear_cross_entropies(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    """Return the sum of the cross entropies of a linear layer, in eager torch."""
    return F.cross_entropy(F.linear(hidden, weight), target, reduction="none").float().sum()


def linear_gamma_cross_entropy(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    """Return the gamma cross entropy of a linear layer, in eager torch."""
    return gamma_cross_entropy(F.linear(hidden, weight), target)
