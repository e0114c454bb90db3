"""Penalties on the logits: on their range (`LogitRange`) and on their log-sum-exp (`ZLoss`)."""

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from equipoise._checks import check_number, refuse_batch
from equipoise._tensors import like
from equipoise.losses.base import RowLoss
from equipoise.losses.table import Entry
from equipoise.statistics import RowStatistics


@final
@dataclass(frozen=True, repr=False)
class LogitRange(RowLoss):
    r"""Hinge penalty on the range of the logits, which limits how small a probability becomes.

    With logits z, a row costs

    .. math:: \max(0, \max z - \min z - \text{width})
       \quad\text{or}\quad \max(0, \max z - \text{high}) + \max(0, \text{low} - \min z).

    The first form, `LogitRange(width)`, is invariant to a shift of all logits, as softmax is; prefer it. The
    second is `LogitRange(low=..., high=...)`. Within a range R every probability of n classes is at least
    1 / (1 + (n - 1) e^R); `for_floor` inverts this formula. The penalty is a soft limit, without a guarantee:
    its gradient does not vanish for logits beyond it, unlike that of a floored softmax.

    Args:
        width: At least 0; the range without penalty.
        low: Smallest logit without penalty; needs `high`.
        high: Largest logit without penalty; needs `low`.

    Shapes:
        See `Loss.__call__`; no target is needed.

    Raises:
        ValueError: Unless either width, or both low and high with low <= high, are given.

    Numerics:
        Masked classes are left out. Equal largest logits share the gradient, as do equal smallest ones.

    Example:
        >>> LogitRange(width=4.0)(torch.tensor([[0.0, 1.0, 6.0], [0.0, 1.0, 2.0]]), reduction="none")
        tensor([2., 0.])
        >>> LogitRange.for_floor(0.01, num_classes=10)
        LogitRange(width=2.39789...)

    Source:
        reddit.com/r/deeplearning 10puvih, "Best practice for capping a softmax".
    """

    width: float | Tensor | None = None
    low: float | Tensor | None = None
    high: float | Tensor | None = None

    def __post_init__(self) -> None:
        for name in ("width", "low", "high"):
            refuse_batch(name, getattr(self, name))
        if (self.width is None) == (self.low is None and self.high is None) or (self.low is None) != (
            self.high is None
        ):
            raise ValueError(
                "a logit range must have either width, or low and high, got "
                f"width={self.width}, low={self.low}, high={self.high}"
            )
        if self.width is not None:
            check_number("width", self.width, 0, hint="it is the range that is free")
            return
        check_number("low", self.low)
        check_number("high", self.high)
        low, high = self.low, self.high
        if isinstance(low, (int, float)) and isinstance(high, (int, float)) and low > high:
            raise ValueError(f"low must be at most high, got {low} and {high}")

    @classmethod
    def for_floor(cls, floor: float, num_classes: int) -> "LogitRange":
        r"""Return the widest range that keeps every probability above a floor: log((1 - f) / ((n - 1) f)).

        Args:
            floor: In (0, 1/n]; the smallest probability wanted.
            num_classes: n, at least 2.

        Raises:
            ValueError: If there are fewer than 2 classes or the floor is outside (0, 1/n].

        Example:
            >>> LogitRange.for_floor(0.5, num_classes=2)
            LogitRange(width=0.0)
        """
        if num_classes < 2:
            raise ValueError(
                f"num_classes must be at least 2, got {num_classes}; one class always has probability 1"
            )
        check_number(
            "floor", floor, 0, 1 / num_classes, f"the largest floor of {num_classes} classes", open_low=True
        )
        return cls(width=max(0.0, math.log((1 - floor) / ((num_classes - 1) * floor))))

    def per_row(self, row: RowStatistics, /) -> Tensor:
        """Return the penalty of one row."""
        largest, smallest = row.largest, row.smallest
        if self.width is not None:
            return torch.relu(largest - smallest - like(self.width, largest))
        assert self.low is not None
        assert self.high is not None
        return torch.relu(largest - like(self.high, largest)) + torch.relu(like(self.low, largest) - smallest)

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in vars(self).items() if value is not None)
        return f"LogitRange({given})"


@final
@dataclass(frozen=True)
class ZLoss(RowLoss):
    r"""Square of the log-sum-exp, which keeps the logits from drifting.

    With logits z, a row costs

    .. math:: \left(\log\sum_k e^{z_k}\right)^2.

    It fixes the additive constant that softmax leaves undetermined, which helps half precision. It is not
    shift-invariant and hardly changes the confidence.

    Shapes:
        See `Loss.__call__`; no target is needed.

    Example:
        >>> ZLoss()(torch.tensor([[0.0, 0.0], [5.0, 5.0]]), reduction="none")
        tensor([ 0.4805, 32.4119])

    Source:
        Zoph et al. 2022, arXiv:2202.08906, section 3.
    """

    def per_row(self, row: RowStatistics, /) -> Tensor:
        """Return the penalty of one row."""
        return row.lse() ** 2


ENTRIES = (
    Entry(LogitRange, source="reddit.com/r/deeplearning 10puvih", reads_target=False),
    Entry(ZLoss, source="Zoph et al. 2022, arXiv:2202.08906", reads_target=False),
)
