"""Dispatch modes, tracers, transforms and subclasses of Tensor see the reference."""

import pickle
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from dataclasses import fields
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

from equipoise import _tensors, linear
from equipoise.costs import ClassMatrix, matrix
from equipoise.losses import LOSSES, CrossEntropy, Loss, RowLoss
from equipoise.penalties import PENALTIES
from support.definitions import TEST_CLASSES, settings_of

pytestmark = [  # what torch says of itself
    pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*might cause the trace to be incorrect.*"),
]

ROWS = 5
TABLE = [
    pytest.param(loss, id=f"{entry.name}-{index}")
    for entry in LOSSES + PENALTIES
    for index, loss in enumerate(settings_of(entry))
]
EVERY_LOSS = pytest.mark.parametrize("loss", TABLE)
FUSED = pytest.mark.parametrize("fused", [False, True], ids=["dense", "fused"])
TARGET = torch.arange(ROWS)
WEIGHT = torch.linspace(-1.0, 1.0, TEST_CLASSES * TEST_CLASSES, dtype=torch.float64).sin()
WEIGHT = WEIGHT.reshape(TEST_CLASSES, TEST_CLASSES)


def inputs() -> tuple[Tensor, Tensor]:
    return torch.randn(2, ROWS, TEST_CLASSES, dtype=torch.float64).unbind()  # pyright: ignore[reportReturnType]


def function(loss: Loss, *, fused: bool) -> Callable[[Tensor], Tensor]:
    """Return the loss of logits, or of hidden states."""
    if fused and not all(isinstance(term, RowLoss) for _, term in loss.terms()):
        pytest.skip("a fused loss looks at one row at a time")
    return lambda z: loss.linear(z, WEIGHT, TARGET) if fused else loss(z, TARGET)


def plainly(run: Callable[[Tensor], Tensor], at: Tensor) -> tuple[Tensor, Tensor]:
    """Return the value and the gradient without anybody who follows."""
    leaf = at.clone().requires_grad_()
    value = run(leaf)
    return value.detach(), torch.autograd.grad(value, leaf)[0]


def close(one: Tensor, two: Tensor) -> None:
    torch.testing.assert_close(one, two, rtol=1e-11, atol=1e-13)


@pytest.mark.slow
@FUSED
@EVERY_LOSS
def test_a_graph_of_it_has_the_value_and_the_gradient_elsewhere(loss: Loss, fused: bool) -> None:
    """A traced graph gives value and gradient for other inputs."""
    run, (one, two) = function(loss, fused=fused), inputs()
    value, grad = plainly(run, two)
    close(make_fx(run)(one)(two), value)
    close(make_fx(torch.func.grad(run))(one)(two), grad)


def test_a_graph_of_what_is_read_directly_is_found_out() -> None:
    """A graph that reads values directly is found."""
    one, two = inputs()

    def run(z: Tensor) -> Tensor:
        return torch.from_numpy(z.detach().numpy().copy()).sum() + 0 * z.sum()

    with pytest.raises((AssertionError, RuntimeError)):
        close(make_fx(run)(one)(two), run(two))


@FUSED
@EVERY_LOSS
def test_fake_tensors_have_a_shape(loss: Loss, fused: bool) -> None:
    """Fake tensors get the shape of the loss."""
    run = function(loss, fused=False)
    plainly(run, inputs()[0])  # what is kept from before is no obstacle
    with FakeTensorMode():
        z = torch.empty(ROWS, TEST_CLASSES, requires_grad=True)
        target = torch.empty(ROWS, dtype=torch.long)
        weight = torch.empty(TEST_CLASSES, TEST_CLASSES)
        through_weight = fused and isinstance(loss, RowLoss)
        value = loss.linear(z, weight, target) if through_weight else loss(z, target)
        assert isinstance(value, FakeTensor)
        (grad,) = torch.autograd.grad(value, z)
        assert (value.shape, grad.shape) == ((), z.shape)
    assert plainly(run, inputs()[0])[0].isfinite()  # and what was fake is not kept


