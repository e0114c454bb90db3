"""Figures of the report: matplotlib SVG in the colours of the page, and strips of differences.

A strip has marks at positions in per cent, so that it fits narrow and wide screens. Its words are HTML, which
is not scaled with the picture.
"""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from sklearn.calibration import calibration_curve

from equipoise.compare.measures import ECE_BINS, Measure
from equipoise.compare.statistics import Difference

__all__ = ["SYMBOLS", "Axis", "axis", "curves", "reliability", "scale", "strip"]

FEWEST_ROWS = 5  # smaller groups of confidences are not drawn: their share is random
MOST_LINES = 20  # splits in a figure of curves
MOST_POINTS = 60  # epochs in a line
LONGEST = 5.0  # ends beyond this multiple of the median of all ends are cut, and drawn as arrows
TICKS = 5
SYMBOLS = {
    "better": "M0-6L6.5 5H-6.5Z",
    "worse": "M0 6L6.5-5H-6.5Z",
    "equal": "M-5-5H5V5H-5Z",
    "undecided": "M-5 0A5 5 0 1 0 5 0A5 5 0 1 0-5 0Z",
}

# For M rows, the probability of the likeliest class, and whether it is the true one
Stated = tuple[NDArray[np.float64], NDArray[np.bool_]]

# Placeholder colours, replaced by CSS variables, so that a figure follows dark and light mode.
_VARIABLES = {
    f"#0{k}0{k}0{k}": name for k, name in enumerate(("ink", "muted", "grid", "accent", "wrong", "page"), 1)
}
_INK, _MUTED, _GRID, _ACCENT, _WRONG, _PAGE = _VARIABLES
_STYLE: dict[str, Any] = {
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), _INK),
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), _MUTED),
    **dict.fromkeys(("axes.facecolor", "figure.facecolor", "svg.fonttype"), "none"),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon", "text.parse_math"), False),
    **{"axes.grid": True, "axes.axisbelow": True, "grid.color": _GRID, "grid.linewidth": 0.6},
    **{"font.family": "sans-serif", "font.size": 8, "legend.fontsize": 7.5},
}


@dataclass(frozen=True)
class Axis:
    """A common axis for the differences in a measure, with better values on the right."""

    left: float
    right: float  # below `left` if lower is better
    band: float  # smallest relevant difference

    def place(self, value: float) -> float:
        """Return the position of a difference, in per cent from the left, clamped to the ends."""
        return float(np.clip(100 * (value - self.left) / (self.right - self.left), 0, 100))

    def holds(self, value: float) -> bool:
        """Return whether a difference lies between the ends."""
        return min(self.left, self.right) <= value <= max(self.left, self.right)


def axis(differences: Sequence[Difference], better: str | None, band: float) -> Axis:
    """Return an axis that contains zero, the band and all differences; very long intervals are cut."""
    ends = np.array([end for each in differences for end in (each.low, each.mean, each.high)])
    ends = ends[np.isfinite(ends)]
    cut = max(LONGEST * float(np.median(np.abs(ends))) if len(ends) else 0.0, 3 * band, 1e-9)
    low, high = max(min([*ends, -1.5 * band]), -cut), min(max([*ends, 1.5 * band]), cut)
    spare = 0.05 * max(high - low, 1e-9)
    low, high = low - spare, high + spare
    return Axis(high, low, band) if better == "lower" else Axis(low, high, band)


def strip(along: Axis, difference: Difference) -> Markup:
    """Return a difference and its interval as marks on the axis."""
    mean, low, high = difference.mean, difference.low, difference.high
    left, right = sorted((along.place(-along.band), along.place(along.band)))
    marks = [
        Markup('<rect class="band" x="{:.2f}%" width="{:.2f}%" height="100%"/>').format(left, right - left),
        Markup('<line class="zero" x1="{0:.2f}%" x2="{0:.2f}%" y1="0" y2="100%"/>').format(along.place(0.0)),
    ]
    paths: list[tuple[float, str, str]] = []  # each relative to a point of the axis, at mid height
    if np.isfinite(low):
        places = sorted((along.place(low), along.place(high)))
        marks += [Markup('<line class="reach" x1="{:.2f}%" x2="{:.2f}%" y1="50%" y2="50%"/>').format(*places)]
        for value in (low, high):
            arrow = "M7-5L0 0L7 5" if along.place(value) < 50 else "M-7-5L0 0L-7 5"
            paths.append((along.place(value), "end", "M0-4V4" if along.holds(value) else arrow))
    if np.isfinite(mean) and along.holds(mean):
        paths.append((along.place(mean), "mark", SYMBOLS[difference.call or "undecided"]))
    path = Markup('<svg x="{:.2f}%" y="50%" overflow="visible"><path class="{}" d="{}"/></svg>')
    marks += [path.format(*each) for each in paths]
    return Markup('<svg class="strip" aria-hidden="true">{}</svg>').format(Markup("").join(marks))


