"""Laws of states and of statistics, as functions of a sample."""

from collections.abc import Callable, Iterator
from functools import reduce
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from equipoise.statistics import ExpectedLogProb, Statistic
from equipoise.statistics import row_statistics as dense_row
from equipoise.statistics.reference import partial
from equipoise.statistics.states import RowStates, StateName, Sums, merge
from support.state_samples import EPS, RELATIVE, Kind, Sample

Merge = Callable[[Sums, Sums], Sums]


def units(logits: Tensor) -> Tensor:
    """Return (N,) what a gap between logits is rounded by; it is an exponent."""
    finite = torch.where(logits.isfinite(), logits.detach(), 0.0)
    return EPS * (1 + finite.abs().amax(1))


def close(ours: Tensor, expected: Tensor, logits: Tensor, *, relative: bool = False) -> None:
    """Agree to 16 units; None of them absolute if it is relative."""
    tolerance = 16 * units(logits).reshape(-1, *[1] * (ours.ndim - 1))
    least = torch.finfo(torch.float64).tiny if relative else tolerance
    good = (ours == expected) | ((ours - expected).abs() <= least + tolerance * expected.abs())
    assert (good | (ours.isnan() & expected.isnan())).all(), f"{ours} is not {expected}"


def close_gradients(ours: Tensor, expected: Tensor, logits: Tensor) -> None:
    """Agree to 64 units of the norm; where largest logits are equal, gradients cancel and are held to 1.

    So they are where they differ by no more than those of narrow samples, which is 2e-3.
    """
    best = logits.detach().amax(1, keepdim=True)
    tied = (logits.detach() >= best - 2e-3 * (1 + best.abs())).sum(1) > 1
    norm = torch.where(tied, 1.0, 0.0).maximum(expected.abs().amax(1))  # as squares underflow
    least = 64 * units(logits) * norm + torch.finfo(torch.float64).tiny
    good = ((ours - expected).abs() <= least[:, None]) | (ours.isnan() & expected.isnan())
    assert good.all(), f"{ours} is not {expected}"


def soft_of(stat: Statistic) -> Tensor | None:
    return stat.table if isinstance(stat, ExpectedLogProb) else None


def in_order(stat: Statistic, order: list[int]) -> Statistic:
    """Return the statistic for classes in another order."""
    table = soft_of(stat)
    if table is None:
        return stat
    return ExpectedLogProb(table[order] if table.ndim == 1 else table[order][:, order])


def arranged(sample: Sample) -> tuple[Tensor, Tensor, list[tuple[int, int]]]:
    """Return the logits in the sample's order, their targets, and the runs that it is cut in."""
    order = list(sample.order)
    place = torch.argsort(torch.tensor(order))
    ends = (0, *sample.cuts, sample.classes)
    return sample.logits[:, order], place[sample.target], list(pairwise(ends))


def merged(
    logits: Tensor,
    target: Tensor,
    runs: list[tuple[int, int]],
    separate: bool,
    combine: Callable[[list[Sums]], Sums],
) -> RowStates:
    """Return the states of all classes, merged from those of runs."""
    parts = [partial(logits[:, start:stop], target, separate=separate, start=start) for start, stop in runs]
    if not separate:
        return RowStates(combine([part.all for part in parts]))
    target_logit = torch.full_like(logits[:, 0], -torch.inf)
    for part, (start, stop) in zip(parts, runs, strict=True):
        target_logit = torch.where((start <= target) & (target < stop), part.target_logit, target_logit)
    return RowStates(combine([part.others for part in parts]), target_logit, parts[0].target_soft)


def value_and_gradient(states: RowStates, stat: Statistic, logits: Tensor) -> tuple[Tensor, Tensor]:
    value = stat.finalize(states) * states.valid
    if not value.requires_grad:
        return value, torch.zeros_like(logits)
    (grad,) = torch.autograd.grad(value.sum(), logits, retain_graph=True)
    return value.detach(), grad


