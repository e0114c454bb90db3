"""A run of classes of some rows of logits, read once for every statistic that asks."""

from collections.abc import Callable
from typing import Any, TypeVar, final

import torch
from torch import Tensor


def finite_limit(dtype: torch.dtype) -> float:
    """Stand-in for infinity: large beyond any logit, small enough that sums of a few stay finite."""
    return torch.finfo(dtype).max / 8


def above(logits: Tensor, top: Tensor) -> Tensor:
    """Logits less `top`; a row or a class with nothing in it stays at minus infinity, never nan."""
    return logits - top.clamp(min=-finite_limit(top.dtype))[:, None]


T = TypeVar("T")


def _once(read: Callable[["Tile"], T]) -> T:
    """A property that is computed once; functools' own takes a lock, which a trace cannot."""

    def get(tile: "Tile") -> T:
        if read.__name__ not in tile.known:
            tile.known[read.__name__] = read(tile)
        return tile.known[read.__name__]

    return property(get, doc=read.__doc__)  # pyright: ignore[reportReturnType]


@final
class Tile:
    """Logits (N, B) of a run of classes, and the sums over them that statistics are made of.

    Each sum is computed once, when first asked for. With `apart`, `own` is the target's logit and everything
    else is of the other classes, so that nothing has to be subtracted from a sum that the target dominates.

    Args:
        block: (N, B).
        target: (N,) class of each row, counted over all classes; None where no statistic reads it.
        start: Class of the first column.
        apart: Whether the target is kept out of the sums.
        fast: Whether to work in place and skip what only autograd, a compiler or vmap needs.
        light: Scale c if only `own`, `top`, `total(c)` and the softmax of c z will be asked for.
        spare: Whether the block may be overwritten: by minus infinity at the target, and with `light` by that
            softmax.
    """

    def __init__(
        self,
        block: Tensor,
        target: Tensor | None = None,
        start: int = 0,
        *,
        apart: bool = False,
        fast: bool = False,
        light: float | None = None,
        spare: bool = False,
    ) -> None:
        self.block = block
        self.target = target
        self.start = start
        self.fast = fast
        self.scale = light if fast and light is not None else 1.0
        self.in_place = fast and light is not None and (apart or spare)
        self.known: dict[str, Any] = {}
        self.own: Tensor | None = None
        self.rest = block
        if apart:
            place, elsewhere = place_of(target, start, block.shape[1])
            picked = block.gather(1, place)
            self.own = picked.masked_fill(elsewhere, -torch.inf)[:, 0]
            hole = picked.masked_fill(~elsewhere, -torch.inf)
            self.rest = block.scatter_(1, place, hole) if spare else block.scatter(1, place, hole)
        self.top = self.rest.amax(1)
        self.empty = self.top == -torch.inf

    @property
    def own_there(self) -> Tensor:
        """One where the target is in this run of classes and not masked, else zero."""
        assert self.own is not None
        return (self.own > -torch.inf).to(self.own.dtype)

    @property
    def own_alone(self) -> tuple[Tensor, Tensor, Tensor]:
        """The target's logit as a largest one with nothing below it."""
        assert self.own is not None
        return self.own, self.own_there, torch.zeros_like(self.own)

    @_once
    def softmax(self) -> Tensor:
        """Softmax of this run of classes, at the scale of a light tile; zero where all are masked."""
        if not self.fast:
            bounded = self.rest.clamp(min=-finite_limit(self.rest.dtype))
            return bounded.softmax(1).masked_fill(self.empty[:, None], 0.0)
        logits, out = self.rest, self.rest if self.in_place else None
        if self.scale != 1:
            logits = torch.mul(logits, self.scale, out=out)
        probs = torch.softmax(logits, 1, out=out)
        if self.empty.any():
            probs[self.empty] = 0.0
        return probs

    @_once
    def _peak(self) -> Tensor:
        return self.softmax.amax(1).masked_fill(self.empty, 1.0)

    @_once
    def gaps(self) -> Tensor:
        """How far each logit lies above the largest, bounded far below where e^gap is zero."""
        return above(self.rest, self.top).clamp(min=-finite_limit(self.top.dtype) / 8)

    @_once
    def _largest(self) -> Tensor:
        return self.rest == self.top[:, None]

    def total(self, scale: float) -> Tensor:
        """Sum of e^(scale gap), the largest included."""
        if scale == self.scale:
            return (1 / self._peak).masked_fill(self.empty, 0.0)
        return self._power(scale).sum(1).masked_fill(self.empty, 0.0)

    def smaller(self, scale: float) -> Tensor:
        """Sum of e^(scale gap) over the classes below the largest."""
        if scale == self.scale:
            return self.softmax.masked_fill(self._largest, 0.0).sum(1) / self._peak
        return self._power(scale).masked_fill(self._largest, 0.0).sum(1)

    @_once
    def ties(self) -> Tensor:
        """How many classes share the largest logit."""
        return self._largest.sum(1).to(self.top.dtype).masked_fill(self.empty, 0.0)

    @_once
    def spread(self) -> Tensor:
        """Sum of e^gap times minus the gap."""
        return -(self.softmax * self.gaps).sum(1) / self._peak

    @_once
    def level(self) -> tuple[Tensor, Tensor]:
        """Sum of the logits that are not masked, and how many they are; the target's included."""
        masked = self.rest == -torch.inf
        total = self.rest.masked_fill(masked, 0.0).sum(1)
        count = (~masked).sum(1).to(total.dtype)
        if self.own is None:
            return total, count
        own = self.own.masked_fill(self.own == -torch.inf, 0.0)
        return total + own, count + self.own_there

    @_once
    def lowest(self) -> tuple[Tensor, Tensor]:
        """Smallest logit that is not masked, plus infinity where all are, and how many share it."""
        present = self.rest.masked_fill(self.rest == -torch.inf, torch.inf)
        bottom = present.amin(1)
        return bottom, (self.rest == bottom[:, None]).sum(1).to(bottom.dtype)

    def soft(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Sums over the classes that are not masked: of soft targets times minus the gap, and of them."""
        soft = soft_block(rows, self.target, self.start, self.block.shape[1])
        kept = torch.where(self.rest == -torch.inf, 0.0, soft)
        return -(kept * self.gaps).sum(1), kept.sum(1)

    def _power(self, scale: float) -> Tensor:
        if scale == 2 * self.scale:
            return (self.softmax / self._peak[:, None]).square()
        return torch.exp(scale * self.gaps)


def place_of(target: Tensor | None, start: int, width: int) -> tuple[Tensor, Tensor]:
    """Return the column (N, 1) of the target in a run of classes, and where it is elsewhere."""
    assert target is not None
    place = target[:, None] - start
    elsewhere = (place < 0) | (place >= width)
    return place.clamp(0, width - 1), elsewhere


def soft_block(rows: Tensor, target: Tensor | None, start: int, width: int) -> Tensor:
    """Return the soft targets (N, B) or (1, B) of a run of classes."""
    stop = start + width
    return rows[None, start:stop] if rows.ndim == 1 else rows[target, start:stop]


def at_target(rows: Tensor, target: Tensor | None) -> Tensor:
    """Return the soft targets' (N,) entries at the target itself."""
    return rows[target] if rows.ndim == 1 else rows[target, target]


def some(numbers: Tensor | None, rows: slice) -> Tensor | None:
    """Return some rows of what may not be there."""
    return None if numbers is None else numbers[rows]
