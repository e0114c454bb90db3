"""What a type checker knows of the package: every public name, and the errors in a user's program."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]
if find_spec("basedpyright") is None:
    pytest.skip("basedpyright is not installed", allow_module_level=True)


def checker(*words: str, python: Path | None = None, at: Path = ROOT, path: Path | None = None) -> Any:
    """Return what basedpyright says, with the packages of a Python."""
    folder = (python or Path(sys.executable)).parent
    environment = os.environ | {"PATH": os.pathsep.join([str(folder), os.environ["PATH"]])}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    elif python is not None:
        environment.pop("PYTHONPATH", None)
    command = [sys.executable, "-m", "basedpyright", "--outputjson", *words]
    done = subprocess.run(command, cwd=at, env=environment, capture_output=True, text=True, check=False)
    return json.loads(done.stdout)


def unknown(found: Any) -> list[str]:
    """Return the exported symbols whose types are not known."""
    symbols = found["typeCompleteness"]["symbols"]
    return [each["name"] for each in symbols if each["isExported"] and not each["isTypeKnown"]]


def test_the_types_of_all_public_names_are_known() -> None:
    """`basedpyright --verifytypes` finds all public names complete."""
    found = checker("--verifytypes", "equipoise", "--ignoreexternal")
    assert unknown(found) == []
    assert found["typeCompleteness"]["completenessScore"] == 1
    assert len(found["typeCompleteness"]["symbols"]) > 1000


def test_control_a_name_without_a_type_is_found(tmp_path: Path) -> None:
    """A function without annotations is reported."""
    package = tmp_path / "incomplete"
    package.mkdir()
    (package / "py.typed").touch()
    (package / "__init__.py").write_text("def known(x: int) -> int: return x\ndef untyped(x): return x\n")
    found = checker("--verifytypes", "incomplete", "--ignoreexternal", at=tmp_path, path=tmp_path)
    assert unknown(found) == ["incomplete.untyped"]
    assert found["typeCompleteness"]["completenessScore"] == 0.5


RIGHT = """
import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import assert_type

from equipoise import Objective, calibration, label_noise, linear
from equipoise.costs import ClassMatrix, decide, from_groups
from equipoise.distributions import MapCategorical
from equipoise.integrations.sklearn import ObjectiveClassifier
from equipoise.losses import CrossEntropy, ExpectedCost, Focal, GammaCrossEntropy
from equipoise.maps import Floored, Sparsemax
from equipoise.penalties import Entropy, LogitRange
from equipoise.schedules import Cosine, Linear

logits, target = torch.randn(8, 3, requires_grad=True), torch.randint(3, (8,))
loss = GammaCrossEntropy(gamma=0.1) + 0.5 * LogitRange(width=8.0) - Entropy() / 10
assert_type(loss(logits, target), Tensor)
assert_type(Focal(gamma=2.0)(logits, target, reduction="none"), Tensor)
assert_type(loss.linear(torch.randn(8, 4), torch.randn(3, 4), target), Tensor)
print(linear.explain(loss, torch.randn(8, 4), torch.randn(3, 4), target))

objective = Objective(Focal(), schedules={"gamma": Linear(2.0, 0.0, steps=100)}, weight=torch.ones(3))
assert_type(objective, Objective)
objective(logits, target).backward()
objective.step()
assert_type(objective.scheduled(), dict[str, float])
model = nn.Sequential(nn.Linear(4, 3), Floored(0.01).module())
print(Cosine(0.0, 1.0, steps=10)(3), sum([CrossEntropy(), Focal()]))

assert_type(Sparsemax().probs(logits), Tensor)
policy = MapCategorical(Floored(0.01), logits=logits)
assert_type(policy.probs, Tensor)
assert_type(policy.mode, Tensor)

costs = from_groups("a, b | c", "costs")
assert_type(costs, ClassMatrix)
cost = ExpectedCost(costs)
print(decide(torch.softmax(logits.detach(), -1), costs), cost(logits, target))

