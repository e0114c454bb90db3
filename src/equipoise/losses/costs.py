"""Losses that know which mistakes are worse. Every matrix is (C, C) and indexed [true class, other class]."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, final

import numpy as np
from torch import Tensor

from equipoise.losses.base import Loss, RowLoss, Sum
from equipoise.losses.options import Constant
from equipoise.losses.table import Entry, Exact
from equipoise.statistics import RowStatistics
from equipoise.statistics.functions import softmax, softplus
from equipoise.targets.matrix import Kind, Matrix, labelled


@final
class ClassMatrix:
    """An immutable (C, C) matrix of numbers, compared and hashed by the numbers.

    It keeps the names of the classes where values have them: a `targets.Matrix`, or a data frame labelled by
    class.

    Args:
        values: Nested sequence, array, data frame or tensor, indexed [true class, other class].
        name: What to call it in an error.

    Raises:
        ValueError: If it is not square or holds something that is not finite.
    """

    def __init__(self, values: Any, name: str) -> None:
        values, self.classes = labelled(values, name)
        try:
            array = np.array(values, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name} must be a (C, C) matrix of numbers, got {values!r}") from error
        if array.ndim != 2 or array.shape[0] != array.shape[1] or not array.size:
            raise ValueError(
                f"{name} must be (C, C), a row per true class and a column per other class, got {array.shape}"
            )
        if not np.isfinite(array).all():
            row, column = np.argwhere(~np.isfinite(array))[0]
            raise ValueError(f"{name} must be finite, got {array[row, column]} at [{row}, {column}]")
        array.setflags(write=False)
        self.array = array
        self._kind: Kind = "similarity" if name == "similarity" else "costs"
        self._digest = hashlib.sha256(array.tobytes()).hexdigest()
        self._constant = Constant(array)

    def __len__(self) -> int:
        return len(self.array)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.array, dtype=dtype, copy=copy)

    @property
    def named(self) -> Matrix:
        """The matrix with the names of its classes."""
        return Matrix(self.array, self._kind, self.classes)

    def fit(self, like: Tensor, classes: int, name: str) -> Tensor:
        """Return the matrix as a tensor that fits the logits, checked against the number of classes."""
        if len(self) != classes:
            raise ValueError(
                f"{name} must have a row and a column for each of {classes} classes, got {self.array.shape}"
            )
        return self._constant.fit(like)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ClassMatrix) and np.array_equal(self.array, other.array)

    def __hash__(self) -> int:
        return hash(self._digest)

    def __repr__(self) -> str:
        values = repr(self.array.tolist())
        return values if self.classes is None else f"Matrix({values}, {self._kind!r}, {list(self.classes)!r})"


def hold(loss: RowLoss, name: str, check: Callable[[np.ndarray], None]) -> None:
    """Turn a field of a frozen loss into a checked matrix."""
    values = getattr(loss, name)
    matrix = values if isinstance(values, ClassMatrix) else ClassMatrix(values, name)
    check(matrix.array)
    object.__setattr__(loss, name, matrix)


def in_order(loss: Loss, classes: Sequence[object]) -> Loss:
    """Return the loss with the matrices that name their classes in the order of these, or the part for them.

    Raises:
        ValueError: If a matrix has no row for one of the classes, or similarities lose a share.
    """
    parts = []
    for coefficient, term in loss.terms():
        held = {key: value.named.part(classes) for key, value in vars(term).items() if _is_named(value)}
        parts.append((coefficient, replace(term, **held) if held else term))  # pyright: ignore[reportArgumentType]
    return Sum(tuple(parts)) if isinstance(loss, Sum) else parts[0][1]


def _is_named(value: object) -> bool:
    return isinstance(value, ClassMatrix) and value.classes is not None


def _check_similarity(array: np.ndarray) -> None:
    if (array < 0).any():
        row, column = np.argwhere(array < 0)[0]
        raise ValueError(f"similarity must not be negative, got {array[row, column]} at [{row}, {column}]")
    sums = array.sum(1)
    worst = int(np.abs(sums - 1).argmax())
    if abs(sums[worst] - 1) > 1e-6:
        turned = np.abs(array.sum(0) - 1).max() <= 1e-6
        way = (
            "its columns do, so it looks transposed: pass similarity.T"
            if turned
            else "divide each row by its sum; a row is the target distribution of that true class"
        )
        raise ValueError(
            f"similarity[true, class] must have rows that sum to 1, got {sums[worst]:.6g} for row {worst}; "
            f"{way}"
        )


def _check_weights(array: np.ndarray) -> None:
    if (array < 0).any():
        row, column = np.argwhere(array < 0)[0]
        raise ValueError(f"weights must not be negative, got {array[row, column]} at [{row}, {column}]")
    if np.diag(array).any():
        row = int(np.diag(array).argmax())
        raise ValueError(
            f"weights[true, wrong] must be 0 on the diagonal, got {array[row, row]} for class {row}; "
            "a class is no rival of its own"
        )


def _check_costs(array: np.ndarray) -> None:
    dear = np.argwhere(np.diag(array)[:, None] > array)
    if dear.size:
        true, wrong = dear[0]
        raise ValueError(
            "costs[true, predicted] must be smallest on the diagonal of each row, got "
            f"{array[true, true]} for getting class {true} right and {array[true, wrong]} for calling it "
            f"{wrong}; if it holds gains, pass its negative"
        )


@final
@dataclass(frozen=True)
class SimilarityCrossEntropy(RowLoss):
    r"""Cross entropy with soft targets that give similar classes a share of the target.

    With p = softmax(z), target class y and a similarity matrix S, a row costs

    .. math:: -\sum_k S_{yk} \log p_k.

    The optimum is not the true probabilities :math:`\eta` but their mixture :math:`S^T \eta`: undo the
    mixture before a decision by cost. It makes mistakes milder, not cheaper: the mean severity of mistakes
    falls while their number, and often the expected cost, rises.

    Args:
        similarity: (C, C), indexed [true class, class]; every row is the target distribution of that true
            class and sums to 1.

    Shapes:
        See `Loss.__call__`.

    Raises:
        ValueError: If similarity is not square, finite and non-negative with rows that sum to 1, or, when
            called, if its size is not the number of classes.

    Numerics:
        A sum of non-negative terms, each exact. A masked class takes no part: its share of the target is left
        out.

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
        hold(self, "similarity", _check_similarity)

    def per_row(self, row: RowStatistics, /) -> Tensor:
        """Return the loss of one row."""
        odds = row.largest
        return -row.expected_log_prob(self.similarity.fit(odds, row.num_classes, "similarity"))


