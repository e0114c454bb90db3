"""Compile the CPU kernels where there is a C++ compiler; without one the package works in plain torch.

`python hatch_build.py` compiles them in place. `CXX` names another compiler, `CXXFLAGS` has further flags.
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
# Compiled without OpenMP's functions: threads are those of the library that torch has loaded.
FLAGS = (
    "-fopenmp-simd",
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wall",
    "-Wextra",
)
X86 = {
    "avx512": ("-march=x86-64-v4", "-mprefer-vector-width=512"),
    "avx2": ("-march=x86-64-v3",),
}


def compiler() -> str | None:
    """Return the C++ compiler, or None where there is none or the kernels do not run."""
    return None if platform.system() != "Linux" else os.environ.get("CXX") or shutil.which("g++")


def compile_kernels(root: Path, compiler: str) -> None:
    """Compile the kernel below `root`, once for each kind of vector instructions."""
    machine = platform.machine()
    kinds = X86 if machine == "x86_64" else {machine: ()}
    further = os.environ.get("CXXFLAGS", "").split()
    started: list[subprocess.Popen[bytes]] = []
    for kind, flags in kinds.items():
        made, out = (root / FOLDER / f"kernels.{kind}.{end}" for end in ("o", "so"))
        steps = [
            [compiler, *FLAGS, *flags, *further, "-c", root / SOURCE, "-o", made],
            [compiler, *further, "-shared", made, "-o", out],
            ["rm", made],
        ]
        command = " && ".join(subprocess.list2cmdline(map(str, step)) for step in steps)
        started.append(subprocess.Popen(command, shell=True))
    if any([process.wait() for process in started]):
        raise RuntimeError(f"{compiler} could not compile {SOURCE}; see above, or set CXX to another")


class Build(BuildHookInterface[Any]):
    """Called by hatchling for a wheel, and for an editable installation."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and mark the wheel as one of this platform."""
        del version
        found = compiler()
        if found is None:
            self.app.display_warning(
                "equipoise: no g++ on Linux, so no CPU kernels; losses run in plain torch"
            )
            return
        compile_kernels(Path(self.root), found)
        build_data["artifacts"].append(f"{FOLDER}/kernels.*.so")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"


if __name__ == "__main__":
    name = compiler()
    if name is None:
        sys.exit("no C++ compiler on Linux: install g++, or set CXX")
    compile_kernels(Path(__file__).parent, name)
