"""Losses of dense logits by the compiled kernel: one call forward, one call backward."""

import ctypes
import weakref
from typing import Any, NamedTuple, Protocol, final

import torch
from torch import Tensor

from equipoise.kernels import cpu
from equipoise.kernels.gate import is_plain
from equipoise.kernels.program import Compiled, fits
from equipoise.statistics.row import RowFunction, applies_class_weight
from equipoise.statistics.trace import Trace, trace


class DenseLoss(RowFunction, Protocol):
    """A loss of rows that can be computed in plain torch too."""

    def in_torch(
        self,
        logits: Tensor,
        target: Tensor | None,
        weight: Tensor | None,
        sample_weight: Tensor | None,
        ignore_index: int,
        reduction: str,
    ) -> Tensor:
        """Return the loss of logits (N, C) in plain differentiable torch."""
        ...


@final
class Prepared:
    """A loss traced for a number of classes and a dtype, with or without class weights.

    Args:
        loss: The loss.
        classes: Number of classes.
        dtype: Of the statistics.
        weight: Class weights, or None.
    """

    def __init__(self, loss: RowFunction, classes: int, dtype: torch.dtype, weight: Tensor | None) -> None:
        self.trace: Trace = trace(loss, classes, dtype, weight)
        program = self.trace.program
        self.compiled = Compiled(program) if program and cpu.available() and fits(program) else None
        self.skips_zero_weight = not applies_class_weight(loss)


_by_value: dict[Any, Prepared] = {}
_by_loss: dict[int, tuple[Any, dict[Any, Prepared]]] = {}
MOST = 256  # prepared losses that are kept


def prepared(loss: RowFunction, classes: int, dtype: torch.dtype, weight: Tensor | None = None) -> Prepared:
    """Return a loss, traced once and kept."""
    key = classes, dtype, weight is not None
    held = _by_loss.get(id(loss))
    if held is None:
        number = id(loss)
        held = _by_loss[number] = weakref.ref(loss, lambda _: _by_loss.pop(number, None)), {}
    found = held[1].get(key)
    if found is None:
        value = (loss, *key)
        found = _by_value.get(value)
        if found is None:
            found = Prepared(loss, classes, dtype, weight)
            while len(_by_value) >= MOST:
                del _by_value[next(iter(_by_value))]
            _by_value[value] = found
        held[1][key] = found
    return found


class Call(NamedTuple):
    """What the kernel is told beside the logits and the target."""

    loss: DenseLoss
    prepared: Prepared
    ignore_index: int
    reduction: str


def reduced(
    loss: DenseLoss,
    logits: Tensor,
    target: Tensor | None,
    weight: Tensor | None,
    sample_weight: Tensor | None,
    ignore_index: int,
    reduction: str,
) -> Tensor | None:
    """Return the loss of logits (N, C) by the kernel, or None where it must be computed in plain torch.

    Args:
        loss: The loss.
        logits: Any strides.
        target: (N,) int64 classes; others raise. None where the loss needs none.
        weight: (C,) class weights.
        sample_weight: (N,) weights of rows.
        ignore_index: Rows with this class are left out.
        reduction: "none", "mean" or "sum".
    """
    if not is_plain(logits, target, weight, sample_weight) or not cpu.available():
        return None
    if (weight is not None and weight.requires_grad) or (
        sample_weight is not None and sample_weight.requires_grad
    ):
        return None
    dtype = logits.dtype
    work = torch.float64 if dtype == torch.float64 else torch.float32
    found = prepared(loss, logits.shape[1], work, weight)
    if found.compiled is None or (target is None and found.trace.reads_target):
        return None
    if any(option.requires_grad or not option.is_cpu for option in found.compiled.options):
        return None
    if weight is not None and (weight.dtype != work or not weight.is_contiguous()):
        weight = weight.to(work).contiguous()
    if sample_weight is not None and (sample_weight.dtype != work or not sample_weight.is_contiguous()):
        sample_weight = sample_weight.to(work).contiguous()
    if target is not None and not target.is_contiguous():
        target = target.contiguous()
    if logits.shape[1] > 1 and logits.stride(1) != 1:
        logits = logits.contiguous()
    call = Call(loss, found, ignore_index, reduction)
    if logits.requires_grad and torch.is_grad_enabled():
        return _Dense.apply(logits, target, weight, sample_weight, call)  # pyright: ignore[reportReturnType]
    return _forward(logits, target, weight, sample_weight, call, keep=False)[0]


