"""Losses of dense logits: checks of the inputs, choice of the backend, losses per row (N,), reduction."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from equipoise import sharded
from equipoise._batch import IGNORE_INDEX, Batch, read_batch, reduce
from equipoise.kernels import dense
from equipoise.kernels.dense import Call
from equipoise.kernels.gate import is_plain, obstacle
from equipoise.statistics import Rank, RowStatistics, Statistic
from equipoise.statistics.reference import losses_of_logits, row_statistics
from equipoise.statistics.row import RowFunction, applies_class_weight
from equipoise.statistics.trace import Trace, statistics_of_call

OF_BATCH = "a penalty has one value for the whole batch"


def read(
    loss: Any,
    logits: Tensor,
    target: Tensor | None = None,
    weight: Tensor | None = None,
    *,
    sample_weight: Tensor | None = None,
    mask: Tensor | None = None,
    ignore_index: int = IGNORE_INDEX,
    reduction: str = "mean",
) -> Batch:
    """Return the inputs of `Loss.__call__`, checked, as a batch.

    Sharded logits are gathered if the loss needs complete rows.
    """
    applies = applies_class_weight(loss)
    batch = read_batch(
        logits, target, weight, ignore_index, sample_weight, mask, applies_class_weight=applies
    )
    mixing = [term for _, term in loss.terms() if not term._is_row_loss()]
    if reduction == "none" and mixing:
        raise ValueError(
            f"reduction must be 'mean' or 'sum' with {mixing[0]!r}, got 'none'; "
            "its value is that of the whole batch"
        )
    return batch.gathered() if _needs_all_classes(loss, batch) else batch


def kernel_call(loss: Any, batch: Batch, reduction: str) -> Call | str:
    """Return the call of the kernel for the row losses among the terms, or the reason to use torch."""
    if not any(term._is_row_loss() for _, term in loss.terms()):
        return OF_BATCH
    if batch.shard is not None:
        return "the classes are sharded"
    if batch.soft is not None:
        return "target holds probabilities"
    inputs = batch.logits, batch.labels, batch.weight, batch.sample_weight
    return obstacle(*inputs) or dense.kernel_call(loss, *inputs, batch.ignore_index, reduction)


def backend_of(loss: Any, batch: Batch, call: Call | str) -> tuple[str, str]:
    """Return the name of the backend, and the reason why a term is computed by torch ("" if none is)."""
    if isinstance(call, Call):
        return "cpp", "" if loss._is_row_loss() else OF_BATCH
    if batch.shard is None:
        return "torch", call
    return sharded.local_backend(batch.logits, _trace(loss, batch).states).name, call


def reduced_rows(loss: Any, batch: Batch, reduction: str, call: Call | str) -> Tensor:
    """Return the reduced sum of the row losses among the terms."""
    if isinstance(call, Call):
        value = dense.compute(loss, batch.logits, call)
        return value.reshape(batch.shape) if reduction == "none" else value
    return reduce(losses_in_torch(loss, batch), batch, reduction, sample_weight=batch.sample_weight)


def losses_in_torch(loss: RowFunction, batch: Batch) -> Tensor:
    """Return the losses (N,) of class indices, or expected under target probabilities, computed by torch."""
    if batch.shard is not None and batch.soft is None:
        traced = _trace(loss, batch)
        read = statistics_of_call(loss, traced, batch.num_classes, batch.weight, batch.logits)
        return loss.of(rows_of(batch, read))
    return losses_of_logits(
        loss,
        batch.logits,
        batch.target,
        batch.soft,
        weight=batch.weight,
        usable=_are_usable,
        first_order=batch.first_order,
    )


def _are_usable(logits: Tensor) -> bool:
    """Return whether each row is known to have a class and neither nan nor plus infinity."""
    return is_plain(logits) and logits.numel() > 0 and bool(logits.detach().amax(1).isfinite().all())


def rows_of(batch: Batch, statistics: Sequence[Statistic]) -> RowStatistics:
    """Return the row statistics of a batch.

    Args:
        batch: With class indices, not probabilities, as the target.
        statistics: The statistics to compute if the classes are sharded; the others are not available then.
    """
    if batch.shard is None:
        return row_statistics(batch.logits, batch.target, weight=batch.weight)
    return sharded.row_statistics(batch.shard, batch.logits, batch.target, batch.weight, statistics)


def _needs_all_classes(loss: Any, batch: Batch) -> bool:
    """Return whether sharded logits must be gathered: for soft targets, batch losses, full logits, ranks."""
    if batch.shard is None:
        return False
    if batch.soft is not None or not loss._is_row_loss():
        return True
    trace = _trace(loss, batch)
    return trace.reads_full_logits or Rank() in trace.statistics


def _trace(loss: RowFunction, batch: Batch) -> Trace:
    """Return the trace of a loss: the statistics that it reads."""
    return dense.prepared(loss, batch.num_classes, batch.logits.dtype, batch.weight).trace
