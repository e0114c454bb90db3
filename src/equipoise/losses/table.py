"""How a loss is listed in a table."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from equipoise.losses.base import Loss


@dataclass(frozen=True)
class Entry:
    """A loss as the table lists it. Tests, the command line and the documentation follow from the table.

    Args:
        make: The class.
        source: Where it comes from.
        proper: Whether the expected loss is smallest at the true probabilities, for a setting.
        bounded: Whether the loss of a row has an upper limit, for a setting.
        reads_target: Whether the loss needs a target.
        reweighted: Whether the gradient is designed, so that it is not the derivative of the value.
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
