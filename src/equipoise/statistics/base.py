"""What a statistic is: one number per row of logits, computed from the state of its classes."""

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor

from equipoise.statistics.states import RowStates


class Statistic(ABC):
    """One number per row of logits.

    Any split of the classes gives the same number, since states merge. A row with a nan or plus infinity, or
    without a class that is not masked, has nan for every statistic, and for its gradient.

    A statistic is a frozen dataclass, so that it can be a key.
    """

    @property
    def separates_target(self) -> bool:
        """Whether the target is kept out of the sums over classes; if not, it has no part in the number."""
        return False

    @property
    def reads_target(self) -> bool:
        """Whether the number depends on the target."""
        return self.separates_target

    @abstractmethod
    def finalize(self, states: RowStates, /) -> Tensor:
        """Return the statistic (N,), elementwise in the numbers of the state."""

    def for_each_class(self, logits: Tensor, compute: "Compute", /) -> Tensor:
        """Return the statistic (N, C) with each class in turn as the target; (N, 1) if it reads no target."""
        return compute(self, logits, None)[:, None]


Compute = Callable[[Statistic, Tensor, Tensor | None], Tensor]  # one statistic (N,) of logits and targets
