"""`compare` as a user calls it: tensors, losses, models of one's own, and what comes back."""

import json
import pickle
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from equipoise import Objective
from equipoise.compare import compare, read, refit
from equipoise.compare.context import COMMONEST, TREES
from equipoise.costs import ClassMatrix
from equipoise.losses import CrossEntropy, Focal, GammaCrossEntropy, RowLoss
from equipoise.schedules import Linear

pytestmark = pytest.mark.slow  # whole comparisons

FAST = {"folds": 3, "epochs": 4, "width": 8, "batch_size": 32, "jobs": 1, "progress": False}
PAIR = [GammaCrossEntropy(0.5), "Focal(gamma=2)"]


@pytest.fixture(scope="module")
def arrays(blobs):
    with np.load(blobs) as kept:
        return kept["X"], kept["y"]


@pytest.fixture(scope="module")
def found(arrays):
    return compare(PAIR, torch.tensor(arrays[0]), torch.tensor(arrays[1]), **FAST)


def timeless(comparison):
    said = comparison.to_dict()
    return {key: value for key, value in said.items() if key not in ("trials", "files")}


def test_the_answer_is_a_word_a_sentence_and_a_loss(found):
    assert found.call in ("better", "equal", "undecided")
    assert "plain cross entropy" in found.verdict
    assert found.winner in (CrossEntropy(), *PAIR[:1], Focal(gamma=2.0))
    assert found.call in repr(found)
    assert found.files == {}
    json.dumps(found.to_dict(), allow_nan=False)


def test_the_table_and_the_predictions_are_data_frames(found, arrays):
    table, rows = found.table(), found.predictions()
    accuracy = table[table["measure"] == "accuracy"].groupby("objective")["value"].mean()
    for name, part in rows.groupby("candidate"):
        assert sorted(part["row"]) == list(range(150))
        assert (part["target"] == part["predicted"]).mean() == pytest.approx(accuracy[name], abs=1e-9)
        assert part["target"].tolist() == [str(label) for label in arrays[1][part["row"]]]
    assert set(rows["candidate"]) == {outcome.candidate.name for outcome in found.result.outcomes}


def test_the_same_call_gives_the_same_numbers_and_another_seed_others(found, arrays):
    frame = pd.DataFrame(arrays[0], columns=list("abcd"))
    again = compare(PAIR, frame, pd.Series(arrays[1]), **FAST)
    assert timeless(again)["objectives"] == timeless(found)["objectives"]
    other = compare(PAIR, *arrays, random_state=1, **FAST)
    assert timeless(other)["objectives"] != timeless(found)["objectives"]


def test_processes_change_nothing(found, arrays):
    """Two processes give the results of one, but for the times."""
    both = compare(PAIR, *arrays, **(FAST | {"jobs": 2}))
    assert timeless(both)["objectives"] == timeless(found)["objectives"]


def test_a_report_can_be_written_anywhere(found, tmp_path):
    found.report(tmp_path / "mine.html")
    assert "GammaCrossEntropy" in (tmp_path / "mine.html").read_text(encoding="utf-8")


def test_progress_is_told_to_a_function(arrays):
    seen = []
    compare(PAIR, *arrays, **(FAST | {"progress": lambda *counts: seen.append(counts)}))
    assert (seen[0], seen[-1]) == ((0, 9), (9, 9))


class Net(nn.Module):
    """Normalisation and dropout, so that buffers and modes count."""

    def __init__(self, shape, classes):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(shape[0], 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.1), nn.Flatten(),
            nn.LazyLinear(classes),
        )  # fmt: skip

    def forward(self, images):
        return self.body(images)


@pytest.fixture(scope="module")
def images():
    rows, labels = load_digits(return_X_y=True)
    return torch.tensor(rows[:600] / 16).float().reshape(-1, 1, 8, 8), torch.tensor(labels[:600])


@pytest.fixture(scope="module")
def of_images(images, tmp_path_factory):
    out = tmp_path_factory.mktemp("images") / "out"
    options = FAST | {"epochs": 12, "lr": 0.01}
    return compare(PAIR[:1], *images, model=Net, model_name="net 1", out=out, **options), out, options


