"""Set how sure a classifier is: losses and penalties that shape the confidence of a softmax."""

from equipoise import decisions, distributions, gamma, linear, losses, maps, penalties, schedules, targets
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
    "penalties",
    "schedules",
    "targets",
]
