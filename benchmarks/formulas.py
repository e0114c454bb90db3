"""Losses as a user writes them by hand: the textbook formula in eager torch.

Where there are several ways to write one, it is the fastest of them, on small batches and on large ones.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Formula = Callable[[Tensor, Tensor], Tensor]

GAMMA = 0.1
POWER = 0.7
FOCUS = 2.0
FLOOR = 1e-5  # below 1 / C for every shape
SMOOTHING = 0.1
WIDTH = 2.0
EPSILON = 1.0
ALPHA, BETA, LOG_ZERO = 0.1, 1.0, -4.0


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


def smoothed_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return -(1 - s) log p_y - s / C times the sum of log p_k."""
    return F.cross_entropy(logits, target, label_smoothing=SMOOTHING)


def floored_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return -log(f + (1 - C f) p_y)."""
    prob = log_prob(logits, target).exp()
    return -(FLOOR + (1 - logits.shape[1] * FLOOR) * prob).log().mean()


def gamma_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return -log(gamma + (1 - gamma) p_y) / (1 - gamma)."""
    return _gamma_mean(log_prob(logits, target))


def _gamma_mean(log_p: Tensor) -> Tensor:
    # Not by logaddexp, division or mean: Inductor's auto-chunker has no rule for them.
    losses = torch.log(GAMMA + (1 - GAMMA) * log_p.exp())
    return losses.sum() * (-1 / ((1 - GAMMA) * len(log_p)))


def reweighted_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return -w(p_y) log p_y with w(p) = p / (gamma + (1 - gamma) p), without a gradient through w."""
    log_p = log_prob(logits, target)
    prob = log_p.detach().exp()
    return -(prob / (GAMMA + (1 - GAMMA) * prob) * log_p).mean()


def generalised_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return (1 - p_y^q) / q."""
    return -torch.expm1(POWER * log_prob(logits, target)).mean() / POWER


def symmetric_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return -alpha log p_y - beta A (1 - p_y)."""
    log_p = log_prob(logits, target)
    return (-ALPHA * log_p + BETA * LOG_ZERO * torch.expm1(log_p)).mean()


def focal(logits: Tensor, target: Tensor) -> Tensor:
    """Return -(1 - p_y)^gamma log p_y."""
    log_p = log_prob(logits, target)
    return -((-torch.expm1(log_p)) ** FOCUS * log_p).mean()


def poly(logits: Tensor, target: Tensor) -> Tensor:
    """Return -log p_y + epsilon (1 - p_y)."""
    log_p = log_prob(logits, target)
    return -(log_p + EPSILON * torch.expm1(log_p)).mean()


def brier(logits: Tensor, target: Tensor) -> Tensor:
    """Return the sum of (p_k - [k = y])^2."""
    return (logits.softmax(1) - F.one_hot(target, logits.shape[1])).square().sum(1).mean()


def ranked_probability_score(logits: Tensor, target: Tensor) -> Tensor:
    """Return the sum of (F_k - [k >= y])^2, F the cumulative probabilities."""
    reached = torch.arange(logits.shape[1], device=logits.device) >= target[:, None]
    return (logits.softmax(1).cumsum(1) - reached.to(logits.dtype)).square().sum(1).mean()


def entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return minus the sum of p_k log p_k."""
    del target
    return _entropy_mean(logits.log_softmax(1))


def _entropy_mean(log_p: Tensor) -> Tensor:
    return -(log_p.exp() * log_p).sum(1).mean()


def gini(logits: Tensor, target: Tensor) -> Tensor:
    """Return 1 minus the sum of p_k^2."""
    del target
    return 1 - logits.softmax(1).square().sum(1).mean()


def decisiveness(logits: Tensor, target: Tensor) -> Tensor:
    """Return the sum of q_k - q_k^2 with q = p^(log 2 / log C)."""
    del target
    exponent = math.log(2) / math.log(logits.shape[1])
    root = (exponent * logits.log_softmax(1)).exp()
    return (root - root.square()).sum(1).mean()


def logit_range(logits: Tensor, target: Tensor) -> Tensor:
    """Return max(0, max z - min z - width)."""
    del target
    # Not by amax and amin: their backward pass takes twice as long.
    return F.relu(logits.max(1).values - logits.min(1).values - WIDTH).mean()


def z_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Return the square of the log-sum-exp."""
    del target
    return logits.logsumexp(1).square().mean()


def gamma_less_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return gamma cross entropy - 0.1 entropy, from one log-softmax."""
    log_p = logits.log_softmax(1)
    return _gamma_mean(log_p.gather(1, target[:, None]).squeeze(1)) - 0.1 * _entropy_mean(log_p)


def gamma_and_range(logits: Tensor, target: Tensor) -> Tensor:
    """Return gamma cross entropy + 0.1 logit range."""
    return gamma_cross_entropy(logits, target) + 0.1 * logit_range(logits, target)


def similarity_cross_entropy(similarity: Tensor) -> Formula:
    """Return minus the sum of S_yk log p_k, as a function."""
    return lambda logits, target: F.cross_entropy(logits, similarity.to(logits)[target])


def pairwise_cross_entropy(weights: Tensor) -> Formula:
    """Return the sum of W_yk log(1 + e^(z_k - z_y)), as a function."""

    def formula(logits: Tensor, target: Tensor) -> Tensor:
        gap = logits.gather(1, target[:, None]) - logits
        return -(weights.to(logits)[target] * F.logsigmoid(gap)).sum(1).mean()

    return formula


def expected_cost(costs: Tensor) -> Formula:
    """Return the sum of C_yk p_k, as a function."""
    return lambda logits, target: (costs.to(logits)[target] * logits.softmax(1)).sum(1).mean()


def softmax_margin(costs: Tensor) -> Formula:
    """Return the log-sum-exp of z_k + C_yk, less z_y, as a function."""
    return lambda logits, target: F.cross_entropy(logits + costs.to(logits)[target], target)


def hierarchical_cross_entropy(group: int) -> Formula:
    """Return -e^-alpha log p(G) - e^-2alpha log p(y | G), G the group of y, as a function.

    Args:
        group: How many classes in a row make a group.
    """
    outer, inner = math.exp(-ALPHA), math.exp(-2 * ALPHA)

    def formula(logits: Tensor, target: Tensor) -> Tensor:
        log_p = logits.log_softmax(1)
        log_group = log_p.unflatten(1, (-1, group)).logsumexp(2)
        chosen = log_group.gather(1, target[:, None] // group)
        return -(inner * log_p.gather(1, target[:, None]) + (outer - inner) * chosen).mean()

    return formula


def linear_cross_entropy(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    """Return the cross entropy of a linear layer, in eager torch."""
    return F.cross_entropy(F.linear(hidden, weight), target)


def linear_cross_entropies(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    """Return the sum of the cross entropies of a linear layer, in eager torch."""
    return F.cross_entropy(F.linear(hidden, weight), target, reduction="none").float().sum()


def linear_gamma_cross_entropy(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    """Return the gamma cross entropy of a linear layer, in eager torch."""
    return gamma_cross_entropy(F.linear(hidden, weight), target)