@final
@dataclass(frozen=True)
class PairwiseCrossEntropy(RowLoss):
    r"""A cross entropy of the target against each wrong class, weighted by how bad that confusion is.

    With logits z, target class y and a weight matrix W, a row costs

    .. math:: \sum_{k \ne y} W_{yk} \log\left(1 + e^{z_k - z_y}\right),

    the cross entropy of y against k alone for each wrong class k. A class whose confusion is dear is pushed
    further away.

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
        hold(self, "weights", _check_weights)

    def per_row(self, row: RowStatistics, /) -> Tensor:
        """Return the loss of one row."""
        full = row.full_logits
        weights = self.weights.fit(full.logits, row.num_classes, "weights")
        return (full.rows(weights) * softplus(full.classes - full.target_logit)).sum(-1)


@final
@dataclass(frozen=True)
class ExpectedCost(RowLoss):
    r"""Expected cost of a class drawn from the model's own probabilities.

    With p = softmax(z), target class y and a cost matrix C, a row costs

    .. math:: \sum_k C_{yk}\,p_k.

    Linear in p, so it drives the model towards certainty and its probabilities are no longer estimates; its
    slope vanishes on confident mistakes. Add it to cross entropy, or keep cross entropy and take the decision
    that costs least.

    Args:
        costs: (C, C), indexed [true class, predicted class]; in each row being right costs least.

    Shapes:
        See `Loss.__call__`.

    Raises:
        ValueError: If costs is not square and finite, if being right costs more than some mistake, or, when
            called, if its size is not the number of classes.

    Numerics:
        A sum of probabilities times costs; a masked class adds nothing. The gradient is made of costs less
        that of the likeliest class, so that a nearly certain row keeps its digits.

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
        hold(self, "costs", _check_costs)

    def per_row(self, row: RowStatistics, /) -> Tensor:
        """Return the loss of one row."""
        full = row.full_logits
        costs = self.costs.fit(full.logits, row.num_classes, "costs")
        probs = softmax(full.logits)
        return probs @ costs.T if full.target is None else (full.rows(costs) * probs).sum(1)


def exact_row(matrix: ClassMatrix, e: Exact) -> list[Any]:
    """The target's row over the classes that are not masked."""
    return [e.mp.mpf(float(matrix.array[e.kept[e.y], k])) for k in e.kept]


def ring(size: int, near: float, far: float) -> list[list[float]]:
    """A matrix for tests, unlike its transpose: `near` for the next class and `far` for the others."""
    return [
        [0.0 if i == k else near if (k - i) % size == 1 else far for k in range(size)] for i in range(size)
    ]


def _soft_ring(size: int) -> list[list[float]]:
    return [
        [0.75 if i == k else 0.25 if (k - i) % size == 1 else 0.0 for k in range(size)] for i in range(size)
    ]


TEST_CLASSES = 8  # the settings below have this many classes

ENTRIES = (
    Entry(
        SimilarityCrossEntropy,
        (
            SimilarityCrossEntropy(_soft_ring(TEST_CLASSES)),
            SimilarityCrossEntropy(np.eye(TEST_CLASSES)),
        ),
        definition=lambda loss, e: (
            -e.mp.fsum(s * e.mp.log(p) for s, p in zip(exact_row(loss.similarity, e), e.p, strict=True))
        ),
        source="Bertinetto et al. 2020, arXiv:1912.09393",
        proper=lambda loss: bool(np.array_equal(loss.similarity.array, np.eye(len(loss.similarity)))),
    ),
    Entry(
        PairwiseCrossEntropy,
        (PairwiseCrossEntropy(ring(TEST_CLASSES, 0.5, 3.0)),),
        definition=lambda loss, e: e.mp.fsum(
            w * e.mp.log(1 + p / e.p[e.y]) for w, p in zip(exact_row(loss.weights, e), e.p, strict=True)
        ),
        source="discuss.pytorch.org/t/86622",
    ),
    Entry(
        ExpectedCost,
        (ExpectedCost(ring(TEST_CLASSES, 1.0, 20.0)),),
        definition=lambda loss, e: e.mp.fsum(
            c * p for c, p in zip(exact_row(loss.costs, e), e.p, strict=True)
        ),
        source="Elkan 2001",
        bounded=lambda loss: True,
    ),
)
