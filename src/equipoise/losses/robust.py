"""Losses whose gradient vanishes for labels that the model finds very unlikely."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from equipoise._checks import check_number, refuse_batch
from equipoise._tensors import like
from equipoise.losses.base import RowLoss
from equipoise.losses.table import Entry
from equipoise.statistics import RowStatistics
from equipoise.statistics.functions import expm1, log_affine_sigmoid, log_sigmoid, sigmoid

GAMMA_HINT = "0 is cross entropy, 1 is 1 - p_y"


@final
@dataclass(frozen=True)
class GammaCrossEntropy(RowLoss):
    r"""Cross entropy whose gradient vanishes for labels that the model finds very unlikely.

    With p = softmax(z) and target class y, a row costs

    .. math:: -\frac{\log\left(\gamma + (1 - \gamma)\,p_y\right)}{1 - \gamma},

    which is cross entropy at gamma = 0 and 1 - p_y in the limit at 1, and lies in [0, -log(gamma) / (1 -
    gamma)]. Its gradient is that of cross entropy times w = p_y / (gamma + (1 - gamma) p_y). With
    `min_weight` b > 0 the gradient is that of cross entropy times max(b, w), and the value is the integral of
    this gradient: below p* = b gamma / (1 - b (1 - gamma)) the loss at p* plus b (log p* - log p_y).

    Over n equally likely classes w = 1 / (1 + (n - 1) gamma), so training from scratch should start with
    n gamma below 1; `label_noise.suggest_gamma` helps to choose. Not proper for gamma > 0: the optimum is
    sharper than the true probabilities, so the loss reduces overconfidence that wrong labels cause, not that
    of ambiguous rows. Under symmetric label noise, p estimates the probabilities of the clean labels, and
    `label_noise.floored_probs` those of the noisy ones. Fujisawa and Eguchi's "gamma cross entropy" is
    another loss.

    Args:
        gamma: In [0, 1]. The larger gamma, the larger the probability below which labels are ignored.
        min_weight: In [0, 1]. Minimum of w; 1 is cross entropy.

    Shapes:
        See `Loss.__call__`.

    Raises:
        ValueError: If gamma or min_weight is outside [0, 1].

    Numerics:
        With u = (1 - gamma) (1 - p_y), the log is log1p(-u) for u < 1/2, else the log-sum-exp of log gamma
        and log(1 - gamma) + log p_y. Nothing cancels, so the relative error of value and gradient is near
        eps (1 + max|z|) for every gamma. The formula in p loses all digits for confident rows; that in log p
        returns negative values.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 3.0, 0.0]])
        >>> GammaCrossEntropy(gamma=0.1)(logits, torch.tensor([0, 2]), reduction="none")
        tensor([0.1683, 2.1786])

    Source:
        Ji et al., ICLR 2023, arXiv:2302.13344 (TaiLr). Their code multiplies cross entropy by w, detached:
        that is `Reweighted(TaiLrWeight(gamma, min_weight))`, which has the same gradient.
    """

    gamma: float | Tensor = 0.1
    min_weight: float | Tensor = 0.0

    def __post_init__(self) -> None:
        check_number("gamma", self.gamma, 0, 1, GAMMA_HINT)
        check_number("min_weight", self.min_weight, 0, 1, "1 is cross entropy")

    def per_row(self, row: RowStatistics, /) -> Tensor:
        """Return the loss of one row."""
        odds = row.log_odds()
        if isinstance(self.min_weight, Tensor) or self.min_weight > 0:
            least = like(self.min_weight, odds)
            limit = torch.finfo(odds.dtype).max
            # w = sigmoid(m - log gamma) falls below min_weight where the log odds fall below this
            start = like(self.gamma, odds).clamp(min=torch.finfo(odds.dtype).tiny).log() + torch.logit(least)
            start = start.clamp(-limit, limit)
            below = least * (log_sigmoid(start) - log_sigmoid(torch.minimum(odds, start)))
            return self._unbounded(torch.maximum(odds, start)) + below
        return self._unbounded(odds)

    def _unbounded(self, odds: Tensor) -> Tensor:
        """Return the loss of log odds without a minimum weight."""
        gamma = like(self.gamma, odds)
        at_one = gamma == 1
        inner = torch.where(at_one, 0.5, gamma)
        log_prob = log_affine_sigmoid(odds, inner, 1 - inner, torch.zeros_like(inner))
        return torch.where(at_one, sigmoid(-odds), -log_prob / (1 - inner))


@final
@dataclass(frozen=True)
class TaiLrWeight:
    r"""TaiLr's weight of a row: p / (gamma + (1 - gamma) p), not below `min_weight`.

    Args:
        gamma: In [0, 1]; TaiLr's `density_ratio_threshold`.
        min_weight: In [0, 1]; TaiLr's `density_min_weight`.

    Raises:
        ValueError: If either is outside [0, 1].

    Example:
        >>> TaiLrWeight(gamma=0.1, min_weight=0.2)(torch.tensor([0.0, 0.5, 1.0]))
        tensor([0.2000, 0.9091, 1.0000])

    Source:
        Ji et al., ICLR 2023, arXiv:2302.13344.
    """

    gamma: float | Tensor = 0.1
    min_weight: float | Tensor = 0.0

    def __post_init__(self) -> None:
        check_number("gamma", self.gamma, 0, 1, GAMMA_HINT)
        check_number("min_weight", self.min_weight, 0, 1, "1 is cross entropy")

    def __call__(self, probs: Tensor, /) -> Tensor:
        """Return the weight of target probabilities of any shape."""
        gamma = like(self.gamma, probs)
        # at gamma = 0 the weight is 1 for any probability, 0 included
        ratio = torch.where(
            gamma == 0, 1.0, probs / torch.where(gamma == 0, 1.0, gamma + (1 - gamma) * probs)
        )
        return torch.maximum(ratio, like(self.min_weight, probs))


@final
@dataclass(frozen=True)
class DFTWeight:
    """Dynamic fine-tuning's weight of a row: its target's probability.

    Example:
        >>> DFTWeight()(torch.tensor([0.0, 0.5]))
        tensor([0.0000, 0.5000])

    Source:
        Wu et al. 2025, arXiv:2508.05629.
    """

    def __call__(self, probs: Tensor, /) -> Tensor:
        """Return the weight of target probabilities of any shape."""
        return probs


@final
@dataclass(frozen=True)
class Reweighted(RowLoss):
    r"""Cross entropy times a detached function of the target's probability.

    With p = softmax(z), target class y and a weight w, a row costs

    .. math:: -\operatorname{stop}(w(p_y)) \log p_y,

    where no gradient flows through w: the gradient is that of cross entropy times w(p_y). The value may rise
    while training succeeds, so do not use it for early stopping. `GammaCrossEntropy` has the gradient of
    TaiLr's weight, and is its integral.

    Args:
        weight: Any elementwise function of target probabilities. `TaiLrWeight` and `DFTWeight` are two
            published ones.

    Shapes:
        See `Loss.__call__`; `weight` is called with a tensor and must return one of its shape.

    Raises:
        TypeError: If weight cannot be called.
        ValueError: When called, if weight returns another shape.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 3.0, 0.0]])
        >>> loss = Reweighted(lambda p: p**2)
        >>> loss(logits, torch.tensor([0, 2]), reduction="none")
        tensor([0.1209, 0.0063])

    Source:
        Ji et al., ICLR 2023, arXiv:2302.13344, generalised.
    """

    weight: Callable[[Tensor], Tensor]

    def __post_init__(self) -> None:
        refuse_batch("weight", self.weight)
        if not callable(self.weight):
            raise TypeError(
                f"weight must be a function of target probabilities, got {self.weight!r}; try TaiLrWeight()"
            )

    def per_row(self, row: RowStatistics, /) -> Tensor:
        """Return the loss of one row."""
        odds = row.log_odds()
        probs = sigmoid(odds.detach())
        weight = self.weight(probs)
        if weight.shape != probs.shape:
            raise ValueError(
                f"weight must return one number per probability, {tuple(probs.shape)}, got "
                f"{tuple(weight.shape)}; write it elementwise"
            )
        return -weight.detach() * log_sigmoid(odds)


@final
@dataclass(frozen=True)
class GeneralizedCrossEntropy(RowLoss):
    r"""Generalised cross entropy, between cross entropy and the mean absolute error.

    With p = softmax(z) and target class y, a row costs

    .. math:: \frac{1 - p_y^q}{q},

    which is cross entropy in the limit q = 0 and 1 - p_y at q = 1. Its gradient is that of cross entropy
    times p_y^q. Robust to label noise, as is `GammaCrossEntropy`, whose weight is a ratio instead of a power.
    Not proper for q > 0.

    Args:
        q: In [0, 1].

    Shapes:
        See `Loss.__call__`.

    Raises:
        ValueError: If q is outside [0, 1].

    Numerics:
        -expm1(q log p_y) / q: exact for small q and for confident rows.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 3.0, 0.0]])
        >>> GeneralizedCrossEntropy(q=0.7)(logits, torch.tensor([0, 2]), reduction="none")
        tensor([0.1601, 1.2649])

    Source:
        Zhang and Sabuncu, NeurIPS 2018, arXiv:1805.07836.
    """

    q: float | Tensor = 0.7

    def __post_init__(self) -> None:
        check_number("q", self.q, 0, 1, "0 is cross entropy, 1 is 1 - p_y")

    def per_row(self, row: RowStatistics, /) -> Tensor:
        """Return the loss of one row."""
        log_prob = log_sigmoid(row.log_odds())
        q = like(self.q, log_prob)
        inner = torch.where(q == 0, 1.0, q)
        return -torch.where(q == 0, log_prob, expm1(inner * log_prob) / inner)


@final
@dataclass(frozen=True)
class SymmetricCrossEntropy(RowLoss):
    r"""Cross entropy plus the reverse cross entropy, robust to label noise.

    With p = softmax(z) and target class y, a row costs

    .. math:: -\alpha \log p_y - \beta A\,(1 - p_y),

    where A replaces log 0 in the reverse cross entropy. The best alpha and beta differ widely between data
    sets.

    Args:
        alpha: At least 0; weight of cross entropy.
        beta: At least 0; weight of the reverse cross entropy.
        log_zero: At most 0; A.

    Shapes:
        See `Loss.__call__`.

    Raises:
        ValueError: If alpha or beta is negative or log_zero positive.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 3.0, 0.0]])
        >>> SymmetricCrossEntropy(alpha=0.1, beta=1.0)(logits, torch.tensor([0, 2]), reduction="none")
        tensor([0.6418, 4.1284])

    Source:
        Wang et al., ICCV 2019, arXiv:1908.06112.
    """

    alpha: float | Tensor = 0.1
    beta: float | Tensor = 1.0
    log_zero: float | Tensor = -4.0

    def __post_init__(self) -> None:
        check_number("alpha", self.alpha, 0)
        check_number("beta", self.beta, 0)
        check_number("log_zero", self.log_zero, high=0, hint="it stands for the log of zero")

    def per_row(self, row: RowStatistics, /) -> Tensor:
        """Return the loss of one row."""
        odds = row.log_odds()
        reverse = -like(self.log_zero, odds) * sigmoid(-odds)
        return like(self.beta, odds) * reverse - like(self.alpha, odds) * log_sigmoid(odds)


WEIGHTS = (TaiLrWeight, DFTWeight)


ENTRIES = (
    Entry(
        GammaCrossEntropy,
        source="Ji et al. 2023, arXiv:2302.13344",
        proper=lambda loss: loss.gamma == 0 or loss.min_weight == 1,
        bounded=lambda loss: loss.gamma > 0 and loss.min_weight == 0,
    ),
    Entry(
        Reweighted,
        source="Ji et al. 2023, arXiv:2302.13344; Wu et al. 2025, arXiv:2508.05629",
        bounded=lambda loss: isinstance(loss.weight, DFTWeight),
        reweighted=True,
    ),
    Entry(
        GeneralizedCrossEntropy,
        source="Zhang and Sabuncu 2018, arXiv:1805.07836",
        proper=lambda loss: loss.q == 0,
        bounded=lambda loss: loss.q > 0,
    ),
    Entry(
        SymmetricCrossEntropy,
        source="Wang et al. 2019, arXiv:1908.06112",
        proper=lambda loss: loss.beta * loss.log_zero == 0,
        bounded=lambda loss: loss.alpha == 0,
    ),
)
