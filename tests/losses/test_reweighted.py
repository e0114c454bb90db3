"""`Reweighted` and `TaiLrWeight`: the gradient of a weight that is not differentiated."""

import pytest
import torch
from torch import Tensor

from equipoise.losses import DFTWeight, GammaCrossEntropy, Reweighted, TaiLrWeight

EPS = torch.finfo(torch.float64).eps


def batch(classes: int, rows: int = 40) -> tuple[Tensor, Tensor]:
    return 3 * torch.randn(rows, classes, dtype=torch.float64), torch.randint(classes, (rows,))


def tailr(logits: Tensor, target: Tensor, gamma: float, least: float) -> Tensor:
    """The weight with a stopped gradient, as published."""
    log_prob = logits.log_softmax(1).gather(1, target[:, None])[:, 0]
    with torch.no_grad():
        probs = log_prob.exp()
        weight = (probs / (gamma + (1 - gamma) * probs)).clamp(least, 1)
    return -weight * log_prob


def attached(logits: Tensor, target: Tensor, gamma: float, least: float) -> Tensor:
    """The same with a gradient through the weight, which is wrong."""
    log_prob = logits.log_softmax(1).gather(1, target[:, None])[:, 0]
    probs = log_prob.exp()
    return -(probs / (gamma + (1 - gamma) * probs)).clamp(least, 1) * log_prob


def slope(value: Tensor, logits: Tensor) -> Tensor:
    return torch.autograd.grad(value.sum(), logits)[0]


WEIGHTED = [
    pytest.param(gamma, least, id=f"{gamma:g}-{least:g}")
    for gamma in (0.0, 1e-7, 0.01, 0.1, 0.5, 0.8, 0.999, 1.0)
    for least in (0.0, 1e-3, 0.2, 0.5, 0.99, 1.0)
]


@pytest.mark.parametrize(("gamma", "least"), WEIGHTED)
def test_the_primitive_has_the_gradient_of_the_published_weight(gamma: float, least: float) -> None:
    logits, target = batch(6, rows=200)
    logits.requires_grad_()
    published = slope(tailr(logits, target, gamma, least), logits)
    for loss in (GammaCrossEntropy(gamma, least), Reweighted(TaiLrWeight(gamma, least))):
        ours = slope(loss(logits, target, reduction="none"), logits)
        torch.testing.assert_close(ours, published, rtol=1e-12, atol=1e-15)


def test_an_attached_weight_has_another_gradient() -> None:
    logits, target = batch(6, rows=200)
    logits.requires_grad_()
    published = slope(tailr(logits, target, 0.1, 0.2), logits)
    wrong = slope(attached(logits, target, 0.1, 0.2), logits)
    assert (wrong - published).abs().max() > 0.1
    shifted = slope(tailr(logits, target, 0.1, 0.2 + 1e-8), logits)
    assert (shifted - published).abs().max() > 2e-9


def test_dynamic_fine_tuning_is_gamma_one() -> None:
    logits, target = batch(6, rows=200)
    logits.requires_grad_()
    probs = logits.softmax(1).gather(1, target[:, None])[:, 0]
    published = slope(-probs.detach() * probs.log(), logits)
    for loss in (Reweighted(DFTWeight()), Reweighted(lambda p: p), GammaCrossEntropy(1.0)):
        torch.testing.assert_close(
            slope(loss(logits, target, reduction="none"), logits), published, rtol=1e-12, atol=1e-15
        )
    torch.testing.assert_close(
        GammaCrossEntropy(1.0)(logits, target, reduction="none"), 1 - probs, rtol=1e-12, atol=1e-15
    )


@pytest.mark.parametrize(("gamma", "least"), WEIGHTED)
def test_the_primitive_is_continuous_and_falls_with_the_probability(gamma: float, least: float) -> None:
    odds = torch.linspace(-60, 30, 9_001, dtype=torch.float64)
    logits = torch.stack((odds, torch.zeros_like(odds)), 1)
    loss = GammaCrossEntropy(gamma, least)(logits, torch.zeros(len(odds), dtype=torch.long), reduction="none")
    falls = loss[:-1] - loss[1:]
    assert (falls >= -4 * EPS * loss[:-1]).all()
    assert falls.max() <= 0.01 + 1e-9  # the slope in the log odds is at most 1, so there is no step
