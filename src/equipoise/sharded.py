"""States of rows whose classes are sharded over ranks.

Each rank computes the states of its classes. One all-gather of a few numbers per row gives every rank the
states of all ranks, which it merges as those of blocks. In the backward pass each rank writes the gradient of
its own logits, without communication.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any, final

import torch
from torch import Tensor

from equipoise.distributed import Run, Shard, all_gather, refuse_second_derivative
from equipoise.kernels import cpu, triton
from equipoise.kernels.block import CONSTANTS, Backend, Block, CppBackend, fits
from equipoise.kernels.differentiable import TorchBackend
from equipoise.kernels.gate import is_plain
from equipoise.statistics.base import Statistic
from equipoise.statistics.row import RowStatistics, require_target
from equipoise.statistics.states import RowStates, StateName, Sums, merge
from equipoise.statistics.trace import states_of


@final
class ShardedBackend:
    """Backend for blocks of this rank's classes that returns the states of all classes.

    A sum over all classes has the same derivative by a logit as the sum over this rank's classes, if both are
    relative to the largest logit of all classes. So each rank computes the gradient of its logits without
    communication.

    Args:
        backend: The backend for this rank's classes.
        classes: This rank's slice of the classes.
    """

    def __init__(self, backend: Backend, classes: Run) -> None:
        self.name: str = backend.name
        self._backend = backend
        self._classes = classes

    def states(self, block: Block) -> dict[StateName, Tensor]:
        """Return the states (N,) of all classes; all ranks must call it.

        Args:
            block: A block of this rank's classes; `names` must be those of `states_of`, which include the
                states that `merge` reads. `start` is an index among this rank's classes, None for all of
                them; a rank may have none.
        """
        if self._classes.ranks == 1:
            return self._backend.states(block)
        if any(name.kind == "greater" for name in block.names):
            raise ValueError("logits must have all classes of a row for Rank, got shards; use Margin")
        sent = _sent(block.names)
        fixed = [name for name in block.names if name.kind == "target_soft"]
        local = self._backend.states(replace(self._local(block), names=[*sent, *fixed]))
        gathered = all_gather(torch.stack([local[name] for name in sent]), self._classes.group)
        ranks = [dict(zip(sent, numbers.unbind(), strict=True)) for numbers in gathered.unbind()]
        sums = reduce(merge, map(_sums, ranks))
        return {name: local[name] if name in fixed else _merge(ranks, name, sums) for name in block.names}

    def write_gradient(
        self, block: Block, states: Mapping[StateName, Tensor], grads: Mapping[StateName, Tensor], out: Tensor
    ) -> None:
        """Write the gradient of this rank's logits to `out`, given merged states and their gradients."""
        if block.logits.shape[1]:
            self._backend.write_gradient(self._local(block), states, grads, out)

    def _local(self, block: Block) -> Block:
        """Return a block with `start` among all classes; with one masked class if the rank has none."""
        if self._classes.ranks == 1:
            return block
        if block.logits.shape[1]:
            return replace(block, start=self._classes.start + (block.start or 0))
        masked = block.logits.new_full((len(block.logits), 1), -torch.inf)
        return replace(block, logits=masked, start=self._classes.size - 1, softcap=None)


COUNTED = StateName("max_exp", 1.0)  # number of classes at the maximum, for every scale


def _sent(names: Sequence[StateName]) -> list[StateName]:
    """Return the states that ranks exchange, without those that are 0 or equal on all ranks."""
    left_out = ("max_exp", "max_gap", "max_soft_gap", "target_soft")
    return list(dict.fromkeys([COUNTED, *(name for name in names if name.kind not in left_out)]))


def _merge(ranks: Sequence[Mapping[StateName, Tensor]], name: StateName, sums: Sums) -> Tensor:
    """Return a merged state."""
    if name.kind == "target_logit":  # minus infinity on ranks without the target
        return reduce(torch.maximum, [numbers[name] for numbers in ranks])
    return sums.number(name)


def _sums(numbers: Mapping[StateName, Tensor]) -> Sums:
    def read(name: StateName) -> Tensor:
        if name.kind == "max_exp":
            return numbers[COUNTED]
        if name.kind in ("max_gap", "max_soft_gap"):
            return torch.zeros_like(numbers[COUNTED])
        return numbers[name]

    return Sums(read)


