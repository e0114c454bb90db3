"""Files that are broken, hostile or not what they seem: a line that says what is wrong, or a right answer."""

import io
import os
import re
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from equipoise.compare.encode import Encoder
from equipoise.compare.files import read

ROWS = 40
X = np.random.default_rng(0).normal(size=(ROWS, 2))
Y = np.arange(ROWS) % 2


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def refused(path, says, target=None, **options):
    with pytest.raises(ValueError, match=re.escape(says)) as caught:
        read(path, target, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def member(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def archive(members, path="t.npz", compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def encrypted(path):
    """Set the bit that says so in every header of an archive."""
    content = bytearray(Path(path).read_bytes())
    for mark, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        start = content.find(mark)
        while start >= 0:
            content[start + place] |= 1
            start = content.find(mark, start + 4)
    Path(path).write_bytes(content)


def saved(**arrays):
    np.savez("t.npz", **({"X": X, "y": Y} | arrays))
    return "t.npz"


BROKEN = {
    "garbage": {"X.npy": b"garbage", "y.npy": member(Y)},
    "no array": {"X": b"some text", "y": b"more"},
    "empty": {"X.npy": b"", "y.npy": member(Y)},
    "cut short": {"X.npy": member(X)[:-40], "y.npy": member(Y)},
    "a header alone": {"X.npy": member(X)[:70], "y.npy": member(Y)},
    "a header that is code": {"X.npy": member(X).replace(b"'<f8'", b"len(3)"), "y.npy": member(Y)},
    "more than there is memory": {"X.npy": member(X).replace(b"(40,", b"(40000000000000,"), "y.npy": b""},
    "pickles": {"X.npy": member(X), "y.npy": member(np.array([{"a": 1}] * ROWS, dtype=object))},
}  # fmt: skip


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("case", BROKEN)
def test_an_archive_with_a_broken_member_is_refused(case, compression):
    """An NPZ file with a damaged array is refused."""
    path = archive(BROKEN[case], compression=compression)
    refused(path, "data must be a readable NPZ file without pickles, got 't.npz'; ")


@pytest.mark.parametrize("damage", ["encrypted", "cut", "an array"])
def test_a_broken_archive_is_refused(damage):
    """An encrypted, truncated or misnamed NPZ file is refused."""
    path = saved()
    if damage == "encrypted":
        encrypted(path)
    elif damage == "cut":
        Path(path).write_bytes(Path(path).read_bytes()[:-100])
    else:
        Path(path).write_bytes(member(X))
    says = refused(path, "data must be a readable NPZ file without pickles, got 't.npz'; ")
    assert damage != "encrypted" or "is encrypted" in says


def test_members_that_nobody_asks_for_are_not_read():
    """Arrays of an NPZ file that are not needed are not loaded."""
    members = {"X.npy": member(X), "y.npy": member(Y), "a\nb.npy": b"garbage", "model.pkl": b"\x80\x04."}
    assert read(archive(members)).classes == ("0", "1")
    refused("t.npz", r"got 'g' of X, y, 'a\nb', model.pkl; add it with np.savez", group="g")


def test_pickles_are_never_loaded(monkeypatch):
    """Pickled objects in NPZ files are never loaded."""
    kinds = []
    load = np.load
    monkeypatch.setattr(
        np, "load", lambda *given, **how: kinds.append(how["allow_pickle"]) or load(*given, **how)
    )
    read(saved())
    assert kinds == [False]


RECORDS = np.zeros(ROWS, dtype=[("a", "f8"), ("b", "i4")])
KINDS = {
    "records in y": ({"y": RECORDS}, "y must be an array (N,), got [('a', '<f8'), ('b', '<i4')] in t.npz; g"),
    "complex y": ({"y": Y + 1j}, "y must hold names or numbers, got complex in row 1 of t.npz; write the "
    "classes as "),
    "void y": ({"y": np.zeros(ROWS, "V4")}, "y must be an array (N,), got |V4 in t.npz"),
    "spans in X": ({"X": X.astype("m8[s]")}, "X must hold real numbers, got timedelta64[s] in t.npz"),
    "records in X": ({"X": RECORDS[:, None]}, "X must hold real numbers, got [('a', '<f8'), ('b', '<i4')] i"),
    "complex X": ({"X": X + 1j}, "X must hold real numbers, got complex128 in t.npz; give categories"),
    "dates in X": ({"X": X.astype("M8[s]")}, "X must hold real numbers, got datetime64[s] in t.npz"),
    "a single number": ({"X": np.float64(3)}, "X must be (N, D) or have more dimensions, got ndarray in t.n"),
    "1e300": ({"X": np.full((ROWS, 2), 1e300)}, "X must be finite in float32, got 1e+300 in row 1 of t.npz,"),
    "1e200": ({"X": X * 1e200}, "X must be finite in float32, got 1.2"),
    "records in a role": ({"g": RECORDS}, "group must be an array (N,), got [('a',"),
    "regression": ({"y": X[:, 0]}, "y must hold classes, got 40 different numbers in 40 rows of t.npz: the "
    "t"),
}  # fmt: skip


@pytest.mark.parametrize("case", KINDS)
def test_arrays_that_cannot_be_used_are_refused_by_name(case):
    """An array of unusable shape or dtype is refused by name."""
    arrays, says = KINDS[case]
    refused(saved(**arrays), says, group="g" if "g" in arrays else None)


def test_arrays_of_any_byte_order_and_integers_keep_their_numbers():
    """Arrays of any byte order and integer type keep their numbers."""
    found = read(saved(X=X.astype(">f4"), y=Y.astype(">i2")))
    assert found.features.dtype == np.float32
    np.testing.assert_array_equal(found.features, X.astype(np.float32))
    assert read(saved(X=np.arange(80).reshape(40, 2) % 9)).features.dtype == np.int64
    images = read(saved(X=np.zeros((ROWS, 1, 3, 3), dtype=np.uint8)))
    assert (images.features.shape, images.features.dtype) == ((ROWS, 1, 3, 3), np.float32)


TABLE = "a,label\n" + "".join(f"{k % 7},{'xy'[k % 2]}\n" for k in range(ROWS))
TEXTS = {
    "utf-16": TABLE.encode("utf-16"),
    "utf-32": TABLE.encode("utf-32"),
    "latin-1": TABLE.replace("x", "é").encode("latin-1"),
    "a nul": TABLE.replace("x", "x\0").encode(),
    "a surrogate": TABLE.encode().replace(b"x", b"\xed\xa0\x80"),
    "quotes": TABLE.replace("x", '"x').encode(),
    "a huge cell": TABLE.replace("x", "x" * 200_000).encode(),
    "an endless header": ("a" * 200_000 + TABLE).encode(),
    "only nuls": b"\0" * 5000,
    "only quotes": b'"' * 5001,
    "only commas": b"," * 5000 + b"\n" + b"," * 5000,
    "5000 digits": TABLE.replace("3", "3" * 5000).encode(),
    "a zip": b"PK\3\4" + bytes(range(256)) * 4,
}


@pytest.mark.parametrize("case", TEXTS)
def test_text_that_is_no_table_is_refused_in_a_short_line(case):
    """A file without a table is refused in a short line."""
    Path("t.csv").write_bytes(TEXTS[case])
    assert len(refused("t.csv", " must ", "label")) < 600


def test_a_mark_at_the_start_and_every_kind_of_line_end_are_read():
    """A byte order mark and all line ends are accepted."""
    for content in (
        TABLE.encode("utf-8-sig"),
        TABLE.replace("\n", "\r\n").encode(),
        TABLE.replace("\n", "\r").encode(),
    ):
        Path("t.csv").write_bytes(content)
        assert read("t.csv", "label").classes == ("x", "y")


def test_names_and_cells_are_data_and_no_markup_code_or_lines():
    """Names and cells with markup or control characters are kept as text."""
    names = [
        "<script>alert(1)</script>",
        "a\nb",
        "=cmd()|'/c calc'!A0",
        "{0}",
        "%s",
        "__import__('os')",
        "\u202e",
    ]
    frame = pd.DataFrame({name: [f"=1+{k % 3}" for k in range(ROWS)] for name in names})
    frame["\x1b[31m"] = [f"<b>{k % 2}</b>" for k in range(ROWS)]
    frame.to_csv("t.csv", index=False)
    found = read("t.csv", "\x1b[31m")
    assert list(found.features) == names
    assert found.classes == ("<b>0</b>", "<b>1</b>")
    assert all(text.isprintable() for text in (*found.notes, *found.warnings)), found.notes
    refused("t.csv", r"target must be a column of t.csv, got 'a\nc'; choose from <script>alert", "a\nc")
    refused("t.csv", r"drop must leave the target in the table, got 'a\nb' for both", "a\nb", drop=["a\nb"])


PLACES = {
    "a folder": ("folder.csv", "data must be a file, got 'folder.csv', which is no file; check the path"),
    "a pipe": ("pipe.csv", "data must be a file, got 'pipe.csv', which is no file; check the path"),
    "nothing": ("no.csv", "data must be a file, got 'no.csv', which is not there; check the path"),
    "a broken link": ("link.csv", "data must be a file, got 'link.csv', which is not there"),
    "a name with a nul": ("a\0.csv", r"data must be a file, got 'a\x00.csv', which is not there"),
    "a name too long": ("a" * 5000 + ".csv", "which is not there; check the path"),
    "no suffix": ("plain", "data must end in .csv, .tsv, .parquet or .npz, got 'plain'; convert it to one o"),
}  # fmt: skip


@pytest.mark.parametrize("case", PLACES)
def test_what_is_no_file_is_refused(case):
    """A folder, pipe, broken link or file without a suffix is refused."""
    Path("folder.csv").mkdir()
    os.mkfifo("pipe.csv")
    Path("link.csv").symlink_to("nowhere")
    Path("plain").touch()
    path, says = PLACES[case]
    refused(path, says, "label")


@pytest.mark.parametrize("name", ["t.csv", "t.parquet", "t.npz"])
def test_a_file_that_may_not_be_read_is_refused(name, monkeypatch):
    """A file without read permission is refused with the reason."""
    Path(name).touch()

    def denied(*given, **options):
        raise PermissionError(13, "Permission denied", name)

    monkeypatch.setattr(Path, "read_bytes", denied)
    monkeypatch.setattr(np, "load", denied)
    monkeypatch.setattr("pyarrow.parquet.ParquetFile", denied)
    says = refused(name, f"got '{name}'; ", None if name == "t.npz" else "label")
    assert "ermission denied" in says


def test_the_target_is_no_column_to_drop():
    """The target cannot be dropped."""
    Path("t.csv").write_text(TABLE)
    for drop in (["label"], "label", (" label ",)):
        refused(
            "t.csv",
            "drop must leave the target in the table, got 'label' for both; name another",
            "label",
            drop=drop,
        )
    refused(
        "t.csv", "data must have rows and columns beside the classes, got 40 rows and 0", "label", drop="a"
    )


DATES = {
    "ISO": (["2024-01-02", "2024-01-03", "2024-02-11"], True),
    "with times": (["2024-01-02T10:00", "2024-01-03 11:30:00+02:00", "2024-01-02 10:00"], True),
    "day first": (["31/01/2024", "1/2/2024", "03/02/24"], True),
    "with dots": (["31.01.2024", "01.02.2024", "03.02.2024"], True),
    "month names": (["2 Jan 2024", "3 Feb 2024", "11 March 2024"], True),
    "month first": (["Jan 2, 2024", "Feb 3, 2024", "March 11, 2024"], True),
    "versions": (["1.2", "1.2.3.4", "2.0"], False),
    "telephone numbers": (["0171-2345", "0171-2346", "0171-2347"], False),
    "ranges": (["1-2", "3-4", "5-6"], False),
    "words": (["red", "green", "blue"], False),
}


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("case", DATES)
def test_dates_that_become_categories_are_warned_of(case, suffix):
    """Dates that are read as categories cause a warning."""
    cells, dates = DATES[case]
    random = np.random.default_rng(0)
    values = np.where(
        random.random(ROWS) < 0.05, None, np.array(cells, dtype=object)[random.integers(0, 3, ROWS)]
    )
    frame = pd.DataFrame({"when": values, "a": Y * 0 + np.arange(ROWS) % 7, "label": Y})
    frame.to_csv("t.csv", index=False)
    frame.to_parquet("t.parquet")
    warnings = [warning for warning in read(f"t{suffix}", "label").warnings if "dates" in warning]
    assert len(warnings) == dates
    if dates:
        assert warnings[0].startswith(f"'when' holds dates, such as {values[0]!r} in ")
        assert "make numbers of them, such as days since the first" in warnings[0]
        assert warnings[0].endswith("or leave it out [EQ005]")


NUMBERS = {
    "prices": ([f"{3.14 + k * 2.7:.2f}" for k in range(ROWS)], True),
    "integers": ([str(1000 + 37 * k) for k in range(ROWS)], True),
    "with ties": ([str(k // 2) for k in range(ROWS)], True),
    "twenty digits": ([str(10**19 + k) for k in range(ROWS)], True),
    "a scale": ([str(k % 5 / 2) for k in range(ROWS)], False),
    "words": ([f"word {k}" for k in range(ROWS)], False),
}


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("case", NUMBERS)
def test_numbers_to_predict_are_called_that(case, suffix):
    """A target with many different numbers is refused as a regression target."""
    cells, regression = NUMBERS[case]
    Path("t.csv").write_text("a,label\n" + "".join(f"{k % 7},{cell}\n" for k, cell in enumerate(cells)))
    if suffix == ".parquet":
        pd.read_csv("t.csv", dtype=None if case != "twenty digits" else str).to_parquet("t.parquet")
    if case == "a scale":
        assert read(f"t{suffix}", "label").classes == ("0.0", "0.5", "1.0", "1.5", "2.0")
        return
    says = (
        f"target must hold classes, got {len(set(cells))} different numbers in 40 rows of t{suffix}, column"
    )
    assert (
        "(regression)" in refused(f"t{suffix}", says if regression else "every class must", "label")
    ) == regression


def test_labels_keep_twenty_digits_and_features_that_lose_some_are_noted():
    """Labels keep twenty digits, and features that lose digits are noted."""
    Path("t.csv").write_text("a,label\n" + "".join(f"{10**19 + 3},{10**19 + k % 2}\n" for k in range(ROWS)))
    found = read("t.csv", "label")
    assert found.classes == ("10000000000000000000", "10000000000000000001")
    shown = "'10000000000000000003' in line 2 as 1e+19, and 39 more such cells"
    assert found.notes == (f"'a' is read as numbers: {shown}",)


@pytest.mark.parametrize("value", ["1e300", "1e200", "-1e39", "3.5e38"])
def test_features_that_float32_cannot_hold_are_refused_and_others_are_not(value):
    """Features outside the range of float32 are refused; others are kept."""
    Path("t.csv").write_text(TABLE + f"{value},x\n")
    refused(
        "t.csv",
        f"got {float(value):g}, which float32 cannot hold, in line 42 of t.csv, column 'a'; re",
        "label",
    )
    Path("t.csv").write_text(TABLE + "3.4e38,x\n")
    found = read("t.csv", "label")
    assert np.isfinite(Encoder(found, np.arange(ROWS + 1)).transform(found.features)).all()


def test_parquet_from_which_nothing_can_be_made_is_refused():
    """A damaged Parquet file is refused in one line."""
    frame = pd.DataFrame({"a": Y, "label": Y})
    frame.to_parquet("t.parquet")
    whole = Path("t.parquet").read_bytes()
    for content in (
        whole[:-9],
        whole[:50],
        whole[9:],
        b"PAR1" + whole[-200:],
        whole.replace(b"PAR1", b"PARE"),
    ):
        Path("t.parquet").write_bytes(content)
        refused("t.parquet", "data must be a readable table, got 't.parquet'; ", "label")
