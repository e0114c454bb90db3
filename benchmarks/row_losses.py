"""The row losses of the benchmark, each with the same formula in eager torch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from benchmarks import formulas
from benchmarks.formulas import Formula
from benchmarks.limits import BY_HAND, SPREAD_BY_HAND, SUM_BY_HAND
from equipoise.losses import (
    Brier,
    CrossEntropy,
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
from equipoise.penalties import Decisiveness, Entropy, Gini, LogitRange, ZLoss

NOT_TIMED = {"Balance": "a penalty on the batch, not on a row"}


@final
@dataclass(frozen=True)
class TimedLoss:
    """A loss and its formula in eager torch.

    Args:
        name: Its name in tables.
        loss: The loss.
        formula: The formula in eager torch.
        what: Name of its limit in `limits`.
        log_odds: Whether it depends on the log odds of the target only.
    """

    name: str
    loss: Loss
    formula: Formula
    what: str = BY_HAND
    log_odds: bool = False


CROSS_ENTROPY = TimedLoss("cross entropy", CrossEntropy(), formulas.cross_entropy, log_odds=True)
GAMMA = TimedLoss(
    "gamma cross entropy", GammaCrossEntropy(formulas.GAMMA), formulas.gamma_cross_entropy, log_odds=True
)
_RANGE = LogitRange(width=formulas.WIDTH)
SUMS = (
    TimedLoss(
        "gamma cross entropy - 0.1 entropy",
        GAMMA.loss - 0.1 * Entropy(),
        formulas.gamma_less_entropy,
        SUM_BY_HAND,
    ),
    TimedLoss(
        "gamma cross entropy + 0.1 logit range",
        GAMMA.loss + 0.1 * _RANGE,
        formulas.gamma_and_range,
        SUM_BY_HAND,
    ),
)
PLAIN = (
    GAMMA,
    TimedLoss(
        "generalised cross entropy",
        GeneralizedCrossEntropy(formulas.POWER),
        formulas.generalised_cross_entropy,
        log_odds=True,
    ),
    TimedLoss("focal", Focal(formulas.FOCUS), formulas.focal, log_odds=True),
    TimedLoss(
        "symmetric cross entropy",
        SymmetricCrossEntropy(formulas.ALPHA, formulas.BETA, formulas.LOG_ZERO),
        formulas.symmetric_cross_entropy,
        log_odds=True,
    ),
    TimedLoss("poly", Poly(formulas.EPSILON), formulas.poly, log_odds=True),
    TimedLoss(
        "reweighted cross entropy",
        Reweighted(TaiLrWeight(formulas.GAMMA)),
        formulas.reweighted_cross_entropy,
        log_odds=True,
    ),
    TimedLoss(
        "smoothed cross entropy",
        CrossEntropy(label_smoothing=formulas.SMOOTHING),
        formulas.smoothed_cross_entropy,
    ),
    TimedLoss("floored cross entropy", FlooredCrossEntropy(formulas.FLOOR), formulas.floored_cross_entropy),
    TimedLoss("Brier", Brier(), formulas.brier),
    TimedLoss("Gini", Gini(), formulas.gini),
    TimedLoss("decisiveness", Decisiveness(), formulas.decisiveness),
    TimedLoss("z-loss", ZLoss(), formulas.z_loss),
    TimedLoss("entropy", Entropy(), formulas.entropy, SPREAD_BY_HAND),
    TimedLoss("logit range", _RANGE, formulas.logit_range, SPREAD_BY_HAND),
)


def timed_losses(num_classes: int) -> list[TimedLoss]:
    """Return the row losses except plain cross entropy, then sums of losses, for a number of classes."""
    return [*PLAIN, *of_full_rows(num_classes), *SUMS]


def of_full_rows(num_classes: int) -> list[TimedLoss]:
    """Return the losses with a matrix or a tree over the classes, for a number of classes."""
    classes = torch.arange(num_classes)
    costs = (classes[:, None] - classes).abs().float() / num_classes
    similarity = 0.9 * torch.eye(num_classes, dtype=torch.float64) + 0.1 / num_classes  # rows that sum to 1
    group = 10 if num_classes >= 100 else 2
    tree = tuple(tuple(range(first, first + group)) for first in range(0, num_classes, group))
    matrices: tuple[tuple[str, Callable[[Tensor], Loss], Callable[[Tensor], Formula], Tensor], ...] = (
        ("similarity", SimilarityCrossEntropy, formulas.similarity_cross_entropy, similarity),
        ("pairwise", PairwiseCrossEntropy, formulas.pairwise_cross_entropy, costs),
        ("expected cost", ExpectedCost, formulas.expected_cost, costs),
        ("softmax margin", SoftmaxMargin, formulas.softmax_margin, costs),
    )
    return [
        TimedLoss("ranked probability score", RankedProbabilityScore(), formulas.ranked_probability_score),
        *(TimedLoss(name, make(matrix), formula(matrix)) for name, make, formula, matrix in matrices),
        TimedLoss(
            "hierarchical cross entropy",
            HierarchicalCrossEntropy(tree, formulas.ALPHA),
            formulas.hierarchical_cross_entropy(group),
        ),
    ]
