"""What a loss is: one method over a `Row`, combined by `+` and `*`, listed in a table by an `Entry`."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor

from equipoise.reduction import IGNORE_INDEX, Batch, check_reduction, read, reduce
from equipoise.rows import Row, RowFunction, Stat, dense, every, needs


class Loss(ABC):
    """A loss or penalty: an immutable value, called like `torch.nn.functional.cross_entropy`.

    Losses add up and scale: `CrossEntropy() + 0.1 * Entropy()` is a loss. Write one as a frozen dataclass
    that subclasses `RowLoss`.
    """

    def __call__(
        self,
        logits: Tensor,
        target: Tensor | None = None,
        *,
        weight: Tensor | None = None,
        ignore_index: int = IGNORE_INDEX,
        reduction: str = "mean",
    ) -> Tensor:
        r"""Return the loss of logits against targets.

        Args:
            logits: Scores before any softmax; minus infinity masks a class. Half precision is computed in
                float32.
            target: Class indices, or probabilities in the shape of the logits, whose rows should sum to one;
                the loss is then its expectation over them. Penalties alone need none.
            weight: Weight of each class: of the rows of that class, and of their part in the mean.
            ignore_index: Rows with this class index count for nothing.
            reduction: "mean", "sum" or "none". The mean is over the rows that count, by their class weight;
            it is nan
                when no row counts.

        Shapes:
            logits (C,), (N, C) or (N, C, d1, ...); target the same without C, or with it as probabilities;
            weight (C,); result a single number, or with reduction "none" the shape of the logits without C.

        Raises:
            TypeError: If logits are not floating, or targets are neither integers nor probabilities.
            ValueError: If shapes do not fit, a class does not exist, an option is outside its range, or a
                loss has no target.
        """
        check_reduction(reduction)
        batch = read(logits, target, weight, ignore_index)
        if reduction == "none" and (
            mixing := [term for _, term in self.terms() if not isinstance(term, RowLoss)]
        ):
            raise ValueError(
                f"reduction must be 'mean' or 'sum' with {mixing[0]!r}, got 'none'; "
                "it looks at the batch as a whole"
            )
        return self._reduced(batch, reduction)

    def terms(self) -> tuple[tuple[float | Tensor, "Loss"], ...]:
        """Return the pairs (coefficient, loss) this loss is the sum of; itself once if it is no sum."""
        return ((1.0, self),)

    @abstractmethod
    def _reduced(self, batch: Batch, reduction: str) -> Tensor:
        """Return the reduced loss of a batch."""

    def __add__(self, other: object) -> "Sum":
        if not isinstance(other, Loss):
            return NotImplemented
        return Sum(self.terms() + other.terms())

    def __sub__(self, other: object) -> "Sum":
        return self + -1.0 * other if isinstance(other, Loss) else NotImplemented

    def __mul__(self, factor: object) -> "Sum":
        if not isinstance(factor, (int, float)) or isinstance(factor, bool):
            return NotImplemented
        if not abs(factor) < float("inf"):
            raise ValueError(f"a coefficient must be finite, got {factor}")
        return Sum(tuple((float(coefficient * factor), term) for coefficient, term in self.terms()))

    __rmul__ = __mul__

    def __neg__(self) -> "Sum":
        return -1.0 * self


class RowLoss(Loss):
    """A loss that looks at one row at a time.

    A subclass is a frozen dataclass with one method, `per_row`. A class whose formula already carries the
    class weights sets `weighs` and multiplies by `row.weight` itself.
    """

    weighs: ClassVar[bool] = False

    @abstractmethod
    def per_row(self, row: Row, /) -> Tensor:
        """Return the loss of one row, elementwise in the answers of `row`."""

    def of(self, row: Row, /) -> Tensor:
        """Return the loss of one row times its class weight."""
        losses = self.per_row(row)
        return losses if self.weighs or row.class_weight is None else losses * row.weight

    def _reduced(self, batch: Batch, reduction: str) -> Tensor:
        return reduce(_row_losses(self, batch), batch, reduction)


class BatchLoss(Loss):
    """A penalty on the batch as a whole, such as how evenly its rows share the classes.

    A subclass is a frozen dataclass with one method, `of_batch`. Under reduction "mean" it counts once; under
    "sum" as often as there are rows, so that the sum over a count is the mean.
    """

    @abstractmethod
    def of_batch(self, logits: Tensor, share: Tensor, /) -> Tensor:
        """Return the penalty of logits (N, C) whose rows have shares (N,) of the batch that sum to one."""

    def _reduced(self, batch: Batch, reduction: str) -> Tensor:
        weight = batch.row_weight()
        if weight is None:
            weight = torch.ones_like(batch.logits[:, 0])
        total = weight.sum()
        value = self.of_batch(batch.logits, weight / total)
        return value * total if reduction == "sum" else value


@final
@dataclass(frozen=True, repr=False)
class Sum(Loss):
    """A weighted sum of losses and penalties, made by `+` and `*`.

    Args:
        parts: Pairs (coefficient, loss).
    """

    parts: tuple[tuple[float | Tensor, Loss], ...]

    def terms(self) -> tuple[tuple[float | Tensor, Loss], ...]:
        """Return the pairs (coefficient, loss)."""
        return self.parts

    def of(self, row: Row, /) -> Tensor:
        """Return the weighted sum of the row losses among the terms."""
        return _add(
            coefficient * term.of(row) for coefficient, term in self.parts if isinstance(term, RowLoss)
        )

    def _reduced(self, batch: Batch, reduction: str) -> Tensor:
        parts = [
            coefficient * term._reduced(batch, reduction)
            for coefficient, term in self.parts
            if not isinstance(term, RowLoss)
        ]
        if len(parts) < len(self.parts):
            parts.append(reduce(_row_losses(self, batch), batch, reduction))
        return _add(parts)

    def __repr__(self) -> str:
        text = ""
        for coefficient, term in self.parts:
            shown = repr(term) if isinstance(coefficient, (int, float)) and abs(coefficient) == 1 else None
            if isinstance(coefficient, (int, float)) and coefficient < 0:
                sign, size = ("- ", -coefficient) if text else ("-", -coefficient)
            else:
                sign, size = ("+ " if text else ""), coefficient
            text += f"{' ' if text else ''}{sign}{shown or f'{size!r} * {term!r}'}"
        return text


def _add(parts: Any) -> Tensor:
    total, *others = parts
    for part in others:
        total = total + part
    return total


def _row_losses(loss: RowFunction, batch: Batch) -> Tensor:
    """Return per-row losses (N,): against the target, or expected over target probabilities."""
    if batch.soft is not None:
        losses = loss.of(every(batch.logits, class_weight=batch.weight))
        return (batch.soft * losses).sum(1)
    stats: tuple[Stat, ...] = ()
    if not (torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()):
        stats = needs(loss, batch.logits.shape[1], batch.logits, batch.weight).stats
    return loss.of(dense(batch.logits, batch.target, class_weight=batch.weight, stats=stats))


def check_number(
    name: str,
    value: Any,
    low: float = -float("inf"),
    high: float = float("inf"),
    hint: str = "",
    *,
    open_low: bool = False,
) -> None:
    """Raise unless the option is a number in its range.

    A scheduled value, a tensor, was checked where its schedule was made.
    """
    if isinstance(value, Tensor):
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(
            f"{name} must be a Python number, got {value!r}; "
            "to change it in training give Objective a schedule"
        )
    inside = (low < value if open_low else low <= value) and value <= high and abs(value) < float("inf")
    if not inside:
        rule = _rule(low, high, open_low)
        raise ValueError(f"{name} must be {rule}, got {value}" + (f"; {hint}" if hint else ""))


def _rule(low: float, high: float, open_low: bool) -> str:
    if low == -float("inf") and high == float("inf"):
        return "finite"
    if high == float("inf"):
        return f"finite and {'above' if open_low else 'at least'} {low:g}"
    return f"in {'(' if open_low else '['}{low:g}, {high:g}]"


def check_floor(floor: float, num_classes: int) -> None:
    """Raise unless n floors leave room for probabilities that sum to one."""
    if floor * num_classes > 1 + 1e-9:
        raise ValueError(
            f"floor must be at most 1/{num_classes} = {1 / num_classes:.6g} for {num_classes} classes, "
            f"got {floor}; the floors may not sum to more than 1"
        )


def like(value: float | Tensor, answer: Tensor) -> Tensor:
    """Return an option as a 0-d tensor that fits an answer of a row."""
    return torch.as_tensor(value, dtype=answer.dtype, device=answer.device)


def log_add(one: Tensor, two: Tensor) -> Tensor:
    """Return log(e^one + e^two), where one of them may be minus infinity.

    torch.logaddexp has nan for a second derivative there.
    """
    return torch.maximum(one, two) - F.logsigmoid((one - two).abs())


@dataclass(frozen=True)
class Exact:
    """One row in exact arithmetic, as a definition in an `Entry` sees it.

    Args:
        mp: mpmath, with the precision set.
        z: Logits of the classes that are not masked, as mpmath numbers.
        p: Their probabilities.
        y: Place of the target among them.
        kept: Places of these classes among all of them.
        num_classes: Number of classes, masked ones included.
    """

    mp: Any
    z: Sequence[Any]
    p: Sequence[Any]
    y: int
    kept: Sequence[int]
    num_classes: int

    @property
    def others(self) -> list[int]:
        """Places of the classes that are not the target."""
        return [k for k in range(len(self.p)) if k != self.y]


@dataclass(frozen=True)
class Entry:
    """A loss as the table lists it. Tests, the command line and the documentation follow from the table.

    Args:
        make: The class.
        at: Settings to test.
        definition: The textbook formula, `definition(loss, exact)`, on exact probabilities; the loss's
            numbers are exact too.
        source: Where it comes from.
        proper: Whether the expected loss is smallest at the true probabilities, for a setting.
        bounded: Whether the loss of a row has an upper limit, for a setting.
        reads_target: Whether the loss needs a target.
        reweighted: Whether the gradient is designed, so that it is not the derivative of the value.
    """

    make: Callable[..., Loss]
    at: tuple[Loss, ...]
    definition: Callable[[Any, Exact], Any]
    source: str
    proper: Callable[[Any], bool] = lambda loss: False
    bounded: Callable[[Any], bool] = lambda loss: False
    reads_target: bool = True
    reweighted: bool = False

    @property
    def name(self) -> str:
        """Name of the class."""
        return self.make.__name__
