"""Penalties on the spread of the probabilities: positive multiples sharpen them, negative ones flatten."""

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from equipoise._checks import refuse_batch
from equipoise.losses.base import BatchLoss, RowLoss
from equipoise.losses.table import Entry
from equipoise.statistics import RowStatistics
from equipoise.statistics.functions import softmax


@final
@dataclass(frozen=True)
class Entropy(RowLoss):
    r"""Entropy of the softmax in nats: a positive multiple sharpens, a negative one flattens.

    With p = softmax(z), a row costs

    .. math:: -\sum_k p_k \log p_k,

    between 0 (one-hot) and log n (uniform). `loss + 0.1 * Entropy()` makes the model choose one class;
    `loss - 0.01 * Entropy()` keeps a policy exploring, or a classifier less confident (the confidence
    penalty). All minima are one-hot. At equal probabilities the gradient is 0, and any small lead of one
    class grows: for a gate, add `Balance`.

    Shapes:
        See `Loss.__call__`; no target is needed.

    Numerics:
        A sum of non-negative terms relative to the largest logit, so exact for nearly certain rows too.

    Example:
        >>> Entropy()(torch.tensor([[0.0, 0.0], [0.0, 4.0]]), reduction="none")
        tensor([0.6931, 0.0901])

    Source:
        To explore: Williams and Peng 1991. As confidence penalty: Pereyra et al. 2017, arXiv:1701.06548.
    """

    def per_row(self, row: RowStatistics, /) -> Tensor:
        """Return the penalty of one row."""
        return row.entropy


@final
@dataclass(frozen=True)
class Gini(RowLoss):
    r"""Gini impurity of the softmax: a positive multiple sharpens, a negative one flattens.

    With p = softmax(z), a row costs

    .. math:: 1 - \sum_k p_k^2,

    between 0 and 1 - 1/n: the probability that two draws differ. Concave in p, so all minima are one-hot.
    Its gradient is smaller than that of `Entropy` for classes that are already unlikely.

    Shapes:
        See `Loss.__call__`; no target is needed.

    Numerics:
        From log-sum-exps relative to the largest logit: exact for nearly certain rows too.

    Example:
        >>> Gini()(torch.tensor([[0.0, 0.0], [0.0, 4.0]]), reduction="none")
        tensor([0.5000, 0.0353])

    Source:
        Breiman et al., Classification and Regression Trees, 1984.
    """

    def per_row(self, row: RowStatistics, /) -> Tensor:
        """Return the penalty of one row."""
        return -torch.expm1(row.logsumexp_gap(2.0) - 2 * row.logsumexp_gap())


@final
@dataclass(frozen=True)
class Decisiveness(RowLoss):
    r"""Sum of q - q^2 over the classes, with q the power of p that is 1/2 at equal probabilities.

    With p = softmax(z) and n classes, a row costs

    .. math:: \sum_k \left(q_k - q_k^2\right), \qquad q_k = p_k^{\log 2 / \log n},

    so q = 1/2, the maximum of q - q^2, at p = 1/n. It is 0 for one-hot p.

    It has spurious minima: from 12 classes on, two classes with probability 1/2 each are a local minimum
    (from 16 on: three with 1/3, from 20 on: four with 1/4), which a model does not leave once the other
    classes are far below. Prefer `Entropy` and `Gini`, which have no such minima.

    Args:
        num_classes: n in the exponent; None for the number of logits, masked ones included. With a fixed
            mask, give the number of allowed classes.

    Shapes:
        See `Loss.__call__`; no target is needed.

    Raises:
        ValueError: If num_classes is below 2.

    Numerics:
        Sums of powers of p are log-sum-exps of scaled logits, so the gradient is finite where p underflows.
        With one class the penalty is 0.

    Example:
        >>> Decisiveness()(torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 9.0]]), reduction="none")
        tensor([0.7500, 0.0070])

    Source:
        discuss.pytorch.org/t/74709.
    """

    num_classes: int | None = None

    def __post_init__(self) -> None:
        refuse_batch("num_classes", self.num_classes)
        if self.num_classes is not None and (not isinstance(self.num_classes, int) or self.num_classes < 2):
            raise ValueError(
                f"num_classes must be an integer of at least 2, got {self.num_classes}; "
                "None counts the logits"
            )

    def per_row(self, row: RowStatistics, /) -> Tensor:
        """Return the penalty of one row."""
        power = _exponent(self.num_classes or row.num_classes)
        base = row.logsumexp_gap()
        # sum of q is exp(once - power * base), sum of q^2 exp(twice - 2 * power * base); once >= twice
        once, twice = row.logsumexp_gap(power), row.logsumexp_gap(2 * power)
        return torch.exp(twice - 2 * power * base) * torch.expm1(once - twice + power * base)


def _exponent(classes: int) -> float:
    return math.log(2) / math.log(classes) if classes > 1 else 1.0


@final
@dataclass(frozen=True)
class Balance(BatchLoss):
    r"""Divergence of the mean probabilities of a batch from the uniform distribution.

    With :math:`\bar p` the mean of p_i = softmax(z_i) over the rows i of a batch, it is

    .. math:: \log n + \sum_k \bar p_k \log \bar p_k,

    between 0 and log n. A gate trained with `Entropy` alone tends to send every row to one section;
    `Entropy() + Balance()` is log n minus the mutual information of row and section.

    Shapes:
        See `Loss.__call__`; no target is needed. The penalty has one value per batch, so reduction "none"
        raises. The mean is weighted by class and sample weights; ignored rows are left out.

    Numerics:
        The absolute error is a few eps; the relative error is unbounded near 0.

    Example:
        >>> even, uneven = torch.tensor([[9.0, 0.0], [0.0, 9.0]]), torch.tensor([[9.0, 0.0], [9.0, 0.0]])
        >>> Balance()(even), Balance()(uneven)
        (tensor(0.), tensor(0.6919))

    Source:
        Bridle et al., NeurIPS 1991 ("Unsupervised classifiers, mutual information and phantom targets").
    """

    def of_batch(self, logits: Tensor, share: Tensor, /) -> Tensor:
        """Return the penalty of logits (N, C) with row weights `shares` (N,), which sum to one."""
        mean = (share[:, None] * softmax(logits)).sum(0)
        used = torch.where(mean > 0, mean, 1.0)  # log 0 is infinite, but the gradient of p is 0
        return (mean * used.log()).sum() + math.log(logits.shape[1])


ENTRIES = (
    Entry(
        Entropy, source="Pereyra et al. 2017, arXiv:1701.06548", bounded=lambda loss: True, reads_target=False
    ),
    Entry(Gini, source="Breiman et al. 1984", bounded=lambda loss: True, reads_target=False),
    Entry(Decisiveness, source="discuss.pytorch.org/t/74709", bounded=lambda loss: True, reads_target=False),
    Entry(Balance, source="Bridle et al. 1991", bounded=lambda loss: True, reads_target=False),
)
