"""Masks of actions that are refused, in a call and when a policy is made."""

from typing import Any

import pytest
import torch
from gymnasium import spaces

pytest.importorskip("stable_baselines3", reason="stable-baselines3 is not installed")
pytest.importorskip("sb3_contrib", reason="sb3-contrib is not installed")
from equipoise.integrations.stable_baselines3 import (
    MapActorCriticCnnPolicy,
    MapActorCriticPolicy,
    MapMultiInputActorCriticPolicy,
)
from equipoise.maps import Floored
from support.masked_actions import (
    BOX,
    DICT,
    DISCRETE,
    FLOOR,
    IMAGE,
    MULTI,
    PICTURE,
    VECTOR,
    WITH_MASK,
    make_policy,
)

NAN = float("nan")
WRONG = [
    ([1], r"must be \(2, 5\), observations by actions, or \(5,\) for all, got \(1,\); expand it first"),
    ([[1], [1]], r"got \(2, 1\)"),
    ([[1, 1, 1, 1, 1]], r"got \(1, 5\)"),
    ([[1] * 5] * 3, r"got \(3, 5\)"),
    ([[1, 1]] * 5, r"got \(5, 2\)"),
    ([1] * 10, r"got \(10,\)"),
    (True, r"got \(\)"),
    (
        [[1, 0, 1], [1, 0]],
        r"must be an array of 0 and 1, got .*; concatenate the parts for MultiDiscrete",
    ),
    (["yes"] * 5, r"must be an array of 0 and 1, got \['yes'"),
    ([[[1] * 5]] * 2, r"got \(2, 1, 5\)"),
    (
        [[1, 0, 1, 0, 1], [1, 1, 0.5, 1, 1]],
        r"must be 0 or 1 for every action, got 0\.5 for action 2 of row 1",
    ),
    ([[1, 0, 1, 0, 1], [1, 1, 1, 1, 2]], r"got 2 for action 4 of row 1; leave the mask out"),
    ([1, NAN, 1, 1, 1], r"got nan for action 1 of row 0"),
    ([1, -1e8, 1, 1, 1], r"got -100000000\.0 for action 1 of row 0"),
    ([[1] * 5, [0] * 5], r"must allow an action in every row, got none in row 1, part 0 of"),
    ([0] * 5, r"got none in row 0, part 0 of .* allow an action, or end the episode"),
]


@pytest.mark.parametrize(("masks", "says"), WRONG, ids=lambda value: str(value)[:20])
@pytest.mark.parametrize("space", [DISCRETE, MULTI], ids=str)
@pytest.mark.parametrize("kind", VECTOR, ids=lambda kind: kind.__name__)
def test_masks_that_are_refused(kind: Any, space: Any, masks: Any, says: str) -> None:
    """Invalid masks are refused by every method."""
    policy = make_policy(kind, space)
    obs = torch.randn(2, 3)
    given = {"action_masks": masks}
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
    """The error names the row, the part of the action space and the key of the mask."""
    policy = make_policy(MapMultiInputActorCriticPolicy, MULTI, mask_key="mask")
    obs = {"x": torch.randn(3, 3), "mask": torch.ones(3, 5)}
    obs["mask"][2, 3:] = 0
    with pytest.raises(ValueError, match=r"observation\['mask'\] must allow .* none in row 2, part 1 of 2"):
        policy(obs)
    assert policy.predict_values(obs).shape == (
        3,
        1,
    )  # the value of where an episode ended is asked for as well
    obs["mask"][2] = torch.tensor([1, 0, 0, 1, 1])
    with pytest.raises(ValueError, match=r"action_masks must allow .* none in row 2, part 0 of 2"):
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
    """Invalid combinations of spaces and masks are refused when a policy is made."""
    for one in (kind, MASKABLE[kind]):
        with pytest.raises(ValueError, match=says):
            one(observed, space, lambda _: 1e-3, map=Floored(FLOOR), mask_key=key)


def test_a_missing_library_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without sb3-contrib, the error names the command that installs it."""
    import importlib
    import sys

    monkeypatch.setitem(sys.modules, "sb3_contrib.common.maskable.policies", None)
    monkeypatch.delitem(sys.modules, "equipoise.integrations.sb3_contrib")
    with pytest.raises(ImportError, match=r"integrations\.sb3_contrib needs sb3-contrib; pip install"):
        importlib.import_module("equipoise.integrations.sb3_contrib")
