"""A block of logits that is read and then differentiated; what does that is a backend."""

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor

from equipoise.stats.base import Group, State
from equipoise.stats.slope import Slope


class Block(ABC):
    """A block of logits, of whole rows or of a run of classes.

    Args:
        group: What is asked of it.
        target: (N,) class of each row, counted over all classes; None where no statistic reads it.
    """

    def __init__(self, group: Group, target: Tensor | None) -> None:
        self.group = group
        self.target = target

    @abstractmethod
    def states(self) -> list[State]:
        """Return the states of the group's statistics."""

    @abstractmethod
    def write(self, slope: Slope, out: Tensor) -> None:
        """Write a slope to `out` (N, B), with respect to the logits as the matrix product gave them."""

    def read(self, rows: slice) -> None:
        """Look at some rows, whose logits are there by now; or leave that until `states` looks at all."""
        del rows

    def writer(self, slope: Slope) -> Callable[[slice, Tensor], None]:
        """Return what writes a slope of some rows; of all of them, unless the block is read in pieces."""
        return lambda _, out: self.write(slope, out)
