"""Policies, masks and environments for the tests of action masks."""

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib import TRPO, MaskablePPO
from stable_baselines3 import A2C, PPO

from equipoise.integrations.sb3_contrib import (
    MapMaskableActorCriticCnnPolicy,
    MapMaskableActorCriticPolicy,
    MapMaskableMultiInputActorCriticPolicy,
)
from equipoise.integrations.stable_baselines3 import (
    MapActorCriticCnnPolicy,
    MapActorCriticPolicy,
    MapMultiInputActorCriticPolicy,
)
from equipoise.maps import Floored, Map

FLOOR = 0.05
DISCRETE, MULTI = spaces.Discrete(5), spaces.MultiDiscrete([3, 2])  # five entries in each mask
BOX, IMAGE = spaces.Box(-1.0, 1.0, (3,)), spaces.Box(0, 255, (1, 36, 36), np.uint8)
WITH_MASK = spaces.Dict({"x": BOX, "mask": spaces.MultiBinary(5)})

VECTOR = (MapActorCriticPolicy, MapMaskableActorCriticPolicy)
PICTURE = (MapActorCriticCnnPolicy, MapMaskableActorCriticCnnPolicy)
DICT = (MapMultiInputActorCriticPolicy, MapMaskableMultiInputActorCriticPolicy)
OBSERVED = {**dict.fromkeys(VECTOR, BOX), **dict.fromkeys(PICTURE, IMAGE), **dict.fromkeys(DICT, WITH_MASK)}


def parts_of(space: Any) -> list[int]:
    return [int(space.n)] if isinstance(space, spaces.Discrete) else [int(n) for n in space.nvec]


def draw_masks(random: np.random.Generator, space: Any, rows: int) -> np.ndarray:
    """Return masks with at least one action allowed in every part."""
    masks = random.random((rows, 5)) < 0.4
    starts = np.cumsum([0, *parts_of(space)[:-1]])
    for start, size in zip(starts, parts_of(space), strict=True):
        masks[np.arange(rows), start + random.integers(size, size=rows)] = True
    return masks


def make_policy(kind: Any, space: Any, map: Map | None = None, **more: Any) -> Any:
    policy = kind(OBSERVED[kind], space, lambda _: 1e-3, map=map or Floored(FLOOR), **more)
    with torch.no_grad():
        policy.action_net.weight.normal_(std=3.0)  # the first weights are small, and leave all actions alike
        policy.action_net.bias.normal_()
    return policy


def draw_observations(kind: Any, random: np.random.Generator, rows: int, masks: np.ndarray) -> Any:
    if kind in PICTURE:
        return random.integers(0, 256, (rows, 1, 36, 36)).astype(np.uint8)
    x = random.uniform(-1, 1, (rows, 3)).astype(np.float32)
    return {"x": x, "mask": masks.astype(np.int8)} if kind in DICT else x


def take(obs: Any, row: Any) -> Any:
    return {key: value[row] for key, value in obs.items()} if isinstance(obs, dict) else obs[row]


class Masked(gymnasium.Env[Any, Any]):
    """One action of each part is right and some others are allowed; every illegal action is counted.

    Args:
        space: The actions.
        mask: Space of the mask in the observation, or None for no mask in it.
    """

    def __init__(self, space: Any = DISCRETE, mask: Any = None) -> None:
        self.action_space, self.mask_space = space, mask
        self.observation_space = spaces.Dict({"x": BOX, "mask": mask}) if mask is not None else BOX
        self.steps = self.illegal = 0

    def observe(self) -> Any:
        self.goal = self.np_random.uniform(-1, 1, 3).astype(np.float32)
        self.mask = draw_masks(self.np_random, self.action_space, 1)[0]
        return self.goal if self.mask_space is None else {"x": self.goal, "mask": self.shown()}

    def shown(self) -> np.ndarray:
        return self.mask.astype(self.mask_space.dtype)

    def action_masks(self) -> np.ndarray:
        return self.mask

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.left = 15
        return self.observe(), {}

    def step(self, action: Any) -> Any:
        chosen = np.atleast_1d(action).tolist()
        starts = np.cumsum([0, *parts_of(self.action_space)[:-1]])
        illegal = not all(self.mask[s + a] for s, a in zip(starts, chosen, strict=True))
        self.steps, self.illegal = self.steps + 1, self.illegal + illegal
        reward = 1.0 if chosen[-1] == int(self.goal[0] > 0) else 0.0
        self.left -= 1
        return self.observe(), reward, False, self.left == 0, {"illegal": illegal}


class OneAllowed(gymnasium.Env[Any, Any]):
    """One of four actions is allowed in each step, and nothing comes of it."""

    action_space = spaces.Discrete(4)
    observation_space = spaces.Dict({"x": BOX, "mask": spaces.Box(0.0, 1.0, (4,))})

    def observe(self) -> Any:
        x = self.np_random.uniform(-1, 1, 3).astype(np.float32)
        return {"x": x, "mask": np.eye(4, dtype=np.float32)[self.np_random.integers(4)]}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self.observe(), {}

    def step(self, action: Any) -> Any:
        return self.observe(), 0.0, False, False, {}


SETTINGS = {
    PPO: {"n_steps": 64, "batch_size": 32, "n_epochs": 3},
    MaskablePPO: {"n_steps": 64, "batch_size": 32, "n_epochs": 3},
    TRPO: {"n_steps": 64, "batch_size": 32},
    A2C: {},
}
POLICIES = {MaskablePPO: (MapMaskableActorCriticPolicy, MapMaskableMultiInputActorCriticPolicy)}


def make_model(algorithm: Any, env: Any, policy: Any = None, **kwargs: Any) -> Any:
    kinds = POLICIES.get(algorithm, (MapActorCriticPolicy, MapMultiInputActorCriticPolicy))
    kind = policy or kinds[isinstance(env.observation_space, spaces.Dict)]
    more = {"map": Floored(FLOOR), **kwargs}
    settings = SETTINGS[algorithm]
    return algorithm(kind, env, learning_rate=3e-2, policy_kwargs=more, device="cpu", seed=0, **settings)
