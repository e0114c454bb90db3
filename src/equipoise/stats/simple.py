"""Means, counts and extremes of the logits."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from equipoise.stats.base import Stat, State
from equipoise.stats.peaks import share


@final
@dataclass(frozen=True)
class MeanLogit(Stat):
    """Mean of the logits of the classes that are not masked."""

    def of(self, block: Tensor, hit: Tensor | None, /) -> State:
        """State: sum and count."""
        del hit
        masked = block == -torch.inf
        return block.masked_fill(masked, 0.0).sum(1), (~masked).sum(1).to(block.dtype)

    def merge(self, one: State, two: State, /) -> State:
        """Join two blocks."""
        return one[0] + two[0], one[1] + two[1]

    def value(self, state: State, /) -> Tensor:
        """Mean (N,)."""
        return state[0] / state[1].clamp(min=1)

    def slope(self, block: Tensor, hit: Tensor | None, state: State, /) -> Tensor:
        """One over the count."""
        del hit
        return torch.where(block == -torch.inf, 0.0, 1 / state[1].clamp(min=1)[:, None])


@final
@dataclass(frozen=True)
class ClassCount(Stat):
    """How many classes are not masked. Its slope is zero."""

    def of(self, block: Tensor, hit: Tensor | None, /) -> State:
        """State: the count."""
        del hit
        return ((block != -torch.inf).sum(1).to(block.dtype),)

    def merge(self, one: State, two: State, /) -> State:
        """Join two blocks."""
        return (one[0] + two[0],)

    def value(self, state: State, /) -> Tensor:
        """Count (N,), floating."""
        return state[0]

    def slope(self, block: Tensor, hit: Tensor | None, state: State, /) -> Tensor:
        """Zero."""
        del hit, state
        return torch.zeros_like(block)


def _of_extreme(values: Tensor) -> State:
    """State of the largest of the values: it, and how many share it."""
    top = values.amax(1)
    return top, ((values == top[:, None]) & (values > -torch.inf)).sum(1).to(values.dtype)


def _merge_extremes(one: State, two: State) -> State:
    top = torch.maximum(one[0], two[0])
    return top, torch.where(one[0] == top, one[1], 0.0) + torch.where(two[0] == top, two[1], 0.0)


@final
@dataclass(frozen=True)
class Largest(Stat):
    """Largest logit. Where several are the largest they share the slope."""

    def of(self, block: Tensor, hit: Tensor | None, /) -> State:
        """State: largest, and how many share it."""
        del hit
        return _of_extreme(block)

    def merge(self, one: State, two: State, /) -> State:
        """Join two blocks."""
        return _merge_extremes(one, two)

    def value(self, state: State, /) -> Tensor:
        """Largest (N,)."""
        return state[0]

    def slope(self, block: Tensor, hit: Tensor | None, state: State, /) -> Tensor:
        """One at the largest."""
        del hit
        return share(block, state)


@final
@dataclass(frozen=True)
class Smallest(Stat):
    """Smallest logit of the classes that are not masked; where several are, they share the slope."""

    def of(self, block: Tensor, hit: Tensor | None, /) -> State:
        """State: minus the smallest, and how many share it."""
        del hit
        return _of_extreme(self._negated(block))

    def merge(self, one: State, two: State, /) -> State:
        """Join two blocks."""
        return _merge_extremes(one, two)

    def value(self, state: State, /) -> Tensor:
        """Smallest (N,)."""
        return -state[0]

    def slope(self, block: Tensor, hit: Tensor | None, state: State, /) -> Tensor:
        """One at the smallest."""
        del hit
        return share(self._negated(block), state)

    @staticmethod
    def _negated(block: Tensor) -> Tensor:
        return torch.where(block == -torch.inf, block, -block)
