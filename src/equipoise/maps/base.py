"""What a map is: logits to probabilities, and always also to log-probabilities."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from equipoise.losses.table import Exact


class Map(ABC):
    """A map from logits to probabilities: an immutable value, used where a softmax would be.

    A class whose logit is minus infinity is masked: it has probability 0, a gradient of 0, and is not one of
    the n classes a guarantee speaks of. Half precision is computed and returned in float32.

    A subclass is a frozen dataclass with `_log_probs` and `smallest`; `_probs` where an exponential of
    `_log_probs` would lose something.
    """

    def probs(self, logits: Tensor, dim: int = -1) -> Tensor:
        """Return probabilities of the shape of the logits.

        Args:
            logits: Floating, any shape; minus infinity masks a class.
            dim: The class dimension.

        Raises:
            TypeError: If logits are not floating.
            ValueError: If an option does not fit the number of classes.
        """
        return self._along(self._probs, logits, dim)

    def log_probs(self, logits: Tensor, dim: int = -1) -> Tensor:
        """Return log-probabilities of the shape of the logits, minus infinity where a probability is 0.

        Args:
            logits: Floating, any shape; minus infinity masks a class.
            dim: The class dimension.

        Raises:
            TypeError: If logits are not floating.
            ValueError: If an option does not fit the number of classes.
        """
        return self._along(self._log_probs, logits, dim)

    @abstractmethod
    def smallest(self, num_classes: int) -> float:
        """Return the probability that each of n classes is guaranteed, whatever the logits; 0 for none."""

    @abstractmethod
    def _log_probs(self, logits: Tensor, /) -> Tensor:
        """Return log-probabilities along the last dimension, minus infinity for masked classes."""

    def _probs(self, logits: Tensor, /) -> Tensor:
        """Return probabilities along the last dimension."""
        return self._log_probs(logits).exp()

    def check(self, num_classes: int) -> None:
        """Raise if an option does not fit the number of classes; any fits by default."""
        del num_classes

    def _along(self, function: Callable[[Tensor], Tensor], logits: Tensor, dim: int) -> Tensor:
        if not isinstance(logits, Tensor) or not logits.is_floating_point():
            kind = logits.dtype if isinstance(logits, Tensor) else type(logits).__name__
            raise TypeError(
                f"logits must be a floating tensor, got {kind}; pass the scores before any softmax"
            )
        self.check(logits.shape[dim])
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()
        return function(logits.movedim(dim, -1)).movedim(-1, dim)


def masked_in(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return which classes are masked, and how many of the last dimension are not, (..., 1)."""
    masked = logits == -torch.inf
    return masked, (~masked).sum(-1, keepdim=True).to(logits.dtype)


@dataclass(frozen=True)
class _Hook:
    map: Map
    dim: int

    def __call__(self, module: nn.Module, inputs: Any, logits: Tensor) -> Tensor:
        del module, inputs
        return self.map.log_probs(logits, self.dim)


def emit_log_probs(head: nn.Module, map: Map, dim: int = -1) -> RemovableHandle:
    """Make a classification head return the log-probabilities of a map instead of its logits.

    As softmax(log p) = p, whatever takes logits downstream (generation, pipelines, metrics, a `Categorical`)
    sees the map's probabilities and needs no change. Train with a loss of log-probabilities then, such as
    cross entropy.

    Args:
        head: The module whose output is the logits, a tensor.
        map: The map.
        dim: The class dimension.

    Returns:
        A handle whose `remove()` gives the logits back.

    Example:
        >>> from equipoise.maps import Floored
        >>> head = torch.nn.Linear(4, 3)
        >>> handle = emit_log_probs(head, Floored(floor=0.1))
        >>> bool(head(100 * torch.randn(8, 4)).softmax(-1).min() > 0.0999)
        True
        >>> handle.remove()
    """
    return head.register_forward_hook(_Hook(map, dim))


@final
@dataclass(frozen=True)
class MapEntry:
    """A map as the table lists it. Tests and documentation follow from the table.

    Args:
        make: The class.
        at: Settings to test, for up to eight classes.
        definition: The textbook formula: `definition(map, exact)` is the list of probabilities, or None if it
            is random.
        source: Where it comes from.
        gradient: What the gradient does, in a few words.
        attained: Whether `smallest` is reached, in the limit, by some logits; else it is a bound.
        keeps_to_the_bit: Whether the smallest probability is kept to the bit, not to rounding.
        straight_through: Whether the gradient is designed, so that it is not the derivative of the value.
    """

    make: Callable[..., Map]
    at: tuple[Map, ...]
    definition: Callable[[Any, Exact], list[Any]] | None
    source: str
    gradient: str
    attained: bool = True
    keeps_to_the_bit: bool = False
    straight_through: bool = False

    @property
    def name(self) -> str:
        """Name of the class."""
        return self.make.__name__
