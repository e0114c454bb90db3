"""`RowStatistics`: the interface of losses to backends (dense, fused, sharded)."""

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

OfLogits = Callable[[Tensor], Tensor]  # returns a tensor with dtype and device of another


@final
class RowStatistics:
    """Per-row statistics (log odds, log-sum-exp, entropy, ...): the only interface of losses to backends.

    Statistics have shape (N,). With target probabilities, and for label smoothing, the loss is evaluated with
    every class as the target: statistics that depend on the target then have shape (N, C), the others (N, 1),
    so that an elementwise loss is correct for both. Write a loss as for one row.

    Args:
        compute: Returns a statistic; dense, fused and sharded rows differ only in this function.
        num_classes: C, including masked classes.
        class_weight: (C,) weight of each class, or None.
        weight: (N,) class weight of each target, or (C,) for every target; None without class weights.
        full_logits: Returns the logits and the target, for losses that need every logit; None if the rows are
            never complete.
        plus: Implementation of the method `plus`; None if it is not supported.

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
        self.reads_full_logits: bool = False
        self.num_classes = num_classes
        self.class_weight = class_weight

    def compute(self, statistic: Statistic, /) -> Tensor:
        """Return a statistic, which is computed once and cached."""
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
        """Log-sum-exp of the logits times `scale`, minus the largest of these; 0 for one class."""
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
        """Logit of the target minus the largest other logit."""
        return self.compute(Margin())

    @property
    def correct(self) -> Tensor:
        """Whether the target is the likeliest class; False if another class is as likely."""
        return self.margin > 0

    @property
    def rank(self) -> Tensor:
        """Number of classes that are likelier than the target; without a gradient."""
        return self.compute(Rank()).detach()

    @property
    def class_count(self) -> Tensor:
        """Number of classes that are not masked; without a gradient."""
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
        """All logits of the row and the target, for losses that statistics cannot express."""
        self.reads_full_logits = True
        if self._full_logits is None:  # not a cached_property, which torch.compile does not trace
            self._full_logits = _complete(self._make_full_logits)()
        return self._full_logits

    def plus(self, matrix: OfLogits, /) -> "RowStatistics":
        """Return the statistics of the logits plus the target's row of a matrix.

        Args:
            matrix: Returns the (C, C) matrix, always the same values, in the dtype and on the device of a
                tensor.
        """
        return _complete(self._plus)(matrix)


_Part = TypeVar("_Part")


def _complete(part: _Part | None) -> _Part:
    if part is None:
        raise NotImplementedError(
            "the logits of a row must be complete for this loss, got blocks of them; pass logits"
        )
    return part


def require_target(target: Tensor | None) -> Tensor:
    """Return the target, or raise ValueError if it is None."""
    if target is None:
        raise ValueError("target must be given, got None; only penalties can do without one")
    return target


@final
class FullLogits:
    """Complete rows of logits with their targets.

    Args:
        logits: (N, C).
        target: (N,), or None for every class as the target.
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
        """1 for rows (N,) with an allowed class and without nan and plus infinity, else nan."""
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
        """The target's logit, (N, 1), or (N, C, 1) for every target; a large negative number if masked."""
        logit = self.classes.mT if self.target is None else self.classes.gather(1, self.target[:, None])
        return logit.clamp(min=-finite_limit(logit.dtype))

    def rows(self, matrix: Tensor, /) -> Tensor:
        """Row of a (C, C) matrix for the target, (N, C), or (1, C, C) for every target."""
        return matrix[None] if self.target is None else matrix.index_select(0, self.target)


class RowFunction(Protocol):
    """Interface of a loss with one value per row: a `RowLoss`, or a sum of them."""

    def of(self, row: RowStatistics, /) -> Tensor:
        """Return the loss of each row."""
        ...

    def terms(self) -> tuple[tuple[float | Tensor, Any], ...]:
        """Return the summands as pairs (coefficient, loss)."""
        ...


def applies_class_weight(loss: Any) -> bool:
    """Return whether the loss of a row may be non-zero although the weight of its target is 0."""
    return any(getattr(term, "applies_class_weight", False) for _, term in loss.terms())
