import dataclasses
import json

import numpy as np
import pytest
import torch

from equipoise.compare import data, spec, trial
from equipoise.compare.matrices import read_noise
from equipoise.compare.settings import Training
from equipoise.compare.store import Store

TRAINING = Training(epochs=3, width=8)


@pytest.fixture
def conditions(blobs):
    dataset = data.load(str(blobs), None)
    return trial.Conditions(dataset, TRAINING, read_noise("0.3", dataset.classes), 1 - np.eye(3))


def run(folder, conditions, text="CrossEntropy()", seed=0):
    trial.run_trial("key", spec.parse(text), seed, conditions, folder)
    store = Store(folder)
    record = store.read("key")
    assert record is not None
    with np.load(store.predictions("key")) as kept:
        return record, dict(kept)


def timeless(record):
    return {name: value for name, value in record.items() if name != "seconds"}


def folder(tmp_path, name):
    made = tmp_path / name
    made.mkdir()
    return made


def test_a_trial_repeats_itself_and_another_seed_does_not(conditions, tmp_path):
    first, predicted = run(folder(tmp_path, "a"), conditions)
    torch.rand(7)  # the state of torch's generator must not matter
    again, same = run(folder(tmp_path, "b"), conditions)
    other, _ = run(folder(tmp_path, "c"), conditions, seed=1)
    assert timeless(first) == timeless(again)
    np.testing.assert_array_equal(predicted["probabilities"], same["probabilities"])
    assert timeless(first) != timeless(other)


def test_a_trial_leaves_the_state_of_torch_alone(conditions, tmp_path):
    torch.set_num_threads(2)
    before = torch.get_rng_state()
    run(tmp_path, conditions)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.get_num_threads() == 2


def test_objectives_of_a_seed_start_from_the_same_weights_rows_and_labels(conditions, tmp_path):
    plain, predicted = run(folder(tmp_path, "a"), conditions)
    gamma, others = run(folder(tmp_path, "b"), conditions, "GammaCrossEntropy(gamma=0.5)")
    zero, same = run(folder(tmp_path, "c"), conditions, "GammaCrossEntropy(gamma=0)")
    assert plain["curve"][0] == gamma["curve"][0]
    assert plain["curve"][-1] != gamma["curve"][-1]
    np.testing.assert_array_equal(predicted["row"], others["row"])
    np.testing.assert_array_equal(predicted["target"], others["target"])
    np.testing.assert_allclose(predicted["probabilities"], same["probabilities"], atol=1e-5)
    assert plain["flipped"] == gamma["flipped"] == zero["flipped"] > 0


def test_predictions_are_against_true_labels_and_give_the_measures(conditions, tmp_path):
    record, kept = run(tmp_path, conditions)
    np.testing.assert_array_equal(kept["target"], conditions.dataset.labels[kept["row"]])
    np.testing.assert_allclose(kept["probabilities"].sum(axis=1), 1)
    accuracy = (kept["probabilities"].argmax(axis=1) == kept["target"]).mean()
    assert record["measures"]["accuracy"] == pytest.approx(accuracy)
    assert record["measures"]["cost"] == pytest.approx(1 - accuracy)
    assert len(record["chance_ece"]) == trial.CHANCE_DRAWS
    assert [point["epoch"] for point in record["curve"]] == [0, 1, 2, 3]


def test_training_learns_and_memorises_noise(conditions, tmp_path):
    shorter = dataclasses.replace(conditions, training=Training(epochs=20, width=64))
    learnt, _ = run(folder(tmp_path, "a"), shorter)
    assert learnt["measures"]["accuracy"] > 0.6
    longer = dataclasses.replace(conditions, training=Training(epochs=300, width=64))
    record, _ = run(folder(tmp_path, "b"), longer)
    assert record["measures"]["accuracy"] < learnt["measures"]["accuracy"]
    assert record["curve"][-1]["nll"] > min(point["nll"] for point in record["curve"])
    assert len(record["curve"]) == trial.CURVE_POINTS + 1


def test_the_linear_model_is_linear():
    assert isinstance(trial.build(Training(model="linear"), 4, 3), torch.nn.Linear)
    assert sum(p.numel() for p in trial.build(Training(width=5), 4, 3).parameters()) == 4 * 5 + 5 + 5 * 3 + 3


def test_a_trial_that_diverges_says_so(conditions, tmp_path):
    wild = dataclasses.replace(conditions, training=Training(epochs=3, lr=1e30))
    record, _ = run(tmp_path, wild)
    assert record["finite"] is False
    assert record["curve"][0]["accuracy"] is not None
    assert record["curve"][-1]["accuracy"] is record["curve"][-1]["nll"] is None
    assert record["measures"] == {}


def test_the_key_depends_on_all_that_decides_the_result(conditions):
    matrices = {"costs": 1 - np.eye(3), "similarity": np.eye(3)}

    def key(changed=conditions, text="ExpectedCost(costs)", named=matrices, seed=0):
        return trial.trial_key(trial.shared_key(changed), text, named, seed)

    moved = conditions.dataset.features + np.eye(150, 4)
    relabelled = conditions.dataset.labels[::-1].copy()
    others = [
        key(seed=1),
        key(text="CrossEntropy()"),
        key(named=matrices | {"costs": 2 - 2 * np.eye(3)}),
        key(dataclasses.replace(conditions, training=Training(epochs=4, width=8))),
        key(dataclasses.replace(conditions, noise=np.eye(3))),
        key(dataclasses.replace(conditions, costs=None)),
        key(dataclasses.replace(conditions, dataset=dataclasses.replace(conditions.dataset, features=moved))),
        key(
            dataclasses.replace(
                conditions, dataset=dataclasses.replace(conditions.dataset, labels=relabelled)
            )
        ),
    ]
    assert len({key(), *others}) == len(others) + 1
    assert key() == key()
    assert key(named=matrices | {"similarity": np.ones((3, 3)) / 3}) == key()


def test_the_key_depends_on_the_versions_and_the_code(conditions):
    shared = trial.shared_key(conditions)
    key = trial.trial_key(shared, "CrossEntropy()", {}, 0)
    newer = shared | {"versions": shared["versions"] | {"torch": "99"}}
    assert trial.trial_key(newer, "CrossEntropy()", {}, 0) != key
    assert trial.trial_key(shared | {"sources": "changed"}, "CrossEntropy()", {}, 0) != key
    assert set(shared["versions"]) >= {"equipoise", "torch", "scikit-learn", "numpy"}
    json.dumps(shared)
