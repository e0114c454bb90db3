"""The states of a set of classes of a row: sums over the logits from which every statistic is computed.

Each sum is relative to `base`, the largest logit of the set, which is detached, as no statistic depends on
it. Sums over the classes below the largest logit do not contain the largest, so that one minus the largest
probability, or the entropy of a nearly certain row, is exact. States of two sets of classes are merged by
constant factors: blocks of classes, shards on ranks, and the target with the other classes.

A masked class has a logit of minus infinity and is in no sum.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

FAR = 1e4  # e^-FAR is 0 in every dtype


def finite_limit(dtype: torch.dtype) -> float:
    """Return a finite substitute for infinity: above any logit, with a finite square and finite sums."""
    return 2.0**62 if dtype == torch.float32 else 2.0**500


@final
@dataclass(frozen=True, eq=False)
class SoftTargets:
    """A table of soft targets; two are equal if they have the same tensor object.

    Args:
        table: (C, C) with a row for each target, or (C,) for all.
    """

    table: Tensor

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SoftTargets) and self.table is other.table

    def __hash__(self) -> int:
        return id(self.table)


class StateName(NamedTuple):
    """The name of one state (N,).

    Args:
        kind: A method of `Sums`, such as "rest_exp".
        parameter: The scale of exponentials, or the soft targets.
    """

    kind: str
    parameter: float | SoftTargets | None = None


class Sums:
    """The sums over a set of classes of each row, computed on first use.

    Args:
        read: Returns the state (N,) of a name.
        excess_exp: Implementation of the method `excess_exp`; None to compute it from two sums.
        first_order: Whether the sums have first derivatives only, as those of a kernel. A statistic then
            leaves out terms whose value and gradient are 0, and does not read `max_square`.
    """

    def __init__(
        self,
        read: Callable[[StateName], Any],
        excess_exp: Callable[[float], Tensor] | None = None,
        *,
        first_order: bool = False,
    ) -> None:
        self._read, self._excess_exp = read, excess_exp
        self.first_order = first_order
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
        """Largest logit, detached; a large negative number without a class."""
        return self._get("base")

    def max_exp(self, scale: float = 1.0) -> Tensor:
        """Sum of e^(scale (z - base)) over the classes at the base, which is their number."""
        return self._get("max_exp", scale)

    def rest_exp(self, scale: float = 1.0) -> Any:
        """The same sum over the classes below the base."""
        return self._get("rest_exp", scale)

    def excess_exp(self, scale: float = 1.0) -> Tensor:
        """Sum over all classes minus 1; -1 without a class.

        It is a single sum, but has an absolute error of eps, where `rest_exp` has a relative one.
        """
        if self._excess_exp is not None:
            return self._excess_exp(scale)
        return self.rest_exp(scale) + (self.max_exp(scale) - 1)

    @property
    def max_gap(self) -> Tensor:
        """Sum of (z - base) e^(z - base) over the classes at the base: 0, with non-zero derivative."""
        return self._get("max_gap")

    @property
    def max_square(self) -> Tensor:
        """Sum of (z - base)^2 over the classes at the base: value and gradient 0, second derivative not."""
        return self._get("max_square")

    @property
    def rest_gap(self) -> Any:
        """The same sum over the classes below the base."""
        return self._get("rest_gap")

    @property
    def min_base(self) -> Tensor:
        """Smallest logit, detached; a large number without a class."""
        return self._get("min_base")

    @property
    def min_exp(self) -> Tensor:
        """Sum of e^(z - min_base) over the classes with that logit, which is their number."""
        return self._get("min_exp")

    @property
    def sum_logit(self) -> Tensor:
        """Sum of the logits."""
        return self._get("sum_logit")

    @property
    def count(self) -> Tensor:
        """Number of classes, without a gradient."""
        return self._get("count")

    @property
    def greater(self) -> Any:
        """Number of logits larger than the target's, without a gradient."""
        return self._get("greater")

    def max_soft(self, soft: SoftTargets) -> Tensor:
        """Sum of the soft targets t over the classes at the base, without a gradient."""
        return self._get("max_soft", soft)

    def rest_soft(self, soft: SoftTargets) -> Any:
        """Sum of the soft targets over the classes below the base, without a gradient."""
        return self._get("rest_soft", soft)

    def max_soft_gap(self, soft: SoftTargets) -> Tensor:
        """Sum of t (z - base) over the classes at the base: 0, with non-zero derivative."""
        return self._get("max_soft_gap", soft)

    def rest_soft_gap(self, soft: SoftTargets) -> Any:
        """The same sum over the classes below the base."""
        return self._get("rest_soft_gap", soft)


