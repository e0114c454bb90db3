"""What a loss may ask of a row of logits."""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar, final

import torch
from torch import Tensor

from equipoise.statistics.base import Statistic
from equipoise.statistics.extremes import Largest, Margin, Rank, Smallest
from equipoise.statistics.mean import ClassCount, MeanLogit
from equipoise.statistics.soft_target import ExpectedLogProb
from equipoise.statistics.softmax import Entropy, LogOdds, LogSumExp, LogSumExpGap
from equipoise.statistics.states import finite_limit

OfLogits = Callable[[Tensor], Tensor]  # what fits a tensor in dtype and device


@final
class RowStatistics:
    """What a loss may ask of its row of logits; write the loss as if for one row.

    The answers have shape (N,). Under a soft target, and for label smoothing, the loss is evaluated with
    every class in turn as the target: what depends on the target then has shape (N, C), everything else (N,
    1), and an elementwise loss needs no change.

    Args:
        compute: Returns a statistic. The only thing that differs between dense, fused and sharded rows.
        num_classes: C, the masked ones included.
        class_weight: (C,) weight of each class, or None.
        weight: (N,) class weight of each target, or (C,) for every target; None without class weights.
        full_logits: Returns the logits and the target, for the few losses that need every logit; None where
            they are never held at once.
        plus: Returns what `plus` does; None where it cannot.

    Attributes:
        reads_full_logits: Whether `full_logits` was read.
    """

    def __init__(
        self,
        compute: Callable[[Statistic], Tensor],
        *,
        num_classes: int,
        class_weight: Tensor | None = None,
        weight: Tensor | None = None,
        full_logits: "Callable[[], FullLogits] | None" = None,
        plus: "Callable[[OfLogits], RowStatistics] | None" = None,
    ) -> None:
        self._compute = compute
        self._plus = plus
        self._computed: dict[Statistic, Tensor] = {}
        self._make_full_logits = full_logits
        self._full_logits: FullLogits | None = None
        self._weight = weight
        self.reads_full_logits = False
        self.num_classes = num_classes
        self.class_weight = class_weight

    def compute(self, statistic: Statistic, /) -> Tensor:
        """Return a statistic, computed once however often it is asked for."""
        if statistic not in self._computed:
            self._computed[statistic] = self._compute(statistic)
        return self._computed[statistic]

    def log_odds(self, scale: float = 1.0) -> Tensor:
        """Log odds of the target; `sigmoid` of it is p_y, and `sigmoid` of minus it 1 - p_y."""
        return self.compute(LogOdds(scale))

    def lse(self, scale: float = 1.0) -> Tensor:
        """Log-sum-exp of the logits times `scale`."""
        return self.compute(LogSumExp(scale))

    def logsumexp_gap(self, scale: float = 1.0, *, exclude_target: bool = False) -> Tensor:
        """Log-sum-exp of the logits times `scale`, less the largest of these; 0 where one has everything."""
        return self.compute(LogSumExpGap(scale, exclude_target))

    @property
    def entropy(self) -> Tensor:
        """Entropy of the probabilities, in nats."""
        return self.compute(Entropy())

    @property
    def mean_logit(self) -> Tensor:
        """Mean logit over the classes that are not masked."""
        return self.compute(MeanLogit())

    @property
    def largest(self) -> Tensor:
        """Largest logit."""
        return self.compute(Largest())

    @property
    def smallest(self) -> Tensor:
        """Smallest logit of the classes that are not masked."""
        return self.compute(Smallest())

    @property
    def margin(self) -> Tensor:
        """How far the target's logit lies above the largest of the others."""
        return self.compute(Margin())

    @property
    def correct(self) -> Tensor:
        """Whether the target is the likeliest class; not where it shares that with another."""
        return self.margin > 0

    @property
    def rank(self) -> Tensor:
        """How many classes are likelier than the target; without a gradient."""
        return self.compute(Rank()).detach()

    @property
    def class_count(self) -> Tensor:
        """Number of classes that are not masked; without a gradient, as zero times infinity is none."""
        return self.compute(ClassCount()).detach()

    def expected_log_prob(self, table: Tensor, /) -> Tensor:
        """Expected log-probability under soft targets: (C, C) with a row per class, or (C,) for all."""
        return self.compute(ExpectedLogProb(table))

    @property
    def weight(self) -> Tensor:
        """Class weight of the target, (N,), or (C,) for every target."""
        if self._weight is None:
            raise ValueError("class_weight must be given to weigh a row, got None")
        return self._weight

    @property
    def full_logits(self) -> "FullLogits":
        """Every logit of the row and the target, for losses no statistic can serve."""
        self.reads_full_logits = True
        if self._full_logits is None:  # not a cached_property, which torch.compile does not trace
            self._full_logits = _complete(self._make_full_logits)()
        return self._full_logits

    def plus(self, matrix: OfLogits, /) -> "RowStatistics":
        """Return what a loss may ask of the logits plus the target's row of a matrix.

        Args:
            matrix: Returns the (C, C) matrix in the dtype and on the device of a tensor: always the same one.
        """
        return _complete(self._plus)(matrix)


