"""stable-baselines3 itself, with policies over a map: floors and masks hold, saving and resuming work."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

stable_baselines3 = pytest.importorskip("stable_baselines3", reason="stable-baselines3 is not installed")
from stable_baselines3 import A2C, PPO  # noqa: E402
from stable_baselines3.common.distributions import kl_divergence  # noqa: E402

from equipoise.integrations.stable_baselines3 import (  # noqa: E402
    MapActorCriticPolicy,
    MapCategoricalDistribution,
    MapMultiCategoricalDistribution,
    MapMultiInputActorCriticPolicy,
)
from equipoise.maps import Clipped, ClippedLogits, Floored, Projected  # noqa: E402

pytestmark = pytest.mark.slow  # whole trainings

FLOOR = 0.05


class Identity(gymnasium.Env[Any, Any]):
    """The action must repeat what is seen; with a mask, only some actions are open."""

    def __init__(self, space: Any, masked: bool = False) -> None:
        self.action_space = space
        sizes = [int(space.n)] if isinstance(space, spaces.Discrete) else [int(n) for n in space.nvec]
        self.sizes, self.masked, self.taken = sizes, masked, []
        box = spaces.Box(0.0, 1.0, (sum(sizes),))
        self.observation_space = spaces.Dict({"state": box, "mask": box}) if masked else box

    def observe(self) -> Any:
        self.goal = [int(self.np_random.integers(n)) for n in self.sizes]
        state = np.concatenate([np.eye(n)[g] for n, g in zip(self.sizes, self.goal, strict=True)]).astype(
            np.float32
        )
        if not self.masked:
            return state
        open_ = self.np_random.random(len(state)) < 0.5
        self.open = np.maximum(open_, state > 0)
        return {"state": state, "mask": self.open.astype(np.float32)}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.left = 20
        return self.observe(), {}

    def step(self, action: Any) -> Any:
        chosen = np.atleast_1d(action).tolist()
        if self.masked:
            starts = np.cumsum([0, *self.sizes[:-1]])
            self.taken.append(all(self.open[s + a] for s, a in zip(starts, chosen, strict=True)))
        reward = float(np.mean([a == g for a, g in zip(chosen, self.goal, strict=True)]))
        self.left -= 1
        return self.observe(), reward, False, self.left == 0, {}


def make(algorithm: Any, env: Any, map: Any, policy: Any = MapActorCriticPolicy, **more: Any) -> Any:
    kwargs = {"policy_kwargs": {"map": map, "net_arch": [16], **more}, "device": "cpu", "seed": 0}
    if algorithm is PPO:
        kwargs |= {"n_steps": 64, "batch_size": 32, "n_epochs": 4}
    return algorithm(policy, env, learning_rate=3e-2, **kwargs)


def watch(model: Any) -> list[float]:
    """Note the smallest probability of every distribution the policy makes, over what is not masked."""
    seen: list[float] = []
    policy = model.policy
    inner = policy._get_action_dist_from_latent

    def noting(latent: Any) -> Any:
        made = inner(latent)
        parts = made.distribution if isinstance(made.distribution, list) else [made.distribution]
        seen.extend(p.probs[p.raw_logits > -torch.inf].min().item() for p in parts)
        return made

    policy._get_action_dist_from_latent = noting
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", [PPO, A2C])
@pytest.mark.parametrize("space", [spaces.Discrete(4), spaces.MultiDiscrete([3, 4])], ids=str)
@pytest.mark.parametrize("map", [Floored(FLOOR), Projected(FLOOR)], ids=repr)
def test_no_action_falls_below_the_floor_in_a_whole_run(algorithm: Any, space: Any, map: Any) -> None:
    """No action falls below the floor in a whole run."""
    model = make(algorithm, Identity(space), map)
    seen = watch(model)
    model.learn(1500)
    assert len(seen) > 100
    assert FLOOR * (1 - 1e-6) <= min(seen) < 0.1  # it is pressed against the floor, and holds


def test_control_a_plain_policy_falls_below_the_floor() -> None:
    """Without a map, an action falls below the floor."""
    model = PPO(
        "MlpPolicy",
        Identity(spaces.Discrete(4)),
        n_steps=64,
        batch_size=32,
        learning_rate=3e-2,
        seed=0,
        device="cpu",
    )
    model.learn(1500)
    states = torch.eye(4)
    assert model.policy.get_distribution(states).distribution.probs.min() < FLOOR


@pytest.mark.slow
def test_it_learns_as_far_as_the_floor_lets_it() -> None:
    """The policy learns the task, and its probabilities reach the limit of the floor."""
    model = make(PPO, Identity(spaces.Discrete(4)), Floored(0.02))
    model.learn(4000)
    actions, _ = model.predict(np.eye(4, dtype=np.float32), deterministic=True)
    assert actions.tolist() == [0, 1, 2, 3]
    assert model.policy.get_distribution(torch.eye(4)).distribution.probs.diagonal().min() > 0.7


@pytest.mark.slow
@pytest.mark.parametrize("space", [spaces.Discrete(5), spaces.MultiDiscrete([3, 4])], ids=str)
def test_masked_actions_are_never_taken_and_the_floor_is_over_the_others(space: Any) -> None:
    """Masked actions are never taken, and the floor holds over the allowed ones."""
    env = Identity(space, masked=True)
    model = make(PPO, env, Floored(FLOOR), MapMultiInputActorCriticPolicy, mask_key="mask")
    seen = watch(model)
    model.learn(800)
    assert len(env.taken) >= 800
    assert all(env.taken)
    assert min(seen) >= FLOOR * (1 - 1e-6)
    careless = Identity(space, masked=True)
    make(PPO, careless, Floored(FLOOR), MapMultiInputActorCriticPolicy).learn(200)
    assert not all(careless.taken)  # control: without the key nothing is masked


@pytest.mark.parametrize("algorithm", [PPO, A2C])
def test_saved_loaded_and_resumed(algorithm: Any, tmp_path: Path) -> None:
    """A saved model is loaded with its map and continues training."""
    model = make(algorithm, Identity(spaces.Discrete(4)), Projected(FLOOR, "euclidean"))
    model.learn(300)
    model.save(tmp_path / "model")
    again = algorithm.load(tmp_path / "model", env=Identity(spaces.Discrete(4)), device="cpu")
    assert again.policy.map == Projected(FLOOR, "euclidean")

    def weights(one: Any) -> torch.Tensor:
        return torch.nn.utils.parameters_to_vector(one.policy.parameters()).detach()

    assert torch.equal(weights(model), weights(again))
    seen = watch(again)
    again.learn(300, reset_num_timesteps=False)
    assert again.num_timesteps >= 600
    assert min(seen) >= FLOOR * (1 - 1e-6)
    assert not torch.equal(weights(model), weights(again))
    policy = MapActorCriticPolicy.load(_policy_saved(model, tmp_path), device="cpu")
    assert policy.map == model.policy.map


def _policy_saved(model: Any, folder: Path) -> str:
    model.policy.save(folder / "policy")
    return str(folder / "policy")


MAPS = [Floored(0.02), Projected(0.02), Clipped(0.02), ClippedLogits(-2.0, 2.0)]


@pytest.mark.parametrize("map", MAPS, ids=repr)
def test_the_distributions_keep_the_contract_of_the_library(map: Any) -> None:
    """Samples, log-probabilities and entropies of the distributions agree."""
    logits = torch.randn(1, 5).expand(30000, 5)
    one = MapCategoricalDistribution(5, map)
    actions = one.actions_from_params(logits)
    entropy = one.entropy()
    torch.testing.assert_close(entropy.mean(), -one.log_prob(actions).mean(), rtol=5e-3, atol=5e-3)
    again, log_prob = one.log_prob_from_params(logits)
    torch.testing.assert_close(one.log_prob(again), log_prob)
    assert torch.equal(one.mode(), map.probs(logits).argmax(1))

    many = MapMultiCategoricalDistribution([2, 3], map)
    actions = many.actions_from_params(logits)
    assert actions.shape == (30000, 2)
    torch.testing.assert_close(many.entropy().mean(), -many.log_prob(actions).mean(), rtol=5e-3, atol=5e-3)
    every = torch.tensor([[a, b] for a in range(2) for b in range(3)])
    small = MapMultiCategoricalDistribution([2, 3], map).proba_distribution(logits[:6])
    torch.testing.assert_close(small.log_prob(every).exp().sum(), torch.tensor(1.0))

    for make_one, width in (
        (lambda: MapCategoricalDistribution(5, map), 5),
        (lambda: MapMultiCategoricalDistribution([2, 3], map), 5),
    ):
        p, q = (make_one().proba_distribution(torch.randn(1, width).expand(30000, width)) for _ in range(2))
        drawn = p.sample()
        sampled = (p.log_prob(drawn) - q.log_prob(drawn)).mean()
        exact = kl_divergence(p, q)
        exact = exact.sum(1) if exact.ndim == 2 else exact
        torch.testing.assert_close(exact.mean(), sampled, rtol=0.05, atol=0.02)


def test_another_map_is_in_force_as_soon_as_it_is_set() -> None:
    """A new map applies from the next call."""
    model = make(PPO, Identity(spaces.Discrete(4)), Floored(0.01))
    policy: Any = model.policy
    seen = policy.obs_to_tensor(model.get_env().reset())[0]  # pyright: ignore[reportOptionalMemberAccess]
    for floor in (0.2, 0.25):
        policy.map = Floored(floor)
        assert policy.get_distribution(seen).distribution.probs.min() >= floor - 1e-6
    with pytest.raises(ValueError, match=r"floor must be at most 1/4"):
        policy.map = Floored(0.3)
    assert policy.map == Floored(0.25)


def test_errors() -> None:
    """A floor that does not fit, no map and a continuous action space are refused by name."""
    with pytest.raises(ValueError, match=r"floor must be at most 1/4 = 0\.25 for 4 classes, got 0\.3"):
        make(PPO, Identity(spaces.Discrete(4)), Floored(0.3))
    with pytest.raises(ValueError, match=r"floor must be at most 1/5"):
        make(PPO, Identity(spaces.MultiDiscrete([3, 5])), Floored(0.21))
    with pytest.raises(TypeError, match=r"map must be a Map of equipoise.maps, got 0\.1"):
        make(PPO, Identity(spaces.Discrete(4)), 0.1)
    with pytest.raises(
        ValueError, match="the action space must be Discrete or MultiDiscrete for a map, got Box"
    ):
        make(PPO, "Pendulum-v1", Floored(0.1))


def test_a_missing_library_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without stable-baselines3, the error names the command that installs it."""
    import importlib
    import sys

    monkeypatch.setitem(sys.modules, "stable_baselines3.common", None)
    monkeypatch.delitem(sys.modules, "equipoise.integrations.stable_baselines3")
    with pytest.raises(
        ImportError, match=r"integrations\.stable_baselines3 needs stable-baselines3; pip install"
    ):
        importlib.import_module("equipoise.integrations.stable_baselines3")
