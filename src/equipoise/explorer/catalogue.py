"""What the explorer offers: `python -m equipoise.explorer.catalogue` writes it to catalogue.json.

Names, defaults, limits and publications are those of the tables `LOSSES`, `PENALTIES` and `MAPS` and of the
docstrings. What only a page needs stands here: a sentence and a formula for each, and the range of each
slider. The page is assembled from the file, so that the command does not import torch.
"""

import dataclasses
import inspect
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from equipoise import losses, maps, penalties

FILE = Path(__file__).with_name("catalogue.json")
LARGEST_FACTOR = 10  # a setting without an upper limit may be this many times the end of its slider
PER_CLASS = "1/n"


@dataclass(frozen=True)
class Slider:
    """A number.

    Args:
        start: Start of the slider.
        end: End of the slider; `PER_CLASS` for one divided by the number of classes.
        step: Step of the slider.
        default: Where the page starts; None for the default of the class.
        limits: Smallest and largest value; None for those of the docstring.
        text: Description; None for that of the docstring.
        when: Setting and value with which this one is used; always if it is empty.
    """

    start: float
    end: float | str
    step: float
    default: float | None = None
    limits: tuple[float, float] | None = None
    text: str | None = None
    when: tuple[str, str] | tuple[()] = ()


@dataclass(frozen=True)
class Choice:
    """One of several words; the first is where the page starts."""

    values: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Shown:
    """Words and settings of a loss, penalty or map.

    Args:
        sentence: What it does, for a reader who knows softmax and cross entropy only.
        formula: p = softmax(z), y the label, n the number of classes; _ begins an index, ^ a power, braces
            hold several characters together.
        settings: By the name of the option.
        note: What the explorer does differently from Python, if anything.
    """

    sentence: str
    formula: str
    settings: Mapping[str, Slider | Choice] = dataclasses.field(default_factory=dict)
    note: str = ""


SHARE = Slider(0, 1, 0.01)
ORDERED, GROUPED = ("matrix", "ordered"), ("matrix", "groups")
MATRIX = Choice(
    ("ordered", "groups"),
    "Classes on a scale, 0 to n - 1, or two groups: the first half of the classes and the second.",
)
COSTS = {
    "matrix": MATRIX,
    "power": Slider(
        0.1, 3, 0.05, 1, (0.05, 10), "A mistake by d classes on the scale costs d to this power.", ORDERED
    ),
    "within": Slider(0, 5, 0.05, 1, (0, 100), "Cost of a mistake within a group.", GROUPED),
    "between": Slider(0, 5, 0.05, 2, (0, 100), "Cost of a mistake between groups.", GROUPED),
}

