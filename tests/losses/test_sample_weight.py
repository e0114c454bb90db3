"""A row's weight: a whole number counts as the row that often, in every loss and penalty."""

import pytest
import torch
from torch import Tensor

from equipoise.losses import LOSSES, CrossEntropy, Loss
from equipoise.penalties import PENALTIES, Balance
from support.definitions import settings_of

ALL = [settings_of(entry)[0] for entry in (*LOSSES, *PENALTIES)]
C, EPS = 8, torch.finfo(torch.float64).eps


def rows() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return logits, targets, whole weights with a zero among them, and the rows as often as these say."""
    logits, target = 3 * torch.randn(6, C, dtype=torch.float64), torch.randint(C, (6,))
    times = torch.tensor([2, 0, 1, 3, 1, 1])
    return logits, target, times, torch.arange(6).repeat_interleave(times)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("loss", [*ALL, CrossEntropy() + 0.5 * Balance()], ids=lambda loss: repr(loss)[:40])
def test_a_weight_is_a_count(loss: Loss, reduction: str) -> None:
    """An integer weight equals the row repeated."""
    logits, target, times, often = rows()
    weight = torch.rand(C, dtype=torch.float64)
    options = {"weight": weight, "ignore_index": int(target[-1]), "reduction": reduction}
    found = loss(logits, target, sample_weight=times.double(), **options)
    expected = loss(logits[often], target[often], **options)
    torch.testing.assert_close(found, expected, rtol=64 * EPS, atol=64 * EPS)
    assert not torch.isclose(found, loss(logits, target, **options), rtol=1e-6)  # the control


@pytest.mark.parametrize("loss", [CrossEntropy(), Balance()])
def test_with_target_probabilities_and_more_dimensions(loss: Loss) -> None:
    """Weights act alike for soft targets and more dimensions."""
    logits, _, times, often = rows()
    soft = torch.rand(6, C, dtype=torch.float64)
    expected = loss(logits[often], soft[often])
    torch.testing.assert_close(
        loss(logits, soft, sample_weight=times), expected, rtol=64 * EPS, atol=64 * EPS
    )
    folded = [each.reshape(2, 3, C).movedim(-1, 1) for each in (logits, soft)]
    found = loss(*folded, sample_weight=times.reshape(2, 3))
    torch.testing.assert_close(found, expected, rtol=64 * EPS, atol=64 * EPS)


def test_unreduced() -> None:
    """Without a reduction each row's loss is multiplied by its weight."""
    logits, target, times, _ = rows()
    found = CrossEntropy()(logits, target, sample_weight=times, reduction="none")
    assert torch.equal(found, times * CrossEntropy()(logits, target, reduction="none"))
