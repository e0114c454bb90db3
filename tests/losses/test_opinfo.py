"""torch's own samples for cross entropy: values and gradients are torch's.

No sample is left out. The numbers of samples are those of torch 2.13.
"""

from dataclasses import dataclass
from typing import Any, final

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db

from equipoise.losses import CrossEntropy, Focal, GammaCrossEntropy, Loss, RowLoss
from equipoise.statistics import RowStatistics

SAME = [CrossEntropy(), GammaCrossEntropy(gamma=0.0), Focal(gamma=0.0)]
WIDE = [torch.float64, torch.float32]
HALF = [torch.bfloat16, torch.float16]

# In eps of the largest number in the result, or of 1. torch subtracts a log-sum-exp from logits of up to 9,
# which alone costs it 8 eps of 1; the rest is for sums over up to 100 rows. 2.4 were seen.
ROUNDINGS = 16


@dataclass(frozen=True)
class Case:
    """One call of `F.cross_entropy`."""

    logits: Tensor
    target: Tensor
    options: dict[str, Any]

    def to(self, dtype: torch.dtype) -> "Case":
        """Return the same call on other floating tensors."""

        def cast(value: Any) -> Any:
            floating = isinstance(value, Tensor) and value.is_floating_point()
            return value.detach().to(dtype) if floating else value

        options = {name: cast(value) for name, value in self.options.items()}
        return Case(cast(self.logits).requires_grad_(), cast(self.target), options)


def operator_cases(dtype: torch.dtype) -> list[Case]:
    (info,) = [info for info in op_db if info.name == "nn.functional.cross_entropy"]
    samples = info.sample_inputs("cpu", dtype, requires_grad=True)
    return [Case(sample.input, sample.args[0], dict(sample.kwargs)) for sample in samples]


def module_cases(dtype: torch.dtype) -> list[Case]:
    (info,) = [info for info in module_db if info.module_cls is torch.nn.CrossEntropyLoss]
    samples = info.module_inputs_func(info, "cpu", dtype, requires_grad=True, training=True)
    return [Case(*sample.forward_input.args, dict(sample.constructor_input.kwargs)) for sample in samples]


def same_as(case: Case) -> list[Loss]:
    """Return the losses that should do what torch does."""
    smoothing = case.options.get("label_smoothing", 0.0)
    return [CrossEntropy(label_smoothing=smoothing), *([] if smoothing else SAME[1:])]


def results(value: Tensor, case: Case) -> tuple[Tensor, ...]:
    """Return the value and the gradients of a weighted sum of the losses."""
    weights = 1 + torch.arange(value.numel(), dtype=value.dtype).reshape(value.shape) / 8
    leaves = [leaf for leaf in (case.logits, case.target) if leaf.requires_grad]
    logits, *target = torch.autograd.grad((value * weights).sum(), leaves)
    if target and case.options.get("label_smoothing"):
        # torch's smoothing does not depend on the target, ours is the expectation over it: alike where
        # probabilities sum to one, so the gradients agree along that plane and differ by a constant across it
        target = [target[0] - target[0].mean(0 if logits.ndim == 1 else 1, keepdim=True)]
    return value, logits, *target


def ours(loss: Loss, case: Case) -> tuple[Tensor, ...]:
    options = {name: value for name, value in case.options.items() if name != "label_smoothing"}
    return results(loss(case.logits, case.target, **options), case)


def torchs(case: Case) -> tuple[Tensor, ...]:
    return results(F.cross_entropy(case.logits, case.target, **case.options), case)


def roundings(loss: Loss, case: Case) -> float:
    """Distance of value or gradients from torch's, in eps of the largest number of each or of 1."""
    worst = 0.0
    for mine, theirs in zip(ours(loss, case), torchs(case), strict=True):
        assert mine.shape == theirs.shape
        assert mine.dtype == theirs.dtype == case.logits.dtype
        assert torch.equal(mine.isnan(), theirs.isnan())
        size = torch.finfo(theirs.dtype).eps * (1 + theirs.nan_to_num().abs().max())
        worst = max(worst, ((mine - theirs).nan_to_num().abs().max() / size).item())
    return worst


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("loss", SAME, ids=repr)
def test_operator_samples_give_what_torch_gives(loss: Loss, dtype: torch.dtype) -> None:
    """Torch's operator samples give torch's values and gradients."""
    cases = operator_cases(dtype)
    assert len(cases) == 21
    assert max(roundings(loss, case) for case in cases) <= ROUNDINGS


