"""Set how sure a classifier is: losses and penalties that shape the confidence of a softmax."""

import sys
from typing import TYPE_CHECKING

from equipoise import (
    calibration,
    decisions,
    distributions,
    gamma,
    linear,
    losses,
    maps,
    naming,
    penalties,
    schedules,
    targets,
)
from equipoise.objective import Objective

if TYPE_CHECKING:  # imported when it is asked for
    from equipoise import metrics

__version__ = "0.1.0"

__all__ = [
    "Objective",
    "__version__",
    "calibration",
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

for _module in (__name__, *(f"{__name__}.{name}" for name in __all__)):
    if _module in sys.modules:
        naming.answer_names(_module)
