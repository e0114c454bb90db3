"""The state of a set of classes of a row: a few sums over the logits from which every statistic is computed.

Each sum is relative to `base`, the largest logit of the set, as a constant: no statistic depends on it. The
sums over the classes below the largest logit are kept without it, so one minus the largest probability, the
entropy of a nearly certain row and their like keep every digit. States of two sets of classes merge by
constant factors, so blocks of classes, shards on ranks and the target beside the other classes are all the
same computation.

A masked class is a logit of minus infinity and has no part in anything.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

FAR = 1e4  # e^-FAR is 0 in every dtype


def finite_limit(dtype: torch.dtype) -> float:
    """Return a stand-in for infinity: beyond any logit, and its square or the sum of many of it is finite."""
    return 2.0**62 if dtype == torch.float32 else 2.0**500


@final
@dataclass(frozen=True, eq=False)
class SoftTargets:
    """A table of soft targets, equal to another if it holds the same tensor.

    Args:
        table: (C, C) with a row for each target, or (C,) for all.
    """

    table: Tensor

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SoftTargets) and self.table is other.table

    def __hash__(self) -> int:
        return id(self.table)


class StateName(NamedTuple):
    """The name of one number (N,) of a state.

    Args:
        kind: Such as "rest_exp"; see `Sums`.
        parameter: The scale of exponentials, or the soft targets.
    """

    kind: str
    parameter: float | SoftTargets | None = None


class Sums:
    """The sums over a set of classes of each row, computed when first needed.

    Args:
        read: Returns the number (N,) of a name.
        excess_exp: Returns what the method does, where it is not computed from two sums.
    """

    def __init__(
        self, read: Callable[[StateName], Any], excess_exp: Callable[[float], Tensor] | None = None
    ) -> None:
        self._read, self._excess_exp = read, excess_exp
        self._computed: dict[StateName, Any] = {}

    def number(self, name: StateName) -> Any:
        """Return the number (N,) of a name."""
        if name not in self._computed:
            self._computed[name] = self._read(name)
        return self._computed[name]

    def _get(self, kind: str, parameter: float | SoftTargets | None = None) -> Any:
        return self.number(StateName(kind, parameter))

    @property
    def base(self) -> Tensor:
        """Largest logit z, a constant; the smallest finite number where there is no class."""
        return self._get("base")

    def max_exp(self, scale: float = 1.0) -> Tensor:
        """Sum of e^(scale (z - base)) over the classes at the base: how many they are."""
        return self._get("max_exp", scale)

    def rest_exp(self, scale: float = 1.0) -> Any:
        """The same sum over the classes below the base."""
        return self._get("rest_exp", scale)

    def excess_exp(self, scale: float = 1.0) -> Tensor:
        """The sum over all classes, less 1: what there is beside the largest, and -1 where there is no class.

        It loses digits below the rounding of 1, where `rest_exp` keeps them, but is a single sum.
        """
        if self._excess_exp is not None:
            return self._excess_exp(scale)
        return self.rest_exp(scale) + (self.max_exp(scale) - 1)

    @property
    def max_gap(self) -> Tensor:
        """Sum of (z - base) e^(z - base) over the classes at the base: 0, but its derivative is not."""
        return self._get("max_gap")

    @property
    def max_square(self) -> Any:
        """Sum of (z - base)^2 over the classes at the base: 0, its gradient 0, its second derivative not.

        Where states come from a kernel, which has first derivatives alone, it is the number 0.
        """
        return self._get("max_square")

    @property
    def rest_gap(self) -> Any:
        """The same sum over the classes below the base."""
        return self._get("rest_gap")

    @property
    def min_base(self) -> Tensor:
        """Smallest logit, a constant; the largest finite number where there is no class."""
        return self._get("min_base")

    @property
    def min_exp(self) -> Tensor:
        """Sum of e^(z - min_base) over the classes there: how many they are."""
        return self._get("min_exp")

    @property
    def sum_logit(self) -> Tensor:
        """Sum of the logits."""
        return self._get("sum_logit")

    @property
    def count(self) -> Tensor:
        """How many classes there are, a constant."""
        return self._get("count")

    @property
    def greater(self) -> Any:
        """How many logits are larger than the target's, a constant."""
        return self._get("greater")

    def max_soft(self, soft: SoftTargets) -> Tensor:
        """Sum of the soft targets t over the classes at the base, a constant."""
        return self._get("max_soft", soft)

    def rest_soft(self, soft: SoftTargets) -> Any:
        """Sum of the soft targets over the classes below the base, a constant."""
        return self._get("rest_soft", soft)

    def max_soft_gap(self, soft: SoftTargets) -> Tensor:
        """Sum of t (z - base) over the classes at the base: 0, but its derivative is not."""
        return self._get("max_soft_gap", soft)

    def rest_soft_gap(self, soft: SoftTargets) -> Any:
        """The same sum over the classes below the base."""
        return self._get("rest_soft_gap", soft)


