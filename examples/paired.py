"""Mean paired differences with 95 % intervals, for the examples that repeat random splits of one data set."""

from numpy.typing import ArrayLike

from equipoise.compare.statistics import compare_paired


def interval(values: ArrayLike, baseline: ArrayLike, overlap: float = 0.0) -> tuple[float, float, float]:
    """Return the mean of values - baseline over seeds, and the ends of its 95 % t interval.

    `overlap` is 0 if each seed has its own data, and the number of test rows over that of training rows if
    all seeds split the same rows: the differences are then not independent; see `compare_paired`.
    """
    [found] = compare_paired([values], baseline, None, test_ratio=overlap, comparisons=1)
    return found.mean, found.low, found.high


def shown(found: tuple[float, float, float], digits: int) -> str:
    """Return an interval as text, in bold if it excludes zero."""
    mean, low, high = found
    text = f"{mean:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"
    return f"**{text}**" if low > 0 or high < 0 else text