LOSSES = {
    "CrossEntropy": Shown(
        "The usual loss: it raises the probability of the label until the model is certain, or, with "
        "smoothing, nearly so.",
        "-(1 - s) log p_y - (s / n) Σ_k log p_k, s = label smoothing",
        {"label_smoothing": SHARE},
    ),
    "FlooredCrossEntropy": Shown(
        "Cross entropy as if no class could be less likely than a floor: a label far below it hardly counts.",
        "-log(f + (1 - n f) p_y), f = floor",
        {"floor": Slider(0, PER_CLASS, 0.001, limits=(0, 1))},
    ),
    "Focal": Shown(
        "Cross entropy that counts rows less the surer the model already is of them; the model ends less "
        "confident.",
        "-(1 - p_y)^γ log p_y, γ = gamma",
        {"gamma": Slider(0, 5, 0.05)},
    ),
    "Poly": Shown(
        "Cross entropy plus a multiple of the probability of being wrong: positive epsilon makes the model "
        "surer, negative less sure.",
        "-log p_y + ε (1 - p_y), ε = epsilon",
        {"epsilon": Slider(-1, 5, 0.05)},
    ),
    "Brier": Shown(
        "Squared distance between the probabilities and the label: one wrong label has a bounded effect, "
        "and the model still learns the true probabilities.",
        "(1 - p_y)^2 + Σ_{k ≠ y} p_k^2",
    ),
    "GammaCrossEntropy": Shown(
        "Cross entropy that stops pulling at labels the model finds very unlikely, such as wrong ones.",
        "-log(γ + (1 - γ) p_y) / (1 - γ), γ = gamma",
        {"gamma": SHARE, "min_weight": SHARE},
    ),
    "Reweighted": Shown(
        "Cross entropy times a weight that depends on the label's probability and has no gradient of its "
        "own.",
        "-stop(w(p_y)) log p_y",
        {
            "weight": Choice(
                ("TaiLrWeight", "DFTWeight"),
                "The weight w: p / (gamma + (1 - gamma) p), not below min_weight; or p itself.",
            ),
            "gamma": Slider(0, 1, 0.01, when=("weight", "TaiLrWeight")),
            "min_weight": Slider(0, 1, 0.01, when=("weight", "TaiLrWeight")),
        },
        "Its optimum is that of GammaCrossEntropy, which has the same gradient and is its integral.",
    ),
    "GeneralizedCrossEntropy": Shown(
        "Between cross entropy and the plain probability of being wrong: the larger q, the less unlikely "
        "labels count.",
        "(1 - p_y^q) / q",
        {"q": SHARE},
    ),
    "SymmetricCrossEntropy": Shown(
        "A little cross entropy plus a lot of the probability of being wrong, which wrong labels disturb "
        "less.",
        "-α log p_y - β A (1 - p_y), A = log zero",
        {
            "alpha": Slider(0, 2, 0.01),
            "beta": Slider(0, 2, 0.01),
            "log_zero": Slider(-10, 0, 0.1, limits=(-100, 0)),
        },
    ),
    "SimilarityCrossEntropy": Shown(
        "Cross entropy with soft targets: classes that are like the label get a share of it.",
        "-Σ_k S_{yk} log p_k",
        {
            "matrix": MATRIX,
            "beta": Slider(
                0, 5, 0.05, 1.5, (0, 50), "The larger, the less the other classes of the scale get.", ORDERED
            ),
            "within": Slider(
                0, 0.5, 0.01, 0.3, (0, 0.5), "Share of the other classes of the group.", GROUPED
            ),
            "between": Slider(0, 0.5, 0.01, 0, (0, 0.5), "Share of the classes of the other group.", GROUPED),
        },
    ),
    "PairwiseCrossEntropy": Shown(
        "The label against each other class in turn, each pair weighted by how bad that confusion is.",
        "Σ_{k ≠ y} W_{yk} log(1 + e^{z_k - z_y})",
        COSTS,
    ),
    "ExpectedCost": Shown(
        "The mean cost of a class drawn from the model's probabilities; the model becomes certain of the "
        "cheapest class.",
        "Σ_k C_{yk} p_k",
        COSTS,
    ),
    "SoftmaxMargin": Shown(
        "Cross entropy with a margin: the label's logit must lead each other by the cost of that mistake.",
        "log Σ_k e^{z_k + C_{yk}} - z_y",
        COSTS,
    ),
    "RankedProbabilityScore": Shown(
        "For classes on a scale: a near miss costs less than a far one, and the model learns the true "
        "probabilities.",
        "Σ_k (F_k - [k ≥ y])^2, F_k = p_0 + ... + p_k",
    ),
    "HierarchicalCrossEntropy": Shown(
        "For classes in a tree: a choice near the root counts more than one between the classes of a branch.",
        "-Σ_l e^{-α h_l} log p(v_l | v_{l+1}), from the label v_0 = y to the root, h_l the depth of v_l",
        {"alpha": Slider(0, 3, 0.05)},
        "The tree has two branches: the first half of the classes and the second.",
    ),
}

