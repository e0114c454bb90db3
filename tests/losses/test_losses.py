"""Every loss of the tables: value against the oracle, derivatives, traits, low precision, hard rows."""

from dataclasses import dataclass, replace
from typing import Any, final

import mpmath
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError

from equipoise.costs import ClassMatrix
from equipoise.losses import (
    LOSSES,
    CrossEntropy,
    Entry,
    HierarchicalCrossEntropy,
    Loss,
    Poly,
    RankedProbabilityScore,
    Reweighted,
    RowLoss,
)
from equipoise.penalties import PENALTIES, Decisiveness
from equipoise.statistics import RowStatistics
from support.definitions import TEST_CLASSES, settings_of
from support.oracle import truth

SETTINGS = [
    pytest.param(entry, loss, id=f"{entry.name}-{index}")
    for entry in LOSSES + PENALTIES
    for index, loss in enumerate(settings_of(entry))
]
ROW_SETTINGS = [param for param in SETTINGS if isinstance(param.values[1], RowLoss)]
EPS = torch.finfo(torch.float64).eps
TINY = torch.finfo(torch.float64).tiny


def rows(spread: float, *, masked: bool = True) -> tuple[Tensor, Tensor]:
    """Rows of eight logits: random, confident and right, confident and wrong, tied, masked."""
    logits = (torch.rand(7, TEST_CLASSES, dtype=torch.float64) * 2 - 1) * spread
    target = torch.randint(TEST_CLASSES, (7,))
    logits[1] = -logits[1].abs()
    logits[1, target[1]] = spread
    logits[2, target[2]] = -spread
    logits[3] = logits[3].max()
    logits[4, :4] = logits[4].max()
    if masked:
        for row in (5, 6):
            hidden = (target[row] + torch.tensor([1, 4, 6])) % TEST_CLASSES
            logits[row, hidden] = -torch.inf
    return logits, target


def disagreement(entry: Entry, loss: Loss, logits: Tensor, target: Tensor) -> float:
    """Largest error in units of the tolerance, 16 eps (1 + max|z|) of the value, with nothing absolute."""
    ours = loss(logits, target, reduction="none")
    worst = 0.0
    for value, z, y in zip(ours.tolist(), logits.tolist(), target.tolist(), strict=True):
        exact = truth(entry, loss, z, y)
        if 0 < exact < TINY:  # no normal number is as small
            assert 0 <= value <= TINY
            continue
        reach = max(abs(x) for x in z if x != -float("inf"))
        error, unit = abs(mpmath.mpf(value) - exact), 16 * EPS * (1 + reach) * abs(exact)
        worst = max(worst, float(error / unit) if unit else (0.0 if error == 0 else float("inf")))
    return worst


@pytest.mark.parametrize("spread", [1e-3, 1.0, 30.0, 300.0])
@pytest.mark.parametrize(("entry", "loss"), ROW_SETTINGS)
def test_value_against_the_oracle(entry: Entry, loss: Loss, spread: float) -> None:
    """The value agrees with the definition in exact arithmetic."""
    logits, target = rows(spread)
    if entry.name == "ZLoss":  # relative digits of a log-sum-exp are lost where it crosses zero
        logits = logits + spread
    assert disagreement(entry, loss, logits, target) <= 1


def test_the_oracle_finds_a_loss_that_cancels() -> None:
    """A loss with cancellation is found by the comparison with the definition."""

    @final
    @dataclass(frozen=True)
    class Subtracting(RowLoss):
        label_smoothing: float = 0.0

        def per_row(self, row: RowStatistics, /) -> Tensor:
            return row.lse() - row.expected_log_prob(torch.eye(TEST_CLASSES, dtype=torch.float64)) - row.lse()

    @final
    @dataclass(frozen=True)
    class OnProbabilities(RowLoss):
        label_smoothing: float = 0.0

        def per_row(self, row: RowStatistics, /) -> Tensor:
            return -torch.log(1 - torch.sigmoid(-row.log_odds()))

    @final
    @dataclass(frozen=True)
    class SlightlySmoothed(RowLoss):
        label_smoothing: float = 0.0

        def per_row(self, row: RowStatistics, /) -> Tensor:
            return CrossEntropy(label_smoothing=1e-9).per_row(row)

    logits, target = rows(30.0)
    (entry,) = [entry for entry in LOSSES if entry.make is CrossEntropy]
    assert disagreement(entry, CrossEntropy(), logits, target) <= 1
    assert disagreement(entry, Subtracting(), logits, target) > 1
    assert disagreement(entry, OnProbabilities(), logits, target) > 1
    assert disagreement(entry, replace(CrossEntropy(), label_smoothing=0.1), logits, target) <= 1
    assert disagreement(entry, SlightlySmoothed(), logits, target) > 1


