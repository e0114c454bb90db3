"""Thousands of damaged files: a line that names the argument, or a data set that is whole; nothing else."""

import io
import random
import re
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from equipoise.compare.dataset import Dataset
from equipoise.compare.encode import Encoder
from equipoise.compare.files import read

pytestmark = pytest.mark.slow

EACH = 1000  # damaged files of a kind
ROWS = 24
NUMBERS = np.random.default_rng(0)
FRAME = pd.DataFrame(
    {
        "size": NUMBERS.normal(size=ROWS).round(2),
        "count": [*range(3), None] * 6,
        "kind": ["red", 'gr"een', None, "a, b"] * 6,
        "day": pd.date_range("2024-01-01", periods=ROWS).astype(str),
        "y": ["no", "yes", "1.0"] * 8,
    }
)
ARRAYS = {
    "X": NUMBERS.normal(size=(ROWS, 2)).astype(np.float32),
    "y": np.arange(ROWS, dtype=np.int16) % 2,
    "g": np.array([f"g{k // 2}" for k in range(ROWS)]),
}
TOKENS = [
    *(b",", b";", b"\t", b"|", b'"', b'""', b"\n", b"\r", b"\r\n", b"\0", b"\xff\xfe", b"\xef\xbb\xbf"),
    *(b"nan", b"-inf", b"1e999", b"1e200", b"9" * 25, b"0x1", b"1_0", b"NA", b"\xe2\x80\xae", b"\xc2\xa0"),
    *(b" " * 40, b"\xed\xa0\x80"),
    *(b"2024-13-45", b"99999-01-01", b"<script>", b"=cmd()", b"{}", b"%n", b"object", b">f8", b"(24,)"),
    *(b"PAR1", b"PK\3\4", b"\x80", b"\x7f\xff\xff\xff", b"\xff" * 8, b"\0" * 8),
]  # fmt: skip
MESSAGE = re.compile(r"(data|target|drop|features|every class|X|y|clean|group|time) (must|looks) [^\n]+")


def damaged(content: bytes, chance: random.Random) -> bytes:
    """The content with one to four changes."""
    found = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 4))):
        start = chance.randrange(len(found) + 1)
        end = min(len(found), start + chance.choice((1, 1, 2, 8, 64, 512)))
        match chance.randrange(7):
            case 0 if start < len(found):
                found[start] ^= 1 << chance.randrange(8)
            case 1 if start < len(found):
                found[start] = chance.randrange(256)
            case 2:
                del found[start:end]
            case 3:
                found[start:start] = found[start:end]
            case 4:
                token = chance.choice(TOKENS)
                found[start : start + chance.choice((0, len(token)))] = token
            case 5:
                place = chance.randrange(len(found) + 1)
                found[place:place] = chance.randbytes(chance.choice((1, 4, 32)))
            case _:
                if chance.random() < 0.2:
                    del found[start:]
    return bytes(found)


def text(separator: str) -> Callable[[random.Random], bytes]:
    whole = FRAME.to_csv(index=False, sep=separator).encode()
    return lambda chance: damaged(whole, chance)


def parquet() -> Callable[[random.Random], bytes]:
    kinds = [FRAME, FRAME.assign(day=pd.to_datetime(FRAME["day"]), kind=FRAME["kind"].astype("category"))]
    whole = []
    for frame in kinds:
        for compression in ("snappy", None):
            file = io.BytesIO()
            frame.to_parquet(file, compression=compression)
            whole.append(file.getvalue())
    return lambda chance: damaged(chance.choice(whole), chance)


def npz() -> Callable[[random.Random], bytes]:
    members = {}
    for name, array in ARRAYS.items():
        file = io.BytesIO()
        np.save(file, array)
        members[f"{name}.npy"] = file.getvalue()

    def write(chance: random.Random) -> bytes:
        hit = chance.choice([*members, None])  # a member, whose checksum then is right, or the archive
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", chance.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
            for name, content in members.items():
                archive.writestr(name, damaged(content, chance) if name == hit else content)
        return file.getvalue() if hit else damaged(file.getvalue(), chance)

    return write


