"""Losses under `torch.compile`: one operator in the graph, whose gradient is computed in the forward pass.

Dynamo sees one operator instead of the code of the loss, so it has few conditions to check before each call.
AOTAutograd sees the torch operations of the reference inside, and the compiler fuses them with those around.
If only the logits need a gradient, the forward pass computes it too and keeps nothing else; the backward pass
is one product.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._C import _are_functorch_transforms_active
from torch.compiler import is_dynamo_compiling, is_exporting

from equipoise._batch import no_autocast, plain_rows
from equipoise.costs.matrix import ClassMatrix
from equipoise.distributed import is_dtensor
from equipoise.kernels.gate import is_plain, is_transformed
from equipoise.losses.rows import read

UNKNOWN = ...  # in a structure: a value of another type
_LIBRARY = torch.library.Library("equipoise", "DEF")
_LIBRARY.define(
    "loss(str name, Tensor[] parameters, Tensor logits, Tensor? target, Tensor? weight, "
    "Tensor? sample_weight, int ignore_index, str reduction) -> Tensor"
)
_structures: dict[str, Any] = {}  # by the name of the operator's argument


def is_traced() -> bool:
    """Return whether Dynamo reads this code, to compile it and not to export it."""
    # In torch 2.8 `is_exporting` is true wherever Dynamo reads the code.
    exporting = is_exporting() and getattr(torch.compiler, "_is_exporting_flag", True)
    return is_dynamo_compiling() and not exporting


def in_graph(
    loss: Any,
    logits: Any,
    target: Any,
    weight: Any,
    sample_weight: Any,
    ignore_index: Any,
    reduction: str,
) -> Tensor | None:
    """Return the loss as one operator, or None if Dynamo must read the code of the loss.

    It must for losses that are defined elsewhere, as they may branch on a value, which breaks the graph; for
    arguments that have to be checked, so that an error is raised outside the graph; and under `torch.vmap`.
    """
    tensors = logits, target, weight, sample_weight
    if any(tensor is not None and not isinstance(tensor, Tensor) for tensor in tensors):
        return None
    if is_dtensor(logits) or type(ignore_index) is not int or _are_functorch_transforms_active():
        return None
    if plain_rows(logits, target, weight, sample_weight) is None:
        return None
    parameters: list[Tensor] = []
    name = _name(structure_of(loss, parameters))
    if name is None:
        return None
    operator = torch.ops.equipoise.loss.default
    return operator(name, parameters, logits, target, weight, sample_weight, ignore_index, reduction)


def structure_of(value: Any, tensors: list[Tensor]) -> Any:
    """Return a loss as nested tuples of a type and its fields, which are constants; append its tensors to a list.

    `UNKNOWN` stands for other values than numbers, texts, tensors, tuples, matrices and dataclasses.
    """
    if isinstance(value, Tensor):
        tensors.append(value)
        return (Tensor, len(tensors) - 1)
    if isinstance(value, float):
        return (float, value.hex())  # for a number that changes Dynamo would make an argument of the graph
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, ClassMatrix):
        return (ClassMatrix, value.kind, value.digest)
    names = () if isinstance(value, tuple) else getattr(type(value), "__match_args__", None)
    if names is None:
        return UNKNOWN
    items = value if isinstance(value, tuple) else [getattr(value, name) for name in names]
    return (type(value), *[structure_of(item, tensors) for item in items])


def value_of(structure: Any, tensors: Sequence[Tensor]) -> Any:
    """Return the value of a structure: the inverse of `structure_of`."""
    if not isinstance(structure, tuple):
        return structure
    kind, *items = structure
    if kind is Tensor:
        return tensors[items[0]]
    if kind is float:
        return float.fromhex(items[0])
    if kind is ClassMatrix:
        return ClassMatrix.existing(*items)
    values = [value_of(item, tensors) for item in items]
    return tuple(values) if kind is tuple else kind(*values)


def _name(structure: Any) -> str | None:
    """Return a text that determines the loss, or None if there is none."""
    if not _is_known(structure):
        return None
    name = f"{structure} of {_digest()}"
    _structures[name] = structure
    return name


# As `torch.compiler.assume_constant_result` does, which would import Dynamo with the package.
_name._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]


def _is_known(structure: Any) -> bool:
    """Return whether all values are known, and all classes those of the package."""
    if not isinstance(structure, tuple):
        return structure is not UNKNOWN
    kind, *items = structure
    if kind in (Tensor, float, ClassMatrix):
        return True
    own = kind.__module__.partition(".")[0] == __name__.partition(".")[0]
    whole = own and len(items) == len(dataclasses.fields(kind))
    return (kind is tuple or whole) and all(map(_is_known, items))


@cache
def _digest() -> str:
    """Return a hash of the package's code: torch caches compiled code by the arguments of operators."""
    code = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        code.update(path.read_bytes())
    return code.hexdigest()


def _loss(
    name: str,
    parameters: Sequence[Tensor],
    logits: Tensor,
    target: Tensor | None,
    weight: Tensor | None,
    sample_weight: Tensor | None,
    ignore_index: int,
    reduction: str,
) -> Tensor:
    """Return the loss: the definition of the operator by torch operations."""
    loss = value_of(_structures[name], parameters)
    arguments: Any = {
        "target": target,
        "weight": weight,
        "sample_weight": sample_weight,
        "ignore_index": ignore_index,
        "reduction": reduction,
    }
    others = target, weight, sample_weight, *parameters
    if (
        is_plain(logits)  # with the backend "eager", where the kernel computes the loss
        or is_transformed()
        or not (torch.is_grad_enabled() and logits.requires_grad)
        or any(tensor is not None and tensor.requires_grad for tensor in others)
        or logits.dtype.itemsize < 4  # a gradient that is not yet multiplied by a scale may underflow
    ):
        return loss(logits, **arguments)
    return _WithGradient.apply(logits, loss, arguments)  # pyright: ignore[reportReturnType]


_LIBRARY.impl("loss", _loss, "CompositeImplicitAutograd")


class _WithGradient(torch.autograd.Function):
    """A loss whose gradient is computed in the forward pass."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, loss: Any, arguments: dict[str, Any]) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the loss."""
        with torch.enable_grad(), no_autocast(logits.device):
            leaf = logits.detach().requires_grad_()
            batch = dataclasses.replace(read(loss, leaf, **arguments), first_order=True)
            value = loss._reduced(batch, arguments["reduction"], "under a compiler")
            (grad,) = torch.autograd.grad(value.sum(), leaf)
        ctx.save_for_backward(grad)
        return value.detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the gradient of the logits."""
        (of_sum,) = ctx.saved_tensors
        if grad.ndim:  # a number per row
            grad = grad.unsqueeze(min(1, of_sum.ndim - 1))
        return of_sum * grad, None, None
