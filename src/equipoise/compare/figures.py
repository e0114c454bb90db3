"""Pictures for the report: matplotlib SVG whose colours follow the page and whose ids are its own."""

import io
import re
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.calibration import calibration_curve

from equipoise.compare.measures import ECE_BINS

__all__ = ["curves", "interval", "reliability"]

# Colours that stand for a variable of the page's style, so that a picture is right in dark and in light.
_INK, _MUTED, _GRID, _ACCENT, _WRONG, _BETTER, _WORSE = (f"#0{digit}0{digit}0{digit}" for digit in "1234567")
_VARIABLES = {
    _INK: "ink",
    _MUTED: "muted",
    _GRID: "grid",
    _ACCENT: "accent",
    _WRONG: "wrong",
    _BETTER: "better",
    _WORSE: "worse",
}
_CALLS = {"better": _BETTER, "worse": _WORSE}
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


def reliability(name: str, title: str, confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> str:
    """Stated confidence against the share that is right, above a histogram of the confidences.

    Args:
        name: Unique on the page; every id in the picture begins with it.
        title: What it shows, for someone who cannot see it.
        confidence: Probability of the likeliest class, (M,).
        right: Whether that class was the true one, (M,).
    """

    def draw(figure: Figure) -> None:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1.4))
        edges = np.linspace(0, 1, ECE_BINS + 1)
        share, stated = calibration_curve(right, confidence, n_bins=ECE_BINS, strategy="uniform")
        counts = np.bincount(np.searchsorted(edges[1:-1], confidence), minlength=ECE_BINS)
        sizes = 10 + 90 * np.sqrt(counts[counts > 0] / counts.max())
        above.plot([0, 1], [0, 1], color=_MUTED, linewidth=1, linestyle=(0, (4, 3)))
        above.plot(stated, share, color=_ACCENT, linewidth=1.2)
        above.scatter(stated, share, s=sizes, color=_ACCENT, linewidths=0, zorder=3, clip_on=False)
        above.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="share that is right")
        above.text(0.03, 0.93, "says too little", fontsize=7.5, color=_MUTED)
        above.text(0.97, 0.05, "says too much", fontsize=7.5, color=_MUTED, ha="right")
        rows = max(len(confidence), 1)
        heights = [np.histogram(confidence[kept], bins=edges)[0] / rows for kept in (right, ~right)]
        middles, width = (edges[:-1] + edges[1:]) / 2, 0.85 / ECE_BINS
        below.bar(middles, heights[0], width, color=_ACCENT, label="right")
        below.bar(middles, heights[1], width, bottom=heights[0], color=_WRONG, label="wrong")
        below.set(xlabel="confidence", ylabel="share of rows")
        below.legend(loc="upper left", handlelength=1, borderaxespad=0)

    return _svg(name, title, (3.0, 3.5), draw)


def curves(name: str, title: str, own: Sequence[Any], plain: Sequence[Any] | None) -> str:
    """Validation accuracy and NLL over epochs: mean and range over seeds, beside plain cross entropy.

    Args:
        name: Unique on the page; every id in the picture begins with it.
        title: What it shows, for someone who cannot see it.
        own: For each seed, its curve.
        plain: The same of plain cross entropy; None for itself.
    """

    def draw(figure: Figure) -> None:
        for axes, key, label in zip(
            figure.subplots(2, 1, sharex=True), ("accuracy", "nll"), ("accuracy", "NLL"), strict=True
        ):
            if plain is not None:
                _curve(axes, plain, key, _MUTED, "plain cross entropy")
            _curve(axes, own, key, _ACCENT, "this objective")
            axes.set(ylabel=f"validation {label}")
            if key == "accuracy":
                axes.set_ylim(0, 1.02)
                axes.legend(loc="lower right", handlelength=1.2)
            else:
                axes.set_ylim(bottom=0)
                axes.set_xlabel("epoch")

    return _svg(name, title, (3.0, 3.5), draw)


def interval(
    name: str, title: str, low: float, mean: float, high: float, reach: float, call: str | None
) -> str:
    """A difference and its interval as a dot on a line, zero in the middle.

    Args:
        name: Unique on the page; every id in the picture begins with it.
        title: What it shows, for someone who cannot see it.
        low: Lower end; nan if there is no interval.
        mean: The difference.
        high: Upper end.
        reach: Largest size of any difference in the column, so that pictures share a scale.
        call: "better" or "worse" colours it.
    """

    def draw(figure: Figure) -> None:
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        colour = _CALLS.get(call or "", _MUTED)
        axes.axvline(0, color=_MUTED, linewidth=0.8)
        if np.isfinite(low) and np.isfinite(high):
            axes.plot([low, high], [0, 0], color=colour, linewidth=2, solid_capstyle="butt")
        axes.plot([mean], [0], marker="o", markersize=4, color=colour)
        axes.set(xlim=(-1.08 * reach, 1.08 * reach), ylim=(-1, 1))

    return _svg(name, title, (1.5, 0.2), draw, tight=False)


def _curve(axes: Axes, seeds: Sequence[Any], key: str, colour: str, label: str) -> None:
    """Mean and range over seeds."""
    epochs = [point["epoch"] for point in seeds[0]]
    values = np.array(
        [[np.nan if p[key] is None else p[key] for p in curve] for curve in seeds], dtype=np.float64
    )
    axes.plot(epochs, values.mean(axis=0), color=colour, linewidth=1.4, label=label)
    axes.fill_between(epochs, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.16, linewidth=0)


def _svg(
    name: str, title: str, inches: tuple[float, float], draw: Callable[[Figure], None], *, tight: bool = True
) -> str:
    """An SVG element to put in a page."""
    buffer = io.StringIO()
    style: Any = _STYLE | {"svg.hashsalt": name}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=inches, layout="constrained" if tight else None)
        draw(figure)
        figure.savefig(
            buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    return _inline(buffer.getvalue(), name, title)


def _inline(document: str, name: str, title: str) -> str:
    """An SVG document as an element: no prologue, no metadata, own ids, colours of the page."""
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
