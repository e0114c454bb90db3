"""The laws of states: any split of the classes, merged in any order, gives the same statistics."""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from typing import Any, final

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

import equipoise.statistics
from equipoise.statistics import (
    Entropy,
    ExpectedLogProb,
    LogOdds,
    LogSumExp,
    LogSumExpGap,
    Margin,
    MeanLogit,
    Smallest,
    Statistic,
    reference,
)
from equipoise.statistics import row_statistics as dense_row
from equipoise.statistics.base import Compute
from equipoise.statistics.reference import partial
from equipoise.statistics.states import RowStates, SoftTargets, StateName, Sums, merge
from support.state_samples import EPS, KINDS, OF_WHOLE_ROWS, RELATIVE, Kind, Sample, finds, law, samples

pytestmark = pytest.mark.slow  # samples drawn at random

Merge = Callable[[Sums, Sums], Sums]
SOFT = SoftTargets(torch.linspace(0.0, 1.0, 7, dtype=torch.float64))
NAMES = [
    *(
        StateName(kind)
        for kind in ("base", "max_gap", "rest_gap", "min_base", "min_exp", "sum_logit", "count")
    ),
    *(StateName(kind, scale) for kind in ("max_exp", "rest_exp") for scale in (0.5, 1.0, 2.0)),
    *(StateName(kind, SOFT) for kind in ("max_soft", "rest_soft", "max_soft_gap", "rest_soft_gap")),
]


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


test_any_split_agrees = law(any_split_agrees)
test_shifting_all_logits_shifts_the_value_as_stated = law(shifting_all_logits_shifts_the_value_as_stated)
test_permuting_the_classes_permutes_the_gradient = law(permuting_the_classes_permutes_the_gradient)
test_a_masked_class_is_as_good_as_absent = law(a_masked_class_is_as_good_as_absent)
test_for_each_class_is_each_class_in_turn = law(for_each_class_is_each_class_in_turn)


@settings(max_examples=50)
@given(samples())
def test_merge_is_commutative(sample: Sample) -> None:
    """Merging two parts gives the same bits in either order."""
    logits, target, runs = arranged(sample)
    soft = SoftTargets(SOFT.table[: sample.classes])
    parts = [partial(logits[:, start:stop], target, start=start).all for start, stop in runs]
    for one, two in pairwise(parts):
        for name in NAMES:
            name = StateName(name.kind, soft) if name.parameter is SOFT else name
            assert torch.equal(merge(one, two).number(name), merge(two, one).number(name)), name


@settings(max_examples=50)
@given(samples())
def test_states_relative_to_the_base_of_all_classes_add_up(sample: Sample) -> None:
    logits, target, runs = arranged(sample.of_alive())
    soft = SoftTargets(SOFT.table[: sample.classes])
    every = partial(logits, target).all
    parts = [
        partial(logits[:, i:k], target, start=i, base=every.base, min_base=every.min_base).all
        for i, k in runs
    ]
    for name in NAMES:
        name = StateName(name.kind, soft) if name.parameter is SOFT else name
        if name.kind not in ("base", "min_base"):
            added = torch.stack([part.number(name) for part in parts]).sum(0)
            close(added, every.number(name), logits)


@settings(max_examples=50)
@given(samples())
def test_a_derivative_of_a_state_is_that_of_its_sum(sample: Sample) -> None:
    """The derivatives that a kernel has, written out."""
    leaf = sample.of_alive().logits.requires_grad_()
    sums = partial(leaf).all
    gap = (leaf - sums.base[:, None]).detach()
    first, masked, e = gap == 0, leaf == -torch.inf, torch.exp(gap)
    smallest = leaf == sums.min_base[:, None]
    expected: dict[tuple[str, float | None], Tensor] = {
        ("max_exp", 2.0): 2.0 * first,
        ("rest_exp", 2.0): torch.where(first | masked, 0.0, 2 * e**2),
        ("max_gap", None): 1.0 * first,
        ("rest_gap", None): torch.where(first | masked, 0.0, (1 + gap) * e).nan_to_num(),
        ("min_exp", None): 1.0 * smallest,
        ("sum_logit", None): 1.0 * ~masked,
    }
    for (kind, parameter), derivative in expected.items():
        (grad,) = torch.autograd.grad(sums.number(StateName(kind, parameter)).sum(), leaf, retain_graph=True)
        torch.testing.assert_close(grad, derivative.double(), rtol=1e-13, atol=1e-300)


def test_every_statistic_has_its_laws_tested() -> None:
    written = {
        value
        for value in vars(equipoise.statistics).values()
        if inspect.isclass(value) and issubclass(value, Statistic) and value is not Statistic
    }
    assert {type(kind.make(2)) for kind in KINDS} | OF_WHOLE_ROWS == written


