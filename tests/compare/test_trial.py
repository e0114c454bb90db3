import dataclasses
import json

import numpy as np
import pytest
import torch

from equipoise import training as loop
from equipoise.compare import spec, trial
from equipoise.compare.matrices import read_noise
from equipoise.compare.read import read
from equipoise.compare.records import Setting
from equipoise.compare.settings import Training
from equipoise.compare.splits import splits
from equipoise.compare.store import Store

TRAINING = Training(epochs=3, width=8)


@pytest.fixture
def conditions(blobs):
    dataset = read(str(blobs), None)
    noise = read_noise("0.3", dataset.classes)
    return trial.Conditions(dataset, splits(dataset, 3, 2), 2, TRAINING, noise, 1 - np.eye(3))


def unit(text="CrossEntropy()", repeat=0, width=8, lr=3e-3, baseline=False):
    return trial.Unit("key", spec.read(text), Setting(text, lr, 1e-4, width), repeat, baseline)


def run(folder, conditions, *given, **options):
    folder.mkdir(exist_ok=True)
    assert trial.run_unit(unit(*given, **options), conditions, folder) == 3
    store = Store(folder)
    record = store.read("key")
    assert record is not None
    with np.load(store.predictions("key")) as kept:
        return record["records"], dict(kept)


def timeless(records):
    return [{name: value for name, value in record.items() if name != "seconds"} for record in records]


def test_a_unit_repeats_itself_and_another_repeat_does_not(conditions, tmp_path):
    first, predicted = run(tmp_path / "a", conditions)
    torch.rand(7)  # the state of torch's generator must not matter
    again, same = run(tmp_path / "b", conditions)
    other, _ = run(tmp_path / "c", conditions, repeat=1)
    assert timeless(first) == timeless(again)
    np.testing.assert_array_equal(predicted["logits"], same["logits"])
    assert [record["split"] for record in first] == [0, 1, 2]
    assert [record["split"] for record in other] == [3, 4, 5]
    assert first[0]["measures"] != other[0]["measures"]


def test_a_unit_leaves_the_state_of_torch_alone(conditions, tmp_path):
    torch.set_num_threads(2)
    before = torch.get_rng_state()
    run(tmp_path, conditions)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.get_num_threads() == 2


def test_objectives_start_from_the_same_weights_rows_and_labels(conditions, tmp_path):
    plain, predicted = run(tmp_path / "a", conditions)
    gamma, others = run(tmp_path / "b", conditions, "GammaCrossEntropy(gamma=0.5)")
    zero, same = run(tmp_path / "c", conditions, "GammaCrossEntropy(gamma=0)")
    for one, other, third in zip(plain, gamma, zero, strict=True):
        assert one["curve"][0]["accuracy"] == other["curve"][0]["accuracy"]
        assert one["curve"][-1]["nll"] != other["curve"][-1]["nll"]
        assert one["flipped"] == other["flipped"] == third["flipped"] > 0
    np.testing.assert_array_equal(predicted["row"], others["row"])
    np.testing.assert_array_equal(predicted["target"], others["target"])
    np.testing.assert_allclose(predicted["logits"], same["logits"], atol=1e-4)


def test_predictions_are_against_true_labels_and_give_the_measures(conditions, tmp_path):
    records, kept = run(tmp_path, conditions)
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


def test_test_rows_have_their_better_labels_where_there_are_some(conditions, tmp_path):
    better = (conditions.dataset.labels + 1) % 3
    dataset = dataclasses.replace(conditions.dataset, clean=better)
    changed = dataclasses.replace(conditions, dataset=dataset)
    _, kept = run(tmp_path, changed)
    np.testing.assert_array_equal(kept["target"], better[kept["row"]])
    quiet = dataclasses.replace(conditions, noise=np.eye(3))
    assert (changed.nll_of, conditions.nll_of, quiet.nll_of) == ("clean", "clean", "observed")


