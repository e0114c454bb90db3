"""The example on costly mistakes runs, prints its table and draws its picture, at a small size."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

pytestmark = pytest.mark.slow

pytest.importorskip("matplotlib", reason="matplotlib is not installed")
pytest.importorskip("sklearn", reason="scikit-learn is not installed")
stats = pytest.importorskip("scipy.stats", reason="scipy is not installed")


def test_the_table_and_the_picture(
    example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The example prints its table and draws its figure."""
    lines = example.main(["--seeds", "3", "--epochs", "20", "--out", str(tmp_path / "costs.svg")])
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2 + len(lines) == 2 + 2 * len(example.METHODS) + 1
    assert "<svg" in (tmp_path / "costs.svg").read_text()
    by_name = {(line["method"], line["read"]): line for line in lines}
    plain = by_name["cross entropy", "likeliest"]
    assert plain["accuracy"] > 0.5
    decided, turned = by_name["cross entropy", "cheapest"], by_name["cross entropy", "by transposed costs"]
    assert decided["lower"] == 3
    assert decided["cost"] < 0.88 * plain["cost"]  # half of a quarter, at least
    assert turned["lower"] == 0  # the control: the same rule with the matrix the wrong way round
    assert turned["cost"] > 1.12 * plain["cost"]
    assert all(np.isfinite(line["cost"]) for line in lines)


def test_intervals_are_corrected_for_splits_of_the_same_rows(example: ModuleType) -> None:
    """Intervals over splits of the same rows are corrected for their overlap."""
    assert len(example.load_digits().target) == example.ROWS
    keys = [("cross entropy", read) for read in ("likeliest", "cheapest")] + [("pairwise", "likeliest")]
    spent = np.random.default_rng(0).normal(size=(3, 16))
    runs = [{key: {"cost": cost} for key, cost in zip(keys, split, strict=True)} for split in spent.T]
    [line] = [line for line in example.table(runs) if line["method"] == "pairwise"]
    difference = spent[2] - spent[0]
    alone = stats.t.isf(0.05 / 2 / 2, 15) * difference.std(ddof=1)  # two comparisons
    half = (line["against"].high - line["against"].low) / 2
    assert half == pytest.approx(alone * np.sqrt(1 / 16 + 1497 / 300))
    assert half > 5 * alone * np.sqrt(1 / 16)  # the control: splits that are independent
    assert line["against"].mean == pytest.approx(difference.mean())
    assert line["lower"] == (difference < 0).sum()
    assert 0 < line["lower"] < 16


def test_the_same_seed_gives_the_same_numbers(example: ModuleType) -> None:
    """The same seed gives the same numbers."""
    assert example.measured(0, 1) == example.measured(0, 1) != example.measured(1, 1)