def row_statistics(
    shard: Shard,
    logits: Tensor,
    target: Tensor | None,
    weight: Tensor | None = None,
    statistics: Sequence[Statistic] = (),
) -> RowStatistics:
    """Return the row statistics of all rows; all ranks must evaluate the same loss on them.

    Args:
        shard: This rank's slices of rows and classes.
        logits: This rank's logits.
        target: (N,) classes of all rows.
        weight: (C,) class weights.
        statistics: The statistics that the loss reads; all are computed with the first, in one all-gather.
    """
    computed: dict[Statistic, Tensor] = {}

    def compute(statistic: Statistic) -> Tensor:
        if statistic not in computed:
            wanted = statistics if statistic in statistics else [statistic]
            computed.update(statistics_of(wanted, shard, logits, target))
        return computed[statistic]

    row_weight = None if weight is None or target is None else weight[target]
    return RowStatistics(compute, num_classes=shard.classes.size, class_weight=weight, weight=row_weight)


def statistics_of(
    statistics: Sequence[Statistic], shard: Shard, logits: Tensor, target: Tensor | None
) -> dict[Statistic, Tensor]:
    """Return statistics (N,) of all rows; all ranks must call it with the same statistics.

    Args:
        statistics: The statistics to compute.
        shard: This rank's slices of rows and classes.
        logits: This rank's logits.
        target: (N,) classes of all rows; None if no statistic reads them.
    """
    if any(statistic.reads_target for statistic in statistics):
        require_target(target)
    separate = any(statistic.separates_target for statistic in statistics)
    names = states_of(statistics, torch.float64 if logits.dtype == torch.float64 else torch.float32)
    rows = None if target is None else shard.rows.narrow(target)
    if logits.shape[1] > 1 and logits.stride(1) != 1:
        logits = logits.contiguous()
    numbers: Any = _MergedStates.apply(logits, rows, names, separate, shard.classes)
    states = RowStates.read(dict(zip(names, numbers, strict=True)).__getitem__, separate=separate)
    values = torch.stack([statistic.finalize(states) * states.valid for statistic in statistics])
    return dict(zip(statistics, shard.rows.gather(values, 1), strict=True))


class _MergedStates(torch.autograd.Function):
    """States of rows whose classes are sharded; no communication in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        target: Tensor | None,
        names: tuple[StateName, ...],
        separate: bool,
        classes: Run,
    ) -> tuple[Tensor, ...]:
        backend = ShardedBackend(local_backend(logits, names), classes)
        found = backend.states(Block(logits, names, separate, target))
        numbers = [found[name] for name in names]
        ctx.mark_non_differentiable(
            *(number for name, number in zip(names, numbers, strict=True) if name.kind in CONSTANTS)
        )
        ctx.set_materialize_grads(False)
        bases = [name for name in names if name.kind in ("base", "min_base")]
        ctx.names, ctx.separate, ctx.backend, ctx.bases = names, separate, backend, bases
        bad = RowStates.read(found.__getitem__, separate=separate).valid.isnan()
        ctx.save_for_backward(logits, target, bad, *(found[name] for name in bases))
        return tuple(numbers)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        logits, target, bad, *bases = ctx.saved_tensors
        pairs = zip(ctx.names, grads, strict=True)
        given = {name: g for name, g in pairs if g is not None and name.kind not in CONSTANTS}
        out = torch.empty_like(logits, memory_format=torch.contiguous_format)
        states = dict(zip(ctx.bases, bases, strict=True))
        ctx.backend.write_gradient(Block(logits, list(given), ctx.separate, target), states, given, out)
        if ctx.backend.name != "triton" and bad.any():  # bad rows of other ranks
            out.masked_fill_(bad[:, None], torch.nan)
        return out, None, None, None, None


def local_backend(logits: Tensor, names: Sequence[StateName]) -> Backend:
    """Return the backend for the states of this rank's logits."""
    if logits.is_cuda and triton.available(logits.device):
        return triton.TritonBackend()
    if is_plain(logits) and cpu.available() and fits(names):
        return CppBackend()
    return TorchBackend()
