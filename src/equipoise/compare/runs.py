"""`paired`: comparison of the scores of other programs' runs with a baseline, paired by seed."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from equipoise.compare.early import is_size, test_ratio
from equipoise.compare.measures import MEASURES
from equipoise.compare.refusal import printable
from equipoise.compare.scores import by_candidate
from equipoise.compare.settings import WORTHWHILE
from equipoise.compare.statistics import (
    EQUAL,
    LEVEL,
    UNDECIDED,
    Difference,
    compare_paired,
    worthwhile_difference,
)
from equipoise.compare.verdict import answer
from equipoise.naming import nearest

__all__ = ["Paired", "paired"]

_HIGHER = (
    "acc f1 f1_score f1_macro f1_micro f1_weighted precision recall auc auroc roc_auc_score auprc mcc r2"
)
_LOWER = (
    "log_loss loss cross_entropy brier_score ece calibration_error error error_rate mse rmse mae perplexity"
)
# Measures whose direction is known: those of a comparison, other names for them, and similar ones.
_WAYS = (
    {each.name: each.better for each in MEASURES if each.better}
    | dict.fromkeys(_HIGHER.split(), "higher")
    | dict.fromkeys(_LOWER.split(), "lower")
)
_PART = re.compile(r"^(test|val|valid|validation|eval)_")


@dataclass(frozen=True, eq=False)
class Paired:
    """Result of `paired`.

    Attributes:
        call: "better" if a candidate wins; else "equal" or "undecided".
        winner: Name of the candidate to use; that of the baseline if no candidate wins.
        verdict: The reasons in words, and whether the runs were assumed to be independent.
        baseline: Name of the baseline.
        worthwhile: Smallest relevant difference of each measure.
        test_ratio: Test rows over training rows of the runs; None if they were assumed to be independent.
    """

    call: str
    winner: str
    verdict: str
    baseline: str
    worthwhile: Mapping[str, float]
    test_ratio: float | None
    _rows: Sequence[Mapping[str, Any]] = field(repr=False)

    def table(self) -> pd.DataFrame:
        """Return a data frame with a row for each candidate and measure.

        The columns are candidate, measure, runs (number of pairs), mean, baseline_mean, difference, low, high
        (its interval), call and reason (empty if the interval is the reason).
        """
        return pd.DataFrame([{**each, "reason": each["reason"] or ""} for each in self._rows])

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON values, with None for unknown numbers."""
        rows = [
            {key: None if value != value else value for key, value in each.items()} for each in self._rows
        ]
        return {
            "call": self.call,
            "winner": self.winner,
            "verdict": self.verdict,
            "baseline": self.baseline,
            "worthwhile": dict(self.worthwhile),
            "independent": self.test_ratio is None,
            "test_ratio": self.test_ratio,
            "level": LEVEL,
            "comparisons": len(rows),
            "differences": rows,
        }


