"""Rows of several copies of a network, and their batches."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, final

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from equipoise.objective import Objective
from equipoise.training.networks import Alone, Copies

EVALUATED = 2**18  # numbers in the inputs of a copy per evaluated part
EVALUATED_ROWS = 4096


class Source(Protocol):
    """Interface of rows that are made dense per batch, such as those of a sparse matrix."""

    @property
    def shape(self) -> Sequence[int]:
        """(N, ...)."""
        ...

    def __getitem__(self, places: Tensor, /) -> Tensor:
        """Return the rows of these indices."""
        ...


@dataclass(frozen=True)
class Rows:
    """Rows of one copy.

    Args:
        inputs: (N, ...) features, or a `Source` if there is one copy. Floating features are converted to the
            dtype of the network.
        target: (N,) classes.
        weight: (N,) weights in the mean loss of a batch, or None for 1 each.
        score_weight: (N,) weights in the accuracy, the NLL and the calibration of validation rows, or None.
    """

    inputs: Any  # a Tensor or a Source
    target: Tensor
    weight: Tensor | None = None
    score_weight: Tensor | None = None


@final
@dataclass(frozen=True)
class Batch:
    """A batch of every copy.

    Args:
        places: (K, B) indices of the rows among those of all copies.
        target: (K, B) classes.
        share: (K, B) weight of each row in the mean of its copy, 0 for padding.
        count: (K,) sum of the weights of the rows.
        scored: (K, B) weight of each row in the scores.
        even: Whether all rows have weight 1.
    """

    places: Tensor
    target: Tensor
    share: Tensor
    count: Tensor
    scored: Tensor
    even: bool


@final
class Stacked:
    """Concatenated rows of all copies, on the device and in the dtype of the network.

    Args:
        rows: The rows of each copy.
        batch_size: Rows in a batch; None for all.
        like: A tensor with the device and dtype of the network.
    """

    def __init__(self, rows: Sequence[Rows], batch_size: int | None, like: Tensor) -> None:
        self.like: Tensor = like
        self.sizes: list[int] = [len(each.target) for each in rows]
        if not all(self.sizes):
            raise ValueError(f"rows must not be empty, got {self.sizes} rows")
        self.batch_size: int = batch_size or max(self.sizes)
        self.steps: set[int] = {-(-size // self.batch_size) for size in self.sizes}
        inputs: list[Any] = [each.inputs for each in rows]
        self.inputs: Any = inputs[0] if len(rows) == 1 else torch.cat(inputs)
        if isinstance(self.inputs, Tensor):
            self.inputs = self._moved(self.inputs)
        self.target: Tensor = torch.cat([each.target for each in rows]).to(like.device)
        self.even: bool = all(each.weight is None for each in rows)
        self.weight: Tensor = self._weights([each.weight for each in rows])
        self.scored: Tensor = self._weights([each.score_weight for each in rows]).double()
        self.starts: Tensor = torch.tensor([0, *self.sizes[:-1]]).cumsum(dim=0)[:, None]

    def _weights(self, given: Sequence[Tensor | None]) -> Tensor:
        dtype = torch.promote_types(self.like.dtype, torch.float32)
        ones = [
            torch.ones(size) if each is None else each for each, size in zip(given, self.sizes, strict=True)
        ]
        return torch.cat([each.to(self.like.device, dtype) for each in ones])

    def _moved(self, inputs: Tensor) -> Tensor:
        return inputs.to(self.like if inputs.is_floating_point() else self.like.device)

    def order(self, generators: Sequence[torch.Generator] | None = None) -> Tensor:
        """Return (K, N) indices of the rows of each copy, in random order if drawn, padded with -1."""
        orders = [torch.arange(size) for size in self.sizes]
        if generators is not None:
            orders = [
                torch.randperm(size, generator=generator)
                for size, generator in zip(self.sizes, generators, strict=True)
            ]
        return pad_sequence(orders, batch_first=True, padding_value=-1)

    def take(self, places: Tensor) -> Tensor:
        """Return the inputs (K, B, ...) of row indices (K, B)."""
        if isinstance(self.inputs, Tensor):
            found = self.inputs.index_select(0, places.flatten())
        else:
            found = self._moved(self.inputs[places.flatten().cpu()])
        return found.view(*places.shape, *found.shape[1:])

    def batches(self, order: Tensor) -> Iterator[Batch]:
        """Yield the batches of an epoch."""
        kept = (order >= 0).to(self.like.device)
        places = (order.clamp(min=0) + self.starts).to(self.like.device)
        target, weight = self.target[places], self.weight[places] * kept
        scored = self.scored[places] * kept
        parts = (each.split(self.batch_size, dim=1) for each in (places, target, weight, scored))
        for places_, target_, weight_, scored_ in zip(*parts, strict=True):
            count = weight_.sum(dim=1)
            yield Batch(places_, target_, weight_ / count[:, None], count, scored_, self.even)


def mean_losses(objective: Objective, logits: Tensor, batch: Batch) -> Tensor:
    """Return the mean loss (K,) of each copy."""
    if len(logits) == 1:  # the mean of one copy is the loss itself, also for a `BatchLoss`
        share = None if batch.even else batch.share[0]
        return objective(logits[0], batch.target[0], sample_weight=share)[None]
    losses = objective(logits.flatten(0, 1), batch.target.flatten(), reduction="none")
    return (losses.view_as(batch.share) * batch.share).sum(dim=1)


@torch.no_grad()
def logits_of(model: Copies | Alone, stacked: Stacked, most: int | None = None) -> Tensor:
    """Return the logits (K, N, C) of all rows, or of the first ones, evaluated in parts to limit memory."""
    model.eval()
    size = max(math.prod(stacked.inputs.shape[1:]), 1)
    places = (stacked.order().clamp(min=0) + stacked.starts)[:, :most].to(stacked.like.device)
    parts = places.split(max(min(EVALUATED // size, EVALUATED_ROWS), 1), dim=1)
    return torch.cat([model(stacked.take(part)) for part in parts], dim=1)
