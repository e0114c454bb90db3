"""Matrices over classes: what each builder makes, what is refused and how, mixing and its undoing."""

import ast
import copy
import inspect
import pickle
import re
import traceback
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
from equipoise.losses import (
    CrossEntropy,
    ExpectedCost,
    HierarchicalCrossEntropy,
    PairwiseCrossEntropy,
    SimilarityCrossEntropy,
)

ANIMALS = "horse, zebra | whale, shark"
TREE = {"land": ["horse", "zebra"], "sea": ["whale", "shark"]}
LISTS = [["horse", "zebra"], ["whale", "shark"]]
ALIKE = np.array([[0.8, 0.2, 0, 0], [0.3, 0.7, 0, 0], [0, 0, 0.9, 0.1], [0, 0, 0.1, 0.9]])
COSTS = np.array([[0, 1, 9], [2, 0, 9], [3, 4, 0.0]])


class TestMatrix:
    def test_it_is_what_the_losses_and_the_decisions_take(self) -> None:
        alike = ClassMatrix(ALIKE, "abcd", kind="similarity")
        assert SimilarityCrossEntropy(alike).similarity is alike
        assert SimilarityCrossEntropy(alike) != SimilarityCrossEntropy(ALIKE)  # it has names
        dear = ClassMatrix(COSTS, kind="costs")
        assert ExpectedCost(dear) == ExpectedCost(COSTS)
        assert PairwiseCrossEntropy(dear) == PairwiseCrossEntropy(COSTS)
        for make, given in (
            (SimilarityCrossEntropy, dear),
            (ExpectedCost, alike),
            (PairwiseCrossEntropy, alike),
        ):
            with pytest.raises(
                ValueError, match=r"must be of kind '(similarity|costs|weights)', got a ClassM"
            ):
                make(given)
        np.testing.assert_array_equal(np.asarray(dear), COSTS)
        tensor = torch.as_tensor(dear)  # pyright: ignore[reportArgumentType]
        assert tensor.dtype == torch.float64
        torch.testing.assert_close(tensor, torch.from_numpy(COSTS), rtol=0, atol=0)
        tensor[0, 1] = 7  # a tensor may be written to, and the matrix stays
        assert dear["0", "1"] == 1

    def test_it_is_a_value(self) -> None:
        one, two = (ClassMatrix(COSTS, "abc", kind="costs") for _ in range(2))
        assert one == two == pickle.loads(pickle.dumps(one)) == copy.deepcopy(one)
        assert len({one, two}) == 1
        for other in (
            ClassMatrix(COSTS + np.eye(3) * -1, "abc", kind="costs"),
            ClassMatrix(COSTS, "abe", kind="costs"),
            COSTS.tolist(),
        ):
            assert one != other
        with pytest.raises(ValueError, match="read-only"):
            one.array[0, 0] = 1
        with pytest.raises(AttributeError, match="kind must stay as it is, got 'similarity'; make another"):
            one.kind = "similarity"

    def test_it_prints_as_a_table_with_names(self) -> None:
        lines = str(ClassMatrix(COSTS, ["a", "long name", "c"], kind="costs")).splitlines()
        assert lines[0] == "costs[true, predicted]"
        assert lines[1].split() == ["a", "long", "name", "c"]
        assert lines[3].split() == ["long", "name", "2", "0", "9"]
        assert len({len(line) for line in lines[1:]}) == 1
        assert eval(repr(alike := ClassMatrix(ALIKE, "abcd", kind="similarity"))) == alike

    def test_transposing_and_ordering(self) -> None:
        dear = ClassMatrix(COSTS, "abc", kind="costs")
        assert dear.T["a", "b"] == dear["b", "a"] == 2
        assert dear != dear.T
        assert dear == dear.T.T
        turned = dear.ordered("cab")
        assert turned.classes == ("c", "a", "b")
        assert all(turned[i, j] == dear[i, j] for i in "abc" for j in "abc")
        with pytest.raises(ValueError, match="rows that sum to 1"):
            _ = ClassMatrix(ALIKE, kind="similarity").T

    def test_rows_are_divided_by_their_sum(self) -> None:
        thirds = np.full((3, 3), 0.3333333)
        np.testing.assert_allclose(ClassMatrix(thirds, kind="similarity").array.sum(1), 1, rtol=1e-15)


