"""What a loss is: one method over `RowStatistics`, combined by `+` and `*`, listed in a table by `Entry`."""

import operator
from abc import ABCMeta, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Never, NoReturn, final

import numpy as np
import torch
from torch import Tensor

from equipoise import linear
from equipoise._batch import (
    IGNORE_INDEX,
    Batch,
    Reduction,
    check_reduction,
    kernel_rows,
    no_autocast,
    read_batch,
    reduce,
    target_shape,
)
from equipoise.distributed import is_dtensor
from equipoise.kernels import dense
from equipoise.kernels.dense import Call
from equipoise.kernels.log import log_backend
from equipoise.losses.rows import backend_of, kernel_call, losses_in_torch, read, reduced_rows
from equipoise.statistics import RowStatistics
from equipoise.statistics.row import applies_class_weight


class _LossClass(ABCMeta):
    """The class of loss classes: refuses arithmetic with a class in place of a loss, as 0.1 * Entropy."""

    def _refuse(cls, *other: Never) -> NoReturn:
        del other
        raise TypeError(
            f"a loss must be made before it is combined, got the class {cls.__name__}; write {cls.__name__}()"
        )

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __neg__ = _refuse
    __array_ufunc__ = None  # as for `Loss`


class Loss(metaclass=_LossClass):
    """A loss or penalty: an immutable value, called like `torch.nn.functional.cross_entropy`.

    Losses add up and scale by numbers, Python's or numpy's: `CrossEntropy() + 0.1 * Entropy()` is a loss, and
    `sum(losses) / 2` too. The numbers of a loss may be 0-d tensors, also learnable ones: a gradient reaches
    them. Write a loss as a frozen dataclass that subclasses `RowLoss`.
    """

    __array_ufunc__ = None  # numpy's numbers leave `number * loss` to `__rmul__`

    def __call__(
        self,
        logits: Tensor,
        target: Tensor | None = None,
        weight: Tensor | None = None,
        *,
        sample_weight: Tensor | None = None,
        mask: Tensor | None = None,
        ignore_index: int = IGNORE_INDEX,
        reduction: Reduction = "mean",
    ) -> Tensor:
        r"""Return the loss of logits against targets.

        Args:
            logits: Scores before any softmax; minus infinity masks a class. Half precision is computed in
                float32. A DTensor may be sharded over its classes, its rows or both: the result is that of
                one process, on every rank.
            target: Class indices, or probabilities in the shape of the logits, whose rows should sum to one;
                the loss is then its expectation over them. Penalties alone need none.
            weight: Weight of each class: of the rows of that class, and of their part in the mean.
            sample_weight: Weight of each row, and of its part in the mean; 2 counts as the row twice.
            mask: Bool, True where a class is allowed; the logits of the others count as minus infinity.
            ignore_index: Rows with this class index count for nothing, whatever they hold; nor do those of
                weight 0, unless the weight needs a gradient.
            reduction: "mean", "sum" or "none". The mean is over the rows that count, by their weights; it is
                nan when no row counts.

        Shapes:
            logits (C,), (N, C) or (N, C, d1, ...); target the same without C, or with it as probabilities;
            weight (C,); sample_weight the shape of the logits without C; mask (C,) or the shape of the
            logits; result a single number, or with reduction "none" the shape of the logits without C.

        Raises:
            TypeError: If logits are not floating, or targets are neither integers nor probabilities.
            ValueError: If shapes do not fit, a class does not exist, an option is outside its range, or a
                loss has no target.

        Numerics:
            A nan or plus infinity in a row gives nan for that row, as does a row in which every class is
            masked: in its loss and in its gradient, and so in a mean or sum.
        """
        check_reduction(reduction)
        if mask is None and self._is_row_loss():
            rows = kernel_rows(logits, target, weight, sample_weight, ignore_index)
            if rows is not None:
                call = dense.kernel_call(_of_rows(self), *rows, ignore_index, reduction)
                if isinstance(call, Call):
                    log_backend("loss", self, logits, "cpp")
                    value = dense.compute(_of_rows(self), rows[0], call)
                    return value.reshape(target_shape(logits)) if value.ndim else value
        if is_dtensor(logits) and torch.compiler.is_compiling():  # what ranks say is no part of a graph
            untraced: Any = torch.compiler.disable(self)
            return untraced(
                logits,
                target,
                weight=weight,
                sample_weight=sample_weight,
                mask=mask,
                ignore_index=ignore_index,
                reduction=reduction,
            )
        batch = read(self, logits, target, weight, sample_weight, mask, ignore_index, reduction)
        with no_autocast(batch.logits.device):
            call = kernel_call(self, batch, reduction)
            log_backend("loss", self, logits, *backend_of(self, batch, call))
            return self._reduced(batch, reduction, call)

    def in_torch(
        self,
        logits: Tensor,
        target: Tensor | None = None,
        weight: Tensor | None = None,
        sample_weight: Tensor | None = None,
        ignore_index: int = IGNORE_INDEX,
        reduction: str = "mean",
    ) -> Tensor:
        """Return the loss of logits (N, C) in plain differentiable torch, as where no kernel can be used."""
        applies = applies_class_weight(self)
        batch = read_batch(logits, target, weight, ignore_index, sample_weight, applies_class_weight=applies)
        losses = losses_in_torch(_of_rows(self), batch)
        return reduce(losses, batch, reduction, sample_weight=batch.sample_weight)

    def linear(
        self,
        hidden: Tensor,
        linear_weight: Tensor,
        target: Tensor | None = None,
        *,
        linear_bias: Tensor | None = None,
        weight: Tensor | None = None,
        sample_weight: Tensor | None = None,
        ignore_index: int = IGNORE_INDEX,
        reduction: Reduction = "mean",
        denominator: float | Tensor | None = None,
        logit_scale: float = 1.0,
        softcap: float | None = None,
        lora: "linear.Lora | None" = None,
        grad: Literal["auto", "forward", "recompute"] = "auto",
        block_bytes: int | None = None,
        backend: Literal["auto", "torch", "cpp", "triton"] = "auto",
    ) -> Tensor:
        r"""Return the loss of the logits :math:`x W^\top + b` against targets, without holding them.

        The same number and gradients as `loss(hidden @ linear_weight.T + linear_bias, target)`, from a block
        of the logits at a time. Where the loss is reduced, its gradient is made together with it, in three
        matrix products; with reduction "none", or weights that need a gradient themselves, the logits are
        made a second time in the backward pass. `equipoise.linear.explain` says which, and what it will hold.

        Args:
            hidden: (..., D), the hidden states x.
            linear_weight: (V, D), as in `torch.nn.Linear`. A DTensor may be sharded over the classes,
                where every rank has the same rows; its gradient is sharded likewise.
            target: (...) class indices, or (..., V) probabilities; penalties alone need none.
            linear_bias: (V,).
            weight: (V,) weight of each class: of the rows of that class, and of their part in the mean.
            sample_weight: (...) weight of each row, and of its part in the mean.
            ignore_index: Rows with this class index count for nothing.
            reduction: "mean", "sum" or "none".
            denominator: What to divide the sum by for "mean", such as the number of tokens in all the batches
                that make a step; None divides by the weights of the rows that count.
            logit_scale: Factor on the logits, before `linear_bias`.
            softcap: s to cap the logits by s tanh(z / s); None for no cap.
            lora: (A, B) or (A, B, scale), A (r, D) and B (V, r), whose product is added to `linear_weight`.
            grad: "auto", "forward" or "recompute": when the gradient is made.
            block_bytes: Memory for a block of logits, to which rows that begin at cache lines may add a
                little; None for at most 128 MiB on a CPU and at least twice that on an accelerator.
            backend: "auto", "torch", "cpp" (compiled with the package, on a CPU) or "triton".

        Shapes:
            Result a single number, or with reduction "none" the shape of the target's classes.

        Raises:
            TypeError: If something is not of its kind.
            ValueError: If shapes, dtypes or devices do not fit, a class does not exist, an option is outside
                its range, the loss looks at several rows at once, or "forward" is asked for in vain.
            RuntimeError: In the backward pass with create_graph.

        Numerics:
            Half precision is multiplied as it is and summed in float32, as are the gradients of several
            blocks; they come back in the dtype of what they are for. Under `torch.compile` it is one graph
            break. Under a transform of `torch.func`, forward mode or a tracer, and with a subclass of Tensor,
            the logits are made in one piece, in plain torch.

        Example:
            >>> from equipoise.losses import GammaCrossEntropy
            >>> hidden, weight = torch.randn(6, 4, requires_grad=True), torch.randn(10, 4, requires_grad=True)
            >>> loss = GammaCrossEntropy(0.1).linear(hidden, weight, torch.arange(6))
            >>> loss.backward()
            >>> torch.allclose(loss, GammaCrossEntropy(0.1)(hidden @ weight.T, torch.arange(6)))
            True
        """
        return linear.reduced(
            _of_rows(self),
            hidden,
            linear_weight,
            target,
            linear_bias=linear_bias,
            weight=weight,
            sample_weight=sample_weight,
            ignore_index=ignore_index,
            reduction=reduction,
            denominator=denominator,
            logit_scale=logit_scale,
            softcap=softcap,
            lora=lora,
            grad=grad,
            block_bytes=block_bytes,
            backend=backend,
        )

    def terms(self) -> tuple[tuple[float | Tensor, "Loss"], ...]:
        """Return the pairs (coefficient, loss) this loss is the sum of; itself once if it is no sum."""
        return ((1.0, self),)

    @abstractmethod
    def _is_row_loss(self) -> bool:
        """Return whether each row has a loss of its own."""

    @abstractmethod
    def _reduced(self, batch: Batch, reduction: str, call: Call | str) -> Tensor:
        """Return the reduced loss of a batch, given the kernel's call for its rows, or why there is none."""

    def __add__(self, other: object) -> "Sum":
        if not isinstance(other, Loss):
            return NotImplemented
        return Sum(self.terms() + other.terms())

    def __radd__(self, other: object) -> "Loss":
        return self if isinstance(other, (int, float)) and other == 0 else NotImplemented  # `sum` starts at 0

    def __sub__(self, other: object) -> "Sum":
        return self + -1.0 * other if isinstance(other, Loss) else NotImplemented

    def __mul__(self, factor: object) -> "Sum":
        return self._scaled(operator.mul, factor)

    __rmul__ = __mul__

    def __truediv__(self, divisor: object) -> "Sum":
        return self._scaled(operator.truediv, divisor)

    def __neg__(self) -> "Sum":
        return -1.0 * self

    def _scaled(self, apply: Callable[[Any, Any], Any], number: Any) -> "Sum":
        """Return the loss with a number, Python's or numpy's, applied to each coefficient."""
        if isinstance(number, Tensor):
            raise TypeError(
                "a coefficient must be a Python number, got a tensor; use .item(), or multiply the value: "
                "factor * loss(logits, target)"
            )
        if isinstance(number, (np.generic, np.ndarray)) and number.ndim == 0:
            number = number.item()
        if not isinstance(number, (int, float)) or isinstance(number, bool):
            return NotImplemented
        if not abs(number) < float("inf"):
            raise ValueError(f"a coefficient must be finite, got {number}")
        return Sum(tuple((1.0 * apply(coefficient, number), term) for coefficient, term in self.terms()))


