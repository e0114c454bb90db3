"""Recorded losses: a program computes what the loss does, and what no program can hold is refused."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from equipoise.kernels import dense
from equipoise.losses import LOSSES, CrossEntropy, Focal, GammaCrossEntropy, Loss, RowLoss
from equipoise.penalties import PENALTIES, Entropy, ZLoss
from equipoise.statistics import LogOdds, Rank, RowStatistics
from equipoise.statistics.record import Operand, Program
from equipoise.statistics.reference import partial, row_statistics
from equipoise.statistics.states import SoftTargets, StateName
from equipoise.statistics.trace import trace
from support.definitions import TEST_CLASSES, settings_of
from support.row_samples import NAMED_ROW_LOSSES, Written, hard_rows, odds_with

F64 = torch.float64
OPERATIONS: dict[str, Callable[..., Any]] = {
    **{name: getattr(torch, name) for name in ("add", "sub", "mul", "div", "pow", "maximum", "minimum")},
    **{name: getattr(torch, name) for name in ("neg", "exp", "log", "log1p", "expm1", "sigmoid", "tanh")},
    **{name: getattr(torch, name) for name in ("sqrt", "relu", "abs", "gt", "lt", "eq", "ne", "ge", "le")},
    "logsigmoid": F.logsigmoid,
    "softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)),
    "and": lambda x, y: ((x != 0) & (y != 0)).double(),
    "or": lambda x, y: ((x != 0) | (y != 0)).double(),
    "not": lambda x: (x == 0).double(),
    "where": lambda c, x, y: torch.where(c != 0, x, y),
    "clamp": lambda x, low, high: torch.minimum(torch.maximum(x, low), high),
    "detach": torch.detach,
}


def number(
    program: Program, name: StateName, logits: Tensor, target: Tensor, weight: Tensor | None
) -> Tensor:
    """Return one number (N,) of the state that a program reads."""
    states = partial(logits, target, separate=program.separate)
    if name.kind == "class_weight":
        assert weight is not None
        return weight[target]
    if name.kind == "target_logit":
        return states.target_logit
    soft = name.parameter
    if isinstance(soft, SoftTargets) and soft.table is program.class_weight:
        assert weight is not None
        soft = SoftTargets(weight)
    if name.kind == "target_soft":
        assert isinstance(soft, SoftTargets)
        return states.target_soft(soft)
    return (states.others if program.separate else states.all).number(StateName(name.kind, soft))


def interpreted(program: Program, logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the losses (N,) of a program, run by torch one instruction after another."""
    results: list[Tensor] = []

    def value(operand: Operand) -> Tensor:
        if operand.kind == "result":
            return results[operand.value]
        if operand.kind == "state":
            return number(program, operand.value, logits, target, weight)
        chosen = program.options[operand.value].detach() if operand.kind == "option" else operand.value
        return torch.as_tensor(chosen, dtype=logits.dtype).expand(len(logits))

    for op, operands in program.instructions:
        results.append(OPERATIONS[op](*map(value, operands)).to(logits.dtype))
    return value(program.result)


def recorded(loss: Any, classes: int = TEST_CLASSES, weight: Tensor | None = None) -> Program:
    found = trace(loss, classes, F64, weight)
    assert found.program is not None, found.reason
    return found.program


def agrees(program: Program, loss: Any, weight: Tensor | None = None) -> bool:
    logits, target = hard_rows(TEST_CLASSES)
    read = logits if program.added is None else logits + program.added[target]
    ours = interpreted(program, read, target, weight)
    theirs = loss.of(row_statistics(logits, target, weight=weight))
    return torch.allclose(ours, theirs, rtol=1e-13, atol=1e-300)


@NAMED_ROW_LOSSES
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_a_program_computes_what_the_loss_does(loss: Loss, weighted: bool) -> None:
    weight = torch.linspace(0.5, 2.0, TEST_CLASSES, dtype=F64) if weighted else None
    stand_in = None if weight is None else torch.zeros_like(weight)  # its values do not matter
    found = trace(loss, TEST_CLASSES, F64, stand_in)  # pyright: ignore[reportArgumentType]
    if found.program is None:
        assert found.reads_full_logits or found.reason, found
        return
    assert agrees(found.program, loss, weight)


def test_nearly_all_of_the_table_is_recorded() -> None:
    named = [loss for entry in LOSSES + PENALTIES for loss in settings_of(entry) if isinstance(loss, RowLoss)]
    missing = [loss for loss in named if trace(loss, TEST_CLASSES, F64).program is None]
    assert all(trace(loss, TEST_CLASSES, F64).reads_full_logits for loss in missing)
    assert len(missing) < len(named) / 5


def test_another_program_is_found() -> None:
    assert not agrees(recorded(Focal(gamma=2.0)), Focal(gamma=2.0 + 1e-9))
    assert not agrees(recorded(CrossEntropy() + 0.1 * ZLoss()), CrossEntropy() + 0.1 * Entropy())


