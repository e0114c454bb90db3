"""The verdict in words: the objective to use, the baseline, differences, intervals and data."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from equipoise.compare.codes import with_code
from equipoise.compare.context import COMMONEST, TREES
from equipoise.compare.results import Outcome, Result
from equipoise.compare.sentences import found_words, noise_words, splits_words
from equipoise.compare.statistics import BETTER, EQUAL, UNDECIDED, WORSE, Difference, compare_paired
from equipoise.compare.views import cell, least, measures, rank, worthwhile

__all__ = ["Verdict", "answer", "decide", "judge"]


@dataclass(frozen=True)
class Verdict:
    """The verdict of a comparison."""

    call: str  # "better" if a candidate wins; else "equal" or "undecided"
    winner: Outcome  # the objective to use; plain cross entropy if no candidate wins
    against: str  # the baseline, in words
    choice: tuple[
        str, ...
    ]  # without a winner: the baseline, and candidates better in one measure and worse in another
    headline: str  # first part of the sentence: recommendation and reason
    sentence: str  # recommendation, all reasons and the data
    others: str  # further remarks about the candidates
    code: str  # the winner as code to paste


def decide(
    calls: Sequence[Sequence[str | None]], ranks: Sequence[tuple[float, str]]
) -> tuple[str, int | None, list[int]]:
    """Choose the winner by calls: return the call, the winner's index, and the indices left to choose from.

    A candidate that is better in a deciding measure and worse in none wins; of several, the one of the
    smallest rank. The call is then "better". Otherwise it is "undecided" if a candidate is better in one
    measure and worse in another, "equal" if all calls are equal or worse, else "undecided". The winner is
    None for the baseline; if none wins, candidates better in one and worse in another measure are left to
    choose from. `calls` has a row per candidate; `ranks` has its calibrated NLL or cost, and its text for
    ties.

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


def answer(
    names: Sequence[str],
    found: Sequence[Mapping[str, Difference]],
    said: Sequence[Mapping[str, str]],
    better: Mapping[str, str | None],
    ranks: Sequence[tuple[float, str]],
    *,
    baseline: str,
    against: str,
    plain: Mapping[str, str],
    least: Mapping[str, str],
    hint: str = "",
) -> tuple[str, int | None, list[int], list[str], list[str]]:
    """Return the result of `decide`, the reasons in sentences, and further remarks about the candidates.

    `found` has the differences of each candidate in each deciding measure, `said` the same in words; `plain`
    the name of each measure, `least` its smallest relevant difference with its unit. A `hint` is appended if
    no candidate has an interval.
    """
    call, place, mixed = decide([[each.call for each in its.values()] for its in found], ranks)
    places, count = range(len(names)), len(names) * len(least)
    sure = f"95 % intervals that hold for all {count} comparisons together" if count > 1 else "95 % interval"
    named = mixed if place is None else [place]
    shown = named[0] if named else min(places, key=lambda at: _distance(found[at], better, names[at]))
    name, text, none = names[shown], _joined(found[shown], said[shown]), f"none of {len(names)} candidates is"
    if place is not None:
        lines = [f"Use {name}: against {against}, {text}; {sure}."]
    elif mixed:
        *first, last = [baseline, *(names[each] for each in mixed)]
        choice = f"the choice between {', '.join(first)} and {last} is yours"
        lines = [f"Undecided, {choice}: with {name}, against {against}, {text}; {sure}."]
    elif call == EQUAL:
        worse = " or worse" if any(each.call == WORSE for its in found for each in its.values()) else ""
        sizes = ", ".join(f"{plain[key]} {least[key]}" for key in least)
        within = f"{none} better, each is equal{worse} (equal: within {sizes})"
        lines = [f"Keep {against}: {within if len(names) > 1 else f'with {name}, {text}'}; {sure}."]
    elif not any(math.isfinite(each.low) for its in found for each in its.values()):
        lines = [f"Undecided, so keep {against}: {next(iter(found[shown].values())).reason}{hint}."]
    else:
        lines = [f"Undecided, so keep {against}: with {name}, {text}; {sure}."]
        if len(names) > 1:
            head = f"Undecided, so keep {against}: {none} shown to be better."
            lines = [head, f"Nearest is {name}: {text}; {sure}."]
        lines += [f"For {plain[key]}, {each.needed}." for key, each in found[shown].items() if each.needed]
    calls = {at: {each.call for each in found[at].values()} for at in places if at != shown}
    also = [names[at] for at in calls if BETTER in calls[at] and WORSE not in calls[at]]
    others = [f"Also better: {', '.join(also)}."] if also else []
    others += [
        f"With {names[at]}, {_joined(found[at], said[at])}." for at in calls if {BETTER, WORSE} <= calls[at]
    ]
    return call, place, mixed, lines, others