classifier = ObjectiveClassifier("GammaCrossEntropy(gamma=0.1)", max_iter=5).fit(np.eye(4), [0, 1, 0, 1])
assert_type(classifier, ObjectiveClassifier)
assert_type(classifier.score(np.eye(4), [0, 1, 0, 1]), float)
assert_type(classifier.n_iter_, int)
found = calibration.fit(logits.detach(), target)
print(found.map, label_noise.suggest_gamma)
"""

# A wrong line, and a word of what is said of it.
WRONG = {
    "from equipoise.losses import Focall": "Focall",
    "import equipoise\nequipoise.losses.Focus()": "Focus",
    "from equipoise.losses import Focal\nFocal(gama=2.0)": "gama",
    "from equipoise.losses import Focal\nFocal(gamma='two')": "gamma",
    "from equipoise.losses import Focal\nFocal().gamma = 3.0": "gamma",
    "from equipoise.losses import CrossEntropy\nfrom equipoise.penalties import Entropy\n"
    "CrossEntropy() + 0.1 * Entropy": "Entropy",
    "import torch\nfrom equipoise.losses import Focal\n"
    "Focal()(torch.ones(2, 3), reduction='average')": "average",
    "from equipoise import Objective\nObjective('CrossEntropy()')": "Loss",
    "from equipoise.schedules import Linear\nLinear(0.0, 1.0, step=3)": "step",
}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the Python of an environment in which a wheel is installed, beside what this Python has."""
    if find_spec("hatchling") is None or not any(map(shutil.which, ("pip", "pip3"))):
        pytest.skip("hatchling or pip is not installed")
    folder = tmp_path_factory.mktemp("installed")
    project, environment = folder / "project", folder / "environment"
    leave = shutil.ignore_patterns("*.so", "*.dll", "__pycache__")
    shutil.copytree(ROOT / "src", project / "src", ignore=leave)
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, project)
    wheel = ("wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "-w", "out", ".")
    plain = os.environ | {"EQUIPOISE_KERNELS": "0"}
    subprocess.run([sys.executable, "-m", "pip", *wheel], cwd=project, env=plain, check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    purelib = subprocess.run([python, "-c", where], capture_output=True, text=True, check=True).stdout.strip()
    (made,) = (project / "out").glob("*.whl")
    with zipfile.ZipFile(made) as archive:
        archive.extractall(purelib)
    others = Path(str(torch.__file__)).parents[1]
    (Path(purelib) / "others.pth").write_text(str(others))
    return python


def said_of(programs: list[str], python: Path, folder: Path) -> list[list[str]]:
    """Return the errors that a user is shown for each program."""
    names = [f"program{number}.py" for number in range(len(programs))]
    for name, program in zip(names, programs, strict=True):
        (folder / name).write_text(program)
    (folder / "pyrightconfig.json").write_text(json.dumps({"typeCheckingMode": "standard"}))
    found = checker(*names, python=python, at=folder)["generalDiagnostics"]
    errors = [each for each in found if each["severity"] == "error"]
    return [[each["message"] for each in errors if Path(each["file"]).name == name] for name in names]


@pytest.mark.slow
def test_a_program_is_checked_against_the_installed_package(installed: Path, tmp_path: Path) -> None:
    """A right program has no error, and imports the installed package, not the sources."""
    assert said_of([RIGHT], installed, tmp_path) == [[]]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    where = "import program0, equipoise; print(equipoise.__file__)"
    done = subprocess.run(
        [installed, "-c", where], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert str(installed.parents[1]) in done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_errors_in_a_program_are_found(installed: Path, tmp_path: Path) -> None:
    """Each wrong program has an error that names what is wrong."""
    for said, (program, word) in zip(said_of(list(WRONG), installed, tmp_path), WRONG.items(), strict=True):
        assert any(word in each for each in said), (program, said)
