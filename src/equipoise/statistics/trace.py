"""Tracing of a loss to a program, which a kernel can run.

A loss, and `finalize` of the statistics that it reads, are elementwise. They are run once on example values
under a `Recorder`, a mode of torch, which records a program: elementwise instructions from the states to the
loss. A kernel runs programs, and contains no code of statistics and losses.
"""

import random
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor

from equipoise.statistics.base import Statistic
from equipoise.statistics.record import NotRecordableError, Program, Recorder
from equipoise.statistics.reference import row_statistics
from equipoise.statistics.row import OfLogits, RowFunction, RowStatistics
from equipoise.statistics.states import RowStates, SoftTargets, StateName

CHANGES = "it is not the same each time"
ROWS = 3, 5  # numbers of rows of two recordings, whose programs differ if the loss depends on the number


@final
@dataclass(frozen=True)
class Trace:
    """The statistics and states that a loss reads, and its program.

    Args:
        statistics: The statistics, in the order of their first use.
        reads_full_logits: Whether the loss needs complete rows of logits.
        states: The states that `finalize` of the statistics reads.
        program: The program; None if the loss cannot be recorded.
        reason: Reason why there is no program, or none for blocks of classes.
    """

    statistics: tuple[Statistic, ...]
    reads_full_logits: bool
    states: tuple[StateName, ...]
    program: Program | None
    reason: str = ""

    @property
    def separate(self) -> bool:
        """Whether a statistic needs sums over the classes without the target."""
        return any(statistic.separates_target for statistic in self.statistics)

    @property
    def reads_target(self) -> bool:
        """Whether a statistic depends on the target, or the loss reads complete rows."""
        return self.reads_full_logits or any(statistic.reads_target for statistic in self.statistics)


def trace(
    loss: RowFunction, num_classes: int, dtype: torch.dtype, class_weight: Tensor | None = None
) -> Trace:
    """Return the statistics that a loss reads of rows of C classes, and its program.

    Exceptions of the loss are not caught.

    Args:
        loss: The loss.
        num_classes: C.
        dtype: Dtype of the statistics.
        class_weight: (C,) weights, whose values are not used; None without class weights.
    """
    class_weight = None if class_weight is None else class_weight.detach()
    with torch.inference_mode(False), torch.enable_grad(), torch.device("cpu"), _no_hooks():
        statistics, matrices, of_sums, full = _statistics(loss, num_classes, dtype, class_weight)
        read = states_of(statistics, dtype)
        complete = full or bool(matrices)
        reason = "it reads complete rows of logits" if complete else ""
        added = matrices[0] if matrices else None
        if full or (added is not None and (statistics or any(matrix is not added for matrix in matrices))):
            return Trace(statistics, complete, read, None, reason)
        if not (statistics or of_sums):
            return Trace(statistics, complete, read, None, reason or "it reads no statistic")
        separate = any(statistic.separates_target for statistic in statistics or of_sums)
        try:
            drawn = _random_state()
            first, second = (
                _record(loss, num_classes, Recorder(rows, dtype), class_weight, separate, added)
                for rows in ROWS
            )
            if first != second or drawn != _random_state():
                raise NotRecordableError(CHANGES)
        except NotRecordableError as error:
            return Trace(statistics, complete, read, None, reason or str(error))
    return Trace(statistics, complete, read, replace(first, added=added), reason)


def statistics_of_call(
    loss: RowFunction, found: Trace, num_classes: int, class_weight: Tensor | None, like: Tensor
) -> tuple[Statistic, ...]:
    """Return the statistics that a loss reads in a call, each once.

    If their soft targets are class weights, those of the trace have the weights of another call.

    Args:
        loss: The loss.
        found: Its trace.
        num_classes: C.
        class_weight: (C,) weights of the call, or None.
        like: A tensor of the dtype and device of the statistics.
    """
    if not any(isinstance(name.parameter, SoftTargets) for name in found.states):
        return found.statistics
    read: dict[Statistic, None] = {}
    ones = like.new_ones(1)

    def compute(statistic: Statistic) -> Tensor:
        read[statistic] = None
        return ones

    with torch.no_grad():
        weight = None if class_weight is None else ones
        loss.of(RowStatistics(compute, num_classes=num_classes, class_weight=class_weight, weight=weight))
    return tuple(read)


