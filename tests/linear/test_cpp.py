"""The compiled kernels give what `Tile` gives, and their exponential every digit."""

import platform
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from equipoise.stats import (
    Entropy,
    ExpectedLogProb,
    Group,
    Largest,
    LogOdds,
    LogSumExp,
    MeanLogit,
    Slope,
    Smallest,
    ask_all,
    kernels,
)
from equipoise.stats.cpp import CppBlock
from hypothesis import given, settings
from test_rows import Sample, samples
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from block_checks import CLASSES, DTYPES, INF, ROWS, TILE, BlockTests, agree, check, grads, work
from equipoise.losses import CrossEntropy

if not kernels.available():
    pytest.skip("the kernels were not compiled when the package was installed", allow_module_level=True)

SOURCE = Path(str(kernels.__file__)).with_name("kernels.cpp")
NEEDS_COMPILER = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
CHUNK = 2048  # classes that the kernels work on at a time
WIDE = 2 * CHUNK + 901  # three chunks, the last of them ragged


class TestKernels(BlockTests):
    backend = "cpp"
    open = CppBlock


def compiled(folder: Path, old: str = "", new: str = "", *options: str, name: str = "planted") -> Any:
    """Return the kernels with short chunks, and with something replaced."""
    sources = {path.name: path.read_text() for path in SOURCE.parent.glob("*.[ch]*")}
    for before, after in ((f"CHUNK = {CHUNK}", f"CHUNK = {TILE}"), (old, new)):
        assert any(before in source for source in sources.values())
        sources = {file: s.replace(before, after) if before else s for file, s in sources.items()}
    for file, source in sources.items():
        (folder / file).write_text(source)
    path = (folder / SOURCE.name).rename(folder / f"{name}.cpp")
    common = ["-std=c++17", "-fPIC", "-fopenmp", "-I", folder]
    subprocess.run(["g++", *common, *options, "-c", path, "-o", path.with_suffix(".o")], check=True)
    subprocess.run(["g++", "-shared", path.with_suffix(".o"), "-o", path.with_suffix(".so")], check=True)
    return kernels.load(path.with_suffix(".so"))


