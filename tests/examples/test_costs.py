"""The example on costly mistakes runs, prints its table and draws its picture, at a small size."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="matplotlib is not installed")
pytest.importorskip("sklearn", reason="scikit-learn is not installed")
pytest.importorskip("networkx", reason="networkx is not installed")


def test_the_table_and_the_picture(
    example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = example.main(["--seeds", "3", "--epochs", "20", "--out", str(tmp_path / "costs.svg")])
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2 + len(lines) == 2 + 2 * len(example.METHODS) + 1
    assert "<svg" in (tmp_path / "costs.svg").read_text()
    by_name = {(line["method"], line["read"]): line for line in lines}
    plain = by_name["cross entropy", "likeliest"]
    assert plain["accuracy"] > 0.5
    decided, turned = by_name["cross entropy", "cheapest"], by_name["cross entropy", "by transposed costs"]
    assert decided["against"].high < 0  # half of a quarter, at least
    assert decided["cost"] < 0.88 * plain["cost"]
    assert turned["against"].low > 0  # the control: the same rule with the matrix the wrong way round
    assert all(np.isfinite(line["cost"]) for line in lines)


def test_the_same_seed_gives_the_same_numbers(example: ModuleType) -> None:
    assert example.measured(0, 1) == example.measured(0, 1) != example.measured(1, 1)
