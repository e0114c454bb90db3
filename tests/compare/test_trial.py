import dataclasses
import json

import numpy as np
import pytest
import torch

from equipoise import training as loop
from equipoise.compare import networks, trial
from equipoise.compare.arrays import from_arrays
from equipoise.compare.matrices import as_noise
from equipoise.compare.objectives import read_objective
from equipoise.compare.plan import shared_key, units_of
from equipoise.compare.records import Setting
from equipoise.compare.settings import Settings
from equipoise.compare.splits import splits

SETTINGS = Settings(epochs=3, width=8, folds=3, repeats=2)


@pytest.fixture
def conditions(blobs):
    with np.load(blobs) as kept:
        dataset = from_arrays(kept["X"], kept["y"])
    noise = as_noise(0.3, dataset.classes)
    return trial.Conditions(dataset, splits(dataset, 3, 2), SETTINGS, noise, 1 - np.eye(3))


def unit(text="CrossEntropy()", repeat=0, width=8, lr=3e-3, baseline=False):
    places = tuple(range(3 * repeat, 3 * repeat + 3))
    setting = Setting(text, lr, 1e-4, width)
    return trial.Unit("key", 0 if baseline else 1, 0, read_objective(text, {}), setting, places)


def run(conditions, *given, **options):
    record, arrays = trial.run_unit(unit(*given, **options), conditions)
    assert repr(json.loads(json.dumps(record))) == repr(record)
    return record["records"], arrays


def with_settings(conditions, **changes):
    return dataclasses.replace(conditions, settings=dataclasses.replace(conditions.settings, **changes))


def timeless(records):
    return [{name: value for name, value in record.items() if name != "seconds"} for record in records]


def test_a_unit_repeats_itself_and_another_repeat_does_not(conditions):
    """A unit gives the same result again, and another repeat another one."""
    first, predicted = run(conditions)
    torch.rand(7)  # the state of torch's generator must not matter
    again, same = run(conditions)
    other, _ = run(conditions, repeat=1)
    assert timeless(first) == timeless(again)
    np.testing.assert_array_equal(predicted["logits"], same["logits"])
    assert [record["split"] for record in first] == [0, 1, 2]
    assert [record["split"] for record in other] == [3, 4, 5]
    assert first[0]["measures"] != other[0]["measures"]


def test_a_unit_leaves_the_state_of_torch_alone(conditions):
    """A unit does not change torch's random state and threads."""
    torch.set_num_threads(2)
    before = torch.get_rng_state()
    run(conditions)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.get_num_threads() == 2


def test_objectives_start_from_the_same_weights_rows_and_labels(conditions):
    """All objectives start from the same weights, rows and labels."""
    plain, predicted = run(conditions)
    gamma, others = run(conditions, "GammaCrossEntropy(gamma=0.5)")
    zero, same = run(conditions, "GammaCrossEntropy(gamma=0)")
    for one, other, third in zip(plain, gamma, zero, strict=True):
        assert one["curve"][0]["accuracy"] == other["curve"][0]["accuracy"]
        assert one["curve"][-1]["nll"] != other["curve"][-1]["nll"]
        assert one["flipped"] == other["flipped"] == third["flipped"] > 0
    np.testing.assert_array_equal(predicted["row"], others["row"])
    np.testing.assert_array_equal(predicted["target"], others["target"])
    np.testing.assert_allclose(predicted["logits"], same["logits"], atol=1e-4)


def test_predictions_are_against_true_labels_and_give_the_measures(conditions):
    """Predictions are scored against the true labels and give the measures."""
    records, kept = run(conditions)
    np.testing.assert_array_equal(kept["target"], conditions.dataset.labels[kept["row"]])
    np.testing.assert_array_equal(np.sort(kept["row"]), np.arange(150))  # every row tests once
    for record in records:
        own = kept["split"] == record["split"]
        logits = torch.from_numpy(kept["logits"][own]).double()
        accuracy = (logits.argmax(1).numpy() == kept["target"][own]).mean()
        assert record["measures"]["accuracy"] == pytest.approx(accuracy)
        assert record["measures"]["cost"] == pytest.approx(1 - accuracy)
        log_probs = (logits / record["temperature"]).log_softmax(1)  # of the clean label
        nll = torch.nn.functional.nll_loss(log_probs, torch.from_numpy(kept["target"][own]))
        assert record["measures"]["calibrated_nll"] == pytest.approx(nll.item())
        assert len(record["chance_ece"]) == trial.CHANCE_DRAWS
        assert [point["epoch"] for point in record["curve"]] == [0, 1, 2, 3]


def test_test_rows_have_their_better_labels_where_there_are_some(conditions):
    """Test rows are scored against the clean labels if there are some."""
    better = (conditions.dataset.labels + 1) % 3
    dataset = dataclasses.replace(conditions.dataset, clean=better)
    changed = dataclasses.replace(conditions, dataset=dataset)
    _, kept = run(changed)
    np.testing.assert_array_equal(kept["target"], better[kept["row"]])
    quiet = dataclasses.replace(conditions, noise=np.eye(3))
    assert (changed.nll_of, conditions.nll_of, quiet.nll_of) == ("clean", "clean", "observed")


