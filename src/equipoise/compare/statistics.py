"""Paired differences over splits or test rows, with simultaneous intervals and a call."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

__all__ = ["BETTER", "EQUAL", "WORSE", "UNDECIDED", "LEVEL", "FEWEST_SPLITS", "Difference", "call"]
__all__ += ["compare_paired", "compare_rows", "worthwhile_difference"]

BETTER, EQUAL, WORSE, UNDECIDED = "better", "equal", "worse", "undecided"
LEVEL = 0.05
FEWEST_SPLITS = 3
MOST_REPEATS = 100  # largest number to propose
COST_SHARE = 0.02  # smallest relevant difference of a cost, as a share of the baseline's
ROUNDING = 1e-12  # bound of the rounding error of differences such as 0.915 - 0.91, relative to the values
STEPS = 64  # steps of the grid per standard deviation of a row's difference
REACH = 20  # standard deviations of a sum that the grid covers on either side


@dataclass(frozen=True)
class Difference:
    """A candidate against the baseline in one measure.

    Attributes:
        mean: Mean of candidate minus baseline; nan without a pair.
        low: Lower end of its interval, simultaneous over the comparisons; nan if there is none.
        high: Upper end.
        call: "better", "equal", "worse" or "undecided"; None for a measure that does not decide.
        reason: Reason why there is no interval or no call; empty if the interval is the reason.
        needed: Number of runs or rows that would settle an undecided difference, as a clause with a verb.
    """

    mean: float
    low: float
    high: float
    call: str | None
    reason: str | None = None
    needed: str | None = None


def compare_paired(
    candidates: Sequence[ArrayLike] | NDArray[np.float64],
    baseline: ArrayLike,
    better: str | None,
    *,
    test_ratio: float = 0.0,
    worthwhile: float = 0.0,
    comparisons: int | None = None,
    repeats: int = 1,
    rows: int | None = None,
    unit: str = "splits",
) -> list[Difference]:
    """Compare candidates with a baseline over splits of the same data, in one measure.

    The interval is a t interval, corrected for overlapping training sets and simultaneous over comparisons;
    see `equipoise.compare.paired` for the formula. For any number of splits it is at least as wide as its
    second term.

    Args:
        candidates: Values over splits (S,) of each candidate; nan if missing.
        baseline: Values over the same splits (S,).
        better: "higher", "lower", or None for no call.
        test_ratio: Test rows over training and validation rows; 0 if every run has its own data.
        worthwhile: Smallest relevant difference, at least 0.
        comparisons: Number of simultaneous intervals: candidates times deciding measures. None for the number
            of candidates.
        repeats: Number of repeats of the cross-validation: S is folds times repeats.
        rows: Rows of the data, for the number of rows that would settle it; None to state a multiple instead.
        unit: Name of the values in a reason.

    Returns:
        A difference for each candidate. Pairs with a value that is not finite are left out, `reason` says so,
        and the candidate is not called better or equal, as diverged runs must count against it.

    Source:
        Nadeau and Bengio, Machine Learning 52, 2003; for repeated cross-validation Bouckaert and Frank,
        PAKDD 2004.
    """
    if not 0 <= test_ratio < math.inf:
        raise ValueError(
            f"test_ratio must be 0 or more, got {test_ratio}; test_ratio is test rows over training rows"
        )
    differences, alpha = _differences(candidates, baseline, 1, better, worthwhile, comparisons)
    found = []
    for each, rounding in differences:
        kept, half, reason, needed = each[np.isfinite(each)], math.nan, None, None
        count, mean = len(kept), _mean(kept)
        lost = f"{len(each) - count} of {len(each)} {unit} have no value to pair" if count < len(each) else ""
        if count < FEWEST_SPLITS:
            reason = f"{count} paired {unit}, and fewer than {FEWEST_SPLITS} show nothing"
        elif np.ptp(kept) <= rounding:
            mean, half = float(kept[0]), 0.0
            if _too_few(kept, alpha):
                reason = f"the same difference in all {count} {unit}, and so no spread to judge by"
        else:
            spread = _spread(kept, 1)
            half = float(_half_width(spread, count, test_ratio, alpha))
            needed = partial(_runs, spread, half, max(count // repeats, 1), test_ratio, alpha, rows)
        found.append(_judge((mean, mean - half, mean + half), better, worthwhile, reason, lost, needed))
    return found


def compare_rows(
    candidates: Sequence[ArrayLike] | NDArray[np.float64],
    baseline: ArrayLike,
    better: str | None,
    *,
    worthwhile: float = 0.0,
    comparisons: int | None = None,
    groups: ArrayLike | None = None,
) -> list[Difference]:
    r"""Compare candidates with a baseline on one test part, in a measure that is a mean over rows.

    The interval is that of the paired bootstrap over rows, or over groups (M,) of rows, of differences
    averaged over repeated trainings. It is valid for these trainings and for rows of this distribution, not
    for other training data. Scores are (R, M), per repeat and row, or (M,) for one repeat; a repeat with a
    nan is left out. The other arguments are those of `compare_paired`.

    Numerics:
        There is no resampling. The sum of n draws from the n differences has the n-fold convolution of their
        empirical distribution, computed by one Fourier transform on a grid: 64 steps per standard deviation,
        each value split between its two neighbours so that the mean is kept. A mean over groups of unequal
        sizes is a ratio of sums, and is linearised first. The ends are quantiles at
        :math:`\Phi(-\sqrt{n / (n - 1)}\, t_{1 - \alpha / 2, n - 1})` (Hesterberg 2015): those at
        :math:`\alpha / 2` give intervals that are too narrow for few rows, as normal intervals are compared
        to t intervals. If so few rows differ that a sign test cannot reach :math:`\alpha` for any signs, the
        difference is undecided: a bootstrap never draws a sign that no row has.

    Source:
        Efron and Tibshirani, An introduction to the bootstrap, 1993; Hesterberg, What teachers should know
        about the bootstrap, The American Statistician 69(4), 2015.
    """
    total = np.atleast_2d(baseline).shape[-1]
    if groups is not None and np.shape(groups) != (total,):
        raise ValueError(
            f"groups must have one entry for each row, got {np.shape(groups)} for {total} rows; leave "
            "groups out if rows are independent"
        )
    differences, alpha = _differences(candidates, baseline, 2, better, worthwhile, comparisons)
    places = np.arange(total) if groups is None else np.unique(groups, return_inverse=True)[1]
    sizes, unit = np.bincount(places), "rows" if groups is None else "groups"
    found = []
    for each, rounding in differences:
        kept, reason, needed = each[np.isfinite(each).all(axis=1)], None, None
        gone, count = len(each) - len(kept), len(sizes) if len(kept) else 0
        lost = f"{gone} of {len(each)} repeats have no score to pair" if gone else ""
        ends = (_mean(kept), math.nan, math.nan)
        if count < FEWEST_SPLITS:
            reason = f"{count} paired {unit}, and fewer than {FEWEST_SPLITS} show nothing"
        else:
            sums = _without_rounding(np.bincount(places, kept.mean(axis=0)), rounding)
            mean = float(sums.sum() / total)
            # The linearised ratio of sums; for single rows these are the differences themselves.
            linear = mean + (sums - sizes * mean) * count / total
            low, high = _lower_end(linear, alpha, rounding), 0.0 - _lower_end(-linear, alpha, rounding)
            ends, needed = (mean, low, high), partial(_more, (high - low) / 2, count, f"test {unit}")
            if _too_few(sums, alpha):
                reason = f"{np.count_nonzero(sums)} of {count} test {unit} differ, too few to show anything"
        found.append(_judge(ends, better, worthwhile, reason, lost, needed))
    return found


def call(mean: float, low: float, high: float, better: str | None, worthwhile: float = 0.0) -> str | None:
    """Return the call of a difference from its mean and interval.

    "better": the interval is on the better side of 0 and the mean is at least `worthwhile`; else "equal": the
    interval lies within plus or minus `worthwhile`; "worse": "better" with the opposite sign; else
    "undecided". A nan is undecided.
    """
    if better is None:
        return None
    if better == "lower":
        mean, low, high = -mean, -high, -low
    if low > 0 and _worth_having(mean, worthwhile):
        return BETTER
    if max(-low, high) <= worthwhile * (1 + ROUNDING):
        return EQUAL
    return WORSE if high < 0 and _worth_having(-mean, worthwhile) else UNDECIDED


def worthwhile_difference(given: Mapping[str, float], measure: str, baseline: float) -> float:
    """Return the smallest relevant difference in a measure: as given, 2 % of a baseline's cost, or 0."""
    return given.get(measure, COST_SHARE * abs(baseline) if measure == "decided_cost" else 0.0)