def paired(
    scores: pd.DataFrame | Mapping[str, Mapping[str, Sequence[float]]],
    *,
    baseline: str,
    test_size: float | None = None,
    train_size: float | None = None,
    higher_is_better: bool | Mapping[str, bool] | None = None,
    worthwhile: Mapping[str, float] | None = None,
) -> Paired:
    r"""Compare the scores of runs with those of a baseline, by the rules of `compare`.

    Runs of the same seed are paired. With S differences of mean :math:`\bar d` and variance :math:`s^2`
    (divisor S - 1), the interval of each of k candidates in each of m measures is

    .. math:: \bar d \pm t_{1 - 0.025 / (k m),\, S - 1}\; s \sqrt{\frac{1}{S} + \frac{n_{test}}{n_{train}}},

    so that all intervals are simultaneous. The second term under the root is used if the sizes are given:
    runs that split the same rows share training data, and without the term the intervals are too narrow.

    A candidate is better in a measure if its interval is on the better side of 0 and the mean difference is
    at least `worthwhile`; equal if the interval lies within plus or minus `worthwhile`; worse if it is better
    with the opposite sign. It wins if it is better in a measure and worse in none; of several, the one that
    is best in the first measure.

    Args:
        scores: Data frame with columns `candidate`, `seed` and one for each measure, a row for each run. Runs
            with equal seeds are paired: a number, a fold, the name of a data set. Or a mapping from candidate
            to a data frame, or to a mapping from measure to the values of its runs; without a seed or an
            index they are paired by position.
        baseline: The candidate to compare with.
        test_size: Test rows of a run, or their share; None if every run has its own data.
        train_size: Training and validation rows of a run, or their share.
        higher_is_better: Whether higher is better, by measure, or for all measures of unknown direction.
            Known are accuracy, F1, areas under curves and similar measures (higher); NLL or log loss, Brier
            score, ECE, error, loss and similar measures (lower); all with or without the prefixes "test_",
            "val_" and "eval_", and with the opposite direction after "neg_".
        worthwhile: Smallest relevant difference of each measure. The default is 0.005 for accuracy, or 0.5 if
            it is in per cent; 0.01 for calibrated_nll; 2 % of the baseline's decided_cost; else 0.

    Returns:
        The result. If a run is missing or its value is not finite, the other pairs are compared, `reason`
        says so, and the candidate is not called better or equal. With fewer than three pairs it is undecided.

    Raises:
        TypeError: If scores are no data frame or mapping.
        ValueError: If a column, a value or an option cannot be used; the message is one line.

    Example:
        >>> ce, mine = [0.81, 0.85, 0.82, 0.80], [0.92, 0.95, 0.91, 0.93]
        >>> found = paired({"ce": {"accuracy": ce}, "mine": {"accuracy": mine}}, baseline="ce")
        >>> found.call, found.winner
        ('better', 'mine')
        >>> found.table()[["candidate", "measure", "runs", "low", "high"]].round(3)
          candidate   measure  runs   low   high
        0      mine  accuracy     4  0.08  0.135

    Source:
        Nadeau and Bengio, Machine Learning 52, 2003; simultaneous intervals by Bonferroni.
    """
    runs: dict[str, Any] = by_candidate(scores)
    baseline = str(baseline)
    if baseline not in runs:
        raise ValueError(
            f"baseline must be a candidate of scores, got {baseline!r}; {nearest(baseline, runs)}"
        )
    plain = runs.pop(baseline)
    if not runs:
        raise ValueError(
            f"scores must have a candidate beside the baseline, got {baseline!r} alone; add its runs"
        )
    better, ratio = _better(list(plain), higher_is_better), test_ratio(test_size, train_size)
    least = _worthwhile({} if worthwhile is None else worthwhile, plain)
    found: dict[str, dict[str, Difference]] = {name: {} for name in runs}
    rows: list[dict[str, Any]] = []
    for name, measure in product(runs, plain):
        own, theirs = runs[name][measure].align(plain[measure])  # nan if one of the two lacks the seed
        both = own.notna() & theirs.notna()
        [difference] = compare_paired(
            [own],
            theirs,
            better[measure],
            test_ratio=ratio or 0.0,
            worthwhile=least[measure],
            comparisons=len(runs) * len(better),
            repeats=1 if ratio is None else len(own),  # a single run can be added, not only a whole repeat
            unit="runs",
        )
        found[name][measure] = difference
        row = {"candidate": name, "measure": measure, "runs": int(both.sum())}
        row |= {"mean": float(own[both].mean()), "baseline_mean": float(theirs[both].mean())}
        row |= {"difference": difference.mean, "low": difference.low, "high": difference.high}
        rows.append(row | {"call": difference.call, "reason": difference.reason})
    first, way = next(iter(better.items()))
    means = {name: float(each[first].mean()) * (1 if way == "lower" else -1) for name, each in runs.items()}
    ranks = [(math.inf if math.isnan(value) else value, name) for name, value in means.items()]
    names, words = list(runs), {name: printable(name) for name in better}
    call, place, _, lines, others = answer(
        [printable(name) for name in names],
        [*found.values()],
        [{key: _difference(words[key], its[key], least[key]) for key in its} for its in found.values()],
        better,
        ranks,
        baseline=printable(baseline),
        against=printable(baseline),
        plain=words,
        least={name: f"{size:.3g}" for name, size in least.items()},
    )
    sure = "taken as independent; if they split the same rows, give test_size and train_size"
    if ratio is not None:
        sure = f"taken to split the same rows, {test_size:g} to test for {train_size:g} to train on"
    winner, verdict = baseline if place is None else names[place], " ".join([*lines, *others])
    return Paired(call, winner, f"{verdict} The runs are {sure}.", baseline, least, ratio, rows)


