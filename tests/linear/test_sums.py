"""Sums of losses in every order are the same on logits and fused."""

import itertools
import random

import pytest
import torch

from equipoise.losses import LOSSES, Brier, Loss, RankedProbabilityScore, RowLoss
from equipoise.penalties import PENALTIES, Gini
from support.definitions import settings_of
from support.linear_cases import BOTH_WAYS, case, same

pytestmark = pytest.mark.slow  # each pair of losses

ENTRIES = [
    settings_of(entry)[0] for entry in LOSSES + PENALTIES if isinstance(settings_of(entry)[0], RowLoss)
]


def check(loss: Loss, *, soft: bool) -> None:
    torch.manual_seed(0)
    c = case(5)
    target = torch.rand_like(c.logits()).softmax(1).detach() if soft else c.target
    dense = loss(c.logits(), target)
    for grad in ("auto", "recompute"):
        for block_bytes in (None, 200):
            fused = loss.linear(
                c.hidden, c.weight, target, linear_bias=c.bias, grad=grad, block_bytes=block_bytes
            )
            same(c, fused, dense, rounds=4096)


@BOTH_WAYS
@pytest.mark.parametrize("one", ENTRIES, ids=lambda loss: type(loss).__name__)
def test_sums_of_two(one: RowLoss) -> None:
    """The fused sum of any two losses is the dense one."""
    for two in ENTRIES:
        check(one + 0.3 * two, soft=False)


@BOTH_WAYS
def test_sums_of_three_and_soft_targets() -> None:
    chosen = random.Random(0).sample(list(itertools.permutations(ENTRIES, 3)), 60)
    for index, (one, two, three) in enumerate(chosen):
        check(0.5 * one - 0.25 * two + three, soft=index % 3 == 0)


def test_the_page_of_sums() -> None:
    check(RankedProbabilityScore() + 0.3 * Gini(), soft=False)
    check(Gini() + 0.3 * RankedProbabilityScore() + Brier(), soft=False)


def test_a_sum_that_is_another_is_found() -> None:
    c = case(5)
    ours = c.fused(RankedProbabilityScore() + 0.3 * Gini())
    with pytest.raises(AssertionError):
        same(c, ours, (RankedProbabilityScore() + 0.301 * Gini())(c.logits(), c.target), rounds=4096)
