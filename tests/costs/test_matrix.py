"""Matrices over classes: what each builder makes, what is refused and how, mixing and its undoing."""

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

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
from equipoise.losses import (
    CrossEntropy,
    ExpectedCost,
    HierarchicalCrossEntropy,
    PairwiseCrossEntropy,
    SimilarityCrossEntropy,
)
from support.class_matrices import ALIKE, COSTS, GROUPS, LISTS, TREE


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
        """Transposing exchanges true and other class; ordering keeps each entry with its names."""
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
    dear = from_groups(GROUPS, "costs", within=1, between=20)
    assert dear["horse", "zebra"] == 1
    assert dear["whale", "zebra"] == 20
    assert dear["horse", "horse"] == 0
    alone = from_groups("a | b")
    np.testing.assert_array_equal(alone.array, np.eye(2))
    assert from_groups("a, b", within=0.2, between=0.3)["a", "a"] == pytest.approx(0.8)


def test_all_spellings_of_a_tree_agree_and_heights_count_the_common_ancestor() -> None:
    expected = from_groups(GROUPS, "costs", within=1, between=2)
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
        index_tree(TREE, order) == index_tree(LISTS, order) == index_tree(GROUPS, order) == ((1, 3), (0, 2))
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
    """Costs grow with the distance of the classes; similarities fall with it and sum to 1."""
    assert ordinal(4)["0", "3"] == 3
    assert ordinal(["low", "mid", "high"], power=2)["low", "high"] == 4
    terms = np.exp(-0.5 * np.abs(np.subtract.outer(range(3), range(3))))
    np.testing.assert_allclose(
        ordinal(3, "similarity", beta=0.5).array, terms / terms.sum(1, keepdims=True), rtol=1e-15
    )


def test_files_say_the_same_in_every_form(folder: Path) -> None:
    expected = ClassMatrix([[0, 1], [6, 0]], ["well", "ill"], kind="costs")
    for name in ("costs.csv", "turned.csv", "tabs.tsv", "semicolons.csv", "bars.csv", "costs.toml"):
        assert read(folder / name, "costs") == expected, name
    assert read("groups.toml", "similarity") == from_groups(GROUPS, within=0.2)
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
