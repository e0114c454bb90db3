"""The laws of the statistics: any split of the classes agrees, and slopes are derivatives."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce
from importlib import import_module
from itertools import pairwise
from typing import ClassVar, final

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError

import equipoise.stats
from equipoise.losses import LOSSES, CrossEntropy, Loss, RowLoss
from equipoise.losses.costs import TEST_CLASSES
from equipoise.penalties import PENALTIES
from equipoise.rows import RowStatistics, dense, every
from equipoise.stats import (
    Ask,
    ClassCount,
    Entropy,
    ExpectedLogProb,
    FastTile,
    Group,
    Largest,
    LogOdds,
    LogSumExp,
    LogSumExpGap,
    Margin,
    MeanLogit,
    Rank,
    Rooms,
    Slope,
    Smallest,
    Stat,
    State,
    Tile,
    ask,
)
from equipoise.stats.ask import row_blocks

EPS = torch.finfo(torch.float64).eps
SCALES = (0.5, 1.0, 2.0)
SPREAD = 300.0


@dataclass(frozen=True)
class Kind:
    """A statistic for any number of classes, and what it should do when the logits shift."""

    name: str
    make: Callable[[int], Stat]
    shift: float = 0.0


def soft_rows(*shape: int) -> Tensor:
    """Return soft targets that are the same every time, with zeros among them."""
    size = torch.Size(shape).numel()
    weights = torch.arange(size, dtype=torch.float64).mul(0.61).frac().reshape(shape)
    weights = torch.where(weights < 0.2, 0.0, weights)
    return (weights + 0.1 * (weights.sum(-1, keepdim=True) == 0)) / weights.sum(-1, keepdim=True).clamp(min=1)


KINDS = [
    *[Kind(f"LogOdds({c})", lambda n, c=c: LogOdds(c)) for c in SCALES],
    Kind("Margin()", lambda n: Margin()),
    *[Kind(f"LogSumExp({c})", lambda n, c=c: LogSumExp(c), shift=c) for c in SCALES],
    *[Kind(f"LogSumExpGap({c})", lambda n, c=c: LogSumExpGap(c)) for c in SCALES],
    Kind("Entropy()", lambda n: Entropy()),
    Kind("MeanLogit()", lambda n: MeanLogit(), shift=1),
    Kind("ClassCount()", lambda n: ClassCount()),
    Kind("Largest()", lambda n: Largest(), shift=1),
    Kind("Smallest()", lambda n: Smallest(), shift=1),
    Kind("ExpectedLogProb((C, C))", lambda n: ExpectedLogProb(soft_rows(n, n))),
    Kind("ExpectedLogProb((C,))", lambda n: ExpectedLogProb(soft_rows(n))),
]
EVERY_KIND = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
BOTH_WAYS = pytest.mark.usefixtures("_both_ways")
# These are sums of non-negative terms: they are held to their own size, with nothing absolute.
RELATIVE = (LogSumExpGap, Entropy, ClassCount, ExpectedLogProb)


@dataclass(frozen=True)
class Sample:
    """Logits (N, C), targets (N,), and where to cut the classes."""

    logits: Tensor
    target: Tensor
    cuts: tuple[int, ...] = ()

    @property
    def classes(self) -> int:
        return self.logits.shape[1]

    @property
    def alive(self) -> Tensor:
        """Rows in which some class is not masked."""
        return (self.logits > -torch.inf).any(1)

    def alone(self) -> "Sample":
        """Return the rows in which some class is not masked."""
        return Sample(self.logits[self.alive], self.target[self.alive], self.cuts)


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    """Rows wide and narrow, with ties and with masked classes, cut anywhere."""
    rows, classes = draw(st.integers(2, 6)), draw(st.integers(1, 7))
    spread, step = draw(st.sampled_from([1e-3, 1.0, 30.0, SPREAD])), draw(st.sampled_from([0.0, 0.0, 0.5]))
    hidden = draw(st.sampled_from([0.0, 0.4, 0.7, 0.7]))
    cuts = draw(st.sets(st.integers(1, classes - 1))) if classes > 1 else set()
    seed = hash(
        (rows, classes, spread, step, hidden, draw(st.integers(0, 2**31)))
    )  # numbers hash alike always
    source = torch.Generator().manual_seed(seed)
    logits = torch.rand(rows, classes, dtype=torch.float64, generator=source) * 2 - 1
    logits = spread * ((logits / step).round() * step if step else logits)
    logits[torch.rand(rows, classes, generator=source) < hidden] = -torch.inf
    return Sample(logits, torch.randint(classes, (rows,), generator=source), tuple(sorted(cuts)))


HARD = [
    Sample(torch.tensor([[0.5, -2.0, 1.0, 3.0]], dtype=torch.float64), torch.tensor([1]), (1, 3)),
    Sample(
        torch.tensor([[0.5, -torch.inf, -torch.inf, 3.0]], dtype=torch.float64), torch.tensor([0]), (1, 3)
    ),
    Sample(torch.tensor([[300.0, -300.0, 0.0]], dtype=torch.float64), torch.tensor([1]), (1, 2)),
    Sample(torch.tensor([[1.0, 1.0, 1.0]], dtype=torch.float64), torch.tensor([2]), (1,)),
    Sample(torch.full((1, 3), -torch.inf, dtype=torch.float64), torch.tensor([0]), (1,)),
]


def law(run: Callable[[Kind, Sample], None]) -> Callable[[Kind], None]:
    """Return a test that a law holds for a kind of statistic, on many samples."""

    @EVERY_KIND
    def test(kind: Kind) -> None:
        for sample in HARD:
            run(kind, sample)
        search(run, kind)

    return test


def search(run: Callable[[Kind, Sample], None], kind: Kind) -> None:
    @settings(max_examples=25)
    @given(samples())
    def check(sample: Sample) -> None:
        run(kind, sample)

    check()


def close(ours: Tensor, expected: Tensor, reach: Tensor, *, relative: bool = False) -> None:
    """Agree to 16 eps (1 + max|z|): a gap between logits is rounded by that much, and it is an exponent."""
    finite = torch.where(reach.isfinite(), reach, 0.0)
    tolerance = 16 * EPS * (1 + (finite.abs().max().item() if finite.numel() else 0.0))
    least = torch.finfo(torch.float64).tiny if relative else tolerance
    assert ours.shape == expected.shape
    good = (ours == expected) | ((ours - expected).abs() <= least + tolerance * expected.abs())
    assert good.all(), f"{ours} is not {expected}"


def tiles(stat: Stat, sample: Sample) -> list[Tile]:
    ends = (0, *sample.cuts, sample.classes)
    return [
        Tile(sample.logits[:, start:stop], sample.target, start, apart=stat.apart)
        for start, stop in pairwise(ends)
    ]


def spread(stat: Stat, tile: Tile, state: State) -> Tensor:
    return stat.slope(state).spread(tile)


def whole(stat: Stat, sample: Sample) -> tuple[Tensor, Tensor]:
    """Return value and slope from one block."""
    tile = Tile(sample.logits, sample.target, apart=stat.apart)
    state = stat.of(tile)
    return stat.value(state), spread(stat, tile, state)


def tree(stat: Stat, states: list[State]) -> State:
    """Merge by halves."""
    if len(states) == 1:
        return states[0]
    half = len(states) // 2
    return stat.merge(tree(stat, states[:half]), tree(stat, states[half:]))


def merge_is_commutative(kind: Kind, sample: Sample) -> None:
    stat = kind.make(sample.classes)
    states = [stat.of(tile) for tile in tiles(stat, sample)]
    for one, two in pairwise(states):
        for left, right in zip(stat.merge(one, two), stat.merge(two, one), strict=True):
            assert torch.equal(left, right)


def merge_is_associative_and_any_split_agrees(kind: Kind, sample: Sample) -> None:
    stat = kind.make(sample.classes)
    value, slope = whole(stat, sample)
    parts = tiles(stat, sample)
    states = [stat.of(tile) for tile in parts]
    for merged in (
        reduce(stat.merge, states),
        reduce(lambda done, new: stat.merge(new, done), reversed(states)),
        reduce(stat.merge, states[1::2] + states[::2]),
        tree(stat, states),
    ):
        close(stat.value(merged), value, sample.logits, relative=isinstance(stat, RELATIVE))
        close(torch.cat([spread(stat, tile, merged) for tile in parts], 1), slope, sample.logits)


def shifting_all_logits_shifts_the_value_as_stated(kind: Kind, sample: Sample) -> None:
    sample = sample.alone()
    stat = kind.make(sample.classes)
    logits = sample.logits.mul(2**20).round() / 2**20  # no digit is lost when these shift
    value, slope = whole(stat, Sample(logits, sample.target))
    value_moved, slope_moved = whole(stat, Sample(logits + 17.25, sample.target))
    expected = torch.where(value.abs() > 1e300, value, value + kind.shift * 17.25)
    close(value_moved, expected, logits, relative=isinstance(stat, RELATIVE))
    close(slope_moved, slope, logits)


def permuting_the_classes_permutes_the_slope(kind: Kind, sample: Sample) -> None:
    stat = kind.make(sample.classes)
    order = torch.randperm(sample.classes, generator=torch.Generator().manual_seed(1))
    other = stat
    if isinstance(stat, ExpectedLogProb):
        rows = stat.rows[order]
        other = ExpectedLogProb(rows if rows.ndim == 1 else rows[:, order])
    moved = Sample(sample.logits[:, order], torch.argsort(order)[sample.target])
    value, slope = whole(stat, sample)
    value_moved, slope_moved = whole(other, moved)
    close(value_moved, value, sample.logits, relative=isinstance(stat, RELATIVE))
    close(slope_moved, slope[:, order], sample.logits)


def a_masked_class_is_as_good_as_absent(kind: Kind, sample: Sample) -> None:
    stat = kind.make(sample.classes)
    value, slope = whole(stat, sample)
    assert (slope[sample.logits == -torch.inf] == 0).all()
    assert slope.isfinite().all()
    assert value[sample.alive].isfinite().all()
    for row, y, masked in zip(sample.logits, sample.target, sample.logits == -torch.inf, strict=True):
        kept = ~masked
        if masked.all() or (masked[y] and isinstance(stat, LogOdds | Margin)):
            continue
        fewer = stat
        if isinstance(stat, ExpectedLogProb):
            fewer = ExpectedLogProb((stat.rows if stat.rows.ndim == 1 else stat.rows[y])[kept])
        y_kept = kept[:y].sum()[None].clamp(max=kept.sum() - 1)
        one, two = Sample(row[None], y[None]), Sample(row[None, kept], y_kept)
        (value, slope), (value_kept, slope_kept) = whole(stat, one), whole(fewer, two)
        close(value, value_kept, row, relative=isinstance(stat, RELATIVE))
        close(slope[:, kept], slope_kept, row)


def every_equals_asking_for_each_class(kind: Kind, sample: Sample) -> None:
    sample = sample.alone()  # a row without classes has no class to take in turn
    stat = kind.make(sample.classes)
    together = stat.every(sample.logits, ask)
    asked = [ask(stat, sample.logits, torch.full_like(sample.target, y)) for y in range(together.shape[1])]
    reads_target = isinstance(stat, LogOdds | Margin) or (
        isinstance(stat, ExpectedLogProb) and stat.rows.ndim == 2
    )
    assert together.shape[1] == (sample.classes if reads_target else 1)
    close(together, torch.stack(asked, 1), sample.logits)


def in_place_is_the_same(kind: Kind, sample: Sample) -> None:
    stat = kind.make(sample.classes)
    for group in (
        Group((stat,)),
        Group((stat, LogOdds())),
        Group((stat, Entropy(), LogSumExp(2.0), LogOdds())),
    ):
        whole_states = group.of(Tile(sample.logits, sample.target, apart=group.apart))
        factors = [torch.linspace(0.5, -2.0, len(sample.target), dtype=torch.float64) for _ in group.stats]
        slope = group.slope(whole_states, factors, sample.target)
        for start, stop in [(None, sample.classes), *pairwise((0, *sample.cuts, sample.classes))]:
            block = sample.logits[:, start or 0 : stop]
            slow = Tile(block, sample.target, start, apart=group.apart)
            given = slope if start is None else replace(slope, total=None)
            for spare in (False, True):
                options = {"apart": group.apart, "rooms": Rooms(), "light": group.light, "spare": spare}
                fast = FastTile(block.clone(), sample.target, start, **options)
                for ours, theirs in zip(group.flat(group.of(fast)), group.flat(group.of(slow)), strict=True):
                    close(ours, theirs, sample.logits)
                again = fast if group.light else FastTile(fast.block, sample.target, start, **options)
                out = again.block if spare else torch.empty_like(block)
                again.write(given, out)
                close(out, slope.spread(slow), sample.logits)


test_merge_is_commutative = law(merge_is_commutative)
test_in_place_is_the_same = law(in_place_is_the_same)
test_merge_is_associative_and_any_split_agrees = law(merge_is_associative_and_any_split_agrees)
test_shifting_all_logits_shifts_the_value_as_stated = law(shifting_all_logits_shifts_the_value_as_stated)
test_permuting_the_classes_permutes_the_slope = law(permuting_the_classes_permutes_the_slope)
test_a_masked_class_is_as_good_as_absent = law(a_masked_class_is_as_good_as_absent)
test_every_equals_asking_for_each_class = law(every_equals_asking_for_each_class)


def test_every_statistic_has_its_laws_tested() -> None:
    written = {
        value
        for value in vars(equipoise.stats).values()
        if inspect.isclass(value) and issubclass(value, Stat) and value is not Stat
    }
    assert {type(kind.make(2)) for kind in KINDS} | {Rank} == written  # a rank is of whole rows


def test_samples_spread() -> None:
    seen: list[Sample] = []

    @settings(max_examples=25)
    @given(samples())
    def note(sample: Sample) -> None:
        seen.append(sample)

    note()
    logits = torch.cat([sample.logits.flatten() for sample in seen])
    finite = logits[logits.isfinite()]
    assert len(finite.unique()) > 50
    assert finite.max() > 200
    assert finite.min() < -200
    assert len({sample.classes for sample in seen}) > 5
    assert max(len(sample.cuts) for sample in seen) >= 3
    assert any((sample.logits == -torch.inf).all(1).any() for sample in seen)
    assert any(
        (sample.logits[:, start:stop] == -torch.inf).all()
        for sample in seen
        for start, stop in pairwise((0, *sample.cuts, sample.classes))
        if sample.alive.all()
    )


class Fault(Stat):
    """A log-sum-exp with something wrong."""

    inner = LogSumExp()
    size: ClassVar[int] = 2

    def of(self, tile: Tile, /) -> State:
        return self.inner.of(tile)

    def merge(self, one: State, two: State, /) -> State:
        return self.inner.merge(one, two)

    def value(self, state: State, /) -> Tensor:
        return self.inner.value(state)

    def slope(self, state: State, /) -> Slope:
        return self.inner.slope(state)


@final
class ForgetsToRescale(Fault):
    def merge(self, one: State, two: State, /) -> State:
        return torch.maximum(one[0], two[0]), one[1] + two[1]


@final
class DependsOnTheOrder(Fault):
    def merge(self, one: State, two: State, /) -> State:
        return one[0], one[1] + torch.exp(two[0] - one[0]) * two[1]


@final
class SlopeOfTheBlock(Fault):
    def of(self, tile: Tile, /) -> State:
        self.last = self.inner.of(tile)
        return self.last

    def slope(self, state: State, /) -> Slope:
        del state
        return self.inner.slope(self.last)


@final
class Squared(Fault):
    def value(self, state: State, /) -> Tensor:
        return self.inner.value(state) ** 2


@final
class CountsMasked(Fault):
    def slope(self, state: State, /) -> Slope:
        top = self.inner.slope(state).top
        assert top is not None
        return Slope(marks=((torch.full_like(top, -torch.inf), torch.ones_like(top)),))


@final
class PrefersTheFirst(Fault):
    def slope(self, state: State, /) -> Slope:
        size = 1 + max(self.inner.slope(state).powers)
        weights = torch.arange(8.0, dtype=torch.float64)
        return Slope(soft=((weights, size * torch.ones_like(state[0])),))


@final
class EveryIsTheTarget(Fault):
    def every(self, logits: Tensor, ask: Ask, /) -> Tensor:
        return logits[:, :1]


@pytest.mark.parametrize(
    ("fault", "run"),
    [
        (ForgetsToRescale, merge_is_associative_and_any_split_agrees),
        (DependsOnTheOrder, merge_is_commutative),
        (SlopeOfTheBlock, merge_is_associative_and_any_split_agrees),
        (Squared, shifting_all_logits_shifts_the_value_as_stated),
        (CountsMasked, a_masked_class_is_as_good_as_absent),
        (PrefersTheFirst, permuting_the_classes_permutes_the_slope),
        (EveryIsTheTarget, every_equals_asking_for_each_class),
    ],
)
def test_each_law_finds_a_statistic_that_breaks_it(
    fault: Callable[[], Stat], run: Callable[[Kind, Sample], None]
) -> None:
    with pytest.raises(AssertionError):
        search(run, Kind("planted", lambda n: fault(), shift=1))
    search(run, Kind("sound", lambda n: LogSumExp(), shift=1))


def distinct(rows: int, classes: int, *masked: int) -> tuple[Tensor, Tensor]:
    """Return logits without ties, where every statistic is differentiable, and targets."""
    logits = torch.randn(rows, classes, dtype=torch.float64)
    logits[:, list(masked)] = -torch.inf
    return logits.requires_grad_(), torch.arange(rows) % classes


@BOTH_WAYS
@EVERY_KIND
@pytest.mark.parametrize("masked", [(), (1, 3)], ids=["all", "some"])
def test_slope_is_the_derivative_of_the_value_and_has_one_itself(kind: Kind, masked: tuple[int, ...]) -> None:
    logits, _ = distinct(3, 5, *masked)
    target, stat = torch.tensor([0, 2, 4]), kind.make(5)
    assert torch.autograd.gradcheck(lambda z: ask(stat, z, target), (logits,))
    assert torch.autograd.gradcheck(lambda z: stat.every(z, ask), (logits,))
    if not masked:  # the numerical second derivative is taken of an infinity otherwise
        assert torch.autograd.gradgradcheck(lambda z: ask(stat, z, target), (logits,))


@BOTH_WAYS
def test_gradcheck_finds_a_wrong_slope() -> None:
    logits, target = distinct(3, 5)
    with pytest.raises(GradcheckError):
        torch.autograd.gradcheck(lambda z: ask(CountsMasked(), z, target), (logits,))


@BOTH_WAYS
@EVERY_KIND
def test_backward_is_the_slope_and_does_not_depend_on_blocks_of_rows(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    classes, rows = 30, 23
    asking = import_module("equipoise.stats.ask")  # its name is also that of a function
    monkeypatch.setattr(asking, "PIECE", 10 * classes)  # three blocks, the last of them smaller
    assert len(row_blocks(torch.empty(rows, classes), 10 * classes)) == 3
    logits, target = torch.randn(rows, classes, dtype=torch.float64), torch.randint(classes, (rows,))
    stat = kind.make(classes)
    value, slope = whole(stat, Sample(logits, target))
    leaf = logits.requires_grad_()
    ours = ask(stat, leaf, target)
    (grad,) = torch.autograd.grad(ours.sum(), leaf)
    torch.testing.assert_close(ours, value, rtol=1e-14, atol=1e-15)  # sums in another order
    torch.testing.assert_close(grad, slope, rtol=1e-13, atol=1e-15)


@BOTH_WAYS
@EVERY_KIND
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_rows_stay_finite_and_empty_ones_are_nan(kind: Kind, dtype: torch.dtype) -> None:
    inf = torch.inf
    logits = torch.tensor(
        [
            [SPREAD, -SPREAD, 0.0, -SPREAD],
            [-SPREAD, SPREAD, SPREAD, SPREAD],
            [5.0, 5.0, 5.0, 5.0],
            [-inf, 1.0, -inf, SPREAD],
            [2.0, -inf, -inf, -inf],
            [-inf, -inf, -inf, -inf],
        ],
        dtype=dtype,
    )
    base = kind.make(4)
    stat = ExpectedLogProb(base.rows.to(dtype)) if isinstance(base, ExpectedLogProb) else base
    for y in range(4):
        leaf = logits.clone().requires_grad_()
        value = ask(stat, leaf, torch.full((6,), y))
        (slope,) = torch.autograd.grad(value.sum(), leaf)
        assert value.dtype == slope.dtype == dtype
        assert value[:5].isfinite().all()
        assert slope[:5].isfinite().all()
        assert (slope[:5][logits[:5] == -inf] == 0).all()
        assert value[5].isnan()
        assert slope[5].isnan().all()
    leaf = logits[:5].clone().requires_grad_()
    (slope,) = torch.autograd.grad(stat.every(leaf, ask).sum(), leaf)
    assert slope.isfinite().all()
    assert (slope[logits[:5] == -inf] == 0).all()


@BOTH_WAYS
@EVERY_KIND
def test_one_class(kind: Kind) -> None:
    logits = torch.tensor([[3.0], [-2.0]], dtype=torch.float64, requires_grad=True)
    value = ask(kind.make(1), logits, torch.tensor([0, 0]))
    (slope,) = torch.autograd.grad(value.sum(), logits)
    torch.testing.assert_close(slope, torch.full_like(slope, kind.shift))


@BOTH_WAYS
def test_tied_extremes_share_their_slope() -> None:
    logits = torch.tensor([[2.0, 2.0, 0.0, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    for stat, expected in (
        (Largest(), [0.5, 0.5, 0.0, 0.0, 0.0]),
        (Smallest(), [0.0, 0.0, 1 / 3, 1 / 3, 1 / 3]),
    ):
        (slope,) = torch.autograd.grad(ask(stat, logits, None).sum(), logits)
        torch.testing.assert_close(slope, torch.tensor([expected], dtype=torch.float64))


@BOTH_WAYS
def test_statistics_are_what_torch_computes() -> None:
    logits, target = torch.randn(6, 5, dtype=torch.float64), torch.randint(5, (6,))
    soft, probs = soft_rows(5, 5), logits.softmax(1)
    own = probs.gather(1, target[:, None])[:, 0]
    for stat, expected in (
        (LogOdds(), torch.logit(own)),
        (LogSumExp(2.0), (2 * logits).logsumexp(1)),
        (LogSumExpGap(), -probs.amax(1).log()),
        (Entropy(), -(probs * probs.log()).sum(1)),
        (MeanLogit(), logits.mean(1)),
        (ClassCount(), torch.full((6,), 5.0, dtype=torch.float64)),
        (Largest(), logits.amax(1)),
        (Smallest(), logits.amin(1)),
        (ExpectedLogProb(soft), (soft[target] * logits.log_softmax(1)).sum(1)),
    ):
        torch.testing.assert_close(ask(stat, logits, target), expected, rtol=1e-13, atol=1e-14)


def counting_row(target: Tensor | None = None) -> tuple[RowStatistics, list[Stat]]:
    logits, asked = torch.randn(3, 4), []

    def answer(stat: Stat) -> Tensor:
        asked.append(stat)
        return ask(stat, logits, target)

    return RowStatistics(answer, num_classes=4, target=target), asked


def test_a_row_computes_each_statistic_once() -> None:
    row, asked = counting_row(torch.tensor([0, 1, 2]))
    soft = torch.full((4,), 0.25)
    for _ in range(3):
        answers = (
            *(method(scale) for method in (row.log_odds, row.lse, row.logsumexp_gap) for scale in SCALES),
            *(row.entropy, row.mean_logit, row.largest, row.smallest, row.class_count),
            row.ask(Entropy()),
        )
        assert all(answer.shape == (3,) for answer in answers)
    assert len(asked) == len(set(asked)) == 14
    again, once = row.expected_log_prob(soft), row.expected_log_prob(soft)
    assert again is once
    assert len(asked) == 15


def test_a_row_tells_soft_targets_apart() -> None:
    row, asked = counting_row()
    one, two = torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0, 0.0])
    assert not torch.equal(row.expected_log_prob(one), row.expected_log_prob(two))
    assert len(asked) == 2


def test_a_count_of_classes_carries_no_gradient() -> None:
    assert not dense(torch.randn(2, 3, requires_grad=True)).class_count.requires_grad


def test_rows_know_their_class_weight() -> None:
    logits, target, weight = torch.randn(3, 4), torch.tensor([2, 0, 2]), torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert torch.equal(dense(logits, target, class_weight=weight).weight, torch.tensor([3.0, 1.0, 3.0]))
    assert torch.equal(every(logits, class_weight=weight).weight, weight)


ROW_LOSSES = [
    pytest.param(loss, id=f"{entry.name}-{index}")
    for entry in LOSSES + PENALTIES
    for index, loss in enumerate(entry.at)
    if isinstance(loss, RowLoss)
]


@EVERY_KIND
def test_vmap_of_grad_of_a_statistic_is_the_batch_gradient(kind: Kind) -> None:
    logits, target = distinct(4, 5)
    stat = kind.make(5)
    (expected,) = torch.autograd.grad(ask(stat, logits, target).sum(), logits)

    def one(row: Tensor, y: Tensor) -> Tensor:
        return ask(stat, row[None], y[None])[0]

    ours = torch.func.vmap(torch.func.grad(one))(logits.detach(), target)
    torch.testing.assert_close(ours, expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("loss", ROW_LOSSES)
def test_vmap_of_grad_of_a_loss_is_the_batch_gradient(loss: Loss) -> None:
    logits, target = distinct(4, TEST_CLASSES)
    (expected,) = torch.autograd.grad(loss(logits, target, reduction="sum"), logits)
    ours = torch.func.vmap(torch.func.grad(lambda row, y: loss(row, y)))(logits.detach(), target)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-15)


def test_hessian_by_functional_transforms() -> None:
    logits = torch.randn(5, dtype=torch.float64)
    twice = torch.func.jacrev(torch.func.jacrev(lambda row: CrossEntropy()(row, torch.tensor(2))))
    ours = twice(logits)
    probs = logits.softmax(0)
    torch.testing.assert_close(ours, torch.diag(probs) - probs[:, None] * probs, rtol=1e-12, atol=1e-14)


def test_fresh_memory_is_poisoned() -> None:
    assert torch.empty(1000).isnan().all()
    assert torch.empty_like(torch.zeros(7, dtype=torch.float64)).isnan().all()
    assert torch.zeros(3).new_empty(5).isnan().all()


def test_fresh_memory_is_poisoned_by_the_fixture_and_not_by_chance() -> None:
    torch.utils.deterministic.fill_uninitialized_memory = False
    zeros = torch.zeros(100_003)
    del zeros
    assert not torch.empty(100_003).isnan().all()


@pytest.mark.parametrize("again", [False, True])
def test_every_test_starts_from_the_same_seed(again: bool) -> None:
    assert torch.rand(1).item() == pytest.approx(0.4962565899)
