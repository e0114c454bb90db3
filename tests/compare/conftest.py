"""Small data that trains in a blink, and the command line called as a function."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import equipoise
from equipoise.cli import main
from equipoise.compare.report import write_report
from equipoise.compare.results import Result
from equipoise.compare.store import Store
from equipoise.compare.verdict import judge

FAST = ("--epochs", "3", "--width", "8", "--jobs", "1")


@dataclass
class Said:
    """What a call of the command line returned and printed."""

    code: int
    out: str
    err: str


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    def run(*words: object) -> Said:
        capsys.readouterr()
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:
            code = int(stop.code or 0)
        printed = capsys.readouterr()
        return Said(code, printed.out, printed.err)

    return run


@pytest.fixture
def fast() -> tuple[str, ...]:
    return FAST


@pytest.fixture(scope="session")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """150 rows of three overlapping classes as NPZ."""
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 50)
    features = generator.normal(size=(150, 4)) + 1.5 * np.eye(3, 4)[labels]
    path = tmp_path_factory.mktemp("blobs") / "blobs.npz"
    np.savez(path, X=features, y=labels)
    return path


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """The file into which tasks write that they ran."""
    return tmp_path / "log"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "trials")


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """Variables with which another process finds this very package."""
    source = str(Path(str(equipoise.__file__)).parent.parent)
    known = os.environ.get("PYTHONPATH")
    return os.environ | {"PYTHONPATH": os.pathsep.join([source, known] if known else [source])}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Result], str]:
    """A function that writes the report of a result and reads it."""

    def write(result: Result) -> str:
        path = tmp_path_factory.mktemp("report") / "report.html"
        write_report(result, judge(result), path)
        return path.read_text()

    return write
