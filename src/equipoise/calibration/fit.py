"""`fit`, which fits a calibration to observed labels, and `Calibration`, which applies it to new rows."""

from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, TypeVar, cast, final

import numpy as np
import torch
from torch import Tensor

from equipoise._checks import check_number
from equipoise.calibration.interval import share_interval
from equipoise.calibration.likelihood import Array, Channel, Floats, Symmetric
from equipoise.calibration.solve import FLAT, LOG_TEMPERATURE, Prior, arrays, as_array, share, shares, solve
from equipoise.costs import ClassMatrix
from equipoise.maps import Softmax
from equipoise.maps.base import Map

Values = TypeVar("Values", Tensor, Array)
FEW = 100  # with fewer rows, the notes give the interval of the noise


@final
@dataclass(frozen=True)
class Calibration:
    r"""A temperature and a rate of label noise, fitted by `fit`: an immutable value.

    With p = softmax(z / T) and n classes, the clean label has the probabilities p, and the observed label

    .. math:: q = \frac{s}{n} + (1 - s)\,p, \qquad s = \rho\,\frac{n}{n - 1}, \qquad \text{or} \quad q = p\,M

    for a transition matrix M[true, observed].

    Use `probs` if labels are known to be noisy. For clean but ambiguous labels use `observed_probs`: the fit
    cannot distinguish noise from the sharpness of a model trained with an improper loss (gamma, GCE, focal),
    and `probs` would be far too confident.

    Args:
        temperature: T, above 0.
        noise: rho, the rate of wrong labels; with a transition matrix, the expected rate over the rows of the
            fit.
        noise_interval: The two ends of the 95 % interval of the noise; None if the noise was given.
        num_classes: n.
        transition: The matrix M[true, observed], or None.
        notes: Warnings about the fit: few rows, an absent class, separable rows, T at a bound.

    Raises:
        ValueError: If temperature is not above 0, or noise is out of range.

    Shapes:
        logits (..., C) floating arrays or tensors; the result is of the same kind, float64. A row with a
        logit that is not finite is nan.

    Example:
        >>> calibration = Calibration(temperature=2.0, noise=0.3, noise_interval=None, num_classes=3)
        >>> calibration.observed_probs(torch.tensor([4.0, 0.0, 0.0]))
        tensor([0.5828, 0.2086, 0.2086], dtype=torch.float64)
    """

    temperature: float
    noise: float
    noise_interval: tuple[float, float] | None
    num_classes: int
    transition: ClassMatrix | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_number("temperature", self.temperature, 0, hint="1 is plain softmax", open_low=True)
        if self.transition is None:
            _check_rate(self.noise, self.num_classes)

    def probs(self, logits: Values) -> Values:
        """Return probabilities of the clean label; use them only if labels are known to be noisy."""
        rows = self._rows(logits)
        return _like(_broken_to_nan(rows, self._log_probs(rows).exp()), logits)

    def observed_probs(self, logits: Values) -> Values:
        """Return probabilities of the observed label, which may be wrong."""
        rows = self._rows(logits)
        clean = self._log_probs(rows).exp()
        if self.transition is None:
            s = self._share
            observed = s / self.num_classes + (1 - s) * clean
        else:
            observed = clean @ torch.as_tensor(self.transition.array.copy(), device=rows.device)
        return _like(_broken_to_nan(rows, observed), logits)

    def nll(self, logits: Any, target: Any, *, sample_weight: Any = None) -> float:
        """Return the mean negative log-likelihood of observed labels; nan if a logit is not finite.

        Args:
            logits: (N, C).
            target: (N,) classes, or (N, C) probabilities.
            sample_weight: (N,) weights; None for 1 each.

        Raises:
            TypeError: As `fit`.
            ValueError: As `fit`, but for logits that are not finite.
        """
        values, labels, weight = _checked(logits, target, sample_weight)
        self._check(values.shape[-1])
        if not np.isfinite(values[weight > 0]).all():
            return float("nan")
        matrix = None if self.transition is None else self.transition.array
        likelihood = _likelihood(values, labels, weight, matrix)
        found = likelihood.log_probs(np.log([self.temperature]), np.array([self._share]))
        return float(-likelihood.total(found)[0] / weight.sum())

    def wrong_label_probs(self, logits: Values, target: Any) -> Values:
        r"""Return the probability that each observed label is wrong, by Bayes' theorem.

        .. math:: P(y^* \ne y \mid z, y) = \frac{\sum_{j \ne y} p_j M_{jy}}{q_y}

        Like `probs`, it is right only if the rate of noise is. Use logits from cross-validation: a model has
        often memorised the wrong labels of its training rows.

        Args:
            logits: (N, C).
            target: (N,) observed classes.

        Raises:
            TypeError: As `fit`.
            ValueError: As `fit`, but for logits that are not finite; if target is not (N,).

        Example:
            >>> calibration = Calibration(temperature=1.0, noise=0.2, noise_interval=None, num_classes=2)
            >>> calibration.wrong_label_probs(torch.tensor([[4.0, 0.0], [4.0, 0.0]]), torch.tensor([0, 1]))
            tensor([0.0046, 0.9317], dtype=torch.float64)
        """
        _, labels, _ = _checked(logits, target, None)
        if labels.ndim != 1:
            raise ValueError(
                f"target must be (N,) classes, got {labels.shape}; a distribution over the classes has no "
                "single correct class"
            )
        rows = self._rows(logits)
        place = torch.as_tensor(labels, device=rows.device)[:, None]
        joint = self._log_probs(rows) + self._log_column(rows, place)
        wrong = joint.scatter(1, place, -torch.inf).logsumexp(1) - joint.logsumexp(1)
        return _like(_broken_to_nan(rows, wrong.exp()[:, None])[:, 0], logits)

    @property
    def map(self) -> Map:
        """The map from logits to probabilities of the clean label: softmax at the fitted temperature."""
        return Softmax(temperature=self.temperature)

    @property
    def _share(self) -> float:
        return cast(float, share(self.noise, self.num_classes))

    def _check(self, classes: int) -> None:
        if classes != self.num_classes:
            raise ValueError(
                f"logits must have the {self.num_classes} classes of the fit, got {classes}; fit a "
                "calibration for other classes"
            )

    def _rows(self, logits: Any) -> Tensor:
        """Return logits as a checked float64 tensor."""
        _check_kind(logits)
        rows = torch.as_tensor(logits).double()
        self._check(rows.shape[-1] if rows.ndim else 0)
        return rows

    def _log_probs(self, rows: Tensor) -> Tensor:
        return torch.log_softmax((rows - rows.detach().amax(-1, keepdim=True)) / self.temperature, -1)

    def _log_column(self, rows: Tensor, place: Tensor) -> Tensor:
        """Return log M[j, y] of each clean class j, (N, C)."""
        if self.transition is not None:
            return torch.as_tensor(self.transition.array.T.copy(), device=rows.device)[place[:, 0]].log()
        other = self._share / self.num_classes
        column = torch.full_like(rows, other).scatter(1, place, 1 - self._share + other)
        return column.log()


