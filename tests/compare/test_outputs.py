import csv
import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest

from equipoise.compare import sentences
from equipoise.compare.outputs import COLUMNS, predictions, summary, table, write_table
from equipoise.compare.statistics import compare_paired
from equipoise.compare.verdict import judge
from support.made_result import DEFAULT, make, renamed

pytestmark = pytest.mark.slow  # whole comparisons

SMALL = {"folds": 3, "epochs": 5, "rows": 600}
FILES = {"report": "report.html"}


@pytest.fixture(scope="module")
def result():
    return make(DEFAULT[:4], **SMALL)


@pytest.fixture(scope="module")
def tuned():
    return make(DEFAULT[:1], tune=2, repeats=2, costs=True, **SMALL)


def written(result, path):
    write_table(result, path)
    with path.open() as lines:
        return list(csv.DictReader(lines))


def test_the_summary_is_json_and_has_its_keys(result):
    """The summary is valid JSON with all its keys."""
    said = json.loads(json.dumps(summary(result, judge(result), FILES), allow_nan=False))
    for key in (
        "verdict", "others", "winner", "code", "data", "noise", "warnings", "costs_from",
        "training", "versions", "trials", "files", "objectives",
    ):  # fmt: skip
        assert key in said, key  # as before
    assert "free_rule" not in said
    assert "command" not in said
    assert said["files"] == FILES
    verdict = judge(result)
    assert (said["call"], said["winner"]) == (verdict.call, verdict.winner.candidate.name)
    assert said["against"] == "plain cross entropy, best epoch, calibrated"
    assert (said["choice"], said["nll_of"]) == (list(verdict.choice), "clean")
    assert set(said["data"]["noise"]) == {"rate", "low", "high"}
    assert said["data"]["noise"]["rate"] == result.noise.rate
    assert (said["folds"], said["repeats"], said["splits"], said["one_test"]) == (3, 1, 3, False)
    assert said["decision_gain"] == ""
    assert said["worthwhile"] == {"accuracy": 0.005, "calibrated_nll": 0.01}


def test_an_objective_has_its_fit_and_its_measures(result):
    """Each objective in the summary has its epochs, calibration and measures."""
    said = summary(result, judge(result), FILES)
    for outcome, objective in zip(result.outcomes, said["objectives"], strict=True):
        assert objective["objective"] == outcome.candidate.name
        assert objective["epoch"] == [record.epoch for record in outcome.records]
        assert objective["temperature"] == [record.temperature for record in outcome.records]
        assert objective["noise"] == [record.noise for record in outcome.records]
        assert objective["settings"][0] == {
            "objective": outcome.candidate.name,
            "lr": 0.02,
            "weight_decay": 1e-4,
            "width": 64,
        }
        for name in ("accuracy", "nll", "calibrated_nll", "balanced_accuracy"):
            found = objective["measures"][name]
            assert found["mean"] == pytest.approx(np.mean(outcome.values[name]), rel=1e-12)
            assert found["values"] == outcome.values[name].tolist()
            if outcome is result.baseline:
                assert found["difference"] is None
            else:
                difference = outcome.differences[name]
                assert found["difference"]["low"] == difference.low
                assert found["difference"]["call"] == difference.call
    assert said["objectives"][1]["measures"]["accuracy"]["difference"]["call"] in (
        "better", "equal", "worse", "undecided",
    )  # fmt: skip
    assert said["objectives"][1]["measures"]["brier"]["difference"]["call"] is None


def test_what_is_never_compared_stands_apart(result):
    """The last epoch and the context models are apart from the objectives."""
    said = summary(result, judge(result), FILES)
    assert said["last_epoch"]["measures"]["accuracy"]["mean"] == result.last_epoch.mean("accuracy")
    assert said["last_epoch"]["measures"]["accuracy"]["difference"] is None
    assert said["last_epoch"]["epoch"] == [5, 5, 5]
    assert said["last_epoch"]["temperature"] == [1.0] * 3
    assert said["last_epoch"]["ece_by_chance"] == {"median": None, "95%": None}
    assert [each["name"] for each in said["context"]] == ["commonest class", "HistGradientBoostingClassifier"]
    assert said["context"][1]["measures"]["accuracy"]["mean"] == pytest.approx(0.953)
    assert said["context"][0]["measures"]["nll"] == {"mean": None, "values": [None] * 3}
    assert len(said["objectives"]) == len(result.outcomes)


def test_what_is_no_number_is_null(result):
    """Nan and infinity are null in JSON."""
    first = result.outcomes[1]
    records = tuple(replace(each, temperature=math.nan, noise=math.nan) for each in first.records)
    other = replace(first, records=records, values=dict(first.values) | {"nll": np.full(3, math.nan)})
    unknown = replace(result.noise, low=math.nan, high=math.nan)
    found = replace(result, outcomes=(result.baseline, other, *result.outcomes[2:]), noise=unknown)
    said = json.loads(json.dumps(summary(found, judge(result), FILES), allow_nan=False))
    assert said["objectives"][1]["temperature"] == [None] * 3
    assert said["objectives"][1]["measures"]["nll"]["mean"] is None
    assert said["data"]["noise"]["low"] is None


