"""The CPU kernel: which rows count and by how much, blocks of classes, threads, and what no row may do."""

import ctypes
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from equipoise.kernels import cpu
from support.kernel_calls import (
    NAMES,
    Compiled,
    Rows,
    combination,
    expected_gradient,
    gradient,
    losses,
    losses_and_gradient,
    states,
    states_in_torch,
)

pytestmark = pytest.mark.skipif(not cpu.available(), reason="the kernel was not compiled")

FACTORS = {
    "target_logit": -0.7,
    "max_exp0": 0.9,
    "rest_exp0": 1.3,
    "rest_gap": 0.2,
    "min_exp": 0.4,
    "sum_logit": 0.1,
}
WIDTHS = (3, 10, 40, 2100)
DTYPES = (torch.float64, torch.float32, torch.bfloat16)


def some_rows(classes: int, dtype: torch.dtype = torch.float32, count: int = 150, **options: object) -> Rows:
    z = (3 * torch.randn(count, classes)).to(dtype)
    return Rows(z, torch.randint(classes, (count,)), **options)  # type: ignore[arg-type]


def same(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> bool:
    return torch.allclose(actual.double(), expected.double(), rtol=tolerance, atol=tolerance, equal_nan=True)


def size_of_terms(rows: Rows, factors: dict[str, float], value: Tensor) -> Tensor:
    """Return how large the terms (N,) of a combination are: logits of both signs cancel in their sum."""
    z = rows.logits.double()
    z = rows.softcap * torch.tanh(z / rows.softcap) if rows.softcap else z
    return value.abs() + abs(factors["sum_logit"]) * z.nan_to_num(0.0, 0.0, 0.0).abs().sum(1)


def close(actual: Tensor, expected: Tensor, size: Tensor, dtype: torch.dtype) -> bool:
    good = (actual - expected).abs() <= 16 * torch.finfo(dtype).eps * (1 + size)
    return bool((good | (actual == expected) | (actual.isnan() & expected.isnan())).all())


def check(rows: Rows, factors: dict[str, float] = FACTORS, *, separate: bool = True) -> None:
    """Compare with float64 what is the same for each row: its factor, 0 where it is left out."""
    program = combination(factors, separate=separate)
    target, count = rows.target, len(rows.logits)
    sample = torch.ones(count) if rows.sample_weight is None else rows.sample_weight
    class_weight = torch.ones(count)
    out = sample == 0
    if target is not None:
        out = out | (target == rows.ignore_index)
        if rows.weight is not None:
            class_weight = rows.weight[target.clamp(min=0)]
            out = out | (rows.skip_zero_weight & (class_weight == 0))
    good = Rows(rows.logits, None if target is None else target.clamp(min=0), softcap=rows.softcap)
    value, expected = expected_gradient(good, factors, sample.double(), separate=separate, scales=(1.0,))
    value = torch.where(out, 0.0, value * sample)
    expected = torch.where(out[:, None], 0.0, expected)
    weights = torch.where(out, 0.0, class_weight * sample)
    actual, kept, sums = losses(program, rows)
    assert close(actual, value, size_of_terms(rows, factors, value), rows.work)
    assert sums == pytest.approx([float(actual.double().sum()), float(weights.sum())], rel=1e-6, nan_ok=True)
    assert not kept[out].any()
    wide = torch.empty(rows.logits.shape, dtype=rows.work)
    assert same(gradient(program, rows, kept, out=wide), expected)
    assert (wide[out] == 0).all()
    again, both, total = losses_and_gradient(program, rows, out=torch.empty_like(wide))
    assert same(again, actual)
    assert same(both, wide)
    assert total == pytest.approx(sums, rel=1e-12, nan_ok=True)


@pytest.mark.parametrize("classes", WIDTHS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_that_are_left_out(dtype: torch.dtype, classes: int) -> None:
    """Ignored rows and rows of weight 0 have loss and gradient 0."""
    rows = some_rows(classes, dtype)
    assert rows.target is not None
    rows.sample_weight = torch.rand(150).to(rows.work)
    rows.weight = torch.rand(classes).to(rows.work)
    rows.target[::7] = -100
    rows.sample_weight[3::7] = 0
    rows.weight[1] = 0
    rows.logits[::14] = torch.nan
    rows.logits[3::14] = torch.inf
    for rows.skip_zero_weight in (False, True):
        for separate in (True, False):
            check(rows, separate=separate)
    rows.weight = rows.sample_weight = None
    check(rows)
    rows.target[:] = rows.ignore_index = 2**40
    check(rows)
    rows.target = None
    check(rows, separate=False)


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf], ids=str)
@pytest.mark.parametrize("classes", WIDTHS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_that_are_wrong(dtype: torch.dtype, classes: int, wrong: float) -> None:
    """Rows with nan or plus infinity have nan losses and gradients."""
    rows = some_rows(classes, dtype)
    assert rows.target is not None
    places = torch.randint(classes, (50,))
    rows.logits[torch.arange(0, 150, 3), places] = wrong
    rows.logits[1::6, :2] = -torch.inf
    rows.logits[::6, :2] = torch.where(rows.logits[::6, :2].isfinite(), -torch.inf, rows.logits[::6, :2])
    rows.logits[4::9, rows.target[4]] = wrong
    rows.logits[5::9] = -torch.inf
    for separate in (True, False):
        check(rows, separate=separate)
        program = Compiled(["base"], used=[n for n in NAMES if "soft" not in n], separate=separate)
        bad = (rows.logits.isnan() | (rows.logits == torch.inf)).any(1)
        for name, number in states(program, rows).items():
            assert torch.equal(number.isnan(), bad), name
        narrow = gradient(
            combination(FACTORS, separate=separate), rows, losses(combination(FACTORS), rows)[1]
        )
        assert narrow[bad].isnan().all()


def test_wrong_rows_show_where_no_exponential_is_summed() -> None:
    """Rows with nan are nan also for states without exponentials."""
    for classes in WIDTHS:
        rows = some_rows(classes)
        rows.logits[::3, 1] = torch.nan
        for names in (["base"], ["target_logit"], ["min_base"], ["sum_logit"], ["count"]):
            actual = losses(Compiled(names), rows)[0]
            assert torch.equal(actual.isnan(), rows.logits.isnan().any(1)), (classes, names)


@pytest.mark.parametrize("classes", WIDTHS)
def test_targets_that_are_no_class(classes: int) -> None:
    """A target outside the classes returns an error code and writes nothing."""
    program, result = combination(FACTORS), (ctypes.c_double * 2)()
    for wrong in (-1, classes, -(2**62), 2**62):
        rows = some_rows(classes)
        assert rows.target is not None
        rows.target[[3, 90]] = wrong
        out = torch.full((150,), 7.0)
        call = (program.address, rows.packed(), *rows.weights(), out.data_ptr())
        assert cpu.library().equipoise_losses(*call, None, ctypes.addressof(result)) == 4
        assert (out == 7).all()
        assert cpu.library().equipoise_states(program.address, rows.packed(), out.data_ptr()) == 0
        rows.ignore_index = wrong
        assert same(losses(program, rows)[0][[3, 90]], torch.zeros(2))


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("classes", [10, 1000, 2100])
def test_threads(classes: int, threads: int) -> None:
    """Any number of threads gives the losses and gradients of one, to the bit."""
    rows = some_rows(classes, count=40000 // classes * 10)
    assert rows.target is not None
    rows.target[::5] = -100
    program = combination(FACTORS)
    one, kept, sums = losses(program, rows)
    expected = gradient(program, rows, kept)
    rows.threads = threads
    actual, also_kept, also_sums = losses(program, rows)
    assert torch.equal(actual, one)
    assert torch.equal(also_kept, kept)
    assert also_sums == pytest.approx(sums, rel=1e-12)
    assert losses(program, rows)[2] == also_sums
    assert torch.equal(gradient(program, rows, kept), expected)
    again, both, both_sums = losses_and_gradient(program, rows)
    assert torch.equal(again, one)
    assert same(both, expected)
    assert both_sums == pytest.approx(sums, rel=1e-12)


@pytest.mark.parametrize("separate", [True, False])
@pytest.mark.parametrize("classes", WIDTHS)
def test_runs_of_classes(classes: int, separate: bool) -> None:
    """States and gradients of a run of the classes are right wherever it starts."""
    rows = some_rows(3 * classes, torch.float64, soft=torch.rand(3 * classes, 3 * classes).double())
    for start in (0, classes - 1, 2 * classes):
        block = Rows(rows.logits[:, start : start + classes], rows.target, soft=rows.soft, start=start)
        program = Compiled(
            ["base"], used=[*NAMES[:5], "max_exp0", "rest_exp0", *NAMES[13:]], separate=separate
        )
        expected = states_in_torch(block, block.logits, separate=separate, scales=(1.0,))
        for name, number in states(program, block).items():
            assert same(number, expected[name], 1e-12), name
        factors = FACTORS | {"max_soft_gap": 0.3, "rest_soft_gap": -0.4}
        program = combination(factors, separate=separate)
        kept = torch.zeros(program.kept, 150, dtype=torch.float64)  # as many rows of numbers
        kept[0], kept[1] = expected["base"], expected["min_base"]
        kept[2:] = torch.tensor([factors[n] for n in NAMES if n in factors], dtype=torch.float64)[:, None]
        by = torch.rand(150).double()
        _, wanted = expected_gradient(block, factors, by, separate=separate, scales=(1.0,))
        assert same(gradient(program, block, kept.T, by), wanted, 1e-12)


@pytest.mark.parametrize("classes", WIDTHS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_softcap(dtype: torch.dtype, classes: int) -> None:
    """States and gradients of capped logits are those of plain torch, for small, large and nan logits."""
    factors = {
        "target_logit": -0.7,
        "max_exp0": 0.9,
        "rest_exp0": 0.9,
        "sum_logit": 0.1,
    }  # no matter which ties
    for cap in (0.5, 30.0):
        for separate in (True, False):
            rows = some_rows(classes, dtype, softcap=cap)
            rows.logits *= cap / 3
            rows.logits[::4] *= 1e-3
            rows.logits[5::8] *= 100
            rows.logits[3, 1] = torch.nan
            check(rows, factors, separate=separate)


def test_a_class_that_is_summed_twice_is_found() -> None:
    """A class that is summed twice is found by the tests."""
    factors = {"target_logit": -0.7, "rest_exp0": 0.9, "sum_logit": 0.1}
    for classes in WIDTHS:
        for dtype in DTYPES:
            for cap in (0.0, 30.0):
                rows = some_rows(classes, dtype, softcap=cap)
                value, _ = expected_gradient(rows, factors, torch.ones(150), separate=False, scales=(1.0,))
                size = size_of_terms(rows, factors, value)
                twice = value + 0.1 * rows.logits[:, 0].double()
                assert close(value.to(rows.work), value, size, rows.work)
                assert not close(twice.to(rows.work), value, size, rows.work)


def test_strides_and_no_rows() -> None:
    """Strided rows and empty blocks give the same results."""
    for classes in WIDTHS:
        large = torch.randn(40, classes + 5)
        rows = Rows(large[::2, 2:-3], torch.randint(classes, (20,)))
        check(rows)
        program = combination(FACTORS)
        _, kept, _ = losses(program, rows)
        out = torch.full((20, classes + 7), 7.0)
        gradient(program, rows, kept, out=out[:, 3 : classes + 3])
        assert torch.equal(out[:, 3 : classes + 3], gradient(program, rows, kept))
        assert (out[:, :3] == 7).all()
        assert (out[:, classes + 3 :] == 7).all()
        expanded = Rows(torch.randn(1, classes).expand(20, -1), rows.target)
        check(expanded)
        empty = Rows(torch.empty(0, classes), torch.empty(0, dtype=torch.int64))
        assert losses(program, empty)[2] == [0, 0]
        assert losses_and_gradient(program, empty)[2] == [0, 0]
        assert states(program, empty)["max_exp0"].shape == (0,)
    none = Rows(torch.empty(3, 0))
    assert losses(combination(FACTORS), none)[0].isnan().all()


def test_programs_that_are_too_long() -> None:
    """A program longer than the registers is refused."""
    rows, result = some_rows(3), (ctypes.c_double * 2)()
    for length, status in ((191, 0), (192, -1)):
        program = Compiled(["rest_exp0"], (), [("neg", 0)] * length, length)
        call = (program.address, rows.packed(), *rows.weights(), None, None, ctypes.addressof(result))
        assert cpu.library().equipoise_losses(*call) == status


def test_tables_are_those_of_the_header() -> None:
    """The tables of operations and states agree with the C++ header."""
    header = Path(cpu.__file__).with_name("cpu").joinpath("program.h").read_text()

    def numbers(enum: str) -> dict[str, int]:
        found = re.search(rf"enum {enum} : \w+ \{{(.*?)\}};", header, re.DOTALL)
        assert found
        out: dict[str, int] = {}
        following = 0
        for item in found[1].replace("\n", " ").split(","):
            name, _, value = item.strip().partition(" = ")
            out[name.lower()] = following = int(value) if value else following
            following += 1
        return out

    assert numbers("Op") == cpu.OPS
    assert numbers("State") == cpu.STATES | {"states": len(NAMES)}
    assert f"REGISTERS = {cpu.REGISTERS};" in header
    assert f"SCALES = {cpu.SCALES};" in header
    assert cpu.STATES["base"] == cpu.DIFFERENTIABLE
    assert ctypes.sizeof(cpu.Logits) == len(Rows(torch.zeros(1, 1)).packed())


def test_half_precision_is_added_and_rounded_as_by_torch() -> None:
    """Sums in half precision are rounded as by torch."""
    for dtype in (torch.bfloat16, torch.float16):
        every = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)
        total = torch.rand(len(every))
        expected = total + every
        cpu.add(every, total, begin=False)
        assert torch.equal(total.nan_to_num(), expected.nan_to_num())
        cpu.add(every, total, begin=True)
        assert torch.equal(total.nan_to_num(), every.float().nan_to_num())
        # The gradient of the target's logit, times the row's factor, is any number.
        numbers = torch.cat(
            [every.float()[every.isfinite()], torch.randn(4096).exp2() * 1e-7, torch.randn(4096)]
        )
        factors = torch.cat(
            [numbers, numbers * (1 + 2.0**-9), torch.tensor([7e4, -7e4, 65519.0, 65520.0, 3e-8])]
        )
        rows = Rows(torch.zeros(len(factors), 1, dtype=dtype), torch.zeros(len(factors), dtype=torch.int64))
        program = Compiled(["target_logit"])
        out = gradient(program, rows, losses(program, rows)[1], factors)
        assert torch.equal(out[:, 0], factors.to(dtype))


def test_run_in_threads() -> None:
    """Each number is run once, and an error in a thread is raised."""
    seen: list[int] = []
    cpu.run_in_threads(5, seen.append)
    assert sorted(seen) == [0, 1, 2, 3, 4]

    def fail(number: int) -> None:
        raise ValueError(number)

    with pytest.raises(ValueError, match="0"):
        cpu.run_in_threads(2, fail)