def fit(
    logits: Any,
    target: Any,
    *,
    noise: Any = "fit",
    sample_weight: Any = None,
    prior: Prior | Literal["auto"] | None = "auto",
) -> Calibration:
    r"""Fit a temperature and a rate of label noise to labels of which some may be wrong.

    T and rho minimise

    .. math:: -\sum_i w_i \log q_{y_i} + \frac{(\log T)^2}{2} + \frac{(\mathrm{logit}\,s + 2)^2}{8}, \qquad
       q = \frac{s}{n} + (1 - s)\,\mathrm{softmax}(z / T), \qquad s = \rho\,\frac{n}{n - 1}.

    A temperature fitted alone is too high if there are wrong labels: the probabilities of clean labels are
    then too low. The noise is assumed to be symmetric: a wrong label is any other class with equal
    probability, in every row. If a classifier has learnt systematic mistakes, such as one class often
    labelled as another, the fit finds no noise, with an interval near 0. Give the rate or a transition matrix
    then.

    Args:
        logits: Logits of rows that the model was not trained on.
        target: Observed labels: classes, or probabilities, which split a row into weighted rows.
        noise: "fit"; a rate in [0, (n - 1)/n] if it is known; a transition matrix [true, observed]; or 0 for
            plain temperature scaling.
        sample_weight: Weights of the rows; 2 is the row twice, 0 removes it.
        prior: "auto" is Prior(), or no prior if noise is 0; None is no prior. Without a prior, a few hundred
            rows may have no finite optimal temperature: it then ends at a bound, and a note says so.

    Returns:
        The `Calibration`. Its interval is the set of noise rates whose profile log-likelihood is within 1.92
        of the largest, with the prior of the temperature but none of the noise, extended to the estimate.

    Shapes:
        logits (N, C), C at least 2; target (N,) integer in [0, C), or (N, C); sample_weight (N,).

    Raises:
        TypeError: If logits are not floating, classes not integers, or noise is none of the above.
        ValueError: If shapes do not match, a logit is not finite, or a class, weight, probability or noise is
            out of range.

    Numerics:
        float64, log T in [-10, 10]. Newton's method in log T and logit s, from the best of 16 points: the
        objective may have several minima; the result is nearly always the lowest. 10 000 rows of 100 classes
        take 0.3 s on one thread, including the interval.

    Example:
        >>> draws = np.random.default_rng(0)
        >>> logits = 6 * draws.normal(size=(2000, 4))
        >>> clean = (logits / 3 + draws.gumbel(size=logits.shape)).argmax(1)  # temperature 3
        >>> observed = np.where(draws.random(2000) < 0.2, (clean + draws.integers(1, 4, 2000)) % 4, clean)
        >>> found = fit(logits, observed)
        >>> round(found.temperature, 2), round(found.noise, 2)
        (2.91, 0.18)
        >>> [round(end, 2) for end in found.noise_interval]
        [0.14, 0.22]
        >>> round(fit(logits, observed, noise=0).temperature, 2)  # too high
        5.35

    Source:
        Guo et al., ICML 2017, arXiv:1706.04599, for the temperature; Patrini et al., CVPR 2017,
        arXiv:1609.03944 ("forward"), for the correction of the likelihood. Fitting both together is ours.
    """
    values, labels, weight = _checked(logits, target, sample_weight)
    classes = values.shape[-1]
    broken = ~np.isfinite(values).all(-1) & (weight > 0)
    if broken.any():
        rows = np.flatnonzero(broken)
        shown = ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
        raise ValueError(
            f"logits must be finite, got nan or infinity in {len(rows)} of {len(values)} rows ({shown}); "
            "leave these rows out, or check the training"
        )
    if prior is not None and prior != "auto" and not isinstance(prior, Prior):
        raise TypeError(f"prior must be 'auto', None or a Prior, got {prior!r}; Prior() is the usual one")
    rate, transition = _noise(noise, classes)
    likelihood = _likelihood(values, labels, weight, None if transition is None else transition.array)
    if prior == "auto":
        prior = FLAT if rate == 0 and transition is None else Prior()
    prior = prior or FLAT
    known = 0.0 if transition is not None else share(rate, classes)
    found = solve(likelihood, known, prior, 1)
    temperature = float(np.exp(found.a[0]))
    interval = None
    if transition is not None:
        chances = torch.softmax(torch.as_tensor(values / temperature), -1).numpy()
        rate = float(np.average(chances @ (1 - np.diag(transition.array)), weights=weight))
    elif rate is None:
        most = (classes - 1) / classes
        rate = float(shares(found, None, classes)[0]) * most
        low, high = share_interval(cast(Symmetric, likelihood), found, prior)
        interval = min(low * most, rate), max(high * most, rate)
    return Calibration(
        temperature=temperature,
        noise=rate,
        noise_interval=interval,
        num_classes=classes,
        transition=transition,
        notes=_notes(values, labels, weight, float(found.a[0]), interval),
    )


