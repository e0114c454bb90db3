"""Mean paired differences with 95 % intervals, for the examples that repeat random splits of one data set."""

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


def interval(values: ArrayLike, baseline: ArrayLike, overlap: float = 0.0) -> tuple[float, float, float]:
    r"""Return the mean of values - baseline over seeds, and the ends of its 95 % t interval.

    The standard error is sqrt((1 / S + overlap) var) over S seeds. `overlap` is 0 where each seed has data of
    its own, and the number of test rows over that of training rows where all seeds split the same rows: the
    differences are then not independent (Nadeau and Bengio, Machine Learning 52, 2003).
    """
    differences = np.asarray(values, dtype=np.float64) - np.asarray(baseline, dtype=np.float64)
    count = len(differences)
    half = stats.t.ppf(0.975, count - 1) * np.sqrt((1 / count + overlap) * differences.var(ddof=1))
    return float(differences.mean()), float(differences.mean() - half), float(differences.mean() + half)


def shown(found: tuple[float, float, float], digits: int) -> str:
    """Return an interval as text, in bold where it is clear of zero."""
    mean, low, high = found
    text = f"{mean:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"
    return f"**{text}**" if low > 0 or high < 0 else text
