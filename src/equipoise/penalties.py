"""Penalties: terms that look at the model's confidence alone and need no target."""

import math
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from equipoise.losses.base import BatchLoss, Entry, Exact, Loss, RowLoss, check_number, like
from equipoise.reduction import IGNORE_INDEX
from equipoise.rows import Row


@final
@dataclass(frozen=True)
class Entropy(RowLoss):
    r"""Entropy of the softmax in nats: a positive multiple decides, a negative one explores.

    With p = softmax(z), a row costs

    .. math:: -\sum_k p_k \log p_k,

    between 0 (one class has everything) and log n (all alike). `loss + 0.1 * Entropy()` makes the model choose;
    `loss - 0.01 * Entropy()` keeps it exploring, or less sure of its labels (the confidence penalty). Its only minima are
    one-hot, but at exactly equal probabilities its slope is 0, and which class then wins feeds on itself: with a gate, add
    `Balance`.

    Shapes:
        See `Loss.__call__`; no target is needed.

    Numerics:
        A sum of non-negative terms relative to the largest logit: exact for nearly certain rows too.

    Example:
        >>> Entropy()(torch.tensor([[0.0, 0.0], [0.0, 4.0]]), reduction="none")
        tensor([0.6931, 0.0901])

    Source:
        To explore: Williams and Peng 1991. As confidence penalty: Pereyra et al. 2017, arXiv:1701.06548.
    """

    def per_row(self, row: Row, /) -> Tensor:
        """Return the penalty of one row."""
        return row.entropy


@final
@dataclass(frozen=True)
class Gini(RowLoss):
    r"""Gini impurity of the softmax: a positive multiple decides, a negative one explores.

    With p = softmax(z), a row costs

    .. math:: 1 - \sum_k p_k^2,

    between 0 and 1 - 1/n: the chance that two draws differ. Concave in p, so its only minima are one-hot. Compared with
    `Entropy` it pulls less at classes that are already small.

    Shapes:
        See `Loss.__call__`; no target is needed.

    Numerics:
        From log-sum-exps relative to the largest logit: exact for nearly certain rows too.

    Example:
        >>> Gini()(torch.tensor([[0.0, 0.0], [0.0, 4.0]]), reduction="none")
        tensor([0.5000, 0.0353])

    Source:
        Breiman et al., Classification and Regression Trees, 1984.
    """

    def per_row(self, row: Row, /) -> Tensor:
        """Return the penalty of one row."""
        return -torch.expm1(row.excess(2.0) - 2 * row.excess())


@final
@dataclass(frozen=True)
class Decisiveness(RowLoss):
    r"""The penalty q - q^2 summed over classes, with q a power of p that puts equal probabilities at its top.

    With p = softmax(z) and n classes, a row costs

    .. math:: \sum_k \left(q_k - q_k^2\right), \qquad q_k = p_k^{\log 2 / \log n},

    so that q = 1/2, the top of q - q^2, at p = 1/n. It is 0 where one class has everything.

    It has spurious minima: from 12 classes on, two rivals with half of the probability each sit in a local minimum (16 and more:
    three, 20 and more: four), and a model that reaches one with the other classes far below stays there. `Entropy` and `Gini` have
    no such minima; prefer them unless you need this one.

    Args:
        num_classes: n in the exponent; None takes the number of logits, masked ones included. Give it when a fixed mask leaves
            fewer.

    Shapes:
        See `Loss.__call__`; no target is needed.

    Raises:
        ValueError: If num_classes is below 2.

    Numerics:
        Powers of p are log-sum-exps at a scale, so the slope stays finite where p underflows. With one class it is 0.

    Example:
        >>> Decisiveness()(torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 9.0]]), reduction="none")
        tensor([0.7500, 0.0069])

    Source:
        discuss.pytorch.org/t/74709.
    """

    num_classes: int | None = None

    def __post_init__(self) -> None:
        if self.num_classes is not None and (not isinstance(self.num_classes, int) or self.num_classes < 2):
            raise ValueError(f"num_classes must be an integer of at least 2, got {self.num_classes}; None counts the logits")

    def per_row(self, row: Row, /) -> Tensor:
        """Return the penalty of one row."""
        power = _exponent(self.num_classes or row.num_classes)
        base = row.excess()
        # sum of q is exp(once - power * base), sum of q^2 exp(twice - 2 * power * base); once >= twice
        once, twice = row.excess(power), row.excess(2 * power)
        return torch.exp(twice - 2 * power * base) * torch.expm1(once - twice + power * base)


def _exponent(classes: int) -> float:
    return math.log(2) / math.log(classes) if classes > 1 else 1.0


