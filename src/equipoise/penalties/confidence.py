"""Penalties on how spread the probabilities are: they make a model choose, or keep it exploring."""

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
    r"""Entropy of the softmax in nats: a positive multiple decides, a negative one explores.

    With p = softmax(z), a row costs

    .. math:: -\sum_k p_k \log p_k,

    between 0 (one class has everything) and log n (all alike). `loss + 0.1 * Entropy()` makes the model
    choose; `loss - 0.01 * Entropy()` keeps it exploring, or less sure of its labels (the confidence penalty).
    Its only minima are one-hot, but at exactly equal probabilities its slope is 0, and which class then wins
    feeds on itself: with a gate, add `Balance`.

    Shapes:
        See `Loss.__call__`; no target is needed.

    Numerics:
        A sum of non-negative terms relative to the largest logit: exact for nearly certain rows too.

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
    r"""Gini impurity of the softmax: a positive multiple decides, a negative one explores.

    With p = softmax(z), a row costs

    .. math:: 1 - \sum_k p_k^2,

    between 0 and 1 - 1/n: the chance that two draws differ. Concave in p, so its only minima are one-hot.
    Compared with `Entropy` it pulls less at classes that are already small.

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
    r"""The penalty q - q^2 summed over classes, with q a power of p that puts equal probabilities at its top.

    With p = softmax(z) and n classes, a row costs

    .. math:: \sum_k \left(q_k - q_k^2\right), \qquad q_k = p_k^{\log 2 / \log n},

    so that q = 1/2, the top of q - q^2, at p = 1/n. It is 0 where one class has everything.

    It has spurious minima: from 12 classes on, two rivals with half of the probability each sit in a local
    minimum (16 and more: three, 20 and more: four), and a model that reaches one with the other classes far
    below stays there. `Entropy` and `Gini` have no such minima; prefer them unless you need this one.

    Args:
        num_classes: n in the exponent; None takes the number of logits, masked ones included. Give it when a
        fixed mask leaves
            fewer.

    Shapes:
        See `Loss.__call__`; no target is needed.

    Raises:
        ValueError: If num_classes is below 2.

    Numerics:
        Powers of p are log-sum-exps at a scale, so the slope stays finite where p underflows. With one class
        it is 0.

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
    r"""How unevenly a batch uses the classes: 0 when, on average over its rows, all are used alike.

    With p_i = softmax(z_i) and the mean p over the rows of a batch, it is

    .. math:: \log n + \sum_k \bar p_k \log \bar p_k,

    between 0 and log n: the divergence of the mean from even use. A gate that is made decisive tends to send
    everything to one section; `Entropy() + Balance()` together are log n minus the mutual information of row
    and section.

    Shapes:
        See `Loss.__call__`; no target is needed. It looks at the batch as a whole, so reduction "none" is an
        error. With class weights the rows weigh accordingly; ignored rows are left out.

    Numerics:
        Absolute error of a few eps; near 0 it has no relative digits.

    Example:
        >>> even, uneven = torch.tensor([[9.0, 0.0], [0.0, 9.0]]), torch.tensor([[9.0, 0.0], [9.0, 0.0]])
        >>> Balance()(even), Balance()(uneven)
        (tensor(0.), tensor(0.6919))

    Source:
        Bridle et al., NeurIPS 1991 ("Unsupervised classifiers, mutual information and phantom targets").
    """

    def of_batch(self, logits: Tensor, share: Tensor, /) -> Tensor:
        """Return the penalty of logits (N, C) whose rows have the given shares (N,) of the batch."""
        mean = (share[:, None] * softmax(logits)).sum(0)
        used = torch.where(mean > 0, mean, 1.0)  # the slope of 0 log 0 is infinite, but nothing can change it
        return (mean * used.log()).sum() + math.log(logits.shape[1])


ENTRIES = (
    Entry(
        Entropy, source="Pereyra et al. 2017, arXiv:1701.06548", bounded=lambda loss: True, reads_target=False
    ),
    Entry(Gini, source="Breiman et al. 1984", bounded=lambda loss: True, reads_target=False),
    Entry(Decisiveness, source="discuss.pytorch.org/t/74709", bounded=lambda loss: True, reads_target=False),
    Entry(Balance, source="Bridle et al. 1991", bounded=lambda loss: True, reads_target=False),
)
