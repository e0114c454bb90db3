"""Masks of actions in whole runs: illegal actions and smallest probabilities are counted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

pytest.importorskip("stable_baselines3", reason="stable-baselines3 is not installed")
pytest.importorskip("sb3_contrib", reason="sb3-contrib is not installed")
from sb3_contrib import TRPO, MaskablePPO
from sb3_contrib.common.maskable.evaluation import evaluate_policy as evaluate_maskable
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecNormalize

from equipoise.maps import Floored
from support.masked_actions import DISCRETE, FLOOR, MULTI, Masked, OneAllowed, make_model, parts_of


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


RUNS = [(one, wrapper) for one in (PPO, A2C, MaskablePPO) for wrapper in ("DummyVecEnv", "VecNormalize")]


@pytest.mark.slow
@pytest.mark.parametrize("space", [DISCRETE, MULTI], ids=str)
@pytest.mark.parametrize(("algorithm", "wrapper"), [*RUNS, (TRPO, "DummyVecEnv")])
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
    says = (
        r"observation\['mask'\] must be 0 or 1 for every action, got .* of row 0; leave the mask out of norm"
    )
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
