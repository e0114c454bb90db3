"""What a statistic is.

A `Stat` is one number per row, computed block by block of classes: `of` reads a tile, `merge` joins two
states, `value` reads the answer off the joined state, and `slope` is the derivative of that answer. Any split
of the classes gives the same number, so a block on one device, a tile in a kernel and a shard on a rank are
the same code.

A masked class is a logit of minus infinity: it has probability zero, slope zero and no part in any mean,
smallest logit or count.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from equipoise.stats.fast import FastTile, Rooms
from equipoise.stats.slope import Slope, mix
from equipoise.stats.tile import Tile, some

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

    def every(self, logits: Tensor, /) -> Tensor:
        """Return the statistic (N, C) for every class as the target; (N, 1) if it reads no target."""
        return ask(self, logits, None)[:, None]


PIECE = 2**21  # logits worked on at a time on a CPU: they stay in its last cache


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
        """Return their states of a tile."""
        return [stat.of(tile) for stat in self.stats]

    def values(self, states: Sequence[State]) -> list[Tensor]:
        """Return the statistics (N,)."""
        return [stat.value(state) for stat, state in zip(self.stats, states, strict=True)]

    def slope(self, states: Sequence[State], grads: Sequence[Tensor | None], target: Tensor | None) -> Slope:
        """Return the derivative of the sum of the statistics times `grads`, which may be None for zero."""
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
        return [tuple(next(remaining) for _ in range(stat.size)) for stat in self.stats]


class _Ask(torch.autograd.Function):
    """Statistics of dense logits; the logits alone are kept for the backward pass."""

    generate_vmap_rule = True

    @staticmethod
    def forward(group: Group, logits: Tensor, target: Tensor | None) -> tuple[Tensor, ...]:
        if works_in_place(logits):
            rooms = Rooms()
            parts = [
                group.flat(group.of(group.tile(rooms, logits[rows], some(target, rows))))
                for rows in row_blocks(logits, PIECE)
            ]
            numbers = parts[0] if len(parts) == 1 else list(map(torch.cat, zip(*parts, strict=True)))
        else:
            numbers = group.flat(group.of(Tile(logits, target, apart=group.apart)))
        values = group.values(group.unflat(numbers))
        return *(value.clone() for value in values), *numbers  # a value may be one of the states

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.group, logits, target = inputs
        numbers = output[len(ctx.group.stats) :]
        ctx.mark_non_differentiable(*numbers)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(logits, target, *numbers)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[None, Tensor, None]:
        logits, target, *numbers = ctx.saved_tensors
        group: Group = ctx.group
        states = group.unflat(numbers)
        wanted = grads[: len(group.stats)]
        if works_in_place(logits):
            result = torch.empty_like(logits)
            slope = group.slope(states, wanted, target)
            rooms = Rooms()
            for rows in row_blocks(logits, PIECE):
                tile = group.tile(rooms, logits[rows], some(target, rows))
                tile.write(slope.of_rows(rows), result[rows])
            return None, result, None
        tile = Tile(logits, target, apart=group.apart)
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():  # a second derivative is wanted
            states = group.of(tile)
        return None, group.slope(states, wanted, target).spread(tile), None


def works_in_place(logits: Tensor) -> bool:
    """Whether blocks of rows that stay in cache pay, and nobody looks on while they are worked over."""
    return (
        logits.device.type == "cpu"
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
    )


def row_blocks(logits: Tensor, size: int) -> list[slice]:
    """Cut the rows into blocks of about so many logits."""
    rows = max(1, size // max(1, logits.shape[1]))
    return [slice(start, start + rows) for start in range(0, max(1, len(logits)), rows)]


def ask_all(stats: Sequence[Stat], logits: Tensor, target: Tensor | None, /) -> dict[Stat, Tensor]:
    """Return statistics (N,) of dense logits and targets, twice differentiable in the logits."""
    group = Group(tuple(stats))
    if target is None and group.reads_target:
        raise ValueError("target must be given, got None; only penalties can do without one")
    answers: Any = _Ask.apply(group, logits, target if group.reads_target else None)
    return dict(zip(stats, answers, strict=False))


def ask(stat: Stat, logits: Tensor, target: Tensor | None, /) -> Tensor:
    """Return one statistic (N,) of dense logits and targets."""
    return ask_all([stat], logits, target)[stat]
