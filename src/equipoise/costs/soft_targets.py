"""The effect of soft targets on probabilities and its inverse, and the check of probabilities."""

from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from equipoise.costs.matrix import ClassMatrix

Probs = TypeVar("Probs", np.ndarray[Any, Any], Tensor)
WORST_CONDITION = 1e6  # beyond it, float32 probabilities have at most one correct digit


def mix(probs: Probs, similarity: Any) -> Probs:
    r"""Return the probabilities that a model trained with soft targets estimates.

    .. math:: q_k = \sum_y \eta_y S_{yk}, \qquad q = S^T \eta

    Args:
        probs: True probabilities :math:`\eta`, an array or a tensor.
        similarity: (C, C), indexed [true class, class], rows that sum to 1.

    Shapes:
        probs (..., C); result (..., C), of the type and dtype of probs.

    Raises:
        ValueError: If probs are not probabilities, or similarity is not a (C, C) similarity.

    Example:
        >>> mix(torch.tensor([0.5, 0.5]), [[0.75, 0.25], [0.0, 1.0]])
        tensor([0.3750, 0.6250])

    Source:
        The minimiser of `SimilarityCrossEntropy`.
    """
    return _apply(probs, _similarity(probs, similarity))


def unmix(probs: Probs, similarity: Any) -> Probs:
    r"""Return the true probabilities from those of a model trained with soft targets: the inverse of `mix`.

    .. math:: \eta = S^{-T} q

    Use it before a decision by cost. For an estimate q that is outside the range of `mix` the solution has
    negative entries; these are set to 0, and the others divided by their sum.

    Args:
        probs: Probabilities q of a model trained with `SimilarityCrossEntropy(similarity)`.
        similarity: The same matrix, (C, C), indexed [true class, class].

    Shapes:
        probs (..., C); result (..., C), of the type and dtype of probs.

    Raises:
        ValueError: If probs are not probabilities, similarity is not a (C, C) similarity, or its condition
            number is above 1e6.

    Numerics:
        Errors of probs are amplified by at most the condition number of S. The sum is 1 before entries are
        set to 0, so the divisor is at least 1.

    Example:
        >>> unmix(torch.tensor([0.375, 0.625]), [[0.75, 0.25], [0.0, 1.0]])
        tensor([0.5000, 0.5000])

    Source:
        Backward correction, Patrini et al., CVPR 2017, arXiv:1609.03944, applied to predictions.
    """
    matrix = _similarity(probs, similarity)
    condition = float(np.linalg.cond(matrix))
    if not condition <= WORST_CONDITION:
        raise ValueError(
            f"similarity must have a condition number of at most {WORST_CONDITION:g} for unmix, got "
            f"{condition:.3g}; give each class a larger share of its own row"
        )
    solved: Any = _apply(probs, np.linalg.inv(matrix))
    if isinstance(solved, Tensor):
        solved = solved.clamp(min=0)
        return solved / solved.sum(-1, keepdim=True)
    solved = solved.clip(min=0)
    return (solved / solved.sum(-1, keepdims=True)).astype(solved.dtype)


def check_probs(probs: Any, classes: int | None = None) -> None:
    """Raise unless the last dimension of an array or tensor has the probabilities of `classes` classes."""
    if not isinstance(probs, Tensor | np.ndarray):
        raise TypeError(
            f"probs must be an array or a tensor, got {type(probs).__name__}; use numpy.asarray(probs)"
        )
    if isinstance(probs, Tensor):
        floating, eps = probs.is_floating_point(), _eps(probs)
        wide: Any = probs.detach().double()
    else:
        floating = np.issubdtype(probs.dtype, np.floating)
        eps = float(np.finfo(probs.dtype).eps) if floating else 0.0
        wide = probs.astype(np.float64) if floating else probs
    if not floating:
        raise TypeError(f"probs must be floating, got {probs.dtype}; pass probabilities, not classes")
    shape = tuple(probs.shape)
    if not shape or shape[-1] == 0:
        raise ValueError(f"probs must be (..., C), got {shape}; give a probability per class")
    if classes is not None and shape[-1] != classes:
        raise ValueError(f"probs must be (..., {classes}), got {shape}; the matrix has as many true classes")
    if 0 in shape:
        return
    low, sums = float(wide.min()), wide.sum(-1)
    off = float(abs(sums - 1).max())
    if not np.isfinite(off):
        raise ValueError("probs must be finite, got nan or infinity; check whether the model diverged")
    if low < 0 or off > max(1e-5, 2 * eps):
        what = f"{low:.6g}" if low < 0 else f"a row off by {off:.6g}"
        raise ValueError(
            f"probs must be 0 or more and sum to one in each row, got {what}; pass probabilities, not logits"
        )


def times(probs: Any, matrix: np.ndarray[Any, Any]) -> Any:
    """Return probs @ matrix, of the type of probs (array or tensor), in float32 at least."""
    if isinstance(probs, Tensor):
        wide = probs.to(torch.promote_types(probs.dtype, torch.float32))
        return wide @ torch.as_tensor(np.array(matrix)).to(wide)
    return probs @ np.asarray(matrix, dtype=np.promote_types(probs.dtype, np.float32))


def _apply(probs: Any, matrix: np.ndarray[Any, Any]) -> Any:
    found = times(probs, matrix)
    return found.to(probs.dtype) if isinstance(found, Tensor) else found.astype(probs.dtype)


def _similarity(probs: Any, similarity: Any) -> np.ndarray[Any, Any]:
    matrix = ClassMatrix.of(similarity, "similarity")
    check_probs(probs, len(matrix))
    return matrix.array


def _eps(probs: Tensor) -> float:
    return torch.finfo(probs.dtype).eps if probs.is_floating_point() else 0.0