def test_balance_against_the_oracle() -> None:
    """`Balance` agrees with its definition in exact arithmetic."""
    (entry,) = [entry for entry in PENALTIES if entry.name == "Balance"]
    for spread in (1e-3, 1.0, 30.0, 300.0):
        logits, _ = rows(spread)
        ours = settings_of(entry)[0](logits).item()
        with mpmath.workdps(80):
            mean = [mpmath.mpf(0)] * TEST_CLASSES
            for z in logits.tolist():
                terms = [mpmath.exp(mpmath.mpf(x)) for x in z]
                mean = [m + t / mpmath.fsum(terms) / len(logits) for m, t in zip(mean, terms, strict=True)]
            exact = mpmath.log(TEST_CLASSES) + mpmath.fsum(m * mpmath.log(m) for m in mean if m)
        assert abs(ours - float(exact)) <= 16 * EPS


@pytest.mark.slow
@pytest.mark.parametrize(("entry", "loss"), SETTINGS)
def test_gradient_is_that_of_the_value_unless_it_is_designed(entry: Entry, loss: Loss) -> None:
    """The gradient is the derivative of the value, unless the table says it is designed."""
    logits, target = rows(2.0, masked=False)
    logits = (
        logits + 0.1 * torch.rand_like(logits)
    ).requires_grad_()  # apart from the ties, where a hinge has a kink
    if entry.reweighted:
        with pytest.raises(GradcheckError):
            torch.autograd.gradcheck(lambda z: loss(z, target), (logits,))
        return
    assert torch.autograd.gradcheck(lambda z: loss(z, target), (logits,))
    assert torch.autograd.gradgradcheck(lambda z: loss(z, target), (logits,))


@pytest.mark.parametrize(
    "loss", [loss for entry in LOSSES if entry.reweighted for loss in settings_of(entry)]
)
def test_designed_gradient_is_the_weight_times_that_of_cross_entropy(loss: Reweighted) -> None:
    """A designed gradient is the weight times the gradient of cross entropy."""
    logits, target = rows(3.0)
    logits.requires_grad_()
    (ours,) = torch.autograd.grad(loss(logits, target, reduction="sum"), logits)
    (plain,) = torch.autograd.grad(CrossEntropy()(logits, target, reduction="sum"), logits)
    probs = logits.detach().softmax(1).gather(1, target[:, None])
    torch.testing.assert_close(ours, loss.weight(probs) * plain, rtol=1e-12, atol=0)


def gradient_at_truth(loss: Loss, true: Tensor) -> float:
    """Largest slope of the expected loss at the true probabilities."""
    logits = true.log().requires_grad_()
    (slope,) = torch.autograd.grad(loss(logits, true, reduction="sum"), logits)
    return slope.abs().max().item()


@pytest.mark.parametrize(("entry", "loss"), [param for param in ROW_SETTINGS if param.values[0].reads_target])
def test_proper_where_the_table_says_so_and_nowhere_else(entry: Entry, loss: Loss) -> None:
    """A loss is proper exactly where the table says so."""
    true = torch.rand(20, TEST_CLASSES, dtype=torch.float64).mul(3).softmax(1)
    slopes = [gradient_at_truth(loss, row[None]) for row in true]
    if entry.proper(loss):
        assert max(slopes) < 1e-14
        for row in true.split(1):
            nearby = row.log() + 0.3 * torch.randn(20, TEST_CLASSES, dtype=torch.float64)
            best = loss(row.log(), row)
            assert (loss(nearby, row.expand(20, -1), reduction="none") >= best).all()
    else:
        assert max(slopes) > 1e-9


@pytest.mark.parametrize(("entry", "loss"), ROW_SETTINGS)
def test_bounded_where_the_table_says_so_and_nowhere_else(entry: Entry, loss: Loss) -> None:
    """A loss is bounded exactly where the table says so."""
    target = (torch.arange(TEST_CLASSES) + 3) % TEST_CLASSES  # row k is sure of class k

    def reach(size: float) -> float:
        levels = torch.linspace(1, 0, TEST_CLASSES, dtype=torch.float64) * size
        wrong = torch.stack([levels.roll(shift) for shift in range(TEST_CLASSES)])
        return loss(wrong, target, reduction="none").max().item()

    far, farther = reach(1e3), reach(1e6)
    assert (farther < 1.1 * far) is entry.bounded(loss)