def test_samples_spread() -> None:
    """The samples have many values, extremes, orders and masked rows."""
    seen: list[Sample] = []

    @settings(max_examples=100)
    @given(samples())
    def note(sample: Sample) -> None:
        seen.append(sample)

    note()
    logits = torch.cat([sample.logits.flatten() for sample in seen])
    finite = logits[logits.isfinite()]
    assert len(finite.unique()) > 50
    assert finite.max() > 200
    assert finite.min() < -200
    assert len({sample.classes for sample in seen}) > 3
    assert max(len(sample.cuts) for sample in seen) >= 3
    assert sum(list(sample.order) != sorted(sample.order) for sample in seen) > 5
    assert any((sample.logits == -torch.inf).all(1).any() for sample in seen)


def changed(kind: str, make: Callable[[Sums, Sums, StateName], Any]) -> Merge:
    """Return a merge that is wrong in one number."""

    def wrong(one: Sums, two: Sums) -> Sums:
        right = merge(one, two)
        return Sums(lambda name: make(one, two, name) if name.kind == kind else right.number(name))

    return wrong


def second(one: Sums, two: Sums, name: StateName) -> Any:
    return two.number(name)


def added(one: Sums, two: Sums, name: StateName) -> Any:
    return one.number(name) + two.number(name)


ONES = torch.ones(7, dtype=torch.float64)
FAULTY_MERGES = {
    "it forgets the factor": (LogSumExp(), changed("rest_exp", added)),
    "it forgets the factor of gaps": (Entropy(), changed("rest_gap", added)),
    "it counts who does not lead": (LogSumExpGap(), changed("max_exp", added)),
    "it takes the second base": (LogSumExp(), changed("base", second)),
    "it takes the second smallest": (Smallest(), changed("min_base", second)),
    "it adds those that are not the smallest": (Smallest(), changed("min_exp", added)),
    "it forgets a sum": (MeanLogit(), changed("sum_logit", second)),
    "it forgets the shift of soft targets": (ExpectedLogProb(ONES), changed("rest_soft_gap", added)),
    "it adds what exceeds 1": (
        LogSumExp(),
        lambda one, two: Sums(merge(one, two).number, lambda c: one.excess_exp(c) + two.excess_exp(c)),
    ),
}


def of_size(stat: Statistic) -> Callable[[int], Statistic]:
    table = soft_of(stat)
    return (lambda n: stat) if table is None else (lambda n: ExpectedLogProb(table[:n]))


@pytest.mark.parametrize("fault", FAULTY_MERGES)
def test_a_merge_that_is_wrong_is_found(fault: str) -> None:
    stat, wrong = FAULTY_MERGES[fault]
    kind = Kind("planted", of_size(stat))
    assert finds(lambda kind, sample: any_split_agrees(kind, sample, wrong), kind)


@final
@dataclass(frozen=True)
class Faulty(Statistic):
    """A log-sum-exp, or log odds, with something wrong."""

    change: Callable[[RowStates], Tensor] = lambda states: torch.zeros(1)
    reads_target: bool = False

    def finalize(self, states: RowStates, /) -> Tensor:
        return LogSumExp().finalize(states) + self.change(states)

    def for_each_class(self, logits: Tensor, compute: Compute, /) -> Tensor:
        return compute(self, logits, logits.argmax(1))[:, None].expand_as(logits) + 1


RANKED = torch.arange(7.0, dtype=torch.float64)


@pytest.mark.parametrize(
    ("make", "run"),
    [
        (lambda n: Faulty(lambda states: states.all.base), shifting_all_logits_shifts_the_value_as_stated),
        (
            lambda n: Faulty(lambda states: states.all.max_soft(SoftTargets(RANKED[:n]))),
            permuting_the_classes_permutes_the_gradient,
        ),
        (lambda n: MeanLogit(), a_masked_class_is_as_good_as_absent),
        (lambda n: Faulty(reads_target=True), for_each_class_is_each_class_in_turn),
    ],
    ids=["shift", "permutation", "mask", "each class"],
)
def test_a_statistic_that_is_wrong_is_found(
    make: Callable[[int], Statistic], run: Callable[[Kind, Sample], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not finds(run, Kind("sound", lambda n: LogSumExp(), shift=1))
    if run is a_masked_class_is_as_good_as_absent:
        monkeypatch.setattr(reference, "_Dense", CountsMasked)
    assert finds(run, Kind("planted", make, shift=1))


class CountsMasked(reference._Dense):
    """Sums in which masked classes count."""

    def read(self, name: StateName) -> Tensor:
        if name.kind == "count":
            return torch.full_like(self._base, self._logits.shape[1])
        return super().read(name)


def test_a_target_is_kept_apart_where_a_statistic_needs_it() -> None:
    for kind in KINDS:
        stat = kind.make(3)
        assert stat.separates_target == (isinstance(stat, LogOdds | Margin) or "True" in kind.name)
        assert stat.reads_target >= stat.separates_target
