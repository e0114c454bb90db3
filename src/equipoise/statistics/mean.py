"""Mean logit and number of classes."""

from dataclasses import dataclass
from typing import final

from torch import Tensor

from equipoise.statistics.base import Statistic
from equipoise.statistics.states import RowStates


@final
@dataclass(frozen=True)
class MeanLogit(Statistic):
    """Mean of the logits of the classes that are not masked."""

    def finalize(self, states: RowStates, /) -> Tensor:
        """Return the mean (N,)."""
        return states.all.sum_logit / states.all.count.clamp(min=1)


@final
@dataclass(frozen=True)
class ClassCount(Statistic):
    """Number of classes that are not masked. It has no gradient."""

    def finalize(self, states: RowStates, /) -> Tensor:
        """Return the count (N,), floating."""
        return states.all.count
