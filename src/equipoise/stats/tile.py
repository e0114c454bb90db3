"""A run of classes of some rows of logits, read once for every statistic that asks."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def finite_limit(dtype: torch.dtype) -> float:
    """Stand-in for infinity: large beyond any logit, small enough that sums of a few stay finite."""
    return torch.finfo(dtype).max / 8


def scaled(scale: float, numbers: Tensor) -> Tensor:
    """Return numbers times a scale: themselves at scale 1, as an operation more costs where there are few."""
    return numbers if scale == 1 else scale * numbers


def above(logits: Tensor, top: Tensor) -> Tensor:
    """Logits less `top`; a row or a class with nothing in it stays at minus infinity, never nan."""
    return logits - top.clamp(min=-finite_limit(top.dtype))[:, None]


def once(read: Callable[[Any], T]) -> T:
    """A property that is computed once; functools' own takes a lock, which a trace cannot."""
    name = getattr(read, "__name__", "")

    def get(tile: "Tile") -> T:
        if name not in tile.known:
            tile.known[name] = read(tile)
        return tile.known[name]

    return property(get, doc=read.__doc__)  # pyright: ignore[reportReturnType]


class Tile:
    """Logits (N, B) of a run of classes, and the sums over them that statistics are made of.

    Each sum is computed once, when first asked for. With `apart`, `own` is the target's logit and everything
    else is of the other classes, so that nothing has to be subtracted from a sum that the target dominates.

    Args:
        block: (N, B).
        target: (N,) class of each row, counted over all classes; None where no statistic reads it.
        start: Class of the first column; None where every class is there.
        apart: Whether the target is kept out of the sums.
    """

    def __init__(
        self,
        block: Tensor,
        target: Tensor | None = None,
        start: int | None = None,
        *,
        apart: bool = False,
    ) -> None:
        self.block = block
        self.target = target
        self.start = start
        self.known: dict[str, Any] = {}
        self.own: Tensor | None = None
        self.rest = block
        if apart:
            place, elsewhere = self.place
            picked = block.gather(1, place)
            if elsewhere is None:
                self.own = picked[:, 0]
                self.rest = self._leave_out(place, torch.full_like(picked, -torch.inf))
            else:
                self.own = picked.masked_fill(elsewhere, -torch.inf)[:, 0]
                self.rest = self._leave_out(place, picked.masked_fill(~elsewhere, -torch.inf))

    def _leave_out(self, place: Tensor, hole: Tensor) -> Tensor:
        return self.block.scatter(1, place, hole)

    @once
    def place(self) -> tuple[Tensor, Tensor | None]:
        """Column (N, 1) of the target, and whether it is elsewhere; None if it never is."""
        assert self.target is not None
        if self.start is None:
            return self.target[:, None], None
        width = self.block.shape[1]
        place = self.target[:, None] - self.start
        return place.clamp(0, width - 1), (place < 0) | (place >= width)

    def at_place(self, block: Tensor, value: Tensor) -> Tensor:
        """Return what to put at the `place` of a block: a value (N,), or what is there if it is elsewhere."""
        place, elsewhere = self.place
        return (
            value[:, None]
            if elsewhere is None
            else torch.where(elsewhere, block.gather(1, place), value[:, None])
        )

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

    @once
    def top(self) -> Tensor:
        """Largest logit."""
        return self.rest.amax(1)

    @once
    def empty(self) -> Tensor:
        """Whether every class is masked."""
        return self.top == -torch.inf

    @once
    def softmax(self) -> Tensor:
        """Softmax of this run of classes; zero where all are masked."""
        bounded = self.rest.clamp(min=-finite_limit(self.rest.dtype))
        return bounded.softmax(1).masked_fill(self.empty[:, None], 0.0)

    @once
    def peak(self) -> Tensor:
        """Largest probability of that softmax; one where there is none."""
        return self.softmax.amax(1).masked_fill(self.empty, 1.0)

    @once
    def gaps(self) -> Tensor:
        """How far each logit lies above the largest, bounded far below where e^gap is zero."""
        return above(self.rest, self.top).clamp(min=-finite_limit(self.top.dtype) / 8)

    @once
    def below(self) -> Tensor:
        """One for classes below the largest, else zero."""
        return (self.rest < self.top[:, None]).to(self.rest.dtype)

    def power(self, scale: float) -> Tensor:
        """Return e^(scale gap)."""
        if scale in (1, 2):
            ratio = self.softmax / self.peak[:, None]
            return ratio if scale == 1 else ratio.square()
        return torch.exp(scale * self.gaps).masked_fill(self.empty[:, None], 0.0)

    def total(self, scale: float) -> Tensor:
        """Sum of e^(scale gap), the largest included."""
        if scale == 1:
            return (1 / self.peak).masked_fill(self.empty, 0.0)
        return self.power(scale).sum(1)

    def smaller(self, scale: float) -> Tensor:
        """Sum of e^(scale gap) over the classes below the largest."""
        return (self.power(scale) * self.below).sum(1)

    @once
    def ties(self) -> Tensor:
        """How many classes share the largest logit."""
        ties = (self.rest == self.top[:, None]).sum(1).to(self.top.dtype)
        return ties.masked_fill(self.empty, 0.0)

    @once
    def spread(self) -> Tensor:
        """Sum of e^gap times minus the gap."""
        return -(self.softmax * self.gaps).sum(1) / self.peak

    @once
    def level(self) -> tuple[Tensor, Tensor]:
        """Sum of the logits that are not masked, and how many they are; the target's included."""
        return self._level()

    def _level(self) -> tuple[Tensor, Tensor]:
        masked = self.rest == -torch.inf
        total = self.rest.masked_fill(masked, 0.0).sum(1)
        count = (~masked).sum(1).to(total.dtype)
        if self.own is None:
            return total, count
        return total + self.own.masked_fill(self.own == -torch.inf, 0.0), count + self.own_there

    @once
    def lowest(self) -> tuple[Tensor, Tensor]:
        """Smallest logit that is not masked, plus infinity where all are, and how many share it."""
        return self._lowest()

    def _lowest(self) -> tuple[Tensor, Tensor]:
        bottom = self.rest.masked_fill(self.rest == -torch.inf, torch.inf).amin(1)
        return bottom, (self.rest == bottom[:, None]).sum(1).to(bottom.dtype)

    @once
    def larger(self) -> Tensor:
        """How many logits are larger than the target's."""
        assert self.own is not None
        return (self.rest > self.own[:, None]).sum(1).to(self.own.dtype)

    def soft(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Sums over the classes that are not masked: of soft targets times minus the gap, and of them."""
        kept = torch.where(self.rest == -torch.inf, 0.0, self.soft_rows(rows))
        return -(kept * self.gaps).sum(1), kept.sum(1)

    def soft_rows(self, rows: Tensor) -> Tensor:
        """Return the soft targets (N, B) or (1, B) in this run of classes."""
        start = self.start or 0
        stop = start + self.block.shape[1]
        return rows[None, start:stop] if rows.ndim == 1 else rows[self.target, start:stop]


def at_target(rows: Tensor, target: Tensor | None) -> Tensor:
    """Return the soft targets' (N,) entries at the target itself."""
    return rows[target] if rows.ndim == 1 else rows[target, target]


def spoil(out: Tensor, usable: Tensor) -> None:
    """Write nan to the rows (N, B) that are not usable."""
    if out.device.type != "cpu":  # where to know whether there is any would be to wait
        out.masked_fill_(~usable[:, None], torch.nan)
    elif not usable.all():
        out[~usable] = torch.nan


def some(numbers: Tensor | None, rows: slice) -> Tensor | None:
    """Return some rows of what may not be there."""
    return None if numbers is None else numbers[rows]
