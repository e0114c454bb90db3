"""The examples in docstrings and in the documents run, and the names they mention exist."""

import doctest
import importlib
import importlib.util
import inspect
import pkgutil
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch

import equipoise

ROOT = Path(__file__).parents[1]
MODULES = [module.name for module in pkgutil.walk_packages(equipoise.__path__, "equipoise.")]
MADE = [ROOT / "docs" / name for name in ("_build", "reference")]  # by the build of the site
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(
        path
        for path in sorted((ROOT / "docs").rglob("*.md"))
        if not any(path.is_relative_to(made) for made in MADE)
    ),
]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name: str) -> None:
    """The examples of a module's docstrings print what they show."""
    module = importlib.import_module(name)
    torch.set_printoptions(profile="default")
    result = doctest.testmod(
        module, extraglobs={"torch": torch}, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    )
    assert result.failed == 0


BASES = {"Loss", "RowLoss", "BatchLoss", "Sum", "Map", "Schedule", "Entry", "MapEntry", "DensePlan"}
FOR_USERS = ("losses", "penalties", "maps", "schedules", "costs", "metrics", "distributions")


def without_example(module: ModuleType) -> set[str]:
    """Return the public classes and functions of a module whose docstrings show no call."""
    public = {name: getattr(module, name) for name in module.__all__}
    made = {name for name, each in public.items() if inspect.isclass(each) or inspect.isfunction(each)}
    return {name for name in made if ">>>" not in (public[name].__doc__ or "")}


@pytest.mark.parametrize("name", FOR_USERS)
def test_what_users_call_has_an_example(name: str) -> None:
    """Every public name but those of bases and tables shows a call, which `test_docstring_examples` runs."""
    assert without_example(importlib.import_module(f"equipoise.{name}")) <= BASES


def test_control_a_docstring_without_an_example_is_found() -> None:
    """A docstring without an example is found."""
    assert "RowLoss" in without_example(importlib.import_module("equipoise.losses"))


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_blocks_run_and_print_what_is_shown(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The code blocks of a page run and print what is shown."""
    pattern = (
        r"^```python\n(.*?)^```(?:\n\n```\n(.*?)^```)?"  # the second block, if any, is what the first prints
    )
    space: dict[str, object] = {}
    for block, shown in re.findall(pattern, page.read_text(), flags=re.DOTALL | re.MULTILINE):
        capsys.readouterr()
        exec(compile(block, str(page), "exec"), space)
        if shown:
            printed = capsys.readouterr().out
            number = r"-?\d+\.\d+"
            assert re.sub(number, "#", printed).split() == re.sub(number, "#", shown).split()
            values = [list(map(float, re.findall(number, text))) for text in (printed, shown)]
            assert values[0] == pytest.approx(values[1], abs=0.03)  # other processors round in other places


def test_tables_in_the_pages_are_those_the_code_makes() -> None:
    """The tables in the pages are those that the code generates."""
    spec = importlib.util.spec_from_file_location("tables", ROOT / "docs" / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    page = tables.PAGE.read_text()
    assert tables.written(page) == page, "run python docs/tables.py"
    assert tables.written(page.replace("| `Floored", "| `Other")) == page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_linked_files_exist(page: Path) -> None:
    """Files that a page links to are there."""
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in link:
            assert (page.parent / link).exists(), f"{page.name} links to {link}"
