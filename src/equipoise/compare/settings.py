"""`Settings` of a comparison: all options except data and objectives."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any

from equipoise.training.stops import STOPS

__all__ = ["WORTHWHILE", "Settings"]

WORTHWHILE = {"accuracy": 0.005, "calibrated_nll": 0.01}
# Range of each count. Larger numbers are of no use, and would exhaust memory or time.
COUNTS = {
    "width": (1, 10**9),
    "epochs": (1, 10**6),
    "batch_size": (1, 10**9),
    "patience": (1, 10**9),
    "folds": (2, 10**6),
    "repeats": (1, 1000),
    "tune": (0, 1000),
    "random_state": (0, 2**31),
}


@dataclass(frozen=True)
class Settings:
    """Options of training and evaluation, the same for all candidates; `compare` describes them."""

    model: str | Callable[[Any, int], Any] = "mlp"
    model_name: str | None = None
    width: int = 128
    epochs: int = 100
    batch_size: int = 128
    lr: float = 3e-3
    weight_decay: float = 1e-4
    stop: str = "calibrated"
    patience: int = 20
    class_weight: str | None = None
    folds: int = 10
    repeats: int = 1
    tune: int = 0
    worthwhile: Mapping[str, float] = field(default_factory=dict)
    device: str = "cpu"
    random_state: int = 0

    def __post_init__(self) -> None:
        if self.model not in ("mlp", "linear") and not callable(self.model):
            raise ValueError(
                f"model must be 'mlp', 'linear' or a function from (features, classes) to an nn.Module, got "
                f"{self.model!r}; the default is 'mlp'"
            )
        if self.stop not in STOPS:
            raise ValueError(
                f"stop must be one of {', '.join(STOPS)}, got {self.stop!r}; the default is 'calibrated'"
            )
        if self.class_weight not in (None, "balanced"):
            raise ValueError(
                f"class_weight must be 'balanced' or None, got {self.class_weight!r}; for weights of your "
                "own use sample_weight"
            )
        for name, (low, high) in COUNTS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Integral) or not low <= int(value) <= high:
                raise ValueError(
                    f"{name} must be an integer from {low} to {high}, got {_short(value)}; the default is "
                    f"{_default(name)}"
                )
            object.__setattr__(self, name, int(value))  # JSON cannot store numpy's integers
        for name, low in (("lr", math.ulp(0.0)), ("weight_decay", 0.0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Real) or not low <= float(value) < math.inf:
                raise ValueError(
                    f"{name} must be a finite number {'above 0' if low else 'of 0 or more'}, got "
                    f"{_short(value)}; the default is {_default(name)}"
                )
            object.__setattr__(self, name, float(value))
        known = [*WORTHWHILE, "decided_cost"]
        for name, least in self.worthwhile.items():
            if name not in known or not (isinstance(least, Real) and 0 <= least < math.inf):
                raise ValueError(
                    f"worthwhile must give {', '.join(known)} a number of 0 or more, got {_short(least)} for "
                    f"{name!r}; write for example {{'accuracy': 0.005}}"
                )
        if self.device != "cpu":  # other devices need an import of torch
            from equipoise.training.networks import find_device

            find_device(self.device)
        object.__setattr__(self, "worthwhile", WORTHWHILE | dict(self.worthwhile))

    @property
    def own_model(self) -> bool:
        """Whether the model is the user's."""
        return not isinstance(self.model, str)

    @property
    def title(self) -> str:
        """Name of the model in errors and output."""
        return self.model if isinstance(self.model, str) else self.model_name or _name(self.model)

    @property
    def of_training(self) -> dict[str, Any]:
        """The settings that influence a training, without those that tuning may change."""
        names = ("epochs", "batch_size", "stop", "patience", "class_weight", "device", "random_state")
        return {"model": self.title} | {name: getattr(self, name) for name in names}


def _default(name: str) -> Any:
    return next(each.default for each in fields(Settings) if each.name == name)


def _name(model: Any) -> str:
    return getattr(model, "__qualname__", type(model).__name__)


def _short(value: Any) -> str:
    text = (
        repr(value)
        if not isinstance(value, int) or abs(value) < 10**30
        else f"a number of {value.bit_length()} bits"
    )
    return text if len(text) <= 60 else f"{text[:57]}..."
