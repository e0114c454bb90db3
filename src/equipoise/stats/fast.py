"""The same sums and slopes, in memory that is used again: for a CPU, while autograd does not look on.

On a CPU it is fresh memory that costs, and `exp`. A piece of rows is small enough to stay in cache, every
temporary has a place of its own there, comparisons write floats, and the exponentials come from one softmax.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

import torch
from torch import Tensor

from equipoise.stats.slope import Slope
from equipoise.stats.tile import Tile, finite_limit, once


@final
class Rooms:
    """Memory for the temporaries of one piece of rows after the other."""

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def take(self, name: str, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Return a tensor like another, whatever it holds; the largest piece comes first."""
        if name not in self._held or self._held[name].numel() < like.numel():
            self._held[name] = torch.empty(like.numel(), dtype=dtype or like.dtype, device=like.device)
        return self._held[name][: like.numel()].view(like.shape)


@final
class FastTile(Tile):
    """A tile that works in place.

    Args:
        block: As for `Tile`.
        target: As for `Tile`.
        start: As for `Tile`.
        apart: As for `Tile`.
        rooms: Where to work.
        light: Scale c if only `own`, `top`, `total(c)` and the softmax of c z will be asked for.
        spare: Whether the block may be overwritten: by minus infinity at the target, and with `light` by that
            softmax.
    """

    def __init__(
        self,
        block: Tensor,
        target: Tensor | None,
        start: int | None = None,
        *,
        apart: bool,
        rooms: Rooms,
        light: float | None = None,
        spare: bool = False,
    ) -> None:
        self.rooms = rooms
        self.light = light
        self.spare = spare
        super().__init__(block, target, start, apart=apart)

    def room(self, name: str) -> Tensor:
        """Return memory for a temporary of this size."""
        return self.rooms.take(name, self.block)

    def _leave_out(self, place: Tensor, hole: Tensor) -> Tensor:
        rest = self.block if self.spare else self.room("rest").copy_(self.block)
        return rest.scatter_(1, place, hole)

    @once
    def softmax(self) -> Tensor:
        """Softmax of this run of classes, at the scale of a light tile; zero where all are masked."""
        empty = self.empty  # reads the logits, which may be overwritten here
        in_place = self.light is not None and (self.spare or self.own is not None)
        out = self.rest if in_place else self.room("softmax")
        logits = self.rest
        if self.light is not None and self.light != 1:
            logits = torch.mul(logits, self.light, out=out)
        torch.softmax(logits, 1, out=out)
        if empty.any():
            out[empty] = 0.0
        return out

    @once
    def gaps(self) -> Tensor:
        """How far each logit lies above the largest, bounded far below where e^gap is zero."""
        limit = finite_limit(self.top.dtype)
        gaps = torch.sub(self.rest, self.top.clamp(min=-limit)[:, None], out=self.room("gaps"))
        return gaps.clamp_(min=-limit / 8)

    def power(self, scale: float) -> Tensor:
        """Return e^(scale gap), until it is asked for another scale."""
        out = self.room("power")
        if scale in (1, 2):
            torch.div(self.softmax, self.peak[:, None], out=out)
            return out if scale == 1 else out.square_()
        torch.mul(self.gaps, scale, out=out).exp_()
        if self.empty.any():
            out[self.empty] = 0.0
        return out

    def total(self, scale: float) -> Tensor:
        """Sum of e^(scale gap), the largest included."""
        if scale == (self.light or 1):
            return (1 / self.peak).masked_fill(self.empty, 0.0)
        return self.power(scale).sum(1)

    def smaller(self, scale: float) -> Tensor:
        """Sum of e^(scale gap) over the classes below the largest."""
        if scale == 1:
            return torch.linalg.vecdot(self.softmax, self._below()) / self.peak
        return torch.linalg.vecdot(self.power(scale), self._below())

    @once
    def ties(self) -> Tensor:
        """How many classes share the largest logit."""
        return (self.block.shape[1] - self._below().sum(1)).masked_fill_(self.empty, 0)

    def _below(self) -> Tensor:
        """One for classes below the largest, else zero."""
        return torch.lt(self.rest, self.top[:, None], out=self.room("work"))

    @once
    def spread(self) -> Tensor:
        """Sum of e^gap times minus the gap."""
        return -torch.linalg.vecdot(self.softmax, self.gaps) / self.peak

    @once
    def any_masked(self) -> bool:
        """Whether a class other than the target is masked."""
        with self._hole_at(torch.inf):
            return bool((self.rest.amin(1) == -torch.inf).any())

    def _level(self) -> tuple[Tensor, Tensor]:
        with self._hole_at(0.0):
            total = self.rest.sum(1)
        if not total.isfinite().all():  # some class is masked
            return super()._level()
        if self.own is None:
            return total, torch.full_like(total, self.block.shape[1])
        own = self.own.masked_fill(self.own == -torch.inf, 0.0)
        elsewhere = self.place[1]
        others = self.block.shape[1] - (1 if elsewhere is None else (~elsewhere[:, 0]).to(total.dtype))
        return total + own, others + self.own_there

    def _lowest(self) -> tuple[Tensor, Tensor]:
        with self._hole_at(torch.inf):
            bottom = self.rest.amin(1)
            ties = torch.eq(self.rest, bottom[:, None], out=self.room("work")).sum(1)
        if (bottom == -torch.inf).any():
            return super()._lowest()
        return bottom, ties.masked_fill(bottom == torch.inf, 0.0)

    @contextmanager
    def _hole_at(self, value: float) -> Iterator[None]:
        """Put a value where the target was left out, for a while."""
        if self.own is None:
            yield
            return
        place, elsewhere = self.place
        hole = self.rest.gather(1, place)
        self.rest.scatter_(
            1,
            place,
            hole.masked_fill(hole == -torch.inf, value)
            if elsewhere is None
            else torch.where(elsewhere, hole, value),
        )
        yield
        self.rest.scatter_(1, place, hole)

    def write(self, slope: Slope, out: Tensor) -> None:
        """Write a slope to `out`, which may be the block."""
        scale = self.light or 1.0
        if slope.is_power(scale):
            torch.mul(self.softmax, (slope.powers[scale] * self._lift(slope, scale))[:, None], out=out)
        else:
            out.copy_(self._sum(slope))
        if slope.own is not None:
            out.scatter_(1, self.place[0], self.at_place(out, slope.own))

    def _lift(self, slope: Slope, scale: float) -> Tensor:
        """Sum of e^(scale (z - top)) over this tile, for the top of the slope."""
        if slope.total is not None:
            return slope.total
        return self.total(scale) * torch.exp(scale * self._drop(slope))

    def _drop(self, slope: Slope) -> Tensor:
        """How far the largest logit of this tile lies below the top of the slope, as a negative number."""
        assert slope.top is not None
        limit = finite_limit(slope.top.dtype)
        return self.top.clamp(min=-limit) - slope.top.clamp(min=-limit)

    def _sum(self, slope: Slope) -> Tensor:
        if slope.soft or (slope.level is not None and self.any_masked):
            return slope.spread(Tile(self.block, self.target, self.start, apart=self.own is not None))
        result, once = self.room("result"), slope.powers.get(1.0)
        if slope.gap is not None:
            drop = self._drop(slope)
            shift = slope.gap * drop if once is None else once + slope.gap * drop
            lift = self._lift(slope, 1.0)
            torch.addcmul((shift * lift)[:, None], self.gaps, (slope.gap * lift)[:, None], out=result)
            result.mul_(self.softmax)
        elif once is not None:
            torch.mul(self.softmax, (once * self._lift(slope, 1.0))[:, None], out=result)
        else:
            result.zero_()
        for scale, a in slope.powers.items():
            if scale != 1:
                result.addcmul_(self.power(scale), (a * torch.exp(scale * self._drop(slope)))[:, None])
        if slope.level is not None:
            result.add_(slope.level[:, None])
        for value, m in slope.marks:
            mark = torch.eq(self.rest, value[:, None], out=self.room("work"))
            result.addcmul_(mark, m[:, None])
        return result
