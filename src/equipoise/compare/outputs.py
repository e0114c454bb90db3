"""What a finished comparison leaves: a tidy table, a summary for machines, and the matrices it used."""

import csv
import io
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from equipoise.compare.data import Split, split
from equipoise.compare.experiment import Outcome, Plan, Result, free_rule
from equipoise.compare.store import write_atomically
from equipoise.compare.verdict import Verdict

__all__ = ["free_rule_words", "noise_words", "parts_of", "summary", "write_matrices", "write_table"]

COLUMNS = ("objective", "seed", "measure", "value", "better", "predictions")


def write_table(result: Result, path: Path) -> None:
    """Write one row per objective, seed and measure; `predictions` is relative to the table."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for outcome in result.outcomes:
        for seed, key in enumerate(outcome.candidate.keys):
            predictions = result.plan.store.predictions(key).relative_to(result.plan.out)
            for measure in result.plan.measures:
                value = float(outcome.values[measure.name][seed])
                shown = "" if math.isnan(value) else repr(value)
                row = (
                    outcome.candidate.spec,
                    seed,
                    measure.name,
                    shown,
                    measure.better or "",
                    predictions.as_posix(),
                )
                writer.writerow(row)
    write_atomically(path, buffer.getvalue().encode())


def write_matrices(plan: Plan) -> None:
    """Write the matrices in the order of the classes, for the code to paste."""
    for name, matrix in plan.matrices.items():
        buffer = io.BytesIO()
        np.save(buffer, matrix)
        write_atomically(plan.out / f"{name}.npy", buffer.getvalue())


def summary(result: Result, verdict: Verdict, files: dict[str, str]) -> dict[str, Any]:
    """The result as JSON can hold it; what is not a number is null."""
    plan = result.plan
    dataset = plan.conditions.dataset
    sizes = parts_of(plan)
    return {
        "verdict": verdict.sentence,
        "others": verdict.others,
        "winner": verdict.winner.candidate.spec,
        "code": verdict.code,
        "command": plan.settings.command,
        "data": {
            "name": dataset.name,
            "rows": len(dataset.labels),
            "columns": dataset.features.shape[1],
            "classes": list(dataset.classes),
            "train": len(sizes.train),
            "validation": len(sizes.validation),
            "test": len(sizes.test),
            "notes": list(dataset.notes),
        },
        "noise": noise_words(result),
        "warnings": list(plan.warnings),
        "free_rule": free_rule_words(result),
        "costs_from": plan.costs_from,
        "seeds": plan.settings.seeds,
        "training": asdict(plan.settings.training),
        "versions": plan.shared["versions"],
        "trials": {"all": result.trials, "reused": result.reused},
        "files": files,
        "objectives": [
            {
                "objective": outcome.candidate.spec,
                "ece_by_chance": dict(
                    zip(("median", "95%"), map(_number, outcome.chance_ece()), strict=True)
                ),
                "diverged": outcome.diverged,
                "measures": {
                    measure.name: {
                        "mean": _number(outcome.mean(measure.name)),
                        "values": [_number(value) for value in outcome.values[measure.name]],
                        "difference": _difference(outcome, measure.name),
                    }
                    for measure in plan.measures
                },
            }
            for outcome in result.outcomes
        ],
    }


def noise_words(result: Result) -> str:
    """What was done to the labels, and the share that it changed."""
    if not result.plan.conditions.noisy:
        return "no labels flipped"
    share = np.mean([record["flipped"] for record in result.baseline.records])
    return (
        f"{100 * share:.0f} % of the training labels flipped (--noise {result.plan.settings.noise}), "
        "validation labels alike, test labels never"
    )


def free_rule_words(result: Result) -> str:
    """What deciding by cost alone is worth, in a sentence; empty without costs."""
    found = free_rule(result)
    if found is None:
        return ""
    before, after, difference = found
    sure = (
        f", 95 % interval of the difference {difference.low:+.3f} to {difference.high:+.3f}"
        if math.isfinite(difference.low)
        else ""
    )
    return (
        "Free of training: plain cross entropy costs "
        f"{before:.3f} when its likeliest class is taken and {after:.3f} when the class of smallest expected "
        f"cost is{sure}."
    )


def parts_of(plan: Plan) -> Split:
    """The parts of the first seed; all seeds have parts of the same sizes."""
    return split(plan.conditions.dataset, 0)


def _difference(outcome: Outcome, measure: str) -> dict[str, Any] | None:
    if measure not in outcome.differences:
        return None
    found = asdict(outcome.differences[measure])
    return {key: _number(value) if isinstance(value, float) else value for key, value in found.items()}


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
