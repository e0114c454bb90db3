"""The answer in words: which objective to use, and how sure that is."""

from dataclasses import dataclass

import numpy as np

from equipoise.compare import spec
from equipoise.compare.experiment import Outcome, Plan, Result
from equipoise.compare.statistics import BETTER, FEWEST_SEEDS, WORSE

__all__ = ["Verdict", "deciding_measures", "judge"]


@dataclass(frozen=True)
class Verdict:
    """The answer.

    Attributes:
        winner: The objective to use; plain cross entropy if nothing is better.
        sentence: Why, for someone who has read nothing else.
        others: What else was found better, and what it loses, if anything.
        code: The winner as code to paste.
    """

    winner: Outcome
    sentence: str
    others: str
    code: str


def deciding_measures(plan: Plan) -> tuple[str, ...]:
    """The measures that decide: what decisions cost if costs are given, else NLL and accuracy."""
    return ("decided_cost",) if plan.costs_from == "costs" else ("nll", "accuracy")


def judge(result: Result) -> Verdict:
    """Choose the winner: better in a deciding measure, worse in none, and first by the first measure."""
    deciding = deciding_measures(result.plan)
    better = [
        outcome for outcome in result.outcomes[1:] if any(outcome.call(name) == BETTER for name in deciding)
    ]
    clean = [outcome for outcome in better if not any(outcome.call(name) == WORSE for name in deciding)]
    mixed = [outcome for outcome in better if outcome not in clean]
    winner = min(clean, key=lambda outcome: _rank(outcome, deciding)) if clean else result.baseline
    code = spec.paste(winner.candidate.spec, lambda name: str(result.plan.out / f"{name}.npy"))
    sentence = _praise(result, winner) if clean else _keep(result, mixed)
    return Verdict(
        winner, sentence, _others(result, [each for each in clean if each is not winner], mixed), code
    )


def _rank(outcome: Outcome, deciding: tuple[str, ...]) -> float:
    """Smaller is better: the first deciding measure, which is one where lower is better."""
    value = outcome.mean(deciding[0])
    return value if np.isfinite(value) else float("inf")


def _praise(result: Result, winner: Outcome) -> str:
    said = []
    for name in reversed(deciding_measures(result.plan)):
        measure = next(each for each in result.plan.measures if each.name == name)
        difference = winner.differences[name]
        mean, low, high = (
            measure.show_difference(v) for v in (difference.mean, difference.low, difference.high)
        )
        if difference.call != BETTER:
            said.append(f"{_plain(name)} is not shown to differ")
        elif measure.percent:
            said.append(
                f"{_plain(name)} is {mean.lstrip('+')} percentage points higher "
                f"(95 % interval {low} to {high})"
            )
        else:
            before, after = result.baseline.mean(name), winner.mean(name)
            said.append(
                f"{_plain(name)} falls from {measure.show(before)} to {measure.show(after)} "
                f"(95 % interval of the difference {low} to {high})"
            )
    return (
        f"Use {winner.candidate.spec}. Against plain cross entropy, on {_times(result)}, "
        + " and ".join(said)
        + "."
    )


def _keep(result: Result, mixed: list[Outcome]) -> str:
    count = len(result.outcomes) - 1
    tried = f"none of the {count} candidates" if count > 1 else result.outcomes[1].candidate.spec
    verb = "was" if count > 1 else "was not"
    measures = " or ".join(_plain(name) for name in reversed(deciding_measures(result.plan)))
    if result.plan.settings.seeds < FEWEST_SEEDS:
        return (
            f"Undecided, so keep plain cross entropy: {_times(result)} cannot tell a difference from luck; "
            f"use --seeds {FEWEST_SEEDS} or more, 8 if you can."
        )
    if mixed:
        return (
            f"Keep plain cross entropy: on {_times(result)}, what was better in one of {measures} was "
            "worse in another."
        )
    return f"Keep plain cross entropy: on {_times(result)}, {tried} {verb} shown to be better in {measures}."


def _others(result: Result, clean: list[Outcome], mixed: list[Outcome]) -> str:
    lines = []
    if clean:
        lines.append(
            "Also better than plain cross entropy: " + ", ".join(o.candidate.spec for o in clean) + "."
        )
    for outcome in mixed:
        calls = [f"{outcome.call(name)} in {_plain(name)}" for name in deciding_measures(result.plan)]
        lines.append(f"{outcome.candidate.spec} is {' but '.join(calls)}.")
    for outcome in result.outcomes:
        if outcome.diverged:
            lines.append(
                f"{outcome.candidate.spec} diverged in {outcome.diverged} of {len(outcome.records)} trials, "
                "which are left out of its numbers."
            )
    return " ".join(lines)


def _plain(name: str) -> str:
    """A measure in a sentence."""
    return {
        "nll": "surprise at the true classes (NLL)",
        "accuracy": "accuracy",
        "decided_cost": "the expected cost of its decisions",
    }[name]


def _times(result: Result) -> str:
    seeds = result.plan.settings.seeds
    return f"{seeds} random splits of the data" if seeds > 1 else "one random split of the data"
