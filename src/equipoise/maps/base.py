"""What a map is: logits to probabilities, and always also to log-probabilities."""

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
    """A map from logits to probabilities: an immutable value, used where a softmax would be.

    A class is masked if the mask does not allow it, or if its logit is minus infinity or the smallest number
    of the logits' dtype, `torch.finfo(logits.dtype).min`. It has probability 0, a gradient of 0, and is not
    one of the n classes a guarantee speaks of. A merely large negative logit, such as -1e8, masks nothing.

    A nan or plus infinity in a row, or no allowed class, gives nan for that row, in value and gradient; the
    other rows are right. Half precision is computed and returned in float32.

    A subclass is a frozen dataclass with `_log_probs` and `min_prob`; `_probs` where an exponential of
    `_log_probs` would lose something. Both are given rows with an allowed class and without nan or plus
    infinity.
    """

    def __call__(self, logits: Tensor, dim: int = -1, *, mask: Tensor | None = None) -> Tensor:
        """Return probabilities, as `probs` does: a map is called like `torch.nn.Softmax`."""
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
        # A nan, plus infinity, or all masked. Not by the largest logit: onnxruntime's drops a nan.
        bad = allowed.detach().softmax(-1)[..., :1].isnan()
        if is_plain(logits) and not bad.any():
            return function(allowed).movedim(-1, dim)
        answer = function(allowed.masked_fill(bad, 0.0))
        # Not a constant: the gradient of a bad row is nan too, and masked_fill keeps it from the others.
        return torch.where(bad, logits.masked_fill(~bad, 0.0) * torch.nan, answer).movedim(-1, dim)


@final
class MapModule(nn.Module):
    """A map as a module, called with logits and, if wanted, a mask.

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
    """Return the logits with minus infinity for masked classes, among them the smallest of the dtype."""
    logits = apply_mask(logits, mask, dim)
    least = logits.detach() <= torch.finfo(logits.dtype).min
    return logits if is_plain(logits) and not least.any() else logits.masked_fill(least, -torch.inf)


def below_largest(logits: Tensor) -> Tensor:
    """Return the logits less their largest: the same probabilities, but what scales them cannot overflow."""
    return logits - logits.detach().amax(-1, keepdim=True)


def masked_in(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return which classes are masked, and how many of the last dimension are not, (..., 1)."""
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

    As softmax(log p) = p, whatever takes logits downstream (generation, pipelines, metrics, a `Categorical`)
    sees the map's probabilities and needs no change. Train with a loss of log-probabilities then, such as
    cross entropy.

    Args:
        head: The module whose output is the logits, a tensor.
        map: The map.
        dim: The class dimension.
        mask: (C,) bool, True where a class is allowed, the same for every row: without the padding of a
            vocabulary, for example.

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
    return head.register_forward_hook(_Hook(map, dim, mask))


@final
@dataclass(frozen=True)
class MapEntry:
    """A map as the table lists it. Tests and documentation follow from the table.

    Args:
        make: The class.
        example: A map of the class, for up to eight classes.
        source: Where it comes from.
        gradient: What the gradient does, in a few words.
        attained: Whether `min_prob` is reached, in the limit, by some logits; else it is a bound.
        keeps_to_the_bit: Whether the smallest probability is kept to the bit, not to rounding.
        straight_through: Whether the gradient is designed, so that it is not the derivative of the value.
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
