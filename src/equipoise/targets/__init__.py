"""Which classes are alike, and what it costs to take one for another: matrices [true class, class]."""

from equipoise import naming
from equipoise.targets.build import from_confusion, from_embeddings, from_groups, ordinal
from equipoise.targets.files import read
from equipoise.targets.matrix import Matrix
from equipoise.targets.mixing import check_probs, mix, unmix
from equipoise.targets.tree import from_tree, nested

__all__ = [
    "Matrix",
    "check_probs",
    "from_confusion",
    "from_embeddings",
    "from_groups",
    "from_tree",
    "mix",
    "nested",
    "ordinal",
    "read",
    "unmix",
]

naming.answer_names(__name__)
