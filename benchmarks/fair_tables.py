"""The page of `benchmarks.fair`: who wins, ties and loses where, and what that comes to over all of it."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.report import table
from equipoise.compare.statistics import Difference, compare_paired
from equipoise.compare.verdict import decide

DECIDING = {"accuracy": ("higher", 0.005), "calibrated_nll": ("lower", 0.01)}
OUTCOMES = ("wins", "equal", "undecided", "both", "loses")
FOLLOW = "FollowConfidence("  # a schedule that the package no longer has; results made with it are still read

SHORT = {
    "GammaCrossEntropy(gamma=0.5)": "gamma 0.5",
    "GeneralizedCrossEntropy(q=0.7)": "GCE 0.7",
    "SymmetricCrossEntropy(alpha=0.1, beta=1.0)": "SCE 0.1, 1",
    "CrossEntropy(label_smoothing=0.1)": "smoothing 0.1",
    "GammaCrossEntropy(gamma=Linear(0, 0.5))": "gamma 0 to 0.5",
    "GammaCrossEntropy(gamma=FollowConfidence(0, 0.5))": "gamma follows",
}

Found = Mapping[str, Any]


def outcome(calls: Sequence[str | None]) -> str:
    """Return what the calls in the deciding measures come to.

    "wins": better in one, worse in none. "loses": the other way round. "both": better in one and worse in
    another. "equal": equal in all. Else "undecided".

    Example:
        >>> outcome(["better", "undecided"]), outcome(["equal", "undecided"])
        ('wins', 'undecided')
    """
    better, worse = "better" in calls, "worse" in calls
    if better or worse:
        return "both" if better and worse else "wins" if better else "loses"
    return "equal" if set(calls) == {"equal"} else "undecided"


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean over data sets and its 95 % interval (Student's t)."""
    mean, count = float(np.mean(values)), len(values)
    if count < 2:
        return mean, math.nan, math.nan
    half = float(stats.t.ppf(0.975, count - 1) * np.std(values, ddof=1) / math.sqrt(count))
    return mean, mean - half, mean + half


def differences(result: Found) -> dict[str, dict[str, Difference]]:
    """Return what the command's rule says of each candidate in the deciding measures."""
    baseline, *specs = result["objectives"]
    found: dict[str, dict[str, Difference]] = {spec: {} for spec in specs}
    for name, (better, worthwhile) in DECIDING.items():
        values = [result["objectives"][spec]["values"][name] for spec in (baseline, *specs)]
        compared = compare_paired(
            values[1:],
            values[0],
            better,
            test_ratio=result["test_ratio"],
            worthwhile=worthwhile,
            comparisons=len(specs) * len(DECIDING),
        )
        for spec, difference in zip(specs, compared, strict=True):
            found[spec][name] = difference
    return found


def page(results: Sequence[Found]) -> str:
    """Return all tables as Markdown."""
    text = []
    for kind in dict.fromkeys(each["kind"] for each in results):
        own = [each for each in results if each["kind"] == kind]
        title = "Clean labels" if kind == "clean" else f"{own[0]['wrong']:.0%} wrong labels, {kind}"
        text += [f"## {title}\n\n{kind_table(own)}", summary_table(own), advice_table(own)]
    if any(_values(each, FOLLOW) for each in results):
        text.append(f"## FollowConfidence beside Linear\n\n{follow_table(results)}")
    return "\n".join(text)


def kind_table(results: Sequence[Found]) -> str:
    """Return a line for each data set, a column for each candidate.

    A cell has the differences in accuracy, in points, and in calibrated NLL of the labels as they are; then
    the accuracy on the clean labels; and the outcome, unless it is undecided.
    """
    lines = []
    for each in results:
        plain, noise = next(iter(each["objectives"].values())), each["noise"]
        cells = [
            each["data"],
            f"{np.mean(plain['clean_accuracy']):.1%}",
            f"{noise['rate']:.0%} ({noise['low']:.0%} to {noise['high']:.0%})",
        ]
        for spec, said in differences(each).items():
            own = each["objectives"][spec]
            word = outcome([said[name].call for name in DECIDING])
            accuracy, nll = (said[name].mean for name in DECIDING)
            clean = np.mean(np.subtract(own["clean_accuracy"], plain["clean_accuracy"]))
            cell = f"{100 * accuracy:+.1f}, {nll:+.3f}; {100 * clean:+.1f}"
            cells.append(cell if word == "undecided" else f"{cell} **{word}**")
        lines.append(cells)
    specs = [SHORT.get(spec, spec) for spec in results[0]["objectives"]][1:]
    return table(("data", "clean accuracy, plain", "noise found", *specs), lines)


