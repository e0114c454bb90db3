"""Compile the CPU kernels where there is a C++ compiler; without one the package works in plain torch."""

import os
import platform
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

KERNELS = Path("src/equipoise/stats/kernels.cpp")
FLAGS = (
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-fopenmp",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
)
X86 = {
    "avx512": ("-march=x86-64-v4", "-mprefer-vector-width=512"),
    "avx2": ("-march=x86-64-v3",),
}


class Build(BuildHookInterface[Any]):
    """Called by hatchling for a wheel, and for an editable installation."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, once for each kind of vector instructions, and mark the wheel as one of this platform."""
        del version
        compiler = os.environ.get("CXX") or shutil.which("g++")
        if platform.system() != "Linux" or compiler is None:
            self.app.display_warning(
                "equipoise: no g++ on Linux, so no CPU kernels; losses run in plain torch"
            )
            return
        source = Path(self.root) / KERNELS
        machine = platform.machine()
        kinds = X86 if machine == "x86_64" else {machine: ()}
        started = [self._start(compiler, source, kind, flags) for kind, flags in kinds.items()]
        for process in started:
            if process.wait():
                raise RuntimeError(
                    f"{compiler} could not compile {KERNELS}; see above, or set CXX to another"
                )
        build_data["artifacts"].append(f"{source.parent.relative_to(self.root)}/kernels.*.so")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"

    def _start(
        self, compiler: str, source: Path, kind: str, flags: tuple[str, ...]
    ) -> "subprocess.Popen[bytes]":
        # Linked without OpenMP: its functions are those of the library that torch has loaded.
        made, out = source.with_name(f"kernels.{kind}.o"), source.with_name(f"kernels.{kind}.so")
        steps = [
            [compiler, *FLAGS, *flags, "-c", source, "-o", made],
            [compiler, "-shared", made, "-o", out],
            ["rm", made],
        ]
        return subprocess.Popen(
            " && ".join(subprocess.list2cmdline(map(str, step)) for step in steps), shell=True
        )
