"""Gradients of every loss and penalty against exact arithmetic, relative to the gradient's own norm."""

from dataclasses import dataclass
from typing import final

import mpmath
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from equipoise.losses import BatchLoss, Reweighted, RowLoss
from equipoise.penalties import Balance
from equipoise.statistics import RowStatistics, functions
from support.definitions import TEST_CLASSES
from support.exact_gradients import (
    BACKENDS,
    DTYPES,
    LIMIT,
    SETTINGS,
    SPREADS,
    by_autograd,
    errors,
    exact_batch_gradient,
    exact_gradient,
    exact_gradients,
    rows,
)
from support.oracle import truth


def worst(loss: RowLoss, name: str, dtype: torch.dtype, backend: str = "kernel") -> float:
    return max(max(errors(loss, name, spread, dtype, backend)) for spread in SPREADS)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", SETTINGS)
def test_gradient_against_exact_arithmetic(name: str, backend: str, dtype: torch.dtype) -> None:
    """The gradient agrees with exact arithmetic, relative to its norm."""
    assert worst(SETTINGS[name][1], name, dtype, backend) <= LIMIT


@final
@dataclass(frozen=True)
class OneMinus(RowLoss):
    """1 - p_y as it is often written."""

    def per_row(self, row: RowStatistics, /) -> Tensor:
        return 1 - torch.sigmoid(row.log_odds())


@final
@dataclass(frozen=True)
class PowerOfProbability(RowLoss):
    """(1 - p_y^q) / q with torch's expm1."""

    def per_row(self, row: RowStatistics, /) -> Tensor:
        return -torch.expm1(0.7 * F.logsigmoid(row.log_odds())) / 0.7


@final
@dataclass(frozen=True)
class MeanCost(RowLoss):
    """Expected cost by torch's softmax."""

    def per_row(self, row: RowStatistics, /) -> Tensor:
        full = row.full_logits
        costs = SETTINGS["ExpectedCost-0"][1].costs.fit(full.logits, row.num_classes)
        return (costs[full.target] * full.logits.softmax(1)).sum(1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("fault", "name"),
    [
        (OneMinus(), "GammaCrossEntropy-5"),
        (PowerOfProbability(), "GeneralizedCrossEntropy-1"),
        (MeanCost(), "ExpectedCost-0"),
    ],
    ids=repr,
)
def test_a_gradient_that_cancels_is_found(fault: RowLoss, name: str, dtype: torch.dtype) -> None:
    """A gradient with cancellation is found."""
    assert worst(fault, name, dtype, "reference") > 10 * LIMIT  # the kernel's functions are exact


@pytest.mark.parametrize("name", SETTINGS)
def test_exact_gradient_is_the_derivative_of_the_oracle(name: str) -> None:
    """The exact gradient is the derivative of the definition."""
    entry, loss = SETTINGS[name]
    if isinstance(loss, BatchLoss):
        pytest.skip("the oracle has no batches; see below")
    logits, target = rows(3.0, torch.float64)
    z, y = logits[4].tolist(), int(target[4])
    with mpmath.workdps(60):
        found = exact_gradient(entry, loss, z, y)
        if isinstance(loss, Reweighted):
            weight = truth(entry, loss, z, y)
            entry, loss = SETTINGS["CrossEntropy-0"]
            weight /= truth(entry, loss, z, y)
            found = [value / weight for value in found]
        step = mpmath.mpf(10) ** -20
        for k, value in enumerate(found):
            high, low = ([x + (i == k) * way for i, x in enumerate(z)] for way in (step, -step))
            slope = (truth(entry, loss, high, y) - truth(entry, loss, low, y)) / (2 * step)
            assert abs(slope - value) <= mpmath.mpf(10) ** -25


def test_exact_gradient_of_a_batch_of_one_row_is_that_of_minus_the_entropy() -> None:
    """The gradient of `Balance` of one row is that of minus its entropy."""
    logits, target = rows(1.0, torch.float64)
    for z, y in zip(logits[:9].tolist(), target[:9].tolist(), strict=True):
        (batch,) = exact_batch_gradient(*SETTINGS["Balance-0"], [z])
        entropy = exact_gradient(*SETTINGS["Entropy-0"], z, y)
        assert max(abs(a + b) for a, b in zip(batch, entropy, strict=True)) <= 1e-25


