"""Logits and weights sharded over ranks as a DTensor: the part of each rank, and checks that inputs agree.

This module does not import torch.distributed.tensor; code that makes a DTensor has done so. The losses of
sharded rows are computed in `sharded.py`.
"""

import sys
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, final

import torch
import torch.distributed as dist
from torch import Tensor

from equipoise.kernels.gate import TRACED, is_traced

SAMPLES = 16  # of a floating tensor, compared between ranks


def is_dtensor(value: object) -> bool:
    """Return whether a value is a DTensor; False if their module is not imported."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(value, module.DTensor)


def full_tensor(value: Any) -> Any:
    """Return the full tensor of a DTensor, and other values unchanged."""
    return value.full_tensor() if is_dtensor(value) else value


@final
@dataclass(frozen=True)
class Run:
    """The slice of a sharded dimension that a rank has, as `torch.chunk` cuts it.

    Args:
        size: Length of the dimension.
        chunk: Length of a full chunk.
        ranks: Number of ranks.
        rank: Index of this rank.
        group: The process group; None for a dimension that is not sharded.
    """

    size: int
    chunk: int
    ranks: int = 1
    rank: int = 0
    group: Any = None

    @property
    def start(self) -> int:
        """First index of the slice."""
        return min(self.rank * self.chunk, self.size)

    @property
    def stop(self) -> int:
        """Index after the last; the slice may be empty."""
        return min(self.start + self.chunk, self.size)

    def narrow(self, tensor: Tensor) -> Tensor:
        """Return this rank's slice of a tensor whose first dimension is complete."""
        return tensor[self.start : self.stop]

    def repeat(self, count: int) -> "Run":
        """Return the slice of a dimension that has `count` entries for each entry of this one."""
        return replace(self, size=self.size * count, chunk=self.chunk * count)

    def gather(self, part: Tensor, dim: int) -> Tensor:
        """All-gather a dimension in forward; this rank's slice of the gradient in backward.

        The gradient is right if all ranks compute the same from the result.
        """
        return part if self.ranks == 1 else _Gathered.apply(part, self, dim)  # pyright: ignore[reportReturnType]

    def sum_gradient(self, tensor: Tensor) -> Tensor:
        """Identity in forward; all-reduce of the gradient in backward."""
        return tensor if self.ranks == 1 else _SummedGradient.apply(tensor, self.group)  # pyright: ignore[reportReturnType]


class _Gathered(torch.autograd.Function):
    """All-gather of a dimension in forward; this rank's slice of the gradient in backward."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, run: Run, dim: int) -> Tensor:
        ctx.run, ctx.dim = run, dim
        part = part.movedim(dim, 0)
        padded = part.new_zeros(run.chunk, *part.shape[1:])
        padded[: len(part)] = part
        return all_gather(padded, run.group).flatten(0, 1)[: run.size].movedim(0, dim).contiguous()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        refuse_second_derivative()
        run: Run = ctx.run
        return grad.narrow(ctx.dim, run.start, run.stop - run.start), None, None


class _SummedGradient(torch.autograd.Function):
    """Identity in forward; all-reduce of the gradient in backward."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        refuse_second_derivative()
        total = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ctx.group)
        return total, None


def all_gather(part: Tensor, group: Any) -> Tensor:
    """Return the tensors of all ranks of a group, stacked: (ranks, ...)."""
    found = part.new_empty(dist.get_world_size(group), *part.shape)
    dist.all_gather(list(found), part.contiguous(), group=group)
    return found


