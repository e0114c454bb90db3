"""Collection of a plan's trainings into a result: chosen settings, values, differences, noise."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from equipoise import calibration
from equipoise.compare.measures import Predictions
from equipoise.compare.plan import Plan
from equipoise.compare.records import Record, Setting, mean, value
from equipoise.compare.results import Context, Noise, Outcome, Pooled, Result, Values
from equipoise.compare.statistics import Difference, compare_paired, compare_rows, worthwhile_difference
from equipoise.compare.trial import Unit, measured, values_of
from equipoise.compare.tuning import choose

__all__ = ["collect"]


@dataclass(frozen=True)
class _Chosen:
    """Records of a candidate, and the unit of each."""

    records: tuple[Record, ...]
    units: tuple[Unit, ...]


def collect(plan: Plan, reused: int) -> Result:
    """Return the result, from the stored trainings."""
    chosen = [_choose(plan, place) for place in range(len(plan.candidates))]
    if not all(record.finite for record in chosen[0].records):
        raise FloatingPointError(
            "plain cross entropy must have finite logits, got infinite ones; lower lr from "
            f"{plan.settings.lr:g}"
        )
    values = [_values(plan, [record.measures for record in each.records]) for each in chosen]
    pooled = [_pool(plan, each) for each in chosen]
    differences = _differences(plan, values, pooled)
    files = [tuple(_file(plan, unit) for unit in each.units) for each in chosen]
    records = [each.records for each in chosen]
    outcomes = tuple(map(Outcome, plan.candidates, records, values, differences, pooled, files))
    return Result(
        plan, outcomes, _last_epoch(plan, chosen[0]), _context(plan), _noise(plan, chosen[0]), reused
    )


def _choose(plan: Plan, place: int) -> _Chosen:
    """Choose, for each split, the setting with the best score on the validation rows of the split."""
    units = [unit for unit in plan.units if unit.of == place]
    tried = max(unit.tried for unit in units) + 1
    found = {(unit.tried, record.split): (record, unit) for unit in units for record in _read(plan, unit.key)}
    splits = range(len(plan.conditions.splits))
    best = choose(np.array([[found[each, split][0].score for split in splits] for each in range(tried)]))
    records, chosen = zip(*(found[int(best[split]), split] for split in splits), strict=True)
    return _Chosen(records, chosen)


def _values(plan: Plan, found: Sequence[dict[str, float | None]]) -> Values:
    return {m.name: np.array([value(each, m.name) for each in found]) for m in plan.measures}


def _differences(
    plan: Plan, values: Sequence[Values], pooled: Sequence[Callable[[], Pooled]]
) -> list[dict[str, Difference]]:
    """Return the difference from plain cross entropy, for each candidate and measure."""
    found: list[dict[str, Difference]] = [{} for _ in values]
    comparisons = (len(values) - 1) * len(plan.deciding)
    dataset, settings = plan.conditions.dataset, plan.settings
    for measure in plan.measures:
        name = measure.name
        better = measure.better if name in plan.deciding else None
        least = worthwhile_difference(settings.worthwhile, name, mean(values[0][name]))
        if not plan.one_test:
            numbers = [each[name] for each in values]
            compared = compare_paired(
                numbers[1:],
                numbers[0],
                better,
                test_ratio=plan.test_ratio,
                worthwhile=least,
                comparisons=comparisons,
                repeats=settings.repeats,
                rows=len(dataset.labels),
            )
        elif measure.rows is not None:
            rows = np.unique(pooled[0]().rows)
            scores = [each().by_training(measure.rows) for each in pooled]
            groups = None if dataset.groups is None else dataset.groups[rows]
            compared = compare_rows(
                scores[1:], scores[0], better, worthwhile=least, comparisons=comparisons, groups=groups
            )
        else:
            means = [mean(each[name]) for each in values]
            reason = "it is no mean over rows, and there is one test part"
            compared = [Difference(each - means[0], np.nan, np.nan, None, reason) for each in means[1:]]
        for place, difference in enumerate(compared, start=1):
            found[place][name] = difference
    return found


def _pool(plan: Plan, chosen: _Chosen, *, last: bool = False) -> Callable[[], Pooled]:
    """Return a function that reads the test predictions of all splits."""

    def load() -> Pooled:
        kept = {key: plan.store.arrays(key) for key in {unit.key for unit in chosen.units}}
        parts, rows, places = [], [], []
        for record, unit in zip(chosen.records, chosen.units, strict=True):
            arrays = kept[unit.key]
            at = arrays["split"] == record.split
            logits = torch.from_numpy(arrays["last_logits" if last else "logits"][at])
            fit = calibration.Calibration(record.temperature, record.noise, None, logits.shape[1])
            parts.append(measured(logits, arrays["target"][at], plan.conditions, None if last else fit))
            rows.append(arrays["row"][at])
            places.append(arrays["split"][at])
        probs, calibrated, target = (
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("probs", "calibrated", "target")
        )
        seen = Predictions(probs, calibrated, target, plan.conditions.costs)
        return Pooled(seen, np.concatenate(rows), np.concatenate(places))

    return load


def _last_epoch(plan: Plan, baseline: _Chosen) -> Outcome:
    """Return plain cross entropy after its last epoch, in the same settings, not calibrated."""
    load = _pool(plan, baseline, last=True)
    pooled = load()
    found = []
    for record in baseline.records:
        own, seen = pooled.split == record.split, pooled.predictions
        found.append(
            values_of(Predictions(seen.probs[own], seen.calibrated[own], seen.target[own], seen.costs))
        )
    return Outcome(plan.candidates[0], baseline.records, _values(plan, found), {}, load)


def _context(plan: Plan) -> tuple[Context, ...]:
    """Return the context models."""
    records = [plan.store.read(key) or {} for key in plan.context_keys]
    return tuple(Context(name, _values(plan, [each[name] for each in records])) for name in records[0])


def _noise(plan: Plan, baseline: _Chosen) -> Noise:
    """Return the share of wrong labels, fitted to the validation rows of all splits, each row once."""
    logits, labels, rows = [], [], []
    kept = {key: plan.store.arrays(key) for key in {unit.key for unit in baseline.units}}
    for record, unit in zip(baseline.records, baseline.units, strict=True):
        arrays = kept[unit.key]
        at = arrays["validation_split"] == record.split
        logits.append(arrays["validation_logits"][at].astype(np.float64) / record.temperature)
        labels.append(arrays["validation_target"][at])
        rows.append(arrays["validation_row"][at])
    weight = 1 / np.bincount(np.concatenate(rows))[np.concatenate(rows)]
    joined = [torch.from_numpy(np.concatenate(each)) for each in (logits, labels)]
    fit = calibration.fit(*joined, sample_weight=torch.from_numpy(weight))
    return Noise(fit.noise, *(fit.noise_interval or (fit.noise, fit.noise)))


def _read(plan: Plan, key: str) -> list[Record]:
    kept = plan.store.read(key)
    if kept is None:
        raise OSError(
            f"a stored training must be readable, got a damaged {plan.store.path(key)}; make the same call "
            "again"
        )
    return [Record(**(each | {"setting": Setting(**each["setting"])})) for each in kept["records"]]


def _file(plan: Plan, unit: Unit) -> str:
    """Return the file with the predictions of a unit, relative to the folder."""
    path = plan.store.path(unit.key)
    return "" if plan.out is None or path is None else path.relative_to(plan.out).as_posix()
