"""The page computes what the library computes, in Chromium: 1000 random settings, every formula."""

import json
import math
import warnings
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from equipoise.label_noise import convert
from support.explorer_states import (
    ENTRIES,
    differences,
    even_logits,
    expected,
    gap_logits,
    loss_of,
    map_of,
    on_the_page,
    random_rows,
    random_states,
    row_of,
    the_page,
)
from support.report_pages import chromium_is_missing

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium_is_missing() != "", reason=chromium_is_missing() or "never"),
]

COUNT = 1000
TOLERANCE = 1e-6  # relative to 1 + |value|
COMPUTE = """
answer(states.map((given, k) => {
  const state = valid(given);
  const { logits, target } = rows[k];
  const mapSettings = validSettings('maps', state.map, state.mapSettings, logits.length);
  return {
    state, mapSettings, numbers: numbersOf(state), free: evaluate(objectiveOf(state), logits, target),
    probs: MAPS[state.map].probs(mapSettings, logits),
    minProb: MAPS[state.map].minProb(mapSettings, logits.length),
  };
}))
"""


def computed(folder: Any, text: str, states: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return states with the numbers of the page, and the rows they were computed for."""
    rows = random_rows(states, seed=1)
    found = on_the_page(text, COMPUTE, folder, states=states, rows=rows)
    return [each | row for each, row in zip(found, rows, strict=True)]


def off(each: dict[str, Any]) -> dict[str, float]:
    """Return how far the numbers of a state are from those of the library, by name."""
    state, numbers = each["state"], each["numbers"]
    even = row_of(loss_of(state, state["classes"]), even_logits(state), 0)
    row = numbers["row"]
    free = row_of(loss_of(state, len(each["logits"])), each["logits"], each["target"])
    found = {
        "value": differences(row["value"], even["value"]),
        "gradient": differences([row["gradient"], row["next"]], even["gradient"][:2]),
        "weight": differences(row["weight"], even["weight"]),
        **{f"free {name}": differences(each["free"][name], free[name]) for name in free},
    }
    with warnings.catch_warnings(action="ignore"):  # Resoftmax warns where it flattens every row
        mapped, probs = map_of(state), map_of(state)(gap_logits(state))
        here = map_of(state | {"mapSettings": each["mapSettings"]})
        other = here(torch.tensor(each["logits"], dtype=torch.float64)).tolist()
    found["map"] = differences(
        [numbers["map"]["first"], numbers["map"]["other"]], [probs[0].item(), probs[-1].item()]
    )
    found["min_prob"] = differences(numbers["map"]["minProb"], mapped.min_prob(state["classes"]))
    found["free map"] = differences(each["probs"], other)
    found["free min_prob"] = differences(each["minProb"], here.min_prob(len(each["logits"])))
    found["gamma"] = differences(numbers["gamma"], convert(3, noise=min(state["noise"], 2 / 3)).gamma)
    if state["loss"] != "Reweighted":  # whose optimum is that of another loss
        optimum = numbers["optimum"]
        value = expected(loss_of(state, 3), numbers["labels"], optimum["probs"])
        found["expected"] = differences(optimum["value"], value)
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return computed(tmp_path_factory.mktemp("numbers"), the_page(), random_states(COUNT, seed=1))


def test_the_numbers_are_those_of_the_library(found: list[dict[str, Any]]) -> None:
    """All numbers of 1000 random settings agree with the library to 1e-6, relative to 1 + |value|."""
    wrong = []
    for each in found:
        worst = {name: size for name, size in off(each).items() if not size < TOLERANCE}
        if worst:
            wrong.append((worst, each["state"], each["logits"], each["target"]))
    assert not wrong, f"{len(wrong)} of {len(found)}: {wrong[:3]}"


def test_the_settings_spread(found: list[dict[str, Any]]) -> None:
    """All losses, penalties and maps are among the settings, often, and p reaches both ends."""
    for kind, key in (("losses", "loss"), ("penalties", "penalty"), ("maps", "map")):
        counts = Counter(each["state"][key] for each in found)
        assert {*counts} - {""} == {*ENTRIES[kind]}
        assert min(counts.values()) >= 60
    probs = sorted(each["state"]["p"] for each in found)
    assert probs[0] < 1e-11
    assert 1 - probs[-1] < 1e-11
    values = [each["numbers"]["row"]["value"] for each in found]
    assert len({round(value, 9) for value in values}) > 0.8 * len(values)


PLANTED = [  # all are smooth and small or rare: none breaks the page
    ("factor * (1 + (gamma * row.prob * cost) / row.miss)", "factor", "Focal"),
    (
        "prob / (gamma + (1 - gamma) * prob)",
        "prob / (gamma + (1 - gamma) * prob * 1.00001)",
        "GammaCrossEntropy",
    ),
    ("slopes[k] = 2 * (total", "slopes[k] = 2.0001 * (total", "RankedProbabilityScore"),
    ("-alpha * depth", "-alpha * (depth - 1)", "HierarchicalCrossEntropy"),
    ("2 * row.lse * prob", "1.999 * row.lse * prob", "ZLoss"),
    ("row.miss * term - row.prob * others", "row.miss * term + row.prob * others", "Decisiveness"),
    ("(rest / total) * probs[at]", "rest * probs[at]", "Projected"),
    ("cap * Math.tanh(logit / cap)", "cap * Math.tanh(logit)", "SoftCapped"),
    ("floor / (1 + (count - 1) * floor)", "floor", "Clipped"),
]


@pytest.mark.parametrize(("right", "wrong", "name"), PLANTED, ids=[name for _, _, name in PLANTED])
def test_control_a_planted_wrong_formula_is_found(right: str, wrong: str, name: str, tmp_path: Any) -> None:
    """A small error in one formula is found by the comparison."""
    text = the_page()
    assert text.count(right) == 1
    states = random_states(COUNT, seed=1)
    chosen = [state for state in states if name in (state["loss"], state["penalty"], state["map"])][:40]
    found = computed(tmp_path, text.replace(right, wrong), chosen)
    assert any(not size < TOLERANCE for each in found for size in off(each).values())


def slope_and_curvature(loss: Any, target: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return gradient and Hessian of the expected loss by the logits."""

    def value(at: Tensor) -> Tensor:
        return loss(at[None], target)

    gradient: Any = torch.autograd.functional.jacobian(value, logits)
    curvature: Any = torch.autograd.functional.hessian(value, logits)
    return gradient, curvature


def trained(state: dict[str, Any], labels: list[float]) -> tuple[Tensor, float] | None:
    """Return the probabilities to which gradient steps on the loss lead, and the largest gradient left.

    The lowest end of four starts; None if the logits overflow from each.
    """
    loss, target = loss_of(state, 3), torch.tensor([labels], dtype=torch.float64)
    starts = [torch.tensor(labels).double().clamp(min=1e-4).log()]
    starts += [2 * torch.eye(3, dtype=torch.float64)[k] for k in range(3)]
    ends = []
    for start in starts:
        leaf = start.clone().requires_grad_()
        solver = torch.optim.LBFGS(
            [leaf], max_iter=120, tolerance_grad=1e-13, tolerance_change=1e-16, line_search_fn="strong_wolfe"
        )

        def step(leaf: Tensor = leaf, solver: Any = solver) -> Tensor:
            solver.zero_grad()
            value = loss(leaf[None], target)
            value.backward()
            return value

        solver.step(step)
        logits = leaf.detach()
        for _ in range(
            3 if logits.isfinite().all() else 0
        ):  # Newton: the line search ends at half of the digits
            slope, curvature = slope_and_curvature(loss, target, logits)
            if torch.linalg.eigvalsh(curvature)[0] > -1e-9 and slope.abs().max() < 1e-3:
                logits = logits - torch.linalg.pinv(curvature, hermitian=True, rtol=1e-9) @ slope
        value = loss(logits[None], target).item()
        if logits.isfinite().all() and math.isfinite(value):
            ends.append(
                (value, logits.softmax(0), slope_and_curvature(loss, target, logits)[0].abs().max().item())
            )
    return min(ends, key=lambda end: end[0])[1:] if ends else None


def states_of_optima() -> list[dict[str, Any]]:
    """Return states; half of the penalties are small, so that more optima are inside the triangle."""
    states = random_states(160, seed=4)
    for state in states[::2]:
        state["penaltyWeight"] *= 0.1
        state["truth"] = [0.5 * prob + 1 / 6 for prob in state["truth"]]
    return states


@pytest.fixture(scope="module")
def optima(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[dict[str, Any], Tensor, float]]:
    """Return states with the page's numbers, and where gradient steps on the library's loss end."""
    ends = []
    for each in computed(tmp_path_factory.mktemp("optima"), the_page(), states_of_optima()):
        if each["state"]["loss"] == "Reweighted":  # its value is not what training makes small: see below
            continue
        numbers = each["numbers"]
        end = None if numbers["optimum"]["endless"] else trained(each["state"], numbers["labels"])
        if end is not None:
            ends.append((each, *end))
    return ends


def is_sharp(each: dict[str, Any], probs: Tensor, slope: float) -> bool:
    """Return whether one optimum lies inside the triangle, with a curvature, and training has reached it."""
    state, numbers = each["state"], each["numbers"]
    optimum = torch.tensor(numbers["optimum"]["probs"], dtype=torch.float64)
    if slope > 1e-10 or min(probs.min(), optimum.min()) < 1e-3 or numbers["optimum"]["ties"] > 1:
        return False
    labels = torch.tensor([numbers["labels"]], dtype=torch.float64)
    _, curvature = slope_and_curvature(loss_of(state, 3), labels, optimum.log())
    return bool(torch.linalg.eigvalsh(curvature)[1] > 1e-4)


def test_the_optimum_is_where_training_goes(optima: list[tuple[dict[str, Any], Tensor, float]]) -> None:
    """Gradient steps on the library's loss end at the optimum, or no lower than it."""
    assert len(optima) > 120
    for each, probs, _ in optima:
        numbers = each["numbers"]
        reached = expected(loss_of(each["state"], 3), numbers["labels"], probs.tolist())
        assert numbers["optimum"]["value"] <= reached + 1e-9 * (1 + abs(reached)), each["state"]
    sharp = [(each, probs) for each, probs, slope in optima if is_sharp(each, probs, slope)]
    assert len(sharp) > 30
    for each, probs in sharp:
        assert differences(each["numbers"]["optimum"]["probs"], probs.tolist()) < TOLERANCE, each["state"]


def test_control_another_optimum_is_found(
    optima: list[tuple[dict[str, Any], Tensor, float]], tmp_path: Any
) -> None:
    """An optimum that is moved by 1e-5 is found by the comparison."""
    right = "return { probs: lowest.probs,"
    assert the_page().count(right) == 1
    text = the_page().replace(right, "return { probs: tilted(lowest.probs, 0, 1e-5),")
    moved = {json.dumps(each["state"]): each for each in computed(tmp_path, text, states_of_optima())}
    sharp = [(each, probs) for each, probs, slope in optima if is_sharp(each, probs, slope)]
    found = [moved[json.dumps(each["state"])]["numbers"]["optimum"]["probs"] for each, _ in sharp]
    off = [differences(ours, probs.tolist()) for ours, (_, probs) in zip(found, sharp, strict=True)]
    assert sum(size > TOLERANCE for size in off) > 0.8 * len(off)


def test_the_gradient_of_a_reweighted_loss_vanishes_at_its_optimum(found: list[dict[str, Any]]) -> None:
    """The optimum of a reweighted loss is where its gradient is 0."""
    inside = 0
    for each in found:
        state, numbers = each["state"], each["numbers"]
        probs = torch.tensor(numbers["optimum"]["probs"], dtype=torch.float64)
        if state["loss"] != "Reweighted" or state["penalty"] == "LogitRange" or probs.min() < 1e-6:
            continue
        leaf = probs.log().requires_grad_()
        loss_of(state, 3)(leaf[None], torch.tensor([numbers["labels"]], dtype=torch.float64)).backward()
        assert leaf.grad is not None
        assert leaf.grad.abs().max() < 1e-9, state
        inside += 1
    assert inside > 5
