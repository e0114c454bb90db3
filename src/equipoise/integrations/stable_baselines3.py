"""Policies for stable-baselines3 whose action probabilities are those of a map, for example with a floor.

Use them in PPO or A2C, `PPO(MapActorCriticPolicy, env, policy_kwargs={"map": Floored(0.02)})`; training,
saving and loading work as usual. Sampling, log-probabilities and entropy use the same probabilities. For
`MaskablePPO` see `equipoise.integrations.sb3_contrib`.
"""

import copy
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from equipoise.distributions import MapCategorical
from equipoise.maps import Map
from equipoise.masking import apply_mask

try:
    from gymnasium import spaces
    from stable_baselines3.common import distributions as sb3
    from stable_baselines3.common.policies import (
        ActorCriticCnnPolicy,
        ActorCriticPolicy,
        BasePolicy,
        MultiInputActorCriticPolicy,
    )
except ImportError as _error:
    raise ImportError(
        "integrations.stable_baselines3 needs stable-baselines3; pip install 'equipoise[rl]'"
    ) from _error


def _masked(logits: Tensor, mask: Any, sizes: list[int], name: str) -> Tensor:
    """Return the logits (N, sum of sizes) with minus infinity for masked actions."""
    rows, actions = logits.shape
    try:
        mask = torch.as_tensor(mask if isinstance(mask, Tensor) else np.array(mask), device=logits.device)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} must be an array of 0 and 1, got {mask!r}; concatenate the parts for MultiDiscrete"
        ) from error
    if mask.shape not in {(rows, actions), (actions,)}:
        raise ValueError(
            f"{name} must be ({rows}, {actions}), observations by actions, or ({actions},) for all, got "
            f"{tuple(mask.shape)}; expand it first, and concatenate the parts of a MultiDiscrete space"
        )
    mask = mask.expand(rows, actions)
    allowed = mask == 1
    unclear = (~allowed & (mask != 0)).nonzero()
    if len(unclear):
        row, action = unclear[0].tolist()
        raise ValueError(
            f"{name} must be 0 or 1 for every action, got {mask[row, action].item()} for action {action} of "
            f"row {row}; leave the mask out of norm_obs_keys if the environment is in a VecNormalize"
        )
    logits = apply_mask(logits, allowed, dim=1)
    for part, block in enumerate(logits.split(sizes, dim=1)):
        closed = (block == -torch.inf).all(1).nonzero()
        if len(closed):
            raise ValueError(
                f"{name} must allow an action in every row, got none in row {closed[0].item()}, part {part} "
                f"of {len(sizes)} of the action space; allow an action, or end the episode"
            )
    return logits


class _MapDistribution:
    """Base of both distributions: logits with an optional mask."""

    sizes: list[int]
    action_logits: Tensor

    def _set(self, logits: Tensor) -> None:
        raise NotImplementedError

    def proba_distribution(self, action_logits: Tensor) -> Any:
        """Set the concatenated logits (N, sum of A); minus infinity masks an action."""
        self.action_logits = action_logits
        self._set(action_logits)
        return self

    def apply_masking(self, masks: Any) -> None:
        """Mask actions of the current logits; replaces the previous mask, None removes it.

        Args:
            masks: 1 or True for an allowed action, 0 or False for others; array or tensor of shape
                (N, sum of A), or (sum of A,) for all rows.

        Raises:
            ValueError: If the masks have another shape or other values, or a row has no allowed action.
        """
        logits = self.action_logits
        self._set(logits if masks is None else _masked(logits, masks, self.sizes, "action_masks"))


@final
class MapCategoricalDistribution(_MapDistribution, sb3.CategoricalDistribution):
    """Distribution of one discrete action, for stable-baselines3, with the probabilities of a map.

    Args:
        action_dim: Number of actions.
        map: The map.

    Raises:
        ValueError: If the map does not fit the number of actions.
    """

    def __init__(self, action_dim: int, map: Map) -> None:
        map.check(action_dim)
        super().__init__(action_dim)
        self.map = map
        self.sizes: list[int] = [action_dim]

    def _set(self, logits: Tensor) -> None:
        self.distribution: Any = MapCategorical(self.map, logits=logits)


@final
class MapMultiCategoricalDistribution(_MapDistribution, sb3.MultiCategoricalDistribution):
    """Distribution of several discrete actions, for stable-baselines3, each with the probabilities of a map.

    Args:
        action_dims: Number of actions of each.
        map: The map.

    Raises:
        ValueError: If the map does not fit one of the numbers of actions.
    """

    def __init__(self, action_dims: list[int], map: Map) -> None:
        for actions in action_dims:
            map.check(actions)
        super().__init__(action_dims)
        self.map = map
        self.sizes = action_dims

    def _set(self, logits: Tensor) -> None:
        self.distribution: Any = [
            MapCategorical(self.map, logits=block) for block in logits.split(self.sizes, dim=1)
        ]


