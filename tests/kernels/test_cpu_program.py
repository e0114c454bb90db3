"""Programs on the CPU kernel: operations against torch, derivatives against autograd, accuracy by mpmath."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import mpmath
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from equipoise.kernels import cpu
from support.kernel_calls import Compiled, Rows, losses

pytestmark = pytest.mark.skipif(not cpu.available(), reason="the kernel was not compiled")

UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "neg": torch.neg,
    "exp": torch.exp,
    "log": torch.log,
    "log1p": torch.log1p,
    "expm1": torch.expm1,
    "logsigmoid": F.logsigmoid,
    "sigmoid": torch.sigmoid,
    "softplus": lambda x: -F.logsigmoid(-x),
    "tanh": torch.tanh,
    "sqrt": torch.sqrt,
    "relu": torch.relu,
    "abs": torch.abs,
    "not": lambda x: (x == 0).to(x.dtype),
    "detach": torch.detach,
}
BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "pow": torch.pow,
    "gt": lambda x, y: (x > y).to(x.dtype),
    "lt": lambda x, y: (x < y).to(x.dtype),
    "eq": lambda x, y: (x == y).to(x.dtype),
    "ne": lambda x, y: (x != y).to(x.dtype),
    "ge": lambda x, y: (x >= y).to(x.dtype),
    "le": lambda x, y: (x <= y).to(x.dtype),
    "and": lambda x, y: ((x != 0) & (y != 0)).to(x.dtype),
    "or": lambda x, y: ((x != 0) | (y != 0)).to(x.dtype),
}
TERNARY: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "where": lambda x, y, z: torch.where(x != 0, y, z),
    "clamp": torch.clamp,
}
IN_TORCH: dict[str, Callable[..., Tensor]] = UNARY | BINARY | TERNARY
ARITY = dict.fromkeys(UNARY, 1) | dict.fromkeys(BINARY, 2) | dict.fromkeys(TERNARY, 3)
WITHOUT_DERIVATIVE = ("gt", "lt", "eq", "ne", "ge", "le", "and", "or", "not", "detach")
EPS = {torch.float64: 2.0**-52, torch.float32: 2.0**-23}


def test_every_operation_is_tested() -> None:
    """Every operation of the kernel has a test."""
    assert set(IN_TORCH) == set(cpu.OPS)


def run(program: Compiled, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the result (N,) and its derivatives (N, 2) by the inputs target_logit and sum_logit."""
    value, kept, _ = losses(program, Rows(torch.stack([x, y], 1), torch.zeros(len(x), dtype=torch.int64)))
    return value, kept[:, 1:]


def random_program(seed: int) -> tuple[list[float], list[tuple[Any, ...]]]:
    """Return constants and code on two inputs.

    Most operations have a derivative, and most operands are inputs or the last results.
    """
    generator = torch.Generator().manual_seed(seed)

    def below(stop: int) -> int:
        return int(torch.randint(stop, (), generator=generator))

    constants = [0.0, 1.0, -0.5, 2.0, 0.5, 3.0]
    names = [name for name in sorted(IN_TORCH) for _ in range(1 if name in WITHOUT_DERIVATIVE else 3)]
    code: list[tuple[Any, ...]] = []

    def operand() -> int:
        if not below(4):
            return 2 + below(len(constants))
        place = max(below(2 + len(code)), below(2 + len(code)))
        return place if place < 2 else place + len(constants)

    for _ in range(4 + below(16)):
        name = names[below(len(names))]
        places = [operand() for _ in range(ARITY[name])]
        if name == "pow" and below(2):
            places[1] = 2 + below(len(constants))
        code.append((name, *places))
    return constants, code


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_random_programs(dtype: torch.dtype) -> None:
    """Values and derivatives of random programs are torch's."""
    compared, moved = 0, 0
    for seed in range(600):
        constants, code = random_program(seed)
        inputs = [torch.randn(40, dtype=torch.float64).to(dtype).double() for _ in range(2)]
        x, y = (number.clone().requires_grad_() for number in inputs)
        registers = [x, y, *(torch.full((40,), c, dtype=torch.float64) for c in constants)]
        for name, *places in code:
            registers.append(IN_TORCH[name](*(registers[k] for k in places)))
        expected = registers[-1]
        slopes = torch.zeros(40, 2, dtype=torch.float64)
        if expected.requires_grad:
            found = torch.autograd.grad(expected.sum(), (x, y), materialize_grads=True)
            slopes = torch.stack(found, 1)
        program = Compiled(["target_logit", "sum_logit"], constants, code, len(registers) - 1)
        value, actual = run(program, *(number.to(dtype) for number in inputs))
        size = torch.stack([r.detach().abs() for r in registers]).amax(0)  # of what is computed on the way
        good = slopes.isfinite().all(1) & expected.isfinite() & (size < 1e3) & (slopes.abs() < 1e3).all(1)
        tolerance = 1e-9 if dtype == torch.float64 else 1e-2
        wrong = (value - expected).abs() > tolerance * (1 + expected.abs())
        wrong_slopes = ((actual - slopes).abs() > tolerance * (1 + slopes.abs())).any(1)
        wrong, wrong_slopes = wrong & good, wrong_slopes & good
        if dtype == torch.float64:
            assert not wrong.any(), (seed, code)
            assert not wrong_slopes.any(), (seed, code)
        else:  # what cancels, or which side of a comparison, may be rounding
            assert (wrong | wrong_slopes).double().mean() <= 0.5, (seed, code)
        compared += int(good.sum())
        moved += int((slopes[good] != 0).any(1).sum())
    assert compared > 8000
    assert moved > 2000


