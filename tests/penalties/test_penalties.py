"""What the penalties do to a model, beyond their values."""

from dataclasses import dataclass
from typing import final

import pytest
import torch
from torch import Tensor

from equipoise.losses import BatchLoss, CrossEntropy, Loss
from equipoise.penalties import PENALTIES, Balance, Decisiveness, Entropy, Gini, LogitRange, matched_weight
from support.definitions import settings_of


def descend(penalty: Loss, logits: Tensor, steps: int = 300, rate: float = 5.0) -> Tensor:
    logits = logits.clone().requires_grad_()
    for _ in range(steps):
        (slope,) = torch.autograd.grad(penalty(logits, reduction="sum"), logits)
        logits = (logits - rate * slope).detach().requires_grad_()
    return logits.detach().softmax(1)


def two_rivals(classes: int) -> Tensor:
    """Two classes nearly alike, all others 30 below."""
    logits = torch.full((20, classes), -30.0, dtype=torch.float64)
    logits[:, 0] = 0.0
    logits[:, 1] = torch.linspace(-1.0, -0.05, 20)
    return logits


@pytest.mark.parametrize("penalty", [Entropy(), Gini()])
def test_entropy_and_gini_resolve_two_rivals(penalty: Loss) -> None:
    """Entropy and Gini decide between two equally likely classes."""
    assert descend(penalty, two_rivals(16)).amax(1).min() > 0.99


def test_decisiveness_leaves_two_rivals_together_from_twelve_classes_on() -> None:
    """From twelve classes on, Decisiveness does not separate two equally likely classes."""
    assert descend(Decisiveness(), two_rivals(16)).amax(1).max() < 0.75
    assert descend(Decisiveness(), two_rivals(8)).amax(1).min() > 0.99


@pytest.mark.parametrize(("rivals", "last_good", "first_bad"), [(2, 11, 12), (3, 15, 16), (4, 19, 20)])
def test_decisiveness_has_minima_at_equal_rivals_from_so_many_classes_on(
    rivals: int, last_good: int, first_bad: int
) -> None:
    """Share moved between two equal rivals lowers the penalty below so many classes, and raises it above."""

    def curvature(classes: int) -> float:
        step = torch.tensor(1e-6, dtype=torch.float64, requires_grad=True)
        logits = torch.full((classes,), -60.0, dtype=torch.float64)
        logits[:rivals] = 0.0
        along = torch.zeros_like(logits)
        along[0], along[1] = 1.0, -1.0
        value = Decisiveness()(logits + step * along, reduction="sum")
        (slope,) = torch.autograd.grad(value, step, create_graph=True)
        return torch.autograd.grad(slope, step)[0].item()

    assert curvature(last_good) < 0 < curvature(first_bad)


def test_entropy_decides_with_plus_and_explores_with_minus() -> None:
    """A positive entropy penalty sharpens, a negative one flattens."""
    logits = torch.randn(30, 5, dtype=torch.float64)
    before = logits.softmax(1).amax(1).mean()
    assert descend(Entropy(), logits, steps=50).amax(1).mean() > before
    assert descend(-Entropy(), logits, steps=50).amax(1).mean() < before


def test_balance_spreads_a_batch_and_no_balance_lets_it_collapse() -> None:
    """With Balance the batch uses all classes; without it, it collapses."""
    skewed = torch.zeros(40, 4, dtype=torch.float64)
    skewed[:, 0] = 1.0
    skewed = skewed + 0.3 * torch.randn(40, 4, dtype=torch.float64)
    alone = descend(Entropy(), skewed, rate=1.0).mean(0)
    both = descend(Entropy() + 3 * Balance(), skewed, rate=1.0)
    assert alone.max() > 0.9
    assert both.mean(0).max() < 0.35
    assert both.amax(1).mean() > 0.9


@final
@dataclass(frozen=True)
class Focus(BatchLoss):
    """A penalty of the mean log-probabilities, which have a gradient that no share of 0 makes 0."""

    def of_batch(self, logits: Tensor, share: Tensor, /) -> Tensor:
        return ((share[:, None] * logits.softmax(1)).sum(0) ** 0.5).sum()


