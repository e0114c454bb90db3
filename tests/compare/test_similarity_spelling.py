"""Similarities and costs spelled as groups or in TOML, on named classes; matrices the wrong way round."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from equipoise.compare.matrices import as_costs, as_similarity, looks_transposed
from equipoise.costs import ClassMatrix
from support.class_matrices import ANIMAL_COSTS as COSTS
from support.class_matrices import ANIMALS as CLASSES
from support.class_matrices import GROUPS


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    """160 rows of four animals by name, and what it costs to take one for another."""
    generator = np.random.default_rng(0)
    with (tmp_path / "animals.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["legs", "size", "stripes", "animal"])
        for k, name in enumerate(CLASSES * 40):
            middle = {"horse": (4, 2, 0), "zebra": (4, 2, 1), "whale": (0, 9, 0), "shark": (0, 5, 0)}[name]
            writer.writerow([*np.round(generator.normal(middle, 1.5), 3), name])
            del k
    write(tmp_path / "costs.csv", COSTS)
    return tmp_path


def on_animals(folder: Path, folds: int) -> tuple[object, ...]:
    """Return the words of a comparison on the animals in a folder."""
    options = ("--target", "animal", "--folds", folds, "--out", folder / "out")
    return ("compare", folder / "animals.csv", *options)


def write(path: Path, matrix: np.ndarray, corner: str = "true") -> str:
    lines = [",".join([corner, *CLASSES])]
    lines += [",".join([name, *map(str, row)]) for name, row in zip(CLASSES, matrix, strict=True)]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def test_groups_on_a_csv_with_string_labels(call, fast, animals):
    words = (*on_animals(animals, 3), *fast)
    given = ("--costs", animals / "costs.csv", "--similarity", GROUPS)
    said = call(*words, *given, "--objective", "SimilarityCrossEntropy(similarity)")
    assert said.code == 0
    assert "equipoise:" not in said.err
    assert "Cost, decided" in said.out
    assert "Severity" not in said.out  # never without the cost beside it, and here there is no room for both
    assert re.search(
        r"Without another training: plain cross entropy costs \d\.\d+ when its likeliest class", said.out
    )
    similarity = np.load(animals / "out" / "trials" / "similarity.npy")
    np.testing.assert_allclose(similarity[0], [0.7, 0, 0, 0.3], rtol=1e-15)
    page = (animals / "out" / "report.html").read_text()
    for wanted in ("Cost, likeliest", "Cost, decided", "Severity", "Without another training"):
        assert wanted in page
    assert "may be transposed" not in page
    summary = json.loads(
        call(*words, *given, "--objective", "SimilarityCrossEntropy(similarity)", "--json").out
    )
    assert summary["warnings"] == []
    assert summary["trials"] == {"all": 6, "reused": 6}
    measures = summary["objectives"][0]["measures"]
    assert f"{measures['cost']['mean']:.3f} when its likeliest" in summary["decision_gain"]
    assert f"and {measures['decided_cost']['mean']:.3f} when the class" in summary["decision_gain"]


@pytest.mark.slow
def test_a_similarity_alone_makes_costs_and_none_makes_no_sentence(call, fast, animals):
    words = ("compare", animals / "animals.csv", "--target", "animal", *fast, "--folds", 2, "--json")
    words = (*words, "--out", animals / "out", "--objective", "Focal()")
    alone = json.loads(call(*words, "--similarity", GROUPS).out)
    assert alone["costs_from"] == "similarity"
    assert "interval" not in alone["decision_gain"]  # one seed shows nothing
    assert json.loads(call(*words).out)["decision_gain"] == ""


def test_groups_and_toml_are_read_in_the_order_of_the_classes(tmp_path):
    expected = np.array([[0.7, 0, 0, 0.3], [0, 0.7, 0.3, 0], [0, 0.3, 0.7, 0], [0.3, 0, 0, 0.7]])
    np.testing.assert_allclose(as_similarity(GROUPS, CLASSES), expected, rtol=1e-15)
    np.testing.assert_array_equal(as_costs(GROUPS, CLASSES)[0], [0, 2, 2, 1])
    path = tmp_path / "costs.toml"
    path.write_text("\n".join(f"[{name}]\notherwise = {1 + (name == 'zebra')}" for name in reversed(CLASSES)))
    np.testing.assert_array_equal(as_costs(path, CLASSES)[3], [2, 2, 2, 0])
    path.write_text(f"groups = {GROUPS!r}\nwithin = 0.2\n")
    np.testing.assert_allclose(as_similarity(path, CLASSES)[0, 3], 0.2)


@pytest.mark.parametrize(
    ("option", "given", "message"),
    [
        (
            "--similarity",
            "horse, zebar | whale, shark",
            "similarity must name the classes asked for, got 'zebar' in 'horse, zebar | ",
        ),
        (
            "--similarity",
            "horse, zebra | whale",
            "similarity must name every class once, got none for 'shark'",
        ),
        (
            "--similarity",
            "horse, horse | whale",
            "similarity must be a matrix, got 'horse, horse | whale'; classes",
        ),
        (
            "--similarity",
            "horse, | whale",
            "similarity must be a matrix, got 'horse, | whale'; groups must hold",
        ),
        (
            "--similarity",
            "horse, zebra",
            "similarity must be groups such as 'a, b | c' or a CSV, TOML or NPY file, got 'horse, zebra'",
        ),
        (
            "--similarity",
            "turned.csv",
            "similarity[true, class] must have rows that sum to 1, got 1.1 for true class 'horse' in "
            "turned.csv; its columns do, so it looks transposed: exchange rows and columns",
        ),
        (
            "--costs",
            "turned_costs.csv",
            "costs[true, predicted] must be smallest where a class is called itself, got 2 for 'horse' as "
            "itself and 1 as 'zebra' in turned_costs.csv; each is smallest in its column, so it looks",
        ),
        (
            "--objective",
            "ExpectedCost(ClassMatrix([[0, 1, 2, 2], [1, 0, 2, 2], [2, 2, 0, 1], [2, 2, 1, 0]], "
            "['horse', 'zebra', 'whale', 'shark'], kind='costs'))",
            'objective must have the classes in their order, horse, shark, whale, zebra, got "ExpectedCost(',
        ),
        (
            "--objective",
            "ExpectedCost(ClassMatrix([[0, 1], [1, 0]], ['horse', 'zebra'], kind='costs'))",
            "costs must name every class once, got none for 'shark'; there is horse, zebra",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(call, animals, monkeypatch, option, given, message):
    monkeypatch.chdir(animals)
    alike = np.array([[0.8, 0, 0, 0.2], [0, 0.9, 0.1, 0], [0, 0.1, 0.9, 0], [0.3, 0, 0, 0.7]])
    write(animals / "turned.csv", alike.T)
    dear = COSTS.copy()
    dear[0] = [2, 9, 8, 7]  # being right about a horse costs more than taking a zebra for one
    write(animals / "turned_costs.csv", dear.T)
    said = call("compare", "animals.csv", "--target", "animal", option, given)
    assert said.code == 2
    assert said.err.removeprefix("equipoise: error: ").removeprefix("--").startswith(message)
    assert said.err.count("\n") == 1


@pytest.mark.slow
def test_a_corner_that_says_the_rows_are_predictions_is_warned_of(call, fast, animals):
    words = (*on_animals(animals, 2), *fast)
    words = (*words, "--objective", "ExpectedCost(costs)")
    path = write(animals / "corner.csv", COSTS, "predicted/true")
    said = call(*words, "--costs", path)
    assert said.code == 0
    assert said.err.startswith("equipoise: warning: costs may be transposed: ")
    assert "'predicted/true' in its corner" in said.err
    assert "costs may be transposed" in (animals / "out" / "report.html").read_text()
    (warning,) = json.loads(call(*words, "--costs", path, "--json").out)["warnings"]
    assert warning.startswith("costs may be transposed")
    for corner in ("true/predicted", "", "animal"):
        assert call(*words, "--costs", write(animals / "corner.csv", COSTS, corner), "--quiet").err == ""


def test_a_table_whose_rows_are_named_predictions_is_warned_of(tmp_path):
    counts = np.full(4, 40)
    for name, warned in (("predicted", True), ("prediction/true", True), ("true", False), (None, False)):
        table = pd.DataFrame(COSTS, pd.Index(CLASSES, name=name), CLASSES)
        found = looks_transposed("costs", table, as_costs(table, CLASSES), CLASSES, counts)
        assert [each.partition(" has ")[0] for each in found] == [
            "costs may be transposed: the table"
        ] * warned
        table.to_csv(tmp_path / "c.csv")
        found = looks_transposed("costs", tmp_path / "c.csv", COSTS, CLASSES, counts)
        assert [str(tmp_path / "c.csv") in each for each in found] == [True] * warned
    for given in (COSTS, COSTS.tolist(), ClassMatrix(COSTS, CLASSES, kind="costs"), GROUPS, "not there"):
        assert looks_transposed("costs", given, COSTS, CLASSES, counts) == ()


def test_costs_that_make_the_common_class_dear_to_miss_are_warned_of():
    counts = np.array([5, 20, 80, 320])
    dear = np.array([40.0, 20.0, 5.0, 1.0])  # the rarer, the dearer to miss
    costs = np.tile(dear[:, None], 4) * (1 - np.eye(4))
    assert looks_transposed("costs", "c.npy", costs, CLASSES, counts) == ()
    (warning,) = looks_transposed("costs", "c.npy", costs.T, CLASSES, counts)
    assert "it is dearer to miss the common 'zebra' than the rare 'horse'" in warning
    assert looks_transposed("costs", "c.npy", costs.T, CLASSES, np.full(4, 50)) == ()  # nothing to go by
    assert looks_transposed("costs", "c.npy", 1 - np.eye(4), CLASSES, counts) == ()
    assert looks_transposed("similarity", "c.npy", costs.T, CLASSES, counts) == ()
    assert looks_transposed("costs", costs, costs.T, CLASSES, np.array([0, 20, 80, 320])) == (warning,)
