"""The samples with which torch tests `linear_cross_entropy`, computed by the fused losses.

They are those of torch's tables of operators and of modules in torch 2.13.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db

from equipoise.losses import CrossEntropy
from support.torch_results import ROUNDINGS, WIDE, distance, results

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Case:
    """One call of `F.linear_cross_entropy`."""

    hidden: Tensor
    weight: Tensor
    target: Tensor
    bias: Tensor | None
    options: dict[str, Any]

    @property
    def leaves(self) -> list[Tensor]:
        return [part for part in (self.hidden, self.weight, self.bias) if part is not None]


def case_of(hidden: Tensor, weight: Tensor, target: Tensor, bias: Tensor | None, options: Any) -> Case:
    """Return a case; how torch is to chunk it is left out, and the gradient of target probabilities."""
    kept = {name: value for name, value in options.items() if name != "options"}
    target = target.detach()
    if target.is_floating_point() and kept.get("label_smoothing"):
        # torch adds the smoothing whatever the target is, ours is the expectation over it: alike where
        # probabilities sum to one
        target = target / target.sum(min(1, hidden.ndim - 1), keepdim=True)
    return Case(hidden, weight, target, bias, kept)


def operator_cases(dtype: torch.dtype) -> list[Case]:
    cases = []
    for info in op_db:
        if info.name == "nn.functional.linear_cross_entropy":
            for sample in info.sample_inputs("cpu", dtype, requires_grad=True):
                options = dict(sample.kwargs)
                weight, target = sample.args
                cases.append(case_of(sample.input, weight, target, options.pop("linear_bias", None), options))
    return cases


def module_cases(dtype: torch.dtype) -> list[Case]:
    (info,) = [info for info in module_db if info.module_cls is torch.nn.LinearCrossEntropyLoss]
    cases = []
    for sample in info.module_inputs_func(info, "cpu", dtype, requires_grad=True, training=True):
        of = sample.constructor_input
        module = torch.nn.LinearCrossEntropyLoss(*of.args, **{**of.kwargs, "options": None})
        weight, *bias = [part.detach() for part in module.parameters()]
        shape = (module.num_classes, *module.out_features)
        weight = weight.reshape(*shape, -1).requires_grad_()
        made = bias[0].reshape(shape).requires_grad_() if bias else None
        names = ("weight", "reduction", "ignore_index", "label_smoothing")
        options = {name: getattr(module, name) for name in names}
        cases.append(
            case_of(sample.forward_input.args[0], weight, sample.forward_input.args[1], made, options)
        )
    return cases


def expressible(case: Case) -> bool:
    """Whether the head is a matrix; torch has heads with a class axis and others, for dense prediction."""
    return case.weight.ndim == 2


def torchs(case: Case) -> tuple[Tensor, ...]:
    value = F.linear_cross_entropy(
        case.hidden, case.weight, case.target, linear_bias=case.bias, **case.options
    )
    return results(value, case.leaves)


def ours(case: Case, **how: Any) -> tuple[Tensor, ...]:
    options = {name: value for name, value in case.options.items() if value is not None}
    loss = CrossEntropy(label_smoothing=options.pop("label_smoothing", 0.0))
    value = loss.linear(case.hidden, case.weight, case.target, linear_bias=case.bias, **options, **how)
    return results(value, case.leaves)


def roundings(cases: Sequence[Case], dtype: torch.dtype, of: Callable[[Case], tuple[Tensor, ...]]) -> float:
    return max(distance(of(case), torchs(case)) for case in cases) / torch.finfo(dtype).eps


@cache
def samples(table: str, dtype: torch.dtype) -> list[Case]:
    """Return all samples of a table; the random numbers are torch's own, seeded for each test."""
    torch.manual_seed(0)
    return operator_cases(dtype) if table == "operators" else module_cases(dtype)


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize(
    ("table", "count", "left_out"), [("operators", 329, 141), ("modules", 857, 373)], ids=["ops", "modules"]
)
@pytest.mark.parametrize(
    "how", [{}, {"grad": "recompute"}, {"block_bytes": 1}], ids=["auto", "recompute", "row-blocks"]
)
def test_samples_give_what_torch_gives(
    table: str, count: int, left_out: int, dtype: torch.dtype, how: dict[str, Any]
) -> None:
    cases = samples(table, dtype)
    run = [case for case in cases if expressible(case)]
    assert len(cases) == count
    assert len(run) == count - left_out
    assert roundings(run, dtype, lambda case: ours(case, **how)) <= ROUNDINGS


