"""Means, counts and extremes of the logits."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from equipoise.stats.base import Stat, State
from equipoise.stats.peaks import share
from equipoise.stats.slope import Slope
from equipoise.stats.tile import Tile


@final
@dataclass(frozen=True)
class MeanLogit(Stat):
    """Mean of the logits of the classes that are not masked."""

    size: ClassVar[int] = 2

    def of(self, tile: Tile, /) -> State:
        """State: sum and count."""
        return tile.level

    def merge(self, one: State, two: State, /) -> State:
        """Join two tiles."""
        return one[0] + two[0], one[1] + two[1]

    def value(self, state: State, /) -> Tensor:
        """Mean (N,)."""
        return state[0] / state[1].clamp(min=1)

    def slope(self, state: State, /) -> Slope:
        """One over the count."""
        return Slope(level=1 / state[1].clamp(min=1))


@final
@dataclass(frozen=True)
class ClassCount(Stat):
    """How many classes are not masked. Its slope is zero."""

    size: ClassVar[int] = 1

    def of(self, tile: Tile, /) -> State:
        """State: the count."""
        return tile.level[1:]

    def merge(self, one: State, two: State, /) -> State:
        """Join two tiles."""
        return (one[0] + two[0],)

    def value(self, state: State, /) -> Tensor:
        """Count (N,), floating."""
        return state[0]

    def slope(self, state: State, /) -> Slope:
        """Zero."""
        del state
        return Slope()


def merge_extremes(one: State, two: State) -> State:
    """Join (largest, how many share it)."""
    top = torch.maximum(one[0], two[0])
    return top, torch.where(one[0] == top, one[1], 0.0) + torch.where(two[0] == top, two[1], 0.0)


@final
@dataclass(frozen=True)
class Largest(Stat):
    """Largest logit. Where several are the largest they share the slope."""

    size: ClassVar[int] = 2

    def of(self, tile: Tile, /) -> State:
        """State: largest, and how many share it."""
        state = tile.top, tile.ties
        return state if tile.own is None else self.merge(state, (tile.own, tile.own_there))

    def merge(self, one: State, two: State, /) -> State:
        """Join two tiles."""
        return merge_extremes(one, two)

    def value(self, state: State, /) -> Tensor:
        """Largest (N,)."""
        return state[0]

    def slope(self, state: State, /) -> Slope:
        """One at the largest."""
        return Slope(marks=((state[0], share(state[1])),))


@final
@dataclass(frozen=True)
class Smallest(Stat):
    """Smallest logit of the classes that are not masked; where several are, they share the slope."""

    size: ClassVar[int] = 2

    def of(self, tile: Tile, /) -> State:
        """State: minus the smallest, and how many share it."""
        bottom, ties = tile.lowest
        state = -bottom, ties
        if tile.own is None:
            return state
        return self.merge(state, (torch.where(tile.own == -torch.inf, tile.own, -tile.own), tile.own_there))

    def merge(self, one: State, two: State, /) -> State:
        """Join two tiles."""
        return merge_extremes(one, two)

    def value(self, state: State, /) -> Tensor:
        """Smallest (N,)."""
        return -state[0]

    def slope(self, state: State, /) -> Slope:
        """One at the smallest."""
        return Slope(marks=((-state[0], share(state[1])),))
