"""Set how sure a classifier is: losses and penalties that shape the confidence of a softmax."""

from equipoise import gamma, losses, penalties, schedules
from equipoise.objective import Objective

__version__ = "0.1.0"

__all__ = ["Objective", "__version__", "gamma", "losses", "penalties", "schedules"]
