"""Time and memory against rows and classes: what is measured, and the picture of it."""

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("matplotlib", reason="the picture needs the extra compare")

ROOT = Path(__file__).parents[2]


@pytest.fixture
def scaling(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT))
    return import_module("benchmarks.scaling")


@pytest.mark.slow
def test_time_and_memory_of_each_contender_are_measured(
    scaling: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eager torch holds more than the logits; `loss.linear` holds a block of them."""
    monkeypatch.setattr(scaling.peers, "compiled", lambda peer: None)
    found = scaling.measured(scaling.Shape("2048", 2048, 8192, 16), repeats=3)
    assert set(found) == {scaling.EAGER, scaling.TORCH, scaling.OURS}
    assert all(numbers["ms"] > 0 for numbers in found.values())
    logits = 2048 * 8192 * 4 / 2**20
    assert found[scaling.EAGER]["MiB"] > 1.5 * logits
    assert found[scaling.OURS]["MiB"] < 1.2 * logits


def test_the_picture_shows_every_contender_and_unit(scaling: ModuleType, tmp_path: Path) -> None:
    """A contender without memory figures is drawn in time alone."""
    numbers: dict[str, Any] = {name: {"ms": 1.0, "MiB": 2.0} for name in scaling.COLOURS}
    del numbers[scaling.COMPILED]["MiB"]
    sweeps = {"rows": {"16": numbers, "64": numbers}, "classes": {"10": numbers}}
    scaling.draw({"sweeps": sweeps}, tmp_path / "one.svg")
    del numbers[scaling.TORCH]
    scaling.draw({"sweeps": sweeps}, tmp_path / "two.svg")
    one, two = ((tmp_path / f"{name}.svg").read_text() for name in ("one", "two"))
    assert len(one) > len(two) > 1000
