import csv
import inspect
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import equipoise
from equipoise.compare import compare, comparison

pytestmark = pytest.mark.slow  # whole comparisons

GAMMA = ("--objective", "GammaCrossEntropy(gamma=0.5)")
BESIDE = {"CrossEntropy(), last epoch, not calibrated", "commonest class", "HistGradientBoostingClassifier"}


def test_a_comparison_leaves_a_report_a_table_and_predictions(call, blobs, fast, tmp_path):
    """A comparison writes a report, a table, predictions and a study."""
    out = tmp_path / "deep" / "out"
    said = call("compare", blobs, *GAMMA, *fast, "--folds", 3, "--out", out)
    assert said.code == 0
    assert said.err.splitlines()[0] == "blobs.npz: 150 rows, 4 columns, 3 classes"
    assert "2 objectives x 3 splits = 6 trainings" in said.err
    assert said.out.splitlines()[-1] == f"report: {out / 'report.html'}"
    assert {path.name for path in out.iterdir()} == {"report.html", "results.csv", "study.toml", "trials"}
    with (out / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    specs = ("CrossEntropy()", "GammaCrossEntropy(gamma=0.5)")
    own = [row for row in rows if row["objective"] in specs]
    assert {(row["objective"], row["repeat"], row["split"]) for row in own} == {
        (spec, "0", str(split)) for spec in specs for split in range(3)
    }
    assert len(own) == 6 * 10
    assert {row["objective"] for row in rows if row not in own} == BESIDE
    for row in own:
        with np.load(out / row["predictions"]) as kept:
            tested = kept["split"] == int(row["split"])
            hits = kept["logits"][tested].argmax(axis=1) == kept["target"][tested]
        if row["measure"] == "accuracy":
            assert float(row["value"]) == hits.mean()


def test_json_is_all_that_is_printed_and_plain_cross_entropy_always_runs(call, blobs, fast, tmp_path):
    """With --json only JSON is printed, and plain cross entropy is always a candidate."""
    words = (
        "compare",
        blobs,
        "--objective",
        "Focal( 2 )",
        *fast,
        "--folds",
        2,
        "--out",
        tmp_path / "a",
        "--json",
    )
    said = call(*words)
    assert said.err == ""
    summary = json.loads(said.out)
    assert [each["objective"] for each in summary["objectives"]] == ["CrossEntropy()", "Focal(2)"]
    assert summary["winner"] == "CrossEntropy()"
    assert summary["verdict"].startswith(
        "Undecided, so keep plain cross entropy, best epoch, calibrated: 2 p"
    )
    assert (summary["call"], summary["choice"]) == ("undecided", [])
    assert summary["against"] == "plain cross entropy, best epoch, calibrated"
    assert summary["nll_of"] == "observed"
    assert summary["data"]["noise"].keys() == {"rate", "low", "high"}
    measures = summary["objectives"][1]["measures"]
    assert measures["calibrated_nll"]["difference"]["call"] == "undecided"
    assert measures["calibrated_nll"]["difference"]["low"] is None
    assert measures["ece"]["difference"]["call"] is None
    for name in ("accuracy", "nll", "calibrated_nll", "balanced_accuracy"):
        assert len(measures[name]["values"]) == 2
        assert measures[name]["mean"] == pytest.approx(np.mean(measures[name]["values"]))
    for name in ("epoch", "temperature", "noise", "settings"):
        assert len(summary["objectives"][1][name]) == 2
    assert summary["trials"] == {"all": 4, "reused": 0}
    assert json.loads(call(*words).out)["trials"] == {"all": 4, "reused": 4}
    named = call(*words, "--objective", "CrossEntropy()", "--objective", "CrossEntropy(label_smoothing=0)")
    assert [each["objective"] for each in json.loads(named.out)["objectives"]] == [
        "CrossEntropy()",
        "Focal(2)",
    ]


def test_a_mixed_table_with_missing_values(call, fast, tmp_path):
    """A table with numbers, words and missing values is compared."""
    datasets = pytest.importorskip("statsmodels.datasets", reason="statsmodels is not installed")
    frame = datasets.anes96.load_pandas().data
    generator = np.random.default_rng(0)
    frame["employed"] = np.where(generator.random(len(frame)) < 0.6, "yes", "no")
    frame.loc[generator.random(len(frame)) < 0.1, "employed"] = None
    frame.loc[generator.random(len(frame)) < 0.1, "educ"] = np.nan
    frame.loc[:4, "PID"] = np.nan
    frame.to_csv(tmp_path / "anes96.csv", index=False)
    words = (
        "--target",
        "PID",
        "--drop",
        "popul",
        "--folds",
        3,
        "--model",
        "linear",
        "--out",
        tmp_path / "out",
    )
    said = call("compare", tmp_path / "anes96.csv", *GAMMA, *fast, *words)
    assert said.code == 0
    assert "anes96.csv: 939 rows, 10 columns, 7 classes" in said.err
    assert "note: 5 rows without a value in PID were left out" in said.err


@pytest.mark.slow
def test_costs_and_similarity_add_their_measures_candidates_and_matrices(call, blobs, fast, tmp_path):
    """Costs and a similarity add measures, candidates and matrix files."""
    np.savetxt(tmp_path / "costs.csv", [[0, 1, 9], [1, 0, 1], [1, 1, 0]], delimiter=",")
    np.savetxt(tmp_path / "alike.csv", [[0.8, 0.2, 0], [0.2, 0.8, 0], [0, 0, 1]], delimiter=",")
    words = ("compare", blobs, *fast, "--folds", 2, "--json", "--out", tmp_path / "out")
    both = json.loads(
        call(*words, "--costs", tmp_path / "costs.csv", "--similarity", tmp_path / "alike.csv").out
    )
    specs = [each["objective"] for each in both["objectives"]]
    assert specs[-3:] == [
        "SimilarityCrossEntropy(similarity)",
        "ExpectedCost(costs)",
        "PairwiseCrossEntropy(costs)",
    ]
    assert len(specs) == 1 + 6
    assert both["costs_from"] == "costs"
    assert {"cost", "decided_cost", "severity"} <= both["objectives"][0]["measures"].keys()
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "trials" / "costs.npy")[0], [0, 1, 9])
    alone = json.loads(call(*words, *GAMMA, "--similarity", tmp_path / "alike.csv").out)
    assert alone["costs_from"] == "similarity"
    assert {"cost", "decided_cost", "severity"} <= alone["objectives"][0]["measures"].keys()
    neither = json.loads(call(*words, *GAMMA).out)
    assert "cost" not in neither["objectives"][0]["measures"]
    plain = [each["objectives"][0]["measures"] for each in (both, alone, neither)]
    assert plain[0]["cost"] != plain[1]["cost"]
    assert plain[0]["nll"] == plain[1]["nll"] == plain[2]["nll"]


