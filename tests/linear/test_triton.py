"""The Triton kernels give what `Tile` gives: in Triton's interpreter, or on a GPU where there is one.

The interpreter must be asked for before triton is imported, and then holds for the whole process, so the
tests of the kernels run in a process of their own.
"""

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import equipoise.linear.triton as kernels
from equipoise import linear, penalties
from equipoise.linear.triton import TritonBlock, available
from equipoise.losses import LOSSES, CrossEntropy, RowLoss
from equipoise.losses.costs import TEST_CLASSES
from equipoise.penalties import PENALTIES, LogitRange
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

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu")
HERE = available(DEVICE)

CLASSES, TILE = 21, 8  # three tiles, the last of them ragged
ROWS = 14
INF = torch.inf
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def everything(dtype: torch.dtype = torch.float64, classes: int = CLASSES) -> Group:
    """Return a group of every kind of statistic."""
    stats = [kind.make(classes) for kind in KINDS]
    return Group(
        tuple(
            ExpectedLogProb(stat.rows.to(DEVICE, dtype)) if isinstance(stat, ExpectedLogProb) else stat
            for stat in stats
        )
    )


def logits(dtype: torch.dtype = torch.float64, spread: float = 300.0) -> tuple[Tensor, Tensor]:
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
    return wide.to(DEVICE, dtype)[:, 4 : 4 + CLASSES], torch.stack((y, y.flip(0)), 1).to(DEVICE)[:, 0]


