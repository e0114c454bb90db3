"""Any table that a CSV writer makes is read as it was written, or refused in a line that says where."""

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from equipoise.compare.files import read

ROWS = 24  # the fewest in which two classes and pools of six cells come out even
LARGEST = float(np.finfo(np.float32).max)
MARK = "\udce9"  # written as the byte E9, which is not UTF-8
MISSING = ("", "NA", "None", "nan", "null", "N/A")
SEPARATORS = (",", ";", "\t", "|")
NUMBERS = st.one_of(
    st.sampled_from([*MISSING, " ", "007", "-01", "1.50", "1.0", "1", "1e3", " 2 "]),
    st.sampled_from([str(2**53 + 1), "1e200", "-inf"]),
    st.integers(-(2**70), 2**70).map(str),
    st.floats(width=32).map(str),
    st.decimals(allow_nan=False, allow_infinity=False, places=2).map(str),
)
CELLS = st.one_of(
    NUMBERS,
    st.sampled_from(["True", "yes", "0,5", "1,234", "2024-01-02", "\uff11", "1_0", " x ", '"', "a\nb"]),
    st.text(alphabet="ab ,;|\t\n\"'é0.\u2028\ufeff", max_size=5),
    st.dates().map(str),
    st.booleans().map(str),
)
POOLS = st.one_of(*(st.lists(cells, min_size=6, max_size=6) for cells in (CELLS, NUMBERS)))
FAULTS = st.sampled_from([None, None, None, "nul", "byte", "long", "short", "open"])


@dataclass(frozen=True)
class Written:
    """What a file holds."""

    names: tuple[str, ...]
    columns: tuple[tuple[str, ...], ...]
    separator: str
    quoting: int
    newline: str
    mark: bool
    fault: str | None
    row: int
    column: int

    @property
    def rows(self) -> list[list[str]]:
        """The cells as they are written, fault included."""
        rows = [list(row) for row in zip(*self.columns, strict=True)]
        match self.fault:
            case "nul" | "byte":
                rows[self.row][self.column] += "\0" if self.fault == "nul" else MARK
            case "long":
                rows[self.row].append("")
            case "short":
                rows[self.row].pop()
        return rows

    def write(self, path: Path) -> list[int]:
        """Write the file, and return the line in which each row begins."""
        text = io.StringIO()
        writer = csv.writer(text, delimiter=self.separator, quoting=self.quoting, lineterminator=self.newline)  # type: ignore[arg-type]
        writer.writerow(self.names)
        lines = []
        for row in self.rows:
            lines.append(text.getvalue().count("\n") + 1)
            writer.writerow(row)
        lines.append(text.getvalue().count("\n") + 1)
        content = "\ufeff" * self.mark + text.getvalue() + '"open' * (self.fault == "open")
        path.write_bytes(content.encode("utf-8", "surrogateescape"))
        return lines


@st.composite
def tables(draw: st.DrawFn) -> Written:
    """Tables of three to five columns, the last but one with the classes."""
    separator = draw(st.sampled_from([",", ",", *SEPARATORS]))
    # names with other separators in them would leave it open which one the file has
    letters = "ab \"'é" + ("" if separator != "," else ",;\n")
    names = draw(st.lists(st.text(letters, max_size=4), min_size=2, max_size=4))
    names.insert(-1, draw(st.text(letters, min_size=1, max_size=4).filter(str.strip)))
    classes = draw(st.lists(CELLS.filter(str.strip), min_size=2, max_size=2, unique_by=str.strip))
    pools = [draw(POOLS) for _ in names]
    pools[-2] = classes * 3
    return Written(
        tuple(names),
        tuple(tuple(pool * (ROWS // 6)) for pool in pools),
        separator,
        draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])),
        draw(st.sampled_from(["\n", "\r\n"])),
        draw(st.booleans()),
        draw(FAULTS),
        draw(st.integers(0, ROWS - 1)),
        draw(st.integers(0, len(names) - 1)),
    )


def number(cell: str) -> float | None:
    """The number that a cell spells; None for anything else."""
    try:
        return float(cell) if cell.isascii() and "_" not in cell else None
    except ValueError:
        return None


def expected(cells: list[str]) -> list[float | str]:
    """A column of numbers if every cell is one or missing, else of words."""
    if all(cell in MISSING or number(cell) is not None for cell in cells):
        return [math.nan if cell in MISSING else float(cell) for cell in cells]
    return [cell or math.nan for cell in cells]