@pytest.mark.slow
def test_a_model_of_ones_own_sees_images_as_they_are(of_images, images):
    comparison, _, options = of_images
    assert comparison.result.baseline.mean("accuracy") > 0.8
    data = torch.utils.data.TensorDataset(*images)
    again = compare(PAIR[:1], data, model=Net, **options)
    assert timeless(again)["objectives"] == timeless(comparison)["objectives"]


def test_boosted_trees_are_shown_beside_tables_that_are_not_too_large(of_images, found, arrays, monkeypatch):
    assert [each.name for each in of_images[0].result.context] == [COMMONEST]
    assert [each.name for each in found.result.context] == [COMMONEST, TREES]
    monkeypatch.setattr("equipoise.compare.trial.MOST_FOR_TREES", 599)
    with pytest.warns(
        UserWarning, match="HistGradientBoostingClassifier is not shown .* on 150 rows x 4 columns"
    ):
        large = compare(PAIR, *arrays, **FAST)
    assert [each.name for each in large.result.context] == [COMMONEST]
    assert timeless(large)["objectives"] == timeless(found)["objectives"]


@pytest.mark.slow
def test_a_model_of_ones_own_resumes_by_its_name(of_images, images):
    _, out, options = of_images
    seen = []
    options = options | {"progress": lambda *counts: seen.append(counts)}
    compare(PAIR[:1], *images, model=Net, model_name="net 1", out=out, **options)
    assert seen == [(6, 6)]
    seen.clear()
    compare(PAIR[:1], *images, model=Net, model_name="net 2", out=out, **options)
    assert (seen[0], seen[-1]) == ((0, 6), (6, 6))


def test_the_winner_is_fitted_anew_with_its_calibration(of_images, images):
    comparison, _, _ = of_images
    fitted = comparison.fit(*images)
    probs = fitted.predict_proba(images[0][:50])
    np.testing.assert_allclose(probs.sum(1), 1)
    assert (fitted.predict(images[0]) == images[1].numpy()).mean() > 0.85
    assert fitted.calibration.temperature > 0
    assert fitted.epoch >= 1
    logits = fitted.logits(images[0][:50])
    fitted.module.eval()
    torch.testing.assert_close(logits, fitted.module(images[0][:50]).detach())
    np.testing.assert_allclose(probs, fitted.calibration.observed_probs(logits.double()).numpy())


def test_the_winner_is_fitted_to_frames_and_names_of_classes(arrays):
    frame = pd.DataFrame(
        {"a": arrays[0][:, 0], "b": arrays[0][:, 1], "c": np.where(arrays[0][:, 2] > 1, "x", "y")}
    )
    labels = np.array(["ape", "bee", "cat"])[arrays[1]]
    comparison = compare(PAIR, frame, labels, costs="ape, bee | cat", noise=0.2, **FAST)
    fitted = comparison.fit(frame, labels)
    assert set(fitted.predict(frame)) <= {"ape", "bee", "cat"}
    assert pickle.loads(pickle.dumps(fitted)).predict(frame).tolist() == fitted.predict(frame).tolist()
    with pytest.raises(ValueError, match="'c'"):
        fitted.predict(frame.drop(columns="c"))
    with pytest.raises(
        ValueError, match="y must have the classes of the comparison, ape, bee, cat, got ape, bee"
    ):
        comparison.fit(frame[:100], labels[:100])


def test_the_rows_of_a_file_are_fitted_whole(blobs, arrays, tmp_path, monkeypatch):
    np.savez(tmp_path / "test.npz", X=arrays[0] + 0.01, y=arrays[1])
    rows = read(blobs, test=tmp_path / "test.npz")
    sizes, train = [], refit.train

    def watched(model, objective, training, validation, *others):
        sizes.append((len(training[0].target), len(validation[0].target)))
        return train(model, objective, training, validation, *others)

    monkeypatch.setattr(refit, "train", watched)
    fitted = compare(PAIR, rows, **FAST).fit(rows)
    assert sizes == [(270, 30)]  # the test rows too, of which a tenth validate
    assert fitted.predict(np.zeros((2, 4))).shape == (2,)


