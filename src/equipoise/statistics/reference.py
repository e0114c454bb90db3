"""The states of logits by differentiable torch operations: the reference for every kernel.

As these are ordinary operations, autograd, forward mode, `torch.func`, `torch.compile` and dispatch modes
work.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from equipoise.statistics.base import Statistic
from equipoise.statistics.row import FullLogits, OfLogits, RowFunction, RowStatistics, require_target
from equipoise.statistics.states import FAR, RowStates, SoftTargets, StateName, Sums, finite_limit


def partial(
    logits: Tensor,
    target: Tensor | None = None,
    *,
    separate: bool = False,
    start: int | None = None,
    base: Tensor | None = None,
    min_base: Tensor | None = None,
    first_order: bool = False,
) -> RowStates:
    """Return the states of logits (N, B) of B consecutive classes.

    Args:
        logits: Minus infinity masks a class.
        target: (N,) class of each row, an index among all classes.
        separate: Whether the sums are over the classes without the target.
        start: Class of the first column; None if the columns are all classes.
        base: (N,) reference of the sums, at least the largest logit of the block; None for the largest logit.
        min_base: (N,) at most the smallest logit of the block; None for the smallest logit.
        first_order: Whether only first derivatives are needed.
    """
    others, target_logit = logits, None
    if separate:
        assert target is not None
        # Floats of the logits' dtype: int64 indices would halve the vector width of compiled code.
        number = logits.dtype if logits.shape[1] <= 2**24 else torch.int64
        columns = torch.arange(logits.shape[1], device=logits.device, dtype=number)
        # `as_strided` makes a compiler store them; it would recompute them for each logit.
        columns = columns.as_strided(columns.shape, (1,))
        here = columns == (target - (start or 0)).to(number)[:, None]
        others = torch.where(here, -torch.inf, logits)
        target_logit = torch.where(here, logits, 0.0).sum(1)
        if start is not None:
            target_logit = torch.where(here.any(1), target_logit, -torch.inf)
    largest = others.detach().amax(1)
    highest = largest if target_logit is None else torch.maximum(largest, target_logit.detach())
    # A bad row is nan in each entry, and so in its gradient. In a block, all classes may be masked.
    usable = highest.isfinite() if start is None else highest < torch.inf
    scale = torch.where(usable, 1.0, torch.nan).to(logits.dtype)
    if base is None:
        base = torch.where(largest == -torch.inf, torch.finfo(logits.dtype).min, largest)
    base = base * scale
    if target_logit is not None:
        target_logit = target_logit * scale

    def soft_of(soft: SoftTargets) -> Tensor:
        table = soft.table.to(logits)
        if table.ndim == 2:
            assert target is not None
            table = table[target]
        stop = (start or 0) + logits.shape[1]
        return table[..., start or 0 : stop].expand(logits.shape)

    def target_soft(soft: SoftTargets) -> Tensor:
        table = soft.table.to(logits)
        return table[target] if table.ndim == 1 else table[target, target]

    valid = None if start is not None else scale
    if valid is not None and target_logit is not None:  # so that its gradient is nan too for a bad row
        valid = torch.where(usable, 1.0, target_logit)
    sums = _Dense(others, scale, target_logit, soft_of, base, min_base)
    return RowStates(
        Sums(sums.read, sums.excess_exp, first_order=first_order), target_logit, target_soft, valid
    )


class _Dense:
    """The sums over the classes of logits (N, B).

    Args:
        logits: Logits; minus infinity for classes that are not summed.
        scale: (N,) nan for bad rows, else 1.
        target_logit: (N,), needed for ranks only.
        soft_of: Returns soft targets (N, B).
        base: (N,) reference of the sums.
        min_base: (N,) reference of `min_exp`, or None for the smallest logit.
    """

    def __init__(
        self,
        logits: Tensor,
        scale: Tensor,
        target_logit: Tensor | None,
        soft_of: Callable[[SoftTargets], Tensor],
        base: Tensor,
        min_base: Tensor | None,
    ) -> None:
        self._logits, self._scale = logits, scale
        self._target_logit, self._soft_of = target_logit, soft_of
        self._min_base = min_base
        self._base = base
        self._gap = logits - base[:, None]
        self._exp: dict[float, Tensor] = {}
        self._excess_exp: dict[float, Tensor] = {}

    def _power(self, scale: float) -> Tensor:
        if scale not in self._exp:
            if scale == 2:  # a square takes less time than an exponential
                self._exp[scale] = self._power(1.0).square()
            else:
                self._exp[scale] = torch.exp(self._gap if scale == 1 else scale * self._gap)
        return self._exp[scale]

    def _split(self, kind: str, terms: Tensor) -> Tensor:
        """Return the sum of terms over the classes with logit = base, or over the others."""
        first = kind.startswith("max")
        at_base = self._gap == 0  # from the gap: recomputed in the backward pass instead of stored
        return torch.where(at_base, terms if first else 0.0, 0.0 if first else terms).sum(1)

    def excess_exp(self, scale: float) -> Tensor:
        """Return the sum of e^(scale (z - base)) over all classes, minus 1."""
        if scale not in self._excess_exp:
            self._excess_exp[scale] = self._power(scale).sum(1) - 1
        return self._excess_exp[scale]

    def read(self, name: StateName) -> Tensor:
        """Return the state (N,) of a name."""
        kind, parameter = name
        if kind == "base":
            return self._base
        if kind in ("max_exp", "rest_exp"):
            assert isinstance(parameter, float | int)
            return self._split(kind, self._power(parameter))
        if kind in ("max_gap", "rest_gap"):
            return self._split(kind, self._gap.clamp(min=-FAR) * self._power(1.0))
        if kind == "max_square":
            return self._split(kind, self._gap.clamp(min=-FAR).square())  # a gap of -inf would give 0 * inf
        z = self._logits * self._scale[:, None]
        if kind in ("min_base", "min_exp"):
            return self._smallest(kind, z)
        if kind == "greater":
            assert self._target_logit is not None
            return (z > self._target_logit[:, None]).sum(1).to(z.dtype)
        masked = z == -torch.inf
        if kind == "sum_logit":
            return torch.where(masked, 0.0, z).sum(1)
        if kind == "count":
            return (~masked).sum(1).to(z.dtype)
        assert isinstance(parameter, SoftTargets), kind
        soft = torch.where(masked, 0.0, self._soft_of(parameter))
        if kind.endswith("gap"):
            soft = soft * (z - self._base[:, None]).clamp(min=-finite_limit(z.dtype))
        return self._split(kind, soft)

    def _smallest(self, kind: str, z: Tensor) -> Tensor:
        least = self._min_base
        if least is None:
            lowest = torch.where(z == -torch.inf, torch.inf, z).detach().amin(1)
            least = torch.where(lowest == torch.inf, torch.finfo(z.dtype).max, lowest)
        if kind == "min_base":
            return least
        equal = z == least[:, None]
        return torch.where(equal, torch.exp(torch.where(equal, z - least[:, None], 0.0)), 0.0).sum(1)


def row_statistics(
    logits: Tensor,
    target: Tensor | None = None,
    *,
    weight: Tensor | None = None,
    usable: Callable[[Tensor], bool] = lambda logits: False,
    first_order: bool = False,
) -> RowStatistics:
    """Return the row statistics of logits, computed by differentiable torch operations.

    Args:
        logits: (N, C) floating; minus infinity masks a class.
        target: (N,) integer class, or None for losses without a target.
        weight: (C,) weight of each class.
        usable: Returns whether each row is known to have a class and neither nan nor plus infinity; called
            only for losses that read the full logits.
        first_order: Whether only first derivatives are needed.
    """
    held: dict[bool, RowStates] = {}

    def compute(statistic: Statistic) -> Tensor:
        if statistic.reads_target:
            require_target(target)
        separate = statistic.separates_target
        if True not in held and (separate or False not in held):
            held[separate] = partial(logits, target, separate=separate, first_order=first_order)
        states = held[True] if True in held else held[False]
        return statistic.finalize(states) * states.valid

    return RowStatistics(
        compute,
        num_classes=logits.shape[1],
        class_weight=weight,
        weight=None if weight is None or target is None else weight[target],
        full_logits=lambda: FullLogits(logits, require_target(target), usable=usable(logits)),
        plus=lambda matrix: row_statistics_plus(logits, require_target(target), matrix),
    )


def row_statistics_plus(logits: Tensor, target: Tensor | None, matrix: OfLogits) -> RowStatistics:
    """Return the row statistics of logits plus the target's row of a matrix.

    Args:
        logits: (N, C).
        target: (N,), or None for statistics with every class as the target.
        matrix: Returns the (C, C) matrix in the dtype and on the device of the logits.
    """
    rows, classes = logits.shape
    added = matrix(logits)
    if target is not None:
        return row_statistics(logits + added.index_select(0, target), target)
    each = torch.arange(classes, device=logits.device).repeat(rows)
    row = row_statistics((logits[:, None] + added).flatten(0, 1), each)
    return RowStatistics(lambda statistic: row.compute(statistic).reshape(rows, classes), num_classes=classes)


def row_statistics_for_each_class(logits: Tensor, *, weight: Tensor | None = None) -> RowStatistics:
    """Return the row statistics of logits (N, C) with each class as the target."""
    full = FullLogits(logits, None)

    def compute(statistic: Statistic, logits: Tensor, target: Tensor | None) -> Tensor:
        return row_statistics(logits, target).compute(statistic)

    return RowStatistics(
        lambda statistic: statistic.for_each_class(full.logits, compute),
        num_classes=logits.shape[1],
        class_weight=weight,
        weight=weight,
        full_logits=lambda: full,
        plus=lambda matrix: row_statistics_plus(logits, None, matrix),
    )


def losses_of_logits(
    loss: RowFunction,
    logits: Tensor,
    target: Tensor | None = None,
    soft: Tensor | None = None,
    *,
    weight: Tensor | None = None,
    usable: Callable[[Tensor], bool] = lambda logits: False,
    first_order: bool = False,
) -> Tensor:
    """Return the losses (N,) of logits, computed by differentiable torch operations.

    Args:
        loss: The loss.
        logits: (N, C) floating; minus infinity masks a class.
        target: (N,) integer class, or None for losses without a target.
        soft: (N, C) target probabilities, under which the expected loss is returned, or None.
        weight: (C,) weight of each class.
        usable: Returns whether each row is known to have a class and neither nan nor plus infinity; called
            only for losses that read the full logits.
        first_order: Whether only first derivatives are needed.
    """
    if soft is None:
        row = row_statistics(logits, target, weight=weight, usable=usable, first_order=first_order)
        losses = loss.of(row)
    else:
        row = row_statistics_for_each_class(logits, weight=weight)
        losses = (soft * loss.of(row)).sum(1)
    return row.full_logits.mark(losses) if row.reads_full_logits else losses
