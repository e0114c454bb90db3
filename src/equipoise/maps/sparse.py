"""Sparse maps (probabilities that are exactly 0), computed by the entmax library."""

from dataclasses import dataclass
from types import ModuleType
from typing import Any, final

import torch
from torch import Tensor

from equipoise._checks import check_number
from equipoise.maps.base import Map, MapEntry, below_largest


def _entmax() -> ModuleType:
    try:
        import entmax
    except ImportError as error:
        raise ImportError(
            "maps.Sparsemax and maps.Entmax need entmax; pip install 'equipoise[entmax]'"
        ) from error
    return entmax


def _sparse_log(probs: Tensor) -> Tensor:
    """Return the log of the probabilities: minus infinity, with gradient 0, where a probability is 0."""
    empty = probs <= 0
    return probs.masked_fill(empty, 1.0).log().masked_fill(empty, -torch.inf)


class _Solved(torch.autograd.Function):
    """Probabilities of the entmax library, with support for `torch.func` and second derivatives.

    The Jacobian is symmetric: diag(s) - s s^T / sum(s), with s = q^(2 - alpha) where q > 0, else 0.
    """

    @staticmethod
    def forward(logits: Tensor, alpha: float) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        # q = 0 at 1 / (alpha - 1) below the largest logit; smaller logits would cost precision or overflow.
        near = below_largest(logits).clamp(min=-2 / (alpha - 1))
        return _entmax().sparsemax(near) if alpha == 2 else _entmax().entmax_bisect(near, alpha=alpha)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.alpha = inputs[1]
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (probs,) = ctx.saved_tensors
        empty = probs <= 0
        scale = probs.masked_fill(empty, 1.0).pow(2 - ctx.alpha).masked_fill(empty, 0.0)
        scaled = scale * gradient
        return scaled - scale * (scaled.sum(-1, keepdim=True) / scale.sum(-1, keepdim=True)), None

    @staticmethod
    def vmap(info: Any, in_dims: Any, logits: Tensor, alpha: float) -> tuple[Any, int]:  # pyright: ignore[reportIncompatibleMethodOverride]
        del info
        return _Solved.apply(logits.movedim(in_dims[0], 0), alpha), 0


def _solve(logits: Tensor, alpha: float) -> Tensor:
    probs: Any = _Solved.apply(logits, alpha)
    return probs


@final
@dataclass(frozen=True)
class Sparsemax(Map):
    r"""Euclidean projection of the logits onto the simplex: small probabilities become exactly 0.

    .. math:: \operatorname{argmin}_{q \in \Delta} \lVert q - z \rVert^2

    q is one-hot once the largest logit is 1 above the others. A class with q = 0 has gradient 0, and training
    may not move it.

    Raises:
        ImportError: When called, if the entmax library is missing.

    Example:
        >>> Sparsemax().probs(torch.tensor([1.0, 0.5, -1.0]))
        tensor([0.7500, 0.2500, 0.0000])

    Source:
        Martins and Astudillo, ICML 2016, arXiv:1602.02068; computed by the entmax library.
    """

    def min_prob(self, num_classes: int) -> float:
        """Return 0 for more than one class: nothing is guaranteed."""
        return float(num_classes == 1)

    def _probs(self, logits: Tensor, /) -> Tensor:
        return _solve(logits, 2.0)

    def _log_probs(self, logits: Tensor, /) -> Tensor:
        return _sparse_log(self._probs(logits))


@final
@dataclass(frozen=True)
class Entmax(Map):
    r"""Entmax: between softmax (alpha towards 1) and sparsemax (alpha = 2).

    .. math:: q_k = \max\left(0, (\alpha - 1) z_k - \tau\right)^{1 / (\alpha - 1)}, \qquad \sum_k q_k = 1.

    Args:
        alpha: Above 1.

    Raises:
        ValueError: If alpha is not above 1.
        ImportError: When called, if the entmax library is missing.

    Example:
        >>> Entmax(alpha=1.5).probs(torch.tensor([1.0, 0.5, -2.0]))
        tensor([0.6740, 0.3260, 0.0000])

    Source:
        Peters et al., ACL 2019, arXiv:1905.05702; computed by bisection by the entmax library.
    """

    alpha: float = 1.5

    def __post_init__(self) -> None:
        check_number("alpha", self.alpha, 1, hint="towards 1 it is Softmax, 2 is Sparsemax", open_low=True)

    def min_prob(self, num_classes: int) -> float:
        """Return 0 for more than one class: nothing is guaranteed."""
        return float(num_classes == 1)

    def _probs(self, logits: Tensor, /) -> Tensor:
        return _solve(logits, self.alpha)

    def _log_probs(self, logits: Tensor, /) -> Tensor:
        return _sparse_log(self._probs(logits))


ENTRIES = (
    MapEntry(
        Sparsemax,
        Sparsemax(),
        source="Martins and Astudillo 2016, arXiv:1602.02068",
        gradient="none for classes at 0",
    ),
    MapEntry(
        Entmax,
        Entmax(alpha=1.5),
        source="Peters et al. 2019, arXiv:1905.05702",
        gradient="none for classes at 0",
    ),
)