@pytest.mark.parametrize(("entry", "loss"), SETTINGS)
def test_reads_a_target_where_the_table_says_so_and_nowhere_else(entry: Entry, loss: Loss) -> None:
    """A loss reads its target exactly where the table says so."""
    logits, target = rows(1.0)
    if entry.reads_target:
        with pytest.raises((ValueError, NotImplementedError), match="must be"):
            loss(logits)
    else:
        assert loss(logits) == loss(logits, target)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("entry", "loss"), SETTINGS)
def test_half_precision_is_no_worse_than_rounding_the_logits(
    entry: Entry, loss: Loss, dtype: torch.dtype
) -> None:
    """In half precision, a loss is no worse than with rounded logits."""
    reduction = "none" if isinstance(loss, RowLoss) else "mean"
    for spread in (1.0, 10.0):
        logits, target = rows(spread)
        rounded = logits.to(dtype)
        exact = loss(logits, target, reduction=reduction)
        plain = loss(rounded.double(), target, reduction=reduction)
        ours = loss(rounded, target, reduction=reduction)
        assert ours.dtype == torch.float32
        single = 16 * torch.finfo(torch.float32).eps * (1 + spread) * plain.abs()
        if entry.name == "Balance":  # its error is absolute, as documented
            single = torch.tensor(16 * torch.finfo(torch.float32).eps)
        assert ((ours - exact).abs() <= (plain - exact).abs() + single).all()

        leaf = rounded.clone().requires_grad_()
        (slope,) = torch.autograd.grad(loss(leaf, target), leaf)
        assert slope.dtype == dtype
        wide = rounded.double().requires_grad_()
        (expected,) = torch.autograd.grad(loss(wide, target), wide)
        torch.testing.assert_close(slope, expected.to(dtype), rtol=4 * torch.finfo(dtype).eps, atol=1e-6)


def test_half_precision_check_finds_statistics_in_half_precision() -> None:
    """Statistics computed in half precision are found."""
    logits, target = rows(10.0)
    rounded = logits.to(torch.bfloat16)
    exact = F.cross_entropy(logits, target, reduction="none")
    plain = F.cross_entropy(rounded.double(), target, reduction="none")
    half = -rounded.log_softmax(1).gather(1, target[:, None])[:, 0]
    single = 16 * torch.finfo(torch.float32).eps * 11 * plain.abs()
    assert not ((half - exact).abs() <= (plain - exact).abs() + single).all()


def one_class(loss: Loss) -> Loss:
    """Return the loss with its matrix or tree cut to one class."""
    if isinstance(loss, HierarchicalCrossEntropy):
        return replace(loss, tree=(0,))
    changes: dict[str, Any] = {
        name: [[float(value.array[0, 0] or 0.0)]] if name != "similarity" else [[1.0]]
        for name, value in vars(loss).items()
        if isinstance(value, ClassMatrix)
    }
    return replace(loss, **changes)  # pyright: ignore[reportArgumentType]


def knows_its_classes(loss: Loss) -> bool:
    """Return whether the loss has a matrix or a tree over the classes."""
    return isinstance(loss, HierarchicalCrossEntropy) or any(
        isinstance(value, ClassMatrix) for value in vars(loss).values()
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("entry", "loss"), SETTINGS)
def test_hard_rows_have_finite_values_and_slopes(entry: Entry, loss: Loss, dtype: torch.dtype) -> None:
    """Hard rows have finite values and gradients."""
    inf = torch.inf
    hard = {
        "confident right": ([800.0, *[0.0] * 7], 0),
        "confident wrong": ([800.0, *[0.0] * 7], 1),
        "tied": ([0.0] * 8, 3),
        "two rivals": ([50.0, 50.0, *[0.0] * 6], 0),
        "masked": ([1.0, 2.0, -inf, 0.0, -inf, 0.0, 0.0, 0.0], 0),
        "all but the target masked": ([1.0, *[-inf] * 7], 0),
        "ignored": ([1.0, *[0.0] * 7], -100),
        "ignored and all masked": ([-inf] * 8, -100),
    }
    for name, (values, y) in hard.items():
        logits = torch.tensor([values, [0.0] * 8], dtype=dtype, requires_grad=True)
        if name.endswith("all masked") and not isinstance(loss, RowLoss):
            continue  # such a row has no distribution to balance
        value = loss(logits, torch.tensor([y, 0]))
        (slope,) = torch.autograd.grad(value, logits)
        assert value.isfinite(), name
        assert slope.isfinite().all(), name
        assert (slope[logits == -inf] == 0).all(), name
        if y == -100:
            assert (slope[0] == 0).all(), name

    logits = torch.zeros(3, 1, dtype=dtype, requires_grad=True)
    value = one_class(loss)(logits, torch.zeros(3, dtype=torch.long))
    (slope,) = torch.autograd.grad(value, logits)
    assert value.isfinite()
    assert slope.isfinite().all()


