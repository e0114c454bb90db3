"""Sentences about a result, shared by the report, the terminal and the JSON."""

import math

import numpy as np

from equipoise.compare.codes import with_code
from equipoise.compare.objectives import Candidate
from equipoise.compare.records import mean
from equipoise.compare.results import Outcome, Result
from equipoise.compare.statistics import Difference, compare_paired, compare_rows
from equipoise.compare.views import cell, measures
from equipoise.losses import LOSSES

__all__ = ["PROBS", "SIMILARITY_COSTS", "caution", "decision_gain", "decision_gain_words"]
__all__ += ["found_words", "is_proper", "nll_words", "noise_words", "sharper_than_the_data", "splits_words"]

PROBS = (
    "Use `probs`, the probabilities of the clean label, only if labels are known to be noisy. "
    "For clean but ambiguous labels, the fit takes the sharpness of a loss that is not proper for noise: "
    "use `observed_probs`"
)
SIMILARITY_COSTS = "computed from the similarity: similarity[true, true] - similarity[true, predicted]"


def is_proper(candidate: Candidate) -> bool:
    """Return whether a loss is known to be proper: smallest at the true probabilities."""
    table = {entry.make: entry for entry in LOSSES}
    found = [(float(factor), term, table.get(type(term))) for factor, term in candidate.loss.terms()]
    known = all(factor > 0 and entry is not None and entry.proper(term) for factor, term, entry in found)
    return known and not candidate.schedules


def noise_words(result: Result) -> str:
    """Return a text about the labels that the comparison flipped."""
    if not result.plan.conditions.noisy:
        return "no labels flipped"
    share, given = mean([record.flipped for record in result.baseline.records]), result.plan.noise_name
    named_by = given if " " in given else f"noise={given}"
    flipped = f"{100 * share:.2g} % of the training labels flipped ({named_by})"
    return f"{flipped}, validation labels in the same way, no test labels"


def found_words(result: Result) -> str:
    """Return a text with the share of wrong labels in the data and its interval."""
    found = result.noise
    if not math.isfinite(found.rate):
        return "wrong labels found: unknown"
    ends = f" (95 % interval {100 * found.low:.1f} to {100 * found.high:.1f} %)"
    flipped = ", including flipped ones" if result.plan.conditions.noisy else ""
    return f"wrong labels found: {100 * found.rate:.1f} %{ends if math.isfinite(found.low) else ''}{flipped}"


def nll_words(result: Result) -> str:
    """Return a text about the labels of the calibrated NLL."""
    labels, probs, why = "observed", "observed_probs", "assumed to be as noisy as the others"
    if result.nll_of == "clean":
        labels, probs, why = "clean", "probs", "known to be cleaner than the training labels"
    return f"calibrated NLL is that of the {labels} labels (`{probs}`), since the test labels are {why}"


def splits_words(result: Result) -> str:
    """Return a text about the splits."""
    settings, repeats = result.plan.settings, result.plan.settings.repeats
    if result.plan.one_test:
        return f"one test part, {repeats} trainings" if repeats > 1 else "one test part"
    return f"{settings.folds}-fold cross-validation" + (f", {repeats} times" if repeats > 1 else "")


def decision_gain(result: Result) -> tuple[float, float, Difference] | None:
    """Return the mean costs of plain cross entropy, by likeliest and by cheapest class, and the difference.

    None without costs. The difference is the gain of decisions by cost without another training.
    """
    plan, plain = result.plan, result.baseline
    if plan.costs_from is None:
        return None
    names = ("cost", "decided_cost")
    likeliest, cheapest = (plain.values[name] for name in names)
    if plan.one_test:
        scores = [measures(result)[name].rows for name in names]
        before, after = (plain.pooled.by_training(rows) for rows in scores if rows is not None)
        groups = plan.conditions.dataset.groups
        grouped = None if groups is None else groups[np.unique(plain.pooled.rows)]
        [difference] = compare_rows([after], before, "lower", groups=grouped)
    else:
        [difference] = compare_paired(
            [cheapest], likeliest, "lower", test_ratio=plan.test_ratio, repeats=plan.settings.repeats
        )
    return mean(likeliest), mean(cheapest), difference


def decision_gain_words(result: Result) -> str:
    """Return a sentence about the gain of decisions by cost; empty without costs."""
    found = decision_gain(result)
    if found is None:
        return ""
    likeliest, cheapest, difference = found
    cost = measures(result)["cost"]
    interval = cell(cost, (), difference).interval
    sure = f", 95 % interval of the difference {interval}" if math.isfinite(difference.low) else ""
    return (
        f"Without another training: plain cross entropy costs {cost.show(likeliest)} with its likeliest "
        f"class and {cost.show(cheapest)} with the class of smallest expected cost{sure}."
    )


def sharper_than_the_data(result: Result) -> list[Outcome]:
    """Return the candidates not known to be proper whose fit finds more noise than the data have."""
    return [
        outcome
        for outcome in result.outcomes[1:]
        if not is_proper(outcome.candidate)
        and mean([record.noise for record in outcome.records]) > result.noise.high + 0.05
    ]


def caution(result: Result, winner: Outcome) -> str:
    """Return a warning for users of the winner, without a full stop; empty if there is none."""
    if not any(winner is each for each in sharper_than_the_data(result)):
        return ""
    return with_code(
        "EQ012",
        f"the calibration of {winner.candidate.name} finds more noise than the data have, because this loss "
        f"makes probabilities sharp. {PROBS}",
    )
