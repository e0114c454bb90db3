"""How a fused loss is computed: its plan, blocks and threads, and the memory that it takes."""

import gc
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from equipoise import linear
from equipoise.kernels import cpu
from equipoise.kernels.differentiable import DifferentiableBlock
from equipoise.linear import buffers, head, plan
from equipoise.losses import CrossEntropy, Loss, RankedProbabilityScore
from equipoise.penalties import LogitRange, ZLoss
from support.definitions import TEST_CLASSES
from support.linear_cases import BOTH_WAYS, ORDERS, ROW_LOSSES, THREE, case, same


@pytest.fixture
def _two_threads() -> Iterator[None]:
    if not cpu.available():
        pytest.skip("the kernels were not compiled when the package was installed")
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.fixture
def _small_blocks(_two_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads; blocks of four rows, or of two in each thread, where a block would have all of them."""
    monkeypatch.setattr(plan, "FEWEST", 2)
    monkeypatch.setattr(plan, "CACHE_BYTES", 8 * 4 * TEST_CLASSES)


@pytest.mark.usefixtures("_small_blocks")
@pytest.mark.parametrize(("reduction", "grad"), ORDERS)
@pytest.mark.parametrize("loss", ROW_LOSSES)
def test_blocks_and_threads_change_nothing(loss: Loss, reduction: str, grad: str) -> None:
    """The result does not depend on blocks and threads."""
    c = case(13)
    options: dict[str, Any] = {"linear_bias": c.bias, "reduction": reduction, "grad": grad}
    taken = linear.explain(loss, c.hidden, c.weight, c.target, **options)
    assert (taken.rows, taken.threads) == ((2, 2) if taken.program else (4, 1))
    dense = loss(c.logits(), c.target, reduction=reduction)
    fused = loss.linear(c.hidden, c.weight, c.target, **options)
    same(c, fused, dense, torch.randn_like(dense))


@pytest.mark.usefixtures("_two_threads")
@pytest.mark.parametrize("loss", [ZLoss(), THREE, LogitRange(width=0.5)])
def test_another_number_of_threads_in_the_backward_pass(loss: Loss) -> None:
    """The number of threads may change before the backward pass."""
    c = case(64, 300, 33, dtype=torch.float32)
    dense = loss(c.logits(), c.target, reduction="none").sum()
    fused = c.fused(loss, reduction="none").sum()
    torch.set_num_threads(1)
    for ours, theirs in zip(c.grads(fused), c.grads(dense), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * theirs.abs().max().item())


@pytest.fixture
def _shared(_two_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads, each with classes of its own, in runs of 64."""
    monkeypatch.setattr(head, "SMALL", 0)
    monkeypatch.setattr(head, "SHARE", 1)
    monkeypatch.setattr(head, "RUN", 1)


class Watch(TorchDispatchMode):
    """Notes the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        out = func(*args, **(kwargs or {}))
        for part in out if isinstance(out, tuple | list) else (out,):
            # Buffers are bytes, and viewed as numbers next.
            if isinstance(part, Tensor) and part.dtype != torch.uint8:
                self.largest = max(self.largest, part.untyped_storage().nbytes() // part.element_size())
        return out


def largest(run: Callable[[], Tensor]) -> int:
    with Watch() as watch:
        run().backward()
    return watch.largest


@BOTH_WAYS
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_logits_are_never_there(reduction: str, dtype: torch.dtype) -> None:
    """The complete logits are never in memory."""
    n, v = 96, 640
    c = case(n, v, 4, dtype=dtype)
    held = largest(lambda: c.fused(THREE, reduction=reduction, block_bytes=dtype.itemsize * v * 8).sum())
    assert held <= max(256 * 20, 8 * v) < n * v / 8
    of_rows = RankedProbabilityScore()
    held = largest(lambda: c.fused(of_rows, reduction=reduction, block_bytes=dtype.itemsize * v * 8).sum())
    assert held <= 8 * v
    assert largest(lambda: THREE(c.logits(), c.target)) >= n * v  # the watch sees them when they are


@BOTH_WAYS
def test_memory_does_not_grow_with_the_rows() -> None:
    """Memory does not grow with the number of rows."""
    held = []
    for n in (530, 2120):  # blocks of 53 rows
        c = case(n, 300, 2, dtype=torch.float32)
        held.append(largest(lambda c=c: THREE.linear(c.hidden, c.weight, c.target, block_bytes=2**16)))
    assert held[0] == held[1] <= 2**16 // 4


@pytest.mark.parametrize("softcap", [None, 3.0])
def test_pieces_of_plain_torch_are_freed_at_once(softcap: float | None) -> None:
    """The torch backend frees each block at once."""
    c, label = case(8, bias=False), CrossEntropy(label_smoothing=0.1)
    options: dict[str, Any] = {"backend": "torch", "block_bytes": 200, "softcap": softcap}
    gc.disable()
    try:
        for loss in (THREE, label):
            for reduction in ("mean", "none"):
                value = loss.linear(c.hidden, c.weight, c.target, reduction=reduction, **options)
                c.grads(value, torch.ones_like(value))
        assert not [held for held in gc.get_objects() if type(held) is DifferentiableBlock]
    finally:
        gc.enable()


def test_a_plan_says_what_will_be_done() -> None:
    """The plan states gradient, products, blocks and memory."""
    c = case(1000, 300, 16, dtype=torch.float32)
    options: dict[str, Any] = {"block_bytes": 2**16}
    plan = linear.explain(THREE, c.hidden, c.weight, c.target, **options)
    assert (plan.grad, plan.products, plan.rows, plan.shape) == ("forward", 3, 53, (1000, 16, 300))
    assert plan.block_bytes == 4 * 53 * 304 <= 2**16
    assert plan.gradient_bytes == 4 * (1000 * 16 + 300 * 16)
    half = linear.explain(THREE, c.hidden.bfloat16(), c.weight.bfloat16(), c.target, **options)
    assert half.gradient_bytes == (2 + 4 + 2) * 1300 * 16
    assert (half.rows, half.block_bytes, half.logit_bytes) == (100, 2 * 100 * 320, 2 * 1000 * 300)
    none = linear.explain(THREE, c.hidden, c.weight, c.target, reduction="none", **options)
    assert (none.grad, none.products) == ("recompute", 4)
    assert none.block_bytes <= 2**16
    assert "reduction is 'none'" in str(none)
    asked = linear.explain(THREE, c.hidden, c.weight, c.target, grad="recompute")
    assert "asked for" in str(asked)
    with torch.no_grad():
        frozen = linear.explain(THREE, c.hidden.detach(), c.weight.detach(), c.target)
    assert (frozen.grad, frozen.products, frozen.gradient_bytes) == ("none", 1, 0)
    assert math.prod(plan.shape[::2]) * 4 == plan.logit_bytes


def test_a_plan_names_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan names the backend."""
    c = case()
    of_rows, options = RankedProbabilityScore(), (c.hidden, c.weight, c.target)
    monkeypatch.setattr(cpu, "available", lambda: True)
    for backend, taken in (("auto", "cpp"), ("cpp", "cpp"), ("torch", "torch")):
        plan = linear.explain(THREE, *options, backend=backend)
        assert plan.backend == taken
        assert f"backend   {taken}" in str(plan)
        assert linear.explain(of_rows, *options, backend=backend).backend == "torch"  # it needs whole rows
    monkeypatch.setattr(cpu, "available", lambda: False)
    assert linear.explain(THREE, *options).backend == "torch"
    with pytest.raises(
        ValueError, match="got 'cpp', which does not run on cpu; the kernels are compiled with the pack"
    ):
        THREE.linear(*options, backend="cpp")


def places_of(count: int, dtype: torch.dtype) -> list[int]:
    """Return where memory lies that is taken twice, each time given back."""
    places = []
    for _ in range(2):
        with buffers.Buffers(torch.device("cpu")) as taken:
            memory = taken.take(count, dtype)
            assert (memory.shape, memory.dtype) == ((count,), dtype)
            memory.fill_(1.0)
            places.append(memory.data_ptr())
    return places


def test_memory_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Buffers are reused by size."""
    monkeypatch.setattr(buffers, "KEPT", 2**24)
    monkeypatch.setattr(buffers, "_free", [])
    for count, dtype in ((100, torch.float64), (2**20 + 7, torch.float32), (2**21, torch.bfloat16)):
        first, second = places_of(count, dtype)
        assert first == second
    with buffers.Buffers(torch.device("cpu")) as taken:
        one, two = taken.take(2**20, torch.float32), taken.take(2**20, torch.float32)
        assert one.data_ptr() != two.data_ptr()
        assert taken.take(10, torch.float32).data_ptr() not in (one.data_ptr(), two.data_ptr())
    assert sum(map(len, buffers._free)) <= 2**24
    before = len(buffers._free)
    with buffers.Buffers(torch.device("cpu")) as taken:
        taken.take(2**22 + 1, torch.float32)  # more than 16 MiB: too much to be kept
    assert len(buffers._free) == before > 0

    def fail() -> None:
        with buffers.Buffers(torch.device("cpu")) as taken:
            taken.take(100, torch.float64)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert len(buffers._free) == before - 1  # what an error left behind may still be in use
    linear.empty_cache()
    assert buffers._free == []


def test_a_larger_buffer_takes_the_place_of_those_that_it_can_stand_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A larger buffer replaces smaller ones that it can serve as."""
    monkeypatch.setattr(buffers, "KEPT", 2**24)
    monkeypatch.setattr(buffers, "_free", [])

    def kept(*sizes: int) -> list[int]:
        with buffers.Buffers(torch.device("cpu")) as taken:
            for size in sizes:
                taken.take(size, torch.uint8)
        return sorted(map(len, buffers._free))

    assert kept(100, 250, 1000) == [100, 250, 1000]
    assert kept(90) == [100, 250, 1000]  # the smallest that will do
    assert kept(90, 90, 90) == [90, 100, 250, 1000]  # none is far too large
    assert kept(110) == [90, 100, 250, 1000]
    assert kept(1001) == [90, 100, 250, 1001]
    assert kept(401) == [90, 100, 250, 1001]
    assert kept(4000) == [90, 100, 250, 4000]
    assert kept(300) == [300, 4000]


@pytest.mark.parametrize("classes", [512, 2048])
def test_both_passes_take_the_memory_of_one_block(classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and backward pass share the memory of one block."""
    monkeypatch.setattr(buffers, "KEPT", 2**24)
    monkeypatch.setattr(buffers, "_free", [])
    monkeypatch.setattr(plan, "BLOCK_BYTES", 2**20)
    c = case(1024, classes, bias=False, dtype=torch.float32)
    for _ in range(2):
        c.grads(THREE.linear(c.hidden, c.weight, c.target, reduction="none").sum())
    assert len(buffers._free) == 1
    assert sum(map(len, buffers._free)) <= 1.07 * 2**20


@pytest.mark.usefixtures("_shared")
def test_what_inference_leaves_behind_is_of_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Buffers left by inference are used in training."""
    monkeypatch.setattr(buffers, "_free", [])
    c = case(40, 300)
    adapter = torch.randn(2, 5, dtype=torch.float64), torch.randn(300, 2, dtype=torch.float64)
    for kept in (2**24, 0):
        monkeypatch.setattr(buffers, "KEPT", kept)
        with torch.inference_mode():
            seen = c.fused(THREE, lora=adapter)
        assert len(buffers._free) == (kept > 0)
        again = c.fused(THREE, lora=adapter)
        torch.testing.assert_close(seen, again, rtol=1e-14, atol=0)
        buffers.empty_cache()


def test_nothing_of_a_buffer_gets_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results do not share memory with a buffer."""
    monkeypatch.setattr(buffers, "KEPT", 2**24)
    monkeypatch.setattr(buffers, "_free", [])
    for loss, dtype in (
        (THREE, torch.float64),
        (THREE, torch.bfloat16),
        (RankedProbabilityScore(), torch.float64),
    ):
        for reduction in ("mean", "none"):
            c = case(40, dtype=dtype)
            options: dict[str, Any] = {"reduction": reduction, "block_bytes": 8 * 8 * TEST_CLASSES}
            value = c.fused(loss, **options)
            found = [value.detach(), *c.grads(value.sum())]
            kept = [one.clone() for one in found]
            assert buffers._free
            for buffer in buffers._free:
                buffer.fill_(0xFF)  # nan in every dtype
            assert all(map(torch.equal, kept, found))


def test_long_rows_begin_at_cache_lines_but_not_at_the_same_place_of_a_page() -> None:
    """Long rows start at cache lines, with strides that are no multiple of a page."""
    assert [head.row_stride(n, torch.float32) for n in (5, 127, 128, 129, 50257)] == [5, 127, 128, 144, 50272]
    assert [head.row_stride(n, torch.float32) for n in (1023, 1024, 1025, 32768)] == [1088, 1088, 1040, 32832]
    assert [head.row_stride(n, torch.float64) for n in (511, 513)] == [544, 520]
    assert [head.row_stride(n, torch.bfloat16) for n in (255, 257, 32768)] == [255, 288, 32768]
    for v in (1001, 1024):
        c = case(9, v, bias=False)
        for backend in ("auto", "torch"):
            for reduction in ("mean", "none"):
                dense = THREE(c.logits(), c.target, reduction=reduction)
                options = {"block_bytes": 8 * 4 * v, "backend": backend, "reduction": reduction}
                fused = THREE.linear(c.hidden, c.weight, c.target, **options)
                same(c, fused, dense, torch.randn_like(dense))


def runs(classes: int, rows: int = 8) -> list[tuple[int, int]]:
    """Return the runs of classes of which products are made."""
    found = []
    weight = torch.empty(classes, 4)
    head._for_classes(weight, rows, lambda run: found.append(run.indices(classes)[:2]))
    return sorted(found)


@pytest.mark.usefixtures("_shared")
def test_classes_are_shared_out_over_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Classes are divided among threads in runs of 64."""
    assert runs(300) == [(0, 64), (64, 128), (128, 192), (192, 256), (256, 300)]
    assert runs(65) == [(0, 64), (64, 65)]
    assert runs(3) == [(0, 3)]
    torch.set_num_threads(5)
    assert runs(130) == [(0, 64), (64, 128), (128, 130)]  # two threads have nothing to do
    monkeypatch.setattr(head, "RUN", 4 * 100)
    torch.set_num_threads(2)
    assert runs(600) == [(0, 128), (128, 256), (256, 320), (320, 448), (448, 576), (576, 600)]
    monkeypatch.setattr(head, "SHARE", 600 * 4 * 8 // 2)
    assert len(runs(600)) == 6
    assert runs(600, rows=7) == [(0, 600)]  # not worth while
    monkeypatch.setattr(head, "SMALL", 600 * 4)
    assert runs(600) == [(0, 600)]  # a block in each thread instead
    monkeypatch.setattr(head, "SMALL", 0)
    torch.set_num_threads(1)
    assert runs(600) == [(0, 600)]


@pytest.mark.usefixtures("_shared")
@pytest.mark.parametrize(("reduction", "grad"), ORDERS)
@pytest.mark.parametrize("loss", [THREE, RankedProbabilityScore()])
@pytest.mark.parametrize("bias", [True, False])
def test_shared_out_classes_change_nothing(
    loss: Loss, reduction: str, grad: str, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Division among threads does not change the result."""
    threads = []
    run = cpu.run_in_threads
    monkeypatch.setattr(cpu, "run_in_threads", lambda *args: (threads.append(args[0]), run(*args)))
    c = case(13, 300, bias=bias)
    down, up = torch.randn(2, 5, dtype=torch.float64), torch.randn(300, 2, dtype=torch.float64)
    logits = 0.5 * (c.hidden @ (c.weight + 2.0 * up @ down).t()) + (0 if c.bias is None else c.bias)
    dense = loss(3.0 * torch.tanh(logits / 3.0), c.target, reduction=reduction)
    options: dict[str, Any] = {"lora": (down, up, 2.0), "logit_scale": 0.5, "softcap": 3.0}
    options |= {"reduction": reduction, "grad": grad, "block_bytes": 8 * 300 * 5}
    fused = c.fused(loss, **options)
    same(c, fused, dense, torch.randn_like(dense))
    assert set(threads) == {2}


def test_a_plan_prints_threads_ranks_and_large_memory() -> None:
    """A plan prints its threads and ranks if there are several, and memory in the largest unit below it."""
    c = case()
    alone = linear.explain(THREE, c.hidden, c.weight, c.target)
    assert "threads" not in str(alone)
    assert "ranks" not in str(alone)
    shown = str(replace(alone, threads=3, ranks=2, block_bytes=5 * 2**30, logit_bytes=1536))
    assert ", one in each of 3 threads" in shown
    assert "ranks     2: a gather for each block of rows" in shown
    assert "5 GiB for a block of logits (all of them: 1.5 KiB)" in shown
