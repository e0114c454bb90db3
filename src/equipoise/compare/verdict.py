"""The answer in words: which objective to use, against what, by how much, how sure, and on what data."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from equipoise.compare.context import COMMONEST, TREES
from equipoise.compare.results import Outcome, Result
from equipoise.compare.sentences import found_words, noise_words, splits_words
from equipoise.compare.statistics import BETTER, EQUAL, UNDECIDED, WORSE, Difference, compare_paired
from equipoise.compare.views import cell, least, measures, rank, worthwhile

__all__ = ["Verdict", "decide", "judge"]


@dataclass(frozen=True)
class Verdict:
    """The answer, and what a reader must know beside it."""

    call: str  # "better" if a candidate wins; else "equal" or "undecided"
    winner: Outcome  # the objective to use; plain cross entropy if no candidate wins
    against: str  # what the candidates are compared with
    choice: tuple[str, ...]  # without a winner: the baseline, and those better in one and worse in another
    headline: str  # what to do and why: how the sentence begins
    sentence: str  # all reasons and the data, for someone who has read nothing else
    others: str  # what else there is to know of the candidates
    code: str  # the winner as code to paste


def decide(
    calls: Sequence[Sequence[str | None]], ranks: Sequence[tuple[float, str]]
) -> tuple[str, int | None, list[int]]:
    """Choose the winner from calls alone: return the call, its place, and the places left to choose from.

    A candidate wins that is better in a deciding measure and worse in none; of several, the one of the
    smallest rank. The call is then "better". Else it is "undecided" if a candidate is better in one measure
    and worse in another, "equal" if all calls are equal or worse, and "undecided" otherwise. The winner is
    None for the baseline; where none wins, those better in one and worse in another are left to choose from.
    `calls` has a row for each candidate, and `ranks` its calibrated NLL or cost, and its text for ties.

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


def judge(result: Result) -> Verdict:
    """Return the answer that a result gives; see `decide` for the rule."""
    names, candidates, against = result.plan.deciding, result.outcomes[1:], _against(result)
    calls = [_calls(result, each) for each in candidates]
    said, place, mixed = decide(
        calls, [(rank(each.mean(names[-1])), each.candidate.name) for each in candidates]
    )
    winner = result.baseline if place is None else candidates[place]
    rivals = [candidates[each].candidate.name for each in mixed]
    choice = [winner.candidate.name, *rivals] if mixed else []
    nearest = min(candidates, key=lambda each: _distance(result, each))
    told = winner if place is not None else candidates[mixed[0]] if mixed else nearest
    name, found = told.candidate.name, f"{_differences(result, told)}; {_sure(result)}."
    if place is not None:
        lines = [f"Use {name}: against {against}, {found}"]
    elif mixed:
        listed = f"{', '.join(choice[:-1])} and {choice[-1]}"
        lines = [f"Undecided, the choice between {listed} is yours: with {name}, against {against}, {found}"]
    elif said == UNDECIDED:
        first, *lines = _doubt(result, told, found)
        lines = [f"Undecided, so keep {against}: {first}", *lines]
    elif len(candidates) == 1:
        lines = [f"Keep {against}: with {name}, {found}"]
    else:
        worse = " or worse" if any(WORSE in each for each in calls) else ""
        within = ", ".join(f"{_plain(result, name)} {least(result, name)}" for name in names)
        lines = [
            f"Keep {against}: none of {len(candidates)} candidates is better, each is equal{worse} "
            f"(equal: within {within}); {_sure(result)}."
        ]
    others = " ".join([*_also(result, told), *_besides(result, winner)])
    sentence = " ".join([*lines, _data(result)])
    return Verdict(said, winner, against, tuple(choice), lines[0], sentence, others, _code(result, winner))


def _calls(result: Result, outcome: Outcome) -> list[str | None]:
    return [outcome.call(name) for name in result.plan.deciding]


def _distance(result: Result, outcome: Outcome) -> tuple[bool, float, str]:
    """How far a candidate is from being called better; smaller is nearer."""
    reached = [math.inf]
    for name in result.plan.deciding:
        found, better = outcome.differences[name], measures(result)[name].better
        if found.high > found.low:
            reached.append(found.mean / (found.high - found.low) * (-1 if better == "higher" else 1))
    return WORSE in _calls(result, outcome), min(reached), outcome.candidate.name


