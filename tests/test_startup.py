"""The command starts without torch, and the package imports its modules when they are first used."""

import ast
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import equipoise
from equipoise import Objective
from equipoise.losses import Focal

pytestmark = pytest.mark.slow  # processes that import the package

SOURCE = Path(str(equipoise.__file__)).parent
SLOW = {"torch", "pandas", "scipy", "sklearn", "matplotlib"}
BY_NAME = {
    "__main__",
    "cli",
    "compare",
    "explorer",
    "integrations",
    "training",
}  # modules that a user imports by name


def start(*words: str, at: Path | None = None) -> tuple[subprocess.CompletedProcess[str], str, set[str]]:
    """Start Python, and return what it did, what it wrote to stderr and the packages that it imported."""
    known = os.environ.get("PYTHONPATH")
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(SOURCE.parent), *([known] if known else [])])
    }
    program = [sys.executable, "-X", "importtime", *words]
    done = subprocess.run(program, env=environment, cwd=at, capture_output=True, text=True)
    lines = done.stderr.splitlines()
    imports = [line for line in lines if line.startswith("import time:")]
    packages = {line.rpartition("|")[2].strip().partition(".")[0] for line in imports}
    assert "equipoise" in packages
    return done, "\n".join(line for line in lines if line not in imports), packages


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    (tmp_path / "table.csv").write_text("a,b,label\n" + "\n".join(f"{k},{k % 7},{k % 2}" for k in range(60)))
    (tmp_path / "words.txt").write_text("no table")
    (tmp_path / "array.npz").write_text("no archive")
    (tmp_path / "broken.toml").write_text("folds = [")
    (tmp_path / "other.toml").write_text("fold = 3")
    (tmp_path / "kind.toml").write_text('folds = "three"')
    (tmp_path / "python.toml").write_text("folds = 3")
    (tmp_path / "mine.py").write_text("number = 3\ndef fails(): return 1 / 0\ndef rows(): return 1, 2, 3\n")
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [["--help"], ["--version"], ["compare", "--help"], ["paired", "--help"], ["explore", "--help"]],
    ids=" ".join,
)
def test_help_and_version_import_no_torch(words: list[str]) -> None:
    """--help and --version do not import torch."""
    done, said, packages = start("-m", "equipoise", *words)
    assert (done.returncode, said) == (0, "")
    assert "equipoise" in done.stdout
    assert packages.isdisjoint(SLOW | {"numpy"})


