"""Softmax, and sharper maps: one-hot, with noise, or applied twice."""

import warnings
from dataclasses import dataclass
from functools import cache
from math import exp, log
from typing import final

import torch
from torch import Tensor

from equipoise._checks import check_number
from equipoise._tensors import like
from equipoise.maps.base import Map, MapEntry, below_largest


@final
@dataclass(frozen=True)
class Softmax(Map):
    r"""Softmax at a temperature: :math:`p_k \propto e^{z_k / T}`.

    A temperature below 1 makes it sharper. A network trained through it learns smaller logits to compensate.

    Args:
        temperature: Above 0.

    Raises:
        ValueError: If temperature is not above 0.

    Example:
        >>> Softmax(temperature=0.5).probs(torch.tensor([1.0, 0.0]))
        tensor([0.8808, 0.1192])
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_number("temperature", self.temperature, 0, hint="1 is plain softmax", open_low=True)

    def min_prob(self, num_classes: int) -> float:
        """Return 0 for more than one class: nothing is guaranteed."""
        return float(num_classes == 1)

    def _log_probs(self, logits: Tensor, /) -> Tensor:
        return (below_largest(logits) / like(self.temperature, logits)).log_softmax(-1)


@final
@dataclass(frozen=True)
class Resoftmax(Map):
    r"""Softmax of the probabilities: :math:`q \propto e^{\alpha p}` with p = softmax(z).

    The largest q is at most e^alpha / (e^alpha + n - 1): 0.23 for alpha = 1 and n = 10. Up to an alpha of 2
    for two classes, 4.6 for ten and 7.5 for a hundred, q is flatter than p for *every* row, and a call warns;
    use a `Softmax` with a temperature below 1 to sharpen. The smallest q is at least 1 / (e^alpha + n - 1).

    Args:
        alpha: Above 0.

    Raises:
        ValueError: If alpha is not above 0.

    Warns:
        UserWarning: When called with so many classes that it flattens every row.

    Example:
        >>> Resoftmax(alpha=9.0).probs(torch.tensor([3.0, 0.0, 0.0]))
        tensor([9.9916e-01, 4.1872e-04, 4.1872e-04])

    Source:
        discuss.pytorch.org/t/74709.
    """

    alpha: float

    def __post_init__(self) -> None:
        check_number(
            "alpha", self.alpha, 0, hint="it sharpens above the number of classes only", open_low=True
        )

    def check(self, num_classes: int) -> None:
        """Warn if the map flattens this number of classes; compiled code does not repeat the warning."""
        if torch.compiler.is_compiling():
            return
        least = _least_sharpening(num_classes)
        if self.alpha <= least:
            ceiling = 1 / (1 + (num_classes - 1) * exp(-self.alpha))
            warnings.warn(
                f"Resoftmax(alpha={self.alpha}) flattens {num_classes} classes: no probability can be above "
                f"{ceiling:.3g}; use Softmax(1 / alpha), or an alpha above {least:.3g}",
                stacklevel=4,
            )

    def min_prob(self, num_classes: int) -> float:
        """Return 1 / (e^alpha + n - 1)."""
        return exp(-self.alpha) / (1 + (num_classes - 1) * exp(-self.alpha))

    def _log_probs(self, logits: Tensor, /) -> Tensor:
        again = like(self.alpha, logits) * logits.softmax(-1)
        return again.masked_fill(logits == -torch.inf, -torch.inf).log_softmax(-1)


@cache
def _least_sharpening(num_classes: int) -> float:
    """Return the alpha up to which softmax(alpha p) is flatter than p for every p.

    Among the p with largest entry P, q is sharpest if the other entries are equal, so it is enough to compare
    the log odds of P for these.
    """
    n = num_classes
    if n < 2:
        return 0.0
    largest = (1 / n + (1 - 1 / n) * step / 1000 for step in range(1, 1000))
    return min((n - 1) * log(p * (n - 1) / (1 - p)) / (n * p - 1) for p in largest)


@final
@dataclass(frozen=True)
class StraightThrough(Map):
    """One-hot in the forward pass, the gradient of another map in the backward pass.

    The forward pass is 1 for the class of largest probability (the first, if several are equal), 0 for the
    others; the backward pass is that of the map's probabilities. Biased: forward and backward pass belong to
    different functions.

    Args:
        map: The map; with `GumbelSoftmax` the choice is a random draw.

    Raises:
        TypeError: If map is not a map.

    Example:
        >>> StraightThrough(Softmax()).probs(torch.tensor([0.1, 2.0, 0.3]))
        tensor([0., 1., 0.])

    Source:
        Bengio et al. 2013, arXiv:1308.3432.
    """

    map: Map

    def __post_init__(self) -> None:
        if not isinstance(self.map, Map):
            raise TypeError(f"map must be a Map of equipoise.maps, got {self.map!r}; for example Softmax()")

    def check(self, num_classes: int) -> None:
        """Raise if the map does not fit the number of classes."""
        self.map.check(num_classes)

    def min_prob(self, num_classes: int) -> float:
        """Return 0 for more than one class: nothing is guaranteed."""
        return float(num_classes == 1)

    def _probs(self, logits: Tensor, /) -> Tensor:
        soft = self.map._probs(logits)
        return _chosen(soft).to(soft.dtype) + (soft - soft.detach())

    def _log_probs(self, logits: Tensor, /) -> Tensor:
        soft = self.map._log_probs(logits)
        chosen = _chosen(soft)
        kept = soft.masked_fill(~chosen, 0.0)
        return (kept - kept.detach()).masked_fill(~chosen, -torch.inf)


def _chosen(scores: Tensor) -> Tensor:
    """Return a one-hot mask of the first of the largest probabilities."""
    places = torch.arange(scores.shape[-1], device=scores.device)
    return places == scores.argmax(-1, keepdim=True)


@final
@dataclass(frozen=True)
class GumbelSoftmax(Map):
    r"""Relaxed draw from the softmax: softmax of logits plus Gumbel noise, at a temperature.

    .. math:: q_k \propto e^{(z_k + g_k) / T}, \qquad g_k = -\log(-\log u_k)

    Each call is a new draw. A lower temperature gives values closer to one-hot, and noisier gradients.
    `StraightThrough(GumbelSoftmax(T))` is one-hot.

    Args:
        temperature: Above 0.

    Raises:
        ValueError: If temperature is not above 0.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> GumbelSoftmax(temperature=1.0).probs(torch.tensor([2.0, 0.0, 0.0])).sum()
        tensor(1.)

    Source:
        Jang et al., ICLR 2017, arXiv:1611.01144; Maddison et al., ICLR 2017, arXiv:1611.00712.
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_number("temperature", self.temperature, 0, hint="0.5 to 1 is usual", open_low=True)

    def min_prob(self, num_classes: int) -> float:
        """Return 0 for more than one class: nothing is guaranteed."""
        return float(num_classes == 1)

    def _log_probs(self, logits: Tensor, /) -> Tensor:
        noise = -torch.empty_like(logits).exponential_().log()
        noisy = below_largest(below_largest(logits) + noise)
        return (noisy / like(self.temperature, logits)).log_softmax(-1)


ENTRIES = (
    MapEntry(Softmax, Softmax(), source="", gradient="everywhere; vanishes as a row becomes certain"),
    MapEntry(
        Resoftmax,
        Resoftmax(alpha=20.0),
        source="discuss.pytorch.org/t/74709",
        gradient="vanishes twice: where p is certain, and where q is",
    ),
    MapEntry(
        StraightThrough,
        StraightThrough(Softmax()),
        source="Bengio et al. 2013, arXiv:1308.3432",
        gradient="that of the inner map, whatever the choice; biased",
        straight_through=True,
    ),
    MapEntry(
        GumbelSoftmax,
        GumbelSoftmax(temperature=0.7),
        source="Jang et al. 2017, arXiv:1611.01144",
        gradient="that of one draw; noisier when colder",
    ),
)
