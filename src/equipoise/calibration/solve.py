"""Temperature and noise of a batch of problems, by Newton's method with analytic derivatives.

Used by the public `fit`, and by the training loop, which calls `fit_batch` and `crossfit_nll_batch`.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, final

import numpy as np
import torch
from torch import Tensor

from equipoise.calibration.likelihood import Array, Bools, Floats, Likelihood, Symmetric

LOG_TEMPERATURE = 10.0  # log T is kept in [-10, 10], as scikit-learn's
LOGIT = 14.0  # and logit s in [-14, 14]
START_A = (0.0, -1.5, 1.5, 3.0)  # T = 1 first, which wins if all values are equal
START_S = (0.03, 0.15, 0.4, 0.7)


@final
@dataclass(frozen=True)
class Prior:
    r"""Normal priors of log T, with mean 0, and of logit s, where s = rho n/(n-1).

    Args:
        log_temperature: Standard deviation of log T; infinity for no prior.
        logit: Standard deviation of logit s; infinity for no prior.
        centre: Mean of logit s; -2 is s = 0.12.

    Raises:
        ValueError: If a standard deviation is not above 0, or the mean is not finite.
    """

    log_temperature: float = 1.0
    logit: float = 2.0
    centre: float = -2.0

    def __post_init__(self) -> None:
        for name in ("log_temperature", "logit"):
            if not getattr(self, name) > 0:
                raise ValueError(
                    f"{name} must be above 0, got {getattr(self, name)}; it is a standard deviation, "
                    "infinity is no prior"
                )
        if not np.isfinite(self.centre):
            raise ValueError(f"centre must be finite, got {self.centre}; -2 is a noise rate of 0.12")


FLAT = Prior(log_temperature=np.inf, logit=np.inf)


class Fit(NamedTuple):
    """Temperature, noise and mean negative log-likelihood of the observed labels, each (K,)."""

    temperature: Floats
    noise: Floats
    nll: Floats


@final
@dataclass
class Point:
    """Parameters of K problems, the value of the objective, and its derivative by logit s."""

    a: Floats
    logit: Floats
    value: Floats
    slope: Floats


def fit_batch(
    logits: Any, target: Any, *, weight: Any = None, noise: float | None = None, prior: Prior | None = None
) -> Fit:
    """Fit the temperature and the noise of K independent problems, without an interval.

    Args:
        logits: (K, N, C) array or tensor.
        target: (K, N) observed class.
        weight: (K, N) weights, 0 for padding, which may have any values; None for 1 each.
        noise: The known rate of all problems; None fits it.
        prior: None for `Prior()`, or no prior if noise is 0.

    Returns:
        Temperature, noise and mean NLL (K,); nan for a problem with a logit that is not finite.
    """
    likelihood, good, weights = _prepare(logits, target, weight)
    classes = np.shape(logits)[-1]
    found = solve(likelihood, share(noise, classes), _prior(prior, noise), len(good))
    s = shares(found, noise, classes)
    with np.errstate(invalid="ignore", divide="ignore"):
        nll = -likelihood.total(likelihood.log_probs(found.a, s)) / weights
    return _finish(found.a, s * ((classes - 1) / classes), nll, good)


def crossfit_nll_batch(
    logits: Any, target: Any, *, weight: Any = None, noise: float | None = None, prior: Prior | None = None
) -> Floats:
    """Return the mean NLL of each half of the rows under a calibration fitted to the other half, (K,).

    The rows are sorted by class, and alternate rows form the halves, so each has half of each class, without
    randomness. Arguments as in `fit_batch`.
    """
    logits, target, weight = arrays(logits, target, weight)
    classes = logits.shape[-1]
    order = np.argsort(np.where(weight > 0, target, classes), axis=1, kind="stable")
    if order.shape[1] % 2:
        order = np.concatenate((order, order[:, -1:]), 1)
    halves = np.stack((order[:, 0::2], order[:, 1::2])).transpose(1, 0, 2)  # (K, 2, N/2)
    problems = np.arange(len(order))[:, None, None]
    counted = weight[problems, halves]
    if weight.shape[1] % 2:
        counted[:, 1, -1] = 0.0
    logits, target = logits[problems, halves], target[problems, halves]
    whole = (-1, logits.shape[2])
    likelihood, good, _ = _prepare(
        logits.reshape(*whole, classes), target.reshape(whole), counted.reshape(whole)
    )
    found = solve(likelihood, share(noise, classes), _prior(prior, noise), len(good))
    pairs = good.reshape(-1, 2).all(1)
    turned = np.arange(len(good)).reshape(-1, 2)[:, ::-1].ravel()
    scores = likelihood.log_probs(found.a[turned], shares(found, noise, classes)[turned])
    sums = likelihood.total(scores).reshape(-1, 2).sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(pairs, -sums / counted.sum((1, 2)), np.nan)


def arrays(logits: Any, target: Any, weight: Any) -> tuple[Floats, Array, Floats]:
    """Return float64 logits, target and weight as arrays."""
    logits = as_array(logits).astype(np.float64, copy=False)
    target = as_array(target)
    if weight is None:
        return logits, target, np.ones(logits.shape[:-1])
    weight = np.broadcast_to(as_array(weight).astype(np.float64, copy=False), logits.shape[:-1])
    return logits, target, weight


def as_array(values: Any) -> Array:
    """Return a tensor on any device, or an array-like, as a numpy array."""
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    return np.asarray(values)


def _prepare(logits: Any, target: Any, weight: Any) -> tuple[Symmetric, Bools, Floats]:
    """Return the likelihood, the mask of problems with finite logits, and the weights."""
    logits, target, weight = arrays(logits, target, weight)
    counted = weight > 0
    finite = np.isfinite(logits).all(-1)
    if not (counted.all() and finite.all()):
        used = counted & finite
        logits, target = np.where(used[..., None], logits, 0.0), np.where(counted, target, 0)
    good = (finite | ~counted).all(-1)
    return Symmetric(logits, target, weight), good, weight.sum(-1)


def _finish(a: Floats, noise: Floats, nll: Floats, good: Bools) -> Fit:
    return Fit(*(np.where(good, each, np.nan) for each in (np.exp(a), noise, nll)))


def _prior(prior: Prior | None, noise: float | None) -> Prior:
    return prior or (FLAT if noise == 0 else Prior())


def share(noise: float | None, classes: int) -> float | None:
    """Return s of a noise rate, None for None."""
    return None if noise is None else min(noise * classes / (classes - 1), 1.0)


def shares(found: Point, noise: float | None, classes: int) -> Floats:
    """Return s of K problems."""
    known = share(noise, classes)
    return sigmoid(found.logit) if known is None else np.full_like(found.a, known)


def sigmoid(logit: Floats) -> Floats:
    """Return s of logit s."""
    return 1 / (1 + np.exp(-logit))


def solve(likelihood: Likelihood, known: float | None, prior: Prior, count: int) -> Point:
    """Return the mode of K problems: Newton's method from the best point of a small grid.

    Args:
        likelihood: The likelihood of the observed labels.
        known: s, or None to fit it.
        prior: The prior of log T and logit s.
        count: K.
    """
    s = np.array(START_S if known is None else (known,))
    logit = np.log(s / (1 - s)) if known is None else np.zeros(1)
    grid = np.stack([likelihood.values(np.full(count, a), s) for a in START_A], 1)  # (K, A, S)
    grid += 0.5 * (np.array(START_A) / prior.log_temperature)[:, None] ** 2
    if known is None:
        grid += 0.5 * ((logit - prior.centre) / prior.logit) ** 2
    best = grid.reshape(count, -1).argmin(1)
    return newton(likelihood, np.array(START_A)[best // len(s)], logit[best % len(s)], known, prior)


def newton(
    likelihood: Likelihood, a: Floats, logit: Floats, known: float | Floats | None, prior: Prior
) -> Point:
    """Return a local minimum of minus the log posterior of each problem.

    Damped Newton in a box: one evaluation per iteration; if the objective has risen, the step is undone and
    the damping grows. A converged problem is not changed, so problems do not influence each other.
    """
    fixed = known is not None
    shared = np.asarray(0.0 if known is None else known)

    def objective(a: Floats, logit: Floats) -> tuple[Floats, ...]:
        found = likelihood.derivatives(a, np.broadcast_to(shared, a.shape) if fixed else sigmoid(logit))
        up, across = 1 / prior.log_temperature, 0.0 if fixed else 1 / prior.logit
        off = logit - prior.centre
        return (
            found.value + 0.5 * (a * up) ** 2 + 0.5 * (off * across) ** 2,
            found.a + a * up**2,
            found.logit + off * across**2,
            found.aa + up**2,
            found.al,
            found.ll + across**2,
        )

    now = objective(a, logit)
    damping = np.zeros_like(a)
    done = np.zeros(a.shape, bool)
    for _ in range(100):
        step_a, step_l = _step(a, logit, now, damping, fixed)
        to_a = np.where(done, a, np.clip(a + step_a, -LOG_TEMPERATURE, LOG_TEMPERATURE))
        to_l = np.where(done, logit, np.clip(logit + step_l, -LOGIT, LOGIT))
        size = np.maximum(np.abs(to_a - a), np.abs(to_l - logit))
        then = objective(to_a, to_l)
        good = then[0] <= now[0] + 1e-14 * (1 + np.abs(now[0]))
        a, logit = np.where(good, to_a, a), np.where(good, to_l, logit)
        now = tuple(np.where(good, after, before) for after, before in zip(then, now, strict=True))
        scale = np.abs(now[3]) + np.abs(now[5])
        done |= (size < 1e-7) & (good | (size < 1e-12) | (damping > 1e3 * scale))
        if done.all():
            break
        eased = np.where(damping < 1e-4 * scale, 0.0, 0.1 * damping)
        damping = np.where(good, eased, np.maximum(10 * damping, 1e-3 * scale))
    return Point(a, logit, now[0], now[2])


def _step(
    a: Floats,
    logit: Floats,
    now: tuple[Floats, ...],
    damping: Floats,
    fixed: bool,
) -> tuple[Floats, Floats]:
    """Return a descent step; parameters held by their bounds are left out."""
    _, ga, gl, aa, al, ll = now
    held_a = ((a <= -LOG_TEMPERATURE) & (ga > 0)) | ((a >= LOG_TEMPERATURE) & (ga < 0))
    held_l = (
        np.full_like(held_a, True)
        if fixed
        else ((logit <= -LOGIT) & (gl > 0)) | ((logit >= LOGIT) & (gl < 0))
    )
    ga, gl = np.where(held_a, 0.0, ga), np.where(held_l, 0.0, gl)
    al = np.where(held_a | held_l, 0.0, al)
    aa, ll = np.where(held_a, 1.0, aa), np.where(held_l, 1.0, ll)
    # Make both eigenvalues positive: the smaller one is at least a fraction of the larger.
    middle, radius = 0.5 * (aa + ll), np.hypot(0.5 * (aa - ll), al)
    least = 1e-6 * (np.abs(middle) + radius) + 1e-12
    shift = np.maximum(least - np.minimum(middle - radius, least), 0.0)
    shift = np.where(shift > 0, np.maximum(shift, 1.1 * (radius - middle)), 0.0) + damping
    aa, ll = aa + shift, ll + shift
    determinant = aa * ll - al**2
    step_a, step_l = (al * gl - ll * ga) / determinant, (al * ga - aa * gl) / determinant
    long = np.maximum(np.maximum(np.abs(step_a) / 1.5, np.abs(step_l) / 3.0), 1.0)
    return step_a / long, step_l / long
