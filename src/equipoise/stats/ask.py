"""Statistics of dense logits, differentiable, with as little memory as there can be."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor, is_legacy_batchedtensor
from torch.autograd import forward_ad

from equipoise.stats import cpp, kernels
from equipoise.stats.base import Group, Stat
from equipoise.stats.fast import Rooms
from equipoise.stats.tile import Tile, some, spoil

TRACED = "under a transform of torch.func, forward mode or a tracer"  # in errors
PIECE = 2**21  # logits worked on at a time on a CPU: they stay in its last cache


class _Ask(torch.autograd.Function):
    """Statistics of dense logits; the logits alone are kept for the backward pass."""

    generate_vmap_rule = True

    @staticmethod
    def forward(group: Group, logits: Tensor, target: Tensor | None) -> tuple[Tensor, ...]:
        if works_in_place(logits) and kernels.available():
            numbers = group.flat(cpp.CppBlock(group, logits, target).states())
        elif works_in_place(logits):
            rooms = Rooms()
            parts = [
                group.flat(group.of(group.tile(rooms, logits[rows], some(target, rows))))
                for rows in row_blocks(logits, PIECE)
            ]
            numbers = parts[0] if len(parts) == 1 else list(map(torch.cat, zip(*parts, strict=True)))
        else:
            numbers = group.flat(group.of(Tile(logits, target, apart=group.apart)))
        return *group.values(group.unflat(numbers)), *numbers

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.group, logits, target = inputs
        numbers = output[len(ctx.group.stats) :]
        ctx.mark_non_differentiable(*numbers)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(logits, target, *numbers)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[None, Tensor, None]:
        logits, target, *numbers = ctx.saved_tensors
        group: Group = ctx.group
        states = group.unflat(numbers)
        wanted = grads[: len(group.stats)]
        if works_in_place(logits) and not any(map(is_batched, wanted)):
            result = torch.empty_like(logits, memory_format=torch.contiguous_format)
            slope = group.slope(states, wanted, target)
            if kernels.available():
                cpp.CppBlock(group, logits, target).write(slope, result)
            else:
                rooms = Rooms()
                for rows in row_blocks(logits, PIECE):
                    tile = group.tile(rooms, logits[rows], some(target, rows))
                    tile.write(slope.of_rows(rows), result[rows])
            spoil(result, group.usable(states))
            return None, result, None
        tile = Tile(logits, target, apart=group.apart)
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():  # a second derivative is wanted
            states = group.of(tile)
        result = group.slope(states, wanted, target).spread(tile)
        return None, torch.where(group.usable(states)[:, None], result, torch.nan), None


def is_batched(grad: Tensor | None) -> bool:
    """Whether a gradient stands for several at once, as under `is_grads_batched`."""
    return grad is not None and (is_functorch_wrapped_tensor(grad) or is_legacy_batchedtensor(grad))


def works_in_place(logits: Tensor) -> bool:
    """Whether blocks of rows that stay in cache pay, and their memory may be read and written directly."""
    return not torch.is_grad_enabled() and direct(logits)


def direct(tensor: Tensor) -> bool:
    """Whether a tensor lies in the memory of a CPU, and only autograd follows the operations on it."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling() and not observed(tensor)


def observed(tensor: Tensor) -> bool:
    """Whether something beside autograd follows the operations on a tensor: `traced`, or a dispatch mode."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._len_torch_dispatch_stack() > 0 or traced(tensor)


def traced(tensor: Tensor) -> bool:
    """Whether a tensor stands for another, or its operations are written down to be done again.

    It does under a transform of `torch.func`, forward mode, `make_fx`, fake tensors and `torch.jit.trace`, on
    the device "meta", and where it is of a subclass of Tensor. `torch.compile` is not counted, which follows
    the kernels' own operations.
    """
    return not torch.compiler.is_compiling() and (
        type(tensor) not in (Tensor, torch.nn.Parameter)
        or tensor.is_meta
        or torch._C._are_functorch_transforms_active()
        or torch._C._is_tracing()
        or forward_ad._current_level >= 0
        or any(torch._C._get_dispatch_mode(key) is not None for key in _TRACERS)
    )


_TRACERS = tuple(getattr(torch._C._TorchDispatchModeKey, name) for name in ("FAKE", "FUNCTIONAL", "PROXY"))


def nothing(logits: Tensor) -> Tensor:
    """Return 0 for each row (N,), with a slope of 0; both are nan where statistics would be."""
    bad = ~logits.detach().amax(1).isfinite()
    held = torch.where(bad[:, None], logits, 0.0)
    return (held * torch.where(bad, torch.nan, 1.0)[:, None].to(held.dtype)).sum(1)


def row_blocks(logits: Tensor, size: int) -> list[slice]:
    """Cut the rows into blocks of about so many logits."""
    rows = max(1, size // max(1, logits.shape[1]))
    return [slice(start, start + rows) for start in range(0, max(1, len(logits)), rows)]


def ask_all(stats: Sequence[Stat], logits: Tensor, target: Tensor | None, /) -> dict[Stat, Tensor]:
    """Return statistics (N,) of dense logits and targets, twice differentiable in the logits."""
    group = Group(tuple(stats))
    if target is None and group.reads_target:
        raise ValueError("target must be given, got None; only penalties can do without one")
    if not group.reads_target:
        target = None
    if observed(logits):
        values = group.values(group.of(Tile(logits, target, apart=group.apart)))
        answers: Any = [value + nothing(logits) for value in values]
    else:
        answers = _Ask.apply(group, logits, target)
    return dict(zip(stats, answers, strict=False))


def ask(stat: Stat, logits: Tensor, target: Tensor | None, /) -> Tensor:
    """Return one statistic (N,) of dense logits and targets."""
    return ask_all([stat], logits, target)[stat]
