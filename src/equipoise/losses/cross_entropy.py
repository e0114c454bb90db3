"""Cross entropy and its usual variants: label smoothing, a floor, focal, Poly-1, Brier."""

from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from equipoise._checks import check_floor, check_number
from equipoise._tensors import like
from equipoise.losses.base import RowLoss
from equipoise.losses.table import Entry
from equipoise.statistics import RowStatistics
from equipoise.statistics.functions import log_affine_sigmoid, log_sigmoid, sigmoid


@final
@dataclass(frozen=True)
class CrossEntropy(RowLoss):
    r"""Cross entropy, as `torch.nn.functional.cross_entropy` computes it.

    With p = softmax(z), target class y, n classes and smoothing s, a row costs

    .. math:: -(1 - s) \log p_y - \frac{s}{n} \sum_k \log p_k.

    Smoothing keeps the model from becoming certain. `CrossEntropy(label_smoothing=1)` is the second sum
    alone; add a multiple of it to smooth another loss. Proper without smoothing: the optimum is the true
    probabilities.

    Args:
        label_smoothing: In [0, 1]; the probability that the target distribution spreads evenly over the
            classes that are not masked.

    Shapes:
        As `torch.nn.functional.cross_entropy`; see `Loss.__call__`.

    Raises:
        ValueError: If label_smoothing is outside [0, 1].

    Numerics:
        -log p_y is minus the log-sigmoid of the target's log odds, which is exact also for p_y near 1.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 3.0, 0.0]])
        >>> CrossEntropy()(logits, torch.tensor([0, 2]), reduction="none")
        tensor([0.1698, 3.0949])

    Source:
        Smoothing: Szegedy et al., CVPR 2016, arXiv:1512.00567.
    """

    label_smoothing: float | Tensor = 0.0

    def __post_init__(self) -> None:
        check_number("label_smoothing", self.label_smoothing, 0, 1, "0 is plain cross entropy")

    @property
    def applies_class_weight(self) -> bool:
        """True with smoothing: as in torch, each class's term is multiplied by the weight of that class."""
        return not isinstance(self.label_smoothing, (int, float)) or self.label_smoothing != 0

    def per_row(self, row: RowStatistics, /) -> Tensor:
        """Return the loss of one row."""
        loss = -F.logsigmoid(row.log_odds())
        if not self.applies_class_weight:
            return loss
        smoothing = like(self.label_smoothing, loss)
        if row.class_weight is None:
            spread = row.lse() - row.mean_logit
        else:
            loss = loss * row.weight
            spread = -row.expected_log_prob(row.class_weight) / row.class_count.clamp(min=1)
        return (1 - smoothing) * loss + smoothing * spread


@final
@dataclass(frozen=True)
class FlooredCrossEntropy(RowLoss):
    r"""Cross entropy of probabilities kept above a floor.

    With p = softmax(z), target class y, floor f and n classes that are not masked, a row costs

    .. math:: -\log\left(f + (1 - n f)\,p_y\right).

    The floor changes training: this is gamma cross entropy with gamma = f / (1 - (n - 1) f), scaled and
    shifted (see `label_noise.convert`), so the gradient nearly vanishes for a target far below the floor. Not
    proper in p for f > 0: the floored probabilities, not p, estimate the true ones.

    Args:
        floor: In [0, 1/n]; the smallest probability of any class. At 1/n the loss is constant.

    Shapes:
        See `Loss.__call__`.

    Raises:
        ValueError: If floor is outside [0, 1], or, when called, if n times floor is above 1.

    Numerics:
        With u = (n - 1) f + (1 - n f) (1 - p_y), one minus the floored probability, the loss is -log1p(-u)
        for u < 1/2, else a log-sum-exp. Neither form nor its derivative subtracts.

    Example:
        >>> logits = torch.tensor([[20.0, 0.0, 0.0], [0.0, 20.0, 0.0]])
        >>> FlooredCrossEntropy(floor=0.1)(logits, torch.tensor([0, 2]), reduction="none")
        tensor([0.2231, 2.3026])

    Source:
        The map is ChainerRL's `SoftmaxDistribution(min_prob)`; for its cross entropy see
        `equipoise.label_noise`.
    """

    floor: float | Tensor = 0.01

    def __post_init__(self) -> None:
        check_number("floor", self.floor, 0, 1, "it is a probability")

    def per_row(self, row: RowStatistics, /) -> Tensor:
        """Return the loss of one row."""
        if not isinstance(self.floor, Tensor):
            check_floor(self.floor, row.num_classes)
        odds = row.log_odds()
        floor = like(self.floor, odds)
        others = (row.class_count - 1).clamp(min=0) * floor
        return -log_affine_sigmoid(odds, floor, (1 - others - floor).clamp(min=0), others)


