"""Losses that shape a classifier's confidence. They are called like `F.cross_entropy`, and can be added."""

from equipoise import naming
from equipoise.losses import cost_sensitive as _cost_sensitive
from equipoise.losses import cross_entropy as _cross_entropy
from equipoise.losses import robust as _robust
from equipoise.losses import structured as _structured
from equipoise.losses.base import BatchLoss, Loss, RowLoss, Sum
from equipoise.losses.cost_sensitive import (
    ExpectedCost,
    PairwiseCrossEntropy,
    SimilarityCrossEntropy,
    SoftmaxMargin,
)
from equipoise.losses.cross_entropy import Brier, CrossEntropy, FlooredCrossEntropy, Focal, Poly
from equipoise.losses.plan import DensePlan, explain
from equipoise.losses.robust import (
    WEIGHTS,
    DFTWeight,
    GammaCrossEntropy,
    GeneralizedCrossEntropy,
    Reweighted,
    SymmetricCrossEntropy,
    TaiLrWeight,
)
from equipoise.losses.structured import HierarchicalCrossEntropy, RankedProbabilityScore
from equipoise.losses.table import Entry

LOSSES: tuple[Entry, ...] = (
    *_cross_entropy.ENTRIES,
    *_robust.ENTRIES,
    *_cost_sensitive.ENTRIES,
    *_structured.ENTRIES,
)

__all__ = [
    "CrossEntropy",
    "GammaCrossEntropy",
    "FlooredCrossEntropy",
    "Reweighted",
    "TaiLrWeight",
    "DFTWeight",
    "GeneralizedCrossEntropy",
    "SymmetricCrossEntropy",
    "Focal",
    "Poly",
    "Brier",
    "SimilarityCrossEntropy",
    "PairwiseCrossEntropy",
    "ExpectedCost",
    "RankedProbabilityScore",
    "SoftmaxMargin",
    "HierarchicalCrossEntropy",
    "Loss",
    "RowLoss",
    "BatchLoss",
    "Sum",
    "DensePlan",
    "explain",
    "Entry",
    "LOSSES",
    "WEIGHTS",
]

naming.answer_names(__name__)
