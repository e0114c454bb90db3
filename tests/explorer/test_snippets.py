"""The Python of the page runs, and makes the numbers of the page."""

import warnings
from collections import Counter
from typing import Any

import pytest
import torch

from equipoise.losses import LOSSES
from equipoise.parsing import from_text, to_text
from support.explorer_states import ENTRIES, KINDS, differences, loss_of, on_the_page, random_states, the_page
from support.report_pages import chromium_is_missing

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium_is_missing() != "", reason=chromium_is_missing() or "never"),
]

TOLERANCE = 1e-6  # relative to 1 + |value|
COMPUTE = """
answer(states.map((given) => {
  const state = valid(given);
  const numbers = numbersOf(state);
  return { state, numbers, python: pythonOf(state, numbers), proper: isProper(state.loss, state.settings) };
}))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    states = random_states(300, seed=2)
    return on_the_page(the_page(), COMPUTE, tmp_path_factory.mktemp("snippets"), states=states)


def run(python: str) -> dict[str, Any]:
    """Run a program, and return its variables."""
    space: dict[str, Any] = {}
    with warnings.catch_warnings(action="ignore"):  # Resoftmax warns where it flattens every row
        exec(compile(python, "page", "exec"), space)
    return space


def off(each: dict[str, Any], space: dict[str, Any]) -> dict[str, float]:
    """Return how far the variables of a program are from the numbers of the page, by name."""
    numbers = each["numbers"]
    row, optimum, read, mapped = (numbers[name] for name in ("row", "optimum", "readOut", "map"))
    pairs = {
        "value": (row["value"], space["value"].item()),
        "gradient": ([row["gradient"], row["next"]], space["gradient"][0, :2].tolist()),
        "weight": (row["weight"], space["weight"].item()),
        "labels": (numbers["labels"], space["labels"].tolist()),
        "expected": (optimum["value"], space["expected"].item()),
        "gamma": (numbers["gamma"], space["gamma"]),
        "probs": ([mapped["first"], mapped["other"]], [space["probs"][0].item(), space["probs"][-1].item()]),
        "min_prob": (mapped["minProb"], space["min_prob"]),
    }
    for name in ("labels", "truth"):
        assert (read[name] is None) == (f"{name}_read" not in space)
        if read[name] is not None:
            pairs[f"{name}_read"] = (read[name], space[f"{name}_read"].tolist())
    return {name: differences(*pair) for name, pair in pairs.items()}


def test_the_python_makes_the_numbers(found: list[dict[str, Any]]) -> None:
    """The Python of 300 random states runs, and its variables are the numbers of the page."""
    read: Counter[str] = Counter()
    for each in found:
        space = run(each["python"])
        worst = {name: size for name, size in off(each, space).items() if not size < TOLERANCE}
        assert not worst, (worst, each["state"], each["python"])
        read.update([name for name in ("labels_read", "truth_read") if name in space])
    assert min(read["labels_read"], read["truth_read"]) > 30


def test_control_another_number_in_the_python_is_seen(found: list[dict[str, Any]]) -> None:
    """A changed setting in the Python is seen."""
    each = next(
        each for each in found if each["state"]["loss"] == "Focal" and 0.01 < each["state"]["p"] < 0.9
    )
    gamma = each["state"]["settings"]["gamma"]
    other = each["python"].replace("loss = Focal(gamma=", "loss = Focal(gamma=0.001 + ")
    assert other != each["python"], gamma
    assert off(each, run(other))["value"] > TOLERANCE


def test_the_loss_of_the_python_is_the_one_of_the_settings(found: list[dict[str, Any]]) -> None:
    """And, without a matrix, the text that `compare --objective` takes."""
    for each in found:
        state, loss = each["state"], run(each["python"])["loss"]
        made = loss_of(state, state["classes"])
        assert loss == made or (state["penaltyWeight"] == 0 and str(loss) == str(made))
        if state["loss"] not in (*KINDS, "HierarchicalCrossEntropy"):
            assert from_text(to_text(loss)) == loss


def test_what_is_called_proper_is_so_in_the_table(tmp_path: Any) -> None:
    """For the losses without a matrix, at all ends of their settings."""
    states = random_states(600, seed=3)
    found = on_the_page(the_page(), COMPUTE, tmp_path, states=states)
    entries = {entry.name: entry for entry in LOSSES}
    both = Counter()
    for each in found:
        state = each["state"]
        if state["loss"] in KINDS:
            assert not each["proper"]
            continue
        loss = loss_of(state | {"penalty": ""}, 3)
        constant = state["loss"] == "SymmetricCrossEntropy" and loss.terms()[0][1].alpha == 0  # pyright: ignore
        proper = entries[state["loss"]].proper(loss) and not constant
        assert each["proper"] == proper, state
        both[proper] += 1
    assert min(both.values()) > 60
    assert len(ENTRIES["losses"]) == len(entries)


def test_the_program_changes_nothing_else(found: list[dict[str, Any]]) -> None:
    """The Python is ASCII and leaves torch's defaults alone."""
    assert all(each["python"].isascii() for each in found)
    before = torch.get_default_dtype(), torch.is_grad_enabled()
    run(found[0]["python"])
    assert (torch.get_default_dtype(), torch.is_grad_enabled()) == before
