"""`linear.row_statistics`: statistics of rows without their logits."""

import inspect

import pytest
import torch
import torch.nn.functional as F

from equipoise import linear
from equipoise.losses import CrossEntropy
from equipoise.statistics import Entropy as EntropyStatistic
from equipoise.statistics import LogOdds, LogSumExp, row_statistics
from support.linear_cases import BOTH_WAYS, THREE, case, same


def test_rows_for_any_use() -> None:
    c = case(9, 11, 5)
    c.target[2] = 3
    advantage = torch.randn(9, dtype=torch.float64)
    row = linear.row_statistics(c.hidden, c.weight, c.target, linear_bias=c.bias, block_bytes=8 * 11 * 2)
    log_prob = F.logsigmoid(row.log_odds())
    ratio = torch.exp(log_prob - log_prob.detach())
    ours = -(torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)).sum()
    ours = ours - 0.1 * row.entropy.mean() * log_prob.std() + row.lse().square().mean() + row.largest.sum()
    logits = c.logits()
    dense = logits.log_softmax(1).gather(1, c.target[:, None])[:, 0]
    entropy = -(logits.softmax(1) * logits.log_softmax(1)).sum(1)
    ratio = torch.exp(dense - dense.detach())
    theirs = -(torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)).sum()
    theirs = (
        theirs
        - 0.1 * entropy.mean() * dense.std()
        + logits.logsumexp(1).square().mean()
        + logits.amax(1).sum()
    )
    same(c, ours, theirs)
    torch.testing.assert_close(row.smallest, logits.amin(1))
    torch.testing.assert_close(row.mean_logit, logits.mean(1))
    assert torch.equal(row.class_count, torch.full((9,), 11.0, dtype=torch.float64))
    torch.testing.assert_close(THREE.of(row), THREE(logits, c.target, reduction="none"))


@BOTH_WAYS
def test_metrics_of_rows_need_no_logits() -> None:
    c = case(40, 11, 5)
    c.target[2] = 3
    row = linear.row_statistics(c.hidden, c.weight, c.target, linear_bias=c.bias)
    order = c.logits().argsort(1, descending=True)
    place = (order == c.target[:, None]).int().argmax(1)
    assert torch.equal(row.rank, place.double())
    assert torch.equal(row.correct, c.logits().argmax(1) == c.target)
    assert 0 < row.correct.sum() < 40
    assert not row.rank.requires_grad


def test_rows_answer_what_was_asked_for_alone() -> None:
    c = case(bias=False)
    row = linear.row_statistics(c.hidden, c.weight, c.target, stats=[LogOdds(2.0), EntropyStatistic()])
    same(c, row.log_odds(2.0).sum(), row_statistics(c.logits(), c.target.clamp(min=0)).log_odds(2.0).sum())
    with pytest.raises(
        ValueError, match=r"stats must hold LogSumExp\(scale=1.0\) for it to be asked, got LogOdds"
    ):
        row.lse()
    assert LogSumExp() in linear.STATS


def test_the_options_that_rows_shares_with_a_loss() -> None:
    of_rows, of_losses = (
        inspect.signature(each).parameters for each in (linear.row_statistics, CrossEntropy.linear)
    )
    shared = {name for name, one in of_rows.items() if name in of_losses and one.kind is one.KEYWORD_ONLY}
    assert shared == {*linear.ROW_OPTIONS, "linear_bias", "weight"}