SPECIAL = (
    math.nan,
    math.inf,
    -math.inf,
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    -0.5,
    2.0,
    -2.5,
    1e-30,
    1e30,
    1e-42,
    100.0,
    -100.0,
)


@pytest.mark.parametrize("name", sorted(IN_TORCH))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_special_values(dtype: torch.dtype, name: str) -> None:
    """Operations of nan, infinities and zeros give what torch gives."""
    count = ARITY[name]
    numbers = SPECIAL if count < 3 else (math.nan, math.inf, -math.inf, 0.0, 1.0, -1.5)
    for values in itertools.product(numbers, repeat=count):
        operands: list[Any] = list(torch.tensor(values, dtype=dtype)[:, None].unbind())
        constants, code = [operand.item() for operand in operands], [(name, *range(1, count + 1))]
        cases = [(code, IN_TORCH[name](*operands))]
        if name == "pow":  # torch has roots of its own where an exponent is a number
            cases = [
                (code, torch.pow(operands[0], constants[1])),
                ([("detach", 2), ("pow", 1, 3)], cases[0][1]),
            ]
        for code, expected in cases:
            program = Compiled(["base"], constants, code, count + len(code))
            rows = Rows(torch.zeros(1, 2, dtype=dtype), torch.zeros(1, dtype=torch.int64))
            actual = losses(program, rows)[0]
            least = torch.finfo(dtype).tiny
            good = torch.allclose(actual, expected, rtol=8 * EPS[dtype], atol=least, equal_nan=True)
            assert good, (name, values, actual.item(), expected.item())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_derivatives_where_sides_meet(dtype: torch.dtype) -> None:
    """At ties, derivatives are those of torch."""
    grid = torch.tensor([-1.0, 0.0, 0.5, 1.0, 2.0], dtype=dtype)
    for name in ("maximum", "minimum", "relu", "abs", "clamp", "where", "pow", "gt"):
        for third in (-1.0, 0.5, 1.0):
            x, y = (g.flatten().requires_grad_() for g in torch.meshgrid(grid, grid, indexing="ij"))
            operands = (x, y, torch.full_like(x, third))[: ARITY[name]]
            expected = torch.zeros_like(x), torch.zeros_like(x)
            if name != "gt":  # torch has no graph for it
                total = IN_TORCH[name](*operands).sum()
                expected = torch.autograd.grad(total, (x, y), materialize_grads=True)
            program = Compiled(["target_logit", "sum_logit"], [third], [(name, *range(ARITY[name]))], 3)
            value, actual = run(program, x.detach(), y.detach())
            good = value.isfinite() & expected[0].isfinite() & expected[1].isfinite()
            assert good.sum() > 10
            wanted = torch.stack(expected, 1)[good]
            assert torch.allclose(actual[good], wanted, rtol=8 * EPS[dtype], atol=1e-12), (name, third)


