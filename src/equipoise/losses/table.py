"""`Entry`: a row of the table of losses, with the source and the properties of a loss."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from equipoise.losses.base import Loss


@dataclass(frozen=True)
class Entry:
    """A row of the table of losses, which tests, command line and documentation read.

    Args:
        make: The class.
        source: The publication.
        proper: Function of a loss of the class: whether the true probabilities minimise its expected value.
        bounded: Function of a loss of the class: whether the loss of a row has an upper bound.
        reads_target: Whether the loss needs a target.
        reweighted: Whether the gradient differs from the derivative of the value by design.
    """

    make: Callable[..., Loss]
    source: str
    proper: Callable[[Any], bool] = lambda loss: False
    bounded: Callable[[Any], bool] = lambda loss: False
    reads_target: bool = True
    reweighted: bool = False

    @property
    def name(self) -> str:
        """Name of the class."""
        return self.make.__name__