ERRORS = [
    ("", "the following arguments are required: COMMAND"),
    ("compere", "argument COMMAND: invalid choice"),
    ("--no", "the following arguments are required: COMMAND"),
    # compare: options
    ("compare --objektive x", "unrecognized arguments: --objektive"),
    ("compare a b", "unrecognized arguments: b"),
    ("compare --folds", "--folds must have a value, got none"),
    ("compare --folds many", "--folds must be an integer, got 'many'"),
    ("compare --lr fast", "--lr must be a number, got 'fast'"),
    ("compare --worthwhile accuracy", "--worthwhile must be a measure and a number"),
    ("compare --folds 1", "--folds must be an integer from 2 to 1000000, got 1"),
    ("compare --repeats 0", "--repeats must be an integer from 1 to 1000, got 0"),
    ("compare --tune -1", "--tune must be an integer from 0 to 1000, got -1"),
    ("compare --epochs 0", "--epochs must be an integer from 1 "),
    ("compare --batch-size 0", "--batch-size must be an integer from 1 "),
    ("compare --patience 0", "--patience must be an integer from 1 "),
    ("compare --width 0", "--width must be an integer from 1 "),
    ("compare --random-state -1", "--random-state must be an integer from 0 "),
    ("compare --jobs 0", "--jobs must be a whole number from 1, got 0"),
    ("compare --lr nan", "--lr must be a finite number above 0, got nan"),
    ("compare --weight-decay -1", "--weight-decay must be a finite number of 0 or more, got -1.0"),
    ("compare --stop never", "--stop must be one of calibrated, own, accuracy, nll, none, got 'never'"),
    ("compare --class-weight even", "--class-weight must be 'balanced' or None, got 'even'"),
    ("compare --model cnn", "--model must be 'mlp', 'linear' or a function"),
    ("compare --model nowhere:f", "--model must be module:function that runs, got ModuleNotFoundError"),
    ("compare --model mine:", "--model must be module:function, got 'mine:'"),
    ("compare --model mine:number", "--model must be module:function, got 'mine:number', which is no fun"),
    ("compare --worthwhile brier=1", "--worthwhile must give accuracy, calibrated_nll, decided_cost"),
    ("compare --noise 1.5", "--noise must be a share in [0, 1), got 1.5"),
    ("compare --noise nan", "--noise must be a share in [0, 1), got nan"),
    ("compare --noise lots", "--noise must be a share in [0, 1) or a matrix file, got 'lots'"),
    ("compare --noise 0_1", "--noise must be a share in [0, 1) or a matrix file, got '0_1'"),
    ("compare --costs no.csv", "--costs must be groups such as 'a, b | c' or a CSV, TOML or NPY file, got"),
    ("compare --similarity no.csv", "--similarity must be groups such as 'a, b | c' or a CSV, TOML or NPY"),
    ("compare --out table.csv/out", "--out must be a folder that can be written, got 'table.csv/out'"),
    # compare: files
    ("compare no.csv", "data must be a file, got 'no.csv', which is not there"),
    ("compare .", "data must be a file, got '.', which is no file"),
    ("compare words.txt", "data must end in .csv, .tsv, .parquet or .npz, got 'words.txt'"),
    ("compare --target label", "--target must be left out with scikit-learn's digits, got 'label'"),
    ("compare array.npz --target y", "target and drop must be left out without a table, got 'y'"),
    ("compare table.csv --test no.csv", "--test must be a file, got 'no.csv', which is not there"),
    ("compare table.csv --test array.npz", "--test must be a file of the kind of the data"),
    ("compare table.csv --test table.csv", "--test must be another file than the data"),
    ("compare table.csv --folds 1", "--folds must be an integer from 2 "),
    ("compare no.toml", "data must be a file, got 'no.toml', which is not there"),
    ("compare broken.toml", "data must be a study in TOML, got 'broken.toml'"),
    ("compare other.toml", "other.toml must have the keys of a study, got 'fold'; did you mean folds?"),
    ("compare kind.toml", "--folds must be an integer, got 'three' in kind.toml"),
    ("compare python.toml", "--data must be given with python.toml, got none"),
    ("compare --data mine", "--data must be module:function, got 'mine'"),
    ("compare --data nowhere:f", "--data must be module:function that runs, got ModuleNotFoundError"),
    ("compare --data mine:fails", "--data must be module:function that runs, got ZeroDivisionError"),
    ("compare --data mine:rows", "--data must return (X, y), a data set or a mapping"),
    ("compare --data mine:rows table.csv", "--data must be the only data, got table.csv as well"),
    # paired
    ("paired", "the following arguments are required: RUNS, --baseline"),
    ("paired table.csv", "the following arguments are required: --baseline"),
    ("paired table.csv --baseline a --test-size large", "--test-size must be a number, got 'large'"),
    ("paired table.csv --baseline a --test-size 4", "test_size and train_size must be given together"),
    ("paired table.csv --baseline a --test-size 0 --train-size 4", "--test-size must be above 0, got 0.0"),
    ("paired words.txt --baseline a", "scores must be a file ending in .csv, .tsv, .parquet, "),
    # explore
    ("explore page.html", "unrecognized arguments: page.html"),
    ("explore --out", "--out must have a value, got none"),
    ("explore --out .", "--out must be a new file or an explorer page, got '.'"),
    ("explore --out words.txt", "--out must be a new file or an explorer page, got 'words.txt'"),
    ("explore --out no/page.html", "--out must be a file that can be written, got 'no/page.html': No such"),
    # paired: files
    ("paired no.csv --baseline a", "scores must be a table that can be read, got no.csv: No such file or"),
]


@pytest.mark.parametrize(("words", "message"), ERRORS, ids=[words for words, _ in ERRORS])
def test_an_error_that_needs_no_data_imports_no_torch(workplace: Path, words: str, message: str) -> None:
    """An error that needs no data is reported without importing torch."""
    done, said, packages = start("-m", "equipoise", *words.split(), at=workplace)
    assert (done.returncode, done.stdout) == (2, "")
    assert said.startswith(f"equipoise: error: {message}")
    assert "\n" not in said
    assert packages.isdisjoint(SLOW)


def test_control_an_import_of_torch_is_seen(workplace: Path) -> None:
    """An import of torch is seen by the check."""
    done, said, packages = start("-m", "equipoise", "compare", "--device", "tpu", at=workplace)
    assert done.returncode == 2
    assert said.startswith("equipoise: error: --device must be 'cpu', 'cuda' or 'cuda:N', got 'tpu'")
    assert "torch" in packages


def test_control_an_error_of_the_data_imports_what_reads_them(workplace: Path) -> None:
    """An error of the data imports pandas."""
    done, said, packages = start("-m", "equipoise", "compare", "table.csv", at=workplace)
    assert done.returncode == 2
    assert said.startswith("equipoise: error: --target must name the column with the classes, got none")
    assert {"torch", "pandas"} <= packages


def modules() -> set[str]:
    """Return the names of the modules that are attributes of the package, without private ones."""
    names = {path.stem for path in SOURCE.glob("*.py")} | {path.parent.name for path in SOURCE.glob("*/*.py")}
    return {name for name in names - BY_NAME if not name.startswith("_")}


