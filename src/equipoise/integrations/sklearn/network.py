"""A scikit-learn classifier whose confidence is shaped: a small network trained with any objective."""

# ruff: noqa: N803, N806 - X is the word of scikit-learn

from itertools import pairwise
from numbers import Integral
from typing import Any, Self, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from equipoise import addresses
from equipoise.decisions import decide
from equipoise.losses import CrossEntropy, Loss
from equipoise.losses.base import check_loss
from equipoise.losses.costs import in_order
from equipoise.losses.options import check_number
from equipoise.objective import Objective
from equipoise.spelling import parse
from equipoise.targets import Matrix

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.class_weight import compute_class_weight
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
except ImportError as error:
    raise ImportError("integrations.sklearn needs scikit-learn; pip install 'equipoise[sklearn]'") from error

PREFIX = "objective__"
DTYPES = (np.float64, np.float32)


@final
class ObjectiveClassifier(ClassifierMixin, BaseEstimator):
    """A small network of ReLU layers, trained with any objective of equipoise by Adam.

    It goes where a scikit-learn classifier goes: pipelines, searches, calibration, cross-validation. The
    numbers in the objective are parameters under their addresses, those that `Objective` has for schedules:
    `objective__gamma`; `objective__Focal.gamma` where several terms have that option; `objective__Entropy`
    for the coefficient of a term. `get_params()` lists them.

    It trains for `max_iter` passes, without early stopping: training losses of different objectives, or of
    one under a schedule, have no common scale that a tolerance would fit. Argument names are those of
    `sklearn.neural_network.MLPClassifier` where it has one.

    Args:
        objective: A loss, or its text such as "GammaCrossEntropy(gamma=0.1) + 0.5 * LogitRange(width=8)";
            None for cross entropy.
        hidden: Widths of the hidden layers; () for a linear model.
        costs: (C, C) costs[true, predicted] in the order of `classes_`, or named: a `targets.Matrix`, or a
            data frame labelled by class, of which the part for `classes_` is used. `predict` then takes the
            class of smallest expected cost. None for the likeliest. Named matrices in the objective are put
            in the order of `classes_` likewise.
        schedules: Addresses and schedules, or their texts, of numbers that change; a step is a batch.
        class_weight: Factor on the weight of the rows of each class: a dict, "balanced" or None.
        batch_size: Rows in a batch; "auto" for at most 200.
        learning_rate_init: Adam's learning rate.
        max_iter: Passes over the rows in `fit`; `partial_fit` makes one.
        random_state: Decides initial weights and batches: an integer, a RandomState or None. torch's own
            generators are not touched.

    Attributes:
        classes_: The classes, sorted.
        n_features_in_: Number of features.
        feature_names_in_: Their names, if X was a data frame with names.
        module_: The network, from features to logits.
        objective_: The objective with the values in force.
        costs_: Checked costs in the order of `classes_`, or None.
        n_iter_: Passes made.
        loss_curve_: Mean loss of each pass.

    Raises:
        TypeError: When fitted, if an argument is not of its kind.
        ValueError: When fitted, if an argument is outside its range, y has fewer than two classes, or
            training diverges.

    Numerics:
        In the dtype of X, float32 or float64. Probabilities are the softmax of the logits in float64 whatever
        the objective, as `equipoise compare` has them. A weight of 2 counts as the row twice, exactly where a
        batch holds all rows; with smaller batches other rows come together.

    Example:
        >>> rows, labels = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array(["low", "low", "high", "high"])
        >>> model = ObjectiveClassifier("GammaCrossEntropy(gamma=0.1)", random_state=0).fit(rows, labels)
        >>> model.predict(rows)
        array(['low', 'low', 'high', 'high'], dtype='<U4')
        >>> model.set_params(objective__gamma=0.5).objective
        GammaCrossEntropy(gamma=0.5, min_weight=0.0)
    """

    def __init__(
        self,
        objective: Loss | str | None = None,
        hidden: tuple[int, ...] = (100,),
        costs: Any = None,
        *,
        schedules: Any = None,
        class_weight: Any = None,
        batch_size: int | str = "auto",
        learning_rate_init: float = 0.001,
        max_iter: int = 200,
        random_state: Any = None,
    ) -> None:
        self.objective = objective
        self.hidden = hidden
        self.costs = costs
        self.schedules = schedules
        self.class_weight = class_weight
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.max_iter = max_iter
        self.random_state = random_state

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters; with deep, the numbers in the objective under their shortest addresses."""
        params = super().get_params(deep=False)
        if deep:
            loss = self._loss()
            shortest = {place: address for address, place in addresses.places(loss).items()}
            params |= {PREFIX + address: addresses.get(loss, place) for place, address in shortest.items()}
        return params

    def set_params(self, **params: Any) -> Self:
        """Set parameters; those of the objective under any of their addresses.

        Raises:
            TypeError: If a number of the objective is set to something else.
            ValueError: If there is no such parameter or address, or an option does not take the value.
        """
        inner = {name: params.pop(name) for name in list(params) if name.startswith(PREFIX)}
        for name in super().get_params(deep=False).keys() & params.keys():
            setattr(self, name, params.pop(name))  # checked in fit, as scikit-learn asks
        super().set_params(**params)  # raises for what is left
        if inner:
            loss, values = self._loss(), {}
            for name, value in inner.items():
                number = value.item() if isinstance(value, np.generic) else value
                check_number(name, number)
                values[addresses.find(loss, name.removeprefix(PREFIX), name)] = number
            self.objective = addresses.put(loss, values)
        return self

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train anew.

        Args:
            X: (N, D) features.
            y: (N,) labels.
            sample_weight: (N,) weights of the rows, 0 or more; None for 1 each.
        """
        _check_count("max_iter", self.max_iter)
        X, y = validate_data(self, X, y, dtype=DTYPES)
        check_classification_targets(y)
        self._start(np.unique(y), X)
        self._train(X, y, sample_weight, self.max_iter)
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Make one pass over the rows, from where the last call of `fit` or `partial_fit` ended.

        Parameters that have changed since are in force: the objective and its schedules, which keep their
        step, costs, weights, batch size and learning rate. Those that made the network may not change.

        Args:
            X: (N, D) features.
            y: (N,) labels.
            classes: All classes that will ever come; needed in the first call.
            sample_weight: (N,) weights of the rows, 0 or more; None for 1 each.

        Raises:
            ValueError: As `fit`; if classes are missing from the first call or not the same later, y has
                others, class_weight is "balanced", or hidden or random_state have changed.
        """
        first = not hasattr(self, "module_")
        if first and classes is None:
            raise ValueError(
                "classes must be given in the first call of partial_fit, got None; pass all there will be"
            )
        if self.class_weight == "balanced":
            raise ValueError(
                "class_weight must be a dict or None in partial_fit, got 'balanced'; weigh by the shares of "
                "the whole data"
            )
        X, y = validate_data(self, X, y, dtype=DTYPES, reset=first)
        check_classification_targets(y)
        if first:
            self._start(np.unique(classes), X)
        elif classes is not None and not np.array_equal(np.unique(classes), self.classes_):
            raise ValueError(
                f"classes must be those of the first call, {self.classes_.tolist()}, got "
                f"{np.unique(classes).tolist()}; to start again use fit or a clone"
            )
        unknown = np.setdiff1d(y, self.classes_)
        if len(unknown):
            raise ValueError(
                f"y must hold only the classes of the first call, {self.classes_.tolist()}, got "
                f"{unknown.tolist()} too; to start again use fit or a clone"
            )
        if not first:
            self._go_on()
        self._train(X, y, sample_weight, 1)
        return self

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the class of each row: of smallest expected cost if there are costs, else the likeliest.

        Raises:
            ValueError: If the model has diverged, so that a row has no probabilities.
        """
        probs = self.predict_proba(X)
        broken = np.isnan(probs).any(1)
        if broken.any():
            raise ValueError(
                f"probabilities must be finite to predict a class, got nan in row {int(broken.argmax())}; "
                "the training has diverged: use a smaller learning_rate_init"
            )
        return self.classes_[probs.argmax(1) if self.costs_ is None else decide(probs, self.costs_)]

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return probabilities (N, C) in the order of `classes_`."""
        return self._logits(X).softmax(1).numpy()

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """Return logits (N, C); with two classes (N,), the second's less the first's. Costs have no part."""
        logits = self._logits(X)
        return (logits if len(self.classes_) > 2 else logits[:, 1] - logits[:, 0]).numpy()

    def _loss(self) -> Loss:
        """Return the objective as a loss."""
        if self.objective is None:
            return CrossEntropy()
        if isinstance(self.objective, str):
            return parse(self.objective)
        return check_loss("objective", self.objective, "a loss of equipoise or its text")

    def _logits(self, X: Any) -> Tensor:
        check_is_fitted(self)
        X = validate_data(self, X, dtype=DTYPES, reset=False)
        with torch.inference_mode():
            return self.module_(torch.tensor(X, dtype=self._dtype)).double()

    def _start(self, classes: NDArray[Any], X: NDArray[Any]) -> None:
        """Check the arguments, and make an untrained network for these classes."""
        if len(classes) < 2:
            raise ValueError(f"y must have at least 2 classes, got {len(classes)} class: {classes.tolist()}")
        if not isinstance(self.hidden, tuple | list):
            raise TypeError(f"hidden must be the widths of the layers, got {self.hidden!r}; write (100,)")
        for width in self.hidden:
            _check_count("hidden", width)
        objective, costs = self._settings(classes)
        self.classes_, self.objective_, self.costs_ = classes, objective, costs
        self._made_with = self._of_network()
        self._random = check_random_state(self.random_state)
        self._dtype = torch.float32 if X.dtype == np.float32 else torch.float64
        widths = [X.shape[1], *self.hidden, len(classes)]
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(widths):
            layers += [_drawn(fan_in, fan_out, self._random), nn.ReLU()]
        self.module_ = nn.Sequential(*layers[:-1]).to(self._dtype)
        self._optimizer = torch.optim.Adam(self.module_.parameters(), lr=self.learning_rate_init)
        self.n_iter_, self.loss_curve_ = 0, []

    def _settings(self, classes: NDArray[Any]) -> tuple[Objective, NDArray[np.float64] | None]:
        """Check the arguments that may change between calls; return the objective and the costs."""
        if self.batch_size != "auto":
            _check_count("batch_size", self.batch_size)
        check_number("learning_rate_init", self.learning_rate_init, 0, open_low=True)
        loss = in_order(self._loss(), classes.tolist())
        return Objective.from_config(loss, schedules=self.schedules), _ordered(self.costs, classes)

    def _of_network(self) -> dict[str, Any]:
        """Return the arguments that the network is made with."""
        hidden = tuple(self.hidden) if isinstance(self.hidden, list) else self.hidden
        return {"hidden": hidden, "random_state": self.random_state}

    def _go_on(self) -> None:
        """Put the arguments in force that have changed since the last call, or raise."""
        for name, given in self._of_network().items():
            value = self._made_with[name]
            if given is not value and given != value:
                raise ValueError(
                    f"{name} must stay {value!r} in partial_fit, got {given!r}; to start again use fit or "
                    "a clone"
                )
        objective, self.costs_ = self._settings(self.classes_)
        objective.seek(self.objective_.steps)
        self.objective_ = objective
        self._optimizer.param_groups[0]["lr"] = self.learning_rate_init

    def _train(self, X: NDArray[Any], y: NDArray[Any], sample_weight: Any, passes: int) -> None:
        """Make passes over the rows that have a weight."""
        target = np.searchsorted(self.classes_, y)
        weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        if self.class_weight is not None:
            classes: Any = {"classes": self.classes_, "y": y, "sample_weight": sample_weight}
            weight = weight * compute_class_weight(self.class_weight, **classes)[target]
        kept = weight > 0
        if not kept.any():
            raise ValueError(
                f"class_weight must leave some row a weight, got {self.class_weight!r}; use None"
            )
        rows, labels = torch.tensor(X[kept], dtype=self._dtype), torch.tensor(target[kept])
        weights = torch.tensor(weight[kept] / weight[kept].mean(), dtype=self._dtype)
        size = min(200, len(rows)) if self.batch_size == "auto" else int(self.batch_size)
        for _ in range(passes):
            total = 0.0
            for batch in torch.from_numpy(self._random.permutation(len(rows))).split(size):
                self._optimizer.zero_grad()
                loss = self.objective_(self.module_(rows[batch]), labels[batch], row_weight=weights[batch])
                loss.backward()
                self._optimizer.step()
                self.objective_.step()
                total += loss.item() * weights[batch].sum().item()
            self.n_iter_ += 1
            self.loss_curve_.append(total / len(rows))
            if not all(bool(each.isfinite().all()) for each in self.module_.parameters()):
                raise ValueError(
                    f"weights must stay finite in training, got nan or infinity in pass {self.n_iter_}; "
                    "scale the features, or lower learning_rate_init"
                )


def _drawn(fan_in: int, fan_out: int, random: Any) -> nn.Module:
    """Return a layer with weights from torch's distribution, but not from torch's generator."""
    layer = nn.utils.skip_init(nn.Linear, fan_in, fan_out, dtype=torch.float64)
    bound = fan_in**-0.5
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.from_numpy(random.uniform(-bound, bound, parameter.shape)))
    return layer


def _ordered(costs: Any, classes: NDArray[Any]) -> NDArray[np.float64] | None:
    """Return checked costs of the classes, in their order."""
    if costs is None:
        return None
    if isinstance(costs, Matrix) and costs.kind != "costs":
        raise ValueError(f"costs must be of kind 'costs', got {costs!r}; build it with kind='costs'")
    matrix = Matrix(costs, "costs")
    if getattr(costs, "classes", None) is not None or hasattr(costs, "columns"):  # a fold may lack a class
        return matrix.part(classes.tolist()).array
    if len(matrix) != len(classes):
        names = ", ".join(map(str, classes.tolist()))
        raise ValueError(
            f"costs[true, predicted] must have a row and a column for each of {names}, got {matrix.shape}; "
            "in this order, or named: targets.Matrix(costs, 'costs', names)"
        )
    return matrix.array


def _check_count(name: str, value: Any) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool) or int(value) < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")


__all__ = ["ObjectiveClassifier"]
