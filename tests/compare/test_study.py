"""A study is written as it can be read, and says what it cannot hold."""

import json
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.compare import compare, read, study
from equipoise.compare.objectives import read_objective
from equipoise.compare.settings import COUNTS, Settings
from equipoise.losses import Focal, RowLoss
from equipoise.training import STOPS

MATRICES = {"costs": np.array([[0.0, 1.5], [1e-5, 0.0]])}
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
COLUMNS = {"target": TEXT, "test": TEXT, "clean": TEXT, "group": TEXT, "time": TEXT}
POSITIVE = st.floats(0, allow_infinity=False, exclude_min=True)
SETTINGS = st.builds(
    Settings,
    model=st.sampled_from(["mlp", "linear"]),
    model_name=st.none() | TEXT,
    lr=POSITIVE,
    weight_decay=POSITIVE | st.just(0),
    stop=st.sampled_from(STOPS),
    class_weight=st.sampled_from([None, "balanced"]),
    worthwhile=st.dictionaries(st.sampled_from(["accuracy", "calibrated_nll", "decided_cost"]), POSITIVE),
    device=st.just("cpu"),
    **{name: st.integers(low, high) for name, (low, high) in COUNTS.items()},
)
SPECS = [
    "Focal()",
    "CrossEntropy() - 0.1*Entropy()",
    "ExpectedCost(costs)",
    "GammaCrossEntropy(gamma=Linear(0, 0.5))",
]


@dataclass(frozen=True)
class Own(RowLoss):
    """A loss that no text makes."""

    def per_row(self, row, /):
        return row.entropy


def own_model(features, classes):
    raise NotImplementedError


def plan(of=Settings(), candidates=(), source=None, out=None, given=None):  # noqa: B008
    return SimpleNamespace(
        settings=of,
        candidates=(read_objective("CrossEntropy()", MATRICES), *candidates),
        matrices=MATRICES,
        given={"noise": 0.0} if given is None else given,
        out=out,
        conditions=SimpleNamespace(
            dataset=SimpleNamespace(source=source), noise=np.array([[0.9, 0.1], [0.25, 0.75]])
        ),
    )


def loaded(folder: Path, text: str):
    path = folder / "study.toml"
    path.write_bytes(text.encode())
    return study.load(str(path))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("studies")


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(
    of=SETTINGS,
    specs=st.lists(st.sampled_from(SPECS), unique=True, min_size=1),
    names=st.lists(TEXT, unique=True, min_size=4, max_size=4) | st.none(),
    source=st.none()
    | st.fixed_dictionaries({"data": st.none() | TEXT, "drop": st.lists(TEXT)}, optional=COLUMNS),
    out=st.none() | TEXT.map(Path),
    noise=st.floats(0, 0.9) | TEXT | st.just("matrix"),
    costs=st.none() | TEXT | st.just(MATRICES["costs"]),
)
def test_a_study_is_read_as_it_was_written(folder, of, specs, names, source, out, noise, costs):
    """A study is read as it was written."""
    named = zip(specs, names or [None] * 4, strict=False)
    candidates = [read_objective(spec, MATRICES, name) for spec, name in named]
    how = {"noise": None if noise == "matrix" else noise} | ({} if costs is None else {"costs": costs})
    found = loaded(folder, study.dumps(plan(of, candidates, source, out, how)))
    assert Settings(**{each.name: found[each.name] for each in fields(Settings) if each.name in found}) == of
    wanted = None if source is None else {name: value for name, value in source.items() if value is not None}
    assert found["data"] == wanted
    assert found.get("out") == (None if out is None else str(out))
    assert found["noise"] == ([[0.9, 0.1], [0.25, 0.75]] if noise == "matrix" else noise)
    assert found.get("costs") == (costs.tolist() if isinstance(costs, np.ndarray) else costs)
    given = found["objectives"]
    again = given.items() if isinstance(given, dict) else [(None, text) for text in given]
    again = [read_objective(text, MATRICES, name) for name, text in again]
    assert [each.name for each in again] == [each.name for each in candidates]
    assert all(one.same(other) for one, other in zip(again, candidates, strict=True))


def test_what_a_study_cannot_hold_is_a_comment(folder):
    """What a study cannot store is a comment in its file."""
    candidates = [read_objective(Own(), MATRICES), read_objective(Focal(), MATRICES, "mine\n[data]")]
    text = study.dumps(plan(Settings(model=own_model), candidates))
    comments = [line for line in text.splitlines() if line.startswith("#")]
    assert comments[0].startswith("# A study of equipoise")  # by which a comparison knows its own file
    assert any("--model module:function" in line for line in comments)
    assert any("--data module:function" in line for line in comments)
    assert any("in Python only: 'Own()'" in line for line in comments)
    found = loaded(folder, text)
    assert "model" not in found
    assert found["model_name"] == "own_model"
    assert found["data"] is None
    assert found["objectives"]["mine\n[data]"] == "Focal(gamma=2.0)"
    with pytest.raises(ValueError, match="Own"):
        read_objective(found["objectives"]["Own()"], MATRICES)
    assert not any("Focal" in line or "mine" in line for line in comments)


