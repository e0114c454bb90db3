"""Each statistic against its formula: exact arithmetic, torch's functions, derivatives, extreme rows."""

from collections.abc import Callable
from typing import Any

import mpmath
import pytest
import torch
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError

from equipoise.statistics import (
    ClassCount,
    Entropy,
    ExpectedLogProb,
    Largest,
    LogOdds,
    LogSumExp,
    LogSumExpGap,
    Margin,
    MeanLogit,
    Rank,
    RowStatistics,
    Smallest,
    Statistic,
    row_statistics,
)
from equipoise.statistics.reference import row_statistics_for_each_class
from support.row_samples import hard_rows
from support.state_samples import EVERY_KIND, KINDS, SPREAD, Kind, soft_rows

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*torch.jit.script.*:DeprecationWarning"
)  # torch's, of itself
DIGITS = 400  # e^-800 is there beside 1


def ask(stat: Statistic, logits: Tensor, target: Tensor | None) -> Tensor:
    return row_statistics(logits, target).compute(stat)


def log_sum(terms: Any) -> Any:
    return mpmath.log(mpmath.fsum(mpmath.exp(term) for term in terms))


def exactly(stat: Statistic, z: dict[int, Any], y: int) -> Any:
    """Return a statistic of the logits of the classes that are not masked, by its definition."""
    others = [value for k, value in z.items() if k != y]
    if isinstance(stat, LogOdds):
        return stat.scale * z[y] - log_sum(stat.scale * value for value in others)
    if isinstance(stat, Margin):
        return z[y] - max(others)
    if isinstance(stat, LogSumExp):
        return log_sum(stat.scale * value for value in z.values())
    if isinstance(stat, LogSumExpGap):
        values = others if stat.exclude_target else list(z.values())
        return log_sum(stat.scale * value for value in values) - stat.scale * max(values)
    if isinstance(stat, Entropy):
        total = log_sum(z.values())
        return mpmath.fsum(mpmath.exp(value - total) * (total - value) for value in z.values())
    if isinstance(stat, ExpectedLogProb):
        table = stat.table if stat.table.ndim == 1 else stat.table[y]
        total = log_sum(z.values())
        return mpmath.fsum(mpmath.mpf(table[k].item()) * (value - total) for k, value in z.items())
    simple: dict[type[Statistic], Callable[[], Any]] = {
        MeanLogit: lambda: mpmath.fsum(z.values()) / len(z),
        ClassCount: lambda: mpmath.mpf(len(z)),
        Largest: lambda: max(z.values()),
        Smallest: lambda: min(z.values()),
        Rank: lambda: mpmath.mpf(sum(value > z[y] for value in others)),
    }
    return simple[type(stat)]()


def roundings(stat: Statistic, logits: Tensor, target: Tensor) -> float:
    """Return the largest error of a statistic, in eps (1 + max|z|) of its size."""
    values, worst = ask(stat, logits, target), 0.0
    for row, y, value in zip(logits, target.tolist(), values.tolist(), strict=True):
        z = {k: mpmath.mpf(logit) for k, logit in enumerate(row.tolist()) if logit > -torch.inf}
        if y not in z or len(z) == 1:
            continue  # stand-ins for infinity, which a test below looks at
        with mpmath.workdps(DIGITS):
            exact = exactly(stat, z, y)
            error = abs(mpmath.mpf(value) - exact)
            size = abs(exact) if not isinstance(stat, LogOdds | LogSumExp | MeanLogit) else abs(exact) + 1
        if error > torch.finfo(logits.dtype).tiny:
            unit = torch.finfo(logits.dtype).eps * (1 + float(max(abs(logit) for logit in z.values())))
            worst = max(worst, float(error / (size * unit)) if size else float("inf"))
    return worst


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", [*KINDS, Kind("Rank()", lambda n: Rank())], ids=lambda kind: kind.name)
def test_a_statistic_is_its_definition(kind: Kind, dtype: torch.dtype) -> None:
    """A statistic agrees with its definition in exact arithmetic."""
    for seed in range(4):
        logits, target = hard_rows(6, seed, (1.0, 3.0, 30.0, 100.0)[seed])
        stat = kind.make(6)
        if isinstance(stat, ExpectedLogProb):
            stat = ExpectedLogProb(stat.table.to(dtype))
        assert roundings(stat, logits.to(dtype), target) <= 16