@pytest.mark.parametrize(("entry", "loss"), ROW_SETTINGS)
def test_a_masked_class_is_as_good_as_absent(entry: Entry, loss: Loss) -> None:
    """A masked class acts like an absent one."""
    if knows_its_classes(loss):
        pytest.skip("the matrix or the tree has a place for the masked class")
    if loss == Decisiveness():
        pytest.skip("its exponent counts masked classes, as documented")
    logits, target = torch.randn(5, 6, dtype=torch.float64), torch.randint(6, (5,))
    masked = torch.cat((logits[:, :3], torch.full((5, 2), -torch.inf), logits[:, 3:]), 1)
    moved = torch.where(target < 3, target, target + 2)
    torch.testing.assert_close(loss(masked, moved), loss(logits, target), rtol=1e-14, atol=0)


@pytest.mark.parametrize(("entry", "loss"), ROW_SETTINGS)
def test_laws(entry: Entry, loss: Loss) -> None:
    """A shift of the logits changes nothing, classes may be permuted, repeated rows have the same mean."""
    logits, target = rows(3.0)
    plain = loss(logits, target, reduction="none")
    if entry.name not in ("ZLoss",) and "low" not in repr(loss):
        torch.testing.assert_close(
            loss(logits + 7.25, target, reduction="none"), plain, rtol=1e-12, atol=1e-14
        )
    if not knows_its_classes(loss) and not isinstance(loss, RankedProbabilityScore):  # it has an order
        order = torch.randperm(TEST_CLASSES)
        torch.testing.assert_close(
            loss(logits[:, order], torch.argsort(order)[target], reduction="none"),
            plain,
            rtol=1e-12,
            atol=1e-14,
        )
    torch.testing.assert_close(loss(logits.repeat(2, 1), target.repeat(2)), plain.mean(), rtol=1e-13, atol=0)


def test_the_four_animals() -> None:
    """A similarity loss is the matrix times the log-probabilities, and likes similar classes better."""
    from equipoise.losses import SimilarityCrossEntropy

    horse, zebra, whale, shark = range(4)
    animals = [[0.8, 0.2, 0, 0], [0.3, 0.7, 0, 0], [0, 0, 0.9, 0.1], [0, 0, 0.1, 0.9]]
    loss = SimilarityCrossEntropy(animals)
    sure = 6 * torch.eye(4, dtype=torch.float64)
    matrix = torch.stack(
        [loss(sure, torch.full((4,), true), reduction="none") for true in (horse, zebra, whale, shark)]
    )
    expected = -torch.tensor(animals, dtype=torch.float64) @ sure.log_softmax(1).T
    torch.testing.assert_close(matrix, expected, rtol=1e-14, atol=0)
    assert matrix[horse, zebra] < matrix[horse, whale]
    assert matrix[shark, whale] < matrix[shark, horse]
    assert matrix[zebra, horse] < matrix[horse, zebra]  # each animal has a row of its own


def test_losses_are_values() -> None:
    """Losses pickle, compare and hash by their options, and cannot be changed."""
    import pickle

    for entry in LOSSES + PENALTIES:
        for loss in settings_of(entry):
            again = pickle.loads(pickle.dumps(loss))
            assert again == loss
            assert hash(again) == hash(loss)
            with pytest.raises(AttributeError):
                loss.gamma = 1  # pyright: ignore[reportAttributeAccessIssue]
    assert Poly(epsilon=1.0) != Poly(epsilon=0.5)
    assert ClassMatrix(np.eye(2), kind="similarity") != ClassMatrix(np.full((2, 2), 0.5), kind="similarity")