@final
@dataclass(frozen=True, repr=False)
class LogitRange(RowLoss):
    r"""Hinge on how far the logits reach, so that no probability becomes too small.

    With logits z, a row costs

    .. math:: \max(0, \max z - \min z - \text{width})
       \quad\text{or}\quad \max(0, \max z - \text{high}) + \max(0, \text{low} - \min z).

    The first form, `LogitRange(width)`, does not change when all logits shift, as softmax does not; prefer it. The second,
    `LogitRange(low=..., high=...)`, holds the logits themselves. A range of width R keeps every probability of n classes at or above
    1 / (1 + (n - 1) e^R); `for_floor` turns that around. A penalty is a soft limit: it pulls back whatever crosses it, also
    where a floor under the softmax has no slope left, but it does not guarantee.

    Args:
        width: At least 0; the range that is free.
        low: Smallest free logit, with `high`.
        high: Largest free logit, with `low`.

    Shapes:
        See `Loss.__call__`; no target is needed.

    Raises:
        ValueError: Unless either width, or both low and high with low <= high, are given.

    Numerics:
        Masked classes are left out. Several largest or smallest logits share the slope.

    Example:
        >>> LogitRange(width=4.0)(torch.tensor([[0.0, 1.0, 6.0], [0.0, 1.0, 2.0]]), reduction="none")
        tensor([2., 0.])
        >>> LogitRange.for_floor(0.01, num_classes=10)
        LogitRange(width=2.39789...)

    Source:
        reddit.com/r/deeplearning 10puvih, "Best practice for capping a softmax".
    """

    width: float | None = None
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        if (self.width is None) == (self.low is None and self.high is None) or (self.low is None) != (self.high is None):
            raise ValueError(
                f"a logit range must have either width, or low and high, got width={self.width}, low={self.low}, "
                f"high={self.high}"
            )
        if self.width is not None:
            check_number("width", self.width, 0, hint="it is the range that is free")
            return
        check_number("low", self.low)
        check_number("high", self.high)
        if not isinstance(self.low, Tensor) and not isinstance(self.high, Tensor) and self.low > self.high:  # pyright: ignore[reportOptionalOperand]
            raise ValueError(f"low must be at most high, got {self.low} and {self.high}")

    @classmethod
    def for_floor(cls, floor: float, num_classes: int) -> "LogitRange":
        r"""Return the widest range that keeps every probability at or above a floor: log((1 - f) / ((n - 1) f)).

        Args:
            floor: In (0, 1/n]; the smallest probability wanted.
            num_classes: n, at least 2.

        Raises:
            ValueError: If there are fewer than 2 classes or the floor is outside (0, 1/n].

        Example:
            >>> LogitRange.for_floor(0.5, num_classes=2)
            LogitRange(width=0.0)
        """
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {num_classes}; one class always has probability 1")
        check_number("floor", floor, 0, 1 / num_classes, f"the largest floor of {num_classes} classes", open_low=True)
        return cls(width=max(0.0, math.log((1 - floor) / ((num_classes - 1) * floor))))

    def per_row(self, row: Row, /) -> Tensor:
        """Return the penalty of one row."""
        largest, smallest = row.largest, row.smallest
        if self.width is not None:
            return torch.relu(largest - smallest - like(self.width, largest))
        assert self.low is not None and self.high is not None
        return torch.relu(largest - like(self.high, largest)) + torch.relu(like(self.low, largest) - smallest)

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in vars(self).items() if value is not None)
        return f"LogitRange({given})"


@final
@dataclass(frozen=True)
class ZLoss(RowLoss):
    r"""Square of the log-sum-exp: keeps the logits from drifting.

    With logits z, a row costs

    .. math:: \left(\log\sum_k e^{z_k}\right)^2.

    It holds what softmax leaves free, the common level of the logits, which helps half precision. It is not shift-invariant and says
    little about confidence.

    Shapes:
        See `Loss.__call__`; no target is needed.

    Example:
        >>> ZLoss()(torch.tensor([[0.0, 0.0], [5.0, 5.0]]), reduction="none")
        tensor([ 0.4805, 32.4119])

    Source:
        Zoph et al. 2022, arXiv:2202.08906, section 3.
    """

    def per_row(self, row: Row, /) -> Tensor:
        """Return the penalty of one row."""
        return row.lse() ** 2


@final
@dataclass(frozen=True)
class Balance(BatchLoss):
    r"""How unevenly a batch uses the classes: 0 when, on average over its rows, all are used alike.

    With p_i = softmax(z_i) and the mean p over the rows of a batch, it is

    .. math:: \log n + \sum_k \bar p_k \log \bar p_k,

    between 0 and log n: the divergence of the mean from even use. A gate that is made decisive tends to send everything to one
    section; `Entropy() + Balance()` together are log n minus the mutual information of row and section.

    Shapes:
        See `Loss.__call__`; no target is needed. It looks at the batch as a whole, so reduction "none" is an error. With class
        weights the rows weigh accordingly; ignored rows are left out.

    Numerics:
        Absolute error of a few eps; near 0 it has no relative digits.

    Example:
        >>> Balance()(torch.tensor([[9.0, 0.0], [0.0, 9.0]])), Balance()(torch.tensor([[9.0, 0.0], [9.0, 0.0]]))
        (tensor(0.), tensor(0.6919))

    Source:
        Bridle et al., NeurIPS 1991 ("Unsupervised classifiers, mutual information and phantom targets").
    """

    def of_batch(self, logits: Tensor, share: Tensor, /) -> Tensor:
        """Return the penalty of logits (N, C) whose rows have the given shares (N,) of the batch."""
        mean = share @ logits.softmax(1)
        used = torch.where(mean > 0, mean, 1.0)  # the slope of 0 log 0 is infinite, but nothing can change it
        return (mean * used.log()).sum() + math.log(logits.shape[1])