def test_the_baseline_keeps_its_last_epoch_and_its_validation_logits(conditions):
    """The baseline keeps its last epoch and its validation logits."""
    longer = with_settings(conditions, epochs=40, patience=3)
    records, kept = run(longer, baseline=True, lr=0.05)
    assert any(record["epoch"] < 40 for record in records)
    assert all(len(record["curve"]) == 41 for record in records)
    assert not np.allclose(kept["last_logits"], kept["logits"])
    observed = longer.observed(0)
    np.testing.assert_array_equal(kept["validation_target"], observed[kept["validation_row"]])
    assert kept["validation_logits"].shape == (len(kept["validation_row"]), 3)
    _, fewer = run(longer, lr=0.05)
    assert fewer.keys() == {"logits", "target", "row", "split"}
    np.testing.assert_allclose(fewer["logits"], kept["logits"], atol=1e-4)  # the same epoch is chosen


def test_training_past_its_best_epoch_memorises_noise(conditions):
    """The last epoch memorises noise and is worse than the chosen one."""
    longer = with_settings(conditions, epochs=200)
    records, kept = run(longer, baseline=True, width=64)
    best = np.mean([record["measures"]["accuracy"] for record in records])
    last = (kept["last_logits"].argmax(axis=1) == kept["target"]).mean()
    assert best > last + 0.05
    assert best > 0.7


def test_balanced_class_weights_count_classes_alike(conditions):
    """Balanced class weights give each class the same total weight."""
    split, dataset = conditions.splits[0], conditions.dataset
    observed = torch.from_numpy(np.where(np.arange(150) % 5, 0, conditions.observed(0)))
    own = np.random.default_rng(0).random(150) + 0.1
    for each in (dataset, dataclasses.replace(dataset, weight=own)):
        weight = trial.row_weight(observed, split.train, each, "balanced")
        assert weight is not None
        train = torch.from_numpy(split.train)
        sums = torch.zeros(3).index_add(0, observed[train], weight[train])
        torch.testing.assert_close(sums, sums.mean().expand(3))
    assert trial.row_weight(observed, split.train, dataset, None) is None


def test_sample_weights_are_those_of_the_loss(conditions):
    """Sample weights reach the loss."""
    heavy = np.where(conditions.dataset.labels == 0, 50.0, 1.0)
    weighed = dataclasses.replace(
        conditions, dataset=dataclasses.replace(conditions.dataset, weight=heavy), noise=np.eye(3)
    )
    plain = dataclasses.replace(conditions, noise=np.eye(3))
    longer = [with_settings(each, epochs=30) for each in (weighed, plain)]
    (_, kept), (_, same) = (run(each, lr=0.02) for each in longer)
    named = [(arrays["logits"].argmax(1) == 0).mean() for arrays in (kept, same)]
    assert named[0] > named[1] + 0.1


def test_the_linear_model_is_linear(conditions):
    """The linear model has no hidden layer."""
    made = {
        name: networks.network(Settings(model=name), 5, conditions.dataset, torch.zeros(2, 4), 0)
        for name in ("linear", "mlp")
    }
    assert isinstance(made["linear"], torch.nn.Linear)
    assert sum(p.numel() for p in made["mlp"].parameters()) == 4 * 5 + 5 + 5 * 3 + 3


def test_a_training_that_diverges_says_so(conditions):
    """A diverged training is recorded as such."""
    records, _ = run(conditions, lr=1e30)
    for record in records:
        assert record["finite"] is False
        assert record["epoch"] == 0
        assert record["curve"][0]["accuracy"] is not None
        assert record["curve"][-1]["accuracy"] is record["curve"][-1]["nll"] is None
        assert record["measures"] == {}


DECISIONS = ("epoch", "temperature", "noise", "score", "curve", "setting")


def decided(conditions):
    """Everything that is decided before a test row is looked at."""
    records, kept = run(conditions)
    return [{name: record[name] for name in DECISIONS} for record in records], kept


def with_other_test_rows(conditions):
    """One split whose test rows have other features and labels."""
    (one, *_) = conditions.splits
    alone = dataclasses.replace(conditions, splits=(one,) * 6, noise=np.eye(3))
    dataset = alone.dataset
    features, labels = dataset.features.copy(), dataset.labels.copy()
    features[one.test] = 100 * features[one.test] + 3
    labels[one.test] = (labels[one.test] + 1) % 3
    changed = dataclasses.replace(dataset, features=features, labels=labels)
    return alone, dataclasses.replace(alone, dataset=changed)


def test_test_rows_decide_nothing(conditions):
    """Test rows influence neither the epoch, nor the calibration, nor the score."""
    plain, changed = with_other_test_rows(conditions)
    (first, kept), (second, others) = decided(plain), decided(changed)
    assert first == second
    assert not np.array_equal(kept["logits"], others["logits"])
    assert not np.array_equal(kept["target"], others["target"])


_inputs_of, _rows = trial.inputs_of, trial._Prepared.rows


