"""Maps that bound the logits, and with them the probabilities."""

from dataclasses import dataclass
from math import exp, log, sqrt
from typing import final

import torch
from torch import Tensor

from equipoise._checks import check_number
from equipoise._tensors import like
from equipoise.maps.base import Map, MapEntry


@final
@dataclass(frozen=True)
class ClippedLogits(Map):
    r"""Softmax of clipped logits, with the gradient of unclipped ones.

    .. math:: q = \operatorname{softmax}(\min(\max(z, \text{low}), \text{high}))

    The derivative of the clip is taken as 1 everywhere (straight-through), so training can move a logit back
    from outside. Biased: the probabilities do not change while logits drift further outside; add
    `LogitRange(low=..., high=...)` to limit the drift. `for_floor` returns the clip for a minimum
    probability.

    Args:
        low: Smallest logit.
        high: Largest logit, above low.

    Raises:
        ValueError: Unless low < high, both finite.

    Example:
        >>> ClippedLogits(low=-2.0, high=2.0).probs(torch.tensor([50.0, 0.0, -50.0]))
        tensor([0.8668, 0.1173, 0.0159])

    Source:
        reddit.com/r/deeplearning 10puvih.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        check_number("low", self.low)
        check_number("high", self.high)
        if not self.low < self.high:
            raise ValueError(f"low must be below high, got {self.low} and {self.high}")

    @classmethod
    def for_floor(cls, floor: float, num_classes: int) -> "ClippedLogits":
        r"""Return the widest clip around 0 with which every probability of n classes is at least a floor.

        .. math:: \text{high} = -\text{low} = \tfrac12 \log\frac{1 - f}{(n - 1) f}

        Args:
            floor: f in (0, 1/n).
            num_classes: n, at least 2.

        Raises:
            ValueError: If there are fewer than 2 classes or the floor is outside (0, 1/n).

        Example:
            >>> round(ClippedLogits.for_floor(0.01, num_classes=10).min_prob(10), 12)
            0.01
        """
        if num_classes < 2:
            raise ValueError(
                f"num_classes must be at least 2, got {num_classes}; one class always has probability 1"
            )
        check_number("floor", floor, 0, 1, "it is a probability", open_low=True)
        if floor * num_classes >= 1:
            raise ValueError(
                f"floor must be below 1/{num_classes}, got {floor}; "
                f"the probabilities of {num_classes} classes sum to 1"
            )
        high = log((1 - floor) / ((num_classes - 1) * floor)) / 2
        return cls(low=-high, high=high)

    def min_prob(self, num_classes: int) -> float:
        """Return 1 / (1 + (n - 1) e^(high - low))."""
        return _smallest_of_range(self.high - self.low, num_classes)

    def _log_probs(self, logits: Tensor, /) -> Tensor:
        masked = logits == -torch.inf
        shown = logits.masked_fill(masked, 0.0)
        # logits - logits.detach() is exactly 0 for every logit, with gradient 1.
        clipped = shown.clamp(self.low, self.high).detach() + (shown - shown.detach())
        return clipped.masked_fill(masked, -torch.inf).log_softmax(-1)


@final
@dataclass(frozen=True)
class SoftCapped(Map):
    r"""Softmax of softly capped logits: :math:`q = \operatorname{softmax}(c \tanh(z / c))`.

    The derivative of the cap tends to 0 for large logits, and is never negative.

    Args:
        cap: c above 0; capped logits lie in [-c, c].

    Raises:
        ValueError: If cap is not above 0.

    Example:
        >>> SoftCapped(cap=2.0).probs(torch.tensor([50.0, 0.0, -50.0]))
        tensor([0.8668, 0.1173, 0.0159])

    Source:
        Gemma 2, 2024, arXiv:2408.00118.
    """

    cap: float

    def __post_init__(self) -> None:
        check_number("cap", self.cap, 0, hint="30 is usual for a vocabulary", open_low=True)

    def min_prob(self, num_classes: int) -> float:
        """Return 1 / (1 + (n - 1) e^(2 c))."""
        return _smallest_of_range(2 * self.cap, num_classes)

    def _log_probs(self, logits: Tensor, /) -> Tensor:
        masked = logits == -torch.inf
        cap = like(self.cap, logits)
        capped = cap * torch.tanh(logits.masked_fill(masked, 0.0) / cap)
        return capped.masked_fill(masked, -torch.inf).log_softmax(-1)


@final
@dataclass(frozen=True)
class LogitNorm(Map):
    r"""Softmax of logits divided by their own norm.

    .. math:: q = \operatorname{softmax}\left(\frac{z}{T \max(\lVert z \rVert, \epsilon)}\right)

    The probabilities do not depend on the scale of the logits, so training cannot raise the confidence by
    growing it. Not shift-invariant. Epsilon, the square root of the dtype's eps (3e-4 in float32), has an
    effect only where all logits are nearly 0: there the map is a softmax at temperature T epsilon.

    Args:
        temperature: T above 0; 0.04 is usual. The smaller T, the larger the largest possible probability.

    Raises:
        ValueError: If temperature is not above 0.

    Numerics:
        The norm is over the classes that are not masked. As the divisor is at least T epsilon, the gradient
        is at most of the order 1 / (T epsilon), whose square does not overflow, also where all logits are 0.

    Example:
        >>> LogitNorm(temperature=0.5).probs(torch.tensor([30.0, 40.0]))
        tensor([0.4013, 0.5987])

    Source:
        LogitNorm: Wei et al., ICML 2022, arXiv:2205.09310.
    """

    temperature: float = 0.04

    def __post_init__(self) -> None:
        check_number("temperature", self.temperature, 0, hint="0.04 is usual", open_low=True)

    def min_prob(self, num_classes: int) -> float:
        """Return 1 / (1 + (n - 1) e^(sqrt(2) / T)): two logits of unit norm are at most sqrt(2) apart."""
        return _smallest_of_range(sqrt(2) / self.temperature, num_classes)

    def _log_probs(self, logits: Tensor, /) -> Tensor:
        masked = logits == -torch.inf
        shown = logits.masked_fill(masked, 0.0)
        # divide by the largest first: the square of a large logit overflows
        largest = shown.abs().amax(-1, keepdim=True).detach().clamp(min=torch.finfo(logits.dtype).eps ** 0.5)
        scaled = shown / largest
        square = (scaled * scaled).sum(-1, keepdim=True)
        norm = square.clamp(min=1).sqrt()  # below 1 only where all logits are tiny
        unit = scaled / norm / like(self.temperature, logits)
        return unit.masked_fill(masked, -torch.inf).log_softmax(-1)


def _smallest_of_range(width: float, num_classes: int) -> float:
    """Return 1 / (1 + (n - 1) e^width), the smallest probability of n logits with range `width`."""
    return exp(-width) / (exp(-width) + num_classes - 1)


ENTRIES = (
    MapEntry(
        ClippedLogits,
        ClippedLogits(low=-2.0, high=2.0),
        source="reddit.com/r/deeplearning 10puvih",
        gradient="straight through the clip; biased, the logits drift",
        straight_through=True,
    ),
    MapEntry(
        SoftCapped, SoftCapped(cap=2.0), source="Gemma 2, arXiv:2408.00118", gradient="fades beyond the cap"
    ),
    MapEntry(
        LogitNorm,
        LogitNorm(temperature=0.5),
        source="Wei et al. 2022, arXiv:2205.09310",
        gradient="everywhere, but not along the scale of the logits",
        attained=False,
    ),
)
