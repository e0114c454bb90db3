"""The former rule for a call, whose false calls are counted beside those of the present rule.

A candidate was better or worse if the p-value of the paired t-test over seeds, after Holm's correction over
candidates, was below 0.05 and the bias-corrected and accelerated bootstrap interval of the mean was clear of
zero. Each seed was a split of the same rows into a half, a tenth and two fifths; the rule took the seeds
to be independent.
"""

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

LEVEL = 0.05
RESAMPLES = 9999


def old_rule(candidates: Sequence[ArrayLike], baseline: ArrayLike, better: str) -> list[str]:
    """Return "better", "worse" or "undecided" for each candidate.

    Args:
        candidates: For each, its values over seeds (S,).
        baseline: Values over the same seeds (S,).
        better: "higher" or "lower".

    Example:
        >>> old_rule([[0.92, 0.95, 0.91, 0.93]], [0.81, 0.85, 0.82, 0.80], "higher")
        ['better']
    """
    pairs = [np.subtract(candidate, baseline) for candidate in candidates]
    p_values = [_p_value(differences) for differences in pairs]
    return [
        _call(*_interval(differences), corrected, better)
        for differences, corrected in zip(pairs, _holm(p_values), strict=True)
    ]


def _holm(p_values: Sequence[float]) -> NDArray[np.float64]:
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    return corrected


def _no_spread(differences: NDArray[np.float64]) -> bool:
    return float(np.ptp(differences)) <= 1e-12 * max(1.0, float(np.abs(differences).max()))


def _p_value(differences: NDArray[np.float64]) -> float:
    if _no_spread(differences):
        count = len(differences)
        return 1.0 if np.abs(differences).max() <= 1e-12 else float(stats.binomtest(count, count).pvalue)
    return float(np.asarray(stats.ttest_rel(differences, np.zeros_like(differences)).pvalue))


def _interval(differences: NDArray[np.float64]) -> tuple[float, float]:
    if _no_spread(differences):
        return float(differences.mean()), float(differences.mean())
    low = high = float("nan")
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
    if not (corrected < LEVEL and (low > 0 or high < 0)):
        return "undecided"
    return "better" if (low > 0) == (better == "higher") else "worse"
