"""Masks of actions: every entry of every policy for stable-baselines3 and sb3-contrib."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("stable_baselines3", reason="stable-baselines3 is not installed")
pytest.importorskip("sb3_contrib", reason="sb3-contrib is not installed")
from equipoise.distributions import MapCategorical
from equipoise.integrations.stable_baselines3 import MapActorCriticPolicy, MapMultiInputActorCriticPolicy
from equipoise.maps import Clipped, ClippedLogits, Floored, Map, Projected, Softmax
from support.masked_actions import (
    DICT,
    DISCRETE,
    FLOOR,
    IMAGE,
    MULTI,
    OBSERVED,
    PICTURE,
    VECTOR,
    draw_masks,
    draw_observations,
    make_policy,
    parts_of,
    take,
)

pytestmark = pytest.mark.slow  # whole trainings


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
@pytest.mark.parametrize(
    "kind",
    [*VECTOR, *(pytest.param(kind, marks=pytest.mark.slow) for kind in (*PICTURE, *DICT))],
    ids=lambda kind: kind.__name__,
)
def test_every_entry_sees_the_mask(kind: Any, space: Any, shared: bool, tmp_path: Path) -> None:
    """Every method of the policies applies the mask."""
    random = np.random.default_rng(0)
    masks, others = (draw_masks(random, space, 6) for _ in range(2))
    open_ = np.ones_like(masks)
    obs = draw_observations(kind, random, 6, masks)
    policy = make_policy(kind, space, share_features_extractor=shared)
    policy.save(tmp_path / "policy")
    again = kind.load(tmp_path / "policy", device="cpu")
    tensors, _ = policy.obs_to_tensor(obs)
    assert torch.equal(again.predict_values(tensors), policy.predict_values(tensors))
    for one, other in zip(
        *(probs_of(p.get_distribution(tensors, masks)) for p in (policy, again)), strict=True
    ):
        assert torch.equal(one, other)
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
    """Gradients are those of a distribution over the allowed actions."""
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
    """A distribution that was returned does not change with the next mask."""
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
    """Masked actions have probability zero with every map."""
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
    """Masks of any dtype and of shape (A,) or (N, A) give the same distribution."""
    masks = np.array([[1, 0, 0, 1, 0], [0, 1, 1, 0, 0]])
    policy = make_policy(MapActorCriticPolicy, DISCRETE)
    obs = torch.randn(2, 3)
    right = policy.get_distribution(obs, action_masks=masks).distribution.probs
    frozen = masks.astype(dtype)
    frozen.setflags(write=False)
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


def test_a_large_negative_number_is_no_mask() -> None:
    """A large negative logit does not mask an action."""
    logits = torch.tensor([[0.0, 1.0, -1e8]])
    assert MapCategorical(Floored(FLOOR), logits=logits).probs[0, 2] >= FLOOR * (1 - 1e-6)
    assert (
        MapCategorical(Floored(FLOOR), logits=logits.masked_fill(logits < -1e7, -torch.inf)).probs[0, 2] == 0
    )
