"""The torch backend: states of blocks of logits, and gradients by autograd."""

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor

from equipoise.kernels.block import BASE, MIN_BASE, Block
from equipoise.statistics.reference import partial
from equipoise.statistics.states import FAR, RowStates, SoftTargets, StateName, Sums


@final
class TorchBackend:
    """States by torch operations, gradients by autograd."""

    name = "torch"

    def states(self, block: Block) -> dict[StateName, Tensor]:
        """Return the states (N,) by name."""
        with torch.no_grad():
            found = [DifferentiableBlock(block.rows(rows)).states() for rows in block.pieces()]
            return {name: torch.cat([states.number(name) for states in found]) for name in block.names}

    def write_gradient(
        self, block: Block, states: Mapping[StateName, Tensor], grads: Mapping[StateName, Tensor], out: Tensor
    ) -> None:
        """Write the gradient of the logits to `out`."""
        for rows in block.pieces():
            bases = {name: states[name][rows] for name in (BASE, MIN_BASE) if name in states}
            with torch.enable_grad():
                piece = DifferentiableBlock(block.rows(rows), bases.get(BASE), bases.get(MIN_BASE))
                of_rows = piece.states()
                pairs = [(of_rows.number(name), grad[rows]) for name, grad in grads.items()]
            piece.write_gradient(pairs, out[rows])
        if grads:
            bad = torch.stack([grad.isnan() for grad in grads.values()]).any(0)
            out.masked_fill_(bad[:, None], torch.nan) if not bad.is_cpu or bad.any() else None