KINDS = {"t.csv": text(","), "t.tsv": text("\t"), "t.parquet": parquet(), "t.npz": npz()}


def fault(reader: Callable[[str], Dataset], path: Path) -> tuple[str, str]:
    """What became of a file, and what is wrong with that; nothing if it is right."""
    try:
        dataset = reader(str(path))
        numbers = Encoder(dataset, np.arange(len(dataset.labels))).transform(dataset.features)
    except (ValueError, ImportError, FloatingPointError) as error:
        says = str(error)
        return "refused", "" if MESSAGE.fullmatch(says) and len(
            says
        ) < 3000 else f"{type(error).__name__}: {says}"
    except Exception as error:  # any other is what this looks for
        return "failed", f"{type(error).__name__}: {error}"
    counts = np.bincount(dataset.labels, minlength=len(dataset.classes))
    whole = (
        np.isfinite(numbers).all()
        and len(numbers) == len(dataset.labels) >= 20
        and len(dataset.classes) == len(set(dataset.classes)) >= 2
        and counts.min() >= 5
        and all(label == label.strip() != "" for label in dataset.classes)
        and all(note.isprintable() for note in (*dataset.notes, *dataset.warnings))
        and len(dataset.fingerprint()) > 9
    )
    return "read", "" if whole else "a data set that is not whole"


def load(path: str) -> Dataset:
    if path.endswith(".npz"):
        return read(path, group="g")
    return read(
        path, "y", time="day" if path.endswith(".tsv") else None, drop=["day"] * path.endswith(".parquet")
    )


def outcomes(
    name: str, reader: Callable[[str], Dataset], folder: Path, count: int
) -> tuple[Counter[str], list[str]]:
    """How often files were read and refused, and what was wrong."""
    path, found, faults = folder / name, Counter(), []
    for seed in range(count):
        path.write_bytes(KINDS[name](random.Random(seed)))
        outcome, wrong = fault(reader, path)
        found[outcome] += 1
        faults += [f"seed {seed}: {wrong}"] if wrong else []
    return found, faults


@pytest.mark.parametrize("name", KINDS)
def test_damaged_files_are_refused_in_a_line_or_read_whole(name, tmp_path):
    """A randomly damaged file is refused in one line, or read as a complete data set."""
    found, faults = outcomes(name, load, tmp_path, EACH)
    assert not faults, faults[:5]
    assert found["read"] + found["refused"] == EACH
    assert min(found["read"], found["refused"]) > EACH / 20, found


def by_pandas(path: str) -> Dataset:
    """What a reader does that leaves all checks to pandas and numpy."""
    if path.endswith(".npz"):
        with open(path, "rb") as file:
            archive = np.load(file)
            return Dataset("t", archive["X"], archive["y"].astype(np.int64), ("0", "1"))
    frame = (
        pd.read_parquet(path) if path.endswith(".parquet") else pd.read_csv(path, sep=None, engine="python")
    )
    labels, classes = pd.factorize(frame.pop("y"), use_na_sentinel=False)
    return Dataset("t", frame, labels, tuple(map(str, classes)))


@pytest.mark.parametrize("name", KINDS)
def test_control_a_reader_without_checks_is_found(name, tmp_path):
    """Without the checks, damaged files cause many other errors."""
    faults = outcomes(name, by_pandas, tmp_path, 60)[1]
    assert len(faults) > 10


def test_control_one_planted_fault_is_found(tmp_path):
    """A single planted fault in the reader is found."""

    def planted(path: str) -> Dataset:
        if b"\0" in Path(path).read_bytes():
            raise IndexError("list index out of range")
        return load(path)

    faults = outcomes("t.csv", planted, tmp_path, 200)[1]
    assert faults
    assert all("IndexError" in wrong for wrong in faults)
