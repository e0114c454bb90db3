"""What the report, the terminal and the JSON say of a result in words, so that they say it alike."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from equipoise.compare.measures import Measure, chance_calibration_errors
from equipoise.compare.statistics import Difference, compare_paired, compare_rows
from equipoise.losses import LOSSES

if TYPE_CHECKING:
    from equipoise.compare.results import Outcome, Result
    from equipoise.compare.verdict import Verdict

__all__ = [
    "calibration_words",
    "cautions",
    "chance_ece",
    "deciding",
    "decision_gain",
    "decision_gain_words",
    "found_words",
    "is_proper",
    "last_epoch_name",
    "nll_words",
    "noise_words",
    "remarks",
    "scope_words",
    "sharper_than_the_data",
    "splits_words",
    "worthwhile",
]

COMMONEST = "commonest class"  # name of the context row that every model must beat
CHANCE_DRAWS = 200


def deciding(result: "Result") -> tuple[Measure, ...]:
    """Return the measures in which candidates are called better, equal, worse or undecided."""
    return tuple(
        measure
        for measure in result.plan.measures
        if any(outcome.call(measure.name) is not None for outcome in result.outcomes[1:])
    )


def worthwhile(result: "Result", measure: str) -> float:
    """Return the smallest difference worth having in a measure; 0 where none was given."""
    return float(dict(result.plan.settings.worthwhile).get(measure, 0.0))


def last_epoch_name(result: "Result") -> str:
    """Return what the row of plain cross entropy at its last epoch is called."""
    return f"{result.last_epoch.candidate.spec}, last epoch, not calibrated"


def is_proper(loss: Any) -> bool:
    """Return whether a loss is smallest at the true probabilities; False where that is not known."""
    table = {entry.make: entry for entry in LOSSES}
    for coefficient, term in loss.terms():
        entry = table.get(type(term))
        try:
            if entry is None or not float(coefficient) > 0 or not entry.proper(term):
                return False
        except (TypeError, ValueError):  # a number that is a schedule compares with nothing
            return False
    return True


def noise_words(result: "Result") -> str:
    """Return what the command did to the labels, and to what share of them."""
    plan = result.plan
    if not plan.conditions.noisy:
        return "no labels flipped"
    labels, matrix = plan.conditions.dataset.labels, plan.conditions.noise
    share = float(np.mean(1 - matrix.diagonal()[labels]))
    return (
        f"about {100 * share:.0f} % of the training and validation labels flipped "
        f"(--noise {plan.settings.noise}), test labels never"
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
        "calibrated NLL is that of the observed labels (`observed_probs`), since the test labels are taken to "
        "be like the others"
    )


def scope_words(result: "Result") -> str:
    """Return what the intervals speak of, where that is less than one expects; else an empty string."""
    if not result.plan.one_test:
        return ""
    return (
        "There is one test part, so the intervals speak of these test rows only, not of other training data "
        "from the same source"
    )


def splits_words(result: "Result") -> str:
    """Return how the rows were shared out."""
    plan, settings = result.plan, result.plan.settings
    times = f", {settings.repeats} times" if settings.repeats > 1 else ""
    if plan.one_test:
        trainings = f"{len(plan.splits)} trainings" if len(plan.splits) > 1 else "one training"
        return f"one test part, {trainings}"
    return f"{settings.folds}-fold cross-validation{times}"


def calibration_words(result: "Result") -> str:
    """Return when probabilities of the clean label may be used."""
    return (
        "`probs`, the probabilities of the clean label, are right only where labels are known to be noisy. "
        "Where labels are clean but ambiguous, the sharpness of a loss that is not proper passes for noise: "
        "there use `observed_probs`"
    )


def chance_ece(outcome: "Outcome") -> tuple[float, float]:
    """Return median and 95 % value of the mean calibration error that a calibrated model shows by chance.

    The labels of each split are drawn from the probabilities of that split.
    """
    errors = []
    for place in range(len(outcome.records)):
        probs = outcome.predictions.probs[outcome.split == place]
        if len(probs) and np.isfinite(probs).all():
            errors.append(chance_calibration_errors(probs, CHANCE_DRAWS, place))
    if not errors:
        return math.nan, math.nan
    means = np.mean(errors, axis=0)
    return float(np.median(means)), float(np.quantile(means, 0.95))


def decision_gain(result: "Result") -> tuple[float, float, Difference] | None:
    """Return the mean cost of plain cross entropy, likeliest and cheapest class taken, and the difference.

    None without costs. This is what a decision by cost is worth before anything is trained differently.
    """
    plan, plain = result.plan, result.baseline
    if plan.costs_from is None:
        return None
    likeliest, cheapest = (plain.values[name] for name in ("cost", "decided_cost"))
    if plan.one_test:
        rows = {measure.name: measure.rows for measure in plan.measures}
        before, after = (_rows(plain, rows[name]) for name in ("cost", "decided_cost"))
        groups = plan.conditions.dataset.groups
        grouped = None if groups is None else groups[plain.rows[plain.split == 0]]
        (difference,) = compare_rows([after], before, "lower", groups=grouped)
    else:
        (difference,) = compare_paired([cheapest], likeliest, "lower", test_ratio=plan.test_ratio)
    return float(np.nanmean(likeliest)), float(np.nanmean(cheapest)), difference


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
    """Return what a reader has to know before using the answer, a sentence without its full stop each."""
    found = []
    if scope := scope_words(result):
        found.append(scope)
    commonest = next((row for row in result.context if row.name == COMMONEST), None)
    if commonest is not None:
        share = _mean(commonest.values["accuracy"])
        idle = [each.candidate.spec for each in result.outcomes if each.mean("accuracy") <= share]
        if idle:
            found.append(f"No better than always the {COMMONEST} ({100 * share:.1f} %): {', '.join(idle)}")
    if any(verdict.winner is each for each in sharper_than_the_data(result)):
        found.append(calibration_words(result))
    return found


def remarks(result: "Result") -> list[str]:
    """Return what else is worth knowing of candidates, a sentence without its full stop each."""
    return [words for outcome in result.outcomes[1:] if (words := _temperature_words(outcome))]


def sharper_than_the_data(result: "Result") -> list["Outcome"]:
    """Return the candidates that are not proper and whose fit finds more noise than the data have."""
    return [
        outcome
        for outcome in result.outcomes[1:]
        if not is_proper(outcome.candidate.loss)
        and _mean([record.noise for record in outcome.records]) > result.noise.high + 0.05
    ]


def _temperature_words(outcome: "Outcome") -> str:
    """Return that a candidate does only what a temperature does, where it does; else an empty string."""
    raw, calls = outcome.differences.get("nll"), {outcome.call("accuracy"), outcome.call("calibrated_nll")}
    if raw is None or not raw.high < 0 or not calls <= {"equal", "undecided"}:
        return ""
    spec = outcome.candidate.spec
    if calls == {"equal"}:
        return (
            f"{spec} does only what a temperature does: its raw NLL is lower, after calibration it is equal"
        )
    return (
        f"{spec} may do only what a temperature does: its raw NLL is lower, after calibration no difference is "
        "shown"
    )


def _rows(outcome: "Outcome", scores: Any) -> Any:
    """Return the scores of each training's test rows, (R, M)."""
    return scores(outcome.predictions).reshape(len(outcome.records), -1)


def _mean(values: Any) -> float:
    """Return the mean of the values that are finite; nan without any."""
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known)]
    return float(known.mean()) if len(known) else math.nan
