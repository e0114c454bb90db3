"""Losses with a cost, weight or similarity per pair of classes: (C, C), indexed [true class, other class]."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, final

import numpy as np
from torch import Tensor

from equipoise.costs.matrix import ClassMatrix, Kind
from equipoise.losses.base import Loss, RowLoss, Sum
from equipoise.losses.table import Entry
from equipoise.statistics import RowStatistics
from equipoise.statistics.functions import log_sigmoid, softmax, softplus


def _hold(loss: RowLoss, kind: Kind) -> ClassMatrix:
    """Replace the matrix field of a frozen loss, named after the kind of matrix, by a checked matrix."""
    matrix = ClassMatrix.of(getattr(loss, kind), kind)
    object.__setattr__(loss, kind, matrix)
    return matrix


def in_order(loss: Loss, classes: Sequence[object]) -> Loss:
    """Return the loss with labelled matrices reordered to these classes, and restricted to them.

    Raises:
        ValueError: If a matrix has no row for one of the classes, or a row of similarities no longer sums to
            1.
    """
    parts = []
    for coefficient, term in loss.terms():
        held = {key: value.part(classes) for key, value in vars(term).items() if _is_named(value)}
        parts.append((coefficient, replace(term, **held) if held else term))  # pyright: ignore[reportArgumentType]
    return Sum(tuple(parts)) if isinstance(loss, Sum) else parts[0][1]


def _is_named(value: object) -> bool:
    return isinstance(value, ClassMatrix) and value.is_named


@final
@dataclass(frozen=True)
class SimilarityCrossEntropy(RowLoss):
    r"""Cross entropy with soft targets that give similar classes a share of the target.

    With p = softmax(z), target class y and a similarity matrix S, a row costs

    .. math:: -\sum_k S_{yk} \log p_k.

    The optimum is not the true probabilities :math:`\eta` but :math:`S^T \eta`: invert this mixture before a
    decision by cost. The mean severity of the mistakes falls, while their number, and often the expected
    cost, rises.

    Args:
        similarity: (C, C), indexed [true class, class]; every row is the target distribution of that true
            class and sums to 1.

    Shapes:
        See `Loss.__call__`.

    Raises:
        ValueError: If similarity is not square, finite and non-negative with rows that sum to 1, or, when
            called, if its size is not the number of classes.

    Numerics:
        A sum of non-negative terms, each exact. The terms of masked classes are left out.

    Example:
        >>> animals = [[0.8, 0.2, 0, 0], [0.3, 0.7, 0, 0], [0, 0, 0.9, 0.1], [0, 0, 0.1, 0.9]]
        >>> loss = SimilarityCrossEntropy(animals)  # horse, zebra, whale, shark
        >>> taken_for_zebra = torch.tensor([[0.0, 4.0, 0.0, 0.0]])
        >>> taken_for_whale = torch.tensor([[0.0, 0.0, 4.0, 0.0]])
        >>> horse = torch.tensor([0])
        >>> loss(taken_for_zebra, horse), loss(taken_for_whale, horse)
        (tensor(3.2535), tensor(4.0535))

    Source:
        Bertinetto et al., CVPR 2020, arXiv:1912.09393, for targets from a hierarchy.
    """

    similarity: ClassMatrix = field()

    def __init__(self, similarity: Any) -> None:
        object.__setattr__(self, "similarity", similarity)
        _hold(self, "similarity")

    def per_row(self, row: RowStatistics, /) -> Tensor:
        """Return the loss of one row."""
        odds = row.largest
        return -row.expected_log_prob(self.similarity.fit(odds, row.num_classes))


@final
@dataclass(frozen=True)
class PairwiseCrossEntropy(RowLoss):
    r"""Weighted sum of the binary cross entropies of the target against each wrong class.

    With logits z, target class y and a weight matrix W, a row costs

    .. math:: \sum_{k \ne y} W_{yk} \log\left(1 + e^{z_k - z_y}\right),

    where the k-th term is the cross entropy of y against k alone. The larger the weight of a confusion, the
    further the loss pushes that class's logit below the target's.

    Args:
        weights: (C, C), indexed [true class, wrong class]; non-negative, 0 on the diagonal.

    Shapes:
        See `Loss.__call__`. With target probabilities it needs (N, C, C) numbers.

    Raises:
        ValueError: If weights is not square, finite and non-negative with a zero diagonal, or, when called,
            if its size is not the number of classes.

    Numerics:
        A sum of non-negative terms, each exact; a masked class adds nothing.

    Example:
        >>> loss = PairwiseCrossEntropy([[0, 1, 20], [1, 0, 1], [1, 1, 0]])
        >>> cheap, dear = torch.tensor([[0.0, 2.0, 0.0]]), torch.tensor([[0.0, 0.0, 2.0]])
        >>> loss(cheap, torch.tensor([0])), loss(dear, torch.tensor([0]))
        (tensor(15.9899), tensor(43.2317))

    Source:
        The second idea in the discussion "Bespoke cross entropy loss", discuss.pytorch.org/t/86622, made
        precise.
    """

    weights: ClassMatrix = field()

    def __init__(self, weights: Any) -> None:
        object.__setattr__(self, "weights", weights)
        _hold(self, "weights")

    def per_row(self, row: RowStatistics, /) -> Tensor:
        """Return the loss of one row."""
        full = row.full_logits
        weights = self.weights.fit(full.logits, row.num_classes)
        return (full.rows(weights) * softplus(full.classes - full.target_logit)).sum(-1)


@final
@dataclass(frozen=True)
class ExpectedCost(RowLoss):
    r"""Expected cost of a class drawn from the model's own probabilities.

    With p = softmax(z), target class y and a cost matrix C, a row costs

    .. math:: \sum_k C_{yk}\,p_k.

    Linear in p, so the model becomes certain and its probabilities are no longer estimates; the gradient
    vanishes on confident mistakes. Add it to cross entropy, or train with cross entropy and predict the class
    of least expected cost (`costs.decide`).

    Args:
        costs: (C, C), indexed [true class, predicted class]; the diagonal is the minimum of its row.

    Shapes:
        See `Loss.__call__`.

    Raises:
        ValueError: If costs is not square and finite, if a correct prediction costs more than some mistake,
            or, when called, if its size is not the number of classes.

    Numerics:
        A sum of probabilities times costs; a masked class adds nothing. The gradient uses the costs minus the
        cost of the likeliest class, so that it is exact for nearly certain rows.

    Example:
        >>> loss = ExpectedCost([[0, 1, 20], [1, 0, 1], [1, 1, 0]])
        >>> cheap, dear = torch.tensor([[0.0, 2.0, 0.0]]), torch.tensor([[0.0, 0.0, 2.0]])
        >>> loss(cheap, torch.tensor([0])), loss(dear, torch.tensor([0]))
        (tensor(2.9171), tensor(15.8462))

    Source:
        Elkan, IJCAI 2001, for costs; as a loss it is the 1-Wasserstein distance to the label for a metric
        cost.
    """

    costs: ClassMatrix = field()

    def __init__(self, costs: Any) -> None:
        object.__setattr__(self, "costs", costs)
        _hold(self, "costs")

    def per_row(self, row: RowStatistics, /) -> Tensor:
        """Return the loss of one row."""
        full = row.full_logits
        costs = self.costs.fit(full.logits, row.num_classes)
        probs = softmax(full.logits)
        return probs @ costs.T if full.target is None else (full.rows(costs) * probs).sum(1)


@final
@dataclass(frozen=True)
class SoftmaxMargin(RowLoss):
    r"""Cross entropy with a margin over each wrong class equal to the cost of that mistake.

    With logits z, target class y and a cost matrix C that is 0 on the diagonal, a row costs

    .. math:: \log \sum_k e^{z_k + C_{yk}} - z_y.

    It is an upper bound of the cost of the likeliest class, and cross entropy if all costs are 0. The
    probabilities of the trained model are not estimates: the optimum shifts each logit by a cost. Predict the
    likeliest class. Scale the costs to a few units; a margin of 20 is hard to reach.

    Args:
        costs: (C, C), indexed [true class, predicted class]; non-negative, 0 on the diagonal.

    Shapes:
        See `Loss.__call__`. With target probabilities it needs (N, C, C) numbers.

    Raises:
        ValueError: If costs is not square, finite and non-negative with a zero diagonal, or, when called, if
            its size is not the number of classes.

    Numerics:
        Cross entropy of the logits plus the target's row of the costs, so it is exact for rows that are
        confidently right. A masked class adds nothing.

    Example:
        >>> loss = SoftmaxMargin([[0, 1, 5], [1, 0, 1], [1, 1, 0]])
        >>> cheap, dear = torch.tensor([[0.0, 2.0, 0.0]]), torch.tensor([[0.0, 0.0, 2.0]])
        >>> loss(cheap, torch.tensor([0])), loss(dear, torch.tensor([0]))
        (tensor(5.1328), tensor(7.0034))

    Source:
        Gimpel and Smith, NAACL 2010.
    """

    costs: ClassMatrix = field()

    def __init__(self, costs: Any) -> None:
        object.__setattr__(self, "costs", costs)
        _hold(self, "costs").require_zero_diagonal()

    def per_row(self, row: RowStatistics, /) -> Tensor:
        """Return the loss of one row."""
        shifted = row.plus(lambda logits: self.costs.fit(logits, row.num_classes))
        return -log_sigmoid(shifted.log_odds())


ENTRIES = (
    Entry(
        SimilarityCrossEntropy,
        source="Bertinetto et al. 2020, arXiv:1912.09393",
        proper=lambda loss: bool(np.array_equal(loss.similarity.array, np.eye(len(loss.similarity)))),
    ),
    Entry(PairwiseCrossEntropy, source="discuss.pytorch.org/t/86622"),
    Entry(ExpectedCost, source="Elkan 2001", bounded=lambda loss: True),
    Entry(SoftmaxMargin, source="Gimpel and Smith 2010"),
)