PENALTIES = {
    "Entropy": Shown(
        "Doubt: a positive weight makes the model choose one class, a negative one keeps it open.",
        "-Σ_k p_k log p_k",
    ),
    "Gini": Shown(
        "The probability that two draws differ: like entropy, with less effect on classes that are already "
        "unlikely.",
        "1 - Σ_k p_k^2",
    ),
    "Decisiveness": Shown(
        "A doubt that is largest where every class has probability 1/n; it has spurious minima from 12 "
        "classes on.",
        "Σ_k (q_k - q_k^2), q_k = p_k^{log 2 / log n}",
    ),
    "LogitRange": Shown(
        "Charges logits that lie further apart than a width, so that no probability becomes tiny.",
        "max(0, max z - min z - width)",
        {"width": Slider(0, 20, 0.1, 4)},
    ),
    "ZLoss": Shown(
        "Keeps the logits from drifting together; it hardly changes the probabilities.",
        "(log Σ_k e^{z_k})^2",
        note="It depends on the common level of the logits: in the plots the other logits are 0, and an "
        "optimum has the level at which the penalty is 0.",
    ),
}

FLOOR = Slider(0, PER_CLASS, 0.001, 0.01, (0, 1))
MAPS = {
    "Softmax": Shown(
        "The usual map, at a temperature: below 1 it is surer, above 1 less sure.",
        "p_k ∝ e^{z_k / T}, T = temperature",
        {"temperature": Slider(0.1, 5, 0.05, limits=(0.01, 100))},
    ),
    "Resoftmax": Shown(
        "Softmax of the probabilities: it flattens unless alpha is large.",
        "q_k ∝ e^{α p_k}, α = alpha",
        {"alpha": Slider(0.5, 30, 0.5, limits=(0.01, 300))},
    ),
    "StraightThrough": Shown(
        "The likeliest class gets everything; training uses the gradient of softmax instead.",
        "q = one-hot of the largest p",
        note="Python: StraightThrough(Softmax()); any other map may stand inside.",
    ),
    "Sparsemax": Shown(
        "Like softmax, but unlikely classes get exactly 0: one class has everything once it leads by 1.",
        "the point of the simplex nearest to z",
    ),
    "Entmax": Shown(
        "Between softmax (alpha towards 1) and sparsemax (alpha = 2): unlikely classes get exactly 0.",
        "q_k = max(0, (α - 1) z_k - τ)^{1 / (α - 1)}, τ such that Σ_k q_k = 1",
        {"alpha": Slider(1.05, 4, 0.05, limits=(1.02, 40))},
    ),
    "Floored": Shown(
        "Softmax mixed with equal chances for all: no class falls below the floor.",
        "q_k = f + (1 - n f) p_k, f = floor",
        {"floor": FLOOR},
    ),
    "Clipped": Shown(
        "The usual hand-written floor: raise small probabilities, then divide by the sum; the minimum ends "
        "lower.",
        "q_k = max(p_k, c) / Σ_j max(p_j, c), c = floor",
        {"floor": FLOOR},
    ),
    "Projected": Shown(
        "The nearest probabilities above a floor: rows that are above it already do not change.",
        "argmin D(q, p) over q ≥ f, f = floor",
        {
            "floor": FLOOR,
            "metric": Choice(
                ("kl", "euclidean"), "Keeps the ratios of the classes above the floor, or the gaps."
            ),
        },
    ),
    "ClippedLogits": Shown(
        "Cuts the logits off at both ends, so that every class keeps a minimum.",
        "softmax(min(max(z, low), high))",
        {
            "low": Slider(-10, -0.1, 0.1, -2, (-300, -0.01), "Smallest logit."),
            "high": Slider(0.1, 10, 0.1, 2, (0.01, 300), "Largest logit, above low."),
        },
    ),
    "SoftCapped": Shown(
        "Bends the logits gently so that they stay within a cap on both sides.",
        "softmax(c tanh(z / c)), c = cap",
        {"cap": Slider(0.1, 10, 0.1, 2, (0.01, 300))},
    ),
    "LogitNorm": Shown(
        "Divides the logits by their own length: how large they are no longer matters.",
        "softmax(z / (T ‖z‖)), T = temperature",
        {"temperature": Slider(0.02, 2, 0.02, 0.5, (0.01, 20))},
    ),
}