OF_BATCHES = [loss for entry in PENALTIES for loss in settings_of(entry) if isinstance(loss, BatchLoss)] + [
    Focus()
]
LEFT_OUT = {
    "ignored": {"target": torch.full((6,), -100)},
    "ignored, weighted": {"target": torch.full((6,), -100), "weight": torch.rand(4)},
    "class weight 0": {"target": torch.arange(6) % 3, "weight": torch.tensor([0.0, 0, 0, 1])},
    "sample weight 0": {"sample_weight": torch.zeros(6)},
}


@pytest.mark.parametrize("bad", [0.5, torch.nan, torch.inf])
@pytest.mark.parametrize("how", LEFT_OUT)
@pytest.mark.parametrize("penalty", OF_BATCHES, ids=repr)
def test_where_no_row_counts_the_sum_is_0_and_the_mean_nan(penalty: Loss, how: str, bad: float) -> None:
    """If all rows are left out, the sum is 0 and the mean nan, with zero gradients."""
    options = {name: tensor.clone() for name, tensor in LEFT_OUT[how].items()}
    logits = torch.randn(6, 4)
    logits[2, 1] = bad
    leaf = logits.requires_grad_()
    rows = CrossEntropy()
    for loss in (penalty, penalty - 0.5 * penalty) + ((rows + penalty,) if "target" in options else ()):
        total = loss(leaf, reduction="sum", **options)
        assert total == 0
        assert (torch.autograd.grad(total, leaf)[0] == 0).all()
        mean = loss(leaf, **options)
        assert mean.isnan()
        assert (torch.autograd.grad(mean, leaf)[0] == 0).all()
    for name, tensor in options.items():  # the control: one row counts
        tensor[0 if name != "weight" else 1] = 1
    total = penalty(leaf, reduction="sum", **options)
    assert total > 0
    assert torch.autograd.grad(total, leaf)[0][0 if how != "class weight 0" else 1].any()


@pytest.mark.parametrize("penalty", OF_BATCHES, ids=repr)
def test_a_batch_without_rows(penalty: Loss) -> None:
    """A penalty of no rows has sum 0 and mean nan."""
    assert penalty(torch.zeros(0, 4), reduction="sum") == 0
    assert penalty(torch.zeros(0, 4)).isnan()


@pytest.mark.parametrize(("floor", "classes"), [(0.01, 10), (0.05, 10), (1e-6, 50_000), (0.5, 2)])
def test_a_range_for_a_floor_guarantees_it_and_is_the_widest(floor: float, classes: int) -> None:
    """`LogitRange.for_floor` is the widest range that guarantees the floor."""
    penalty = LogitRange.for_floor(floor, num_classes=classes)
    assert penalty.width is not None
    worst = torch.full((1, classes), penalty.width, dtype=torch.float64)  # all rivals at the top
    worst[0, 0] = 0.0
    assert penalty(worst) == 0
    assert worst.softmax(1).min().item() == pytest.approx(floor, rel=1e-9)
    worst[0, 0] = -0.01
    assert penalty(worst) > 0
    assert worst.softmax(1).min().item() < floor


def test_a_range_penalty_pulls_logits_back_within_it() -> None:
    """The penalty moves logits back into the range."""
    logits = 20 * torch.randn(20, 6, dtype=torch.float64)
    pulled = logits.clone()
    penalty = LogitRange(width=3.0)
    for _ in range(300):
        leaf = pulled.requires_grad_()
        (slope,) = torch.autograd.grad(penalty(leaf, reduction="sum"), leaf)
        pulled = (leaf - 0.5 * slope).detach()
    assert (pulled.amax(1) - pulled.amin(1)).max() < 3.2


def test_matched_weight_makes_the_penalty_pull_as_hard_as_asked() -> None:
    """`matched_weight` makes the gradients equal in norm."""
    logits, target = torch.randn(50, 10, dtype=torch.float64), torch.randint(10, (50,))

    def pull(loss: Loss) -> float:
        leaf = logits.clone().requires_grad_()
        return torch.autograd.grad(loss(leaf, target), leaf)[0].norm().item()

    for penalty in (Entropy(), Gini(), Decisiveness(), LogitRange(width=1.0), Balance()):
        factor = matched_weight(CrossEntropy(), penalty, logits, target, share=0.25)
        assert pull(factor * penalty) == pytest.approx(0.25 * pull(CrossEntropy()))
    with pytest.raises(ValueError, match="penalty must have a gradient at these logits, got one of norm 0"):
        matched_weight(CrossEntropy(), LogitRange(width=1e3), logits, target)
