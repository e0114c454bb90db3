"""Blocks of logits, and how the statistics and gradients of a backend are checked on them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from equipoise.kernels.block import CONSTANTS, Backend, Block
from equipoise.kernels.differentiable import capped
from equipoise.statistics.base import Statistic
from equipoise.statistics.reference import partial, row_statistics
from equipoise.statistics.states import RowStates, SoftTargets, StateName
from equipoise.statistics.trace import states_of

CLASSES, TILE = 21, 8  # three tiles of a kernel, the last of them ragged
ROWS = 14
INF = torch.inf
FURTHEST = 1e9  # what stands for infinity depends on the dtype
KINDS = ("base", "max_gap", "rest_gap", "min_base", "min_exp", "sum_logit", "count")


def work(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def rows(dtype: torch.dtype, reach: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return rows of all sorts and targets, between numbers in memory that are enormous."""
    z = torch.randn(ROWS, CLASSES, dtype=torch.float64)
    y = (torch.arange(ROWS) * 5) % CLASSES
    z[1, y[1]] = reach  # a target far above the others
    z[2, (y[2] + 1) % CLASSES] = reach  # and one far below
    z[3, [2, 9, 10, 19]] = 4.0  # the largest in three tiles
    z[4, ::3] = -INF
    z[4, y[4]] = 0.5
    z[5] = 0.25
    z[5, y[5]] = -INF
    z[6, y[6]] = -INF
    z[7] = -INF
    z[7, y[7]] = 1.0
    z[8] = torch.linspace(-reach, reach, CLASSES)  # the largest moves with each tile
    z[9] = torch.linspace(reach, -reach, CLASSES)
    z[10] = 2.0
    z[11, :TILE] = -INF
    z[12, 1:] = -reach
    z[13] = (z[13] * 2).round() / 2  # ties
    wide = torch.full((ROWS, CLASSES + 9), 6e4, dtype=torch.float64)
    wide[:, 4 : 4 + CLASSES] = z
    return wide.to(device, dtype)[:, 4 : 4 + CLASSES], y.to(device)


def tables(classes: int, dtype: torch.dtype, device: torch.device) -> tuple[SoftTargets, SoftTargets]:
    """Return soft targets with a row for each class, and others for all."""
    of_class = torch.rand(classes, classes, dtype=torch.float64).softmax(1)
    return SoftTargets(of_class.to(device, dtype)), SoftTargets(of_class[-1].to(device, dtype))


def agree(ours: Tensor, expected: Tensor, logits: Tensor, dtype: torch.dtype) -> None:
    """Agree to 16 eps (1 + max|z|) of a dtype, which is how far a difference of logits is rounded."""
    tolerance = 16 * torch.finfo(dtype).eps * (1 + torch.where(logits.isfinite(), logits, 0.0).abs().max())
    assert ours.shape == expected.shape
    ours, expected = ours.double(), expected.double()
    good = (
        (ours == expected)
        | (ours.isnan() & expected.isnan())
        | ((ours - expected).abs() <= tolerance * (1 + expected.abs()))
    )
    assert good.all(), f"{ours[~good]} is not {expected[~good]}"


def grads_of(names: Sequence[StateName], like: Tensor) -> dict[StateName, Tensor]:
    """Return a gradient for each number and row."""
    grid = torch.linspace(-1.0, 1.5, len(names) * len(like), dtype=work(like.dtype), device=like.device)
    return dict(zip(names, grid.reshape(len(names), -1), strict=True))


def in_double(block: Block) -> Block:
    return replace(block, logits=block.logits.double())


