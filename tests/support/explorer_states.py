"""Random settings of the explorer, and what the library computes for them."""

import json
import math
import random
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from equipoise import costs, explorer, losses, maps, penalties
from equipoise.explorer import catalogue
from equipoise.losses import CrossEntropy, Loss
from support.report_pages import answered

CATALOGUE = json.loads(catalogue.FILE.read_text("utf-8"))
ENTRIES = {kind: {each["name"]: each for each in CATALOGUE[kind]} for kind in ("losses", "penalties", "maps")}
# Addresses of states with much on the screen.
BUSY = (
    "loss=Reweighted&penalty=LogitRange&penalty.weight=0.5&noise=0.3&truth=0.7,0.2,0.1&map=Projected&axis=odds"
    "&beside=loss%3DFocal%26loss.gamma%3D3"
)
NOISY = "loss=GammaCrossEntropy&loss.gamma=0.25&noise=0.4&truth=0.8,0.15,0.05&map=ClippedLogits"
SMALLEST = 1e-15  # stands for a probability of 0, as on the page
KINDS = {
    "SimilarityCrossEntropy": "similarity",
    "PairwiseCrossEntropy": "weights",
    "ExpectedCost": "costs",
    "SoftmaxMargin": "costs",
}


def _number(setting: dict[str, Any], classes: int, draw: random.Random) -> float | str:
    """Return a value of a setting: on its slider, at one of its ends, or near them."""
    if "choices" in setting:
        return draw.choice(setting["choices"])
    end = 1 / max(classes, 3) if setting["end"] == catalogue.PER_CLASS else setting["end"]
    start = setting["start"]
    near = min(1e-7, (end - start) / 10)
    return draw.choice([draw.uniform(start, end)] * 6 + [start, end, start + near, end - near])


def random_states(count: int, seed: int) -> list[dict[str, Any]]:
    """Return states, in which each loss, penalty and map comes about equally often."""
    draw = random.Random(seed)
    names = {kind: list(ENTRIES[kind]) for kind in ENTRIES}
    made = []
    for k in range(count):
        classes = draw.choice([2, 3, 4, 5, 7, 10, 10, 12, 31, 200])
        loss = names["losses"][k % len(names["losses"])]
        penalty = draw.choice(["", *names["penalties"]])
        chosen = names["maps"][k % len(names["maps"])]
        shares = [draw.expovariate(1) * draw.choice([1, 1, 1, 0.01]) for _ in range(3)]
        if draw.random() < 0.1:
            shares[draw.randrange(3)] = 0.0
        settings = [
            {each["name"]: _number(each, classes, draw) for each in ENTRIES[kind][name]["settings"]}
            if name
            else {}
            for kind, name in (("losses", loss), ("penalties", penalty), ("maps", chosen))
        ]
        made.append(
            {
                "loss": loss,
                "settings": settings[0],
                "penalty": penalty,
                "penaltyWeight": draw.choice([draw.uniform(-1, 1), draw.uniform(-1, 1), 0.0, 1.0]),
                "penaltySettings": settings[1],
                "classes": classes,
                "p": 1 / (1 + math.exp(-draw.uniform(-27.6, 27.6))),
                "truth": [share / sum(shares) for share in shares],
                "noise": draw.choice([0.0, draw.uniform(0, 0.66), draw.uniform(0, 0.66)]),
                "map": chosen,
                "mapSettings": settings[2],
                "gap": draw.choice([0.0, draw.uniform(0, 20), draw.uniform(0, 40)]),
            }
        )
    return made


