"""The training loop of `compare` and of the scikit-learn estimators; its parts are imported on first use."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from equipoise.training.loop import Options as Options
    from equipoise.training.loop import Trained as Trained
    from equipoise.training.loop import Trainer as Trainer
    from equipoise.training.loop import predict as predict
    from equipoise.training.loop import train as train
    from equipoise.training.networks import Alone as Alone
    from equipoise.training.networks import Copies as Copies
    from equipoise.training.networks import load as load
    from equipoise.training.networks import separable as separable
    from equipoise.training.rows import Rows as Rows
    from equipoise.training.rows import Source as Source
    from equipoise.training.stops import SCORES as SCORES
    from equipoise.training.stops import STOPS as STOPS
    from equipoise.training.stops import Stop as Stop

_MODULES = {
    "loop": ("Options", "Trained", "Trainer", "predict", "train"),
    "networks": ("Alone", "Copies", "load", "separable"),
    "rows": ("Rows", "Source"),
    "stops": ("SCORES", "STOPS", "Stop"),
}

if not TYPE_CHECKING:  # with `__getattr__`, type checkers accept any name

    def __getattr__(name: str) -> Any:
        """Import a name whose module needs torch, on first use."""
        from importlib import import_module

        for module, names in _MODULES.items():
            if name in names:
                return getattr(import_module(f"{__name__}.{module}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