def test_the_baseline_keeps_its_last_epoch_and_its_validation_logits(conditions, tmp_path):
    longer = dataclasses.replace(conditions, training=Training(epochs=40, width=8, patience=3))
    records, kept = run(tmp_path / "a", longer, baseline=True, lr=0.05)
    assert any(record["epoch"] < 40 for record in records)
    assert all(len(record["curve"]) == 41 for record in records)
    assert not np.allclose(kept["last_logits"], kept["logits"])
    observed = longer.observed(0)
    np.testing.assert_array_equal(kept["validation_target"], observed[kept["validation_row"]])
    assert kept["validation_logits"].shape == (len(kept["validation_row"]), 3)
    _, fewer = run(tmp_path / "b", longer, lr=0.05)
    assert fewer.keys() == {"logits", "target", "row", "split"}
    np.testing.assert_allclose(fewer["logits"], kept["logits"], atol=1e-4)  # the same epoch is chosen


def test_training_past_its_best_epoch_memorises_noise(conditions, tmp_path):
    longer = dataclasses.replace(conditions, training=Training(epochs=200, width=64))
    records, kept = run(tmp_path / "b", longer, baseline=True, width=64)
    best = np.mean([record["measures"]["accuracy"] for record in records])
    last = (kept["last_logits"].argmax(axis=1) == kept["target"]).mean()
    assert best > last + 0.05
    assert best > 0.7


def test_balanced_class_weights_count_classes_alike(conditions):
    split = conditions.splits[0]
    observed = torch.from_numpy(np.where(np.arange(150) % 5, 0, conditions.observed(0)))
    weighed = dataclasses.replace(conditions, training=Training(class_weight="balanced"))
    weight = trial._row_weight(observed, split, weighed)
    assert weight is not None
    train = torch.from_numpy(split.train)
    sums = torch.zeros(3).index_add(0, observed[train], weight[train])
    torch.testing.assert_close(sums, torch.full((3,), len(train) / 3))
    assert trial._row_weight(observed, split, conditions) is None


def test_the_linear_model_is_linear():
    assert isinstance(trial.build("linear", 0, 4, 3), torch.nn.Linear)
    assert sum(p.numel() for p in trial.build("mlp", 5, 4, 3).parameters()) == 4 * 5 + 5 + 5 * 3 + 3


def test_a_training_that_diverges_says_so(conditions, tmp_path):
    records, _ = run(tmp_path, conditions, lr=1e30)
    for record in records:
        assert record["finite"] is False
        assert record["epoch"] == 0
        assert record["curve"][0]["accuracy"] is not None
        assert record["curve"][-1]["accuracy"] is record["curve"][-1]["nll"] is None
        assert record["measures"] == {}


DECISIONS = ("epoch", "temperature", "noise", "score", "curve", "setting")


def decided(folder, conditions):
    """Everything that is decided before a test row is looked at."""
    records, kept = run(folder, conditions)
    return [{name: record[name] for name in DECISIONS} for record in records], kept


def with_other_test_rows(conditions):
    """One split whose test rows have other features and labels."""
    (one, *_) = conditions.splits
    alone = dataclasses.replace(conditions, splits=(one,) * 3, repeats=1, noise=np.eye(3))
    dataset = alone.dataset
    features, labels = dataset.features.copy(), dataset.labels.copy()
    features[one.test] = 100 * features[one.test] + 3
    labels[one.test] = (labels[one.test] + 1) % 3
    changed = dataclasses.replace(dataset, features=features, labels=labels)
    return alone, dataclasses.replace(alone, dataset=changed)


def test_test_rows_decide_nothing(conditions, tmp_path):
    plain, changed = with_other_test_rows(conditions)
    (first, kept), (second, others) = decided(tmp_path / "a", plain), decided(tmp_path / "b", changed)
    assert first == second
    assert not np.array_equal(kept["logits"], others["logits"])
    assert not np.array_equal(kept["target"], others["target"])


_Encoder, _rows = trial.Encoder, trial._Prepared.rows


