"""Numbers of a loss that are tensors with a gradient."""

from dataclasses import fields, replace
from typing import Any

import pytest
import torch

from equipoise.losses import LOSSES, GammaCrossEntropy, HierarchicalCrossEntropy, Loss, SymmetricCrossEntropy
from equipoise.penalties import PENALTIES, LogitRange
from support.definitions import TEST_CLASSES, settings_of

STEP = 1e-6
NUMBERS = [
    pytest.param(settings_of(entry)[-1], field.name, id=f"{entry.name}.{field.name}")
    for entry in (*LOSSES, *PENALTIES)
    for field in fields(entry.make)  # pyright: ignore[reportArgumentType]
    if isinstance(getattr(settings_of(entry)[-1], field.name), float)
    or (entry.make is LogitRange and field.name == "width")
]
VALUES = {
    "floor": 0.05,
    "label_smoothing": 0.3,
    "min_weight": 0.3,
    "width": 3.0,
    "high": 1.5,
    "low": -1.5,
    "log_zero": -3.0,
}


def loss_of(loss: Loss, way: str) -> torch.Tensor:
    logits = 2 * torch.randn(6, TEST_CLASSES, dtype=torch.float64)
    target = torch.randint(TEST_CLASSES, (6,))
    if way == "dense":
        return loss(logits, target)
    return loss.linear(logits.requires_grad_(), torch.eye(TEST_CLASSES, dtype=torch.float64), target)


@pytest.mark.parametrize("way", ["dense", "linear"])
@pytest.mark.parametrize(("loss", "name"), NUMBERS)
def test_the_gradient_of_a_number_is_a_finite_difference(loss: Any, name: str, way: str) -> None:
    """The gradient with respect to each option, dense and fused, is the central difference of the loss."""
    value = VALUES.get(name, 0.6)
    if isinstance(loss, GammaCrossEntropy):
        loss = GammaCrossEntropy(gamma=0.3, min_weight=0.3)
    elif isinstance(loss, SymmetricCrossEntropy):
        loss = SymmetricCrossEntropy()
    elif name == "width":
        loss = LogitRange(width=value)

    def at(number: Any) -> torch.Tensor:
        torch.manual_seed(0)
        return loss_of(replace(loss, **{name: number}), way)

    number = torch.tensor(value, dtype=torch.float64, requires_grad=True)
    if way == "linear" and isinstance(loss, HierarchicalCrossEntropy):
        with pytest.raises(
            ValueError, match=r"must need no gradient in a loss of complete rows.*pass logits"
        ):
            at(number)
        return
    (found,) = torch.autograd.grad(at(number), number)
    expected = (at(value + STEP) - at(value - STEP)) / (2 * STEP)
    assert expected != 0
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


def test_the_table_has_such_numbers() -> None:
    """Every option that is a number is among the cases."""
    assert len(NUMBERS) >= 12
    for make in {type(param.values[0]) for param in NUMBERS}:
        assert any("Tensor" in str(field.type) for field in fields(make))  # pyright: ignore[reportArgumentType]
