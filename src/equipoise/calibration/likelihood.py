"""Likelihood of observed labels as a function of the temperature and the noise, with two derivatives.

The parameters are a = log T and l = logit s, with s = rho n/(n-1). Shapes: K problems, N rows, C classes, and
E labels of a row: 1, or C for soft targets, each weighted by its probability.
"""

from dataclasses import dataclass
from typing import Any, Protocol, final

import numpy as np

Array = np.ndarray[Any, Any]
Floats = np.ndarray[Any, np.dtype[np.float64]]
Integers = np.ndarray[Any, np.dtype[np.int64]]
Bools = np.ndarray[Any, np.dtype[np.bool_]]
FAR = -700.0  # e^FAR is not 0 in float64


@final
@dataclass(frozen=True)
class Derivatives:
    """Negative log-likelihood of K problems, its gradient and its Hessian in (a, l), each (K,)."""

    value: Floats
    a: Floats
    logit: Floats
    aa: Floats
    al: Floats
    ll: Floats


class Likelihood(Protocol):
    """Interface of a likelihood to the solver."""

    def derivatives(self, a: Floats, s: Floats) -> Derivatives:
        """Return the value and its derivatives at (K,) parameters."""
        ...

    def values(self, a: Floats, s: Floats) -> Floats:
        """Return values (K, S) at K log temperatures, one per problem, and S values of s for all."""
        ...

    def log_probs(self, a: Floats, s: Floats) -> Floats:
        """Return the log-probability of each label, (K, N, E)."""
        ...


class _Rows:
    """Rows of logits minus their largest, and moments of the logits under softmax."""

    def __init__(self, logits: Floats, target: Integers | Floats, weight: Floats) -> None:
        self.logits: Floats = logits - logits.max(-1, keepdims=True)
        self._squares = self.logits**2
        self.classes: int = logits.shape[-1]
        self.weight: Floats
        self.own: Floats
        if target.ndim == logits.ndim:
            self.weight = weight[..., None] * target
            self.own = self.logits
        else:
            self.weight = weight[..., None]
            self.own = np.take_along_axis(self.logits, np.asarray(target[..., None], np.int64), -1)

    def exponentials(self, b: Floats) -> tuple[Floats, Floats]:
        """Return e^(z b) and its sum (K, N, 1)."""
        powers = self.logits * b[:, None, None]
        np.exp(powers, out=powers)
        return powers, powers.sum(-1, keepdims=True)

    def moments(self, powers: Floats, total: Floats) -> tuple[Floats, Floats]:
        """Return mean and variance of the logits under the probabilities, (K, N, 1)."""
        mean = np.einsum("knc,knc->kn", powers, self.logits)[..., None] / total
        square = np.einsum("knc,knc->kn", powers, self._squares)[..., None] / total
        return mean, square - mean**2

    def total(self, terms: Floats) -> Floats:
        """Return the weighted sum over the labels of each problem, (K,)."""
        return np.einsum("kne,kne->k", self.weight, terms)