@pytest.mark.parametrize("dtype", WIDE)
def test_module_samples_give_what_torch_gives(dtype: torch.dtype) -> None:
    """Torch's module samples give torch's values and gradients."""
    cases = module_cases(dtype)
    assert len(cases) == 105
    assert max(roundings(loss, case) for case in cases for loss in same_as(case)) <= ROUNDINGS


def test_samples_are_of_every_sort() -> None:
    """The samples include soft targets, weights and each shape."""
    cases = operator_cases(torch.float64) + module_cases(torch.float64)
    soft = [case for case in cases if case.target.is_floating_point()]
    assert 30 < len(soft) < len(cases) - 30
    assert {case.logits.ndim for case in cases} >= {1, 2, 3, 4, 5}
    assert {case.options.get("reduction", "mean") for case in cases} == {"mean", "sum", "none"}
    for option in ("weight", "ignore_index", "label_smoothing"):
        assert sum(option in case.options for case in cases) >= 10, option
    assert any(
        (case.target == case.options["ignore_index"]).any()
        for case in cases
        if "ignore_index" in case.options
    )
    assert any(case.target.requires_grad for case in soft)


@final
@dataclass(frozen=True)
class IgnoresClassWeights(RowLoss):
    applies_class_weight = True

    def per_row(self, row: RowStatistics, /) -> Tensor:
        return CrossEntropy().per_row(RowStatistics(row.compute, num_classes=row.num_classes))


@final
@dataclass(frozen=True)
class WrongSlope(RowLoss):
    def per_row(self, row: RowStatistics, /) -> Tensor:
        odds = row.log_odds()
        return -F.logsigmoid(odds) + 1e-9 * (odds - odds.detach())


@pytest.mark.parametrize(
    "fault", [Focal(gamma=1e-9), CrossEntropy(label_smoothing=1e-9), IgnoresClassWeights(), WrongSlope()]
)
def test_a_small_fault_is_found(fault: Loss) -> None:
    """A small fault is found by the samples."""
    assert max(roundings(fault, case) for case in operator_cases(torch.float64)) > ROUNDINGS
    unsmoothed = [case for case in module_cases(torch.float64) if not case.options.get("label_smoothing")]
    assert max(roundings(fault, case) for case in unsmoothed) > ROUNDINGS


def on_a_grid(target: Tensor) -> Tensor:
    """Return probabilities as sixteenths, which sum to one in half precision too."""
    if not target.is_floating_point():
        return target
    axis = 0 if target.ndim == 1 else 1
    parts = (target.double().clamp(0, 1) * 16 / target.shape[axis]).floor() / 16
    first = torch.zeros_like(parts)
    first.select(axis, 0).copy_(1 - parts.sum(axis))
    return (parts + first).to(target.dtype)


def worse_than_torch(loss: Loss, case: Case) -> bool:
    """Whether some number lies further from float64 than torch's does, beyond a rounding in float32."""
    slack = ROUNDINGS * torch.finfo(torch.float32).eps
    exact = torchs(case.to(torch.float64))
    for mine, theirs, true in zip(ours(loss, case), torchs(case), exact, strict=False):
        allowed = (theirs - true).nan_to_num().abs() + slack * true.nan_to_num().abs().max()
        if not ((mine - true).nan_to_num().abs() <= allowed).all():
            return True
    return False


@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_is_no_worse_than_torch(dtype: torch.dtype) -> None:
    """In half precision, the result is no worse than torch's."""
    cases = operator_cases(dtype) + module_cases(dtype)
    assert len(cases) == 126
    for case in cases:
        case = Case(case.logits, on_a_grid(case.target.detach()), case.options)
        for loss in same_as(case):
            value, slope = ours(loss, case)
            assert value.dtype == torch.float32
            assert slope.dtype == dtype
            assert not worse_than_torch(loss, case), (loss, case)


@final
@dataclass(frozen=True)
class InHalf(RowLoss):
    """Statistics rounded to half precision."""

    dtype: torch.dtype

    def per_row(self, row: RowStatistics, /) -> Tensor:
        return -F.logsigmoid(row.log_odds().to(self.dtype)).float()


@pytest.mark.parametrize("dtype", HALF)
def test_statistics_in_half_precision_are_found(dtype: torch.dtype) -> None:
    """Statistics computed in half precision are found by the samples."""
    assert any(worse_than_torch(InHalf(dtype), case) for case in operator_cases(dtype))