def test_the_table_has_a_row_for_each_split_and_measure(result, tmp_path):
    """The CSV has a row for each objective, split and measure."""
    rows = written(result, tmp_path / "results.csv")
    assert tuple(rows[0]) == COLUMNS == (
        "objective", "repeat", "split", "measure", "value", "better", "predictions",
    )  # fmt: skip
    names = [*(each.candidate.name for each in result.outcomes), "CrossEntropy(), last epoch, not calibrated"]
    names += [each.name for each in result.context]
    assert len(rows) == len(names) * 3 * len(result.plan.measures)
    assert list(dict.fromkeys(row["objective"] for row in rows)) == names
    outcome = result.outcomes[2]
    kept = {
        (int(row["split"]), row["measure"]): row for row in rows if row["objective"] == outcome.candidate.name
    }
    for name, values in outcome.values.items():
        for split, value in enumerate(values):
            assert float(kept[split, name]["value"]) == value
    assert kept[0, "accuracy"]["better"] == "higher"
    assert kept[0, "accuracy"]["predictions"] == "trials/GeneralizedCrossEntropy(q=0.7)-0-0.npz"
    assert not any(row["value"] == "nan" for row in rows)


def test_the_table_is_a_data_frame_and_has_missing_values_as_such(result):
    """`table` returns a data frame with nan for missing values."""
    found = table(result)
    assert tuple(found.columns) == COLUMNS
    assert found["value"].dtype == float
    accuracy = found.query("objective == @DEFAULT[1] and measure == 'accuracy'")
    assert accuracy["value"].mean() == pytest.approx(result.outcomes[2].mean("accuracy"))
    assert found.query("objective == 'commonest class' and measure == 'nll'")["value"].isna().all()


FORMULAS = ["=cmd()", "+1", "-1", "@x", "\tx", "[red]", "<script>", "\x1b[31m", "two\nlines"]


@pytest.mark.parametrize("name", FORMULAS)
def test_a_name_is_text_in_a_spreadsheet_and_in_json(result, name, tmp_path):
    """A name that looks like a formula is text in CSV and in JSON."""
    result = renamed(result, name)
    names = {row["objective"] for row in written(result, tmp_path / "results.csv")}
    assert (f"'{name}" if name[0] in "=+-@\t" else name) in names
    assert name in set(table(result)["objective"])
    said = json.loads(json.dumps(summary(result, judge(result), {})))
    assert said["objectives"][1]["objective"] == said["data"]["name"] == said["data"]["classes"][0] == name
    assert {f"p_{name}", f"calibrated_p_{name}"} <= set(predictions(result).columns)


def test_predictions_have_a_row_for_each_candidate_split_and_test_row(result):
    """The predictions have a row for each candidate, split and test row."""
    found = predictions(result)
    assert list(found.columns[:7]) == ["candidate", "repeat", "split", "row", "place", "target", "predicted"]
    assert list(found.columns[7:]) == [f"{kind}p_{k}" for kind in ("", "calibrated_") for k in range(10)]
    assert len(found) == 600 * len(result.outcomes)
    assert list(found["candidate"].unique()) == [each.candidate.name for each in result.outcomes]
    for _, part in found.groupby("candidate"):
        assert sorted(part["row"]) == list(range(600))  # each row is a test row once
    hits = (found["target"] == found["predicted"]).groupby([found["candidate"], found["split"]]).mean()
    for outcome in result.outcomes:
        np.testing.assert_allclose(hits[outcome.candidate.name], outcome.values["accuracy"])
    np.testing.assert_allclose(found.filter(regex="^p_").sum(axis=1), 1.0)
    np.testing.assert_allclose(found.filter(regex="^calibrated_p_").sum(axis=1), 1.0)
    first = found.iloc[0]
    dataset = result.plan.conditions.dataset
    assert first["place"] == dataset.place(first["row"])
    assert first["target"] == dataset.classes[dataset.target[first["row"]]]


def test_predictions_of_repeats_and_of_training_that_diverged():
    """The predictions have their repeats, and nan for diverged trainings."""
    found = predictions(make(DEFAULT[:1], repeats=2, diverged=DEFAULT[0], **SMALL))
    assert found.groupby("split")["repeat"].unique().map(list).tolist() == [[0]] * 3 + [[1]] * 3
    lost = found.query("candidate == @DEFAULT[0] and split < 2")
    assert lost["predicted"].isna().all()
    assert lost["p_0"].isna().all()
    assert found.query("split >= 2")["predicted"].notna().all()


def test_a_model_of_ones_own_is_named_in_json(result):
    """A model of the user's own is named in JSON."""
    settings = replace(result.plan.settings, model=written)
    own = replace(result, plan=replace(result.plan, settings=settings))
    assert json.loads(json.dumps(summary(own, judge(own), {})))["training"]["model"] == "written"


