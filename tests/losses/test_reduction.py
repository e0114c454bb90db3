"""Shapes, reductions, ignored rows, class weights and soft targets: as `F.cross_entropy` does them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, final

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from equipoise._batch import REDUCTIONS, read_batch, reduce
from equipoise.losses import LOSSES, BatchLoss, CrossEntropy, GammaCrossEntropy, Loss, RowLoss
from equipoise.penalties import PENALTIES, Balance, Entropy, Gini, LogitRange, ZLoss
from equipoise.statistics import RowStatistics, row_statistics
from support.definitions import TEST_CLASSES, settings_of

EPS = torch.finfo(torch.float64).eps
SHAPES = [(5,), (6, 5), (3, 5, 4), (2, 5, 3, 2), (0, 5), (0, 5, 3)]
REDUCED = ["mean", "sum"]
TARGETED = [loss for entry in LOSSES for loss in settings_of(entry)]
ROW_LOSSES = [
    loss for entry in LOSSES + PENALTIES for loss in settings_of(entry) if isinstance(loss, RowLoss)
]
WEIGHT = torch.tensor([0.5, 2.0, 0.25, 1.0, 3.0], dtype=torch.float64)


def name(loss: Loss) -> str:
    return repr(loss)[:40]


def make(shape: tuple[int, ...], *, soft: bool = False) -> tuple[Tensor, Tensor]:
    """Return logits that hold gradients, and targets."""
    axis = 0 if len(shape) == 1 else 1
    logits = (3 * torch.randn(shape, dtype=torch.float64)).requires_grad_()
    if soft:
        return logits, torch.randn(shape, dtype=torch.float64).softmax(axis)
    return logits, torch.randint(shape[axis], shape[:axis] + shape[axis + 1 :])


def agree(ours: Tensor, theirs: Tensor, logits: Tensor) -> None:
    """Values and gradients agree to a few roundings of the largest logit."""
    eps = 64 * torch.finfo(theirs.dtype).eps
    assert ours.dtype == theirs.dtype
    torch.testing.assert_close(ours, theirs, rtol=eps, atol=eps, equal_nan=True)
    weights = torch.linspace(1, 2, max(ours.numel(), 1), dtype=ours.dtype)[: ours.numel()].reshape(ours.shape)
    (slope,) = torch.autograd.grad((ours * weights).sum(), logits)
    (expected,) = torch.autograd.grad((theirs * weights).sum(), logits)
    assert slope.dtype == logits.dtype
    torch.testing.assert_close(slope, expected, rtol=eps, atol=eps, equal_nan=True)


GRID = list(product(SHAPES, REDUCTIONS, [None, WEIGHT], [0.0, 0.15, 1.0]))


@pytest.mark.parametrize("ignore_index", [-100, 2, -1, 77])
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0], ids=["all count", "some ignored", "all ignored"])
def test_class_indices_on_a_grid_of_options(ignore_index: int, share: float) -> None:
    for shape, reduction, weight, smoothing in GRID:
        logits, target = make(shape)
        target[torch.rand(target.shape) < share] = ignore_index
        options = {"weight": weight, "ignore_index": ignore_index, "reduction": reduction}
        agree(
            CrossEntropy(label_smoothing=smoothing)(logits, target, **options),
            F.cross_entropy(logits, target, label_smoothing=smoothing, **options),
            logits,
        )


def test_soft_targets_on_a_grid_of_options() -> None:
    for shape, reduction, weight, smoothing in GRID:
        logits, target = make(shape, soft=True)
        agree(
            CrossEntropy(label_smoothing=smoothing)(logits, target, weight=weight, reduction=reduction),
            F.cross_entropy(logits, target, weight=weight, reduction=reduction, label_smoothing=smoothing),
            logits,
        )


def test_the_grid_finds_a_mean_over_all_rows() -> None:
    logits, target = make((6, 5))
    target[:2] = -100
    ours = CrossEntropy()(logits, target, reduction="sum") / 6
    with pytest.raises(AssertionError):
        agree(ours, F.cross_entropy(logits, target), logits)


def test_an_ignored_row_with_no_class_in_range_is_ignored() -> None:
    logits, target = make((4, 5))
    target[1] = 255
    agree(
        CrossEntropy()(logits, target, ignore_index=255),
        F.cross_entropy(logits, target, ignore_index=255),
        logits,
    )


@pytest.mark.parametrize("loss", [*ROW_LOSSES, CrossEntropy() + Balance()], ids=name)
def test_a_batch_in_which_no_row_counts(loss: Loss) -> None:
    logits = torch.randn(3, TEST_CLASSES, dtype=torch.float64, requires_grad=True)
    ignored = torch.full((3,), -100)
    assert loss(logits, ignored).isnan()
    total = loss(logits, ignored, reduction="sum") if isinstance(loss, RowLoss) else torch.tensor(0.0)
    assert total == 0
    if isinstance(loss, RowLoss):
        (slope,) = torch.autograd.grad(total, logits)
        assert (slope == 0).all()
        assert (loss(logits, ignored, reduction="none") == 0).all()


@pytest.mark.parametrize("loss", ROW_LOSSES, ids=name)
def test_an_empty_batch(loss: Loss) -> None:
    """Without rows the mean is nan, the sum 0 and the rows none."""
    logits, target = torch.zeros(0, TEST_CLASSES), torch.zeros(0, dtype=torch.long)
    assert loss(logits, target).isnan()
    assert loss(logits, target, reduction="sum") == 0
    assert loss(logits, target, reduction="none").shape == (0,)


@pytest.mark.parametrize("loss", ROW_LOSSES, ids=name)
def test_shapes_are_only_a_way_to_lay_out_rows(loss: Loss) -> None:
    logits = torch.randn(6, TEST_CLASSES, dtype=torch.float64)
    target = torch.randint(TEST_CLASSES, (6,))
    target[3] = -100
    weight = torch.rand(TEST_CLASSES, dtype=torch.float64)
    flat = loss(logits, target, weight=weight, reduction="none")
    for shape in ((2, 3), (1, 2, 3), (3, 1, 2, 1)):
        laid = logits.reshape(*shape, TEST_CLASSES).movedim(-1, 1)
        none = loss(laid, target.reshape(shape), weight=weight, reduction="none")
        torch.testing.assert_close(none, flat.reshape(shape), rtol=0, atol=0)
        for reduction in REDUCED:
            torch.testing.assert_close(
                loss(laid, target.reshape(shape), weight=weight, reduction=reduction),
                loss(logits, target, weight=weight, reduction=reduction),
                rtol=1e-14,
                atol=0,
            )
    for row in range(6):
        alone = loss(logits[row], target[row], weight=weight, reduction="none")
        assert alone.shape == ()
        torch.testing.assert_close(alone, flat[row], rtol=1e-14, atol=0)


@pytest.mark.parametrize(
    "view",
    [
        lambda z: z.mT.contiguous().mT,
        lambda z: torch.stack((z, -z), -1)[..., 0],
        lambda z: torch.cat((z, z), 1)[:, : z.shape[1]],
        lambda z: z[:1].expand(4, -1),
    ],
    ids=["transposed", "strided", "sliced", "expanded"],
)
@pytest.mark.parametrize("loss", ROW_LOSSES, ids=name)
def test_logits_need_not_be_contiguous(loss: Loss, view: Callable[[Tensor], Tensor]) -> None:
    source = torch.randn(4, TEST_CLASSES, dtype=torch.float64)
    target = torch.randint(TEST_CLASSES, (4,))
    odd, plain = view(source).detach().requires_grad_(), view(source).contiguous().requires_grad_()
    values = [loss(leaf, target) for leaf in (odd, plain)]
    torch.testing.assert_close(*values, rtol=1e-14, atol=0)
    slopes = [torch.autograd.grad(value, leaf)[0] for value, leaf in zip(values, (odd, plain), strict=True)]
    torch.testing.assert_close(*slopes, rtol=1e-13, atol=1e-16)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_any_integers_name_classes(dtype: torch.dtype) -> None:
    logits, target = make((6, 5))
    assert torch.equal(CrossEntropy()(logits, target.to(dtype)), CrossEntropy()(logits, target))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_soft_targets_of_another_precision(dtype: torch.dtype) -> None:
    logits, target = make((6, 5), soft=True)
    ours = CrossEntropy()(logits, target.to(dtype))
    torch.testing.assert_close(ours, F.cross_entropy(logits, target.to(dtype).double()), rtol=1e-14, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("loss", [*ROW_LOSSES, Balance()], ids=name)
def test_half_precision_gives_single_precision_statistics_and_half_gradients(
    loss: Loss, dtype: torch.dtype
) -> None:
    logits = torch.randn(3, TEST_CLASSES).to(dtype).requires_grad_()
    target = torch.randint(TEST_CLASSES, (3,))
    weight = torch.rand(TEST_CLASSES).to(dtype)
    value = loss(logits, target, weight=weight)
    (slope,) = torch.autograd.grad(value, logits)
    assert value.dtype == torch.float32
    assert slope.dtype == dtype
    single = loss(logits.detach().float(), target, weight=weight.float())
    assert torch.equal(value, single)


SUMS = [
    (CrossEntropy(label_smoothing=0.1) + 0.3 * Entropy() - 0.2 * Gini(), [1.0, 0.3, -0.2]),
    (0.5 * GammaCrossEntropy(gamma=0.2) + LogitRange(width=1.0) * 2, [0.5, 2.0]),
    (2 * (ZLoss() + 0.5 * (CrossEntropy() - Entropy())), [2.0, 1.0, -1.0]),
    (CrossEntropy() + 0.7 * Balance() + Balance(), [1.0, 0.7, 1.0]),
    (-Balance() + Entropy() * 3, [-1.0, 3.0]),
    (0 * CrossEntropy() + Entropy(), [0.0, 1.0]),
]


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("soft", [False, True], ids=["indices", "soft"])
@pytest.mark.parametrize(("total", "coefficients"), SUMS, ids=[name(total) for total, _ in SUMS])
def test_a_sum_is_the_weighted_sum_of_its_terms(
    total: Loss, coefficients: list[float], soft: bool, reduction: str
) -> None:
    assert [coefficient for coefficient, _ in total.terms()] == pytest.approx(coefficients)
    if reduction == "none" and any(isinstance(term, BatchLoss) for _, term in total.terms()):
        return
    logits, target = make((6, 5), soft=soft)
    if not soft:
        target[2] = -100
    options: dict[str, Any] = {"weight": WEIGHT, "reduction": reduction}
    expected = sum(
        (coefficient * term(logits, target, **options) for coefficient, term in total.terms()),
        start=torch.zeros((), dtype=torch.float64),
    )
    agree(total(logits, target, **options), expected, logits)


def test_a_sum_asks_for_each_statistic_once() -> None:
    asked = []
    logits, target = make((3, 5))
    inner = row_statistics(logits, target)

    def compute(statistic: Any) -> Tensor:
        asked.append(statistic)
        return inner.compute(statistic)

    total = CrossEntropy(label_smoothing=0.1) + GammaCrossEntropy() + Entropy() + 2 * Entropy() + ZLoss()
    total.of(RowStatistics(compute, num_classes=5))
    assert len(asked) == len(set(asked)) == 4


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("loss", TARGETED, ids=name)
def test_a_soft_target_is_the_expectation_over_hard_ones(loss: Loss, reduction: str) -> None:
    logits = (2 * torch.randn(4, TEST_CLASSES, dtype=torch.float64)).requires_grad_()
    soft = torch.randn(4, TEST_CLASSES, dtype=torch.float64).softmax(1)
    soft[0] = F.one_hot(torch.tensor(3), TEST_CLASSES).double()
    weight = torch.rand(TEST_CLASSES, dtype=torch.float64)
    for chosen in (None, weight):
        each = torch.stack(
            [loss(logits, torch.full((4,), y), weight=chosen, reduction="none") for y in range(TEST_CLASSES)],
            1,
        )
        rows = (soft * each).sum(1)
        # torch: the mean under a soft target is over rows, whatever their classes weigh
        expected = {"none": rows, "sum": rows.sum(), "mean": rows.mean()}[reduction]
        agree(loss(logits, soft, weight=chosen, reduction=reduction), expected, logits)


@pytest.mark.parametrize("loss", ROW_LOSSES, ids=name)
def test_one_hot_probabilities_are_class_indices(loss: Loss) -> None:
    logits = (2 * torch.randn(5, TEST_CLASSES, dtype=torch.float64)).requires_grad_()
    target = torch.randint(TEST_CLASSES, (5,))
    agree(loss(logits, F.one_hot(target, TEST_CLASSES).double()), loss(logits, target), logits)


@pytest.mark.parametrize("loss", ROW_LOSSES, ids=name)
def test_class_weights_weigh_rows_and_their_part_in_the_mean(loss: Loss) -> None:
    if isinstance(loss, CrossEntropy):
        return  # its smoothing weighs classes as torch's does, which the grid above holds to
    logits, target = torch.randn(5, TEST_CLASSES, dtype=torch.float64), torch.randint(TEST_CLASSES, (5,))
    weight = torch.rand(TEST_CLASSES, dtype=torch.float64)
    rows, counts = loss(logits, target, reduction="none"), weight[target]
    torch.testing.assert_close(
        loss(logits, target, weight=weight, reduction="none"), rows * counts, rtol=1e-14, atol=0
    )
    torch.testing.assert_close(
        loss(logits, target, weight=weight), (rows * counts).sum() / counts.sum(), rtol=1e-13, atol=0
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.15])
def test_a_class_that_weighs_nothing(smoothing: float) -> None:
    weight = torch.tensor([0.0, 1.0, 2.0, 0.0, 1.0], dtype=torch.float64)
    for reduction in REDUCTIONS:
        logits, _ = make((5, 5))
        target, options = torch.arange(5), {"weight": weight, "reduction": reduction}
        agree(
            CrossEntropy(label_smoothing=smoothing)(logits, target, **options),
            F.cross_entropy(logits, target, label_smoothing=smoothing, **options),
            logits,
        )
    logits, target = make((2, 5))[0], torch.tensor([0, 3])  # a mean over no weight at all
    assert not F.cross_entropy(logits, target, weight=weight, label_smoothing=smoothing).isfinite()
    assert not CrossEntropy(label_smoothing=smoothing)(logits, target, weight=weight).isfinite()


def test_whole_numbers_as_class_weights() -> None:
    logits, target = make((6, 5))
    ours = CrossEntropy()(logits, target, weight=torch.tensor([1, 2, 3, 4, 5]))
    expected = F.cross_entropy(logits, target, weight=torch.arange(1, 6, dtype=torch.float64))
    torch.testing.assert_close(ours, expected, rtol=1e-14, atol=0)


def test_nothing_the_user_passed_is_changed() -> None:
    logits, target = make((6, 5))
    target[1] = -100
    weight = WEIGHT.clone()
    before = [part.clone() for part in (logits, target, weight)]
    (CrossEntropy(label_smoothing=0.1) + Entropy())(logits, target, weight=weight).backward()
    assert all(map(torch.equal, before, (logits, target, weight)))


def test_reading_lays_out_rows() -> None:
    logits, target = make((2, 5, 3))
    target[0, 1] = -100
    batch = read_batch(logits, target, WEIGHT)
    assert batch.logits.shape == (6, 5)
    assert batch.shape == (2, 3)
    assert torch.equal(batch.logits[4], logits[1, :, 1])
    assert batch.kept is not None
    assert batch.kept.tolist() == [True, False, True, True, True, True]
    weight = batch.mean_weight(batch.logits)
    assert weight is not None
    assert weight[1] == 0
    assert weight[4] == WEIGHT[target[1, 1]]
    assert read_batch(logits, None).mean_weight(batch.logits) is None
    assert torch.equal(reduce(torch.ones(6), batch, "sum"), torch.tensor(5.0))


@final
@dataclass(frozen=True)
class OwnLoss(RowLoss):
    """A loss as a user would write one."""

    power: float = 2.0

    def per_row(self, row: RowStatistics, /) -> Tensor:
        return torch.sigmoid(-row.log_odds()) ** self.power


def test_a_loss_of_the_users_own_has_it_all() -> None:
    logits, target = make((2, 5, 3))
    target[0, 1] = -100
    miss = 1 - logits.softmax(1).gather(1, target.clamp(min=0)[:, None])[:, 0]
    expected = (miss**3)[target != -100].mean()
    agree(replace(OwnLoss(), power=3.0)(logits, target), expected, logits)
