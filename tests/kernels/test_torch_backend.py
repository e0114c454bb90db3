"""Plain torch with few leaves gives the states and gradients of blocks as the reference does."""

import pytest
import torch
from torch import Tensor

import equipoise.kernels.block as module
from equipoise.kernels.differentiable import DifferentiableBlock, TorchBackend
from equipoise.statistics.states import StateName
from support.backend_checks import BackendTests, check
from support.fused_checks import FusedTests


class TestTorchBackend(BackendTests, FusedTests):
    backend = TorchBackend()


class TestWithoutSoftTargets(BackendTests):
    """Soft targets are left to the reference, and with them all other numbers of a block."""

    backend = TorchBackend()
    tables = 0

    test_no_target = None  # pyright: ignore - it is of soft targets


class TestPieces(TestWithoutSoftTargets):
    """Blocks are cut into pieces of a row or two."""

    @pytest.fixture(autouse=True)
    def _small_pieces(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "PIECE", 50)


FAULTS = {
    "the classes at the base are not counted": ("count", 2.0),
    "the base is another": ("base", 1.25),
    "an exponential is of another scale": ("exp", 0.5),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted fault in the states or gradients is found."""
    what, factor = FAULTS[fault]
    read, exp = DifferentiableBlock._read, DifferentiableBlock._exp

    def wrong(self: DifferentiableBlock, name: StateName) -> Tensor:
        kind = "max_exp" if what == "count" else what
        return read(self, name) * (factor if name.kind == kind else 1)

    monkeypatch.setattr(DifferentiableBlock, "_read", wrong)
    if what == "exp":
        monkeypatch.setattr(DifferentiableBlock, "_exp", lambda self, scale: exp(self, factor * scale))
    tests = TestWithoutSoftTargets()
    with pytest.raises(AssertionError, match="is not"):
        check(TorchBackend(), tests.few_rows())
    monkeypatch.undo()
    torch.manual_seed(0)
    check(TorchBackend(), tests.few_rows())
