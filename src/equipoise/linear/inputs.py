"""Inputs of fused losses: checked, cast as by autocast, and reshaped to rows."""

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, final

import torch
from torch import Tensor

from equipoise._batch import (
    IGNORE_INDEX,
    Targets,
    check_reduction,
    left_out,
    read_sample_weight,
    read_targets,
    reduce,
    without,
)
from equipoise.distributed import Run, full_tensor, is_dtensor, refuse_traced, run_of_classes
from equipoise.kernels.differentiable import capped
from equipoise.kernels.gate import is_traced
from equipoise.linear.head import HALF, Head
from equipoise.statistics.row import RowFunction, applies_class_weight

Lora = tuple[Tensor, Tensor] | tuple[Tensor, Tensor, float]


@final
@dataclass(frozen=True)
class Inputs:
    """The checked inputs of a fused loss.

    Args:
        head: The linear layer; if the classes are sharded, this rank's part of it.
        targets: The targets and class weights.
        sample_weight: (N,) weights of rows, or None.
        reduction: "none", "mean" or "sum".
        denominator: Divisor of the sum for "mean", or None.
        softcap: Cap s on the logits, s tanh(z / s), or None.
        grad: "auto", "forward" or "recompute".
        block_bytes: Memory for a block of logits, or None.
        backend: "auto", "torch", "cpp" or "triton".
        traced: Whether the logits must be computed in one piece, by operations that a tracer can record.
        classes: The classes of this rank if they are sharded, or None.
    """

    head: Head
    targets: Targets
    sample_weight: Tensor | None
    reduction: str
    denominator: float | Tensor | None
    softcap: float | None
    grad: str
    block_bytes: int | None
    backend: str
    traced: bool
    classes: Run | None

    @property
    def num_classes(self) -> int:
        """Number of all classes."""
        return len(self.head.weight) if self.classes is None else self.classes.size

    def reduce(self, losses: Tensor) -> Tensor:
        """Return the reduction of losses (N,) that are multiplied by class weights."""
        return reduce(
            losses,
            self.targets,
            self.reduction,
            sample_weight=self.sample_weight,
            denominator=self.denominator,
        )

    def all_logits(self) -> Tensor:
        """Return the logits (N, V), by operations that a tracer can record."""
        return capped(self.head.all_logits(), self.softcap)

    def reasons(self) -> list[str]:
        """Return reasons why the forward pass cannot compute the gradients, for any loss; [] if it can."""
        reasons = ["reduction is 'none'"] if self.reduction == "none" else []
        for name, value in {"sample_weight": self.sample_weight, "denominator": self.denominator}.items():
            if isinstance(value, Tensor) and value.requires_grad:
                reasons.append(f"{name} needs a gradient")
        return reasons


def learns(loss: RowFunction, weight: Tensor | None) -> bool:
    """Return whether a class weight or a parameter of the loss requires a gradient."""
    held: list[Any] = [weight]
    for coefficient, term in loss.terms():
        held.append(coefficient)
        held += [getattr(term, field.name) for field in fields(term)] if is_dataclass(term) else []
    return any(isinstance(value, Tensor) and value.requires_grad for value in held)


def read_inputs(
    loss: RowFunction | None,
    hidden: Tensor,
    linear_weight: Tensor,
    target: Tensor | None = None,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
    ignore_index: int = IGNORE_INDEX,
    reduction: str = "mean",
    denominator: float | Tensor | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    lora: Lora | None = None,
    grad: str = "auto",
    block_bytes: int | None = None,
    backend: str = "auto",
    alone: bool = False,
) -> Inputs:
    """Return the inputs of a loss, or of statistics if the loss is None.

    Args:
        loss: The loss.
        hidden: As in `Loss.linear`, like the other arguments except the last.
        linear_weight: (V, D).
        target: Classes or probabilities.
        linear_bias: (V,).
        weight: (V,).
        sample_weight: One number per row.
        ignore_index: Class of ignored rows.
        reduction: "none", "mean" or "sum".
        denominator: Divisor for "mean".
        logit_scale: Factor on the logits.
        softcap: Cap on the logits.
        lora: Low-rank part of the weight.
        grad: "auto", "forward" or "recompute".
        block_bytes: Memory for a block.
        backend: Backend of the blocks.
        alone: Whether only this rank makes the call, so that there is no communication and no comparison.
    """
    hidden, target, weight = full_tensor(hidden), full_tensor(target), full_tensor(weight)
    sample_weight, denominator = full_tensor(sample_weight), full_tensor(denominator)
    classes = None
    if is_dtensor(linear_weight):
        refuse_traced(hidden)
        given = {
            "hidden": hidden,
            "target": target,
            "linear_bias": linear_bias,
            "weight": weight,
            "sample_weight": sample_weight,
            "denominator": denominator,
            "options": (ignore_index, reduction, logit_scale, softcap, grad, block_bytes, backend),
        }
        given |= {f"lora[{k}]": part for k, part in enumerate(lora if isinstance(lora, tuple) else (lora,))}
        classes = run_of_classes(linear_weight, None if alone else given)
    head, shape = _read_head(hidden, linear_weight, linear_bias, lora, logit_scale), hidden.shape[:-1]
    check_reduction(reduction)
    denominator = _read_denominator(denominator, reduction, head.hidden.device)
    rows = None
    if sample_weight is not None:
        rows = read_sample_weight(sample_weight, shape).to(head.hidden.device, head.work_dtype)
    like = head.hidden.new_empty(0, dtype=head.work_dtype)
    targets = read_targets(target, shape, len(head.weight), len(shape), like, weight, ignore_index)
    out = left_out(targets, rows, applies_class_weight=loss is not None and applies_class_weight(loss))
    if out is not None:
        # The sum is finite only if all terms are; this is faster than a test of each.
        head = replace(
            head, hidden=without(head.hidden, out, lambda x: x.sum(1, dtype=head.work_dtype).isfinite())
        )
    for _, term in () if loss is None else loss.terms():
        if not hasattr(term, "per_row"):
            raise ValueError(
                f"a fused loss must depend on one row at a time, got {term!r}; pass logits: "
                "loss(hidden @ linear_weight.T, target)"
            )
    softcap = _read_softcap(softcap)
    traced = classes is None and any(part is not None and is_traced(part) for part in head.parameters)
    if classes is not None and not alone:
        head = _share(head, classes)
    return Inputs(
        head, targets, rows, reduction, denominator, softcap, grad, block_bytes, backend, traced, classes
    )


