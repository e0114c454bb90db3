"""The benchmarks of the training loop: what they time is right first, and they say what they found."""

from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    torch.set_deterministic_debug_mode("default")  # fresh memory need not be poisoned for whole trainings


def test_nothing_is_timed_where_the_two_ways_disagree(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If the two ways to train disagree, nothing is timed."""
    module = import_module("benchmarks.together")
    named = module.objectives(2)
    assert module.largest_difference(named["CrossEntropy()"]) <= 1e-9
    monkeypatch.setattr(module, "objectives", lambda epochs: {"CrossEntropy()": {"loss": "CrossEntropy()"}})
    monkeypatch.setattr(module, "EXACT", -1.0)
    assert module.main(["--repeats", "1"]) == 1
    assert "Nothing was timed: weights differ by" in capsys.readouterr().err


def test_folds_are_those_of_a_comparison() -> None:
    """The folds of the benchmark are those of a comparison."""
    module = import_module("benchmarks.together")
    folds = module.folds()
    assert {-(-len(fold.train.target) // module.BATCH) for fold in folds} == {module.STEPS}
    tested = np.concatenate([fold.test.inputs.numpy() for fold in folds])
    assert len(tested) == 1797
    config = module.objectives(1)["GeneralizedCrossEntropy(q=0.7)"]
    seconds, found = module.measured(config, folds[:2], 2)
    assert seconds > 0
    for fold, both in zip(folds, found, strict=False):
        _, (alone,) = module.measured(config, [fold], 2)
        assert both["accuracy"] == pytest.approx(alone["accuracy"], abs=0.006)  # a row of 180
        assert both["nll"] == pytest.approx(alone["nll"], rel=1e-3)


def test_calls_are_against_the_first_objective() -> None:
    """Each objective is compared with the first one."""
    module = import_module("benchmarks.together")
    spread = np.linspace(-0.001, 0.001, 10)
    values = {
        name: [{"accuracy": accuracy + more, "nll": 1.0} for more in spread * (1 + place)]
        for place, (name, accuracy) in enumerate({"first": 0.8, "better": 0.9, "worse": 0.7}.items())
    }
    assert module.calls(values, "accuracy") == ["better", "worse"]