@final
class RowStates:
    """The states of rows: of all classes, or of the target and the others.

    Args:
        sums: Over all classes, or over all but the target if that is kept separate.
        target_logit: (N,) logit of the target where it is kept separate, else None.
        target_soft: Returns the soft targets' entry (N,) at the target.
        valid: (N,) as the property, where it is known.

    Attributes:
        all: The sums over all classes.
        separate: Whether the target is kept out of the sums of `others`.
    """

    def __init__(
        self,
        sums: Sums,
        target_logit: Tensor | None = None,
        target_soft: Callable[[SoftTargets], Tensor] | None = None,
        valid: Tensor | None = None,
    ) -> None:
        self._sums, self._valid = sums, valid
        self._target_logit = target_logit
        self._target_soft = target_soft
        self.separate = target_logit is not None
        self.all = sums if target_logit is None else merge(sums, one_class(target_logit, target_soft))

    @classmethod
    def read(cls, read: Callable[[StateName], Any], *, separate: bool, parts: int = 1) -> "RowStates":
        """Return the states whose numbers (N,) a function returns, as a kernel has them.

        Args:
            read: Returns the number of a name; besides those of `Sums`, "target_logit" and "target_soft".
            separate: Whether the target is kept out of the sums.
            parts: Merge so many that are alike.
        """

        def first_order(name: StateName) -> Any:
            return 0.0 if name.kind == "max_square" else read(name)

        sums = Sums(first_order)
        for _ in range(parts - 1):
            sums = merge(sums, Sums(first_order))
        if not separate:
            return cls(sums)
        return cls(sums, read(StateName("target_logit")), lambda soft: read(StateName("target_soft", soft)))

    @property
    def valid(self) -> Tensor:
        """One for rows (N,) that have a class and neither nan nor plus infinity, else nan."""
        if self._valid is not None:
            return self._valid
        base = self.all.base
        return torch.where((self.all.max_exp() > 0) & (base < torch.inf), 1.0, torch.nan).to(base.dtype)

    @property
    def others(self) -> Sums:
        """The sums over all classes but the target."""
        assert self._target_logit is not None, "the target was not kept separate"
        return self._sums

    @property
    def target_logit(self) -> Tensor:
        """The target's logit."""
        assert self._target_logit is not None, "the target was not kept separate"
        return self._target_logit

    def number(self, name: StateName) -> Tensor:
        """Return the number (N,) of a name; see `read`."""
        if name.kind == "target_logit":
            return self.target_logit
        if name.kind == "target_soft":
            assert isinstance(name.parameter, SoftTargets)
            return self.target_soft(name.parameter)
        return self._sums.number(name)

    def target_soft(self, soft: SoftTargets) -> Tensor:
        """Return the soft targets' entry (N,) at the target."""
        assert self._target_soft is not None
        return self._target_soft(soft)