class RowLoss(Loss):
    """A loss that looks at one row at a time.

    A subclass is a frozen dataclass with one method, `per_row`.
    """

    @property
    def applies_class_weight(self) -> bool:
        """Whether `per_row` carries the class weights itself, as those of more than the target's class."""
        return False

    @abstractmethod
    def per_row(self, row: RowStatistics, /) -> Tensor:
        """Return the loss of one row, elementwise in the answers of `row`."""

    def of(self, row: RowStatistics, /) -> Tensor:
        """Return the loss of one row times its class weight."""
        losses = self.per_row(row)
        return losses if self.applies_class_weight or row.class_weight is None else losses * row.weight

    def _is_row_loss(self) -> bool:
        return True

    def _reduced(self, batch: Batch, reduction: str, call: Call | str) -> Tensor:
        return reduced_rows(self, batch, reduction, call)


class BatchLoss(Loss):
    """A penalty on the batch as a whole, such as how evenly its rows share the classes.

    A subclass is a frozen dataclass with one method, `of_batch`. Under reduction "mean" it counts once; under
    "sum" as often as there are rows, so that the sum over a count is the mean. Where no row counts the sum is
    0 and the mean nan, as those of a `RowLoss`.
    """

    @abstractmethod
    def of_batch(self, logits: Tensor, share: Tensor, /) -> Tensor:
        """Return the penalty of logits (N, C) whose rows have shares (N,) of the batch that sum to one."""

    def _is_row_loss(self) -> bool:
        return False

    def _reduced(self, batch: Batch, reduction: str, call: Call | str) -> Tensor:
        weight = batch.mean_weight(batch.logits)
        if weight is None:
            weight = torch.ones_like(batch.logits[:, 0])
        if batch.sample_weight is not None:
            weight = weight * batch.sample_weight
        total = weight.sum()
        empty = (
            total == 0
        )  # then the shares are equal, so that the value is finite and its gradient times 0 is 0
        share = torch.where(empty, 1.0, weight) / torch.where(empty, len(weight), total)
        value = self.of_batch(batch.logits, share)
        return value * total if reduction == "sum" else torch.where(empty, torch.nan, value)


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

    def of(self, row: RowStatistics, /) -> Tensor:
        """Return the weighted sum of the row losses among the terms."""
        return _add(
            coefficient * term.of(row) for coefficient, term in self.parts if isinstance(term, RowLoss)
        )

    def _is_row_loss(self) -> bool:
        return all(term._is_row_loss() for _, term in self.parts)

    def _reduced(self, batch: Batch, reduction: str, call: Call | str) -> Tensor:
        parts = [
            coefficient * term._reduced(batch, reduction, call)
            for coefficient, term in self.parts
            if not isinstance(term, RowLoss)
        ]
        if len(parts) < len(self.parts):
            parts.append(reduced_rows(self, batch, reduction, call))
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


def _of_rows(loss: Loss) -> Any:
    """Return a loss whose terms all look at one row at a time, and so has `of`."""
    return loss


def check_loss(name: str, value: object, rule: str) -> Loss:
    """Return a value if it is a loss; `rule` says what it must be."""
    if not isinstance(value, Loss):
        way = "Objective.from_config takes a text" if isinstance(value, str) else "for example CrossEntropy()"
        way = f"write {value.__name__}()" if isinstance(value, _LossClass) else way
        raise TypeError(f"{name} must be {rule}, got {value!r}; {way}")
    return value
