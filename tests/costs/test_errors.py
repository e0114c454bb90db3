"""Errors of matrices over classes and of decisions: each names the argument, the rule and the value."""

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch

from equipoise import costs
from equipoise.costs import (
    ClassMatrix,
    from_confusion,
    from_embeddings,
    from_groups,
    from_tree,
    index_tree,
    mix,
    ordinal,
    read,
    unmix,
)
from equipoise.costs.soft_targets import check_probs
from equipoise.losses import ExpectedCost, PairwiseCrossEntropy
from support.class_matrices import ALIKE, COSTS, GROUPS, TREE
from support.decision_errors import MESSAGES as OF_DECISIONS
from support.raises import never_raised


def corner(text: str) -> Callable[[], Any]:
    return lambda: read(text, "costs")


def value(call: Callable[[], Any], says: str) -> tuple[type[Exception], Callable[[], Any], str]:
    return ValueError, call, says


HALF = np.array([0.5, 0.5])
OF_MATRICES = [
    value(
        lambda: ClassMatrix(COSTS, kind="cost"),
        "kind must be one of similarity, costs, weights, got 'cost'; see ClassMatrix",
    ),
    value(
        lambda: ClassMatrix([["a"]], kind="costs"),
        "costs must be a (C, C) matrix of numbers, got [['a']]; give a row per true class",
    ),
    value(
        lambda: ClassMatrix([[0, 1]], kind="costs"),
        "costs must be (C, C), got (1, 2); give a row per true class and a column per class",
    ),
    value(
        lambda: ClassMatrix(COSTS, "ab", kind="costs"),
        "classes must name each of 3 classes, got 2 names; leave them out for numbers",
    ),
    value(
        lambda: ClassMatrix(COSTS, "aba", kind="costs"),
        "classes must have different names, got 'a' twice; rename one",
    ),
    value(
        lambda: ClassMatrix([[0, np.inf], [1, 0]], "ab", kind="costs"),
        "costs must be finite, got nan or infinity for true class 'a' and class 'b'; fill in every entry",
    ),
    value(
        lambda: ClassMatrix([[1.5, -0.5], [0, 1]], "ab", kind="similarity"),
        "similarity must not be negative, got -0.5 for true class 'a' and class 'b'; an entry is a "
        "share of the target",
    ),
    value(
        lambda: ClassMatrix([[0.8, 0.3], [0.2, 0.7]], "ab", kind="similarity"),
        "similarity[true, class] must have rows that sum to 1, got 1.1 for true class 'a'; its "
        "columns do, so it looks transposed: exchange rows and columns",
    ),
    value(
        lambda: ClassMatrix([[0.8, 0.3], [0.3, 0.7]], "ab", kind="similarity"),
        "similarity[true, class] must have rows that sum to 1, got 1.1 for true class 'a'; divide "
        "each by its sum",
    ),
    value(
        lambda: ClassMatrix([[2, 1], [1, 0]], "ab", kind="costs"),
        "costs[true, predicted] must be smallest where a class is called itself, got 2 for 'a' as "
        "itself and 1 as 'b'; if it holds gains, pass its negative",
    ),
    value(
        lambda: ClassMatrix([[2, 1], [5, 1]], "ab", kind="costs"),
        "costs[true, predicted] must be smallest where a class is called itself, got 2 for 'a' as "
        "itself and 1 as 'b'; each is smallest in its column, so it looks transposed: exchange "
        "rows and columns",
    ),
    value(
        lambda: ClassMatrix(COSTS, "abc", kind="costs").ordered("abe"),
        "costs must name the classes asked for, got 'c'; there is a, b, e",
    ),
    value(
        lambda: from_groups(GROUPS).ordered(["horse", "zebra", "whale", "sharc"]),
        "similarity must name the classes asked for, got 'shark'; did you mean sharc?",
    ),
    value(
        lambda: ClassMatrix(COSTS, "abc", kind="costs").ordered("abcd"),
        "costs must name every class once, got none for 'd'; there is a, b, c",
    ),
    value(
        lambda: ClassMatrix(ALIKE, "abcd", kind="similarity").part("ac"),
        "similarity must give no share to a class that is left out, got 0.2 for true class 'a'; keep all "
        "classes",
    ),
    value(
        lambda: ClassMatrix(pandas.DataFrame(COSTS, index=list("abc"), columns=list("abx")), kind="costs"),
        "costs must have the same names across and down, got 'c' in one only; name each class in both",
    ),
    value(
        lambda: from_groups(GROUPS, classes=["horse", "shark", "whale"]),
        "similarity must name the classes asked for, got 'zebra'; there is horse, shark, whale",
    ),
    value(
        lambda: from_groups(GROUPS, "costs", classes=["horse", "shark", "whale", "zebra", "cow"]),
        "costs must name every class once, got none for 'cow'; there is horse, zebra, whale, shark",
    ),
    value(
        lambda: from_embeddings({"a": [1.0], "b": [2.0]}, classes="ac"),
        "similarity must name the classes asked for, got 'b'; there is a, c",
    ),
    value(
        lambda: from_groups("a,, b"),
        "groups must hold names, got [['a', '', ' b']]; write for example 'horse, zebra | whale, shark'",
    ),
    value(
        lambda: from_groups([]),
        "groups must hold names, got []; write for example 'horse, zebra | whale, shark'",
    ),
    value(
        lambda: from_groups("a, b", within=0.7, between=0.4),
        "within and between must be shares that sum to at most 1, got 0.7 and 0.4; a class keeps the rest",
    ),
    value(
        lambda: from_groups("a, b", "costs", within=-1),
        "within must be a cost of 0 or more, got -1; being right costs 0",
    ),
    value(
        lambda: from_groups("a, b", "costs", between=np.nan),
        "between must be a cost of 0 or more, got nan; being right costs 0",
    ),
    value(
        lambda: from_embeddings([1.0, 2.0]),
        "vectors must be (C, D), got (2,); give one vector per class",
    ),
    value(
        lambda: from_embeddings([[1.0], [2.0, 3.0]]),
        "vectors must be numbers of one length per class, got [[1.0], [2.0, 3.0]]; pad or re-embed",
    ),
    value(
        lambda: from_embeddings([[1.0], [0.0]]),
        "vectors must be finite and not zero, got [0.0] for class 1; leave it out",
    ),
    value(
        lambda: from_embeddings([[1.0], [2.0]], 0),
        "temperature must be finite and above 0, got 0; 0.1 is a beginning",
    ),
    value(
        lambda: from_confusion([0, 1], [0]),
        "target must be (N,) and predicted (N,) or (N, C), got (2,) and (1,); give a row per sample",
    ),
    value(
        lambda: from_confusion([0, 1], [0, 1], smoothing=-1),
        "smoothing must be finite and at least 0, got -1; 1 counts each cell once more",
    ),
    value(
        lambda: from_confusion([0, 3], np.eye(2)),
        "target must be below the 2 columns of predicted, got 3; add its column",
    ),
    value(
        lambda: from_confusion([0, 1], 3 * np.eye(2)),
        "predicted must hold probabilities that sum to one, got a row that sums to 3; pass "
        "probabilities, not logits",
    ),
    value(
        lambda: from_confusion([0, 0], [0, 1], smoothing=0),
        "smoothing must be above 0 for a class without rows, got 0 and none of class 1; use 1",
    ),
    value(
        lambda: from_confusion([0, -1], [0, 1]),
        "target must be a place among the classes, got -1; count from 0",
    ),
    value(
        lambda: from_confusion([0, 1], [0, 2], classes="ab"),
        "predicted must be a place among the classes, got 2; count from 0",
    ),
    value(
        lambda: from_confusion(["a", "c"], ["a", "b"], classes="ab"),
        "target must hold integers or names among classes, got 'c'; pass classes=",
    ),
    value(
        lambda: ordinal(3, power=0),
        "power must be finite and above 0, got 0; 1 counts the steps",
    ),
    value(
        lambda: ordinal(3, beta=-1),
        "beta must be finite and at least 0, got -1; 0 makes all classes alike",
    ),
    value(
        lambda: ordinal(0),
        "costs must be (C, C), got (0, 0); give a row per true class and a column per class",
    ),
    value(
        lambda: from_tree(TREE, beta=-1),
        "beta must be finite and at least 0, got -1; 0 makes all classes alike",
    ),
    value(
        lambda: from_tree(3.5),
        "tree must be nested mappings and sequences around class names, got float; for example "
        "{'land': ['horse', 'zebra'], 'sea': ['whale', 'shark']}",
    ),
    value(
        lambda: PairwiseCrossEntropy([[0, 1], [1, 2]]),
        "weights[true, class] must be 0 on the diagonal, got 2 for class '1'; subtract it from its row",
    ),
    value(
        lambda: ExpectedCost(COSTS)(torch.zeros(2, 4), torch.zeros(2, dtype=torch.long)),
        "costs must have a row and a column for each of 4 classes, got (3, 3); the logits have as "
        "many classes",
    ),
    value(
        lambda: from_tree({"land": []}),
        "tree must have a class below every node, got an empty one; leave it out",
    ),
    value(
        lambda: from_tree([["horse"], ["whale", "horse"]]),
        "classes must have different names, got 'horse' twice; rename one",
    ),
    value(
        lambda: from_tree(TREE, classes=["horse"]),
        "classes must be the leaves of the tree, got 'shark', which is left out; give each leaf once",
    ),
    value(
        lambda: index_tree(TREE, ["horse", "zebra", "whale", "shark", "sea"]),
        "classes must be the leaves of the tree, got 'sea', which is no leaf; give each leaf once",
    ),
    value(
        corner("nowhere.csv"),
        "costs must be a CSV or TOML file that is there, got 'nowhere.csv'; check the path",
    ),
    value(
        corner("corner.csv"),
        "costs must have a row per true class, got 'predicted' in the corner of corner.csv, so it "
        "looks transposed; exchange rows and columns",
    ),
    value(
        corner("ragged.csv"),
        "costs must have rows of one length, got 2 cells in line 2 and 3 in line 1 of ragged.csv, "
        "separated by commas; give each column a name and each row a cell for it, and quote cells with "
        "separators in them",
    ),
    value(
        corner("bare.csv"),
        "costs must have a row and a column of names around a row per class, got 3 rows of 2 cells "
        "in bare.csv; add the names",
    ),
    value(
        corner("names.csv"),
        "costs must have the same names across and down, got 'ill' in one only in names.csv; name "
        "each class in both",
    ),
    value(
        corner("word.csv"),
        "costs must hold numbers, got 'one' in word.csv, line 2; class names go in the first row and "
        "the first column only",
    ),
    value(
        corner("digits.csv"),
        "costs must hold numbers, got '1_0' in digits.csv, line 2; class names go in the first row and "
        "the first column only",
    ),
    value(
        corner("open.csv"),
        "costs must have matching quotes, got unexpected end of data in the row that begins in line 3 of "
        "open.csv; close them, and double those inside a cell",
    ),
    value(
        corner("latin.csv"),
        r"costs must be text in UTF-8, got '\udce9' in line 1 of latin.csv, column 2 ('\udce9'); save "
        "the file as UTF-8",
    ),
    value(
        corner("latin.toml"),
        "costs must be text in UTF-8, got 'latin.toml'; 'utf-8' codec can't decode byte 0xe9 in position "
        "1: invalid continuation byte",
    ),
    value(
        corner("bad.toml"),
        "costs must be TOML, got 'bad.toml'; Expected ']' at the end of a table declaration (at line "
        "1, column 6)",
    ),
    value(
        corner("extra.toml"),
        "costs must have only groups, within and between beside groups, got 'withn' in extra.toml; "
        "or give a table per class",
    ),
    value(
        corner("flat.toml"),
        "costs must have a table per true class, got 1 for 'well' in flat.toml; write [well]",
    ),
    value(
        corner("unknown.toml"),
        "costs must have a table for every class, got 'il' without one in unknown.toml; add [il]",
    ),
    value(
        corner("truth.toml"),
        "costs must hold numbers, got True in truth.toml; class names go in the first row and the "
        "first column only",
    ),
    value(
        corner("list.toml"),
        "costs must hold numbers, got [1] in list.toml; class names go in the first row and the "
        "first column only",
    ),
    value(
        lambda: mix(HALF, ClassMatrix([[0, 1], [1, 0]], kind="costs")),
        "similarity must be of kind 'similarity', got a ClassMatrix of kind 'costs'; make it with "
        "kind='similarity'",
    ),
    value(
        lambda: mix(HALF, ALIKE),
        "probs must be (..., 4), got (2,); the matrix has as many true classes",
    ),
    value(
        lambda: mix(2 * HALF, np.eye(2)),
        "probs must be 0 or more and sum to one in each row, got a row off by 1; pass probabilities, "
        "not logits",
    ),
    value(
        lambda: unmix(HALF, np.full((2, 2), 0.5)),
        "similarity must have a condition number of at most 1e+06 to be undone, got *; give each "
        "class a larger share of its own row",
    ),
    value(
        lambda: check_probs(np.array(0.5)),
        "probs must be (..., C), got (); give a probability per class",
    ),
    value(
        lambda: check_probs(np.array([np.nan])),
        "probs must be finite, got nan or infinity; look for a model that diverged",
    ),
    (
        TypeError,
        lambda: check_probs([1.0]),
        "probs must be an array or a tensor, got list; use numpy.asarray(probs)",
    ),
    (
        TypeError,
        lambda: check_probs(np.array([1])),
        "probs must be floating, got int64; pass probabilities, not classes",
    ),
]


CASES = [*OF_MATRICES, *OF_DECISIONS]


def claim(says: str) -> str:
    """Return argument, rule and value of an error, without the way out."""
    return says.partition("; ")[0]


@pytest.mark.parametrize(("kind", "call", "says"), CASES, ids=[says[:60] for _, _, says in CASES])
def test_what_an_error_says(folder: Path, kind: type[Exception], call: Callable[[], Any], says: str) -> None:
    """An error names the argument, the rule and the value, and adds a way out."""
    assert folder
    with pytest.raises(kind) as caught:
        call()
    said = str(caught.value)
    assert re.fullmatch(re.escape(claim(says)).replace(r"\*", r"[\d.e+inf]+"), claim(said))
    assert "; " in said
    name, _, rest = says.partition(" must ")
    assert name[0].islower()
    assert "got " in rest


def test_every_error_has_a_case(folder: Path) -> None:
    assert folder

    def changed() -> None:
        ordinal(2).kind = "similarity"

    calls = [*(call for _, call, _ in CASES), changed]
    source = Path(inspect.getfile(costs)).parent
    assert never_raised(source, calls) == set()
    assert len(never_raised(source, calls[1:])) == 1  # the control
