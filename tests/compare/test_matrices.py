"""Costs, similarities and noise in every form: matched by name, checked, and refused in one line."""

import itertools
import re

import numpy as np
import pandas as pd
import pytest
import torch

from equipoise.compare.matrices import as_costs, as_noise, as_similarity, costs_from_similarity
from equipoise.costs import ClassMatrix, from_groups
from support.class_matrices import ANIMAL_COSTS as COSTS
from support.class_matrices import ANIMAL_SIMILARITY as SIMILARITY
from support.class_matrices import ANIMALS as CLASSES


def named(matrix, order, path):
    lines = ["true," + ",".join(CLASSES[k] for k in order)]
    lines += [f"{CLASSES[k]}, " + ",".join(str(matrix[k, j]) for j in order) for k in order]
    path.write_text("\n".join(lines) + "\n\n")
    return str(path)


def named_by(*names):
    rows = [f"{name}," + ",".join("01"[k != j] for j in range(4)) for k, name in enumerate(CLASSES)]
    return "\n".join([",".join(["true", *names]), *rows])


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2)])
def test_named_matrices_are_matched_by_name_in_any_order(order, tmp_path):
    np.testing.assert_array_equal(as_costs(named(COSTS, order, tmp_path / "c.csv"), CLASSES), COSTS)
    np.testing.assert_allclose(
        as_similarity(named(SIMILARITY, order, tmp_path / "s.csv"), CLASSES), SIMILARITY
    )


def test_rows_and_columns_may_be_in_different_orders(tmp_path):
    path = tmp_path / "c.csv"
    path.write_text("true,b,a\na,5,0\nb,0,3\n")
    np.testing.assert_array_equal(as_costs(path, ("a", "b")), [[0, 5], [3, 0]])


def test_plain_matrices_are_in_the_order_of_the_classes(tmp_path):
    for path, separator in ((tmp_path / "c.csv", ","), (tmp_path / "c.tsv", "\t")):
        np.savetxt(path, COSTS, delimiter=separator)
        np.testing.assert_array_equal(as_costs(path, CLASSES), COSTS)
    np.save(tmp_path / "c.npy", COSTS)
    np.testing.assert_array_equal(as_costs(str(tmp_path / "c.npy"), CLASSES), COSTS)


def test_classes_that_are_numbers_are_told_from_numbers_by_size(tmp_path):
    path = tmp_path / "c.csv"
    path.write_text("0,1,2\n1,0,4\n2,5,0\n")
    np.testing.assert_array_equal(as_costs(path, ("1", "2")), [[0, 4], [5, 0]])
    path.write_text("0,4\n5,0\n")
    np.testing.assert_array_equal(as_costs(path, ("1", "2")), [[0, 4], [5, 0]])


def test_costs_made_from_a_similarity_are_zero_for_being_right():
    costs = costs_from_similarity(SIMILARITY)
    np.testing.assert_array_equal(costs.diagonal(), 0)
    assert costs[0, 3] == pytest.approx(0.6)
    np.testing.assert_array_equal(costs_from_similarity(np.eye(3)), 1 - np.eye(3))


def test_noise_of_a_rate_is_symmetric_and_its_rows_are_shares():
    noise = as_noise("0.4", CLASSES)
    np.testing.assert_allclose(noise.sum(axis=1), 1)
    np.testing.assert_allclose(noise.diagonal(), 0.6)
    np.testing.assert_allclose(noise[0, 1:], 0.4 / 3)
    np.testing.assert_array_equal(as_noise("0", CLASSES), np.eye(4))


def test_noise_of_a_file(tmp_path):
    np.testing.assert_allclose(
        as_noise(named(SIMILARITY, (2, 0, 1, 3), tmp_path / "n.csv"), CLASSES), SIMILARITY
    )


