"""Calls that raise, the text of each error, and the values that several of them pass."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

inf, nan = float("inf"), float("nan")
logits = torch.zeros(8, 5)
target = torch.zeros(8, dtype=torch.long)


def probs(*shape: int) -> Tensor:
    return torch.full(shape, 0.2)


def put(matrix: list[list[float]], row: int, column: int, value: float) -> list[list[float]]:
    return [
        [value if (i, k) == (row, column) else x for k, x in enumerate(line)] for i, line in enumerate(matrix)
    ]


EYE = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
COSTS = [[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0]]


@dataclass(frozen=True)
class Case:
    """A call, and what it should say."""

    call: Callable[[], Any]
    error: type[Exception]
    says: str


def value(call: Callable[[], Any], says: str) -> Case:
    return Case(call, ValueError, says)


def kind(call: Callable[[], Any], says: str) -> Case:
    return Case(call, TypeError, says)


GAMMA = "gamma must be in [0, 1], got {}; 0 is cross entropy, 1 is 1 - p_y"
LEAST = "min_weight must be in [0, 1], got {}; 1 is cross entropy"
