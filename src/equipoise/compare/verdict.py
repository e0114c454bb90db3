"""The answer in words: which objective to use, against what, by how much, how sure, and on what data."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from equipoise.compare.context import COMMONEST, TREES
from equipoise.compare.results import Outcome, Result
from equipoise.compare.sentences import flipped_words, splits_words
from equipoise.compare.statistics import BETTER, EQUAL, UNDECIDED, WORSE, Difference, compare_paired
from equipoise.compare.views import cell, least, measures, worthwhile

__all__ = ["AGAINST", "Verdict", "answer", "decide", "judge", "no_better_than_commonest", "temperature_only"]

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
    winner: Outcome
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
) -> tuple[str, int | None, list[int], str, list[str]]:
    """Return what `decide` does, why in a sentence, and what else is to be said of the candidates.

    By candidate, the differences in each deciding measure are `found`, and in words `said`. By measure, its
    name is in `plain`, and in `least` the smallest difference worth having, with its unit. A `hint` says what
    to do where no candidate has an interval.
    """
    call, place, mixed = decide([[each.call for each in its.values()] for its in found], ranks)
    places, count = range(len(names)), len(names) * len(least)
    sure = f"95 % intervals that hold for all {count} comparisons together" if count > 1 else "95 % interval"
    named = mixed if place is None else [place]
    told = named[0] if named else min(places, key=lambda at: _distance(found[at], better, names[at]))
    name, text, none = names[told], _joined(found[told], said[told]), f"none of {len(names)} candidates is"
    if place is not None:
        sentence = f"Use {name}: against {against}, {text}; {sure}."
    elif mixed:
        *first, last = [baseline, *(names[each] for each in mixed)]
        choice = f"the choice between {', '.join(first)} and {last} is yours"
        sentence = f"Undecided, {choice}: with {name}, against {against}, {text}; {sure}."
    elif call == EQUAL:
        worse = " or worse" if any(each.call == WORSE for its in found for each in its.values()) else ""
        sizes = ", ".join(f"{plain[key]} {least[key]}" for key in least)
        within = f"{none} better, each is equal{worse} (equal: within {sizes})"
        sentence = f"Keep {against}: {within if len(names) > 1 else f'with {name}, {text}'}; {sure}."
    elif not any(math.isfinite(each.low) for its in found for each in its.values()):
        sentence = f"Undecided, so keep {against}: {next(iter(found[told].values())).reason}{hint}."
    else:
        nearest = f"{none} shown to be better. Nearest is {name}:" if len(names) > 1 else f"with {name},"
        needed = [f" For {plain[key]}, {each.needed}." for key, each in found[told].items() if each.needed]
        sentence = f"Undecided, so keep {against}: {nearest} {text}; {sure}.{''.join(needed)}"
    calls = {at: {each.call for each in found[at].values()} for at in places if at != told}
    also = [names[at] for at in calls if BETTER in calls[at] and WORSE not in calls[at]]
    others = [f"Also better: {', '.join(also)}."] if also else []
    others += [
        f"With {names[at]}, {_joined(found[at], said[at])}." for at in calls if {BETTER, WORSE} <= calls[at]
    ]
    return call, place, mixed, sentence, others


def judge(result: Result) -> Verdict:
    """Return the answer that a result gives; see `decide` for the rule."""
    plan, candidates = result.plan, result.outcomes[1:]
    found = [{name: each.differences[name] for name in plan.deciding} for each in candidates]
    lost = any(each.diverged for each in result.outcomes)
    against = _against(result)
    said, place, mixed, sentence, others = answer(
        [_name(each) for each in candidates],
        found,
        [{name: _difference(result, name, each) for name, each in its.items()} for its in found],
        {name: measures(result)[name].better for name in plan.deciding},
        [_rank(each, plan.deciding[-1]) for each in candidates],
        baseline=_name(result.baseline),
        against=against,
        plain={name: _plain(result, name) for name in plan.deciding},
        least={name: least(result, name) for name in plan.deciding},
        hint="" if lost or plan.one_test else "; use folds=10",
    )
    winner = result.baseline if place is None else candidates[place]
    left = tuple(map(_name, (result.baseline, *(candidates[at] for at in mixed)))) if mixed else ()
    text = " ".join([*others, *_also(result), *_besides(result, winner)])
    return Verdict(said, winner, against, left, f"{sentence} {_data(result)}", text, _code(result, winner))


def temperature_only(result: Result) -> list[Outcome]:
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


def no_better_than_commonest(result: Result, outcome: Outcome) -> bool:
    """Return whether a model is not shown to be more accurate than always naming the commonest class."""
    found = _beside(result, outcome, COMMONEST, "accuracy")
    if found is None:
        return False
    ahead = found[0]
    return not (ahead.high < 0 if math.isfinite(ahead.high) else ahead.mean < 0)


def _name(outcome: Outcome) -> str:
    return outcome.candidate.name


def _rank(outcome: Outcome, measure: str) -> tuple[float, str]:
    """Smaller is better: the last deciding measure, one where lower is better."""
    value = outcome.mean(measure)
    return (value if math.isfinite(value) else math.inf), _name(outcome)


def _distance(
    found: Mapping[str, Difference], better: Mapping[str, str | None], name: str
) -> tuple[bool, float, str]:
    """How far a candidate is from being called better; smaller is nearer."""
    reached = [
        each.mean / (each.high - each.low) * (-1 if better[key] == "higher" else 1)
        for key, each in found.items()
        if each.high > each.low
    ]
    return any(each.call == WORSE for each in found.values()), min(reached, default=math.inf), name


def _joined(found: Mapping[str, Difference], said: Mapping[str, str]) -> str:
    """What a candidate gains and loses in each deciding measure, what is better first."""
    order, calls = (BETTER, WORSE, EQUAL, UNDECIDED, None), {key: each.call for key, each in found.items()}
    *first, last = (said[key] for key in sorted(calls, key=lambda key: order.index(calls[key])))
    link = " but " if {BETTER, WORSE} <= {*calls.values()} else " and "
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


def _data(result: Result) -> str:
    """The data in a sentence: name, rows, classes, noise found, noise put there, and how rows were tested."""
    plan, dataset, noise = result.plan, result.plan.conditions.dataset, result.noise
    shown = f"Data: {dataset.name}, {len(dataset.labels):,} rows, {len(dataset.classes)} classes; "
    found = "the share of wrong labels was not found"
    if math.isfinite(noise.rate):
        ends = f" ({100 * noise.low:.1f} to {100 * noise.high:.1f} %)" if math.isfinite(noise.low) else ""
        found = f"{100 * noise.rate:.1f} % wrong labels found{ends}"
    if plan.conditions.noisy:
        share, given = flipped_words(result)
        found += f", after {given} changed {share}, validation labels alike"
    if plan.settings.tune > 1:
        found += f"; {plan.settings.tune} settings of each objective tried on validation rows"
    if plan.one_test:
        rows = len(plan.conditions.splits[0].test)
        return f"{shown}{found}. There is one test part: this speaks of these {rows:,} test rows only."
    return f"{shown}{found}; {splits_words(result)}."


def _also(result: Result) -> list[str]:
    """What else is to be said of the candidates."""
    lines = []
    for each in temperature_only(result):
        raw = cell(measures(result)["nll"], (), each.differences["nll"]).difference
        lines.append(
            f"{_name(each)} does only what a temperature does: its raw NLL differs by {raw}, and once both "
            "are calibrated it is no better."
        )
    lines += [
        f"{_name(each)} diverged on {each.diverged} of {len(each.records)} splits, which are left out of its "
        "numbers; it is not called better or equal."
        for each in result.outcomes
        if each.diverged
    ]
    return lines


def _beside(result: Result, outcome: Outcome, model: str, name: str) -> tuple[Difference, list[str]] | None:
    """A model beside against an outcome on the splits that it has, and their values; None without the model.

    Where these splits are too few for an interval the mean alone decides.
    """
    values = next((each.values for each in result.context if each.name == model), {}).get(name)
    if values is None:
        return None
    measure, enough, own = (
        measures(result)[name],
        worthwhile(result, name),
        outcome.values[name][: len(values)],
    )
    [found] = compare_paired(
        [values], own, measure.better, test_ratio=result.plan.test_ratio, worthwhile=enough, comparisons=1
    )
    if math.isfinite(found.mean) and not math.isfinite(found.low):
        ahead = (found.mean if measure.better == "higher" else -found.mean) >= max(enough, math.ulp(0.0))
        found = Difference(found.mean, found.low, found.high, BETTER if ahead else UNDECIDED, found.reason)
    return found, [cell(measure, each).value for each in (values, own)]


def _besides(result: Result, winner: Outcome) -> list[str]:
    """What the models beside say of the winner."""
    lines: list[str] = []
    commonest = _beside(result, winner, COMMONEST, "accuracy")
    if commonest is not None and no_better_than_commonest(result, winner):
        lines.append(
            f"Warning: {_name(winner)} is not shown to be more accurate than always naming the commonest "
            f"class ({' against '.join(reversed(commonest[1]))})."
        )
    tried = {name: _beside(result, winner, TREES, name) for name in ("accuracy", "calibrated_nll")}
    found = {name: each for name, each in tried.items() if each is not None}
    ahead = [
        f"{_plain(result, name)} {' against '.join(values)}"
        for name, (difference, values) in found.items()
        if difference.call == BETTER
    ]
    if ahead:
        sure = all(math.isfinite(difference.low) for difference, _ in found.values())
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
    folder = None if plan.out is None else plan.out / "trials"
    paths = {name: f"{name}.npy" if folder is None else str(folder / f"{name}.npy") for name in plan.matrices}
    code = candidate.code(paths)
    for name, path in paths.items():
        if folder is None and path in code:
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
    against = AGAINST.replace("best", "last") if settings.stop == "none" else AGAINST
    return f"{against}, tuned alike" if settings.tune > 1 else against