def test_a_trace_says_what_a_loss_asks_for() -> None:
    found = trace(CrossEntropy() + Entropy(), TEST_CLASSES, F64)
    assert [type(statistic).__name__ for statistic in found.statistics] == ["LogOdds", "Entropy"]
    assert found.separate
    assert found.reads_target
    alone = trace(Entropy() + ZLoss(), TEST_CLASSES, F64)
    assert not alone.separate
    assert not alone.reads_target
    assert {name.kind for name in alone.states} >= {"base", "max_exp", "rest_exp", "rest_gap", "max_gap"}


def test_what_is_computed_twice_is_written_once() -> None:
    once, twice = recorded(CrossEntropy()), recorded(CrossEntropy() + CrossEntropy())
    assert len(twice.instructions) == len(once.instructions) + 1


def decorated(act: Callable[[Tensor], Any]) -> Callable[[Tensor], Tensor]:
    """Return a function that works without a gradient."""

    def run(odds: Tensor) -> Tensor:
        with torch.no_grad():
            weight = act(odds)
        return -weight * F.logsigmoid(odds)

    return run


RECORDED: dict[str, Callable[[Tensor], Tensor]] = {
    "arithmetic": lambda m: (1 - m) / (2 + m**2) - (-m) * 3,
    "powers": lambda m: m.abs() ** 0.5 + 2.0 ** -m.abs() + torch.square(m) + m.abs().add(1).pow(-1.5),
    "comparisons": lambda m: torch.where((m > 0) & ~(m >= 4) | (m < -4), m, 2 * m),
    "a method with the condition second": lambda m: m.where(m > 1, 3.0 - m),
    "a bool as a number": lambda m: m * (m > 0) + (m <= 1).to(m.dtype),
    "clamps": lambda m: m.clamp(-2, 2) + torch.clamp(m, min=1) + m.clamp_max(0.5) + F.relu(m),
    "softplus": lambda m: F.softplus(m) + torch.tanh(m) + torch.sigmoid(m) + F.softplus(40 * m),
    "a stop of the gradient": lambda m: m.detach() * m,
    "no gradient": decorated(torch.sigmoid),
    "a tensor of a number": lambda m: m * torch.tensor(2.0) + torch.full((), 3.0, dtype=m.dtype),
    "reciprocals": lambda m: (m.abs() + 1).reciprocal() + 1 / (2 + m.abs()) + torch.rsub(m, 2),
    "extremes": lambda m: torch.maximum(m, -m) + torch.minimum(m, m * m),
}
BY_ROW = pytest.mark.parametrize("name", RECORDED)


def value_and_gradient(run: Callable[[Tensor], Tensor], logits: Tensor) -> tuple[Tensor, Tensor]:
    leaf = logits.clone().requires_grad_()
    value = run(leaf)
    (grad,) = torch.autograd.grad(value, leaf, torch.linspace(1, 2, len(value), dtype=value.dtype))
    return value.detach(), grad


def both(loss: RowLoss) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return values and gradients as a user has them, and in plain torch."""
    logits, target = torch.randn(20, 5, dtype=F64) * 3, torch.randint(5, (20,))
    ours = value_and_gradient(lambda z: loss(z, target, reduction="none"), logits)
    return ours, value_and_gradient(lambda z: loss.in_torch(z, target, reduction="none"), logits)


def compare(loss: RowLoss) -> None:
    ours, theirs = both(loss)
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-13, atol=1e-15)


@BY_ROW
def test_operations_of_torch(name: str) -> None:
    """Each operation is recorded, and its program computes what the loss does."""
    loss = odds_with(RECORDED[name])
    assert trace(loss, 5, F64).program is not None, trace(loss, 5, F64).reason
    compare(loss)


class Halved(torch.autograd.Function):
    """Returns its argument; has half its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return x * 1.5

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return grad / 2


def forgiving(m: Tensor) -> Tensor:
    """Catches whatever is raised."""
    try:
        return m * m.mean().item()
    except Exception:
        return m