def _likelihood(logits: Floats, target: Array, weight: Floats, matrix: Floats | None) -> Symmetric | Channel:
    """Return the likelihood of one problem, without the rows of weight 0."""
    kept = weight > 0
    part = logits[kept][None], target[kept][None], weight[kept][None]
    return Symmetric(*part) if matrix is None else Channel(*part, matrix)


def _noise(noise: Any, classes: int) -> tuple[float | None, ClassMatrix | None]:
    """Return (rate, None) or (None, transition matrix); (None, None) if the rate is to be fitted."""
    if isinstance(noise, str):
        if noise != "fit":
            raise ValueError(f"noise must be 'fit', a rate or a matrix, got {noise!r}; 0 is no noise")
        return None, None
    if isinstance(noise, Real) and not isinstance(noise, bool):
        return _check_rate(float(noise), classes), None
    if noise is None or isinstance(noise, bool):
        raise TypeError(f"noise must be 'fit', a rate or a matrix, got {noise!r}; 0 is no noise")
    try:
        matrix = noise if isinstance(noise, ClassMatrix) else ClassMatrix(noise, kind="similarity")
    except ValueError as error:
        raise ValueError(f"noise must be a transition matrix [true, observed]: {error}") from error
    if matrix.kind != "similarity" or len(matrix) != classes:
        raise ValueError(
            f"noise must be a transition matrix [true, observed] of {classes} classes, got one of "
            f"kind {matrix.kind!r} for {len(matrix)} classes; "
            "its rows sum to 1"
        )
    return None, matrix


