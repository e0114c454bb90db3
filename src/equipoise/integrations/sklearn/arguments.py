"""Arguments of `ObjectiveClassifier`: checks, and `get_params` with the parameters of the objective."""

import math
from numbers import Integral
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from equipoise._checks import check_number
from equipoise.costs import ClassMatrix
from equipoise.integrations.sklearn.bases import BaseEstimator
from equipoise.integrations.sklearn.modules import ACTIVATIONS
from equipoise.losses import CrossEntropy, Loss
from equipoise.losses.base import check_loss
from equipoise.losses.cost_sensitive import in_order
from equipoise.objective import Objective
from equipoise.parameters import parameter_paths, replace, resolve, value_at
from equipoise.parsing import from_text

PREFIX = "objective__"


class Arguments(BaseEstimator):
    """Arguments of `ObjectiveClassifier`, and the network and objective made from them."""

    objective: Loss | str | None
    hidden_layer_sizes: Any
    costs: Any
    schedules: Any
    activation: str
    alpha: float
    batch_size: int | str
    learning_rate_init: float
    tol: float
    validation_fraction: float
    n_iter_no_change: float
    class_weight: Any
    early_stopping: bool
    device: str | torch.device

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters; with deep, also those of the objective, under their shortest paths."""
        params = super().get_params(deep=False)
        if deep:
            loss = self._loss()
            shortest = {place: path for path, place in parameter_paths(loss).items()}
            params |= {PREFIX + path: value_at(loss, place) for place, path in shortest.items()}
        return params

    def set_params(self, **params: Any) -> Self:
        """Set parameters; those of the objective under any of their paths.

        Raises:
            TypeError: If a parameter of the objective is not set to a number.
            ValueError: If there is no such parameter or path, or the value is outside its range.
        """
        inner = {name: params.pop(name) for name in list(params) if name.startswith(PREFIX)}
        for name in super().get_params(deep=False).keys() & params.keys():
            setattr(self, name, params.pop(name))  # checked in fit, as scikit-learn requires
        super().set_params(**params)  # raises for unknown parameters
        if inner:
            loss, values = self._loss(), {}
            for name, value in inner.items():
                number = value.item() if isinstance(value, np.generic) else value
                check_number(name, number)
                values[resolve(loss, name.removeprefix(PREFIX), name)] = number
            self.objective = replace(loss, values)
        return self

    def _loss(self) -> Loss:
        """Return the objective as a loss."""
        if self.objective is None:
            return CrossEntropy()
        if isinstance(self.objective, str):
            return from_text(self.objective)
        return check_loss("objective", self.objective, "a loss of equipoise or its text")

    def _settings(self, classes: NDArray[Any]) -> tuple[Objective, NDArray[np.float64] | None]:
        """Check the arguments that may change between calls; return the objective and the costs."""
        if self.batch_size != "auto":
            check_count("batch_size", self.batch_size)
        _check("learning_rate_init", self.learning_rate_init, 0, open_low=True)
        _check("alpha", self.alpha, 0)
        _check("tol", self.tol, 0)
        _check("validation_fraction", self.validation_fraction, 0, 1, open_low=True)
        if self.n_iter_no_change != math.inf:
            check_count("n_iter_no_change", self.n_iter_no_change)
        loss = in_order(self._loss(), classes.tolist())
        return Objective.from_config(loss, schedules=self.schedules), _ordered(self.costs, classes)

    def _check_partial_fit(self, *, lacks_classes: bool) -> None:
        """Raise if classes are missing, or an argument needs all rows at once."""
        if lacks_classes:
            raise ValueError(
                "classes must be given in the first call of partial_fit, got None; pass all classes"
            )
        if self.class_weight == "balanced":
            raise ValueError(
                "class_weight must be a dict or None in partial_fit, got 'balanced'; pass weights from the "
                "class counts of all data"
            )
        if self.early_stopping:
            raise ValueError(
                "early_stopping must be False in partial_fit, got True; hold out rows in your own loop"
            )

    def _of_network(self) -> dict[str, Any]:
        """Check and return the arguments of the network."""
        given = self.hidden_layer_sizes
        if not isinstance(given, tuple | list | np.ndarray | Integral):
            raise TypeError(
                f"hidden_layer_sizes must be the widths of the layers, got {given!r}; write (100,)"
            )
        sizes = (given,) if isinstance(given, Integral) else tuple(given)
        for width in sizes:
            check_count("hidden_layer_sizes", width)
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {self.activation!r}")
        names = ("activation", "module", "device", "random_state")
        widths = tuple(int(width) for width in sizes)
        return {"hidden_layer_sizes": widths} | {name: getattr(self, name) for name in names}


def _ordered(costs: Any, classes: NDArray[Any]) -> NDArray[np.float64] | None:
    """Return checked costs of the classes, in their order."""
    if costs is None:
        return None
    matrix = ClassMatrix.of(costs, "costs")
    labelled = isinstance(costs, ClassMatrix) or hasattr(costs, "columns")
    if matrix.is_named or (labelled and {*map(str, classes.tolist())} <= {*matrix.classes}):
        # a fold may lack a class
        return matrix.part(classes.tolist()).array
    if len(matrix) != len(classes):
        names = ", ".join(map(str, classes.tolist()))
        raise ValueError(
            f"costs[true, predicted] must have a row and a column for each of {names}, got {matrix.shape}; "
            "in this order, or named: costs.ClassMatrix(costs, names, kind='costs')"
        )
    return matrix.array


def _check(name: str, value: Any, low: float, high: float = math.inf, *, open_low: bool = False) -> None:
    check_number(name, value.item() if isinstance(value, np.generic) else value, low, high, open_low=open_low)


def check_count(name: str, value: Any) -> None:
    """Raise unless the argument is an integer of at least 1."""
    if not isinstance(value, Integral) or isinstance(value, bool) or int(value) < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
