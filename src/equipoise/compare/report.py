"""The report: one page with everything in it, which needs no network and no script."""

import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup, escape

from equipoise.compare import figures
from equipoise.compare.experiment import Outcome, Plan, Result
from equipoise.compare.measures import Measure
from equipoise.compare.outputs import free_rule_words, noise_words, parts_of
from equipoise.compare.store import write_atomically
from equipoise.compare.verdict import Verdict, deciding_measures

__all__ = ["write_report"]

MOST_CLASSES_SHOWN = 24


def write_report(result: Result, verdict: Verdict, path: Path) -> None:
    """Write the report as one HTML file."""
    template = files("equipoise.compare").joinpath("report.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    specs = sorted((outcome.candidate.spec for outcome in result.outcomes), key=len, reverse=True)
    environment.filters["code"] = lambda text: _with_code(text, specs)
    environment.filters["breakable"] = _breakable
    page = environment.from_string(template).render(
        verdict=verdict,
        free_rule=free_rule_words(result),
        plan=result.plan,
        kept=verdict.winner is result.baseline,
        key_measures=_key_measures(result.plan),
        rows=_rows(result),
        details=_details(result),
        cards=[_card(result, place) for place in range(len(result.outcomes))],
        settings=_settings(result),
        versions=result.plan.shared["versions"],
        decided_by=[m for m in result.plan.measures if m.name in deciding_measures(result.plan)],
    )
    write_atomically(path, page.encode())


def _with_code(text: str, specs: Sequence[str]) -> Markup:
    """A sentence as HTML, with the objectives in it set as code."""
    pieces = re.split("(" + "|".join(map(re.escape, specs)) + ")", text)
    return Markup("").join(
        Markup("<code>{}</code>").format(_breakable(piece)) if place % 2 else escape(_signed(piece))
        for place, piece in enumerate(pieces)
    )


def _breakable(spec: str) -> Markup:
    """An objective as HTML that may break after a bracket or a comma."""
    return Markup(re.sub(r"(\(|, )", r"\1<wbr>", str(escape(spec))))


def _signed(text: str) -> str:
    """Numbers with a true minus sign."""
    return re.sub(r"(?<![\w)])-(?=\d)", "\u2212", text)


def _key_measures(plan: Plan) -> list[Measure]:
    """Those in the first table."""
    names = ("accuracy", "nll", "cost", "decided_cost")
    return [measure for measure in plan.measures if measure.name in names]


def _rows(result: Result) -> list[dict[str, Any]]:
    """The first table: a row per objective, a cell per key measure."""
    rows = []
    for place, outcome in enumerate(result.outcomes):
        cells = [_cell(result, place, measure) for measure in _key_measures(result.plan)]
        chance, most = outcome.chance_ece()
        ece = {"value": outcome.mean("ece"), "chance": chance, "most": most}
        rows.append({"spec": outcome.candidate.spec, "cells": cells, "ece": ece, "baseline": place == 0})
    return rows


def _cell(result: Result, place: int, measure: Measure) -> dict[str, Any]:
    """A value, its difference from plain cross entropy, and what that is called."""
    outcome = result.outcomes[place]
    cell: dict[str, Any] = {"title": measure.title, "value": measure.show(outcome.mean(measure.name))}
    if measure.name not in outcome.differences:
        return cell
    found = outcome.differences[measure.name]
    shown = [_signed(measure.show_difference(value)) for value in (found.mean, found.low, found.high)]
    sizes = [
        abs(value)
        for other in result.outcomes[1:]
        for value in (other.differences[measure.name].low, other.differences[measure.name].high)
        if np.isfinite(value)
    ]
    reach = max([*sizes, abs(found.mean) if np.isfinite(found.mean) else 0.0, 1e-9])
    unit = " points" if measure.percent else ""
    ends = f"{shown[1]} to {shown[2]}"
    title = f"{measure.title} of {outcome.candidate.spec}: {shown[0]}{unit}, 95 % interval {ends}"
    picture = figures.interval(
        f"interval-{measure.name}-{place}", title, found.low, found.mean, found.high, reach, found.call
    )
    return cell | {
        "mean": shown[0] + unit,
        "low": shown[1],
        "high": shown[2],
        "call": found.call,
        "reason": found.reason,
        "picture": picture,
    }


def _details(result: Result) -> list[dict[str, Any]]:
    """The second table: every measure, with its test."""
    found = []
    for measure in result.plan.measures:
        lines = []
        for outcome in result.outcomes:
            difference = outcome.differences.get(measure.name)
            line = {
                "spec": outcome.candidate.spec,
                "value": measure.show(outcome.mean(measure.name)),
                "call": "",
            }
            if difference is not None:
                ends = [
                    _signed(measure.show_difference(value)) for value in (difference.low, difference.high)
                ]
                line |= {
                    "difference": _signed(measure.show_difference(difference.mean)),
                    "interval": f"{ends[0]} to {ends[1]}",
                    "p": _p(difference.p if difference.call else float("nan")),
                    "corrected": _p(difference.corrected if difference.call else float("nan")),
                    "call": difference.call or "not called",
                }
            lines.append(line)
        found.append({"measure": measure, "lines": lines})
    return found


def _p(value: float) -> str:
    if np.isnan(value):
        return "\u2013"
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def _card(result: Result, place: int) -> dict[str, Any]:
    """The pictures of an objective."""
    outcome = result.outcomes[place]
    spec = outcome.candidate.spec
    confidence, right = _confidences(result.plan, outcome)
    finite = len(confidence) > 0
    reliability = (
        f"Reliability of {spec}: stated confidence against the share that is right, over {len(confidence)} "
        f"test predictions; mean confidence {confidence.mean():.2f}, share right {right.mean():.2f}"
        if finite
        else ""
    )
    own = [record["curve"] for record in outcome.records]
    plain = None if place == 0 else [record["curve"] for record in result.baseline.records]
    last = np.array([curve[-1]["accuracy"] for curve in own], dtype=np.float64)  # None becomes nan
    curves = (
        f"Validation accuracy and NLL of {spec} over epochs; accuracy ends at {np.mean(last):.2f} on average"
    )
    return {
        "spec": spec,
        "baseline": place == 0,
        "diverged": outcome.diverged,
        "summary": f"says {100 * confidence.mean():.0f} %, is right {100 * right.mean():.0f} %"
        if finite
        else "",
        "reliability": figures.reliability(f"reliability-{place}", reliability, confidence, right)
        if finite
        else "",
        "curves": figures.curves(f"curves-{place}", curves, own, plain),
    }


def _confidences(plan: Plan, outcome: Outcome) -> tuple[np.ndarray, np.ndarray]:
    """Confidence of the likeliest class and whether it was right, pooled over the seeds."""
    confidences, rights = [np.empty(0)], [np.empty(0, dtype=bool)]
    for key, record in zip(outcome.candidate.keys, outcome.records, strict=True):
        if record["finite"]:
            with np.load(plan.store.predictions(key)) as kept:
                probabilities, target = kept["probabilities"], kept["target"]
            confidences.append(probabilities.max(axis=1))
            rights.append(probabilities.argmax(axis=1) == target)
    return np.concatenate(confidences), np.concatenate(rights)


def _settings(result: Result) -> list[tuple[str, str]]:
    """What was done, in words."""
    plan = result.plan
    dataset, training, parts = plan.conditions.dataset, plan.settings.training, parts_of(plan)
    shown = ", ".join(dataset.classes[:MOST_CLASSES_SHOWN])
    more = len(dataset.classes) - MOST_CLASSES_SHOWN
    model = "linear" if training.model == "linear" else f"one hidden layer of {training.width} (mlp)"
    lines = [
        ("Data", f"{dataset.name}: {len(dataset.labels)} rows, {dataset.features.shape[1]} columns"),
        *(("Note", note) for note in dataset.notes),
        ("Classes", f"{len(dataset.classes)}: {shown}" + (f" and {more} more" if more > 0 else "")),
        (
            "Each split",
            f"{len(parts.train)} rows to train, {len(parts.validation)} to watch training, {len(parts.test)} "
            "to test, in the proportions of the classes",
        ),
        ("Label noise", noise_words(result)),
        (
            "Training",
            f"{model}; {training.epochs} epochs, batches of {training.batch_size}, AdamW with learning rate "
            f"{training.lr:g} and weight decay {training.weight_decay:g}; no early stopping",
        ),
        (
            "Repetitions",
            f"{plan.settings.seeds} seeds; in each, every objective has the same split, flipped labels, "
            "initial weights and order of batches",
        ),
        ("Trials", f"{result.trials}, of which {result.reused} were there from before"),
    ]
    if plan.costs_from == "costs":
        lines.append(("Costs", f"from {plan.settings.costs}, indexed [true, predicted]"))
    if plan.costs_from == "similarity":
        lines.append(
            (
                "Costs",
                f"made from {plan.settings.similarity}: how much less alike the predicted class is than the "
                "true one, similarity[true, true] - similarity[true, predicted]",
            )
        )
    return lines
