"""How sure a difference is: paired over seeds, an interval, a test, a correction for many candidates."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

__all__ = ["BETTER", "UNDECIDED", "WORSE", "Difference", "compare_paired", "holm"]

BETTER, WORSE, UNDECIDED = "better", "worse", "undecided"
LEVEL = 0.05
FEWEST_SEEDS = 3
RESAMPLES = 9999


@dataclass(frozen=True)
class Difference:
    """A candidate against the baseline in one measure.

    Attributes:
        mean: Mean of candidate minus baseline over seeds; nan if no seed has both.
        low: Lower end of the 95 % interval of the mean; nan if there are fewer than three pairs.
        high: Upper end.
        p: Of the paired test.
        corrected: The same after Holm's correction over the candidates.
        call: "better", "worse", "undecided", or None where neither way is better.
        reason: Why it is undecided when the numbers were not even looked at.
    """

    mean: float
    low: float
    high: float
    p: float
    corrected: float
    call: str | None
    reason: str | None = None


def compare_paired(
    candidates: Sequence[ArrayLike], baseline: ArrayLike, better: str | None
) -> list[Difference]:
    """Compare candidates with a baseline in one measure.

    A candidate is better or worse only if its corrected p is below 0.05 and its interval is clear of zero.

    Args:
        candidates: For each, its values over seeds (S,); nan where there is none.
        baseline: Values over the same seeds (S,).
        better: "higher", "lower", or None to call nothing.

    Example:
        >>> [found] = compare_paired([[0.92, 0.95, 0.91, 0.93]], [0.81, 0.85, 0.82, 0.80], "higher")
        >>> found.call
        'better'
    """
    pairs = [_paired(candidate, baseline) for candidate in candidates]
    enough = [len(differences) >= FEWEST_SEEDS for differences in pairs]
    p_values = [_p_value(d) if ok else float("nan") for d, ok in zip(pairs, enough, strict=True)]
    found = []
    for differences, ok, p, corrected in zip(pairs, enough, p_values, holm(p_values), strict=True):
        mean = float(differences.mean()) if len(differences) else float("nan")
        low, high = _interval(differences) if ok else (float("nan"), float("nan"))
        reason = (
            None if ok else f"{len(differences)} paired seeds, and fewer than {FEWEST_SEEDS} show nothing"
        )
        call = None if better is None else _call(low, high, corrected, better)
        found.append(Difference(mean, low, high, p, corrected, call, reason))
    return found


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction; a nan is no test and stays nan.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    tested = np.flatnonzero(~np.isnan(p))
    ordered = tested[np.argsort(p[tested], kind="stable")]
    stepped = p[ordered] * np.arange(len(ordered), 0, -1)
    corrected = p.copy()
    corrected[ordered] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return corrected.tolist()


def _paired(candidate: ArrayLike, baseline: ArrayLike) -> NDArray[np.float64]:
    """Differences over the seeds that have both values."""
    differences = np.asarray(candidate, dtype=np.float64) - np.asarray(baseline, dtype=np.float64)
    return differences[np.isfinite(differences)]


def _no_spread(differences: NDArray[np.float64]) -> bool:
    """Whether the differences are equal to within rounding."""
    return float(np.ptp(differences)) <= 1e-12 * max(1.0, float(np.abs(differences).max()))


def _p_value(differences: NDArray[np.float64]) -> float:
    """Two-sided p of the paired t-test."""
    if _no_spread(differences):
        # t is 0/0 or infinite here. The sign test needs no spread: all seeds on one side of zero.
        count = len(differences)
        return 1.0 if np.abs(differences).max() <= 1e-12 else float(stats.binomtest(count, count).pvalue)
    return float(np.asarray(stats.ttest_rel(differences, np.zeros_like(differences)).pvalue))


def _interval(differences: NDArray[np.float64]) -> tuple[float, float]:
    """95 % interval of the mean by the bootstrap: bias-corrected and accelerated where that is defined."""
    if _no_spread(differences):
        middle = float(differences.mean())
        return middle, middle
    for method in ("BCa", "percentile"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", stats.DegenerateDataWarning)
            result = stats.bootstrap(
                (differences,), np.mean, n_resamples=RESAMPLES, method=method, rng=np.random.default_rng(0)
            )
        low, high = float(result.confidence_interval.low), float(result.confidence_interval.high)
        if np.isfinite(low) and np.isfinite(high):
            break
    return low, high


def _call(low: float, high: float, corrected: float, better: str) -> str:
    """Better, worse or undecided; nan decides nothing."""
    clear = low > 0 or high < 0
    if not (corrected < LEVEL and clear):
        return UNDECIDED
    return BETTER if (low > 0) == (better == "higher") else WORSE
