"""Checks whether a kernel may read the memory of tensors, or torch operations are needed, as in a tracer."""

import torch
from torch import Tensor
from torch._C import _are_functorch_transforms_active, _is_tracing, _len_torch_dispatch_stack
from torch._C._functorch import is_functorch_wrapped_tensor, is_legacy_batchedtensor
from torch.autograd import forward_ad
from torch.compiler import is_compiling, is_dynamo_compiling

TRACED = "under a transform of torch.func, forward mode or a tracer"  # in errors
_TYPES = (Tensor, torch.nn.Parameter)
_TRACERS = tuple(getattr(torch._C._TorchDispatchModeKey, name) for name in ("FAKE", "FUNCTIONAL", "PROXY"))


def obstacle(*tensors: Tensor | None) -> str:
    """Return the reason why a kernel must not read the memory of tensors; empty if it may.

    It may if they are on a CPU, and nothing but autograd records the operations on them.
    """
    if is_compiling():
        return "under a compiler"
    if _len_torch_dispatch_stack():
        return "under a dispatch mode"
    if _are_functorch_transforms_active():
        return "under a transform of torch.func"
    if forward_ad._current_level >= 0:
        return "in forward mode"
    if _is_tracing():
        return "under torch.jit.trace"
    for tensor in tensors:  # a generator expression would take longer than all other checks
        if tensor is not None:
            if type(tensor) not in _TYPES:
                return "a tensor is of a subclass of Tensor"
            if not tensor.is_cpu:
                return "a tensor is not on a CPU"
    return ""


def is_plain(*tensors: Tensor | None) -> bool:
    """Return whether a kernel may read the memory of tensors, and code may branch on their values."""
    return not obstacle(*tensors)


def is_traced(tensor: Tensor) -> bool:
    """Return whether a tensor is a placeholder, or its operations are recorded to be replayed.

    True under a transform of `torch.func`, forward mode, `make_fx`, fake tensors and `torch.jit.trace`, on
    the device "meta", and for subclasses of Tensor; False where Dynamo reads the code, and under a mode that
    only observes operations.
    """
    return not is_dynamo_compiling() and (
        type(tensor) not in _TYPES
        or tensor.is_meta
        or is_transformed()
        or _is_tracing()
        or any(torch._C._get_dispatch_mode(key) is not None for key in _TRACERS)
    )


def is_transformed() -> bool:
    """Return whether a transform of `torch.func` or forward mode is active."""
    return _are_functorch_transforms_active() or forward_ad._current_level >= 0


def is_batched(grad: Tensor) -> bool:
    """Return whether a gradient is a batch of gradients, as under `is_grads_batched`."""
    return is_functorch_wrapped_tensor(grad) or is_legacy_batchedtensor(grad)
