"""What every backend must get right of a block of logits."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import reduce
from itertools import pairwise
from typing import Any, ClassVar

import equipoise.stats.sums as sums
import pytest
import torch
from equipoise.rows import needs
from equipoise.stats import (
    Entropy,
    ExpectedLogProb,
    Group,
    Largest,
    LogOdds,
    LogSumExp,
    MeanLogit,
    Slope,
    Stat,
    Tile,
    ask_all,
)
from test_rows import KINDS, RELATIVE, soft_rows
from torch import Tensor

from equipoise import linear, penalties
from equipoise.losses import LOSSES, CrossEntropy, RowLoss
from equipoise.losses.costs import TEST_CLASSES
from equipoise.penalties import PENALTIES, LogitRange

CLASSES, TILE = 21, 8  # three tiles, the last of them ragged
ROWS = 14
INF = torch.inf
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def work(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def logits(dtype: torch.dtype, spread: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return rows of every kind and targets, apart in memory, with enormous logits in between."""
    z = torch.randn(ROWS, CLASSES, dtype=torch.float64)
    y = (torch.arange(ROWS) * 5) % CLASSES
    z[1, y[1]] = spread  # a target far above the rest
    z[2, (y[2] + 1) % CLASSES] = spread  # and one far below
    z[3, [2, 9, 10, 19]] = 4.0  # the largest in three tiles
    z[4, ::3] = -INF
    z[4, y[4]] = 0.5
    z[5] = -INF
    z[6, y[6]] = -INF
    z[7] = -INF
    z[7, y[7]] = 1.0
    z[8] = torch.linspace(-spread, spread, CLASSES)  # the largest moves with every tile
    z[9] = torch.linspace(spread, -spread, CLASSES)
    z[10] = 2.0
    z[11, :TILE] = -INF
    z[12, 1:] = -spread
    z[13] = (z[13] * 2).round() / 2  # ties
    wide = torch.full((ROWS, CLASSES + 9), 6e4, dtype=torch.float64)
    wide[:, 4 : 4 + CLASSES] = z
    return wide.to(device, dtype)[:, 4 : 4 + CLASSES], torch.stack((y, y.flip(0)), 1).to(device)[:, 0]


def agree(
    ours: Tensor, expected: Tensor, reach: Tensor, dtype: torch.dtype, *, relative: bool = False
) -> None:
    """Agree to 16 eps (1 + max|z|) of a dtype, which is how far a gap between logits is rounded."""
    tolerance = 16 * torch.finfo(dtype).eps * (1 + torch.where(reach.isfinite(), reach, 0.0).abs().max())
    assert ours.shape == expected.shape
    ours, expected = ours.double(), expected.double()
    least = 0.0 if relative else 1.0
    good = (
        (ours == expected)
        | (ours.isnan() & expected.isnan())
        | ((ours - expected).abs() <= tolerance * (least + expected.abs()))
    )
    assert good.all(), f"{ours[~good]} is not {expected[~good]}"


def grads(group: Group, like: Tensor) -> list[Tensor | None]:
    """Return a factor for each statistic and row."""
    count = len(group.stats) * len(like)
    numbers = torch.linspace(-1.0, 1.5, count, dtype=work(like.dtype), device=like.device)
    return list(numbers.reshape(len(group.stats), -1))


def check(group: Group, z: Tensor, y: Tensor, open_block: Callable[..., Any]) -> None:
    """Values and slopes of whole rows are those of a tile."""
    tile = Tile(z.to(work(z.dtype)), y, apart=group.apart)
    states = group.of(tile)
    block = open_block(group, z, y if group.reads_target else None)
    ours = block.states()
    for state, expected in zip(ours, states, strict=True):
        assert all(number.dtype == tile.block.dtype for number in state)
        assert len(state) == len(expected)
    for stat, value, expected in zip(group.stats, group.values(ours), group.values(states), strict=True):
        agree(value, expected, z, tile.block.dtype, relative=isinstance(stat, RELATIVE))
    slope = group.slope(ours, grads(group, z), y)
    expected = group.slope(states, grads(group, z), y).spread(tile)
    written = torch.empty_like(tile.block, memory_format=torch.contiguous_format)
    block.write(slope, written)
    agree(written, expected, z, tile.block.dtype)
    assert (written[z == -INF] == 0).all(), "the slope of a masked class is not 0"