BAD = [
    (["nowhere.csv", "--target", "y"], "data must be a file, got 'nowhere.csv', which is not there; check"),
    (["table.csv"], "--target must name the column with the classes, got none; give one of "),
    (["table.csv", "--target", "lable"], "--target must be a column of table.csv, got 'lable'; did you mean"),
    (["single.csv", "--target", "label"], "data must have two classes or more, got only 'x' in single.csv"),
    (["small.csv", "--target", "label"], "every class must have 5 rows or more, got 1 of class 'rare'"),
    (["infinite.csv", "--target", "label"], "features must be finite or missing, got infinity in line 62"),
    (["missing.npz"], "X must be finite in float32, got nan in row 4 of missing.npz, col"),
    (["--objective", "Focal("], "objective must be Python such as CrossEntropy() + 0.1 * Entropy(), got"),
    (["--objective", "Fokal()"], "objective must use a known name, got 'Fokal'; did you mean Focal?"),
    (["--objective", "Focal(gama=1)"], "Focal must have only its own options, got 'gama'; did you mean"),
    (["--objective", "GammaCrossEntropy(gamma=2)"], "GammaCrossEntropy: gamma must be in [0, 1], got 2"),
    (["--objective", "FlooredCrossEntropy(floor=0.5)"], "FlooredCrossEntropy(floor=0.5) must be computable"),
    (["--objective", "ExpectedCost([[0, 1], [1, 0]])"], "ExpectedCost([[0, 1], [1, 0]]) must be computable"),
    (["--objective", "Reweighted(Focal())"], "Reweighted(Focal()) must be computable for 10 classes, got an"),
    (["--objective", "ExpectedCost(costs)"], "--objective must name matrices that are given, got 'ExpectedC"),
    (["--objective", "CrossEntropy()"], "--objective must have a candidate beside plain cross entropy, got "),
    (["--out", "table.csv/out"], "--out must be a folder that can be written, got 'table.csv/out'; not a"),
    (["--costs", "small_costs.csv"], "--costs must be 10 x 10, a row and a column for each class, got 2 x 2"),
    (["--costs", "words.csv"], "--costs must hold numbers, got 'a' in words.csv"),
    (["--similarity", "nowhere.csv"], "--similarity must be groups such as 'a, b | c' or a CSV, TOML or NPY"),
    (["--noise", "1.5"], "--noise must be a share in [0, 1), got 1.5"),
    (["--noise", "lots"], "--noise must be a share in [0, 1) or a matrix file, got 'lots', which is"),
    (["--folds", "1"], "--folds must be an integer from 2 to 1000000, got 1; the default is 10"),
    (["--repeats", "0"], "--repeats must be an integer from 1 to 1000, got 0; the default is 1"),
    (["--tune", "-1"], "--tune must be an integer from 0 to 1000, got -1; the default is 0"),
    (["--stop", "never"], "--stop must be one of calibrated, own, accuracy, nll, none, got 'never'"),
    (["--patience", "0"], "--patience must be an integer from 1 to 1000000000, got 0"),
    (["--class-weight", "even"], "--class-weight must be 'balanced' or None, got 'even'"),
    (["--worthwhile", "accuracy"], "--worthwhile must be a measure and a number such as accuracy=0.005, got"),
    (["--worthwhile", "brier=1"], "--worthwhile must give accuracy, calibrated_nll, decided_cost a number o"),
    (["--worthwhile", "accuracy=-1"], "--worthwhile must give accuracy, calibrated_nll, decided_cost a numb"),
    (["--epochs", "0"], "--epochs must be an integer from 1 to 1000000, got 0; the default is 100"),
    (["--batch-size", "0"], "--batch-size must be an integer from 1 to 1000000000, got 0"),
    (["--lr", "nan"], "--lr must be a finite number above 0, got nan; the default is 0.003"),
    (["--weight-decay", "-1"], "--weight-decay must be a finite number of 0 or more, got -1.0"),
    (["--model", "cnn"], "--model must be 'mlp', 'linear' or a function from (features, classes) to an"),
    (["--width", "100000000000"], "--width must be an integer from 1 to 1000000000, got 100000000000"),
    (["--batch-size", "9" * 23], "--batch-size must be an integer from 1 to 1000000000, got 9999999999"),
    (["--lr", "-0.1"], "--lr must be a finite number above 0, got -0.1"),
    (["--objective", "-1*Focal("], "objective must be Python such as CrossEntropy() + 0.1 * Entropy(), got"),
    (["--folds", "many"], "--folds must be an integer, got 'many'; see equipoise compare --help"),
    (["--objektive", "x"], "unrec"),
]  # fmt: skip


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [f"{k},{k % 7},{'xy'[k % 2]}" for k in range(60)]
    Path("table.csv").write_text("\n".join(["a,b,label", *rows]))
    Path("single.csv").write_text("\n".join(["a,b,label", *(row[:-1] + "x" for row in rows)]))
    Path("small.csv").write_text("\n".join(["a,b,label", *rows, "1,2,rare"]))
    Path("infinite.csv").write_text("\n".join(["a,b,label", *rows, "inf,2,x"]))
    features = np.ones((60, 2))
    features[3, 1] = np.nan
    np.savez("missing.npz", X=features, y=np.arange(60) % 2)
    Path("small_costs.csv").write_text("0,1\n1,0\n")
    Path("words.csv").write_text("\n".join([",".join("abcdefghij")] * 10))
    return tmp_path


