"""The example on floors runs small: what guarantees a floor keeps it, and what does not is seen."""

from types import ModuleType

import pytest
import torch

pytestmark = pytest.mark.slow

pytest.importorskip("gymnasium", reason="the example needs the extra rl")
pytest.importorskip("pandas", reason="the example needs the extra compare")
pytest.importorskip("scipy", reason="the example needs the extra compare")

GUARANTEED = ["Floored", "Projected", "Clipped, at f / (1 - (n - 1) f)", "ClippedLogits"]
NOT = ["softmax", "Clipped, at f", "0.01 LogitRange", "-0.01 Entropy", "-0.1 Entropy"]


@pytest.fixture
def floors(example: ModuleType) -> ModuleType:
    return example


def test_who_keeps_the_floor(
    floors: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Policies with a guarantee stay above the floor, and others fall below it."""
    monkeypatch.setattr(floors, "LENGTH", 16)
    monkeypatch.setattr(floors, "RATE", 0.2)
    found = floors.main(["--tasks", "FrozenLake-v1", "--runs", "2", "--updates", "60"])["FrozenLake-v1"]
    below = found.groupby("policy")[floors.SHARE].min()
    smallest = found.groupby("policy")[floors.SMALLEST].max()
    assert set(below.index) == set(floors.policies(4))
    for name in GUARANTEED:
        assert below[name] == 0
        assert smallest[name] >= floors.FLOOR * (1 - 1e-6)
    for name in NOT:
        assert below[name] > 1  # in % of all probabilities, in each run
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(below)
    assert {line.count("|") for line in lines} == {6}


def test_the_maps_say_what_they_guarantee(floors: ModuleType) -> None:
    """Each map states the floor that the example needs."""
    for actions in (2, 4, 6):
        made = floors.policies(actions)
        for name in GUARANTEED:
            shape, penalty = made[name]
            assert penalty is None
            assert shape.min_prob(actions) == pytest.approx(floors.FLOOR)
        assert made["Clipped, at f"][0].min_prob(actions) < floors.FLOOR  # the control


def test_a_task_goes_where_gymnasium_goes(floors: ModuleType) -> None:
    """The example's FrozenLake has the transitions and rewards of gymnasium."""
    torch.manual_seed(0)
    lake = floors.Task("FrozenLake-v1")
    state = torch.zeros(30_000, dtype=torch.long)
    after, reward, over = lake.step(state, torch.full_like(state, 2))  # right, on ice: down, right or up
    share = torch.bincount(after, minlength=16) / len(state)
    assert share[[0, 1, 4]] == pytest.approx([1 / 3] * 3, abs=0.02)
    assert not reward.any()
    assert not over.any()
    cliff = floors.Task("CliffWalking-v1")
    after, reward, over = cliff.step(torch.tensor([36, 36]), torch.tensor([1, 0]))
    assert after.tolist() == [36, 24]  # right is the cliff, and back to the start
    assert reward.tolist() == [-100, -1]
    assert not over.any()


def test_policies_have_the_same_random_numbers(floors: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """All policies use the same random numbers."""
    task = floors.Task("FrozenLake-v1")
    plain = floors.trained(task, "softmax", 2, 3).drop(columns="policy")
    floored = floors.trained(task, "Floored", 2, 3).drop(columns="policy")
    monkeypatch.setattr(floors, "policies", lambda actions: {"none": (floors.Softmax(), None)})
    assert floors.trained(task, "none", 2, 3).drop(columns="policy").equals(plain)
    assert not floored.equals(plain)  # the control