LEFT_OUT = {
    "Balance": "a penalty on the mean of a batch; of a single row it is log n minus its entropy",
    "GumbelSoftmax": "a map with a new random draw in each call",
}


def catalogue() -> dict[str, Any]:
    """Return what the page offers, as plain data."""
    tables = (losses.LOSSES, LOSSES), (penalties.PENALTIES, PENALTIES), (maps.MAPS, MAPS)
    made = [
        [_entry(entry, shown[entry.name]) for entry in table if entry.name not in LEFT_OUT]
        for table, shown in tables
    ]
    return {"losses": made[0], "penalties": made[1], "maps": made[2], "left_out": LEFT_OUT}


def _entry(entry: Any, shown: Shown) -> dict[str, Any]:
    return {
        "name": entry.name,
        "sentence": shown.sentence,
        "formula": shown.formula,
        "note": shown.note,
        "source": entry.source,
        "settings": [_setting(entry.make, name, each) for name, each in shown.settings.items()],
    }


def _setting(make: Callable[..., Any], name: str, shown: Slider | Choice) -> dict[str, Any]:
    if isinstance(shown, Choice):
        return {
            "name": name,
            "text": shown.text,
            "default": shown.values[0],
            "choices": shown.values,
            "when": (),
        }
    if make is losses.Reweighted:
        make = losses.TaiLrWeight
    text = shown.text or describe(make, name)
    default = shown.default
    if default is None:
        default = inspect.signature(make).parameters[name].default
    if default is inspect.Parameter.empty:  # a map whose option has to be given
        default = next(getattr(entry.example, name) for entry in maps.MAPS if entry.make is make)
    least, most = shown.limits or limits(text)
    largest = shown.end if isinstance(shown.end, str) else max(shown.end, -shown.start) * LARGEST_FACTOR
    return {
        "name": name,
        "text": text,
        "default": default,
        "least": least,
        "most": largest if most is None else most,
        "start": shown.start,
        "end": shown.end,
        "step": shown.step,
        "when": shown.when,
    }


def describe(make: Callable[..., Any], name: str) -> str:
    """Return the first sentences of an option's description in the docstring, on one line."""
    doc = inspect.getdoc(make) or ""
    found = re.search(rf"^Args:$.*?^    {name}: (.*?)(?=^    \w+: |^\S|\Z)", doc, re.DOTALL | re.MULTILINE)
    if found is None:
        raise ValueError(f"{name} must be described in the docstring of {make.__name__}, got none; add it")
    return " ".join(found[1].split()).replace("`", "")


def limits(text: str) -> tuple[float, float | None]:
    """Return the smallest and the largest value that a description names; None for no largest one."""
    if found := re.match(r"In \[(\S+), (\S+)\]", text):
        return float(found[1]), float(found[2])
    if found := re.match(r"At least (-?[\d.]+)", text):
        return float(found[1]), None
    raise ValueError(f"text must begin with the range of the option, got {text!r}; give the slider limits")


def written() -> str:
    """Return the text of the file, a line for each loss, penalty and map."""
    made = catalogue()
    lines = [
        f"{json.dumps(part)}: [\n"
        + ",\n".join(json.dumps(each, ensure_ascii=False) for each in made[part])
        + "\n]"
        for part in ("losses", "penalties", "maps")
    ]
    return "{\n" + ",\n".join([*lines, f'"left_out": {json.dumps(made["left_out"])}']) + "\n}\n"


if __name__ == "__main__":
    FILE.write_text(written(), encoding="utf-8")