def refusal(written: Written, names: list[str], lines: list[int]) -> list[str]:
    """What the one line of a refusal says; empty if the file can be read."""
    match written.fault:
        case "nul" | "byte":
            return [f"in line {lines[written.row]} of ", f"column {written.column + 1} ("]
        case "long" | "short":
            return [f"cells in line {lines[written.row]} and {len(names)} in line 1 of "]
        case "open":
            return [f"the row that begins in line {lines[ROWS]} of "]
    for place, name in enumerate(names):
        if name in names[:place]:
            return [f"{name!r} as columns {names.index(name) + 1} and {place + 1} in line 1 of "]
    for place, name in enumerate(names):
        values = expected([cell.strip() for cell in written.columns[place]])
        large = [isinstance(value, float) and abs(value) > LARGEST for value in values]
        if place != len(names) - 2 and any(large):
            return [f" in line {lines[large.index(True)]} of ", f"column {name!r};"]
    return []


def read_by_equipoise(path: Path, target: str):
    """Labels, features and notes."""
    dataset = read(str(path), target)
    return [dataset.classes[label] for label in dataset.labels], dataset.features, dataset.notes


def read_by_pandas(path: Path, target: str):
    """The same, as pandas alone reads it."""
    try:
        frame = pd.read_csv(path, low_memory=False)
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise ValueError(str(error)) from error
    labels = [str(label) for label in frame[target].dropna()] if target in frame else []
    return labels, frame, ()


def attempt(read, path: Path, target: str):
    """What a reader makes of a file, and nothing; or nothing, and the line with which it is refused."""
    try:
        return read(path, target), ""
    except ValueError as error:
        return None, str(error)


def changes(cell: str, value: float | str) -> bool:
    """Whether reading a cell as a number loses what it says."""
    if not isinstance(value, float) or not cell:
        return False
    digits = cell.lstrip("+-")
    padded = digits[0] == "0" and digits[1:2].isdigit()
    return math.isnan(value) or padded or (digits.isdigit() and int(cell) != int(value))


def compare_reader(read, path: Path, examples: int, phases: tuple[Phase, ...]) -> None:
    """Write tables, and compare what a reader makes of them."""

    @settings(max_examples=examples, phases=phases)
    @given(tables())
    def reads_back(written: Written) -> None:
        lines = written.write(path)
        names = [name.strip() or f"Unnamed: {place}" for place, name in enumerate(written.names)]
        says = refusal(written, names, lines)
        found, refused = attempt(read, path, names[-2])
        assert bool(says) == bool(refused), refused
        if found is None:
            assert "\n" not in refused, refused
            assert all(words in refused for words in (*says, path.name)), refused
            return
        labels, features, notes = found
        for name, column in zip(names, written.columns, strict=True):
            cells = [cell.strip() for cell in column]
            if name == names[-2]:
                assert labels == cells
                continue
            values = expected(cells)
            read_back = ["nan" if value != value else value for value in features[name]]
            assert read_back == ["nan" if value != value else value for value in values]
            if any(map(changes, cells, values)):
                assert any(note.startswith(f"{name!r} is read as numbers: ") for note in notes)

    reads_back()


@pytest.mark.slow
def test_any_table_is_read_as_written_or_refused_by_place(tmp_path):
    """A generated table is read as written, or refused with the place of its fault."""
    compare_reader(read_by_equipoise, tmp_path / "t.csv", 200, tuple(Phase))


def test_control_a_reader_that_converts_is_found(tmp_path):
    """The comparison finds that pandas alone changes values."""
    with pytest.raises(AssertionError):
        compare_reader(read_by_pandas, tmp_path / "t.csv", 100, (Phase.generate,))


KINDS = [
    *(("separator", mark) for mark in SEPARATORS),
    *(("fault", fault) for fault in (None, "nul", "byte", "long", "short", "open")),
    *(("mark", mark) for mark in (True, False)),
    *(("refused", words) for words in ("cells in", "as columns", "(", "begins", "';")),
    ("read", None),
]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "value"), KINDS)
def test_tables_of_every_kind_are_tried(kind, value, tmp_path):
    """The generated tables include each kind of separator, fault and value."""

    def is_one(written: Written) -> bool:
        names = [name.strip() or f"Unnamed: {place}" for place, name in enumerate(written.names)]
        if kind in ("separator", "fault", "mark"):
            return getattr(written, kind) == value
        says = " ".join(refusal(written, names, written.write(tmp_path / "t.csv")))
        return value in says if kind == "refused" else not says

    find(tables(), is_one, settings=settings(max_examples=2000, phases=(Phase.generate,)))
