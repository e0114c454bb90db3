"""Curves of values and gradients of losses, penalties, maps and schedules."""

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from equipoise.losses import Loss
from equipoise.maps import Map
from equipoise.schedules import Schedule
from equipoise_docs.names import FAMILIES
from equipoise_docs.relatives import made
from equipoise_docs.style import style, svg

CLASSES = 4
DRAWS = 1000  # of a map that draws
COSTS = "[[0, 1, 20], [1, 0, 1], [1, 1, 0]]"
SIMILAR = "[[0.8, 0.2, 0], [0.2, 0.8, 0], [0, 0, 1]]"
# Settings that are drawn, as code; of a class that is not here, the one without arguments.
SETTINGS: dict[str, tuple[str, ...]] = {
    "CrossEntropy": (
        "CrossEntropy()",
        "CrossEntropy(label_smoothing=0.1)",
        "CrossEntropy(label_smoothing=0.4)",
    ),
    "GammaCrossEntropy": (
        *("GammaCrossEntropy(gamma=0)", "GammaCrossEntropy(gamma=0.1)", "GammaCrossEntropy(gamma=0.5)"),
        *("GammaCrossEntropy(gamma=1)", "GammaCrossEntropy(gamma=0.1, min_weight=0.2)"),
    ),
    "FlooredCrossEntropy": tuple(f"FlooredCrossEntropy(floor={each})" for each in (0, 0.01, 0.05, 0.2)),
    "Reweighted": ("Reweighted(TaiLrWeight(gamma=0.1))", "Reweighted(DFTWeight())"),
    "GeneralizedCrossEntropy": tuple(f"GeneralizedCrossEntropy(q={each})" for each in (0, 0.3, 0.7, 1)),
    "SymmetricCrossEntropy": ("SymmetricCrossEntropy()", "SymmetricCrossEntropy(alpha=1, beta=1)"),
    "Focal": tuple(f"Focal(gamma={each})" for each in (0, 1, 2, 5)),
    "Poly": tuple(f"Poly(epsilon={each})" for each in (-0.5, 0, 1, 4)),
    "SimilarityCrossEntropy": (f"SimilarityCrossEntropy({SIMILAR})",),
    "PairwiseCrossEntropy": (f"PairwiseCrossEntropy({COSTS})",),
    "ExpectedCost": (f"ExpectedCost({COSTS})",),
    "SoftmaxMargin": ("SoftmaxMargin([[0, 1, 5], [1, 0, 1], [1, 1, 0]])",),
    "HierarchicalCrossEntropy": tuple(
        f"HierarchicalCrossEntropy(((0, 1), (2, 3)), alpha={each})" for each in (0, 0.5, 2)
    ),
    "Decisiveness": ("Decisiveness()",),
    "LogitRange": ("LogitRange(width=2)", "LogitRange(width=4)", "LogitRange(low=-1, high=3)"),
    "Softmax": tuple(f"Softmax(temperature={each})" for each in (0.5, 1, 2)),
    "Resoftmax": ("Resoftmax(alpha=6)", "Resoftmax(alpha=20)"),
    "StraightThrough": ("StraightThrough(Softmax())",),
    "GumbelSoftmax": ("GumbelSoftmax(temperature=1)", "GumbelSoftmax(temperature=0.3)"),
    "Entmax": ("Entmax(alpha=1.1)", "Entmax(alpha=1.5)", "Entmax(alpha=2)"),
    "Floored": tuple(f"Floored(floor={each})" for each in (0.01, 0.05, 0.2)),
    "Clipped": tuple(f"Clipped(floor={each})" for each in (0.01, 0.05, 0.2)),
    "Projected": tuple(f"Projected(floor={each})" for each in (0.01, 0.05, 0.2)),
    "ClippedLogits": ("ClippedLogits(low=-2, high=2)", "ClippedLogits(low=-1, high=1)"),
    "SoftCapped": ("SoftCapped(cap=2)", "SoftCapped(cap=5)"),
    "LogitNorm": ("LogitNorm(temperature=0.5)", "LogitNorm(temperature=0.2)"),
    "Linear": ("Linear(0, 1, steps=100)",),
    "Cosine": ("Cosine(0, 1, steps=100)",),
}


def settings(name: str) -> tuple[str, ...]:
    """Return the settings of a class that are drawn, as code."""
    return SETTINGS.get(name, (f"{name}()",))