def work(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def agree(
    ours: Tensor, expected: Tensor, reach: Tensor, dtype: torch.dtype, *, relative: bool = False
) -> None:
    """Agree to 16 eps (1 + max|z|) of a dtype, which is how far a gap between logits is rounded."""
    tolerance = 16 * torch.finfo(dtype).eps * (1 + torch.where(reach.isfinite(), reach, 0.0).abs().max())
    assert ours.shape == expected.shape
    ours, expected = ours.double(), expected.double()
    least = 0.0 if relative else 1.0
    good = (ours == expected) | ((ours - expected).abs() <= tolerance * (least + expected.abs()))
    assert good.all(), f"{ours[~good]} is not {expected[~good]}"


def grads(group: Group, like: Tensor) -> list[Tensor | None]:
    """Return a factor for each statistic and row."""
    numbers = torch.linspace(-1.0, 1.5, len(group.stats) * len(like), dtype=work(like.dtype), device=DEVICE)
    return list(numbers.reshape(len(group.stats), -1))


def check(group: Group, z: Tensor, y: Tensor, *, module: ModuleType = kernels) -> None:
    """Values and slopes of whole rows are those of a tile."""
    tile = Tile(z.to(work(z.dtype)), y, apart=group.apart)
    states = group.of(tile)
    block = module.TritonBlock(group, z, y if group.reads_target else None)
    ours = block.states()
    for state, expected in zip(ours, states, strict=True):
        assert all(number.dtype == tile.block.dtype for number in state)
        assert len(state) == len(expected)
    for stat, value, expected in zip(group.stats, group.values(ours), group.values(states), strict=True):
        agree(value, expected, z, tile.block.dtype, relative=isinstance(stat, RELATIVE))
    slope = group.slope(ours, grads(group, z), y)
    expected = group.slope(states, grads(group, z), y).spread(tile)
    written = torch.empty_like(tile.block)
    block.write(slope, written)
    agree(written, expected, z, tile.block.dtype)
    assert (written[z == -INF] == 0).all()


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

FAULTS = {
    "the tail is not masked": ("b_z = tl.where(m_b, b_z, -float('inf'))", "b_z = b_z"),
    "the tail is read": ("        m_b = o_b < width", "        m_b = o_b < width + 3"),
    "sums are not moved": ("smaller = b_r * (", "smaller = 1.0 * ("),
    "the former largest are lost": ("tl.where(top == higher, 0.0, ties)", "0.0"),
    "ties outlive their largest": ("ties = tl.where(top == higher, ties, 0.0)", "ties = ties"),
    "gaps are not moved": ("(b_r * drop) * (smaller + ties)", "0.0"),
    "soft gaps are not moved": ("soft_gaps -= drop * soft_sums", "soft_gaps -= 0.0"),
    "the least are not counted anew": ("lows = tl.where(lower == bottom, lows, 0.0)", "lows = lows"),
    "the target is not left out": ("b_z = tl.where(o_b == column, -float('inf'), b_z)", "b_z = b_z"),
    "masked classes get a slope": ("b_s = tl.where(m_z, 0.0, b_s)", "b_s = b_s"),
    "the target is not put in": ("tl.where(o_b == y - start, tl.load(numbers + 2 * rows), b_s)", "b_s"),
    "one scale is used for another": (
        "b_e = tl.exp(tl.load(constants + 1 + k) * b_gap)",
        "b_e = tl.exp(tl.load(constants + 1) * b_gap)",
    ),
}


def planted(path: Path, old: str, new: str) -> ModuleType:
    """Return the module with something replaced."""
    source = Path(str(kernels.__file__)).read_text()
    old, new = old.replace("'", '"'), new.replace("'", '"')
    assert old in source
    path.write_text(source.replace(old, new))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.BLOCK = TILE  # pyright: ignore[reportAttributeAccessIssue]
    return module


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of infinities in lanes that are not used
class TestKernels:
    __test__ = HERE

    @pytest.fixture(autouse=True)
    def _small_tiles(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(kernels, "BLOCK", TILE)

    @EVERY_KIND
    def test_a_statistic_alone(self, kind) -> None:
        (stat,) = (stat for stat, known in zip(everything().stats, KINDS, strict=True) if known is kind)
        check(Group((stat,)), *logits())

    @pytest.mark.parametrize("stats", ROW_GROUPS)
    def test_what_a_loss_asks(self, stats: tuple[Stat, ...], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(kernels, "BLOCK", TEST_CLASSES // 2)
        if DEVICE.type == "cuda":
            stats = tuple(
                ExpectedLogProb(stat.rows.to(DEVICE)) if isinstance(stat, ExpectedLogProb) else stat
                for stat in stats
            )
        z, y = logits()
        check(Group(stats), z[:, :TEST_CLASSES], y % TEST_CLASSES)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_everything_together(self, dtype: torch.dtype) -> None:
        check(everything(work(dtype)), *logits(dtype))

    @pytest.mark.parametrize("classes", [1, 2, TILE, TILE + 1])
    def test_few_classes(self, classes: int) -> None:
        z = torch.randn(3, classes, dtype=torch.float64, device=DEVICE)
        check(everything(classes=classes), z, torch.tensor([0, classes - 1, 0], device=DEVICE))

    def test_no_rows(self) -> None:
        z, y = logits()
        block = TritonBlock(everything(), z[:0], y[:0])
        assert all(len(value) == 0 for value in block.group.values(block.states()))
        block.write(everything().slope(block.states(), grads(block.group, z[:0]), y[:0]), z[:0])

    @pytest.mark.parametrize("fault", FAULTS)
    def test_a_fault_is_found(self, fault: str, tmp_path: Path) -> None:
        z, y = (part[[0, 3, 4, 8, 9, 12]] for part in logits())
        group = Group((LogOdds(), LogSumExp(2.0), *everything().stats[9:]))
        with pytest.raises(AssertionError, match=r"is not|== -INF"):
            check(group, z, y, module=planted(tmp_path / "planted.py", *FAULTS[fault]))

    def test_nothing_planted_is_sound(self, tmp_path: Path) -> None:
        group = Group((LogOdds(), LogSumExp(2.0), *everything().stats[9:]))
        z, y = (part[[0, 3, 4, 8, 9, 12]] for part in logits())
        check(group, z, y, module=planted(tmp_path / "planted.py", "numbers", "numbers"))

    @pytest.mark.parametrize("cuts", [(0, 9, 10, CLASSES)])
    def test_runs_of_classes(self, cuts: Sequence[int]) -> None:
        z, y = logits()
        group = everything()
        blocks = [TritonBlock(group, z[:, start:stop], y, start) for start, stop in pairwise(cuts)]
        states = reduce(
            lambda one, two: [stat.merge(a, b) for stat, a, b in zip(group.stats, one, two, strict=True)],
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
        z, y = logits(dtype, spread=15 * cap)
        group = everything(work(dtype))
        leaf = z.double().requires_grad_()
        exact = everything()
        values = ask_all(exact.stats, cap * torch.tanh(leaf / cap), y)
        block = TritonBlock(group, z, y, softcap=cap)
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
        z = torch.logspace(-9, 1, 12, dtype=torch.float64, device=DEVICE)[:, None]
        z = torch.cat((z, -z))
        for dtype in (torch.float64, torch.float32):
            for cap in (1.0, 30.0):
                group = Group((MeanLogit(),))
                ((total, _),) = TritonBlock(group, z.to(dtype), None, softcap=cap).states()
                expected = cap * torch.tanh(z.to(dtype).double()[:, 0] / cap)
                torch.testing.assert_close(total.double(), expected, rtol=16 * torch.finfo(dtype).eps, atol=0)

    @pytest.mark.parametrize("kept", [torch.float64, torch.bfloat16, torch.float16])
    def test_the_slope_in_another_dtype(self, kept: torch.dtype) -> None:
        z, y = logits(torch.float32)
        group = Group((LogOdds(0.5), *everything(torch.float32).stats[9:]))
        tile = Tile(z, y, apart=True)
        slope = group.slope(group.of(tile), grads(group, z), y)
        written = torch.empty(ROWS, CLASSES, dtype=kept, device=DEVICE)
        TritonBlock(group, z, y).write(slope, written)
        least = kept if kept in (torch.bfloat16, torch.float16) else torch.float32
        agree(written, slope.spread(tile), z / 300, least)

    @pytest.mark.parametrize(
        ("dtype", "cap"), [(torch.float32, None), (torch.float32, 30.0), (torch.bfloat16, None)]
    )
    def test_the_slope_in_place(self, dtype: torch.dtype, cap: float | None) -> None:
        z, y = logits(dtype)
        group = Group((LogOdds(0.5), *everything(work(dtype)).stats[9:]))
        block = TritonBlock(group, z, y, softcap=cap)
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
        z, y = logits()
        a, b, d, m, own = torch.randn(5, ROWS, dtype=torch.float64, device=DEVICE)
        tile = Tile(z, y, apart=True)
        soft = soft_rows(CLASSES, CLASSES).to(DEVICE)
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
            TritonBlock(Group((LogOdds(),)), z, y).write(slope, written)
            agree(written, slope.spread(whole), z, z.dtype)

    def test_a_slope_that_is_a_little_wrong_is_found(self) -> None:
        z, y = logits(spread=30.0)
        group = everything()
        tile = Tile(z, y, apart=True)
        slope = group.slope(group.of(tile), grads(group, z), y)
        written = torch.empty_like(z)
        block = TritonBlock(group, z, y)
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

    @pytest.mark.parametrize("place", [1, CLASSES - 1])
    @pytest.mark.parametrize("bad", [torch.nan, INF])
    def test_what_is_not_finite_is_not_hidden(self, bad: float, place: int) -> None:
        z = torch.randn(2, CLASSES, device=DEVICE)
        y = torch.tensor([3, 4], device=DEVICE)
        z[1, place] = bad
        group = Group((LogOdds(), Entropy()))
        block = TritonBlock(group, z, y)
        states = block.states()
        for value in group.values(states):
            assert value.isnan().tolist() == [False, True]
        block.write(group.slope(states, grads(group, z), y), z)
        assert z.isnan().any(1).tolist() == [False, True]

    def test_a_row_of_the_least_number_there_is(self) -> None:
        least = torch.finfo(torch.float32).min  # masks of other libraries
        z = torch.randn(3, CLASSES, device=DEVICE)
        z[0], z[1, :TILE], z[2, 3] = least, least, least
        y = torch.tensor([3, TILE, 3], device=DEVICE)
        group = Group((LogSumExp(), Entropy(), Largest()))
        block = TritonBlock(group, z, y)
        values = group.values(block.states())
        assert all(value.isfinite().all() for value in values)
        torch.testing.assert_close(values[1][0].item(), torch.tensor(CLASSES).log().item())
        slope = group.slope(block.states(), grads(group, z), y)
        block.write(slope, z)
        assert z.isfinite().all()

    def test_what_is_asked_is_noted_once_for_a_group(self) -> None:
        group = Group((LogOdds(), Entropy()))
        first = kernels._asked_by(group, DEVICE)
        assert kernels._asked_by(Group((LogOdds(), Entropy())), DEVICE) is first
        assert set(first) == {"top", "ties", "spread", ("smaller", 1.0)}
        before = len(kernels._asked)
        del group
        assert len(kernels._asked) == before - 1

    def test_rows_that_are_not_side_by_side_are_refused(self) -> None:
        z = torch.randn(4, 3, device=DEVICE)
        with pytest.raises(
            ValueError, match=r"z must have the classes .* got strides \(1, 3\); pass z.contig"
        ):
            TritonBlock(Group((LogSumExp(),)), z.t(), None)
        block = TritonBlock(Group((LogSumExp(),)), z, None)
        with pytest.raises(ValueError, match="out must have the classes of a row side by side"):
            block.write(Slope(), torch.empty(3, 4, device=DEVICE).t())

    @pytest.mark.parametrize("reduction", ["mean", "none"])
    @pytest.mark.parametrize("softcap", [None, 2.0])
    def test_a_fused_loss_is_that_of_plain_torch(self, reduction: str, softcap: float | None) -> None:
        loss = CrossEntropy(label_smoothing=0.1) - 0.1 * penalties.Entropy() + LogitRange(width=1.0)
        hidden = torch.randn(5, 3, dtype=torch.float64, device=DEVICE, requires_grad=True)
        weight = torch.randn(37, 3, dtype=torch.float64, device=DEVICE, requires_grad=True)
        target = torch.randint(37, (5,), device=DEVICE)
        found = []
        for backend in ("triton", "torch"):
            options: dict[str, Any] = {"softcap": softcap, "block_bytes": 8 * 37 * 2, "backend": backend}
            fused = loss.linear(hidden, weight, target, reduction=reduction, **options)
            found.append((fused, *torch.autograd.grad(fused.square().sum(), (hidden, weight))))
        for ours, theirs in zip(*found, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)

    def test_rows_answer_everything(self) -> None:
        hidden, weight = torch.randn(5, 3, device=DEVICE), torch.randn(37, 3, device=DEVICE)
        target = torch.randint(37, (5,), device=DEVICE)
        ours, theirs = (linear.rows(hidden, weight, target, backend=b) for b in ("triton", "torch"))
        for stat in linear.STATS:
            torch.testing.assert_close(ours.ask(stat), theirs.ask(stat))
        assert ours.rank.max() > 0


@pytest.mark.skipif(HERE, reason="the kernels are tested in this process")
def test_the_kernels_in_a_process_of_their_own() -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", "TestKernels"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [*command, str(Path(__file__))],
        cwd=root,
        env=kept | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"(\d+) passed", done.stdout)
    assert found is not None
    assert int(found[1]) > len(ROW_GROUPS) + len(KINDS) + len(FAULTS)


def test_where_the_kernels_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert available(torch.device("cuda"))
    assert not available(torch.device("cpu"))
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert available(torch.device("cpu"))
    monkeypatch.setattr(kernels, "find_spec", lambda name: None)
    assert not available(torch.device("cuda"))


def test_the_module_can_do_without_triton() -> None:
    program = (
        "import sys, torch\n"
        "sys.modules['triton'] = None\n"
        "from equipoise.linear.triton import available\n"
        "print(available(torch.device('cuda')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
