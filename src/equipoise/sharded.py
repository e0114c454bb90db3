"""Classes that are shared out over ranks: what each holds, and how they make one answer of it.

A rank reads the run of classes it holds, the states of all ranks are gathered and merged as those of blocks
are, and each spreads the slope over its own run: what travels is a few numbers per row. Who holds what is
said by torch's DTensor, which is imported by whoever makes one, not here.
"""

import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch
import torch.distributed as dist
from torch import Tensor

from equipoise.stats import (
    PIECE,
    TRACED,
    FastTile,
    Group,
    Rooms,
    Stat,
    State,
    row_blocks,
    some,
    spoil,
    traced,
)

SAMPLES = 16  # numbers by which ranks compare a floating tensor


def is_dtensor(value: object) -> bool:
    """Whether it is a DTensor; nothing is where nobody has imported them."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(value, module.DTensor)


def whole(value: Any) -> Any:
    """Return a DTensor as the tensor that every rank then has whole, and anything else as it is."""
    return value.full_tensor() if is_dtensor(value) else value


@final
@dataclass(frozen=True)
class Run:
    """A rank's run of a dimension that is shared out, in chunks of one size but for the last ones.

    Args:
        size: Length of the dimension.
        chunk: Length of a full chunk.
        ranks: Number of ranks.
        rank: Which of them this is.
        group: Their process group; None for a dimension that is not shared out.
    """

    size: int
    chunk: int
    ranks: int = 1
    rank: int = 0
    group: Any = None

    @property
    def start(self) -> int:
        """Where the run begins."""
        return min(self.rank * self.chunk, self.size)

    @property
    def stop(self) -> int:
        """Where it ends; a run may be empty."""
        return min(self.start + self.chunk, self.size)

    def of(self, whole: Tensor) -> Tensor:
        """Return the run of a tensor that is there whole."""
        return whole[self.start : self.stop]

    def times(self, count: int) -> "Run":
        """Return the run of a dimension with so many entries for each of this one's."""
        return replace(self, size=self.size * count, chunk=self.chunk * count)

    def gather(self, part: Tensor, dim: int) -> Tensor:
        """Return the whole dimension; every rank must then do the same with it."""
        return part if self.ranks == 1 else _Gathered.apply(part, self, dim)  # pyright: ignore[reportReturnType]

    def spread(self, part: Tensor) -> Tensor:
        """Return a tensor that each rank uses for its own run, so that their gradients must be summed."""
        return part if self.ranks == 1 else _Spread.apply(part, self.group)  # pyright: ignore[reportReturnType]


class _Gathered(torch.autograd.Function):
    """A dimension gathered from the ranks; a rank's gradient is its run of the whole one."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, run: Run, dim: int) -> Tensor:
        ctx.run, ctx.dim = run, dim
        part = part.movedim(dim, 0)
        padded = part.new_zeros(run.chunk, *part.shape[1:])
        padded[: len(part)] = part
        return _from_all(padded, run.group).flatten(0, 1)[: run.size].movedim(0, dim).contiguous()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        _refuse_second_derivative()
        run: Run = ctx.run
        return grad.narrow(ctx.dim, run.start, run.stop - run.start), None, None


class _Spread(torch.autograd.Function):
    """A tensor that every rank has whole; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return part.view_as(part)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        _refuse_second_derivative()
        total = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ctx.group)
        return total, None


def _from_all(part: Tensor, group: Any) -> Tensor:
    """Return what each rank of a group has, (ranks, ...)."""
    found = part.new_empty(dist.get_world_size(group), *part.shape)
    dist.all_gather(list(found), part.contiguous(), group=group)
    return found


def merged(group: Group, states: Sequence[State], classes: Run) -> list[State]:
    """Return the states of all classes from those of each rank's: one gather of a few numbers per row."""
    if classes.ranks == 1:
        return list(states)
    numbers = _from_all(torch.stack(group.flat(states)), classes.group)
    total, *others = (group.unflat(of_rank.unbind()) for of_rank in numbers.unbind())
    for other in others:
        total = group.merge(total, other)
    return total


def no_class(like: Tensor) -> Tensor:
    """Return a masked class (N, 1), which counts for nothing, for a rank that has none."""
    return like.new_full((len(like), 1), -torch.inf)


