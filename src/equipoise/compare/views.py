"""Formatting of a result: numbers as text, shared by terminal, report and sentences."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from numpy.typing import ArrayLike

from equipoise.compare.dataset import Dataset
from equipoise.compare.measures import LONG, Measure
from equipoise.compare.records import mean
from equipoise.compare.results import Context, Outcome, Result
from equipoise.compare.statistics import Difference, worthwhile_difference

__all__ = ["Cell", "Row", "cell", "features", "last_epoch", "least", "measures", "number", "rank", "rows"]
__all__ += ["share", "visible", "worthwhile"]

_NONE = "\u2013"
# Control characters such as escapes of a terminal, changes of the writing direction, lone surrogates
_HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@dataclass(frozen=True)
class Cell:
    """A measure of a row, and its difference from the baseline if compared, as numbers (`found`) and text."""

    value: str
    found: Difference | None = None
    call: str = ""  # empty for a measure that does not decide
    difference: str = ""
    unit: str = ""
    interval: str = ""
    why: str = ""  # reason for no interval or no call, and the number of runs that would settle it


@dataclass(frozen=True)
class Row:
    """An objective, or a context model."""

    name: str
    note: str
    of: Outcome | Context
    cells: Mapping[str, Cell]  # by name of the measure
    fit: Mapping[str, str]  # calibration error, its value by chance, epoch, temperature and noise
    beside: bool = False

    @property
    def title(self) -> str:
        """The name, with the note in the same text."""
        return f"{self.name}, {self.note}" if self.beside and isinstance(self.of, Outcome) else self.name


def rows(result: Result) -> list[Row]:
    """Return rows for the baseline, the candidates in the given order, and the context models."""
    found: list[Row] = []
    for place, each in enumerate(result.outcomes):
        lost = f"diverged in {each.diverged} of {len(each.records)} splits, left out of its numbers"
        found.append(_row(result, each, lost if each.diverged else "" if place else "baseline"))
    last = _row(result, last_epoch(result), "last epoch, not calibrated", beside=True)
    return [*found, last, *(_row(result, each, "context", beside=True) for each in result.context)]


def _row(result: Result, of: Outcome | Context, note: str, *, beside: bool = False) -> Row:
    name, differences = (of.candidate.name, of.differences) if isinstance(of, Outcome) else (of.name, {})
    cells = {
        each: cell(measure, of.values.get(each, ()), differences.get(each))
        for each, measure in measures(result).items()
    }
    return Row(name, note, of, cells, _fit(of), beside)


def last_epoch(result: Result) -> Outcome:
    """Return plain cross entropy at its last epoch, with that epoch and no calibration in its records."""
    last = result.last_epoch
    records = [
        replace(record, epoch=int(record.curve[-1]["epoch"] or 0), temperature=1.0, noise=0.0, chance_ece=[])
        for record in last.records
    ]
    return replace(last, records=tuple(records))


def cell(measure: Measure, values: ArrayLike, found: Difference | None = None) -> Cell:
    """Return the mean of a measure's values, and a difference from the baseline."""
    value = measure.show(mean(values))
    if found is None:
        return Cell(value)
    difference, low, high = map(measure.show_difference, (found.mean, found.low, found.high))
    unit = " points" if measure.percent and math.isfinite(found.mean) else ""
    interval = f"{low} to {high}" if math.isfinite(found.low) else "no interval"
    why = ". ".join(filter(None, (found.reason, found.needed)))
    return Cell(value, found, found.call or "", difference, unit, interval, why)


def _fit(of: Outcome | Context) -> dict[str, str]:
    if isinstance(of, Context):
        return dict.fromkeys(("ece", "epoch", "temperature", "noise"), _NONE) | {"chance": ""}
    chance, most = of.chance_ece()
    epochs = [record.epoch for record in of.records]
    return {
        "ece": number(mean(of.values.get("ece", ()))),
        "chance": f"({chance:.3f}, {most:.3f})" if math.isfinite(chance) else "",
        "epoch": _NONE.join(map(str, sorted({min(epochs), max(epochs)}))),
        "temperature": number(mean([record.temperature for record in of.records]), 2),
        "noise": share(mean([record.noise for record in of.records])),
    }


def measures(result: Result) -> dict[str, Measure]:
    """Return the measures by name, those that decide first."""
    found = {measure.name: measure for measure in result.plan.measures}
    return {name: found[name] for name in result.plan.deciding} | found


def worthwhile(result: Result, name: str) -> float:
    """Return the smallest relevant difference in a measure; 0 if none was given."""
    return worthwhile_difference(result.plan.settings.worthwhile, name, result.baseline.mean(name))


def least(result: Result, name: str) -> str:
    """Return the smallest relevant difference with its unit, as text."""
    value = worthwhile(result, name)
    return f"{100 * value:g} points" if measures(result)[name].percent else f"{value:.3g}"


def rank(value: float) -> float:
    """Return a sort key: smallest first, unknown last."""
    return value if math.isfinite(value) else math.inf


def features(dataset: Dataset) -> str:
    """Return the number of columns, or the shape of a row, as text."""
    sizes = dataset.features.shape[1:]
    return f"{sizes[0]} columns" if len(sizes) == 1 else f"features of {' x '.join(map(str, sizes))}"


def number(value: float, digits: int = 3) -> str:
    """Return a number as text."""
    if not math.isfinite(value):
        return _NONE
    return f"{value:.{digits}f}" if abs(value) < LONG else f"{value:.3g}"


def share(value: float) -> str:
    """Return a share in per cent, as text."""
    return f"{100 * value:.1f}\u00a0%" if math.isfinite(value) else _NONE


def visible(text: str, keep: str = "") -> str:
    """Return a text with control characters, except those to keep, escaped as in Python."""
    return _HIDDEN.sub(lambda found: found[0] if found[0] in keep else ascii(found[0])[1:-1], text)