def judge(result: Result) -> Verdict:
    """Return the verdict on a result; see `decide` for the rule."""
    plan, candidates = result.plan, result.outcomes[1:]
    found = [{name: each.differences[name] for name in plan.deciding} for each in candidates]
    lost = any(each.diverged for each in result.outcomes)
    against = _against(result)
    said, place, mixed, lines, others = answer(
        [each.candidate.name for each in candidates],
        found,
        [{name: _difference(result, name, each) for name, each in its.items()} for its in found],
        {name: measures(result)[name].better for name in plan.deciding},
        [(rank(each.mean(plan.deciding[-1])), each.candidate.name) for each in candidates],
        baseline=result.baseline.candidate.name,
        against=against,
        plain={name: _plain(result, name) for name in plan.deciding},
        least={name: least(result, name) for name in plan.deciding},
        hint="" if lost or plan.one_test else "; use folds=10",
    )
    winner = result.baseline if place is None else candidates[place]
    rivals = (result.baseline, *(candidates[at] for at in mixed)) if mixed else ()
    left = tuple(each.candidate.name for each in rivals)
    text = " ".join([*others, *_also(result), *_besides(result, winner)])
    sentence = " ".join([*lines, _data(result)])
    return Verdict(said, winner, against, left, lines[0], sentence, text, _code(result, winner))


def _distance(
    found: Mapping[str, Difference], better: Mapping[str, str | None], name: str
) -> tuple[bool, float, str]:
    """Return the distance of a candidate from the call "better"; smaller is nearer."""
    reached = [
        each.mean / (each.high - each.low) * (-1 if better[key] == "higher" else 1)
        for key, each in found.items()
        if each.high > each.low
    ]
    return any(each.call == WORSE for each in found.values()), min(reached, default=math.inf), name


def _joined(found: Mapping[str, Difference], said: Mapping[str, str]) -> str:
    """Return the differences of a candidate in each deciding measure as text, better ones first."""
    order, calls = (BETTER, WORSE, EQUAL, UNDECIDED, None), {key: each.call for key, each in found.items()}
    *first, last = (said[key] for key in sorted(calls, key=lambda key: order.index(calls[key])))
    link = " but " if {BETTER, WORSE} <= {*calls.values()} else " and "
    return f"{', '.join(first)}{link}{last}" if first else last


def _difference(result: Result, name: str, found: Difference) -> str:
    """Return a call with its numbers, as text."""
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


def _data(result: Result) -> str:
    """Return the data in a sentence: name, rows, classes, noise found, labels flipped, and splits."""
    plan, dataset = result.plan, result.plan.conditions.dataset
    parts = [f"Data: {dataset.name}, {len(dataset.labels):,} rows, {len(dataset.classes)} classes"]
    parts.append(found_words(result))
    if plan.conditions.noisy:
        parts.append(noise_words(result))
    if plan.settings.tune > 1:
        parts.append(f"{plan.settings.tune} settings of each objective tried on validation rows")
    rows = len(plan.conditions.splits[0].test)
    only = f": this is valid for these {rows:,} test rows only" if plan.one_test else ""
    return "; ".join([*parts, f"{splits_words(result)}{only}."])


def _also(result: Result) -> list[str]:
    """Return further remarks about the candidates, such as diverged runs."""
    lines = []
    for each in result.outcomes[1:]:
        raw, calls = each.differences.get("nll"), {each.call(name) for name in result.plan.deciding}
        if raw is not None and raw.high < 0 and calls <= {EQUAL, WORSE}:
            lines.append(
                f"{each.candidate.name} does only what a temperature does: its raw NLL differs by "
                f"{measures(result)['nll'].show_difference(raw.mean)}, and once both are calibrated it is no "
                "better."
            )
    lines += [
        with_code(
            "EQ014",
            f"{each.candidate.name} diverged on {each.diverged} of {len(each.records)} splits, which are "
            "left out of its numbers; it is not called better or equal",
        )
        + "."
        for each in result.outcomes
        if each.diverged
    ]
    return lines


def _beside(result: Result, outcome: Outcome, model: str, name: str) -> tuple[Difference, str, str] | None:
    """Return a context model minus an outcome on the model's splits, and both values; None without the model.

    If the splits are too few for an interval, only the mean is used.
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
    """Return remarks about the winner compared with the context models."""
    lines: list[str] = []
    if commonest := _beside(result, winner, COMMONEST, "accuracy"):
        found, other, own = commonest
        if not (found.high if math.isfinite(found.high) else found.mean) < 0:
            lines.append(
                with_code(
                    "EQ013",
                    f"Warning: {winner.candidate.name} is not shown to be more accurate than always naming "
                    f"the commonest class ({own} against {other})",
                )
                + "."
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
    """Return the winner as code; with tuning, in the setting that most splits chose."""
    plan, candidate, lines = result.plan, winner.candidate, ""
    if plan.settings.tune > 1:
        unit, times = result.chosen(winner)
        candidate, chosen = unit.candidate, unit.setting
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
    """Return the name of a measure for a sentence."""
    return {
        "accuracy": "accuracy",
        "calibrated_nll": f"calibrated NLL of the {result.nll_of} labels",
        "decided_cost": "the mean cost of decisions",
    }[name]


def _against(result: Result) -> str:
    """Return the baseline in words."""
    settings = result.plan.settings
    epoch, tuned = ("last" if settings.stop == "none" else "best"), settings.tune > 1
    return f"plain cross entropy, {epoch} epoch, calibrated{', tuned alike' if tuned else ''}"
