"""How a loss is listed in a table, with the textbook formula it is held to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from equipoise.losses.base import Loss


@dataclass(frozen=True)
class Exact:
    """One row in exact arithmetic, as a definition in an `Entry` sees it.

    Args:
        mp: mpmath, with the precision set.
        z: Logits of the classes that are not masked, as mpmath numbers.
        p: Their probabilities.
        y: Place of the target among them.
        kept: Places of these classes among all of them.
        num_classes: Number of classes, masked ones included.
    """

    mp: Any
    z: Sequence[Any]
    p: Sequence[Any]
    y: int
    kept: Sequence[int]
    num_classes: int

    @property
    def others(self) -> list[int]:
        """Places of the classes that are not the target."""
        return [k for k in range(len(self.p)) if k != self.y]


@dataclass(frozen=True)
class Entry:
    """A loss as the table lists it. Tests, the command line and the documentation follow from the table.

    Args:
        make: The class.
        at: Settings to test.
        definition: The textbook formula, `definition(loss, exact)`, on exact probabilities; the loss's
            numbers are exact too.
        source: Where it comes from.
        proper: Whether the expected loss is smallest at the true probabilities, for a setting.
        bounded: Whether the loss of a row has an upper limit, for a setting.
        reads_target: Whether the loss needs a target.
        reweighted: Whether the gradient is designed, so that it is not the derivative of the value.
    """

    make: Callable[..., Loss]
    at: tuple[Loss, ...]
    definition: Callable[[Any, Exact], Any]
    source: str
    proper: Callable[[Any], bool] = lambda loss: False
    bounded: Callable[[Any], bool] = lambda loss: False
    reads_target: bool = True
    reweighted: bool = False

    @property
    def name(self) -> str:
        """Name of the class."""
        return self.make.__name__
