"""Metrics of costs, of the smallest probability, and of how decided a gate is.

For accuracy, log loss, Brier score and calibration error use scikit-learn or torchmetrics.
Every matrix of costs is indexed [true, predicted]. A row of probabilities with a nan makes the result nan.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from equipoise import naming
from equipoise.costs.decisions import ABSTAIN
from equipoise.costs.matrix import cost_array

__all__ = [
    "area_under_risk_coverage",
    "boundary_mass",
    "choices_used",
    "effective_choices",
    "mean_cost",
    "mean_target_probability",
    "severity",
    "smallest_probability",
]


def mean_cost(
    target: ArrayLike, predicted: ArrayLike, costs: ArrayLike, *, abstain: float | None = None
) -> float:
    """Mean cost of the predictions, including the correct ones.

    Args:
        target: True classes.
        predicted: Predicted classes, or decisions of `costs.decide`, including `ABSTAIN` (-1).
        costs: Costs, indexed [true, predicted].
        abstain: Cost of no decision; None if every row has one.

    Shapes:
        target (N,) integer; predicted (N,) integer; costs (C, C).

    Raises:
        ValueError: If the shapes do not match, there is no row, a class is outside [0, C), or a decision is
            `ABSTAIN` and abstain is None.

    Example:
        >>> mean_cost([0, 1, 1], [0, 0, 1], [[0, 1], [6, 0]])
        2.0
        >>> mean_cost([0, 1, 1], [0, -1, 1], [[0, 1], [6, 0]], abstain=0.75)
        0.25
    """
    return float(np.mean(_cost_per_row(target, predicted, costs, abstain)))


def severity(target: ArrayLike, predicted: ArrayLike, costs: ArrayLike) -> float:
    """Mean cost of the mistakes only; nan without mistakes.

    Severity can fall while the mean cost rises, if there are more but milder mistakes: report `mean_cost`
        too.

    Args:
        target: True classes.
        predicted: Predicted classes; leave out rows without a decision.
        costs: Costs, indexed [true, predicted].

    Shapes:
        target (N,) integer; predicted (N,) integer; costs (C, C).

    Raises:
        ValueError: If the shapes do not agree, there is no row, or a class is outside [0, C).

    Example:
        >>> severity([0, 1, 1], [0, 0, 1], [[0, 1], [6, 0]])
        6.0
    """
    per_row = _cost_per_row(target, predicted, costs)
    wrong = np.asarray(target) != np.asarray(predicted)
    return float(per_row[wrong].mean()) if wrong.any() else float("nan")


def smallest_probability(probabilities: ArrayLike) -> float:
    """Smallest probability of any class in any row.

    Shapes:
        probabilities (N, C).

    Raises:
        ValueError: If probabilities is not (N, C).

    Example:
        >>> smallest_probability([[0.7, 0.3], [0.99, 0.01]])
        0.01
    """
    return float(_matrix(probabilities).min())


def mean_target_probability(probabilities: ArrayLike, target: ArrayLike) -> float:
    """Mean probability of the true class.

    Shapes:
        probabilities (N, C); target (N,) integer.

    Raises:
        ValueError: If the shapes do not agree.

    Example:
        >>> mean_target_probability([[0.75, 0.25], [0.5, 0.5]], [0, 1])
        0.625
    """
    matrix, labels = _rows(probabilities, target)
    return float(matrix[np.arange(len(matrix)), labels].mean())


def area_under_risk_coverage(probabilities: ArrayLike, target: ArrayLike) -> float:
    r"""Error rate among the k most confident rows, averaged over all k.

    .. math:: \frac{1}{N} \sum_{k=1}^N \frac{\text{mistakes among the } k \text{ surest}}{k}

    It depends on the order of the confidences only. Rows of equal confidence share their mistakes evenly.

    Shapes:
        probabilities (N, C); target (N,) integer.

    Raises:
        ValueError: If the shapes do not agree.

    Example:
        >>> area_under_risk_coverage([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], [0, 1, 1])
        0.1111111111111111

    Source:
        Geifman and El-Yaniv, NeurIPS 2017.
    """
    matrix, labels = _rows(probabilities, target)
    if np.isnan(matrix).any():
        return float("nan")
    _, place, size = np.unique(-matrix.max(axis=1), return_inverse=True, return_counts=True)
    mistakes = np.bincount(place, weights=matrix.argmax(axis=1) != labels)
    shared = np.repeat(mistakes / size, size)
    return float((shared.cumsum() / np.arange(1, len(shared) + 1)).mean())


def effective_choices(probabilities: ArrayLike) -> float:
    r"""Mean exponential of the entropy of a row: 1 for one-hot rows, C for uniform ones.

    .. math:: \frac{1}{N} \sum_{i=1}^N \exp\Bigl(-\sum_k p_{ik} \log p_{ik}\Bigr)

    It is 1 whether one-hot rows choose the same class or different ones; `choices_used` distinguishes these.

    Shapes:
        probabilities (N, C).

    Raises:
        ValueError: If probabilities is not (N, C), or a row of it no distribution.

    Example:
        >>> round(effective_choices([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]), 4)
        1.5

    Source:
        Hill, Ecology 1973: the exponential of the entropy as an effective number of species.
    """
    return float(np.exp(_entropy(_distributions(probabilities))).mean())


def choices_used(probabilities: ArrayLike) -> float:
    r"""Exponential of the entropy of the mean row: 1 if all rows choose the same class, C if use is even.

    .. math:: \exp\Bigl(-\sum_k \bar p_k \log \bar p_k\Bigr), \qquad \bar p_k = \frac{1}{N} \sum_i p_{ik}

    An undecided row adds to several classes. To count only the likeliest class of each row, pass one-hot
    rows.

    Shapes:
        probabilities (N, C).

    Raises:
        ValueError: If probabilities is not (N, C), or a row of it no distribution.

    Example:
        >>> undecided = np.array([[0.6, 0.4], [0.6, 0.4]])
        >>> round(choices_used(undecided), 4), round(choices_used(np.eye(2)[undecided.argmax(axis=1)]), 4)
        (1.9601, 1.0)

    Source:
        Hill, Ecology 1973: the exponential of the entropy as an effective number of species.
    """
    return float(np.exp(_entropy(_distributions(probabilities).mean(axis=0))))


def boundary_mass(probabilities: ArrayLike, width: float) -> float:
    r"""Fraction of the rows whose two largest probabilities differ by at most a width.

    .. math:: \frac{1}{N} \bigl|\{i : p_{i(1)} - p_{i(2)} \le \text{width}\}\bigr|

    with :math:`p_{i(1)}` and :math:`p_{i(2)}` the two largest probabilities of row i. If a network runs only
    the likeliest section of each row, the outputs of these rows change most.

    Args:
        probabilities: One distribution over the choices per row.
        width: In [0, 1]; the margin up to which a row counts as undecided.

    Shapes:
        probabilities (N, C), C at least 2.

    Raises:
        ValueError: If probabilities is not (N, C), a row does not sum to one, C is 1, or width is outside
            [0, 1].

    Example:
        >>> boundary_mass([[0.5, 0.25, 0.25], [0.125, 0.0, 0.875]], width=0.5)
        0.5

    Source:
        arXiv:2605.02124.
    """
    matrix = _distributions(probabilities)
    if not 0 <= width <= 1:
        raise ValueError(f"width must be in [0, 1], got {width}; it is a difference of two probabilities")
    if matrix.shape[1] < 2:
        raise ValueError("probabilities must have at least 2 choices, got 1; a margin needs two")
    ordered = np.partition(matrix, (-2, -1), axis=1)
    margin = ordered[:, -1] - ordered[:, -2]
    return float(np.where(np.isnan(margin), np.nan, margin <= width).mean())


def _matrix(probabilities: ArrayLike) -> NDArray[np.floating]:
    """Return probabilities as a checked (N, C) array; rows that are not finite become nan."""
    matrix = np.asarray(probabilities, dtype=np.float64)
    if matrix.ndim != 2 or matrix.size == 0:
        raise ValueError(f"probabilities must be (N, C), got {matrix.shape}; give one row per sample")
    return np.where(np.isfinite(matrix).all(axis=1, keepdims=True), matrix, np.nan)


def _distributions(probabilities: ArrayLike) -> NDArray[np.floating]:
    """Return probabilities as an (N, C) array; raise unless its rows sum to one."""
    matrix = _matrix(probabilities)
    # In half precision a sum of many probabilities may be off by C eps; logits are off by far more.
    wrong = (matrix < 0).any(axis=1) | (np.abs(matrix.sum(axis=1) - 1) > 0.05)
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            f"probabilities must be non-negative and sum to one in every row, got row {row} with minimum "
            f"{matrix[row].min():g} and sum {matrix[row].sum():g}; of logits, take the softmax first"
        )
    return matrix


def _entropy(probabilities: NDArray[np.floating]) -> NDArray[np.floating]:
    """Entropy in nats over the last axis; 0 log 0 is 0."""
    used = np.where(probabilities == 0, 1.0, probabilities)
    return -(used * np.log(used)).sum(axis=-1)


def _rows(probabilities: ArrayLike, target: ArrayLike) -> tuple[NDArray[np.floating], NDArray[np.integer]]:
    """Return checked probabilities (N, C) and targets (N,)."""
    matrix, labels = _matrix(probabilities), np.asarray(target)
    if labels.shape != matrix.shape[:1]:
        raise ValueError(
            f"target must be ({len(matrix)},) beside probabilities {matrix.shape}, got {labels.shape}; "
            "give one class per row"
        )
    return matrix, labels


def _cost_per_row(
    target: ArrayLike, predicted: ArrayLike, costs: ArrayLike, abstain: float | None = None
) -> NDArray[np.floating]:
    """Cost of each row's prediction, (N,)."""
    true, guess, matrix = np.asarray(target), np.asarray(predicted), cost_array(costs)
    if true.ndim != 1 or true.shape != guess.shape or true.size == 0:
        raise ValueError(
            f"target and predicted must be (N,) and (N,), got {true.shape} and {guess.shape}; "
            "give one class per row, for example probabilities.argmax(axis=1)"
        )
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"costs must be (C, C) indexed [true, predicted], got {matrix.shape}")
    decided = guess != ABSTAIN
    if abstain is None and not decided.all():
        raise ValueError(
            f"predicted must be classes, got {ABSTAIN}, which is no decision; give mean_cost the cost of no "
            "decision as abstain=, or leave these rows out"
        )
    for name, places in (("target", true), ("predicted", guess[decided])):
        outside = places[(places < 0) | (places >= len(matrix))]
        if outside.size:
            raise ValueError(
                f"{name} must be in [0, {len(matrix)}) beside costs of {len(matrix)} classes, got "
                f"{outside[0]}; give the index of each class in the costs"
            )
    if abstain is not None:
        matrix = np.column_stack([matrix, np.full(len(matrix), abstain)])  # -1 indexes the last column
    return matrix[true, guess]


naming.answer_names(__name__)
