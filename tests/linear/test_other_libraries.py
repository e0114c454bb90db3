"""Situations that the tests of other fused cross entropies cover, tested against plain torch.

The libraries are Liger Kernel (log-likelihoods and entropies of selected tokens at a temperature) and quack
(reductions, weights, calls without gradients). The tests are written anew.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, final

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Categorical
from torch.utils._python_dispatch import TorchDispatchMode

from equipoise import linear
from equipoise.losses import CrossEntropy
from equipoise.statistics import Entropy, LogOdds
from support.heads import (
    CLOSE,
    SMALL_BLOCKS,
    Head,
    fused,
    head,
    our_policy,
    plain,
    plain_policy,
    with_gradients,
)
from support.torch_results import distance, results

pytestmark = pytest.mark.slow


SIZES = [(521, 7, 13), (17, 31, 257), (40, 16, 507), (3, 1, 2), (1, 5, 129)]


@pytest.mark.parametrize("how", [{}, {"block_bytes": SMALL_BLOCKS}], ids=["one-block", "blocks"])
@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.2])
@pytest.mark.parametrize("used", ["both", "nll", "entropy"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_log_likelihood_and_entropy_of_a_policy(
    size: tuple[int, int, int], used: str, temperature: float, how: dict[str, Any]
) -> None:
    given = head(*size, every=11 if size[0] > 1 else 2**20)
    nll, entropy = (torch.randn(size[0], dtype=torch.float64) for _ in range(2))
    upstream = (None if used == "entropy" else nll, None if used == "nll" else entropy)
    mine = with_gradients(our_policy(given, temperature, **how), given, upstream)
    theirs = with_gradients(plain_policy(given, temperature), given, upstream)
    assert distance(mine, theirs) <= CLOSE
    slightly = with_gradients(plain_policy(given, temperature * (1 + 1e-9)), given, upstream)
    assert distance(mine, slightly) > CLOSE


def test_ignored_rows_give_no_gradient() -> None:
    given = head(23, 6, 40, every=4)
    nll, entropy = our_policy(given, 0.8)
    (nll.sum() - 2 * entropy.sum()).backward()
    assert given.hidden.grad is not None
    ignored = given.target == -100
    assert not given.hidden.grad[ignored].any()
    assert (given.hidden.grad[~ignored] != 0).any(1).all()


def test_log_probs_of_the_selected_tokens_in_a_clipped_objective() -> None:
    given = head(60, 12, 507, every=2**20)
    with torch.no_grad():
        before = -plain_policy(given, 1.0)[0] + 0.3 * torch.randn(60, dtype=torch.float64)
    advantage = torch.randn(60, dtype=torch.float64)

    def objective(nll: Tensor) -> tuple[Tensor, ...]:
        ratio = (-nll - before).exp()
        gain = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
        clipped = ((ratio - 1).abs() > 0.2).double().mean()
        assert 0.1 < clipped < 0.9
        return gain, *torch.autograd.grad(gain.sum(), given.leaves)

    row = linear.row_statistics(given.hidden, given.weight, given.target, stats=[LogOdds()])
    theirs = objective(plain_policy(given, 1.0)[0])
    assert distance(objective(our_policy(given, 1.0)[0]), theirs) <= CLOSE
    assert distance(objective(-F.logsigmoid(row.log_odds())), theirs) <= CLOSE
    assert distance(objective(plain_policy(given, 1 + 1e-9)[0]), theirs) > CLOSE


def test_entropy_alone_needs_no_target() -> None:
    given = head(19, 9, 257)
    upstream = [torch.randn(19, dtype=torch.float64)]
    row = linear.row_statistics(given.hidden, given.weight, stats=[Entropy()], block_bytes=SMALL_BLOCKS)
    mine = with_gradients([row.entropy], given, upstream)
    for scale, same in ((1, True), (1 + 1e-9, False)):
        truth = Categorical(logits=scale * (given.hidden @ given.weight.T)).entropy()
        assert (distance(mine, with_gradients([truth], given, upstream)) <= CLOSE) == same


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("ignored", [-100, -1, 0, 506])
def test_reductions_and_ignored_classes(reduction: str, ignored: int) -> None:
    given = head(60, 8, 507)
    given.target[given.target == -100] = ignored
    given.target[0], given.target[-1] = 505, 506
    options = {"reduction": reduction, "ignore_index": ignored}
    theirs = results(plain(given, **options), given.leaves)
    ways: list[dict[str, Any]] = [{}, {"block_bytes": SMALL_BLOCKS}, {"grad": "recompute"}]
    for how in ways:
        assert distance(results(fused(given, **options, **how), given.leaves), theirs) <= CLOSE
    # the control: row 0 is ignored too
    more = replace(given, target=torch.where(given.target == ignored, 505, given.target))
    assert distance(results(fused(more, reduction=reduction, ignore_index=505), given.leaves), theirs) > CLOSE


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_weights_of_ignored_rows_are_not_looked_at(reduction: str) -> None:
    given = head(40, 8, 507)
    kept = given.target != -100
    weights = torch.rand(40, dtype=torch.float64)
    weights[::7] = 0
    losses = plain(given, reduction="none") * weights
    total = {"none": losses, "sum": losses.sum(), "mean": losses.sum() / weights[kept].sum()}[reduction]
    theirs = results(total, given.leaves)
    for hole in (0.0, torch.nan):  # what stands in the padding, as a result of 0 / 0 too
        holed = torch.where(kept, weights, hole)
        assert (
            distance(results(fused(given, reduction=reduction, sample_weight=holed), given.leaves), theirs)
            <= CLOSE
        )
    assert distance(results(fused(given, reduction=reduction), given.leaves), theirs) > CLOSE


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_without_gradients_the_value_is_the_same(mode: Any, reduction: str) -> None:
    given = head(40, 8, 507)
    trained = fused(given, reduction=reduction, block_bytes=SMALL_BLOCKS)
    frozen = Head(given.hidden.detach(), given.weight.detach(), given.target)
    with mode():
        quiet = fused(given, reduction=reduction, block_bytes=SMALL_BLOCKS)
    assert trained.requires_grad
    for value in (quiet, fused(frozen, reduction=reduction, block_bytes=SMALL_BLOCKS)):
        assert not value.requires_grad
        assert distance([value], [trained.detach()]) <= CLOSE
    assert distance([quiet], [trained.detach() * (1 + 1e-9)]) > CLOSE


@final
class Products(TorchDispatchMode):
    """Counts multiplications in products of matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.addmm_):
            one, two = args[-2:]
            self.count += one.numel() * two.shape[1]
        return func(*args, **(kwargs or {}))


