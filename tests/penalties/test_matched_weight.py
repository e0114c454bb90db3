"""`matched_weight`: a penalty of a gate that pulls as hard as the loss of the model."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from equipoise.losses import CrossEntropy, Loss
from equipoise.penalties import Balance, Entropy, Gini, LogitRange, matched_weight


def rows(count: int = 6, classes: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(count, classes, dtype=torch.float64, generator=generator)
    return logits, torch.randint(classes, (count,), generator=generator)


class TestGate:
    """A gate has logits and no target; the loss is that of the whole model."""

    @pytest.mark.parametrize(
        "penalty", [Entropy(), Entropy() + Balance(), Gini(), LogitRange(width=0.1)], ids=repr
    )
    @pytest.mark.parametrize("share", [1.0, 0.1])
    def test_the_penalty_pulls_at_the_gate_as_hard_as_asked(self, penalty: Loss, share: float) -> None:
        inputs, sections = torch.randn(16, 3).double(), torch.randn(16, 4).double()
        layer = torch.nn.Linear(3, 4).double()
        gate = layer(inputs)  # no leaf, as in a model
        value = ((gate.softmax(1) * sections).sum(1) ** 2).mean()
        factor = matched_weight(value, penalty, gate, share=share)
        pulls = [
            torch.autograd.grad(each, gate, retain_graph=True)[0].norm()
            for each in (value, factor * penalty(gate))
        ]
        torch.testing.assert_close(pulls[1], share * pulls[0], rtol=1e-12, atol=0)
        (value + factor * penalty(gate)).backward()  # the graph is kept
        assert layer.weight.grad is not None
        assert layer.weight.grad.isfinite().all()

    def test_a_value_and_a_loss_agree(self) -> None:
        logits, target = rows()
        leaf = logits.clone().requires_grad_()
        of_value = matched_weight(CrossEntropy()(leaf, target), Entropy(), leaf, share=0.3)
        assert of_value == matched_weight(CrossEntropy(), Entropy(), logits, target, share=0.3)
        other = matched_weight(3 * CrossEntropy()(leaf, target), Entropy(), leaf, share=0.3)
        assert other == pytest.approx(3 * of_value, rel=1e-12)

    @pytest.mark.parametrize(
        ("value", "says"),
        [
            (lambda gate: gate.softmax(1).sum(1), "loss must be one number, got a value of shape (6,)"),
            (lambda gate: gate.detach().sum(), "loss must be computed from the logits"),
            (lambda gate: torch.ones((), requires_grad=True) * 2, "loss must be computed from the logits"),
            (
                lambda gate: gate.detach().clone().requires_grad_().sum(),
                "loss must be computed from the logits",
            ),
            (lambda gate: (gate * 0).sum(), "loss must pull at these logits, got a gradient of norm 0.0"),
            (
                lambda gate: (gate * torch.nan).sum(),
                "loss must pull at these logits, got a gradient of norm nan",
            ),
        ],
    )
    def test_what_is_no_value_of_the_gate_is_refused(
        self, value: Callable[[Tensor], Tensor], says: str
    ) -> None:
        gate = rows()[0].requires_grad_()
        with pytest.raises(ValueError, match=re.escape(says)):
            matched_weight(value(gate), Entropy(), gate)
        with pytest.raises(TypeError, match="penalty must be a loss of equipoise, got tensor"):
            matched_weight(CrossEntropy(), gate.sum(), gate.detach(), rows()[1])  # pyright: ignore[reportArgumentType]
