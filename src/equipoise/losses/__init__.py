"""Losses that shape confidence. Build one, add it to others, call it like `F.cross_entropy`."""

from equipoise import naming
from equipoise.losses import costs as _costs
from equipoise.losses import graded as _graded
from equipoise.losses import likelihood as _likelihood
from equipoise.losses import robust as _robust
from equipoise.losses.base import BatchLoss, Loss, RowLoss, Sum
from equipoise.losses.costs import ExpectedCost, PairwiseCrossEntropy, SimilarityCrossEntropy
from equipoise.losses.graded import HierarchicalCrossEntropy, SoftmaxMargin, SquaredCDF
from equipoise.losses.likelihood import Brier, CrossEntropy, FlooredCrossEntropy, Focal, Poly
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
from equipoise.losses.table import Entry

LOSSES: tuple[Entry, ...] = (*_likelihood.ENTRIES, *_robust.ENTRIES, *_costs.ENTRIES, *_graded.ENTRIES)

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
    "SquaredCDF",
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
