"""The waist of the library: what a loss may ask of a row of logits.

Above it are many losses, below it many ways to compute; neither side knows the other.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, final

import torch
from torch import Tensor

from equipoise.stats import (
    ClassCount,
    Entropy,
    ExpectedLogProb,
    Largest,
    LogOdds,
    LogSumExp,
    LogSumExpGap,
    Margin,
    MeanLogit,
    Rank,
    Smallest,
    Stat,
    ask,
    ask_all,
    finite_limit,
    nothing,
)


@final
class RowStatistics:
    """What a loss may ask of its row of logits; write the loss as if for one row.

    The answers have shape (N,). Under a soft target, and for label smoothing, the loss is evaluated with
    every class in turn as the target: what depends on the target then has shape (N, C), everything else (N,
    1), and an elementwise loss needs no change.

    Args:
        ask: Answers a statistic. The only thing that differs between dense, fused and sharded rows.
        num_classes: C, the masked ones included.
        target: (N,) class of each row, or None to take every class in turn.
        class_weight: (C,) weight of each class, or None.
        full_logits: The logits and the target, for the few losses that need every logit; None where they
            are never held at once.

    Attributes:
        reads_full_logits: Whether `full_logits` was read.
    """

    def __init__(
        self,
        ask: Callable[[Stat], Tensor],
        *,
        num_classes: int,
        target: Tensor | None = None,
        class_weight: Tensor | None = None,
        full_logits: "FullLogits | None" = None,
    ) -> None:
        self._ask = ask
        self._known: dict[Stat, Tensor] = {}
        self._full_logits = full_logits
        self.reads_full_logits = False
        self._target = target
        self.num_classes = num_classes
        self.class_weight = class_weight

    def ask(self, stat: Stat, /) -> Tensor:
        """Return a statistic, computed once however often it is asked for."""
        if stat not in self._known:
            self._known[stat] = self._ask(stat)
        return self._known[stat]

    def log_odds(self, scale: float = 1.0) -> Tensor:
        """Log odds of the target; `sigmoid` of it is p_y, and `sigmoid` of minus it 1 - p_y."""
        return self.ask(LogOdds(scale))

    def lse(self, scale: float = 1.0) -> Tensor:
        """Log-sum-exp of the logits times `scale`."""
        return self.ask(LogSumExp(scale))

    def logsumexp_gap(self, scale: float = 1.0) -> Tensor:
        """Log-sum-exp of the logits times `scale`, less the largest of these; 0 where one has it all."""
        return self.ask(LogSumExpGap(scale))

    @property
    def entropy(self) -> Tensor:
        """Entropy of the probabilities, in nats."""
        return self.ask(Entropy())

    @property
    def mean_logit(self) -> Tensor:
        """Mean logit over the classes that are not masked."""
        return self.ask(MeanLogit())

    @property
    def largest(self) -> Tensor:
        """Largest logit."""
        return self.ask(Largest())

    @property
    def smallest(self) -> Tensor:
        """Smallest logit of the classes that are not masked."""
        return self.ask(Smallest())

    @property
    def margin(self) -> Tensor:
        """How far the target's logit lies above the largest of the others."""
        return self.ask(Margin())

    @property
    def correct(self) -> Tensor:
        """Whether the target is the likeliest class; not where it shares that with another."""
        return self.margin > 0

    @property
    def rank(self) -> Tensor:
        """How many classes are likelier than the target; without a gradient."""
        return self.ask(Rank()).detach()

    @property
    def class_count(self) -> Tensor:
        """Number of classes that are not masked; without a gradient, as zero times infinity is none."""
        return self.ask(ClassCount()).detach()

    def expected_log_prob(self, rows: Tensor, /) -> Tensor:
        """Expected log-probability under soft targets: (C, C) with a row per class, or (C,) for all."""
        return self.ask(ExpectedLogProb(rows))

    @property
    def weight(self) -> Tensor:
        """Class weight of the target, (N,), or (C,) for every target."""
        if self.class_weight is None:
            raise ValueError("class_weight must be given to weigh a row, got None")
        return self.class_weight if self._target is None else self.class_weight[self._target]

    @property
    def full_logits(self) -> "FullLogits":
        """Every logit of the row and the target, for losses no statistic can serve."""
        self.reads_full_logits = True
        if self._full_logits is None:
            raise NotImplementedError(
                "the logits of a row must be whole for this loss, got them in parts; pass logits"
            )
        return self._full_logits


@final
@dataclass(frozen=True)
class FullLogits:
    """The logits of whole rows beside their targets.

    Args:
        logits: (N, C).
        target: (N,), or None to take every class in turn as the target.
    """

    logits: Tensor
    target: Tensor | None

    @property
    def classes(self) -> Tensor:
        """Logits, (N, C) or (N, 1, C) for every target; masked ones are finite but beyond reach."""
        bounded = self.logits.clamp(min=-finite_limit(self.logits.dtype))
        return bounded if self.target is not None else bounded[:, None]

    @property
    def own(self) -> Tensor:
        """The target's logit, (N, 1), or (N, C, 1) for every target."""
        classes = self.classes
        return classes.mT if self.target is None else classes.gather(1, self.target[:, None])

    def rows(self, matrix: Tensor, /) -> Tensor:
        """Row of a (C, C) matrix for the target, (N, C), or (1, C, C) for every target."""
        return matrix[None] if self.target is None else matrix[self.target]


