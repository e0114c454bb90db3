"""The report: one page with everything in it, which needs no network and no script."""

import math
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from equipoise.compare import figures, forest
from equipoise.compare.measures import Measure, confusion, recall_per_class
from equipoise.compare.report_words import settings_words, statistics_words
from equipoise.compare.sentences import (
    calibration_words,
    cautions,
    deciding,
    decision_gain_words,
    found_words,
    is_proper,
    last_epoch,
    nll_words,
    noise_words,
    sharper_than_the_data,
    worthwhile,
)
from equipoise.compare.store import write_atomically

if TYPE_CHECKING:
    from equipoise.compare.results import Context, Outcome, Result
    from equipoise.compare.verdict import Verdict

__all__ = ["write_report"]

KEY_MEASURES = ("accuracy", "calibrated_nll", "decided_cost", "balanced_accuracy", "nll")
MOST_IN_MATRIX = 12  # classes of a confusion matrix; with more the recall of each is listed
LONGEST_HEAD = 8  # letters of a class above a column; with more, columns are numbered
MOST_RECALLS = 24
MOST_PICTURES = 8  # candidates beside baseline and winner whose pictures are kept


def write_report(result: "Result", verdict: "Verdict", path: Path) -> None:
    """Write the report as one HTML file."""
    template = files("equipoise.compare").joinpath("report.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    specs = sorted((outcome.candidate.spec for outcome in result.outcomes), key=len, reverse=True)
    environment.filters["code"] = lambda text: _with_code(text, specs)
    environment.filters["breakable"] = _breakable
    shown, others = _pictured(result, verdict)
    headline, *rest = re.split(r"(?<=\.) (?=[A-Z])", verdict.sentence, maxsplit=1)
    page = environment.from_string(template).render(
        result=result,
        verdict=verdict,
        headline=headline,
        ranked_by=deciding(result)[-1].title,
        rest="".join(rest),
        choice=[each for each in verdict.choice if each not in verdict.sentence] and verdict.choice,
        plan=result.plan,
        dataset=result.plan.conditions.dataset,
        cautions=list(map(_sentence, cautions(result, verdict))),
        noise=_sentence(noise_words(result)),
        found=_sentence(found_words(result)),
        nll_of=_sentence(nll_words(result)),
        probs=_sentence(calibration_words()),
        gain=decision_gain_words(result),
        panels=_panels(result),
        rows=_forest(result, verdict),
        symbols={call: forest.symbol(call) for call in forest.SYMBOLS},
        heads=_key_measures(result),
        table=_table(result, verdict),
        details=_details(result),
        cards=[_card(result, outcome, place) for place, outcome in shown],
        more=[_card(result, outcome, place) for place, outcome in others],
        left_out=len(result.outcomes) - len(shown) - len(others),
        matrix=_matrix(result, verdict),
        fits=_fits(result),
        splits=_splits(result),
        settings=settings_words(result),
        statistics=list(map(_sentence, statistics_words(result))),
    )
    write_atomically(path, page.encode())


def _with_code(text: str, specs: Sequence[str]) -> Markup:
    """Return a sentence as HTML, with objectives and what stands in back ticks set as code."""
    pattern = "|".join([*map(re.escape, specs), "`[^`]+`"])
    return Markup("").join(
        Markup("<code>{}</code>").format(_breakable(piece.strip("`")))
        if place % 2
        else escape(_signed(piece))
        for place, piece in enumerate(re.split(f"({pattern})", text))
    )


def _breakable(spec: str) -> Markup:
    """Return an objective as HTML that may break after a bracket or a comma."""
    return Markup(re.sub(r"(\(|, )", r"\1<wbr>", str(escape(spec))))


def _signed(text: str) -> str:
    """Return numbers with a true minus sign."""
    return re.sub(r"(?<![\w)])-(?=\d)", "\u2212", text)


def _sentence(words: str) -> str:
    """Return words with a capital and a full stop."""
    return words[:1].upper() + words[1:] + ("" if words.endswith(".") else ".") if words else ""


def _key_measures(result: "Result") -> list[Measure]:
    """Return those in the table, the deciding ones first."""
    chosen = {measure.name: measure for measure in deciding(result)}
    listed = {measure.name: measure for measure in result.plan.measures}
    chosen |= {name: listed[name] for name in KEY_MEASURES if name in listed}
    return list(chosen.values())


def _span(measure: Measure, found: Any) -> tuple[str, str, str]:
    """Return a difference and its ends as a reader sees them, with the unit on the first."""
    mean, low, high = (_signed(measure.show_difference(v)) for v in (found.mean, found.low, found.high))
    unit = "\u00a0points" if measure.percent and math.isfinite(found.mean) else ""
    return mean + unit, low, high


def _panels(result: "Result") -> list[dict[str, Any]]:
    """Return the axis of each deciding measure."""
    found = []
    for measure in deciding(result):
        band = worthwhile(result, measure.name)
        along = forest.axis(
            [outcome.differences[measure.name] for outcome in result.outcomes[1:]], measure.better, band
        )
        size = (
            f"{100 * band:g} points of {measure.title}"
            if measure.percent
            else f"{band:.3g} of {measure.title}"
        )
        found.append(
            {"measure": measure, "axis": along, "scale": forest.scale(along, measure), "band": band and size}
        )
    return found


def _forest(result: "Result", verdict: "Verdict") -> list[dict[str, Any]]:
    """Return the rows of the first picture: candidates, the best in what ranks them first."""

    def rank(outcome: "Outcome") -> float:
        value = outcome.mean(result.plan.deciding[-1])  # lower is better
        return value if math.isfinite(value) else math.inf

    panels = _panels(result)
    rows = []
    for outcome in sorted(result.outcomes[1:], key=rank):
        cells = []
        for panel in panels:
            difference = outcome.differences[panel["measure"].name]
            mean, low, high = _span(panel["measure"], difference)
            cells.append(
                {
                    "title": panel["measure"].title,
                    "call": difference.call or "undecided",
                    "mean": mean,
                    "low": low,
                    "high": high,
                    "why": ". ".join(filter(None, (difference.reason, difference.needed))),
                    "strip": forest.strip(panel["axis"], difference),
                }
            )
        rows.append({"spec": outcome.candidate.spec, "cells": cells, "winner": outcome is verdict.winner})
    return rows


def _table(result: "Result", verdict: "Verdict") -> list[dict[str, Any]]:
    """Return the table of values: baseline, candidates, and what is never compared."""
    measures = _key_measures(result)
    rows = []
    for place, outcome in enumerate(result.outcomes):
        note = "baseline" if place == 0 else ""
        if outcome.diverged:
            note = f"diverged in {outcome.diverged} of {len(outcome.records)} splits, left out of its numbers"
        rows.append(_row(outcome, measures, outcome.candidate.spec, note) | _fit(outcome))
        rows[-1] |= {"winner": outcome is verdict.winner, "compared": place > 0}
    apart: list[tuple[str, Any, str]] = [
        (
            result.last_epoch.candidate.spec,
            last_epoch(result),
            "last epoch, not calibrated",
        )
    ]
    apart += [(row.name, row, "context") for row in result.context]
    for name, row, note in apart:
        fit = _fit(row) if hasattr(row, "records") else _fit(None)
        rows.append(
            _row(row, measures, name, note) | fit | {"winner": False, "compared": False, "apart": True}
        )
    return rows


def _row(row: "Outcome | Context", measures: Sequence[Measure], name: str, note: str) -> dict[str, Any]:
    """Return a name and its values."""
    differences = getattr(row, "differences", {})
    cells = []
    for measure in measures:
        cell = {"value": measure.show(_mean(row.values.get(measure.name, ()))), "call": None}
        if found := differences.get(measure.name):
            mean, low, high = _span(measure, found)
            cell |= {"call": found.call, "difference": mean, "low": low, "high": high}
        cells.append(cell)
    return {"name": name, "note": note, "cells": cells, "apart": False}


def _fit(outcome: "Outcome | None") -> dict[str, str]:
    """Return calibration error, epoch, temperature and noise as a reader sees them."""
    if outcome is None:
        return {"ece": "\u2013", "chance": "", "epoch": "\u2013", "temperature": "\u2013", "noise": "\u2013"}
    chance, most = outcome.chance_ece()
    epochs = sorted(record.epoch for record in outcome.records)
    noise = _mean([record.noise for record in outcome.records])
    ends = f"{epochs[0]}\u2013{epochs[-1]}" if epochs[0] < epochs[-1] else str(epochs[0])
    return {
        "ece": _number(outcome.mean("ece") if "ece" in outcome.values else math.nan),
        "chance": f"({chance:.3f}, {most:.3f})" if math.isfinite(chance) else "",
        "epoch": ends,
        "temperature": _number(_mean([record.temperature for record in outcome.records]), 2),
        "noise": f"{100 * noise:.1f}\u00a0%" if math.isfinite(noise) else "\u2013",
    }


def _details(result: "Result") -> list[dict[str, Any]]:
    """Return every measure with its differences."""
    found = []
    for measure in result.plan.measures:
        lines = []
        for outcome in result.outcomes:
            line = {"spec": outcome.candidate.spec, "value": measure.show(outcome.mean(measure.name))}
            if difference := outcome.differences.get(measure.name):
                mean, low, high = _span(measure, difference)
                why = ". ".join(filter(None, (difference.reason, difference.needed)))
                line |= {
                    "difference": mean,
                    "interval": f"{low} to {high}",
                    "call": difference.call,
                    "why": why,
                }
            lines.append(line)
        found.append({"measure": measure, "lines": lines})
    return found


def _pictured(result: "Result", verdict: "Verdict") -> tuple[list[Any], list[Any]]:
    """Return those shown side by side, and the others, with their places."""
    ranked = [
        each
        for each in enumerate(result.outcomes)
        if each[0] and math.isfinite(each[1].mean("calibrated_nll"))
    ]
    beside = next((each for each in ranked if each[1] is verdict.winner), None)
    beside = beside or min(ranked, key=lambda each: each[1].mean("calibrated_nll"), default=None)
    shown = [(0, result.baseline), *([beside] if beside else [])]
    others = [each for each in enumerate(result.outcomes) if each[0] not in {place for place, _ in shown}]
    return shown, others[:MOST_PICTURES]


def _card(result: "Result", outcome: "Outcome", place: int) -> dict[str, Any]:
    """Return the pictures of an objective."""
    spec, seen = outcome.candidate.spec, outcome.predictions
    raw, calibrated = (_stated(probs, seen.target) for probs in (seen.probs, seen.calibrated))
    summary, picture = "", ""
    if len(raw[0]) and len(calibrated[0]):
        said = [f"{100 * confidence.mean():.0f} %" for confidence, _ in (raw, calibrated)]
        right = f"{100 * raw[1].mean():.0f} %"
        summary = f"says {said[0]} raw and {said[1]} calibrated, is right {right}"
        title = (
            f"Reliability of {spec}: stated confidence against the share that is right, over {len(raw[0])} "
            f"test predictions; mean confidence {said[0]} raw and {said[1]} calibrated, share right {right}"
        )
        picture = figures.reliability(f"reliability-{place}", title, raw, calibrated)
    epochs = [record.epoch for record in outcome.records]
    kept = [(record.curve, record.epoch) for record in outcome.records]
    drawn = [
        figures.curves(
            f"{key}-{place}",
            f"Validation {label} of {spec} over epochs, a line for each split; the chosen epochs are "
            f"{min(epochs)} to {max(epochs)}",
            kept,
            key,
            label,
        )
        for key, label in (("accuracy", "accuracy"), ("calibrated", "calibrated NLL"))
    ]
    role = "plain cross entropy" if place == 0 else ""
    return {"spec": spec, "role": role, "summary": summary, "reliability": picture, "curves": drawn}


def _stated(probs: NDArray[np.float64], target: NDArray[np.int64]) -> figures.Stated:
    """Return the confidence of the likeliest class and whether it was right, of the rows that have one."""
    finite = np.isfinite(probs).all(axis=1)
    return np.minimum(probs[finite].max(axis=1), 1.0), probs[finite].argmax(axis=1) == target[finite]


def _matrix(result: "Result", verdict: "Verdict") -> dict[str, Any]:
    """Return the confusion matrix with the recall of each class, or the lowest recalls of many classes."""
    classes = result.plan.conditions.dataset.classes
    counts = confusion(verdict.winner.predictions)
    recalls, plain = (recall_per_class(each.predictions) for each in (verdict.winner, result.baseline))
    rows = []
    for place, name in enumerate(classes):
        total = counts[place].sum()
        mistakes = np.where(np.arange(len(classes)) == place, -1, counts[place])
        often = int(mistakes.argmax())
        depths = np.rint(4 + 30 * counts[place] / max(total, 1)).astype(int)
        rows.append(
            {
                "name": name,
                "rows": int(total),
                "recall": recalls[place],
                "plain": plain[place],
                "taken": f"{classes[often]} ({mistakes[often]})" if mistakes[often] > 0 else "\u2013",
                "cells": [
                    {"count": int(count), "depth": depth if count else 0, "right": at == place}
                    for at, (count, depth) in enumerate(zip(counts[place], depths, strict=True))
                ],
            }
        )  # fmt: skip
    against = verdict.winner is not result.baseline
    many = len(classes) > MOST_IN_MATRIX
    if many:
        rows = sorted(rows, key=lambda row: (math.isnan(row["recall"]), row["recall"]))[:MOST_RECALLS]
    for row in rows:
        row["recall"], row["plain"] = _share(row["recall"]), _share(row["plain"])
    return {"rows": rows, "many": many, "left_out": len(classes) - len(rows), "against": against} | {
        "numbered": max(map(len, classes)) > LONGEST_HEAD
    }


def _fits(result: "Result") -> list[dict[str, Any]]:
    """Return what the calibration of each objective found, and where that is sharpness and no noise."""
    sharp = sharper_than_the_data(result)
    return [
        _fit(each)
        | {"spec": each.candidate.spec, "proper": is_proper(each.candidate)}
        | {"sharp": any(each is other for other in sharp)}
        for each in result.outcomes
    ]


def _splits(result: "Result") -> list[dict[str, Any]]:
    """Return what was chosen in each split, for each objective."""
    return [
        {
            "spec": outcome.candidate.spec,
            "lines": [
                {
                    "split": record.split + 1,
                    "objective": record.setting.objective,
                    "lr": f"{record.setting.lr:g}",
                    "decay": f"{record.setting.weight_decay:g}",
                    "width": record.setting.width,
                    "epoch": record.epoch,
                    "temperature": _number(record.temperature, 2),
                    "noise": _share(record.noise),
                }
                for record in outcome.records
            ],
        }
        for outcome in result.outcomes
    ]


def _mean(values: Any) -> float:
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known)]
    return float(known.mean()) if len(known) else math.nan


def _number(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "\u2013"


def _share(value: float) -> str:
    return f"{100 * value:.1f}\u00a0%" if math.isfinite(value) else "\u2013"
