"""Options of losses and maps: checked when one is made, fitted to the logits when it is called."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from equipoise.kernels.gate import is_traced


def check_number(
    name: str,
    value: Any,
    low: float = -float("inf"),
    high: float = float("inf"),
    hint: str = "",
    *,
    open_low: bool = False,
) -> None:
    """Raise unless the option is a number in its range.

    A scheduled value, a tensor, was checked where its schedule was made.
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
    """Raise if logits or targets are in the place of an option, as in CrossEntropy(logits, target)."""
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
    """Raise unless n floors leave room for probabilities that sum to one."""
    if floor * num_classes > 1 + 1e-9:
        raise ValueError(
            f"floor must be at most 1/{num_classes} = {1 / num_classes:.6g} for {num_classes} classes, "
            f"got {floor}; the floors may not sum to more than 1"
        )


def like(value: float | Tensor, answer: Tensor) -> Tensor:
    """Return an option as a 0-d tensor that fits an answer of a row."""
    return torch.as_tensor(value, dtype=answer.dtype, device=answer.device)


@final
class Constant:
    """An array that never changes, as a tensor that fits an answer of a row.

    No tensor is kept that a mode, transform or tracer of torch has made: it would be of no use outside.

    Args:
        array: The array.
    """

    def __init__(self, array: np.ndarray) -> None:
        self._array = array
        with ThreadPoolExecutor(1) as pool:  # another thread has none of the modes and transforms of this one
            self._tensor = pool.submit(torch.tensor, array, device="cpu").result()
        self._held: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def fit(self, answer: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Return the array on the device of an answer and in its dtype, or the one that is given."""
        key = answer.device, dtype or answer.dtype
        if is_traced(answer):
            return torch.tensor(self._array).to(*key)
        if torch.compiler.is_compiling():  # a graph would be compiled anew once another tensor is held
            return self._tensor.to(*key)
        held = self._held.get(key)
        if held is None:
            with torch.inference_mode(False):
                held = self._held[key] = self._tensor.to(*key)
        return held

    def __reduce__(self) -> tuple[Any, ...]:
        return Constant, (self._array,)
