"""Matrices over named classes: what a loss gives back of them, names that meet labels in another order."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch

from equipoise import metrics
from equipoise.costs import (
    ClassMatrix,
    conditional_risk,
    decide,
    from_embeddings,
    from_groups,
    from_tree,
    index_tree,
    mix,
    read,
    unmix,
)
from equipoise.losses import ExpectedCost, PairwiseCrossEntropy, SimilarityCrossEntropy, SoftmaxMargin
from support.class_matrices import ANIMALS, GROUPS, TREE

ALIKE = [[0.8, 0.2, 0.0], [0.1, 0.9, 0.0], [0.0, 0.3, 0.7]]
DEAR = [[0.0, 1.0, 5.0], [2.0, 0.0, 1.0], [9.0, 4.0, 0.0]]


class TestMatricesOfALoss:
    @pytest.mark.parametrize("named", [False, True])
    @pytest.mark.parametrize("kind", ["array", "tensor"])
    def test_what_a_loss_gives_back_is_taken_as_what_it_was_given(self, named: bool, kind: str) -> None:
        probs: Any = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]])
        probs = torch.from_numpy(probs) if kind == "tensor" else probs
        alike, dear = (
            ClassMatrix(each, "abc", kind=name) if named else each
            for each, name in ((ALIKE, "similarity"), (DEAR, "costs"))
        )
        loss = SimilarityCrossEntropy(alike)
        for convert in (mix, unmix):
            assert np.array_equal(convert(probs, loss.similarity), convert(probs, ALIKE))
        for made in (ExpectedCost(dear), SoftmaxMargin(dear)):
            assert np.array_equal(decide(probs, made.costs), decide(probs, DEAR))
            cost = conditional_risk(probs, made.costs)
            assert np.array_equal(cost, conditional_risk(probs, DEAR))
            assert np.array_equal(np.asarray(made.costs), DEAR)
            assert ClassMatrix(made.costs, kind="costs") == ClassMatrix(dear, kind="costs")
            assert type(made)(made.costs) == made
            assert metrics.severity([0, 2], [1, 0], made.costs) == 5.0
        assert unmix(mix(probs, loss.similarity), loss.similarity) == pytest.approx(
            np.asarray(probs), abs=1e-12
        )


LABELS = list(ANIMALS)  # in the order of scikit-learn
VECTORS = {"horse": [1.0, 0.1], "zebra": [1.0, 0.2], "whale": [0.0, 1.0], "shark": [0.1, 1.0]}


def of_file(folder: Path, **options: Any) -> ClassMatrix:
    path = folder / "costs.toml"
    path.write_text(f'groups = "{GROUPS}"\nwithin = 8\nbetween = 10\n')
    return read(path, "costs", **options)


BUILDERS: list[Callable[..., ClassMatrix]] = [
    lambda folder, **options: from_groups(GROUPS, "costs", within=8, between=10, **options),
    lambda folder, **options: from_groups(GROUPS, **options),
    lambda folder, **options: from_groups([["horse", "zebra"], ["whale", "shark"]], **options),
    lambda folder, **options: from_tree(TREE, **options),
    lambda folder, **options: from_tree(TREE, "similarity", **options),
    lambda folder, **options: from_embeddings(VECTORS, **options),
    lambda folder, **options: from_embeddings(VECTORS, kind="costs", **options),
    of_file,
]


class TestOrderOfTheClasses:
    @pytest.mark.parametrize("build", BUILDERS)
    def test_a_builder_takes_the_order_of_the_labels(
        self, build: Callable[..., ClassMatrix], tmp_path: Path
    ) -> None:
        named, ordered = build(tmp_path), build(tmp_path, classes=LABELS)
        assert named.classes != ordered.classes == tuple(LABELS)
        assert not np.array_equal(named, ordered)
        assert all(named[one, two] == ordered[one, two] for one in LABELS for two in LABELS)
        for wrong in (LABELS[:3], [*LABELS, "cow"], ["Horse", *LABELS[1:]], range(4)):
            with pytest.raises(ValueError, match=r"must (name|be the leaves)"):
                build(tmp_path, classes=wrong)

    def test_a_horse_taken_for_a_zebra_costs_eight(self) -> None:
        horse, zebra = LABELS.index("horse"), LABELS.index("zebra")
        costs = from_groups(GROUPS, "costs", within=8, between=10, classes=LABELS)
        assert costs[horse, zebra] == 8
        assert from_groups(GROUPS, "costs", within=8, between=10)[horse, zebra] == 10  # what was silent
        sure = torch.full((1, 4), -500.0)
        sure[0, zebra] = 500.0
        assert ExpectedCost(costs)(sure, torch.tensor([horse])).item() == 8
        assert index_tree(GROUPS, LABELS) == ((0, 3), (2, 1))

    @pytest.mark.parametrize("make", [ExpectedCost, SoftmaxMargin, PairwiseCrossEntropy])
    def test_a_loss_shows_the_names(self, make: Any) -> None:
        frame = pandas.DataFrame(DEAR, index=list("abc"), columns=list("abc"))
        named = make(ClassMatrix(DEAR, "abc", kind="costs"))
        for given in (frame, frame[["c", "a", "b"]]):
            loss = make(given)
            assert "['a', 'b', 'c']" in repr(loss)
            assert loss == named != make(DEAR)
            assert hash(loss) == hash(named)

    def test_names_of_a_frame_or_of_a_matrix_are_kept_and_matched(self) -> None:
        frame = pandas.DataFrame(DEAR, index=list("abc"), columns=list("abc"))
        matrix = ClassMatrix(DEAR, "abc", kind="costs")
        assert (
            ClassMatrix(frame, kind="costs")
            == ClassMatrix(matrix, kind="costs")
            == ClassMatrix(frame[["c", "a", "b"]], kind="costs")
            == matrix
        )
        assert ClassMatrix(frame, "cab", kind="costs") == matrix.ordered("cab")
        assert (
            ClassMatrix(frame.to_numpy(), "cab", kind="costs")["c", "a"] == 1
        )  # numbers without names are given some
        assert ClassMatrix(pandas.DataFrame(DEAR), "cab", kind="costs")["c", "a"] == 1
        for wrong in (frame.rename(columns={"a": "x"}), pandas.DataFrame(DEAR, columns=list("abc"))):
            with pytest.raises(ValueError, match="costs must have the same names across and down, got "):
                ExpectedCost(wrong)
        with pytest.raises(ValueError, match="costs must name the classes asked for, got 'c'"):
            ClassMatrix(frame, "abx", kind="costs")

    def test_a_part_of_the_classes(self) -> None:
        matrix = ClassMatrix(DEAR, "abc", kind="costs")
        assert np.array_equal(matrix.part("ca"), [[0, 9], [5, 0]])
        assert matrix.part("bca") == matrix.ordered("bca")
        with pytest.raises(
            ValueError, match="costs must name every class once, got none for 'd'; there is a, b, c"
        ):
            matrix.part("ad")
        with pytest.raises(ValueError, match=r"got 0\.3 for true class 'c'; keep all classes"):
            ClassMatrix(ALIKE, "abc", kind="similarity").part("ac")