def test_a_statistic_of_lower_precision_is_found() -> None:
    """A statistic with an error of 1e-12 is found."""

    class Rounded(ExpectedLogProb):  # pyright: ignore[reportGeneralTypeIssues]
        def finalize(self, states: Any, /) -> Tensor:
            return super().finalize(states) * (1 + 1e-12)

    assert roundings(Rounded(soft_rows(6, 6)), *hard_rows(6)) > 16


def test_statistics_are_what_torch_computes() -> None:
    """Statistics agree with torch's functions."""
    logits, target = torch.randn(6, 5, dtype=torch.float64), torch.randint(5, (6,))
    soft, probs = soft_rows(5, 5), logits.softmax(1)
    own = probs.gather(1, target[:, None])[:, 0]
    for stat, expected in (
        (LogOdds(), torch.logit(own)),
        (LogSumExp(2.0), (2 * logits).logsumexp(1)),
        (LogSumExpGap(), -probs.amax(1).log()),
        (Entropy(), -(probs * probs.log()).sum(1)),
        (MeanLogit(), logits.mean(1)),
        (ClassCount(), torch.full((6,), 5.0, dtype=torch.float64)),
        (Largest(), logits.amax(1)),
        (Smallest(), logits.amin(1)),
        (ExpectedLogProb(soft), (soft[target] * logits.log_softmax(1)).sum(1)),
        (Rank(), (logits > logits.gather(1, target[:, None])).sum(1).double()),
    ):
        torch.testing.assert_close(ask(stat, logits, target), expected, rtol=1e-13, atol=1e-14)


def distinct(rows: int, classes: int, *masked: int) -> Tensor:
    """Return logits without ties, where every statistic is differentiable."""
    logits = torch.randn(rows, classes, dtype=torch.float64)
    logits[:, list(masked)] = -torch.inf
    return logits.requires_grad_()


def for_each(stat: Statistic, logits: Tensor) -> Tensor:
    return row_statistics_for_each_class(logits).compute(stat)


@EVERY_KIND
@pytest.mark.parametrize("masked", [(), (1, 3)], ids=["all", "some"])
def test_a_statistic_has_derivatives(kind: Kind, masked: tuple[int, ...]) -> None:
    """First and second derivatives agree with finite differences."""
    logits, target, stat = distinct(3, 5, *masked), torch.tensor([0, 2, 4]), kind.make(5)
    assert torch.autograd.gradcheck(lambda z: ask(stat, z, target), (logits,), check_forward_ad=not masked)
    assert torch.autograd.gradcheck(lambda z: for_each(stat, z), (logits,))
    if not masked and not isinstance(stat, ClassCount):  # numerical derivatives of an infinity otherwise
        assert torch.autograd.gradgradcheck(lambda z: ask(stat, z, target), (logits,))


def test_gradcheck_finds_a_wrong_derivative() -> None:
    """A wrong derivative is found by gradcheck."""
    logits, target = distinct(3, 5), torch.tensor([0, 2, 4])

    def wrong(z: Tensor) -> Tensor:
        return ask(LogSumExp(), z, target) + 1e-3 * (z - z.detach())[:, 0]

    with pytest.raises(GradcheckError):
        torch.autograd.gradcheck(wrong, (logits,))


