"""The command line with data and models from Python, runs made elsewhere, and outputs that fail."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

GAMMA = ("--objective", "GammaCrossEntropy(gamma=0.5)")
MINE = """
import sys
import numpy as np
import torch
from torch import nn

def rows():
    generator = np.random.default_rng(0)
    y = np.arange(60) % 3
    return (generator.normal(size=(60, 1, 4, 4)) + y[:, None, None, None]).astype("float32"), y

def mapping():
    X, y = rows()
    return {"X": X, "y": y, "groups": np.arange(60) // 2, "costs": 1 - np.eye(3)}

def dataset():
    return torch.utils.data.TensorDataset(*map(torch.tensor, rows()))

def net(features, classes):
    assert features == (1, 4, 4)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, classes))

number = 3
class Holder:
    rows = staticmethod(rows)
def wrong_key(): return {"X": 1, "colour": 2}
def no_rows(): return {"y": 1}
def three(): return 1, 2, 3
def leaves(): sys.exit("bye")
def stops(): raise KeyboardInterrupt
def fails():
    raise RuntimeError("no\\nrows")
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", os.getcwd())])
    Path("mine_of_tests.py").write_text(MINE)
    Path("bad_of_tests.py").write_text("def f(:")
    Path("leaves_of_tests.py").write_text("import sys; sys.exit()")
    Path("divides_of_tests.py").write_text("\n\nx = 1 / 0")
    yield
    for name in [name for name in sys.modules if name.endswith("_of_tests")]:
        del sys.modules[name]


@pytest.mark.slow
@pytest.mark.parametrize("data", ["rows", "mapping", "dataset", "Holder.rows"])
def test_data_and_a_model_from_functions(call, mine, fast, data):
    """Data and a model may come from functions of the user."""
    words = (
        "--data",
        f"mine_of_tests:{data}",
        "--model",
        "mine_of_tests:net",
        "--folds",
        2,
        "--json",
        *GAMMA,
    )
    said = json.loads(call("compare", *words, *fast, "--out", "o").out)
    assert said["trials"] == {"all": 4, "reused": 0}
    assert said["costs_from"] == ("costs" if data == "mapping" else None)
    assert json.loads(call("compare", *words, *fast, "--out", "o").out)["trials"]["reused"] == 4


RUNS = "must be module:function that runs, got"
GIVES = "--data must return (X, y), a data set or a mapping of X, y, test, clean, groups, time, "
WRONG = [
    ("--data", "mine_of_tests", "--data must be module:function, got 'mine_of_tests'; name both"),
    ("--data", ":rows", "--data must be module:function, got ':rows'; name both"),
    (
        "--data",
        "nowhere_of_tests:f",
        f"--data {RUNS} ModuleNotFoundError: No module named 'nowhere_of_tests'; ",
    ),
    (
        "--data",
        "mine_of_tests:lost",
        f"--data {RUNS} AttributeError: module 'mine_of_tests' has no attribute",
    ),
    (
        "--data",
        "mine_of_tests:number",
        "--data must be module:function, got 'mine_of_tests:number', which is ",
    ),
    ("--data", "mine_of_tests:fails", f"--data {RUNS} RuntimeError: no rows ("),
    ("--data", "mine_of_tests:leaves", f"--data {RUNS} SystemExit: bye ("),
    ("--data", "bad_of_tests:f", f"--data {RUNS} SyntaxError: "),
    ("--data", "leaves_of_tests:f", f"--data {RUNS} SystemExit:"),
    ("--model", "divides_of_tests:f", f"--model {RUNS} ZeroDivisionError: division by zero ("),
    ("--data", "mine_of_tests:wrong_key", GIVES),
    ("--data", "mine_of_tests:no_rows", GIVES),
    ("--data", "mine_of_tests:three", GIVES),
    (
        "--target",
        "y",
        "--data must be the only data, got --target as well; return everything from the function",
    ),
    ("--", "a.csv", "--data must be the only data, got a.csv as well; return everything from the function"),
]


@pytest.mark.parametrize(("option", "value", "message"), WRONG)
def test_what_is_wrong_with_code_of_the_users_is_one_line(call, mine, option, value, message):
    """An error in the user's functions is reported in one line."""
    data = () if option in ("--data", "--model") else ("--data", "mine_of_tests:rows")
    said = call("compare", *data, option, value)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith(f"equipoise: error: {message}")
    assert said.err.count("\n") == 1
    if "ZeroDivision" in message:
        assert said.err.endswith("divides_of_tests.py, line 3); correct it\n")


