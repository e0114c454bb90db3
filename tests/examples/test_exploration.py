"""The exploration example runs small, prints what it measured, and measures what it says."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.slow

pd = pytest.importorskip("pandas", reason="the example needs the extra compare")
stats = pytest.importorskip("scipy.stats", reason="the example needs the extra compare")
pytest.importorskip("matplotlib", reason="the example needs the extra compare")
pytest.importorskip("joblib", reason="the example needs the extra compare")
pytest.importorskip("stable_baselines3", reason="the example needs the extra rl")


@pytest.fixture
def exploration(example: ModuleType) -> ModuleType:
    return example


def test_small_run(exploration: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A small run prints its three tables with the slopes worked out by hand."""
    sizes = ["--runs", "4", "--steps", "60", "--ppo-seeds", "3", "--ppo-steps", "512", "--jobs", "1"]
    exploration.main([*sizes, "--out", str(tmp_path)])
    slopes, bandits, played = capsys.readouterr().out.strip().split("\n\n")
    said = [line.removeprefix("- ").split(": ") for line in slopes.splitlines()[1:]]
    slope = {what: float(words.split()[0]) for what, words in said}
    behind = float(np.exp(-60))  # softmax's probability there
    assert slope["Softmax(temperature=1.0)"] == 1
    assert slope["Floored(floor=0.05)"] == pytest.approx(0.8 * behind / 0.05, rel=0.05)
    assert slope["-0.1 * Entropy()"] == pytest.approx(0.1 * 60 * behind, rel=0.05)
    assert slope["0.1 * LogitRange(width=4.0)"] == pytest.approx(0.1 / 3, rel=0.05)  # three are smallest

    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in bandits.splitlines()]
    assert rows[0] == ["policy", *exploration.MEANS, *exploration.EXTREMES]
    assert [row[0] for row in rows[2:]] == list(exploration.POLICIES)
    assert {len(row) for row in rows} == {6}
    assert " to " not in "".join(rows[2])  # nothing is compared with itself
    assert all(" to " in cell for row in rows[3:] for cell in row[1:4])
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in played.splitlines()]
    assert rows[0] == ["policy", "return", *exploration.EXTREMES]
    assert [row[0] for row in rows[2:]] == list(exploration.PLAYERS)

    found = pd.read_csv(tmp_path / "exploration.csv")
    assert len(found) == 4 * len(exploration.POLICIES) + 3 * 2
    learnt = found[found.policy.isin(exploration.PLAYERS)]
    assert (learnt.steps == 512).all()  # half of it after loading
    assert (learnt["return"] > 5).all()
    assert (learnt["largest 1/p"] * learnt["smallest probability"] - 1).abs().max() < 1e-9
    drawn = (tmp_path / "exploration.svg").read_text()
    assert len(drawn) < 200_000
    for words in (*exploration.DRAWN, "at 30 the worst arm becomes the best"):
        assert words in drawn


def test_what_is_guaranteed_holds_in_every_step(exploration: ModuleType) -> None:
    """Each policy keeps its guaranteed probability in every step."""
    names = ("floor", "clip", "bound", "softmax")
    reached = {name: exploration.bandit(name, 5, 900, 0.1)[0] for name in names}
    smallest, largest = exploration.EXTREMES
    for name in names[:3]:
        least = exploration.POLICIES[name][0].min_prob(exploration.ARMS)
        assert reached[name][smallest].min() >= least * (1 - 1e-6)
        assert reached[name][largest].max() <= 1 / least * (1 + 1e-6)
    assert reached["floor"][smallest].min() >= np.float32(exploration.FLOOR)
    assert reached["clip"][smallest].min() < exploration.FLOOR  # which clipping at it does not hold
    # the control: softmax guarantees nothing
    assert reached["softmax"][smallest].min() < 0.5 * exploration.FLOOR
    assert reached["softmax"][largest].max() > 1 / exploration.FLOOR


def test_a_hinge_finds_the_arm_and_a_floor_does_not(exploration: ModuleType) -> None:
    """A hinge finds the better arm, and a floor does not."""
    found = {}
    for name in ("softmax", "floor", "hinge"):
        frame, trace = exploration.bandit(name, 8, 2400, 0.1)
        found[name] = frame["found in %"].mean()
        assert trace.shape == (2, 2400)
        assert trace[1, 1100:1200].mean() < 0.02  # forgotten
    assert found["hinge"] >= 50
    assert found["floor"] <= 25
    assert found["softmax"] <= 25  # the control


