"""Merges and statistics with a planted fault are found by the laws of states."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import pytest
import torch
from torch import Tensor

from equipoise.statistics import (
    Entropy,
    ExpectedLogProb,
    LogSumExp,
    LogSumExpGap,
    MeanLogit,
    Smallest,
    Statistic,
    reference,
)
from equipoise.statistics.base import Compute
from equipoise.statistics.states import RowStates, SoftTargets, StateName, Sums, merge
from support.state_laws import (
    Merge,
    a_masked_class_is_as_good_as_absent,
    added,
    any_split_agrees,
    for_each_class_is_each_class_in_turn,
    permuting_the_classes_permutes_the_gradient,
    shifting_all_logits_shifts_the_value_as_stated,
    soft_of,
)
from support.state_samples import Kind, Sample, finds

pytestmark = pytest.mark.slow  # samples drawn at random


def changed(kind: str, make: Callable[[Sums, Sums, StateName], Any]) -> Merge:
    """Return a merge that is wrong in one number."""

    def wrong(one: Sums, two: Sums) -> Sums:
        right = merge(one, two)
        return Sums(lambda name: make(one, two, name) if name.kind == kind else right.number(name))

    return wrong


def second(one: Sums, two: Sums, name: StateName) -> Any:
    return two.number(name)


ONES = torch.ones(7, dtype=torch.float64)
FAULTY_MERGES = {
    "it forgets the factor": (LogSumExp(), changed("rest_exp", added)),
    "it forgets the factor of gaps": (Entropy(), changed("rest_gap", added)),
    "it counts who does not lead": (LogSumExpGap(), changed("max_exp", added)),
    "it takes the second base": (LogSumExp(), changed("base", second)),
    "it takes the second smallest": (Smallest(), changed("min_base", second)),
    "it adds those that are not the smallest": (Smallest(), changed("min_exp", added)),
    "it forgets a sum": (MeanLogit(), changed("sum_logit", second)),
    "it forgets the shift of soft targets": (ExpectedLogProb(ONES), changed("rest_soft_gap", added)),
    "it adds what exceeds 1": (
        LogSumExp(),
        lambda one, two: Sums(merge(one, two).number, lambda c: one.excess_exp(c) + two.excess_exp(c)),
    ),
}


def of_size(stat: Statistic) -> Callable[[int], Statistic]:
    table = soft_of(stat)
    return (lambda n: stat) if table is None else (lambda n: ExpectedLogProb(table[:n]))


@pytest.mark.parametrize("fault", FAULTY_MERGES)
def test_a_merge_that_is_wrong_is_found(fault: str) -> None:
    stat, wrong = FAULTY_MERGES[fault]
    kind = Kind("planted", of_size(stat))
    assert finds(lambda kind, sample: any_split_agrees(kind, sample, wrong), kind)


@final
@dataclass(frozen=True)
class Faulty(Statistic):
    """A log-sum-exp, or log odds, with something wrong."""

    change: Callable[[RowStates], Tensor] = lambda states: torch.zeros(1)
    reads_target: bool = False

    def finalize(self, states: RowStates, /) -> Tensor:
        return LogSumExp().finalize(states) + self.change(states)

    def for_each_class(self, logits: Tensor, compute: Compute, /) -> Tensor:
        return compute(self, logits, logits.argmax(1))[:, None].expand_as(logits) + 1


RANKED = torch.arange(7.0, dtype=torch.float64)


@pytest.mark.parametrize(
    ("make", "run"),
    [
        (lambda n: Faulty(lambda states: states.all.base), shifting_all_logits_shifts_the_value_as_stated),
        (
            lambda n: Faulty(lambda states: states.all.max_soft(SoftTargets(RANKED[:n]))),
            permuting_the_classes_permutes_the_gradient,
        ),
        (lambda n: MeanLogit(), a_masked_class_is_as_good_as_absent),
        (lambda n: Faulty(reads_target=True), for_each_class_is_each_class_in_turn),
    ],
    ids=["shift", "permutation", "mask", "each class"],
)
def test_a_statistic_that_is_wrong_is_found(
    make: Callable[[int], Statistic], run: Callable[[Kind, Sample], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not finds(run, Kind("sound", lambda n: LogSumExp(), shift=1))
    if run is a_masked_class_is_as_good_as_absent:
        monkeypatch.setattr(reference, "_Dense", CountsMasked)
    assert finds(run, Kind("planted", make, shift=1))


class CountsMasked(reference._Dense):
    """Sums in which masked classes count."""

    def read(self, name: StateName) -> Tensor:
        if name.kind == "count":
            return torch.full_like(self._base, self._logits.shape[1])
        return super().read(name)
