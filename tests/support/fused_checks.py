"""What a backend must get right of a fused loss: it is that of plain torch."""

from typing import Any, ClassVar

import pytest
import torch

from equipoise import linear, penalties
from equipoise.losses import CrossEntropy
from equipoise.penalties import LogitRange

CLASSES = 21


class FusedTests:
    """What `loss.linear` with a backend must get right; a subclass says which it is and where."""

    device: ClassVar[torch.device] = torch.device("cpu")
    backend: ClassVar[Any]

    @pytest.mark.parametrize("reduction", ["mean", "none"])
    @pytest.mark.parametrize("softcap", [None, 2.0])
    def test_a_fused_loss_is_that_of_plain_torch(self, reduction: str, softcap: float | None) -> None:
        """Value and gradients agree with the torch backend."""
        loss = CrossEntropy(label_smoothing=0.1) - 0.1 * penalties.Entropy() + LogitRange(width=1.0)
        hidden = torch.randn(5, 3, dtype=torch.float64, device=self.device, requires_grad=True)
        weight = torch.randn(37, 3, dtype=torch.float64, device=self.device, requires_grad=True)
        target = torch.randint(37, (5,), device=self.device)
        found = []
        for backend in (self.backend.name, "torch"):
            options: Any = {"softcap": softcap, "block_bytes": 8 * 37 * 2, "backend": backend}
            options["reduction"] = reduction
            fused = loss.linear(hidden, weight, target, **options)
            found.append((fused, *torch.autograd.grad(fused.square().sum(), (hidden, weight))))
            assert linear.explain(loss, hidden, weight, target, **options).backend == backend
        for ours, theirs in zip(*found, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)

    def test_statistics_of_a_head(self) -> None:
        """Row statistics agree with the torch backend."""
        hidden, weight = torch.randn(5, 3, device=self.device), torch.randn(37, 3, device=self.device)
        target = torch.randint(37, (5,), device=self.device)
        backends: Any = (self.backend.name, "torch")
        ours, theirs = (linear.row_statistics(hidden, weight, target, backend=name) for name in backends)
        for statistic in linear.STATS:
            torch.testing.assert_close(ours.compute(statistic), theirs.compute(statistic))
        assert ours.rank.max() > 0

    @pytest.mark.parametrize("bad", [torch.nan, torch.inf])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    def test_a_bad_row_of_a_fused_loss(self, bad: float, dtype: torch.dtype) -> None:
        """A bad row has nan loss and gradient."""
        name: Any = self.backend.name
        reductions: Any = ("none", "sum")
        for loss in (CrossEntropy(0.1), CrossEntropy() + 0.1 * LogitRange(width=1.0)):
            for reduction in reductions:
                hidden = torch.randn(4, 3, device=self.device).to(dtype)
                hidden[1, 0] = bad
                weight = (torch.rand(CLASSES, 3, device=self.device) + 0.1).to(dtype)
                target = torch.arange(4, device=self.device)
                leaf = hidden.requires_grad_()
                losses = loss.linear(leaf, weight, target, backend=name, reduction=reduction)
                (grad,) = torch.autograd.grad(losses.sum(), leaf)
                assert losses.isfinite().tolist() in (False, [True, False, True, True])
                assert grad[1].isnan().all()
                assert grad[[0, 2, 3]].isfinite().all()