def _no_hooks() -> AbstractContextManager[Any]:
    """Disable hooks of saved tensors, which would also count the tensors of the recording."""
    if torch._C._autograd._saved_tensors_hooks_is_enabled():  # pyright: ignore[reportAttributeAccessIssue]
        return torch.autograd.graph.saved_tensors_hooks(_same, _same)
    return nullcontext()


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _random_state() -> tuple[Any, ...]:
    return torch.get_rng_state().numpy().tobytes(), random.getstate()


def states_of(statistics: Sequence[Statistic], dtype: torch.dtype) -> tuple[StateName, ...]:
    """Return the states that `finalize` of statistics and the merge of states read, in a fixed order."""
    names: dict[StateName, None] = {}

    def read(name: StateName) -> Tensor:
        names[name] = None
        return torch.ones(1, dtype=dtype)

    separate = any(statistic.separates_target for statistic in statistics)
    states = RowStates.read(read, separate=separate, parts=2)  # so that states read by `merge` are included
    for statistic in statistics:
        statistic.finalize(states)
    for name in (StateName("base"), StateName("max_exp", 1.0)):  # for `valid`
        names[name] = None
    return tuple(sorted(names, key=lambda name: (name.kind, str(name.parameter))))


def _statistics(
    loss: RowFunction, num_classes: int, dtype: torch.dtype, class_weight: Tensor | None
) -> tuple[tuple[Statistic, ...], list[Tensor], list[Statistic], bool]:
    """Return the inputs of a loss.

    These are statistics of the logits, matrices that are added to the logits, statistics of these sums, and
    whether the loss reads full logits.
    """
    found: list[Statistic] = []
    matrices: list[Tensor] = []
    of_sums: list[Statistic] = []
    logits = torch.zeros(ROWS[0], num_classes, dtype=dtype, requires_grad=True)
    target = torch.zeros(ROWS[0], dtype=torch.long)
    weight = None if class_weight is None else torch.ones(num_classes, dtype=dtype)
    true = row_statistics(logits, target, weight=weight)

    def compute(statistic: Statistic) -> Tensor:
        found.append(statistic)
        return true.compute(statistic)

    def plus(matrix: OfLogits) -> RowStatistics:
        matrices.append(matrix(logits))
        of_sum = true.plus(matrix)

        def compute(statistic: Statistic) -> Tensor:
            of_sums.append(statistic)
            return of_sum.compute(statistic)

        return RowStatistics(compute, num_classes=num_classes)

    row = RowStatistics(
        compute,
        num_classes=num_classes,
        class_weight=class_weight,
        weight=None if weight is None else true.weight,
        full_logits=lambda: true.full_logits,
        plus=plus,
    )
    loss.of(row)
    return tuple(found), matrices, of_sums, row.reads_full_logits


def _record(
    loss: RowFunction,
    num_classes: int,
    recorder: Recorder,
    class_weight: Tensor | None,
    separate: bool,
    added: Tensor | None,
) -> Program:
    with recorder:
        states = RowStates.read(recorder.input, separate=separate)

        def plus(matrix: OfLogits) -> RowStatistics:
            if added is None or matrix(added.new_empty(0)) is not added:
                raise NotRecordableError(CHANGES)
            return RowStatistics(lambda statistic: statistic.finalize(states), num_classes=num_classes)

        row = RowStatistics(
            lambda statistic: statistic.finalize(states),
            num_classes=num_classes,
            class_weight=class_weight,
            weight=None if class_weight is None else recorder.input(StateName("class_weight")),
            plus=plus,
        )
        result = loss.of(row)
    return recorder.program(result, separate, class_weight)
