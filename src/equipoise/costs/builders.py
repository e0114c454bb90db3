"""Class matrices from groups, class vectors, a confusion matrix, or the order of the classes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from equipoise.costs.matrix import ClassMatrix, Kind, check_names

Groups = str | Sequence[Sequence[object]]


def from_groups(
    groups: Groups,
    kind: Kind = "similarity",
    *,
    within: float | None = None,
    between: float | None = None,
    classes: Sequence[object] | None = None,
) -> ClassMatrix:
    """Return a matrix from groups of similar classes.

    A row of a similarity spreads the probability `within` evenly over the other classes of the group,
    `between` evenly over the classes of other groups, and has the rest on the diagonal. As costs, a mistake
    within a group costs `within`, one between groups `between`.

    Args:
        groups: "horse, zebra | whale, shark", or a sequence of sequences of names.
        kind: "similarity" or "costs".
        within: Probability, 0.3 by default, or cost, 1 by default.
        between: Probability, 0 by default, or cost, 2 by default.
        classes: Order of the classes, such as the `classes_` of scikit-learn, which are sorted; None for the
            order in which the groups name them.

    Raises:
        ValueError: If a group is empty, a name comes twice, the shares are negative or sum to more than 1, a
            cost is negative, or classes are not those of the groups.

    Numerics:
        For a class alone in its group `within` is added to the diagonal; so is `between` if there is one
        group only.

    Example:
        >>> print(from_groups("horse, zebra | whale, shark", within=0.2))
        similarity[true, class]
                horse  zebra  whale  shark
        horse     0.8    0.2      0      0
        zebra     0.2    0.8      0      0
        whale       0      0    0.8    0.2
        shark       0      0    0.2    0.8

    Source:
        discuss.pytorch.org/t/86622, "Bespoke cross entropy loss".
    """
    members = split_groups(groups)
    names = check_names([name for group in members for name in group])
    place = np.repeat(np.arange(len(members)), [len(group) for group in members])
    same, own = place[:, None] == place, np.eye(len(names))
    if kind != "similarity":
        within, between = (1.0 if within is None else within), (2.0 if between is None else between)
        for name, value in (("within", within), ("between", between)):
            if not value >= 0:
                raise ValueError(
                    f"{name} must be a cost of 0 or more, got {value}; a correct prediction costs 0"
                )
        return _in_order(ClassMatrix(np.where(same, within, between) * (1 - own), names, kind=kind), classes)
    within, between = (0.3 if within is None else within), (0.0 if between is None else between)
    if not (within >= 0 and between >= 0 and within + between <= 1):
        raise ValueError(
            f"within and between must be shares that sum to at most 1, got {within} and {between}; "
            "a class keeps the rest"
        )
    inside, outside = same.sum(1) - 1, (~same).sum(1)
    array = np.where(
        same, (within / np.maximum(inside, 1))[:, None], (between / np.maximum(outside, 1))[:, None]
    )
    array = array * (1 - own)
    return _in_order(ClassMatrix(array + np.diag(1 - array.sum(1)), names, kind=kind), classes)


def _in_order(matrix: ClassMatrix, classes: Sequence[object] | None) -> ClassMatrix:
    return matrix if classes is None else matrix.ordered(classes)


def split_groups(groups: Groups) -> list[list[str]]:
    """Return the groups as lists of names."""
    if isinstance(groups, str):
        groups = [group.split(",") for group in groups.split("|")]
    members = [[str(name).strip() for name in group] for group in groups]
    if not members or any(not name for group in members for name in group) or not all(members):
        raise ValueError(
            f"groups must hold names, got {groups!r}; write for example 'horse, zebra | whale, shark'"
        )
    return members


def from_embeddings(
    vectors: Mapping[Any, Any] | Any,
    temperature: float = 0.1,
    *,
    kind: Kind = "similarity",
    classes: Sequence[object] | None = None,
) -> ClassMatrix:
    r"""Return a matrix from a vector per class, such as the embedding of its name or its mean feature.

    .. math:: S_{yk} = \frac{e^{\cos(v_y, v_k) / T}}{\sum_j e^{\cos(v_y, v_j) / T}}, \qquad
       C_{yk} = 1 - \cos(v_y, v_k)

    Args:
        vectors: From class name to vector, or an array (C, D).
        temperature: T above 0; the lower T, the larger the diagonal. Not used for costs.
        kind: "similarity" or "costs".
        classes: Names of the rows of an array, None for numbers; or order of the names of a mapping.

    Raises:
        ValueError: If vectors are not (C, D), finite and non-zero, or temperature is not above 0.

    Example:
        >>> vectors = {"horse": [1.0, 0.1], "zebra": [1.0, 0.2], "whale": [0.0, 1.0]}
        >>> print(from_embeddings(vectors, kind="costs"))
        costs[true, predicted]
                  horse     zebra   whale
        horse         0  0.004771  0.9005
        zebra  0.004771         0  0.8039
        whale    0.9005    0.8039       0

    Source:
        Frome et al., NeurIPS 2013 (DeViSE), who measure mistakes by class vectors.
    """
    if isinstance(vectors, Mapping):
        named = from_embeddings(list(vectors.values()), temperature, kind=kind, classes=list(vectors))
        return _in_order(named, classes)
    array = _array(vectors)
    if array.ndim != 2 or not array.size:
        raise ValueError(f"vectors must be (C, D), got {array.shape}; give one vector per class")
    lengths = np.linalg.norm(array, axis=1)
    if not (np.isfinite(lengths).all() and lengths.all()):
        bad = int(np.flatnonzero(~np.isfinite(lengths) | (lengths == 0))[0])
        raise ValueError(
            f"vectors must be finite and not zero, got {array[bad].tolist()} for class {bad}; leave it out"
        )
    unit = array / lengths[:, None]
    # |u - v|^2 / 2 is 1 - cos(u, v), without cancellation for nearly equal vectors
    apart = ((unit[:, None] - unit) ** 2).sum(-1) / 2
    if kind != "similarity":
        return ClassMatrix(apart, classes, kind=kind)
    if not 0 < temperature < np.inf:
        raise ValueError(f"temperature must be finite and above 0, got {temperature}; 0.1 is a usual value")
    return ClassMatrix(softmax(-apart / temperature), classes, kind=kind)


def from_confusion(
    target: Any, predicted: Any, *, smoothing: float = 1.0, classes: Sequence[object] | None = None
) -> ClassMatrix:
    r"""Return the similarity given by a confusion matrix, its rows normalised.

    .. math:: S_{yk} = \frac{s + \sum_{i: y_i = y} q_{ik}}{C s + n_y}

    with q the predicted probabilities, or 1 for the predicted class, and :math:`n_y` rows of class y. Use
    predictions for rows that the model was not trained on, such as scikit-learn's `cross_val_predict`: on the
    training rows an overfitted model makes hardly any mistakes.

    Args:
        target: True classes; integers, or names if classes are given.
        predicted: Predicted classes, or predicted probabilities.
        smoothing: At least 0; added to every count.
        classes: Name of each class; None for the integers up to the largest target.

    Shapes:
        target (N,); predicted (N,) or (N, C).

    Raises:
        ValueError: If the shapes do not agree, a class is none of the classes, smoothing is negative, or a
            class without rows is not smoothed.

    Example:
        >>> print(from_confusion([0, 0, 0, 1], [0, 0, 1, 1], smoothing=0))
        similarity[true, class]
                0       1
        0  0.6667  0.3333
        1       0       1

    Source:
        Patrini et al., CVPR 2017, arXiv:1609.03944, estimate a noise transition in this way.
    """
    true, guess = _plain(target), _plain(predicted)
    if true.ndim != 1 or guess.shape[:1] != true.shape or guess.ndim not in (1, 2) or not true.size:
        raise ValueError(
            f"target must be (N,) and predicted (N,) or (N, C), got {true.shape} and {guess.shape}; "
            "give a row per sample"
        )
    if not 0 <= smoothing < np.inf:
        raise ValueError(
            f"smoothing must be finite and at least 0, got {smoothing}; 1 counts each cell once more"
        )
    names = None if classes is None else check_names(classes)
    true = _numbers("target", true, names)
    guess: Any = _numbers("predicted", guess, names) if guess.ndim == 1 else guess.astype(np.float64)
    if guess.ndim == 2:
        count = guess.shape[1]
    else:
        count = len(names) if names is not None else int(max(true.max(), guess.max())) + 1
        guess = np.eye(count)[guess]
    if true.max() >= count:
        raise ValueError(
            f"target must be below the {count} columns of predicted, got {true.max()}; add its column"
        )
    if (guess < 0).any() or not np.abs(guess.sum(1) - 1).max() <= 1e-4:
        raise ValueError(
            "predicted must hold probabilities that sum to one, got a row that sums to "
            f"{guess.sum(1)[np.abs(guess.sum(1) - 1).argmax()]:g}; pass probabilities, not logits"
        )
    counts = np.eye(count)[true].T @ guess + smoothing
    empty = np.flatnonzero(counts.sum(1) == 0)
    if len(empty):
        raise ValueError(
            f"smoothing must be above 0 for a class without rows, got {smoothing} and none of class "
            f"{empty[0]}; use 1"
        )
    return ClassMatrix(counts / counts.sum(1, keepdims=True), names, kind="similarity")


def ordinal(
    classes: int | Sequence[object], kind: Kind = "costs", *, power: float = 1.0, beta: float = 1.0
) -> ClassMatrix:
    r"""Return a matrix for ordered classes.

    .. math:: C_{ij} = |i - j|^{\text{power}}, \qquad S_{ij} \propto e^{-\beta |i - j|}

    Args:
        classes: Names in the order of the scale, or their number. For labels in another order, such as
            sorted names, reorder the matrix: `ordinal(...).ordered(classes)`.
        kind: "costs" or "similarity".
        power: Above 0; the cost of a mistake by d steps is d to this power.
        beta: At least 0; the larger beta, the larger the diagonal.

    Raises:
        ValueError: If power or beta is out of range, or there is no class.

    Example:
        >>> print(ordinal(["low", "mid", "high"], power=2))
        costs[true, predicted]
              low  mid  high
        low     0    1     4
        mid     1    0     1
        high    4    1     0

    Source:
        Diaz and Marathe, CVPR 2019, for the soft targets.
    """
    names = [str(k) for k in range(classes)] if isinstance(classes, int) else list(classes)
    steps = np.abs(np.subtract.outer(np.arange(len(names)), np.arange(len(names)))).astype(np.float64)
    if not 0 < power < np.inf:
        raise ValueError(f"power must be finite and above 0, got {power}; 1 counts the steps")
    if not 0 <= beta < np.inf:
        raise ValueError(f"beta must be finite and at least 0, got {beta}; 0 makes all classes alike")
    return ClassMatrix(softmax(-beta * steps) if kind == "similarity" else steps**power, names, kind=kind)


def softmax(scores: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return rows that sum to one."""
    terms = np.exp(scores - scores.max(axis=1, keepdims=True, initial=-np.inf))
    return terms / terms.sum(axis=1, keepdims=True)


def _plain(values: Any) -> np.ndarray[Any, Any]:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _array(values: Any) -> np.ndarray[Any, Any]:
    try:
        rows = [_plain(row) for row in values]
        return np.array(rows, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"vectors must be numbers of one length per class, got {values!r}; pad or re-embed"
        ) from error


def _numbers(name: str, values: np.ndarray[Any, Any], names: tuple[str, ...] | None) -> np.ndarray[Any, Any]:
    """Return the indices of classes given by index or by name."""
    if np.issubdtype(values.dtype, np.integer):
        low, high = int(values.min()), int(values.max())
        if low < 0 or (names is not None and high >= len(names)):
            raise ValueError(
                f"{name} must be a place among the classes, got {low if low < 0 else high}; count from 0"
            )
        return values
    unknown = sorted({str(value) for value in values} - set(names or ()))
    if unknown:
        raise ValueError(
            f"{name} must hold integers or names among classes, got {unknown[0]!r}; name the classes with "
            "classes="
        )
    return np.array([(names or ()).index(str(value)) for value in values])
