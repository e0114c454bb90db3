"""The CPU kernel: states of rows, losses and gradients against plain torch in float64."""

import itertools

import pytest
import torch
from torch import Tensor

from equipoise.kernels import cpu
from support.kernel_calls import (
    DIFFERENTIABLE,
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
    work_dtype,
)

pytestmark = pytest.mark.skipif(not cpu.available(), reason="the kernel was not compiled")

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
WIDTHS = (1, 2, 10, 16, 17, 100, 1000, 2048, 2049, 5000)
SCALES = ((1.0,), (1.0, 2.0), (0.5, 1.0, 2.0), (0.3, 0.9, 1.8, 3.6), (2.0,))
EPS = {torch.float64: 2.3e-16, torch.float32: 1.2e-7}


def hard_rows(count: int, classes: int, dtype: torch.dtype, spread: float = 4.0) -> tuple[Tensor, Tensor]:
    """Return logits and targets: masks, ties at the top, targets that lead, tie, are masked or alone."""
    z, y = spread * torch.randn(count, classes, dtype=torch.float64), torch.randint(classes, (count,))
    z = z.to(dtype)
    for r in range(count):
        kind, at = r % 9, int(y[r])
        if kind == 1:
            z[r, torch.randperm(classes)[: classes // 2]] = -torch.inf
        elif kind == 2:
            z[r, torch.randperm(classes)[:3]] = z[r].max()
        elif kind == 3:
            z[r, torch.randperm(classes)[:3]] = z[r, at] = z[r].max()
        elif kind == 4:
            z[r, at] = 2 * z[r].abs().max()
        elif kind == 5:
            z[r, at] = -torch.inf
        elif kind == 6:
            z[r, torch.arange(classes) != at] = -torch.inf
        elif kind == 7:
            z[r] = z[r, 0]
        elif kind == 8:
            z[r] += 300
    return z, y


def table_for(classes: int, dtype: torch.dtype, full: bool) -> Tensor:
    return torch.rand(*((classes, classes) if full else (classes,)), dtype=torch.float64).to(
        work_dtype(dtype)
    )


def names_for(rows: Rows, scales: tuple[float, ...]) -> list[str]:
    """Return the states that rows and scales have."""
    return [
        name
        for name in NAMES
        if not (name[-1].isdigit() and int(name[-1]) >= len(scales))
        and not ("soft" in name and rows.soft is None)
    ]


def assert_near(actual: Tensor, expected: Tensor, tolerance: float, what: object = "") -> None:
    assert torch.equal(actual.isnan(), expected.isnan()), what
    finite = expected.isfinite()
    assert torch.equal(actual.double()[~finite & ~expected.isnan()], expected[~finite & ~expected.isnan()]), (
        what
    )
    error = (actual.double() - expected)[finite].abs()
    assert (error <= tolerance * (1 + expected[finite].abs())).all(), (what, float(error.max()))


@pytest.mark.parametrize("separate", [True, False], ids=["separate", "together"])
@pytest.mark.parametrize("classes", WIDTHS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_states(dtype: torch.dtype, classes: int, separate: bool) -> None:
    """Each state of a row is that of plain torch in float64."""
    z, y = hard_rows(18, classes, dtype)
    soft = table_for(classes, dtype, classes <= 100)
    for scales in SCALES:
        rows = Rows(z, y, soft=soft)
        program = Compiled(["base"], used=names_for(rows, scales), separate=separate, scales=scales)
        expected = states_in_torch(rows, z.double(), separate=separate, scales=scales)
        for name, actual in states(program, rows).items():
            assert_near(actual, expected[name], 40 * EPS[actual.dtype] * classes**0.5, (name, scales))


@pytest.mark.parametrize("separate", [True, False], ids=["separate", "together"])
@pytest.mark.parametrize("classes", WIDTHS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradient_of_combinations(dtype: torch.dtype, classes: int, separate: bool) -> None:
    """The gradient of a combination of states is that of plain torch in float64."""
    z, y = hard_rows(27, classes, dtype)
    weight = torch.rand(len(z)).to(work_dtype(dtype))
    for scales, with_soft in itertools.product(SCALES, (False, True)):
        rows = Rows(z, y, soft=table_for(classes, dtype, classes <= 100) if with_soft else None)
        names = [name for name in names_for(rows, scales) if name in DIFFERENTIABLE]
        if len(scales) == 2:  # only what most losses use
            names = [name for name in names if name in ("target_logit", "max_exp0", "rest_exp0")]
        check_combination(rows, names, scales, weight, separate=separate)


def check_combination(
    rows: Rows, names: list[str], scales: tuple[float, ...], row_gradient: Tensor | None, *, separate: bool
) -> None:
    """Compare losses and gradient, in one call and in two, over the logits or elsewhere."""
    factors = dict(zip(names, torch.randn(len(names)).tolist(), strict=True))
    program = combination(factors, separate=separate, scales=scales)
    eps = EPS[rows.work]
    row_factor = torch.ones(len(rows.logits)) if row_gradient is None else row_gradient
    value, expected = expected_gradient(rows, factors, row_factor, separate=separate, scales=scales)
    actual, kept, (total, weights) = losses(program, rows)
    assert_near(actual, value, 100 * eps * rows.logits.shape[1], (names, scales))
    if not actual.isfinite().all():
        assert total != total or abs(total) == torch.inf
    else:
        assert total == pytest.approx(float(actual.double().sum()), rel=1e-9, abs=1e-9)
    assert weights == len(actual)
    wide = torch.empty(rows.logits.shape, dtype=rows.work)
    gradient(program, rows, kept, row_gradient, out=wide)
    assert_near(wide, expected, 40 * eps, (names, scales))
    narrow = gradient(program, rows, kept, row_gradient)
    assert torch.equal(narrow.nan_to_num(nan=7e3), wide.to(narrow.dtype).nan_to_num(nan=7e3))
    again, both, sums = losses_and_gradient(program, rows, row_gradient, out=torch.empty_like(wide))
    assert torch.equal(again.nan_to_num(), actual.nan_to_num())
    assert sums == pytest.approx([total, weights], rel=1e-12, nan_ok=True)
    assert_near(both, expected, 40 * eps, (names, scales))
    copied = Rows(**{**vars(rows), "logits": rows.logits.clone()})
    _, over, _ = losses_and_gradient(program, copied, row_gradient, out=copied.logits)
    assert torch.equal(over.nan_to_num(nan=7e3), both.to(over.dtype).nan_to_num(nan=7e3))
