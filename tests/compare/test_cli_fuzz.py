"""Lists of words, sound and not: a call with the right arguments, or one line on stderr and exit code 2."""

import contextlib
import inspect
import io
import random
import string
from functools import wraps
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import equipoise.compare as package
from equipoise.cli import main
from equipoise.compare import read

pytestmark = pytest.mark.slow

INTEGERS = [
    "folds", "repeats", "random-state", "jobs", "width", "epochs", "batch-size", "patience", "tune"
]  # fmt: skip
NUMBERS = ["lr", "weight-decay"]
TEXTS = [
    "noise", "costs", "similarity", "out", "model", "model-name", "stop", "class-weight", "device"
]  # fmt: skip
READ = ["target", "test", "clean", "group", "time"]
OPTIONS = [f"--{name}" for name in (*INTEGERS, *NUMBERS, *TEXTS, *READ, "drop", "objective", "worthwhile")]
FLAGS = ["--json", "--quiet"]
SIGNATURE = inspect.signature(package.compare)
NAMES = {name.replace("-", "_"): name for name in (*INTEGERS, *NUMBERS, *TEXTS)}


@pytest.fixture
def record(monkeypatch):
    """What is read and compared, in place of doing it."""
    calls = []

    @wraps(package.compare)
    def compare(*args, **kwargs):
        SIGNATURE.bind(*args, **kwargs)
        calls.append(kwargs)
        return SimpleNamespace(to_dict=dict, result=None, judged=None, files={"report": ""})

    @wraps(read)
    def reading(*args, **kwargs):
        inspect.signature(read).bind(*args, **kwargs)
        return ("read", args, kwargs)

    monkeypatch.setattr(package, "compare", compare)
    monkeypatch.setattr(package, "read", reading, raising=False)
    monkeypatch.setattr("equipoise.compare.console.show", lambda *args: None)
    monkeypatch.setattr("equipoise.compare.early.check", lambda given: None)  # which knows bad values
    monkeypatch.setattr("equipoise.compare.folder.require", lambda out: None)
    return calls


def said(words):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(words)
        except SystemExit as stop:
            code = stop.code
    return code, out.getvalue(), err.getvalue()


# Text as it comes: minus signs first, blanks, equal signs, quotes; no other option and no module:function.
LETTERS = st.text(st.characters(exclude_characters=":\0", exclude_categories=["Cs"]), max_size=12)
VALUES = st.one_of(
    LETTERS,
    LETTERS.map("-{}".format),
    st.sampled_from(["-1*CrossEntropy() + 2*Focal()", "-0.1", "-", "---", "a=b", "=", "-x=y", " ", "-1 * a"]),
).filter(lambda text: text not in (*OPTIONS, *FLAGS, "--", "-h", "--help", "--dask", "--data"))
ONE = {
    **dict.fromkeys(INTEGERS, st.integers(-(10**30), 10**30)),
    **dict.fromkeys(NUMBERS, st.floats(allow_nan=False)),
    **dict.fromkeys([*TEXTS, *READ], VALUES),
}


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    chosen=st.fixed_dictionaries({}, optional=ONE),
    objectives=st.lists(VALUES, max_size=3),
    drop=st.lists(VALUES, max_size=3),
    flags=st.sets(st.sampled_from(FLAGS)),
    joined=st.booleans(),
    seed=st.randoms(use_true_random=False),
)
def test_options_reach_the_function_as_they_were_given(record, chosen, objectives, drop, flags, joined, seed):
    """Options of the command line reach the function with their values."""
    record.clear()
    parts = [[f"--{name}", str(value)] for name, value in chosen.items()]
    repeated = [["--objective", text] for text in objectives] + [["--drop", text] for text in drop]
    if joined:
        parts, repeated = [[[f"{a}={b}"] for a, b in pairs] for pairs in (parts, repeated)]
    seed.shuffle(parts)
    words = [word for part in (*parts, *repeated, sorted(flags), ["data.csv"]) for word in part]
    code, _, err = said(["compare", *words])
    assert (code, err) == (0, "")
    [call] = record
    sent = dict(call)
    assert sent.pop("X") == (
        "read",
        ("data.csv",),
        {name: chosen[name] for name in READ if name in chosen} | ({"drop": drop} if drop else {}),
    )
    assert sent.pop("progress") is not bool(flags)
    assert sent.pop("objectives") == (objectives or None)
    assert sent.pop("out") == chosen.get("out", "comparison")
    assert sent == {
        name: chosen[option] for name, option in NAMES.items() if option in chosen and name != "out"
    }


POOL = [
    *OPTIONS, *FLAGS, "--", "-", "-h1", "--data", "--dask=", "--no-such", "--folds=", "--objective", "x.toml",
    "a.csv", "-1*CrossEntropy()", "-0.1", "nan", "inf", "1e9", "1e400", "--folds=-3", "3", "0", "accuracy=1",
    "accuracy=", "=", "9" * 5000, "-" * 400, "9" * 23, "Focal(", "é", "\n", "a\nb", "\ud800", "\x00",
    "%s %d {0}", "x" * 100_000, "mine:rows", ":", "no.such:f", "paired", "compare", "--baseline", "--higher",
]  # fmt: skip


def test_any_list_of_words_is_a_call_or_one_line(record, tmp_path, monkeypatch):
    """A random list of words is a valid call, or is refused in one line with exit code 2."""
    monkeypatch.chdir(tmp_path)
    generator = random.Random(1)
    codes = {0: 0, 2: 0}
    for _ in range(2000):
        count = generator.choice([0, 1, 2, 3, 6])
        words = [generator.choice(POOL) for _ in range(count)]
        if generator.random() < 0.2:
            words.append("".join(generator.choices(string.printable, k=8)))
        record.clear()
        code, out, err = said(["compare", *words])
        codes[code] += 1
        if code == 0:
            [call] = record
            for name, option in NAMES.items():
                kind = int if option in INTEGERS else float if option in NUMBERS else str
                assert isinstance(call.get(name, kind()), kind), words
        else:
            assert not record
            assert out == ""
            assert err.startswith("equipoise: error: "), words
            assert err.count("\n") == 1, words
            assert len(err) < 1200
    assert min(codes.values()) > 200


@pytest.mark.parametrize(
    "value",
    ["1e9", "9" * 5000, "x" * 5_000_000, "nan", "", " ", "1.5", "0x10", "-", "--lr"],
    ids=lambda v: v[:8],
)
@pytest.mark.parametrize("option", [f"--{name}" for name in INTEGERS])
def test_what_is_no_integer_names_the_option(record, option, value):
    """A value that is no integer is refused with the name of its option."""
    code, out, err = said(["compare", option, value])
    assert (code, out) == (2, "")
    assert err.startswith(f"equipoise: error: {option} ")
    assert "must be an integer" in err or "must have a value" in err
    assert (err.count("\n"), len(err) < 300) == (1, True)


def test_control_a_wrong_call_would_be_found(record, monkeypatch):
    """With wrong types of options, the tests above would fail."""
    monkeypatch.setattr("equipoise.cli._KINDS", {})
    code, _, _ = said(["compare", "--folds", "3"])
    assert code == 0
    assert record[0]["folds"] == "3"  # what the tests above would refuse
