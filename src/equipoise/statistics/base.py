"""`Statistic`, the base of statistics: one number per row of logits, computed from the states of the row."""

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor

from equipoise.statistics.states import RowStates


class Statistic(ABC):
    """One number per row of logits.

    The number does not depend on how the classes are split into blocks, because states merge. A row with a
    nan, plus infinity or no allowed class has nan for every statistic and its gradient.

    A statistic is a frozen dataclass, so that it can be the key of a dict.
    """

    @property
    def separates_target(self) -> bool:
        """Whether it needs sums over the classes but the target."""
        return False

    @property
    def reads_target(self) -> bool:
        """Whether the number depends on the target."""
        return self.separates_target

    @abstractmethod
    def finalize(self, states: RowStates, /) -> Tensor:
        """Return the statistic (N,), by elementwise operations on the states."""

    def for_each_class(self, logits: Tensor, compute: "Compute", /) -> Tensor:
        """Return the statistic (N, C) with each class as the target; (N, 1) if it reads no target."""
        return compute(self, logits, None)[:, None]


Compute = Callable[
    [Statistic, Tensor, Tensor | None], Tensor
]  # returns a statistic (N,) of logits and targets
