"""The Triton kernels give the states and gradients of the reference: in Triton's interpreter, or on a GPU.

The interpreter must be switched on before triton is imported, and then is on for the process, so the tests
of the kernels run in a separate process.
"""

import importlib.util
import os
import re
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import equipoise.kernels.triton as kernels
from equipoise.kernels.block import Block
from equipoise.kernels.triton import TritonBackend, available
from equipoise.statistics.states import StateName
from support.backend_checks import ROWS, TILE, BackendTests, check
from support.fused_checks import FusedTests

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu")
HERE = available(DEVICE)

FAULTS = {
    "the tail is not masked": ("b_z = tl.where(m_b, b_z, -float('inf'))", "b_z = b_z"),
    "the tail is read": ("        m_b = o_b < width", "        m_b = o_b < width + 3"),
    "sums are not moved": ("below = tl.exp(b_c * drop) * (", "below = ("),
    "former maxima are lost": ("tl.where(top == higher, 0.0, ties)", "0.0"),
    "ties outlive their maximum": ("ties = tl.where(top == higher, ties, 0.0) +", "ties +="),
    "gaps are not moved": ("drop * (one + beaten)", "0.0"),
    "soft gaps are not moved": ("soft_gap += drop * (rest_soft + lost)", "soft_gap += 0.0"),
    "soft targets of former maxima are lost": ("rest_soft += lost", "rest_soft += 0.0"),
    "soft targets outlive their maximum": ("max_soft -= lost", "max_soft -= 0.0"),
    "the least are not counted anew": ("lows = tl.where(lower == bottom, lows, 0.0)", "lows = lows"),
    "the target is not left out": ("b_z = tl.where(o_b == column, -float('inf'), b_z)", "b_z = b_z"),
    "the maximum is among those below": ("m_rest = (b_z != higher) &", "m_rest ="),
    "masked classes get a gradient": ("tl.where(b_z == -float('inf'), 0.0, b_g * b_d)", "b_g * b_d"),
    "the target is not put in": ("tl.where(o_b == y - start, tl.load(numbers + 4 * rows), b_g)", "b_g"),
    "the maximum has the gradient of those below": (
        "b_g = tl.where(m_top, tl.load(numbers + 2 * rows), ",
        "b_g = (",
    ),
    "one scale is used for another": (
        "tl.exp(tl.load(constants + 1 + k) * b_near), 0.0)",
        "tl.exp(tl.load(constants + 1) * b_near), 0.0)",
    ),
    "one scale has the gradient of another": (
        "b_e = tl.exp(tl.load(constants + 1 + k) * b_near)\n",
        "b_e = tl.exp(tl.load(constants + 1) * b_near)\n",
    ),
}


def planted(path: Path, old: str, new: str) -> ModuleType:
    """Return the module with something replaced."""
    source = Path(str(kernels.__file__)).read_text()
    old, new = old.replace("'", '"'), new.replace("'", '"')
    assert source.count(old) == 1 or old == new
    path.write_text(source.replace(old, new))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.BLOCK = TILE  # pyright: ignore[reportAttributeAccessIssue]
    return module


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of infinities in lanes that are not used
class TestKernels(BackendTests, FusedTests):
    __test__ = HERE
    device = DEVICE
    backend = TritonBackend()

    @pytest.fixture(autouse=True)
    def _small_tiles(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(kernels, "BLOCK", TILE)

    @pytest.mark.parametrize("fault", FAULTS)
    def test_a_fault_is_found(self, fault: str, tmp_path: Path) -> None:
        """A planted fault in the kernel is found."""
        module = planted(tmp_path / "planted.py", *FAULTS[fault])
        with pytest.raises(AssertionError, match="is not"):
            check(module.TritonBackend(), self.few_rows())

    def test_nothing_planted_is_sound(self, tmp_path: Path) -> None:
        """The module with nothing replaced passes."""
        check(planted(tmp_path / "planted.py", "numbers", "numbers").TritonBackend(), self.few_rows())

    def test_targets_with_a_stride(self) -> None:
        """Targets with a stride give the same states."""
        block = self.few_rows()
        assert block.target is not None
        check(self.backend, replace(block, target=torch.stack((block.target, block.target.flip(0)), 1)[:, 0]))

    def test_rows_with_gaps_between_classes_are_refused(self) -> None:
        """Logits whose classes are not contiguous are refused."""
        z = torch.randn(4, 3, device=DEVICE)
        name = StateName("base")
        with pytest.raises(
            ValueError, match=r"logits must have contiguous rows, got strides \(1, 3\); pass logits.contig"
        ):
            TritonBackend().states(Block(z.t(), [name], False))
        block = Block(z, [name], False)
        states = TritonBackend().states(block)
        with pytest.raises(ValueError, match="out must have contiguous rows"):
            TritonBackend().write_gradient(block, states, {}, torch.empty(3, 4, device=DEVICE).t())


@pytest.mark.slow
@pytest.mark.skipif(HERE, reason="the kernels are tested in this process")
def test_the_kernels_in_a_separate_process() -> None:
    """The tests of the kernels pass in a process with the interpreter."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", "TestKernels"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [*command, str(Path(__file__))],
        cwd=root,
        env=kept | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"(\d+) passed", done.stdout)
    assert found is not None
    assert int(found[1]) > len(FAULTS) + 3 * ROWS


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
@pytest.mark.parametrize(("logits", "work"), [("bf16", "fp32"), ("fp64", "fp64")])
def test_the_kernels_compile_for_a_gpu(
    logits: str, work: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triton's types are stricter than those of its interpreter; no GPU is needed to compile."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    backend, compiler = (import_module(f"triton.{name}") for name in ("backends.compiler", "compiler"))
    given: dict[str, Any] = {
        "z": f"*{logits}",
        "z_stride": "i64",
        "rows": "i32",
        "width": "i32",
        "start": "i32",
    }
    given |= {
        "target": "*i64",
        "constants": f"*{work}",
        "tables": (f"*{work}",) * 2,
        "table_strides": ("i32",) * 2,
    }
    flags = {
        "scales": 2,
        "soft": 2,
        "padded": 2,
        "separate": True,
        "capped": True,
        "level": True,
        "least": True,
    }
    numbers = {"lowest": -3e38, "far": -1e4, "limit": -(2.0**62), "block": 1024}
    constants = flags | {"greater": True, "gap": True} | numbers
    for kernel, of_kernel in zip(
        kernels._kernels(),
        ({"out": f"*{work}"}, {"numbers": f"*{work}", "out": f"*{logits}", "out_stride": "i64"}),
        strict=True,
    ):
        names = kernel.arg_names
        signature = {name: (given | of_kernel).get(name, "constexpr") for name in names}
        values = {(names.index(name),): value for name, value in constants.items() if name in names}
        source = compiler.ASTSource(kernel, signature, values)
        options = {"enable_fp_fusion": False}
        gpu = backend.GPUTarget("cuda", 90, 32)
        compiled = compiler.compile(source, target=gpu, options=options)
        assert "st.global" in compiled.asm["ptx"]


def test_where_the_kernels_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels are available on CUDA, and on the CPU with the interpreter only."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert available(torch.device("cuda"))
    assert not available(torch.device("cpu"))
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert available(torch.device("cpu"))
    monkeypatch.setattr(kernels, "find_spec", lambda name: None)
    assert not available(torch.device("cuda"))


@pytest.mark.slow
def test_the_module_can_do_without_triton() -> None:
    """The module can be imported without triton."""
    program = (
        "import sys, torch\n"
        "sys.modules['triton'] = None\n"
        "from equipoise.kernels.triton import available\n"
        "print(available(torch.device('cuda')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
