"""Edges of dense losses: no rows, one class, rows left out, strides, devices, sizes, bad targets."""

import gc
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from equipoise.kernels import dense
from equipoise.losses import CrossEntropy, GammaCrossEntropy, Loss, SimilarityCrossEntropy
from equipoise.penalties import Entropy
from equipoise.statistics.row import applies_class_weight
from support.dense_cases import BOTH_WAYS, COMPILED, F64, LOSSES, gradient, rows
from support.row_samples import NAMED_ROW_LOSSES, odds_with


@BOTH_WAYS
@NAMED_ROW_LOSSES
def test_no_rows(loss: Loss) -> None:
    """Without rows the mean is nan, the sum 0 and the gradient empty."""
    logits, target = torch.zeros(0, 8, requires_grad=True), torch.zeros(0, dtype=torch.long)
    assert loss(logits, target).isnan()
    assert loss(logits, target, reduction="none").shape == (0,)
    total = loss(logits, target, reduction="sum")
    assert total == 0
    assert gradient(total, logits).shape == (0, 8)
    assert loss(torch.zeros(2, 8, 0), torch.zeros(2, 0).long(), reduction="none").shape == (2, 0)


@BOTH_WAYS
def test_one_class() -> None:
    """With one class loss and gradient are 0."""
    logits, target = torch.randn(3, 1, requires_grad=True), torch.zeros(3, dtype=torch.long)
    for loss, value in ((CrossEntropy(), 0.0), (Entropy(), 0.0), (GammaCrossEntropy(0.1), 0.0)):
        found = loss(logits, target)
        assert found == value
        assert (gradient(found, logits) == 0).all()
    transposed = torch.randn(1, 3, requires_grad=True).mT
    assert CrossEntropy()(transposed, target) == 0


@BOTH_WAYS
@pytest.mark.parametrize("how", ["ignored", "sample weight", "class weight"])
@NAMED_ROW_LOSSES
def test_all_rows_are_left_out(loss: Loss, how: str) -> None:
    """If all rows are left out, the mean is nan, the sum 0 and the gradient 0."""
    if how == "class weight" and applies_class_weight(loss):
        pytest.skip("such rows have a part where labels are smoothed")
    logits, target = rows()
    logits[0] = torch.nan
    leaf = logits.requires_grad_()
    options: dict[str, Any] = {}
    if how == "ignored":
        target = torch.full_like(target, -100)
    elif how == "sample weight":
        options["sample_weight"] = torch.zeros(6)
    else:
        options["weight"] = torch.zeros(8)
    assert loss(leaf, target, **options).isnan()
    total = loss(leaf, target, reduction="sum", **options)
    assert total == 0
    assert (gradient(total, leaf) == 0).all()
    each = loss(leaf, target, reduction="none", **options)
    assert (each == 0).all()


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda z: z.mT.contiguous().mT,
    "every second class": lambda z: torch.stack((z, -z), -1)[..., 0],
    "wider rows": lambda z: torch.cat((z, z), 1)[:, : z.shape[1]],
    "every second row": lambda z: torch.stack((z, -z), 1)[:, 0],
    "backwards": lambda z: z.flip(0),
    "one row for all": lambda z: z[:1].expand(len(z), -1),
    "one class for all": lambda z: z[:, :1].expand(-1, z.shape[1]),
    "an offset": lambda z: torch.cat((torch.zeros(1, dtype=z.dtype), z.reshape(-1)))[1:].view(z.shape),
    "negated lazily": lambda z: torch.complex(z, -z).conj().imag,
}


@BOTH_WAYS
@LOSSES
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_strides_of_logits(loss: Loss, view: str, reduction: Any) -> None:
    """Logits of any strides give the value and gradient of contiguous ones."""
    source, target = rows()
    odd = VIEWS[view](source).detach().requires_grad_()
    plain = VIEWS[view](source).resolve_neg().clone(memory_format=torch.contiguous_format).requires_grad_()
    values = [loss(leaf, target, reduction=reduction) for leaf in (odd, plain)]
    torch.testing.assert_close(*values, rtol=1e-14, atol=0)
    grads = [gradient(value.sum(), leaf) for value, leaf in zip(values, (odd, plain), strict=True)]
    torch.testing.assert_close(*grads, rtol=1e-13, atol=1e-16)


@BOTH_WAYS
@LOSSES
def test_strides_of_all_else(loss: Loss) -> None:
    """Strided targets, class weights and sample weights give the same losses."""
    logits, target = rows()
    weight, samples = torch.rand(8, dtype=F64), torch.rand(6, dtype=F64)
    expected = loss(logits, target, weight, sample_weight=samples, reduction="none")

    def twice(one: Tensor) -> Tensor:
        return torch.stack((one, one + 1), 1)[:, 0]

    ours = loss(logits, twice(target), twice(weight), sample_weight=twice(samples), reduction="none")
    assert torch.equal(ours, expected)
    assert loss(logits, torch.tensor(3).expand(6)).isfinite()
    assert loss(logits, target.int(), weight.float(), sample_weight=samples.half()).isfinite()


