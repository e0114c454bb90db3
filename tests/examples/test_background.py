"""The scripts of docs/background run, and print what their text says."""

import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.slow

plt = pytest.importorskip("matplotlib.pyplot", reason="the pages need the extra compare")
pytest.importorskip("sklearn", reason="the pages need the extra compare")

PAGES = Path(__file__).parents[2] / "docs" / "background"
SCRIPTS = sorted(PAGES.glob("plot_*.py"))


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(plt, "show", lambda: None)
    with plt.rc_context():
        plt.switch_backend("agg")
        yield
        plt.close("all")


def made(name: str) -> dict[str, Any]:
    """Run a script and return its names; its figures must be drawn without an error."""
    found = runpy.run_path(str(PAGES / f"plot_{name}.py"))
    for number in plt.get_fignums():
        plt.figure(number).canvas.draw()
    return found


def test_one_function_three_names(capsys: pytest.CaptureFixture[str]) -> None:
    page = made("one_function_three_names")
    assert "10   2.78e-02   2.22e-02   0.20" in capsys.readouterr().out
    assert max(page["same"]) < 1e-14  # the losses
    assert float((page["control"] - page["scaled"]).std()) > 0.1  # the control
    below = page["gammas"] < page["limit"]
    assert torch.allclose(page["read"][below], page["eta"].expand(int(below.sum()), -1), atol=1e-6)
    assert (page["raw"][below][:, 0] > page["eta"][0] + 1e-3).all()  # sharper
    assert page["raw"][-1][0] > 0.999  # one-hot
    errors, matching = page["errors"], page["matching"]
    clean, noisy = 0, 1
    assert errors[matching, "softmax"][clean] < 0.03 < 0.1 < errors[0.0, "softmax"][clean]
    assert errors[matching, "floored"][noisy] < 0.03 < 0.1 < errors[matching, "softmax"][noisy]
    assert min(errors[0.9, "softmax"]) > 0.1


def test_temperature_and_noise() -> None:
    page = made("temperature_and_noise")
    assert page["lowest"]["clean labels"] == pytest.approx(2, rel=0.1)
    assert page["lowest"]["observed labels"] > 4
    low, high = page["found"].noise_interval
    assert low < 0.3 < high
    for rate, (alone, both, true) in page["values"].items():
        assert both < true + 0.02
        assert (alone > true + 0.05) == (rate > 0)
    assert page["gaps"]["probs"] < 0.05 < 0.2 < page["gaps"]["T alone"]
    digits = page["digits"]
    assert digits["T and noise"] < digits["raw"] < digits["T alone"]
    assert page["blind"].noise < 0.01 < 0.03 < float((page["probs"][:, 0] / 3).mean())


def test_threshold_primitive() -> None:
    page = made("threshold_primitive")
    assert float((page["value"] - page["textbook"](page["probs"])).abs().max()) < 1e-13
    assert float((page["slope"] - page["slope_of_product"]).abs().max()) < 1e-14
    assert float((page["area"] - page["textbook"](page["at"])).abs().max()) < 1e-8
    assert float((page["area"] - page["without"]).abs().max()) > 1  # the control
    assert page["rises"]["L"] == 0 < page["rises"]["product"]


def test_spurious_minima(capsys: pytest.CaptureFixture[str]) -> None:
    page = made("spurious_minima")
    assert page["first"] == {2: 12, 3: 16, 4: 20}
    assert [page["limits"][k] for k in (2, 3, 4)] == pytest.approx([11.71, 15.41, 19.07], abs=0.01)
    for (n, start), (ours, *others) in page["shares"].items():
        assert others == [100, 100]  # entropy and Gini, the control
        if start == "two rivals":
            assert ours == (100 if n == 8 else 0)
        elif "Adam" in start:
            assert ours == 100 if n == 8 else ours < 95
        else:
            assert ours == 100
    assert "control: entropy [-0.5" in capsys.readouterr().out


def test_every_script_is_tested_and_its_links_lead_to_pages() -> None:
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert SCRIPTS
    for script in SCRIPTS:
        assert script.stem.removeprefix("plot_") in tested
        for link in re.findall(r":doc:`([^`]+)`", script.read_text()):
            page = PAGES.parent / f"{link[1:]}.md" if link.startswith("/") else PAGES / f"{link}.py"
            assert page.exists(), f"{script.name} links to {link}"
