"""Logits and labels drawn with a temperature and label noise."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def simulated(
    seed: int, rows: int, classes: int, *, temperature: float = 2.0, noise: float = 0.0, spread: float = 3.0
) -> tuple[Floats, NDArray[np.int64]]:
    """Return logits that a temperature makes right, and labels of which a share is wrong."""
    random = np.random.default_rng(seed)
    right = spread * random.normal(size=(rows, classes))
    clean = (right + random.gumbel(size=right.shape)).argmax(1)
    wrong = (clean + random.integers(1, classes, rows)) % classes
    return temperature * right, np.where(random.random(rows) < noise, wrong, clean)
