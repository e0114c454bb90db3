"""Plain data of an objective, TOML and Hydra make the objective again."""

import json
import tomllib
from typing import Any

import numpy as np
import pytest
import torch

from equipoise import Objective
from equipoise.losses import ExpectedCost, GammaCrossEntropy
from equipoise.parsing import to_text
from equipoise.penalties import Balance, LogitRange
from equipoise.schedules import Linear

COSTS = np.array([[0.0, 2.0], [1.0, 0.0]])


def there_and_back(objective: Objective) -> Objective:
    """Return what is made anew of the plain data, after a journey through JSON."""
    return Objective.from_config(**json.loads(json.dumps(objective.to_config())))


def test_weights_and_options_go_there_and_back_and_the_loss_is_the_same() -> None:
    weight = torch.tensor([0.1, 1.0, 3.0])
    logits, target = torch.randn(9, 3), torch.arange(9) % 3
    objective = Objective(GammaCrossEntropy() + 0.1 * Balance(), weight=weight, ignore_index=2)
    again = there_and_back(objective)
    assert again.weight is not None
    assert torch.equal(again.weight, weight)
    assert torch.equal(again(logits, target), objective(logits, target))
    assert not torch.equal(Objective(objective.loss)(logits, target), objective(logits, target))


def test_what_has_changed_in_training_is_left_to_the_state_dict() -> None:
    objective = Objective(GammaCrossEntropy(), schedules={"gamma": Linear(0, 0.5, steps=10)})
    objective.step()
    again = there_and_back(objective)
    assert again.scheduled() == {"gamma": 0.0}
    again.load_state_dict(objective.state_dict())
    assert again.scheduled() == objective.scheduled() == {"gamma": 0.05}


def test_numbers_of_numpy_are_written_as_numbers() -> None:
    loss = np.float64(0.5) * GammaCrossEntropy(gamma=np.float64(0.1))
    assert to_text(loss) == "0.5 * GammaCrossEntropy(gamma=0.1, min_weight=0.0)"
    assert "np.float64" in repr(loss)  # the control: what print shows is not read


TEXT = """
loss = "GammaCrossEntropy(gamma=0.1) + 0.5 * LogitRange(width=8)"
weight = [1.0, 2, 0.5]
reduction = "sum"

[schedules]
gamma = "Linear(0.0, 0.5, steps=1000)"
"LogitRange" = "Linear(0.5, 0.5, 1)"
"""
MADE = Objective(
    GammaCrossEntropy(gamma=0.1) + 0.5 * LogitRange(width=8),
    weight=torch.tensor([1.0, 2.0, 0.5]),
    reduction="sum",
    schedules={"gamma": Linear(0.0, 0.5, steps=1000), "LogitRange": Linear(0.5, 0.5, 1)},
)


def same(one: Objective, two: Objective) -> bool:
    """Whether two objectives have the same plain data and state."""
    states = one.state_dict(), two.state_dict()
    return one.to_config() == two.to_config() and all(
        torch.equal(value, states[1][key]) for key, value in states[0].items()
    )


def test_toml() -> None:
    """A TOML table makes the objective that it spells."""
    config = tomllib.loads(TEXT)
    assert same(Objective.from_config(**config), MADE)
    assert not same(Objective.from_config(**config | {"reduction": "mean"}), MADE)


def from_hydra(config: dict[str, Any], **options: Any) -> Any:
    pytest.importorskip("hydra", reason="hydra-core is not installed")
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    return instantiate(OmegaConf.create(config), **options)


def test_hydra() -> None:
    """Hydra makes the objective of the same table."""
    config = {"_target_": "equipoise.Objective.from_config", **tomllib.loads(TEXT)}
    assert same(from_hydra(config), MADE)


def test_hydra_makes_the_parts() -> None:
    gamma = {"_target_": "equipoise.losses.GammaCrossEntropy", "gamma": 0.1}
    assert from_hydra(gamma) == GammaCrossEntropy(gamma=0.1)
    linear = {"_target_": "equipoise.schedules.Linear", "start": 0, "end": 0.5, "steps": 1000}
    expected = Objective(GammaCrossEntropy(0.1), schedules={"gamma": Linear(0, 0.5, 1000)})
    for target in ("equipoise.Objective.from_config", "equipoise.Objective"):
        config = {"_target_": target, "_convert_": "all", "loss": gamma, "schedules": {"gamma": linear}}
        assert same(from_hydra(config), expected)
        with pytest.raises(Exception, match=r"schedules\['gamma'\] must be a schedule"):
            from_hydra(config, _convert_="none")  # which turns a dataclass in a dict into a config again
    costs = {"_target_": "equipoise.losses.ExpectedCost", "costs": [[0, 2], [1, 0]]}
    assert from_hydra(costs, _convert_="all") == ExpectedCost(COSTS)
