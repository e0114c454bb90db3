"""The report: a self-contained HTML page without scripts."""

import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup, escape

import equipoise
from equipoise.compare import figures, sentences
from equipoise.compare.measures import confusion, recall_per_class
from equipoise.compare.results import Result
from equipoise.compare.store import write_atomically
from equipoise.compare.verdict import Verdict
from equipoise.compare.views import (
    Row,
    features,
    least,
    measures,
    number,
    rank,
    rows,
    share,
    visible,
    worthwhile,
)

__all__ = ["write_report"]

KEY_MEASURES = ("accuracy", "calibrated_nll", "decided_cost", "balanced_accuracy", "nll")
MOST_IN_MATRIX = 12  # classes of a confusion matrix; with more, the lowest recalls are listed
LONGEST_HEAD = 8  # letters of a class above a column; with more, columns are numbered
MOST_RECALLS = 24
MOST_PICTURES = 9  # candidates with figures


def write_report(result: Result, verdict: Verdict, path: Path) -> None:
    """Write the report as one HTML file."""
    out = result.plan.out
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("equipoise", "compare"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "code": _with_code([each.candidate.name for each in result.outcomes]),
        "breakable": _breakable,
        "signed": _signed,
        "sentence": _sentence,
        "number": number,
        "share": share,
    }
    shown, listed, deciding = rows(result), measures(result), result.plan.deciding
    candidates = [row for row in shown[1:] if not row.beside]
    candidates.sort(key=lambda row: rank(row.of.mean(deciding[-1])))
    pictured = sorted(candidates, key=lambda row: row.of is not verdict.winner)[:MOST_PICTURES]
    page = environment.get_template("report.html.jinja").render(
        version=equipoise.__version__,
        result=result,
        verdict=verdict,
        plan=result.plan,
        words=sentences,
        features=features,
        rest=verdict.sentence.removeprefix(verdict.headline).strip(),
        panels=[_panel(result, name, candidates) for name in deciding],
        symbols=figures.SYMBOLS,
        strip=figures.strip,
        heads=[listed[name] for name in dict.fromkeys((*deciding, *KEY_MEASURES)) if name in listed],
        measures=listed.values(),
        rows=shown,
        candidates=candidates,
        cards=[_card(row.of, place) for place, row in enumerate((shown[0], *pictured))],
        sharp=[each.candidate.name for each in sentences.sharper_than_the_data(result)],
        matrix=_matrix(result, verdict),
        study=None if out is None else shlex.quote(str(out / "study.toml")),
    )
    write_atomically(path, visible(page, keep="\n").encode())


def _with_code(names: Sequence[str]) -> Callable[[str], Markup]:
    """Return a filter that formats text in back ticks, and names that are calls, as code.

    Other names may be words of the sentence, and are not changed.
    """
    calls = [name for name in sorted(names, key=len, reverse=True) if "(" in name]
    pattern = re.compile(rf"((?<!\w)(?:{'|'.join(map(re.escape, calls))})(?!\w)|`[^`]+`)")

    def code(piece: str) -> Markup:
        return Markup("<code>{}</code>").format(_breakable(piece if piece in names else piece.strip("`")))

    def convert(text: str) -> Markup:
        pieces = enumerate(pattern.split(text))
        return Markup("").join(code(piece) if place % 2 else _signed(piece) for place, piece in pieces)

    return convert


def _breakable(name: str) -> Markup:
    """Return an objective as HTML with possible line breaks after brackets and commas."""
    return Markup(re.sub(r"(\(|, )", r"\1<wbr>", str(escape(name))))


def _signed(text: str) -> str:
    """Return numbers with a true minus sign."""
    return re.sub(r"(?<![\w)])-(?=\d)", "\u2212", text)


def _sentence(words: str) -> str:
    """Return text with a capital and a full stop."""
    return words[:1].upper() + words[1:] + ("" if words.endswith(".") else ".")


def _panel(result: Result, name: str, candidates: Sequence[Row]) -> dict[str, Any]:
    """Return the axis of a deciding measure."""
    measure, band = measures(result)[name], worthwhile(result, name)
    found = [each for row in candidates if (each := row.cells[name].found) is not None]
    along = figures.axis(found, measure.better, band)
    size = f"{least(result, name)} of {measure.title}" if band else ""
    return {"measure": measure, "axis": along, "scale": figures.scale(along, measure), "band": size}


def _card(outcome: Any, place: int) -> dict[str, Any]:
    """Return the figures of an objective."""
    name, seen, records = outcome.candidate.name, outcome.predictions, outcome.records
    finite = np.isfinite(seen.probs).all(axis=1) & np.isfinite(seen.calibrated).all(axis=1)
    raw, calibrated = (
        (np.minimum(probs[finite].max(axis=1), 1.0), probs[finite].argmax(axis=1) == seen.target[finite])
        for probs in (seen.probs, seen.calibrated)
    )
    summary, picture = "", Markup("")
    if finite.any():
        before, after, right = (f"{100 * each.mean():.0f} %" for each in (raw[0], calibrated[0], raw[1]))
        summary = f"says {before} raw and {after} calibrated, is right {right}"
        title = (
            f"Reliability of {name}: stated confidence against the share that is right, over {finite.sum()} "
            f"test predictions; mean confidence {before} raw and {after} calibrated, share right {right}"
        )
        picture = figures.reliability(f"reliability-{place}", title, raw, calibrated)
    epochs = [record.epoch for record in records]
    kept = [(record.curve, record.epoch) for record in records]
    drawn = [
        figures.curves(
            f"{key}-{place}",
            f"Validation {label} of {name} over epochs, a line for each split; the chosen epochs are "
            f"{min(epochs)} to {max(epochs)}",
            kept,
            key,
            label,
        )
        for key, label in (("accuracy", "accuracy"), ("calibrated", "calibrated NLL"))
    ]
    role = "" if place else "plain cross entropy"
    return {"name": name, "role": role, "summary": summary, "reliability": picture, "curves": drawn}


def _matrix(result: Result, verdict: Verdict) -> dict[str, Any]:
    """Return the confusion matrix with the recall of each class, or the lowest recalls of many classes."""
    classes, against = result.plan.conditions.dataset.classes, verdict.winner is not result.baseline
    counts = confusion(verdict.winner.predictions)
    recalls, plain = (recall_per_class(each.predictions) for each in (verdict.winner, result.baseline))
    mistakes = counts - np.diag(np.diag(counts) + 1)  # -1 on the diagonal: never the largest
    often = mistakes.argmax(axis=1)
    depths = np.rint(4 + 30 * counts / counts.sum(axis=1, keepdims=True).clip(1)).astype(int)
    lines = [
        {
            "name": name,
            "rows": int(counts[at].sum()),
            "recall": recalls[at],
            "plain": plain[at],
            "taken": f"{classes[often[at]]} ({mistakes[at].max()})" if mistakes[at].max() > 0 else "\u2013",
            "counts": list(zip(counts[at].tolist(), depths[at].tolist(), strict=True)),
        }
        for at, name in enumerate(classes)
    ]
    many, numbered = len(classes) > MOST_IN_MATRIX, max(map(len, classes)) > LONGEST_HEAD
    if many:
        lines = sorted(lines, key=lambda line: rank(line["recall"]))[:MOST_RECALLS]
    left_out = len(classes) - len(lines)
    return {"lines": lines, "many": many, "numbered": numbered, "left_out": left_out, "against": against}