@EVERY_KIND
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_rows_stay_finite_and_empty_ones_are_nan(kind: Kind, dtype: torch.dtype) -> None:
    """Extreme rows give finite statistics, and rows without classes nan."""
    inf = torch.inf
    logits = torch.tensor(
        [
            [SPREAD, -SPREAD, 0.0, -SPREAD],
            [-SPREAD, SPREAD, SPREAD, SPREAD],
            [5.0, 5.0, 5.0, 5.0],
            [-inf, 1.0, -inf, SPREAD],
            [2.0, -inf, -inf, -inf],
            [1e30, -1e30, 1e4, -1e4],
            [-inf, -inf, -inf, -inf],
            [0.0, torch.nan, 0.0, 1.0],
            [0.0, inf, 0.0, -inf],
        ],
        dtype=dtype,
    )
    good, stat = torch.arange(9) < 6, kind.make(4)
    if isinstance(stat, ExpectedLogProb):
        stat = ExpectedLogProb(stat.table.to(dtype))
    for y in range(4):
        leaf = logits.clone().requires_grad_()
        value = ask(stat, leaf, torch.full((9,), y))
        assert value.dtype == dtype
        assert value[good].isfinite().all()
        assert value[~good].isnan().all()
        if value.requires_grad:
            (grad,) = torch.autograd.grad(value.sum(), leaf)
            assert grad.dtype == dtype
            assert grad[good].isfinite().all()
            assert (grad[good][logits[good] == -inf] == 0).all()
            assert grad[~good].isnan().all()
    leaf = logits[good].clone().requires_grad_()
    value = for_each(stat, leaf)
    assert value.isfinite().all()
    if value.requires_grad:
        (grad,) = torch.autograd.grad(value.sum(), leaf)
        assert grad.isfinite().all()
        assert (grad[leaf == -inf] == 0).all()


@EVERY_KIND
def test_one_class(kind: Kind) -> None:
    """With one class a statistic is finite and has its constant slope."""
    logits = torch.tensor([[3.0], [-2.0]], dtype=torch.float64, requires_grad=True)
    value = ask(kind.make(1), logits, torch.tensor([0, 0]))
    if isinstance(kind.make(1), ClassCount):
        assert value.tolist() == [1, 1]
        return
    (grad,) = torch.autograd.grad(value.sum(), logits)
    torch.testing.assert_close(grad, torch.full_like(grad, kind.shift))


def test_stand_ins_for_infinity_are_finite_and_beyond_reach() -> None:
    """Values that stand for infinity are finite and larger than any logit gives."""
    logits = torch.tensor([[1.0, -torch.inf], [-torch.inf, 2.0]], requires_grad=True)
    for stat in (LogOdds(), LogOdds(2.0), Margin()):
        value = ask(stat, logits, torch.tensor([0, 0]))
        assert value.isfinite().all()
        assert value[0] > 1e15
        assert value[1] < -1e15
        assert torch.equal(for_each(stat, logits)[:, 0], value)


