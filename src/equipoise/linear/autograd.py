"""Autograd functions of fused losses: gradients in the forward pass, or from recomputed logits."""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, ParamSpec, TypeVar, final

import torch
from torch import Tensor

from equipoise._batch import no_autocast
from equipoise.kernels.block import BASE, CONSTANTS, MIN_BASE
from equipoise.kernels.gate import obstacle
from equipoise.kernels.log import log_backend
from equipoise.linear.blocks import (
    BlockMemory,
    compute_blocks,
    row_blocks,
    write_bad_rows,
)
from equipoise.linear.buffers import Buffers
from equipoise.linear.head import Gradients, Head
from equipoise.linear.inputs import Lora, read_inputs
from equipoise.linear.setup import Setup, check_traced_backend, setup_of_loss
from equipoise.statistics.reference import losses_of_logits
from equipoise.statistics.row import RowFunction
from equipoise.statistics.states import StateName

P = ParamSpec("P")
T = TypeVar("T")


def outside_graph(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function so that a compiler does not trace it, but breaks the graph once."""

    @wraps(function)
    def call(*args: P.args, **options: P.kwargs) -> T:
        if torch.compiler.is_compiling():
            untraced: Any = torch.compiler.disable(function)
            return untraced(*args, **options)
        return function(*args, **options)

    return call


@outside_graph
def reduced(
    loss: RowFunction,
    hidden: Tensor,
    linear_weight: Tensor,
    target: Tensor | None,
    *,
    linear_bias: Tensor | None,
    weight: Tensor | None,
    sample_weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    denominator: float | Tensor | None,
    logit_scale: float,
    softcap: float | None,
    lora: Lora | None,
    grad: str,
    block_bytes: int | None,
    backend: str,
) -> Tensor:
    """Return `loss.linear` of these arguments; see `Loss.linear`."""
    inputs = read_inputs(
        loss,
        hidden,
        linear_weight,
        target,
        linear_bias=linear_bias,
        weight=weight,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        reduction=reduction,
        denominator=denominator,
        logit_scale=logit_scale,
        softcap=softcap,
        lora=lora,
        grad=grad,
        block_bytes=block_bytes,
        backend=backend,
    )
    if inputs.traced:
        check_traced_backend(inputs)
        targets, head = inputs.targets, inputs.head
        shape = *head.hidden.shape, inputs.num_classes
        log_backend("loss.linear", loss, hidden, "torch", obstacle(*head.parameters), shape)
        losses = losses_of_logits(
            loss, inputs.all_logits(), targets.target, targets.soft, weight=targets.weight
        )
        return inputs.reduce(losses)
    setup, head = setup_of_loss(loss, inputs), inputs.head
    plan = setup.plan
    log_backend("loss.linear", loss, hidden, plan.backend, plan.why_torch, plan.shape)
    with no_autocast(head.hidden.device):
        if plan.grad == "none":
            nothing = [False] * len(head.parameters)
            return inputs.reduce(compute_blocks(setup, head, nothing, _rows(head, 1.0))[0])
        if plan.grad == "forward":
            ones = _rows(head, 1.0).requires_grad_()
            with torch.enable_grad():
                (factor,) = torch.autograd.grad(inputs.reduce(ones), ones)
            summed: Any = _Summed.apply(setup, factor, head.scales, *head.parameters)
            return summed + inputs.reduce(_rows(head, 0.0))  # adds nan for a mean of total weight 0
        if setup.full_logits:
            recomputed: Any = _OfFullLogits.apply(setup, head.scales, *head.parameters)
            return inputs.reduce(recomputed)
        states = setup.states(recomputed_numbers(setup, head))
        return inputs.reduce(setup.losses(states, inputs.targets.target))


def _rows(head: Head, value: float) -> Tensor:
    return torch.full((len(head.hidden),), value, dtype=head.work_dtype, device=head.hidden.device)


@final
class _Summed(torch.autograd.Function):
    """The sum of losses times a factor; the forward pass computes the gradients too."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, setup: Setup, factor: Tensor, scales: tuple[float, float], *parts: Tensor | None
    ) -> Tensor:
        """Return the sum."""
        head, outer = Head.from_parameters(parts, scales), None
        if head.hidden.dtype == torch.float16:  # in which a mean over many rows has gradients that underflow
            mean = factor.abs().sum() / max(1, len(factor))
            outer = torch.exp2(torch.where(mean > 0, mean, 1.0).log2().round())  # a power of two
            factor = factor / outer
        losses, ctx.gradients = compute_blocks(
            setup, head, ctx.needs_input_grad[3:], factor, cast=outer is None
        )
        ctx.setup, ctx.scales = setup, scales
        ctx.save_for_backward(factor, outer, *parts)
        return losses.sum() if outer is None else losses.sum() * outer

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the stored gradients times the gradient of the sum.

        They are scaled in place, without a copy; a second backward pass recomputes them.
        """
        _refuse_second_derivative()
        gradients, ctx.gradients = ctx.gradients, None
        factor, outer, *parts = ctx.saved_tensors
        if gradients is None:
            head = Head.from_parameters(parts, ctx.scales)
            wanted = ctx.needs_input_grad[3:]
            _, gradients = compute_blocks(ctx.setup, head, wanted, factor, cast=outer is None)
        if outer is not None:
            grad = grad * outer
        if grad.device.type != "cpu" or grad != 1:
            for gradient in gradients:
                if gradient is not None:
                    gradient.mul_(grad)
        found = (
            None if gradient is None or part is None else gradient.to(part.dtype)
            for gradient, part in zip(gradients, parts, strict=True)
        )
        return None, None, None, *found


@final
class _OfFullLogits(torch.autograd.Function):
    """Losses (N,) that need complete rows; the backward pass recomputes the logits."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, setup: Setup, scales: tuple[float, float], *parts: Tensor | None
    ) -> Tensor:
        """Return the losses."""
        head = Head.from_parameters(parts, scales)
        ctx.setup, ctx.scales = setup, scales
        ctx.save_for_backward(*parts)
        return compute_blocks(setup, head, [False] * len(parts), _rows(head, 1.0))[0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the gradients of the head."""
        _refuse_second_derivative()
        head = Head.from_parameters(ctx.saved_tensors, ctx.scales)
        return None, None, *compute_blocks(ctx.setup, head, ctx.needs_input_grad[2:], grad)[1]


def recomputed_numbers(setup: Setup, head: Head) -> dict[StateName, Tensor]:
    """Return the states (N,) of rows; the backward pass recomputes the logits."""
    numbers: Any = _Recomputed.apply(setup, head.scales, *head.parameters)
    return dict(zip(setup.names, numbers, strict=True))


@final
class _Recomputed(torch.autograd.Function):
    """The states (N,) of rows; the backward pass recomputes the logits."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, setup: Setup, scales: tuple[float, float], *parts: Tensor | None
    ) -> tuple[Tensor, ...]:
        """Return the states, in the order of their names."""
        head = Head.from_parameters(parts, scales)
        out = [_rows(head, 0.0) for _ in setup.names]
        with Buffers(head.hidden.device) as buffers:
            memory = BlockMemory(buffers, head, setup, gradient=False)
            for rows in row_blocks(head, setup):
                logits, _ = memory.views(rows)
                head.write_logits(rows, logits)
                of_rows = setup.backend.states(setup.block(logits, rows))
                for name, number in zip(setup.names, out, strict=True):
                    number[rows] = of_rows[name]
        numbers = dict(zip(setup.names, out, strict=True))
        ctx.setup, ctx.scales, ctx.parts, ctx.threads = setup, scales, len(parts), torch.get_num_threads()
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(n for name, n in numbers.items() if name.kind in CONSTANTS))
        ctx.save_for_backward(*parts, setup.states(numbers).valid, numbers[BASE], numbers.get(MIN_BASE))
        return tuple(out)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients of the head."""
        _refuse_second_derivative()
        setup: Setup = ctx.setup
        *parts, valid, base, min_base = ctx.saved_tensors
        head = Head.from_parameters(parts, ctx.scales)
        named = {name: grad for name, grad in zip(setup.names, grads, strict=True) if grad is not None}
        bases = {name: number for name, number in ((BASE, base), (MIN_BASE, min_base)) if number is not None}
        blocks, none = list(row_blocks(head, setup)), torch.zeros_like(valid)
        with Buffers(head.hidden.device) as buffers:
            gradients = Gradients(head, ctx.needs_input_grad[2:], several=len(blocks) > 1, buffers=buffers)
            memory = BlockMemory(buffers, head, setup, gradient=True)
            for rows in blocks:
                logits, out = memory.views(rows)
                assert out is not None
                head.write_logits(rows, logits)
                block = setup.block(logits, rows)
                of_rows: Mapping[StateName, Tensor] = {name: number[rows] for name, number in bases.items()}
                if ctx.threads != torch.get_num_threads():  # rounding, and so the largest logits, may differ
                    of_rows = setup.backend.states(block)
                setup.backend.write_gradient(
                    block, of_rows, {name: grad[rows] for name, grad in named.items()}, out
                )
                write_bad_rows(out, valid[rows], none[rows] + 1)
                gradients.add(rows, out)
            return None, None, *gradients.result(cast=True)


def _refuse_second_derivative() -> None:
    """Raise if create_graph is True, as second derivatives would be wrong."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            "create_graph must be False for a fused loss, got True; for second derivatives "
            "use loss(hidden @ linear_weight.T, target)"
        )