@pytest.mark.parametrize(
    ("read", "content", "message"),
    [
        (as_costs, "0,1\n1,0\n", "costs must be 4 x 4, a row and a column for each class, got 2 x 2 in"),
        (as_costs, "", "costs must be 4 x 4, a row and a column for each class, got 0 x 0 in"),
        (as_costs, "0,1,1,1\n1,0,1\n", "costs must have rows of one length, got 3 cells in line 2 and 4"),
        (as_costs, "0,1,1,1\n1,0,1,1\n1,1,0,one\n1,1,1,0\n", "costs must hold numbers, got 'one' in"),
        (as_costs, "0,1,1,1\n1,0,1,1\n1,1,0,nan\n1,1,1,0\n", "costs must be finite, got nan or infinity"),
        (as_costs, "0,1,1,1\n1,0,1,1\n1,1,0,-1\n1,1,1,0\n", "costs[true, predicted] must be smallest"),
        (as_costs, "-1,1,1,1\n1,0,1,1\n1,1,0,1\n1,1,1,0\n", "costs must be 0 or more, got -1 in"),
        (as_costs, "3,1,1,1\n1,3,1,1\n1,1,3,1\n1,1,1,3\n", "costs[true, predicted] must be smallest"),
        (as_similarity, "1,1,0,0\n0,1,0,0\n0,0,1,0\n0,0,0,1\n", "similarity[true, class] must have rows"),
        (as_noise, "2,-1,0,0\n0,1,0,0\n0,0,1,0\n0,0,0,1\n", "noise must not be negative, got -1"),
        (as_costs, named_by("horse", "shark", "whale", "zebar"),
         "costs must have the same names across and down, got 'zebar' in"),
        (as_costs, named_by("horse", "shark", "whale", "whale"),
         "costs: classes must have different names, got 'whale' twice in"),
    ],
)  # fmt: skip
def test_bad_files_are_refused(read, content, message, tmp_path):
    path = tmp_path / "matrix.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        read(str(path), CLASSES)
    assert "\n" not in str(caught.value)


def test_the_nearest_class_is_named(tmp_path):
    path = tmp_path / "matrix.csv"
    path.write_text("t,a,bbc\na,0,1\nbbc,1,0\n")
    with pytest.raises(ValueError, match=re.escape("did you mean bbb?")):
        as_costs(path, ("a", "bbb"))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 3)), "costs must be 4 x 4, a row and a column for each class, got 2 x 3 in"),
        (np.array([["a"]]), "costs must hold numbers, got ndarray in"),
        (np.array([[1j]]), "costs must hold numbers, got ndarray in"),
        (np.array([None]), "costs must be a matrix, got '"),
    ],
)
def test_bad_arrays_are_refused(array, message, tmp_path):
    np.save(tmp_path / "c.npy", array)
    with pytest.raises(ValueError, match=re.escape(message)):
        as_costs(str(tmp_path / "c.npy"), CLASSES)
    (tmp_path / "broken.npy").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"costs must be a matrix, got .*broken\.npy'; "):
        as_costs(str(tmp_path / "broken.npy"), CLASSES)


@pytest.mark.parametrize("noise", ["-0.1", "1", "1.5", "nan", "inf"])
def test_noise_that_is_no_share_is_refused(noise):
    with pytest.raises(ValueError, match=re.escape(f"noise must be a share in [0, 1), got {noise}")):
        as_noise(noise, CLASSES)


def test_missing_files_are_refused():
    with pytest.raises(ValueError, match=r"costs must be groups .* file, got 'no.csv', which is not there"):
        as_costs("no.csv", CLASSES)
    with pytest.raises(
        ValueError, match=re.escape("noise must be a share in [0, 1) or a matrix file, got '0,4'")
    ):
        as_noise("0,4", CLASSES)


ORDERS = list(itertools.permutations(range(4)))[::5]


def framed(matrix, rows, columns=None):
    """A table labelled by class, in some order."""
    columns = rows if columns is None else columns
    return pd.DataFrame(
        matrix[np.ix_(rows, columns)], [CLASSES[k] for k in rows], [CLASSES[k] for k in columns]
    )


