"""Rows, networks and calls that the tests of training share."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from equipoise.losses import CrossEntropy, GammaCrossEntropy
from equipoise.objective import Objective
from equipoise.schedules import Linear
from equipoise.training import Alone, Options, Rows, Trained, Trainer, train

CLASSES, FEATURES = 3, 8


def rows(seed: int = 0, size: int = 70, shape: Sequence[int] = (FEATURES,)) -> Rows:
    """Overlapping classes."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(CLASSES, (size,), generator=generator)
    inputs = torch.randn(size, FEATURES, generator=generator) + 2 * torch.eye(CLASSES, FEATURES)[target]
    return Rows(inputs.view(size, *shape), target)


def layers(*between: nn.Module, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(FEATURES, 6), *between, nn.ReLU(), nn.Linear(6, CLASSES))


def fit(model: nn.Module, loss: Any = None, validated: bool = True, seed: int = 0, **options: Any) -> Trained:
    given: Any = {"epochs": 4, "batch_size": 16, "lr": 0.01, "stop": "none"} | options
    validation = [rows(1, 30)] if validated else None
    objective = Objective(loss or CrossEntropy())
    (trained,) = train(Alone(model), objective, [rows()], validation, Options(**given), [seed])
    return trained


def same(one: Trained, other: Trained) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state, other.state, strict=True))


def trainer(**options: Any) -> Trainer:
    objective = Objective(GammaCrossEntropy(), schedules={"gamma": Linear(0, 0.5, steps=20)})
    given = Options(batch_size=16, stop="none", **options)
    return Trainer(Alone(layers(nn.Dropout(0.5))), objective, given, [0])
