"""Outputs of a comparison: data frames of values and predictions, a JSON summary, and files."""

import math
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from equipoise.compare.records import mean
from equipoise.compare.results import Context, Outcome, Result
from equipoise.compare.sentences import caution, decision_gain_words, noise_words
from equipoise.compare.store import write_atomically
from equipoise.compare.verdict import Verdict
from equipoise.compare.views import last_epoch, rows, worthwhile

__all__ = ["predictions", "summary", "table", "write_table"]

COLUMNS = ("objective", "repeat", "split", "measure", "value", "better", "predictions")
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # first characters of a formula in a spreadsheet


def table(result: Result) -> pd.DataFrame:
    """Return a data frame with a row per objective, split and measure.

    Plain cross entropy at its last epoch and the context models have separate names. `value` may be missing;
    `predictions` is a file relative to the folder, or empty.
    """
    plan, lines = result.plan, []
    for row in rows(result):
        files = row.of.files if isinstance(row.of, Outcome) and not row.beside else ()
        for split in range(max(map(len, row.of.values.values()))):  # context models: first repeat only
            place = (row.title, plan.conditions.repeat_of(split), split)
            file = files[split] if files else ""
            for each in plan.measures:
                value = row.of.values[each.name][split] if each.name in row.of.values else math.nan
                lines.append((*place, each.name, float(value), each.better, file))
    return pd.DataFrame(lines, columns=list(COLUMNS))


def predictions(result: Result) -> pd.DataFrame:
    """Return a data frame with a row per candidate, split and test row.

    Columns: `candidate`, `repeat`, `split`, `row` (from 0, of the data), `place` (that row in words),
    `target` and `predicted` (names of classes; the likeliest one by raw probabilities, missing if training
    diverged), for each class `p_CLASS` (raw probability) and `calibrated_p_CLASS` (of the labels given by
    `nll_of`).
    """
    dataset, repeat_of = result.plan.conditions.dataset, result.plan.conditions.repeat_of
    classes, frames = np.array(dataset.classes, dtype=object), []
    places = np.array([dataset.place(row) for row in range(len(dataset.labels))], dtype=object)
    for outcome in result.outcomes:
        pooled, seen = outcome.pooled, outcome.predictions
        known = np.isfinite(seen.probs).all(axis=1)
        columns = {
            "candidate": outcome.candidate.name,
            "repeat": [repeat_of(int(split)) for split in pooled.split],
            "split": pooled.split,
            "row": pooled.rows,
            "place": places[pooled.rows],
            "target": classes[seen.target],
            "predicted": pd.Series(classes[seen.probs.argmax(axis=1)]).where(known),
        }
        for prefix, probs in (("p_", seen.probs), ("calibrated_p_", seen.calibrated)):
            columns |= {f"{prefix}{name}": probs[:, place] for place, name in enumerate(classes)}
        frames.append(pd.DataFrame(columns).sort_values(["split", "row"]))
    return pd.concat(frames, ignore_index=True)


def write_table(result: Result, path: Path) -> None:
    """Write the table as CSV; text that a spreadsheet would take for a formula gets a leading quote."""
    found = table(result)
    found["objective"] = [f"'{text}" if text.startswith(FORMULA) else text for text in found["objective"]]
    write_atomically(path, found.to_csv(index=False, lineterminator="\n").encode(errors="backslashreplace"))


def summary(result: Result, verdict: Verdict, files: Mapping[str, str]) -> dict[str, Any]:
    """Return the result as JSON values, with None for nan and infinity."""
    plan, settings = result.plan, result.plan.settings
    dataset, sizes = plan.conditions.dataset, plan.conditions.splits[0]
    training = {name: getattr(settings, name) for name in ("width", "lr", "weight_decay")}
    found = {
        "verdict": verdict.sentence,
        "others": verdict.others,
        "caution": caution(result, verdict.winner),
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
            "noise": result.noise,
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
        "training": settings.of_training | training,
        "versions": plan.versions,
        "trials": {"all": result.trials, "reused": result.reused},
        "files": files,
        "objectives": [_objective(outcome) for outcome in result.outcomes],
        "last_epoch": _objective(last_epoch(result)),
        "context": [{"name": each.name, "measures": _values(each)} for each in result.context],
    }
    return _plain(found)


def _objective(outcome: Outcome) -> dict[str, Any]:
    """Return the values of an objective; lists have an entry per split."""
    records, values = outcome.records, _values(outcome)
    for name in values:
        values[name]["difference"] = outcome.differences.get(name)
    return {
        "objective": outcome.candidate.name,
        **{key: [getattr(each, key) for each in records] for key in ("epoch", "temperature", "noise")},
        "settings": [record.setting for record in records],
        "ece_by_chance": dict(zip(("median", "95%"), outcome.chance_ece(), strict=True)),
        "diverged": outcome.diverged,
        "measures": values,
    }


def _values(of: Outcome | Context) -> dict[str, dict[str, Any]]:
    return {name: {"mean": mean(each), "values": each.tolist()} for name, each in of.values.items()}


def _plain(value: Any) -> Any:
    """Return dictionaries, lists, text and numbers; None for a number that is not finite."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
