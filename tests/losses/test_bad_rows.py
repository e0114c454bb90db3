"""A row with a nan, plus infinity or no allowed class is nan; a row that is left out has no part."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from equipoise import Objective, label_noise, linear
from equipoise.losses import (
    LOSSES,
    Brier,
    CrossEntropy,
    Focal,
    GammaCrossEntropy,
    GeneralizedCrossEntropy,
    Loss,
    RankedProbabilityScore,
    RowLoss,
)
from equipoise.penalties import PENALTIES, Balance, Entropy, LogitRange
from support.definitions import TEST_CLASSES, settings_of
from support.grids import grid
from support.linear_cases import BOTH_WAYS

INF, NAN = torch.inf, torch.nan
ROWS, BAD, TARGET = 4, 1, 2  # which row is bad, and its class
EVERY = slice(None)
SPOILT: dict[str, tuple[int | slice, float]] = {
    "all nan": (EVERY, NAN),
    "a nan": (5, NAN),
    "a nan at the target": (TARGET, NAN),
    "plus infinity": (5, INF),
    "plus infinity at the target": (TARGET, INF),
    "plus infinity everywhere": (EVERY, INF),
    "every class masked": (EVERY, -INF),
}
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
TABLE = [
    pytest.param(loss, id=f"{entry.name}-{index}")
    for entry in LOSSES + PENALTIES
    for index, loss in enumerate(settings_of(entry))
]
ROW_TABLE = [case for case in TABLE if isinstance(case.values[0], RowLoss)]
EVERY_LOSS = pytest.mark.parametrize("loss", TABLE)
EVERY_ROW_LOSS = pytest.mark.parametrize("loss", ROW_TABLE)


class Forgiving(RowLoss):
    """A loss that takes a nan for a number; what must be found."""

    def per_row(self, row: Any, /) -> Tensor:
        return -row.log_odds().nan_to_num()


def spoilt(kind: str, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    logits = torch.randn(ROWS, TEST_CLASSES, dtype=torch.float64)
    place, value = SPOILT[kind]
    logits[BAD, place] = value
    target = torch.arange(ROWS) + 3
    target[BAD] = TARGET
    return logits.to(dtype), target


def targets(target: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
    yield target
    yield 0.9 * F.one_hot(target, TEST_CLASSES).to(dtype) + 0.1 / TEST_CLASSES


def check_shown(losses: Tensor, grad: Tensor) -> None:
    """The bad row is nan or infinite in its loss, nan all along in its gradient, and no other row is."""
    assert losses.isfinite().tolist() == [row != BAD for row in range(ROWS)]
    assert grad[BAD].isnan().all()
    assert grad[[row for row in range(ROWS) if row != BAD]].isfinite().all()


@BOTH_WAYS
@EVERY_ROW_LOSS
@pytest.mark.parametrize("dtype", grid(DTYPES, fast=[(torch.float64,), (torch.bfloat16,)]))
def test_a_bad_row_is_shown(loss: Loss, dtype: torch.dtype) -> None:
    """A row with nan, plus infinity or no class has nan loss and gradient."""
    for kind in SPOILT:
        logits, target = spoilt(kind, dtype)
        for held in targets(target, dtype):
            leaf = logits.clone().requires_grad_()
            losses = loss(leaf, held, reduction="none")
            check_shown(losses, torch.autograd.grad(losses.sum(), leaf)[0])
            for reduction in ("mean", "sum"):
                assert not loss(leaf, held, reduction=reduction).isfinite()


def test_the_check_finds_a_loss_that_hides_a_nan() -> None:
    """A loss that hides a nan is found by the check."""
    leaf, target = spoilt("all nan")
    losses = Forgiving()(leaf.requires_grad_(), target, reduction="none")
    with pytest.raises(AssertionError):
        check_shown(losses, torch.autograd.grad(losses.sum(), leaf)[0])


@EVERY_LOSS
def test_a_bad_row_is_shown_in_a_mean(loss: Loss) -> None:
    """A bad row makes the mean and its own gradient nan."""
    for kind in SPOILT:
        logits, target = spoilt(kind)
        leaf = logits.requires_grad_()
        value = loss(leaf, target)
        assert not value.isfinite()
        assert torch.autograd.grad(value, leaf)[0][BAD].isnan().all()


def together() -> tuple[Tensor, Tensor, list[bool]]:
    """Return rows of every kind, their classes, and which of them are good."""
    logits, target = zip(*map(spoilt, SPOILT), strict=True)
    return torch.cat(logits), torch.cat(target), [row != BAD for row in range(ROWS)] * len(SPOILT)


@EVERY_ROW_LOSS
def test_a_bad_row_is_shown_through_a_transform(loss: Loss) -> None:
    """A bad row is nan under vmap and grad, and no other row is."""
    logits, target, good = together()
    each = torch.func.vmap(torch.func.grad_and_value(lambda z, y: loss(z, y)))
    grads, values = each(logits, target)
    assert values.isfinite().tolist() == grads.isfinite().all(1).tolist() == good
    assert grads[~torch.tensor(good)].isnan().all()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("loss", [CrossEntropy(), LogitRange(width=1.0), RankedProbabilityScore()])
def test_a_bad_row_is_shown_through_a_compiler(loss: Loss, soft: bool) -> None:
    """A bad row is nan when compiled, and no other row is."""
    compiled = torch.compile(lambda z, y: loss(z, y, reduction="none"), backend="aot_eager", dynamic=False)
    logits, target, good = together()
    losses = compiled(logits.requires_grad_(), list(targets(target, logits.dtype))[soft])
    (grad,) = torch.autograd.grad(losses.sum(), logits)
    assert losses.isfinite().tolist() == grad.isfinite().all(1).tolist() == good


@BOTH_WAYS
@EVERY_ROW_LOSS
@pytest.mark.parametrize(
    ("grad", "dtype"),
    grid(["auto", "recompute"], DTYPES[:3], fast=[("auto", torch.float32), ("recompute", torch.bfloat16)]),
)
def test_a_bad_row_is_shown_without_logits(loss: Loss, grad: str, dtype: torch.dtype) -> None:
    """A bad row of hidden states makes the fused loss and its gradients nan."""
    for bad in (NAN, INF):
        for places in (EVERY, 1):
            hidden = torch.randn(ROWS, 3).to(dtype)
            hidden[BAD, places] = bad
            weight = (torch.rand(TEST_CLASSES, 3) + 0.1).to(dtype)  # so that logits are plus infinity, or nan
            for held in targets(torch.arange(ROWS), dtype):
                leaf = hidden.clone().requires_grad_()
                for reduction in ("none", "sum"):
                    losses = loss.linear(leaf, weight, held, reduction=reduction, grad=grad, block_bytes=100)
                    (slope,) = torch.autograd.grad(losses.sum(), leaf)
                    if reduction == "none":
                        check_shown(losses, slope)
                    else:
                        assert not losses.isfinite()
                        assert slope[BAD].isnan().all()
                        assert slope[2:].isfinite().all()


@BOTH_WAYS
@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_a_bad_row_is_shown_in_every_statistic(backend: str) -> None:
    """A bad row has nan in every statistic, and no other row has."""
    for kind, (place, value) in SPOILT.items():
        bias = torch.zeros(TEST_CLASSES, dtype=torch.float64)
        hidden = torch.eye(ROWS, dtype=torch.float64).requires_grad_()
        weight = torch.randn(TEST_CLASSES, ROWS, dtype=torch.float64)
        bias[place] = value  # so all rows are bad
        row = linear.row_statistics(
            hidden, weight, torch.full((ROWS,), TARGET), linear_bias=bias, backend=backend
        )
        for stat in linear.STATS:
            answer = row.compute(stat)
            assert not answer.isfinite().any(), (kind, stat)
            if answer.requires_grad:
                (grad,) = torch.autograd.grad(answer.sum(), hidden, retain_graph=True)
                assert grad.isnan().all()
    clean = linear.row_statistics(hidden, weight, torch.full((ROWS,), TARGET), backend=backend)
    assert all(clean.compute(stat).isfinite().all() for stat in linear.STATS)


LEFT_OUT = ["ignored", "a row of weight 0", "a class of weight 0"]


def leave_out(how: str, target: Tensor) -> dict[str, Any]:
    """Return options that leave the bad row out."""
    if how == "ignored":
        target[BAD] = -100
        return {}
    if how == "a row of weight 0":
        return {"sample_weight": (torch.arange(ROWS) != BAD).double()}
    return {"weight": (torch.arange(TEST_CLASSES) != target[BAD]).double()}


@BOTH_WAYS
@pytest.mark.parametrize("how", LEFT_OUT)
@EVERY_LOSS
def test_a_row_that_is_left_out_has_no_part(loss: Loss, how: str) -> None:
    """A row that is left out does not contribute, whatever its logits are."""
    if how == "a class of weight 0" and getattr(loss, "label_smoothing", 0):
        pytest.skip("it has a part, as a test below shows")
    for kind in SPOILT:
        logits, target = spoilt(kind)
        options = leave_out(how, target)
        leaf = logits.requires_grad_()
        for reduction in ("mean", "sum"):
            value = loss(leaf, target, reduction=reduction, **options)
            kept = torch.arange(ROWS) != BAD
            rest = logits.detach()[kept].requires_grad_()
            expected = loss(rest, target[kept], reduction=reduction)
            torch.testing.assert_close(value, expected, rtol=1e-13, atol=1e-15)
            (grad,), (slope,) = torch.autograd.grad(value, leaf), torch.autograd.grad(expected, rest)
            assert (grad[BAD] == 0).all()
            torch.testing.assert_close(grad[kept], slope, rtol=1e-12, atol=1e-15)


@BOTH_WAYS
@pytest.mark.parametrize(
    ("how", "grad"),
    grid(
        LEFT_OUT,
        ["auto", "recompute"],
        fast=[(LEFT_OUT[0], "auto"), (LEFT_OUT[1], "recompute"), (LEFT_OUT[2], "auto")],
    ),
)
@EVERY_ROW_LOSS
def test_a_row_that_is_left_out_has_no_part_without_logits(loss: Loss, how: str, grad: str) -> None:
    """A row that is left out of a fused loss does not contribute."""
    if how == "a class of weight 0" and getattr(loss, "label_smoothing", 0):
        pytest.skip("it has a part, as a test below shows")
    for bad in (NAN, INF, -INF):
        hidden, weight = torch.randn(ROWS, 3).double(), torch.randn(TEST_CLASSES, 3).double().requires_grad_()
        hidden[BAD] = bad
        target = torch.arange(ROWS)
        options = leave_out(how, target)
        kept = torch.arange(ROWS) != BAD
        leaf, rest = hidden.requires_grad_(), hidden.detach()[kept].requires_grad_()
        value = loss.linear(leaf, weight, target, grad=grad, block_bytes=100, **options)
        expected = loss(rest @ weight.T, target[kept])
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-14)
        ours = torch.autograd.grad(value, (leaf, weight))
        theirs = torch.autograd.grad(expected, (rest, weight))
        assert (ours[0][BAD] == 0).all()
        torch.testing.assert_close(ours[0][kept], theirs[0], rtol=1e-11, atol=1e-13)
        torch.testing.assert_close(ours[1], theirs[1], rtol=1e-11, atol=1e-13)


def test_a_class_of_weight_0_has_a_part_where_labels_are_smoothed() -> None:
    """With label smoothing, a target class of weight 0 still contributes, as in torch."""
    logits, target = spoilt("a nan")  # as in torch: the other classes of its smoothed target weigh something
    options = leave_out("a class of weight 0", target)
    smoothed = CrossEntropy(label_smoothing=0.1)
    assert smoothed(logits, target, reduction="none", **options).isnan().tolist() == [
        row == BAD for row in range(ROWS)
    ]


def test_the_page_of_padding() -> None:
    """The examples of the documentation on padding hold."""
    logits, target = torch.randn(4, 5, dtype=torch.float64), torch.arange(4)
    logits[1], target[1] = -INF, -100
    kept = [0, 2, 3]
    torch.testing.assert_close(Balance()(logits, target), Balance()(logits[kept], target[kept]))
    logits[0] = -INF
    smoothed = CrossEntropy(label_smoothing=0.1)(logits, target, reduction="none")
    assert smoothed.isnan().tolist() == [True, False, False, False]


def test_a_weight_that_is_learnt_leaves_no_row_out() -> None:
    """A weight that requires a gradient does not hide a bad row."""
    logits, target = spoilt("a nan")
    weight = (torch.arange(ROWS) != BAD).double().requires_grad_()
    assert CrossEntropy()(logits, target, sample_weight=weight).isnan()


class TestMask:
    @EVERY_LOSS
    def test_it_is_minus_infinity(self, loss: Loss) -> None:
        """A mask equals minus infinity in the logits."""
        logits, target = torch.randn(ROWS, TEST_CLASSES, dtype=torch.float64), torch.arange(ROWS)
        one = torch.tensor([True] * (TEST_CLASSES - 2) + [False] * 2)
        each = torch.rand(ROWS, TEST_CLASSES) > 0.3
        each[torch.arange(ROWS), target] = True
        for mask in (one, each):
            logits[:, -1][~mask[..., -1].expand(ROWS)] = NAN  # whatever is masked has no part either
            leaf, plain = logits.clone().requires_grad_(), logits.masked_fill(~mask, -INF).requires_grad_()
            value, expected = loss(leaf, target, mask=mask), loss(plain, target)
            assert torch.equal(value, expected)
            (grad,), (slope,) = torch.autograd.grad(value, leaf), torch.autograd.grad(expected, plain)
            assert torch.equal(grad, slope.masked_fill(~mask, 0.0))
            logits = logits.nan_to_num()

    def test_classes_in_the_middle(self) -> None:
        """A mask has the class dimension of the logits."""
        logits, target = torch.randn(2, 5, 3), torch.randint(2, (2, 3))
        one = torch.tensor([True, True, False, True, False])
        plain = CrossEntropy()(logits, target, mask=one[None, :, None].expand(2, 5, 3))
        assert CrossEntropy()(logits, target, mask=one) == plain
        assert F.cross_entropy(logits[:, one], target) == pytest.approx(plain.item(), rel=1e-6)
        assert Objective(CrossEntropy())(logits, target, mask=one) == plain

    def test_a_mask_of_another_kind_is_refused(self) -> None:
        """A mask of another shape or dtype is refused."""
        logits, target = torch.randn(4, 3), torch.arange(4) % 3
        for mask, said in {
            torch.ones(4, 1, dtype=torch.bool): r"mask must be \(3,\), .*, \(4, 3\), got \(4, 1\)",
            torch.ones(1, dtype=torch.bool): r"got \(1,\)",
            torch.ones(1, 3, dtype=torch.bool): r"got \(1, 3\)",
        }.items():
            with pytest.raises(ValueError, match=said):
                CrossEntropy()(logits, target, mask=mask)
        for mask, said in {torch.ones(3): "torch.float32", torch.ones(3).long(): "torch.int64"}.items():
            with pytest.raises(TypeError, match=f"mask must be a bool tensor.*got {said}.*as_tensor"):
                CrossEntropy()(logits, target, mask=mask)


def diverging(log: Callable[[Tensor, Tensor], Tensor], steps: int = 12) -> list[float]:
    """Train with a learning rate of 1e20, and return what is logged."""
    torch.manual_seed(0)
    inputs, target = torch.randn(32, 6), torch.randint(TEST_CLASSES, (32,))
    body, head = torch.nn.Linear(6, 16), torch.nn.Linear(16, TEST_CLASSES, bias=False)
    optimiser = torch.optim.SGD([*body.parameters(), *head.parameters()], lr=1e20)
    logged = []
    for _ in range(steps):
        hidden = torch.relu(body(inputs))
        with torch.no_grad():
            logged.append(log(hidden, head.weight).item())
        optimiser.zero_grad()
        F.cross_entropy(head(hidden), target).backward()
        optimiser.step()
    return logged


@BOTH_WAYS
def test_a_run_that_diverges_logs_nan_at_the_same_steps() -> None:
    """A diverging run has nan losses at the steps of plain cross entropy."""
    torch.manual_seed(0)
    torch.randn(32, 6)
    target = torch.randint(TEST_CLASSES, (32,))
    expected = [value != value for value in diverging(lambda h, w: F.cross_entropy(h @ w.T, target))]
    assert 0 < sum(expected) < len(expected)
    losses = CrossEntropy(), GammaCrossEntropy(0.1), GeneralizedCrossEntropy(0.7), Brier(), Focal()
    for loss in (*losses, GammaCrossEntropy(0.1) + 0.1 * Entropy()):
        for logged in (
            diverging(lambda h, w, loss=loss: loss(h @ w.T, target)),
            diverging(lambda h, w, loss=loss: loss.linear(h, w, target)),
        ):
            assert [value != value for value in logged] == expected
    hidden = diverging(lambda h, w: torch.nan_to_num(CrossEntropy()(h @ w.T, target)))
    assert [value != value for value in hidden] != expected


@pytest.mark.parametrize("level", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_bad_row_is_shown_in_probabilities_read_out(level: float, dtype: torch.dtype) -> None:
    """A bad row has nan probabilities in `floored_probs`."""
    for kind in SPOILT:
        logits, _ = spoilt(kind, dtype)
        for probs in (label_noise.floored_probs(logits, level), label_noise.floored_log_probs(logits, level)):
            assert probs[BAD].isnan().all()
            assert not probs[[0, 2, 3]].isnan().any()
