"""Checks of the options of losses, maps and schedules, at construction."""

from typing import Any

from torch import Tensor


def check_number(
    name: str,
    value: Any,
    low: float = -float("inf"),
    high: float = float("inf"),
    hint: str = "",
    *,
    open_low: bool = False,
) -> None:
    """Raise unless an option is a number in its range.

    A tensor is not checked: `Objective` checks the bounds of its schedule.
    """
    refuse_batch(name, value)
    if isinstance(value, Tensor):
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(
            f"{name} must be a Python number, got {value!r}; "
            "to change it in training give Objective a schedule"
        )
    inside = (low < value if open_low else low <= value) and value <= high and abs(value) < float("inf")
    if not inside:
        rule = _rule(low, high, open_low)
        raise ValueError(f"{name} must be {rule}, got {value}" + (f"; {hint}" if hint else ""))


def refuse_batch(name: str, value: object) -> None:
    """Raise if an option is a tensor of logits or targets, as in CrossEntropy(logits, target)."""
    if isinstance(value, Tensor) and value.ndim > 0:
        raise TypeError(
            f"{name} must be no tensor, got one of shape {tuple(value.shape)}; make it first, then call "
            "it: loss(logits, target), or map(logits)"
        )


def _rule(low: float, high: float, open_low: bool) -> str:
    if low == -float("inf") and high == float("inf"):
        return "finite"
    if high == float("inf"):
        return f"finite and {'above' if open_low else 'at least'} {low:g}"
    return f"in {'(' if open_low else '['}{low:g}, {high:g}]"


def check_floor(floor: float, num_classes: int) -> None:
    """Raise unless n times the floor is at most 1."""
    if floor * num_classes > 1 + 1e-9:
        raise ValueError(
            f"floor must be at most 1/{num_classes} = {1 / num_classes:.6g} for {num_classes} classes, "
            f"got {floor}; the floors may not sum to more than 1"
        )