def test_matrices_are_arrays_frames_or_named(arrays):
    names = ["2", "0", "1"]
    matrix = np.array([[0, 1, 5], [1, 0, 1], [1, 1, 0]], dtype=float)
    turned = matrix[np.ix_([2, 0, 1], [2, 0, 1])]
    given = [
        matrix,
        torch.tensor(matrix),
        pd.DataFrame(turned, names, names),
        ClassMatrix(turned, names, kind="costs"),
    ]
    said = [compare(["ExpectedCost(costs)"], *arrays, costs=each, **FAST) for each in given]
    assert len({json.dumps(each.to_dict()["objectives"]) for each in said}) == 1
    assert said[0].result.plan.deciding == ("decided_cost",)


@dataclass(frozen=True)
class Mine(RowLoss):
    """A loss that no table has."""

    power: float = 1.0

    def per_row(self, row, /):
        return torch.nn.functional.softplus(-row.log_odds()) ** self.power


def test_candidates_are_losses_texts_objectives_and_named(arrays, tmp_path):
    scheduled = Objective(GammaCrossEntropy(0.0), schedules={"gamma": Linear(0.0, 0.5, steps=10)})
    comparison = compare(
        {"mine": Mine(1.5), "later": scheduled, "text": "CrossEntropy() - Linear(0, 0.1) * Entropy()"},
        *arrays, out=tmp_path, **FAST,
    )  # fmt: skip
    names = [outcome.candidate.name for outcome in comparison.result.outcomes]
    assert names == ["CrossEntropy()", "mine", "later", "text"]
    assert scheduled.steps == 0
    alone = compare(Mine(1.5), *arrays, **FAST)
    assert (
        alone.result.outcomes[1].values["nll"].tolist()
        == comparison.result.outcomes[1].values["nll"].tolist()
    )


def test_parts_are_given_as_arrays(arrays):
    rows, labels = arrays
    test = rows + 0.01, labels
    apart = compare(PAIR, rows, labels, test=test, clean=labels, groups=np.arange(300), **FAST)
    assert apart.result.one_test
    assert apart.result.nll_of == "clean"
    grouped = compare(PAIR, rows, labels, groups=np.arange(150) // 3, **FAST)
    for split in grouped.result.plan.conditions.splits:
        assert not set(split.train // 3) & set(split.test // 3)
    order = np.random.default_rng(0).permutation(150)
    timed = compare(PAIR, rows[order], labels[order], time=pd.date_range("2024-01-01", periods=150), **FAST)
    assert timed.result.plan.conditions.splits[0].test.tolist() == list(range(120, 150))
    weighed = compare(PAIR, rows, labels, sample_weight=np.where(np.arange(150) % 10, 1.0, 0.0), **FAST)
    assert len(weighed.result.plan.conditions.dataset.labels) == 135


def test_a_file_is_read_into_rows(blobs, found):
    rows = read(str(blobs))
    assert timeless(compare(PAIR, rows, **FAST))["objectives"] == timeless(found)["objectives"]
    with pytest.raises(
        ValueError, match="y must be left out where X was read from a file, got list; name it"
    ):
        compare(PAIR, rows, [1, 2], **FAST)


def test_the_settings_of_a_tuned_winner_are_those_most_splits_chose(arrays):
    comparison = compare(PAIR, *arrays, tune=3, **FAST)
    assert comparison.fit(*arrays).epoch >= 1
    assert comparison.result.trials == 3 * 3 * 3
    candidate = comparison.result.outcomes[1]
    settings = [record.setting for record in candidate.records]
    unit, times = comparison.result.chosen(candidate)
    assert times == max(map(settings.count, settings)) == settings.count(unit.setting)
    won = replace(comparison, judged=replace(comparison.judged, winner=candidate))
    assert repr(won.winner.gamma) in unit.setting.objective


def test_a_scheduled_winner_says_so_and_makes_an_objective(arrays):
    comparison = compare("GammaCrossEntropy(gamma=Linear(0, 0.5))", *arrays, **FAST)
    won = replace(comparison, judged=replace(comparison.judged, winner=comparison.result.outcomes[1]))
    assert repr(won.winner) == "GammaCrossEntropy(gamma=Linear(0, 0.5), min_weight=0.0)"
    objective = won.objective(10)
    objective.set_step(5)
    assert objective.scheduled()["gamma"] == pytest.approx(0.25)
    assert comparison.winner == CrossEntropy()
    assert comparison.objective(3).schedules == {}
    assert replace(comparison.result.plan.settings, tune=0).tune == 0
