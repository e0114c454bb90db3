"""An objective under torch.compile: scheduled values do not compile again."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from equipoise import Objective
from equipoise.losses import (
    CrossEntropy,
    FlooredCrossEntropy,
    Focal,
    GammaCrossEntropy,
    GeneralizedCrossEntropy,
    Loss,
    RowLoss,
)
from equipoise.penalties import Entropy, LogitRange
from equipoise.schedules import Linear
from equipoise.statistics import RowStatistics

STEPS = 20

# torch itself makes the object it warns of, when it traces an autograd.Function
TRACED = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")


def batch(step: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Return a batch that belongs to a step; the model grows surer of its targets."""
    source = torch.Generator().manual_seed(step)
    target = torch.randint(5, (8,), generator=source)
    logits = torch.randn(8, 5, generator=source) + 0.3 * step * F.one_hot(target, 5)
    return logits.to(dtype).requires_grad_(), target


def in_buffer(value: float) -> float:
    """Return a value as a buffer holds it."""
    return torch.tensor(value, dtype=torch.float32).item()


@dataclass(frozen=True)
class Compiled:
    """A loss whose options run from one end to the other, and how to make it with plain numbers."""

    loss: Loss
    ends: dict[str, tuple[float, float]]
    plain: Callable[..., Loss]


COMPILED = {
    "gamma": Compiled(GammaCrossEntropy(), {"gamma": (0, 1)}, lambda gamma: GammaCrossEntropy(gamma)),
    "gamma and min_weight": Compiled(
        GammaCrossEntropy(),
        {"gamma": (1, 0), "min_weight": (0, 1)},
        lambda gamma, least: GammaCrossEntropy(gamma, least),
    ),
    "label_smoothing, focal gamma and q": Compiled(
        CrossEntropy() + Focal() + GeneralizedCrossEntropy(),
        {"label_smoothing": (0, 1), "Focal.gamma": (3, 0), "q": (0, 1)},
        lambda smoothing, gamma, q: CrossEntropy(smoothing) + Focal(gamma) + GeneralizedCrossEntropy(q),
    ),
    "floor, width and a coefficient": Compiled(
        FlooredCrossEntropy() + LogitRange(width=1.0) + Entropy(),
        {"floor": (0, 0.2), "width": (4, 0), "Entropy": (-1, 1)},
        lambda floor, width, factor: (
            FlooredCrossEntropy(min(floor, 0.2)) + LogitRange(width) + factor * Entropy()
        ),
    ),
}


@pytest.mark.slow
@TRACED
@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in COMPILED.items()])
def test_twenty_steps_compile_once(case: Compiled) -> None:
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    schedules = {name: Linear(*ends, STEPS) for name, ends in case.ends.items()}
    objective = Objective(case.loss, schedules=schedules)
    compiled = torch.compile(objective, backend=counter, fullgraph=True)
    seen = []
    for step in range(STEPS + 1):
        logits, target = batch(step)
        options = [in_buffer(schedule(step)) for schedule in schedules.values()]
        ours, expected = compiled(logits, target), case.plain(*options)(logits, target)
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)
        (slope,) = torch.autograd.grad(ours, logits)
        (plain,) = torch.autograd.grad(expected, logits)
        assert slope.isfinite().all()
        torch.testing.assert_close(slope, plain, rtol=1e-5, atol=1e-7)
        seen.append(options)
        objective.step()
    for end, options in ((0, seen[0]), (1, seen[-1])):
        assert options == [in_buffer(ends[end]) for ends in case.ends.values()]
    assert counter.frame_count == 1


@final
@dataclass(frozen=True)
class Branching(RowLoss):
    """A loss that asks which value its option has."""

    gamma: float = 0.5

    def per_row(self, row: RowStatistics, /) -> Tensor:
        if self.gamma == 1:
            return torch.sigmoid(-row.log_odds())
        return GammaCrossEntropy(self.gamma).per_row(row)


@TRACED
def test_a_loss_that_branches_on_its_option_cannot_be_compiled_whole() -> None:
    torch._dynamo.reset()
    objective = Objective(Branching(), schedules={"gamma": Linear(0, 1, STEPS)})
    with pytest.raises(torch._dynamo.exc.Unsupported, match="Data-dependent branching"):
        torch.compile(objective, backend="aot_eager", fullgraph=True)(*batch())


@pytest.mark.slow
@TRACED
def test_an_option_as_a_plain_number_compiles_again_and_again() -> None:
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(lambda loss, *rows: loss(*rows), backend=counter, fullgraph=True)
    for step in range(3):
        compiled(replace(Branching(), gamma=step / 4), *batch(step))
    assert counter.frame_count > 1


@pytest.mark.slow
@TRACED
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # from importing the backend
def test_the_default_backend() -> None:
    """A scheduled objective compiled by inductor has the eager values while the schedule moves."""
    torch._dynamo.reset()
    objective = Objective(GammaCrossEntropy(), schedules={"gamma": Linear(0, 1, 3)})
    compiled = torch.compile(objective, fullgraph=True)
    for step in range(4):
        logits, target = batch(step)
        ours, expected = compiled(logits, target), objective(logits, target)
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)
        (slope,) = torch.autograd.grad(ours, logits)
        (plain,) = torch.autograd.grad(expected, logits)
        torch.testing.assert_close(slope, plain, rtol=1e-5, atol=1e-6)
        objective.step()
