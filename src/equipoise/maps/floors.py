"""Maps with a minimum probability."""

from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from equipoise._checks import check_floor, check_number
from equipoise._tensors import like
from equipoise.maps.base import Map, MapEntry, masked_in
from equipoise.statistics.functions import log_add

FLOOR_HINT = "it is a probability"


@final
@dataclass(frozen=True)
class Floored(Map):
    r"""Affine floor: :math:`q_k = f + (1 - n f)\,p_k`.

    A mixture of softmax and the uniform distribution. No q is below f, without a rounding error, and the
    order of the classes is kept. Cross entropy of q is `FlooredCrossEntropy`, a robust loss: the gradient of
    log q is (1 - n f) p / q times that of log p, so it vanishes for a class with p far below the floor:
    sampling still reaches the class, training hardly moves it.

    Args:
        floor: f in [0, 1/n]; at 1/n the map is constant.

    Raises:
        ValueError: If floor is outside [0, 1], or, when called, above 1/n.

    Example:
        >>> Floored(floor=0.05).probs(torch.tensor([9.0, 0.0, 0.0]))
        tensor([0.8998, 0.0501, 0.0501])

    Source:
        ChainerRL's `SoftmaxDistribution(min_prob)`; in bandits, exploration by a uniform mixture.
    """

    floor: float

    def __post_init__(self) -> None:
        check_number("floor", self.floor, 0, 1, FLOOR_HINT)

    def check(self, num_classes: int) -> None:
        """Raise if n floors sum to more than one."""
        check_floor(self.floor, num_classes)

    def min_prob(self, num_classes: int) -> float:
        """Return the floor."""
        self.check(num_classes)
        return self.floor

    def _probs(self, logits: Tensor, /) -> Tensor:
        floor, masked, rest = self._parts(logits)
        return (floor + rest * logits.softmax(-1)).masked_fill(masked, 0.0)

    def _log_probs(self, logits: Tensor, /) -> Tensor:
        floor, masked, rest = self._parts(logits)
        inner = logits.log_softmax(-1).masked_fill(masked, 0.0)
        inner = inner.clamp(min=torch.finfo(inner.dtype).min)  # large logits may overflow
        return log_add(floor.log().expand_as(inner), rest.log() + inner).masked_fill(masked, -torch.inf)

    def _parts(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        masked, count = masked_in(logits)
        floor = like(self.floor, logits)
        return floor, masked, (1 - count * floor).clamp(min=0)


@final
@dataclass(frozen=True)
class Clipped(Map):
    r"""Clip and renormalise, as published: :math:`q_k = \max(p_k, c) / \sum_j \max(p_j, c)`.

    After renormalisation the smallest probability is c / (1 + (n - 1) c), not c. `for_floor` returns the c
    for a given minimum; `Projected` has the minimum as its option. The logit of a clipped class has gradient
    0.

    Args:
        floor: c in [0, 1/n], the lower limit of p before renormalisation.

    Raises:
        ValueError: If floor is outside [0, 1], or, when called, above 1/n.

    Example:
        >>> Clipped(floor=0.05).probs(torch.tensor([0.98, 0.01, 0.01]).log())
        tensor([0.9074, 0.0463, 0.0463])

    Source:
        reddit.com/r/deeplearning 10puvih.
    """

    floor: float

    def __post_init__(self) -> None:
        check_number("floor", self.floor, 0, 1, FLOOR_HINT)

    def check(self, num_classes: int) -> None:
        """Raise if n floors sum to more than one."""
        check_floor(self.floor, num_classes)

    @classmethod
    def for_floor(cls, floor: float, num_classes: int) -> "Clipped":
        r"""Return the clip with which every probability of n classes is at least f: f / (1 - (n - 1) f).

        Args:
            floor: f in [0, 1/(2 n - 1)], the minimum for a clip at 1/n.
            num_classes: n, at least 1.

        Raises:
            ValueError: If there is no class, or the floor is outside [0, 1/(2 n - 1)].

        Example:
            >>> round(Clipped.for_floor(0.01, num_classes=10).min_prob(10), 12)
            0.01
        """
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        hint = f"a clip keeps no more with {num_classes} classes, Projected does"
        check_number("floor", floor, 0, 1 / (2 * num_classes - 1), hint)
        return cls(min(floor / (1 - (num_classes - 1) * floor), 1 / num_classes))

    def min_prob(self, num_classes: int) -> float:
        """Return c / (1 + (n - 1) c)."""
        self.check(num_classes)
        return self.floor / (1 + (num_classes - 1) * self.floor)

    def _log_probs(self, logits: Tensor, /) -> Tensor:
        masked, _ = masked_in(logits)
        level = like(self.floor, logits).log()
        clipped = torch.maximum(logits.log_softmax(-1), level).masked_fill(masked, -torch.inf)
        return clipped.log_softmax(-1)


@final
@dataclass(frozen=True)
class Projected(Map):
    r"""Projection of softmax onto the distributions with every probability at least the floor.

    .. math:: \operatorname{argmin}_{q \ge f,\ \sum q = 1} D(q, p), \qquad
       q_k = \max(f, t\,p_k) \ \text{(KL)} \quad\text{or}\quad \max(f, p_k - \tau) \ \text{(Euclidean)}.

    If every p is above the floor, q = p: a policy that explores enough is not changed. No q is below f,
    without a rounding error. The logit of a class at the floor has gradient 0.

    Args:
        floor: f in [0, 1/n]; at 1/n the map is constant.
        metric: "kl" keeps the ratios of the classes above the floor, "euclidean" their differences.

    Raises:
        ValueError: If floor is outside [0, 1], metric is another, or, when called, floor is above 1/n.

    Numerics:
        Water-filling after a sort, O(n log n). The set of classes at the floor is found without a gradient;
        the others are a scaled softmax.

    Example:
        >>> probs = torch.tensor([0.78, 0.20, 0.02])
        >>> Projected(floor=0.05).probs(probs.log())
        tensor([0.7561, 0.1939, 0.0500])
        >>> Projected(floor=0.05, metric="euclidean").probs(probs.log())
        tensor([0.7650, 0.1850, 0.0500])

    Source:
        Duchi et al., ICML 2008, for the projection onto the simplex; here shifted by the floor.
    """

    floor: float
    metric: Literal["kl", "euclidean"] = "kl"

    def __post_init__(self) -> None:
        check_number("floor", self.floor, 0, 1, FLOOR_HINT)
        if self.metric not in ("kl", "euclidean"):
            raise ValueError(f"metric must be 'kl' or 'euclidean', got {self.metric!r}")

    def check(self, num_classes: int) -> None:
        """Raise if n floors sum to more than one."""
        check_floor(self.floor, num_classes)

    def min_prob(self, num_classes: int) -> float:
        """Return the floor."""
        self.check(num_classes)
        return self.floor

    def _probs(self, logits: Tensor, /) -> Tensor:
        masked, floor, free, total, size = self._filled(logits)
        if self.metric == "kl":
            above = total * logits.masked_fill(~free, -torch.inf).softmax(-1)
        else:
            probs = logits.softmax(-1)
            above = probs - (probs.masked_fill(~free, 0.0).sum(-1, keepdim=True) - total) / size
        kept = torch.maximum(above, floor)  # rounding may give less than the floor
        return torch.where(free, kept, floor).masked_fill(masked, 0.0)

    def _log_probs(self, logits: Tensor, /) -> Tensor:
        if self.metric == "euclidean":
            masked = logits == -torch.inf
            probs = self._probs(logits)
            empty = masked | (probs <= 0)
            return probs.masked_fill(empty, 1.0).log().masked_fill(empty, -torch.inf)
        masked, floor, free, total, _ = self._filled(logits)
        inner = logits.masked_fill(~free, -torch.inf).log_softmax(-1).masked_fill(~free, 0.0)
        above = torch.maximum(total.log() + inner, floor.log())
        return torch.where(free, above, floor.log()).masked_fill(masked, -torch.inf)

    @torch.no_grad()
    def _filled(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return the masked classes, the floor, the classes above it, their total probability and number."""
        masked, count = masked_in(logits)
        floor = like(self.floor, logits)
        probs = logits.softmax(-1)
        ordered = probs.sort(-1, descending=True).values
        size = torch.arange(1, logits.shape[-1] + 1, dtype=logits.dtype, device=logits.device)
        left = (1 - (count - size) * floor).clamp(min=0)  # probability of the `size` likeliest classes
        total = ordered.cumsum(-1)
        lowest = left / total * ordered if self.metric == "kl" else ordered - (total - left) / size
        above = (lowest > floor) & (ordered > 0)
        size = above.sum(-1, keepdim=True).clamp(min=1)
        places = logits.masked_fill(masked, -torch.inf).argsort(-1, descending=True).argsort(-1)
        free = places < size
        return masked, floor, free, left.gather(-1, size - 1), size.to(logits.dtype)


ENTRIES = (
    MapEntry(
        Floored,
        Floored(floor=0.01),
        source="ChainerRL SoftmaxDistribution(min_prob)",
        gradient="dies out below the floor",
        keeps_to_the_bit=True,
    ),
    MapEntry(
        Clipped,
        Clipped(floor=0.01),
        source="reddit.com/r/deeplearning 10puvih",
        gradient="none of its own for a clipped class",
    ),
    MapEntry(
        Projected,
        Projected(floor=0.01),
        source="Duchi et al. 2008",
        gradient="none of its own for a class at the floor; softmax's where no class is",
        keeps_to_the_bit=True,
    ),
)
