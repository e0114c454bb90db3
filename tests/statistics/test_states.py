"""The laws of states: any split of the classes, merged in any order, gives the same statistics."""

import inspect
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

import equipoise.statistics
from equipoise.statistics import LogOdds, Margin, Statistic
from equipoise.statistics.reference import partial
from equipoise.statistics.states import SoftTargets, StateName, merge
from support.state_laws import (
    a_masked_class_is_as_good_as_absent,
    any_split_agrees,
    arranged,
    close,
    for_each_class_is_each_class_in_turn,
    permuting_the_classes_permutes_the_gradient,
    shifting_all_logits_shifts_the_value_as_stated,
)
from support.state_samples import KINDS, OF_WHOLE_ROWS, Sample, law, samples

pytestmark = pytest.mark.slow  # samples drawn at random
SOFT = SoftTargets(torch.linspace(0.0, 1.0, 7, dtype=torch.float64))
NAMES = [
    *(
        StateName(kind)
        for kind in ("base", "max_gap", "rest_gap", "min_base", "min_exp", "sum_logit", "count")
    ),
    *(StateName(kind, scale) for kind in ("max_exp", "rest_exp") for scale in (0.5, 1.0, 2.0)),
    *(StateName(kind, SOFT) for kind in ("max_soft", "rest_soft", "max_soft_gap", "rest_soft_gap")),
]


test_any_split_agrees = law(any_split_agrees)
test_shifting_all_logits_shifts_the_value_as_stated = law(shifting_all_logits_shifts_the_value_as_stated)
test_permuting_the_classes_permutes_the_gradient = law(permuting_the_classes_permutes_the_gradient)
test_a_masked_class_is_as_good_as_absent = law(a_masked_class_is_as_good_as_absent)
test_for_each_class_is_each_class_in_turn = law(for_each_class_is_each_class_in_turn)


@settings(max_examples=50)
@given(samples())
def test_merge_is_commutative(sample: Sample) -> None:
    """Merging two parts gives the same bits in either order."""
    logits, target, runs = arranged(sample)
    soft = SoftTargets(SOFT.table[: sample.classes])
    parts = [partial(logits[:, start:stop], target, start=start).all for start, stop in runs]
    for one, two in pairwise(parts):
        for name in NAMES:
            name = StateName(name.kind, soft) if name.parameter is SOFT else name
            assert torch.equal(merge(one, two).number(name), merge(two, one).number(name)), name


@settings(max_examples=50)
@given(samples())
def test_states_relative_to_the_base_of_all_classes_add_up(sample: Sample) -> None:
    logits, target, runs = arranged(sample.of_alive())
    soft = SoftTargets(SOFT.table[: sample.classes])
    every = partial(logits, target).all
    parts = [
        partial(logits[:, i:k], target, start=i, base=every.base, min_base=every.min_base).all
        for i, k in runs
    ]
    for name in NAMES:
        name = StateName(name.kind, soft) if name.parameter is SOFT else name
        if name.kind not in ("base", "min_base"):
            added = torch.stack([part.number(name) for part in parts]).sum(0)
            close(added, every.number(name), logits)


@settings(max_examples=50)
@given(samples())
def test_a_derivative_of_a_state_is_that_of_its_sum(sample: Sample) -> None:
    """The derivatives that a kernel has, written out."""
    leaf = sample.of_alive().logits.requires_grad_()
    sums = partial(leaf).all
    gap = (leaf - sums.base[:, None]).detach()
    first, masked, e = gap == 0, leaf == -torch.inf, torch.exp(gap)
    smallest = leaf == sums.min_base[:, None]
    expected: dict[tuple[str, float | None], Tensor] = {
        ("max_exp", 2.0): 2.0 * first,
        ("rest_exp", 2.0): torch.where(first | masked, 0.0, 2 * e**2),
        ("max_gap", None): 1.0 * first,
        ("rest_gap", None): torch.where(first | masked, 0.0, (1 + gap) * e).nan_to_num(),
        ("min_exp", None): 1.0 * smallest,
        ("sum_logit", None): 1.0 * ~masked,
    }
    for (kind, parameter), derivative in expected.items():
        (grad,) = torch.autograd.grad(sums.number(StateName(kind, parameter)).sum(), leaf, retain_graph=True)
        torch.testing.assert_close(grad, derivative.double(), rtol=1e-13, atol=1e-300)


def test_every_statistic_has_its_laws_tested() -> None:
    written = {
        value
        for value in vars(equipoise.statistics).values()
        if inspect.isclass(value) and issubclass(value, Statistic) and value is not Statistic
    }
    assert {type(kind.make(2)) for kind in KINDS} | OF_WHOLE_ROWS == written


def test_samples_spread() -> None:
    """The samples have many values, extremes, orders and masked rows."""
    seen: list[Sample] = []

    @settings(max_examples=100)
    @given(samples())
    def note(sample: Sample) -> None:
        seen.append(sample)

    note()
    logits = torch.cat([sample.logits.flatten() for sample in seen])
    finite = logits[logits.isfinite()]
    assert len(finite.unique()) > 50
    assert finite.max() > 200
    assert finite.min() < -200
    assert len({sample.classes for sample in seen}) > 3
    assert max(len(sample.cuts) for sample in seen) >= 3
    assert sum(list(sample.order) != sorted(sample.order) for sample in seen) > 5
    assert any((sample.logits == -torch.inf).all(1).any() for sample in seen)


def test_a_target_is_kept_apart_where_a_statistic_needs_it() -> None:
    for kind in KINDS:
        stat = kind.make(3)
        assert stat.separates_target == (isinstance(stat, LogOdds | Margin) or "True" in kind.name)
        assert stat.reads_target >= stat.separates_target
