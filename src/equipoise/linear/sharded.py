"""Blocks of logits whose classes are sharded: each rank computes the states of its own, and all merge them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import final

import torch
from torch import Tensor

from equipoise.distributed import Run, all_gather
from equipoise.kernels.block import Backend, Block
from equipoise.statistics.states import StateName, Sums, merge


@final
class ShardedBackend:
    """A backend whose states are those of all classes.

    Args:
        backend: Computes those of this rank's classes.
        classes: Which these are.
    """

    def __init__(self, backend: Backend, classes: Run) -> None:
        self.name = backend.name
        self._backend, self._classes = backend, classes

    def states(self, block: Block) -> dict[StateName, Tensor]:
        """Return the numbers (N,) of the state of all classes: one gather of a few numbers per row."""
        if not block.logits.shape[1]:  # a masked class stands for none, and must not become a finite one
            block = replace(block, logits=block.logits.new_full((len(block.logits), 1), -torch.inf), softcap=None)
        return merge_over_ranks(self._backend.states(block), self._classes)

    def write_gradient(
        self, block: Block, states: Mapping[StateName, Tensor], grads: Mapping[StateName, Tensor], out: Tensor
    ) -> None:
        """Write the gradient of this rank's logits to `out`."""
        if block.logits.shape[1]:
            self._backend.write_gradient(block, states, grads, out)


def merge_over_ranks(numbers: Mapping[StateName, Tensor], classes: Run) -> dict[StateName, Tensor]:
    """Return the numbers (N,) of the state of all classes from those of each rank."""
    if classes.ranks == 1:
        return dict(numbers)
    of_ranks = all_gather(torch.stack(list(numbers.values())), classes.group)
    parts = [dict(zip(numbers, part.unbind(), strict=True)) for part in of_ranks.unbind()]
    sums = Sums(parts[0].__getitem__)
    for part in parts[1:]:
        sums = merge(sums, Sums(part.__getitem__))
    merged: dict[StateName, Tensor] = {}
    for name in numbers:
        if name.kind == "target_logit":  # minus infinity where another rank holds the target
            merged[name] = torch.stack([part[name] for part in parts]).amax(0)
        elif name.kind == "target_soft":  # which every rank knows
            merged[name] = parts[0][name]
        else:
            merged[name] = sums.number(name)
    return merged