REFUSED: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "an operation without a name here": (torch.erf, "not known to a kernel: erf"),
    "other rows": (lambda m: m - m.mean(), "mean"),
    "the order of rows": (lambda m: m.flip(0), "flip"),
    "how many rows there are": (lambda m: m / m.shape[0], "not the same each time"),
    "a value": (lambda m: m * m[0].item(), "getitem"),
    "a branch": (lambda m: m if (m > 0).all() else -m, "all"),
    "a sum of stacked tensors": (lambda m: torch.stack([m, 2 * m]).sum(0), "stack"),
    "a number made of stacked tensors": (lambda m: m * torch.stack([m, 2 * m]).mean(), "stack"),
    "a change in place": (lambda m: m.clone().mul_(2), "in place: mul_"),
    "a change in place by an option": (lambda m: F.relu(m.clone(), inplace=True), "in place"),
    "a change in place by a symbol": (lambda m: _added(m.clone()), "in place"),
    "a gradient of its own": (lambda m: Halved.apply(m) + 0 * m, "a gradient of its own"),
    "a gradient of its own at the end": (lambda m: Halved.apply(2 * m), "a gradient of its own"),
    "half precision": (lambda m: m.to(torch.float16).to(m.dtype), "computes in torch.float16"),
    "single precision": (lambda m: m.float().double(), "computes in torch.float32"),
    "a bool for a number": (lambda m: m + m.to(torch.bool).to(m.dtype), "computes in torch.bool"),
    "a sum of bools": (lambda m: m + ((m > 0) + (m > 1)).to(m.dtype), "add with bools"),
    "an option of a function": (lambda m: torch.add(m, m, alpha=2), "add with options"),
    "a division that rounds": (lambda m: torch.div(m, 2, rounding_mode="floor"), "div with options"),
    "whole numbers": (lambda m: (m > 0).long() * m, "long"),
    "what it raised": (forgiving, "mean"),
    "a hook": (lambda m: (m.register_hook(lambda g: g / 2), m * 2)[1], "register_hook"),
    "data": (lambda m: m.data * m, "known to a kernel: get"),
}


def _added(m: Tensor) -> Tensor:
    m += 1
    return m


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_program_can_hold_is_refused_and_right(name: str) -> None:
    act, reason = REFUSED[name]
    found = trace(odds_with(act), 5, F64)
    assert found.program is None
    assert reason in found.reason
    assert found.statistics == (LogOdds(),)
    if name != "a hook":  # it would be hung on the logits of the test, too
        compare(odds_with(act))


@pytest.mark.parametrize(
    "draw",
    [lambda m: m * torch.rand(()), lambda m: m * torch.randint(2, ()), lambda m: m * random.random()],
    ids=["torch", "whole numbers", "Python"],
)
def test_random_numbers_are_drawn_at_each_call(draw: Callable[[Tensor], Tensor]) -> None:
    loss = odds_with(draw)
    assert "not the same each time" in trace(loss, 5, F64).reason
    logits, target = torch.randn(4, 5, dtype=F64), torch.arange(4)
    assert len({loss(logits, target).item() for _ in range(30)}) > 1


def test_a_loss_that_draws_nothing_leaves_random_numbers_as_they_are() -> None:
    before = torch.get_rng_state(), random.getstate()
    trace(GammaCrossEntropy(0.123), 5, F64)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()


def test_class_weights_of_a_recording_do_not_stay() -> None:
    target, logits = torch.arange(4), torch.randn(4, 5, dtype=F64)

    @final
    @dataclass(frozen=True)
    class Scaled(RowLoss):
        def per_row(self, row: RowStatistics, /) -> Tensor:
            weight = row.class_weight
            return row.log_odds() * (1.0 if weight is None else weight.sum())

    for weight in (torch.ones(5, dtype=F64), torch.full((5,), 2.0, dtype=F64)):
        ours = Scaled()(logits, target, weight, reduction="none")
        torch.testing.assert_close(ours, Scaled().in_torch(logits, target, weight, reduction="none"))
    assert "shape ()" in trace(Scaled(), 5, F64, torch.ones(5, dtype=F64)).reason


class TroubleError(Exception):
    """What a user's loss raises."""


def test_an_error_of_a_loss_is_that_error() -> None:
    def fail(m: Tensor) -> Tensor:
        raise TroubleError("the user's")

    for loss in (odds_with(fail), odds_with(fail) + CrossEntropy()):
        for run in (trace, dense.prepared):
            with pytest.raises(TroubleError, match="the user's"):
                run(loss, 5, F64)  # pyright: ignore[reportArgumentType]
        with pytest.raises(TroubleError, match="the user's"):
            loss(torch.randn(2, 5), torch.arange(2))


def test_a_loss_may_hold_its_statistics_to_what_they_can_be() -> None:
    def checked(row: RowStatistics) -> Tensor:
        assert (row.entropy <= 1.7).all()  # log 5 is 1.61; made-up numbers would not do
        return row.entropy * row.log_odds()

    compare(Written(checked))


def test_a_loss_that_asks_for_whole_rows_or_for_nothing_has_no_program() -> None:
    whole = trace(Written(lambda row: row.full_logits.logits.sum(1)), 5, F64)
    assert whole.reads_full_logits
    assert "complete rows" in whole.reason
    assert "no statistic" in trace(Written(lambda row: torch.zeros(1)), 5, F64).reason
    assert Rank() in trace(Written(lambda row: row.rank * row.log_odds()), 5, F64).statistics


def test_a_program_that_is_too_long_is_refused() -> None:
    def long(m: Tensor) -> Tensor:
        for k in range(200):
            m = torch.sin(m) if k > 500 else m * 1.01 + k
        return m

    assert "more than a kernel takes" in trace(odds_with(long), 5, F64).reason
    compare(odds_with(long))
