"""Losses of dense logits by the compiled kernel: one call in the forward pass, one in the backward pass."""

import ctypes
import threading
import weakref
from typing import Any, NamedTuple, Protocol, final

import torch
from torch import Tensor

from equipoise.kernels import cpu
from equipoise.kernels.gate import is_batched, obstacle
from equipoise.kernels.log import log_backend
from equipoise.kernels.program import TOO_MUCH, Compiled, fits
from equipoise.statistics.row import RowFunction, applies_class_weight
from equipoise.statistics.trace import Trace, trace


class DenseLoss(RowFunction, Protocol):
    """Interface of a row loss that can be computed by torch too."""

    def in_torch(
        self,
        logits: Tensor,
        target: Tensor | None,
        weight: Tensor | None,
        sample_weight: Tensor | None,
        ignore_index: int,
        reduction: str,
    ) -> Tensor:
        """Return the loss of logits (N, C), computed by differentiable torch operations."""
        ...


@final
class Prepared:
    """A loss traced for a number of classes and a dtype, with or without class weights.

    Args:
        loss: The loss.
        classes: Number of classes.
        dtype: Dtype of the statistics.
        weight: Class weights, or None.
        fixed: Whether the loss is immutable; others have no program.

    Attributes:
        trace: The trace of the loss.
        compiled: The program for the kernel, or None.
        reason: Reason why there is none.
    """

    def __init__(
        self,
        loss: RowFunction,
        classes: int,
        dtype: torch.dtype,
        weight: Tensor | None,
        *,
        fixed: bool = True,
    ) -> None:
        self.trace: Trace = trace(loss, classes, dtype, weight)
        program = self.trace.program
        self.compiled: Compiled | None = None
        self.reason: str = ""
        if not fixed:
            self.reason = "it has no hash, so it may change"
        elif program is None:
            self.reason = self.trace.reason
        elif not cpu.available():
            self.reason = cpu.MISSING
        elif not fits(program):
            self.reason = TOO_MUCH
        else:
            self.compiled = Compiled(program)
        self.skips_zero_weight: bool = not applies_class_weight(loss)
        self.reads_target: bool = self.trace.reads_target


_by_value: dict[Any, Prepared] = {}
_by_loss: dict[int, tuple[Any, dict[Any, Prepared]]] = {}
_lock = threading.Lock()
MOST = 256  # size of the cache of prepared losses
_CPU = torch.device("cpu")  # for any default device


def prepared(loss: RowFunction, classes: int, dtype: torch.dtype, weight: Tensor | None = None) -> Prepared:
    """Return the prepared loss, from a cache if possible."""
    key = classes, dtype, weight is not None
    held = _by_loss.get(id(loss))
    if held is None:
        number = id(loss)
        held = _by_loss[number] = weakref.ref(loss, lambda _: _by_loss.pop(number, None)), {}
    found = held[1].get(key)
    if found is None:
        found = held[1][key] = _equal_or_new(loss, classes, dtype, weight)
    return found


def _equal_or_new(loss: RowFunction, classes: int, dtype: torch.dtype, weight: Tensor | None) -> Prepared:
    """Return the cached result for an equal loss, or prepare this one."""
    value = loss, classes, dtype, weight is not None
    try:
        found = _by_value.get(value)
    except TypeError:  # not hashable, so it may be mutable
        return Prepared(loss, classes, dtype, weight, fixed=False)
    if found is None:
        found = Prepared(loss, classes, dtype, weight)
        with _lock:
            while len(_by_value) >= MOST:
                del _by_value[next(iter(_by_value))]
            _by_value[value] = found
    return found


def forget() -> None:
    """Clear the cache of prepared losses, for example after a change of the available kernels."""
    _by_value.clear()
    _by_loss.clear()


class Call(NamedTuple):
    """Arguments of the kernel besides the logits. No tensor requires a gradient."""

    target: Tensor | None
    weight: Tensor | None
    sample_weight: Tensor | None
    table: Tensor | None  # soft targets
    loss: Prepared
    ignore_index: int
    reduction: str


def kernel_call(
    loss: DenseLoss,
    logits: Tensor,
    target: Tensor | None,
    weight: Tensor | None,
    sample_weight: Tensor | None,
    ignore_index: int,
    reduction: str,
) -> Call | str:
    """Return the arguments of the kernel for the loss of logits (N, C), or the reason to use torch.

    Args:
        loss: The loss.
        logits: With any strides; `obstacle` must be empty for all tensors.
        target: (N,) int64 classes; None for losses without a target.
        weight: (C,) class weights.
        sample_weight: (N,) weights of rows.
        ignore_index: Rows with this class are ignored.
        reduction: "none", "mean" or "sum".
    """
    dtype = logits.dtype
    work = torch.float64 if dtype == torch.float64 else torch.float32
    try:
        found = prepared(loss, logits.shape[1], work, weight)
    except Exception:  # torch will raise it again, with the real shapes
        loss.in_torch(logits, target, weight, sample_weight, ignore_index, reduction)
        raise
    compiled = found.compiled
    if compiled is None:
        return found.reason
    if not cpu.available():
        return cpu.MISSING
    if target is None and found.reads_target:
        return "target is None"
    if compiled.tensors:
        if any(tensor.requires_grad for tensor in compiled.tensors):
            return "a number in the loss needs a gradient"
        if reason := obstacle(*compiled.tensors):
            return reason
        compiled.read_options()
    if weight is not None:
        if weight.requires_grad:
            return "weight needs a gradient"
        weight = weight.to(work).contiguous()
    if sample_weight is not None:
        if sample_weight.requires_grad:
            return "sample_weight needs a gradient"
        sample_weight = sample_weight.to(work).contiguous()
    if target is not None and not target.is_contiguous():
        target = target.contiguous()
    table = compiled.table(weight, work)
    return Call(target, weight, sample_weight, table, found, ignore_index, reduction)


