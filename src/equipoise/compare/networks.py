"""Networks and their inputs: encoded rows for built-in networks, unchanged rows for those of the user."""

import os
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from equipoise.compare.dataset import Dataset
from equipoise.compare.encode import Encoder
from equipoise.compare.settings import Settings

__all__ = ["inputs_of", "network", "require_memory", "try_network", "Inputs"]


class Inputs:
    """Conversion of rows to inputs, fitted to some rows of a data set."""

    def __init__(self, dataset: Dataset, rows: NDArray[np.int64], model: Any) -> None:
        as_they_are = callable(model) and not isinstance(dataset.features, pd.DataFrame)
        self.encoder: Encoder | None = None if as_they_are else Encoder(dataset, rows)

    def __call__(self, features: Any) -> Tensor:
        """Return inputs (M, ...): encoded in float32, or unchanged with float64 cast to float32."""
        if self.encoder is not None:
            return torch.from_numpy(self.encoder.transform(features))
        found = torch.from_numpy(np.require(features, requirements=("C", "W")))
        return found.float() if found.is_floating_point() else found


def inputs_of(dataset: Dataset, rows: NDArray[np.int64], model: Any) -> Tensor:
    """Return all rows of a data set as inputs of a model that is trained on some of them."""
    return Inputs(dataset, rows, model)(dataset.features)


def network(settings: Settings, width: int, dataset: Dataset, inputs: Tensor, seed: int) -> nn.Module:
    """Return an untrained network; the seed determines its weights and its random draws in training."""
    torch.manual_seed(seed)
    classes = len(dataset.classes)
    if settings.model == "linear":
        return nn.Linear(inputs.shape[1], classes)
    if settings.model == "mlp":
        return nn.Sequential(nn.Linear(inputs.shape[1], width), nn.ReLU(), nn.Linear(width, classes))
    shape = tuple(inputs.shape[1:])
    make: Any = settings.model
    made = make(shape[0] if len(shape) == 1 else shape, classes)
    if not isinstance(made, nn.Module):
        raise TypeError(
            f"model must be a function from (features, classes) to an nn.Module, got {type(made).__name__} "
            f"from {settings.title}; return the module"
        )
    return made


def try_network(settings: Settings, dataset: Dataset, rows: NDArray[np.int64]) -> None:
    """Call the user's model on two rows, so that a wrong one raises before training."""
    if not settings.own_model:
        return
    classes = len(dataset.classes)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        inputs = inputs_of(dataset, rows, settings.model)
        made = network(settings, settings.width, dataset, inputs, settings.random_state).eval()
        try:
            logits = made(inputs[:2])
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise ValueError(
                f"model must take inputs {(2, *inputs.shape[1:])} in {inputs.dtype}, got an error from "
                f"{settings.title}; {reason}"
            ) from error
    shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if shape != (2, classes):
        raise ValueError(
            f"model must return logits (2, {classes}) of two rows, got {shape} from {settings.title}; "
            "its last layer has an output for each class"
        )


def require_memory(settings: Settings, widest: int, columns: int, classes: int, copies: int) -> None:
    """Raise if networks that are trained together do not fit in memory."""
    if settings.model != "mlp":
        return
    numbers = widest * (columns + classes + 1) + classes
    needed = 4 * 7 * numbers * copies  # weights, gradients, two moments of AdamW, three states kept
    have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else needed
    if needed > have:
        raise ValueError(
            f"width must fit in memory, got {widest}: {copies} networks would take {needed / 2**30:.3g} GiB "
            f"of {have / 2**30:.3g}; the default is 128"
        )
