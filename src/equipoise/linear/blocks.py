"""A block of logits, read and then differentiated: the reference in plain torch, for every device."""

from typing import Protocol, final

import torch
from torch import Tensor

from equipoise.stats import PIECE, FastTile, Group, Rooms, Slope, State, row_blocks, some


class Block(Protocol):
    """A block of logits of whole rows, or of a run of classes; what it is made by is a backend."""

    def states(self) -> list[State]:
        """Return the states of the statistics."""
        ...

    def write(self, slope: Slope, out: Tensor) -> None:
        """Write a slope to `out`, with respect to the logits as the matrix product gave them."""
        ...


class OpenBlock(Protocol):
    """A backend: makes a `Block` of logits z (R, B) of all classes or from `start` on; it may use z."""

    def __call__(
        self, group: Group, z: Tensor, target: Tensor | None, start: int = ..., *, softcap: float | None
    ) -> Block:
        """Return the block."""
        ...


@final
class TorchBlock:
    """A block that is worked on in place, on a CPU in pieces of rows that stay in cache."""

    def __init__(
        self,
        group: Group,
        z: Tensor,
        target: Tensor | None,
        start: int | None = None,
        *,
        softcap: float | None,
        rooms: Rooms,
    ) -> None:
        self._dtype = torch.float32 if z.dtype.itemsize < 4 else z.dtype
        if z.dtype != self._dtype and z.numel() <= PIECE:
            z = rooms.take("logits", z, self._dtype).copy_(z)
        self._group = group
        self._z = z
        self._target = target
        self._start = start
        self._softcap = softcap
        self._rooms = rooms
        self._pieces = row_blocks(z, PIECE if z.device.type == "cpu" else max(1, z.numel()))
        self._read: dict[int, FastTile] = {}  # tiles whose work will still be there

    def states(self) -> list[State]:
        """Return the states of the statistics."""
        parts = []
        for index, rows in enumerate(self._pieces):
            tile = self._tile(rows)
            parts.append(self._group.flat(self._group.of(tile)))
            in_place = tile.light is not None and tile.block.data_ptr() == self._z[rows].data_ptr()
            if in_place or len(self._pieces) == 1:
                self._read[index] = tile
        return self._group.unflat([torch.cat(numbers) for numbers in zip(*parts, strict=True)])

    def write(self, slope: Slope, out: Tensor) -> None:
        """Write the slope to `out`, which may be the logits themselves."""
        for index, rows in enumerate(self._pieces):
            tile = self._read.get(index) or self._tile(rows)
            place = out[rows]
            work = place if out.dtype == self._dtype else self._rooms.take("out", tile.block)
            tile.write(slope.of_rows(rows), work)
            if self._softcap is not None:
                work.mul_(self._rooms.take("chain", tile.block))
            if work is not place:
                place.copy_(work)

    def _tile(self, rows: slice) -> FastTile:
        block, spare = self._z[rows], True
        if block.dtype != self._dtype:
            block = self._rooms.take("block", block, self._dtype).copy_(block)
        if self._softcap is not None:
            block, spare = self._capped(block), False
        return FastTile(
            block,
            some(self._target, rows),
            self._start,
            apart=self._group.apart,
            rooms=self._rooms,
            light=self._group.light,
            spare=spare,
        )

    def _capped(self, block: Tensor) -> Tensor:
        """Cap the logits, and keep the derivative of the cap."""
        assert self._softcap is not None
        capped = torch.div(block, self._softcap, out=self._rooms.take("capped", block)).tanh_()
        torch.mul(capped, capped, out=self._rooms.take("chain", block)).neg_().add_(1)
        return capped.mul_(self._softcap)