def _doubt(result: Result, nearest: Outcome, shown: str) -> list[str]:
    """What the nearest candidate reaches, as shown, and what would settle the question."""
    found = {name: nearest.differences[name] for name in result.plan.deciding}
    if not any(math.isfinite(each.low) for each in found.values()):
        more = result.plan.one_test or any(each.diverged for each in result.outcomes)
        return [f"{next(iter(found.values())).reason}{'' if more else '; use folds=10'}."]
    needed = [f"For {_plain(result, name)}, {each.needed}." for name, each in found.items() if each.needed]
    name, count = nearest.candidate.name, len(result.outcomes) - 1
    if count == 1:
        return [f"with {name}, {shown}", *needed]
    return [f"none of {count} candidates is shown to be better.", f"Nearest is {name}: {shown}", *needed]


def _differences(result: Result, outcome: Outcome) -> str:
    """What a candidate gains and loses in each deciding measure, what is better first."""
    order = (BETTER, WORSE, EQUAL, UNDECIDED)
    found = {name: outcome.differences[name] for name in result.plan.deciding}
    names = sorted(found, key=lambda name: order.index(found[name].call))
    *first, last = [_difference(result, name, found[name]) for name in names]
    link = " but " if {BETTER, WORSE} <= {each.call for each in found.values()} else " and "
    return f"{', '.join(first)}{link}{last}" if first else last


def _difference(result: Result, name: str, found: Difference) -> str:
    """A call with its numbers."""
    shown, plain = cell(measures(result)[name], (), found), _plain(result, name)
    known = math.isfinite(found.low)
    between = shown.interval if known else str(found.reason)
    if found.call in (BETTER, WORSE):
        way = "higher" if found.mean > 0 else "lower"
        return f"{plain} is {shown.difference.lstrip('+-')}{shown.unit} {way} ({between})"
    if found.call == EQUAL:
        return f"{plain} is equal within {least(result, name)} ({between})"
    why = f"{shown.unit}{f', {found.reason}' if found.reason else ''}" if known else ""
    return f"{plain} is undecided ({between}{why})"


def _sure(result: Result) -> str:
    count = (len(result.outcomes) - 1) * len(result.plan.deciding)
    return f"95 % intervals that hold for all {count} comparisons together" if count > 1 else "95 % interval"


def _data(result: Result) -> str:
    """The data in a sentence: name, rows, classes, noise found, noise put there, and how rows were tested."""
    plan, dataset = result.plan, result.plan.conditions.dataset
    parts = [f"Data: {dataset.name}, {len(dataset.labels):,} rows, {len(dataset.classes)} classes"]
    parts.append(found_words(result))
    if plan.conditions.noisy:
        parts.append(noise_words(result))
    if plan.settings.tune > 1:
        parts.append(f"{plan.settings.tune} settings of each objective tried on validation rows")
    rows = len(plan.conditions.splits[0].test)
    only = f": this speaks of these {rows:,} test rows only" if plan.one_test else ""
    return "; ".join([*parts, f"{splits_words(result)}{only}."])


def _also(result: Result, told: Outcome) -> list[str]:
    """What is to be said of the candidates that the sentence does not name, and of all that went wrong."""
    said = [(each, _calls(result, each)) for each in result.outcomes[1:]]
    ahead = [(each, WORSE in calls) for each, calls in said if each is not told and BETTER in calls]
    clean = [each.candidate.name for each, mixed in ahead if not mixed]
    lines = [f"Also better: {', '.join(clean)}."] if clean else []
    lines += [f"With {each.candidate.name}, {_differences(result, each)}." for each, mixed in ahead if mixed]
    for each, calls in said:
        raw = each.differences.get("nll")
        settled = BETTER not in calls and UNDECIDED not in calls
        if raw is not None and raw.high < 0 and settled:
            lines.append(
                f"{each.candidate.name} does only what a temperature does: its raw NLL differs by "
                f"{measures(result)['nll'].show_difference(raw.mean)}, and once both are calibrated it is no "
                "better."
            )
    lines += [
        f"{each.candidate.name} diverged on {each.diverged} of {len(each.records)} splits, which are left "
        "out of its numbers; it is not called better or equal."
        for each in result.outcomes
        if each.diverged
    ]
    return lines