def test_predictions_are_those_of_the_setting_and_repeat_of_a_split(tuned, tmp_path):
    """The CSV names the file of predictions of each repeat and split."""
    rows = written(tuned, tmp_path / "results.csv")
    found = {
        (row["repeat"], row["split"]): row["predictions"]
        for row in rows
        if row["objective"] == DEFAULT[0] and row["measure"] == "accuracy"
    }
    assert found == {
        ("0", "0"): f"trials/{DEFAULT[0]}-0-0.npz",
        ("0", "1"): f"trials/{DEFAULT[0]}-0-1.npz",
        ("0", "2"): f"trials/{DEFAULT[0]}-0-0.npz",
        ("1", "3"): f"trials/{DEFAULT[0]}-1-1.npz",
        ("1", "4"): f"trials/{DEFAULT[0]}-1-0.npz",
        ("1", "5"): f"trials/{DEFAULT[0]}-1-1.npz",
    }
    context = [row for row in rows if row["objective"] == "commonest class"]
    assert {row["repeat"] for row in context} == {"0"}  # trained in the first repeat alone
    assert {row["predictions"] for row in context} == {""}


def test_the_gain_of_decisions_is_that_of_plain_cross_entropy(tuned):
    """The gain of decisions by cost is that of plain cross entropy."""
    before, after, difference = sentences.decision_gain(tuned)
    values = tuned.baseline.values
    assert (before, after) == (values["cost"].mean(), values["decided_cost"].mean())
    [same] = compare_paired(
        [values["decided_cost"]], values["cost"], "lower", test_ratio=tuned.plan.test_ratio, repeats=2
    )
    assert difference == same
    words = sentences.decision_gain_words(tuned)
    assert f"{before:.3f} with its likeliest class and {after:.3f}" in words
    assert summary(tuned, judge(tuned), FILES)["decision_gain"] == words


def test_the_gain_of_decisions_on_one_test_part_is_of_its_rows():
    """On one test part, the interval of the gain is over its rows."""
    result = make(DEFAULT[:1], one_test=True, repeats=2, costs=True, epochs=5, rows=600)
    before, after, difference = sentences.decision_gain(result)
    assert difference.mean == pytest.approx(after - before, abs=1e-12)
    assert difference.low < difference.mean < difference.high


@pytest.mark.parametrize(
    ("text", "proper"),
    [
        ("CrossEntropy()", True),
        ("Brier()", True),
        ("CrossEntropy() + 0.5 * Brier()", True),
        ("CrossEntropy(label_smoothing=0.1)", False),
        ("GammaCrossEntropy(gamma=0.5)", False),
        ("GammaCrossEntropy(gamma=Linear(0, 0.5))", False),  # its loss starts as cross entropy
        ("CrossEntropy() - 0.1 * Entropy()", False),
        ("CrossEntropy() + 0.1 * LogitRange(width=8.0)", False),
    ],
)
def test_what_is_proper(text, proper):
    """A candidate is called proper where its loss is, whatever the spelling."""
    [candidate] = (
        make((text,), folds=2, epochs=1, rows=200).plan.candidates[1:]
        if text != "CrossEntropy()"
        else (make(DEFAULT[:1], folds=2, epochs=1, rows=200).plan.candidates[0],)
    )
    assert sentences.is_proper(candidate) is proper


def test_sharpness_is_told_from_noise(result):
    """A candidate whose fit finds more noise than the data have is listed as sharp."""
    clean = replace(result, noise=replace(result.noise, rate=0.05, low=0.02, high=0.08))
    names = [each.candidate.name for each in sentences.sharper_than_the_data(clean)]
    assert names == list(DEFAULT[:4])
    assert sentences.sharper_than_the_data(replace(result, noise=replace(result.noise, high=0.9))) == []


def test_words_of_the_noise(result):
    """The sentence about noise has the rate, its interval and the flipped labels."""
    assert sentences.found_words(result).startswith(
        f"wrong labels found: {100 * result.noise.rate:.1f} % (95 %"
    )
    assert sentences.found_words(result).endswith("including flipped ones")
    unknown = replace(result, noise=replace(result.noise, rate=math.nan))
    assert sentences.found_words(unknown) == "wrong labels found: unknown"
    assert "(noise=0.4)" in sentences.noise_words(result)
    records = tuple(replace(each, flipped=0.004) for each in result.baseline.records)
    few = replace(result, outcomes=(replace(result.baseline, records=records), *result.outcomes[1:]))
    assert sentences.noise_words(few).startswith("0.4 % of the training labels flipped")


def test_costs_in_a_large_unit_are_not_shown_as_zero():
    """Costs in a large unit are not rounded to zero in sentences."""
    words = sentences.decision_gain_words(make(DEFAULT[:1], costs=True, scale=1e-5, **SMALL))
    costs = re.findall(r"cross entropy costs (\S+) with .* and (\S+) with", words)
    assert all(0 < float(cost) < 1e-3 for cost in costs[0])
