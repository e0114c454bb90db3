"""The Triton kernels give what `Tile` gives: in Triton's interpreter, or on a GPU where there is one.

The interpreter must be asked for before triton is imported, and then holds for the whole process, so the
tests of the kernels run in a process of their own.
"""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

import equipoise.linear.triton as kernels
from block_checks import CLASSES, ROW_GROUPS, ROWS, TILE, BlockTests, agree, check, grads
from equipoise.linear.triton import TritonBlock, available
from equipoise.losses.costs import TEST_CLASSES
from equipoise.stats import Group, LogOdds, LogSumExp, Slope, Tile
from test_rows import KINDS

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu")
HERE = available(DEVICE)

FAULTS = {
    "the tail is not masked": ("b_z = tl.where(m_b, b_z, -float('inf'))", "b_z = b_z"),
    "the tail is read": ("        m_b = o_b < width", "        m_b = o_b < width + 3"),
    "sums are not moved": ("smaller = b_r * (", "smaller = 1.0 * ("),
    "the former largest are lost": ("tl.where(top == higher, 0.0, ties)", "0.0"),
    "ties outlive their largest": ("ties = tl.where(top == higher, ties, 0.0)", "ties = ties"),
    "gaps are not moved": ("(b_r * drop) * (smaller + ties)", "0.0"),
    "soft gaps are not moved": ("soft_gaps -= drop * soft_sums", "soft_gaps -= 0.0"),
    "the least are not counted anew": ("lows = tl.where(lower == bottom, lows, 0.0)", "lows = lows"),
    "the target is not left out": ("b_z = tl.where(o_b == column, -float('inf'), b_z)", "b_z = b_z"),
    "masked classes get a slope": ("b_s = tl.where(m_z, 0.0, b_s)", "b_s = b_s"),
    "the target is not put in": ("tl.where(o_b == y - start, tl.load(numbers + 2 * rows), b_s)", "b_s"),
    "one scale is used for another": (
        "b_e = tl.exp(tl.load(constants + 1 + k) * b_gap)",
        "b_e = tl.exp(tl.load(constants + 1) * b_gap)",
    ),
}


def planted(path: Path, old: str, new: str) -> ModuleType:
    """Return the module with something replaced."""
    source = Path(str(kernels.__file__)).read_text()
    old, new = old.replace("'", '"'), new.replace("'", '"')
    assert old in source
    path.write_text(source.replace(old, new))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.BLOCK = TILE  # pyright: ignore[reportAttributeAccessIssue]
    return module


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of infinities in lanes that are not used
class TestKernels(BlockTests):
    __test__ = HERE
    device = DEVICE
    backend = "triton"
    open = TritonBlock

    @pytest.fixture(autouse=True)
    def _small_tiles(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        size = TEST_CLASSES // 2 if request.node.originalname == "test_what_a_loss_asks" else TILE
        monkeypatch.setattr(kernels, "BLOCK", size)

    @pytest.mark.parametrize("fault", FAULTS)
    def test_a_fault_is_found(self, fault: str, tmp_path: Path) -> None:
        z, y = (part[[0, 3, 4, 8, 9, 12]] for part in self.logits())
        group = Group((LogOdds(), LogSumExp(2.0), *self.everything().stats[9:]))
        with pytest.raises(AssertionError, match="is not"):
            check(group, z, y, planted(tmp_path / "planted.py", *FAULTS[fault]).TritonBlock)

    def test_nothing_planted_is_sound(self, tmp_path: Path) -> None:
        group = Group((LogOdds(), LogSumExp(2.0), *self.everything().stats[9:]))
        z, y = (part[[0, 3, 4, 8, 9, 12]] for part in self.logits())
        check(group, z, y, planted(tmp_path / "planted.py", "numbers", "numbers").TritonBlock)

    @pytest.mark.parametrize("kept", [torch.float64, torch.bfloat16, torch.float16])
    def test_the_slope_in_another_dtype(self, kept: torch.dtype) -> None:
        z, y = self.logits(torch.float32)
        group = Group((LogOdds(0.5), *self.everything(torch.float32).stats[9:]))
        tile = Tile(z, y, apart=True)
        slope = group.slope(group.of(tile), grads(group, z), y)
        written = torch.empty(ROWS, CLASSES, dtype=kept, device=DEVICE)
        TritonBlock(group, z, y).write(slope, written)
        least = kept if kept in (torch.bfloat16, torch.float16) else torch.float32
        agree(written, slope.spread(tile), z / 300, least)

    def test_rows_that_are_not_side_by_side_are_refused(self) -> None:
        z = torch.randn(4, 3, device=DEVICE)
        with pytest.raises(
            ValueError, match=r"z must have the classes .* got strides \(1, 3\); pass z.contig"
        ):
            TritonBlock(Group((LogSumExp(),)), z.t(), None)
        block = TritonBlock(Group((LogSumExp(),)), z, None)
        with pytest.raises(ValueError, match="out must have the classes of a row side by side"):
            block.write(Slope(), torch.empty(3, 4, device=DEVICE).t())


@pytest.mark.skipif(HERE, reason="the kernels are tested in this process")
def test_the_kernels_in_a_process_of_their_own() -> None:
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
    assert int(found[1]) > len(ROW_GROUPS) + len(KINDS) + len(FAULTS)


def test_where_the_kernels_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert available(torch.device("cuda"))
    assert not available(torch.device("cpu"))
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert available(torch.device("cpu"))
    monkeypatch.setattr(kernels, "find_spec", lambda name: None)
    assert not available(torch.device("cuda"))


def test_the_module_can_do_without_triton() -> None:
    program = (
        "import sys, torch\n"
        "sys.modules['triton'] = None\n"
        "from equipoise.linear.triton import available\n"
        "print(available(torch.device('cuda')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