def scale(along: Axis, measure: Measure) -> Markup:
    """Return the numbers under the strips."""
    factor = 100 if measure.percent else 1
    low, high = sorted((factor * along.left, factor * along.right))
    ticks = np.asarray(MaxNLocator(TICKS, steps=[1, 2, 5, 10]).tick_values(low, high))
    mark = Markup(
        '<line class="zero" x1="{0:.2f}%" x2="{0:.2f}%" y1="0" y2="4"/>'
        '<text x="{0:.2f}%" y="16" text-anchor="middle">{1}</text>'
    )
    ticks = ticks[(ticks > low) & (ticks < high)]
    ticks[np.abs(ticks) < 1e-9 * (high - low)] = 0
    marks = [
        mark.format(along.place(tick / factor), f"{tick:+.6g}".replace("-", "\u2212") if tick else "0")
        for tick in ticks
    ]
    return Markup('<svg class="scale" aria-hidden="true">{}</svg>').format(Markup("").join(marks))


def reliability(name: str, title: str, raw: Stated, calibrated: Stated) -> Markup:
    """Draw a reliability diagram: accuracy by stated confidence, raw and calibrated, with a histogram."""

    def draw(figure: Figure) -> None:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        edges = np.linspace(0, 1, ECE_BINS + 1)
        above.plot([0, 1], [0, 1], color=_MUTED, linewidth=1, linestyle=(0, (4, 3)))
        for (confidence, right), colour, face, marker, label in (
            (raw, _WRONG, _PAGE, "s", "raw"),
            (calibrated, _ACCENT, _ACCENT, "o", "calibrated"),
        ):
            share, stated = calibration_curve(right, confidence, n_bins=ECE_BINS, strategy="uniform")
            counts = np.bincount(np.searchsorted(edges[1:-1], confidence), minlength=ECE_BINS)
            below.stairs(counts / len(confidence), edges, color=colour, linewidth=1.2)
            counts = counts[counts > 0]
            enough = counts >= min(FEWEST_ROWS, counts.max())
            drawn, sizes = (stated[enough], share[enough]), 8 + 60 * np.sqrt(counts[enough] / counts.max())
            above.plot(*drawn, color=colour, linewidth=1.2)
            above.scatter(
                *drawn, s=sizes, color=colour, facecolors=face, marker=marker, linewidths=1, zorder=3,
                clip_on=False, label=label,
            )  # fmt: skip
        above.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="share right")
        above.text(0.03, 0.93, "says too little", fontsize=7.5, color=_MUTED)
        above.text(0.97, 0.04, "says too much", fontsize=7.5, color=_MUTED, ha="right")
        above.legend(loc="upper left", handlelength=1, borderaxespad=0.3, bbox_to_anchor=(0, 0.9))
        below.set(xlabel="stated confidence", ylabel="rows", ylim=(0, None))

    return _svg(name, title, (3.7, 2.25), draw)


def curves(name: str, title: str, kept: Sequence[tuple[Sequence[Any], int]], key: str, label: str) -> Markup:
    """Draw a value on the validation rows over epochs, a line per split, with the chosen epochs marked."""
    lines = [np.array([(each["epoch"], each[key]) for each in curve], dtype=float) for curve, _ in kept]
    dots = [line[line[:, 0] == chosen] for line, (_, chosen) in zip(lines, kept, strict=True)]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for line, dot in zip(lines[:MOST_LINES], dots, strict=False):
            axes.plot(*_thinned(line, dot).T, color=_ACCENT, linewidth=0.9, alpha=0.55)
            axes.plot(*dot.T, "o", markersize=4.5, color=_WRONG, zorder=3)
        axes.set(xlabel="epoch", ylabel=label, xlim=(0, None), ylim=_window(lines, dots, key))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))

    return _svg(name, title, (2.7, 1.65), draw)


def _thinned(line: NDArray[np.float64], dot: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return at most `MOST_POINTS` points (epoch, value) of a curve, with the chosen one and the ends."""
    kept = np.linspace(0, len(line) - 1, min(MOST_POINTS, len(line))).round().astype(int)
    return np.unique(np.concatenate([line[kept], dot]), axis=0)


def _window(lines: Sequence[Any], dots: Sequence[Any], key: str) -> tuple[float, float] | None:
    """Return the ends of the axis, which contain the chosen epochs and all values but the worst twentieth."""
    values, chosen = (np.concatenate([each[:, 1] for each in given]) for given in (lines, dots))
    if not np.isfinite(values).any():
        return None
    ends = np.nanquantile(values, (0.05, 1) if key == "accuracy" else (0, 0.95))
    low, high = np.nanmin([*ends, *chosen]), np.nanmax([*ends, *chosen])
    spare = 0.06 * max(high - low, 1e-3)
    return low - spare, high + spare


def _svg(name: str, title: str, inches: tuple[float, float], draw: Callable[[Figure], None]) -> Markup:
    """Return an SVG element for a page: ids are made unique by the name, colours are those of the page."""
    buffer = io.StringIO()
    style: Any = _STYLE | {"svg.hashsalt": name}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=inches, layout="constrained")
        draw(figure)
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", buffer.getvalue(), flags=re.DOTALL)
    svg = svg[svg.index("<svg") :].replace("xlink:href", "href")
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    used = set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", svg))
    svg = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", svg)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    view = re.search(r'viewBox="[^"]+"', svg)
    said = escape(title)
    head = f'<svg {view[0] if view else ""} role="img" aria-label="{said}"><title>{said}</title>'
    return Markup(re.sub(r"\s*\n\s*", "\n", head + svg[svg.index(">") + 1 :]).strip())
