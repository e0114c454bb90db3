import re

import numpy as np
import pytest

from equipoise.compare.matrices import lost_similarity, as_costs, as_noise, as_similarity

CLASSES = ("horse", "shark", "whale", "zebra")
SIMILARITY = np.array([[0.8, 0, 0, 0.2], [0, 0.9, 0.1, 0], [0, 0.1, 0.9, 0], [0.3, 0, 0, 0.7]])
COSTS = np.array([[0, 9, 8, 1], [7, 0, 2, 7], [6, 3, 0, 6], [1, 9, 8, 0]], dtype=float)


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
    costs = lost_similarity(SIMILARITY)
    np.testing.assert_array_equal(costs.diagonal(), 0)
    assert costs[0, 3] == pytest.approx(0.6)
    np.testing.assert_array_equal(lost_similarity(np.eye(3)), 1 - np.eye(3))


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
        (as_costs, "0,1,1,1\n1,0,1,1\n1,1,0,-1\n1,1,1,0\n", "costs[true, predicted] must be smallest where a"),
        (as_costs, "-1,1,1,1\n1,0,1,1\n1,1,0,1\n1,1,1,0\n", "costs must be 0 or more, got -1 in"),
        (as_costs, "3,1,1,1\n1,3,1,1\n1,1,3,1\n1,1,1,3\n", "costs[true, predicted] must be smallest where a"),
        (as_similarity, "1,1,0,0\n0,1,0,0\n0,0,1,0\n0,0,0,1\n", "similarity[true, class] must have rows that sum"),
        (as_noise, "2,-1,0,0\n0,1,0,0\n0,0,1,0\n0,0,0,1\n", "noise must not be negative, got -1"),
        (as_costs, named_by("horse", "shark", "whale", "zebar"),
         "costs must have the same names across and down, got 'zebar' in one only in"),
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
    path.write_text("t,a,bc\na,0,1\nbc,1,0\n")
    with pytest.raises(ValueError, match=re.escape("did you mean bb?")):
        as_costs(path, ("a", "bb"))


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
    with pytest.raises(ValueError, match="costs must be a matrix, got .*broken.npy'"):
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
