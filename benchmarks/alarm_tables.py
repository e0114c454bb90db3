"""The tables of `benchmarks.alarms`: calls of the command's rule and of the old one, from raw scores."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from benchmarks.old_rule import old_rule
from benchmarks.report import table
from equipoise.compare.statistics import Difference, compare_paired

BETTER = {"accuracy": "higher", "calibrated_nll": "lower", "last_accuracy": "higher", "last_nll": "lower"}
WORTHWHILE = {"accuracy": 0.005, "calibrated_nll": 0.01}
DECIDING = tuple(WORTHWHILE)
LEVEL = 0.05
OLD_RATIO = 0.4 / 0.6
TRUTH_BLOCK = 64  # draws that share test rows
CALLED = ("better", "worse")

Scores = Mapping[str, Sequence[float]]


@final
@dataclass(frozen=True)
class Share:
    """A count as a share of all, with the binomial standard error.

    Example:
        >>> Share(10, 200).text
        '0.050 ± 0.015 (10 of 200)'
    """

    hits: int
    count: int

    @property
    def mean(self) -> float:
        """The share; nan of nothing."""
        return self.hits / self.count if self.count else math.nan

    @property
    def text(self) -> str:
        """The share, its standard error and the counts."""
        error = math.sqrt(self.mean * (1 - self.mean) / self.count) if self.count else math.nan
        return f"{self.mean:.3f} ± {error:.3f} ({self.hits} of {self.count})"


def limit(count: int) -> float:
    """Return the largest share of false calls that is allowed: 0.05 and two standard errors at 0.05."""
    return LEVEL + 2 * math.sqrt(LEVEL * (1 - LEVEL) / count)


def new_calls(
    candidate: Scores, baseline: Scores, *, test_ratio: float, kept: int | None = None
) -> dict[str, Difference]:
    """Return the calls of the command's rule for one candidate in the deciding measures.

    Args:
        candidate: Scores over splits.
        baseline: Scores over the same splits.
        test_ratio: Test rows over the others: 1 / (folds - 1) in cross-validation.
        kept: Number of splits to use, from the first; None for all.
    """
    found = {}
    for name in DECIDING:
        (found[name],) = compare_paired(
            [candidate[name][:kept]],
            baseline[name][:kept],
            BETTER[name],
            test_ratio=test_ratio,
            worthwhile=WORTHWHILE[name],
            comparisons=len(DECIDING),
        )
    return found


def old_calls(candidate: Scores, baseline: Scores, measures: Sequence[str]) -> dict[str, str]:
    """Return the calls of the old rule for one candidate in some measures."""
    return {name: old_rule([candidate[name]], baseline[name], BETTER[name])[0] for name in measures}


def tables(study: str, lines: Sequence[Mapping[str, Any]], true: Sequence[Scores]) -> str:
    """Return the tables of a study as Markdown."""
    if study == "null":
        return null_table(lines)
    if study == "close":
        return close_table(lines, true)
    return power_table(lines) if study == "power" else truth_table(true)


def null_table(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return how often a loss was called better or worse than itself, by pool and over all."""
    pools = [*dict.fromkeys(line["pool"] for line in lines)]
    rows = []
    for pool in [*pools, "all"]:
        own = [line for line in lines if pool in (line["pool"], "all")]
        new = [new_calls(*reversed(line["designs"]["10x1"]), test_ratio=1 / 9) for line in own]
        any_called = sum(any(each.call in CALLED for each in found.values()) for found in new)
        clear = sum(any(each.low > 0 or each.high < 0 for each in found.values()) for found in new)
        share = Share(any_called, len(own))
        cells = [
            pool,
            share.text,
            f"{limit(len(own)):.3f}",
            "yes" if share.mean <= limit(len(own)) else "**no**",
        ]
        for name in DECIDING:
            cells.append(Share(sum(found[name].call in CALLED for found in new), len(own)).text)
        cells.append(Share(clear, len(own)).text)
        for measures in (DECIDING, ("last_accuracy", "last_nll")):
            old = [old_calls(*reversed(line["designs"]["old"]), measures) for line in own]
            cells.append(Share(sum(any(c in CALLED for c in found.values()) for found in old), len(own)).text)
        rows.append(cells)
    heads = ("pool", "called better or worse", "limit", "held", *DECIDING, "interval clear of 0")
    return table((*heads, "old rule, same measures", "old rule, last epoch, raw"), rows)


def differences(true: Sequence[Scores], candidate: int) -> dict[str, tuple[float, float]]:
    """Return the true difference of a candidate, from 1, in the deciding measures, and its standard error.

    Draws of one block share their test rows, so the error is that of the means of blocks.
    """
    found = {}
    for name in DECIDING:
        values = np.subtract(true[candidate][name], true[0][name])
        blocks = [block.mean() for block in np.split(values, range(TRUTH_BLOCK, len(values), TRUTH_BLOCK))]
        error = np.std(blocks, ddof=1) / math.sqrt(len(blocks)) if len(blocks) > 1 else math.nan
        found[name] = float(values.mean()), float(error)
    return found


def truth_table(true: Sequence[Scores]) -> str:
    """Return the true differences."""
    rows = []
    for candidate in range(1, len(true)):
        found = differences(true, candidate)
        cells = [f"{found[name][0]:+.5f} ± {found[name][1]:.5f}" for name in DECIDING]
        rows.append((f"candidate {candidate}", *cells))
    return table(("", *DECIDING), rows)


