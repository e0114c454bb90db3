"""What is built from the repository: kernels where there is a compiler, plain Python where there is none."""

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from equipoise.kernels import cpu

if find_spec("hatchling") is None or not list(distributions(name="pip")):
    pytest.skip("hatchling or pip is not installed", allow_module_level=True)

ROOT = Path(__file__).parents[1]
HAS_COMPILER = sys.platform == "linux" and shutil.which("g++") is not None
NEEDS_COMPILER = pytest.mark.skipif(not HAS_COMPILER, reason="there is no g++ on Linux")
TOO_OLD = platform.machine() == "x86_64" and torch.backends.cpu.get_cpu_capability() == "DEFAULT"
LOSS = (
    "import torch\n"
    "from equipoise.losses import CrossEntropy\n"
    "from equipoise.kernels import cpu\n"
    "print(cpu.available(), CrossEntropy()(torch.zeros(2, 4), torch.tensor([1, 3])).item())"
)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a copy of all that is needed, without what was compiled before."""
    copy = tmp_path / "project"
    shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("*.so", "*.o", "__pycache__"))
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    return copy


def built(project: Path, *command: str, **environment: str) -> tuple[int, str]:
    """Return the exit status, and what was said."""
    kept = {name: value for name, value in os.environ.items() if name not in ("CXX", "EQUIPOISE_KERNELS")}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=project,
        env=kept | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


WHEEL = ("-m", "pip", "wheel", "-v", "--no-deps", "--no-build-isolation", "--no-index", "-w", "out", ".")


def unpacked(project: Path) -> tuple[str, Path]:
    """Return the tags of the wheel, and where its files are now."""
    (wheel,) = (project / "out").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(project / "unpacked")
    return wheel.stem.split("-", 2)[2], project / "unpacked"


@pytest.mark.slow
@NEEDS_COMPILER
def test_a_wheel_has_the_kernels(project: Path) -> None:
    """A wheel contains the compiled kernels and their sources."""
    status, said = built(project, *WHEEL)
    assert status == 0, said
    tags, files = unpacked(project)
    assert tags == "py3-none-" + sysconfig.get_platform().replace("-", "_").replace(".", "_")
    compiled = sorted(path.name for path in files.rglob("*.so"))
    assert compiled == [
        path.name for path in sorted((project / "src/equipoise/kernels").glob("kernels.*.so"))
    ]
    assert compiled
    assert not list(project.rglob("*.o"))
    assert (files / "equipoise/kernels/cpu/kernels.cpp").exists()
    assert "Root-Is-Purelib: false" in next(files.glob("*.dist-info/WHEEL")).read_text()
    assert built(project, "-c", LOSS, PYTHONPATH=str(files)) == (0, f"{not TOO_OLD} 1.3862943649291992\n")


@pytest.mark.slow
def test_a_wheel_made_without_a_compiler_is_of_plain_python(project: Path, tmp_path: Path) -> None:
    """Without a compiler, the wheel is pure Python and a warning is printed."""
    (tmp_path / "nothing").mkdir()
    status, said = built(project, *WHEEL, PATH=str(tmp_path / "nothing"))
    assert status == 0, said
    assert "equipoise: no g++ or clang++ on Linux, so no CPU kernels; losses run in plain torch" in said
    tags, files = unpacked(project)
    assert tags == "py3-none-any"
    assert not list(files.rglob("*.so"))
    shipped = {path.name for path in (files / "equipoise/explorer").iterdir()}
    assert {"page.html", "style.css", "page.js", "losses.js", "catalogue.json"} <= shipped
    assert shipped == {path.name for path in (project / "src/equipoise/explorer").iterdir()} - {"__pycache__"}
    assert built(project, "-c", LOSS, PYTHONPATH=str(files)) == (0, "False 1.3862943649291992\n")


@pytest.mark.slow
@NEEDS_COMPILER
def test_a_compiler_that_fails_is_not_passed_over(project: Path) -> None:
    """A compiler that fails stops the build."""
    status, said = built(project, *WHEEL, CXX="false")
    assert status != 0
    source = "src/equipoise/kernels/cpu/kernels.cpp"
    assert f"RuntimeError: false could not compile {source}; see above, set CXX" in said
    assert not list(project.rglob("*.whl"))


@pytest.mark.slow
@NEEDS_COMPILER
def test_a_wheel_of_plain_python_is_made_on_request(project: Path) -> None:
    """With EQUIPOISE_KERNELS=0 the wheel has no shared library and the tag of plain Python."""
    status, said = built(project, *WHEEL, EQUIPOISE_KERNELS="0")
    assert status == 0, said
    assert "equipoise: EQUIPOISE_KERNELS=0, so no CPU kernels" in said
    tags, files = unpacked(project)
    assert tags == "py3-none-any"
    assert not list(files.rglob("*.so"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the message names Linux's compilers")
def test_kernels_on_request_need_a_compiler(project: Path, tmp_path: Path) -> None:
    """With EQUIPOISE_KERNELS=1 a build without a compiler fails, and names what to install."""
    (tmp_path / "nothing").mkdir()
    status, said = built(project, *WHEEL, PATH=str(tmp_path / "nothing"), EQUIPOISE_KERNELS="1")
    assert status != 0
    assert "RuntimeError: no g++ or clang++ on Linux, but EQUIPOISE_KERNELS=1; install a compiler" in said
    assert not list(project.rglob("*.whl"))


@NEEDS_COMPILER
@pytest.mark.skipif(TOO_OLD, reason="the processor has no AVX2")
def test_the_kernels_that_are_tested_are_those_of_the_source() -> None:
    """The tested kernels are newer than their sources."""
    assert cpu.available(), "the kernels were not compiled: pip install -e ."
    made = Path(cpu.library()._name)
    sources = [path for path in made.with_name("cpu").iterdir() if path.suffix in (".cpp", ".h")]
    assert {"kernels.cpp", "program.h"} <= {source.name for source in sources}
    for source in sources:
        assert made.stat().st_mtime >= source.stat().st_mtime, f"the kernels are older than {source}: install"


STRICT = (
    "-Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wold-style-cast -Wcast-qual -Wcast-align "
    "-Wnull-dereference -Werror"
)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the kernels are for Linux")
@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_the_kernels_compile_without_warnings(project: Path, compiler: str) -> None:
    """The kernels compile without warnings, also with clang."""
    if shutil.which(compiler) is None:
        pytest.skip(f"there is no {compiler}")
    status, said = built(project, "hatch_build.py", CXX=compiler, CXXFLAGS=STRICT)
    assert status == 0, said
    assert "warning" not in said
    assert list((project / "src/equipoise/kernels").glob("kernels.*.so"))
    declared = "int32_t planted(int64_t count)"
    planted = f"#include <cstdint>\n{declared};\n{declared} {{ return count; }}\n"
    (project / "src/equipoise/kernels/cpu/kernels.cpp").write_text(planted)  # the control
    status, said = built(project, "hatch_build.py", CXX=compiler, CXXFLAGS=STRICT)
    assert status != 0
    assert "conversion" in said
