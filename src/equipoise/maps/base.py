"""`Map`, the base of functions from logits to probabilities and log-probabilities, and its module."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from equipoise.kernels.gate import is_plain
from equipoise.masking import apply_mask


class Map(ABC):
    """Function from logits to probabilities, as an immutable value; used in place of a softmax.

    A class is masked if the mask is False for it, or if its logit is minus infinity or the smallest number of
    the logits' dtype, `torch.finfo(logits.dtype).min`. A masked class has probability 0 and gradient 0, and
    is not counted in the n of `min_prob`. Other large negative logits, such as -1e8, do not mask.

    A row with a nan, plus infinity or no allowed class gives nan, in value and gradient; other rows are not
    affected. Half precision is computed and returned in float32.

    A subclass is a frozen dataclass with `_log_probs` and `min_prob`; also `_probs`, if exp(log_probs) would
    lose precision. Both methods get rows that have an allowed class, and neither nan nor plus infinity.
    """

    def __call__(self, logits: Tensor, dim: int = -1, *, mask: Tensor | None = None) -> Tensor:
        """Return `probs(logits)`, so that a map is called like `torch.nn.Softmax`."""
        return self._along(self._probs, logits, dim, mask)

    def probs(self, logits: Tensor, dim: int = -1, *, mask: Tensor | None = None) -> Tensor:
        """Return probabilities of the shape of the logits.

        Args:
            logits: Floating, any shape; minus infinity masks a class.
            dim: The class dimension.
            mask: Bool, True where a class is allowed, of shape (C,) or that of the logits; None allows all.

        Raises:
            TypeError: If logits are not floating, or the mask is not a bool tensor.
            ValueError: If an option does not fit the number of classes, or the mask has another shape.
        """
        return self._along(self._probs, logits, dim, mask)

    def log_probs(self, logits: Tensor, dim: int = -1, *, mask: Tensor | None = None) -> Tensor:
        """Return log-probabilities of the shape of the logits, minus infinity where a probability is 0.

        Args:
            logits: Floating, any shape; minus infinity masks a class.
            dim: The class dimension.
            mask: Bool, True where a class is allowed, of shape (C,) or that of the logits; None allows all.

        Raises:
            TypeError: If logits are not floating, or the mask is not a bool tensor.
            ValueError: If an option does not fit the number of classes, or the mask has another shape.
        """
        return self._along(self._log_probs, logits, dim, mask)

    def module(self, dim: int = -1) -> "MapModule":
        """Return the map as a module, for `torch.nn.Sequential`.

        Args:
            dim: The class dimension.

        Example:
            >>> from equipoise.maps import Floored
            >>> gate = torch.nn.Sequential(torch.nn.Linear(4, 3), Floored(floor=0.1).module())
            >>> bool(gate(torch.randn(8, 4)).min() >= 0.1)
            True
        """
        return MapModule(self, dim)

    @abstractmethod
    def min_prob(self, num_classes: int) -> float:
        """Return the lower bound of every probability of n classes, for any logits; 0 without a bound."""

    @abstractmethod
    def _log_probs(self, logits: Tensor, /) -> Tensor:
        """Return log-probabilities along the last dimension, minus infinity for masked classes."""

    def _probs(self, logits: Tensor, /) -> Tensor:
        """Return probabilities along the last dimension."""
        return self._log_probs(logits).exp()

    def check(self, num_classes: int) -> None:
        """Raise if an option is not valid for this number of classes; by default, do nothing."""
        del num_classes

    def _along(
        self, function: Callable[[Tensor], Tensor], logits: Tensor, dim: int, mask: Tensor | None
    ) -> Tensor:
        if not isinstance(logits, Tensor) or not logits.is_floating_point():
            kind = logits.dtype if isinstance(logits, Tensor) else type(logits).__name__
            raise TypeError(
                f"logits must be a floating tensor, got {kind}; pass the scores before any softmax"
            )
        if logits.ndim == 0 or logits.shape[dim] == 0:
            raise ValueError(f"logits must have at least one class, got shape {tuple(logits.shape)}")
        self.check(logits.shape[dim])
        allowed = mask_logits(logits, mask, dim)
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits, allowed = logits.float(), allowed.float()
        logits, allowed = logits.movedim(dim, -1), allowed.movedim(dim, -1)
        # A nan, plus infinity, or all masked. Not by the largest logit: onnxruntime's maximum ignores nan.
        bad = allowed.detach().softmax(-1)[..., :1].isnan()
        if is_plain(logits) and not bad.any():
            return function(allowed).movedim(-1, dim)
        answer = function(allowed.masked_fill(bad, 0.0))
        # Not a constant: the gradient of a bad row is nan too, and masked_fill keeps it from the others.
        return torch.where(bad, logits.masked_fill(~bad, 0.0) * torch.nan, answer).movedim(-1, dim)


@final
class MapModule(nn.Module):
    """A map as a module, called with logits and an optional mask.

    Args:
        map: The map.
        dim: The class dimension.
    """

    def __init__(self, map: Map, dim: int = -1) -> None:
        super().__init__()
        self.map = map
        self.dim = dim

    def forward(self, logits: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the probabilities of the map, in the shape of the logits."""
        return self.map(logits, self.dim, mask=mask)

    def extra_repr(self) -> str:
        """Return the map and the class dimension."""
        return f"{self.map!r}, dim={self.dim}"


