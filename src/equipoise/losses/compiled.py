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
from torch.compiler import is_exporting
from torch.torch_version import TorchVersion

from equipoise._batch import no_autocast
from equipoise.costs.matrix import ClassMatrix
from equipoise.kernels.gate import is_traced, is_transformed
from equipoise.losses.rows import read

UNKNOWN = ...
_LIBRARY = torch.library.Library("equipoise", "DEF")
_LIBRARY.define(
    "loss(str name, Tensor[] parameters, Tensor logits, Tensor? target, Tensor? weight, "
    "Tensor? sample_weight, int ignore_index, str reduction) -> Tensor"
)
# In torch 2.8 compiled code does not raise for a class that does not exist; versions between are not tested.
_TOO_OLD = torch.__version__ < TorchVersion("2.13")
_OPERATOR: Any = torch.ops.equipoise.loss.default
_structures: dict[str, Any] = {}  # by the name of the operator's argument


def in_graph(
    loss: Any,
    logits: Any,
    target: Any,
    weight: Any,
    sample_weight: Any,
    mask: Any,
    ignore_index: Any,
    reduction: str,
) -> Tensor | None:
    """Return the loss as one operator, or None if Dynamo must read the code of the loss.

    It must for losses that are defined elsewhere, as they may branch on a value, which breaks the graph; for
    a mask and soft targets; for arguments that raise an error, so that it is raised outside the graph; under
    `torch.vmap`; and for export.

    Dynamo reads this function and `structure_of`. Each name in them is a condition that it checks before
    every call.
    """
    if mask is not None or type(logits) is not Tensor:
        return None
    axis = 1 if logits.ndim > 1 else 0
    places, classes = logits.shape[:axis] + logits.shape[axis + 1 :], logits.shape[axis : axis + 1]
    if not logits.is_floating_point() or classes == (0,) or reduction not in ("mean", "sum", "none"):
        return None
    if target is not None:
        if type(target) is not Tensor or target.shape != places:
            return None
        if target.is_floating_point() or target.is_complex() or not target.dtype.is_signed:
            return None
    if weight is not None and (target is None or type(weight) is not Tensor or weight.shape != classes):
        return None
    if sample_weight is not None and (type(sample_weight) is not Tensor or sample_weight.shape != places):
        return None
    if type(ignore_index) is not int:
        return None
    parameters: list[Tensor] = []
    name = _name(structure_of(loss, parameters))
    if name is None:
        return None
    return _OPERATOR(name, parameters, logits, target, weight, sample_weight, ignore_index, reduction)


def structure_of(value: Any, tensors: list[Tensor]) -> Any:
    """Return a loss as nested tuples of a type and its fields, which are constants.

    Tensors are appended to a list, and replaced by their place in it. `UNKNOWN` replaces other values than
    numbers, texts, tuples, and objects whose class has `__match_args__`.
    """
    kind = type(value)
    if kind is float:
        return (float, value.hex())  # for a number that changes Dynamo would make an argument of the graph
    if value is None:
        return None
    names = getattr(kind, "__match_args__", None)
    if names is not None:
        return (kind, *[structure_of(getattr(value, name), tensors) for name in names])
    if kind is tuple:
        return (tuple, *[structure_of(item, tensors) for item in value])
    if kind is Tensor or kind is torch.nn.Parameter:
        tensors.append(value)
        return (Tensor, len(tensors) - 1)
    return value if kind is int or kind is bool or kind is str else UNKNOWN


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
    """Return a text that determines the loss; None if there is none, or if code is exported or transformed.

    Dynamo calls it, and does not read it.
    """
    if _TOO_OLD or is_exporting() or is_transformed() or not _is_known(structure):
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
        not is_traced(logits)  # with the backend "eager", which may ask for second derivatives
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
