"""Damaged files and objects that are no matrix: refused in one line, or read right."""

import csv
import io
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from equipoise.compare.matrices import as_costs, as_noise, as_similarity
from support.class_matrices import ANIMAL_COSTS as COSTS
from support.class_matrices import ANIMAL_SIMILARITY as SIMILARITY
from support.class_matrices import ANIMALS as CLASSES

OBJECTS = [
    None, True, 7, object(), "", "|", "a|", "\0", "x" * 5000, b"c.npy", {}, {"a": {"a": 0}}, [], [[]],
    [[1, 2], [3]], [["0", "1"]], np.zeros((2, 2, 2)), np.array([["0", "1"], ["1", "0"]]),
    np.eye(2, dtype=complex), np.array([["a", 1], [1, 0]], dtype=object),
    np.zeros((2, 2), dtype="M8[s]"), [[10**400, 1], [1, 0]],
    np.zeros(2, dtype=[("a", float), ("b", float)]), np.ma.masked_equal([[0, 1], [2, 0]], 2),
    torch.zeros(2, 2, dtype=torch.cfloat), torch.zeros(2, 2, device="meta"), pd.Series([0, 1]),
    pd.DataFrame([[0, pd.NA], [1, 0]]), pd.DataFrame(),
    pd.DataFrame([[0, 1], [1, 0]], list("aa"), list("ab")), pd.DataFrame([[0, 1], [1, 0]], list("ab")),
    pd.DataFrame([[0, 1], [1, 0]], pd.MultiIndex.from_tuples([("a", 1), ("b", 1)])), np.zeros((0, 0)),
    set(), Path(),
]  # fmt: skip


@pytest.mark.parametrize("place", range(len(OBJECTS)))
@pytest.mark.parametrize("read", [as_costs, as_similarity, as_noise])
def test_objects_that_are_no_matrix_are_refused_in_one_line(read, place):
    name = read.__name__.removeprefix("as_")
    with pytest.raises(ValueError, match=rf"^{name}(\[.*\]|:)? ") as caught:
        read(OBJECTS[place], ("a", "b"))
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 300 or OBJECTS[place] == "x" * 5000


def require_right(read, path, text):
    """Fail unless a file is refused in one line, or read as what another reader finds."""
    path.write_bytes(text)
    kind = read.__name__.removeprefix("as_")
    try:
        found = read(path, CLASSES)
    except ValueError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017
        assert re.match(rf"{kind}(\[.*\]|:)? ", str(error))  # noqa: PT017
        return
    assert found.shape == (4, 4)
    assert np.isfinite(found).all()
    assert (found >= 0).all()
    if kind == "costs":
        assert (found >= found.diagonal()[:, None]).all()
    else:
        np.testing.assert_allclose(found.sum(1), 1)
    lines = io.StringIO(text.decode("utf-8-sig"), newline="")
    first = next(line for line in lines if line.strip())
    separator = max(",;\t|", key=first.count)
    lines.seek(0)
    found_rows = csv.reader(lines, delimiter=separator, skipinitialspace=True)
    rows = [[cell.strip() for cell in row] for row in found_rows if "".join(row).strip()]
    if len(rows) == 5:
        entry = {(row[0], name): row[1 + k] for row in rows[1:] for k, name in enumerate(rows[0][1:])}
        rows = [[entry[true, other] for other in CLASSES] for true in CLASSES]
    expected = np.array(rows, dtype=float)
    np.testing.assert_allclose(found, expected, rtol=0 if kind == "costs" else 1e-5)


CELLS = st.sampled_from([
    "", " ", '"', "\n", ",", ";", "\t", "nan", "inf", "1e308", "1e-310", "-1", "1_0", "0x1", "=1",
    "<b>", "horse", "zebar", "\ufeff", "\0", "\r\n", "true", "9" * 400, "\u0661", "|", "."
])  # fmt: skip


@st.composite
def files(draw, matrix):
    """A good file in which a few places are overwritten."""
    order = draw(st.permutations(range(4)))
    names = [CLASSES[k] for k in order]
    table = pd.DataFrame(matrix[np.ix_(order, order)], names, names)
    labelled = draw(st.booleans())
    table = table if labelled else pd.DataFrame(matrix)
    for _ in range(draw(st.integers(0, 2))):  # in a cell
        table = table.astype(object)
        table.iloc[draw(st.integers(0, 3)), draw(st.integers(0, 3))] = draw(CELLS)
    text = table.to_csv(sep=draw(st.sampled_from(",;\t")), index=labelled, header=labelled)
    for _ in range(draw(st.integers(0, 1))):  # anywhere
        begin = draw(st.integers(0, len(text)))
        text = text[:begin] + draw(CELLS) + text[begin + draw(st.integers(0, 4)) :]
    data = text.encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 9)) == 0:
        data += draw(st.binary(max_size=3))
    return data


QUICK = settings(
    max_examples=500,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.mark.slow
@pytest.mark.parametrize("read", [as_costs, as_similarity])
def test_thousands_of_damaged_files_are_refused_or_read_right(read, tmp_path):
    matrix = COSTS if read is as_costs else SIMILARITY

    @QUICK
    @given(files(matrix))
    def check(data):
        require_right(read, tmp_path / "m.csv", data)

    check()


def without_checks(path, classes):
    """Costs as pandas reads them."""
    return pd.read_csv(path, index_col=0).to_numpy()[: len(classes), : len(classes)]


def turned(path, classes):
    """Costs with rows and columns exchanged, where that can be."""
    return as_costs(path, classes).T if path.read_bytes().count(b"horse") else as_costs(path, classes)


@pytest.mark.parametrize("fault", [without_checks, turned])
def test_control_faulty_readers_are_found(fault, tmp_path):
    def as_costs(path, classes):
        return fault(path, classes)

    @settings(QUICK, database=None, phases=[Phase.generate])
    @given(files(COSTS))
    def check(data):
        require_right(as_costs, tmp_path / "m.csv", data)

    with pytest.raises(Exception):  # noqa: B017, PT011 - hypothesis may group failures of several kinds
        check()


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".npy", ".toml", ".csv"])
def test_thousands_of_files_of_bytes_are_refused_in_one_line(suffix, tmp_path):
    path = tmp_path / f"m{suffix}"
    np.save(tmp_path / "good.npy", COSTS)
    (tmp_path / "good.toml").write_text("groups = 'horse, zebra | whale, shark'\nwithin = 1.5\n")
    pd.DataFrame(COSTS, CLASSES, CLASSES).to_csv(tmp_path / "good.csv")
    whole = (tmp_path / f"good{suffix}").read_bytes()

    @QUICK
    @given(st.integers(0, len(whole)), st.binary(max_size=4), st.integers(0, 4), st.booleans())
    def check(begin, more, less, cut):
        path.write_bytes(whole[:begin] + more + (b"" if cut else whole[begin + less :]))
        try:
            found = as_costs(path, CLASSES)
        except ValueError as error:
            assert len(str(error).splitlines()) == 1  # noqa: PT017
            assert str(error).startswith("costs")  # noqa: PT017
        else:
            assert found.shape == (4, 4)
            assert (found >= found.diagonal()[:, None]).all()
            assert found.max() <= 1e15

    check()
