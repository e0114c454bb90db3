"""What a statistic is.

A `Stat` is one number per row, computed block by block of classes: `of` reads a tile, `merge` joins two
states, `value` reads the answer off the joined state, and `slope` is the derivative of that answer. Any split
of the classes gives the same number, so a block on one device, a tile in a kernel and a shard on a rank are
the same code.

A masked class is a logit of minus infinity: it has probability zero, slope zero and no part in any mean,
smallest logit or count. A row with a nan or plus infinity, or without a class that is not masked, has nan for
every statistic and slope.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch
from torch import Tensor

from equipoise.stats.fast import FastTile, Rooms
from equipoise.stats.slope import Slope, mix
from equipoise.stats.tile import Tile

State = tuple[Tensor, ...]


class Stat(ABC):
    """One number per row of logits, mergeable over blocks of classes.

    Shapes:
        A tile is of (N, B) logits, a run of B of the C classes; states are tuples of (N,) tensors; value
        (N,).
    """

    size: ClassVar[int]  # of numbers in a state

    @property
    def reads_target(self) -> bool:
        """Whether the number depends on the target."""
        return self.apart

    @property
    def apart(self) -> bool:
        """Whether the target must be kept out of the sums over classes."""
        return False

    @property
    def light(self) -> float | None:
        """Scale c if the softmax of c z, its largest logit and the target's are all it looks at."""
        return None

    @abstractmethod
    def of(self, tile: Tile, /) -> State:
        """Return the state of one tile."""

    @abstractmethod
    def merge(self, one: State, two: State, /) -> State:
        """Return the state of two tiles together; commutative and associative."""

    @abstractmethod
    def value(self, state: State, /) -> Tensor:
        """Return the (N,) statistic."""

    @abstractmethod
    def slope(self, state: State, /) -> Slope:
        """Return the derivative of the value, given the state of all classes."""

    def every(self, logits: Tensor, ask: "Ask", /) -> Tensor:
        """Return the statistic (N, C) for every class as the target; (N, 1) if it reads no target."""
        return ask(self, logits, None)[:, None]


Ask = Callable[[Stat, Tensor, Tensor | None], Tensor]  # one statistic (N,) of dense logits and targets


@final
@dataclass(frozen=True)
class Group:
    """Statistics that are computed together, from the same tiles."""

    stats: tuple[Stat, ...]

    @property
    def reads_target(self) -> bool:
        """Whether one of them depends on the target."""
        return any(stat.reads_target for stat in self.stats)

    @property
    def apart(self) -> bool:
        """Whether one of them needs the target kept out of the sums."""
        return any(stat.apart for stat in self.stats)

    @property
    def light(self) -> float | None:
        """Scale of the one softmax that is all they look at, if it is."""
        scales = {stat.light for stat in self.stats}
        return scales.pop() if len(scales) == 1 else None

    def tile(self, rooms: Rooms, block: Tensor, target: Tensor | None) -> FastTile:
        """Return a tile of whole rows that leaves the block as it is."""
        return FastTile(block, target, apart=self.apart, rooms=rooms, light=self.light)

    def of(self, tile: Tile) -> list[State]:
        """Return their states of a tile and, last, the largest logit of all.

        That is a tensor of its own: torch.compile refuses a function that returns one tensor twice.
        """
        largest = tile.top.clone() if tile.own is None else torch.maximum(tile.top, tile.own)
        return [*(stat.of(tile) for stat in self.stats), (largest,)]

    def merge(self, one: Sequence[State], two: Sequence[State]) -> list[State]:
        """Join the states of two tiles."""
        largest = torch.maximum(*one[-1], *two[-1])
        pairs = zip(self.stats, one[:-1], two[:-1], strict=True)
        return [*(stat.merge(*pair) for stat, *pair in pairs), (largest,)]

    def values(self, states: Sequence[State]) -> list[Tensor]:
        """Return the statistics (N,), nan for rows that are not `usable`."""
        *states, (largest,) = states
        nothing = largest - largest  # which is nan where that is infinite or nan
        return [stat.value(state) + nothing for stat, state in zip(self.stats, states, strict=True)]

    def usable(self, states: Sequence[State]) -> Tensor:
        """Return which rows (N,) have no nan, no plus infinity, and a class that is not masked."""
        return states[-1][0].isfinite()

    def slope(self, states: Sequence[State], grads: Sequence[Tensor | None], target: Tensor | None) -> Slope:
        """Return the derivative of the sum of the statistics times `grads`, which may be None for zero."""
        states = states[:-1]  # without the largest logit
        own = next((state[0] for stat, state in zip(self.stats, states, strict=True) if stat.apart), None)
        parts = [
            (grad, stat.slope(state))
            for stat, state, grad in zip(self.stats, states, grads, strict=True)
            if grad is not None
        ]
        slope = mix(parts, own, target)
        if self.light is None:
            return slope
        *_, total = next(
            state for stat, state in zip(self.stats, states, strict=True) if stat.apart == self.apart
        )
        return replace(slope, total=total)

    def flat(self, states: Sequence[State]) -> list[Tensor]:
        """Return the states in one list, as autograd keeps them."""
        return [number for state in states for number in state]

    def unflat(self, numbers: Sequence[Tensor]) -> list[State]:
        """Return the states from one list."""
        remaining = iter(numbers)
        sizes = *(stat.size for stat in self.stats), 1
        return [tuple(next(remaining) for _ in range(size)) for size in sizes]
