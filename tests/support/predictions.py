"""Probabilities, and classes drawn from them."""

import numpy as np


def drawn(rows, classes, seed=0, sharpness=0.5):
    """Probabilities and classes drawn from them."""
    generator = np.random.default_rng(seed)
    probs = generator.dirichlet([sharpness] * classes, size=rows)
    target = (generator.random((rows, 1)) > probs.cumsum(axis=1)).sum(axis=1).clip(max=classes - 1)
    return probs, target
