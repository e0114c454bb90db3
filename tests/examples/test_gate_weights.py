"""The example on the weight of a gate's penalty runs small, and chooses by validation rows alone."""

from types import ModuleType
from typing import Any

import pytest

pytestmark = pytest.mark.slow

pytest.importorskip("sklearn", reason="the example needs the extra compare")
pytest.importorskip("statsmodels", reason="statsmodels is not installed")
pd = pytest.importorskip("pandas", reason="the example needs the extra compare")


@pytest.fixture
def gates(example: ModuleType) -> ModuleType:
    return example


def test_small_run(
    gates: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small run prints its table, and the penalty narrows the gap between soft and hard gates."""
    few = {gate: gates.GATES[gate] for gate in (gates.NO_HELP, "weight 3", gates.STRAIGHT, gates.ONE)}
    monkeypatch.setattr(gates, "GATES", few)
    found = gates.main(["--data", "clusters", "--seeds", "2", "--steps", "250"])["clusters"]
    gap = (found["test soft"] - found["test hard"]).groupby(found.gate).mean()
    assert gap[gates.STRAIGHT] == gap[gates.ONE] == 0
    assert gap["weight 3"] < 0.8 * gap[gates.NO_HELP]
    hard = found.groupby("gate")["test hard"].mean()
    assert hard[gates.STRAIGHT] > hard[gates.NO_HELP] + 2
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert [line.split("|")[1].strip() for line in lines] == ["gate", "---", *few, gates.CHOSEN]
    assert {line.count("|") for line in lines} == {7}


def test_the_choice_sees_validation_rows_only(gates: ModuleType) -> None:
    """The weight is chosen by validation rows only."""

    def run(gate: str, seed: int, validation: float, test: float) -> dict[str, Any]:
        return {"gate": gate, "seed": seed, "validation hard": validation, "test hard": test}

    runs = [run("no help", 0, 50, 99), run("weight 1", 0, 60, 40), run("weight 3", 0, 55, 98)]
    runs += [run("no help", 1, 70, 10), run("weight 1", 1, 60, 90), run("straight-through", 1, 99, 99)]
    chosen = gates.choose(pd.DataFrame(runs))
    assert list(chosen.weight) == [1, 0]
    assert list(chosen["test hard"]) == [40, 10]  # the best there would be 99 and 90


@pytest.mark.parametrize("name", ["regression", "clusters", "affairs"])
def test_no_row_is_in_two_parts(gates: ModuleType, name: str) -> None:
    """No row is in two parts, and the parts have their sizes."""
    split = gates.split_of(name, 0)
    sizes = {part: len(target) for part, (_, target) in split.items()}
    count = 6366 if name == "affairs" else 3000
    assert sum(sizes.values()) == count
    assert sizes["train"] == pytest.approx(0.6 * count, abs=1)
    assert sizes["validation"] == pytest.approx(sizes["test"], abs=1)
    rows = {tuple(row.tolist()) for rows, _ in split.values() for row in rows}
    if name != "affairs":  # people may give the same answers
        assert len(rows) == count


def test_pairs_differ_by_the_penalty_alone(gates: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairs of runs share rows, initial weights and batches, and differ in the penalty only."""
    split = gates.split_of("regression", 0)
    plain = gates.train(gates.NO_HELP, split, 0, 40)
    helped = gates.train("weight 30", split, 0, 40)
    monkeypatch.setitem(gates.GATES, "weight 30", 0.0)
    assert {**gates.train("weight 30", split, 0, 40), "gate": gates.NO_HELP} == plain
    assert {**helped, "gate": gates.NO_HELP} != plain  # the control