def matched_weight(
    loss: Loss,
    penalty: Loss,
    logits: Tensor,
    target: Tensor | None = None,
    *,
    share: float = 1.0,
    weight: Tensor | None = None,
    ignore_index: int = IGNORE_INDEX,
) -> float:
    r"""Return the weight at which a penalty pulls as hard as a given share of the loss.

    The pull is the norm of the gradient with respect to the logits,

    .. math:: \text{share} \cdot \lVert \nabla_z \text{loss} \rVert \,/\, \lVert \nabla_z \text{penalty} \rVert,

    so the answer belongs to these logits: take them from the model at the stage of training the penalty is meant for.

    Args:
        loss: The loss.
        penalty: The penalty.
        logits: As in `Loss.__call__`; a representative batch.
        target: As in `Loss.__call__`.
        share: Above 0; how hard the penalty should pull, as a share of the loss.
        weight: Class weights, as in `Loss.__call__`.
        ignore_index: As in `Loss.__call__`.

    Returns:
        The factor for `loss + factor * penalty`.

    Raises:
        ValueError: If share is not positive, or one of the two does not pull at all on these logits.

    Example:
        >>> logits, target = torch.tensor([[2.0, 0.0, -1.0], [0.0, 3.0, 0.0]]), torch.tensor([0, 2])
        >>> factor = matched_weight(CrossEntropy(), Entropy(), logits, target, share=0.1)
        >>> round(factor, 4)
        0.3066
        >>> objective = CrossEntropy() + factor * Entropy()
    """
    check_number("share", share, 0, hint="1 makes both pull alike", open_low=True)
    pulls = []
    for name, term in (("loss", loss), ("penalty", penalty)):
        leaf = logits.detach().clone().requires_grad_()
        value = term(leaf, target, weight=weight, ignore_index=ignore_index)
        pull = torch.autograd.grad(value, leaf)[0].double().norm().item()
        if not 0 < pull < float("inf"):
            raise ValueError(
                f"{name} must pull at these logits, got a gradient of norm {pull} from {term!r}; use a batch where it does"
            )
        pulls.append(pull)
    return share * pulls[0] / pulls[1]


def _decisiveness(loss: Decisiveness, e: Exact) -> Any:
    power = e.mp.log(2) / e.mp.log(loss.num_classes or len(e.p)) if len(e.p) > 1 else 1
    return e.mp.fsum(p**power - p ** (2 * power) for p in e.p)


def _logit_range(loss: LogitRange, e: Exact) -> Any:
    top, bottom = max(e.z), min(e.z)
    if loss.width is not None:
        return max(e.mp.mpf(0), top - bottom - loss.width)
    return max(e.mp.mpf(0), top - e.mp.mpf(loss.high)) + max(e.mp.mpf(0), loss.low - bottom)


PENALTIES: tuple[Entry, ...] = (
    Entry(
        Entropy,
        (Entropy(),),
        definition=lambda loss, e: -e.mp.fsum(p * e.mp.log(p) for p in e.p),
        source="Pereyra et al. 2017, arXiv:1701.06548",
        bounded=lambda loss: True,
        reads_target=False,
    ),
    Entry(
        Gini,
        (Gini(),),
        definition=lambda loss, e: 1 - e.mp.fsum(p * p for p in e.p),
        source="Breiman et al. 1984",
        bounded=lambda loss: True,
        reads_target=False,
    ),
    Entry(
        Decisiveness,
        (Decisiveness(), Decisiveness(num_classes=5)),
        definition=_decisiveness,
        source="discuss.pytorch.org/t/74709",
        bounded=lambda loss: True,
        reads_target=False,
    ),
    Entry(
        LogitRange,
        (LogitRange(width=4.0), LogitRange(low=-2.0, high=1.0)),
        definition=_logit_range,
        source="reddit.com/r/deeplearning 10puvih",
        reads_target=False,
    ),
    Entry(
        ZLoss,
        (ZLoss(),),
        definition=lambda loss, e: e.mp.log(e.mp.fsum(e.mp.exp(z) for z in e.z)) ** 2,
        source="Zoph et al. 2022, arXiv:2202.08906",
        reads_target=False,
    ),
    Entry(
        Balance,
        (Balance(),),
        definition=lambda loss, e: e.mp.log(len(e.p)) + e.mp.fsum(p * e.mp.log(p) for p in e.p),
        source="Bridle et al. 1991",
        bounded=lambda loss: True,
        reads_target=False,
    ),
)

__all__ = [
    "PENALTIES",
    "Balance",
    "Decisiveness",
    "Entropy",
    "Gini",
    "LogitRange",
    "ZLoss",
    "matched_weight",
]
