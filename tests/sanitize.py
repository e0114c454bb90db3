"""Runs tests on kernels that are compiled with AddressSanitizer and UndefinedBehaviorSanitizer of g++.

    python tests/sanitize.py [TEST ...]

A copy of the package is compiled in a temporary folder. Two planted faults must be found there first.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = (
    "tests/kernels",
    "--ignore=tests/kernels/test_triton.py",  # which has kernels of its own
    "tests/statistics",
    *(
        f"tests/linear/test_{name}.py"
        for name in ("linear", "half_precision", "row_statistics", "padding", "sums")
    ),
)
FLAGS = "-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -O2 -g"
PLANTED = """
extern "C" float equipoise_read(const float* x, int64_t count) { return x[count]; }
extern "C" int32_t equipoise_increment(int32_t x) { return x + 1; }
"""
# What each planted fault is called with, and what is said of it.
FAULTS = {
    "read(numbers.data_ptr(), 64)": "AddressSanitizer: heap-buffer-overflow",
    "increment(2**31 - 1)": "runtime error: signed integer overflow",
}
CALL = """
import ctypes, torch
from equipoise.kernels import cpu
library = cpu.library()
library.equipoise_read.argtypes = ctypes.c_void_p, ctypes.c_int64
numbers = torch.zeros(64)
library.equipoise_read(numbers.data_ptr(), 63), library.equipoise_increment(0)
print("both are right", flush=True)
library.equipoise_{}
"""


def compiled(folder: Path) -> dict[str, str]:
    """Return the environment in which the package with these kernels is imported."""
    for name in ("src", "hatch_build.py"):
        source, copy = ROOT / name, folder / name
        if source.is_dir():
            shutil.copytree(source, copy, ignore=shutil.ignore_patterns("*.so", "*.o", "__pycache__"))
        else:
            shutil.copy(source, copy)
    with (folder / "src/equipoise/kernels/cpu/kernels.cpp").open("a") as file:
        file.write(PLANTED)
    environment = os.environ | {"CXX": "g++", "CXXFLAGS": FLAGS}
    subprocess.run([sys.executable, "hatch_build.py"], cwd=folder, env=environment, check=True)
    libraries = ("libasan.so", "libstdc++.so")  # the latter, for an exception that passes through the former
    found = [
        subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout
        for name in libraries
    ]
    return os.environ | {
        "PYTHONPATH": str(folder / "src"),
        "LD_PRELOAD": " ".join(found).replace("\n", ""),
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }


def check_faults(environment: dict[str, str]) -> None:
    """Raise unless each planted fault is found."""
    for call, says in FAULTS.items():
        done = subprocess.run(
            [sys.executable, "-c", CALL.format(call)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        said = done.stdout + done.stderr
        if "both are right" not in done.stdout or done.returncode == 0 or says not in done.stderr:
            raise RuntimeError(f"a planted fault was not found: {call} must give {says!r}, got\n{said}")
        print(f"found: {says}", flush=True)


def main() -> None:
    """Compile, look for the planted faults, and run the tests."""
    with tempfile.TemporaryDirectory() as folder:
        environment = compiled(Path(folder))
        check_faults(environment)
        options = ("-q", "-n", "2", "-p", "no:cacheprovider", "--capture=sys")
        command = [sys.executable, "-m", "pytest", *options, *(sys.argv[1:] or TESTS)]
        done = subprocess.run(command, cwd=ROOT, env=environment, check=False)
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
