"""Costs of `ObjectiveClassifier`: they decide, by name or in the order of the classes, in folds too."""

from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn", reason="scikit-learn is not installed")
from sklearn.model_selection import KFold, cross_val_predict

from equipoise.costs import ClassMatrix
from equipoise.losses import CrossEntropy, ExpectedCost, SimilarityCrossEntropy
from support.sklearn_cases import COSTS, NAMES, quick

pytestmark = pytest.mark.usefixtures("plain_memory")


def test_costs_decide(data: Any) -> None:
    """`predict` names the class of least expected cost, and costs change no probability."""
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    rows, labels = data
    plain, model = quick().fit(rows, labels), quick(costs=COSTS).fit(rows, labels)
    assert np.array_equal(plain.predict_proba(rows), model.predict_proba(rows))
    found = model.predict(rows)
    by_hand = NAMES[(model.predict_proba(rows) @ COSTS).argmin(1)]
    assert np.array_equal(found, by_hand)
    assert not np.array_equal(found, plain.predict(rows))
    assert not np.array_equal(found, NAMES[(model.predict_proba(rows) @ COSTS.T).argmin(1)])  # the control
    for given in (
        COSTS.tolist(),
        torch.from_numpy(COSTS),
        ExpectedCost(COSTS).costs,
    ):  # in the order of classes_
        assert np.array_equal(quick(costs=given).fit(rows, labels).predict(rows), found)
    turned = [2, 0, 1]
    there = COSTS[np.ix_(turned, turned)]
    frame = pandas.DataFrame(there, index=NAMES[turned], columns=NAMES[turned])
    for named in (ClassMatrix(there, NAMES[turned], kind="costs"), frame, frame[["dog", "eel", "cat"]]):
        assert np.array_equal(quick(costs=named).fit(rows, labels).predict(rows), found)


def named_costs() -> list[Any]:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    turned = [2, 0, 1]
    there = COSTS[np.ix_(turned, turned)]
    frame = pandas.DataFrame(there, index=NAMES[turned], columns=NAMES[turned])
    matrix = ClassMatrix(there, NAMES[turned], kind="costs")
    return [matrix, frame, frame[["dog", "eel", "cat"]], ExpectedCost(matrix).costs]


@pytest.mark.parametrize("place", ["costs", "objective"])
def test_a_fold_that_lacks_a_class_takes_the_part_that_is_needed(place: str, data: Any) -> None:
    rows, labels = data
    for lacking in NAMES:
        here = labels != lacking
        kept = np.flatnonzero(lacking != NAMES)
        part = COSTS[np.ix_(kept, kept)]
        for named in named_costs():
            if place == "costs":
                model = quick(costs=named).fit(rows[here], labels[here])
                expected = quick(costs=part).fit(rows[here], labels[here])
                assert np.array_equal(model.costs_, part)
            else:
                model = quick(CrossEntropy() + ExpectedCost(named)).fit(rows[here], labels[here])
                expected = quick(CrossEntropy() + ExpectedCost(part)).fit(rows[here], labels[here])
                assert not np.array_equal(
                    model.predict_proba(rows), quick().fit(rows[here], labels[here]).predict_proba(rows)
                )
            assert np.array_equal(model.predict_proba(rows), expected.predict_proba(rows))
            assert np.array_equal(model.predict(rows), expected.predict(rows))
        with pytest.raises(ValueError, match=r"a row and a column for each of .* got \(3, 3\); .* or named"):
            quick(costs=COSTS).fit(rows[here], labels[here])  # numbers alone do not say which


@pytest.mark.parametrize("names", ["labels", "integers"])
def test_folds_by_class_cross_validate(names: str, data: Any) -> None:
    rows, labels = data
    order = np.argsort(labels, kind="stable")  # the middle fold holds every dog
    rows, labels = rows[order], labels[order]
    named: Any = ClassMatrix(COSTS, NAMES, kind="costs")
    if names == "integers":
        labels, named = np.searchsorted(NAMES, labels), ClassMatrix(COSTS, kind="costs")
    for model in (quick(costs=named), quick(CrossEntropy() + ExpectedCost(named))):
        if names == "integers" and model.costs is None:
            continue  # a matrix with numbers for names says nothing in a loss
        found = cross_val_predict(model, rows, labels, cv=KFold(3))
        assert found.shape == (90,)
        assert set(found) <= set(labels)


def test_names_in_the_objective_are_put_in_the_order_of_the_labels_or_refused(data: Any) -> None:
    rows, labels = data
    by_number = quick(CrossEntropy() + ExpectedCost(COSTS)).fit(rows, labels).predict_proba(rows)
    for named in named_costs():
        model = quick(CrossEntropy() + ExpectedCost(named)).fit(rows, labels)
        assert np.array_equal(model.predict_proba(rows), by_number)
        text = quick(repr(model.objective)).fit(rows, labels)
        assert np.array_equal(text.predict_proba(rows), by_number)
        wrong = quick(CrossEntropy() + ExpectedCost(np.asarray(ClassMatrix(named, kind="costs")))).fit(
            rows, labels
        )
        assert not np.array_equal(wrong.predict_proba(rows), by_number)  # the control: without names
    others = ExpectedCost(ClassMatrix(COSTS, ["cat", "dog", "fish"], kind="costs"))
    with pytest.raises(
        ValueError, match="costs must name every class once, got none for 'eel'; there is cat, dog"
    ):
        quick(others).fit(rows, labels)
    with pytest.raises(ValueError, match="costs must name every class once, got none for '0'"):
        quick(ExpectedCost(ClassMatrix(COSTS, NAMES, kind="costs"))).fit(rows, np.searchsorted(NAMES, labels))
    alike = SimilarityCrossEntropy(
        ClassMatrix([[0.9, 0.1, 0], [0.1, 0.9, 0], [0, 0, 1]], NAMES, kind="similarity")
    )
    quick(alike).fit(rows[labels != "eel"], labels[labels != "eel"])
    with pytest.raises(
        ValueError, match=r"similarity must give no share to a class that is left out, got 0\.1"
    ):
        quick(alike).fit(rows[labels != "dog"], labels[labels != "dog"])