@pytest.mark.parametrize(("words", "message"), BAD, ids=[" ".join(words) for words, _ in BAD])
def test_bad_input_is_refused_in_one_line_and_leaves_nothing(call, workplace, words, message):
    """Invalid input is refused in one line, and no file is written."""
    before = sorted(workplace.rglob("*"))
    said = call("compare", *words)
    assert said.code == 2
    assert said.out == ""
    assert said.err.startswith(f"equipoise: error: {message}")
    assert said.err.count("\n") == 1
    assert said.err.endswith("\n")
    assert sorted(workplace.rglob("*")) == before


def test_control_good_input_in_the_same_place_is_taken(call, workplace, fast):
    """Valid input in the same folder is accepted."""
    said = call("compare", "table.csv", "--target", "label", *GAMMA, *fast, "--folds", 2)
    assert said.code == 0
    assert (workplace / "comparison" / "report.html").exists()


@pytest.mark.parametrize("words", [(), ("compere",), ("compare", "a", "b")])
def test_a_wrong_command_is_refused_in_one_line(call, words):
    """An invalid command is refused in one line with exit code 2."""
    said = call(*words)
    assert said.code == 2
    assert said.err.startswith("equipoise: error: ")
    assert said.err.count("\n") == 1


def test_nothing_to_compare_with_is_refused(call, blobs, fast, tmp_path):
    """If plain cross entropy diverges, the comparison is refused."""
    said = call(
        "compare", blobs, *GAMMA, *fast, "--lr", "1e30", "--folds", 2, "--quiet", "--out", tmp_path / "out"
    )
    assert said.code == 2
    assert said.err == (
        "equipoise: error: plain cross entropy must have finite logits, got infinite ones; "
        "lower lr from 1e+30\n"
    )
    assert not (tmp_path / "out" / "report.html").exists()


