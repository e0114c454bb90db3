"""The orders of work: the gradient together with the loss, or the logits made again for it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor

from equipoise.linear.blocks import OpenBlock
from equipoise.linear.head import Gradients, Head, width
from equipoise.linear.memory import Loan
from equipoise.linear.plan import Plan
from equipoise._batch import Targets
from equipoise.rows import RowFunction, RowStatistics, row_losses
from equipoise.sharded import Run
from equipoise.stats import Block, Group, kernels, some, spoil

ALL = slice(None)


@final
@dataclass(frozen=True)
class Job:
    """What is computed of the rows of a head.

    Args:
        group: The statistics.
        targets: What the rows are held against.
        softcap: Cap s on the logits, s tanh(z / s), or None.
        plan: Blocks.
        open_block: Backend.
        loss: The loss, or None for the statistics alone.
        whole: Whether the loss needs whole rows of logits, or has target probabilities.
        classes: This rank's run of the classes, where they are shared out.
    """

    group: Group
    targets: Targets
    softcap: float | None
    plan: Plan
    open_block: OpenBlock
    loss: RowFunction | None = None
    whole: bool = False
    classes: Run | None = None

    def losses(self, values: Sequence[Tensor], rows: slice) -> Tensor:
        """Return the losses of some rows from statistics already computed."""
        assert self.loss is not None
        known = dict(zip(self.group.stats, values, strict=True))
        target = some(self.targets.target, rows)
        classes = self.plan.shape[2]
        return self.loss.of(
            RowStatistics(
                known.__getitem__, num_classes=classes, target=target, class_weight=self.targets.weight
            )
        )

    def losses_of_whole(self, logits: Tensor, rows: slice) -> Tensor:
        """Return the losses of some rows from all their logits, as the matrix product gave them."""
        assert self.loss is not None
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        if self.classes is not None:
            logits = self.classes.gather(logits, 1)
        target, soft = some(self.targets.target, rows), some(self.targets.soft, rows)
        weight, stats = self.targets.weight, self.group.stats
        return row_losses(self.loss, logits, target, soft, class_weight=weight, stats=stats)


def run_rows(
    job: Job, head: Head, wanted: tuple[bool, ...], factor: Tensor, *, cast: bool = True
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """Return the losses (N,), and the gradients of their sum times `factor` (N,), over blocks of rows."""
    plan = job.plan
    blocks = list(cuts(len(head.hidden), plan.rows))
    pieces = len(list(cuts(len(head.hidden), plan.piece)))  # which cut a block without a rest
    lanes = min(plan.lanes, len(blocks))
    losses = [factor] * len(blocks)
    with Loan(head.hidden.device) as lend:
        first = Gradients(head, wanted, (pieces, 1), lend if cast else None)
        gradients = [first, *(first.beside() for _ in range(1, lanes))]
        rooms = [_rooms(lend, head, plan.rows, len(head.weight), sloped=any(wanted)) for _ in gradients]

        def run(lane: int) -> None:
            logits, slopes = rooms[lane]
            for index in range(len(blocks) * lane // lanes, len(blocks) * (lane + 1) // lanes):
                rows = blocks[index]
                work = _Work(
                    head,
                    rows,
                    _view(logits, head, rows, ALL),
                    _view(slopes, head, rows, ALL),
                    factor[rows] if any(wanted) else None,
                    gradients[lane],
                )
                losses[index] = _whole(job, work) if job.whole else _stats(job, work)

        if lanes == 1:
            run(0)
        else:
            kernels.in_lanes(lanes, run)
        for other in gradients[1:]:
            first.join(other)
        return torch.cat(losses), first.found(cast=cast)


@final
@dataclass(frozen=True)
class _Work:
    """A block of rows.

    Args:
        head: The head.
        rows: Which they are.
        logits: Room for their logits.
        out: Room for the slope.
        factor: What the slope is multiplied by; None where it is not wanted.
        gradients: What it is added to.
    """

    head: Head
    rows: slice
    logits: Tensor
    out: Tensor
    factor: Tensor | None
    gradients: Gradients


def _read(job: Job, head: Head, rows: slice, logits: Tensor) -> tuple[Block, list[slice]]:
    """Make the logits of a block of rows, in pieces that are read as long as they are in cache."""
    block = job.open_block(job.group, logits, some(job.targets.target, rows), softcap=job.softcap)
    pieces = list(cuts(len(logits), job.plan.piece))
    for piece in pieces:
        head.logits(_part(rows, piece), ALL, logits[piece])
        block.read(piece)
    return block, pieces


def _part(rows: slice, piece: slice) -> slice:
    return slice(rows.start + piece.start, rows.start + piece.stop)


def _stats(job: Job, work: _Work) -> Tensor:
    """Return the losses of a block of rows, and add their gradients."""
    block, pieces = _read(job, work.head, work.rows, work.logits)
    states = block.states()
    values = job.group.values(states)
    if work.factor is None:
        return job.losses(values, work.rows)
    leaves = [value.detach().requires_grad_() for value in values]
    with torch.enable_grad():
        losses = job.losses(leaves, work.rows)
        grads = _grads(losses, leaves, work.factor)
    write, usable = block.writer(job.group.slope(states, grads, block.target)), job.group.usable(states)
    for piece in pieces:
        write(piece, work.out[piece])
        spoil(work.out[piece], usable[piece])
        work.gradients.add(_part(work.rows, piece), ALL, work.out[piece])
    return losses.detach()


def _whole(job: Job, work: _Work) -> Tensor:
    """The same for a loss of whole rows."""
    z = work.head.logits(work.rows, ALL, work.logits)
    leaf = z.to(torch.float32 if z.dtype.itemsize < 4 else z.dtype).requires_grad_(work.factor is not None)
    with torch.set_grad_enabled(work.factor is not None):
        losses = job.losses_of_whole(leaf, work.rows)
        grads = [] if work.factor is None else _grads(losses, [leaf], work.factor)
    leaf.requires_grad_(False)  # the block is used again
    for grad in grads:
        work.out.zero_() if grad is None else work.out.copy_(grad)
    work.gradients.add(work.rows, ALL, work.out)
    return losses.detach()


def _grads(losses: Tensor, leaves: Sequence[Tensor], factor: Tensor) -> Sequence[Tensor | None]:
    if not losses.requires_grad:
        return [None] * len(leaves)
    return torch.autograd.grad(losses, leaves, factor.to(losses.dtype), allow_unused=True)


def cuts(length: int, size: int) -> Iterator[slice]:
    """Cut a length into runs; one empty run if there is nothing."""
    for start in range(0, max(1, length), size):
        yield slice(start, min(start + size, length))


def _rooms(lend: Loan, head: Head, rows: int, classes: int, *, sloped: bool) -> tuple[Tensor, Tensor]:
    """Memory for a block of logits, and for their slope: the same if the dtypes are."""
    logits = lend(rows * width(classes, head.logit_dtype), head.logit_dtype)
    if not sloped or head.logit_dtype == head.hidden.dtype:
        return logits, logits
    return logits, lend(rows * width(classes, head.hidden.dtype), head.hidden.dtype)


def _view(room: Tensor, head: Head, rows: slice, classes: slice) -> Tensor:
    count, length = len(head.hidden[rows]), len(head.weight[classes])
    apart = width(length, room.dtype)
    block = room[: count * apart].view(count, apart)
    if apart > length:  # a matrix product may read past the last class, and 0 times nan is nan
        block[:, length:] = 0
    return block[:, :length]


class Forward(torch.autograd.Function):
    """A reduced loss, whose gradient is made while it is computed."""

    @staticmethod
    def forward(
        ctx: Any,
        job: Job,
        reduce: Callable[[Tensor], Tensor],
        scales: tuple[float, float],
        *parts: Tensor | None,
    ) -> Tensor:
        """Return the loss."""
        head = Head.of(parts, scales)
        with torch.enable_grad():
            ones = torch.ones(len(head.hidden), dtype=head.work_dtype, device=head.hidden.device)
            (factor,) = torch.autograd.grad(reduce(ones.requires_grad_()), ones)
        outer = None
        if head.hidden.dtype == torch.float16:  # which has nothing left of a slope over many rows
            mean = factor.abs().sum() / max(1, len(factor))
            outer = torch.exp2(torch.where(mean > 0, mean, 1.0).log2().round())  # exact to multiply by
            factor = factor / outer
        losses, ctx.found = run_rows(job, head, ctx.needs_input_grad[3:], factor, cast=outer is None)
        ctx.job, ctx.scales = job, scales
        ctx.save_for_backward(factor, outer, *parts)
        return reduce(losses)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the gradients times that of the loss.

        They are given away; for a second time they are computed again.
        """
        refuse_second_derivative()
        found, ctx.found = ctx.found, None
        factor, outer, *parts = ctx.saved_tensors
        if found is None:
            head = Head.of(parts, ctx.scales)
            _, found = run_rows(ctx.job, head, ctx.needs_input_grad[3:], factor, cast=outer is None)
        if outer is not None:
            grad = grad * outer
        if grad.device.type != "cpu" or grad != 1:
            for total in found:
                if total is not None:
                    total.mul_(grad)
        return (
            None,
            None,
            None,
            *(
                None if total is None or part is None else total.to(part.dtype)
                for total, part in zip(found, parts, strict=True)
            ),
        )


