"""What a release needs agrees: versions in pyproject.toml, workflows, hooks, constraints and changelog."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

import equipoise

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[1]
if not (ROOT / ".github").exists():
    pytest.skip("a source distribution has no workflow files", allow_module_level=True)
PROJECT: Any = tomllib.loads((ROOT / "pyproject.toml").read_text())
WORKFLOWS = {path.name: path.read_text() for path in sorted((ROOT / ".github/workflows").glob("*.yml"))}
CONSTRAINTS = dict(
    line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
)

ACTION = re.compile(r"[\w.-]+(/[\w.-]+)+@(v\d+|release/v\d+|[0-9a-f]{40})")


def problems(text: str) -> list[str]:
    """Return what is wrong: jobs without a limit, more rights than needed, actions without a version."""
    workflow: Any = yaml.safe_load(text)
    found = [] if workflow.get("permissions") == {"contents": "read"} else ["permissions"]
    for name, job in workflow["jobs"].items():
        if "uses" not in job and "timeout-minutes" not in job:
            found.append(f"{name}: timeout")
        for step in job.get("steps", []):
            if not re.fullmatch(
                r"[\w.-]+(/[\w.-]+)+@(v\d+|release/v\d+|[0-9a-f]{40})", step.get("uses", "a/b@v1")
            ):
                found.append(f"{name}: {step['uses']}")
    return found


def test_the_version_is_in_one_place_and_the_changelog_has_it() -> None:
    """Only the package has the version, and the changelog has a part for it below what is unreleased."""
    assert "version" not in PROJECT["project"]
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert PROJECT["tool"]["hatch"]["version"]["path"] == "src/equipoise/__init__.py"
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert f"\n## [{equipoise.__version__}]" in changelog
    assert changelog.index("\n## [Unreleased]") < changelog.index(f"\n## [{equipoise.__version__}]")


def test_the_workflows_test_the_versions_that_are_declared() -> None:
    """The workflow tests each declared Python and the oldest torch, on three systems."""
    matrix: Any = yaml.safe_load(WORKFLOWS["ci.yml"])["jobs"]["tests"]["strategy"]["matrix"]
    start = "Programming Language :: Python :: 3."
    declared = [each for each in PROJECT["project"]["classifiers"] if each.startswith(start)]
    assert [f"Programming Language :: Python :: {each}" for each in matrix["python"]] == declared
    assert PROJECT["project"]["requires-python"] == f">={matrix['python'][0]}"
    assert f"torch>={matrix['torch'][0].removesuffix('.*')}" in PROJECT["project"]["dependencies"]
    assert len(matrix["os"]) == 3


def test_the_hooks_have_the_versions_of_the_constraints() -> None:
    """The hooks of pre-commit run the ruff and typos that `make test` runs."""
    hooks: Any = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    revisions = {each["repo"].rpartition("/")[2]: each["rev"] for each in hooks["repos"]}
    assert revisions["ruff-pre-commit"] == f"v{CONSTRAINTS['ruff']}"
    assert revisions["typos"] == f"v{CONSTRAINTS['typos']}"


@pytest.mark.parametrize("name", ["ci.yml", "release.yml", "wheels.yml"])
def test_workflows_have_limits_few_rights_and_actions_with_a_version(name: str) -> None:
    """Each job has a time limit, no right to write by default, and actions with a version."""
    assert problems(WORKFLOWS[name]) == []


def test_control_what_is_wrong_in_a_workflow_is_found() -> None:
    """Planted faults in a workflow are found."""
    text = (
        WORKFLOWS["wheels.yml"]
        .replace("    timeout-minutes: 30\n", "")
        .replace("checkout@v6", "checkout@main")
    )
    text = text.replace("contents: read", "contents: write")
    assert problems(text) == [
        "permissions",
        "compiled: actions/checkout@main",
        "plain: timeout",
        "plain: actions/checkout@main",
    ]