@final
@dataclass(frozen=True)
class Shard:
    """What a rank holds of the rows and the classes of logits.

    Args:
        rows: Its run of the rows.
        classes: Its run of the classes.
    """

    rows: Run
    classes: Run

    def gather(self, logits: Tensor) -> Tensor:
        """Return the whole logits (N, C)."""
        return self.rows.gather(self.classes.gather(logits, 1), 0)

    def ask(self, stats: Sequence[Stat], logits: Tensor, target: Tensor | None) -> dict[Stat, Tensor]:
        """Return statistics (N,) of all rows, given this rank's logits and all targets."""
        group = Group(tuple(stats))
        if target is None and group.reads_target:
            raise ValueError("target must be given, got None; only penalties can do without one")
        own = None if target is None else self.rows.of(target)
        values: Any = _Ask.apply(group, self.classes, logits, own)
        return dict(zip(stats, self.rows.gather(torch.stack(values), 1), strict=True))


class _Ask(torch.autograd.Function):
    """Statistics of rows whose classes are shared out; nothing travels in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, group: Group, classes: Run, logits: Tensor, target: Tensor | None
    ) -> tuple[Tensor, ...]:
        parts = [group.flat(group.of(tile)) for _, tile in _tiles(group, classes, logits, target)]
        states = merged(group, group.unflat(list(map(torch.cat, zip(*parts, strict=True)))), classes)
        ctx.group, ctx.classes = group, classes
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(logits, target, *group.flat(states))
        return tuple(group.values(states))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[None, None, Tensor, None]:
        _refuse_second_derivative()
        group: Group = ctx.group
        logits, target, *numbers = ctx.saved_tensors
        states = group.unflat(numbers)
        slope = replace(group.slope(states, grads, target), total=None)  # of some classes only
        result = torch.empty_like(logits)
        if logits.shape[1]:
            for rows, tile in _tiles(group, ctx.classes, logits, target):
                tile.write(slope.of_rows(rows), result[rows])
            spoil(result, group.usable(states))
        return None, None, result, None


def _tiles(
    group: Group, classes: Run, logits: Tensor, target: Tensor | None
) -> Iterator[tuple[slice, FastTile]]:
    """Cut the rows into pieces that stay in a CPU's cache."""
    if not logits.shape[1]:
        logits = no_class(logits)
    rooms = Rooms()
    for rows in row_blocks(logits, PIECE if logits.device.type == "cpu" else max(1, logits.numel())):
        own = some(target, rows)
        tile = FastTile(logits[rows], own, classes.start, apart=group.apart, rooms=rooms, light=group.light)
        yield rows, tile