def products(given: Head, **options: Any) -> float:
    """Return how many times the logits' product was computed for the value alone."""
    with Products() as counted:
        fused(given, **options)
    n, d = given.hidden.shape
    return counted.count / (n * d * len(given.weight))


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_without_gradients_no_work_is_done_for_them(reduction: str) -> None:
    given = head(40, 8, 507)
    frozen = Head(given.hidden.detach(), given.weight.detach(), given.target)
    assert products(given, reduction=reduction) == (3 if reduction == "mean" else 1)
    assert products(frozen, reduction=reduction) == 1
    with torch.no_grad():
        assert products(given, reduction=reduction) == 1


def test_without_gradients_the_plan_says_so() -> None:
    given = head(40, 8, 507)
    call: Any = (CrossEntropy(), given.hidden, given.weight, given.target)
    assert (linear.explain(*call).grad, linear.explain(*call).products) == ("forward", 3)
    with torch.no_grad():
        assert (linear.explain(*call).grad, linear.explain(*call).products) == ("none", 1)


@pytest.mark.parametrize("grad", ["forward", "recompute"])
@pytest.mark.parametrize("frozen", [(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2)])
def test_a_frozen_part_changes_no_other_gradient(frozen: tuple[int, ...], grad: str) -> None:
    given, bias = head(60, 8, 507), torch.randn(507, dtype=torch.float64)
    parts = [given.hidden.detach(), given.weight.detach(), bias]

    def gradients(wanted: Sequence[bool]) -> list[Tensor | None]:
        leaves = [part.clone().requires_grad_(needed) for part, needed in zip(parts, wanted, strict=True)]
        hidden, weight, shift = leaves
        options: Any = {"grad": grad, "block_bytes": SMALL_BLOCKS}
        CrossEntropy().linear(hidden, weight, given.target, linear_bias=shift, **options).backward()
        return [leaf.grad for leaf in leaves]

    hidden, weight, shift = truth = [part.clone().requires_grad_() for part in parts]
    F.cross_entropy(hidden @ weight.T + shift, given.target).backward()
    every = gradients((True, True, True))
    some = gradients([k not in frozen for k in range(3)])
    for k in range(3):
        theirs, both, alone = truth[k].grad, every[k], some[k]
        assert theirs is not None
        assert both is not None
        assert theirs.abs().max() > 1e-4
        assert distance([both], [theirs]) <= CLOSE
        if k in frozen:
            assert alone is None
        else:
            assert alone is not None
            assert distance([alone], [both]) <= CLOSE