@final
class DifferentiableBlock:
    """The states of a block as functions of few leaves, so that autograd needs few passes over the classes.

    Leaves are one number per row for the target's logit, for the largest logit and for the smallest, which
    several classes may share, and the (N, B) logits below the largest.

    Args:
        block: The block; `names` show whether soft targets are read.
        base: (N,) reference of the sums, None for the largest logit of the block.
        min_base: (N,) reference of `min_exp`, None for the smallest logit of the block.
    """

    def __init__(self, block: Block, base: Tensor | None = None, min_base: Tensor | None = None) -> None:
        self._block, self._raw, self._target = block, block.logits.detach(), None
        self._soft = any(isinstance(name.parameter, SoftTargets) for name in block.names)
        if self._soft or block.softcap is not None:
            self._raw = self._raw.to(block.dtype).requires_grad_(torch.is_grad_enabled())
            self._capped = capped(self._raw, block.softcap)
        if self._soft:  # equal largest logits may have different soft targets
            self._soft_states = partial(
                self._capped,
                block.target,
                separate=block.separate,
                start=block.start,
                base=base,
                min_base=min_base,
            )
            return
        with torch.no_grad():
            z = (self._raw if block.softcap is None else self._capped).to(block.dtype, copy=True)
            if block.separate:
                self._target = self._take_target(z)
            self._greater = None
            if any(name.kind == "greater" for name in block.names) and self._target is not None:
                self._greater = (z > self._target[:, None]).sum(1).to(z.dtype)
            if base is None:
                highest = z.amax(1)
                base = torch.where(highest == -torch.inf, torch.finfo(z.dtype).min, highest)
            self._base, self._at_base = base, z == base[:, None]
            self._count = self._at_base.sum(1, dtype=torch.int32).to(z.dtype)
            self._least, self._at_least = min_base, None
            if any(name.kind in ("min_base", "min_exp") for name in block.names):
                self._find_least(z)
            # Leaves of value 0, added to all logits at the base, and to all at the smallest logit.
            self._rise, self._least_rise = torch.zeros_like(base), torch.zeros_like(base)
            self._gap = z.masked_fill_(self._at_base, -torch.inf).sub_(base[:, None])
        self._exps: dict[Any, Tensor] = {}
        self._leaves = [self._gap, self._rise, self._least_rise]
        self._leaves += [] if self._target is None else [self._target]
        for leaf in self._leaves:
            leaf.requires_grad_(torch.is_grad_enabled())

    def states(self) -> RowStates:
        """Return new states; storing them would make a reference cycle, which is freed late."""
        if self._soft:
            return self._soft_states
        return RowStates(Sums(self._read, first_order=True), self._target)

    def _take_target(self, z: Tensor) -> Tensor:
        """Return the target's logit (N,), and mask it."""
        target, start = self._block.target, self._block.start
        assert target is not None
        column = (target - (start or 0))[:, None]
        self._here = (column >= 0) & (
            column < z.shape[1]
        )  # False if the target is in another block of classes
        self._column = column.clamp(0, z.shape[1] - 1)
        found = z.gather(1, self._column)
        z.scatter_(1, self._column, torch.where(self._here, -torch.inf, found))
        return torch.where(self._here, found, -torch.inf)[:, 0]

    def _exp(self, scale: Any) -> Tensor:
        """Return e^(scale gap) of the classes below the base."""
        if scale not in self._exps:
            self._exps[scale] = torch.exp(self._gap if scale == 1 else scale * self._gap)
        return self._exps[scale]

    def _find_least(self, z: Tensor) -> None:
        """Set the smallest logit (N,) that is not masked, and the mask of the classes that have it."""
        least = self._least
        if least is None:
            lowest = z.masked_fill(z == -torch.inf, torch.inf).amin(1)
            least = torch.where(lowest == torch.inf, torch.finfo(z.dtype).max, lowest)
        self._least, self._at_least = least, z == least[:, None]

    def _read(self, name: StateName) -> Any:
        kind, gap, base, count, rise = name.kind, self._gap, self._base, self._count, self._rise
        parameter: Any = name.parameter
        if kind == "base":
            return base
        if kind == "max_exp":
            return count * torch.exp(rise if parameter == 1 else parameter * rise)
        if kind == "max_gap":
            return count * rise * torch.exp(rise)
        if kind == "rest_exp":
            return self._exp(parameter).sum(1)
        if kind == "rest_gap":
            return (gap.clamp(min=-FAR) * self._exp(1.0)).sum(1)
        if kind in ("sum_logit", "count"):
            below = gap > -torch.inf
            counted = below.sum(1, dtype=torch.int32).to(gap.dtype)
            if kind == "count":
                return counted + count
            return torch.where(below, gap, 0.0).sum(1) + counted * base + count * (base + rise)
        if kind == "greater":
            return self._greater
        if kind == "min_base":
            return self._least
        assert kind == "min_exp", kind
        assert self._at_least is not None
        return self._at_least.sum(1, dtype=torch.int32) * torch.exp(self._least_rise)

    def write_gradient(self, pairs: Sequence[tuple[Tensor, Tensor]], out: Tensor) -> None:
        """Write the gradient of the logits, before the soft cap.

        Args:
            pairs: Pairs of a tensor computed from the states and its gradient.
            out: (N, B), for the result.
        """
        pairs = [(value, grad) for value, grad in pairs if value.requires_grad]
        if not pairs:
            out.zero_()
            return
        values, grads = zip(*pairs, strict=True)
        if self._soft:
            (found,) = torch.autograd.grad(values, self._raw, grads)
            out.copy_(torch.where(self._raw == -torch.inf, 0.0, found))
            return
        gap, rise, least_rise, *target = torch.autograd.grad(
            values, self._leaves, grads, allow_unused=True, materialize_grads=True
        )
        share = (rise / self._count.clamp(min=1))[:, None]  # equal for all classes at the base
        direct = out.dtype == gap.dtype and self._block.softcap is None
        found = torch.where(self._at_base, share, gap, out=out if direct else torch.empty_like(gap))
        if self._at_least is not None:
            share = (least_rise / self._at_least.sum(1, dtype=torch.int32).clamp(min=1))[:, None]
            found.add_(torch.where(self._at_least, share, 0.0))
        if target:
            entry = torch.where(self._target == -torch.inf, 0.0, target[0])[:, None]
            entry = torch.where(self._here, entry, found.gather(1, self._column))
            found.scatter_(1, self._column, entry)
        if self._block.softcap is not None:
            (found,) = torch.autograd.grad(self._capped, self._raw, found)
        if not direct:
            out.copy_(found)


def capped(logits: Tensor, softcap: float | None) -> Tensor:
    """Return s tanh(z / s) of logits z, or z if there is no cap s."""
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)