FORMS = {
    "array": lambda matrix: matrix,
    "a list": lambda matrix: matrix.tolist(),
    "float32": lambda matrix: matrix.astype(np.float32),
    "objects": lambda matrix: matrix.astype(object),
    "tensor": lambda matrix: torch.tensor(matrix, requires_grad=True),
    "bfloat16": lambda matrix: torch.tensor(matrix, dtype=torch.bfloat16),
    "sparse tensor": lambda matrix: torch.tensor(matrix).to_sparse(),
    "table": lambda matrix: framed(matrix, (2, 0, 3, 1), (0, 1, 3, 2)),
    "table without names": pd.DataFrame,
    "named matrix": lambda matrix: ClassMatrix(matrix, CLASSES, kind="similarity").ordered(
        sorted(CLASSES)[::-1]
    ),
    "matrix without names": lambda matrix: ClassMatrix(matrix, kind="similarity"),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_matrix_is_the_same_matrix(form):
    shares = np.array([[0.75, 0, 0, 0.25], [0, 0.875, 0.125, 0], [0, 0.125, 0.875, 0], [0.5, 0, 0, 0.5]])
    given = FORMS[form](shares)
    for read in (as_similarity, as_noise):
        found = read(given, CLASSES)
        assert found.dtype == np.float64
        found[0, 0] = found[0, 0]  # not read-only
        np.testing.assert_array_equal(found, shares)
    if "matrix" not in form:
        np.testing.assert_array_equal(as_costs(FORMS[form](COSTS), CLASSES), COSTS)


def test_integers_and_truth_values_are_costs():
    for dtype in (np.int64, np.uint8, bool):
        np.testing.assert_array_equal(as_costs((1 - np.eye(4)).astype(dtype), CLASSES), 1 - np.eye(4))
    np.testing.assert_array_equal(as_costs(torch.tensor(COSTS).long(), CLASSES), COSTS)


@pytest.mark.parametrize("rows", ORDERS)
@pytest.mark.parametrize("columns", ORDERS[::3])
def test_tables_are_matched_by_name_in_any_order(rows, columns):
    np.testing.assert_array_equal(as_costs(framed(COSTS, rows, columns), CLASSES), COSTS)


def test_labels_that_are_integers_are_matched_by_their_text():
    classes = ("1", "2", "10")
    costs = np.array([[0, 1, 2], [3, 0, 4], [5, 6, 0.0]])
    table = pd.DataFrame(costs, [1, 2, 10], [1, 2, 10]).loc[[10, 1, 2], [2, 10, 1]]
    np.testing.assert_array_equal(as_costs(table, classes), costs)
    np.testing.assert_array_equal(as_costs(ClassMatrix(costs, [1, 2, 10], kind="costs"), classes), costs)
    with pytest.raises(ValueError, match="costs must name the classes asked for, got '11'"):
        as_costs(pd.DataFrame(costs, [1, 2, 11], [1, 2, 11]), classes)


def test_numbers_of_classes_are_no_names_unless_classes_are_called_so():
    costs = np.arange(121.0).reshape(11, 11) * (1 - np.eye(11))
    words = tuple(sorted(map(str, range(11))))  # 0, 1, 10, 2, ...
    order = [int(word) for word in words]
    for given in (pd.DataFrame(costs), ClassMatrix(costs, kind="costs")):
        np.testing.assert_array_equal(as_costs(given, words), costs[np.ix_(order, order)])
        np.testing.assert_array_equal(as_costs(given, tuple("abcdefghijk")), costs)
    np.testing.assert_array_equal(as_costs(costs, words), costs)


@pytest.mark.parametrize("rate", [0.4, "0.4", " .4 ", np.float64(0.4), "4e-1"])
def test_a_rate_in_every_form(rate):
    np.testing.assert_array_equal(as_noise(rate, CLASSES), as_noise("0.4", CLASSES))
    np.testing.assert_array_equal(as_noise(0, CLASSES), np.eye(4))


def test_noise_within_groups_and_in_toml(tmp_path):
    groups = "horse, zebra | whale, shark"
    expected = np.array([[0.7, 0, 0, 0.3], [0, 0.7, 0.3, 0], [0, 0.3, 0.7, 0], [0.3, 0, 0, 0.7]])
    np.testing.assert_allclose(as_noise(groups, CLASSES), expected, rtol=1e-15)
    (tmp_path / "n.toml").write_text(f"groups = {groups!r}\n")
    np.testing.assert_allclose(as_noise(tmp_path / "n.toml", CLASSES), expected, rtol=1e-15)


def test_the_argument_of_an_error_is_the_one_given():
    with pytest.raises(ValueError, match=r"^worst must be 4 x 4, .* got 2 x 2; class names around it"):
        as_costs([[0, 1], [1, 0]], CLASSES, "worst")
    with pytest.raises(
        ValueError, match=r"^alike must be of kind 'similarity', got 'costs'; make it with kind"
    ):
        as_similarity(from_groups("horse, zebra | whale, shark", "costs"), CLASSES, "alike")
    with pytest.raises(ValueError, match=r"^noise must be 4 x 4, .* got one value"):
        as_noise(np.array(0.4), CLASSES)


LINES = "[horse]\nzebra = {}\n[zebra]\nhorse = 1\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[horse", "costs must be a matrix, got '{}'; costs must be TOML"),
        (LINES.format("'a'"), "costs must be a matrix, got '{}'; costs must hold numbers, got 'a'"),
        (LINES.format(-1), "costs must be a matrix, got '{}'; costs[true, predicted] must be smallest where"),
        (LINES.format(1), "costs must name every class once, got none for 'shark' in {}; there is"),
    ],
)
def test_bad_toml_is_refused(text, message, tmp_path):
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(ValueError, match=re.escape(message.format(tmp_path / "c.toml"))):
        as_costs(tmp_path / "c.toml", CLASSES)