def _differences(
    candidates: Any, baseline: Any, ndim: int, better: str | None, worthwhile: float, comparisons: int | None
) -> tuple[list[tuple[NDArray[np.float64], float]], float]:
    """Return candidates minus baseline with rounding errors set to 0, nan if missing; and the level."""
    shaped = np.atleast_2d if ndim == 2 else np.atleast_1d
    plain, *values = (shaped(np.asarray(each, dtype=np.float64)) for each in (baseline, *candidates))
    if plain.ndim != ndim or any(each.shape != plain.shape for each in values):
        same = "repeats and rows, (R, M)" if ndim == 2 else "splits, (S,)"
        raise ValueError(
            f"candidates and baseline must have the same {same} each, got "
            f"{[each.shape for each in values]} and {plain.shape}; write nan for a missing value"
        )
    if better not in ("higher", "lower", None):
        raise ValueError(f"better must be 'higher', 'lower' or None, got {better!r}; None makes no call")
    if not 0 <= worthwhile < math.inf:
        raise ValueError(f"worthwhile must be 0 or more, got {worthwhile}; it is a size without a sign")
    together = len(values) if comparisons is None else comparisons
    if together < 0:
        raise ValueError(
            f"comparisons must be 0 or more, got {together}; comparisons is candidates x deciding measures"
        )
    found = []
    for each in values:
        with np.errstate(invalid="ignore"):  # inf - inf
            difference = each - plain
        both = np.abs([each, plain])
        rounding = ROUNDING * float(both.max(initial=0.0, where=np.isfinite(both)))
        found.append((_without_rounding(difference, rounding), rounding))
    return found, LEVEL / max(together, 1)