@pytest.mark.parametrize("name", ["a\n[data]", '"', "\x7f\x00\x1b", "'''", "\udcff", "# x", "\\"])
def test_names_of_files_cannot_add_keys(folder, name):
    """Names of files cannot add keys to a study."""
    text = study.dumps(plan(out=Path(name), source={"data": name, "drop": (name,)}))
    if name == "\udcff":  # a name in bytes that are not UTF-8: written, and refused when read
        with pytest.raises(ValueError, match="data must be a study in TOML, got"):
            loaded(folder, text)
    else:
        found = loaded(folder, text)
        assert found["data"] == {"data": name, "drop": [name]}
        assert found["out"] == name


BAD = [
    ("folds = '3'", "folds must be an integer, got '3' in .*study.toml; correct the value there"),
    ("folds = true", "folds must be an integer, got True"),
    ("lr = '3'", "lr must be a number, got '3'"),
    ("objectives = 'Focal()'", r"objectives must be a list or a table, got 'Focal\(\)'"),
    ("noise = 1979-05-27", "noise must be a number or text or a list, got datetime"),
    ("worthwhile = 3", "worthwhile must be a table, got 3"),
    ("fold = 3", "study.toml must have the keys of a study, got 'fold'; did you mean folds?"),
    ("[data]\nfile = 'x'", "study.toml must have the keys of a study, got 'file'; "),
    ("[data]\ndrop = 'x'", "drop must be a list, got 'x'"),
    ("folds = ", "data must be a study in TOML, got .*study.toml.: Invalid value"),
    ("folds = 1\nfolds = 2", "data must be a study in TOML, got"),
    ("folds = " + "9" * 5000, "data must be a study in TOML, got"),
    ("folds = " + "[" * 50_000, "data must be a study in TOML, got"),
    ("a,b\n1,2", "data must be a study in TOML, got"),
]


@pytest.mark.parametrize(("text", "message"), BAD, ids=[text[:20] for text, _ in BAD])
def test_what_is_no_study_is_refused(folder, text, message):
    """An invalid study is refused."""
    with pytest.raises(ValueError, match=message):
        loaded(folder, text)


def test_a_file_that_is_not_there_or_no_text(tmp_path):
    """A missing study and one that is not text are refused."""
    with pytest.raises(ValueError, match=r"data must be a file, got 'no\.toml', which is not there"):
        study.load("no.toml")
    (tmp_path / "b.toml").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"data must be a study in TOML, got .*b.toml': .*utf-8"):
        study.load(str(tmp_path / "b.toml"))


@pytest.mark.slow
def test_the_command_runs_a_study_again(call, blobs, fast, tmp_path, monkeypatch):
    """The command runs a stored study again."""
    monkeypatch.chdir(tmp_path)
    words = ("compare", blobs, "--objective", "Focal()", "--noise", "0.2", "--folds", 3, "--out", "a", *fast)
    first = json.loads(call(*words, "--json").out)
    kept = tomllib.loads(Path("a/study.toml").read_text())
    assert kept["data"] == {"data": str(blobs)}
    assert (kept["objectives"], kept["noise"], kept["folds"]) == (["Focal()"], "0.2", 3)
    again = json.loads(call("compare", "a/study.toml", "--json").out)
    assert again["trials"] == {"all": 6, "reused": 6}
    assert again["objectives"] == first["objectives"]
    other = json.loads(call("compare", "a/study.toml", "--folds", 4, "--objective", "Brier()", "--json").out)
    assert [each["objective"] for each in other["objectives"]] == ["CrossEntropy()", "Brier()"]
    assert tomllib.loads(Path("a/study.toml").read_text())["folds"] == 4


def test_a_study_of_data_and_a_model_from_python_says_what_it_needs(call, tmp_path, monkeypatch):
    """A study with data or a model from Python says which options it needs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("studied.py").write_text(
        "import numpy as np\nfrom torch import nn\n"
        "def rows():\n    k = np.arange(60)\n    return np.c_[k % 2 + k % 3, k % 7].astype('f4'), k % 2\n"
        "def net(features, classes):\n    return nn.Linear(features, classes)\n"
    )
    import studied  # pyright: ignore[reportMissingImports]

    more = {"folds": 3, "epochs": 2, "jobs": 1, "progress": False, "out": "b", "model_name": "net"}
    compare([Focal()], *studied.rows(), model=studied.net, **more)
    words = ("compare", "b/study.toml", "--json")
    assert call(*words).err == (
        "equipoise: error: --model must be given with b/study.toml, got none; it was net\n"
    )
    said = call(*words, "--model", "studied:net")
    assert said.err.startswith(
        "equipoise: error: --data must be given with b/study.toml, got none; its data "
    )
    done = call(*words, "--model", "studied:net", "--data", "studied:rows")
    assert json.loads(done.out)["trials"] == {"all": 6, "reused": 6}


def test_the_keys_are_those_of_the_functions():
    """The keys of a study are parameters of `compare` and `read`."""
    from inspect import signature

    assert set(signature(compare).parameters) >= set(study._KINDS) - {"data"}
    assert next(iter(signature(read).parameters)) == "path"
