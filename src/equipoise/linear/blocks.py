"""A block of logits, read and then differentiated: the reference in plain torch, for every device."""

from typing import Protocol, final

import torch
from torch import Tensor

from equipoise.stats import PIECE, Block, FastTile, Group, Rooms, Slope, State, row_blocks, some


class OpenBlock(Protocol):
    """A backend: makes a `Block` of logits z (R, B) of all classes or from `start` on; it may use z."""

    def __call__(
        self, group: Group, z: Tensor, target: Tensor | None, start: int = ..., *, softcap: float | None
    ) -> Block:
        """Return the block."""
        ...


@final
class TorchBlock(Block):
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
        super().__init__(group, target)
        self._dtype = torch.float32 if z.dtype.itemsize < 4 else z.dtype
        self._z = z
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
            parts.append(self.group.flat(self.group.of(tile)))
            in_place = tile.light is not None and tile.block.data_ptr() == self._z[rows].data_ptr()
            if in_place or len(self._pieces) == 1:
                self._read[index] = tile
        return self.group.unflat([torch.cat(numbers) for numbers in zip(*parts, strict=True)])

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
        if self._z.dtype != self._dtype and self._z.numel() <= PIECE:
            self._z = self._rooms.take("logits", self._z, self._dtype).copy_(self._z)
        block, spare = self._z[rows], True
        if block.dtype != self._dtype:
            block = self._rooms.take("block", block, self._dtype).copy_(block)
        if self._softcap is not None:
            block, spare = self._capped(block), False
        return FastTile(
            block,
            some(self.target, rows),
            self._start,
            apart=self.group.apart,
            rooms=self._rooms,
            light=self.group.light,
            spare=spare,
        )

    def _capped(self, block: Tensor) -> Tensor:
        """Cap the logits, and keep the derivative of the cap."""
        assert self._softcap is not None
        capped = torch.div(block, self._softcap, out=self._rooms.take("capped", block)).tanh_()
        torch.mul(capped, capped, out=self._rooms.take("chain", block)).neg_().add_(1)
        return capped.mul_(self._softcap)