def contradiction(found: Difference, true: float, better: str, worthwhile: float) -> str | None:
    """Return how a call contradicts the true difference, or None.

    "sign": called better or worse, and the true difference has the other sign. "size": called better or
    worse, and the true difference has this sign but is smaller than worthwhile. "equal": called equal, and
    the true difference is worthwhile.
    """
    good = true if better == "higher" else -true
    if found.call in CALLED:
        called = good if found.call == "better" else -good
        return "sign" if called < 0 else "size" if called < worthwhile else None
    return "equal" if found.call == "equal" and abs(true) >= worthwhile else None


def close_table(lines: Sequence[Mapping[str, Any]], true: Sequence[Scores]) -> str:
    """Return the shares of false calls of close losses, and of intervals that contain the true difference.

    The true difference is known to two standard errors; an interval counts if it comes that near.
    """
    if not true:
        return "The true differences are not there; run `python -m benchmarks.alarms truth` first.\n"
    rows = []
    for candidate in range(1, len(true)):
        known = differences(true, candidate)
        kinds: Counter[str] = Counter()
        covered: Counter[str] = Counter()
        old_kinds: Counter[str] = Counter()
        for line in lines:
            ten, old = (line["designs"][name] for name in ("10x1", "old"))
            new = new_calls(ten[candidate], ten[0], test_ratio=1 / 9)
            wrong = {
                contradiction(new[name], known[name][0], BETTER[name], WORTHWHILE[name]) for name in DECIDING
            }
            kinds.update(wrong - {None})
            kinds["called"] += bool(wrong & {"sign", "size"})
            for name in DECIDING:
                true_mean, error = known[name]
                covered[name] += new[name].low - 2 * error <= true_mean <= new[name].high + 2 * error
            said = old_calls(old[candidate], old[0], DECIDING)
            wrong = set()
            for name, call in said.items():
                as_new = Difference(math.nan, math.nan, math.nan, call)
                wrong.add(contradiction(as_new, known[name][0], BETTER[name], WORTHWHILE[name]))
            old_kinds["called"] += bool(wrong & {"sign", "size"})
            old_kinds["sign"] += "sign" in wrong
        count = len(lines)
        held = "yes" if kinds["called"] / count <= limit(count) else "**no**"
        rows.append(
            (
                f"candidate {candidate}",
                ", ".join(f"{name} {known[name][0]:+.4f} ± {known[name][1]:.4f}" for name in DECIDING),
                Share(kinds["called"], count).text,
                f"{limit(count):.3f}",
                held,
                *(Share(kinds[kind], count).text for kind in ("sign", "size", "equal")),
                *(Share(covered[name], count).text for name in DECIDING),
                Share(old_kinds["called"], count).text,
                Share(old_kinds["sign"], count).text,
            )
        )
    heads = ("", "true difference", "falsely called better or worse", "limit", "held")
    heads += ("of these wrong sign", "of these not worthwhile", "falsely called equal")
    heads += tuple(f"interval has the truth, {name}" for name in DECIDING)
    return table((*heads, "old rule, falsely called", "old rule, wrong sign"), rows)


def power_table(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return how often the candidate was called better, by folds and repeats, and by the old rule."""
    rows = []
    for pool in dict.fromkeys(line["pool"] for line in lines):
        own = [line for line in lines if line["pool"] == pool]
        for name in own[0]["designs"]:
            if name == "old":
                said = [
                    old_calls(line["designs"][name][1], line["designs"][name][0], DECIDING) for line in own
                ]
                means = [_means(line["designs"][name]) for line in own]
                rows.append((pool, "8 old splits, old rule", *_shares(said), *_average(means)))
                found = [new_calls(*reversed(line["designs"][name]), test_ratio=OLD_RATIO) for line in own]
                calls = [{m: each.call for m, each in one.items()} for one in found]
                rows.append((pool, "8 old splits, new rule", *_shares(calls), *_average(means)))
                continue
            folds, most = map(int, name.split("x"))
            for repeats in (r for r in (1, 2, 4) if r <= most):
                found = [
                    new_calls(
                        *reversed(line["designs"][name]), test_ratio=1 / (folds - 1), kept=folds * repeats
                    )
                    for line in own
                ]
                calls = [{m: each.call for m, each in one.items()} for one in found]
                means = [{m: each.mean for m, each in one.items()} for one in found]
                rows.append((pool, f"{folds} folds, {repeats}x", *_shares(calls), *_average(means)))
    heads = ("pool", "splits", *(f"better in {name}" for name in DECIDING), "better in any", "worse in any")
    return table((*heads, *(f"mean difference, {name}" for name in DECIDING)), rows)


def _shares(calls: Sequence[Mapping[str, str | None]]) -> list[str]:
    count = len(calls)
    cells = [Share(sum(one[name] == "better" for one in calls), count).text for name in DECIDING]
    return cells + [Share(sum(what in one.values() for one in calls), count).text for what in CALLED]


def _means(scores: Sequence[Scores]) -> dict[str, float]:
    return {name: float(np.mean(np.subtract(scores[1][name], scores[0][name]))) for name in DECIDING}


def _average(means: Sequence[Mapping[str, float]]) -> list[str]:
    return [f"{np.mean([one[name] for one in means]):+.4f}" for name in DECIDING]
