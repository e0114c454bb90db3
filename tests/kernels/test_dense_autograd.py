"""Dense losses and autograd: changes in place, hooks, checkpoints, memory, second derivatives, batches."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from equipoise.kernels import dense
from equipoise.losses import CrossEntropy, GammaCrossEntropy, Loss, RowLoss
from equipoise.penalties import Entropy
from support.dense_cases import BOTH_WAYS, COMPILED, F64, LOSSES, THREE, gradient, rows
from support.row_samples import NAMED_ROW_LOSSES


@BOTH_WAYS
@LOSSES
@pytest.mark.parametrize("part", ["logits", "target", "weight", "sample_weight"])
def test_a_change_in_place_before_the_backward_pass_is_detected(loss: Loss, part: str) -> None:
    """A change of an input in place before the backward pass raises, or does not matter."""
    logits, target = rows()
    given = {"target": target, "weight": torch.rand(8, dtype=F64), "sample_weight": torch.rand(6, dtype=F64)}
    leaf = logits.requires_grad_()
    expected = gradient(loss(leaf, **given), leaf)
    given["logits"] = leaf * 1
    value = loss(**given)
    with torch.no_grad():
        given[part].fill_(1)
    assert detects(value, leaf, expected)


def detects(value: Tensor, leaf: Tensor, expected: Tensor) -> bool:
    """Return whether a gradient is refused after a change in place, or is what it was before."""
    try:
        return torch.allclose(gradient(value, leaf), expected, rtol=1e-13, atol=1e-16)
    except RuntimeError as error:
        return "modified by an inplace operation" in str(error)


@COMPILED
def test_the_kernel_detects_a_change_of_the_logits() -> None:
    """The kernel detects a change of the logits in place."""
    leaf, target = rows()
    logits = leaf.requires_grad_() * 1
    value = CrossEntropy()(logits, target)
    with torch.no_grad():
        logits.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


@COMPILED
def test_a_table_that_changes_before_the_backward_pass_does_not_spoil_the_gradient() -> None:
    """A table changed before the backward pass does not change the gradient."""
    table, (logits, target) = torch.eye(8, dtype=F64), rows()

    class Soft(RowLoss):
        def per_row(self, row: Any, /) -> Tensor:
            return -row.expected_log_prob(table)

    leaf, loss = logits.requires_grad_(), Soft()
    expected = gradient(loss(leaf, target), leaf)
    value = loss(leaf, target)
    table.mul_(3)
    assert detects(value, leaf, expected)


@BOTH_WAYS
@LOSSES
def test_backward_twice(loss: Loss) -> None:
    """A second backward is the first where the graph is retained, and torch's error where it is not."""
    logits, target = rows()
    leaf = logits.requires_grad_()
    value = loss(leaf, target)
    once = torch.autograd.grad(value, leaf, retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(value, leaf)[0], once)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(value, leaf)


@BOTH_WAYS
@LOSSES
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpoints(loss: Loss, use_reentrant: bool) -> None:
    """A checkpointed loss has the gradient of one that is not."""
    logits, target = rows()
    leaf = logits.requires_grad_()
    expected = gradient(loss(leaf * 2, target), leaf)
    value: Any = checkpoint(lambda z: loss(z * 2, target), leaf, use_reentrant=use_reentrant)
    value.backward()
    assert leaf.grad is not None
    assert torch.equal(leaf.grad, expected)


@BOTH_WAYS
@LOSSES
def test_a_first_call_under_a_checkpoint(loss: Loss) -> None:
    """What a recording saves is not counted among what is saved, which is checked against the second time."""
    logits, target = rows()
    leaf = logits.requires_grad_()
    dense.forget()
    value: Any = checkpoint(lambda z: loss(z * 2, target), leaf, use_reentrant=False)
    value.backward()
    assert leaf.grad is not None


@BOTH_WAYS
@LOSSES
def test_hooks_of_saved_tensors(loss: Loss) -> None:
    """Hooks on saved tensors see and replace what the loss saves."""
    logits, target = rows()
    leaf = logits.requires_grad_()
    expected = gradient(loss(leaf, target), leaf)
    packed = []

    def pack(tensor: Tensor) -> Any:
        packed.append(tensor)
        return tensor.numpy(force=True).copy()

    with torch.autograd.graph.saved_tensors_hooks(pack, torch.from_numpy):
        value = loss(leaf, target)
    assert packed
    assert torch.equal(gradient(value, leaf), expected)
    with torch.autograd.graph.save_on_cpu():
        value = loss(leaf, target)
    assert torch.equal(gradient(value, leaf), expected)


