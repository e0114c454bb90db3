"""Scores of runs made elsewhere: files, tables, and what is refused in one line."""

import json
import math
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.compare.runs import paired
from equipoise.compare.score_files import read_scores
from support.made_runs import row, runs


def twice(scores):
    return pd.concat([scores, scores.iloc[:1]])


SCORES = runs(4)
REFUSED = [
    (lambda: paired([1, 2], baseline="ce"),  # pyright: ignore
     "scores must be a DataFrame with columns candidate, seed and one"),
    (lambda: paired(SCORES.drop(columns="seed"), baseline="ce"),
     "scores must have a column 'seed', got candid"),
    (lambda: paired(SCORES.drop(columns="candidate"), baseline="ce"), "a column 'candidate', got seed, acc"),
    (lambda: paired(SCORES[:0], baseline="ce"), "scores must have a row for each run, got none"),
    (lambda: paired(SCORES[["candidate", "seed"]], baseline="ce"),
     "a column for each measure, got candidate and"),
    (lambda: paired(SCORES.set_axis(["candidate", "seed", "nll", "nll"], axis=1), baseline="ce"),
     "'nll' twice"),
    (lambda: paired(SCORES.replace({"candidate": {"mine": None}}), baseline="ce"),
     "candidate must be given for"),
    (lambda: paired(SCORES.replace({"seed": {2: math.nan}}), baseline="ce"), "got none in row 2; fill it in"),
    (lambda: paired(twice(SCORES), baseline="ce"), "one run for each seed, got another of 'ce' with seed 0;"),
    (lambda: paired(SCORES.assign(seed=7), baseline="ce"),
     "with seed 7, the seed of all rows; number the runs"),
    (lambda: paired(SCORES.assign(seed=[[1]] * 12), baseline="ce"),
     "seed must be a number, a text or the like"),
    (lambda: paired(SCORES.assign(seed=[*range(4), *"0123", *range(4)]), baseline="ce"),
     "got 0 as a number and"),
    (lambda: paired(SCORES, baseline="mien"),
     "baseline must be a candidate of scores, got 'mien'; did you mean"),
    (lambda: paired(SCORES[:4], baseline="ce"), "must have a candidate beside the baseline, got 'ce' alone"),
    (lambda: paired(SCORES.assign(nll="good"), baseline="ce"),
     "must be numbers, got 'good' in row 0 of column"),
    (lambda: paired(SCORES.assign(on=pd.Timestamp(0)), baseline="ce"),
     "leave the column out with scores.drop("),
    (lambda: paired(SCORES.assign(nll=10**400), baseline="ce"), "measures must be numbers, got 1000"),
    (lambda: paired(SCORES.assign(nll=1j), baseline="ce"), "measures must be numbers, got 1j in row 0"),
    (lambda: paired(SCORES.assign(nll=math.nan), baseline="ce"),
     "must have values, got none in column 'nll'"),
    (lambda: paired(SCORES.assign(nll=1e200), baseline="ce"), "must be below 1e+150 in size, got 1e+200 in"),
    (lambda: paired(SCORES.assign(wer=1.0), baseline="ce"),
     "must say whether a larger 'wer' is better, got nothing"),
    (lambda: paired(SCORES, baseline="ce", higher_is_better=True),
     "all measures are known by name, got True"),
    (lambda: paired(SCORES, baseline="ce", higher_is_better={"accurate": True}),
     "got 'accurate'; did you mean acc"),
    (lambda: paired(SCORES, baseline="ce", higher_is_better={"nll": "no"}),  # pyright: ignore
     "True or False, got 'no' for 'nll'"),
    (lambda: paired(SCORES, baseline="ce", test_size=4),
     "be given together, got 4 and None; give neither if"),
    (lambda: paired(SCORES, baseline="ce", train_size=4),
     "be given together, got None and 4; give neither if"),
    (lambda: paired(SCORES, baseline="ce", test_size=0, train_size=4),
     "test_size must be above 0, got 0; it is"),
    (lambda: paired(SCORES, baseline="ce", test_size=1, train_size=math.inf),
     "train_size must be above 0, got i"),
    (lambda: paired(SCORES, baseline="ce", test_size=True, train_size=4),
     "test_size must be above 0, got True"),
    (lambda: paired(SCORES, baseline="ce", test_size=0.2, train_size=80),
     "both be rows or both shares, got 0.2"),
    (lambda: paired(SCORES, baseline="ce", worthwhile={"nnl": 1}),
     "worthwhile must name measures, got 'nnl'; did"),
    (lambda: paired(SCORES, baseline="ce", worthwhile={"nll": -1}),
     "worthwhile must be 0 or more, got -1 for 'nl"),
    (lambda: paired({"ce": {"nll": [1, 2]}, "a": 3}, baseline="ce"),  # pyright: ignore
     "map each candidate to a mapping from meas"),
    (lambda: paired({"ce": {"nll": [1, 2], "f1": [1]}}, baseline="ce"),
     "must map each candidate to a mapping"),
    (lambda: paired(SCORES, baseline="ce", worthwhile=0.1), "must map measures to numbers, got 0.1; write {"),  # pyright: ignore
    (lambda: paired(SCORES.to_dict("list"), baseline="ce"), "got a value that is none; write {'mine': {"),  # pyright: ignore
    (lambda: paired({}, baseline="ce"), "must map each candidate to a mapping from measure to values, got"),
    (lambda: paired(SCORES, baseline="ce", higher_is_better={3: True}),  # pyright: ignore
     "must name measures, got '3'; choose from accuracy, nll"),
    (lambda: paired(SCORES, baseline="ce", worthwhile={3: 1}),  # pyright: ignore
     "worthwhile must name measures, got '3'; choose from accuracy, nll"),
    (lambda: paired(SCORES, baseline="ce", worthwhile={"nll": True}),
     "must be 0 or more, got True for 'nll'"),
    (lambda: paired(SCORES, baseline="ce", worthwhile={"nll": 1j}),  # pyright: ignore
     "must be 0 or more, got 1j for"),
    (lambda: paired(SCORES, baseline="ce", worthwhile={"nll": 10**400}),
     "worthwhile must be 0 or more, got 1000"),
    (lambda: paired(SCORES, baseline="ce", test_size=10**400, train_size=5),
     "test_size must be above 0, got 1000"),
    (lambda: paired(SCORES, baseline="ce", test_size=np.complex128(1), train_size=5),  # pyright: ignore
     "test_size must be above 0, got np.complex"),
    (lambda: read_scores("a\nruns.xlsx"), ".jsonl, .ndjson, got 'a\\nruns.xlsx'; save it as one"),
    (lambda: read_scores("no/a\nruns.csv"), "that can be read, got 'no/a\\nruns.csv': No such file or"),
    (lambda: read_scores("runs.xlsx"),
     "must be a file ending in .csv, .tsv, .parquet, .jsonl, .ndjson, got runs"),
    (lambda: read_scores("no/runs.csv"), "that can be read, got no/runs.csv: No such file or directory"),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "words"), REFUSED)