def random_rows(states: list[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """Return a row of logits and a target for each state: of all scales, some nearly certain."""
    draw = random.Random(seed)
    rows = []
    for state in states:
        scale = draw.choice([0.1, 1.0, 3.0, 10.0])
        logits = [draw.gauss(0, scale) for _ in range(min(state["classes"], 12))]
        rows.append({"logits": logits, "target": draw.randrange(len(logits))})
    return rows


def on_the_page(text: str, script: str, folder: Path, **data: Any) -> Any:
    """Return what a script with some data answers on the page."""
    given = "".join(f"const {name} = {json.dumps(value)};" for name, value in data.items())
    return answered(text, f"{{ {given} {script} }}", folder)


def the_page() -> str:
    """Return the page as it is shipped."""
    return explorer.page()


def _matrix(settings: dict[str, Any], kind: Any, classes: int) -> costs.ClassMatrix:
    if settings["matrix"] == "ordered":
        option = {
            "beta" if kind == "similarity" else "power": settings["beta" if kind == "similarity" else "power"]
        }
        return costs.ordinal(classes, kind, **option)
    half = math.ceil(classes / 2)
    groups = [range(half), range(half, classes)]
    return costs.from_groups(groups, kind, within=settings["within"], between=settings["between"])


def loss_of(state: dict[str, Any], classes: int) -> Loss:
    """Return the library's loss of a state, for a number of classes."""
    name, settings = state["loss"], dict(state["settings"])
    make: Any = getattr(losses, name)
    if name in KINDS:
        made = make(_matrix(settings, KINDS[name], classes))
    elif name == "HierarchicalCrossEntropy":
        half = math.ceil(classes / 2)
        groups = [tuple(range(half)), tuple(range(half, classes))]
        made = make(tuple(group if len(group) > 1 else group[0] for group in groups), **settings)
    elif name == "Reweighted":
        weight = settings.pop("weight")
        made = make(losses.TaiLrWeight(**settings) if weight == "TaiLrWeight" else losses.DFTWeight())
    else:
        made = make(**settings)
    if not state["penalty"]:
        return made
    return made + state["penaltyWeight"] * getattr(penalties, state["penalty"])(**state["penaltySettings"])


def map_of(state: dict[str, Any]) -> maps.Map:
    """Return the library's map of a state."""
    if state["map"] == "StraightThrough":
        return maps.StraightThrough(maps.Softmax())
    return getattr(maps, state["map"])(**state["mapSettings"])


def row_of(loss: Loss, logits: list[float], target: int) -> dict[str, Any]:
    """Return value, gradient and weight of a row."""
    leaf = torch.tensor([logits], dtype=torch.float64, requires_grad=True)
    value = loss(leaf, torch.tensor([target]))
    (gradient,) = torch.autograd.grad(value, leaf)
    (plain,) = torch.autograd.grad(CrossEntropy()(leaf, torch.tensor([target])), leaf)
    weight = (gradient[0, target] / plain[0, target]).item()
    return {"value": value.item(), "gradient": gradient[0].tolist(), "weight": weight}


def even_logits(state: dict[str, Any]) -> list[float]:
    """Return the logits of the row on the page: the target has probability p, the others share the rest."""
    p, classes = state["p"], state["classes"]
    return [math.log(p) - math.log1p(-p) + math.log(classes - 1), *[0.0] * (classes - 1)]


def gap_logits(state: dict[str, Any]) -> Tensor:
    """Return the logits of the map's section."""
    logits = torch.full((state["classes"],), -state["gap"] / 2, dtype=torch.float64)
    logits[0] = state["gap"] / 2
    return logits


def expected(loss: Loss, labels: list[float], probs: list[float]) -> float:
    """Return the expected loss of labels, for a model with these probabilities."""
    logits = torch.tensor(probs, dtype=torch.float64).clamp(min=SMALLEST).log()
    return loss(logits[None], torch.tensor([labels], dtype=torch.float64)).item()


def differences(ours: Any, theirs: Any) -> float:
    """Return the largest difference of numbers in nested lists, relative to 1 + |value|; nan is infinite."""
    if isinstance(theirs, list):
        assert len(ours) == len(theirs)
        return max(map(differences, ours, theirs), default=0.0)
    if ours is None or not math.isfinite(theirs):
        return math.inf
    return abs(ours - theirs) / (1 + abs(theirs))