def test_every_module_is_listed_for_python_and_for_type_checkers() -> None:
    """Every module is listed for lazy import and for type checkers."""
    lazy = {*equipoise._PUBLIC, *equipoise._INTERNAL}
    assert lazy == modules()
    tree = ast.parse((SOURCE / "__init__.py").read_text())
    [block] = [each for each in tree.body if isinstance(each, ast.If) and isinstance(each.test, ast.Name)]
    shown = {alias.asname for each in block.body for alias in each.names}  # pyright: ignore[reportAttributeAccessIssue]
    assert shown == lazy | {"Objective"}


def test_names_are_shown_before_they_are_used() -> None:
    """`dir` lists the public names without importing them."""
    done, _, packages = start("-c", "import equipoise; print(*dir(equipoise))")
    assert set(equipoise.__all__) <= set(done.stdout.split())
    assert packages.isdisjoint(SLOW | {"numpy"})
    assert set(equipoise.__all__) <= set(dir(equipoise))
    assert "cli" not in equipoise.__all__


# Each is the first that a process uses: torch is imported once, and a process is forked for each.
_FIRST = """
import os, sys, torch

def run(program):
    if not (child := os.fork()):
        try:
            exec(program, {})
        except BaseException as error:
            print(repr(program), repr(error), flush=True)
        os._exit(0)
    os.waitpid(child, 0)

assert "equipoise" not in sys.modules
for program in sys.argv[1:]:
    run(program)
"""


def first(*programs: str) -> list[str]:
    """Run each program in a process of its own that has only torch, and return the lines printed."""
    done, _, _ = start("-c", f"{_FIRST}\nimport equipoise", *programs)
    assert done.returncode == 0
    return done.stdout.splitlines()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
class TestFirstUse:
    def test_each_module_works_as_the_first_that_is_used(self) -> None:
        """Each module can be the first to be imported."""
        check = "assert {0}.__name__ == 'equipoise.{1}'"
        attribute = [f"import equipoise\n{check.format(f'equipoise.{each}', each)}" for each in modules()]
        name = [f"from equipoise import {each}\n{check.format(each, each)}" for each in modules()]
        module = [f"import equipoise.{each} as found\n{check.format('found', each)}" for each in modules()]
        assert first(*attribute, *name, *module) == []
        [control] = first("import equipoise\nassert equipoise.losses.__name__ == 'equipoise.maps'")
        assert "AssertionError" in control

    def test_a_wrong_name_is_answered_by_each_module_alone(self) -> None:
        """Each module suggests names without other imports."""
        public = [each for each in equipoise.__all__ if each in modules()]
        lines = first(*(f"import equipoise.{each} as found\nfound.Focall" for each in public))
        for each, line in zip(public, lines, strict=True):
            way = "did you mean Focal?" if each == "losses" else ""
            assert f"module 'equipoise.{each}' has no attribute 'Focall'; {way}" in line

    def test_a_wrong_name_of_the_package(self) -> None:
        """The package suggests the nearest name."""
        lines = first(*(f"import equipoise\nequipoise.{name}" for name in ("Focal", "Objectiv", "compare")))
        for line, way in zip(
            lines,
            (
                "'Focal'; did you mean equipoise.losses.Focal?",
                "'Objectiv'; did you mean Objective?",
                "'compare'; import equipoise.compare first",
            ),
            strict=True,
        ):
            assert f"AttributeError(\"module 'equipoise' has no attribute {way}" in line

    def test_everything_at_once(self) -> None:
        """`import *` brings every public name."""
        names = [each for each in equipoise.__all__ if each != "__version__"]
        program = f"from equipoise import *\nfor each in {names}: assert each in globals(), each"
        assert first(program) == []

    def test_a_first_use_under_another_device(self) -> None:
        """A loss that is made under another device computes on a CPU."""
        program = """
import sys, torch
sys.path.insert(0, TESTS)
with torch.device("meta"):
    from support.definitions import DEFINITIONS
logits, target = torch.randn(2, 8), torch.tensor([0, 1])
for defined in DEFINITIONS.values():
    for loss in defined.settings:
        assert loss(logits, target).isfinite(), loss
"""
        assert first(program.replace("TESTS", repr(str(Path(__file__).parent)))) == []

    @pytest.mark.parametrize("made", [Focal(2.0), Objective(Focal(2.0), reduction="sum")], ids=repr)
    def test_a_pickle_is_read_where_nothing_was_imported(self, made: Any) -> None:
        """A pickle can be loaded by a fresh process."""
        program = f"import pickle\nprint(repr(pickle.loads({pickle.dumps(made)!r})))"
        assert first(program) == repr(made).splitlines()
