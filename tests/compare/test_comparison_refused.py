"""Inputs that `compare` refuses, and what the errors and warnings say."""

import numpy as np
import pytest
import torch
from torch import nn

from equipoise.compare import compare
from equipoise.losses import Focal, GammaCrossEntropy

pytestmark = pytest.mark.slow  # whole comparisons

FAST = {"folds": 3, "epochs": 4, "width": 8, "batch_size": 32, "jobs": 1, "progress": False}
PAIR = [GammaCrossEntropy(0.5), "Focal(gamma=2)"]


@pytest.fixture(scope="module")
def arrays(blobs):
    with np.load(blobs) as kept:
        return kept["X"], kept["y"]


def nothing(*ignored):
    return None


def narrow(features, classes):
    return nn.Linear(features, classes - 1)


def pair(features, classes):
    return nn.LSTM(features, classes, batch_first=True)


def strict(features, classes):
    return nn.Linear(features + 1, classes)


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({"model": nothing}, TypeError, "model must be a function from .* got NoneType from mine; return"),
        ({"model": narrow}, ValueError, r"model must return logits \(2, 3\) .* got \(2, 2\) from mine"),
        ({"model": pair}, ValueError, r"model must return logits \(2, 3\) of two rows, got tuple from mine"),
        ({"model": strict}, ValueError, r"model must take inputs \(2, 4\) in torch.float32, got an error"),
        ({"width": 10**9}, ValueError, "width must fit in memory, got 1000000000: 3 networks would take"),
        ({"device": "abacus"}, ValueError, "device must be .* got 'abacus'"),
        ({"jobs": 0}, ValueError, "jobs must be .* got 0"),
        ({"folds": 200}, ValueError, "folds must be at most .* got 200"),
        ({"costs": "0 | 1, 3"}, ValueError, "costs must name .* got '3'"),
        ({"noise": 1.5}, ValueError, "noise must be a share in .* got 1.5"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_named_before_anything_is_written(arrays, tmp_path, given, error, says):
    """An invalid argument is refused before any file is written."""
    with pytest.raises(error, match=says):
        compare(PAIR, *arrays, **(FAST | {"out": tmp_path / "out", "model_name": "mine"} | given))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("objectives", "says"),
    [
        (["CrossEntropy()"], "objectives must have a candidate beside plain cross entropy, got only"),
        (["Focal(gama=2)"], "Focal must have only its own options, got 'gama'; did you mean gamma"),
        ({"a": "Focal()", "CrossEntropy()": "Brier()"}, r"different names, got 'CrossEntropy\(\)' twice"),
        ([torch.nn.CrossEntropyLoss()], "CrossEntropyLoss"),
        ([Focal], "Focal"),
        ([3], "got a int"),
    ],
)
def test_objectives_that_cannot_be_used_are_named(arrays, objectives, says):
    """Invalid objectives are refused with their names."""
    with pytest.raises((TypeError, ValueError), match=says):
        compare(objectives, *arrays, **FAST)


def test_what_has_no_name_is_not_kept_on_disk(arrays, tmp_path):
    """A model or a loss without a stable name cannot be stored, and is refused with `out`."""

    def make(features, classes):
        return nn.Linear(features, classes)

    with pytest.raises(
        ValueError, match="model_name must be given with out and a model of your own, got None"
    ):
        compare(PAIR, *arrays, model=make, out=tmp_path, **FAST)
    assert compare(PAIR, *arrays, model=make, **FAST).call


def test_somebody_elses_files_are_not_overwritten(arrays, tmp_path):
    """Files that a comparison has not written are not overwritten."""
    out = tmp_path / "out"
    compare(PAIR, *arrays, out=out, **FAST)
    for name in ("report.html", "results.csv", "study.toml"):
        own = (out / name).read_bytes()
        (out / name).write_text("my own")
        with pytest.raises(ValueError, match=f"out must hold nothing .* got '.*{name}', which no comparison"):
            compare(PAIR, *arrays, out=out, **FAST)
        assert (out / name).read_text() == "my own"
        (out / name).write_bytes(own)
    compare(PAIR, *arrays, out=out, **FAST)


def test_a_model_that_fails_in_training_says_its_own_words(arrays, tmp_path):
    """An error raised by the user's model in training is raised unchanged."""

    class Fragile(nn.Linear):
        def forward(self, rows):
            if self.training:
                raise RuntimeError("my own words")
            return super().forward(rows)

    with pytest.raises(RuntimeError, match="my own words"):
        compare(PAIR, *arrays, model=lambda features, classes: Fragile(features, classes), **FAST)


def test_a_baseline_that_diverges_is_refused(arrays):
    """A baseline with infinite logits is refused."""
    with pytest.raises(
        FloatingPointError, match=r"plain cross entropy must have finite logits, .* lower lr from 1e\+30"
    ):
        compare(PAIR, *arrays, **(FAST | {"lr": 1e30}))


def test_what_looks_wrong_in_the_data_is_warned_of(arrays):
    """A column that reveals the class causes a `UserWarning`."""
    rows = np.column_stack([arrays[0], arrays[1]])
    with pytest.warns(UserWarning, match="column 5 of X may be the class in another form"):
        compare(PAIR, rows, arrays[1], **FAST)


def test_a_missing_library_is_named(arrays, monkeypatch):
    """A missing library is named with the command that installs it."""
    monkeypatch.setattr("equipoise.compare.comparison.find_spec", lambda name: name != "sklearn" or None)
    with pytest.raises(ImportError, match=r"compare needs scikit-learn; pip install 'equipoise\[compare\]'"):
        compare(PAIR, *arrays, **FAST)
