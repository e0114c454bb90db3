"""Masks of maps: every way to mask is the map of the classes that are left."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from equipoise.maps import Floored, Map, emit_log_probs
from support.map_cases import CLASSES, DTYPES, RANDOM, allowed_in, both, every, inf, nan, slope

pytestmark = pytest.mark.slow  # each map with each way to mask


def ways(logits: Tensor, mask: Tensor) -> dict[str, tuple[Tensor, Tensor | None]]:
    """Logits and mask for each way of saying the same."""
    smallest = torch.finfo(logits.dtype).min
    return {
        "mask": (logits, mask),
        "mask of what is nan": (logits.masked_fill(~mask, nan), mask),
        "mask of what is infinite": (logits.masked_fill(~mask, inf), mask),
        "minus infinity": (logits.masked_fill(~mask, -inf), None),
        "smallest of the dtype": (logits.masked_fill(~mask, smallest), None),
        "added, as transformers does": (logits + torch.zeros_like(logits).masked_fill(~mask, smallest), None),
        "some of each": (logits.masked_fill(~mask & (torch.arange(CLASSES) > 3), -inf), mask),
    }


@pytest.mark.parametrize("dtype", DTYPES)
@both
@every
def test_every_way_to_mask_is_the_map_of_the_classes_that_are_left(
    map: Map, form: str, dtype: torch.dtype
) -> None:
    """Each way to mask gives the map of the remaining classes."""
    function: Any = getattr(map, form)
    logits, mask = torch.randn(8, CLASSES).to(dtype), allowed_in((8, CLASSES))
    weight = torch.randn(8, CLASSES)
    left = [
        (function(logits[row, at]), slope(function, logits[row, at], weight[row, at]))
        for row, at in enumerate(mask)
    ]
    for given, argument in ways(logits, mask).values():
        torch.manual_seed(1)
        value = function(given, mask=argument)
        torch.manual_seed(1)
        gradient = slope(lambda z, m=argument: function(z, mask=m), given, weight)
        assert (value[~mask] == (0.0 if form == "probs" else -inf)).all()
        assert (gradient[~mask] == 0).all()
        assert gradient.isfinite().all()
        if map in RANDOM:
            continue
        for row, (at, (expected, descent)) in enumerate(zip(mask, left, strict=True)):
            torch.testing.assert_close(value[row, at], expected)
            torch.testing.assert_close(gradient[row, at], descent, rtol=1e-3, atol=1e-5)


@every
def test_one_mask_for_all_rows_along_any_dimension(map: Map) -> None:
    """One mask may serve for all rows, along any dimension."""
    if map in RANDOM:
        return
    logits, mask = torch.randn(CLASSES, CLASSES), allowed_in((CLASSES,))
    for form in ("probs", "log_probs"):
        function: Any = getattr(map, form)
        expected = function(logits.masked_fill(~mask, -inf))
        torch.testing.assert_close(function(logits, mask=mask), expected)
        torch.testing.assert_close(function(logits.T, 0, mask=mask), expected.T)
        torch.testing.assert_close(function(logits.T[None], dim=-2, mask=mask)[0], expected.T)


@both
@every
def test_a_row_that_a_mask_leaves_nothing_is_nan_and_spoils_no_other(map: Map, form: str) -> None:
    """A row without allowed classes is nan, and other rows do not change."""
    function: Any = getattr(map, form)
    logits, mask = torch.randn(4, CLASSES), allowed_in((4, CLASSES))
    mask[[1, 3]] = False
    weight = torch.randn(4, CLASSES)
    for given, argument in ways(logits, mask).values():
        value, gradient = (
            function(given, mask=argument),
            slope(lambda z, m=argument: function(z, mask=m), given, weight),
        )
        assert value[[1, 3]].isnan().all()
        assert gradient[[1, 3]].isnan().all()
        assert gradient[[0, 2]].isfinite().all()
        if map not in RANDOM:
            torch.testing.assert_close(value[[0, 2]], function(logits[[0, 2]], mask=mask[[0, 2]]))


def test_a_merely_large_negative_number_is_no_mask() -> None:
    """A large negative logit is not masked."""
    for masked in (-1e8, -1e30, torch.finfo(torch.bfloat16).min, torch.finfo(torch.float16).min):
        logits = torch.tensor([masked, 0.0, 1.0])
        assert Floored(0.02).probs(logits)[0] >= 0.02
        assert Floored(0.02).probs(logits, mask=logits > masked)[0] == 0
    for dtype in (torch.bfloat16, torch.float16):  # the smallest number counts in the dtype that is passed
        logits = torch.tensor([torch.finfo(dtype).min, 0.0, 1.0], dtype=dtype)
        assert Floored(0.02).probs(logits)[0] == 0
        assert Floored(0.02).probs(logits.float())[0] >= 0.02


@pytest.mark.parametrize("shape", [(1,), (4, 1), (1, CLASSES), (4,), (1, 4, CLASSES), ()])
def test_a_mask_is_not_broadcast(shape: tuple[int, ...]) -> None:
    """A mask is not broadcast."""
    for function in (Floored(0.02).probs, Floored(0.02).log_probs, Floored(0.02)):
        with pytest.raises(
            ValueError, match=r"mask must be \(6,\), one for every class, or of the shape of the"
        ):
            function(torch.zeros(4, CLASSES), mask=torch.ones(shape, dtype=torch.bool))


@pytest.mark.parametrize(
    "mask", [torch.ones(CLASSES), torch.ones(CLASSES, dtype=torch.int8), [True] * CLASSES]
)
def test_a_mask_is_bool(mask: Any) -> None:
    """A mask must be of dtype bool."""
    with pytest.raises(TypeError, match="mask must be a bool tensor, True where a class is allowed, got"):
        Floored(0.02).probs(torch.zeros(4, CLASSES), mask=mask)


def test_a_head_can_leave_classes_out() -> None:
    """A head can mask padded classes."""
    head, inputs = nn.Linear(4, CLASSES), torch.randn(3, 4)
    mask = torch.arange(CLASSES) < 4  # two rows of the weight are padding
    with emit_log_probs(head, Floored(0.02), mask=mask):
        out = head(inputs)
    assert (out[:, 4:] == -inf).all()
    torch.testing.assert_close(out[:, :4], Floored(0.02).log_probs(head(inputs)[:, :4]))
