"""Policies for the `MaskablePPO` of sb3-contrib whose action probabilities are those of a map.

Use `MaskablePPO(MapMaskableActorCriticPolicy, env, policy_kwargs={"map": Floored(0.02)})`. The environment's
method `action_masks` returns the allowed actions. A masked action has probability 0; sb3-contrib's own mask
sets the logit to -1e8, for which a floored map would return the floor.
"""

from typing import final

try:
    from sb3_contrib.common.maskable.policies import (
        MaskableActorCriticCnnPolicy,
        MaskableActorCriticPolicy,
        MaskableMultiInputActorCriticPolicy,
    )
except ImportError as _error:
    raise ImportError("integrations.sb3_contrib needs sb3-contrib; pip install 'equipoise[rl]'") from _error

from equipoise.integrations.stable_baselines3 import MapPolicy


@final
class MapMaskableActorCriticPolicy(MapPolicy, MaskableActorCriticPolicy):
    """The policy for vector observations; arguments and errors as in `MapActorCriticPolicy`.

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
    """The policy for image observations; arguments and errors as in `MapActorCriticPolicy`."""


@final
class MapMaskableMultiInputActorCriticPolicy(MapPolicy, MaskableMultiInputActorCriticPolicy):
    """The policy for dict observations; arguments and errors as in `MapMultiInputActorCriticPolicy`."""


__all__ = [
    "MapMaskableActorCriticCnnPolicy",
    "MapMaskableActorCriticPolicy",
    "MapMaskableMultiInputActorCriticPolicy",
]