def _read_head(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, lora: Lora | None, logit_scale: float
) -> Head:
    """Check the tensors of a head, cast them as by autocast, and reshape the hidden states to rows."""
    parts: dict[str, Tensor | None] = {"hidden": hidden, "linear_weight": weight, "linear_bias": bias}
    scale = 1.0
    if lora is not None:
        if not isinstance(lora, tuple) or len(lora) not in (2, 3):
            raise TypeError(f"lora must be (A, B) or (A, B, scale), got {type(lora).__name__}")
        parts |= {"lora[0]": lora[0], "lora[1]": lora[1]}
        scale = lora[2] if len(lora) == 3 else 1.0
    for name, value in {"logit_scale": logit_scale, "lora[2]": scale}.items():
        _check_finite(name, value)
    for name, part in parts.items():
        if part is not None and (not isinstance(part, Tensor) or not part.is_floating_point()):
            kind = str(part.dtype) if isinstance(part, Tensor) else type(part).__name__
            raise TypeError(f"{name} must be a floating tensor, got {kind}")
    given = {name: part for name, part in parts.items() if part is not None}
    kind = hidden.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        given = {name: part.to(dtype) for name, part in given.items()}
    if not torch.is_grad_enabled():
        given = {name: part.detach() for name, part in given.items()}
    for name, part in given.items():
        like = given["hidden"]
        if part.dtype != like.dtype or part.device != like.device:
            raise ValueError(
                f"{name} must have the dtype and device of hidden, {like.dtype} on {like.device}, got "
                f"{part.dtype} on {part.device}; use {name}.to(hidden) or autocast"
            )
    if hidden.ndim == 0 or weight.ndim != 2 or weight.shape[1] != hidden.shape[-1] or not weight.numel():
        raise ValueError(
            "linear_weight must be (V, D) and hidden (..., D), got "
            f"{tuple(weight.shape)} and {tuple(hidden.shape)}; a class is a row of linear_weight"
        )
    v, d = weight.shape
    if bias is not None and bias.shape != (v,):
        raise ValueError(f"linear_bias must be ({v},), one number per class, got {tuple(bias.shape)}")
    if lora is not None:
        a, b = lora[:2]
        if a.ndim != 2 or b.ndim != 2 or a.shape[1] != d or b.shape[0] != v or a.shape[0] != b.shape[1]:
            raise ValueError(
                f"lora must be A (r, {d}) and B ({v}, r), got {tuple(a.shape)} and {tuple(b.shape)}"
            )
    given["hidden"] = given["hidden"].reshape(-1, d)
    given = {name: _without_padding(part) for name, part in given.items()}
    names = ("hidden", "linear_weight", "linear_bias", "lora[0]", "lora[1]")
    return Head.from_parameters([given.get(name) for name in names], (float(scale), float(logit_scale)))


def _without_padding(part: Tensor) -> Tensor:
    """Return a matrix without padding between its rows, which half precision products may read."""
    if part.ndim != 2 or part.dtype not in HALF or part.device.type != "cpu":
        return part
    return part.contiguous() if part.stride(1) == 1 and part.stride(0) > part.shape[1] else part


def _share(head: Head, classes: Run) -> Head:
    """Return this rank's part of a head."""
    weight: Any = head.weight
    layout = weight.device_mesh, weight.placements

    def of_classes(part: Any) -> Any:
        if part is None:
            return None
        if is_dtensor(part) and (part.device_mesh, part.placements) == layout:
            return part.to_local()
        return classes.narrow(classes.sum_gradient(full_tensor(part)))

    return replace(
        head,
        hidden=classes.sum_gradient(head.hidden),
        weight=of_classes(weight),
        bias=of_classes(head.bias),
        down=None if head.down is None else classes.sum_gradient(full_tensor(head.down)),
        up=of_classes(head.up),
    )


def _read_denominator(denominator: Any, reduction: str, device: torch.device) -> Any:
    """Check the denominator."""
    if denominator is None:
        return None
    if reduction != "mean":
        raise ValueError(f"denominator must be left out unless reduction is 'mean', got {reduction!r}")
    if isinstance(denominator, Tensor):
        if denominator.numel() != 1:
            raise ValueError(f"denominator must be one number, got shape {tuple(denominator.shape)}")
        return denominator.reshape(()).to(device)
    _check_finite("denominator", denominator)
    if denominator <= 0:
        raise ValueError(f"denominator must be above 0, got {denominator}")
    return denominator


def _read_softcap(softcap: float | None) -> float | None:
    """Check the soft cap."""
    if softcap is None:
        return None
    _check_finite("softcap", softcap)
    if softcap <= 0:
        raise ValueError(f"softcap must be above 0, got {softcap}; None for no cap")
    return float(softcap)


def _check_finite(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(
            f"{name} must be a Python number, got {type(value).__name__}; multiply hidden by a learnable one"
        )
    if not abs(value) < float("inf"):
        raise ValueError(f"{name} must be finite, got {value}")
