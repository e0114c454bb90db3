"""Set how sure a classifier is: losses and penalties that shape the confidence of a softmax."""

import sys

from equipoise import (
    decisions,
    distributions,
    gamma,
    linear,
    losses,
    maps,
    metrics,
    penalties,
    schedules,
    targets,
)
from equipoise.naming import suggest_names
from equipoise.objective import Objective

__version__ = "0.1.0"

__all__ = [
    "Objective",
    "__version__",
    "decisions",
    "distributions",
    "gamma",
    "linear",
    "losses",
    "maps",
    "metrics",
    "penalties",
    "schedules",
    "targets",
]

suggest_names(sys.modules[__name__])