def row_groups() -> dict[tuple[Stat, ...], list[str]]:
    """Return what the losses and penalties of rows ask, and which of them ask it."""
    found: dict[tuple[Stat, ...], list[str]] = {}
    weight = torch.linspace(0.5, 2.0, TEST_CLASSES, dtype=torch.float64)
    for entry in LOSSES + PENALTIES:
        for loss in entry.at:
            if isinstance(loss, RowLoss):
                like = torch.empty(0, dtype=torch.float64)
                asked = needs(loss, TEST_CLASSES, like)
                stats = asked.stats or needs(loss, TEST_CLASSES, like, weight).stats
                assert stats or asked.whole, loss
                found.setdefault(tuple(dict.fromkeys(stats)), []).append(entry.name)
    found.pop((), None)
    return found


ROW_GROUPS = [pytest.param(stats, id="-".join(dict.fromkeys(names))) for stats, names in row_groups().items()]
EVERY_KIND = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


class BlockTests:
    """What a backend must get right; it says where it is and what opens a block."""

    device: ClassVar[torch.device] = torch.device("cpu")
    backend: ClassVar[str]
    open: ClassVar[Callable[..., Any]]

    def logits(self, dtype: torch.dtype = torch.float64, spread: float = 300.0) -> tuple[Tensor, Tensor]:
        return logits(dtype, spread, self.device)

    def everything(self, dtype: torch.dtype = torch.float64, classes: int = CLASSES) -> Group:
        """Return a group of every kind of statistic."""
        return self.group((kind.make(classes) for kind in KINDS), dtype)

    def group(self, stats: Iterable[Stat], dtype: torch.dtype = torch.float64) -> Group:
        """Return a group of statistics, with soft targets of a dtype."""
        return Group(
            tuple(
                ExpectedLogProb(stat.rows.to(self.device, dtype))
                if isinstance(stat, ExpectedLogProb)
                else stat
                for stat in stats
            )
        )

    def check(self, group: Group, z: Tensor, y: Tensor) -> None:
        check(group, z, y, self.open)

    @EVERY_KIND
    def test_a_statistic_alone(self, kind) -> None:
        (stat,) = (stat for stat, known in zip(self.everything().stats, KINDS, strict=True) if known is kind)
        self.check(Group((stat,)), *self.logits())

    @pytest.mark.parametrize("stats", ROW_GROUPS)
    def test_what_a_loss_asks(self, stats: tuple[Stat, ...]) -> None:
        z, y = self.logits()
        self.check(self.group(stats), z[:, :TEST_CLASSES], y % TEST_CLASSES)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_everything_together(self, dtype: torch.dtype) -> None:
        self.check(self.everything(work(dtype)), *self.logits(dtype))

    @pytest.mark.parametrize("classes", [1, 2, TILE, TILE + 1])
    def test_few_classes(self, classes: int) -> None:
        z = torch.randn(3, classes, dtype=torch.float64, device=self.device)
        self.check(self.everything(classes=classes), z, torch.tensor([0, classes - 1, 0], device=self.device))

    def test_no_rows(self) -> None:
        z, y = self.logits()
        block = self.open(self.everything(), z[:0], y[:0])
        assert all(len(value) == 0 for value in block.group.values(block.states()))
        block.write(self.everything().slope(block.states(), grads(block.group, z[:0]), y[:0]), z[:0])

    @pytest.mark.parametrize("cuts", [(0, 9, 10, CLASSES)])
    def test_runs_of_classes(self, cuts: Sequence[int]) -> None:
        z, y = self.logits()
        group = self.everything()
        blocks = [self.open(group, z[:, start:stop], y, start) for start, stop in pairwise(cuts)]
        states = reduce(
            group.merge,
            [block.states() for block in blocks],
        )
        tile = Tile(z, y, apart=True)
        for value, expected in zip(group.values(states), group.values(group.of(tile)), strict=True):
            agree(value, expected, z, z.dtype)
        slope = group.slope(states, grads(group, z), y)
        written = torch.empty_like(z)
        for block, (start, stop) in zip(blocks, pairwise(cuts), strict=True):
            block.write(slope, written[:, start:stop])
        agree(written, group.slope(group.of(tile), grads(group, z), y).spread(tile), z, z.dtype)

    @pytest.mark.parametrize(("dtype", "cap"), [(torch.float64, 30.0), (torch.float32, 2.3)])
    def test_soft_cap(self, dtype: torch.dtype, cap: float) -> None:
        z, y = self.logits(dtype, spread=15 * cap)
        group = self.everything(work(dtype))
        leaf = z.double().requires_grad_()
        exact = self.everything()
        values = ask_all(exact.stats, cap * torch.tanh(leaf / cap), y)
        block = self.open(group, z, y, softcap=cap)
        states = block.states()
        for value, stat in zip(group.values(states), exact.stats, strict=True):
            agree(value, values[stat], leaf.detach().clamp(-cap, cap), dtype)
        total = sum(
            (grad * values[stat]).sum() for grad, stat in zip(grads(exact, leaf), exact.stats, strict=True)
        )
        (expected,) = torch.autograd.grad(total, leaf)
        written = torch.empty_like(z)
        block.write(group.slope(states, grads(group, z), y), written)
        agree(written, expected, leaf.detach().clamp(-cap, cap), dtype)
        assert (written[z == -INF] == 0).all()

    def test_a_soft_cap_keeps_the_digits_of_small_logits(self) -> None:
        z = torch.logspace(-9, 1, 12, dtype=torch.float64, device=self.device)[:, None]
        z = torch.cat((z, -z))
        for dtype in (torch.float64, torch.float32):
            for cap in (1.0, 30.0):
                group = Group((MeanLogit(),))
                (total, _), _ = self.open(group, z.to(dtype), None, softcap=cap).states()
                expected = cap * torch.tanh(z.to(dtype).double()[:, 0] / cap)
                torch.testing.assert_close(total.double(), expected, rtol=16 * torch.finfo(dtype).eps, atol=0)

    @pytest.mark.parametrize(
        ("dtype", "cap"), [(torch.float32, None), (torch.float32, 30.0), (torch.bfloat16, None)]
    )
    def test_the_slope_in_place(self, dtype: torch.dtype, cap: float | None) -> None:
        z, y = self.logits(dtype)
        group = Group((LogOdds(0.5), *self.everything(work(dtype)).stats[9:]))
        block = self.open(group, z, y, softcap=cap)
        slope = block.group.slope(block.states(), grads(block.group, z), y)
        beside = torch.empty_like(z)
        block.write(slope, beside)
        block.write(slope, z)
        assert torch.equal(z, beside)
        base = z._base
        assert base is not None
        assert (base[:, :4] == torch.tensor(6e4, dtype=dtype)).all()
        assert (base[:, 4 + CLASSES :] == torch.tensor(6e4, dtype=dtype)).all()

    def test_a_slope_by_hand(self) -> None:
        z, y = self.logits()
        a, b, d, m, own = torch.randn(5, ROWS, dtype=torch.float64, device=self.device)
        tile = Tile(z, y, apart=True)
        soft = soft_rows(CLASSES, CLASSES).to(self.device)
        for slope in (
            Slope(),
            Slope(level=d),
            Slope(tile.top, gap=b),
            Slope(tile.top, {0.3: a, 1.0: b, 2.0: d}, own=own),
            Slope(tile.top, {2.0: a}, gap=b, own=own),
            Slope(
                marks=((z[:, 3].clamp(min=-400), m), (z[:, 5].clamp(min=-400), a)),
                soft=((soft, a), (soft[0], b)),
                own=own,
            ),
        ):
            whole = tile if slope.own is not None else Tile(z, y)
            if slope.top is not None and slope.own is None:
                slope = replace(slope, top=whole.top)
            written = torch.empty_like(z)
            self.open(Group((LogOdds(),)), z, y).write(slope, written)
            agree(written, slope.spread(whole), z, z.dtype)

    def test_a_slope_that_is_a_little_wrong_is_found(self) -> None:
        z, y = self.logits(spread=30.0)
        group = self.everything()
        tile = Tile(z, y, apart=True)
        slope = group.slope(group.of(tile), grads(group, z), y)
        written = torch.empty_like(z)
        block = self.open(group, z, y)
        assert slope.gap is not None
        assert slope.level is not None
        for wrong in (
            replace(slope, powers={scale: a * (1 + 1e-9) for scale, a in slope.powers.items()}),
            replace(slope, gap=slope.gap * (1 + 1e-9)),
            replace(slope, level=slope.level + 1e-9),
            replace(slope, marks=slope.marks[1:]),
            replace(slope, soft=slope.soft[1:]),
        ):
            block.write(wrong, written)
            with pytest.raises(AssertionError, match="is not"):
                agree(written, slope.spread(tile), z, z.dtype)

    @pytest.mark.parametrize("places", [[1], [CLASSES - 1], [4], list(range(CLASSES))])
    @pytest.mark.parametrize("bad", [torch.nan, INF, -INF])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_what_is_not_finite_is_not_hidden(
        self, bad: float, places: list[int], dtype: torch.dtype
    ) -> None:
        z = torch.randn(3, CLASSES, device=self.device).to(dtype)
        y = torch.tensor([3, 4, 5], device=self.device)
        z[1, places] = bad
        every = self.everything(work(dtype))
        alone = every.stats if dtype == torch.float32 else ()
        for group in (*(Group((stat,)) for stat in alone), every):
            states = self.open(group, z.clone(), y).states()
            usable = [True, bad == -INF and len(places) == 1, True]
            assert group.usable(states).tolist() == usable
            for value in group.values(states):
                assert value.isfinite().tolist() == usable

    def test_a_row_of_the_least_number_there_is(self) -> None:
        least = torch.finfo(torch.float32).min  # masks of other libraries
        z = torch.randn(3, CLASSES, device=self.device)
        z[0], z[1, :TILE], z[2, 3] = least, least, least
        y = torch.tensor([3, TILE, 3], device=self.device)
        group = Group((LogSumExp(), Entropy(), Largest()))
        block = self.open(group, z, y)
        values = group.values(block.states())
        assert all(value.isfinite().all() for value in values)
        torch.testing.assert_close(values[1][0].item(), torch.tensor(CLASSES).log().item())
        slope = group.slope(block.states(), grads(group, z), y)
        block.write(slope, z)
        assert z.isfinite().all()

    def test_what_is_asked_is_noted_once_for_a_group(self) -> None:
        group = Group((LogOdds(), Entropy()))
        first = sums.tried(group, self.device)
        assert sums.tried(Group((LogOdds(), Entropy())), self.device) is first
        assert set(first[0]) == {"top", "ties", "spread", ("smaller", 1.0), ("total", 1.0)}
        before = len(sums._tried)
        del group
        assert len(sums._tried) == before - 1

    @pytest.mark.parametrize("reduction", ["mean", "none"])
    @pytest.mark.parametrize("softcap", [None, 2.0])
    def test_a_fused_loss_is_that_of_plain_torch(self, reduction: str, softcap: float | None) -> None:
        loss = CrossEntropy(label_smoothing=0.1) - 0.1 * penalties.Entropy() + LogitRange(width=1.0)
        hidden = torch.randn(5, 3, dtype=torch.float64, device=self.device, requires_grad=True)
        weight = torch.randn(37, 3, dtype=torch.float64, device=self.device, requires_grad=True)
        target = torch.randint(37, (5,), device=self.device)
        found = []
        for backend in (self.backend, "torch"):
            options: dict[str, Any] = {"softcap": softcap, "block_bytes": 8 * 37 * 2, "backend": backend}
            fused = loss.linear(hidden, weight, target, reduction=reduction, **options)
            found.append((fused, *torch.autograd.grad(fused.square().sum(), (hidden, weight))))
        for ours, theirs in zip(*found, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)

    def test_rows_answer_everything(self) -> None:
        hidden, weight = torch.randn(5, 3, device=self.device), torch.randn(37, 3, device=self.device)
        target = torch.randint(37, (5,), device=self.device)
        ours, theirs = (
            linear.row_statistics(hidden, weight, target, backend=b) for b in (self.backend, "torch")
        )
        for stat in linear.STATS:
            torch.testing.assert_close(ours.ask(stat), theirs.ask(stat))
        assert ours.rank.max() > 0

    @pytest.mark.parametrize("bad", [torch.nan, INF])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    def test_a_bad_row_through_a_whole_loss(self, bad: float, dtype: torch.dtype) -> None:
        for loss in (CrossEntropy(0.1), CrossEntropy() + 0.1 * LogitRange(width=1.0)):
            for order in ({"reduction": "none"}, {"reduction": "sum"}):
                hidden = torch.randn(4, 3, device=self.device).to(dtype)
                hidden[1, 0] = bad
                weight = (torch.rand(CLASSES, 3, device=self.device) + 0.1).to(dtype)
                target = torch.arange(4, device=self.device)
                leaf = hidden.requires_grad_()
                losses = loss.linear(leaf, weight, target, backend=self.backend, **order)
                (grad,) = torch.autograd.grad(losses.sum(), leaf)
                assert losses.isfinite().tolist() in (False, [True, False, True, True])
                assert grad[1].isnan().all()
                assert grad[[0, 2, 3]].isfinite().all()
