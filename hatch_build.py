"""Compile the CPU kernels where there is a C++ compiler; without one the package works in plain torch.

`python hatch_build.py` compiles them in place. `CXX` names another compiler, `CXXFLAGS` has further flags.
`EQUIPOISE_KERNELS=0` builds without kernels, and `EQUIPOISE_KERNELS=1` fails where there is no compiler.
"""

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = Path("src/equipoise/kernels/cpu/kernels.cpp")
FOLDER = Path("src/equipoise/kernels")  # where kernels.<kind>.so goes
SYSTEM = platform.system()
END = "dll" if SYSTEM == "Windows" else "so"
# On Windows clang alone: g++ misaligns vectors on the stack there, and MSVC has none of the vector types.
COMPILERS = {"Linux": ("g++", "clang++"), "Darwin": ("clang++",), "Windows": ("clang++",)}
# Compiled without OpenMP's functions: threads are those of the library that torch has loaded.
FLAGS = (
    "-fopenmp-simd",
    "-std=c++17",
    "-O3",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wall",
    "-Wextra",
    "-shared",
    *(() if SYSTEM == "Windows" else ("-fPIC",)),
)
X86 = {
    "avx512": ("-march=x86-64-v4", "-mprefer-vector-width=512"),
    "avx2": ("-march=x86-64-v3",),
}
SWITCH = "EQUIPOISE_KERNELS"


def compiler() -> str | None:
    """Return the C++ compiler, or None where there is none or the kernels do not run."""
    if os.environ.get(SWITCH) == "0" or SYSTEM not in COMPILERS:
        return None
    return os.environ.get("CXX") or next(filter(None, map(shutil.which, COMPILERS[SYSTEM])), None)


def compile_kernels(root: Path, compiler: str) -> None:
    """Compile the kernel below `root`, once for each kind of vector instructions."""
    machine = platform.machine().lower()
    kinds = X86 if machine in ("x86_64", "amd64") else {machine: ()}
    further = os.environ.get("CXXFLAGS", "").split()
    started: list[subprocess.Popen[bytes]] = []
    for kind, flags in kinds.items():
        out = root / FOLDER / f"kernels.{kind}.{END}"
        command = [compiler, *FLAGS, *flags, *further, str(root / SOURCE), "-o", str(out)]
        started.append(subprocess.Popen(command))
    if any([process.wait() for process in started]):
        raise RuntimeError(
            f"{compiler} could not compile {SOURCE}; see above, set CXX to another, or {SWITCH}=0 for none"
        )


class Build(BuildHookInterface[Any]):
    """Called by hatchling for a wheel, and for an editable installation."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and mark the wheel as one of this platform."""
        del version
        found = compiler()
        if found is None:
            names = " or ".join(COMPILERS.get(SYSTEM, ()))
            reason = (
                f"{SWITCH}=0" if os.environ.get(SWITCH) == "0" else f"no {names or 'kernels'} on {SYSTEM}"
            )
            if os.environ.get(SWITCH) == "1":
                raise RuntimeError(f"{reason}, but {SWITCH}=1; install a compiler, or name one in CXX")
            self.app.display_warning(f"equipoise: {reason}, so no CPU kernels; losses run in plain torch")
            return
        compile_kernels(Path(self.root), found)
        build_data["artifacts"].append(f"{FOLDER.as_posix()}/kernels.*.{END}")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"


if __name__ == "__main__":
    name = compiler()
    if name is None:
        sys.exit(f"no C++ compiler on {SYSTEM}, or {SWITCH}=0: install one, or set CXX")
    compile_kernels(Path(__file__).parent, name)