@pytest.fixture(scope="module")
def short_chunks(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return compiled(tmp_path_factory.mktemp("short"))


@NEEDS_COMPILER
class TestShortChunks(BlockTests):
    backend = "cpp"
    open = CppBlock

    @pytest.fixture(autouse=True)
    def _short_chunks(self, short_chunks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(kernels, "library", lambda: short_chunks)


FAULTS = {
    "the tail is read": ("min(CHUNK, width - at)", "min(CHUNK, width + 3 - at)"),
    "the largest of the last chunk is the largest": ("top = std::max(top, highest);", "top = highest;"),
    "the smallest of the last chunk is the smallest": (
        "bottom = std::min(bottom, least);",
        "bottom = least;",
    ),
    "ties of the last chunk are all": ("if (k == first) ties += same;", "if (k == first) ties = same;"),
    "the target is left in": ("x[column - at] = -infinity<W>;", ";"),
    "the target is the largest": (
        "return own == highest ? largest(x, count) : highest;",
        "return highest;",
    ),
    "the second look has the target": (
        "if (width > CHUNK) read(at, count, false);",
        "load(row + at, count, cap, x, e);",
    ),
    "the second look adds to the level": ("read(at, count, false);", "read(at, count, true);"),
    "no class is masked for the level": ("if (std::isfinite(sum)) {", "if (true) {"),
    "the largest are summed": ("sum += x[c] == top ? gap : one;", "sum += one;"),
    "a scale is that of its half": ("held[c] * held[c] : power", "held[c] : power"),
    "masked classes are counted": ("there += masked ? 0 : 1;", "there += 1;"),
    "masked classes get a slope": (
        "y[c] = (kept ? std::signbit(x[c]) : x[c] == -infinity<W>) ? 0 : y[c];",
        ";",
    ),
    "the target gets the slope of the others": ("y[column - at] = number(2);", ";"),
    "one scale is used for another": ("power(scale * (x[c] - base))", "power(x[c] - base)"),
    "soft targets are those of the first chunk": (
        "soft_row<W>(block, k, r) + at;\n        const W factor",
        "soft_row<W>(block, k, r);\n        const W factor",
    ),
    "soft targets are those of another row": (
        "block.target ? block.target[r] * block.soft_strides[k] : 0;",
        "0;",
    ),
    "gaps lose their factor": ("b * (held[c] * gap_of(x[c], base))", "b * held[c]"),
}


@NEEDS_COMPILER
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = compiled(tmp_path, *FAULTS[fault])
    monkeypatch.setattr(kernels, "library", lambda: library)
    tests = TestKernels()
    with pytest.raises(AssertionError, match="is not"):
        check(tests.everything(), *tests.logits(), CppBlock)


def wide(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return wide rows, with what matters in every chunk."""
    z = torch.randn(9, WIDE, dtype=torch.float64)
    y = torch.tensor([0, CHUNK - 1, CHUNK, 2 * CHUNK - 1, 2 * CHUNK, WIDE - 1, 5, 3000, 4500])
    z[0, [7, 3000, WIDE - 1]] = 9.0  # the largest in three chunks
    z[1, [CHUNK - 1, CHUNK]] = -9.0  # the smallest in two
    z[2, 4500] = 40.0
    z[3, 3] = 40.0
    z[4, 3000] = 40.0
    z[5, CHUNK : 2 * CHUNK] = -INF
    z[6, :CHUNK] = -INF
    z[7] = -INF
    z[7, [3000, 4500]] = 1.0
    z[8, 2 * CHUNK :] = -INF
    return z.to(dtype), y


@pytest.mark.parametrize("dtype", DTYPES)
def test_wide_rows(dtype: torch.dtype) -> None:
    z, y = wide(dtype)
    check(TestKernels().everything(work(dtype), WIDE), z, y, CppBlock)


@settings(max_examples=60)
@given(samples())
def test_rows_of_any_kind(sample: Sample) -> None:
    check(TestKernels().everything(classes=sample.classes), sample.logits, sample.target, CppBlock)


def over_threads() -> list[list[Tensor]]:
    """Return what one thread computes, and two."""
    z, y = torch.randn(1000, 37), torch.randint(37, (1000,))
    group, found = TestKernels().everything(torch.float32, 37), []
    for threads in (1, 2):
        block, out = CppBlock(group, z, y), torch.empty_like(z)
        torch.set_num_threads(threads)
        try:
            states = block.states()
            block.write(group.slope(states, grads(group, z), y), out)
        finally:
            torch.set_num_threads(1)
        found.append([*group.flat(states), out])
    return found


def test_rows_over_two_threads() -> None:
    assert all(map(torch.equal, *over_threads()))


@NEEDS_COMPILER
def test_a_thread_that_does_nothing_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = compiled(tmp_path, "count * (part + 1) / parts", "count / parts")
    monkeypatch.setattr(kernels, "library", lambda: library)
    assert not any(map(torch.equal, *over_threads()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cap", [2.5, 30.0])
def test_the_extremes_are_found_again_under_a_soft_cap(dtype: torch.dtype, cap: float) -> None:
    group = Group((Largest(), Smallest()))
    for width in (7, 33, 500, CHUNK + 5):  # vectors of classes, and what remains
        z = 2 * torch.randn(50, width, dtype=dtype)
        block, written = CppBlock(group, z, None, softcap=cap), torch.empty_like(z)
        ones = torch.ones(len(z), dtype=dtype)
        block.write(group.slope(block.states(), [ones, -ones], None), written)
        assert ((written > 0) == (z == z.amax(1, keepdim=True))).all()
        assert ((written < 0) == (z == z.amin(1, keepdim=True))).all()


KEPT_FAULTS = {
    "a kept exponential is used as it is": ("into[c] = a * from[c];", "into[c] = from[c];"),
    "masked classes get a level": ("std::signbit(from[c]) ? 0 : level", "false ? 0 : level"),
    "masked classes are not marked": ("marks && x[c] == -infinity<W>", "false"),
    "the level is lost": ("? 0 : level + a * from[c]", "? 0 : a * from[c]"),
    "a square is no square": ("sum += to[c] = held[c] * held[c];", "sum += to[c] = held[c];"),
}
LIGHT = {
    "log odds": Group((LogOdds(),)),
    "log odds at half": Group((LogOdds(0.5),)),
    "log sum": Group((LogSumExp(),)),
    "both at two": Group((LogOdds(2.0), LogSumExp(2.0))),
    "and a level": Group((LogOdds(), LogSumExp(), MeanLogit())),
    "and squares": Group((LogOdds(2.0), LogOdds())),
    "three scales": Group((LogSumExp(0.5), LogOdds(2.0), LogSumExp(), MeanLogit())),
}


def keep(group: Group, z: Tensor, y: Tensor) -> None:
    """Slopes of exponentials that were kept are those of logits."""
    before = z.clone()
    plain, block = CppBlock(group, before, y), CppBlock(group, z, y, spare=True)
    states = block.states()
    assert all(map(torch.equal, group.flat(states), group.flat(plain.states())))
    assert not torch.equal(z, before)
    slope = group.slope(states, grads(group, z), y)
    assert slope.top is not None
    for one in (replace(slope, top=slope.top + 0.5), slope):
        expected, beside = torch.empty_like(before), torch.empty_like(before)
        plain.write(one, expected)
        block.write(one, beside)
        agree(beside, expected, before, z.dtype)
        assert (beside[before == -INF] == 0).all(), "masked is not 0"
    block.write(slope, z)
    assert torch.equal(z, beside)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("group", LIGHT.values(), ids=LIGHT)
def test_what_is_kept_is_what_would_be_made_again(group: Group, dtype: torch.dtype) -> None:
    for z, y in (TestKernels().logits(dtype, spread=30.0), wide(dtype)):
        keep(group, z, y)


def failures(run: Callable[[Group], None], groups: Iterable[Group]) -> list[str]:
    """Return what the assertions say that do not hold, a group each."""
    found = []
    for group in groups:
        try:
            run(group)
        except AssertionError as error:
            found.append(str(error))
    return found


SPREAD_FAULTS = {
    "masked classes get a slope": ("to[c] = x[c] == -infinity<W> ? 0 : one;", "to[c] = one;"),
    "the level is lost": ("const W one = level + power(unit", "const W one = power(unit"),
    "the scale is lost": ("power(unit ? gap : scale * gap)", "power(gap)"),
    "the gap is lost": ("(flat ? a : a + b * gap)", "a"),
    "another scale is one": ("} else if (scale == 1) {", "} else if (scale > 0) {"),
    "a gap is none": ("scale == 1 && b == 0", "scale == 1"),
}


@NEEDS_COMPILER
@pytest.mark.parametrize("fault", SPREAD_FAULTS)
def test_a_fault_in_the_slope_at_one_scale_is_found(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = [*LIGHT.values(), Group((Entropy(),)), Group((LogSumExp(), MeanLogit()))]

    def run(group: Group) -> None:
        check(group, *TestKernels().logits(), CppBlock)

    assert not failures(run, groups)
    library = compiled(tmp_path, *SPREAD_FAULTS[fault])
    monkeypatch.setattr(kernels, "library", lambda: library)
    assert failures(run, groups)


@NEEDS_COMPILER
@pytest.mark.parametrize("fault", KEPT_FAULTS)
def test_a_fault_in_what_is_kept_is_found(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = compiled(tmp_path, *KEPT_FAULTS[fault])
    monkeypatch.setattr(kernels, "library", lambda: library)
    found = failures(
        lambda group: keep(group, *TestKernels().logits(torch.float64, spread=30.0)), LIGHT.values()
    )
    assert found
    assert all("is not" in error for error in found)


def test_a_soft_target_with_what_is_kept() -> None:
    for rows in (torch.rand(CLASSES), torch.rand(CLASSES, CLASSES)):
        group = Group((ExpectedLogProb(rows), LogOdds()))
        z, y = torch.randn(6, CLASSES), torch.randint(CLASSES, (6,))
        z[:, 4] = -INF
        block, plain = CppBlock(group, z.clone(), y, spare=True), CppBlock(group, z, y)
        slope = group.slope(block.states(), grads(group, z), y)
        ours, theirs = torch.empty_like(z), torch.empty_like(z)
        block.write(slope, ours)
        plain.write(slope, theirs)
        agree(ours, theirs, z, z.dtype)
        assert (ours[:, 4] == 0).all()


def test_only_what_may_be_overwritten_and_can_be_is() -> None:
    z, y = torch.randn(3, 5), torch.tensor([0, 1, 2])
    light = LIGHT["log odds"]
    half = z.bfloat16()
    CppBlock(light, half, y, spare=True).states()  # a slope would be rounded twice
    assert torch.equal(half, z.bfloat16())
    for group, options in (
        (light, {}),
        (light, {"spare": True, "start": 0}),
        (light, {"spare": True, "softcap": 3.0}),
        (Group((LogOdds(), Entropy())), {"spare": True}),
        (Group((LogOdds(), Largest())), {"spare": True}),
        (Group((LogOdds(), LogOdds(3.0))), {"spare": True}),
        (Group((MeanLogit(),)), {"spare": True}),
    ):
        block = z.clone()
        CppBlock(group, block, y, **options).states()
        assert torch.equal(block, z)
    CppBlock(light, z, y, spare=True).states()
    assert (z.gather(1, y[:, None]) == 0).all()
    assert (z.amax(1) == 1).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("spare", [False, True])
def test_pieces_of_rows_are_the_whole(dtype: torch.dtype, spare: bool) -> None:
    tests = TestKernels()
    for group in (LIGHT["log odds"], tests.everything(work(dtype))):
        z, y = tests.logits(dtype, spread=30.0)
        whole, parts = CppBlock(group, z.clone(), y, spare=spare), CppBlock(group, z.clone(), y, spare=spare)
        pieces = [slice(0, 5), slice(5, 6), slice(6, ROWS)]
        for piece in reversed(pieces):
            parts.read(piece)
        states = whole.states()
        assert all(map(torch.equal, group.flat(states), group.flat(parts.states())))
        slope, out = group.slope(states, grads(group, z), y), torch.empty_like(z)
        whole.write(slope, whole.z)
        write = parts.writer(slope)
        for piece in reversed(pieces):
            write(piece, out[piece])
        assert torch.equal(out, whole.z)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("threads", [1, 2])
def test_half_precision_is_added_in_single(dtype: torch.dtype, threads: int) -> None:
    torch.set_num_threads(threads)
    try:
        numbers, total = torch.randn(300, 301).to(dtype), torch.full((300, 301), torch.nan)
        kernels.add(numbers, total, begin=True)
        assert torch.equal(total, numbers.float())
        more = torch.randn(300, 301).to(dtype)
        kernels.add(more, total, begin=False)
        assert torch.equal(total, numbers.float() + more.float())
        assert not torch.equal(total, (numbers + more).float())
    finally:
        torch.set_num_threads(1)


def test_lanes_are_threads_that_record_nothing() -> None:
    seen: dict[int, tuple[int, bool]] = {}

    def note(lane: int) -> None:
        seen[lane] = threading.get_ident(), torch.is_grad_enabled()

    kernels.in_lanes(3, note)
    assert sorted(seen) == [0, 1, 2]
    assert len({thread for thread, _ in seen.values()}) == 3
    assert not any(recording for _, recording in seen.values())
    assert torch.is_grad_enabled()


def test_lanes_are_one_thread_where_a_mode_looks_on() -> None:
    seen: list[int] = []

    def work(lane: int) -> None:
        seen.extend((lane, threading.get_ident()))
        torch.mm(torch.ones(2, 3), torch.ones(3, 4))

    with FlopCounterMode(display=False) as counter:
        kernels.in_lanes(2, work)
    assert seen == [0, threading.get_ident(), 1, threading.get_ident()]
    assert counter.get_total_flops() == 2 * (2 * 2 * 3 * 4)


def test_what_fails_in_a_lane_is_raised_when_all_have_ended() -> None:
    ended = []

    def work(lane: int) -> None:
        if lane == 0:
            raise KeyError("lane 0")
        ended.append(lane)

    with pytest.raises(KeyError, match="lane 0"):
        kernels.in_lanes(2, work)
    assert ended == [1]


def test_nothing_that_is_needed_gives_a_slope_of_nothing() -> None:
    z, y = TestKernels().logits()
    block = CppBlock(LIGHT["log sum"], z, y, spare=True)
    block.states()
    block.write(Slope(), z)
    assert (z == 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_logits_and_targets_anywhere_in_memory(dtype: torch.dtype) -> None:
    z, y = TestKernels().logits(dtype)
    turned = z.t().contiguous().t()
    assert turned.stride() == (1, ROWS)
    group = TestKernels().everything(work(dtype))
    for logits in (turned, z[::2], z[:1].expand(4, -1)):
        check(group, logits, y[: len(logits)], CppBlock)
    numbers = group.flat(CppBlock(group, z, y).states())
    assert all(map(torch.equal, numbers, group.flat(CppBlock(group, z, y.int()).states())))


def test_dense_logits_that_are_turned_have_a_gradient_of_their_own() -> None:
    z, y = torch.randn(6, 5, dtype=torch.float64), torch.randint(5, (6,))
    loss = CrossEntropy(label_smoothing=0.1)
    turned, straight = z.t().contiguous().t().requires_grad_(), z.clone().requires_grad_()
    for leaf in (turned, straight):
        loss(leaf, y).backward()
    torch.testing.assert_close(turned.grad, straight.grad, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_slope_is_rounded_once(dtype: torch.dtype) -> None:
    tests = TestKernels()
    z, y = tests.logits(dtype)
    group = tests.everything(torch.float32)
    block = CppBlock(group, z, y)
    slope = group.slope(block.states(), grads(group, z), y)
    exact, rounded = torch.empty(z.shape, dtype=torch.float32), torch.empty_like(z)
    block.write(slope, exact)
    block.write(slope, rounded)
    assert torch.equal(rounded, exact.to(dtype))


def test_rounding_to_half_precision_is_torchs() -> None:
    bits = torch.cat((torch.arange(0, 2**31, 99_991), torch.tensor([0x7F7FFFFF, 0x7F800000, 0x7F800001])))
    values = bits.to(torch.int32).view(torch.float32)
    values = torch.cat((values, -values))[:, None]
    for dtype in (torch.bfloat16, torch.float16):
        out = torch.empty_like(values, dtype=dtype)
        block = CppBlock(LIGHT["log sum"], torch.zeros_like(out), None)
        block.write(Slope(level=values[:, 0]), out)
        torch.testing.assert_close(out, values.to(dtype), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("stat", [Largest(), Smallest(), MeanLogit(), LogSumExp(), Entropy()], ids=repr)
@pytest.mark.parametrize("place", [0, CHUNK + 40])
def test_a_statistic_alone_does_not_hide_a_nan(stat: Any, place: int) -> None:
    z = torch.randn(2, CHUNK + 50)
    z[1, place] = torch.nan
    (value,) = Group((stat,)).values(CppBlock(Group((stat,)), z, None).states())
    assert value.isnan().tolist() == [False, True]
    assert ask_all([stat], z, None)[stat].isnan().tolist() == [False, True]


@pytest.mark.parametrize("wrong", [-100, -1, CLASSES, 2**40])
def test_a_class_that_is_not_there_is_refused(wrong: int) -> None:
    tests = TestKernels()
    z, y = tests.logits()
    y[3] = wrong
    for spare in (False, True):
        for group in (LIGHT["log odds"], tests.everything()):
            with pytest.raises(
                ValueError, match=rf"target must be in \[0, 21\), got {wrong}; leave such rows out"
            ):
                CppBlock(group, z, y, spare=spare).states()


def exponentials(gaps: Tensor) -> Tensor:
    """Return e^gap as the kernels have it."""
    out = torch.empty_like(gaps)
    nothing, one = gaps.new_zeros(len(gaps)), gaps.new_ones(len(gaps))
    CppBlock(LIGHT["log sum"], gaps, None).write(Slope(nothing, {1.0: one}), out)
    return out


def roundings(dtype: torch.dtype) -> float:
    """Return by how many eps an exponential is off at worst, beside what the logarithm of 2 takes."""
    lowest = -87.3 if dtype == torch.float32 else -708.3
    steps = torch.linspace(lowest, 0, 400_001, dtype=torch.float64)
    gaps = torch.cat((steps[1:], -torch.logspace(-20, 1, 100_000, dtype=torch.float64)))[None].to(dtype)
    off = np.abs(exponentials(gaps).numpy() / np.exp(gaps.numpy().astype(np.longdouble)) - 1)
    if dtype == torch.float32:  # that logarithm is one number, and its own rounding is multiplied by the gap
        log_two = np.log(np.longdouble(2))
        off += np.abs(np.float32(log_two) / log_two - 1) * gaps.numpy()
    return float(off.max()) / torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_exponential_is_good_to_one_rounding(dtype: torch.dtype) -> None:
    assert roundings(dtype) < 1
    assert exponentials(torch.tensor([[0.0, -0.0]], dtype=dtype)).tolist() == [[1.0, 1.0]]


@NEEDS_COMPILER
def test_a_wrong_digit_in_the_exponential_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for old, new in (("1.6666519642e-1f", "1.6668e-1f"), ("1.984126984126984e-4", "1.984127e-4")):
        library = compiled(tmp_path, old, new, "-O2", "-march=native", name=f"power{len(found)}")
        monkeypatch.setattr(kernels, "library", lambda library=library: library)
        found.append([roundings(dtype) < 1 for dtype in (torch.float32, torch.float64)])
    assert found == [[False, True], [True, False]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_exponential_below_the_smallest_normal_number_is_zero(dtype: torch.dtype) -> None:
    least = torch.tensor(torch.finfo(dtype).tiny, dtype=torch.float64).log()
    below = torch.tensor([[least - 1e-4, 1.2 * least, -torch.finfo(dtype).max, -INF]], dtype=dtype)
    assert (exponentials(below) == 0).all()
    assert (exponentials((least + 0.1).to(dtype)[None, None]) > 0).all()
    assert exponentials(torch.tensor([[torch.nan]], dtype=dtype)).isnan().all()


def test_kernels_that_do_not_load_are_said_to_and_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in ("avx512", "avx2", platform.machine()):
        (tmp_path / f"kernels.{kind}.so").write_text("no library")
    monkeypatch.setattr(kernels, "__file__", str(tmp_path / "kernels.py"))
    with pytest.warns(RuntimeWarning, match=r"do not load, losses run in plain torch: .*kernels\."):
        assert kernels.library.__wrapped__() is None