def one_class(logit: Tensor, soft_at: Callable[[SoftTargets], Tensor] | None = None) -> Sums:
    """Return the sums over one class.

    Args:
        logit: (N,) its logit.
        soft_at: Returns the soft targets' entry (N,) at it.
    """
    info = torch.finfo(logit.dtype)
    constant = logit.detach()
    masked = constant == -torch.inf
    base = torch.where(masked, info.min, constant)

    def read(name: StateName) -> Any:
        kind, parameter = name
        gap = (logit - base).clamp(min=-FAR)
        if kind == "base":
            return base
        if kind == "max_exp":
            assert isinstance(parameter, float | int)
            return torch.exp(gap if parameter == 1 else parameter * gap)
        if kind == "max_gap":
            return gap * torch.exp(gap)
        if kind == "max_square":
            return gap * gap
        if kind == "min_base":
            return torch.where(masked, info.max, constant)
        if kind == "min_exp":
            return torch.exp((logit - torch.where(masked, info.max, constant)).clamp(min=-FAR))
        if kind == "sum_logit":
            return torch.where(masked, 0.0, logit)
        if kind == "count":
            return torch.where(masked, 0.0, 1.0).to(logit.dtype)
        if kind in ("max_soft", "max_soft_gap"):
            assert soft_at is not None
            assert isinstance(parameter, SoftTargets)
            soft = torch.where(masked, 0.0, soft_at(parameter))
            return soft if kind == "max_soft" else soft * gap
        return 0.0  # there is no class below the largest

    return Sums(read)


def merge(one: Sums, two: Sums) -> Sums:
    """Return the sums over two sets of classes together."""
    known: list[Any] = []

    def shifts() -> tuple[tuple[Sums, Tensor, Tensor], ...]:
        """Of each set: its base less the common one, and whether they are equal."""
        if not known:
            base = torch.maximum(one.base, two.base)
            known.extend((sums, sums.base - base, sums.base == base) for sums in (one, two))
        return tuple(known)

    def read(name: StateName) -> Any:
        kind, parameter = name
        if kind == "base":
            return torch.maximum(one.base, two.base)
        if kind == "min_base":
            return torch.minimum(one.min_base, two.min_base)
        if kind == "min_exp":
            least = torch.minimum(one.min_base, two.min_base)
            first, second = (torch.where(sums.min_base == least, sums.min_exp, 0.0) for sums in (one, two))
            return first + second
        if kind in ("sum_logit", "count", "greater"):
            return getattr(one, kind) + getattr(two, kind)
        first, second = (_moved(sums, kind, parameter, shift, leads) for sums, shift, leads in shifts())
        return first + second

    def excess_exp(scale: float) -> Tensor:
        (_, first_shift, first_leads), (_, second_shift, _) = shifts()
        first, second = one.excess_exp(scale), two.excess_exp(scale)
        from_first = torch.exp(scale * first_shift.clamp(min=-FAR)) * (1 + first)
        from_second = torch.exp(scale * second_shift.clamp(min=-FAR)) * (1 + second)
        return torch.where(first_leads, first + from_second, from_first + second)

    return Sums(read, excess_exp)


def _moved(sums: Sums, kind: str, parameter: Any, shift: Tensor, leads: Tensor) -> Any:
    """Return what a set adds to a sum relative to a base that is not smaller than its own."""
    if kind == "max_exp":
        return torch.where(leads, sums.max_exp(parameter), 0.0)
    if kind == "max_gap":
        return torch.where(leads, sums.max_gap, 0.0)
    if kind == "max_square":
        square = sums.max_square
        return torch.where(leads, square, 0.0) if isinstance(square, Tensor) else square
    if kind == "max_soft":
        return torch.where(leads, sums.max_soft(parameter), 0.0)
    if kind == "max_soft_gap":
        return torch.where(leads, sums.max_soft_gap(parameter), 0.0)
    if kind == "rest_soft":
        return torch.where(leads, 0.0, sums.max_soft(parameter)) + sums.rest_soft(parameter)
    if kind == "rest_soft_gap":
        shift = shift.clamp(min=-finite_limit(shift.dtype))
        below = sums.rest_soft_gap(parameter) + shift * sums.rest_soft(parameter)
        first = sums.max_soft_gap(parameter) + shift * sums.max_soft(parameter)
        return below + torch.where(leads, 0.0, first)
    shift = shift.clamp(min=-FAR)
    if kind == "rest_exp":
        factor = torch.exp(shift if parameter == 1 else parameter * shift)
        return factor * (sums.rest_exp(parameter) + torch.where(leads, 0.0, sums.max_exp(parameter)))
    assert kind == "rest_gap", kind
    below = sums.rest_gap + shift * sums.rest_exp()
    return torch.exp(shift) * (below + torch.where(leads, 0.0, sums.max_gap + shift * sums.max_exp()))
