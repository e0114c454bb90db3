"""Programs of losses: what they read at each call, and how long they are kept."""

import gc
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from equipoise import Objective
from equipoise.kernels import cpu, dense
from equipoise.losses import CrossEntropy, Focal, GammaCrossEntropy, Loss, Reweighted, TaiLrWeight
from equipoise.penalties import LogitRange
from equipoise.schedules import Linear
from equipoise.statistics.trace import trace
from support.row_samples import Written, odds_with

F64 = torch.float64

pytestmark = pytest.mark.skipif(not cpu.available(), reason="the kernel was not compiled")


@pytest.fixture(autouse=True)
def _nothing_kept() -> Iterator[None]:
    dense.forget()
    yield
    dense.forget()


class MarkerError(Exception):
    """An object that can be referred to weakly."""


class TestOptions:
    def test_a_scheduled_value_is_read_at_each_call(self) -> None:
        """A scheduled value is read in each call."""
        level = torch.tensor(0.1)
        loss = GammaCrossEntropy(level)  # pyright: ignore[reportArgumentType]
        logits, target = torch.randn(6, 5, dtype=F64), torch.arange(6) % 5
        for value in (0.1, 0.5, 1.0, 0.0):
            level.fill_(value)
            expected = GammaCrossEntropy(level.item())(logits, target)
            torch.testing.assert_close(loss(logits, target), expected, rtol=1e-14, atol=0)

    @pytest.mark.parametrize(
        ("loss", "name", "at"),
        [
            (Focal(gamma=1.0), "gamma", lambda v: Focal(gamma=v)),
            (CrossEntropy() + 0.5 * LogitRange(width=1.0), "LogitRange.width", None),
        ],
        ids=["an option", "an option of a term"],
    )
    def test_an_objective_with_a_schedule(self, loss: Loss, name: str, at: Any) -> None:
        """A scheduled objective has the loss of its current value."""
        objective = Objective(loss, schedules={name: Linear(0.0, 1.0, 10)})
        logits, target = torch.randn(6, 5) * 3, torch.arange(6) % 5
        dense.forget()
        for step in (0, 3, 7, 10):
            objective.set_step(step)
            value = objective.scheduled()[name]
            expected = at(value) if at else CrossEntropy() + 0.5 * LogitRange(width=value)
            torch.testing.assert_close(objective(logits, target), expected(logits, target))
        assert sum(key[1:3] == (5, torch.float32) for key in dense._by_value) < 8  # it was traced once

    def test_an_option_inside_an_option(self) -> None:
        """A tensor in a nested option is read in each call."""
        level, logits, target = torch.tensor(0.1), torch.randn(4, 5), torch.arange(4)
        loss = Reweighted(TaiLrWeight(gamma=level))  # pyright: ignore[reportArgumentType]
        for value in (0.1, 0.5):
            level.fill_(value)
            expected = Reweighted(TaiLrWeight(gamma=value))(logits, target)
            torch.testing.assert_close(loss(logits, target), expected)

    def test_a_tensor_from_anywhere_is_read_at_each_call(self) -> None:
        """A tensor in a closure is read in each call."""
        scale, logits, target = torch.tensor(2.0), torch.randn(4, 5), torch.arange(4)
        loss = odds_with(lambda m: m * scale)
        program = trace(loss, 5, torch.float32).program
        assert program is not None
        assert [option is scale for option in program.options] == [True]
        first = loss(logits, target)
        scale.fill_(3.0)
        torch.testing.assert_close(loss(logits, target), 1.5 * first)

    def test_a_tensor_that_is_learnt_has_its_gradient(self) -> None:
        """A learnable tensor in a closure gets its gradient."""
        scale, logits, target = torch.tensor(2.0, requires_grad=True), torch.randn(4, 5), torch.arange(4)
        loss = odds_with(lambda m: m * scale)
        value = loss(logits, target)
        (grad,) = torch.autograd.grad(value, scale)
        torch.testing.assert_close(grad, value.detach() / 2)

    def test_soft_targets_that_are_learnt_have_their_gradient(self) -> None:
        """A learnable table of soft targets gets its gradient."""
        table = torch.rand(5, 5, dtype=F64, requires_grad=True)
        loss = Written(lambda row: -row.expected_log_prob(table))
        logits, target = torch.randn(4, 5, dtype=F64), torch.tensor([0, 1, 1, 4])
        (grad,) = torch.autograd.grad(loss(logits, target, reduction="sum"), table)
        expected = torch.zeros(5, 5, dtype=F64).index_add(0, target, -logits.log_softmax(1))
        torch.testing.assert_close(grad, expected)

    def test_a_table_is_read_at_each_call(self) -> None:
        """A table is read in each call."""
        table = torch.eye(5, dtype=F64)
        loss = Written(lambda row: -row.expected_log_prob(table))
        logits, target = torch.randn(4, 5, dtype=F64), torch.arange(4)
        first = loss(logits, target)
        table.mul_(2)
        torch.testing.assert_close(loss(logits, target), 2 * first)


class TestKept:
    def test_equal_losses_share_a_program(self) -> None:
        """Equal losses share a program."""
        one, two = GammaCrossEntropy(0.0625), GammaCrossEntropy(0.0625)
        assert dense.prepared(one, 5, F64) is dense.prepared(two, 5, F64)
        assert dense.prepared(one, 5, F64) is not dense.prepared(one, 6, F64)
        assert dense.prepared(one, 5, F64) is not dense.prepared(one, 5, torch.float32)
        assert dense.prepared(one, 5, F64) is not dense.prepared(one, 5, F64, torch.ones(5))
        assert dense.prepared(one, 5, F64) is not dense.prepared(replace(one, gamma=0.063), 5, F64)

    def test_a_loss_without_a_hash_may_change(self) -> None:
        """A loss without a hash may change between calls."""

        @dataclass
        class Weight:
            power: float

            def __call__(self, p: Tensor) -> Tensor:
                return p**self.power

        weight, logits, target = Weight(1.0), torch.randn(4, 5, dtype=F64), torch.arange(4)
        loss = Reweighted(weight)
        for power in (1.0, 2.0):
            weight.power = power
            expected = Reweighted(lambda p, power=power: p**power)(logits, target)
            torch.testing.assert_close(loss(logits, target), expected, rtol=1e-14, atol=0)

    def test_many_losses_leave_little(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Many losses leave few programs in memory."""
        monkeypatch.setattr(dense, "MOST", 16)
        logits, target, seen = torch.randn(4, 3), torch.tensor([0, 1, 2, 0]), []
        for k in range(100):
            loss = Focal(gamma=1 + k / 4096)
            loss(logits, target)
            seen.append(weakref.ref(loss))
        del loss
        gc.collect()
        assert len(dense._by_value) == len(dense._by_loss) == dense.MOST
        assert [ref() is None for ref in seen] == [True] * 84 + [False] * 16

    def test_a_loss_of_the_users_dies_with_its_last_name(self) -> None:
        """A loss of the user's is freed with its last reference."""
        marker = MarkerError()
        loss = odds_with(lambda m, marker=marker: m)
        loss(torch.randn(2, 5), torch.arange(2))
        gone = weakref.ref(marker)
        del loss, marker
        dense.forget()
        gc.collect()
        assert gone() is None