_Part = TypeVar("_Part")


def _complete(part: _Part | None) -> _Part:
    if part is None:
        raise NotImplementedError(
            "the logits of a row must be complete for this loss, got them in parts; pass logits"
        )
    return part


def require_target(target: Tensor | None) -> Tensor:
    """Return the target that a loss or a statistic reads."""
    if target is None:
        raise ValueError("target must be given, got None; only penalties can do without one")
    return target


@final
class FullLogits:
    """The logits of complete rows beside their targets.

    Args:
        logits: (N, C).
        target: (N,), or None to take every class in turn as the target.
        usable: Whether each row is known to have a class and neither nan nor plus infinity.
    """

    def __init__(self, logits: Tensor, target: Tensor | None, *, usable: bool = False) -> None:
        self._logits = logits
        self._usable = usable
        self._valid: Tensor | None = None
        self._marked: Tensor | None = logits if usable else None
        self.target = target

    @property
    def valid(self) -> Tensor:
        """One for rows (N,) that have a class and neither nan nor plus infinity, else nan."""
        if self._valid is None:
            usable = self._logits.detach().amax(1).isfinite()
            self._valid = torch.where(usable, 1.0, torch.nan).to(self._logits.dtype)
        return self._valid

    @property
    def logits(self) -> Tensor:
        """Logits, (N, C), with nan in each entry of a bad row, so that its gradient is nan too."""
        if self._marked is None:
            self._marked = self._logits * self.valid[:, None]
        return self._marked

    def mark(self, losses: Tensor) -> Tensor:
        """Return the losses (N,), with nan for each bad row."""
        return losses if self._usable else losses * self.valid

    @property
    def classes(self) -> Tensor:
        """Logits, (N, C) or (N, 1, C) for every target."""
        return self.logits if self.target is not None else self.logits[:, None]

    @property
    def target_logit(self) -> Tensor:
        """The target's logit, (N, 1), or (N, C, 1) for every target; finite but beyond reach if masked."""
        logit = self.classes.mT if self.target is None else self.classes.gather(1, self.target[:, None])
        return logit.clamp(min=-finite_limit(logit.dtype))

    def rows(self, matrix: Tensor, /) -> Tensor:
        """Row of a (C, C) matrix for the target, (N, C), or (1, C, C) for every target."""
        return matrix[None] if self.target is None else matrix.index_select(0, self.target)


class RowFunction(Protocol):
    """What has a loss per row: every `RowLoss`, and a sum of them."""

    def of(self, row: RowStatistics, /) -> Tensor:
        """Return the loss of each row."""
        ...

    def terms(self) -> tuple[tuple[float | Tensor, Any], ...]:
        """Return the pairs (coefficient, loss) it is the sum of."""
        ...


def applies_class_weight(loss: Any) -> bool:
    """Whether a row may count for something though the weight of its class is 0."""
    return any(getattr(term, "applies_class_weight", False) for _, term in loss.terms())
