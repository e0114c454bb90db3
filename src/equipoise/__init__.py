"""Losses, penalties and probability maps that set the confidence of a classifier."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # `__getattr__` below does the same at run time, when a name is first used
    from equipoise import calibration as calibration
    from equipoise import costs as costs
    from equipoise import distributed as distributed
    from equipoise import distributions as distributions
    from equipoise import kernels as kernels
    from equipoise import label_noise as label_noise
    from equipoise import linear as linear
    from equipoise import losses as losses
    from equipoise import maps as maps
    from equipoise import masking as masking
    from equipoise import metrics as metrics
    from equipoise import naming as naming
    from equipoise import objective as objective
    from equipoise import parameters as parameters
    from equipoise import parsing as parsing
    from equipoise import penalties as penalties
    from equipoise import schedules as schedules
    from equipoise import sharded as sharded
    from equipoise import statistics as statistics
    from equipoise.objective import Objective as Objective

__version__ = "0.1.0"

__all__ = [
    "Objective",
    "__version__",
    "calibration",
    "costs",
    "distributions",
    "label_noise",
    "linear",
    "losses",
    "maps",
    "metrics",
    "penalties",
    "schedules",
]

# Modules that are imported when they are first used, so that the command starts without torch.
_PUBLIC = tuple(name for name in __all__ if name not in ("Objective", "__version__"))
_INTERNAL = (
    "distributed",
    "kernels",
    "masking",
    "naming",
    "objective",
    "parameters",
    "parsing",
    "sharded",
    "statistics",
)

if not TYPE_CHECKING:  # a type checker that sees `__getattr__` takes any name

    def __getattr__(name: str) -> Any:
        """Import a module of the package, or `Objective`, when it is first used."""
        from importlib import import_module

        if name in (*_PUBLIC, *_INTERNAL):
            return import_module(f"{__name__}.{name}")  # which also makes it an attribute
        if name == "Objective":
            globals()[name] = import_module(f"{__name__}.objective").Objective
            return globals()[name]
        return import_module(f"{__name__}.naming").refuse(__name__, name)


def __dir__() -> list[str]:
    return sorted(__all__)