def refuse_second_derivative() -> None:
    """Raise if create_graph is True, as second derivatives would lack the terms of other ranks."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            "create_graph must be False for classes that are sharded over ranks, got True; for second "
            "derivatives use logits.full_tensor()"
        )


@final
@dataclass(frozen=True)
class Shard:
    """The slices of rows and classes of logits that a rank has.

    Args:
        rows: Slice of the rows.
        classes: Slice of the classes.
    """

    rows: Run
    classes: Run

    def gather(self, logits: Tensor) -> Tensor:
        """Return the logits (N, C) of all rows and classes."""
        return self.rows.gather(self.classes.gather(logits, 1), 0)


def shard_of(logits: Any, axis: int, given: Mapping[str, Any]) -> tuple[Tensor, Shard]:
    """Return this rank's logits as rows, and its slices of rows and classes.

    Args:
        logits: A DTensor.
        axis: Dimension of the classes.
        given: Other inputs that must be equal on all ranks, by name.
    """
    runs = _runs(logits, "logits", {axis: "classes"} | ({0: "rows"} if axis else {}))
    local = logits.to_local()
    hint = "a mesh dimension over which rows differ must be Shard(0), with all targets on each rank"
    _check_same(logits, "logits", local, runs, given, hint)
    part = local.movedim(axis, -1)
    part = part.reshape(part.shape[:-1].numel(), part.shape[-1])
    if not axis:
        return part, Shard(Run(1, 1), runs[0])
    return part, Shard(runs[0].repeat(logits.shape[2:].numel()), runs[1])


def run_of_classes(weight: Any, given: Mapping[str, Any] | None) -> Run:
    """Return this rank's slice of the classes of the weight (V, D) of a linear layer.

    Args:
        weight: A DTensor.
        given: Other inputs that must be equal on all ranks, by name; None for no comparison.
    """
    runs = _runs(weight, "linear_weight", {0: "classes"})
    if given is not None:
        hint = (
            "where each rank has other rows, as under fully_shard, compute the loss in the forward of the "
            "module that is sharded, or call its unshard() first"
        )
        _check_same(weight, "linear_weight", weight.to_local(), runs, given, hint)
    return runs[0]


def refuse_mask(mask: Tensor | None) -> None:
    """Raise if a mask is given with logits that are a DTensor."""
    if mask is not None:
        raise ValueError(
            f"mask must be left out where logits are a DTensor, got {tuple(mask.shape)}; "
            "put minus infinity into the logits"
        )


def refuse_traced(hidden: Tensor) -> None:
    """Raise if hidden states are traced or transformed while the weight is a DTensor."""
    if is_traced(hidden):
        raise ValueError(
            f"linear_weight must be a full tensor {TRACED}, got a DTensor; use linear_weight.full_tensor()"
        )


def _runs(tensor: Any, name: str, dims: Mapping[int, str]) -> dict[int, Run]:
    """Return this rank's slices of the dimensions that may be sharded."""
    shard = sys.modules["torch.distributed.tensor"].Shard
    mesh = tensor.device_mesh
    runs = {dim: Run(tensor.shape[dim], tensor.shape[dim]) for dim in dims}
    for place, placement in enumerate(tensor.placements):
        if placement.is_replicate():
            continue
        dim = placement.dim % tensor.ndim if type(placement) is shard else None
        if dim not in runs or runs[dim].group is not None:
            allowed = " or ".join(f"Shard({dim}) for {what}" for dim, what in dims.items())
            raise ValueError(
                f"{name} must be replicated, or {allowed} on one dimension of the mesh, got "
                f"{tensor.placements}; use {name}.redistribute(placements=...)"
            )
        size, ranks = tensor.shape[dim], mesh.size(place)
        runs[dim] = Run(size, -(-size // ranks), ranks, mesh.get_local_rank(place), mesh.get_group(place))
    return runs


def _check_same(
    tensor: Any, name: str, local: Tensor, runs: Mapping[int, Run], given: Mapping[str, Any], hint: str
) -> None:
    """Raise, on every rank, unless all ranks of a mesh have the same inputs.

    Call it before checks of values: an error on one rank only would leave the others waiting.
    """
    mesh = tensor.device_mesh
    expected = [runs[dim].stop - runs[dim].start if dim in runs else n for dim, n in enumerate(tensor.shape)]
    cut = _fingerprint(list(local.shape) == expected)
    prints = torch.stack([cut, _fingerprint(tensor), *map(_fingerprint, given.values())]).to(local.device)
    for dim in range(mesh.ndim):
        prints = all_gather(prints, mesh.get_group(dim))
    prints = prints.reshape(-1, *prints.shape[-2:]).nan_to_num()
    if not (prints[:, 0] == _fingerprint(True).to(prints)).all():
        raise ValueError(
            f"{name} must be sharded as by torch.chunk, got {tensor.placements} of {tuple(tensor.shape)} "
            "sharded otherwise; use distribute_tensor"
        )
    difference = (prints - prints[0]).abs()
    tolerance = 0.02 * prints[:, :, 2:].abs().amax((0, 2))
    exact, near = difference[:, :, :2] == 0, difference[:, :, 2:] <= tolerance[:, None]
    same = (exact.all(2) & near.all(2)).all(0)[1:].tolist()
    for other, equal in zip((name, *given), same, strict=True):
        if not equal:
            raise ValueError(
                f"{other} must be the same on all {mesh.size()} ranks that share the {name}, got different "
                f"ones; {hint}"
            )


def _fingerprint(value: Any) -> Tensor:
    """Return numbers to compare a value between ranks: two exact ones, and samples of a floating tensor.

    The samples are compared up to rounding, by which results of different devices may differ.
    """
    numbers = torch.zeros(2 + SAMPLES, dtype=torch.float64)
    if not isinstance(value, Tensor):
        numbers[0] = zlib.crc32(repr(value).encode())
        return numbers
    kind = f"{tuple(value.shape)} {value.dtype} {value.requires_grad} {getattr(value, 'placements', None)}"
    numbers[0] = zlib.crc32(kind.encode())
    if is_dtensor(value) or not value.numel():
        return numbers
    flat = value.detach().reshape(-1)
    if value.is_floating_point():
        places = torch.linspace(0, len(flat) - 1, SAMPLES, dtype=torch.float64).long()
        numbers[2:] = flat[places.to(flat.device)]
    else:
        places = torch.arange(len(flat), device=flat.device) % 8191 + 1
        numbers[1] = (flat.long() * places).sum() % 2**52
    return numbers
