"""Profile-likelihood interval of the noise."""

from collections.abc import Callable
from dataclasses import replace
from math import log, sqrt

import numpy as np

from equipoise.calibration.likelihood import Symmetric
from equipoise.calibration.solve import LOGIT, Point, Prior, newton, sigmoid

DROP = 3.841458820694124  # the .95 quantile of chi-squared with one degree of freedom


def share_interval(likelihood: Symmetric, found: Point, prior: Prior) -> tuple[float, float]:
    r"""Return the interval of s in which twice the profile log-likelihood is within 3.84 of its maximum.

    The prior of the temperature is used, that of s is not: with it, no interval could contain 0.

    Args:
        likelihood: The likelihood of one problem, K = 1.
        found: The mode.
        prior: The prior; only the part for the temperature is used.
    """
    prior = replace(prior, logit=np.inf)
    best = newton(likelihood, found.a, found.logit, None, prior)
    zero = newton(likelihood, best.a, best.logit, 0.0, prior)
    lowest = min(best.value[0], zero.value[0])
    limit = lowest + DROP / 2
    total = float(likelihood.weight.sum())
    low, high = 0.0, 1.0

    def profile(logit: float, a: np.ndarray) -> Point:
        at = np.array([logit])
        return newton(likelihood, a, at, sigmoid(at), prior)

    if zero.value[0] > limit:
        low = _cross(profile, best, lowest, -LOGIT)
    if total * log(likelihood.classes) > limit:  # the value at s = 1, for any temperature
        high = _cross(profile, best, lowest, LOGIT)
    return low, high


def _cross(profile: Callable[[float, np.ndarray], Point], best: Point, lowest: float, end: float) -> float:
    """Return s between the mode and an end where twice the profile has risen by `DROP`.

    Newton's method for the square root of twice the rise, which is nearly linear in s; bisection where a step
    leaves the bracket.
    """
    inner, outer, a = float(best.logit[0]), end, best.a
    at = inner + np.clip(end - inner, -1.0, 1.0)
    for _ in range(60):
        point = profile(at, a)
        a = point.a
        height = sqrt(max(2 * (float(point.value[0]) - lowest), 0.0))
        if height < sqrt(DROP):
            inner = at
        else:
            outer = at
        slope = float(point.slope[0]) / height if height else 0.0
        to = at - (height - sqrt(DROP)) / slope if slope else np.inf
        to = to if min(inner, outer) < to < max(inner, outer) else 0.5 * (inner + outer)
        if abs(to - at) < 1e-7:
            break
        at = to
    return float(sigmoid(np.array(at)))
