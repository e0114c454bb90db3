"""Dense losses in several threads, in forked processes, and in threads of Python."""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from equipoise.kernels import cpu, dense
from equipoise.losses import CrossEntropy, Focal, GammaCrossEntropy, Loss
from equipoise.penalties import Entropy, LogitRange

pytestmark = pytest.mark.skipif(not cpu.available(), reason="the kernel was not compiled")
THREE = GammaCrossEntropy(0.1) + 0.1 * Entropy() + LogitRange(width=1.0)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def large(rows: int = 1003, classes: int = 257) -> tuple[Tensor, Tensor]:
    """Return as many logits as are shared out over four threads."""
    logits, target = torch.randn(rows, classes, dtype=torch.float64), torch.randint(classes, (rows,))
    target[::7] = -100
    return logits, target


def evaluate(loss: Loss, logits: Tensor, target: Tensor, reduction: str = "mean") -> tuple[Tensor, Tensor]:
    leaf = logits.clone().requires_grad_()
    value = loss(leaf, target, reduction=reduction)  # pyright: ignore[reportArgumentType]
    return value.detach(), torch.autograd.grad(value.sum(), leaf)[0]


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("loss", [CrossEntropy(), THREE], ids=["cross entropy", "three"])
def test_any_number_of_threads(loss: Loss, reduction: str) -> None:
    """Results do not depend on the number of threads."""
    logits, target = large()
    torch.set_num_threads(1)
    value, grad = evaluate(loss, logits, target, reduction)
    for threads in (2, 3, 4, 1):
        torch.set_num_threads(threads)
        ours, slope = evaluate(loss, logits, target, reduction)
        torch.testing.assert_close(ours, value, rtol=1e-13, atol=0)
        torch.testing.assert_close(slope, grad, rtol=1e-13, atol=0)
        again = evaluate(loss, logits, target, reduction)  # which threads begin first does not matter
        assert torch.equal(ours, again[0])
        assert torch.equal(slope, again[1])


def test_fewer_rows_than_threads() -> None:
    """There may be fewer rows than threads."""
    logits, target = large(3, 100_000)
    torch.set_num_threads(1)
    value, grad = evaluate(CrossEntropy(), logits, target)
    torch.set_num_threads(4)
    ours, slope = evaluate(CrossEntropy(), logits, target)
    torch.testing.assert_close(ours, value, rtol=1e-13, atol=0)
    torch.testing.assert_close(slope, grad, rtol=1e-13, atol=0)


def test_a_bad_target_in_the_part_of_another_thread() -> None:
    """An invalid target in the part of another thread raises."""
    logits, target = large()
    torch.set_num_threads(4)
    target[-1] = 257
    with pytest.raises(ValueError, match="got 257"):
        CrossEntropy()(logits, target)


def in_a_fork(work: Callable[[], bool]) -> bool:
    """Return what work does in a child process that is forked here."""
    child = os.fork()
    if not child:
        code = 1
        try:
            code = 0 if work() else 2
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1] == 0


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("threads", [1, 2])
def test_forked_workers(threads: int) -> None:
    """As the workers of a DataLoader, which use one thread each."""
    logits, target = large()
    torch.set_num_threads(threads)
    value, grad = evaluate(THREE, logits, target)

    def work() -> bool:
        torch.set_num_threads(1)
        ours, slope = evaluate(THREE, logits, target)
        other, _ = evaluate(Focal(gamma=1.25), logits[:, :9].contiguous(), target.clamp(max=8))
        return bool(torch.allclose(ours, value) and torch.allclose(slope, grad) and other.isfinite())

    assert in_a_fork(work)
    assert not in_a_fork(lambda: not work())  # what a child finds wrong shows
    assert torch.equal(evaluate(THREE, logits, target)[0], value)


def test_threads_of_python_with_losses_of_their_own() -> None:
    """Python threads with different losses get right results."""
    logits, target = large(64, 33)
    dense.forget()
    losses = [GammaCrossEntropy(k / 40) + 0.01 * k * Entropy() for k in range(24)]
    expected = [evaluate_in_torch(loss, logits, target) for loss in losses]
    start = threading.Barrier(8)

    def work(number: int) -> bool:
        start.wait()
        right = True
        for turn in range(24):
            k = (turn * 5 + number) % 24
            value, grad = evaluate(losses[k], logits, target)
            right &= torch.allclose(value, expected[k][0], rtol=1e-12, atol=0)
            right &= torch.allclose(grad, expected[k][1], rtol=1e-10, atol=1e-14)
        return right

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


def evaluate_in_torch(loss: Loss, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    leaf = logits.clone().requires_grad_()
    value = loss.in_torch(leaf, target)
    return value.detach(), torch.autograd.grad(value, leaf)[0]


def test_threads_of_python_over_more_losses_than_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python threads with more losses than the cache holds get right results."""
    monkeypatch.setattr(dense, "MOST", 4)
    dense.forget()
    logits, target = large(8, 5)
    start = threading.Barrier(8)

    def work(number: int) -> bool:
        start.wait()
        values = [Focal(gamma=1 + (number + turn) % 12)(logits, target.clamp(max=4)) for turn in range(12)]
        return all(value.isfinite() for value in values)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))
    assert len(dense._by_value) <= 4


def test_a_backward_pass_in_another_thread() -> None:
    """The backward pass may run in other threads."""
    logits, target = large(64, 33)
    leaf = logits.requires_grad_()
    value = THREE(leaf, target)
    expected = torch.autograd.grad(value, leaf, retain_graph=True)[0]
    with ThreadPoolExecutor(4) as pool:
        grads = pool.map(lambda _: torch.autograd.grad(value, leaf, retain_graph=True)[0], range(16))
        assert all(torch.equal(grad, expected) for grad in grads)
