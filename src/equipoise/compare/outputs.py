"""What a finished comparison leaves: a tidy table, a summary for machines, and the matrices it used."""

import csv
import io
import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from equipoise.compare.records import mean
from equipoise.compare.sentences import (
    deciding,
    decision_gain_words,
    last_epoch,
    last_epoch_name,
    noise_words,
    worthwhile,
)
from equipoise.compare.store import write_atomically

if TYPE_CHECKING:
    from equipoise.compare.plan import Plan
    from equipoise.compare.results import Outcome, Record, Result
    from equipoise.compare.verdict import Verdict

__all__ = ["summary", "write_matrices", "write_table"]

COLUMNS = ("objective", "repeat", "split", "measure", "value", "better", "predictions")


def write_table(result: "Result", path: Path) -> None:
    """Write one row per objective, split and measure.

    Rows of plain cross entropy at its last epoch and of the context models have names of their own.
    `predictions` is relative to the table, and empty where none were kept.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    plan = result.plan
    for name, values, kept in _tabled(result):
        for split in range(len(kept)):
            for measure in plan.measures:
                value = float(values[measure.name][split]) if measure.name in values else math.nan
                shown = "" if math.isnan(value) else repr(value)
                place = (name, _repeat(plan, split), split, measure.name)
                writer.writerow((*place, shown, measure.better or "", kept[split]))
    write_atomically(path, buffer.getvalue().encode())


def _tabled(result: "Result") -> Iterator[tuple[str, Any, list[str]]]:
    """Yield name, values and files of predictions of everything in the table."""
    plan = result.plan
    for outcome in result.outcomes:
        yield outcome.candidate.spec, outcome.values, [_file(plan, outcome, each) for each in outcome.records]
    last = result.last_epoch
    yield last_epoch_name(result), last.values, [""] * len(last.records)
    for row in result.context:  # of the first repeat alone
        yield row.name, row.values, [""] * max(map(len, row.values.values()))


def _file(plan: "Plan", outcome: "Outcome", record: "Record") -> str:
    """Return where the predictions of a record are."""
    tried = outcome.candidate.units[_repeat(plan, record.split)]
    unit = next(each for each in tried if each.setting == record.setting)
    return plan.store.predictions(unit.key).relative_to(plan.out).as_posix()


def _repeat(plan: "Plan", split: int) -> int:
    """Return the repeat that a split belongs to."""
    return split // len(plan.conditions.of_repeat(0))


def write_matrices(plan: "Plan") -> None:
    """Write the matrices in the order of the classes, for the code to paste."""
    for name, matrix in plan.matrices.items():
        buffer = io.BytesIO()
        np.save(buffer, matrix)
        write_atomically(plan.out / f"{name}.npy", buffer.getvalue())


def summary(result: "Result", verdict: "Verdict", files: dict[str, str]) -> dict[str, Any]:
    """Return the result as JSON can hold it; what is not a number is null."""
    plan, settings = result.plan, result.plan.settings
    dataset, sizes = plan.conditions.dataset, plan.conditions.splits[0]
    return {
        "verdict": verdict.sentence,
        "others": verdict.others,
        "call": verdict.call,
        "winner": verdict.winner.candidate.spec,
        "against": verdict.against,
        "choice": list(verdict.choice),
        "nll_of": result.nll_of,
        "code": verdict.code,
        "command": settings.command,
        "data": {
            "name": dataset.name,
            "rows": len(dataset.labels),
            "columns": dataset.features.shape[1],
            "classes": list(dataset.classes),
            "train": len(sizes.train),
            "validation": len(sizes.validation),
            "test": len(sizes.test),
            "notes": list(dataset.notes),
            "noise": {name: _number(value) for name, value in asdict(result.noise).items()},
        },
        "noise": noise_words(result),
        "warnings": list(plan.warnings),
        "decision_gain": decision_gain_words(result),
        "costs_from": plan.costs_from,
        "folds": settings.folds,
        "repeats": settings.repeats,
        "splits": len(plan.conditions.splits),
        "one_test": plan.one_test,
        "worthwhile": {each.name: worthwhile(result, each.name) for each in deciding(result)},
        "training": asdict(settings.training),
        "versions": plan.shared["versions"],
        "trials": {"all": result.trials, "reused": result.reused},
        "files": files,
        "objectives": [_objective(result, outcome) for outcome in result.outcomes],
        "last_epoch": _objective(result, last_epoch(result)),
        "context": [
            {
                "name": row.name,
                "measures": {
                    name: {"mean": _number(mean(values)), "values": list(map(_number, values))}
                    for name, values in row.values.items()
                },
            }
            for row in result.context
        ],
    }


def _objective(result: "Result", outcome: "Outcome") -> dict[str, Any]:
    """Return an objective: lists have an entry for each split."""
    records = outcome.records
    return {
        "objective": outcome.candidate.spec,
        "epoch": [record.epoch for record in records],
        "temperature": [_number(record.temperature) for record in records],
        "noise": [_number(record.noise) for record in records],
        "settings": [asdict(record.setting) for record in records],
        "ece_by_chance": dict(zip(("median", "95%"), map(_number, outcome.chance_ece()), strict=True)),
        "diverged": outcome.diverged,
        "measures": {
            measure.name: {
                "mean": _number(outcome.mean(measure.name)),
                "values": [_number(value) for value in outcome.values[measure.name]],
                "difference": _difference(outcome, measure.name),
            }
            for measure in result.plan.measures
        },
    }


def _difference(outcome: "Outcome", measure: str) -> dict[str, Any] | None:
    if measure not in outcome.differences:
        return None
    found = asdict(outcome.differences[measure])
    return {key: _number(value) if isinstance(value, float) else value for key, value in found.items()}


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