def test_gradient_of_balance_has_an_absolute_error_where_classes_are_used_alike() -> None:
    """There the gradient itself vanishes: it is made of differences of the logs of means that agree."""
    logits = torch.eye(TEST_CLASSES, dtype=torch.float64) * 3 + 1e-9 * torch.rand(8, 8, dtype=torch.float64)
    ours = by_autograd(lambda z: Balance()(z, reduction="sum"), logits)
    exact = torch.tensor(
        [[float(x) for x in row] for row in exact_batch_gradient(*SETTINGS["Balance-0"], logits.tolist())]
    )
    assert 0 < exact.norm() < 1e-8
    assert (ours - exact).abs().max() <= 16 * torch.finfo(torch.float64).eps


def test_rows_are_of_every_sort() -> None:
    """The rows include right, wrong, tied and masked ones at each spread."""
    for spread in SPREADS:
        for dtype in DTYPES:
            logits, target = rows(spread, dtype)
            own = logits.gather(1, target[:, None])
            rank = (logits > own).sum(1)
            assert logits.dtype == dtype
            assert (rank == 0).sum() >= 3
            assert (rank == 1).sum() >= 3
            assert (rank == TEST_CLASSES - 1).any()
            assert ((logits == own).sum(1) >= 4).any()  # tied with the target
            assert (logits == -torch.inf).sum(1).unique().tolist() == [0, 3, TEST_CLASSES - 1]
            assert 0.5 * spread < logits[logits > -torch.inf].abs().max() <= 1.5 * spread


def test_exact_gradients_spread() -> None:
    """The exact gradients to compare with are of very different sizes."""
    norms = [
        float(mpmath.norm(row))
        for spread in SPREADS
        for row in exact_gradients("CrossEntropy-0", spread, torch.float64)
    ]
    assert min(norm for norm in norms if norm) < 1e-15
    assert max(norms) > 1


FUNCTIONS = {
    "sigmoid": (functions.sigmoid, lambda x: 1 / (1 + mpmath.exp(-x))),
    "log_sigmoid": (functions.log_sigmoid, lambda x: -mpmath.log1p(mpmath.exp(-x))),
    "softplus": (functions.softplus, lambda x: mpmath.log1p(mpmath.exp(x))),
    "expm1": (functions.expm1, mpmath.expm1),
    "log_add": (lambda x: functions.log_add(x, torch.zeros_like(x)), lambda x: mpmath.log1p(mpmath.exp(x))),
}
FAULTS = {"sigmoid": torch.sigmoid, "log_sigmoid": F.logsigmoid, "softplus": F.softplus, "expm1": torch.expm1}


def roundings(function: object, exact: object, dtype: torch.dtype) -> float:
    """Largest relative error of value, derivative and second derivative, in eps."""
    points = torch.cat((torch.linspace(-40, 40, 161), torch.tensor([0.0, -0.0, 1e-3, -1e-3]))).to(dtype)
    leaf = points.requires_grad_()
    value = function(leaf)
    (first,) = torch.autograd.grad(value.sum(), leaf, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), leaf)
    largest = 0.0
    with mpmath.workdps(60):
        for order, found in enumerate((value, first, second)):
            for x, y in zip(points.tolist(), found.tolist(), strict=True):
                true = mpmath.diff(exact, mpmath.mpf(x), order) if order else exact(mpmath.mpf(x))
                scale = abs(true)
                if order == 2 and abs(x) < 1:  # where that of the sigmoid is 0
                    scale += abs(mpmath.diff(exact, mpmath.mpf(x)))
                if y != true:
                    largest = max(largest, float(abs(y - true) / scale) / torch.finfo(dtype).eps)
    return largest


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_exact_to_the_second_derivative(name: str, dtype: torch.dtype) -> None:
    """Elementary functions are exact up to second derivatives."""
    assert roundings(*FUNCTIONS[name], dtype) <= 16
    if name in FAULTS:
        assert roundings(FAULTS[name], FUNCTIONS[name][1], dtype) > 1000
