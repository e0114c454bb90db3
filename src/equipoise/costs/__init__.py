"""Matrices of similarities and costs between classes, indexed [true class, class], and decisions by cost."""

from equipoise import naming
from equipoise.costs.builders import from_confusion, from_embeddings, from_groups, ordinal
from equipoise.costs.decisions import ABSTAIN, conditional_risk, decide, top_k
from equipoise.costs.io import read
from equipoise.costs.matrix import ClassMatrix
from equipoise.costs.soft_targets import mix, unmix
from equipoise.costs.tree import from_tree, index_tree

__all__ = [
    "ABSTAIN",
    "ClassMatrix",
    "conditional_risk",
    "decide",
    "from_confusion",
    "from_embeddings",
    "from_groups",
    "from_tree",
    "mix",
    "index_tree",
    "ordinal",
    "read",
    "top_k",
    "unmix",
]

naming.answer_names(__name__)
