"""What the tests of `ObjectiveClassifier` share."""

from typing import Any

import numpy as np

from equipoise.integrations.sklearn import ObjectiveClassifier

NAMES = np.array(["cat", "dog", "eel"])
COSTS = np.array([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [30.0, 30.0, 0.0]])  # an eel must not be missed


def quick(objective: Any = None, **options: Any) -> ObjectiveClassifier:
    """Return a classifier that takes no time."""
    given: dict[str, Any] = {
        "hidden_layer_sizes": (8,),
        "max_iter": 15,
        "n_iter_no_change": np.inf,
        "learning_rate_init": 0.01,
        "random_state": 0,
    }
    return ObjectiveClassifier(objective, **given | options)
