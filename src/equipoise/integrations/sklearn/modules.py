"""Networks for `ObjectiveClassifier`, and rows of sparse matrices."""

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Any, final

import torch
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "identity": nn.Identity,
    "logistic": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
}


@final
class SparseRows:
    """Rows of a sparse matrix, made dense per batch.

    Args:
        matrix: (N, D) in CSR format.
    """

    def __init__(self, matrix: Any) -> None:
        self.matrix = matrix

    @property
    def shape(self) -> tuple[int, int]:
        """(N, D)."""
        return self.matrix.shape

    def __getitem__(self, places: Tensor, /) -> Tensor:
        return torch.from_numpy(self.matrix[places.numpy()].toarray())


def inputs_of(X: Any) -> Tensor | SparseRows:  # noqa: N803
    """Return rows as inputs of the training loop."""
    return SparseRows(X.tocsr()) if hasattr(X, "tocsr") else torch.tensor(X)


def made(
    module: Any,
    *,
    features: int | tuple[int, ...],
    classes: int,
    widths: tuple[int, ...],
    activation: str,
    dtype: torch.dtype,
    seed: int,
) -> nn.Module:
    """Return an untrained network with weights drawn by the seed; the state of torch's generators is kept.

    Args:
        module: None for a multilayer perceptron, a network to copy, or a function that makes one.
        features: Number of features, or the shape of a row that has several dimensions.
        classes: Number of classes.
        widths: Widths of the hidden layers of a perceptron.
        activation: Activation of the hidden layers.
        dtype: Dtype of the weights.
        seed: Seed of the random weights.
    """
    if isinstance(module, nn.Module):
        return copy.deepcopy(module)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if module is None:
            return _perceptron((int(features), *widths, classes), activation).to(dtype)  # pyright: ignore[reportArgumentType]
        found = module(features, classes) if callable(module) else None
    if not isinstance(found, nn.Module):
        got = repr(module) if found is None else f"{type(found).__name__} from {module!r}"
        raise TypeError(
            f"module must be a torch.nn.Module, or a function from (features, classes) to one, got {got}"
        )
    return found


def _perceptron(sizes: tuple[int, ...], activation: str) -> nn.Module:
    """Return linear layers with weights and biases drawn as in MLPClassifier (Glorot and Bengio 2010)."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        layer = nn.utils.skip_init(nn.Linear, fan_in, fan_out, dtype=torch.float64)
        bound = ((2 if activation == "logistic" else 6) / (fan_in + fan_out)) ** 0.5
        for parameter in layer.parameters():
            nn.init.uniform_(parameter, -bound, bound)
        layers += [layer, ACTIVATIONS[activation]()]
    return nn.Sequential(*layers[:-1])