def test_what_was_not_chosen_has_no_part() -> None:
    """A branch of `where` that is not chosen does not contribute, even if it is nan."""
    x = torch.tensor([0.0, 4.0])
    # where(x > 0, sqrt(x) / x, x): the first is 0 / 0 at 0
    code = [("gt", 0, 2), ("sqrt", 0), ("div", 4, 0), ("where", 3, 5, 0)]
    value, slopes = run(Compiled(["target_logit", "sum_logit"], [0.0], code, 6), x, torch.zeros(2))
    assert value.tolist() == [0, 0.5]
    assert slopes.tolist() == [[1, 0], [-0.0625, 0]]


def derivative(name: str) -> Callable[[Any], Any]:
    one = mpmath.mpf(1)
    return {
        "exp": mpmath.exp,
        "log": lambda x: 1 / x,
        "log1p": lambda x: 1 / (1 + x),
        "expm1": mpmath.exp,
        "logsigmoid": lambda x: 1 / (1 + mpmath.exp(x)),
        "sigmoid": lambda x: mpmath.exp(-x) / (1 + mpmath.exp(-x)) ** 2,
        "softplus": lambda x: 1 / (1 + mpmath.exp(-x)),
        "tanh": lambda x: 1 / mpmath.cosh(x) ** 2,
        "sqrt": lambda x: one / 2 / mpmath.sqrt(x),
    }[name]


EXACT: dict[str, Callable[[Any], Any]] = {
    "exp": mpmath.exp,
    "log": mpmath.log,
    "log1p": mpmath.log1p,
    "expm1": mpmath.expm1,
    "logsigmoid": lambda x: -mpmath.log1p(mpmath.exp(-x)),
    "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
    "softplus": lambda x: mpmath.log1p(mpmath.exp(x)),
    "tanh": mpmath.tanh,
    "sqrt": mpmath.sqrt,
}


@pytest.mark.parametrize("name", sorted(EXACT))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_accuracy(dtype: torch.dtype, name: str) -> None:
    """Functions and their derivatives are within three and four roundings of the exact value."""
    most = 700 if dtype == torch.float64 else 86
    if name in ("tanh", "sigmoid"):
        most /= 2.1  # the derivative of the one is e^-2|x|
    sizes = torch.cat(
        [torch.logspace(-25, 0, 100), torch.linspace(0.05, 3, 150), torch.linspace(3, most, 150)]
    )
    x = torch.cat([sizes, -sizes]).to(dtype)
    if name in ("log", "sqrt"):
        x = x.abs()
    if name == "log1p":
        x = x[x > -1]
        x = torch.cat([x, -torch.linspace(0.9, 0.999999, 50).to(dtype)])
    value, slopes = run(Compiled(["target_logit", "sum_logit"], (), [(name, 0)], 2), x, torch.zeros_like(x))
    with mpmath.workprec(400):
        points = [mpmath.mpf(v) for v in x.tolist()]
        exact = [EXACT[name](v) for v in points], [derivative(name)(v) for v in points]
        for actual, expected, bound in zip((value, slopes[:, 0]), exact, (3, 4), strict=True):
            errors = [
                abs((mpmath.mpf(a) - e) / e) / EPS[dtype]
                for a, e in zip(actual.tolist(), expected, strict=True)
                if abs(e) > torch.finfo(dtype).tiny
            ]
            assert len(errors) > 250
            assert max(errors) <= bound, (name, float(max(errors)), float(points[errors.index(max(errors))]))


def test_accuracy_of_powers() -> None:
    """Powers and their derivatives are within four roundings of the exact value."""
    for dtype in (torch.float64, torch.float32):
        x = torch.rand(300, dtype=torch.float64).mul(6).sub(3).exp().to(dtype)
        for exponent in (2.0, 0.5, 0.7, 3.0, -1.3, 0.0, 1.0):
            program = Compiled(["target_logit", "sum_logit"], [exponent], [("pow", 0, 2)], 3)
            value, slopes = run(program, x, torch.zeros_like(x))
            y = torch.tensor(exponent, dtype=dtype).double()
            exact = x.double() ** y, y * x.double() ** (y - 1)
            for actual, expected in zip((value, slopes[:, 0]), exact, strict=True):
                assert torch.allclose(actual.double(), expected, rtol=4 * EPS[dtype], atol=0), exponent