@FUSED
@EVERY_LOSS
def test_tensors_of_the_device_meta_have_a_shape(loss: Loss, fused: bool) -> None:
    """Meta tensors get the shape of the loss."""
    z = torch.empty(ROWS, TEST_CLASSES, device="meta", requires_grad=True)
    target = torch.zeros(ROWS, dtype=torch.long, device="meta")
    weight = torch.empty(TEST_CLASSES, TEST_CLASSES, device="meta")
    through_weight = fused and isinstance(loss, RowLoss)
    value = loss.linear(z, weight, target) if through_weight else loss(z, target)
    (grad,) = torch.autograd.grad(value, z)
    assert (value.shape, grad.shape, grad.device.type) == ((), z.shape, "meta")


def in_fake_mode(call: Callable[[], object]) -> None:
    with FakeTensorMode():
        call()


def in_inference_mode(call: Callable[[], object]) -> None:
    with torch.inference_mode():
        call()


def in_transform(transform: Any, call: Callable[[], object]) -> None:
    def run(z: Tensor) -> Tensor:
        call()
        return z.sum()

    transform(run)(torch.zeros(2, 3))


MODES: dict[str, Callable[[Callable[[], object]], None]] = {
    "fake": in_fake_mode,
    "inference": in_inference_mode,
    "functionalize": partial(in_transform, torch.func.functionalize),
    "grad": partial(in_transform, torch.func.grad),
    "vmap": partial(in_transform, torch.func.vmap),
}
WITH_TABLE = pytest.mark.parametrize(
    "loss",
    [
        pytest.param(loss, id=f"{entry.name}-{index}")
        for entry in LOSSES
        for index, loss in enumerate(settings_of(entry))
        if any(isinstance(value, ClassMatrix | tuple) for value in vars(loss).values())
    ],
)


def remade(loss: Any) -> Any:
    """Return an equal loss that shares nothing with it."""
    values = [getattr(loss, field.name) for field in fields(loss)]
    return type(loss)(*(np.array(value) if isinstance(value, ClassMatrix) else value for value in values))


def check_made_in_a_mode(loss: Any, mode: str, dtype: torch.dtype) -> None:
    """A loss made or copied in a mode serves outside, and one made outside serves in it."""
    at, target, weight = torch.randn(ROWS, TEST_CLASSES, dtype=dtype), TARGET, WEIGHT.to(dtype)

    def run(loss: Any) -> list[Tensor]:
        z, w = at.clone().requires_grad_(), weight.clone().requires_grad_()
        dense, fused = loss(z, target), loss.linear(z, w, target, reduction="none")
        return [dense, *torch.autograd.grad(dense, z), fused, *torch.autograd.grad(fused.sum(), (z, w))]

    expected = run(loss)
    made: list[Any] = []
    MODES[mode](lambda: made.extend([remade(loss), deepcopy(loss), pickle.loads(pickle.dumps(loss))]))
    outside = remade(loss)

    def call() -> None:
        outside(at, target)
        outside.linear(at, weight, target)

    if mode != "fake":
        MODES[mode](call)
    else:
        with FakeTensorMode() as fake:
            outside(*map(fake.from_tensor, (at, target)))
            outside.linear(*map(fake.from_tensor, (at, weight, target)))
    for one in (*made, outside):
        for ours, theirs in zip(run(one), expected, strict=True):
            torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("mode", MODES)
@WITH_TABLE
def test_a_table_outlives_the_mode_it_was_made_in(loss: Loss, mode: str, dtype: torch.dtype) -> None:
    """A table created under a mode can be used after it."""
    check_made_in_a_mode(loss, mode, dtype)