class Again(torch.autograd.Function):
    """Losses (N,) of whole rows, whose logits are made again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, job: Job, scales: tuple[float, float], *parts: Tensor | None) -> Tensor:
        """Return the losses."""
        head = Head.of(parts, scales)
        ctx.job, ctx.scales = job, scales
        ctx.save_for_backward(*parts)
        none = (False,) * len(parts)
        return run_rows(job, head, none, head.hidden.new_empty(0))[0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the gradients of the head."""
        refuse_second_derivative()
        head = Head.of(ctx.saved_tensors, ctx.scales)
        return None, None, *run_rows(ctx.job, head, ctx.needs_input_grad[2:], grad)[1]


class Statistics(torch.autograd.Function):
    """Statistics of rows, whose logits are made again, over blocks of classes, in the backward pass."""

    @staticmethod
    def forward(ctx: Any, job: Job, scales: tuple[float, float], *parts: Tensor | None) -> tuple[Tensor, ...]:
        """Return the statistics (N,)."""
        head = Head.of(parts, scales)
        found = []
        with Loan(head.hidden.device) as lend:
            logits, _ = _rooms(lend, head, job.plan.rows, len(head.weight), sloped=False)
            for rows in cuts(len(head.hidden), job.plan.rows):
                block, _ = _read(job, head, rows, _view(logits, head, rows, ALL))
                found.append(job.group.flat(block.states()))
        numbers = [torch.cat(block) for block in zip(*found, strict=True)]
        ctx.job, ctx.scales, ctx.parts = job, scales, len(parts)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*parts, *numbers)
        return tuple(job.group.values(job.group.unflat(numbers)))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients of the head."""
        refuse_second_derivative()
        job: Job = ctx.job
        head = Head.of(ctx.saved_tensors[: ctx.parts], ctx.scales)
        states = job.group.unflat(ctx.saved_tensors[ctx.parts :])
        target, usable = job.targets.target, job.group.usable(states)
        slope = replace(job.group.slope(states, grads, target), total=None)  # a block has some classes only
        row_cuts = list(cuts(len(head.hidden), job.plan.again[0]))
        class_cuts = list(cuts(len(head.weight), job.plan.again[1]))
        with Loan(head.hidden.device) as lend:
            gradients = Gradients(head, ctx.needs_input_grad[2:], (len(row_cuts), len(class_cuts)), lend)
            logits, slopes = _rooms(lend, head, *job.plan.again, sloped=True)
            for rows in row_cuts:
                for classes in class_cuts:
                    z = head.logits(rows, classes, _view(logits, head, rows, classes))
                    out = _view(slopes, head, rows, classes)
                    block = job.open_block(
                        job.group, z, some(target, rows), classes.start, softcap=job.softcap
                    )
                    block.write(slope.of_rows(rows), out)
                    spoil(out, usable[rows])
                    gradients.add(rows, classes, out)
            return None, None, *gradients.found()


def refuse_second_derivative() -> None:
    """Raise where a gradient of the gradient would be silently wrong."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            "create_graph must be False for a fused loss, got True; for second derivatives "
            "use loss(hidden @ linear_weight.T, target)"
        )
