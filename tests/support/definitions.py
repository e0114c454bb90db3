"""The textbook definition of every loss and penalty on exact probabilities, and the settings to test.

A definition shares nothing with the code it is compared with but the options of the loss.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from equipoise.costs import ClassMatrix
from equipoise.losses import (
    Brier,
    CrossEntropy,
    DFTWeight,
    Entry,
    ExpectedCost,
    FlooredCrossEntropy,
    Focal,
    GammaCrossEntropy,
    GeneralizedCrossEntropy,
    HierarchicalCrossEntropy,
    Loss,
    PairwiseCrossEntropy,
    Poly,
    RankedProbabilityScore,
    Reweighted,
    SimilarityCrossEntropy,
    SoftmaxMargin,
    SymmetricCrossEntropy,
    TaiLrWeight,
)
from equipoise.penalties import Balance, Decisiveness, Entropy, Gini, LogitRange, ZLoss


@dataclass(frozen=True)
class Exact:
    """One row in exact arithmetic, as a definition sees it.

    Args:
        mp: mpmath, with the precision set.
        z: Logits of the classes that are not masked, as mpmath numbers.
        p: Their probabilities.
        y: Place of the target among them.
        kept: Places of these classes among all of them.
        num_classes: Number of classes, masked ones included.
    """

    mp: Any
    z: Sequence[Any]
    p: Sequence[Any]
    y: int
    kept: Sequence[int]
    num_classes: int

    @property
    def others(self) -> list[int]:
        """Places of the classes that are not the target."""
        return [k for k in range(len(self.p)) if k != self.y]


@dataclass(frozen=True)
class Definition:
    """The settings of a loss to test, and its formula: `value(loss, exact)`, with exact options."""

    settings: tuple[Loss, ...]
    value: Callable[[Any, Exact], Any]


def _gamma_cross_entropy(loss: GammaCrossEntropy, e: Exact) -> Any:
    gamma, least = loss.gamma, loss.min_weight

    def value(p: Any) -> Any:
        return 1 - p if gamma == 1 else -e.mp.log(gamma + (1 - gamma) * p) / (1 - gamma)

    p = e.p[e.y]
    start = least * gamma / (1 - least * (1 - gamma)) if least * (1 - gamma) < 1 else e.mp.mpf(0)
    return value(p) if p >= start else value(start) + least * (e.mp.log(start) - e.mp.log(p))


def _reweighted(loss: Reweighted, e: Exact) -> Any:
    p = e.p[e.y]
    if isinstance(loss.weight, DFTWeight):
        return -p * e.mp.log(p)
    assert isinstance(loss.weight, TaiLrWeight)
    gamma, least = e.mp.mpf(loss.weight.gamma), e.mp.mpf(loss.weight.min_weight)
    return -max(p / (gamma + (1 - gamma) * p), least) * e.mp.log(p)


def exact_row(matrix: ClassMatrix, e: Exact) -> list[Any]:
    """The target's row over the classes that are not masked."""
    return [e.mp.mpf(float(matrix.array[e.kept[e.y], k])) for k in e.kept]


def ring(size: int, near: float, far: float) -> list[list[float]]:
    """A matrix for tests, unlike its transpose: `near` for the next class and `far` for the others."""
    return [
        [0.0 if i == k else near if (k - i) % size == 1 else far for k in range(size)] for i in range(size)
    ]


def _soft_ring(size: int) -> list[list[float]]:
    return [
        [0.75 if i == k else 0.25 if (k - i) % size == 1 else 0.0 for k in range(size)] for i in range(size)
    ]


TEST_CLASSES = 8


def _margin(loss: Any, e: Exact) -> Any:
    costs = exact_row(loss.costs, e)
    return e.mp.log(e.mp.fsum(e.mp.exp(c) * p for c, p in zip(costs, e.p, strict=True)) / e.p[e.y])


def _below_and_above(loss: Any, e: Exact) -> Any:
    del loss
    return e.mp.fsum((e.mp.fsum(e.p[: k + 1]) - (k >= e.y)) ** 2 for k in range(len(e.p)))


def _along_the_path(loss: Any, e: Exact) -> Any:
    """The published sum, by a walk down the tree."""
    place = {k: i for i, k in enumerate(e.kept)}

    def leaves(node: Any) -> list[int]:
        return [node] if isinstance(node, int) else [leaf for child in node for leaf in leaves(child)]

    def mass(node: Any) -> Any:
        return e.mp.fsum(e.p[place[leaf]] for leaf in leaves(node) if leaf in place)

    total, node, depth, y = e.mp.mpf(0), loss.tree, 0, e.kept[e.y]
    while not isinstance(node, int):
        child, depth = next(child for child in node if y in leaves(child)), depth + 1
        total -= e.mp.exp(-loss.alpha * depth) * e.mp.log(mass(child) / mass(node))
        node = child
    return total


_EVEN = (((0, 5), (2, 3)), ((4, 1), (6, 7)))


_UNEVEN = ((0, 5, (2, 3)), 4, (1, 6, 7))


def _decisiveness(loss: Decisiveness, e: Exact) -> Any:
    classes = loss.num_classes or e.num_classes
    power = e.mp.log(2) / e.mp.log(classes) if classes > 1 else 1
    return e.mp.fsum(p**power - p ** (2 * power) for p in e.p)


def _logit_range(loss: LogitRange, e: Exact) -> Any:
    top, bottom = max(e.z), min(e.z)
    if loss.width is not None:
        return max(e.mp.mpf(0), top - bottom - loss.width)
    return max(e.mp.mpf(0), top - loss.high) + max(e.mp.mpf(0), loss.low - bottom)