@BOTH_WAYS
@LOSSES
def test_hooks_of_gradients(loss: Loss) -> None:
    """Hooks on the loss and on the logits see and change the gradient."""
    logits, target = rows()
    leaf, seen = logits.requires_grad_(), []
    expected = gradient(loss(leaf, target), leaf)
    inner = leaf * 1
    inner.register_hook(lambda grad: seen.append(grad) or 2 * grad)
    value = loss(inner, target)
    value.register_hook(lambda grad: 3 * grad)
    torch.testing.assert_close(gradient(value, leaf), 6 * expected)
    torch.testing.assert_close(seen[0], 3 * expected)


@BOTH_WAYS
def test_a_scaler_of_gradients() -> None:
    """A gradient scaler skips steps with infinite gradients."""
    model = torch.nn.Linear(4, 8)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    inputs, target = torch.randn(6, 4), torch.arange(6)
    before = model.weight.detach().clone()
    loss = THREE(model(inputs), target)
    expected = torch.autograd.grad(loss, model.weight, retain_graph=True)[0]
    scaler.scale(loss).backward()
    scaler.step(optimiser)
    scaler.update()
    torch.testing.assert_close(model.weight.detach(), before - 0.1 * expected)


@BOTH_WAYS
@LOSSES
def test_autocast(loss: Loss) -> None:
    """Half-precision logits under autocast give a float32 loss."""
    inputs, weight, target = torch.randn(6, 4), torch.randn(8, 4, requires_grad=True), torch.arange(6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = F.linear(inputs, weight)
        value = loss(logits, target)
    assert logits.dtype == torch.bfloat16
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(logits.float(), target))
    assert gradient(value, weight).isfinite().all()


@BOTH_WAYS
@LOSSES
def test_nothing_is_kept_without_a_gradient(loss: Loss) -> None:
    """Without gradients, nothing is saved."""
    logits, target = rows()
    with torch.no_grad():
        value = loss(logits.requires_grad_(), target)
    assert value.grad_fn is None
    with torch.inference_mode():
        assert loss(logits, target).is_inference()
        assert torch.equal(loss(logits * 1, target), value)
    dead = weakref.ref(logits)
    del logits
    gc.collect()
    assert dead() is None


def kept_bytes(run: Callable[[], Tensor], given: list[Tensor]) -> int:
    """Return how much memory a graph keeps beside what was given."""
    pointers, found = {tensor.untyped_storage().data_ptr() for tensor in given}, {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(size for pointer, size in found.items() if pointer not in pointers)


@COMPILED
@pytest.mark.parametrize("classes", [8, 10, 100])
@pytest.mark.parametrize(
    "loss",
    [CrossEntropy(), GammaCrossEntropy(0.1), Entropy(), THREE],
    ids=["ce", "gamma", "entropy", "three"],
)
def test_no_more_is_kept_than_cross_entropy_keeps(loss: Loss, classes: int) -> None:
    """The loss saves no more memory than `F.cross_entropy`."""
    logits, target = torch.randn(64, classes, requires_grad=True), torch.randint(classes, (64,))
    given = [logits, target]
    theirs = kept_bytes(lambda: F.cross_entropy(logits, target), given)
    assert kept_bytes(lambda: loss(logits, target), given) <= theirs
    assert theirs == 4 * 64 * classes + 4  # its log-probabilities and the sum of the weights


@COMPILED
@NAMED_ROW_LOSSES
def test_second_derivatives_are_those_of_plain_torch(loss: RowLoss) -> None:
    """Second derivatives agree with plain torch."""
    logits, target = rows()
    leaf, along = logits.requires_grad_(), torch.randn(6, 8, dtype=F64)

    def second(run: Callable[..., Tensor]) -> Tensor:
        (grad,) = torch.autograd.grad(run(leaf, target), leaf, create_graph=True)
        return gradient((grad * along).sum(), leaf) if grad.requires_grad else torch.zeros_like(leaf)

    torch.testing.assert_close(second(loss), second(loss.in_torch), rtol=1e-11, atol=1e-13)


@COMPILED
@LOSSES
def test_gradients_in_batches(loss: Loss) -> None:
    """Batched gradients are those taken one by one."""
    logits, target = rows()
    leaf = logits.requires_grad_()
    each = loss(leaf, target, reduction="none")
    ups = torch.randn(3, 6, dtype=F64)
    (batched,) = torch.autograd.grad(each, leaf, ups, is_grads_batched=True, retain_graph=True)
    one_by_one = torch.stack([torch.autograd.grad(each, leaf, up, retain_graph=True)[0] for up in ups])
    torch.testing.assert_close(batched, one_by_one)
    assert torch.autograd.gradcheck(lambda z: loss(z, target), (leaf,), check_batched_grad=True)
