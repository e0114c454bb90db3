"""Policies for stable-baselines3 whose action probabilities are those of a map: no action below a floor.

Pass one to PPO or A2C with the map, `PPO(MapActorCriticPolicy, env, policy_kwargs={"map": Floored(0.02)})`.
Training, saving and loading need no more. Actions are drawn, scored and regularised by the same
probabilities.
"""

from typing import Any, final

import torch
from torch import Tensor

from equipoise.distributions import Categorical
from equipoise.maps import Map

try:
    from stable_baselines3.common import distributions as sb3
    from stable_baselines3.common.policies import (
        ActorCriticCnnPolicy,
        ActorCriticPolicy,
        MultiInputActorCriticPolicy,
    )
except ImportError as error:
    raise ImportError(
        "integrations.stable_baselines3 needs stable-baselines3; pip install 'equipoise[rl]'"
    ) from error


@final
class MapCategoricalDistribution(sb3.CategoricalDistribution):
    """stable-baselines3's distribution of one discrete action, over a map.

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

    def proba_distribution(self, action_logits: Tensor) -> "MapCategoricalDistribution":
        """Set the logits (N, A); minus infinity masks an action."""
        self.distribution = Categorical(action_logits, self.map)
        return self


@final
class MapMultiCategoricalDistribution(sb3.MultiCategoricalDistribution):
    """stable-baselines3's distribution of several discrete actions, each over the map.

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

    def proba_distribution(self, action_logits: Tensor) -> "MapMultiCategoricalDistribution":
        """Set the logits (N, sum of A), one block after another; minus infinity masks an action."""
        blocks = torch.split(action_logits, list(self.action_dims), dim=1)
        self.distribution = [Categorical(block, self.map) for block in blocks]
        return self


class _Mapped(ActorCriticPolicy):
    """A policy over a map, masked by a part of its observation if asked to."""

    def __init__(self, *args: Any, map: Map, mask_key: str | None = None, **kwargs: Any) -> None:
        if not isinstance(map, Map):
            raise TypeError(f"map must be a map, got {map!r}; for example maps.Floored(0.01)")
        self.map = map
        self.mask_key = mask_key
        self._mask: Tensor | None = None
        super().__init__(*args, **kwargs)

    def _build(self, lr_schedule: Any) -> None:
        plain = self.action_dist
        if isinstance(plain, sb3.CategoricalDistribution):
            self.action_dist = MapCategoricalDistribution(plain.action_dim, self.map)
        elif isinstance(plain, sb3.MultiCategoricalDistribution):
            self.action_dist = MapMultiCategoricalDistribution([int(n) for n in plain.action_dims], self.map)
        else:
            raise ValueError(
                f"the action space must be Discrete or MultiDiscrete for a map, got {self.action_space}"
            )
        super()._build(lr_schedule)

    def extract_features(self, obs: Any, features_extractor: Any = None) -> Any:
        """Note the mask of these observations, and go on as usual."""
        if self.mask_key is not None:
            self._mask = obs[self.mask_key] > 0
        return super().extract_features(obs, features_extractor)

    def _get_action_dist_from_latent(self, latent_pi: Tensor) -> Any:
        logits = self.action_net(latent_pi)
        if self._mask is not None:
            logits = logits.masked_fill(~self._mask, -torch.inf)
        dist: Any = self.action_dist
        return dist.proba_distribution(action_logits=logits)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | {"map": self.map, "mask_key": self.mask_key}


@final
class MapActorCriticPolicy(_Mapped):
    """The policy for vectors as observations.

    Args:
        map: The map, such as `Floored(0.02)`. To change it in training, do so between rollouts: within one,
            PPO compares probabilities of before and after.
        mask_key: None here; masks come with `MapMultiInputActorCriticPolicy`.

    Raises:
        TypeError: If map is not a map.
        ValueError: If the action space is neither Discrete nor MultiDiscrete, or the map does not fit its
            size.

    Example:
        >>> import gymnasium
        >>> from stable_baselines3 import PPO
        >>> from equipoise.maps import Floored
        >>> floored = {"map": Floored(0.1)}
        >>> model = PPO(MapActorCriticPolicy, "CartPole-v1", policy_kwargs=floored, device="cpu")
        >>> obs, _ = model.policy.obs_to_tensor(model.env.reset())
        >>> bool(model.policy.get_distribution(obs).distribution.probs.min() >= 0.1)
        True
    """


@final
class MapActorCriticCnnPolicy(_Mapped, ActorCriticCnnPolicy):
    """The policy for images as observations; arguments and errors as `MapActorCriticPolicy`."""


@final
class MapMultiInputActorCriticPolicy(_Mapped, MultiInputActorCriticPolicy):
    """The policy for dictionaries as observations, with masked actions.

    Args:
        map: As in `MapActorCriticPolicy`. The floor is over the actions that are not masked.
        mask_key: Key of the observation that holds the mask: 1 for an action that may be taken, 0 for one
            that may not; (A,) for Discrete, (sum of A,) for MultiDiscrete. At least one action must be
            allowed.

    Raises:
        TypeError: If map is not a map.
        ValueError: As `MapActorCriticPolicy`.
    """


__all__ = [
    "MapActorCriticCnnPolicy",
    "MapActorCriticPolicy",
    "MapCategoricalDistribution",
    "MapMultiCategoricalDistribution",
    "MapMultiInputActorCriticPolicy",
]
