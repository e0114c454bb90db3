"""The compiled kernel where it is missing or does not load."""

from pathlib import Path
from typing import Any

import pytest
import torch

from equipoise.kernels import cpu


def find() -> Any:
    """Return what `cpu.library` finds now, not what it has found before."""
    return cpu.library.__wrapped__()


def test_a_missing_kernel_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a compiled file for the processor there is no library, and no warning."""
    monkeypatch.setattr(cpu, "__file__", str(tmp_path / "cpu.py"))
    assert find() is None


@pytest.mark.skipif(not cpu.available(), reason="the kernel was not compiled when the package was installed")
def test_a_kernel_that_does_not_load_is_warned_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file that is no library gives a warning with the reason, and losses run in torch."""
    name = Path(cpu.library()._name).name
    (tmp_path / name).write_bytes(b"no library")
    monkeypatch.setattr(cpu, "__file__", str(tmp_path / "cpu.py"))
    with pytest.warns(RuntimeWarning, match=f"^the compiled kernel does not load, .*{name}"):
        assert find() is None


@pytest.mark.skipif(not cpu.available(), reason="the kernel was not compiled when the package was installed")
def test_the_kernel_is_that_of_the_instructions_that_torch_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is chosen by torch's CPU capability; for another processor there is none."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr(cpu, "load", lambda path: path.name)
    assert find() == "kernels.avx2.so"
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    monkeypatch.setattr(cpu.platform, "machine", lambda: "toaster")
    assert find() is None