@pytest.mark.parametrize("table", ["operators", "modules"])
def test_samples_left_out_have_a_head_of_more_dimensions(table: str) -> None:
    for case in samples(table, torch.float64):
        torchs(case)  # it is a call that torch takes
        if expressible(case):
            continue
        assert case.weight.ndim > 2
        with pytest.raises(ValueError, match=r"weight must be \(V, D\)"):
            ours(case)


def test_samples_are_of_every_sort() -> None:
    cases = [case for table in ("operators", "modules") for case in samples(table, torch.float64)]
    cases = [case for case in cases if expressible(case)]
    soft = [case for case in cases if case.target.is_floating_point()]
    assert 50 < len(soft) < len(cases) - 50
    assert {case.hidden.ndim for case in cases} == {1, 2}
    assert {case.options.get("reduction", "mean") for case in cases} == {"mean", "sum", "none"}
    for option in ("weight", "ignore_index", "label_smoothing"):
        assert sum(bool(case.options.get(option) is not None) for case in cases) >= 10, option
    assert sum(case.bias is not None for case in cases) >= 10
    ignored = [
        case.target == case.options["ignore_index"] for case in cases if case.options.get("ignore_index")
    ]
    assert sum(bool(each.any()) for each in ignored) >= 10
    assert sum(bool(each.all()) for each in ignored) >= 10


def wrong_smoothing(case: Case) -> Case:
    return replace(case, options={**case.options, "label_smoothing": 1e-9})


def wrong_ignored(case: Case) -> Case:
    ignored = case.options.get("ignore_index")
    return replace(case, options={**case.options, "ignore_index": -100 if ignored is None else ignored + 1})


def wrong_weight(case: Case) -> Case:
    return replace(case, options={**case.options, "weight": None})


def wrong_reduction(case: Case) -> Case:
    of = {"mean": "sum", "sum": "mean", "none": "none"}
    return replace(case, options={**case.options, "reduction": of[case.options.get("reduction", "mean")]})


@pytest.mark.parametrize("table", ["operators", "modules"])
@pytest.mark.parametrize("fault", [wrong_smoothing, wrong_ignored, wrong_weight, wrong_reduction])
def test_a_fault_is_found(table: str, fault: Callable[[Case], Case]) -> None:
    def takes(case: Case) -> bool:
        soft = case.target.is_floating_point() or case.hidden.ndim == 1
        inside = 0 <= (case.options.get("ignore_index") or 0) + 1 < len(case.weight)
        return expressible(case) and not soft and (fault is not wrong_ignored or inside)

    cases = [case for case in samples(table, torch.float64) if takes(case)]
    assert roundings(cases, torch.float64, lambda case: ours(fault(case))) > 1e5


@pytest.mark.parametrize("dtype", WIDE)
def test_a_wrong_gradient_is_found(dtype: torch.dtype) -> None:
    def off(case: Case) -> tuple[Tensor, ...]:
        value, *slopes = ours(case)
        return value, *(slope * (1 + 64 * torch.finfo(dtype).eps) for slope in slopes)

    cases = [case for case in samples("operators", dtype) if expressible(case)]
    assert roundings(cases, dtype, off) > ROUNDINGS


def test_what_torch_refuses_is_refused() -> None:
    (info, *_) = [info for info in op_db if info.name == "nn.functional.linear_cross_entropy"]
    wrong = [error.sample_input for error in info.error_inputs("cpu")]
    assert len(wrong) == 6
    for sample in wrong:
        options = dict(sample.kwargs)
        weight, target = sample.args
        case = Case(sample.input, weight, target, options.pop("linear_bias", None), options)
        with pytest.raises(ValueError, match="must"):
            ours(case)
    case = samples("operators", torch.float64)[0]
    ours(case)  # the control: the same call on a sample
