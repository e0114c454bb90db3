"""The example on classes on a scale runs small, and deciding by costs saves what it says."""

from types import ModuleType

import pytest

pytestmark = pytest.mark.slow

pytest.importorskip("sklearn", reason="the example needs the extra compare")
pytest.importorskip("pandas", reason="the example needs the extra compare")
pytest.importorskip("statsmodels", reason="statsmodels is not installed")


@pytest.fixture
def ordinal(example: ModuleType) -> ModuleType:
    return example


def test_deciding_by_costs_saves_more_than_the_loss(
    ordinal: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    """Decisions by cost reduce the mean cost more than a change of the loss."""
    found = ordinal.main(["--data", "anes96", "--seeds", "3", "--epochs", "12"])["anes96"]
    mean = found.groupby(["costs", "loss", "taken"]).cost.mean()
    for costs, at_most in (("absolute", 0.95), ("squared", 0.8)):
        for loss in ordinal.LOSSES:
            decided, likeliest = mean[costs, loss, ordinal.DECIDED], mean[costs, loss, ordinal.LIKELIEST]
            assert decided < at_most * likeliest
        # the likeliest class of the ordinal loss is no substitute
        assert (
            mean[costs, "RankedProbabilityScore", ordinal.LIKELIEST]
            > mean[costs, "cross entropy", ordinal.DECIDED]
        )
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 2 * len(ordinal.LOSSES) * 2
    assert {line.count("|") for line in lines} == {7}
    assert lines[2].split("|")[5].strip() == ""  # nothing is compared with itself


def test_the_right_costs_are_decided_by(ordinal: ModuleType) -> None:
    """Decisions by the matching costs have the smallest cost."""
    found = ordinal.measured("anes96", 0, 3)
    cost = {
        (line["costs"], line["taken"]): line["cost"]
        for line in found
        if line["loss"] == "RankedProbabilityScore"
    }
    assert cost["absolute", ordinal.DECIDED] <= cost["squared", ordinal.DECIDED]  # a square is no smaller
    assert found == ordinal.measured("anes96", 0, 3) != ordinal.measured("anes96", 1, 3)


def test_rows_are_in_the_order_of_the_scale(ordinal: ModuleType) -> None:
    """Classes are numbered in the order of the scale, and rows have their shape."""
    for name, (count, features, classes) in {"anes96": (944, 8, 7), "fair": (6366, 7, 5)}.items():
        rows, target = ordinal.rows_of(name)
        assert rows.shape == (count, features)
        assert sorted(set(target)) == list(range(classes))