DEFINITIONS = {
    CrossEntropy: Definition(
        (CrossEntropy(), CrossEntropy(label_smoothing=0.1), CrossEntropy(label_smoothing=1.0)),
        lambda loss, e: (
            -(1 - loss.label_smoothing) * e.mp.log(e.p[e.y])
            - loss.label_smoothing / len(e.p) * e.mp.fsum(e.mp.log(p) for p in e.p)
        ),
    ),
    FlooredCrossEntropy: Definition(
        (FlooredCrossEntropy(floor=0.0), FlooredCrossEntropy(floor=1e-6), FlooredCrossEntropy(floor=0.02)),
        lambda loss, e: -e.mp.log(loss.floor + (1 - len(e.p) * loss.floor) * e.p[e.y]),
    ),
    Focal: Definition(
        (Focal(gamma=0.0), Focal(gamma=0.5), Focal(gamma=2.0)),
        lambda loss, e: -(e.mp.fsum(e.p[k] for k in e.others) ** loss.gamma) * e.mp.log(e.p[e.y]),
    ),
    Poly: Definition(
        (Poly(epsilon=1.0), Poly(epsilon=-0.5), Poly(epsilon=0.0)),
        lambda loss, e: -e.mp.log(e.p[e.y]) + loss.epsilon * (1 - e.p[e.y]),
    ),
    Brier: Definition(
        (Brier(),), lambda loss, e: (1 - e.p[e.y]) ** 2 + e.mp.fsum(e.p[k] ** 2 for k in e.others)
    ),
    GammaCrossEntropy: Definition(
        (
            GammaCrossEntropy(gamma=0.0),
            GammaCrossEntropy(gamma=1e-7),
            GammaCrossEntropy(gamma=0.1),
            GammaCrossEntropy(gamma=0.1, min_weight=0.2),
            GammaCrossEntropy(gamma=0.999),
            GammaCrossEntropy(gamma=1.0),
            GammaCrossEntropy(gamma=1.0, min_weight=0.3),
            GammaCrossEntropy(gamma=0.5, min_weight=1.0),
        ),
        _gamma_cross_entropy,
    ),
    Reweighted: Definition(
        (Reweighted(TaiLrWeight(gamma=0.1, min_weight=0.2)), Reweighted(DFTWeight())), _reweighted
    ),
    GeneralizedCrossEntropy: Definition(
        (GeneralizedCrossEntropy(q=0.0), GeneralizedCrossEntropy(q=0.7), GeneralizedCrossEntropy(q=1.0)),
        lambda loss, e: (1 - e.p[e.y] ** loss.q) / loss.q if loss.q else -e.mp.log(e.p[e.y]),
    ),
    SymmetricCrossEntropy: Definition(
        (
            SymmetricCrossEntropy(),
            SymmetricCrossEntropy(alpha=1.0, beta=0.0),
            SymmetricCrossEntropy(alpha=0.0),
        ),
        lambda loss, e: -loss.alpha * e.mp.log(e.p[e.y]) - loss.beta * loss.log_zero * (1 - e.p[e.y]),
    ),
    SimilarityCrossEntropy: Definition(
        (
            SimilarityCrossEntropy(_soft_ring(TEST_CLASSES)),
            SimilarityCrossEntropy(np.eye(TEST_CLASSES)),
        ),
        lambda loss, e: (
            -e.mp.fsum(s * e.mp.log(p) for s, p in zip(exact_row(loss.similarity, e), e.p, strict=True))
        ),
    ),
    PairwiseCrossEntropy: Definition(
        (PairwiseCrossEntropy(ring(TEST_CLASSES, 0.5, 3.0)),),
        lambda loss, e: e.mp.fsum(
            w * e.mp.log(1 + p / e.p[e.y]) for w, p in zip(exact_row(loss.weights, e), e.p, strict=True)
        ),
    ),
    ExpectedCost: Definition(
        (ExpectedCost(ring(TEST_CLASSES, 1.0, 20.0)),),
        lambda loss, e: e.mp.fsum(c * p for c, p in zip(exact_row(loss.costs, e), e.p, strict=True)),
    ),
    SoftmaxMargin: Definition((SoftmaxMargin(ring(TEST_CLASSES, 0.5, 3.0)),), _margin),
    RankedProbabilityScore: Definition((RankedProbabilityScore(),), _below_and_above),
    HierarchicalCrossEntropy: Definition(
        (
            HierarchicalCrossEntropy(_EVEN, alpha=0.5),
            HierarchicalCrossEntropy(_UNEVEN, alpha=0.5),
            HierarchicalCrossEntropy(_UNEVEN, alpha=0.0),
        ),
        _along_the_path,
    ),
    Entropy: Definition((Entropy(),), lambda loss, e: -e.mp.fsum(p * e.mp.log(p) for p in e.p)),
    Gini: Definition((Gini(),), lambda loss, e: 1 - e.mp.fsum(p * p for p in e.p)),
    Decisiveness: Definition((Decisiveness(), Decisiveness(num_classes=5)), _decisiveness),
    Balance: Definition(
        (Balance(),), lambda loss, e: e.mp.log(len(e.p)) + e.mp.fsum(p * e.mp.log(p) for p in e.p)
    ),
    LogitRange: Definition((LogitRange(width=4.0), LogitRange(low=-2.0, high=1.0)), _logit_range),
    ZLoss: Definition((ZLoss(),), lambda loss, e: e.mp.log(e.mp.fsum(e.mp.exp(z) for z in e.z)) ** 2),
}


def settings_of(entry: Entry) -> tuple[Loss, ...]:
    """Return the settings of a loss to test."""
    return DEFINITIONS[entry.make].settings


def definition_of(entry: Entry) -> Callable[[Any, Exact], Any]:
    """Return the textbook formula of a loss."""
    return DEFINITIONS[entry.make].value
