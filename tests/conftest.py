"""The same seed for every test, one thread, and fresh memory that is poisoned."""

from collections.abc import Iterator

import hypothesis
import pytest
import torch

from equipoise.kernels import cpu, dense
from equipoise.linear import buffers

hypothesis.settings.register_profile(
    "equipoise", deadline=None, derandomize=True, database=None, report_multiple_bugs=False
)
hypothesis.settings.load_profile("equipoise")

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fill `torch.empty` with nan, so that an output nobody wrote shows, and keep no memory for later."""
    monkeypatch.setattr(buffers, "KEPT", 0)
    mode, fill = torch.get_deterministic_debug_mode(), torch.utils.deterministic.fill_uninitialized_memory
    torch.set_deterministic_debug_mode("error")  # memory is filled in this mode alone
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.set_deterministic_debug_mode(mode)
    torch.utils.deterministic.fill_uninitialized_memory = fill


@pytest.fixture(params=["compiled", "plain"])
def _both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """With the compiled kernels, and in plain torch."""
    if request.param == "compiled" and not cpu.available():
        pytest.skip("the kernels were not compiled when the package was installed")
    dense.forget()  # losses are prepared for what is available
    if request.param == "plain":
        monkeypatch.setattr(cpu, "available", lambda: False)
    yield
    dense.forget()


@pytest.fixture
def _no_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In plain torch alone."""
    dense.forget()
    monkeypatch.setattr(cpu, "available", lambda: False)
    yield
    dense.forget()
