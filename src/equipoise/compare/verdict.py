"""The answer in words: which objective to use, against what, by how much, how sure, and on what data."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from equipoise.compare import spec
from equipoise.compare.context import COMMONEST, TREES
from equipoise.compare.records import mean
from equipoise.compare.statistics import (
    BETTER,
    EQUAL,
    UNDECIDED,
    WORSE,
    Difference,
    compare_paired,
    worthwhile_difference,
)

if TYPE_CHECKING:
    from equipoise.compare.measures import Measure
    from equipoise.compare.results import Context, Outcome, Result

__all__ = ["AGAINST", "Verdict", "decide", "judge", "no_better_than_commonest", "temperature_only"]

AGAINST = "plain cross entropy, best epoch, calibrated"


@dataclass(frozen=True)
class Verdict:
    """The answer.

    Attributes:
        call: "better" if a candidate wins; else "equal" or "undecided".
        winner: The objective to use; plain cross entropy if no candidate wins.
        against: What the candidates are compared with.
        choice: Plain cross entropy and the candidates that are better in one deciding measure and worse in
            another, as texts, where no candidate wins and there are such; else empty.
        sentence: Why, for someone who has read nothing else.
        others: What else a reader must know of the candidates.
        code: The winner as code to paste.
    """

    call: str
    winner: "Outcome"
    against: str
    choice: tuple[str, ...]
    sentence: str
    others: str
    code: str


def decide(
    calls: Sequence[Sequence[str | None]], ranks: Sequence[tuple[float, str]]
) -> tuple[str, int | None, list[int]]:
    """Choose the winner from calls alone.

    A candidate wins that is better in a deciding measure and worse in none; of several, the one of the
    smallest rank. The call is then "better". Else it is "undecided" if a candidate is better in one measure
    and worse in another, "equal" if all calls are equal or worse, and "undecided" otherwise.

    Args:
        calls: For each candidate, its call in each deciding measure.
        ranks: For each candidate, its calibrated NLL or cost, and its text, which breaks ties.

    Returns:
        The call; the place of the winner, None for the baseline; the places of the candidates that leave a
        choice to the reader, the smallest rank first, where there is no winner.

    Example:
        >>> decide([["better", "undecided"], ["equal", "worse"]], [(0.3, "Brier()"), (0.4, "Focal()")])
        ('better', 0, [])
        >>> decide([["better", "worse"]], [(0.3, "Brier()")])
        ('undecided', None, [0])
    """
    by_rank = sorted(range(len(calls)), key=lambda place: ranks[place])
    better = [place for place in by_rank if BETTER in calls[place]]
    winners = [place for place in better if WORSE not in calls[place]]
    if winners:
        return BETTER, winners[0], []
    if better:
        return UNDECIDED, None, better
    settled = all(said in (EQUAL, WORSE) for each in calls for said in each)
    return (EQUAL if settled else UNDECIDED), None, []


def judge(result: "Result") -> Verdict:
    """Return the answer that a result gives; see `decide` for the rule."""
    deciding, candidates = result.plan.deciding, result.outcomes[1:]
    calls = [[each.call(name) for name in deciding] for each in candidates]
    said, place, mixed = decide(calls, [_rank(each, deciding[-1]) for each in candidates])
    winner = result.baseline if place is None else candidates[place]
    choice = [candidates[each] for each in mixed]
    if place is not None:
        sentence, named = _praise(result, winner), [winner]
    elif choice:
        sentence, named = _leave(result, choice), choice[:1]
    elif said == EQUAL:
        sentence, named = _keep(result), []
    else:
        nearest = min(candidates, key=lambda each: _distance(result, each))
        sentence, named = _doubt(result, nearest), [nearest]
    names = (result.baseline.candidate.spec, *(each.candidate.spec for each in choice)) if choice else ()
    others = " ".join([*_also(result, named), *_beside(result, winner)])
    text = f"{sentence} {_data(result)}"
    return Verdict(said, winner, _against(result), names, text, others, _code(result, winner))


def temperature_only(result: "Result") -> list["Outcome"]:
    """Return the candidates that do only what a temperature does.

    The interval of their raw NLL is below that of plain cross entropy, and after calibration, which fits a
    temperature to both, they are equal or worse in every deciding measure.
    """
    return [
        each
        for each in result.outcomes[1:]
        if "nll" in each.differences
        and each.differences["nll"].high < 0
        and all(each.call(name) in (EQUAL, WORSE) for name in result.plan.deciding)
    ]


def no_better_than_commonest(result: "Result", outcome: "Outcome") -> bool:
    """Return whether a model is not shown to be more accurate than always naming the commonest class."""
    context = _context(result, COMMONEST)
    if context is None:
        return False
    ahead = _against_context(result, outcome, context, "accuracy")
    return not (ahead.high < 0 if math.isfinite(ahead.high) else ahead.mean < 0)


def _rank(outcome: "Outcome", measure: str) -> tuple[float, str]:
    """Smaller is better: the last deciding measure, one where lower is better."""
    value = outcome.mean(measure)
    return (value if math.isfinite(value) else math.inf), outcome.candidate.spec


def _distance(result: "Result", outcome: "Outcome") -> tuple[bool, float, str]:
    """How far a candidate is from being called better; smaller is nearer."""
    reached = -math.inf
    for name in result.plan.deciding:
        found = outcome.differences[name]
        half = (found.high - found.low) / 2
        if half > 0:
            reached = max(
                reached, found.mean / half * (1 if _measure(result, name).better == "higher" else -1)
            )
    return any(outcome.call(name) == WORSE for name in result.plan.deciding), -reached, outcome.candidate.spec


def _praise(result: "Result", winner: "Outcome") -> str:
    return (
        f"Use {winner.candidate.spec}: against {_against(result)}, {_differences(result, winner)}"
        f"; {_sure(result)}."
    )


def _leave(result: "Result", choice: Sequence["Outcome"]) -> str:
    *first, last = (each.candidate.spec for each in (result.baseline, *choice))
    names = f"{', '.join(first)} and {last}"
    return (
        f"Undecided, the choice between {names} is yours: with {choice[0].candidate.spec}, against "
        f"{_against(result)}, {_differences(result, choice[0])}; {_sure(result)}."
    )


def _keep(result: "Result") -> str:
    candidates, names = result.outcomes[1:], result.plan.deciding
    if len(candidates) == 1:
        shown = f"with {candidates[0].candidate.spec}, {_differences(result, candidates[0])}"
    else:
        worse = any(each.call(name) == WORSE for each in candidates for name in names)
        least = ", ".join(f"{_plain(result, name)} {_least(result, name)}" for name in names)
        shown = (
            f"none of {len(candidates)} candidates is better, each is equal"
            f"{' or worse' if worse else ''} (equal: within {least})"
        )
    return f"Keep {_against(result)}: {shown}; {_sure(result)}."


def _doubt(result: "Result", nearest: "Outcome") -> str:
    head = f"Undecided, so keep {_against(result)}: "
    unknown = [nearest.differences[name] for name in result.plan.deciding]
    if not any(math.isfinite(found.low) for found in unknown):
        lost = any(each.diverged for each in result.outcomes)
        more = "" if lost or result.plan.one_test else "; use --folds 10"
        return f"{head}{unknown[0].reason}{more}."
    count = len(result.outcomes) - 1
    tried = f"none of {count} candidates is shown to be better. Nearest is " if count > 1 else "with "
    needed = [
        f" For {_plain(result, name)}, {nearest.differences[name].needed}."
        for name in result.plan.deciding
        if nearest.differences[name].needed
    ]
    link = ":" if count > 1 else ","
    return (
        f"{head}{tried}{nearest.candidate.spec}{link} {_differences(result, nearest)}; {_sure(result)}."
        + "".join(needed)
    )


def _differences(result: "Result", outcome: "Outcome") -> str:
    """What a candidate gains and loses in each deciding measure, what is better first."""
    order = (BETTER, WORSE, EQUAL, UNDECIDED)
    names = sorted(result.plan.deciding, key=lambda name: order.index(outcome.call(name) or UNDECIDED))
    *first, last = [_difference(result, name, outcome.differences[name]) for name in names]
    opposed = {BETTER, WORSE} <= {outcome.call(name) for name in names}
    return f"{', '.join(first)}{' but ' if opposed else ' and '}{last}" if first else last


def _difference(result: "Result", name: str, found: Difference) -> str:
    measure = _measure(result, name)
    mean, low, high = (measure.show_difference(value) for value in (found.mean, found.low, found.high))
    unit = " points" if measure.percent else ""
    between = f"{low} to {high}" if math.isfinite(found.low) else str(found.reason)
    if found.call in (BETTER, WORSE):
        way = "higher" if found.mean > 0 else "lower"
        return f"{_plain(result, name)} is {mean.lstrip('+-')}{unit} {way} ({between})"
    if found.call == EQUAL:
        return f"{_plain(result, name)} is equal within {_least(result, name)} ({between})"
    why = f", {found.reason}" if found.reason and math.isfinite(found.low) else ""
    return f"{_plain(result, name)} is undecided ({between}{unit if math.isfinite(found.low) else ''}{why})"


def _sure(result: "Result") -> str:
    count = (len(result.outcomes) - 1) * len(result.plan.deciding)
    return f"95 % intervals that hold for all {count} comparisons together" if count > 1 else "95 % interval"


def _data(result: "Result") -> str:
    """The data in a sentence: name, rows, classes, noise found, noise put there, and how rows were tested."""
    plan, dataset, noise = result.plan, result.plan.conditions.dataset, result.noise
    shown = f"Data: {dataset.name}, {len(dataset.labels):,} rows, {len(dataset.classes)} classes; "
    found = "the share of wrong labels was not found"
    if math.isfinite(noise.rate):
        ends = f" ({100 * noise.low:.1f} to {100 * noise.high:.1f} %)" if math.isfinite(noise.low) else ""
        found = f"{100 * noise.rate:.1f} % wrong labels found{ends}"
    if plan.conditions.noisy:
        share = mean([record.flipped for record in result.baseline.records])
        found += (
            f", after --noise {plan.settings.noise} changed {100 * share:.0f} % of the training labels, "
            "validation labels alike"
        )
    if plan.settings.tune > 1:
        found += f"; {plan.settings.tune} settings of each objective tried on validation rows"
    if plan.one_test:
        rows = len(plan.conditions.splits[0].test)
        return f"{shown}{found}. There is one test part: this speaks of these {rows:,} test rows only."
    times = f", {plan.settings.repeats} times" if plan.settings.repeats > 1 else ""
    return f"{shown}{found}; {plan.settings.folds}-fold cross-validation{times}."


def _also(result: "Result", named: Sequence["Outcome"]) -> list[str]:
    """What is to be said of the candidates that the sentence does not name."""
    deciding, lines = result.plan.deciding, []
    rest = [each for each in result.outcomes[1:] if not any(each is other for other in named)]
    better = [each for each in rest if any(each.call(name) == BETTER for name in deciding)]
    mixed = [each for each in better if any(each.call(name) == WORSE for name in deciding)]
    clean = [each.candidate.spec for each in better if not any(each is other for other in mixed)]
    if clean:
        lines.append(f"Also better: {', '.join(clean)}.")
    lines += [f"With {each.candidate.spec}, {_differences(result, each)}." for each in mixed]
    for each in temperature_only(result):
        raw = _measure(result, "nll").show_difference(each.differences["nll"].mean)
        lines.append(
            f"{each.candidate.spec} does only what a temperature does: its raw NLL differs by {raw}, and "
            "once both are calibrated it is no better."
        )
    for each in result.outcomes:
        if each.diverged:
            lines.append(
                f"{each.candidate.spec} diverged on {each.diverged} of {len(each.records)} splits, which are "
                "left out of its numbers; it is not called better or equal."
            )
    return lines


def _beside(result: "Result", winner: "Outcome") -> list[str]:
    """What the models beside say of the winner."""
    lines, name = [], winner.candidate.spec
    commonest, trees = _context(result, COMMONEST), _context(result, TREES)
    if commonest is not None and no_better_than_commonest(result, winner):
        lines.append(
            f"Warning: {name} is not shown to be more accurate than always naming the commonest class "
            f"({_shown(result, winner, commonest, 'accuracy')})."
        )
    if trees is None:
        return lines
    differences = {
        each: _against_context(result, winner, trees, each)
        for each in ("accuracy", "calibrated_nll")
        if each in trees.values
    }
    ahead = [
        f"{_plain(result, each)} {_shown(result, winner, trees, each, turned=True)}"
        for each, found in differences.items()
        if found.call == BETTER
    ]
    if ahead:
        where = "data" if all(math.isfinite(each.low) for each in differences.values()) else "test rows"
        sure = "" if where == "data" else ", which is too few splits to say how sure that is"
        first = " in the first repeat" if result.plan.settings.repeats > 1 else ""
        lines.append(
            f"{TREES} does better than this network on these {where}{first}: {', '.join(ahead)}{sure}."
        )
    return lines


def _code(result: "Result", winner: "Outcome") -> str:
    """The winner as code; where it was tuned, in the setting that most splits chose."""
    plan, text, said = result.plan, winner.candidate.spec, ""
    if plan.settings.tune > 1:
        ((setting, times),) = Counter(record.setting for record in winner.records).most_common(1)
        text = setting.objective
        width = f", width {setting.width}" if plan.settings.training.model == "mlp" else ""
        said = (
            f"# chosen by {times} of {len(winner.records)} splits, with lr {setting.lr:g}, weight decay "
            f"{setting.weight_decay:g}{width}\n"
        )
    return said + spec.paste(text, lambda name: str(plan.out / f"{name}.npy"), plan.matrices)


def _context(result: "Result", name: str) -> "Context | None":
    return next((each for each in result.context if each.name == name), None)


def _against_context(result: "Result", outcome: "Outcome", context: "Context", name: str) -> Difference:
    """A model beside against an outcome, on the splits that it has; by the mean alone if these are few."""
    values, own = context.values[name], outcome.values[name][: len(context.values[name])]
    better, least = _measure(result, name).better, _worthwhile(result, name)
    [found] = compare_paired(
        [values], own, better, test_ratio=result.plan.test_ratio, worthwhile=least, comparisons=1
    )
    if math.isfinite(found.low) or not math.isfinite(found.mean):
        return found
    ahead = abs(found.mean) >= least and (found.mean > 0 if better == "higher" else found.mean < 0)
    return Difference(found.mean, found.low, found.high, BETTER if ahead else UNDECIDED, found.reason)


def _shown(
    result: "Result", outcome: "Outcome", context: "Context", name: str, *, turned: bool = False
) -> str:
    measure, count = _measure(result, name), len(context.values[name])
    pair = [mean(outcome.values[name][:count]), mean(context.values[name])]
    first, second = (measure.show(value) for value in (pair[::-1] if turned else pair))
    return f"{first} against {second}"


def _measure(result: "Result", name: str) -> "Measure":
    return next(measure for measure in result.plan.measures if measure.name == name)


def _plain(result: "Result", name: str) -> str:
    """A measure in a sentence."""
    return {
        "accuracy": "accuracy",
        "calibrated_nll": f"calibrated NLL of the {result.nll_of} labels",
        "decided_cost": "the mean cost of decisions",
    }[name]


def _least(result: "Result", name: str) -> str:
    """The smallest difference worth having, with its unit."""
    value = _worthwhile(result, name)
    return f"{100 * value:g} points" if _measure(result, name).percent else f"{value:.3g}"


def _worthwhile(result: "Result", name: str) -> float:
    given = dict(result.plan.settings.worthwhile)
    return worthwhile_difference(given, name, result.baseline.mean(name))


def _against(result: "Result") -> str:
    """What the candidates are compared with."""
    settings = result.plan.settings
    against = AGAINST.replace("best", "last") if settings.training.stop == "none" else AGAINST
    return f"{against}, tuned alike" if settings.tune > 1 else against