@final
@dataclass(frozen=True)
class Focal(RowLoss):
    r"""Focal loss: cross entropy times (1 - p_y)^gamma, which is small for rows the model is sure of.

    With p = softmax(z) and target class y, a row costs

    .. math:: -(1 - p_y)^{\gamma} \log p_y.

    The trained model is less confident than with cross entropy, which often improves calibration. Not proper
    for gamma > 0: the optimum is flatter than the true probabilities.

    Args:
        gamma: At least 0; 0 is cross entropy. Not the gamma of `GammaCrossEntropy`.

    Shapes:
        See `Loss.__call__`.

    Raises:
        ValueError: If gamma is negative.

    Numerics:
        (1 - p_y)^gamma is exp(gamma log(1 - p_y)), from the log odds: value and gradient are finite at
        p_y = 1, for gamma in (0, 1) too.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 3.0, 0.0]])
        >>> Focal(gamma=2.0)(logits, torch.tensor([0, 2]), reduction="none")
        tensor([0.0041, 2.8210])

    Source:
        Lin et al., ICCV 2017, arXiv:1708.02002; for calibration Mukhoti et al., NeurIPS 2020,
        arXiv:2002.09437.
    """

    gamma: float | Tensor = 2.0

    def __post_init__(self) -> None:
        check_number("gamma", self.gamma, 0, hint="0 is cross entropy")

    def per_row(self, row: RowStatistics, /) -> Tensor:
        """Return the loss of one row."""
        odds = row.log_odds()
        return -torch.exp(like(self.gamma, odds) * log_sigmoid(-odds)) * log_sigmoid(odds)


@final
@dataclass(frozen=True)
class Poly(RowLoss):
    r"""Poly-1 loss: cross entropy plus epsilon (1 - p_y), the first term of its Taylor series.

    With p = softmax(z) and target class y, a row costs

    .. math:: -\log p_y + \epsilon\,(1 - p_y).

    A positive epsilon increases the gradient most for rows that the model is undecided about; a negative one
    makes the model less confident. Proper only at 0.

    Args:
        epsilon: At least -1; 0 is cross entropy.

    Shapes:
        See `Loss.__call__`.

    Raises:
        ValueError: If epsilon is below -1: the gradient would push a confidently right row away from its
            label.

    Numerics:
        Near epsilon = -1 the two terms cancel for confident rows: the relative error of value and gradient
        grows as 1 / (1 + epsilon).

    Example:
        >>> logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 3.0, 0.0]])
        >>> Poly(epsilon=1.0)(logits, torch.tensor([0, 2]), reduction="none")
        tensor([0.3261, 4.0496])

    Source:
        Leng et al., ICLR 2022, arXiv:2204.12511.
    """

    epsilon: float | Tensor = 1.0

    def __post_init__(self) -> None:
        check_number("epsilon", self.epsilon, -1, hint="0 is cross entropy")

    def per_row(self, row: RowStatistics, /) -> Tensor:
        """Return the loss of one row."""
        odds = row.log_odds()
        return like(self.epsilon, odds) * sigmoid(-odds) - log_sigmoid(odds)


@final
@dataclass(frozen=True)
class Brier(RowLoss):
    r"""Brier score: squared distance between the probabilities and the label.

    With p = softmax(z) and target class y, a row costs

    .. math:: (1 - p_y)^2 + \sum_{k \ne y} p_k^2,

    between 0 and 2. Proper. Bounded, so one wrong label has a bounded effect; but the gradient vanishes for
    confident mistakes, from which training is slow to start.

    Shapes:
        See `Loss.__call__`.

    Numerics:
        Computed as (1 - p_y)^2 (2 - d), with d the Gini impurity of softmax over the wrong classes, which is
        exact also where one wrong class has nearly all of their probability.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 3.0, 0.0]])
        >>> Brier()(logits, torch.tensor([0, 2]), reduction="none")
        tensor([0.0392, 1.7406])

    Source:
        Brier, Monthly Weather Review 78 (1950).
    """

    def per_row(self, row: RowStatistics, /) -> Tensor:
        """Return the loss of one row."""
        miss = sigmoid(-row.log_odds())
        once, twice = (row.logsumexp_gap(scale, exclude_target=True) for scale in (1.0, 2.0))
        return miss**2 * (2 + torch.expm1(twice - 2 * once))


ENTRIES = (
    Entry(
        CrossEntropy,
        source="Szegedy et al. 2016, arXiv:1512.00567",
        proper=lambda loss: loss.label_smoothing == 0,
    ),
    Entry(
        FlooredCrossEntropy,
        source="ChainerRL SoftmaxDistribution(min_prob)",
        proper=lambda loss: loss.floor == 0,
        bounded=lambda loss: loss.floor > 0,
    ),
    Entry(Focal, source="Lin et al. 2017, arXiv:1708.02002", proper=lambda loss: loss.gamma == 0),
    Entry(Poly, source="Leng et al. 2022, arXiv:2204.12511", proper=lambda loss: loss.epsilon == 0),
    Entry(Brier, source="Brier 1950", proper=lambda loss: True, bounded=lambda loss: True),
)