def summary_table(results: Sequence[Found]) -> str:
    """Return a line for each candidate: outcomes over data sets, and mean differences with intervals."""
    lines, said = [], [differences(each) for each in results]
    for spec in said[0]:
        own = [(each["objectives"][spec], next(iter(each["objectives"].values()))) for each in results]
        counted = Counter(outcome([each[spec][name].call for name in DECIDING]) for each in said)
        cells = [SHORT.get(spec, spec), *(str(counted[word]) for word in OUTCOMES)]
        cells += [_mean([each[spec][name].mean for each in said]) for name in DECIDING]
        for name in ("clean_accuracy", "clean_nll"):
            cells.append(_mean([float(np.mean(np.subtract(one[name], plain[name]))) for one, plain in own]))
        lines.append(cells)
    heads = ("", *OUTCOMES, "accuracy", "calibrated NLL", "clean accuracy", "clean NLL")
    return table(heads, lines)


def _values(result: Found, schedule: str) -> Any:
    """Return the values of the candidate with a schedule, or None."""
    return next((one["values"] for spec, one in result["objectives"].items() if schedule in spec), None)


def _mean(values: Sequence[float]) -> str:
    mean, low, high = interval(values)
    above = sum(value > 0 for value in values)
    return f"{mean:+.3f} ({low:+.3f} to {high:+.3f}), {above} of {len(values)} above 0"


def advice_table(results: Sequence[Found]) -> str:
    """Return what the command advised where that is not cross entropy, and its worth by clean labels."""
    lines = []
    for each in results:
        said = differences(each)
        specs, objectives = [*said], each["objectives"]
        calls = [[said[spec][name].call for name in DECIDING] for spec in specs]
        ranks = [(float(np.mean(objectives[spec]["values"]["calibrated_nll"])), spec) for spec in specs]
        call, place, choice = decide(calls, ranks)
        if place is None and not choice:
            continue
        plain = next(iter(objectives.values()))
        winner = plain if place is None else objectives[specs[place]]
        advice = next(iter(objectives)) if place is None else specs[place]
        cells = [each["data"], call, " or ".join([advice, *(specs[other] for other in choice)])]
        for name in ("clean_accuracy", "clean_nll"):
            cells.append(f"{np.mean(np.subtract(winner[name], plain[name])):+.3f}")
        lines.append(cells)
    return table(("data", "call", "advice", "clean accuracy gained", "clean NLL"), lines)


def follow_table(results: Sequence[Found]) -> str:
    """Return the schedule that follows confidence against the straight line, by the command's rule."""
    lines, counted = [], Counter[str]()
    for each in results:
        both = [_values(each, schedule) for schedule in (FOLLOW, "=Linear(")]
        if None in both:
            continue
        follow, linear = both
        found = {}
        for name, (better, worthwhile) in DECIDING.items():
            (found[name],) = compare_paired(
                [follow[name]],
                linear[name],
                better,
                test_ratio=each["test_ratio"],
                worthwhile=worthwhile,
                comparisons=len(DECIDING),
            )
        word = outcome([one.call for one in found.values()])
        counted[word] += 1
        cells = [f"{one.mean:+.4f} ({one.low:+.4f} to {one.high:+.4f}) {one.call}" for one in found.values()]
        lines.append((each["data"], each["kind"], word, *cells))
    total = ", ".join(f"{counted[word]} {word}" for word in OUTCOMES)
    return table(("data", "labels", "outcome", *DECIDING), lines) + f"\nOver all: {total}.\n"