def _without_rounding(values: NDArray[Any], rounding: float) -> NDArray[np.float64]:
    """Return values with rounding errors set to 0."""
    return np.where(np.abs(values) <= rounding, 0.0, values)


def _mean(kept: NDArray[np.float64]) -> float:
    return float(kept.mean()) if kept.size else math.nan


def _spread(values: NDArray[np.float64], ddof: int) -> float:
    """Return the standard deviation, also of values whose squares underflow."""
    size = float(np.abs(values).max()) or 1.0
    return size * float((values / size).std(ddof=ddof))


def _worth_having(difference: float, worthwhile: float) -> bool:
    return bool(difference >= worthwhile * (1 - ROUNDING))


def _too_few(differences: NDArray[np.float64], alpha: float) -> bool:
    """Return whether a two-sided sign test cannot reach alpha, even if all differences have one sign."""
    count = int(np.count_nonzero(differences))
    return count > 0 and 2.0 ** (1 - count) > alpha


def _half_width(spread: float, count: ArrayLike, test_ratio: float, alpha: float) -> NDArray[np.float64]:
    """Return half the width of the corrected interval, for one number of splits or several."""
    number = np.asarray(count)
    return stats.t.isf(alpha / 2, number - 1) * spread * np.sqrt(1 / number + test_ratio)


