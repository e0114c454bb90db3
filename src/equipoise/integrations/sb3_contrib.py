"""Policies for the `MaskablePPO` of sb3-contrib whose action probabilities are those of a map.

Pass one with the map, `MaskablePPO(MapMaskableActorCriticPolicy, env, policy_kwargs={"map": Floored(0.02)})`.
The environment says which actions are allowed, by its method `action_masks`. sb3-contrib masks by logits of
-1e8, to which a floor would still give its share; here a masked action has probability 0.
"""

from typing import final

try:
    from sb3_contrib.common.maskable.policies import (
        MaskableActorCriticCnnPolicy,
        MaskableActorCriticPolicy,
        MaskableMultiInputActorCriticPolicy,
    )
except ImportError as error:
    raise ImportError("integrations.sb3_contrib needs sb3-contrib; pip install 'equipoise[rl]'") from error

from equipoise.integrations.stable_baselines3 import MapPolicy


@final
class MapMaskableActorCriticPolicy(MapPolicy, MaskableActorCriticPolicy):
    """The policy for vectors as observations; arguments and errors as `MapActorCriticPolicy`.

    Example:
        >>> from sb3_contrib import MaskablePPO
        >>> from sb3_contrib.common.envs import InvalidActionEnvDiscrete
        >>> from equipoise.maps import Floored
        >>> env = InvalidActionEnvDiscrete(dim=6, n_invalid_actions=3)
        >>> floored = {"map": Floored(0.1)}
        >>> model = MaskablePPO(MapMaskableActorCriticPolicy, env, policy_kwargs=floored, device="cpu")
        >>> masks = env.action_masks()
        >>> action, _ = model.predict(env.reset()[0], action_masks=masks)
        >>> bool(masks[action])
        True
    """


@final
class MapMaskableActorCriticCnnPolicy(MapPolicy, MaskableActorCriticCnnPolicy):
    """The policy for images as observations; arguments and errors as `MapActorCriticPolicy`."""


@final
class MapMaskableMultiInputActorCriticPolicy(MapPolicy, MaskableMultiInputActorCriticPolicy):
    """The policy for dictionaries as observations; arguments as `MapMultiInputActorCriticPolicy`."""


__all__ = [
    "MapMaskableActorCriticCnnPolicy",
    "MapMaskableActorCriticPolicy",
    "MapMaskableMultiInputActorCriticPolicy",
]
