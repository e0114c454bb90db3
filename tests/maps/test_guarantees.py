"""The guarantee of each map on extreme logits, and where it is reached."""

import math
from dataclasses import dataclass
from typing import final

import pytest
import torch
from torch import Tensor

from equipoise.maps import Clipped, Map, MapEntry
from support.map_cases import SETTINGS

CLASSES = 8

FLOORS = [param for param in SETTINGS if param.values[1].min_prob(8) > 0]


def extreme(dtype: torch.dtype, classes: int) -> Tensor:
    """Logits that push every way: one far above, one far below, halves apart, random at every size."""
    sizes = [0.0, 1e-3, 1.0, 10.0, 80.0, 1e3, 3e4]
    blocks = []
    for size in sizes:
        eye = torch.eye(classes, dtype=torch.float64) * size
        half = torch.arange(classes, dtype=torch.float64).sub(classes / 2).sign()[None] * size
        steps = torch.linspace(-size, size, classes, dtype=torch.float64)[None]
        noise = torch.randn(200, classes, dtype=torch.float64) * size
        blocks += [eye, -eye, half, -half, steps, noise, eye - torch.eye(classes).roll(1, 0) * size]
    return torch.cat(blocks).to(dtype)


def violation(map: Map, keeps_to_the_bit: bool, dtype: torch.dtype) -> float:
    """How far below its guarantee a map's smallest probability falls, relative; negative if it never does."""
    worst = -math.inf
    for classes in (2, 3, CLASSES):
        logits = extreme(dtype, classes)
        for hidden in (0, 1):
            if hidden and classes > 2:
                logits = logits.clone()
                logits[:, -1] = -torch.inf
            valid = classes - hidden if hidden and classes > 2 else classes
            probs = map.probs(logits)
            promised = torch.tensor(map.min_prob(classes if valid == classes else valid), dtype=probs.dtype)
            smallest = probs[logits > -torch.inf].min()
            slack = 0.0 if keeps_to_the_bit else 8 * torch.finfo(probs.dtype).eps * (1 - promised.log())
            worst = max(worst, float((promised * (1 - slack) - smallest) / promised))
    return worst


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.filterwarnings("ignore:Resoftmax")  # it flattens, which here is what it is for
@pytest.mark.parametrize(("entry", "map"), FLOORS)
def test_the_guarantee_holds_on_extreme_logits(entry: MapEntry, map: Map, dtype: torch.dtype) -> None:
    assert violation(map, entry.keeps_to_the_bit, dtype) <= 0


@pytest.mark.parametrize(("entry", "map"), FLOORS)
def test_the_guarantee_is_reached_where_the_table_says_so(entry: MapEntry, map: Map) -> None:
    smallest = map.probs(extreme(torch.float64, CLASSES)).min().item()
    reached = smallest == pytest.approx(map.min_prob(CLASSES), rel=1e-6, abs=0)
    assert reached is entry.attained


@final
@dataclass(frozen=True)
class Overpromising(Map):
    """A planted violation: it clips and renormalises, and promises what it clips at."""

    floor: float

    def min_prob(self, num_classes: int) -> float:
        return self.floor

    def _log_probs(self, logits: Tensor, /) -> Tensor:
        return Clipped(self.floor)._log_probs(logits)


def test_the_hunt_finds_a_planted_violation() -> None:
    assert violation(Overpromising(0.01), False, torch.float64) > 0
    assert violation(Clipped(0.01), False, torch.float64) <= 0