def compute(loss: DenseLoss, logits: Tensor, call: Call) -> Tensor:
    """Return the loss of logits (N, C) by the kernel."""
    if logits.is_neg() or (logits.stride(1) != 1 and logits.shape[1] > 1):
        logits = logits.resolve_neg().contiguous()
    if logits.requires_grad and torch.is_grad_enabled():
        return _Dense.apply(logits, call, loss)  # pyright: ignore[reportReturnType]
    return _forward(_read(logits, call), call, None)[0]


_Pair = ctypes.c_double * 2


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


def _read(logits: Tensor, call: Call) -> Tensor:
    """Return the logits for the kernel: unchanged, or plus the target's row of a matrix."""
    added = call.loss.compiled.added  # pyright: ignore[reportOptionalMemberAccess]
    if added is None:
        return logits
    assert call.target is not None
    return logits + added.index_select(0, call.target.clamp(0, len(added) - 1))  # the kernel checks targets


def _forward(logits: Tensor, call: Call, kept: Tensor | None) -> tuple[Tensor, float]:
    """Return the loss, and the denominator of a mean; write the numbers for the gradient to `kept` (N, K).

    The logits are the result of `_read`.
    """
    target, weight, sample_weight, table, loss, ignore_index, reduction = call
    compiled = loss.compiled
    assert compiled is not None
    work = torch.float64 if logits.dtype == torch.float64 else torch.float32
    losses = torch.empty(len(logits), dtype=work, device=_CPU) if reduction == "none" else None
    sums = _Pair()
    bad = cpu.library().equipoise_losses(
        compiled.address,
        _block(logits, target, table),
        ignore_index,
        None if weight is None else weight.data_ptr(),
        None if sample_weight is None else sample_weight.data_ptr(),
        loss.skips_zero_weight,
        None if losses is None else losses.data_ptr(),
        None if kept is None else kept.data_ptr(),
        ctypes.addressof(sums),
    )
    if bad:
        assert target is not None
        raise ValueError(
            f"target must be in [0, {logits.shape[1]}) or ignore_index={ignore_index}, "
            f"got {int(target[bad - 1])}"
        )
    if losses is not None:
        return losses, 1.0
    total, denominator = sums
    if reduction == "sum":
        return torch.scalar_tensor(total, dtype=work, device=_CPU), 1.0
    mean = total / denominator if denominator else total * torch.inf  # nan also for a total of 0
    return torch.scalar_tensor(mean, dtype=work, device=_CPU), denominator


class _Dense(torch.autograd.Function):
    """A loss of dense logits. An old-style Function: `setup_context` takes longer than a small batch."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, call: Call, loss: DenseLoss) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the loss."""
        target, weight, sample_weight, table, found, _, _ = call
        assert found.compiled is not None
        work = torch.float64 if logits.dtype == torch.float64 else torch.float32
        kept = torch.empty((logits.shape[0], found.compiled.kept), dtype=work, device=_CPU)
        read = _read(logits, call)
        value, denominator = _forward(read, call, kept)
        ctx.call = call, loss, denominator
        # Saved as tensors so that a change in place between the passes is detected.
        if read is not logits:
            ctx.save_for_backward(logits, kept, target, table, weight, sample_weight, read)
        elif weight is None and sample_weight is None and table is None:
            ctx.save_for_backward(logits, kept, target)
        else:
            ctx.save_for_backward(logits, kept, target, table, weight, sample_weight)
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the gradient of the logits."""
        logits, kept, *tensors = ctx.saved_tensors
        call, loss, denominator = ctx.call
        reason = _why_in_torch(grad)
        if reason:
            log_backend("gradient", loss, logits, "torch", reason)
            return _gradient_in_torch(grad, loss, logits, call), None, None
        target, table = tensors[0], tensors[1] if len(tensors) > 1 else None
        compiled, reduction = call.loss.compiled, call.reduction
        read = tensors[4] if len(tensors) > 4 else logits
        rows, scale = None, 1.0
        if reduction == "none":
            rows = grad.to(kept.dtype).contiguous()
        else:
            scale = grad.item() / denominator if denominator else grad.item() * torch.inf
        out = torch.empty(logits.shape, dtype=read.dtype, device=_CPU)
        cpu.library().equipoise_gradient(
            compiled.address,
            _block(read, target, table),
            kept.data_ptr(),
            compiled.kept,
            1,
            None if rows is None else rows.data_ptr(),
            scale,
            out.data_ptr(),
            logits.shape[1],
            False,
        )
        return out if read is logits else out.to(logits.dtype), None, None


def _why_in_torch(grad: Tensor) -> str:
    """Return the reason why a gradient must be computed by torch; empty if the kernel can compute it."""
    if torch.is_grad_enabled():
        return "create_graph is True"
    return "is_grads_batched is True" if is_batched(grad) else obstacle(grad)


def _gradient_in_torch(grad: Tensor, loss: DenseLoss, logits: Tensor, call: Call) -> Tensor:
    """Return the gradient computed by torch, so that it can be differentiated again or transformed."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        leaf = logits if again else logits.detach().requires_grad_()
        value = loss.in_torch(
            leaf, call.target, call.weight, call.sample_weight, call.ignore_index, call.reduction
        )
        (found,) = torch.autograd.grad(value, leaf, grad.to(value.dtype), create_graph=again)
    return found