def mask_logits(logits: Tensor, mask: Tensor | None = None, dim: int = -1) -> Tensor:
    """Return the logits with minus infinity for masked classes and for the smallest number of the dtype."""
    logits = apply_mask(logits, mask, dim)
    least = logits.detach() <= torch.finfo(logits.dtype).min
    return logits if is_plain(logits) and not least.any() else logits.masked_fill(least, -torch.inf)


def below_largest(logits: Tensor) -> Tensor:
    """Return the logits minus their largest, which have the same softmax and do not overflow when scaled."""
    return logits - logits.detach().amax(-1, keepdim=True)


def masked_in(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the masked classes (..., C), and the number of the others (..., 1)."""
    masked = logits == -torch.inf
    return masked, (~masked).sum(-1, keepdim=True).to(logits.dtype)


@dataclass(frozen=True)
class _Hook:
    map: Map
    dim: int
    mask: Tensor | None

    def __call__(self, module: nn.Module, inputs: Any, logits: Tensor) -> Tensor:
        del module, inputs
        return self.map.log_probs(logits, self.dim, mask=self.mask)


def emit_log_probs(
    head: nn.Module, map: Map, dim: int = -1, *, mask: Tensor | None = None
) -> RemovableHandle:
    """Make a classification head return the log-probabilities of a map instead of its logits.

    As softmax(log p) = p, code that takes logits (generation, pipelines, metrics, a `Categorical`) then uses
    the map's probabilities without a change. Train with a loss that is a function of log-probabilities, such
    as cross entropy.

    Args:
        head: The module whose output is the logits, a tensor.
        map: The map.
        dim: The class dimension.
        mask: (C,) bool, True where a class is allowed, the same for every row; for example, False for the
            padding of a vocabulary.

    Returns:
        A handle; after `handle.remove()` the head returns logits again.

    Example:
        >>> from equipoise.maps import Floored
        >>> head = torch.nn.Linear(4, 3)
        >>> handle = emit_log_probs(head, Floored(floor=0.1))
        >>> bool(head(100 * torch.randn(8, 4)).softmax(-1).min() > 0.0999)
        True
        >>> handle.remove()
    """
    return head.register_forward_hook(_Hook(map, dim, mask))


@final
@dataclass(frozen=True)
class MapEntry:
    """A row of the table of maps, which tests and documentation read.

    Args:
        make: The class.
        example: A map of the class, for up to eight classes.
        source: The publication.
        gradient: Behaviour of the gradient, in a few words.
        attained: Whether `min_prob` is the infimum over all logits; else it is a lower bound.
        keeps_to_the_bit: Whether no rounding error takes a probability below `min_prob`.
        straight_through: Whether the gradient differs from the derivative of the value by design.
    """

    make: Callable[..., Map]
    example: Map
    source: str
    gradient: str
    attained: bool = True
    keeps_to_the_bit: bool = False
    straight_through: bool = False

    @property
    def name(self) -> str:
        """Name of the class."""
        return self.make.__name__
