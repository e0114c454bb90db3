"""The routing example runs small, prints what it measured, and measures what it says."""

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.slow

pytest.importorskip("entmax", reason="the example needs the extra entmax")
pd = pytest.importorskip("pandas", reason="the example needs the extra compare")
stats = pytest.importorskip("scipy.stats", reason="the example needs the extra compare")


@pytest.fixture
def routing(example: ModuleType) -> ModuleType:
    return example


def column(found: Any, gate: str, measure: str) -> float:
    return float(found[found.gate == gate][measure].mean())


def test_small_run(routing: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A small run prints a row per gate, writes the numbers behind it and draws them."""
    routing.main(["--seeds", "3", "--epochs", "1", "--jobs", "1", "--out", str(tmp_path)])
    printed = capsys.readouterr().out.splitlines()
    rows = {line.split("|")[1].strip(): line for line in printed if line.startswith("|")}
    assert list(rows) == ["gate", "---", *routing.GATES]
    assert {line.count("|") for line in rows.values()} == {8}
    assert "undecided" in rows["entropy"]
    assert "undecided" not in rows["no help"]  # nothing is compared with itself
    assert [line[:9] for line in printed[:2]] == ["T = 1: z ", "T = 0.25:"]

    found = pd.read_csv(tmp_path / "routing.csv")
    assert len(found) == 3 * len(routing.GATES)
    assert found.accuracy.between(5, 100).all()
    assert (found.gap - (found.accuracy - found["chosen only"])).abs().max() < 1e-9
    assert found["choices per row"].between(1, 16).all()
    assert found["sections used"].between(1, 16 + 1e-9).all()
    # one-hot by construction, so the same in both uses; the control is the gate without help
    assert column(found, "straight-through", "gap") == 0
    assert column(found, "straight-through", "choices per row") == pytest.approx(1)
    assert abs(column(found, "no help", "gap")) > 1
    assert column(found, "no help", "choices per row") > 5

    drawn = (tmp_path / "routing.svg").read_text()
    assert len(drawn) < 200_000
    for name in routing.GATES:
        assert name in drawn
    assert "z / T, which softmax sees" in drawn


def test_intervals_are_corrected_for_splits_of_the_same_rows(routing: ModuleType) -> None:
    """Intervals over splits of the same rows are corrected for their overlap."""
    spread = np.random.default_rng(0).normal(size=(len(routing.GATES), 8))
    rows = [(gate, k, v) for gate, of in zip(routing.GATES, spread, strict=True) for k, v in enumerate(of)]
    found = pd.DataFrame(rows, columns=["gate", "seed", "accuracy"])
    found = found.assign(**{name: found.accuracy for name in routing.MEASURES})
    [line] = [line for line in routing.table(found).splitlines() if line.startswith("| colder")]
    low, high = map(float, line.split("(")[1].split(")")[0].split(" to "))
    alone = stats.t.isf(0.05 / 9 / 2, 7) * (spread[1] - spread[0]).std(ddof=1)  # nine gates
    assert (high - low) / 2 == pytest.approx(alone * np.sqrt(1 / 8 + 719 / 1078), abs=0.06)
    assert (high - low) / 2 > 2 * alone * np.sqrt(1 / 8)  # the control: splits that are independent


def test_tuning_uses_other_seeds_and_rows(
    routing: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tuning uses seeds and rows that the results do not use."""
    monkeypatch.setattr(routing, "PENALTIES", {"entropy": routing.PENALTIES["entropy"]})
    routing.main(["--tune", "--seeds", "1", "--epochs", "1", "--jobs", "1", "--out", str(tmp_path)])
    found = pd.read_csv(tmp_path / "tuning.csv")
    assert set(found.seed) == {100}
    assert list(found.weight) == [0.1, 0.3, 1.0, 3.0, 10.0, 30.0]
    assert "sections used" in capsys.readouterr().out
    assert not (tmp_path / "routing.csv").exists()


def test_pairs_share_everything_but_the_gate(routing: ModuleType) -> None:
    """Pairs of runs share weights and batches, and differ in the gate only."""
    start = {name: routing.train(name, 0, 1, None)["scale"][0] for name in ("no help", "entropy", "colder")}
    assert len(set(start.values())) == 1  # the same initial weights on the same rows
    assert routing.train("no help", 1, 1, None)["scale"][0] != start["no help"]
    again = [routing.train("Gini", 0, 1, None) for _ in range(2)]
    assert again[0] == again[1]


def test_a_penalty_that_weighs_decides(routing: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A penalty of large weight decides the gate; with weight 0 it changes nothing."""
    term, _ = routing.PENALTIES["entropy"]
    spread = {}
    for weight in (0.0, 3.0):
        monkeypatch.setitem(routing.PENALTIES, "entropy", (term, weight))
        spread[weight] = routing.train("entropy", 0, 8, None)
    monkeypatch.setitem(routing.PENALTIES, "entropy", (term, -3.0))
    assert spread[0.0]["accuracy"] == routing.train("no help", 0, 8, None)["accuracy"]
    assert spread[3.0]["choices per row"] < 0.5 * spread[0.0]["choices per row"]
    # the control: with the sign turned it must fail
    assert routing.train("entropy", 0, 8, None)["choices per row"] > spread[0.0]["choices per row"]


def test_the_chosen_section_alone_runs(routing: ModuleType) -> None:
    """The output depends on the chosen section only."""
    torch.manual_seed(0)
    model, pixels = routing.Sections(), torch.rand(5, 64)
    use = torch.eye(16)[[3] * 5]
    before = model(pixels, use)
    with torch.no_grad():
        model.up[: 3 * 4] = 0
        model.up[4 * 4 :] = 0
        model.bias[:3] = 0
    assert torch.equal(model(pixels, use), before)
    with torch.no_grad():
        model.up[3 * 4] += 1  # the control: a part of section 3 itself
    assert not torch.equal(model(pixels, use), before)
