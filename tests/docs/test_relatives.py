"""Statements about relatives are computed, and a false one is found."""

from dataclasses import replace

import pytest
from equipoise_docs.family import edges, family_picture, places
from equipoise_docs.names import FAMILIES
from equipoise_docs.relatives import (
    BOUND,
    CROSS,
    DRAWN,
    EQUALS,
    GRADIENT,
    LIMIT,
    MEETS,
    OWN,
    RELATIVES,
    SHIFTED,
    TWICE,
    VALUES,
    ZERO,
    Relation,
    false_relations,
    relatives_of,
)

EVERY = [made.__name__ for family in FAMILIES.values() for made in family]


def test_every_statement_holds() -> None:
    """Every statement about relatives is true."""
    assert false_relations() == []


# For each kind a statement that is nearly right.
FALSE = [
    Relation("GammaCrossEntropy(gamma=1e-6)", EQUALS, "CrossEntropy()"),
    Relation("PairwiseCrossEntropy(1 - identity)", EQUALS, "CrossEntropy()", "for three classes", classes=3),
    Relation("Projected(floor=0.01)", EQUALS, "Softmax()", "for any logits"),
    Relation("LogitNorm(temperature=0.5)", VALUES, "Softmax(temperature=0.5)", "for any logits"),
    Relation("GammaCrossEntropy(gamma=0)", VALUES, "CrossEntropy()"),  # the gradients are equal too
    Relation("Reweighted(DFTWeight())", GRADIENT, "GeneralizedCrossEntropy(q=0.9)"),
    Relation(
        "GammaCrossEntropy(gamma=1)", GRADIENT, "GeneralizedCrossEntropy(q=1)"
    ),  # the values are equal too
    Relation("GeneralizedCrossEntropy(q={})", LIMIT, "Brier()", along=(0.1, 0.01, 0.001)),
    Relation("Entmax(alpha={})", LIMIT, "Softmax()", along=(1.1, 1.09, 1.08)),
    Relation("FlooredCrossEntropy(floor=1 / 14)", SHIFTED, "GammaCrossEntropy(gamma=0.1)"),
    Relation("GammaCrossEntropy(gamma=0.1)", SHIFTED, "GammaCrossEntropy(gamma=0.2)"),
    Relation("Entropy()", OWN, "Brier()"),
    Relation("FlooredCrossEntropy(floor=0.02)", CROSS, "Floored(floor=0.03)"),
    Relation("FlooredCrossEntropy(floor=0.02)", CROSS, "Clipped(floor=0.02)"),
    Relation("Resoftmax(alpha=20)", TWICE, "Softmax(temperature=1 / 10) after Softmax()"),
    Relation("ClippedLogits(low=-2, high=2)", BOUND, "SoftCapped(cap=2.1)"),
    Relation("LogitRange(low=-2, high=2)", ZERO, "ClippedLogits(low=-2, high=3)"),
    Relation(
        "LogitRange(low=-99, high=99)", ZERO, "ClippedLogits(low=-99, high=99)"
    ),  # nothing to tell apart
    Relation("GumbelSoftmax()", DRAWN, "Softmax(temperature=0.5)"),
    Relation("Cosine(0, 1, steps=100)", MEETS, "Linear(0, 1, steps=90)"),
    Relation("Cosine(0, 1, steps=100)", MEETS, "Cosine(0, 1, steps=100)"),
]


@pytest.mark.parametrize("relation", FALSE, ids=lambda each: f"{each.left} {each.kind}")
def test_control_a_false_statement_is_found(relation: Relation) -> None:
    """A statement that is nearly right is found to be false."""
    (said,) = false_relations((relation,))
    assert "It does not hold: " in said


def test_every_kind_is_used_and_has_a_control() -> None:
    """Every kind of statement is in the table, and among the false ones."""
    kinds = {each.kind for each in RELATIVES}
    assert kinds == {each.kind for each in FALSE}


def test_control_one_planted_statement_among_the_true_ones_is_found() -> None:
    """One false statement among true ones is the only one found."""
    planted = replace(RELATIVES[0], left="GammaCrossEntropy(gamma=0.001)")
    (said,) = false_relations((*RELATIVES[:3], planted, *RELATIVES[3:6]))
    assert said.startswith("`GammaCrossEntropy(gamma=0.001)` equals `CrossEntropy()`.")


def test_statements_name_what_they_are_about() -> None:
    """A statement is found by the names in it, and reads as a sentence."""
    assert {name for each in RELATIVES for name in each.objectives} >= {*EVERY} - {"ZLoss"}
    assert relatives_of("ZLoss") == []
    assert [each.objectives for each in relatives_of("Resoftmax")] == [("Resoftmax", "Softmax")]
    assert str(relatives_of("Entmax")[1]) == "`Entmax(alpha)` tends to `Softmax()`, as alpha falls to 1."


def test_everything_is_in_the_picture() -> None:
    """The picture has a box for each class, at a place of its own, and an arrow for each pair."""
    picture = family_picture()
    assert all(f">{name}</text>" in picture for name in EVERY)
    at = places()
    spots = [(round(x), round(y)) for x, y in at.values()]
    assert len({*spots}) == len(spots) == len(EVERY)
    assert picture.count('marker-end="url(#end)"') == sum(edges().values())
    assert {name for pair in edges() for name in pair} <= {*EVERY}


def test_control_a_class_without_a_place_gets_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A class without a place is put below the others."""
    from equipoise_docs import family

    known = {name: at for name, at in family.PLACES.items() if name != "Focal"}
    monkeypatch.setattr(family, "PLACES", known)
    assert family.places()["Focal"][1] > max(y for _, y in known.values())
    assert ">Focal</text>" in family.family_picture()
