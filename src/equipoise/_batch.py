"""Conversion of logits of any shape to rows (N, C), and reduction of the losses per row.

The rules are those of `torch.nn.functional.cross_entropy`: class dimension 1 (0 for a single row), targets as
class indices or as probabilities, `ignore_index`, class weights also in the denominator of the mean.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal, final, get_args

import torch
from torch import Tensor
from torch._C._functorch import get_unwrapped, is_functorch_wrapped_tensor

from equipoise.distributed import Shard, full_tensor, is_dtensor, refuse_mask, shard_of
from equipoise.kernels.gate import is_plain, obstacle
from equipoise.masking import apply_mask

Reduction = Literal["none", "mean", "sum"]
REDUCTIONS: tuple[str, ...] = get_args(Reduction)
IGNORE_INDEX = -100  # torch's
LABELS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


@dataclass(frozen=True, kw_only=True)
class Targets:
    """The targets of rows and the class weights.

    Args:
        labels: (N,) int64 class indices as given, or None.
        target: (N,) class indices, 0 for ignored rows, or None.
        soft: (N, C) target probabilities, or None.
        kept: (N,) False for ignored rows, or None if no row is ignored.
        weight: (C,) class weights, or None.
        shape: Shape of the losses that reduction "none" returns.
    """

    labels: Tensor | None = None
    target: Tensor | None = None
    soft: Tensor | None = None
    kept: Tensor | None = None
    weight: Tensor | None = None
    shape: torch.Size

    def mean_weight(self, like: Tensor) -> Tensor | None:
        """Weight (N,) of each row in the mean: that of its class, 0 if ignored; None if all are 1."""
        if self.target is None:
            return None
        weight = None if self.weight is None else self.weight[self.target]
        if self.kept is None:
            return weight
        return self.kept.to(like.dtype) if weight is None else torch.where(self.kept, weight, 0.0)


@final
@dataclass(frozen=True, kw_only=True)
class Batch(Targets):
    """Checked inputs of a loss, as rows.

    Args:
        logits: (N, C), float32 at least; if sharded, the columns of this rank.
        sample_weight: (N,) weight of each row, to be multiplied by that of its class, or None for 1 each.
        ignore_index: The label of ignored rows.
        shard: The columns of this rank, or None if the logits are not sharded.
        first_order: Whether the loss needs first derivatives only, for which fewer operations are enough.
    """

    logits: Tensor
    sample_weight: Tensor | None = None
    ignore_index: int = IGNORE_INDEX
    shard: Shard | None = None
    first_order: bool = False

    @property
    def num_classes(self) -> int:
        """Number of all classes."""
        return self.logits.shape[1] if self.shard is None else self.shard.classes.size

    def gathered(self) -> "Batch":
        """Return the batch with complete rows of logits, gathered from all ranks."""
        if self.shard is None:
            return self
        return replace(self, logits=self.shard.gather(self.logits), shard=None)


def read_batch(
    logits: Tensor,
    target: Tensor | None,
    weight: Tensor | None = None,
    ignore_index: int = IGNORE_INDEX,
    sample_weight: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    applies_class_weight: bool = False,
) -> Batch:
    """Check logits, target, weights and mask, and return them as rows.

    If `applies_class_weight`, the loss of a row may be non-zero although the weight of its target is 0.
    """
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        raise TypeError(
            f"logits must be a floating tensor, got {_kind(logits)}; pass the scores before any softmax"
        )
    if logits.ndim == 0:
        raise ValueError(
            "logits must be (C,), (N, C) or (N, C, d1, ...), got a single number; add a class dimension"
        )
    axis = 0 if logits.ndim == 1 else 1
    shape = logits.shape[:axis] + logits.shape[axis + 1 :]
    classes = logits.shape[axis]
    if classes == 0:
        raise ValueError(
            f"logits must have at least one class, got shape {tuple(logits.shape)}; "
            f"classes are dimension {axis}"
        )
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    if is_dtensor(logits):
        refuse_mask(mask)
        target, weight, sample_weight = map(full_tensor, (target, weight, sample_weight))
        given = {
            "target": target,
            "weight": weight,
            "sample_weight": sample_weight,
            "ignore_index": ignore_index,
        }
        rows, shard = shard_of(logits, axis, given)
    else:
        logits = apply_mask(logits, mask, axis)
        rows, shard = logits.movedim(axis, -1).reshape(-1, classes), None
    found = read_targets(target, shape, classes, axis, rows, weight, ignore_index)
    row_weight = None if sample_weight is None else read_sample_weight(sample_weight, shape).to(rows)
    out = left_out(found, row_weight, applies_class_weight=applies_class_weight)
    if out is not None and rows.shape[1]:  # a rank may have no class
        of_rank = out if shard is None else shard.rows.narrow(out)
        rows = without(rows, of_rank, lambda rows: rows.amax(1).isfinite())
    return Batch(
        labels=found.labels,
        target=found.target,
        soft=found.soft,
        kept=found.kept,
        weight=found.weight,
        shape=found.shape,
        logits=rows,
        sample_weight=row_weight,
        ignore_index=ignore_index,
        shard=shard,
    )


def target_shape(logits: Tensor) -> torch.Size:
    """Return the shape of the logits without the class dimension."""
    if logits.ndim == 2:
        return logits.shape[:1]
    axis = 0 if logits.ndim == 1 else 1
    return logits.shape[:axis] + logits.shape[axis + 1 :]


def kernel_rows(
    logits: Any, target: Any, weight: Any, sample_weight: Any, ignore_index: Any
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None] | None:
    """Return logits (N, C), labels (N,), class and sample weights as arguments of a kernel.

    Return None if the kernel does not support them, or if `read_batch` must check or convert them.
    """
    if type(ignore_index) is not int or obstacle(logits, target, weight, sample_weight):
        return None
    shape, rows = logits.shape, logits
    if len(shape) == 2:
        shape, classes = shape[:1], shape[1]
    elif shape:
        axis = 0 if len(shape) == 1 else 1
        shape, classes = target_shape(logits), shape[axis]
        rows = logits.movedim(axis, -1).reshape(shape.numel(), classes)
    else:
        return None
    if not classes or not logits.is_floating_point():
        return None
    if target is None:
        if weight is not None:
            return None
    elif target.shape != shape or target.dtype not in LABELS:
        return None
    elif len(shape) != 1 or target.dtype != torch.int64:
        target = target.reshape(-1).long()
    if weight is not None and weight.shape != (classes,):
        return None
    if sample_weight is not None:
        if sample_weight.shape != shape:
            return None
        sample_weight = sample_weight.reshape(-1)
    return rows, target, weight, sample_weight


def read_targets(
    target: Tensor | None,
    shape: torch.Size,
    classes: int,
    axis: int,
    like: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = IGNORE_INDEX,
) -> Targets:
    """Check targets and class weights; `shape` is that of the logits without the class dimension `axis`.

    Class weights and target probabilities are returned with the dtype and device of `like`.
    """
    full = (*shape[:axis], classes, *shape[axis:])
    if weight is not None:
        weight = _class_weight(weight, like, classes, target)
    if target is None:
        return Targets(shape=shape)
    if not isinstance(target, Tensor):
        raise TypeError(f"target must be a tensor, got {_kind(target)}; use torch.as_tensor(target)")
    if not isinstance(ignore_index, int):
        raise TypeError(f"ignore_index must be an integer, got {ignore_index!r}; leave it out for -100")
    if target.is_floating_point():
        if target.shape != full:
            raise ValueError(
                f"target must have the shape of the logits when it holds probabilities, got "
                f"{tuple(target.shape)} and {full}; class indices must be integers"
            )
        if ignore_index != IGNORE_INDEX:
            raise ValueError(
                f"ignore_index must be left out when target holds probabilities, got {ignore_index}; "
                "drop those rows instead"
            )
        soft = target.movedim(axis, -1).reshape(-1, classes).to(like.dtype)
        return Targets(soft=soft, weight=weight, shape=shape)
    if target.shape == full:
        raise TypeError(
            f"target must be floating when it has the shape of the logits, got {target.dtype}; use "
            f"target.to(logits.dtype) for one-hot rows, target.argmax({axis}) for their classes"
        )
    if target.dtype == torch.bool or target.is_complex():
        raise TypeError(
            f"target must be class indices or probabilities, got {target.dtype}; use target.long()"
        )
    if target.shape != shape:
        raise ValueError(
            f"target must have the shape of the logits without the class dimension, {tuple(shape)}, or with "
            f"it as probabilities, got {tuple(target.shape)} for logits {full}"
        )
    indices = target.reshape(-1).long()
    if indices.numel() and is_plain(indices):
        low, high = (bound.item() for bound in indices.aminmax())
        if low >= 0 and high < classes and not low <= ignore_index <= high:
            return Targets(labels=indices, target=indices, weight=weight, shape=shape)
    kept = indices != ignore_index
    inside = _in_range(torch.where(kept, indices, 0), classes, ignore_index)
    return Targets(labels=indices, target=inside, kept=kept, weight=weight, shape=shape)


def read_sample_weight(sample_weight: Tensor, shape: torch.Size) -> Tensor:
    """Check sample weights against the shape of the losses, and return them as (N,)."""
    if not isinstance(sample_weight, Tensor) or sample_weight.shape != shape:
        got = tuple(sample_weight.shape) if isinstance(sample_weight, Tensor) else _kind(sample_weight)
        raise ValueError(f"sample_weight must be a tensor {tuple(shape)}, one number per row, got {got}")
    return sample_weight.reshape(-1)


def left_out(
    targets: Targets, sample_weight: Tensor | None, *, applies_class_weight: bool = False
) -> Tensor | None:
    """Return the mask (N,) of rows that are ignored or have weight 0, or None if there is none.

    A row of weight 0 is kept if the weight requires a gradient: that gradient is the loss of the row.
    """
    out = None if targets.kept is None else ~targets.kept
    weights = [sample_weight]
    if targets.target is not None and targets.weight is not None and not applies_class_weight:
        weights.append(targets.weight[targets.target])
    for weight in weights:
        if weight is not None and not weight.requires_grad:
            out = weight == 0 if out is None else out | (weight == 0)
    return out


def without(numbers: Tensor, out: Tensor, usable: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the rows (N, K) with zeros in rows that are left out, as 0 times nan is nan.

    Args:
        numbers: (N, K) logits or hidden states.
        out: (N,) mask of the rows that are left out.
        usable: Returns the mask of rows without nan and infinity.
    """
    if is_plain(numbers) and not (out.any() and (out & ~usable(numbers.detach())).any()):
        return numbers  # no copy if all rows that are left out are finite
    return torch.where(out[:, None], 0.0, numbers)


