"""Every element that a matrix product may read is written: what lies beside a view of half precision too.

A product may read tiles that go past the last class, as oneDNN does where a processor has AMX, and 0 times
nan is nan. What it would read there is looked at here on any processor.
"""

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from equipoise.losses import CrossEntropy, GammaCrossEntropy, Loss, RankedProbabilityScore
from equipoise.penalties import LogitRange
from support.grids import grid
from support.linear_cases import BOTH_WAYS

PRODUCTS = {torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.addmm_, torch.ops.aten.bmm}

LOSSES = GammaCrossEntropy(1e-3), CrossEntropy(0.1), LogitRange(width=1.0), RankedProbabilityScore()

DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]


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


def head(rows: int, classes: int, dtype: torch.dtype, features: int = 32) -> tuple[Tensor, Tensor, Tensor]:
    hidden = torch.randn(rows, features).to(dtype).requires_grad_()
    weight = torch.randn(classes, features).to(dtype).requires_grad_()
    return hidden, weight, torch.randint(classes, (rows,))


def look_beside(loss: Loss, dtype: torch.dtype) -> int:
    """Compute with several widths in every order of work; return how many views had something beside them."""
    seen = 0
    for classes in (1009, 513, 601):
        orders: tuple[dict[str, Any], ...] = (
            {},
            {"reduction": "none"},
            {"grad": "recompute", "block_bytes": 40 * classes},
        )
        for options in orders:
            hidden, weight, target = head(257, classes, dtype)
            bias = torch.randn(classes).to(dtype).requires_grad_()
            lora = torch.randn(4, 32).to(dtype).requires_grad_(), torch.zeros(classes, 4).to(dtype)
            with Beside() as beside:
                value = loss.linear(hidden, weight, target, linear_bias=bias, lora=lora, **options)
                grads = torch.autograd.grad(value.sum(), (hidden, weight, bias, lora[0]))
            assert all(grad.isfinite().all() for grad in grads)
            assert beside.products >= 6
            seen += beside.padded
    return seen


@BOTH_WAYS
@pytest.mark.parametrize("dtype", grid(DTYPES, fast=[(torch.bfloat16,), (torch.float32,)]))
@pytest.mark.parametrize("loss", LOSSES)
def test_what_lies_beside_a_view_is_written(loss: Loss, dtype: torch.dtype) -> None:
    """All memory beside a view that a matrix product may read is written."""
    assert look_beside(loss, dtype) > 0


def after_a_diverged_step() -> None:
    """Compute in memory that a step left full of nan, as it is not in a test: that has memory of its own."""
    for dtype in (torch.bfloat16, torch.float32):
        for loss in LOSSES:
            diverged = head(300, 2048 + 7, dtype)
            diverged[0].data.fill_(torch.nan)
            value = loss.linear(*diverged)
            value.backward()
            assert value.isnan()
            assert look_beside(loss, dtype) > 0


@pytest.mark.slow
def test_memory_of_a_diverged_step_is_used_again() -> None:
    """After a step with nan, its memory is reused without nan."""
    known = os.pathsep.join(path for path in sys.path if path)
    subprocess.run([sys.executable, __file__], env=os.environ | {"PYTHONPATH": known}, check=True)


def test_a_view_beside_which_lies_nan_is_found() -> None:
    """A view with nan beside it is found."""
    whole = torch.full((9, 64), torch.nan, dtype=torch.bfloat16)
    part = whole[:, :41].copy_(torch.randn(9, 41))
    for view in (part, part.t()):
        with pytest.raises(AssertionError, match=r"beside .* lies what nobody wrote"), Beside():
            view @ torch.randn(view.shape[1], 3).bfloat16()
    whole[:, 41:] = 0
    with Beside() as beside:
        part.t() @ torch.randn(9, 3).bfloat16()
    assert (beside.products, beside.padded) == (1, 1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_parts_of_a_user_that_lie_beside_nan(dtype: torch.dtype) -> None:
    """Inputs of the user with nan beside them give finite results."""

    def part(rows: int, columns: int) -> Tensor:
        wide = torch.full((rows, columns + 31), torch.nan, dtype=dtype)
        wide[:, :columns] = torch.randn(rows, columns)
        return wide[:, :columns].requires_grad_()

    hidden, weight, lora = part(40, 33), part(101, 33), (part(5, 33), part(101, 5))
    with Beside() as beside:
        LogitRange(width=1.0).linear(hidden, weight, lora=lora).backward()
    assert beside.products >= 6


if __name__ == "__main__":
    after_a_diverged_step()
