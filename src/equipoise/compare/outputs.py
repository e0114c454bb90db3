"""What a finished comparison leaves: tables of values and predictions, a summary for machines, and files."""

import io
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from equipoise.compare.records import mean
from equipoise.compare.report import is_ours, write_report
from equipoise.compare.sentences import decision_gain_words, noise_words
from equipoise.compare.store import write_atomically
from equipoise.compare.views import last_epoch, rows, worthwhile

if TYPE_CHECKING:
    from equipoise.compare.plan import Plan
    from equipoise.compare.results import Outcome, Result
    from equipoise.compare.verdict import Verdict

__all__ = ["predictions", "require_ours", "summary", "table", "write", "write_matrices", "write_table"]

COLUMNS = ("objective", "repeat", "split", "measure", "value", "better", "predictions")
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what makes a spreadsheet compute a cell


def table(result: "Result") -> pd.DataFrame:
    """Return one row per objective, split and measure.

    Rows of plain cross entropy at its last epoch and of the context models have names of their own. `value` is
    missing where there is none, and `predictions` is a file relative to the folder, or empty.
    """
    plan, lines = result.plan, []
    for row in rows(result):
        name = f"{row.name}, {row.note}" if row.beside and row.note != "context" else row.name
        files = () if row.beside else getattr(row.of, "files", ())
        for split in range(max(map(len, row.of.values.values()))):  # context: of the first repeat alone
            place = (name, plan.conditions.repeat_of(split), split)
            file = files[split] if files else ""
            for each in plan.measures:
                value = row.of.values[each.name][split] if each.name in row.of.values else math.nan
                lines.append((*place, each.name, float(value), each.better, file))
    return pd.DataFrame(lines, columns=list(COLUMNS))


def predictions(result: "Result") -> pd.DataFrame:
    """Return one row per candidate, split and test row.

    Columns: `candidate`, `repeat`, `split`, `row` (from 0, of the data), `place` (where that row is, in words),
    `target` and `predicted` (names of classes; predicted is the likeliest by the raw probabilities, missing if
    training diverged), `p_CLASS` for each class (raw probability) and `calibrated_p_CLASS` (of the labels that
    `nll_of` says). Plain cross entropy comes first.
    """
    dataset, repeat_of = result.plan.conditions.dataset, result.plan.conditions.repeat_of
    classes, frames = np.array(dataset.classes, dtype=object), []
    for outcome in result.outcomes:
        pooled, seen = outcome.pooled, outcome.predictions
        known = np.isfinite(seen.probs).all(axis=1)
        columns = {
            "candidate": outcome.candidate.name,
            "repeat": [repeat_of(int(split)) for split in pooled.split],
            "split": pooled.split,
            "row": pooled.rows,
            "place": [dataset.place(int(row)) for row in pooled.rows],
            "target": classes[seen.target],
            "predicted": np.where(known, classes[seen.probs.argmax(axis=1)], None),
        }
        columns |= {f"p_{name}": column for name, column in zip(classes, seen.probs.T, strict=True)}
        columns |= {f"calibrated_p_{name}": column for name, column in zip(classes, seen.calibrated.T, strict=True)}
        frames.append(pd.DataFrame(columns).sort_values(["split", "row"]))
    return pd.concat(frames, ignore_index=True)


def write(result: "Result", verdict: "Verdict", files: Mapping[str, str]) -> None:
    """Write the matrices, the table and the report, those of them that have a place among the files."""
    write_matrices(result.plan)
    if "results" in files:
        write_table(result, Path(files["results"]))
    if "report" in files:
        write_report(result, verdict, Path(files["report"]))


def require_ours(out: Path) -> None:
    """Raise where a report would replace somebody's own page.

    Raises:
        ValueError: If there is a report.html that this package did not write.
    """
    path = out / "report.html"
    if path.exists() and not is_ours(path):
        raise ValueError(
            f"out must not have a report.html of another origin, got {str(path)!r}; move it, or give another folder"
        )


def write_table(result: "Result", path: Path) -> None:
    """Write the table as CSV; text that a spreadsheet would compute has a quote in front of it."""
    found = table(result)
    for name in ("objective", "predictions"):
        found[name] = [f"'{text}" if text.startswith(FORMULA) else text for text in found[name]]
    write_atomically(path, found.to_csv(index=False, lineterminator="\n").encode(errors="backslashreplace"))


def write_matrices(plan: "Plan") -> None:
    """Write the matrices in the order of the classes, for the code to paste; nothing without a folder."""
    for name, matrix in plan.matrices.items() if plan.out is not None else ():
        buffer = io.BytesIO()
        np.save(buffer, matrix)
        path = plan.out / "trials" / f"{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, buffer.getvalue())


def summary(result: "Result", verdict: "Verdict", files: Mapping[str, str]) -> dict[str, Any]:
    """Return the result as JSON can hold it; what is not a number is null."""
    plan, settings = result.plan, result.plan.settings
    dataset, sizes = plan.conditions.dataset, plan.conditions.splits[0]
    own = ("width", "lr", "weight_decay")
    return _plain({
        "verdict": verdict.sentence,
        "others": verdict.others,
        "call": verdict.call,
        "winner": verdict.winner.candidate.name,
        "against": verdict.against,
        "choice": verdict.choice,
        "nll_of": result.nll_of,
        "code": verdict.code,
        "data": {
            "name": dataset.name,
            "rows": len(dataset.labels),
            "columns": math.prod(dataset.features.shape[1:]),
            "classes": dataset.classes,
            "train": len(sizes.train),
            "validation": len(sizes.validation),
            "test": len(sizes.test),
            "notes": dataset.notes,
            "noise": asdict(result.noise),
        },
        "noise": noise_words(result),
        "warnings": plan.warnings,
        "decision_gain": decision_gain_words(result),
        "costs_from": plan.costs_from,
        "folds": settings.folds,
        "repeats": settings.repeats,
        "splits": len(plan.conditions.splits),
        "one_test": plan.one_test,
        "worthwhile": {name: worthwhile(result, name) for name in plan.deciding},
        "training": settings.of_training | {name: getattr(settings, name) for name in own},
        "versions": dict(plan.versions),
        "trials": {"all": result.trials, "reused": result.reused},
        "files": dict(files),
        "objectives": [_objective(result, outcome) for outcome in result.outcomes],
        "last_epoch": _objective(result, last_epoch(result)),
        "context": [
            {"name": row.name, "measures": {key: _values(values) for key, values in row.values.items()}}
            for row in result.context
        ],
    })  # fmt: skip


def _objective(result: "Result", outcome: "Outcome") -> dict[str, Any]:
    """Return an objective: lists have an entry for each split."""
    found = {name: asdict(each) for name, each in outcome.differences.items()}
    return {
        "objective": outcome.candidate.name,
        "epoch": [record.epoch for record in outcome.records],
        "temperature": [record.temperature for record in outcome.records],
        "noise": [record.noise for record in outcome.records],
        "settings": [asdict(record.setting) for record in outcome.records],
        "ece_by_chance": dict(zip(("median", "95%"), outcome.chance_ece(), strict=True)),
        "diverged": outcome.diverged,
        "measures": {
            each.name: _values(outcome.values[each.name]) | {"difference": found.get(each.name)}
            for each in result.plan.measures
        },
    }


def _values(values: Any) -> dict[str, Any]:
    return {"mean": mean(values), "values": [float(value) for value in values]}


def _plain(value: Any) -> Any:
    """Return dictionaries, lists, text and numbers; None for a number that is not finite."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
