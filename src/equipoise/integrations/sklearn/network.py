"""`ObjectiveClassifier`, a scikit-learn classifier: a network trained with any objective."""

# ruff: noqa: N803, N806 - X is scikit-learn's name

import math
import warnings
from typing import Any, Self, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from equipoise.costs import decide
from equipoise.integrations.sklearn.modules import inputs_of, made
from equipoise.losses import Loss
from equipoise.objective import Objective
from equipoise.training import Alone, Options, Rows, Trained, Trainer, load, predict

try:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import train_test_split
    from sklearn.utils import check_random_state
    from sklearn.utils.class_weight import compute_class_weight
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

    from equipoise.integrations.sklearn.arguments import Arguments, check_count
    from equipoise.integrations.sklearn.bases import ClassifierMixin
except ImportError as _error:
    raise ImportError("integrations.sklearn needs scikit-learn; pip install 'equipoise[sklearn]'") from _error

DTYPES = (np.float64, np.float32)


@final
class ObjectiveClassifier(ClassifierMixin, Arguments):
    r"""A network trained by Adam with any objective: a multilayer perceptron, or your own module.

    It works as a scikit-learn classifier in pipelines, searches, calibration and cross-validation. The
    parameters of the objective are parameters of the classifier, under the paths that `Objective` uses for
    schedules: `objective__gamma`; `objective__Focal.gamma` if several terms have that option;
    `objective__Entropy` for the coefficient of a term. `get_params()` lists them.

    Arguments that `sklearn.neural_network.MLPClassifier` has too have its names, defaults and rules. Training
    ends after `max_iter` epochs; or once the mean training loss, or with `early_stopping` the accuracy on
    held-out rows, has not improved by `tol` for more than `n_iter_no_change` epochs in a row. With schedules,
    the training losses of different epochs are not comparable and do not stop training.

    Args:
        objective: A loss, or its text such as "GammaCrossEntropy(gamma=0.1) + 0.5 * LogitRange(width=8)";
            None for cross entropy.
        hidden_layer_sizes: Widths of the hidden layers; () for a linear model.
        costs: (C, C) costs[true, predicted] in the order of `classes_`, or with names: a `costs.ClassMatrix`,
            or a data frame labelled by class, of which the part for `classes_` is used. `predict` then
            returns the class of smallest expected cost; with None, the likeliest. Matrices with names in the
            objective are also put in the order of `classes_`.
        module: Instead of the layers, a `torch.nn.Module`, of which a copy is trained from its current
            weights, or a function from (features, classes) to a module, called by each `fit`. It returns
            logits (B, C). X may then have more than two dimensions; features is the shape of such a row.
        schedules: Maps paths to schedules, or to their texts; a step is a batch.
        class_weight: Factor on the weight of the rows of each class: a dict, "balanced" or None.
        activation: Of the hidden layers: "identity", "logistic", "tanh" or "relu".
        alpha: Strength of the L2 penalty, as in `MLPClassifier`: alpha / (2 B) times the sum of the squared
            weights is added to the loss of a batch of B rows, without biases (parameters of a module with a
            single dimension). It is not decoupled weight decay.
        batch_size: Rows in a batch; "auto" for at most 200.
        learning_rate_init: Adam's learning rate.
        max_iter: Largest number of epochs in `fit`; `partial_fit` trains for one.
        shuffle: Whether each epoch has a new random order of the rows.
        random_state: Seed of initial weights, batches, held-out rows and dropout: an integer, a RandomState
            or None. The state of torch's generators is kept.
        tol: Smallest improvement that counts; absolute, so use a smaller one if the loss has a small scale.
        verbose: Whether to print the loss of each epoch.
        warm_start: Whether `fit` continues from the last `fit`, including Adam's state.
        early_stopping: Whether to hold out a stratified part of the rows, and keep the weights of the epoch
            with the best accuracy on it.
        validation_fraction: Fraction of the rows that `early_stopping` holds out.
        n_iter_no_change: Number of epochs in a row without an improvement that are allowed, or infinity.
        device: "cpu", "cuda" or a `torch.device` of these.

    Attributes:
        classes_: The classes, sorted.
        n_features_in_: Number of features.
        feature_names_in_: Their names, if X was a data frame with names.
        module_: The network, from features to logits.
        objective_: The objective with its current values.
        costs_: Checked costs in the order of `classes_`, or None.
        n_iter_: Number of epochs, over all calls.
        n_layers_: Number of layers with input and output, unless the module is your own.
        n_outputs_: Number of classes.
        out_activation_: "softmax".
        loss_: Mean training loss of the last epoch, without the L2 penalty.
        loss_curve_: `loss_` of each epoch.
        best_loss_: The smallest of `loss_curve_`, or None with `early_stopping`.
        validation_scores_: Accuracy on the held-out rows after each epoch, or None.
        best_validation_score_: The largest accuracy of the last call, that of the kept weights, or None.

    Raises:
        TypeError: When fitted, if an argument has the wrong type, or the module does not return logits.
        ValueError: When fitted, if an argument is outside its range, y has fewer than two classes, or
            training diverges.

    Warns:
        ConvergenceWarning: If `max_iter` ended the training before `n_iter_no_change` could.

    Numerics:
        Training is in the dtype of X, float32 or float64, or in that of the module. Sparse rows are made
        dense batch by batch. Probabilities are the softmax of the logits in float64 for every objective, as
        in `equipoise compare`. A row of weight 2 is equivalent to the row twice if a batch has all rows; with
        smaller batches the composition of the batches differs.

    Example:
        >>> rows, labels = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array(["low", "low", "high", "high"])
        >>> options = {"learning_rate_init": 0.1, "random_state": 0}
        >>> model = ObjectiveClassifier("GammaCrossEntropy(gamma=0.1)", **options).fit(rows, labels)
        >>> model.predict(rows)
        array(['low', 'low', 'high', 'high'], dtype='<U4')
        >>> model.set_params(objective__gamma=0.5).objective
        GammaCrossEntropy(gamma=0.5, min_weight=0.0)
    """

    classes_: NDArray[Any]
    objective_: Objective
    costs_: Any
    module_: nn.Module
    n_iter_: int
    n_layers_: int
    n_outputs_: int
    out_activation_: str
    loss_: float
    loss_curve_: list[float]
    best_loss_: float | None
    validation_scores_: list[float] | None
    best_validation_score_: float | None

    def __init__(
        self,
        objective: Loss | str | None = None,
        hidden_layer_sizes: Any = (100,),
        costs: Any = None,
        *,
        module: Any = None,
        schedules: Any = None,
        class_weight: Any = None,
        activation: str = "relu",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate_init: float = 0.001,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool = False,
        warm_start: bool = False,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: float = 10,
        device: str | torch.device = "cpu",
    ) -> None:
        self.objective = objective
        self.hidden_layer_sizes = hidden_layer_sizes
        self.costs = costs
        self.module = module
        self.schedules = schedules
        self.class_weight = class_weight
        self.activation = activation
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.device = device

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train a new network; with `warm_start`, continue with the last one.

        Args:
            X: (N, D) features, dense or sparse; for a module of your own (N, ...).
            y: (N,) labels.
            sample_weight: (N,) weights of the rows, 0 or more; None for 1 each.
        """
        check_count("max_iter", self.max_iter)
        goes_on = bool(self.warm_start) and hasattr(self, "module_")
        X, y = self._validated(X, y, reset=not goes_on)
        check_classification_targets(y)
        if goes_on:
            self._check_classes(np.unique(y), "fit with warm_start")
            self._go_on("fit with warm_start")
        else:
            self._start(np.unique(y), X)
        self._train(X, y, sample_weight, self.max_iter)
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Train for one epoch, starting from the end of the last `fit` or `partial_fit`.

        Between calls you may change the objective and its schedules (which keep their step), costs, class
        weights, batch size and learning rate, but no argument of the network.

        Args:
            X: (N, D) features.
            y: (N,) labels.
            classes: All classes of this and later calls; needed in the first call.
            sample_weight: (N,) weights of the rows, 0 or more; None for 1 each.

        Raises:
            ValueError: As `fit`; also if classes are missing in the first call or differ later, y has others,
                class_weight is "balanced", early_stopping is set, or an argument of the network has changed.
        """
        first = not hasattr(self, "module_")
        self._check_partial_fit(lacks_classes=first and classes is None)
        X, y = self._validated(X, y, reset=first)
        check_classification_targets(y)
        if first:
            self._start(np.unique(np.asarray(classes)), X)
        elif classes is not None:
            self._check_classes(np.unique(classes), "partial_fit")
        unknown = np.setdiff1d(y, self.classes_)
        if len(unknown):
            raise ValueError(
                f"y must hold only the classes of the first call, {self.classes_.tolist()}, got "
                f"{unknown.tolist()} too; to start again use fit or a clone"
            )
        if not first:
            self._go_on("partial_fit")
        self._train(X, y, sample_weight, None)
        return self

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the class of smallest expected cost of each row, or without costs the likeliest.

        Raises:
            ValueError: If the probabilities of a row are nan, because training has diverged.
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
        """Return logits (N, C); for two classes (N,), the second minus the first. Costs are not used."""
        logits = self._logits(X)
        return (logits if len(self.classes_) > 2 else logits[:, 1] - logits[:, 0]).numpy()

    def _logits(self, X: Any) -> Tensor:
        check_is_fitted(self)
        return predict(Alone(self.module_), None, inputs_of(self._validated(X, reset=False))).double()

    def _validated(self, X: Any, *y: Any, reset: bool) -> Any:
        """Return X, or X and y, checked by scikit-learn; raise if rows have another shape than in fit."""
        own = self.module is not None
        dtypes = (*DTYPES, np.int64) if own else DTYPES
        found: Any = validate_data(self, X, *y, reset=reset, dtype=dtypes, accept_sparse="csr", allow_nd=own)
        shape = (found[0] if y else found).shape[1:]
        if not reset and shape != self._shape:
            raise ValueError(f"X must have rows of shape {self._shape}, as in fit, got {shape}")
        self._shape = shape
        return found

    def _check_classes(self, classes: NDArray[Any], call: str) -> None:
        if not np.array_equal(classes, self.classes_):
            raise ValueError(
                f"classes must be those of the first call, {self.classes_.tolist()}, in {call}, got "
                f"{classes.tolist()}; to start again use fit or a clone"
            )

    def _start(self, classes: NDArray[Any], X: Any) -> None:
        """Check the arguments, and make an untrained network for these classes."""
        if len(classes) < 2:
            raise ValueError(f"y must have at least 2 classes, got {len(classes)} class: {classes.tolist()}")
        network, (objective, costs) = self._of_network(), self._settings(classes)
        widths = network["hidden_layer_sizes"]
        self._seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        module = made(
            self.module,
            features=self._shape[0] if len(self._shape) == 1 else self._shape,
            classes=len(classes),
            widths=widths,
            activation=self.activation,
            dtype=torch.float32 if X.dtype == np.float32 else torch.float64,
            seed=self._seed,
        )
        self._trainer = Trainer(Alone(module), objective, Options(device=self.device), [self._seed])
        self.classes_, self.objective_, self.costs_, self.module_ = classes, objective, costs, module
        self._made_with = network
        self.n_outputs_, self.out_activation_ = len(classes), "softmax"
        if self.module is None:
            self.n_layers_ = len(widths) + 2
        self.n_iter_, self.loss_curve_ = 0, []
        self.best_loss_ = self.validation_scores_ = self.best_validation_score_ = None

    def _go_on(self, call: str) -> None:
        """Apply arguments that have changed since the last call; raise if the network would change."""
        for name, given in self._of_network().items():
            value = self._made_with[name]
            if given is not value and given != value:
                raise ValueError(
                    f"{name} must stay {value!r} in {call}, got {given!r}; to start again use fit or a clone"
                )
        objective, self.costs_ = self._settings(self.classes_)
        objective.set_step(self.objective_.steps)
        self.objective_ = self._trainer.objective = objective

    def _train(self, X: Any, y: NDArray[Any], sample_weight: Any, passes: int | None) -> None:
        """Train on the rows whose weight is not 0; with epochs None, for one epoch without early stopping."""
        target = np.searchsorted(self.classes_, y)
        weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        scored = weight
        if self.class_weight is not None:
            classes: Any = {"classes": self.classes_, "y": y, "sample_weight": sample_weight}
            weight = weight * compute_class_weight(self.class_weight, **classes)[target]
        kept = np.flatnonzero(weight)
        if not len(kept):
            raise ValueError(
                f"class_weight must give some row a weight above 0, got {self.class_weight!r}; use None"
            )
        held_out = kept[:0]
        if self.early_stopping:
            size: Any = {"test_size": self.validation_fraction, "random_state": self._seed}
            kept, held_out = train_test_split(kept, stratify=target[kept], **size)

        def rows(part: Any) -> list[Rows]:
            labels, weights, scores = (torch.from_numpy(each[part]) for each in (target, weight, scored))
            even = bool((weights == 1).all())
            return [Rows(inputs_of(X[part]), labels, None if even else weights, scores)]

        ends = passes is not None and (self.early_stopping or not self.objective_.schedules)
        self._trainer.options = Options(
            epochs=passes or 1,
            batch_size=min(200, len(kept)) if self.batch_size == "auto" else int(self.batch_size),
            lr=float(self.learning_rate_init),
            weight_decay=0.0,
            patience=self.n_iter_no_change + 1 if ends else math.inf,
            stop="accuracy" if self.early_stopping else "none",
            tol=float(self.tol),
            alpha=float(self.alpha),
            shuffle=bool(self.shuffle),
            device=self.device,
            scores=("accuracy",),
        )
        copy = Trained()
        for (copy,) in self._trainer.run(rows(kept), rows(held_out) if self.early_stopping else None):
            self._note(copy)
        if self.early_stopping:
            load(self._trainer.model, copy.state)
        if ends and not copy.stopped and len(copy.losses) > self.n_iter_no_change:
            warnings.warn(
                f"max_iter must be larger for training to converge by tol={self.tol}, got {self.max_iter}; "
                "n_iter_no_change=numpy.inf switches this warning off",
                ConvergenceWarning,
                stacklevel=3,
            )

    def _note(self, copy: Trained) -> None:
        """Record and print the result of an epoch; raise if it is not finite."""
        self.n_iter_ += 1
        self.loss_ = copy.losses[-1]
        self.loss_curve_.append(self.loss_)
        weights = self.module_.parameters()
        if not (math.isfinite(self.loss_) and all(bool(each.isfinite().all()) for each in weights)):
            raise ValueError(
                f"weights must stay finite in training, got nan or infinity in pass {self.n_iter_}; "
                "scale the features, or lower learning_rate_init"
            )
        if self.verbose:
            print(f"Iteration {self.n_iter_}, loss = {self.loss_:.8f}")
        if not self.early_stopping:
            self.best_loss_ = min(self.loss_curve_)
            return
        score = copy.curve[-1]["accuracy"]
        assert score is not None
        self.validation_scores_ = [*(self.validation_scores_ or []), score]
        self.best_loss_, self.best_validation_score_ = None, -float(copy.best)
        if self.verbose:
            print(f"Validation score: {score:f}")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


__all__ = ["ObjectiveClassifier"]
