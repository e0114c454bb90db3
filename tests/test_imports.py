"""Importing equipoise is light, and its modules import one another in one direction."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import equipoise

SOURCE = Path(str(equipoise.__file__)).parent

HEAVY = {
    "gymnasium",
    "sb3_contrib",
    "stable_baselines3",
    "entmax",
    "jinja2",
    "joblib",
    "lightning",
    "matplotlib",
    "optuna",
    "pandas",
    "pyarrow",
    "rich",
    "scipy",
    "sklearn",
    "torchmetrics",
    "transformers",
    "triton",
}

# What each part may import of the others. The package itself is written as "equipoise".
CORE = {
    "naming",
    "masking",
    "statistics",
    "kernels",
    "distributed",
    "sharded",
    "_batch",
    "linear",
    "losses",
    "penalties",
    "maps",
    "label_noise",
    "schedules",
    "parameters",
    "parsing",
    "objective",
    "costs",
    "_checks",
    "_tensors",
    "distributions",
    "calibration",
}
ALLOWED: dict[str, set[str]] = {
    "naming": set(),
    "masking": set(),
    "statistics": {"naming"},
    "kernels": {"statistics"},
    "distributed": {"kernels"},
    "sharded": {"distributed", "kernels", "statistics"},
    "_batch": {"distributed", "kernels", "masking"},
    "linear": {"_batch", "distributed", "kernels", "naming", "sharded", "statistics"},
    "losses": {
        "_batch",
        "distributed",
        "kernels",
        "linear",
        "naming",
        "sharded",
        "statistics",
        "costs",
        "_checks",
        "_tensors",
    },
    "penalties": {"_checks", "_tensors", "_batch", "losses", "naming", "statistics"},
    "maps": {"_checks", "_tensors", "kernels", "losses", "masking", "naming", "statistics"},
    "distributions": {"naming", "maps"},
    "label_noise": {"naming", "_checks", "losses"},
    "schedules": {"naming", "_checks"},
    "parameters": {"losses"},
    "parsing": {"losses", "naming", "penalties", "schedules", "costs"},
    "objective": {"_batch", "losses", "schedules", "parameters", "parsing"},
    "equipoise": CORE | {"metrics"},
    "calibration": {"naming", "losses", "maps", "costs", "_checks"},
    "training": {"calibration", "losses", "objective"},
    "metrics": {"costs", "naming"},
    "costs": {"naming", "_tensors"},
    "_checks": set(),
    "_tensors": {"kernels"},
    "compare": CORE | {"equipoise", "calibration", "metrics", "training"},
    "integrations": CORE | {"equipoise", "calibration", "metrics", "training"},
    "explorer": {"equipoise", "losses", "maps", "penalties"},
    "__main__": {"cli"},
    "cli": CORE | {"equipoise", "metrics", "compare", "explorer", "integrations"},
}


def newly_imported(name: str, path: Path) -> set[str]:
    """Return the packages that all names of a package bring in beside those of torch and numpy."""
    program = (
        "import sys, torch, numpy\n"
        "before = set(sys.modules)\n"
        f"from {name} import *\n"
        "print(*{module.partition('.')[0] for module in set(sys.modules) - before})"
    )
    known = os.environ.get("PYTHONPATH")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(path), *([known] if known else [])])}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split()) - set(sys.stdlib_module_names) - {"torch", "numpy"}


def test_importing_equipoise_imports_nothing_but_torch_and_numpy() -> None:
    """Importing equipoise imports torch and numpy only."""
    assert newly_imported("equipoise", SOURCE.parent) == {"equipoise"}


def test_a_heavy_import_is_found(tmp_path: Path) -> None:
    """An import of a heavy package is found."""
    (tmp_path / "pandas.py").write_text("")  # stands in for the real one
    (tmp_path / "planted").mkdir()
    (tmp_path / "planted" / "__init__.py").write_text("from planted import inner\n")
    (tmp_path / "planted" / "inner.py").write_text("import json\nimport pandas\n")
    found = newly_imported("planted", tmp_path)
    assert found == {"planted", "pandas"}
    assert found & HEAVY


def top_level_imports(path: Path) -> set[str]:
    """Return the packages a file imports as soon as it is imported."""
    found: set[str] = set()
    left: list[ast.AST] = [ast.parse(path.read_text())]
    while left:
        node = left.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add((node.module or "").partition(".")[0])
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            left.extend(ast.iter_child_nodes(node))
    return found


@pytest.mark.parametrize("part", sorted(CORE | {"equipoise", "metrics", "explorer", "cli"}))
def test_the_core_names_no_heavy_package(part: str) -> None:
    """Modules of the core import no heavy package."""
    for module, path in modules(SOURCE).items():
        if room(module) == part:
            assert not top_level_imports(path) & HEAVY, module


def modules(package: Path) -> dict[str, Path]:
    """Return the name and file of every module."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "equipoise"