def _sizes(space: spaces.Space[Any]) -> list[int]:
    """Return the number of actions of each part of an action space."""
    if isinstance(space, spaces.Discrete) and space.start == 0:
        return [int(space.n)]
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1 and not space.start.any():
        return [int(n) for n in space.nvec]
    raise ValueError(
        f"the action space must be Discrete or MultiDiscrete for a map, got {space}; its actions must count "
        "from 0, in one dimension, and MultiBinary(n) is written as MultiDiscrete([2] * n)"
    )


def _check_mask_key(key: str, observations: spaces.Space[Any], actions: spaces.Space[Any]) -> None:
    width = sum(_sizes(actions))
    if not isinstance(observations, spaces.Dict):
        raise ValueError(
            f"mask_key must be None without Dict observations, got {key!r} for {observations}; put the mask "
            "into a Dict and use MapMultiInputActorCriticPolicy, or pass action_masks"
        )
    if key not in observations.spaces:
        raise ValueError(
            f"mask_key must be one of {sorted(observations.spaces)}, got {key!r}; name the mask's key"
        )
    if observations[key].shape != (width,):
        raise ValueError(
            f"mask_key must name an entry of shape ({width},) for the actions of {actions}, got {key!r} of "
            f"shape {observations[key].shape}; concatenate the parts, and do not stack frames of the mask"
        )


class MapPolicy(BasePolicy):
    """Base of the policies: a map, and masks from the observation or from the argument `action_masks`.

    A mask applies to one call and is not stored.
    """

    _get_action_dist_from_latent: Any
    mlp_extractor: Any
    value_net: Any
    share_features_extractor: bool

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        *args: Any,
        map: Map,
        mask_key: str | None = None,
        **kwargs: Any,
    ) -> None:
        _sizes(action_space)
        if mask_key is not None:
            _check_mask_key(mask_key, observation_space, action_space)
        self.map = map
        self.mask_key = mask_key
        super().__init__(observation_space, action_space, *args, **kwargs)

    @property
    def map(self) -> Map:
        """The map; it can be set between rollouts."""
        return self._map

    @map.setter
    def map(self, map: Map) -> None:
        if not isinstance(map, Map):
            raise TypeError(
                f"map must be a Map of equipoise.maps, got {map!r}; for example maps.Floored(0.01)"
            )
        if hasattr(self, "action_dist"):
            self.action_dist: Any = self._distribution_over(map)
        self._map = map

    def _distribution_over(self, map: Map) -> Any:
        sizes = _sizes(self.action_space)
        if isinstance(self.action_space, spaces.Discrete):
            return MapCategoricalDistribution(sizes[0], map)
        return MapMultiCategoricalDistribution(sizes, map)

    def _build(self, lr_schedule: Any) -> None:
        self.action_dist = self._distribution_over(self.map)
        super()._build(lr_schedule)  # pyright: ignore[reportAttributeAccessIssue]

    def _restrict(self, distribution: Any, obs: Any, action_masks: Any) -> Any:
        """Return the distribution over the actions that the observations and the masks both allow."""
        if self.mask_key is not None:
            name = f"observation[{self.mask_key!r}]"
            logits = _masked(distribution.action_logits, obs[self.mask_key], distribution.sizes, name)
            distribution.proba_distribution(logits)
        if action_masks is not None:
            distribution.apply_masking(action_masks)
        return copy.copy(distribution)  # the policy reuses its own in the next call

    def _distribution_and_values(self, obs: Any, action_masks: Any) -> tuple[Any, Tensor]:
        """Return the distribution and the values, with the features computed once."""
        features: Any = self.extract_features(obs)  # pyright: ignore[reportCallIssue]
        if self.share_features_extractor:
            actor, critic = self.mlp_extractor(features)
        else:
            actor = self.mlp_extractor.forward_actor(features[0])
            critic = self.mlp_extractor.forward_critic(features[1])
        made = self._get_action_dist_from_latent(actor)
        return self._restrict(made, obs, action_masks), self.value_net(critic)

    def forward(
        self, obs: Any, deterministic: bool = False, action_masks: Any = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return actions, values and log-probabilities."""
        distribution, values = self._distribution_and_values(obs, action_masks)
        actions = distribution.get_actions(deterministic=deterministic)
        shaped = actions.reshape(-1, *self.action_space.shape)  # pyright: ignore[reportOptionalIterable]
        return shaped, values, distribution.log_prob(actions)

    def evaluate_actions(
        self, obs: Any, actions: Tensor, action_masks: Any = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return values, log-probabilities of the actions, and entropies."""
        distribution, values = self._distribution_and_values(obs, action_masks)
        return values, distribution.log_prob(actions), distribution.entropy()

    def get_distribution(self, obs: Any, action_masks: Any = None) -> Any:
        """Return the distribution of the actions."""
        made = super().get_distribution(obs)  # pyright: ignore[reportAttributeAccessIssue]
        return self._restrict(made, obs, action_masks)

    def _predict(self, observation: Any, deterministic: bool = False, action_masks: Any = None) -> Tensor:
        return self.get_distribution(observation, action_masks).get_actions(deterministic=deterministic)

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
        action_masks: Any = None,
    ) -> tuple[Any, Any]:
        """Return the actions for one observation or many, and the state that was passed."""
        del episode_start  # for recurrent policies
        if isinstance(observation, tuple):
            raise ValueError(
                "observation must be an array or a dict, got a tuple; gymnasium's reset() returns (obs, info)"
            )
        self.set_training_mode(False)
        obs, many = self.obs_to_tensor(observation)
        with torch.no_grad():
            actions = self._predict(obs, deterministic, action_masks).cpu().numpy()
        actions = actions.reshape(-1, *self.action_space.shape)  # pyright: ignore[reportOptionalIterable]
        return actions if many else actions.squeeze(axis=0), state

    def _get_constructor_parameters(self) -> dict[str, Any]:
        # stable-baselines3 does not save share_features_extractor: loading would merge the two extractors.
        ours = {name: getattr(self, name) for name in ("map", "mask_key", "share_features_extractor")}
        return super()._get_constructor_parameters() | ours