def reduce(
    losses: Tensor,
    targets: Targets,
    reduction: str,
    *,
    sample_weight: Tensor | None = None,
    denominator: Tensor | float | None = None,
) -> Tensor:
    """Reduce losses per row (N,), which are already multiplied by class weights.

    Args:
        losses: (N,).
        targets: The targets of the rows.
        reduction: "mean", "sum" or "none".
        sample_weight: (N,) weight of each row.
        denominator: Divisor of the sum for "mean"; None for the sum of the weights.
    """
    weight = targets.mean_weight(losses)
    if sample_weight is not None:
        if targets.kept is not None:
            sample_weight = torch.where(targets.kept, sample_weight, 0.0)
        losses = losses * sample_weight
        weight = sample_weight if weight is None else weight * sample_weight
    if targets.kept is not None:
        losses = torch.where(targets.kept, losses, 0.0)
    if reduction == "none":
        return losses.reshape(targets.shape)
    if reduction == "sum":
        return losses.sum()
    if denominator is not None:
        return losses.sum() / denominator
    return losses.mean() if weight is None else losses.sum() / weight.sum()


def no_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Disable autocast for tensors that are float32 by now: it would multiply them in half precision."""
    if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def check_reduction(reduction: str) -> None:
    """Raise unless the reduction is one of torch's."""
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")


