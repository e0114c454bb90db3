"""Errors of losses with a matrix or a tree over the classes."""

from equipoise.losses import (
    ExpectedCost,
    HierarchicalCrossEntropy,
    PairwiseCrossEntropy,
    SimilarityCrossEntropy,
    SoftmaxMargin,
)
from support.error_cases import COSTS, EYE, logits, nan, put, target, value

MATRICES = [
    value(
        lambda: ExpectedCost([["a", "b"], ["c", "d"]]),
        "costs must be a (C, C) matrix of numbers, got [['a', 'b'], ['c', 'd']]; give a row per true class",
    ),
    value(
        lambda: ExpectedCost([[0], [0, 1]]),
        "costs must be a (C, C) matrix of numbers, got [[0], [0, 1]]; give a row per true class",
    ),
    value(
        lambda: ExpectedCost([[0.0, 1.0]]),
        "costs must be (C, C), got (1, 2); give a row per true class and a column per class",
    ),
    value(
        lambda: PairwiseCrossEntropy([]),
        "weights must be (C, C), got (0,); give a row per true class and a column per class",
    ),
    value(
        lambda: ExpectedCost(put(COSTS, 1, 2, nan)),
        "costs must be finite, got nan or infinity for true class '1' and class '2'; fill in every entry",
    ),
    value(
        lambda: ExpectedCost(COSTS)(logits, target),
        "costs must have a row and a column for each of 5 classes, got (3, 3); the logits have as "
        "many classes",
    ),
    value(
        lambda: PairwiseCrossEntropy(COSTS)(logits, target),
        "weights must have a row and a column for each of 5 classes, got (3, 3); the logits have as "
        "many classes",
    ),
    value(
        lambda: SimilarityCrossEntropy(EYE)(logits, target),
        "similarity must have a row and a column for each of 5 classes, got (3, 3); the logits have "
        "as many classes",
    ),
    value(
        lambda: SimilarityCrossEntropy(put(EYE, 2, 0, -0.5)),
        "similarity must not be negative, got -0.5 for true class '2' and class '0'; an entry is a "
        "share of the target",
    ),
    value(
        lambda: SimilarityCrossEntropy(put(EYE, 1, 0, 0.25)),
        "similarity[true, class] must have rows that sum to 1, got 1.25 for true class '1'; divide each "
        "by its sum",
    ),
    value(
        lambda: SimilarityCrossEntropy([[0.8, 0.3], [0.2, 0.7]]),
        "similarity[true, class] must have rows that sum to 1, got 1.1 for true class '0'; its columns "
        "do, so it looks transposed: exchange rows and columns",
    ),
    value(
        lambda: PairwiseCrossEntropy(put(COSTS, 0, 2, -1.0)),
        "weights must not be negative, got -1 for true class '0' and class '2'; a weight of 0 leaves "
        "a class out",
    ),
    value(
        lambda: PairwiseCrossEntropy(put(COSTS, 2, 2, 3.0)),
        "weights[true, class] must be 0 on the diagonal, got 3 for class '2'; subtract it from its row",
    ),
    value(
        lambda: ExpectedCost(put(COSTS, 1, 1, 4.0)),
        "costs[true, predicted] must be smallest where a class is called itself, got 4 for '1' as itself and "
        "1 as '0'; if it holds gains, pass its negative",
    ),
    value(
        lambda: SoftmaxMargin(put(COSTS, 0, 2, -1.0)),
        "costs[true, predicted] must be smallest where a class is called itself, got 0 for '0' as itself and "
        "-1 as '2'; if it holds gains, pass its negative",
    ),
    value(
        lambda: SoftmaxMargin(put(COSTS, 2, 2, 0.5)),
        "costs[true, class] must be 0 on the diagonal, got 0.5 for class '2'; subtract it from its row",
    ),
    value(
        lambda: HierarchicalCrossEntropy(((0, 1), 2))(logits, target),
        "tree must hold each of 5 classes once, got 3 classes",
    ),
    value(
        lambda: HierarchicalCrossEntropy((0, "horse")),
        "tree must be tuples around class indices, got 'horse'; use costs.index_tree for names",
    ),
    value(
        lambda: HierarchicalCrossEntropy(((0, 1), (1, 2))),
        "tree must hold each class once, got 1 twice; a class has one place",
    ),
    value(
        lambda: HierarchicalCrossEntropy(((0, 1), 3)),
        "tree must hold the classes from 0 on, got ((0, 1), 3); for example ((0, 1), (2, 3))",
    ),
    value(
        lambda: HierarchicalCrossEntropy((0, 1), alpha=-1.0),
        "alpha must be finite and at least 0, got -1.0; 0 is cross entropy",
    ),
]