@WITH_TABLE
def test_a_table_that_belongs_to_a_mode_is_found(loss: Loss, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that belongs to a mode is found."""

    class Here(ThreadPoolExecutor):  # makes the tensor among those of the mode
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            done: Future[Any] = Future()
            done.set_result(fn(*args, **kwargs))
            return done

    monkeypatch.setattr(_tensors, "ThreadPoolExecutor", Here)
    monkeypatch.setattr(matrix, "_TENSORS", {})  # equal matrices share a table
    with pytest.raises(AssertionError, match="convert all Tensors to FakeTensors"):
        check_made_in_a_mode(loss, "fake", torch.float64)


@FUSED
@EVERY_LOSS
def test_transforms_of_torch_func(loss: Loss, fused: bool) -> None:
    """Transforms of `torch.func` agree with autograd."""
    run, (at, along) = function(loss, fused=fused), inputs()
    value, grad = plainly(run, at)
    close(torch.func.grad(run)(at), grad)
    ours, tangent = torch.func.jvp(run, (at,), (along,))
    close(ours, value)
    if "Straight" not in repr(loss) and "Reweighted" not in repr(loss):  # whose gradient is designed
        close(tangent, (grad * along).sum())
    with forward_ad.dual_level():
        dual = forward_ad.unpack_dual(run(forward_ad.make_dual(at, along)))
    close(dual.primal, value)
    close(dual.tangent, tangent)
    if isinstance(loss, RowLoss):
        one: Any = lambda z, y: loss.linear(z, WEIGHT, y) if fused else loss(z, y)  # noqa: E731
        close(torch.func.vmap(torch.func.grad(one))(at, TARGET) / ROWS, grad)


@FUSED
def test_hessians(fused: bool) -> None:
    """The Hessian of cross entropy is torch's."""
    run, (at, _) = function(CrossEntropy(), fused=fused), inputs()
    hessian = torch.func.hessian(run)(at)
    expected = torch.func.hessian(
        lambda z: torch.nn.functional.cross_entropy(z @ WEIGHT.T if fused else z, TARGET)
    )(at)
    close(hessian, expected)


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace.*:DeprecationWarning")
@FUSED
def test_a_traced_loss(fused: bool) -> None:
    """A loss traced with one batch is right for another."""
    run, (one, two) = function(CrossEntropy(), fused=fused), inputs()
    close(torch.jit.trace(run, (one,), check_trace=False)(two), run(two))


class Subclass(torch.Tensor):
    """A tensor by another name."""


@FUSED
@EVERY_LOSS
def test_a_subclass_of_tensor(loss: Loss, fused: bool) -> None:
    """A subclass of Tensor is preserved, with the same value and gradient."""
    run, (at, _) = function(loss, fused=fused), inputs()
    value, grad = plainly(run, at)
    leaf = at.clone().as_subclass(Subclass).requires_grad_()
    ours: Any = run(leaf)
    close(ours.detach().as_subclass(Tensor), value)
    (slope,) = torch.autograd.grad(ours, leaf)
    close(slope.as_subclass(Tensor), grad)


@FUSED
@EVERY_LOSS
def test_a_mode_that_only_counts_changes_nothing(loss: Loss, fused: bool) -> None:
    """A mode that counts operations changes nothing."""
    run, (at, _) = function(loss, fused=fused), inputs()
    value, grad = plainly(run, at)
    with FlopCounterMode(display=False) as counted:
        ours, slope = plainly(run, at)
    close(ours, value)
    close(slope, grad)
    if fused:
        assert counted.get_total_flops() >= 4 * ROWS * TEST_CLASSES**2


def test_a_label_that_does_not_exist_is_named_under_vmap() -> None:
    """An invalid label raises under vmap."""
    labels = TARGET.clone()
    labels[3] = TEST_CLASSES
    with pytest.raises(ValueError, match=r"target must be in \[0, 8\) or ignore_index=-100, got 8"):
        torch.func.vmap(lambda z, y: CrossEntropy()(z, y))(inputs()[0], labels)


def test_a_backend_that_reads_memory_is_refused() -> None:
    """A backend that reads memory is refused under transforms."""
    run = partial(CrossEntropy().linear, linear_weight=WEIGHT, target=TARGET, backend="cpp")
    with pytest.raises(ValueError, match=r"backend must be 'auto' or 'torch' (under|here).*got 'cpp'"):
        torch.func.grad(run)(inputs()[0])
    with pytest.raises(ValueError, match="hidden must not be traced or transformed"):
        make_fx(lambda h: linear.explain(CrossEntropy(), h, WEIGHT, TARGET) and h)(inputs()[0])


def test_statistics_of_a_head() -> None:
    """Row statistics can be traced and transformed."""
    one, two = inputs()

    def entropy(hidden: Tensor) -> Tensor:
        return linear.row_statistics(hidden, WEIGHT, softcap=3.0).entropy.mean()

    value, grad = plainly(entropy, two)
    close(make_fx(entropy)(one)(two), value)
    close(torch.func.grad(entropy)(two), grad)