def _block(logits: Tensor, target: Tensor | None, table: Tensor | None) -> bytes:
    return cpu.pack_logits(
        logits.data_ptr(),
        cpu.KINDS[logits.dtype],
        logits.stride(0),
        *logits.shape,
        0 if target is None else target.data_ptr(),
        -1,
        0.0,
        0 if table is None else table.data_ptr(),
        0 if table is None or table.ndim == 1 else table.stride(0),
        torch.get_num_threads(),
    )


def _forward(
    logits: Tensor,
    target: Tensor | None,
    weight: Tensor | None,
    sample_weight: Tensor | None,
    call: Call,
    *,
    keep: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None, float]:
    """Return the loss, what the backward pass needs of each row, the soft targets and the mean's denominator."""
    compiled = call.prepared.compiled
    assert compiled is not None
    compiled.read_options()
    work = torch.float64 if logits.dtype == torch.float64 else torch.float32
    table = compiled.table(weight, work)
    kept = torch.empty((logits.shape[0], compiled.kept), dtype=work) if keep else None
    losses = torch.empty(logits.shape[0], dtype=work) if call.reduction == "none" else None
    sums = (ctypes.c_double * 2)()
    bad = cpu.library().equipoise_losses(
        compiled.address,
        _block(logits, target, table),
        call.ignore_index,
        None if weight is None else weight.data_ptr(),
        None if sample_weight is None else sample_weight.data_ptr(),
        call.prepared.skips_zero_weight,
        None if losses is None else losses.data_ptr(),
        None if kept is None else kept.data_ptr(),
        ctypes.addressof(sums),
    )
    if bad:
        assert target is not None
        raise ValueError(
            f"target must be in [0, {logits.shape[1]}) or ignore_index={call.ignore_index}, "
            f"got {int(target[bad - 1])}"
        )
    if losses is not None:
        return losses, kept, table, 1.0
    if call.reduction == "sum":
        return torch.scalar_tensor(sums[0], dtype=work), kept, table, 1.0
    value = sums[0] / sums[1] if sums[1] else torch.nan
    return torch.scalar_tensor(value, dtype=work), kept, table, sums[1]


class _Dense(torch.autograd.Function):
    """A loss of dense logits. An old-style Function, as `setup_context` costs more than a small batch."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        logits: Tensor,
        target: Tensor | None,
        weight: Tensor | None,
        sample_weight: Tensor | None,
        call: Call,
    ) -> Tensor:
        """Return the loss."""
        value, kept, table, ctx.denominator = _forward(
            logits, target, weight, sample_weight, call, keep=True
        )
        ctx.save_for_backward(logits, target, weight, sample_weight, kept, table)
        ctx.call = call
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the gradient of the logits."""
        logits, target, weight, sample_weight, kept, table = ctx.saved_tensors
        call: Call = ctx.call
        if torch.is_grad_enabled() or not is_plain(grad):
            found = _in_torch(grad, logits, target, weight, sample_weight, call)
            return found, None, None, None, None
        compiled = call.prepared.compiled
        assert compiled is not None
        out = torch.empty(logits.shape, dtype=logits.dtype)
        rows, scale = None, 1.0
        if call.reduction == "none":
            rows = grad.to(kept.dtype).contiguous()
        else:
            scale = grad.item() / ctx.denominator if ctx.denominator else torch.nan
        cpu.library().equipoise_gradient(
            compiled.address,
            _block(logits, target, table),
            kept.data_ptr(),
            compiled.kept,
            1,
            None if rows is None else rows.data_ptr(),
            scale,
            out.data_ptr(),
            logits.shape[1],
            False,
        )
        return out, None, None, None, None


def _in_torch(
    grad: Tensor,
    logits: Tensor,
    target: Tensor | None,
    weight: Tensor | None,
    sample_weight: Tensor | None,
    call: Call,
) -> Tensor:
    """Return the gradient by plain torch, where it is differentiated again or transformed."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        leaf = logits if again else logits.detach().requires_grad_()
        value = call.loss.in_torch(leaf, target, weight, sample_weight, call.ignore_index, call.reduction)
        (found,) = torch.autograd.grad(value, leaf, grad.to(value.dtype), create_graph=again)
    return found
