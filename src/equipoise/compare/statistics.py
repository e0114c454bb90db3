"""How sure a difference is: paired over splits or test rows, with simultaneous intervals and a call."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

__all__ = [
    "BETTER",
    "EQUAL",
    "WORSE",
    "UNDECIDED",
    "LEVEL",
    "FEWEST_SPLITS",
    "Difference",
    "call",
    "compare_paired",
    "compare_rows",
    "worthwhile_difference",
]

BETTER, EQUAL, WORSE, UNDECIDED = "better", "equal", "worse", "undecided"
LEVEL = 0.05
FEWEST_SPLITS = 3
MOST_REPEATS = 100  # more is not proposed
COST_SHARE = 0.02  # smallest difference worth having of a cost, as a share of the baseline's
ROUNDING = 1e-12  # differences of accuracies such as 0.915 - 0.91 are off by less
STEPS = 64  # steps of the grid per standard deviation of a row's difference
REACH = 20  # standard deviations of a sum that the grid covers on either side


@dataclass(frozen=True)
class Difference:
    """A candidate against the baseline in one measure.

    Attributes:
        mean: Mean of candidate minus baseline; nan if nothing has both.
        low: Lower end of its interval, simultaneous over the comparisons; nan if there is none.
        high: Upper end.
        call: "better", "equal", "worse" or "undecided"; None for a measure that does not decide.
        reason: Why there is no interval or no call, where that is not the interval itself.
        needed: What would settle an undecided one, as a clause with a verb.
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
) -> list[Difference]:
    r"""Compare candidates with a baseline over splits of the same data, in one measure.

    With S differences d of mean :math:`\bar d` and variance :math:`s^2` (divisor S - 1) the interval is

    .. math:: \bar d \pm t_{1 - \alpha / 2,\, S - 1}\; s \sqrt{\frac{1}{S} + \frac{n_{test}}{n_{train}}},
        \qquad \alpha = 0.05 / m.

    The second term under the root is there because training sets overlap: the differences are correlated, and
    no number of splits makes the interval narrower than that term.

    Args:
        candidates: For each, its values over splits (S,); nan where there is none.
        baseline: Values over the same splits (S,).
        better: "higher", "lower", or None to call nothing.
        test_ratio: Test rows over the rows trained and validated on; 0 where every run has data of its own.
        worthwhile: Smallest difference worth having, 0 or more.
        comparisons: m, the number of intervals that hold together: candidates times deciding measures. The
            number of candidates if None.
        repeats: How often the folds were made anew: S is folds times repeats.
        rows: Rows of the data, to say how many would settle it; None says how many times as many.

    Returns:
        A difference for each candidate. A pair of values of which one is not finite is left out, `reason`
        says so, and what is left is not called better or equal: runs that diverge must not be forgiven.

    Raises:
        ValueError: If the shapes do not fit or an option is out of its range.

    Example:
        >>> [found] = compare_paired([[0.92, 0.95, 0.91, 0.93]], [0.81, 0.85, 0.82, 0.80], "higher")
        >>> found.call, round(found.low, 3), round(found.high, 3)
        ('better', 0.08, 0.135)

    Source:
        Nadeau and Bengio, Machine Learning 52, 2003; for repeated cross-validation Bouckaert and Frank,
        PAKDD 2004.
    """
    plain = np.asarray(baseline, dtype=np.float64)
    values = [np.asarray(each, dtype=np.float64) for each in candidates]
    if plain.ndim != 1 or any(each.shape != plain.shape for each in values):
        raise ValueError(
            f"candidates and baseline must have the same splits, (S,) each, got "
            f"{[each.shape for each in values]} and {plain.shape}; write nan where there is no value"
        )
    if not (test_ratio >= 0 and math.isfinite(test_ratio)):
        raise ValueError(f"test_ratio must be 0 or more, got {test_ratio}; test rows over training rows")
    alpha = _alpha(better, worthwhile, len(values) if comparisons is None else comparisons)
    found = []
    for each in values:
        differences = each - plain
        kept = differences[np.isfinite(differences)]
        count, lost = len(kept), len(differences) - len(kept)
        if count < FEWEST_SPLITS:
            found.append(_unknown(kept, count, better, "splits"))
            continue
        even = _no_spread(kept)
        mean, spread = float(kept[0] if even else kept.mean()), 0.0 if even else float(kept.std(ddof=1))
        half = float(_half_width(spread, count, test_ratio, alpha))
        reason = None
        if even and _too_few(kept, alpha):
            reason = f"the same difference in all {count} splits, and so no spread to judge by"
        said = _judged(mean, mean - half, mean + half, better, worthwhile, reason)
        if lost:
            said = _not_forgiven(said, f"{lost} of {len(differences)} splits have no value to pair")
        elif said.call == UNDECIDED and reason is None:
            gap, folds = _gap(mean, worthwhile), max(count // repeats, 1)
            said = replace(said, needed=_needed(gap, spread, half, folds, test_ratio, alpha, rows))
        found.append(said)
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

    The interval is that of the paired bootstrap over rows, or over groups of rows, of the differences
    averaged over repeated trainings. It speaks of these trainings and of rows like these, not of other
    training data.

    Args:
        candidates: For each, its scores per repeat and row, (R, M), or (M,) for one repeat; a repeat with a
            nan is left out, `reason` says so, and what is left is not called better or equal.
        baseline: Scores of the same repeats and rows.
        better: "higher", "lower", or None to call nothing.
        worthwhile: Smallest difference worth having, 0 or more.
        comparisons: m, as in `compare_paired`.
        groups: Group of each row (M,), where rows of one group are alike; None if every row stands alone.

    Raises:
        ValueError: If the shapes do not fit or an option is out of its range.

    Numerics:
        Nothing is resampled. The sum of n draws from the n differences is distributed as the n-fold
        convolution of their empirical distribution, which one Fourier transform on a grid gives: 64 steps
        per standard deviation, each value shared by its two neighbours so that the mean is kept. A mean over
        groups of unequal sizes is a ratio of sums and is made linear first. The ends are quantiles at
        :math:`\Phi(-\sqrt{n / (n - 1)}\, t_{1 - \alpha / 2, n - 1})` (Hesterberg 2015): those at
        :math:`\alpha / 2` are too narrow for few rows, as a normal interval is beside a t interval. Where so
        few rows differ that a sign test cannot reach :math:`\alpha`, whatever their signs, the difference is
        undecided: a bootstrap that has seen no row of the other sign does not draw one.

    Example:
        >>> plain, candidate = np.tile([0.0, 1.0, 1.0, 0.0], 50), np.tile([1.0, 1.0, 1.0, 0.0], 50)
        >>> [found] = compare_rows([candidate[None]], plain[None], "higher")
        >>> found.call, round(found.mean, 3), round(found.low, 3), round(found.high, 3)
        ('better', 0.25, 0.19, 0.31)

    Source:
        Efron and Tibshirani, An introduction to the bootstrap, 1993; Hesterberg, What teachers should know
        about the bootstrap, The American Statistician 69(4), 2015.
    """
    plain = np.atleast_2d(np.asarray(baseline, dtype=np.float64))
    scores = [np.atleast_2d(np.asarray(each, dtype=np.float64)) for each in candidates]
    if plain.ndim != 2 or any(each.shape != plain.shape for each in scores):
        raise ValueError(
            f"candidates and baseline must have the same repeats and rows, (R, M) each, got "
            f"{[each.shape for each in scores]} and {plain.shape}; write nan where there is no score"
        )
    if groups is not None and np.shape(groups) != plain.shape[1:]:
        raise ValueError(
            f"groups must have one entry for each row, got {np.shape(groups)} for {plain.shape[1]} rows"
            "; leave them out if rows stand alone"
        )
    alpha = _alpha(better, worthwhile, len(scores) if comparisons is None else comparisons)
    places = np.arange(plain.shape[1]) if groups is None else np.unique(groups, return_inverse=True)[1]
    sizes, unit = np.bincount(places), "rows" if groups is None else "groups"
    found = []
    for each in scores:
        differences = each - plain
        kept = differences[np.isfinite(differences).all(axis=1)]
        if len(kept) == 0 or len(sizes) < FEWEST_SPLITS:
            found.append(_unknown(kept, len(sizes) if len(kept) else 0, better, unit))
            continue
        sums = np.bincount(places, weights=kept.mean(axis=0)).astype(np.float64)
        mean, count = float(sums.sum() / sizes.sum()), len(sums)
        # The ratio of sums, made linear; for single rows these are the differences themselves.
        linear = mean + (sums - sizes * mean) * count / sizes.sum()
        low, high = _lower_end(linear, alpha), 0.0 - _lower_end(-linear, alpha)
        reason = None
        if _too_few(sums, alpha):
            reason = f"{np.count_nonzero(sums)} of {count} test {unit} differ, too few to show anything"
        said = _judged(mean, low, high, better, worthwhile, reason)
        if len(kept) < len(plain):
            lost = f"{len(plain) - len(kept)} of {len(plain)} repeats have no score to pair"
            said = _not_forgiven(said, lost)
        elif said.call == UNDECIDED and reason is None:
            said = replace(
                said, needed=_more(_gap(mean, worthwhile), (high - low) / 2, count, f"test {unit}")
            )
        found.append(said)
    return found


def call(mean: float, low: float, high: float, better: str | None, worthwhile: float = 0.0) -> str | None:
    """Call a difference from its mean and interval.

    "better": all of the interval is on the good side of 0 and the mean is at least the smallest difference
    worth having; else "equal": the interval lies within that difference of 0; "worse": the mirror image of
    "better"; else "undecided". A nan is undecided.

    Example:
        >>> call(0.02, 0.01, 0.03, "higher", 0.005), call(0.001, -0.002, 0.004, "higher", 0.005)
        ('better', 'equal')
    """
    if better is None:
        return None
    if better == "lower":
        mean, low, high = -mean, -high, -low
    least = worthwhile - ROUNDING
    if low > 0 and mean >= least:
        return BETTER
    if -worthwhile - ROUNDING <= low and high <= worthwhile + ROUNDING:
        return EQUAL
    return WORSE if high < 0 and -mean >= least else UNDECIDED


def worthwhile_difference(given: Mapping[str, float], measure: str, baseline: float) -> float:
    """Return the smallest difference worth having in a measure: as given, else 2 % of the baseline's cost.

    Args:
        given: By measure; for a cost in its own unit.
        measure: Name of the measure. One that is neither given nor a cost has none, and it is 0.
        baseline: Mean of the measure for the baseline.

    Example:
        >>> worthwhile_difference({"accuracy": 0.005}, "decided_cost", 1.5)
        0.03
    """
    return given.get(measure, COST_SHARE * abs(baseline) if measure == "decided_cost" else 0.0)


def _alpha(better: str | None, worthwhile: float, comparisons: int) -> float:
    """Check what both ways have in common and return the level of a single interval."""
    if better not in ("higher", "lower", None):
        raise ValueError(f"better must be 'higher', 'lower' or None, got {better!r}; None calls nothing")
    if not (worthwhile >= 0 and math.isfinite(worthwhile)):
        raise ValueError(f"worthwhile must be 0 or more, got {worthwhile}; it is a size without a sign")
    if comparisons < 0:
        raise ValueError(f"comparisons must be 0 or more, got {comparisons}; candidates x deciding measures")
    return LEVEL / max(comparisons, 1)


def _no_spread(differences: NDArray[np.float64]) -> bool:
    """Whether the differences are equal to within rounding."""
    return float(np.ptp(differences)) <= ROUNDING * max(1.0, float(np.abs(differences).max()))


def _too_few(differences: NDArray[np.float64], alpha: float) -> bool:
    """Whether a two-sided sign test cannot reach alpha even if all that differ have one sign."""
    count = int((np.abs(differences) > ROUNDING).sum())
    return count > 0 and 2.0 ** (1 - count) > alpha


def _half_width(spread: float, count: ArrayLike, test_ratio: float, alpha: float) -> NDArray[np.float64]:
    """Half the corrected interval, for one number of splits or several."""
    number = np.asarray(count)
    return stats.t.isf(alpha / 2, number - 1) * spread * np.sqrt(1 / number + test_ratio)


def _lower_end(differences: NDArray[np.float64], alpha: float) -> float:
    """Lower end of the bootstrap interval of the mean: the smallest value whose tail holds the level."""
    count, spread = len(differences), float(differences.std())
    if spread <= ROUNDING * max(1.0, float(np.abs(differences).max())):
        return float(differences.mean())
    tail = special.ndtr(-math.sqrt(count / (count - 1)) * stats.t.isf(alpha / 2, count - 1))
    # Anchored at 0, so that rows without a difference stay exactly there.
    step = spread / STEPS
    below = np.floor(differences / step)
    share = differences / step - below
    middle = round(float(differences.sum()) / step)
    reach = math.ceil(min(REACH * math.sqrt(count) * STEPS, count * (np.ptp(differences) / step + 1))) + 1
    size = 1 << (2 * reach + 1).bit_length()
    single = np.zeros(size)
    for places, weights in ((below, 1 - share), (below + 1, share)):
        np.add.at(single, places.astype(np.int64) % size, weights / count)
    summed = np.fft.irfft(np.fft.rfft(single) ** count, size)
    places = (np.arange(-reach, reach + 1) + middle) % size
    held = np.cumsum(summed[places]) >= tail
    return float(int(np.argmax(held)) - reach + middle) * step / count


def _unknown(kept: NDArray[np.float64], count: int, better: str | None, unit: str) -> Difference:
    """A difference without an interval."""
    mean = float(kept.mean()) if kept.size else math.nan
    reason = f"{count} paired {unit}, and fewer than {FEWEST_SPLITS} show nothing"
    return Difference(mean, math.nan, math.nan, better and UNDECIDED, reason)


def _judged(
    mean: float, low: float, high: float, better: str | None, worthwhile: float, reason: str | None
) -> Difference:
    """A difference with its call, which is undecided if there is a reason."""
    said = call(mean, low, high, better, worthwhile) if reason is None else better and UNDECIDED
    return Difference(mean, low, high, said, reason)


def _not_forgiven(found: Difference, lost: str) -> Difference:
    """A difference that not all runs have: it may be worse, but no better and no equal."""
    said = UNDECIDED if found.call in (BETTER, EQUAL) else found.call
    return replace(found, call=said, reason=lost if found.reason is None else f"{lost}; {found.reason}")


def _gap(mean: float, worthwhile: float) -> float:
    """How wide half an interval may be for a call, the mean being as it is."""
    size = abs(mean)
    return size if size >= worthwhile - ROUNDING else worthwhile - size


def _needed(
    gap: float, spread: float, half: float, folds: int, test_ratio: float, alpha: float, rows: int | None
) -> str:
    """What would settle a difference over splits, with mean and spread as they are."""
    each, run = (folds, f"repeats of {folds} folds") if test_ratio else (1, "runs")
    counts = each * np.arange(1, MOST_REPEATS * folds // each + 1)
    widths = _half_width(spread, np.maximum(counts, 2), test_ratio, alpha)
    if (widths < gap).any():
        repeats = counts[np.argmax(widths < gap)] // each
        return f"about {repeats} {run} would settle it if the difference stays as it is"
    if not test_ratio:
        return f"no number of runs up to {len(counts)} would settle it while the difference stays as it is"
    least = float(special.ndtri(1 - alpha / 2)) * spread * math.sqrt(test_ratio)
    never = "no number" if least >= gap else f"no number up to {MOST_REPEATS}"
    return f"{never} of {run} would settle it; " + _more(gap, half, rows, "rows")


def _more(gap: float, half: float, rows: int | None, unit: str) -> str:
    """How many rows would settle a difference, its variance falling as one over their number."""
    factor = (half / gap) ** 2 if gap > 0 else math.inf
    if not factor < 1e6:
        return f"no number of {unit} would settle it while the difference stays as it is"
    amount = f"{_rounded_up(factor):,} times as many" if rows is None else f"{_rounded_up(factor * rows):,}"
    return f"about {amount} {unit} would settle it if the difference stays as it is"


def _rounded_up(value: float) -> int:
    """The next number of two digits and zeros."""
    unit = 10 ** max(math.floor(math.log10(value)) - 1, 0)
    return math.ceil(value / unit) * unit