def _refuse_second_derivative() -> None:
    """Raise where a gradient of the gradient would lack what the other ranks have."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            "create_graph must be False for classes that are shared out over ranks, got True; for second "
            "derivatives use logits.full_tensor()"
        )


def open_logits(logits: Any, axis: int, given: Mapping[str, Any]) -> tuple[Tensor, Shard]:
    """Return this rank's rows of logits, and which part of all they are.

    Args:
        logits: A DTensor.
        axis: Dimension of the classes.
        given: What else must be the same on every rank, by name.
    """
    runs = _runs(logits, "logits", {axis: "classes"} | ({0: "rows"} if axis else {}))
    local = logits.to_local()
    hint = "a mesh dimension over which rows differ must be Shard(0), with all targets on every rank"
    _check_same(logits, "logits", local, runs, given, hint)
    part = local.movedim(axis, -1)
    part = part.reshape(part.shape[:-1].numel(), part.shape[-1])
    if not axis:
        return part, Shard(Run(1, 1), runs[0])
    return part, Shard(runs[0].times(logits.shape[2:].numel()), runs[1])


def refuse_mask(mask: Tensor | None) -> None:
    """Raise if there is a mask for the logits of a DTensor."""
    if mask is not None:
        raise ValueError(
            f"mask must be left out where logits are a DTensor, got {tuple(mask.shape)}; "
            "put minus infinity into the logits"
        )


def refuse_tracer(hidden: Tensor) -> None:
    """Raise if something follows the operations on the hidden states of a weight that is a DTensor."""
    if traced(hidden):
        raise ValueError(
            f"linear_weight must be whole {TRACED}, got a DTensor; use linear_weight.full_tensor()"
        )


def open_weight(weight: Any, given: Mapping[str, Any] | None) -> Run:
    """Return a rank's run of the classes of a weight (V, D).

    Args:
        weight: A DTensor.
        given: What else must be the same on every rank, by name; None to compare nothing.
    """
    runs = _runs(weight, "linear_weight", {0: "classes"})
    if given is not None:
        hint = (
            "where each rank has rows of its own, as under fully_shard, take the loss in the forward of the "
            "module that is sharded, or call its unshard() first"
        )
        _check_same(weight, "linear_weight", weight.to_local(), runs, given, hint)
    return runs[0]


def _runs(tensor: Any, name: str, dims: Mapping[int, str]) -> dict[int, Run]:
    """Return this rank's runs of the dimensions that may be shared out."""
    shard = sys.modules["torch.distributed.tensor"].Shard
    mesh = tensor.device_mesh
    runs = {dim: Run(tensor.shape[dim], tensor.shape[dim]) for dim in dims}
    for place, placement in enumerate(tensor.placements):
        if placement.is_replicate():
            continue
        dim = placement.dim % tensor.ndim if type(placement) is shard else None
        if dim not in runs or runs[dim].group is not None:
            allowed = " or ".join(f"Shard({dim}) for {what}" for dim, what in dims.items())
            raise ValueError(
                f"{name} must be replicated, or {allowed} on one dimension of the mesh, got "
                f"{tensor.placements}; use {name}.redistribute(placements=...)"
            )
        size, ranks = tensor.shape[dim], mesh.size(place)
        runs[dim] = Run(size, -(-size // ranks), ranks, mesh.get_local_rank(place), mesh.get_group(place))
    return runs


def _check_same(
    tensor: Any, name: str, local: Tensor, runs: Mapping[int, Run], given: Mapping[str, Any], hint: str
) -> None:
    """Raise, on every rank, unless all ranks of a mesh were given the same.

    It comes before anything that depends on values: an error on one rank alone leaves the others waiting.
    """
    mesh = tensor.device_mesh
    expected = [runs[dim].stop - runs[dim].start if dim in runs else n for dim, n in enumerate(tensor.shape)]
    fits = _mark(list(local.shape) == expected)
    marks = torch.stack([fits, _mark(tensor), *map(_mark, given.values())]).to(local.device)
    for dim in range(mesh.ndim):
        marks = _from_all(marks, mesh.get_group(dim))
    marks = marks.reshape(-1, *marks.shape[-2:]).nan_to_num()
    if not (marks[:, 0] == _mark(True).to(marks)).all():
        raise ValueError(
            f"{name} must be cut as torch.chunk cuts, got {tensor.placements} of {tuple(tensor.shape)} cut "
            "otherwise; use distribute_tensor"
        )
    apart = (marks - marks[0]).abs()
    room = 0.02 * marks[:, :, 2:].abs().amax((0, 2))
    same_ones = (apart[:, :, :2] == 0).all(2) & (apart[:, :, 2:] <= room[:, None]).all(2)
    for other, same in zip((name, *given), same_ones.all(0)[1:].tolist(), strict=True):
        if not same:
            raise ValueError(
                f"{other} must be the same on all {mesh.size()} ranks that share the {name}, got different "
                f"ones; {hint}"
            )


def _mark(value: Any) -> Tensor:
    """Return a few numbers by which a value is known: two that are exact, and samples of a floating tensor.

    The samples may differ by some rounding, as what two devices compute from the same may.
    """
    mark = torch.zeros(2 + SAMPLES, dtype=torch.float64)
    if not isinstance(value, Tensor):
        mark[0] = zlib.crc32(repr(value).encode())
        return mark
    kept = f"{tuple(value.shape)} {value.dtype} {value.requires_grad} {getattr(value, 'placements', None)}"
    mark[0] = zlib.crc32(kept.encode())
    if is_dtensor(value) or not value.numel():
        return mark
    flat = value.detach().reshape(-1)
    if value.is_floating_point():
        mark[2:] = flat[torch.linspace(0, len(flat) - 1, SAMPLES, dtype=torch.float64).long().to(flat.device)]
    else:
        places = torch.arange(len(flat), device=flat.device) % 8191 + 1
        mark[1] = (flat.long() * places).sum() % 2**52
    return mark
