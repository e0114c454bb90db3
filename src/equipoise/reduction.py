"""From logits of any shape to rows, and from a number per row to the number a user asked for.

The rules are those of `torch.nn.functional.cross_entropy`: class dimension 1 (0 for a single row), targets as
class indices or as probabilities, `ignore_index`, class weights that also weigh the mean.
"""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

REDUCTIONS = ("none", "mean", "sum")
IGNORE_INDEX = -100  # torch's


@final
@dataclass(frozen=True)
class Batch:
    """Rows read from what a user passed.

    Args:
        logits: (N, C), float32 at least.
        target: (N,) class indices with ignored rows set to 0, or None.
        soft: (N, C) target probabilities, or None.
        kept: (N,) false for ignored rows, or None when every row counts.
        weight: (C,) class weights, or None.
        shape: Shape of the per-row losses as the user sees them.
    """

    logits: Tensor
    target: Tensor | None
    soft: Tensor | None
    kept: Tensor | None
    weight: Tensor | None
    shape: torch.Size

    def row_weight(self) -> Tensor | None:
        """Weight (N,) of each row in the mean: its class's, 0 if ignored; None when all count once."""
        if self.target is None:
            return None
        weight = None if self.weight is None else self.weight[self.target]
        if self.kept is None:
            return weight
        return self.kept.to(self.logits.dtype) if weight is None else torch.where(self.kept, weight, 0.0)


def read(
    logits: Tensor, target: Tensor | None, weight: Tensor | None = None, ignore_index: int = IGNORE_INDEX
) -> Batch:
    """Check logits, target and class weights, and lay them out as rows."""
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
    rows = logits.movedim(axis, -1).reshape(-1, classes)
    if weight is not None:
        weight = _class_weight(weight, rows, target)
    if target is None:
        return Batch(rows, None, None, None, None, shape)
    if not isinstance(target, Tensor):
        raise TypeError(f"target must be a tensor, got {_kind(target)}; use torch.as_tensor(target)")
    if not isinstance(ignore_index, int):
        raise TypeError(f"ignore_index must be an integer, got {ignore_index!r}; leave it out for -100")
    if target.is_floating_point():
        if target.shape != logits.shape:
            raise ValueError(
                f"target must have the shape of the logits when it holds probabilities, got "
                f"{tuple(target.shape)} and {tuple(logits.shape)}; class indices must be integers"
            )
        if ignore_index != IGNORE_INDEX:
            raise ValueError(
                f"ignore_index must be left out when target holds probabilities, got {ignore_index}; "
                "drop those rows instead"
            )
        soft = target.movedim(axis, -1).reshape(-1, classes).to(rows.dtype)
        return Batch(rows, None, soft, None, weight, shape)
    if target.dtype == torch.bool or target.is_complex():
        raise TypeError(
            f"target must be class indices or probabilities, got {target.dtype}; use target.long()"
        )
    if target.shape != shape:
        raise ValueError(
            f"target must have the shape of the logits without the class dimension, {tuple(shape)}, or with "
            f"it as probabilities, got {tuple(target.shape)} for logits {tuple(logits.shape)}"
        )
    indices = target.reshape(-1).long()
    kept = indices != ignore_index
    return Batch(
        rows, _in_range(torch.where(kept, indices, 0), classes, ignore_index), None, kept, weight, shape
    )


def reduce(losses: Tensor, batch: Batch, reduction: str) -> Tensor:
    """Reduce per-row losses (N,), which already carry their class weight, as the user asked."""
    weight = batch.row_weight()
    if batch.kept is not None:
        losses = torch.where(batch.kept, losses, 0.0)
    if reduction == "none":
        return losses.reshape(batch.shape)
    total = losses.sum()
    if reduction == "sum":
        return total
    return total / (weight.sum() if weight is not None else losses.numel())


def check_reduction(reduction: str) -> None:
    """Raise unless the reduction is one of torch's."""
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")


def _class_weight(weight: Tensor, rows: Tensor, target: Tensor | None) -> Tensor:
    if target is None:
        raise ValueError(
            "target must be given with class weights, got None; a weight is that of the target's class"
        )
    if not isinstance(weight, Tensor):
        raise TypeError(f"weight must be a tensor, got {_kind(weight)}; use torch.as_tensor(weight)")
    if weight.shape != rows.shape[1:]:
        raise ValueError(
            f"weight must be ({rows.shape[1]},), one number per class, got {tuple(weight.shape)}"
        )
    return weight.to(rows)


def _in_range(indices: Tensor, classes: int, ignore_index: int) -> Tensor:
    """Return the indices, read through a table of the classes.

    On every device, and while compiling, that reports a class that does not exist.
    """
    table = torch.arange(classes, device=indices.device)
    try:
        return table.gather(0, indices)
    except (IndexError, RuntimeError) as error:
        worst = indices[(indices < 0) | (indices >= classes)][0]
        raise ValueError(
            f"target must be in [0, {classes}) or ignore_index={ignore_index}, got {int(worst)}"
        ) from error


def _kind(value: object) -> str:
    return str(value.dtype) if isinstance(value, Tensor) else type(value).__name__