def _check_rate(noise: float, classes: int) -> float:
    most = (classes - 1) / classes
    check_number("noise", noise, 0, most, f"with {classes} classes a label says nothing at {most:.6g}")
    return noise


def _checked(logits: Any, target: Any, sample_weight: Any) -> tuple[Floats, Array, Floats]:
    """Return checked arrays: (N, C) float64, (N,) int64 or (N, C) float64, (N,) float64."""
    _check_kind(logits)
    shape = tuple(np.shape(logits))
    labels = as_array(target)
    if len(shape) != 2 or shape[0] < 1 or shape[1] < 2 or labels.shape not in (shape, shape[:1]):
        raise ValueError(
            f"logits must be (N, C) with C at least 2, and target (N,) or (N, C), got {shape} and "
            f"{labels.shape}; give a row per label"
        )
    if sample_weight is not None and np.shape(sample_weight) != shape[:1]:
        raise ValueError(
            f"sample_weight must be ({shape[0]},), got {tuple(np.shape(sample_weight))}; give one per row"
        )
    values, labels, weight = arrays(logits, labels, sample_weight)
    if not (np.isfinite(weight).all() and (weight >= 0).all() and weight.any()):
        worst = weight[~np.isfinite(weight) | (weight < 0)]
        shown = f"{worst[0]}" if len(worst) else "0 for each"
        raise ValueError(
            f"sample_weight must be finite, 0 or more, and not 0 for all, got {shown}; 0 leaves a row out"
        )
    if labels.ndim == 1:
        if not np.issubdtype(labels.dtype, np.integer):
            raise TypeError(f"target must be integer classes, got {labels.dtype}; number the classes from 0")
        wrong = (labels < 0) | (labels >= shape[1])
        if wrong.any():
            raise ValueError(
                f"target must be in [0, {shape[1]}), got {labels[wrong][0]} in row {int(wrong.argmax())}; "
                "leave rows without a label out"
            )
        return values, labels.astype(np.int64), weight
    labels = labels.astype(np.float64)
    wrong = ~((labels >= 0).all(1) & (np.abs(labels.sum(1) - 1) < 1e-5))
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            f"target must hold probabilities that sum to 1, got {labels[row].sum():.6g} in row {row}; divide "
            "each row by its sum"
        )
    return values, labels, weight


def _check_kind(logits: Any) -> None:
    kind = logits.dtype if isinstance(logits, Tensor | np.ndarray) else type(logits).__name__
    floating = isinstance(logits, Tensor) and logits.is_floating_point()
    if not floating and not (isinstance(logits, np.ndarray) and np.issubdtype(logits.dtype, np.floating)):
        raise TypeError(
            f"logits must be a floating array or tensor, got {kind}; pass the scores before any softmax"
        )


def _notes(
    logits: Floats, target: Array, weight: Floats, a: float, interval: tuple[float, float] | None
) -> tuple[str, ...]:
    """Return the notes of a calibration: few rows, absent classes, separable rows, T at a bound."""
    notes: list[str] = []
    hard = target if target.ndim == 1 else target.argmax(1)
    counts = np.bincount(hard, weight, logits.shape[1]) if target.ndim == 1 else weight @ target
    if weight.sum() < FEW:
        said = "" if interval is None else f": noise anywhere from {interval[0]:.2g} to {interval[1]:.2g}"
        notes.append(f"only {weight.sum():g} row{'' if weight.sum() == 1 else 's'}{said}")
    if (counts == 0).any():
        absent = np.flatnonzero(counts == 0)
        shown = ", ".join(map(str, absent[:5])) + (", ..." if len(absent) > 5 else "")
        notes.append(f"no row of class {shown}: what is said of it follows from the other classes")
    own = np.take_along_axis(logits, hard[:, None], 1)
    others = np.where(np.arange(logits.shape[1]) == hard[:, None], -np.inf, logits).max(1)
    if (own[:, 0] > others)[weight > 0].all():
        notes.append("every label is the likeliest class: no row keeps the temperature from 0")
    if abs(a) > LOG_TEMPERATURE - 1e-6:
        notes.append(f"log T is at its bound, {a:.3g}: the rows have no finite best temperature")
    return tuple(notes)


def _like(values: Tensor, model: Any) -> Any:
    return values if isinstance(model, Tensor) else values.numpy()


def _broken_to_nan(rows: Tensor, values: Tensor) -> Tensor:
    return torch.where(rows.isfinite().all(-1, keepdim=True), values, torch.nan)