def _class_weight(weight: Tensor, like: Tensor, classes: int, target: Tensor | None) -> Tensor:
    if target is None:
        raise ValueError(
            "target must be given with class weights, got None; a weight is that of the target's class"
        )
    if not isinstance(weight, Tensor):
        raise TypeError(f"weight must be a tensor, got {_kind(weight)}; use torch.as_tensor(weight)")
    if weight.shape != (classes,):
        raise ValueError(f"weight must be ({classes},), one number per class, got {tuple(weight.shape)}")
    return weight.to(like)


def _in_range(indices: Tensor, classes: int, ignore_index: int) -> Tensor:
    """Return the indices, looked up in a table of the classes.

    The look-up raises for an index out of range on every device, and in compiled code.
    """
    table = torch.arange(classes, device=indices.device)
    try:
        return table.gather(0, indices)
    except (IndexError, RuntimeError) as error:
        while is_functorch_wrapped_tensor(indices):  # vmap does not support masks
            indices = get_unwrapped(indices)
        worst = indices[(indices < 0) | (indices >= classes)][0]
        raise ValueError(
            f"target must be in [0, {classes}) or ignore_index={ignore_index}, got {int(worst)}"
        ) from error


def _kind(value: object) -> str:
    return str(value.dtype) if isinstance(value, Tensor) else type(value).__name__