@final
class RowStates:
    """The states of rows: sums over all classes, or the target's logit and sums over the other classes.

    Args:
        sums: Sums over all classes, or without the target if target_logit is given.
        target_logit: (N,) logit of the target, or None.
        target_soft: Returns the soft target (N,) of the target.
        valid: (N,) value of the property `valid`, if known.

    Attributes:
        all: The sums over all classes.
        separate: Whether target_logit was given, so that `others` exists.
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
        self.separate: bool = target_logit is not None
        self.all: Sums = sums if target_logit is None else merge(sums, one_class(target_logit, target_soft))

    @classmethod
    def read(cls, read: Callable[[StateName], Any], *, separate: bool, parts: int = 1) -> "RowStates":
        """Return the states whose values (N,) a function returns, such as those of a kernel.

        Args:
            read: Returns the value of a name: those of `Sums`, "target_logit" and "target_soft".
            separate: Whether the sums are over the classes without the target.
            parts: Merge this number of equal states.
        """
        sums = Sums(read, first_order=True)
        for _ in range(parts - 1):
            sums = merge(sums, Sums(read, first_order=True))
        if not separate:
            return cls(sums)
        return cls(sums, read(StateName("target_logit")), lambda soft: read(StateName("target_soft", soft)))

    @property
    def valid(self) -> Tensor:
        """1 for rows (N,) with an allowed class and without nan and plus infinity, else nan."""
        if self._valid is not None:
            return self._valid
        base = self.all.base
        return torch.where((self.all.max_exp() > 0) & (base < torch.inf), 1.0, torch.nan).to(base.dtype)

    @property
    def others(self) -> Sums:
        """The sums over the classes without the target."""
        assert self._target_logit is not None, "the target was not kept separate"
        return self._sums

    @property
    def target_logit(self) -> Tensor:
        """The target's logit."""
        assert self._target_logit is not None, "the target was not kept separate"
        return self._target_logit

    def number(self, name: StateName) -> Tensor:
        """Return the state (N,) of a name; see `read`."""
        if name.kind == "target_logit":
            return self.target_logit
        if name.kind == "target_soft":
            assert isinstance(name.parameter, SoftTargets)
            return self.target_soft(name.parameter)
        return self._sums.number(name)

    def target_soft(self, soft: SoftTargets) -> Tensor:
        """Return the soft target (N,) of the target."""
        assert self._target_soft is not None
        return self._target_soft(soft)


def one_class(logit: Tensor, soft_at: Callable[[SoftTargets], Tensor] | None = None) -> Sums:
    """Return the sums over one class.

    Args:
        logit: (N,) logit of the class.
        soft_at: Returns the soft target (N,) of the class.
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
        return 0.0  # no class is below the largest

    return Sums(read)


def merge(one: Sums, two: Sums) -> Sums:
    """Return the sums over the union of two sets of classes."""
    known: list[Any] = []

    def shifts() -> tuple[tuple[Sums, Tensor, Tensor], ...]:
        """Return, for each set, its base minus the common one, and whether the two are equal."""
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

    return Sums(read, excess_exp, first_order=one.first_order or two.first_order)


def _moved(sums: Sums, kind: str, parameter: Any, shift: Tensor, leads: Tensor) -> Any:
    """Return the term of a set in a sum relative to a base that is at least the set's own."""
    if kind == "max_exp":
        return torch.where(leads, sums.max_exp(parameter), 0.0)
    if kind == "max_gap":
        return torch.where(leads, sums.max_gap, 0.0)
    if kind == "max_square":
        return torch.where(leads, sums.max_square, 0.0)
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