def edges(package: Path) -> dict[str, set[str]]:
    """Return what each module imports of its own package, wherever in the file it does."""
    files = modules(package)

    def nearest(name: str) -> str:
        while name not in files:
            name = name.rpartition(".")[0]
        return name

    graph: dict[str, set[str]] = {}
    for module, path in files.items():
        used: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                used |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                base = node.module or ""
                if node.level:
                    parts = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
                    above = parts[: len(parts) - node.level + 1]
                    base = ".".join([*above, *([base] if base else [])])
                used |= {f"{base}.{alias.name}" for alias in node.names}
        own = {name for name in used if name.partition(".")[0] == package.name}
        graph[module] = {nearest(name) for name in own} - {module}
    return graph


def forbidden(graph: Mapping[str, Iterable[str]], allowed: Mapping[str, set[str]]) -> set[str]:
    """Return the imports between parts that are not allowed; a part nobody listed may import nothing."""
    return {
        f"{module} -> {used}"
        for module, all_used in graph.items()
        for used in all_used
        if room(used) != room(module) and room(used) not in allowed.get(room(module), set())
    }


def test_imports_go_one_way() -> None:
    """Imports between parts are those allowed."""
    graph = edges(SOURCE)
    assert {room(module) for module in graph} >= CORE | {"equipoise"}
    assert forbidden(graph, ALLOWED) == set()


def test_every_part_is_listed() -> None:
    """Every part is listed in the allowed imports."""
    assert {room(module) for module in modules(SOURCE)} <= set(ALLOWED)


def test_the_allowed_imports_have_no_cycle() -> None:
    """The allowed imports have no cycle."""
    order = list(TopologicalSorter(ALLOWED).static_order())
    for before, after in (("statistics", "kernels"), ("kernels", "linear"), ("linear", "losses")):
        assert order.index(before) < order.index(after)
    for before, after in (("schedules", "objective"), ("objective", "compare"), ("compare", "cli")):
        assert order.index(before) < order.index(after)


def test_modules_have_no_cycle() -> None:
    """The modules have no import cycle."""
    graph = edges(SOURCE)
    assert "equipoise.distributed" in graph["equipoise.sharded"]
    list(TopologicalSorter(graph).static_order())


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """A package whose waist imports what stands above it, in four ways of writing it."""
    package = tmp_path / "equipoise"
    for name, text in {
        "__init__.py": "from equipoise import losses\n",
        "statistics/__init__.py": "from equipoise.statistics.base import Statistic\n",
        "statistics/base.py": "Statistic = object\n\n\ndef late():\n    from ..losses import base\n",
        "sharded.py": "from equipoise.statistics import Statistic\nimport equipoise.losses.base as base\n",
        "losses/__init__.py": "from .base import Loss\n",
        "losses/base.py": "from equipoise import sharded\n\nLoss = object\n",
        "elsewhere.py": "from equipoise.losses.base import Loss\n",
    }.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    return package


def test_an_import_the_wrong_way_is_found(planted: Path) -> None:
    """A forbidden import is found."""
    assert forbidden(edges(planted), ALLOWED) == {
        "equipoise.statistics.base -> equipoise.losses.base",
        "equipoise.sharded -> equipoise.losses.base",
        "equipoise.elsewhere -> equipoise.losses.base",
    }


def test_a_cycle_is_found(planted: Path) -> None:
    """An import cycle is found."""
    with pytest.raises(CycleError):
        list(TopologicalSorter(edges(planted)).static_order())