def test_a_candidate_that_diverges_is_said_to(call, blobs, fast, tmp_path):
    """A candidate that diverges is reported as diverged."""
    words = (
        "--objective",
        "CrossEntropy() - 1e30 * LogitRange(width=1)",
        "--folds",
        3,
        "--json",
        "--out",
        tmp_path,
    )
    summary = json.loads(call("compare", blobs, *fast, *words, "--lr", "1e5").out)
    candidate = summary["objectives"][1]
    if candidate["diverged"]:
        assert "diverged in" in summary["others"]
        assert candidate["measures"]["nll"]["difference"]["call"] == "undecided"
    assert summary["winner"] == "CrossEntropy()"


def test_a_missing_extra_is_said(call, monkeypatch):
    """A missing optional library is named with the command that installs it."""
    find = comparison.find_spec
    monkeypatch.setattr(comparison, "find_spec", lambda name: None if name == "sklearn" else find(name))
    said = call("compare")
    assert said.code == 2
    assert said.err == "equipoise: error: compare needs scikit-learn; pip install 'equipoise[compare]'\n"


def test_version(call):
    """`--version` prints the name and the version of the package, and nothing else."""
    assert call("--version").out == f"equipoise {equipoise.__version__}\n"


HEAVY = ("sklearn", "scipy", "pandas", "joblib", "matplotlib", "jinja2", "rich", "tomli_w", "optuna")
_IMPORTS = """
import sys
from equipoise.cli import main
try:
    main({words})
except SystemExit:
    pass
print("\\n" + " ".join(set(sys.modules)))
"""


def imported(words, environment):
    program = [sys.executable, "-c", _IMPORTS.format(words=words)]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.splitlines()[-1].split()}


@pytest.mark.slow
def test_help_imports_nothing_heavy_and_a_comparison_does(environment):
    """--help imports no heavy library; a comparison does."""
    assert imported(["compare", "--help"], environment).isdisjoint(HEAVY)
    assert {"sklearn", "pandas"} <= imported(["compare", "--objective", "Fokal()"], environment)


def test_defaults_that_help_shows_are_those_of_the_function(call):
    """The defaults in the help are those of `compare`."""
    said = " ".join(call("compare", "--help").out.split())
    for name, each in inspect.signature(compare).parameters.items():
        if isinstance(each.default, int | float | str) and name != "progress":
            assert f"default: {each.default}" in said.partition(f"--{name.replace('_', '-')} ")[2], name


def test_warnings_are_lines_on_stderr_before_training(call, tmp_path, fast):
    """Warnings about the data are printed to stderr before training."""
    rows = [f"{k},{k % 7},{'xy'[k % 2]}" for k in range(60)]
    (tmp_path / "t.csv").write_text("\n".join(["id,b,label", *rows]))
    words = (
        "compare",
        tmp_path / "t.csv",
        "--target",
        "label",
        "--folds",
        2,
        "--out",
        tmp_path / "o",
        *GAMMA,
    )
    said = call(*words, *fast, "--json")
    assert said.code == 0
    assert said.err.startswith("equipoise: warning: 'id' may be an identifier")
    assert all(line.startswith("equipoise: warning: ") for line in said.err.splitlines())
    json.loads(said.out)
    shown = call(*words, *fast)
    assert shown.err.index("warning") < shown.err.index("trainings")
    assert "trainings" not in call(*words, *fast, "--quiet").err
