"""The benchmark of calibration: its rival, its kinds of noise, and its tables."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

pytestmark = pytest.mark.slow

pytest.importorskip("cleanlab", reason="cleanlab is not installed")
pytest.importorskip("statsmodels", reason="statsmodels is not installed")

ROOT = Path(__file__).parents[2]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    from importlib import import_module

    monkeypatch.syspath_prepend(str(ROOT))
    return import_module("benchmarks.calibration")


def test_the_rival_finds_the_temperature_if_the_rate_is_right(benchmark: ModuleType) -> None:
    """With the true noise rate, noise-aware temperature scaling finds the true temperature."""
    logits, target, *_ = benchmark.made(0, "symmetric", 0.3, rows=20000)
    assert benchmark.nts(logits, target, 0.3) == pytest.approx(2.0, rel=0.05)
    assert benchmark.nts(logits, target, 0.0) > 3.0  # the control


@pytest.mark.parametrize("kind", ["symmetric", "pairs", "rows"])
def test_a_share_of_the_labels_is_wrong_in_the_way_it_says(benchmark: ModuleType, kind: str) -> None:
    """The share of wrong labels and their transition matrix are those of the kind of noise."""
    logits, target, clean, *_ = benchmark.made(0, kind, 0.3, rows=20000)
    wrong = target != clean
    assert wrong.mean() == pytest.approx(0.3, abs=0.015)
    counts = np.histogram2d(clean, target, bins=10)[0]
    matrix = benchmark.transition("pairs" if kind == "pairs" else "symmetric", 0.3, 10)
    if kind != "rows":
        assert np.abs(counts / counts.sum(1, keepdims=True) - matrix).max() < 0.04
    own = benchmark.softmax(logits / 2)[np.arange(20000), clean]
    assert (own[wrong].mean() < own[~wrong].mean() - 0.05) == (kind == "rows")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("part", "rows"), [("simulated", 2), ("ranked", 5)])
def test_the_tables_are_made(
    benchmark: ModuleType,
    part: str,
    rows: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each part of the benchmark prints its table with a line per condition."""
    monkeypatch.setattr(benchmark, "SIMULATED", benchmark.SIMULATED[4:6])
    benchmark.main(["--part", part, "--seeds", "2"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(lines) == rows + 2
    assert len({line.count("|") for line in lines}) == 1
    assert not any("nan" in line for line in lines)