def test_groups_as_a_similarity_and_as_costs() -> None:
    alike = from_groups("a, b, c | d", within=0.4, between=0.3)
    np.testing.assert_allclose(alike.array[0], [0.3, 0.2, 0.2, 0.3], rtol=1e-15)
    np.testing.assert_allclose(alike.array[3], [0.1, 0.1, 0.1, 0.7], rtol=1e-15)
    assert from_groups([["a", "b", "c"], ["d"]], within=0.4, between=0.3) == alike
    dear = from_groups(ANIMALS, "costs", within=1, between=20)
    assert dear["horse", "zebra"] == 1
    assert dear["whale", "zebra"] == 20
    assert dear["horse", "horse"] == 0
    alone = from_groups("a | b")
    np.testing.assert_array_equal(alone.array, np.eye(2))
    assert from_groups("a, b", within=0.2, between=0.3)["a", "a"] == pytest.approx(0.8)


def test_all_spellings_of_a_tree_agree_and_heights_count_the_common_ancestor() -> None:
    expected = from_groups(ANIMALS, "costs", within=1, between=2)
    assert from_tree(TREE) == expected
    assert from_tree(LISTS) == expected
    assert from_tree({"land": "horse", "sea": {"whales": ["whale"], "fish": ["shark"]}}) != expected
    uneven = from_tree({"a": ["p", "q"], "b": {"c": {"d": ["r", "s"]}}})
    assert uneven["p", "q"] == 1
    assert uneven["r", "s"] == 1
    assert uneven["p", "r"] == 4
    assert from_tree(TREE, classes=["zebra", "shark", "horse", "whale"])["zebra", "horse"] == 1
    by_hand = np.exp(-4 * expected.array / 2)
    np.testing.assert_allclose(
        from_tree(TREE, "similarity", beta=4).array, by_hand / by_hand.sum(1, keepdims=True), rtol=1e-14
    )


def test_a_tree_as_the_hierarchical_loss_takes_it() -> None:
    order = ["whale", "horse", "shark", "zebra"]
    assert (
        index_tree(TREE, order) == index_tree(LISTS, order) == index_tree(ANIMALS, order) == ((1, 3), (0, 2))
    )
    assert index_tree({"all": ["a", "b"]}) == ((0, 1),)
    logits, target = torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0, 1])
    flat = HierarchicalCrossEntropy(index_tree(TREE, order), alpha=0)
    torch.testing.assert_close(flat(logits, target), CrossEntropy()(logits, target), rtol=1e-14, atol=0)
    # across branches every choice counts e^-1 or e^-2: the coarse one is worth e times the fine one
    wrong_branch, wrong_leaf = torch.tensor([[0.0, 9, 0, 0]]), torch.tensor([[0.0, 0, 9, 0]])
    steep = HierarchicalCrossEntropy(index_tree(TREE, order), alpha=1.0)
    assert steep(wrong_branch, target[:1]) > 2 * steep(wrong_leaf, target[:1])
    assert CrossEntropy()(wrong_branch, target[:1]) == CrossEntropy()(wrong_leaf, target[:1])


def test_an_underflowed_class_has_its_full_cost_in_the_tree() -> None:
    logits = torch.tensor([[0.0, 500.0, 500.0, 500.0]])
    loss = HierarchicalCrossEntropy(((0, 1), (2, 3)), alpha=0.0)(logits, torch.tensor([0]))
    assert logits.softmax(1)[0, 0] == 0
    assert loss.item() == pytest.approx(500 + np.log(3), rel=1e-6)


def test_embeddings_by_hand_and_nearly_alike() -> None:
    vectors = np.random.default_rng(0).normal(size=(5, 3))
    cosine = (
        (vectors @ vectors.T) / np.linalg.norm(vectors, axis=1) / np.linalg.norm(vectors, axis=1)[:, None]
    )
    np.testing.assert_allclose(from_embeddings(vectors, kind="costs").array, 1 - cosine, atol=1e-14)
    terms = np.exp(cosine / 0.5)
    np.testing.assert_allclose(
        from_embeddings(torch.from_numpy(vectors), 0.5).array, terms / terms.sum(1, keepdims=True), rtol=1e-13
    )
    near = from_embeddings({"a": [1.0, 0.0], "b": [1.0, 1e-6]}, kind="costs")
    assert near["a", "b"] == pytest.approx(5e-13, rel=1e-6)  # 1 - cos itself has three digits left here