def _known(measure: str) -> tuple[str, str | None]:
    """Return the name of a measure without prefixes, and its direction if known."""
    name = _PART.sub("", re.sub(r"[\W_]+", "_", measure.lower()).strip("_"))
    name = "accuracy" if name == "acc" else name
    way = _WAYS.get(name.removeprefix("neg_"))
    if way is not None and name.startswith("neg_"):
        way = "higher" if way == "lower" else "lower"
    return name, way


def _better(measures: Sequence[str], given: Any) -> dict[str, str]:
    """Return "higher" or "lower" for each measure."""
    ways = {name: _known(name)[1] for name in measures}
    unknown = [name for name, way in ways.items() if way is None]
    if given is not None and not isinstance(given, Mapping):
        if not unknown:
            raise ValueError(
                f"higher_is_better must be a mapping where all measures are known by name, got {given!r}; "
                f"leave it out, or write {{{measures[0]!r}: {given!r}}}"
            )
        given = dict.fromkeys(unknown, given)
    for name, way in {str(name): way for name, way in (given or {}).items()}.items():
        if name not in ways:
            raise ValueError(f"higher_is_better must name measures, got {name!r}; {nearest(name, ways)}")
        if not isinstance(way, bool | np.bool_):
            raise ValueError(
                f"higher_is_better must be True or False, got {way!r} for {name!r}; write one of them"
            )
        ways[name] = "higher" if way else "lower"
    found = {name: way for name, way in ways.items() if way is not None}
    for name in unknown:
        if name not in found:
            raise ValueError(
                f"higher_is_better must say whether a larger {name!r} is better, got nothing; pass "
                f"higher_is_better={{{name!r}: True}} or False, or leave the column out"
            )
    return found


def _worthwhile(given: Any, plain: pd.DataFrame) -> dict[str, float]:
    """Return the smallest relevant difference of each measure."""
    if not isinstance(given, Mapping):
        raise ValueError(
            f"worthwhile must map measures to numbers, got {given!r}; write {{{plain.columns[0]!r}: 0.01}}"
        )
    given = {str(name): least for name, least in given.items()}
    for name, least in given.items():
        if name not in plain:
            raise ValueError(f"worthwhile must name measures, got {name!r}; {nearest(name, plain)}")
        if not is_size(least):
            raise ValueError(
                f"worthwhile must be 0 or more, got {least!r} for {name!r}; it is a size without a sign"
            )
    found = {}
    for name, values in plain.items():
        known = _known(str(name))[0]
        percent = 100 if known == "accuracy" and values.max() > 1 else 1  # 100 if in per cent
        least = percent * worthwhile_difference(WORTHWHILE, known, float(values.mean()))
        found[name] = float(given.get(name, least if math.isfinite(least) else 0.0))
    return found


def _difference(name: str, found: Difference, least: float) -> str:
    """Return a difference as text."""
    between = f"{found.low:+.3g} to {found.high:+.3g}" if math.isfinite(found.low) else ""
    why = ", ".join(filter(None, (between, found.reason)))
    if found.call == EQUAL:
        return f"{name} is equal within {least:.3g} ({why})"
    if found.call == UNDECIDED:
        return f"{name} is undecided ({why})"
    return f"{name} is {abs(found.mean):.3g} {'higher' if found.mean > 0 else 'lower'} ({why})"
