"""How the tests of objectives read a text."""

from typing import Any

import numpy as np

from equipoise import Objective
from equipoise.compare.objectives import Candidate, read_objective

COSTS = np.array([[0.0, 2.0], [1.0, 0.0]])


def read(given: Any, matrices: Any = None, name: str | None = None) -> Candidate:
    return read_objective(given, {} if matrices is None else matrices, name)


def scheduled(text: str, steps: int = 10) -> Objective:
    return read(text).objective(steps)
