"""The picture of all candidates' differences: strips of SVG in percent, which fit a phone as well as a desk.

A picture of fixed proportions would shrink its words with it. Here words are HTML and only marks are drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from equipoise.compare.measures import Measure
from equipoise.compare.statistics import Difference

__all__ = ["SYMBOLS", "Axis", "axis", "scale", "strip", "symbol"]

LONGEST = 5.0  # ends farther out than so many times the median of all ends are cut, and drawn as arrows
TICKS = 5
SYMBOLS = {
    "better": "M0-6L6.5 5H-6.5Z",
    "worse": "M0 6L6.5-5H-6.5Z",
    "equal": "M-5-5H5V5H-5Z",
    "undecided": "M-5 0A5 5 0 1 0 5 0A5 5 0 1 0-5 0Z",
}


@dataclass(frozen=True)
class Axis:
    """A common axis for the differences in a measure, the good side on the right.

    Attributes:
        left: Difference at the left end.
        right: Difference at the right end; below `left` where lower is better.
        band: Smallest difference worth having.
    """

    left: float
    right: float
    band: float

    def place(self, value: float) -> float:
        """Return where a difference lies, in per cent from the left, and at most at an end."""
        return float(np.clip(100 * (value - self.left) / (self.right - self.left), 0, 100))

    def holds(self, value: float) -> bool:
        """Return whether a difference lies between the ends."""
        return min(self.left, self.right) <= value <= max(self.left, self.right)


def axis(differences: Sequence[Difference], better: str | None, band: float) -> Axis:
    """Return an axis with zero, the band and all differences on it; very long intervals are cut."""
    ends = np.array([end for each in differences for end in (each.low, each.mean, each.high)])
    ends = ends[np.isfinite(ends)]
    cut = LONGEST * float(np.median(np.abs(ends))) if len(ends) else 0.0
    cut = max(cut, 3 * band, 1e-9)
    low = max(min([*ends, -1.5 * band]), -cut)
    high = min(max([*ends, 1.5 * band]), cut)
    spare = 0.05 * max(high - low, 1e-9)
    low, high = low - spare, high + spare
    return Axis(high, low, band) if better == "lower" else Axis(low, high, band)


def strip(along: Axis, difference: Difference) -> Markup:
    """Return a difference and its interval as marks on the axis; the words beside it say the same."""
    mean, low, high = difference.mean, difference.low, difference.high
    left, right = sorted((along.place(-along.band), along.place(along.band)))
    marks = [
        Markup('<rect class="band" x="{:.2f}%" width="{:.2f}%" height="100%"/>').format(left, right - left),
        Markup('<line class="zero" x1="{0:.2f}%" x2="{0:.2f}%" y1="0" y2="100%"/>').format(along.place(0.0)),
    ]
    if np.isfinite(low) and np.isfinite(high):
        ends = sorted((along.place(low), along.place(high)))
        marks.append(
            Markup('<line class="reach" x1="{:.2f}%" x2="{:.2f}%" y1="50%" y2="50%"/>').format(*ends)
        )
        for value in (low, high):
            place = along.place(value)
            if not along.holds(value):
                path = "M7-5L0 0L7 5" if place < 50 else "M-7-5L0 0L-7 5"
            else:
                path = "M0-4V4"
            marks.append(_at(place, path, "end"))
    if np.isfinite(mean) and along.holds(mean):
        marks.append(_at(along.place(mean), SYMBOLS.get(difference.call or "", SYMBOLS["undecided"]), "mark"))
    return Markup('<svg class="strip" aria-hidden="true">{}</svg>').format(Markup("").join(marks))


def scale(along: Axis, measure: Measure) -> Markup:
    """Return the numbers under the strips."""
    factor = 100 if measure.percent else 1
    low, high = sorted((factor * along.left, factor * along.right))
    ticks = [
        tick for tick in MaxNLocator(TICKS, steps=[1, 2, 5, 10]).tick_values(low, high) if low < tick < high
    ]
    digits = max((_digits(tick) for tick in ticks), default=0)
    marks = []
    for tick in ticks:
        text = "0" if abs(tick) < 1e-12 else f"{tick:+.{digits}f}".replace("-", "\u2212")
        place = along.place(tick / factor)
        marks.append(
            Markup('<line class="zero" x1="{0:.2f}%" x2="{0:.2f}%" y1="0" y2="4"/>').format(place)
            + Markup('<text x="{:.2f}%" y="16" text-anchor="middle">{}</text>').format(place, text)
        )
    return Markup('<svg class="scale" aria-hidden="true">{}</svg>').format(Markup("").join(marks))


def symbol(call: str) -> Markup:
    """Return the mark of a call by itself."""
    return Markup('<svg class="symbol" viewBox="-8 -8 16 16" aria-hidden="true"><path d="{}"/></svg>').format(
        SYMBOLS[call]
    )


def _at(place: float, path: str, kind: str) -> Markup:
    """Return a path whose origin lies at a place on the axis, in the middle of the strip."""
    return Markup('<svg x="{:.2f}%" y="50%" overflow="visible"><path class="{}" d="{}"/></svg>').format(
        place, kind, path
    )


def _digits(value: float) -> int:
    """Return the decimals that a tick needs."""
    text = f"{value:.6f}".rstrip("0")
    return len(text.split(".")[1])
