"""The derivative of any mix of statistics: a few numbers per row, spread over a block of logits."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import final

import torch
from torch import Tensor

from equipoise.stats.tile import Tile, above, at_target, finite_limit, scaled, some


@final
@dataclass(frozen=True)
class Slope:
    r"""A derivative with respect to the logits z of a row, in the one form that all statistics share.

    .. math:: \sum_c a_c e^{c (z - top)} + b (z - top) e^{z - top} + d + \sum_v m_v [z = v] + \sum_j s_j t_j

    at every class that is not masked, each letter a number per row; and, where the statistic holds
    the target apart, `own` at the target instead.

    Args:
        top: (N,) logit the exponentials are relative to, at least as large as any but the target's; None
            where there are none.
        powers: The a_c by their scale c.
        gap: b.
        level: d.
        marks: Pairs of v and m_v.
        soft: Pairs of soft targets t, (C,) or (C, C), and s.
        own: Derivative at the target.
        total: (N,) sum over all classes that are spread at once of the exponential at the only scale there
            is, where it is known.
    """

    top: Tensor | None = None
    powers: Mapping[float, Tensor] = field(default_factory=dict)
    gap: Tensor | None = None
    level: Tensor | None = None
    marks: tuple[tuple[Tensor, Tensor], ...] = ()
    soft: tuple[tuple[Tensor, Tensor], ...] = ()
    own: Tensor | None = None
    total: Tensor | None = None

    def times(self, factor: Tensor) -> "Slope":
        """Return the slope times a number (N,) for each row."""
        return Slope(
            self.top,
            {scale: factor * a for scale, a in self.powers.items()},
            None if self.gap is None else factor * self.gap,
            None if self.level is None else factor * self.level,
            tuple((value, factor * m) for value, m in self.marks),
            tuple((rows, factor * s) for rows, s in self.soft),
            None if self.own is None else factor * self.own,
            self.total,
        )

    def of_rows(self, rows: slice) -> "Slope":
        """Return the slope of some of the rows."""
        return Slope(
            some(self.top, rows),
            {scale: a[rows] for scale, a in self.powers.items()},
            some(self.gap, rows),
            some(self.level, rows),
            tuple((value[rows], m[rows]) for value, m in self.marks),
            tuple((soft, s[rows]) for soft, s in self.soft),
            some(self.own, rows),
            some(self.total, rows),
        )

    def at(self, logit: Tensor, target: Tensor) -> Tensor:
        """Return the slope (N,) at the target, given its logit (N,)."""
        if self.own is not None:
            return self.own
        return self._terms(logit[:, None], lambda rows: at_target(rows, target)[:, None])[:, 0]

    def relative_to(self, top: Tensor) -> "Slope":
        """Return the same slope relative to a logit that is not larger."""
        if self.top is None or self.top is top:
            return replace(self, top=top)
        limit = finite_limit(top.dtype)
        drop = top.clamp(min=-limit) - self.top.clamp(min=-limit)
        powers = {scale: a * torch.exp(scaled(scale, drop)) for scale, a in self.powers.items()}
        if self.gap is None:
            return replace(self, top=top, powers=powers)
        gap = self.gap * torch.exp(drop)
        once = gap * drop
        powers[1.0] = powers[1.0] + once if 1.0 in powers else once
        return replace(self, top=top, powers=powers, gap=gap)

    def is_power(self, scale: float) -> bool:
        """Whether the exponential at one scale is all there is."""
        others = self.gap is not None or self.level is not None or self.marks or self.soft
        return set(self.powers) == {scale} and not others

    def spread(self, tile: Tile) -> Tensor:
        """Return the slope (N, B) over a tile."""
        result = self._terms(tile.rest, tile.soft_rows)
        if self.own is None:
            return result
        return result.scatter(1, tile.place[0], tile.at_place(result, self.own))

    def _terms(self, block: Tensor, soft_of: Callable[[Tensor], Tensor]) -> Tensor:
        result: Tensor | None = None
        if self.top is not None and (self.powers or self.gap is not None):
            gaps = above(block, self.top)
            one = torch.exp(gaps)
            for scale, a in self.powers.items():
                power = one if scale == 1 else torch.exp(scale * gaps)
                result = _plus(result, a[:, None] * power)
            if self.gap is not None:
                finite = gaps.clamp(min=-finite_limit(gaps.dtype) / 8)
                result = _plus(result, self.gap[:, None] * (one * finite))
        if self.level is not None or self.soft:
            masked = block == -torch.inf
            if self.level is not None:
                result = _plus(result, torch.where(masked, 0.0, self.level[:, None]))
            for rows, s in self.soft:
                result = _plus(result, torch.where(masked, 0.0, s[:, None] * soft_of(rows)))
        for value, m in self.marks:
            result = _plus(result, torch.where(block == value[:, None], m[:, None], 0.0))
        return torch.zeros_like(block) if result is None else result


def mix(parts: Iterable[tuple[Tensor, Slope]], own: Tensor | None, target: Tensor | None) -> Slope:
    """Return the sum of slopes times numbers (N,) for each row.

    Args:
        parts: Factors and slopes of statistics of the same rows.
        own: (N,) logit of the target, if one of the slopes holds it apart.
        target: (N,) class, if so.
    """
    parts = list(parts)
    if own is not None:
        assert target is not None
        parts = [(factor, replace(slope, own=slope.at(own, target))) for factor, slope in parts]
    tops = [slope.top for _, slope in parts if slope.top is not None]
    least = torch.stack(tops).amin(0) if len(tops) > 1 else tops[0] if tops else None
    powers: dict[float, Tensor] = {}
    total = Slope(least)
    for factor, slope in parts:
        moved = (slope if least is None else slope.relative_to(least)).times(factor)
        for scale, a in moved.powers.items():
            powers[scale] = powers[scale] + a if scale in powers else a
        total = Slope(
            least,
            powers,
            _plus(total.gap, moved.gap),
            _plus(total.level, moved.level),
            total.marks + moved.marks,
            total.soft + moved.soft,
            _plus(total.own, moved.own),
        )
    return total


def _plus(one: Tensor | None, two: Tensor | None) -> Tensor | None:
    return two if one is None else one if two is None else one + two
