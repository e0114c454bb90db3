"""Numbers and arrays as tensors with the dtype and device of another."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from equipoise.kernels.gate import is_traced


def like(value: float | Tensor, answer: Tensor) -> Tensor:
    """Return a number as a 0-d tensor with the dtype and device of a row statistic."""
    return torch.as_tensor(value, dtype=answer.dtype, device=answer.device)


@final
class ConstantTensor:
    """A constant array, cached as one tensor per dtype and device.

    Tensors are created outside all modes, transforms and tracers of torch, so that they can be reused.

    Args:
        array: The array.
    """

    def __init__(self, array: np.ndarray) -> None:
        self.array: np.ndarray = array
        with ThreadPoolExecutor(1) as pool:  # modes and transforms are per thread
            self._tensor = pool.submit(torch.tensor, array, device="cpu").result()
        self._held: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def fit(self, answer: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Return the array on the device of `answer`, in its dtype or the given one."""
        key = answer.device, dtype or answer.dtype
        if is_traced(answer):
            return torch.tensor(self.array, device=key[0], dtype=key[1])
        if torch.compiler.is_compiling():  # a new tensor in the cache would recompile
            return self._tensor.to(*key)
        held = self._held.get(key)
        if held is None:
            with torch.inference_mode(False):
                held = self._held[key] = self._tensor.to(*key)
        return held

    def __reduce__(self) -> tuple[Any, ...]:
        return ConstantTensor, (self.array,)
