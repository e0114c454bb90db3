"""Measures that no library here has: what mistakes cost, how bad they are, how small a probability gets.

Accuracy, log loss, Brier score and calibration error are in scikit-learn and torchmetrics, not here.
Every matrix of costs is indexed [true, predicted].
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "area_under_risk_coverage",
    "expected_cost",
    "mean_target_probability",
    "severity",
    "smallest_probability",
]


def expected_cost(target: ArrayLike, predicted: ArrayLike, costs: ArrayLike) -> float:
    """Mean cost of the predictions, right ones included.

    Args:
        target: True classes.
        predicted: Predicted classes.
        costs: What it costs to predict a class when another is true, indexed [true, predicted].

    Shapes:
        target (N,) integer; predicted (N,) integer; costs (C, C).

    Raises:
        ValueError: If the shapes do not agree or there is no row.

    Example:
        >>> expected_cost([0, 1, 1], [0, 0, 1], [[0, 1], [6, 0]])
        2.0
    """
    return float(np.mean(_cost_per_row(target, predicted, costs)))


def severity(target: ArrayLike, predicted: ArrayLike, costs: ArrayLike) -> float:
    """Mean cost of the mistakes alone; nan when there is none.

    Severity can fall while the expected cost rises: more, milder mistakes. Read it beside `expected_cost`.

    Args:
        target: True classes.
        predicted: Predicted classes.
        costs: What it costs to predict a class when another is true, indexed [true, predicted].

    Shapes:
        target (N,) integer; predicted (N,) integer; costs (C, C).

    Raises:
        ValueError: If the shapes do not agree or there is no row.

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
    _, place, size = np.unique(-matrix.max(axis=1), return_inverse=True, return_counts=True)
    mistakes = np.bincount(place, weights=matrix.argmax(axis=1) != labels)
    shared = np.repeat(mistakes / size, size)
    return float((shared.cumsum() / np.arange(1, len(shared) + 1)).mean())


def _matrix(probabilities: ArrayLike) -> NDArray[np.floating]:
    """Probabilities as a checked (N, C) array."""
    matrix = np.asarray(probabilities, dtype=np.float64)
    if matrix.ndim != 2 or matrix.size == 0:
        raise ValueError(f"probabilities must be (N, C), got {matrix.shape}; give one row per sample")
    return matrix


def _rows(probabilities: ArrayLike, target: ArrayLike) -> tuple[NDArray[np.floating], NDArray[np.integer]]:
    """Probabilities (N, C) and a target (N,) for them."""
    matrix, labels = _matrix(probabilities), np.asarray(target)
    if labels.shape != matrix.shape[:1]:
        raise ValueError(
            f"target must be ({len(matrix)},) beside probabilities {matrix.shape}, got {labels.shape}; "
            "give one class per row"
        )
    return matrix, labels


def _cost_per_row(target: ArrayLike, predicted: ArrayLike, costs: ArrayLike) -> NDArray[np.floating]:
    """Cost of each row's prediction, (N,)."""
    true, guess, matrix = np.asarray(target), np.asarray(predicted), np.asarray(costs, dtype=np.float64)
    if true.ndim != 1 or true.shape != guess.shape or true.size == 0:
        raise ValueError(
            f"target and predicted must be (N,) and (N,), got {true.shape} and {guess.shape}; "
            "give one class per row, for example probabilities.argmax(axis=1)"
        )
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"costs must be (C, C) indexed [true, predicted], got {matrix.shape}")
    return matrix[true, guess]