@BOTH_WAYS
@LOSSES
@pytest.mark.parametrize(
    "upstream",
    [
        lambda n: torch.ones((), dtype=F64).expand(n),
        lambda n: torch.rand(n, 2, dtype=F64)[:, 1],
        lambda n: torch.zeros(n, dtype=F64),
        lambda n: -torch.rand(n, dtype=F64).flip(0),
    ],
    ids=["expanded", "strided", "zero", "negative"],
)
def test_gradients_that_come_in(loss: Loss, upstream: Callable[[int], Tensor]) -> None:
    """Upstream gradients of any stride give the same gradient."""
    logits, target = rows()
    leaf, up = logits.requires_grad_(), upstream(6)
    each = loss(leaf, target, reduction="none")
    expected = torch.stack([gradient(loss(leaf, target, reduction="none")[k], leaf) for k in range(6)])
    torch.testing.assert_close(gradient(each, leaf, up), (expected * up[:, None, None]).sum(0))


@COMPILED
def test_a_default_device_of_another_kind() -> None:
    """A default device does not affect a loss of CPU tensors."""
    logits, target = rows()
    loss, leaf = GammaCrossEntropy(0.173), logits.requires_grad_()
    with torch.device("meta"):
        values = [loss(leaf, target, reduction=reduction) for reduction in ("mean", "sum", "none")]
        grads = [gradient(value.sum(), leaf) for value in values]
    assert all(value.device.type == "cpu" and value.isfinite().all() for value in values)
    torch.testing.assert_close(grads[0] * 6, grads[1])
    torch.testing.assert_close(values[0], loss.in_torch(logits, target))


@COMPILED
def test_more_logits_than_a_32_bit_number_counts() -> None:
    """More than 2**31 logits are indexed correctly."""
    row = torch.randn(1, 2**15 + 8).to(torch.bfloat16)
    logits, target = row.expand(2**16, -1), torch.zeros(2**16, dtype=torch.long)
    target[-1] = row.shape[1] - 1
    assert logits.numel() > 2**31
    torch.set_num_threads(2)
    try:
        each = CrossEntropy()(logits, target, reduction="none")
    finally:
        torch.set_num_threads(1)
    expected = F.cross_entropy(row.float().expand(2, -1), target[[0, -1]], reduction="none")
    torch.testing.assert_close(each[[0, -1]], expected)
    assert (each[:-1] == each[0]).all()


@BOTH_WAYS
class TestBadTargets:
    @LOSSES
    @pytest.mark.parametrize("reduction", ["mean", "none"])
    @pytest.mark.parametrize("bad", [8, -1, 255, -(2**40)])
    def test_a_class_that_does_not_exist(self, loss: Loss, bad: int, reduction: Any) -> None:
        """A target outside the classes raises for each shape."""
        logits, target = rows()
        target[3] = bad
        for leaf in (logits, logits.clone().requires_grad_()):
            for given in (leaf, leaf.reshape(2, 3, 8).movedim(-1, 1)):
                shaped = target.reshape(given.shape[0], -1) if given.ndim == 3 else target
                said = f"target must be in [0, 8) or ignore_index=-100, got {bad}"
                with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
                    loss(given, shaped, reduction=reduction)
        assert loss(logits, target, ignore_index=bad).isfinite()

    def test_a_penalty_holds_its_target_to_it_too(self) -> None:
        """A penalty also checks the range of its target."""
        logits, target = rows()
        target[3] = 8
        with pytest.raises(ValueError, match=r"target must be in \[0, 8\) or ignore_index=7, got 8"):
            Entropy()(logits, target, ignore_index=7)

    def test_a_row_that_weighs_nothing_has_a_class_all_the_same(self) -> None:
        """A row of weight 0 must have a valid target too."""
        logits, target = rows()
        target[3] = 8
        with pytest.raises(ValueError, match="got 8"):
            CrossEntropy()(logits, target, sample_weight=torch.arange(6) - 3)

    def test_a_target_that_is_missing(self) -> None:
        """A missing target raises."""
        with pytest.raises(ValueError, match="target must be given, got None"):
            CrossEntropy()(rows()[0])
        with pytest.raises(ValueError, match="target must be given with class weights, got None"):
            Entropy()(rows()[0], weight=torch.ones(8))


def test_memory_of_a_loss_that_raises_is_free() -> None:
    """A loss that raises is not kept in memory."""

    def fail(odds: Tensor) -> Tensor:
        raise RuntimeError("the user's")

    dense.forget()
    for _ in range(3):
        with pytest.raises(RuntimeError, match="the user's"):
            odds_with(fail)(*rows())
    gc.collect()
    assert not dense._by_value


def test_similar_classes_of_another_number_are_refused_on_each_call() -> None:
    """A similarity of another number of classes raises in each call."""
    loss = SimilarityCrossEntropy(torch.eye(5).tolist())
    for _ in range(2):
        with pytest.raises(ValueError, match="similarity must have a row and a column for each of 8 classes"):
            loss(*rows())
