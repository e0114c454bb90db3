"""Measures that no library here has: what mistakes cost, how small a probability gets, how decided a gate is.

Accuracy, log loss, Brier score and calibration error are in scikit-learn and torchmetrics, not here.
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
    """Mean cost of the predictions, right ones included.

    Args:
        target: True classes.
        predicted: Predicted classes, or decisions of `costs.decide`, `ABSTAIN` (-1) among them.
        costs: What it costs to predict a class when another is true, indexed [true, predicted].
        abstain: What it costs to take no decision; None if every row has one.

    Shapes:
        target (N,) integer; predicted (N,) integer; costs (C, C).

    Raises:
        ValueError: If the shapes do not agree, there is no row, a class is outside [0, C), or a decision is
            `ABSTAIN` without a cost of it.

    Example:
        >>> mean_cost([0, 1, 1], [0, 0, 1], [[0, 1], [6, 0]])
        2.0
        >>> mean_cost([0, 1, 1], [0, -1, 1], [[0, 1], [6, 0]], abstain=0.75)
        0.25
    """
    return float(np.mean(_cost_per_row(target, predicted, costs, abstain)))


def severity(target: ArrayLike, predicted: ArrayLike, costs: ArrayLike) -> float:
    """Mean cost of the mistakes alone; nan when there is none.

    Severity can fall while the expected cost rises: more, milder mistakes. Read it beside `mean_cost`.

    Args:
        target: True classes.
        predicted: Predicted classes; leave out rows without a decision, which are no mistakes.
        costs: What it costs to predict a class when another is true, indexed [true, predicted].

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
    """Smallest probability given to any class in any row: what a floor would have to hold.

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
    """Mean probability given to the true class: how sure the model is of what is so.

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
    r"""Mean share of mistakes among the surest k rows, over all k: how well confidence tells mistakes apart.

    .. math:: \frac{1}{N} \sum_{k=1}^N \frac{\text{mistakes among the } k \text{ surest}}{k}

    It depends on the order of the confidences alone. Rows of equal confidence share their mistakes.

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
    r"""How many choices a row is spread over, on average: 1 when every row has decided, C when none has.

    .. math:: \frac{1}{N} \sum_{i=1}^N \exp\Bigl(-\sum_k p_{ik} \log p_{ik}\Bigr)

    It says nothing about whether the rows decide alike: read `choices_used` beside it.

    Shapes:
        probabilities (N, C).

    Raises:
        ValueError: If probabilities is not (N, C), or a row of it no distribution.

    Example:
        >>> round(effective_choices([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]), 4)
        1.5

    Source:
        The exponential of Shannon's entropy as a number of equally common kinds: Hill, Ecology 1973.
    """
    return float(np.exp(_entropy(_distributions(probabilities))).mean())


def choices_used(probabilities: ArrayLike) -> float:
    r"""How many choices all rows together are spread over: 1 when everything goes to one, C when use is even.

    .. math:: \exp\Bigl(-\sum_k \bar p_k \log \bar p_k\Bigr), \qquad \bar p_k = \frac{1}{N} \sum_i p_{ik}

    Undecided rows count for every choice that they hesitate over. To count only the choice that each row
    would take, give one-hot rows.

    Shapes:
        probabilities (N, C).

    Raises:
        ValueError: If probabilities is not (N, C), or a row of it no distribution.

    Example:
        >>> undecided = np.array([[0.6, 0.4], [0.6, 0.4]])
        >>> round(choices_used(undecided), 4), round(choices_used(np.eye(2)[undecided.argmax(axis=1)]), 4)
        (1.9601, 1.0)

    Source:
        The exponential of Shannon's entropy as a number of equally common kinds: Hill, Ecology 1973.
    """
    return float(np.exp(_entropy(_distributions(probabilities).mean(axis=0))))


def boundary_mass(probabilities: ArrayLike, width: float) -> float:
    r"""Share of the rows that have not decided between their two best choices.

    .. math:: \frac{1}{N} \bigl|\{i : p_{i(1)} - p_{i(2)} \le \text{width}\}\bigr|

    with the largest and the second largest probability of each row. What a network loses when only the best
    choice of each row runs depends on these rows; a row with a wide margin hardly changes.

    Args:
        probabilities: One distribution over the choices per row.
        width: In [0, 1]; the margin up to which a row counts as undecided.

    Shapes:
        probabilities (N, C), C at least 2.

    Raises:
        ValueError: If probabilities is not (N, C), a row of it no distribution, C is 1, or width is outside
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
        raise ValueError("probabilities must have at least 2 choices, got 1; one choice has no rival")
    ordered = np.partition(matrix, (-2, -1), axis=1)
    margin = ordered[:, -1] - ordered[:, -2]
    return float(np.where(np.isnan(margin), np.nan, margin <= width).mean())


def _matrix(probabilities: ArrayLike) -> NDArray[np.floating]:
    """Probabilities as a checked (N, C) array; a row that is not finite is all nan."""
    matrix = np.asarray(probabilities, dtype=np.float64)
    if matrix.ndim != 2 or matrix.size == 0:
        raise ValueError(f"probabilities must be (N, C), got {matrix.shape}; give one row per sample")
    return np.where(np.isfinite(matrix).all(axis=1, keepdims=True), matrix, np.nan)


def _distributions(probabilities: ArrayLike) -> NDArray[np.floating]:
    """Probabilities as a checked (N, C) array whose rows sum to one."""
    matrix = _matrix(probabilities)
    # Half precision may miss a sum of one by its eps for each of many classes; logits miss it by far.
    if (matrix < 0).any() or (np.abs(matrix.sum(axis=1) - 1) > 0.05).any():
        raise ValueError(
            "probabilities must be non-negative and sum to one in every row; "
            "of logits, take the softmax first"
        )
    return matrix


def _entropy(probabilities: NDArray[np.floating]) -> NDArray[np.floating]:
    """Entropy in nats over the last axis; 0 log 0 is 0."""
    used = np.where(probabilities == 0, 1.0, probabilities)
    return -(used * np.log(used)).sum(axis=-1)


def _rows(probabilities: ArrayLike, target: ArrayLike) -> tuple[NDArray[np.floating], NDArray[np.integer]]:
    """Probabilities (N, C) and a target (N,) for them."""
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
            f"predicted must be classes, got {ABSTAIN}, which is no decision; give mean_cost abstain=, "
            "what it costs, or leave these rows out"
        )
    for name, places in (("target", true), ("predicted", guess[decided])):
        outside = places[(places < 0) | (places >= len(matrix))]
        if outside.size:
            raise ValueError(
                f"{name} must be in [0, {len(matrix)}) beside costs of {len(matrix)} classes, got "
                f"{outside[0]}; give the place of each class in the costs"
            )
    if abstain is not None:
        matrix = np.column_stack([matrix, np.full(len(matrix), abstain)])  # -1 points at the last column
    return matrix[true, guess]


naming.answer_names(__name__)
