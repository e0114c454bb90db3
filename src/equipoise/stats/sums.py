"""What a tile and a kernel tell each other: which sums are asked for, these once computed, and a slope."""

from collections.abc import Sequence
from typing import Any, final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from equipoise.stats.base import Group
from equipoise.stats.slope import Slope
from equipoise.stats.tile import Tile


@final
class Sums(Tile):
    """A tile whose sums are known already: by the names of `Tile`, or (name, argument).

    Args:
        own: The target's logit, where it is kept out of the sums.
        target: (N,) class of each row.
        known: The sums.
    """

    def __init__(self, own: Tensor | None, target: Tensor | None, known: dict[Any, Any]) -> None:
        self.own = own
        self.target = target
        self.known = self.sums = known

    def total(self, scale: float) -> Tensor:
        """Sum of e^(scale gap), the largest included."""
        return self.sums["total", scale]

    def smaller(self, scale: float) -> Tensor:
        """Sum of e^(scale gap) over the classes below the largest."""
        return self.sums["smaller", scale]

    def soft(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Sums of soft targets times minus the gap, and of them."""
        return self.sums["soft", rows]


@final
class _Asked(dict[Any, Any]):
    """Has an answer to everything, and so comes to hold what was asked."""

    def __init__(self, one: Tensor) -> None:
        self._one = one

    def __contains__(self, key: object) -> bool:
        return True

    def __missing__(self, key: Any) -> Any:
        pair = key in ("level", "lowest") or key[0] == "soft"
        return self.setdefault(key, (self._one, self._one) if pair else self._one)


_tried: WeakKeyDictionary[Group, tuple[tuple[Any, ...], Slope]] = WeakKeyDictionary()


def tried(group: Group, device: torch.device) -> tuple[tuple[Any, ...], Slope]:
    """Return what a group asks of a tile, and a slope that has what its slopes are made of.

    It is tried on a made-up tile.
    """
    if group not in _tried:
        one = torch.ones(1, device=device)
        asked, target = _Asked(one), one.long() - 1
        states = group.of(Sums(one if group.apart else None, target, asked))
        _tried[group] = tuple(asked), group.slope(states, [one] * len(group.stats), target)
    return _tried[group]


def laid_out(
    slope: Slope, like: Tensor, scales: Sequence[float] = ()
) -> tuple[tuple[float, ...], list[Tensor], Tensor]:
    """Return the scales and soft targets of a slope, and the numbers (K, N) it is made of.

    Row by row: what the exponentials are relative to, the level, the slope at the target, the factors of the
    exponentials at each scale, those of them times the gap, the marked logits, their marks, and the factors
    of the soft targets; zero for what is not there.

    Args:
        slope: Of N rows.
        like: (N,), of the dtype and device they are wanted in.
        scales: Scales that are laid out whether the slope has them or not.
    """
    powers: dict[float, Tensor | None] = dict.fromkeys(scales)
    if slope.top is not None:
        powers |= slope.powers
        if slope.gap is not None:
            powers.setdefault(1.0, None)
    powers = dict(sorted(powers.items()))
    rows: list[Tensor | None] = [
        slope.top,
        slope.level,
        slope.own,
        *powers.values(),
        *(slope.gap if scale == 1 else None for scale in powers),
        *(value for value, _ in slope.marks),
        *(m for _, m in slope.marks),
        *(s for _, s in slope.soft),
    ]
    zero = torch.zeros_like(like)
    numbers = torch.stack([zero if row is None else row.to(like.dtype) for row in rows])
    return tuple(powers), [t for t, _ in slope.soft], numbers
