"""From what a user passed to a head, its targets and a plan."""

from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from equipoise.linear.blocks import OpenBlock, TorchBlock
from equipoise.linear.head import HALF, Head
from equipoise.linear.orders import Job
from equipoise.linear.sharded import plan_share
from equipoise._batch import Targets, check_reduction, read_sample_weight, read_targets
from equipoise.rows import FullLogits, RowFunction, RowStatistics, Stat, needs
from equipoise.sharded import Run, is_dtensor
from equipoise.stats import TRACED, Group, Rooms, cpp, kernels, traced, tried

BACKENDS = ("auto", "torch", "cpp", "triton")
Lora = tuple[Tensor, Tensor] | tuple[Tensor, Tensor, float]


def read_head(
    hidden: Tensor, linear_weight: Tensor, linear_bias: Tensor | None, lora: Lora | None, logit_scale: float
) -> Head:
    """Check the parts of a head, cast them as autocast would, and lay the hidden states out as rows."""
    parts: dict[str, Tensor | None] = {
        "hidden": hidden,
        "linear_weight": linear_weight,
        "linear_bias": linear_bias,
    }
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
    shape = tuple(linear_weight.shape)
    if hidden.ndim == 0 or len(shape) != 2 or shape[1] != hidden.shape[-1] or not linear_weight.numel():
        raise ValueError(
            "linear_weight must be (V, D) and hidden (..., D), got "
            f"{shape} and {tuple(hidden.shape)}; a class is a row of linear_weight"
        )
    v, d = shape
    if linear_bias is not None and linear_bias.shape != (v,):
        raise ValueError(f"linear_bias must be ({v},), one number per class, got {tuple(linear_bias.shape)}")
    if lora is not None:
        a, b = lora[:2]
        if a.ndim != 2 or b.ndim != 2 or a.shape[1] != d or b.shape[0] != v or a.shape[0] != b.shape[1]:
            raise ValueError(
                f"lora must be A (r, {d}) and B ({v}, r), got {tuple(a.shape)} and {tuple(b.shape)}"
            )
    given["hidden"] = given["hidden"].reshape(-1, d)
    given = {name: _without_gaps(part) for name, part in given.items()}
    return Head(
        given["hidden"],
        given["linear_weight"],
        given.get("linear_bias"),
        given.get("lora[0]"),
        given.get("lora[1]"),
        float(scale),
        float(logit_scale),
    )


def _without_gaps(part: Tensor) -> Tensor:
    """Return a matrix whose rows have nothing between them that a product in half precision may read."""
    if part.ndim != 2 or part.dtype not in HALF or part.device.type != "cpu":
        return part
    return part.contiguous() if part.stride(1) == 1 and part.stride(0) > part.shape[1] else part


