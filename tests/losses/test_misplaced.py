"""A class in place of a loss, and logits in place of options: the error says what to write."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from equipoise import Objective, losses
from equipoise.losses import LOSSES, CrossEntropy, Focal, HierarchicalCrossEntropy, Reweighted, TaiLrWeight
from equipoise.maps import Clipped, Entmax, Floored, Projected, Softmax
from equipoise.penalties import PENALTIES, Entropy, LogitRange, matched_weight
from support.definitions import settings_of

ALL = [loss for entry in (*LOSSES, *PENALTIES) for loss in settings_of(entry)]
MAKES: list[Any] = [entry.make for entry in (*LOSSES, *PENALTIES)]


def rows(count: int = 6, classes: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(count, classes, dtype=torch.float64, generator=generator)
    return logits, torch.randint(classes, (count,), generator=generator)


class TestClassInPlaceOfALoss:
    @pytest.mark.parametrize("make", MAKES, ids=lambda make: make.__name__)
    @pytest.mark.parametrize(
        "call",
        [
            lambda make: 0.1 * make,
            lambda make: make * 0.1,
            lambda make: np.float32(0.1) * make,
            lambda make: np.array(0.1) * make,
            lambda make: torch.tensor(0.1) * make,
            lambda make: make / 2,
            lambda make: -make,
            lambda make: CrossEntropy() + make,
            lambda make: make + CrossEntropy(),
            lambda make: CrossEntropy() - make,
            lambda make: (CrossEntropy() + Entropy()) - make,
            lambda make: make - CrossEntropy(),
            lambda make: make + make,
            lambda make: sum([make, make]),
        ],
    )
    def test_arithmetic_says_call_it(self, make: Any, call: Callable[[Any], Any]) -> None:
        name = make.__name__
        with pytest.raises(TypeError, match=rf"got the class {name}; write {name}\(\)$"):
            call(make)

    def test_a_class_of_ones_own_too(self) -> None:
        class Own(losses.RowLoss):
            def per_row(self, row: Any, /) -> Tensor:
                return row.entropy

        with pytest.raises(TypeError, match=r"got the class Own; write Own\(\)"):
            CrossEntropy() + Own  # pyright: ignore[reportOperatorIssue, reportUnusedExpression]

    @pytest.mark.parametrize(
        "call",
        [
            Objective,
            Objective.from_config,
            lambda make: matched_weight(make, Entropy(), *rows()),
            lambda make: matched_weight(CrossEntropy(), make, *rows()),
        ],
    )
    def test_who_takes_a_loss_says_call_it(self, call: Callable[[Any], Any]) -> None:
        with pytest.raises(TypeError, match=r"must be a loss of equipoise, got <class .*; write Focal\(\)$"):
            call(Focal)


class TestLogitsInPlaceOfOptions:
    @pytest.mark.parametrize("make", MAKES, ids=lambda make: make.__name__)
    def test_no_loss_can_be_made_of_logits_and_a_target(self, make: Any) -> None:
        logits, target = rows()
        for given in ((logits, target), (logits,), (target,), (logits[:, 0],), (logits[:1, 0],)):
            with pytest.raises((TypeError, ValueError)) as caught:
                make(*given)
            said = str(caught.value)
            assert "make it first" in said or "positional argument" in said or "(C, C)" in said

    @pytest.mark.parametrize(
        ("loss", "option"),
        [
            (loss, field.name)
            for loss in (*ALL, LogitRange(low=-1.0, high=1.0))
            for field in fields(loss)  # pyright: ignore[reportArgumentType]
            if isinstance(getattr(loss, field.name), (int, float))
        ],
        ids=lambda each: each if isinstance(each, str) else repr(each)[:40],
    )
    def test_an_option_takes_no_tensor_but_a_scheduled_number(self, loss: Any, option: str) -> None:
        value = getattr(loss, option)
        given = {field.name: getattr(loss, field.name) for field in fields(loss)}
        for wrong in (torch.full((6, 8), 0.5), torch.ones(1), torch.zeros(6, dtype=torch.long)):
            with pytest.raises(TypeError, match=rf"{option} must be no tensor, got .* make it first"):
                type(loss)(**given | {option: wrong})
        if option != "num_classes":
            scheduled = type(loss)(**given | {option: torch.tensor(float(value), dtype=torch.float64)})
            logits, target = rows()
            torch.testing.assert_close(scheduled(logits, target), loss(logits, target))

    def test_a_weight_of_rows_too(self) -> None:
        for make in (TaiLrWeight, Reweighted, HierarchicalCrossEntropy):
            with pytest.raises(TypeError, match=r"got one of shape \(6, 8\); make it first, then call it"):
                make(rows()[0])  # pyright: ignore[reportArgumentType]

    @pytest.mark.parametrize("make", [Floored, Softmax, Projected, Clipped, Entmax])
    def test_a_map_too(self, make: Any) -> None:
        """A map that is given logits instead of options says to make it first."""
        with pytest.raises(TypeError, match=r"must be no tensor, got one of shape \(4, 3\); make it first"):
            make(torch.zeros(4, 3))