def test_what_is_refused_names_argument_rule_value_and_the_way_out(wrong, words):
    """Invalid scores are refused in one line with argument, rule and value."""
    with pytest.raises((ValueError, TypeError)) as caught:
        wrong()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value)[0].islower()


# --- files ---


def written(scores, path):
    suffix = path.suffix
    if suffix == ".parquet":
        scores.to_parquet(path)
    elif suffix in (".csv", ".tsv"):
        scores.to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ",")
    else:
        scores.to_json(path, orient="records", lines=True, double_precision=15)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".jsonl", ".ndjson", ".CSV"])
def test_files_are_read_as_they_were_written(tmp_path, suffix):
    """Scores are read from each format as they were written."""
    scores = runs().replace({"candidate": {"worse": "none"}})
    path = tmp_path / f"runs{suffix}"
    read = read_scores(written(scores, path if suffix != ".CSV" else tmp_path / "a.csv").rename(path))
    pd.testing.assert_frame_equal(read, scores, check_dtype=False, rtol=1e-14)
    assert paired(read, baseline="none").winner == "mine"


def test_a_damaged_parquet_file_is_read_or_refused(tmp_path):
    """A damaged Parquet file of scores is read, or refused in one line."""
    path = written(runs(), tmp_path / "runs.parquet")
    whole, generator = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        damaged = bytearray(whole)
        for place in generator.integers(len(whole) // 2, len(whole), size=3):
            damaged[place] = generator.integers(256)
        path.write_bytes(bytes(damaged))
        try:
            read_scores(path)
        except ValueError:
            refused += 1
    assert refused > 100


def test_parquet_without_its_library_says_what_to_install(tmp_path, monkeypatch):
    """Parquet without pyarrow names the command that installs it."""
    path = written(runs(), tmp_path / "runs.parquet")
    for name in ("pyarrow", "fastparquet"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"runs\.parquet needs pyarrow; pip install 'equipoise\[parquet\]'"):
        read_scores(path)


def test_candidates_keep_their_names_and_gaps_are_missing_runs(tmp_path):
    """Candidates keep names such as "007" and "nan", and empty cells are missing runs."""
    path = tmp_path / "runs.csv"
    lines = [
        f"{name}, {seed}, {value}" for name in ("007", "nan") for seed, value in enumerate((0.1, 0.2, 0.4))
    ]
    path.write_text("\n".join(["candidate, seed, nll", *lines, "nan, 3,"]))
    found = paired(read_scores(path), baseline="007")
    assert [*found.table()["candidate"]] == ["nan"]
    assert row(found, "nan", "nll").reason == "1 of 4 runs have no value to pair"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.csv", b""),
        ("long.csv", b"candidate,seed,nll\na,1,2,3\n"),
        ("binary.csv", bytes(range(256))),
        ("text.parquet", b"candidate,seed"),
        ("empty.parquet", b""),
        ("broken.jsonl", b'{"candidate": "a"\n'),
        ("text.jsonl", b"candidate,seed"),
    ],
)
def test_files_that_cannot_be_read_are_one_line(tmp_path, name, content):
    """An unreadable file of scores is refused in one line."""
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"scores must be a table that can be read, got .*: ") as caught:
        read_scores(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


odd = st.one_of(st.floats(), st.integers(-3, 3), st.text(max_size=3), st.none(), st.booleans(), st.just([1]))
names = st.one_of(st.sampled_from(["ce", "mine"]), st.sampled_from(["ce", "mine"]), odd)
seeds = st.one_of(st.integers(0, 4), st.integers(0, 4), odd)
scored = st.one_of(st.floats(), st.floats(-1, 1), st.floats(-1, 1), st.floats(-1, 1), odd)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(names, seeds, scored), max_size=8, unique_by=lambda row: (str(row[0]), str(row[1]))),
    st.sampled_from(["nll", "odd", "seed", ""]),
    st.sampled_from([{}, {"test_size": 1, "train_size": 3}, {"higher_is_better": True}]),
)
def test_any_table_is_answered_or_refused_in_one_line(rows, name, options):
    """A random table gives a result, or is refused in one line."""
    scores = pd.DataFrame(rows, columns=["candidate", "seed", name])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            found = paired(scores, baseline="ce", **options)
        except ValueError as error:
            refused = str(error)
            assert "\n" not in refused, refused
            assert " must " in refused, refused
            return
    assert found.call in ("better", "equal", "undecided")
    json.dumps(found.to_dict(), allow_nan=False)


pieces = st.sampled_from(
    [
        *"ab,;\t\"'\n\r\x00\\{}[]:0-1.e",
        "candidate",
        "seed",
        "nll",
        "ce",
        "nan",
        "1e999",
        "\ufeff",
        "\n{",
        "\u00e9",
    ]
)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
@settings(max_examples=100, deadline=None)
@given(texts=st.lists(pieces, max_size=30), encoding=st.sampled_from(["utf-8", "utf-16", "latin-1"]))
def test_any_file_is_answered_or_refused_in_one_line(tmp_path_factory, suffix, texts, encoding):
    """A random file gives a result, or is refused in one line."""
    path = tmp_path_factory.mktemp("fuzz") / f"runs{suffix}"
    path.write_bytes("".join(texts).encode(encoding, "replace"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            found = paired(read_scores(path), baseline="ce")
        except ValueError as error:
            refused = str(error)
            assert refused.splitlines() == [refused], refused
        else:
            assert found.call in ("better", "equal", "undecided")