def evaluated(stat: Statistic, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return a statistic and its gradient, from all classes at once."""
    leaf = logits.detach().clone().requires_grad_()
    value = dense_row(leaf, target).compute(stat)
    if not value.requires_grad:
        return value, torch.zeros_like(logits)
    return value.detach(), torch.autograd.grad(value.sum(), leaf)[0]


def halves(merge: Merge, parts: list[Sums]) -> Sums:
    if len(parts) == 1:
        return parts[0]
    half = len(parts) // 2
    return merge(halves(merge, parts[:half]), halves(merge, parts[half:]))


def ways(merge: Merge) -> Iterator[Callable[[list[Sums]], Sums]]:
    """Orders to merge in."""
    yield lambda parts: reduce(merge, parts)
    yield lambda parts: reduce(lambda done, new: merge(new, done), reversed(parts))
    yield lambda parts: reduce(merge, parts[1::2] + parts[::2])
    yield lambda parts: halves(merge, parts)


def separations(stat: Statistic) -> tuple[bool, ...]:
    return (True,) if stat.separates_target else (False, True)


def any_split_agrees(kind: Kind, sample: Sample, merge: Merge = merge) -> None:
    stat = in_order(kind.make(sample.classes), list(sample.order))
    logits, target, runs = arranged(sample)
    value, grad = evaluated(stat, logits, target)
    leaf = logits.clone().requires_grad_()
    for separate in separations(stat):
        for combine in ways(merge):
            states = merged(leaf, target, runs, separate, combine)
            ours, slope = value_and_gradient(states, stat, leaf)
            close(ours, value, logits, relative=isinstance(stat, RELATIVE))
            alive = sample.alive
            close_gradients(slope[alive], grad[alive], logits[alive])
            assert ours[~alive].isnan().all()


def shifting_all_logits_shifts_the_value_as_stated(kind: Kind, sample: Sample) -> None:
    sample = sample.of_alive()
    stat = kind.make(sample.classes)
    logits = sample.logits.mul(2**20).round() / 2**20  # no digit is lost when these shift
    value, grad = evaluated(stat, logits, sample.target)
    value_moved, grad_moved = evaluated(stat, logits + 17.25, sample.target)
    expected = torch.where(value.abs() > 1e100, value, value + kind.shift * 17.25)
    close(value_moved, expected, logits + 17.25, relative=isinstance(stat, RELATIVE))
    close_gradients(grad_moved, grad, logits + 17.25)


def permuting_the_classes_permutes_the_gradient(kind: Kind, sample: Sample) -> None:
    order = list(sample.order)
    stat = kind.make(sample.classes)
    logits, target, _ = arranged(sample)
    value, grad = evaluated(stat, sample.logits, sample.target)
    value_moved, grad_moved = evaluated(in_order(stat, order), logits, target)
    close(value_moved, value, sample.logits, relative=isinstance(stat, RELATIVE))
    close_gradients(grad_moved, grad[:, order], logits)


def a_masked_class_is_as_good_as_absent(kind: Kind, sample: Sample) -> None:
    stat = kind.make(sample.classes)
    sample = sample.of_alive()
    value, grad = evaluated(stat, sample.logits, sample.target)
    assert (grad[sample.logits == -torch.inf] == 0).all()
    assert grad.isfinite().all()
    assert value.isfinite().all()
    for row, y in zip(sample.logits, sample.target, strict=True):
        kept = row > -torch.inf
        if not kept[y] and stat.separates_target:
            continue
        fewer, table = stat, soft_of(stat)
        if table is not None:
            fewer = ExpectedLogProb((table if table.ndim == 1 else table[y])[kept])
        y_kept = kept[:y].sum()[None].clamp(max=kept.sum() - 1)
        one, slope = evaluated(stat, row[None], y[None])
        two, slope_kept = evaluated(fewer, row[None, kept], y_kept)
        close(one, two, row[None], relative=isinstance(stat, RELATIVE))
        close_gradients(slope[:, kept], slope_kept, row[None, kept])


def for_each_class_is_each_class_in_turn(kind: Kind, sample: Sample) -> None:
    sample = sample.of_alive()  # a row without classes has no class to take in turn
    stat = kind.make(sample.classes)

    def compute(statistic: Statistic, logits: Tensor, target: Tensor | None) -> Tensor:
        return dense_row(logits, target).compute(statistic)

    together = stat.for_each_class(sample.logits, compute)
    count = sample.classes if stat.reads_target else 1
    asked = [evaluated(stat, sample.logits, torch.full_like(sample.target, y))[0] for y in range(count)]
    close(together, torch.stack(asked, 1), sample.logits)


def added(one: Sums, two: Sums, name: StateName) -> Any:
    return one.number(name) + two.number(name)
