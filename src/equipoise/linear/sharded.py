"""A head whose classes are shared out over ranks: each makes the logits of its own.

The states of a block of rows are gathered and merged where a backend gives them away, so the orders of work
know nothing of ranks. What every rank has whole, such as the hidden states, gets the sum of their gradients.
"""

from dataclasses import replace
from functools import partial
from typing import Any, final

import torch
from torch import Tensor

from equipoise.linear.blocks import OpenBlock
from equipoise.linear.head import Head
from equipoise.linear.orders import Job
from equipoise.linear.plan import Plan, make_plan
from equipoise.sharded import Run, is_dtensor, merged, no_class, open_weight, refuse_tracer, whole
from equipoise.stats import Block, Group, Slope, State


@final
class ShardBlock(Block):
    """A block of this rank's classes, whose states are those of all classes."""

    def __init__(
        self,
        opened: OpenBlock,
        classes: Run,
        group: Group,
        z: Tensor,
        target: Tensor | None,
        start: int = 0,
        *,
        softcap: float | None,
    ) -> None:
        super().__init__(group, target)
        self._classes = classes
        self._empty = not z.shape[1]
        if self._empty:
            z, softcap = no_class(z), None  # which would make the masked class a finite one
        self._block = opened(group, z, target, classes.start + start, softcap=softcap)

    def states(self) -> list[State]:
        """Return the states of the statistics."""
        return merged(self.group, self._block.states(), self._classes)

    def write(self, slope: Slope, out: Tensor) -> None:
        """Write the slope of this rank's classes to `out`."""
        if not self._empty:
            self._block.write(replace(slope, total=None), out)


def find_classes(linear_weight: Tensor, lora: Any, *, compare: bool = True, **given: Any) -> Run | None:
    """Return this rank's run of the classes of a weight, or None if that is no DTensor.

    Args:
        linear_weight: The weight of the head.
        lora: Its low-rank part.
        compare: Whether all ranks are here to say that they were given the same.
        given: What else must be the same.
    """
    if not is_dtensor(linear_weight):
        return None
    refuse_tracer(given["hidden"])
    parts = lora if isinstance(lora, tuple) else (lora,)
    given |= {f"lora[{index}]": part for index, part in enumerate(parts)}
    return open_weight(linear_weight, given if compare else None)


def plan_share(head: Head, classes: Run | None, *, whole: bool, **options: Any) -> Plan:
    """Return the plan for a head: the same on every rank, so that they gather block by block together."""
    if classes is None:
        return make_plan(head, whole=whole, **options)

    def widest(part: Tensor | None) -> Tensor | None:
        if part is None:
            return None
        shape = classes.chunk, *part.shape[1:]
        return torch.empty(shape, dtype=part.dtype, device="meta", requires_grad=part.requires_grad)

    share = replace(head, weight=widest(head.weight), bias=widest(head.bias), up=widest(head.up))
    plan = make_plan(share, whole=whole, alone=False, **options)
    rows, block_bytes = plan.rows, plan.block_bytes
    if whole:
        rows = max(1, rows // classes.ranks)
        block_bytes = rows * classes.size * head.logit_dtype.itemsize
    n, d, _ = plan.shape
    shape = n, d, classes.size
    return replace(plan, shape=shape, ranks=classes.ranks, rows=rows, piece=rows, block_bytes=block_bytes)


def take_share(head: Head, job: Job, classes: Run) -> tuple[Head, Job]:
    """Return this rank's part of a head, and what is computed of it."""
    weight: Any = head.weight
    layout = weight.device_mesh, weight.placements

    def own(part: Any) -> Any:
        if part is None:
            return None
        if is_dtensor(part) and (part.device_mesh, part.placements) == layout:
            return part.to_local()
        return classes.of(classes.spread(whole(part)))

    share = replace(
        head,
        hidden=classes.spread(head.hidden),
        weight=own(weight),
        bias=own(head.bias),
        down=None if head.down is None else classes.spread(whole(head.down)),
        up=own(head.up),
    )
    return share, replace(job, open_block=partial(ShardBlock, job.open_block, classes), classes=classes)
