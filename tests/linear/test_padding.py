"""Every element that a matrix product may read is written: what lies beside a view of half precision too.

A product may read tiles that go past the last class, as oneDNN does where a processor has AMX, and 0 times
nan is nan. What it would read there is looked at here on any processor.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from equipoise import linear
from equipoise.losses import CrossEntropy, GammaCrossEntropy, Loss, RowLoss, SquaredCDF
from equipoise.penalties import LogitRange
from linear_cases import BOTH_WAYS

PRODUCTS = {torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.addmm_, torch.ops.aten.bmm}


class Beside(TorchDispatchMode):
    """Looks at what lies between the rows of each view that goes into a matrix product."""

    def __init__(self) -> None:
        super().__init__()
        self.products = self.padded = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        if func.overloadpacket in PRODUCTS:
            self.products += 1
            for part in args:
                if isinstance(part, Tensor) and part.ndim == 2 and part.numel():
                    self.look(part)
        return func(*args, **(kwargs or {}))

    def look(self, part: Tensor) -> None:
        lines = part if part.stride(1) == 1 else part.t()
        apart = lines.stride(0)
        if lines.stride(1) != 1 or apart <= lines.shape[1]:
            return
        self.padded += 1
        there = part.untyped_storage().nbytes() // part.element_size() - part.storage_offset()
        count = min(len(lines), there // apart)
        beside = part.detach().as_strided((count, apart), (apart, 1))[:, lines.shape[1] :]
        assert beside.isfinite().all(), f"beside {tuple(part.shape)} lies what nobody wrote"


@pytest.fixture
def _kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Memory that is used again, full of what a diverged step left there."""
    monkeypatch.setattr(linear.memory, "KEPT", 2**28)
    yield
    linear.empty_cache()


def head(rows: int, classes: int, dtype: torch.dtype, features: int = 32) -> tuple[Tensor, Tensor, Tensor]:
    hidden = torch.randn(rows, features).to(dtype).requires_grad_()
    weight = torch.randn(classes, features).to(dtype).requires_grad_()
    return hidden, weight, torch.randint(classes, (rows,))


@BOTH_WAYS
@pytest.mark.usefixtures("_kept")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize(
    "loss", [GammaCrossEntropy(1e-3), CrossEntropy(0.1), LogitRange(width=1.0), SquaredCDF()]
)
def test_what_lies_beside_a_view_is_written(loss: RowLoss, dtype: torch.dtype) -> None:
    diverged = head(300, 2048 + 7, dtype)
    diverged[0].data.fill_(torch.nan)
    assert loss.linear(*diverged).isnan()
    seen = 0
    for classes in (1009, 513, 601):
        for options in ({}, {"reduction": "none"}, {"grad": "recompute", "block_bytes": 40 * classes}):
            hidden, weight, target = head(257, classes, dtype)
            bias = torch.randn(classes).to(dtype).requires_grad_()
            lora = torch.randn(4, 32).to(dtype).requires_grad_(), torch.zeros(classes, 4).to(dtype)
            with Beside() as beside:
                value = loss.linear(hidden, weight, target, bias, lora=lora, **options)
                grads = torch.autograd.grad(value.sum(), (hidden, weight, bias, lora[0]))
            assert all(grad.isfinite().all() for grad in grads)
            assert beside.products >= 6
            seen += beside.padded
    assert seen > 0


@BOTH_WAYS
@pytest.mark.usefixtures("_kept")
@pytest.mark.parametrize("loss", [GammaCrossEntropy(1e-3), CrossEntropy()])
def test_memory_of_any_content_gives_the_same(loss: Loss) -> None:
    expected = []
    for content in (0.0, torch.nan, torch.inf):
        for _ in range(3):
            torch.manual_seed(3)
            hidden, weight, target = head(257, 1009, torch.bfloat16)
            value = loss.linear(hidden, weight, target)
            grads = torch.autograd.grad(value, (hidden, weight))
            expected = expected or [value.detach(), *grads]
            assert all(map(torch.equal, [value.detach(), *grads], expected))
            for memory in linear.memory._waiting:
                memory[: len(memory) // 8 * 8].view(torch.float64).fill_(content)


def test_a_view_beside_which_lies_nan_is_found() -> None:
    whole = torch.full((9, 64), torch.nan, dtype=torch.bfloat16)
    part = whole[:, :41].copy_(torch.randn(9, 41))
    for view in (part, part.t()):
        with pytest.raises(AssertionError, match=r"beside .* lies what nobody wrote"), Beside():
            view @ torch.randn(view.shape[1], 3).bfloat16()
    whole[:, 41:] = 0
    with Beside() as beside:
        part.t() @ torch.randn(9, 3).bfloat16()
    assert (beside.products, beside.padded) == (1, 1)


def test_hidden_states_of_a_user_that_lie_beside_nan() -> None:
    wide = torch.full((40, 128), torch.nan, dtype=torch.bfloat16)
    hidden = wide[:, :33]
    hidden.copy_(torch.randn(40, 33))
    weight, target = torch.randn(101, 33).bfloat16().requires_grad_(), torch.randint(101, (40,))
    with Beside():
        CrossEntropy().linear(hidden, weight, target).backward()