def test_an_interrupt_says_what_is_kept(call, mine, blobs, fast, monkeypatch):
    """An interrupt prints in one line which results are kept."""
    said = call("compare", "--data", "mine_of_tests:stops")
    assert (said.code, said.out, said.err) == (130, "", "equipoise: interrupted\n")

    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("equipoise.compare.runner.run_missing", stop)
    said = call("compare", blobs, *GAMMA, *fast, "--out", "here", "--quiet")
    assert said.code == 130
    assert said.err == (
        "equipoise: interrupted; finished trainings are kept in here, the same command resumes\n"
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell and /dev/full")
@pytest.mark.parametrize(("into", "code", "line"), [("| true", 141, ""), ("> /dev/full", 2, "No space left")])
def test_an_output_that_nobody_reads_or_that_is_full(environment, tmp_path, into, code, line):
    """A closed pipe or a full device as output is not a traceback."""
    rows = [f"{name},{seed},{seed / 9}" for name in "ab" for seed in range(3)]
    (tmp_path / "runs.csv").write_text("\n".join(["candidate,seed,accuracy", *rows]))
    command = f"{sys.executable} -m equipoise paired runs.csv --baseline a"
    shell = f"({command}; echo $? >&2) {into}"
    if "true" in into:
        shell = f"({command.replace('-m', '-u -m')}; echo $? >&2) | (exec 0<&-; sleep 4)"
    done = subprocess.run(shell, shell=True, env=environment, cwd=tmp_path, capture_output=True, text=True)
    lines = done.stderr.splitlines()
    assert lines[-1] == str(code)
    assert len(lines) == (2 if line else 1)
    assert line in lines[0]


def test_runs_made_elsewhere(call, tmp_path):
    """`equipoise paired` compares a file of runs, once it is told which way each measure is better."""
    rows = [
        f"{name},{seed},{0.8 + seed / 50 + shift * (1 + seed / 9)},{1.0 - shift * (1 + seed / 9)}"
        for name, shift in (("none", 0.0), ("mine", 0.1))
        for seed in range(4)
    ]
    path = tmp_path / "runs.csv"
    path.write_text("\n".join(["candidate,seed,accuracy,speed", *rows]))
    words = ("paired", path, "--baseline", "none")
    assert call(*words).err.startswith("equipoise: error: higher_is_better must say whether a larger 'speed'")
    said = call(*words, "--lower", "speed", "--test-size", 40, "--train-size", 50, "--json")
    assert said.err == ""
    found = json.loads(said.out)
    assert (found["call"], found["winner"], found["test_ratio"]) == ("better", "mine", 0.8)
    shown = call(*words, "--higher", "speed")
    assert shown.code == 0
    assert "independent" in shown.out
    assert "candidate" in shown.out.splitlines()[0]
    for wrong, message in [
        (["--baseline", "lost", "--lower", "speed"], "--baseline must be a candidate of scores, got 'lost'"),
        (
            ["--test-size", "-1", "--train-size", "2", "--lower", "speed"],
            "--test-size must be above 0, got -1.0",
        ),
        (["--lower", "spee"], "higher_is_better must name measures, got 'spee'"),
    ]:
        said = call(*words, *wrong)
        assert (said.code, said.out) == (2, "")
        assert said.err.startswith(f"equipoise: error: {message}")
    assert call("paired", tmp_path / "no.csv", "--baseline", "a").code == 2
    assert call("paired", path).err.startswith(
        "equipoise: error: the following arguments are required: --base"
    )


@pytest.mark.slow
def test_a_terminal_that_is_not_utf_8(environment, tmp_path):
    """Output works on a terminal that is not UTF-8."""
    rows = [f"{k % 5},{k % 7},{'xé'[k % 2]}" for k in range(60)]
    (tmp_path / "é.csv").write_text("\n".join(["a,b,label", *rows]), encoding="utf-8")
    words = ["compare", "é.csv", "--target", "label", "--epochs", "1", "--folds", "2", "--jobs", "1", *GAMMA]
    program = [sys.executable, "-m", "equipoise", *words]
    ascii_only = environment | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "1"}
    done = subprocess.run(program, env=ascii_only, cwd=tmp_path, capture_output=True)
    assert done.returncode == 0
    assert b"Traceback" not in done.stderr
    assert b".csv: 60 rows" in done.stdout + done.stderr