@pytest.mark.parametrize("leak", ["encode", "validation", "train"])
def test_control_a_leak_of_test_rows_is_found(conditions, monkeypatch, leak):
    """A leak of test rows is found by the comparison."""
    plain, changed = with_other_test_rows(conditions)
    if leak == "encode":
        monkeypatch.setattr(
            trial, "inputs_of", lambda dataset, train, model: _inputs_of(dataset, np.arange(150), model)
        )
    else:
        mixed = plain.splits[0].test
        leaked = plain.splits[0].validation if leak == "validation" else plain.splits[0].train

        def rows(self, part):
            return _rows(self, np.concatenate([part, mixed]) if np.array_equal(part, leaked) else part)

        monkeypatch.setattr(trial._Prepared, "rows", rows)
    assert decided(plain)[0] != decided(changed)[0]


def test_splits_whose_sizes_differ_are_trained_apart(conditions, monkeypatch):
    """Splits of different sizes are trained separately."""
    sizes = []
    train = loop.train

    def watched(model, objective, rows, *others):
        sizes.append(len(rows))
        return train(model, objective, rows, *others)

    monkeypatch.setattr(trial, "train", watched)
    run(conditions)
    assert sizes == [3]
    sizes.clear()
    monkeypatch.setattr(trial, "MOST_TOGETHER", 1)
    records, _ = run(conditions)
    assert sizes == [1, 1, 1]
    assert [record["split"] for record in records] == [0, 1, 2]
    sizes.clear()
    monkeypatch.undo()
    monkeypatch.setattr(trial, "train", watched)
    first, *others = conditions.splits
    shorter = dataclasses.replace(first, train=first.train[: len(first.train) // 3])
    small = with_settings(dataclasses.replace(conditions, splits=(shorter, *others)), batch_size=32)
    records, _ = run(small)
    assert sorted(sizes) == [1, 2]
    assert [record["split"] for record in records] == [0, 1, 2]


def test_the_key_depends_on_all_that_decides_the_result(conditions):
    """The key changes with everything that influences the result."""
    matrices = {"costs": 1 - np.eye(3), "similarity": np.eye(3)}

    def keys(changed=conditions, text="ExpectedCost(costs)", named=matrices, of=1):
        candidate = read_objective(text, named)
        return [each.key for each in units_of(of, candidate, changed, shared_key(changed))]

    def with_data(**changes):
        return dataclasses.replace(conditions, dataset=dataclasses.replace(conditions.dataset, **changes))

    others = [
        keys(text="CrossEntropy()"),
        keys(of=0),
        keys(named=matrices | {"costs": 2 - 2 * np.eye(3)}),
        *(
            keys(with_settings(conditions, **changed))
            for changed in (
                {"epochs": 4}, {"stop": "own"}, {"random_state": 1}, {"lr": 2e-3}, {"weight_decay": 0.0},
                {"width": 9}, {"patience": 3}, {"batch_size": 7}, {"class_weight": "balanced"},
                {"model": "linear"},
            )
        ),
        keys(dataclasses.replace(conditions, noise=np.eye(3))),
        keys(dataclasses.replace(conditions, costs=None)),
        keys(dataclasses.replace(conditions, splits=splits(conditions.dataset, 4, 2))),
        keys(with_data(features=conditions.dataset.features + np.eye(150, 4))),
        keys(with_data(labels=conditions.dataset.labels[::-1].copy())),
        keys(with_data(clean=conditions.dataset.labels[::-1].copy())),
        keys(with_data(weight=np.full(150, 2.0))),
    ]  # fmt: skip
    first = [each[0] for each in (keys(), *others)]
    assert len({*first}) == len(others) + 1
    assert len({*keys()}) == 2  # of two repeats
    assert keys() == keys()
    assert keys(named=matrices | {"similarity": np.ones((3, 3)) / 3}) == keys()
    for jobs_do_not_count in ({"worthwhile": {"accuracy": 0.5}}, {"tune": 1}):
        assert keys(with_settings(conditions, **jobs_do_not_count)) == keys()


def test_the_key_depends_on_the_version_and_not_on_the_text_of_the_code(conditions, monkeypatch):
    """The key contains the version, not the source code."""
    shared = shared_key(conditions)
    assert json.loads(json.dumps(shared)) == shared
    assert set(shared) == {"version", "data", "splits", "settings", "noise", "costs"}
    monkeypatch.setattr("equipoise.__version__", "99")
    assert shared_key(conditions) != shared


def test_what_trains_alone_has_a_unit_for_each_split(conditions):
    """An objective that needs its own network has a unit per split."""

    def places(text, changed=conditions):
        shared = shared_key(changed)
        return [each.places for each in units_of(1, read_objective(text, {}), changed, shared)]

    single = [(place,) for place in range(6)]
    assert places("CrossEntropy()") == [(0, 1, 2), (3, 4, 5)]
    assert places("CrossEntropy() + 0.1 * Balance()") == single
    own = with_settings(conditions, model=lambda features, classes: torch.nn.Linear(features, classes))
    assert places("CrossEntropy()", own) == single
