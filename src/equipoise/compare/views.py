"""A result as a reader sees it: each number becomes text here, once, for terminal, report and sentences."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from numpy.typing import ArrayLike

from equipoise.compare.records import mean
from equipoise.compare.statistics import worthwhile_difference

if TYPE_CHECKING:
    from equipoise.compare.dataset import Dataset
    from equipoise.compare.measures import Measure
    from equipoise.compare.results import Context, Outcome, Result
    from equipoise.compare.statistics import Difference

__all__ = [
    "Cell",
    "Row",
    "cell",
    "features",
    "last_epoch",
    "least",
    "measures",
    "number",
    "rows",
    "share",
    "visible",
    "worthwhile",
]

NONE = "\u2013"
_NO_FIT = {"ece": NONE, "chance": "", "epoch": NONE, "temperature": NONE, "noise": NONE}
_LONG = 1e6  # a number as large as this is shown with three digits and an exponent
# Controls, escapes of a terminal, and what turns the direction of writing; lone halves of surrogate pairs.
_HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@dataclass(frozen=True)
class Cell:
    """A measure of a row. Without `found`, which has the numbers of the rest, nothing is compared."""

    value: str
    found: "Difference | None" = None
    difference: str = ""
    low: str = ""
    high: str = ""
    unit: str = ""

    @property
    def call(self) -> str:
        """What the candidate is called; empty for a measure that does not decide."""
        return (self.found and self.found.call) or ""

    @property
    def interval(self) -> str:
        """The ends of the interval."""
        return f"{self.low} to {self.high}" if self.found else ""

    @property
    def why(self) -> str:
        """Why there is no interval, and what would settle the question."""
        return ". ".join(filter(None, (self.found.reason, self.found.needed))) if self.found else ""


@dataclass(frozen=True)
class Row:
    """An objective, or a model that is shown beside and never compared.

    Attributes:
        name: What it is called.
        note: What else to know of it.
        of: Where its numbers come from.
        cells: By name of the measure.
        fit: Calibration error, its value by chance, epoch, temperature and noise, as text.
        beside: Whether it is never compared.
    """

    name: str
    note: str
    of: "Outcome | Context"
    cells: Mapping[str, Cell]
    fit: Mapping[str, str]
    beside: bool = False


def rows(result: "Result") -> Iterator[Row]:
    """Yield the baseline, the candidates as given, and what is shown beside."""
    for place, outcome in enumerate(result.outcomes):
        lost = f"diverged in {outcome.diverged} of {len(outcome.records)} splits, left out of its numbers"
        note = lost if outcome.diverged else "" if place else "baseline"
        yield Row(outcome.candidate.name, note, outcome, _cells(result, outcome), _fit(outcome))
    last = last_epoch(result)
    note = "last epoch, not calibrated"
    yield Row(last.candidate.name, note, last, _cells(result, last), _fit(last), beside=True)
    for each in result.context:
        yield Row(each.name, "context", each, _cells(result, each), _NO_FIT, beside=True)


def last_epoch(result: "Result") -> "Outcome":
    """Return plain cross entropy at its last epoch, with that epoch and no calibration in its records."""
    last = result.last_epoch
    records = [
        replace(record, epoch=int(record.curve[-1]["epoch"] or 0), temperature=1.0, noise=0.0, chance_ece=[])
        for record in last.records
    ]
    return replace(last, records=tuple(records))


def cell(measure: "Measure", values: ArrayLike, found: "Difference | None" = None) -> Cell:
    """Return the mean of a measure's values, and a difference from the baseline."""
    value = measure.show(mean(values))
    if found is None:
        return Cell(value)
    numbers = map(measure.show_difference, (found.mean, found.low, found.high))
    return Cell(value, found, *numbers, " points" if measure.percent and math.isfinite(found.mean) else "")


def _cells(result: "Result", row: "Outcome | Context") -> dict[str, Cell]:
    differences: Mapping[str, Difference] = getattr(row, "differences", {})
    return {
        name: cell(measure, row.values.get(name, ()), differences.get(name))
        for name, measure in measures(result).items()
    }


def _fit(outcome: "Outcome") -> dict[str, str]:
    chance, most = outcome.chance_ece()
    epochs = sorted({record.epoch for record in outcome.records})
    return {
        "ece": number(mean(outcome.values.get("ece", ()))),
        "chance": f"({chance:.3f}, {most:.3f})" if math.isfinite(chance) else "",
        "epoch": NONE.join(map(str, dict.fromkeys((epochs[0], epochs[-1])))),
        "temperature": number(mean([record.temperature for record in outcome.records]), 2),
        "noise": share(mean([record.noise for record in outcome.records])),
    }


def measures(result: "Result") -> dict[str, "Measure"]:
    """Return the measures by name, those that decide first."""
    found = {measure.name: measure for measure in result.plan.measures}
    return {name: found[name] for name in result.plan.deciding} | found


def worthwhile(result: "Result", name: str) -> float:
    """Return the smallest difference worth having in a measure; 0 where none was given."""
    return worthwhile_difference(dict(result.plan.settings.worthwhile), name, result.baseline.mean(name))


def least(result: "Result", name: str) -> str:
    """Return the smallest difference worth having with its unit."""
    value = worthwhile(result, name)
    return f"{100 * value:g} points" if measures(result)[name].percent else f"{value:.3g}"


def features(dataset: "Dataset") -> str:
    """Return how large the features of a row are."""
    sizes = dataset.features.shape[1:]
    return f"{sizes[0]} columns" if len(sizes) == 1 else f"features of {' x '.join(map(str, sizes))}"


def number(value: float, digits: int = 3) -> str:
    """Return a number as a reader sees it."""
    if not math.isfinite(value):
        return NONE
    return f"{value:.{digits}f}" if abs(value) < _LONG else f"{value:.3g}"


def share(value: float) -> str:
    """Return a share in per cent."""
    return f"{100 * value:.1f}\u00a0%" if math.isfinite(value) else NONE


def visible(text: str, keep: str = "") -> str:
    """Return a text whose control characters, but for those to keep, are spelled as Python spells them."""
    return _HIDDEN.sub(lambda found: found[0] if found[0] in keep else ascii(found[0])[1:-1], text)
