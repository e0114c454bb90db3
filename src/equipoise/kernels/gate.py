"""Whether a kernel may read the memory of tensors, or what is computed must be operations of torch."""

import torch
from torch import Tensor
from torch._C import _are_functorch_transforms_active, _is_tracing, _len_torch_dispatch_stack
from torch._C._functorch import is_functorch_wrapped_tensor, is_legacy_batchedtensor
from torch.autograd import forward_ad
from torch.compiler import is_compiling

TRACED = "under a transform of torch.func, forward mode or a tracer"  # in errors
_TYPES = (Tensor, torch.nn.Parameter)
_TRACERS = tuple(getattr(torch._C._TorchDispatchModeKey, name) for name in ("FAKE", "FUNCTIONAL", "PROXY"))


def obstacle(*tensors: Tensor | None) -> str:
    """Return why no kernel may read the memory of tensors; empty where one may.

    One may where they lie in the memory of a CPU, and only autograd follows the operations on them.
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
    for tensor in tensors:  # a loop, as a generator takes longer than all else
        if tensor is not None:
            if type(tensor) not in _TYPES:
                return "a tensor is of a subclass of Tensor"
            if not tensor.is_cpu:
                return "a tensor is not on a CPU"
    return ""


def is_plain(*tensors: Tensor | None) -> bool:
    """Return whether a kernel may read the memory of tensors, and code may branch on what they hold."""
    return not obstacle(*tensors)


def is_traced(tensor: Tensor) -> bool:
    """Return whether a tensor stands for another, or its operations are recorded to be done again.

    It does under a transform of `torch.func`, forward mode, `make_fx`, fake tensors and `torch.jit.trace`, on
    the device "meta", and where it is of a subclass of Tensor. `torch.compile` is not counted, nor is a mode
    that only observes operations.
    """
    return not is_compiling() and (
        type(tensor) not in _TYPES
        or tensor.is_meta
        or _are_functorch_transforms_active()
        or _is_tracing()
        or forward_ad._current_level >= 0
        or any(torch._C._get_dispatch_mode(key) is not None for key in _TRACERS)
    )


def is_batched(grad: Tensor) -> bool:
    """Return whether a gradient stands for several at once, as under `is_grads_batched`."""
    return is_functorch_wrapped_tensor(grad) or is_legacy_batchedtensor(grad)
