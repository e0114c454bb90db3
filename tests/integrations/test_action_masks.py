"""Masks of actions in the policies for stable-baselines3 and sb3-contrib: every entry, whole runs, errors."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

pytest.importorskip("stable_baselines3", reason="stable-baselines3 is not installed")
pytest.importorskip("sb3_contrib", reason="sb3-contrib is not installed")
from sb3_contrib import TRPO, MaskablePPO
from sb3_contrib.common.maskable.evaluation import evaluate_policy as evaluate_maskable
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecFrameStack,
    VecNormalize,
)

from equipoise.distributions import Categorical
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
from equipoise.maps import Clipped, ClippedLogits, Floored, Map, Projected, Softmax

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


def in_tensors(obs: Any) -> Any:
    return (
        {key: torch.as_tensor(value) for key, value in obs.items()}
        if isinstance(obs, dict)
        else torch.as_tensor(obs)
    )


def scores(policy: Any, obs: Any) -> tuple[Tensor, Tensor]:
    """Return the logits (A,) in double precision and the value of one observation, by the networks alone."""
    one, _ = policy.obs_to_tensor(obs)
    features = policy.extract_features(one)
    actor, critic = features if isinstance(features, tuple) else (features, features)
    logits = policy.action_net(policy.mlp_extractor.forward_actor(actor))[0]
    return logits.double(), policy.value_net(policy.mlp_extractor.forward_critic(critic))[0]


def floored(logits: Tensor, allowed: Any) -> Tensor:
    """Return the probabilities of one part, by the definition of the floor over the allowed actions."""
    allowed = torch.as_tensor(np.asarray(allowed, dtype=bool))
    some = torch.softmax(logits[allowed], 0)
    return torch.zeros_like(logits).masked_scatter(allowed, FLOOR + (1 - FLOOR * len(some)) * some)


def oracle(policy: Any, space: Any, obs: Any, masks: np.ndarray) -> Iterator[tuple[list[Tensor], Tensor]]:
    """Yield the probabilities of each part and the value, one observation after another."""
    for row, mask in enumerate(masks):
        logits, value = scores(policy, take(obs, row))
        sizes = parts_of(space)
        blocks = zip(logits.split(sizes), np.split(mask, np.cumsum(sizes)[:-1]), strict=True)
        yield [floored(z, m) for z, m in blocks], value


def probs_of(distribution: Any) -> list[Tensor]:
    parts = distribution.distribution
    return [part.probs for part in (parts if isinstance(parts, list) else [parts])]


def check_entries(policy: Any, space: Any, obs: Any, masks: np.ndarray, given: dict[str, Any]) -> None:
    """Compare every entry of a policy with a loop over single observations."""
    close: Callable[..., None] = lambda a, b: torch.testing.assert_close(  # noqa: E731
        a.double(), b.double(), rtol=2e-5, atol=2e-6
    )
    policy.set_training_mode(False)
    single = list(oracle(policy, space, obs, masks))
    truth = [torch.stack(part) for part in zip(*(probs for probs, _ in single), strict=True)]
    values = torch.stack([value for _, value in single])
    tensors, _ = policy.obs_to_tensor(obs)

    for ours, right in zip(probs_of(policy.get_distribution(tensors, **given)), truth, strict=True):
        close(ours, right)
        assert (ours[right == 0] == 0).all()
        assert ours[right > 0].min() >= FLOOR * (1 - 1e-6)

    def log_prob(actions: Any) -> Tensor:
        chosen = torch.as_tensor(actions).reshape(len(masks), -1)
        return sum((p.gather(1, a[:, None])[:, 0].log() for p, a in zip(truth, chosen.T, strict=True)), 0.0)

    best = torch.stack([p.argmax(1) for p in truth], 1).reshape(len(masks), *space.shape)
    for deterministic in (True, False):
        actions, seen, logs = policy(tensors, deterministic, **given)
        close(logs, log_prob(actions))  # infinite if one of them is masked
        close(seen, values)
        assert not deterministic or torch.equal(actions, best)
        seen, logs, entropy = policy.evaluate_actions(tensors, actions, **given)
        close(logs, log_prob(actions))
        close(seen, values)
        close(entropy, sum(-torch.special.xlogy(p, p).sum(1) for p in truth))
        for _ in range(20):
            actions, state = policy.predict(obs, deterministic=deterministic, **given)
            assert state is None
            assert actions.shape == (len(masks), *space.shape)
            assert log_prob(actions).isfinite().all()
            assert not deterministic or np.array_equal(actions, best)
    close(policy.predict_values(tensors), values)

    for row in range(len(masks)):
        own = {key: value[row] for key, value in given.items()}
        action, _ = policy.predict(take(obs, row), deterministic=True, **own)
        assert action.shape == space.shape
        assert np.array_equal(action, best[row])
        if OBSERVED[type(policy)] is not IMAGE:  # stable-baselines3 takes no image as a tensor there
            action, _ = policy.predict(take(in_tensors(obs), row), deterministic=True, **own)
            assert np.array_equal(action, best[row])


@pytest.mark.filterwarnings(
    "ignore:__array__ implementation"
)  # by stable-baselines3, of tensors in `predict`
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "apart"])
@pytest.mark.parametrize("space", [DISCRETE, MULTI], ids=str)
@pytest.mark.parametrize("kind", [*VECTOR, *PICTURE, *DICT], ids=lambda kind: kind.__name__)
def test_every_entry_sees_the_mask(kind: Any, space: Any, shared: bool, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    masks, others = (draw_masks(random, space, 6) for _ in range(2))
    open_ = np.ones_like(masks)
    obs = draw_observations(kind, random, 6, masks)
    policy = make_policy(kind, space, share_features_extractor=shared)
    policy.save(tmp_path / "policy")
    again = kind.load(tmp_path / "policy", device="cpu")
    for one in (policy, again):
        check_entries(one, space, obs, masks, {"action_masks": masks})
        check_entries(one, space, obs, others, {"action_masks": torch.as_tensor(others).float()})
        check_entries(one, space, obs, open_, {})  # nothing is left of the masks before
    if kind not in DICT:
        return
    policy = make_policy(kind, space, mask_key="mask", share_features_extractor=shared)
    policy.save(tmp_path / "masked")
    again = kind.load(tmp_path / "masked", device="cpu")
    for one in (policy, again):
        for now in (masks, others):
            check_entries(one, space, {**obs, "mask": now.astype(np.int8)}, now, {})
        check_entries(one, space, {**obs, "mask": open_.astype(np.int8)}, masks, {"action_masks": masks})
        with_both = {**obs, "mask": np.maximum(masks, others)}
        check_entries(one, space, with_both, masks, {"action_masks": masks})


@pytest.mark.parametrize("space", [DISCRETE, MULTI], ids=str)
@pytest.mark.parametrize("kind", [*VECTOR, *DICT], ids=lambda kind: kind.__name__)
def test_gradients_are_those_of_the_allowed_actions(kind: Any, space: Any) -> None:
    random = np.random.default_rng(1)
    masks = draw_masks(random, space, 8)
    obs = draw_observations(kind, random, 8, masks)
    policy = make_policy(kind, space)
    tensors, _ = policy.obs_to_tensor(obs)
    actions, _, _ = policy(tensors, action_masks=masks)
    _, logs, entropy = policy.evaluate_actions(tensors, actions, masks)
    ours = torch.autograd.grad((logs + entropy).sum(), policy.action_net.weight)[0]
    right = torch.zeros(())
    chosen = actions.reshape(8, -1)
    for row, (parts, _) in enumerate(oracle(policy, space, obs, masks)):
        for p, a in zip(parts, chosen[row], strict=True):
            right = right + p[a].log() - (p[p > 0] * p[p > 0].log()).sum()
    right = torch.autograd.grad(right, policy.action_net.weight)[0]
    torch.testing.assert_close(ours, right, rtol=1e-4, atol=1e-5)


def test_what_was_given_back_stays_as_it_is() -> None:
    policy = make_policy(MapActorCriticPolicy, DISCRETE)
    obs, other = torch.randn(2, 4, 3)
    mask = [1, 0, 0, 1, 0]
    masked = policy.get_distribution(obs, action_masks=mask)
    before = masked.distribution.probs.clone()
    free = policy.get_distribution(obs).distribution.probs
    policy(other, action_masks=[0, 1, 1, 0, 0])
    assert torch.equal(masked.distribution.probs, before)
    assert set(masked.get_actions().tolist()) <= {0, 3}
    masked.apply_masking([0, 1, 0, 0, 0])
    assert masked.mode().tolist() == [1] * 4
    masked.apply_masking(None)
    assert torch.equal(masked.distribution.probs, free)
    assert (free > 0).all()

    policy = make_policy(MapMultiInputActorCriticPolicy, MULTI, mask_key="mask")
    seen = {"x": obs, "mask": torch.tensor([[1, 0, 1, 0, 1]] * 4)}
    masked = policy.get_distribution(seen, action_masks=[1, 1, 0, 1, 1])
    assert masked.mode().tolist() == [[0, 1]] * 4
    masked.apply_masking(None)  # the mask of the observation stays
    three, two = (part.probs for part in masked.distribution)
    assert (three[:, 1] == 0).all()
    assert (three[:, [0, 2]] > 0).all()
    assert two.tolist() == [[0.0, 1.0]] * 4


MAPS = [Softmax(), Floored(0.02), Projected(0.02), Projected(0.02, "euclidean"), Clipped(0.02)]


@pytest.mark.parametrize("map", [*MAPS, ClippedLogits(-2.0, 2.0)], ids=repr)
def test_every_map_gives_masked_actions_nothing(map: Map) -> None:
    random = np.random.default_rng(2)
    masks = draw_masks(random, MULTI, 50)
    policy = make_policy(MapActorCriticPolicy, MULTI, map)
    obs = torch.randn(50, 3)
    three, two = probs_of(policy.get_distribution(obs, action_masks=masks))
    assert torch.equal(torch.cat((three, two), 1) > 0, torch.as_tensor(masks))
    for row, mask in enumerate(masks):  # as the map does it without the others there
        logits = policy.action_net(policy.mlp_extractor.forward_actor(obs[row : row + 1]))[0]
        some = torch.as_tensor(mask[:3])
        torch.testing.assert_close(three[row, some], map.probs(logits[:3][some]))


KINDS = [bool, np.int8, np.uint8, np.uint16, np.int64, np.float16, np.float64]


@pytest.mark.parametrize("dtype", KINDS, ids=lambda dtype: dtype.__name__)
def test_masks_of_any_dtype_and_form(dtype: Any) -> None:
    masks = np.array([[1, 0, 0, 1, 0], [0, 1, 1, 0, 0]])
    policy = make_policy(MapActorCriticPolicy, DISCRETE)
    obs = torch.randn(2, 3)
    right = policy.get_distribution(obs, action_masks=masks).distribution.probs
    frozen = masks.astype(dtype)
    frozen.flags.writeable = False
    for form in (
        frozen,
        frozen[::-1][::-1],
        list(frozen),
        frozen.tolist(),
        torch.as_tensor(masks.astype(dtype)),
    ):
        assert torch.equal(policy.get_distribution(obs, action_masks=form).distribution.probs, right)
    for row, mask in enumerate(frozen):
        one = policy.get_distribution(obs[row : row + 1], action_masks=mask).distribution.probs
        torch.testing.assert_close(one[0], right[row])
    several = policy.get_distribution(obs, action_masks=frozen[0]).distribution.probs
    assert (several[:, [1, 2, 4]] == 0).all()


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


def smallest_scored(model: Any) -> list[float]:
    """Note the smallest probability of the actions that the policy takes and scores from now on."""
    seen: list[float] = []
    policy, forward, evaluate = model.policy, model.policy.forward, model.policy.evaluate_actions

    def noting(out: Any, place: int) -> Any:
        seen.append(out[place].detach().exp().min().item())
        return out

    policy.forward = lambda *args, **kwargs: noting(forward(*args, **kwargs), 2)
    policy.evaluate_actions = lambda *args, **kwargs: noting(evaluate(*args, **kwargs), 1)
    return seen


def vectors(make: Callable[[], Any], wrapper: str) -> tuple[Any, list[Any]]:
    envs = [make() for _ in range(2)]
    several = DummyVecEnv([lambda env=env: Monitor(env) for env in envs])
    if wrapper == "VecNormalize":
        keys = ["x"] if isinstance(several.observation_space, spaces.Dict) else None
        return VecNormalize(several, norm_obs_keys=keys), envs
    return several, envs


def counts(envs: list[Any]) -> tuple[int, int]:
    """Return the steps taken since the last call, and the illegal ones among them."""
    taken = sum(env.steps for env in envs), sum(env.illegal for env in envs)
    for env in envs:
        env.steps = env.illegal = 0
    return taken


@pytest.mark.parametrize("wrapper", ["DummyVecEnv", "VecNormalize"])
@pytest.mark.parametrize("space", [DISCRETE, MULTI], ids=str)
@pytest.mark.parametrize("algorithm", [PPO, A2C, TRPO, MaskablePPO], ids=lambda one: one.__name__)
def test_no_illegal_action_in_whole_runs(algorithm: Any, space: Any, wrapper: str, tmp_path: Path) -> None:
    beside = algorithm is MaskablePPO
    mask, evaluate = (None, evaluate_maskable) if beside else (spaces.MultiBinary(5), evaluate_policy)
    env, envs = vectors(lambda: Masked(space, mask), wrapper)
    model = make_model(algorithm, env, **({} if beside else {"mask_key": "mask"}))
    parts = len(parts_of(space))
    for loaded in (False, True):
        if loaded:
            model.save(tmp_path / "model")
            model = algorithm.load(tmp_path / "model", env, device="cpu")
        for deterministic in (True, False):
            evaluate(model, env, n_eval_episodes=6, deterministic=deterministic)
        steps, illegal = counts(envs)
        assert steps >= 150
        assert illegal == 0
        seen = smallest_scored(model)
        model.learn(400, reset_num_timesteps=not loaded)
        steps, illegal = counts(envs)
        assert steps >= 400
        assert illegal == 0
        assert FLOOR**parts * (1 - 1e-5) <= min(seen)
        assert algorithm is TRPO or min(seen) < 1.5 * FLOOR  # it is pressed against the floor
        assert np.isfinite(seen).all()
        del model.policy.forward, model.policy.evaluate_actions


@pytest.mark.parametrize("algorithm", [PPO, MaskablePPO], ids=lambda one: one.__name__)
def test_control_illegal_actions_are_counted(algorithm: Any) -> None:
    env, envs = vectors(lambda: Masked(DISCRETE, spaces.MultiBinary(5)), "DummyVecEnv")
    model = make_model(algorithm, env)
    model.learn(128, **({"use_masking": False} if algorithm is MaskablePPO else {}))
    assert counts(envs)[1] > 20
    evaluate_policy(model, env, n_eval_episodes=4)
    assert counts(envs)[1] > 10


@pytest.mark.parametrize("space", [DISCRETE, MULTI], ids=str)
def test_maskable_ppo_with_masks_in_and_beside_the_observation(space: Any, tmp_path: Path) -> None:
    env, envs = vectors(lambda: Masked(space, spaces.MultiBinary(5)), "DummyVecEnv")
    model = make_model(MaskablePPO, env, mask_key="mask").learn(256)
    evaluate_policy(model, env, n_eval_episodes=6, deterministic=False)  # without action_masks
    assert counts(envs)[1] == 0
    model.save(tmp_path / "model")
    again = MaskablePPO.load(tmp_path / "model", env, device="cpu")
    evaluate_policy(again, env, n_eval_episodes=6, deterministic=False)
    assert counts(envs)[1] == 0


def test_masks_from_other_processes() -> None:
    env = SubprocVecEnv([lambda: Masked(DISCRETE, spaces.MultiBinary(5))] * 2, start_method="fork")
    try:
        model = make_model(PPO, env, mask_key="mask")
        illegal: list[bool] = []

        def note(seen: Any, _: Any) -> bool:
            illegal.extend(info["illegal"] for info in seen["infos"])
            return True

        model.learn(128, callback=note)
        assert len(illegal) >= 128
        obs = env.reset()
        for _ in range(20):
            obs, _, _, infos = env.step(model.predict(obs)[0])
            illegal.extend(info["illegal"] for info in infos)
        assert not any(illegal)
    finally:
        env.close()


@pytest.mark.parametrize("trained", [False, True])
def test_one_allowed_action_is_the_one_predicted(trained: bool, tmp_path: Path) -> None:
    """The reported case: `predict` drew by the masks of the last minibatch, and by none after loading."""
    env = OneAllowed()
    model = make_model(PPO, env, map=Floored(0.01), mask_key="mask")
    if trained:
        model.learn(64)
    model.save(tmp_path / "model")
    for one in (model, PPO.load(tmp_path / "model", device="cpu")):
        for action in range(4):
            mask = np.eye(4)[[action]]
            for deterministic in (True, False):
                for _ in range(30):
                    obs = {"x": np.zeros((1, 3), np.float32), "mask": mask}
                    assert one.predict(obs, deterministic=deterministic)[0].tolist() == [action]


def test_a_mask_that_a_wrapper_changed_is_refused() -> None:
    floats = spaces.Box(0.0, 1.0, (5,))
    env, _ = vectors(lambda: Masked(DISCRETE, floats), "DummyVecEnv")
    model = make_model(PPO, VecNormalize(env), mask_key="mask")
    says = r"observation\['mask'\] must be 0 or 1 for every action, got .* of row 0; leave the mask out of norm_obs"
    with pytest.raises(ValueError, match=says):
        model.learn(64)
    make_model(PPO, VecNormalize(env, norm_obs=False), mask_key="mask").learn(64)
    with pytest.raises(ValueError, match=r"entry of shape \(5,\) .*got 'mask' of shape \(10,\)"):
        make_model(PPO, VecFrameStack(env, 2), mask_key="mask")
    stacked = gymnasium.wrappers.FrameStackObservation(Masked(DISCRETE, floats), 2)
    with pytest.raises(ValueError, match=r"entry of shape \(5,\) .*got 'mask' of shape \(2, 5\)"):
        make_model(PPO, stacked, mask_key="mask")
    with pytest.raises(ValueError, match="mask_key must be None without Dict observations"):
        make_model(PPO, gymnasium.wrappers.FlattenObservation(Masked(DISCRETE, floats)), mask_key="mask")
    # stable-baselines3 itself refuses to change a mask that is MultiBinary
    env, _ = vectors(lambda: Masked(DISCRETE, spaces.MultiBinary(5)), "DummyVecEnv")
    with pytest.raises(ValueError, match="norm_obs_keys"):
        VecNormalize(env)
    with pytest.raises(TypeError, match="only supports Box"):
        VecFrameStack(env, 2)


NAN = float("nan")
WRONG = [
    ([1], r"must be \(2, 5\), observations by actions, or \(5,\) for all, got \(1,\); expand it first"),
    ([[1], [1]], r"got \(2, 1\)"),
    ([[1, 1, 1, 1, 1]], r"got \(1, 5\)"),
    ([[1] * 5] * 3, r"got \(3, 5\)"),
    ([[1, 1]] * 5, r"got \(5, 2\)"),
    ([1] * 10, r"got \(10,\)"),
    (True, r"got \(\)"),
    ([[[1] * 5]] * 2, r"got \(2, 1, 5\)"),
    (
        [[1, 0, 1, 0, 1], [1, 1, 0.5, 1, 1]],
        r"must be 0 or 1 for every action, got 0\.5 for action 2 of row 1",
    ),
    ([[1, 0, 1, 0, 1], [1, 1, 1, 1, 2]], r"got 2 for action 4 of row 1; leave the mask out"),
    ([1, NAN, 1, 1, 1], r"got nan for action 1 of row 0"),
    ([1, -1e8, 1, 1, 1], r"got -100000000\.0 for action 1 of row 0"),
    ([[1] * 5, [0] * 5], r"must leave an action in every row, got none in row 1, part 0 of"),
    ([0] * 5, r"got none in row 0, part 0 of .* allow one, or end the episode"),
]


@pytest.mark.parametrize(("masks", "says"), WRONG, ids=lambda value: str(value)[:20])
@pytest.mark.parametrize("space", [DISCRETE, MULTI], ids=str)
@pytest.mark.parametrize("kind", VECTOR, ids=lambda kind: kind.__name__)
def test_masks_that_are_refused(kind: Any, space: Any, masks: Any, says: str) -> None:
    policy = make_policy(kind, space)
    obs = torch.randn(2, 3)
    given = {"action_masks": np.array(masks)}
    for call in (
        lambda: policy(obs, **given),
        lambda: policy.evaluate_actions(obs, torch.zeros(2, *space.shape), **given),
        lambda: policy.get_distribution(obs, **given),
        lambda: policy.predict(obs.numpy(), **given),
        lambda: policy.get_distribution(obs).apply_masking(**{"masks": given["action_masks"]}),
    ):
        with pytest.raises(ValueError, match="action_masks " + says if says.startswith("must") else says):
            call()


def test_the_row_part_and_key_are_named() -> None:
    policy = make_policy(MapMultiInputActorCriticPolicy, MULTI, mask_key="mask")
    obs = {"x": torch.randn(3, 3), "mask": torch.ones(3, 5)}
    obs["mask"][2, 3:] = 0
    with pytest.raises(ValueError, match=r"observation\['mask'\] must leave .* none in row 2, part 1 of 2"):
        policy(obs)
    assert policy.predict_values(obs).shape == (
        3,
        1,
    )  # the value of where an episode ended is asked for as well
    obs["mask"][2] = torch.tensor([1, 0, 0, 1, 1])
    with pytest.raises(ValueError, match=r"action_masks must leave .* none in row 2, part 0 of 2"):
        policy(obs, action_masks=[0, 1, 1, 1, 1])
    with pytest.raises(ValueError, match=r"observation must be an array or a dict, got a tuple"):
        policy.predict((obs, {}))


CONSTRUCTION = [
    (
        MapMultiInputActorCriticPolicy,
        WITH_MASK,
        DISCRETE,
        "masks",
        r"must be one of \['mask', 'x'\], got 'masks'",
    ),
    (
        MapMultiInputActorCriticPolicy,
        WITH_MASK,
        spaces.Discrete(4),
        "mask",
        r"\(4,\) .* got 'mask' of shape \(5,\)",
    ),
    (MapMultiInputActorCriticPolicy, WITH_MASK, MULTI, "x", r"\(5,\) .* got 'x' of shape \(3,\)"),
    (
        MapMultiInputActorCriticPolicy,
        BOX,
        DISCRETE,
        "mask",
        "must be None without Dict observations, got 'mask'",
    ),
    (MapActorCriticPolicy, BOX, DISCRETE, "mask", "pass action_masks"),
    (MapActorCriticCnnPolicy, IMAGE, DISCRETE, "mask", "use MapMultiInputActorCriticPolicy"),
    (MapActorCriticPolicy, BOX, spaces.Discrete(5, start=1), None, r"got Discrete\(5, start=1\); .* from 0"),
    (MapActorCriticPolicy, BOX, spaces.MultiDiscrete([3, 2], start=[0, 1]), None, "must count from 0"),
    (MapActorCriticPolicy, BOX, spaces.MultiDiscrete([[3, 2], [2, 2]]), None, "in one dimension"),
    (MapActorCriticPolicy, BOX, spaces.MultiBinary(3), None, r"MultiDiscrete\(\[2\] \* n\)"),
    (MapActorCriticPolicy, BOX, BOX, None, "must be Discrete or MultiDiscrete for a map, got Box"),
]
for width in (1, 4, 6, 10):
    narrow = spaces.Dict({"x": BOX, "mask": spaces.MultiBinary(width)})
    CONSTRUCTION.append((MapMultiInputActorCriticPolicy, narrow, DISCRETE, "mask", rf"shape \({width},\)"))
for other in (spaces.Discrete(5), spaces.Box(0, 1, (1, 5))):
    odd = spaces.Dict({"x": BOX, "mask": other})
    CONSTRUCTION.append((MapMultiInputActorCriticPolicy, odd, DISCRETE, "mask", r"of shape \((1, 5)?\)"))
MASKABLE = dict(zip((VECTOR[0], PICTURE[0], DICT[0]), (VECTOR[1], PICTURE[1], DICT[1]), strict=True))


@pytest.mark.parametrize(("kind", "observed", "space", "key", "says"), CONSTRUCTION)
def test_what_is_refused_at_construction(kind: Any, observed: Any, space: Any, key: Any, says: str) -> None:
    for one in (kind, MASKABLE[kind]):
        with pytest.raises(ValueError, match=says):
            one(observed, space, lambda _: 1e-3, map=Floored(FLOOR), mask_key=key)


def test_a_large_negative_number_is_no_mask() -> None:
    logits = torch.tensor([[0.0, 1.0, -1e8]])
    assert Categorical(logits, Floored(FLOOR)).probs[0, 2] >= FLOOR * (1 - 1e-6)
    assert Categorical(logits.masked_fill(logits < -1e7, -torch.inf), Floored(FLOOR)).probs[0, 2] == 0


def test_a_missing_library_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib
    import sys

    monkeypatch.setitem(sys.modules, "sb3_contrib.common.maskable.policies", None)
    monkeypatch.delitem(sys.modules, "equipoise.integrations.sb3_contrib")
    with pytest.raises(ImportError, match=r"integrations\.sb3_contrib needs sb3-contrib; pip install"):
        importlib.import_module("equipoise.integrations.sb3_contrib")
