"""The example of a scikit-learn pipeline runs and prints its lines, at a small size."""

from types import ModuleType

import pytest

pytestmark = pytest.mark.slow

pytest.importorskip("sklearn", reason="scikit-learn is not installed")


def test_the_lines(
    example: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The example prints a line per model, and the searched schedule is more accurate."""
    late = {"gamma": "Linear(0.0, 0.7, steps=90)"}
    monkeypatch.setattr(example, "GRID", {"model__schedules": [None, late]})
    (found,) = example.main(["--seeds", "1", "--epochs", "60"])
    assert len(capsys.readouterr().out.splitlines()) == len(found) == 7
    assert found["chosen"] == {"model__schedules": late}
    plain, searched, decided = (
        found[name]
        for name in (
            "cross entropy, likeliest",
            "gamma cross entropy, searched, likeliest",
            "gamma cross entropy, searched, cheapest",
        )
    )
    assert searched[0] > plain[0] + 0.02  # accuracy
    assert max(decided[1], searched[1]) < 0.8 * plain[1]  # cost