def _beside(result: Result, outcome: Outcome, model: str, name: str) -> tuple[Difference, str, str] | None:
    """A model beside minus an outcome on the splits that it has, and both values; None without the model.

    Where these splits are too few for an interval the mean alone decides.
    """
    values = next((each.values for each in result.context if each.name == model), {}).get(name)
    if values is None:
        return None
    measure, enough = measures(result)[name], worthwhile(result, name)
    own = outcome.values[name][: len(values)]
    [found] = compare_paired(
        [values], own, measure.better, test_ratio=result.plan.test_ratio, worthwhile=enough, comparisons=1
    )
    if math.isfinite(found.mean) and not math.isfinite(found.low):
        ahead = (found.mean if measure.better == "higher" else -found.mean) >= max(enough, math.ulp(0.0))
        found = Difference(found.mean, found.low, found.high, BETTER if ahead else UNDECIDED, found.reason)
    return found, cell(measure, values).value, cell(measure, own).value


def _besides(result: Result, winner: Outcome) -> list[str]:
    """What the models beside say of the winner."""
    lines: list[str] = []
    if commonest := _beside(result, winner, COMMONEST, "accuracy"):
        found, other, own = commonest
        if not (found.high if math.isfinite(found.high) else found.mean) < 0:
            lines.append(
                f"Warning: {winner.candidate.name} is not shown to be more accurate than always naming the "
                f"commonest class ({own} against {other})."
            )
    trees = [(name, _beside(result, winner, TREES, name)) for name in ("accuracy", "calibrated_nll")]
    known = [(name, *each) for name, each in trees if each is not None]
    ahead = [
        f"{_plain(result, name)} {other} against {own}"
        for name, found, other, own in known
        if found.call == BETTER
    ]
    if ahead:
        sure = all(math.isfinite(found.low) for _, found, _, _ in known)
        where = "data" if sure else "test rows"
        first = " in the first repeat" if result.plan.settings.repeats > 1 else ""
        doubt = "" if sure else ", which is too few splits to say how sure that is"
        lines.append(
            f"{TREES} does better than this network on these {where}{first}: {', '.join(ahead)}{doubt}."
        )
    return lines


def _code(result: Result, winner: Outcome) -> str:
    """The winner as code; where it was tuned, in the setting that most splits chose."""
    plan, candidate, lines = result.plan, winner.candidate, ""
    if plan.settings.tune > 1:
        ((chosen, times),) = Counter(record.setting for record in winner.records).most_common(1)
        tried = [unit for unit in plan.units if plan.candidates[unit.of] is winner.candidate]
        candidate = next(unit.candidate for unit in tried if unit.setting == chosen)
        width = f", width {chosen.width}" if plan.settings.model == "mlp" else ""
        lines = (
            f"# chosen by {times} of {len(winner.records)} splits, with lr {chosen.lr:g}, weight decay "
            f"{chosen.weight_decay:g}{width}\n"
        )
    folder = Path() if plan.out is None else plan.out / "trials"
    paths = {name: str(folder / f"{name}.npy") for name in plan.matrices}
    code = candidate.code(paths)
    for name, path in paths.items():
        if plan.out is None and path in code:
            lines += f"# save the matrix {name} as {path}: numpy.save\n"
    return lines + code


def _plain(result: Result, name: str) -> str:
    """A measure in a sentence."""
    return {
        "accuracy": "accuracy",
        "calibrated_nll": f"calibrated NLL of the {result.nll_of} labels",
        "decided_cost": "the mean cost of decisions",
    }[name]


def _against(result: Result) -> str:
    """What the candidates are compared with."""
    settings = result.plan.settings
    epoch, tuned = ("last" if settings.stop == "none" else "best"), settings.tune > 1
    return f"plain cross entropy, {epoch} epoch, calibrated{', tuned alike' if tuned else ''}"