def _lower_end(differences: NDArray[np.float64], alpha: float, rounding: float) -> float:
    """Return the lower end of the bootstrap interval of the mean: its quantile at the level."""
    count, spread = len(differences), _spread(differences, 0)
    if spread <= rounding:
        return float(differences.mean())
    tail = special.ndtr(-math.sqrt(count / (count - 1)) * stats.t.isf(alpha / 2, count - 1))
    # The grid contains 0, so that rows without a difference are not moved.
    step = spread / STEPS
    below = np.floor(differences / step)
    share = differences / step - below
    middle = round(float(differences.sum()) / step)
    reach = math.ceil(min(REACH * math.sqrt(count) * STEPS, count * (np.ptp(differences) / step + 1))) + 1
    size = 1 << (2 * reach + 1).bit_length()
    at = np.concatenate([below, below + 1]).astype(np.int64) % size
    single = np.bincount(at, np.concatenate([1 - share, share]) / count, size)
    summed = np.fft.irfft(np.fft.rfft(single) ** count, size)
    held = np.cumsum(summed[(np.arange(-reach, reach + 1) + middle) % size]) >= tail
    return float(int(np.argmax(held)) - reach + middle) * step / count


def _judge(
    ends: tuple[float, float, float],
    better: str | None,
    worthwhile: float,
    reason: str | None,
    lost: str,
    needed: Callable[[float], str] | None,
) -> Difference:
    """Return a difference: undecided if there is a reason, and not better or equal if runs are lost."""
    said = call(*ends, better, worthwhile) if reason is None else better and UNDECIDED
    if lost and math.isfinite(ends[1]):
        said = UNDECIDED if said in (BETTER, EQUAL) else said
        reason = f"{lost}; {reason}" if reason else lost
    if reason or said != UNDECIDED or needed is None:
        return Difference(*ends, said, reason)
    size = abs(ends[0])  # half the interval must become narrower than this or the next
    return Difference(
        *ends, said, None, needed(size if _worth_having(size, worthwhile) else worthwhile - size)
    )


def _runs(
    spread: float, half: float, folds: int, test_ratio: float, alpha: float, rows: int | None, gap: float
) -> str:
    """Return a clause about the number of runs that would settle a difference of this mean and spread."""
    each, run = (folds, f"repeats of {folds} folds") if test_ratio and folds > 1 else (1, "runs")
    counts = each * np.arange(1, MOST_REPEATS * folds // each + 1)
    widths = _half_width(spread, np.maximum(counts, 2), test_ratio, alpha)
    if (widths < gap).any():
        repeats = counts[np.argmax(widths < gap)] // each
        return f"about {repeats} {run} would settle it if the difference stays as it is"
    if not test_ratio:
        return f"no number of runs up to {len(counts)} would settle it while the difference stays as it is"
    least = float(special.ndtri(1 - alpha / 2)) * spread * math.sqrt(test_ratio)
    never = "no number" if least >= gap else f"no number up to {MOST_REPEATS}"
    return f"{never} of {run} would settle it; " + _more(half, rows, "rows", gap)


def _more(half: float, rows: int | None, unit: str, gap: float) -> str:
    """Return a clause about the number of rows that would settle a difference, with variance 1 / rows."""
    if half >= 1e3 * gap:
        return f"no number of {unit} would settle it while the difference stays as it is"
    factor = (half / gap) ** 2
    amount = f"{_rounded_up(factor):,} times as many" if rows is None else f"{_rounded_up(factor * rows):,}"
    return f"about {amount} {unit} would settle it if the difference stays as it is"


def _rounded_up(value: float) -> int:
    """Return a number rounded up to two significant digits."""
    unit = 10 ** max(math.floor(math.log10(value)) - 1, 0)
    return math.ceil(value / unit) * unit
