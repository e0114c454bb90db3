"""A head of a policy with its log-likelihood and entropy, from logits and fused."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Categorical

from equipoise import linear
from equipoise.losses import CrossEntropy, Loss

SMALL_BLOCKS = 4096  # bytes, which is several blocks of rows and of classes for every case below
CLOSE = 1e-12  # of the largest number in the result, or of 1; 1e-14 were seen


@dataclass(frozen=True)
class Head:
    """A head and its targets."""

    hidden: Tensor
    weight: Tensor
    target: Tensor

    @property
    def leaves(self) -> list[Tensor]:
        return [self.hidden, self.weight]

    def to(self, dtype: torch.dtype) -> "Head":
        hidden, weight = (leaf.detach().to(dtype).requires_grad_() for leaf in self.leaves)
        return Head(hidden, weight, self.target)


def head(n: int, d: int, v: int, *, dtype: torch.dtype = torch.float64, every: int = 11) -> Head:
    """Return a random head; one row in `every` is ignored."""
    target = torch.randint(v, (n,))
    target[every // 2 :: every] = -100
    hidden, weight = torch.randn(n, d, dtype=dtype), torch.randn(v, d, dtype=dtype) * 2 / d**0.5
    return Head(hidden.requires_grad_(), weight.requires_grad_(), target)


def plain_policy(given: Head, temperature: float) -> tuple[Tensor, Tensor]:
    """Return negative log-likelihoods and entropies by plain torch, zero for ignored rows."""
    logits = given.hidden @ given.weight.T
    logits = (logits.float() if logits.dtype == torch.bfloat16 else logits) / temperature
    nll = F.cross_entropy(logits, given.target, reduction="none")
    return nll, torch.where(given.target != -100, Categorical(logits=logits).entropy(), 0.0)


def our_policy(given: Head, temperature: float, **how: Any) -> tuple[Tensor, Tensor]:
    row = linear.row_statistics(given.hidden, given.weight, given.target, logit_scale=1 / temperature, **how)
    kept = given.target != -100
    return torch.where(kept, -F.logsigmoid(row.log_odds()), 0.0), torch.where(kept, row.entropy, 0.0)


def with_gradients(
    values: Sequence[Tensor], given: Head, upstream: Sequence[Tensor | None]
) -> tuple[Tensor, ...]:
    """Return values and the gradients they get from those upstream; None takes no part."""
    taken = [(value, grad) for value, grad in zip(values, upstream, strict=True) if grad is not None]
    outputs, grads = zip(*taken, strict=True)
    return *values, *torch.autograd.grad(outputs, given.leaves, grads)


def plain(given: Head, **options: Any) -> Tensor:
    return F.cross_entropy(given.hidden @ given.weight.T, given.target, **options)


def fused(given: Head, *, loss: Loss | None = None, **options: Any) -> Tensor:
    return (loss or CrossEntropy()).linear(given.hidden, given.weight, given.target, **options)