def _check_finite(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(
            f"{name} must be a Python number, got {type(value).__name__}; multiply hidden by a learnable one"
        )
    if not abs(value) < float("inf"):
        raise ValueError(f"{name} must be finite, got {value}")


def read_softcap(softcap: float | None) -> float | None:
    """Check the cap on the logits."""
    if softcap is None:
        return None
    _check_finite("softcap", softcap)
    if softcap <= 0:
        raise ValueError(f"softcap must be above 0, got {softcap}; None for no cap")
    return float(softcap)


def read_target(
    head: Head, shape: torch.Size, target: Tensor | None, weight: Tensor | None, ignore_index: int
) -> Targets:
    """Check the targets of rows of this shape."""
    like = head.hidden.new_empty(0, dtype=head.work_dtype)
    return read_targets(target, shape, len(head.weight), len(shape), like, weight, ignore_index)


def read_sample_weight(
    sample_weight: Tensor | None, shape: torch.Size, head: Head, denominator: Any, reduction: str
) -> Tensor | None:
    """Check the weights of the rows, and the denominator."""
    check_reduction(reduction)
    if denominator is not None:
        if reduction != "mean":
            raise ValueError(f"denominator must be left out unless reduction is 'mean', got {reduction!r}")
        if isinstance(denominator, Tensor):
            if denominator.numel() != 1:
                raise ValueError(f"denominator must be one number, got shape {tuple(denominator.shape)}")
        else:
            _check_finite("denominator", denominator)
            if denominator <= 0:
                raise ValueError(f"denominator must be above 0, got {denominator}")
    if sample_weight is None:
        return None
    return read_sample_weight(sample_weight, shape).to(head.hidden.device, head.work_dtype)


def is_traced(head: Head, backend: str) -> bool:
    """Whether the logits must be made in one piece, in operations that a tracer or a transform can follow."""
    if is_dtensor(head.weight) or not any(part is not None and traced(part) for part in head.parameters):
        return False
    if open_backend(backend, head.hidden.device)[0] != "torch" and backend != "auto":
        raise ValueError(f"backend must be 'auto' or 'torch' {TRACED}, got {backend!r}; leave it out")
    return True


def open_backend(backend: str, device: torch.device) -> tuple[str, OpenBlock]:
    """Return the name of the backend and what opens a block with it."""
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    if backend == "triton" or (backend == "auto" and device.type == "cuda"):
        from equipoise.linear import triton

        if triton.available(device):
            return "triton", triton.TritonBlock
        if backend == "triton":
            raise ValueError(
                f"backend must be 'torch' or 'auto' here, got 'triton', which is not there for {device.type}"
            )
    if backend == "cpp" or (backend == "auto" and device.type == "cpu"):
        if device.type == "cpu" and kernels.available():
            return "cpp", partial(cpp.CppBlock, spare=True)
        if backend == "cpp":
            raise ValueError(
                f"backend must be 'torch' or 'auto' here, got 'cpp', which is not there for {device.type}; "
                "it is compiled with the package where there is g++ on Linux"
            )
    return "torch", partial(TorchBlock, rooms=Rooms())


def check_rows(loss: RowFunction) -> None:
    """Raise if a term of the loss looks at the batch as a whole."""
    for _, term in loss.terms():
        if not hasattr(term, "per_row"):
            raise ValueError(
                f"a fused loss must look at one row at a time, got {term!r}; pass logits: "
                "loss(hidden @ linear_weight.T, target)"
            )


def read_job(
    loss: RowFunction,
    head: Head,
    targets: Targets,
    *,
    softcap: float | None,
    grad: str,
    reasons: list[str],
    block_bytes: int | None,
    backend: str,
    classes: Run | None = None,
) -> Job:
    """Return what is to be computed for a loss."""
    like = head.hidden.new_empty(0, dtype=head.work_dtype)
    name, opened = open_backend(backend, head.hidden.device)
    asked = needs(loss, len(head.weight), like, targets.weight)
    group = Group(asked.stats)
    whole = asked.whole or targets.soft is not None
    if targets.target is None and targets.soft is None and (whole or group.reads_target):
        raise ValueError("target must be given, got None; only penalties can do without one")
    _check_single(loss, asked.stats, asked.whole, like, len(head.weight), targets.weight)
    if targets.soft is not None and targets.soft.requires_grad:
        raise ValueError(
            "target must need no gradient in a fused loss, got probabilities that do; pass target.detach(), "
            "or logits: loss(hidden @ linear_weight.T, target)"
        )
    learnt = _learnt(loss, targets)
    if whole and learnt:
        raise ValueError(
            "numbers in the loss and class weights must need no gradient with whole rows, got one that does; "
            "pass logits: loss(hidden @ linear_weight.T, target)"
        )
    plan = plan_share(
        head,
        classes,
        grad=grad,
        reasons=reasons + learnt,
        whole=whole,
        marked=bool(tried(group, like.device)[1].marks),
        backend="torch" if whole else name,
        block_bytes=block_bytes,
    )
    return Job(group, targets, softcap, plan, opened, loss, whole)


def _check_single(
    loss: RowFunction,
    stats: tuple[Stat, ...],
    whole: bool,
    like: Tensor,
    num_classes: int,
    weight: Tensor | None,
) -> None:
    """Raise if the loss of a row depends on the row beside it, tried on made-up answers."""
    numbers = torch.linspace(0.5, 1.5, 2 * len(stats), dtype=like.dtype, device=like.device)
    known = dict(zip(stats, numbers.reshape(-1, 2), strict=True))
    logits = None
    if whole:
        logits = torch.linspace(0.5, 1.5, 2 * num_classes, dtype=like.dtype, device=like.device)
        logits = logits.reshape(num_classes, 2).t()
    target = torch.tensor([0, num_classes - 1], device=like.device)

    def of(rows: slice) -> Tensor:
        return loss.of(
            RowStatistics(
                lambda stat: known[stat][rows],
                num_classes=num_classes,
                target=target[rows],
                class_weight=weight,
                full_logits=None if logits is None else FullLogits(logits[rows], target[rows]),
            )
        )

    with torch.no_grad():
        both, each = of(slice(2)), [of(slice(1)), of(slice(1, 2))]
    if both.shape != (2,) or not torch.allclose(both, torch.cat(each), rtol=1e-4, atol=0, equal_nan=True):
        raise ValueError(
            f"a fused loss must look at one row at a time, got {loss!r}, whose loss of a row depends on the "
            "rows beside it; pass logits: loss(hidden @ linear_weight.T, target)"
        )


def _learnt(loss: RowFunction, targets: Targets) -> list[str]:
    """Why a gradient is wanted of more than the head, if it is."""
    held: list[Any] = [targets.weight]
    for coefficient, term in loss.terms():
        held.append(coefficient)
        held += [getattr(term, field.name) for field in fields(term)] if is_dataclass(term) else []
    if any(isinstance(value, Tensor) and value.requires_grad for value in held):
        return ["a number in the loss or a class weight needs a gradient"]
    return []