def classes_of(of: Any) -> int:
    """Return the number of classes of the rows for a loss: that of its matrix, else `CLASSES`."""
    terms = of.terms() if isinstance(of, Loss) else ()
    sizes = [
        len(value)
        for _, term in terms
        for value in vars(term).values()
        if type(value).__name__ == "ClassMatrix"
    ]
    return sizes[0] if sizes else CLASSES


def rows(probs: Tensor, classes: int) -> Tensor:
    """Return logits with these probabilities of the first class, and 0 for the others."""
    first = torch.logit(probs) + torch.log(torch.tensor(classes - 1, dtype=probs.dtype))
    return torch.nn.functional.pad(first[:, None], (0, classes - 1))


def curves(of: Loss | Map, probs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the values of a loss or a map, and the derivatives by the logit of the first class."""
    leaf = rows(probs, classes_of(of)).requires_grad_()
    if isinstance(of, Map):
        values = of.probs(leaf)[:, 0]
    elif of._is_row_loss():
        values = of(leaf, torch.zeros(len(leaf), dtype=torch.long), reduction="none")
    else:
        values = torch.stack([of(row[None]) for row in leaf])
    (gradient,) = torch.autograd.grad(values.sum(), leaf)
    return values.detach(), gradient[:, 0]


def drawn(name: str) -> dict[str, str]:
    """Return the pictures of a class as SVG: "value", and "gradient" but for a schedule."""
    shown = settings(name)
    values = [made(text, CLASSES) for text in shown]
    labels = [_options(text) for text in shown]
    if isinstance(values[0], Schedule):
        return {"value": _line(values, labels)}
    ends = torch.logspace(-4, -1.2, 80, dtype=torch.float64)
    probs = torch.cat((ends, torch.linspace(0.07, 0.93, 120, dtype=torch.float64), 1 - ends.flip(0)))
    found = [_mean_curves(of, probs) for of in values]
    map_ = isinstance(values[0], Map)
    of = "one class" if map_ or type(values[0]) in FAMILIES["penalties"] else "the target"
    titles = {
        "value": "probability of the map" if map_ else "value",
        "gradient": f"derivative by the logit of {of}",
    }
    pictures = {}
    for place, (what, title) in enumerate(titles.items()):
        with style():
            height = 2.7 + (0.2 * len(labels) if len(labels) > 1 else 0)
            figure = Figure(figsize=(3.6, height), layout="constrained")
            axes = figure.subplots()
            for each, said in zip(found, labels, strict=True):
                axes.plot(probs, each[place], label=said)
            axes.set(title=title, xlabel=f"softmax probability of {of}")
            if not place:  # a steep end does not hide the rest
                _limit(axes, [each[0][(probs > 0.02) & (probs < 0.98)] for each in found])
            if len(labels) > 1:
                figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", fontsize=9)
            pictures[what] = svg(figure)
    return pictures


def _mean_curves(of: Loss | Map, probs: Tensor) -> tuple[Tensor, Tensor]:
    """Return `curves`; for a map that draws, their mean over draws."""
    if type(of).__name__ != "GumbelSoftmax":
        return curves(of, probs)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        value, gradient = curves(of, probs.repeat(DRAWS))
    return value.reshape(DRAWS, -1).mean(0), gradient.reshape(DRAWS, -1).mean(0)


def _limit(axes: Axes, values: Sequence[Tensor]) -> None:
    """Keep a steep end from hiding the rest of the curves."""
    low, high = min(each.min().item() for each in values), max(each.max().item() for each in values)
    margin = 0.06 * (high - low) or 0.1
    axes.set_ylim(low - margin, high + margin)


def _options(text: str) -> str:
    """Return the arguments of a setting, for a legend; the whole setting if there are none."""
    arguments = label(text).partition("(")[2].removesuffix(")")
    return arguments if arguments and arguments != "..." else label(text)


def label(text: str) -> str:
    """Return a setting without its matrix."""
    return text if "[[" not in text else text[: text.index("[[")] + "...)"


def _line(values: Sequence[Schedule], labels: Sequence[str]) -> str:
    with style():
        figure = Figure(figsize=(5.4, 2.8), layout="constrained")
        axes = figure.subplots()
        steps = torch.linspace(-10, 130, 281).tolist()
        for of in values:
            axes.plot(steps, [of(step) for step in steps])
        axes.set(title=f"value, for {labels[0]}", xlabel="step")
        return svg(figure)
