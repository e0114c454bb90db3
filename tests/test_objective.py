"""The module: what it holds, moves, saves and loads, and that a schedule compiles once."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from equipoise import Objective
from equipoise._batch import REDUCTIONS
from equipoise.losses import CrossEntropy, FlooredCrossEntropy, Focal, GammaCrossEntropy, Sum
from equipoise.penalties import Balance, Entropy
from equipoise.schedules import Cosine, Linear, Schedule

STEPS = 20


def batch(step: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Return a batch that belongs to a step; the model grows surer of its targets."""
    source = torch.Generator().manual_seed(step)
    target = torch.randint(5, (8,), generator=source)
    logits = torch.randn(8, 5, generator=source) + 0.3 * step * F.one_hot(target, 5)
    return logits.to(dtype).requires_grad_(), target


def in_buffer(value: float) -> float:
    """Return a value as a buffer holds it."""
    return torch.tensor(value, dtype=torch.float32).item()


def saved(objective: nn.Module) -> dict[str, Any]:
    """Return the state dict after a journey through a file."""
    file = io.BytesIO()
    torch.save(objective.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def advance(objective: Objective, start: int, stop: int) -> list[tuple[dict[str, float], float]]:
    """Train for some steps and return the scheduled values and losses."""
    seen = []
    for step in range(start, stop):
        loss = objective(*batch(step))
        seen.append((objective.scheduled(), loss.item()))
        objective.step()
    return seen


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_it_is_the_loss_with_its_options(reduction: str) -> None:
    logits, target = batch()
    weight = torch.tensor([1.0, 2.0, 0.5, 1.0, 3.0])
    loss = CrossEntropy(label_smoothing=0.1) + 0.1 * Entropy()
    objective = Objective(loss, weight=weight, ignore_index=2, reduction=reduction)
    expected = loss(logits, target, weight=weight, ignore_index=2, reduction=reduction)
    assert (target == 2).any()
    assert torch.equal(objective(logits, target), expected)


def test_without_options_it_is_the_loss() -> None:
    logits, target = batch()
    target[0] = -100
    assert torch.equal(Objective(CrossEntropy())(logits, target), CrossEntropy()(logits, target))
    torch.testing.assert_close(CrossEntropy()(logits, target), F.cross_entropy(logits, target))
    assert torch.equal(Objective(Entropy())(logits), Entropy()(logits))
    assert Objective(CrossEntropy()).scheduled() == {}


def test_class_weights_are_a_buffer() -> None:
    objective = Objective(CrossEntropy(), weight=torch.arange(1.0, 6.0))
    assert "weight" in objective.state_dict()
    assert not list(objective.parameters())
    again = Objective(CrossEntropy(), weight=torch.ones(5))
    again.load_state_dict(saved(objective))
    assert torch.equal(again(*batch()), objective(*batch()))
    assert objective.double().weight.dtype == torch.float64
    whole = Objective(CrossEntropy(), weight=[1, 2, 3, 4, 5])  # pyright: ignore[reportArgumentType]
    assert torch.equal(whole(*batch()), again(*batch()))


def test_it_prints_what_it_is() -> None:
    objective = Objective(GammaCrossEntropy(), schedules={"gamma": Linear(0, 1, steps=9)})
    assert repr(objective) == (
        "Objective(GammaCrossEntropy(gamma=0.1, min_weight=0.0), gamma: Linear(start=0, end=1, steps=9))"
    )
    assert repr(Objective(Entropy())) == "Objective(Entropy())"


SCHEDULES = {
    "constant": Linear(0.3, 0.3, 1),
    "linear": Linear(0, 1, STEPS),
    "cosine": Cosine(1.0, 0.05, STEPS - 4),
}


@pytest.mark.parametrize("schedule", [pytest.param(each, id=name) for name, each in SCHEDULES.items()])
def test_values_are_those_of_the_schedule_and_the_loss_has_them(schedule: Schedule) -> None:
    objective = Objective(GammaCrossEntropy(), schedules={"gamma": schedule})
    for step in range(STEPS + 3):
        logits, target = batch(step)
        gamma = schedule(step)
        assert objective.scheduled()["gamma"] == pytest.approx(gamma, rel=1e-6, abs=1e-7)
        ours = objective(logits, target)
        torch.testing.assert_close(ours, GammaCrossEntropy(gamma)(logits, target), rtol=1e-5, atol=0)
        objective.step()
    assert objective.scheduled()["gamma"] == pytest.approx(schedule.bounds()[1], abs=0.1)


@pytest.mark.parametrize("value", [1e-7, 1.25e-7, 3e-12, 123456.0])
def test_small_values_are_shown_too(value: float) -> None:
    objective = Objective(Entropy() + Balance(), schedules={"Entropy": Linear(value, value, 1)})
    assert objective.scheduled()["Entropy"] == pytest.approx(value, rel=1e-6, abs=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_scheduled_value_is_the_option_rounded_to_single_precision(dtype: torch.dtype) -> None:
    logits, target = batch(0, dtype)
    ours = Objective(GammaCrossEntropy(), schedules={"gamma": Linear(0.1, 0.1, 1)})(logits, target)
    assert torch.equal(ours, GammaCrossEntropy(in_buffer(0.1))(logits, target))


def test_addresses() -> None:
    """An address schedules the value that it names, and no other."""
    loss = Focal(gamma=1.0) + 0.5 * GammaCrossEntropy(gamma=0.2) + 0.1 * Entropy() - 0.3 * Entropy()
    logits, target = batch()

    def at(**values: float) -> Tensor:
        schedules = {name: Linear(value, value, 1) for name, value in values.items()}
        return Objective(loss, schedules=schedules)(logits, target)

    focal, gamma, entropy = Focal(gamma=3.0), GammaCrossEntropy(gamma=0.7), Entropy()
    parts = loss.parts
    for values, expected in (
        ({"Focal.gamma": 3.0}, focal + Sum(parts[1:])),
        ({"GammaCrossEntropy.gamma": 0.7}, parts[0][1] + 0.5 * gamma + Sum(parts[2:])),
        ({"min_weight": 0.25}, Focal(1.0) + 0.5 * GammaCrossEntropy(0.2, 0.25) + Sum(parts[2:])),
        ({"GammaCrossEntropy": 2.0}, Focal(1.0) + 2.0 * GammaCrossEntropy(0.2) + Sum(parts[2:])),
        ({"Entropy[0]": 0.9}, Sum(parts[:2]) + 0.9 * entropy - 0.3 * entropy),
        ({"Entropy[1]": 0.9}, Sum(parts[:3]) + 0.9 * entropy),
        ({"Entropy[0]": 0.9, "Entropy[1]": 0.5}, Sum(parts[:2]) + 0.9 * entropy + 0.5 * entropy),
    ):
        torch.testing.assert_close(at(**values), expected(logits, target), rtol=1e-6, atol=0)
    alone = Objective(Focal(), schedules={"gamma": Linear(3.0, 3.0, 1)})(logits, target)
    assert torch.equal(alone, focal(logits, target))
    assert torch.equal(
        alone, Objective(Focal(), schedules={"Focal.gamma": Linear(3.0, 3.0, 1)})(logits, target)
    )


def test_the_loss_itself_is_left_alone() -> None:
    loss = GammaCrossEntropy(gamma=0.2) + 0.5 * Entropy()
    objective = Objective(loss, schedules={"gamma": Linear(0.9, 0.9, 1), "Entropy": Linear(2.0, 2.0, 1)})
    objective(*batch())
    assert objective.loss is loss
    assert loss == GammaCrossEntropy(gamma=0.2) + 0.5 * Entropy()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_scheduled_values_keep_their_precision_when_the_model_does_not(dtype: torch.dtype) -> None:
    schedules = {"gamma": Linear(1e-7, 1e-7, 1), "Entropy[1]": Linear(0.1, 0.2, STEPS)}
    loss = GammaCrossEntropy() + Entropy() + Entropy()
    objective = Objective(loss, weight=torch.ones(5), schedules=schedules)
    advance(objective, 0, 3)
    before = objective.scheduled()
    model = nn.Sequential(nn.Linear(5, 5), objective).to(dtype)
    assert model[0].weight.dtype == dtype
    assert objective.weight is not None
    assert objective.weight.dtype == dtype
    assert objective.scheduled() == before
    assert {buffer.dtype for name, buffer in objective.named_buffers() if name != "weight"} == {torch.float32}
    logits, target = batch(1, dtype)
    (slope,) = torch.autograd.grad(objective(logits, target), logits)
    assert slope.dtype == dtype
    assert slope.isfinite().all()


def test_it_moves_with_the_model() -> None:
    schedules = {"gamma": Linear(0, 1, STEPS)}
    objective = Objective(GammaCrossEntropy(), weight=torch.ones(5), schedules=schedules).to("meta")
    devices = {name: buffer.device.type for name, buffer in objective.named_buffers()}
    assert devices == {"weight": "meta", "scheduled_gamma": "meta"}


@pytest.mark.parametrize("schedule", [pytest.param(each, id=name) for name, each in SCHEDULES.items()])
@pytest.mark.parametrize("stop", [0, 1, 7, STEPS + 1])
def test_training_resumes_exactly(schedule: Schedule, stop: int) -> None:
    """Training that resumes from a saved state has the values of one that was never stopped."""

    def fresh() -> Objective:
        schedules = {"gamma": schedule, "Entropy": Linear(0, -0.1, 13)}
        return Objective(GammaCrossEntropy() + 0.1 * Entropy(), schedules=schedules)

    whole = advance(fresh(), 0, STEPS + 5)
    first = fresh()
    begun = advance(first, 0, stop)
    second = fresh()
    second.load_state_dict(saved(first))
    assert second.scheduled() == first.scheduled()
    assert begun + advance(second, stop, STEPS + 5) == whole
    if stop == 7 and schedule is not SCHEDULES["constant"]:  # starting again would have shown
        assert begun + advance(fresh(), stop, STEPS + 5) != whole


def test_training_resumes_inside_a_larger_model() -> None:
    def fresh() -> nn.ModuleDict:
        criterion = Objective(GammaCrossEntropy(), schedules={"gamma": Linear(0, 1, STEPS)})
        return nn.ModuleDict({"layer": nn.Linear(2, 2), "criterion": criterion})

    first, second = fresh(), fresh()
    for _ in range(7):
        first["criterion"].step()
    second.load_state_dict(saved(first))
    second["criterion"].step()
    first["criterion"].step()
    assert second["criterion"].scheduled() == first["criterion"].scheduled() == {"gamma": pytest.approx(0.4)}


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda objective: pickle.loads(pickle.dumps(objective))], ids=["copy", "pickle"]
)
def test_a_copy_goes_on_by_itself(copied: Callable[[Objective], Objective]) -> None:
    objective = Objective(
        GammaCrossEntropy() + 0.1 * Entropy(),
        weight=torch.arange(1.0, 6.0),
        ignore_index=1,
        schedules={"gamma": Cosine(0, 0.8, STEPS), "Entropy": Linear(0, 1, 9)},
    )
    advance(objective, 0, 4)
    other = copied(objective)
    halfway = objective.scheduled()
    assert advance(other, 4, 9) == advance(copied(objective), 4, 9)
    assert objective.scheduled() == halfway != other.scheduled()