def test_confusion_by_hand_from_classes_probabilities_and_names() -> None:
    true, guess = np.array([0, 0, 0, 1, 2, 2]), np.array([0, 1, 0, 1, 2, 0])
    found = from_confusion(true, guess, smoothing=0.5)
    counts = np.array([[2, 1, 0], [0, 1, 0], [1, 0, 1]]) + 0.5
    np.testing.assert_allclose(found.array, counts / counts.sum(1, keepdims=True), rtol=1e-15)
    np.testing.assert_array_equal(from_confusion(true, np.eye(3)[guess], smoothing=0.5).array, found.array)
    names = np.array(["x", "y", "z"])
    named = from_confusion(names[true], names[guess], smoothing=0.5, classes=names)
    assert named == ClassMatrix(found.array, names, kind="similarity")
    assert from_confusion(torch.from_numpy(true), torch.from_numpy(guess), smoothing=0.5) == found
    assert from_confusion(guess, true, smoothing=0.5) != found


def test_an_ordinal_scale() -> None:
    assert ordinal(4)["0", "3"] == 3
    assert ordinal(["low", "mid", "high"], power=2)["low", "high"] == 4
    terms = np.exp(-0.5 * np.abs(np.subtract.outer(range(3), range(3))))
    np.testing.assert_allclose(
        ordinal(3, "similarity", beta=0.5).array, terms / terms.sum(1, keepdims=True), rtol=1e-15
    )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        Path(name).write_text(text)
    Path("latin.csv").write_bytes(b"true,\xe9\n\xe9,0\n")
    Path("latin.toml").write_bytes(b"[\xe9]\n")
    return tmp_path


FILES = {
    "costs.csv": "true, well, ill\nwell,0,1\nill,6,0\n",
    "turned.csv": "true,ill,well\nwell,1,0\nill,0,6\n",
    "tabs.tsv": "\twell\till\nwell\t0\t1\nill\t6\t0\n",
    "costs.toml": "[well]\notherwise = 1\n[ill]\nwell = 6\n",
    "groups.toml": 'groups = "horse, zebra | whale, shark"\nwithin = 0.2\n',
    "alike.toml": "[a]\nb = 0.25\n[b]\na = 0.5\nb = 0.5\n",
    "corner.csv": "predicted,well,ill\nwell,0,6\nill,1,0\n",
    "ragged.csv": "true,well,ill\nwell,0\nill,6,0\n",
    "bare.csv": "0,1\n1,0\n2,2\n",
    "names.csv": "true,well,ill\nwell,0,1\nsick,6,0\n",
    "word.csv": "true,well,ill\nwell,0,one\nill,6,0\n",
    "digits.csv": "true,well,ill\nwell,0,1_0\nill,6,0\n",
    "open.csv": 'true,well,ill\nwell,0,1\n"ill,6,0\n',
    "semicolons.csv": "true;well;ill\nwell;0;1\nill;6;0\n",
    "bars.csv": '\ufefftrue|well|ill\nwell|0|1\n\n "ill"|6|0\n||\n',
    "bad.toml": "[well\n",
    "extra.toml": 'groups = "a, b"\nwithn = 1\n',
    "flat.toml": "well = 1\n",
    "unknown.toml": "[well]\nil = 1\n[ill]\nwell = 6\n",
    "truth.toml": "[well]\nill = true\n[ill]\nwell = 6\n",
    "list.toml": "[well]\nill = [1]\n[ill]\nwell = 6\n",
}


def test_files_say_the_same_in_every_form(folder: Path) -> None:
    expected = ClassMatrix([[0, 1], [6, 0]], ["well", "ill"], kind="costs")
    for name in ("costs.csv", "turned.csv", "tabs.tsv", "semicolons.csv", "bars.csv", "costs.toml"):
        assert read(folder / name, "costs") == expected, name
    assert read("groups.toml", "similarity") == from_groups(ANIMALS, within=0.2)
    assert read("alike.toml", "similarity") == ClassMatrix(
        [[0.75, 0.25], [0.5, 0.5]], "ab", kind="similarity"
    )
    assert read("costs.csv", "costs") != expected.T