def test_extremes_that_are_equal_share_their_gradient() -> None:
    """Equal largest or smallest logits share the gradient."""
    logits = torch.tensor([[2.0, 2.0, 0.0, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    for stat, target, expected in (
        (Largest(), None, [0.5, 0.5, 0.0, 0.0, 0.0]),
        (Smallest(), None, [0.0, 0.0, 1 / 3, 1 / 3, 1 / 3]),
        (Margin(), torch.tensor([2]), [-0.5, -0.5, 1.0, 0.0, 0.0]),
    ):
        (grad,) = torch.autograd.grad(ask(stat, logits, target).sum(), logits)
        torch.testing.assert_close(grad, torch.tensor([expected], dtype=torch.float64))


@EVERY_KIND
def test_vmap_of_grad_of_a_statistic_is_the_batch_gradient(kind: Kind) -> None:
    """vmap of grad gives the gradient of the batch."""
    logits, target, stat = distinct(4, 5), torch.arange(4), kind.make(5)
    value = ask(stat, logits, target)
    expected = (
        torch.autograd.grad(value.sum(), logits)[0] if value.requires_grad else torch.zeros(4, 5).double()
    )
    grads = torch.func.vmap(torch.func.grad(lambda z, y: ask(stat, z[None], y[None])[0]))
    torch.testing.assert_close(grads(logits.detach(), target), expected, rtol=1e-13, atol=1e-15)


class TestRow:
    @staticmethod
    def counting() -> tuple[RowStatistics, list[Statistic]]:
        logits, asked = torch.randn(3, 4), []
        inner = row_statistics(logits, torch.tensor([0, 1, 2]))

        def compute(stat: Statistic) -> Tensor:
            asked.append(stat)
            return inner.compute(stat)

        return RowStatistics(compute, num_classes=4), asked

    def test_each_statistic_is_computed_once(self) -> None:
        """Each statistic is computed once per row."""
        row, asked = self.counting()
        for _ in range(3):
            answers = (
                *(
                    method(c)
                    for method in (row.log_odds, row.lse, row.logsumexp_gap)
                    for c in (0.5, 1.0, 2.0)
                ),
                *(row.entropy, row.mean_logit, row.largest, row.smallest, row.class_count, row.margin),
                *(row.rank, row.correct, row.compute(Entropy()), row.logsumexp_gap(exclude_target=True)),
            )
            assert all(answer.shape == (3,) for answer in answers)
        assert len(asked) == len(set(asked)) == 17

    def test_soft_targets_are_told_apart_by_their_tensor(self) -> None:
        """Soft targets are cached by tensor, not by value."""
        row, asked = self.counting()
        one, two = torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0, 0.0])
        assert row.expected_log_prob(one) is row.expected_log_prob(one)
        assert not torch.equal(row.expected_log_prob(one), row.expected_log_prob(two))
        assert len(asked) == 2

    def test_counts_have_no_gradient(self) -> None:
        """Counts and ranks have no gradient."""
        row = row_statistics(torch.randn(2, 3, requires_grad=True), torch.tensor([0, 1]))
        assert not row.class_count.requires_grad
        assert not row.rank.requires_grad
        assert row.correct.dtype == torch.bool

    def test_the_class_weight_is_that_of_the_target(self) -> None:
        """The class weight is that of the target."""
        logits, target, weight = torch.randn(3, 4), torch.tensor([2, 0, 2]), torch.arange(1.0, 5.0)
        row = row_statistics(logits, target, weight=weight)
        assert torch.equal(row.weight, torch.tensor([3.0, 1.0, 3.0]))
        assert torch.equal(row_statistics_for_each_class(logits, weight=weight).weight, weight)
        with pytest.raises(ValueError, match="class_weight must be given to weigh a row, got None"):
            _ = row_statistics(logits, target).weight

    def test_a_statistic_of_the_target_needs_one(self) -> None:
        """A statistic of the target needs a target."""
        row = row_statistics(torch.randn(3, 4))
        assert row.entropy.shape == (3,)
        with pytest.raises(ValueError, match="target must be given, got None"):
            row.log_odds()

    def test_full_logits_in_parts_are_refused(self) -> None:
        """Complete logits cannot be read from parts."""
        row = RowStatistics(lambda stat: torch.zeros(3), num_classes=4)
        with pytest.raises(NotImplementedError, match=r"must be complete .*, got blocks of them"):
            _ = row.full_logits
        assert row.reads_full_logits
        with pytest.raises(NotImplementedError, match=r"must be complete .*, got blocks of them"):
            row.plus(torch.zeros_like)


@pytest.mark.parametrize("target", [None, torch.arange(4)], ids=["no target", "target"])
def test_a_scale_may_be_an_integer(target: Tensor | None) -> None:
    """A scale may be an integer."""
    logits = torch.randn(4, 5, dtype=torch.float64)
    row = row_statistics(logits, target)
    if target is not None:
        torch.testing.assert_close(row.log_odds(2), row_statistics(logits, target).log_odds(2.0))
    torch.testing.assert_close(row.lse(2), (2 * logits).logsumexp(1))
    with pytest.raises(AssertionError):
        torch.testing.assert_close(row.lse(2), (3 * logits).logsumexp(1))
