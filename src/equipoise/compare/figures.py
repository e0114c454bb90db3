"""Pictures for the report: matplotlib SVG whose colours follow the page and whose ids are its own."""

import io
import re
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from sklearn.calibration import calibration_curve

from equipoise.compare.measures import ECE_BINS

__all__ = ["curves", "reliability"]

FEWEST_ROWS = 5  # a group of fewer confidences is not drawn: its share is luck
MOST_LINES = 20  # splits in a picture of curves
MOST_POINTS = 60  # epochs in a line

Stated = tuple[NDArray[np.float64], NDArray[np.bool_]]

# Colours that stand for a variable of the page's style, so that a picture is right in dark and in light.
_INK, _MUTED, _GRID, _ACCENT, _WRONG, _PAGE = (f"#0{digit}0{digit}0{digit}" for digit in "123456")
_VARIABLES = {
    _INK: "ink",
    _MUTED: "muted",
    _GRID: "grid",
    _ACCENT: "accent",
    _WRONG: "wrong",
    _PAGE: "page",
}
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 8,
    "text.parse_math": False,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _MUTED,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "figure.facecolor": "none",
    "legend.frameon": False,
    "legend.fontsize": 7.5,
}


def reliability(name: str, title: str, raw: Stated, calibrated: Stated) -> str:
    """Draw stated confidence against the share that is right, raw and calibrated, and how often it is stated.

    Args:
        name: Unique on the page; every id in the picture begins with it.
        title: What it shows, for someone who cannot see it.
        raw: Probability of the likeliest class (M,) and whether that class was right (M,).
        calibrated: The same after calibration.
    """

    def draw(figure: Figure) -> None:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        edges = np.linspace(0, 1, ECE_BINS + 1)
        above.plot([0, 1], [0, 1], color=_MUTED, linewidth=1, linestyle=(0, (4, 3)))
        for (confidence, right), colour, marker, label in (
            (raw, _WRONG, "s", "raw"),
            (calibrated, _ACCENT, "o", "calibrated"),
        ):
            share, stated = calibration_curve(right, confidence, n_bins=ECE_BINS, strategy="uniform")
            counts = np.bincount(np.searchsorted(edges[1:-1], confidence), minlength=ECE_BINS)
            counts = counts[counts > 0]
            enough = counts >= min(FEWEST_ROWS, counts.max())
            share, stated, sizes = (
                share[enough],
                stated[enough],
                8 + 60 * np.sqrt(counts[enough] / counts.max()),
            )
            above.plot(stated, share, color=colour, linewidth=1.2)
            hollow = {"facecolors": _PAGE} if marker == "s" else {}
            above.scatter(
                stated, share, s=sizes, color=colour, marker=marker, linewidths=1, zorder=3, clip_on=False,
                label=label, **hollow,
            )  # fmt: skip
            shares = np.histogram(confidence, bins=edges)[0] / max(len(confidence), 1)
            below.stairs(shares, edges, color=colour, linewidth=1.2, fill=False)
        above.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="share right")
        above.text(0.03, 0.93, "says too little", fontsize=7.5, color=_MUTED)
        above.text(0.97, 0.04, "says too much", fontsize=7.5, color=_MUTED, ha="right")
        above.legend(loc="upper left", handlelength=1, borderaxespad=0.3, bbox_to_anchor=(0, 0.9))
        below.set(xlabel="stated confidence", ylabel="rows", ylim=(0, None))

    return _svg(name, title, (3.7, 2.25), draw)


def curves(name: str, title: str, kept: Sequence[tuple[Sequence[Any], int]], key: str, label: str) -> str:
    """Draw a number of the validation rows over epochs, a line per split, with the chosen epochs marked.

    Args:
        name: Unique on the page; every id in the picture begins with it.
        title: What it shows, for someone who cannot see it.
        kept: For each split, its curve and the epoch that was chosen.
        key: Of the curve: "accuracy" or "calibrated".
        label: What to call it.
    """

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        heights = []
        for curve, chosen in kept[:MOST_LINES]:
            points = _thinned(curve, chosen)
            epochs = [point["epoch"] for point in points]
            values = [np.nan if point[key] is None else point[key] for point in points]
            axes.plot(epochs, values, color=_ACCENT, linewidth=0.9, alpha=0.55)
            at = next((k for k, epoch in enumerate(epochs) if epoch == chosen), None)
            if at is not None:
                axes.plot(epochs[at], values[at], "o", markersize=4.5, color=_WRONG, zorder=3)
                heights.append(values[at])
        axes.set(xlabel="epoch", ylabel=label, xlim=(0, None))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if limits := _window([curve for curve, _ in kept], key, heights):
            axes.set_ylim(limits)

    return _svg(name, title, (2.7, 1.65), draw)


def _thinned(curve: Sequence[Any], chosen: int) -> list[Any]:
    """Return at most so many points of a curve, the chosen epoch and the ends among them."""
    if len(curve) <= MOST_POINTS:
        return list(curve)
    kept = {round(place) for place in np.linspace(0, len(curve) - 1, MOST_POINTS)}
    return [point for place, point in enumerate(curve) if place in kept or point["epoch"] == chosen]


def _window(
    curves_: Sequence[Sequence[Any]], key: str, chosen: Sequence[float]
) -> tuple[float, float] | None:
    """Return the ends of the axis: the chosen epochs and all but the worst twentieth, which is the start."""
    values = np.array([point[key] for curve in curves_ for point in curve if point[key] is not None])
    if not len(values):
        return None
    known = [value for value in chosen if np.isfinite(value)]
    if key == "accuracy":
        low, high = min([float(np.quantile(values, 0.05)), *known]), float(values.max())
    else:
        low, high = float(values.min()), max([float(np.quantile(values, 0.95)), *known])
    spare = 0.06 * max(high - low, 1e-3)
    return low - spare, high + spare


def _svg(name: str, title: str, inches: tuple[float, float], draw: Callable[[Figure], None]) -> str:
    """Return an SVG element to put in a page."""
    buffer = io.StringIO()
    style: Any = _STYLE | {"svg.hashsalt": name}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=inches, layout="constrained")
        draw(figure)
        figure.savefig(
            buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    return _inline(buffer.getvalue(), name, title)


def _inline(document: str, name: str, title: str) -> str:
    """Return an SVG document as an element: no prologue, no metadata, own ids, colours of the page."""
    svg = document[document.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    svg = svg.replace("xlink:href", "href")
    used = set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", svg))
    svg = re.sub(r' id="([^"]+)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", svg)
    svg = re.sub(r"(url\(#|href=\"#)", rf"\g<1>{name}-", svg)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    view = re.search(r'viewBox="([^"]+)"', svg)
    box = view[1] if view else "0 0 100 100"
    head = f'<svg viewBox="{box}" role="img" aria-label="{escape(title)}"><title>{escape(title)}</title>'
    return re.sub(r"\s*\n\s*", "\n", head + svg[svg.index(">") + 1 :]).strip()
