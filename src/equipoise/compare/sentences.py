"""What the report, the terminal and the JSON say of a result in words, so that they say it alike."""

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from equipoise.compare.records import mean
from equipoise.compare.statistics import Difference, compare_paired, compare_rows, worthwhile_difference
from equipoise.losses import LOSSES

if TYPE_CHECKING:
    from equipoise.compare.measures import Measure
    from equipoise.compare.plan import Candidate
    from equipoise.compare.results import Outcome, Result
    from equipoise.compare.verdict import Verdict

__all__ = [
    "calibration_words",
    "cautions",
    "deciding",
    "decision_gain",
    "decision_gain_words",
    "found_words",
    "is_proper",
    "last_epoch",
    "last_epoch_name",
    "nll_words",
    "noise_words",
    "sharper_than_the_data",
    "splits_words",
    "worthwhile",
]


def deciding(result: "Result") -> tuple["Measure", ...]:
    """Return the measures in which candidates are called better, equal, worse or undecided."""
    return tuple(measure for measure in result.plan.measures if measure.name in result.plan.deciding)


def worthwhile(result: "Result", measure: str) -> float:
    """Return the smallest difference worth having in a measure; 0 where none was given."""
    given = dict(result.plan.settings.worthwhile)
    return worthwhile_difference(given, measure, result.baseline.mean(measure))


def last_epoch_name(result: "Result") -> str:
    """Return what the row of plain cross entropy at its last epoch is called."""
    return f"{result.last_epoch.candidate.spec}, last epoch, not calibrated"


def last_epoch(result: "Result") -> "Outcome":
    """Return plain cross entropy at its last epoch, with that epoch and no calibration in its records."""
    last = result.last_epoch
    records = [
        replace(record, epoch=int(record.curve[-1]["epoch"] or 0), temperature=1.0, noise=0.0, chance_ece=[])
        for record in last.records
    ]
    return replace(last, records=tuple(records))


def is_proper(candidate: "Candidate") -> bool:
    """Return whether a loss is smallest at the true probabilities; False where that is not known."""
    if any(unit.spelled.schedules for units in candidate.units for unit in units):
        return False
    table = {entry.make: entry for entry in LOSSES}
    for coefficient, term in candidate.loss.terms():
        entry = table.get(type(term))
        if entry is None or not float(coefficient) > 0 or not entry.proper(term):
            return False
    return True


def noise_words(result: "Result") -> str:
    """Return what the command did to the labels, and to what share of them."""
    if not result.plan.conditions.noisy:
        return "no labels flipped"
    share = mean([record.flipped for record in result.baseline.records])
    return (
        f"{100 * share:.0f} % of the training labels flipped (--noise {result.plan.settings.noise}), "
        "validation labels alike, test labels never"
    )


def found_words(result: "Result") -> str:
    """Return the share of wrong labels in the data, with its interval."""
    found = result.noise
    if not math.isfinite(found.rate):
        return "wrong labels found: unknown"
    ends = (
        f" (95 % interval {100 * found.low:.1f} to {100 * found.high:.1f} %)"
        if math.isfinite(found.low) and math.isfinite(found.high)
        else ""
    )
    flipped = ", flipped ones included" if result.plan.conditions.noisy else ""
    return f"wrong labels found: {100 * found.rate:.1f} %{ends}{flipped}"


def nll_words(result: "Result") -> str:
    """Return of which labels the calibrated NLL is."""
    if result.nll_of == "clean":
        return (
            "calibrated NLL is that of the clean labels (`probs`), since the test labels are known to be "
            "better than those of training"
        )
    return (
        "calibrated NLL is that of the observed labels (`observed_probs`), since the test labels are taken "
        "to be like the others"
    )


def splits_words(result: "Result") -> str:
    """Return how the rows were shared out."""
    plan, settings = result.plan, result.plan.settings
    times = f", {settings.repeats} times" if settings.repeats > 1 else ""
    if plan.one_test:
        return f"one test part, {settings.repeats} trainings" if settings.repeats > 1 else "one test part"
    return f"{settings.folds}-fold cross-validation{times}"


def calibration_words() -> str:
    """Return when probabilities of the clean label may be used."""
    return (
        "`probs`, the probabilities of the clean label, are right only where labels are known to be noisy. "
        "Where labels are clean but ambiguous, the sharpness of a loss that is not proper passes for noise: "
        "there use `observed_probs`"
    )


def decision_gain(result: "Result") -> tuple[float, float, Difference] | None:
    """Return the mean cost of plain cross entropy, likeliest and cheapest class taken, and the difference.

    None without costs. This is what a decision by cost is worth before anything is trained differently.
    """
    plan, plain = result.plan, result.baseline
    if plan.costs_from is None:
        return None
    likeliest, cheapest = (plain.values[name] for name in ("cost", "decided_cost"))
    if plan.one_test:
        rows = {each.name: each.rows for each in plan.measures if each.rows is not None}
        before, after = (plain.pooled.by_training(rows[name]) for name in ("cost", "decided_cost"))
        groups = plan.conditions.dataset.groups
        grouped = None if groups is None else groups[np.unique(plain.pooled.rows)]
        (difference,) = compare_rows([after], before, "lower", groups=grouped)
    else:
        (difference,) = compare_paired(
            [cheapest], likeliest, "lower", test_ratio=plan.test_ratio, repeats=plan.settings.repeats
        )
    return mean(likeliest), mean(cheapest), difference


def decision_gain_words(result: "Result") -> str:
    """Return what deciding by cost alone is worth, in a sentence; empty without costs."""
    found = decision_gain(result)
    if found is None:
        return ""
    before, after, difference = found
    sure = (
        f", 95 % interval of the difference {difference.low:+.3f} to {difference.high:+.3f}"
        if math.isfinite(difference.low)
        else ""
    )
    return (
        "Without another training: plain cross entropy costs "
        f"{before:.3f} when its likeliest class is taken and {after:.3f} when the class of smallest expected "
        f"cost is{sure}."
    )


def cautions(result: "Result", verdict: "Verdict") -> list[str]:
    """Return what a reader has to know before using the winner, a sentence without its full stop each."""
    if not any(verdict.winner is each for each in sharper_than_the_data(result)):
        return []
    return [
        f"the calibration of {verdict.winner.candidate.spec} finds more noise than the data have, which is "
        f"its sharpness. {calibration_words()}"
    ]


def sharper_than_the_data(result: "Result") -> list["Outcome"]:
    """Return the candidates that are not proper and whose fit finds more noise than the data have."""
    return [
        outcome
        for outcome in result.outcomes[1:]
        if not is_proper(outcome.candidate)
        and mean([record.noise for record in outcome.records]) > result.noise.high + 0.05
    ]
