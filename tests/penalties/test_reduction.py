"""Penalties of rows and of batches: which rows count, and by how much."""

import pytest
import torch
from torch import Tensor

from equipoise.losses import CrossEntropy, Loss, RowLoss
from equipoise.penalties import PENALTIES, Balance
from support.definitions import TEST_CLASSES, settings_of

UNTARGETED = [loss for entry in PENALTIES for loss in settings_of(entry)]
WEIGHT = torch.tensor([0.5, 2.0, 0.25, 1.0, 3.0], dtype=torch.float64)


def name(loss: Loss) -> str:
    return repr(loss)[:40]


def make(shape: tuple[int, ...], *, soft: bool = False) -> tuple[Tensor, Tensor]:
    """Return logits that hold gradients, and targets."""
    axis = 0 if len(shape) == 1 else 1
    logits = (3 * torch.randn(shape, dtype=torch.float64)).requires_grad_()
    if soft:
        return logits, torch.randn(shape, dtype=torch.float64).softmax(axis)
    return logits, torch.randint(shape[axis], shape[:axis] + shape[axis + 1 :])


@pytest.mark.parametrize("loss", UNTARGETED, ids=name)
def test_penalties_do_not_read_the_target_but_its_rows_that_count(loss: Loss) -> None:
    logits, target = torch.randn(6, TEST_CLASSES, dtype=torch.float64), torch.randint(TEST_CLASSES, (6,))
    torch.testing.assert_close(loss(logits), loss(logits, target), rtol=1e-15, atol=0)
    target[[1, 4]] = -100
    torch.testing.assert_close(loss(logits, target), loss(logits[target != -100]), rtol=1e-14, atol=1e-16)
    weight = torch.rand(TEST_CLASSES, dtype=torch.float64)
    weighted = loss(logits, target, weight=weight)
    if isinstance(loss, RowLoss):
        kept = target != -100
        rows, counts = loss(logits[kept], reduction="none"), weight[target[kept]]
        torch.testing.assert_close(weighted, (rows * counts).sum() / counts.sum(), rtol=1e-14, atol=0)
    else:
        assert not torch.isclose(weighted, loss(logits, target))


@pytest.mark.parametrize("loss", UNTARGETED, ids=name)
def test_penalties_of_one_row_and_of_pictures(loss: Loss) -> None:
    rows = torch.randn(6, TEST_CLASSES, dtype=torch.float64)
    picture = rows.reshape(2, 3, TEST_CLASSES).movedim(-1, 1)
    torch.testing.assert_close(loss(picture), loss(rows), rtol=1e-14, atol=0)
    torch.testing.assert_close(loss(rows[0]), loss(rows[:1]), rtol=1e-14, atol=0)


def balance(logits: Tensor, share: Tensor) -> Tensor:
    """The textbook formula."""
    mean = (share[:, None] * logits.softmax(1)).sum(0)
    return torch.tensor(float(logits.shape[1])).double().log() + (mean * mean.log()).sum()


def test_balance_counts_rows_by_their_share() -> None:
    logits = torch.randn(6, 5, dtype=torch.float64)
    target = torch.tensor([0, 1, 4, 3, 4, 0])
    even = torch.full((6,), 1 / 6, dtype=torch.float64)
    kept = torch.tensor([1, 0, 1, 1, 1, 1], dtype=torch.float64)
    some = torch.where(kept > 0, target, -100)
    for ours, share, rows in (
        (Balance()(logits), even, 1),
        (Balance()(logits, target), even, 1),
        (Balance()(logits, reduction="sum"), even, 6),
        (Balance()(logits, some), kept / 5, 1),
        (Balance()(logits, some, reduction="sum"), kept / 5, 5),
        (Balance()(logits, target, weight=WEIGHT), WEIGHT[target] / WEIGHT[target].sum(), 1),
        (
            Balance()(logits, some, weight=WEIGHT, reduction="sum"),
            kept * WEIGHT[target] / (kept * WEIGHT[target]).sum(),
            (kept * WEIGHT[target]).sum(),
        ),
    ):
        torch.testing.assert_close(ours, rows * balance(logits, share), rtol=1e-13, atol=0)


def test_balance_has_no_gradient_from_ignored_rows() -> None:
    logits = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(Balance()(logits, torch.tensor([0, -100, 1, 2])), logits)
    assert (slope[1] == 0).all()
    assert (slope[0] != 0).any()


@pytest.mark.parametrize("loss", [Balance(), CrossEntropy() + 0.5 * Balance()], ids=repr)
def test_balance_cannot_be_had_row_by_row(loss: Loss) -> None:
    logits, target = make((4, 5))
    with pytest.raises(ValueError, match=r"reduction must be 'mean' or 'sum' with Balance\(\), got 'none'"):
        loss(logits, target, reduction="none")