class RowFunction(Protocol):
    """What has a loss per row: every `RowLoss`, and a sum of them."""

    def of(self, row: RowStatistics, /) -> Tensor:
        """Return the loss of each row."""
        ...

    def terms(self) -> tuple[tuple[float | Tensor, Any], ...]:
        """Return the pairs (coefficient, loss) it is the sum of."""
        ...


@final
@dataclass(frozen=True)
class Needs:
    """What a loss asks of its rows.

    Args:
        stats: The statistics, in the order it asked for them.
        whole: Whether it needs whole rows of logits.
    """

    stats: tuple[Stat, ...]
    whole: bool


def needs(loss: RowFunction, num_classes: int, like: Tensor, class_weight: Tensor | None = None) -> Needs:
    """Return what a loss asks of rows with the dtype and device of `like`: it is tried on made-up answers."""
    if class_weight is None:
        found = _needs(loss, num_classes, like.dtype, like.device)
        if not any(isinstance(stat, ExpectedLogProb) for stat in found.stats):  # which tells tensors apart
            return found
    return _try(loss, num_classes, like.dtype, like.device, class_weight)


@lru_cache(maxsize=128)
def _needs(loss: RowFunction, num_classes: int, dtype: torch.dtype, device: torch.device) -> Needs:
    return _try(loss, num_classes, dtype, device, None)


@torch.no_grad()
def _try(
    loss: RowFunction,
    num_classes: int,
    dtype: torch.dtype,
    device: torch.device,
    class_weight: Tensor | None,
) -> Needs:
    stats: list[Stat] = []

    def answer(stat: Stat) -> Tensor:
        stats.append(stat)
        return torch.ones(1, dtype=dtype, device=device)

    target = torch.zeros(1, dtype=torch.long, device=device)
    full_logits = FullLogits(torch.ones(1, num_classes, dtype=dtype, device=device), target)
    row = RowStatistics(
        answer, num_classes=num_classes, target=target, class_weight=class_weight, full_logits=full_logits
    )
    try:
        loss.of(row)
    except Exception:
        stats.clear()
    return Needs(tuple(stats), row.reads_full_logits)


def applies_class_weight(loss: Any) -> bool:
    """Whether a row may count for something though the weight of its class is 0."""
    return any(getattr(term, "applies_class_weight", False) for _, term in loss.terms())


def dense(
    logits: Tensor,
    target: Tensor | None = None,
    *,
    class_weight: Tensor | None = None,
    stats: Sequence[Stat] = (),
) -> RowStatistics:
    """Return the rows of dense logits.

    Args:
        logits: (N, C) floating; minus infinity masks a class.
        target: (N,) integer class, or None for losses that need none.
        class_weight: (C,) weight of each class, handed to the losses that spread weight over classes.
        stats: Statistics that will be asked for; they are computed in one pass.
    """
    known: dict[Stat, Tensor] = {}

    def answer(stat: Stat) -> Tensor:
        if stat not in stats:
            return ask(stat, logits, target)
        if not known:
            known.update(ask_all(stats, logits, target))
        return known[stat]

    return RowStatistics(
        answer,
        num_classes=logits.shape[1],
        target=target,
        class_weight=class_weight,
        full_logits=None if target is None else FullLogits(logits, target),
    )


def every(logits: Tensor, *, class_weight: Tensor | None = None) -> RowStatistics:
    """Return the rows of dense logits (N, C) with every class in turn as the target."""
    return RowStatistics(
        lambda stat: stat.every(logits, ask),
        num_classes=logits.shape[1],
        class_weight=class_weight,
        full_logits=FullLogits(logits, None),
    )


def row_losses(
    loss: RowFunction,
    logits: Tensor,
    target: Tensor | None,
    soft: Tensor | None = None,
    *,
    class_weight: Tensor | None = None,
    stats: Sequence[Stat] = (),
) -> Tensor:
    """Return the losses (N,) of dense logits: against the target, or expected over target probabilities.

    Args:
        loss: The loss.
        logits: (N, C) floating; minus infinity masks a class.
        target: (N,) integer class, or None.
        soft: (N, C) target probabilities, or None.
        class_weight: (C,) weight of each class.
        stats: What the loss asks of a row with a target.
    """
    if soft is not None:
        losses = (soft * loss.of(every(logits, class_weight=class_weight))).sum(1)
        return losses + nothing(logits)
    row = dense(logits, target, class_weight=class_weight, stats=stats)
    losses = loss.of(row)
    return losses + nothing(logits) if row.reads_full_logits else losses