def test_a_value_may_change_between_forward_and_backward() -> None:
    logits, target = batch()
    objective = Objective(GammaCrossEntropy(), schedules={"gamma": Linear(0, 1, 4)})
    loss = objective(logits, target)
    objective.step()
    (slope,) = torch.autograd.grad(loss, logits)
    (expected,) = torch.autograd.grad(GammaCrossEntropy(0.0)(logits, target), logits)
    (other,) = torch.autograd.grad(GammaCrossEntropy(0.25)(logits, target), logits)
    torch.testing.assert_close(slope, expected, rtol=1e-6, atol=1e-8)
    assert not torch.allclose(slope, other, rtol=1e-3)


def test_bounds_that_depend_on_the_number_of_classes_are_checked_for_each() -> None:
    objective = Objective(FlooredCrossEntropy(), schedules={"floor": Linear(0, 0.25, 100)})
    objective(torch.zeros(2, 4), torch.tensor([0, 1]))
    for _ in range(2):
        with pytest.raises(ValueError, match=r"floor must be at most 1/5 = 0\.2 for 5 classes, got 0\.25"):
            objective(torch.zeros(2, 5), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="for 5 classes"):
        objective(torch.zeros(2, 5, 3), torch.zeros(2, 3, dtype=torch.long))


def test_a_scheduled_model_learns() -> None:
    centres = 3 * torch.eye(3, 4)
    target = torch.randint(3, (300,))
    features = centres[target] + torch.randn(300, 4)
    model = nn.Linear(4, 3)
    objective = Objective(GammaCrossEntropy(), schedules={"gamma": Linear(0, 0.8, steps=60)})
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
    gammas = []
    for _ in range(60):
        optimiser.zero_grad()
        objective(model(features), target).backward()
        optimiser.step()
        objective.step()
        gammas.append(objective.scheduled()["gamma"])
    assert gammas[0] < 0.4 < gammas[-1]
    assert (model(features).argmax(1) == target).float().mean() > 0.9
