"""From what trainings kept to differences: settings chosen on validation rows, rows pooled, noise found."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import pytest
from torch import Tensor

from equipoise.compare.arrays import from_arrays
from equipoise.compare.collect import collect
from equipoise.compare.plan import prepare
from equipoise.compare.runner import run_missing
from equipoise.compare.settings import Settings
from equipoise.compare.store import digest
from equipoise.losses import CrossEntropy, RowLoss
from equipoise.statistics import RowStatistics

pytestmark = pytest.mark.slow  # whole comparisons

GAMMA = ("GammaCrossEntropy(gamma=0.5)",)
TRAINING = {"epochs": 6, "width": 8, "batch_size": 32}


def planned(arrays, out=None, objectives=GAMMA, *, costs=None, noise=0.0, time=None, **options):
    """A plan for the arrays of an NPZ file, or for a pair of them."""
    if isinstance(arrays, Path):
        with np.load(arrays) as kept:
            arrays = kept["X"], kept["y"]
    settings = Settings(**({"folds": 3} | TRAINING | options))
    dataset = from_arrays(*arrays, time=time)
    return prepare(dataset, objectives, settings, costs=costs, noise=noise, out=out)


def execute(plan, watch=None):
    return collect(plan, run_missing(plan.tasks, plan.store, 1, watch))


@pytest.fixture(scope="module")
def tuned(blobs, tmp_path_factory):
    plan = planned(blobs, tmp_path_factory.mktemp("tuned"), tune=4, noise=0.2)
    return plan, execute(plan)


def test_every_split_has_the_setting_that_its_validation_rows_score_best(tuned):
    """Each split uses the setting with the best score on its validation rows."""
    plan, result = tuned
    for of, outcome in enumerate(result.outcomes):
        units = [unit for unit in plan.units if unit.of == of]
        kept = [plan.store.read(unit.key)["records"] for unit in units]
        for place, record in enumerate(outcome.records):
            scores = [each[place]["score"] for each in kept]
            assert record.score == min(scores)
            best = kept[int(np.argmin(scores))][place]
            assert dataclasses.asdict(record) == best
            assert outcome.values["accuracy"][place] == best["measures"]["accuracy"]
    settings = [outcome.records[0].setting for outcome in result.outcomes]
    assert len({unit.setting.objective for unit in plan.units if unit.of == 1}) == 4
    assert settings[0].objective.startswith("CrossEntropy(")


def rewritten(plan, change):
    """Change all records on disk, with their digests made good."""
    for unit in plan.units:
        path = plan.out / "trials" / f"{unit.key}.json"
        body = json.loads(path.read_text())
        body.pop("digest")
        for record in body["record"]["records"]:
            change(record)
        path.write_text(json.dumps(body | {"digest": digest(body)}))


def chosen(result):
    return [[record.setting for record in outcome.records] for outcome in result.outcomes]


def test_measures_of_test_rows_choose_no_setting(blobs, tmp_path):
    """The choice of a setting does not depend on measures of test rows."""
    plan = planned(blobs, tmp_path, tune=4)
    before = chosen(execute(plan))
    generator = np.random.default_rng(0)

    def other_test_rows(record):
        record["measures"] = {name: generator.random() for name in record["measures"]}

    rewritten(plan, other_test_rows)
    assert chosen(execute(plan)) == before

    def leak(record):  # the control: settings chosen by what the test rows say
        record["score"] = record["measures"]["nll"]

    rewritten(plan, leak)
    assert chosen(execute(plan)) != before


def test_pooled_rows_are_each_row_once_by_the_model_that_has_not_seen_it(tuned):
    """Each row is pooled once, with the prediction of a model that was not trained on it."""
    plan, result = tuned
    for outcome in (*result.outcomes, result.last_epoch):
        pooled = outcome.pooled
        np.testing.assert_array_equal(np.sort(pooled.rows), np.arange(150))
        for place, split in enumerate(plan.conditions.splits):
            own = pooled.split == place
            np.testing.assert_array_equal(np.sort(pooled.rows[own]), np.sort(split.test))
            hits = pooled.predictions.likeliest[own] == pooled.predictions.target[own]
            assert outcome.values["accuracy"][place] == pytest.approx(hits.mean())


def test_the_last_epoch_is_a_row_of_its_own(tuned):
    """The last epoch is a row of its own, without calibration and differences."""
    _, result = tuned
    assert result.last_epoch.differences == {}
    raw = result.last_epoch.predictions
    assert raw.probs is raw.calibrated or np.array_equal(raw.probs, raw.calibrated)
    assert not np.array_equal(raw.probs, result.baseline.predictions.probs)


def test_differences_are_from_the_baseline_and_only_deciding_measures_are_called(tuned):
    """Differences are taken from the baseline, and only deciding measures have calls."""
    plan, result = tuned
    candidate = result.outcomes[1]
    assert plan.deciding == ("accuracy", "calibrated_nll")
    for name, found in candidate.differences.items():
        apart = candidate.values[name] - result.baseline.values[name]
        assert found.mean == pytest.approx(apart.mean())
        assert (found.call is not None) == (name in plan.deciding)
    assert result.baseline.differences == {}
    assert {each.name for each in result.context} >= {"commonest class"}
    assert all(len(each.values["accuracy"]) == 3 for each in result.context)


@pytest.mark.slow
def test_the_noise_is_that_of_the_data_and_of_the_command(blobs):
    """The noise found includes that of the data and the labels flipped by the command."""
    with np.load(blobs) as kept:
        features, labels = np.tile(kept["X"], (8, 1)), np.tile(kept["y"], 8)
    features = features + np.random.default_rng(1).normal(size=features.shape) * 0.05
    features[:, :3] *= 3  # classes far apart
    found = [
        execute(planned((features, labels), noise=noise, epochs=30, width=16, batch_size=128))
        for noise in (0.0, 0.3)
    ]
    clean, noisy = (result.noise for result in found)
    assert clean.low <= clean.rate <= clean.high < 0.2
    assert noisy.low < 0.3 < noisy.high < 0.4
    assert noisy.rate > clean.rate + 0.1
    assert [result.nll_of for result in found] == ["observed", "clean"]


def test_one_test_part_is_resampled_by_rows_and_averaged_over_repeats():
    """One test part is resampled by rows, with scores averaged over repeats."""
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 60)
    generator.shuffle(labels)
    features = generator.normal(size=(180, 4)) + 1.5 * np.eye(3, 4)[labels]
    plan = planned((features, labels), time=np.arange(180.0), repeats=3)
    result = execute(plan)
    assert result.one_test
    assert len(plan.conditions.splits) == 3
    pooled = result.baseline.pooled
    np.testing.assert_array_equal(np.unique(pooled.rows), np.arange(144, 180))
    assert len(pooled.rows) == 3 * 36
    candidate = result.outcomes[1]
    for name in ("accuracy", "calibrated_nll", "nll"):
        found = candidate.differences[name]
        apart = candidate.values[name] - result.baseline.values[name]
        assert found.mean == pytest.approx(apart.mean())
        assert found.low <= found.mean <= found.high
    assert np.isnan(candidate.differences["balanced_accuracy"].low)
    assert "one test part" in candidate.differences["balanced_accuracy"].reason


@final
@dataclass(frozen=True)
class SameAsBaseline(RowLoss):
    """Cross entropy under another name."""

    number: int = 0

    def per_row(self, row: RowStatistics, /) -> Tensor:
        return CrossEntropy().per_row(row)


def test_an_objective_against_itself_is_equal_with_a_difference_of_exactly_zero(blobs):
    """Two equal objectives have a difference of exactly zero and are equal."""
    same = (SameAsBaseline(0), SameAsBaseline(1))
    result = execute(planned(blobs, objectives=same, epochs=40, patience=3))
    assert len({record.epoch for record in result.baseline.records}) > 1  # copies left at different times
    for outcome in result.outcomes[1:]:
        for found in outcome.differences.values():
            assert (found.mean, found.low, found.high) == (0, 0, 0)
        assert {outcome.call(name) for name in result.plan.deciding} == {"equal"}


def test_a_setting_that_two_candidates_share_is_trained_once(blobs):
    """A setting that two candidates share is trained once."""
    both = ("GammaCrossEntropy(gamma=0.5)", "GammaCrossEntropy(gamma=0.2)")
    plan = planned(blobs, objectives=both, tune=3)
    assert plan.trials == 3 * (3 * 3 - 2)  # two draws of the second candidate are those of the first
    seen = []
    result = execute(plan, lambda done, total: seen.append((done, total)))
    assert (seen[0], seen[-1]) == ((0, 21), (21, 21))
    assert result.reused == 0
    assert [len(outcome.records) for outcome in result.outcomes] == [3, 3, 3]


def test_a_measure_that_no_split_has_is_nan_without_a_warning():
    """Where nothing is mistaken there are no mistakes to be severe; warnings are errors here."""
    labels = np.repeat([0, 1, 2], 20)
    rows = np.eye(3)[labels] + 1e-3 * np.arange(60)[:, None]
    result = execute(planned((rows, labels), costs="0 | 1, 2", epochs=30, batch_size=16, lr=0.1))
    assert result.baseline.mean("accuracy") == 1
    assert np.isnan(result.baseline.mean("severity"))
    assert result.outcomes[1].call("decided_cost") == "equal"


def test_an_objective_that_is_spelled_twice_is_one_candidate(blobs):
    """Two spellings of an objective are one candidate."""
    twice = (
        "Focal()", "Focal(gamma=2)", "CrossEntropy(label_smoothing=0)", "1 * CrossEntropy()",
        "Focal(gamma=Linear(0, 2))",
    )  # fmt: skip
    plan = planned(blobs, objectives=twice)
    assert len(plan.candidates) == 3
    assert [bool(each.schedules) for each in plan.candidates] == [False, False, True]


def test_splits_of_an_objective_that_trains_alone_are_put_together(blobs):
    """The splits of an objective that cannot share a network are collected in order."""
    result = execute(planned(blobs, objectives=("CrossEntropy() + 0.1 * Balance()",)))
    assert [record.split for record in result.outcomes[1].records] == [0, 1, 2]
    np.testing.assert_array_equal(np.sort(result.outcomes[1].pooled.rows), np.arange(150))