NUMBERS = [np.nan, np.inf, -np.inf, 1e308, 1.7e308, 1e150, 1e16, 1e-310, 5e-324, -5e-324, -0.0]


@pytest.mark.parametrize("form", ["array", "table", "file", "tensor"])
@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("read", [as_costs, as_similarity, as_noise])
def test_numbers_that_are_out_of_range(read, number, form, tmp_path):
    name = read.__name__.removeprefix("as_")
    matrix = COSTS.copy() if name == "costs" else np.eye(4)
    matrix[1, 2:] = number
    given = {"array": matrix, "table": framed(matrix, range(4)), "tensor": torch.tensor(matrix)}.get(form)
    given = named(matrix, range(4), tmp_path / "m.csv") if form == "file" else given
    if 0 <= number <= 1e-310:
        np.testing.assert_array_equal(read(given, CLASSES), matrix)
        return
    with pytest.raises(ValueError, match=rf"^{name}(\[.*\])? must .*, got ") as caught:
        read(given, CLASSES)
    assert "\n" not in str(caught.value)
    assert ("m.csv" in str(caught.value)) == (form == "file")


@pytest.mark.parametrize("scale", [1e-7, 0.0, 1.1e15 / 9])
def test_costs_are_counted_in_a_unit_that_training_and_statistics_can_use(scale):
    with pytest.raises(
        ValueError, match=r"costs must have a largest entry from 1e-06 to 1e\+15, got .* unit"
    ):
        as_costs(COSTS * scale, CLASSES)
    for fair in (1e-6, 1e14):
        np.testing.assert_array_equal(as_costs(COSTS * fair, CLASSES), COSTS * fair)


ODD = ("=1+1", "<b>x</b>", "{0} %s", "a, b | c", "d\ne", "\u202ef", "'; drop", "nan")


@pytest.mark.parametrize("form", ["table", "matrix", "file"])
def test_odd_names_are_only_names(form, tmp_path):
    costs = np.arange(1.0, 65).reshape(8, 8) * (1 - np.eye(8))
    order = np.random.default_rng(0).permutation(8)
    names = [ODD[k] for k in order]
    given = pd.DataFrame(costs[np.ix_(order, order)], names, names)
    if form == "matrix":
        given = ClassMatrix(given, kind="costs")
    elif form == "file":
        given.to_csv(tmp_path / "c.csv")
        given = tmp_path / "c.csv"
    np.testing.assert_array_equal(as_costs(given, ODD), costs)
    for name in ODD:
        with pytest.raises(ValueError, match=r"^costs must name ") as caught:
            as_costs(given, tuple("other" if each == name else each for each in ODD))
        assert len(str(caught.value).splitlines()) == 1