@pytest.mark.parametrize("leak", ["encode", "validation", "train"])
def test_control_a_leak_of_test_rows_is_found(conditions, tmp_path, monkeypatch, leak):
    plain, changed = with_other_test_rows(conditions)
    if leak == "encode":
        monkeypatch.setattr(
            trial, "Encoder", lambda dataset, train: _Encoder(dataset, np.arange(len(dataset.labels)))
        )
    else:
        mixed = plain.splits[0].test
        leaked = plain.splits[0].validation if leak == "validation" else plain.splits[0].train

        def rows(self, part):
            return _rows(self, np.concatenate([part, mixed]) if np.array_equal(part, leaked) else part)

        monkeypatch.setattr(trial._Prepared, "rows", rows)
    assert decided(tmp_path / "a", plain)[0] != decided(tmp_path / "b", changed)[0]


def test_splits_whose_sizes_differ_are_trained_apart(conditions, tmp_path, monkeypatch):
    sizes = []
    train = loop.train

    def watched(model, objective, rows, *others):
        sizes.append(len(rows))
        return train(model, objective, rows, *others)

    monkeypatch.setattr(trial, "train", watched)
    run(tmp_path / "a", conditions)
    assert sizes == [3]
    sizes.clear()
    run(tmp_path / "b", conditions, "CrossEntropy() + 0.1 * Balance()")
    assert sizes == [1, 1, 1]
    sizes.clear()
    monkeypatch.setattr(trial, "MOST_TOGETHER", 1)
    records, _ = run(tmp_path / "c", conditions)
    assert sizes == [1, 1, 1]
    assert [record["split"] for record in records] == [0, 1, 2]
    sizes.clear()
    monkeypatch.undo()
    monkeypatch.setattr(trial, "train", watched)
    first, *others = conditions.splits
    shorter = dataclasses.replace(first, train=first.train[: len(first.train) // 3])
    small = dataclasses.replace(
        conditions, splits=(shorter, *others), training=dataclasses.replace(TRAINING, batch_size=32)
    )
    records, _ = run(tmp_path / "d", small)
    assert sorted(sizes) == [1, 2]
    assert [record["split"] for record in records] == [0, 1, 2]


def test_the_key_depends_on_all_that_decides_the_result(conditions):
    matrices = {"costs": 1 - np.eye(3), "similarity": np.eye(3)}
    setting = Setting("ExpectedCost(costs)", 1e-3, 1e-4, 8)

    def key(changed=conditions, setting=setting, named=matrices, repeat=0):
        return trial.unit_key(trial.shared_key(changed), setting, named, repeat)

    def with_data(**changes):
        return dataclasses.replace(conditions, dataset=dataclasses.replace(conditions.dataset, **changes))

    others = [
        key(repeat=1),
        *(
            key(setting=dataclasses.replace(setting, **change))
            for change in ({"objective": "CrossEntropy()"}, {"lr": 2e-3}, {"weight_decay": 0.0}, {"width": 9})
        ),
        key(named=matrices | {"costs": 2 - 2 * np.eye(3)}),
        key(dataclasses.replace(conditions, training=Training(epochs=4, width=8))),
        key(dataclasses.replace(conditions, training=Training(epochs=3, width=8, stop="own"))),
        key(dataclasses.replace(conditions, noise=np.eye(3))),
        key(dataclasses.replace(conditions, costs=None)),
        key(dataclasses.replace(conditions, seed=1)),
        key(dataclasses.replace(conditions, splits=splits(conditions.dataset, 4, 2))),
        key(with_data(features=conditions.dataset.features + np.eye(150, 4))),
        key(with_data(labels=conditions.dataset.labels[::-1].copy())),
        key(with_data(clean=conditions.dataset.labels[::-1].copy())),
    ]
    assert len({key(), *others}) == len(others) + 1
    assert key() == key()
    assert key(named=matrices | {"similarity": np.ones((3, 3)) / 3}) == key()


def test_the_key_depends_on_the_versions_and_the_code(conditions):
    shared = trial.shared_key(conditions)
    setting = Setting("CrossEntropy()", 1e-3, 1e-4, 8)
    key = trial.unit_key(shared, setting, {}, 0)
    newer = shared | {"versions": shared["versions"] | {"torch": "99"}}
    assert trial.unit_key(newer, setting, {}, 0) != key
    assert trial.unit_key(shared | {"sources": "changed"}, setting, {}, 0) != key
    assert set(shared["versions"]) >= {"equipoise", "torch", "scikit-learn", "numpy"}
    json.dumps(shared)