def test_mixing_is_the_optimum_of_soft_targets_and_unmixing_takes_it_back() -> None:
    true = np.random.default_rng(0).dirichlet(np.ones(4), size=6)
    mixed = mix(true, ALIKE)
    np.testing.assert_allclose(mixed, true @ ALIKE, rtol=1e-15)
    assert not np.allclose(mixed, true @ ALIKE.T)
    logits = torch.from_numpy(np.log(mixed)).requires_grad_()
    loss = SimilarityCrossEntropy(ALIKE)(logits, torch.from_numpy(true))
    (slope,) = torch.autograd.grad(loss, logits)
    assert slope.abs().max() < 1e-16
    np.testing.assert_allclose(unmix(mixed, ALIKE), true, atol=1e-14)
    assert not np.allclose(unmix(mixed, np.eye(4)), true)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_arrays_and_tensors_mix_alike_and_keep_their_dtype(dtype: torch.dtype) -> None:
    probs = torch.rand(2, 3, 4, dtype=torch.float64).softmax(-1).to(dtype)
    for change in (mix, unmix):
        found = change(probs, ALIKE)
        assert isinstance(found, torch.Tensor)
        assert found.dtype == dtype
        wide = probs.double().numpy()
        expected = change(wide / wide.sum(-1, keepdims=True), ALIKE)
        assert isinstance(expected, np.ndarray)
        np.testing.assert_allclose(found.double().numpy(), expected, atol=4 * torch.finfo(dtype).eps)
    single = np.full((2, 4), 0.25, dtype=np.float32)
    assert mix(single, ALIKE).dtype == unmix(single, ALIKE).dtype == np.float32


def test_what_no_mixture_can_be_is_brought_back_to_probabilities() -> None:
    sure = np.eye(4)
    plain = sure @ np.linalg.inv(ALIKE)
    assert plain.min() < 0
    found = unmix(sure, ALIKE)
    assert (found >= 0).all()
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-15)


def corner(text: str) -> Callable[[], Any]:
    return lambda: read(text, "costs")


def value(call: Callable[[], Any], says: str) -> tuple[type[Exception], Callable[[], Any], str]:
    return ValueError, call, says


HALF = np.array([0.5, 0.5])
MESSAGES = [
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
        lambda: from_groups(ANIMALS).ordered(["horse", "zebra", "whale", "sharc"]),
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
        lambda: from_groups(ANIMALS, classes=["horse", "shark", "whale"]),
        "similarity must name the classes asked for, got 'zebra'; there is horse, shark, whale",
    ),
    value(
        lambda: from_groups(ANIMALS, "costs", classes=["horse", "shark", "whale", "zebra", "cow"]),
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


@pytest.mark.parametrize(("kind", "call", "says"), MESSAGES, ids=[says[:60] for _, _, says in MESSAGES])
def test_what_an_error_says(folder: Path, kind: type[Exception], call: Callable[[], Any], says: str) -> None:
    assert folder
    with pytest.raises(kind, match="^" + re.escape(says).replace(r"\*", r"[\d.e+inf]+") + "$"):
        call()
    name, _, rest = says.partition(" must ")
    assert name[0].islower()
    assert "got " in rest


def unsaid(folder: Path, calls: list[Callable[[], Any]]) -> set[str]:
    """Return where an error can be raised but by none of the calls."""
    left = {
        (path.name, node.lineno, node.end_lineno or 0)
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Raise)
    }
    for call in calls:
        try:
            call()
        except Exception as error:
            while error:
                frame = traceback.extract_tb(error.__traceback__)[-1]
                left = {
                    s
                    for s in left
                    if not (s[0] == Path(frame.filename).name and s[1] <= (frame.lineno or 0) <= s[2])
                }
                error = error.__cause__
    return {f"{name}:{first}" for name, first, _ in left}


def test_every_error_of_targets_has_a_case(folder: Path) -> None:
    assert folder

    def changed() -> None:
        ordinal(2).kind = "similarity"

    from test_decisions import MESSAGES as OF_DECISIONS

    calls = [*(call for _, call, _ in (*MESSAGES, *OF_DECISIONS)), changed]
    source = Path(inspect.getfile(costs)).parent
    assert unsaid(source, calls) == set()
    assert len(unsaid(source, calls[1:])) == 1