def test_the_weight_of_a_hinge_counts_for_hinges_alone(exploration: ModuleType) -> None:
    """The weight of a hinge changes hinges only."""

    def rewards(name: str, hinge: float) -> list[float]:
        return exploration.bandit(name, 5, 300, hinge)[0].after.tolist()

    assert rewards("narrow hinge", 0.0) == rewards("softmax", 0.0)
    assert rewards("narrow hinge", 0.5) != rewards("narrow hinge", 0.0)
    assert rewards("entropy 0.1", 0.5) == rewards("entropy 0.1", 0.0) != rewards("softmax", 0.0)


def test_runs_are_paired(exploration: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Policies see the same draws: a map that changes nothing changes no result."""
    nothing = exploration.Floored(0.0)  # softmax, computed in another way
    monkeypatch.setitem(exploration.POLICIES, "none", (nothing, None))
    plain, same, other = (exploration.bandit(name, 20, 60, 0.1)[0] for name in ("softmax", "none", "floor"))
    measures = ["before", "after", *exploration.EXTREMES]
    np.testing.assert_allclose(plain[measures], same[measures], rtol=1e-3)
    assert (plain.before - other.before).abs().max() > 1e-3  # the control: a map that changes something
    assert plain.before.corr(other.before) > 0.8
    assert plain.before.corr(other.before.sample(frac=1, random_state=0).reset_index(drop=True)) < 0.8
    again = exploration.bandit("hinge", 5, 50, 0.1)[0]
    pd.testing.assert_frame_equal(again, exploration.bandit("hinge", 5, 50, 0.1)[0])


def test_intervals_are_those_of_independent_runs(exploration: ModuleType) -> None:
    """Intervals are those of independent runs."""
    spread = np.random.default_rng(0).normal(size=(3, 8))
    rows = [(str(k), seed, v) for k, of in enumerate(spread) for seed, v in enumerate(of)]
    found = pd.DataFrame(rows, columns=["policy", "seed", "after"])
    found = found.assign(**dict.fromkeys(exploration.EXTREMES, 1.0))
    [line] = [line for line in exploration.table(found, {"after": 3}).splitlines() if line.startswith("| 1")]
    low, high = map(float, line.split("(")[1].split(")")[0].split(" to "))
    alone = (spread[1] - spread[0]).std(ddof=1) / np.sqrt(8)
    assert (high - low) / 2 == pytest.approx(stats.t.isf(0.05 / 2 / 2, 7) * alone, abs=1e-3)
    assert (high - low) / 2 > 1.1 * stats.t.isf(0.05 / 2, 7) * alone  # the control: each by itself


def test_ppo_keeps_the_floor_through_saving_and_loading(exploration: ModuleType) -> None:
    """PPO keeps its floor after saving and loading."""
    steps, acting = 4096, 4096 // 8
    looks = acting + 4096 // 256 * 20
    played = {name: exploration.cartpole(name, 4, steps).iloc[0] for name in exploration.PLAYERS}
    smallest = {name: row[exploration.EXTREMES[0]] for name, row in played.items()}
    floor = exploration.PLAYERS["PPO with a floor"][1]["map"].floor
    assert smallest["PPO with a floor"] >= np.float32(floor)
    assert smallest["PPO"] < np.float32(floor)  # the control
    for row in played.values():
        assert row.steps == steps
        assert row.looks == looks  # every step of acting, and every batch of training


def test_every_look_is_noted(exploration: ModuleType) -> None:
    """Every distribution that is made is recorded."""
    made = [torch.tensor([[0.2, 0.8], [0.9, 0.1]]), torch.tensor([[0.3, 0.7]])]

    class Shown:
        def __init__(self, probs: torch.Tensor) -> None:
            self.distribution = torch.distributions.Categorical(probs=probs)

    seen: list[float] = []
    shown = [exploration.noting(Shown, seen, probs) for probs in made]
    assert seen == pytest.approx([0.1, 0.3])
    assert all(isinstance(one, Shown) for one in shown)