class Reference:
    """The states of `statistics.reference`, and autograd through them."""

    def states(self, block: Block) -> dict[StateName, Tensor]:
        states = _partial(block, block.logits)
        return {name: states.number(name) for name in block.names}

    def write_gradient(
        self, block: Block, states: Mapping[StateName, Tensor], grads: Mapping[StateName, Tensor], out: Tensor
    ) -> None:
        leaf = block.logits.detach().clone().requires_grad_()
        base, min_base = (states.get(StateName(kind)) for kind in ("base", "min_base"))
        found = _partial(block, leaf, base=base, min_base=min_base)
        pairs = [(found.number(name), grad) for name, grad in grads.items()]
        pairs = [(number, grad) for number, grad in pairs if number.requires_grad]
        numbers, upstream = zip(*pairs, strict=True) if pairs else ([leaf.sum()], [torch.zeros(())])
        out.copy_(torch.autograd.grad(numbers, leaf, [g.to(leaf.dtype) for g in upstream])[0])


def _partial(block: Block, logits: Tensor, **bases: Tensor | None) -> RowStates:
    z = capped(logits.to(block.dtype), block.softcap)
    return partial(z, block.target, separate=block.separate, start=block.start, **bases)


def check(backend: Backend, block: Block) -> None:
    """States and gradients of a block are those of the reference."""
    names, dtype = block.names, block.dtype
    expected = Reference().states(in_double(block))
    ours = backend.states(block)
    assert set(ours) == set(names)
    for name in names:
        assert ours[name].dtype == dtype, name
        furthest = torch.finfo(dtype).max / 8  # stands for infinity where there is no class
        one, two = (number.clamp(-furthest, furthest) for number in (ours[name], expected[name]))
        agree(one, two, block.logits, dtype)
    grads = grads_of(names, block.logits)
    exact = torch.empty_like(block.logits, dtype=torch.float64)
    Reference().write_gradient(in_double(block), expected, {n: g.double() for n, g in grads.items()}, exact)
    exact[block.logits == -INF] = 0.0  # where the reference leaves that to statistics
    written = torch.empty_like(block.logits, dtype=dtype, memory_format=torch.contiguous_format)
    backend.write_gradient(block, ours, grads, written)
    agree(written, exact, block.logits, dtype)


def values_of(
    stats: Sequence[Statistic], numbers: Mapping[StateName, Tensor], separate: bool
) -> list[Tensor]:
    states = RowStates.read(numbers.__getitem__, separate=separate)
    return [statistic.finalize(states) * states.valid for statistic in stats]


def check_statistics(backend: Backend, stats: Sequence[Statistic], block: Block) -> None:
    """Statistics and their gradient are those of logits in float64."""
    block = replace(block, names=states_of(stats, block.dtype), separate=True)
    leaf = block.logits.double().requires_grad_()
    capped = leaf if block.softcap is None else block.softcap * torch.tanh(leaf / block.softcap)
    row = row_statistics(capped, block.target)
    exact = {statistic: row.compute(statistic) for statistic in stats}
    states = backend.states(block)
    numbers = {n: v if n.kind in CONSTANTS else v.clone().requires_grad_() for n, v in states.items()}
    values = values_of(stats, numbers, separate=True)
    reached = capped.detach()
    upstream = torch.linspace(-1.0, 1.5, len(stats) * len(leaf), dtype=leaf.dtype, device=leaf.device)
    upstream = upstream.reshape(len(stats), -1)
    for value, statistic in zip(values, stats, strict=True):
        value, truth = (number.clamp(-FURTHEST, FURTHEST) for number in (value, exact[statistic]))
        agree(value, truth, reached, block.dtype)
    leaves = [number for number in numbers.values() if number.requires_grad]
    total = torch.stack(values)
    found = torch.autograd.grad(total, leaves, upstream.to(total.dtype), allow_unused=True)
    pairs = zip((name for name, number in numbers.items() if number.requires_grad), found, strict=True)
    grads = {name: grad for name, grad in pairs if grad is not None}
    written = torch.empty_like(block.logits, dtype=block.dtype, memory_format=torch.contiguous_format)
    backend.write_gradient(block, states, grads, written)
    truth = torch.stack([exact[statistic] for statistic in stats])
    (expected,) = torch.autograd.grad(truth, leaf, upstream)
    agree(written, expected, reached, block.dtype)