@final
class Symmetric(_Rows):
    r"""Labels replaced, with probability s, by a uniformly random class: :math:`q_y = s/n + (1 - s)\,p_y`.

    With r = (1 - s) p_y / q_y, the probability that the label was not replaced, and g = log p_y,

    .. math:: \partial_a \log q = r g', \quad \partial_l \log q = 1 - r - s, \quad
       \partial_{aa} = r (1 - r) g'^2 + r g'', \quad \partial_{al} = -r (1 - r) g', \quad
       \partial_{ll} = r (1 - r) - s (1 - s).
    """

    def log_probs(self, a: Floats, s: Floats) -> Floats:
        """Return log q of each label."""
        b = np.exp(-a)
        _, total = self.exponentials(b)
        return self._mixed(self.own * b[:, None, None] - np.log(total), s[:, None, None])[0]

    def values(self, a: Floats, s: Floats) -> Floats:
        """Return values (K, S)."""
        b = np.exp(-a)
        _, total = self.exponentials(b)
        plain = self.own * b[:, None, None] - np.log(total)
        return -np.stack([self.total(self._mixed(plain, np.array(each))[0]) for each in s], -1)

    def derivatives(self, a: Floats, s: Floats) -> Derivatives:
        """Return value, gradient and Hessian."""
        b = np.exp(-a)
        powers, total = self.exponentials(b)
        mean, variance = self.moments(powers, total)
        b, shares = b[:, None, None], s[:, None, None]
        mixed, kept = self._mixed(self.own * b - np.log(total), shares)
        slope = b * (mean - self.own)  # g'
        curve = -slope - b**2 * variance  # g''
        both = kept * (1 - kept)
        mixing = self.total(both)
        weight = self.weight.sum((1, 2))
        return Derivatives(
            value=-self.total(mixed),
            a=-self.total(kept * slope),
            logit=-self.total(1 - kept - shares),
            aa=-self.total(both * slope**2 + kept * curve),
            al=self.total(both * slope),
            ll=weight * s * (1 - s) - mixing,
        )

    def _mixed(self, plain: Floats, s: Floats) -> tuple[Floats, Floats]:
        """Return log q and r from log p."""
        if s.all():
            kept = (1 - s) * np.exp(plain)
            mixed = s / self.classes + kept
            kept /= mixed
            return np.log(mixed), kept
        with np.errstate(divide="ignore"):
            kept = np.log1p(-s) + plain
            mixed = np.logaddexp(np.log(s / self.classes), kept)
        return mixed, np.exp(kept - mixed)


@final
class Channel(_Rows):
    r"""Labels drawn by a known transition matrix: :math:`q_y = \sum_j p_j M_{jy}`.

    .. math:: \partial_b \log q = E'[z] - E[z], \qquad \partial_{bb} \log q = Var'[z] - Var[z],
       \qquad b = e^{-a},

    where E' and Var' are under p_j M_jy / q_y, the posterior of the clean label given the observed one. The
    likelihood does not depend on s.
    """

    def __init__(self, logits: Floats, target: Integers | Floats, weight: Floats, matrix: Floats) -> None:
        super().__init__(logits, target, weight)
        # (K, N, C, E): the column of the label; for soft targets the whole matrix, for all rows.
        self._columns = None if target.ndim == logits.ndim else matrix.T[np.asarray(target, np.int64)]
        self._matrix = matrix

    def log_probs(self, a: Floats, s: Floats) -> Floats:
        """Return log q of each label."""
        del s
        b = np.exp(-a)
        powers, total = self.exponentials(b)
        return np.log(self._observed(powers) / total)

    def values(self, a: Floats, s: Floats) -> Floats:
        """Return values (K, S), the same for each s."""
        return np.repeat(-self.total(self.log_probs(a, s))[:, None], len(s), -1)

    def derivatives(self, a: Floats, s: Floats) -> Derivatives:
        """Return value, gradient and Hessian."""
        b = np.exp(-a)
        powers, total = self.exponentials(b)
        mean, variance = self.moments(powers, total)
        b = b[:, None, None]
        observed = self._observed(powers)
        mean_given = self._observed(powers * self.logits) / observed
        variance_given = self._observed(powers * self._squares) / observed - mean_given**2
        slope = b * (mean - mean_given)
        nothing = np.zeros_like(s)
        return Derivatives(
            value=-self.total(np.log(observed / total)),
            a=-self.total(slope),
            logit=nothing,
            aa=-self.total(b**2 * (variance_given - variance) - slope),
            al=nothing,
            ll=nothing,
        )

    def exponentials(self, b: Floats) -> tuple[Floats, Floats]:
        """Return e^(z b), kept above 0, and its sum."""
        powers = np.exp(np.maximum(self.logits * b[:, None, None], FAR))
        return powers, powers.sum(-1, keepdims=True)

    def _observed(self, clean: Floats) -> Floats:
        """Return sums over the clean class j of values times M[j, observed label], (K, N, E)."""
        if self._columns is None:
            return clean @ self._matrix
        return np.einsum("knc,knc->kn", clean, self._columns)[..., None]
