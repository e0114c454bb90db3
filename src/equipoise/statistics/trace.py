"""Records what a loss computes from the states of a row.

A loss, and `finalize` of the statistics it asks for, are elementwise. Run on made-up numbers while a mode
of torch watches, they leave a program: a list of elementwise instructions from the numbers of a state to the
loss. A kernel runs the program without knowing any statistic or loss.
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
ROWS = 3, 5  # made-up rows of two recordings, which differ where a loss depends on their number


@final
@dataclass(frozen=True)
class Trace:
    """What a loss asks of its rows, and the program it comes to.

    Args:
        statistics: In the order it asked for them.
        reads_full_logits: Whether it needs complete rows of logits.
        states: What `finalize` of the statistics reads.
        program: None where the loss cannot be recorded.
        reason: Why there is none, or why blocks of classes have none.
    """

    statistics: tuple[Statistic, ...]
    reads_full_logits: bool
    states: tuple[StateName, ...]
    program: Program | None
    reason: str = ""

    @property
    def separate(self) -> bool:
        """Whether a statistic keeps the target out of the sums."""
        return any(statistic.separates_target for statistic in self.statistics)

    @property
    def reads_target(self) -> bool:
        """Whether a statistic depends on the target, or complete rows are read."""
        return self.reads_full_logits or any(statistic.reads_target for statistic in self.statistics)


def trace(
    loss: RowFunction, num_classes: int, dtype: torch.dtype, class_weight: Tensor | None = None
) -> Trace:
    """Return what a loss asks of rows of so many classes, and its program.

    An error of the loss itself is raised as it is.

    Args:
        loss: The loss.
        num_classes: C.
        dtype: Of the statistics.
        class_weight: (C,) weights, whose values do not matter; None where there are none.
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

    Those of its trace have the class weights of another call as their soft targets.

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
    """Keep what is saved here from the hooks of saved tensors, which would count it."""
    if torch._C._autograd._saved_tensors_hooks_is_enabled():  # pyright: ignore[reportAttributeAccessIssue]
        return torch.autograd.graph.saved_tensors_hooks(_same, _same)
    return nullcontext()


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _random_state() -> tuple[Any, ...]:
    return torch.get_rng_state().numpy().tobytes(), random.getstate()


def states_of(statistics: Sequence[Statistic], dtype: torch.dtype) -> tuple[StateName, ...]:
    """Return what `finalize` of statistics reads, of states that may be merged, in one order."""
    names: dict[StateName, None] = {}

    def read(name: StateName) -> Tensor:
        names[name] = None
        return torch.ones(1, dtype=dtype)

    separate = any(statistic.separates_target for statistic in statistics)
    states = RowStates.read(read, separate=separate, parts=2)  # what is merged is read too
    for statistic in statistics:
        statistic.finalize(states)
    for name in (StateName("base"), StateName("max_exp", 1.0)):  # which tell whether a row is valid
        names[name] = None
    return tuple(sorted(names, key=lambda name: (name.kind, str(name.parameter))))


def _statistics(
    loss: RowFunction, num_classes: int, dtype: torch.dtype, class_weight: Tensor | None
) -> tuple[tuple[Statistic, ...], list[Tensor], list[Statistic], bool]:
    """Return what a loss asks for.

    Statistics of the logits, matrices that are added to them, statistics of these sums, and whether it reads
    full logits.
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