@final
class MapActorCriticPolicy(MapPolicy, ActorCriticPolicy):
    """The policy for vector observations.

    `forward`, `evaluate_actions`, `get_distribution` and `predict` take `action_masks`, as the policies of
    sb3-contrib do: 1 or True for an allowed action, 0 or False for others, an array or tensor of shape (N, A)
    or (A,), with A the sum over the parts of a MultiDiscrete space. Masked actions have probability 0, and
    the map is applied to the others. A mask applies to one call; without the argument no action is masked.

    Args:
        map: The map, such as `Floored(0.02)`. During training, change it between rollouts only: PPO uses
            ratios of the probabilities of a rollout.
        mask_key: Must be None; for a mask in the observation use `MapMultiInputActorCriticPolicy`.

    Raises:
        TypeError: If map is not a map.
        ValueError: If the action space is neither Discrete nor MultiDiscrete, or the map does not fit its
            size; in a call, if masks have another shape or other values, or a row has no allowed action.

    Example:
        >>> import gymnasium
        >>> from stable_baselines3 import PPO
        >>> from equipoise.maps import Floored
        >>> floored = {"map": Floored(0.1)}
        >>> model = PPO(MapActorCriticPolicy, "CartPole-v1", policy_kwargs=floored, device="cpu")
        >>> obs, _ = model.policy.obs_to_tensor(model.env.reset())
        >>> bool(model.policy.get_distribution(obs).distribution.probs.min() >= 0.1)
        True
        >>> model.policy.get_distribution(obs, action_masks=[[0, 1]]).distribution.probs
        tensor([[0., 1.]], grad_fn=...)
    """


@final
class MapActorCriticCnnPolicy(MapPolicy, ActorCriticCnnPolicy):
    """The policy for image observations; arguments and errors as in `MapActorCriticPolicy`."""


@final
class MapMultiInputActorCriticPolicy(MapPolicy, MultiInputActorCriticPolicy):
    """The policy for dict observations, optionally with a mask among them.

    Args:
        map: As in `MapActorCriticPolicy`. It is applied to the actions that are not masked.
        mask_key: Key of the mask in the observation: 1 for an allowed action, 0 for others; (A,) for
            Discrete, (sum of A,) for MultiDiscrete. At least one action must be allowed. Use a MultiBinary
            space, for which VecNormalize and VecFrameStack raise; they would change the values of others.
            With `action_masks` too, an action must be allowed by both.

    Raises:
        TypeError: If map is not a map.
        ValueError: As `MapActorCriticPolicy`; also if the observations have no such key, or its shape is
            another.
    """


__all__ = [
    "MapActorCriticCnnPolicy",
    "MapActorCriticPolicy",
    "MapCategoricalDistribution",
    "MapMultiCategoricalDistribution",
    "MapMultiInputActorCriticPolicy",
    "MapPolicy",
]
