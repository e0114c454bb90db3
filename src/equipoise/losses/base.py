"""Base classes of losses: `RowLoss` (a value per row), `BatchLoss` (a value per batch), and their `Sum`."""

import operator
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, final

import numpy as np
import torch
from torch import Tensor
from torch.compiler import is_dynamo_compiling

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
from equipoise.losses.compiled import in_graph
from equipoise.losses.metaclass import LossClass
from equipoise.losses.rows import backend_of, kernel_call, losses_in_torch, read, reduced_rows
from equipoise.statistics import RowStatistics
from equipoise.statistics.row import applies_class_weight


class Loss(metaclass=LossClass):
    """Base of losses and penalties: an immutable value, called like `torch.nn.functional.cross_entropy`.

    Losses can be added, and multiplied by Python or numpy numbers: `CrossEntropy() + 0.1 * Entropy()` is a
    loss, and so is `sum(losses) / 2`. Parameters of a loss may be 0-d tensors; those that require a gradient
    get one. To write a loss, subclass `RowLoss` with a frozen dataclass.
    """

    __array_ufunc__ = None  # so that numpy_number * loss calls `__rmul__`

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
                the loss is then the expectation over the target distribution. None for penalties.
            weight: Weight of each class: a row is weighted by the weight of its target, in the sum and in the
                denominator of the mean.
            sample_weight: Weight of each row, in the sum and in the denominator of the mean; a row of weight
                2 is equivalent to the row twice.
            mask: Bool, True where a class is allowed; the other logits are replaced by minus infinity.
            ignore_index: Rows with this class index are ignored, even if their logits are nan. So are rows of
                weight 0, unless the weight requires a gradient.
            reduction: "mean", "sum" or "none". The mean is weighted, over the rows that are not ignored; it
                is nan when all rows are ignored.

        Shapes:
            logits (C,), (N, C) or (N, C, d1, ...); target the shape of the logits without C for class
            indices, with C for probabilities; weight (C,); sample_weight the shape of the logits without C;
            mask (C,) or that of the logits; result a scalar, or for "none" the logits' shape without C.

        Raises:
            TypeError: If logits are not floating, or targets are neither integers nor probabilities.
            ValueError: If shapes do not match, or a target or option is missing or outside its range.

        Numerics:
            If a row has a nan, plus infinity or no allowed class, its loss and its gradient are nan, and so
            are a mean and a sum over it.
        """
        if is_dynamo_compiling():
            value = in_graph(self, logits, target, weight, sample_weight, mask, ignore_index, reduction)
            if value is not None:
                return value
        check_reduction(reduction)
        if mask is None and self._is_row_loss():
            rows = kernel_rows(logits, target, weight, sample_weight, ignore_index)
            if rows is not None:
                call = dense.kernel_call(_of_rows(self), *rows, ignore_index, reduction)
                if isinstance(call, Call):
                    log_backend("loss", self, logits, "cpp")
                    value = dense.compute(_of_rows(self), rows[0], call)
                    return value.reshape(target_shape(logits)) if value.ndim else value
        options: dict[str, Any] = {
            "sample_weight": sample_weight,
            "mask": mask,
            "ignore_index": ignore_index,
            "reduction": reduction,
        }
        if is_dtensor(logits) and torch.compiler.is_compiling():  # collectives are not compiled
            untraced: Any = torch.compiler.disable(self)
            return untraced(logits, target, weight, **options)
        batch = read(self, logits, target, weight, **options)
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
        """Return the loss of logits (N, C), computed by differentiable torch operations, not by a kernel."""
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
        r"""Return the loss of the logits :math:`x W^\top + b` without materialising them.

        Value and gradients equal those of `loss(hidden @ linear_weight.T + linear_bias, target)`; only one
        block of the logits is in memory at a time. With reduction "mean" or "sum" the forward pass computes
        the gradients too, in three matrix products. With reduction "none", or if `weight` or `sample_weight`
        requires a gradient, the backward pass recomputes the logits. `equipoise.linear.explain` returns which
        of the two, the block size and the memory.

        Args:
            hidden: (..., D), the hidden states x.
            linear_weight: (V, D), as in `torch.nn.Linear`, or a DTensor sharded over the classes if all
                ranks have the same rows; the gradient is sharded likewise.
            target: (...) class indices, or (..., V) probabilities; None for penalties.
            linear_bias: (V,).
            weight: (V,) weight of each class, as in `__call__`.
            sample_weight: (...) weight of each row, as in `__call__`.
            ignore_index: Rows with this class index are ignored.
            reduction: "mean", "sum" or "none".
            denominator: Divisor of the sum for "mean", such as the number of tokens in all batches of an
                optimiser step; None divides by the sum of the weights of the rows that are not ignored.
            logit_scale: Factor on the logits, before `linear_bias`.
            softcap: s to cap the logits by s tanh(z / s); None for no cap.
            lora: (A, B) or (A, B, scale), A (r, D) and B (V, r), whose product is added to `linear_weight`.
            grad: "forward" computes the gradients in the forward pass, "recompute" in the backward pass.
            block_bytes: Memory for a block of logits, without the padding of rows to cache lines; None for at
                most 128 MiB on a CPU and at least twice that on an accelerator.
            backend: "auto", "torch", "cpp" (compiled with the package, on a CPU) or "triton".

        Shapes:
            Result a scalar, or with reduction "none" the shape of the class indices.

        Raises:
            TypeError: If an argument has the wrong type.
            ValueError: If shapes, dtypes or devices do not match, a target is no class, an option is outside
                its range, the loss is a `BatchLoss`, or grad="forward" is not possible.
            RuntimeError: In the backward pass with create_graph.

        Numerics:
            Half precision inputs are multiplied in their dtype; sums, and the gradients summed over blocks,
            are float32, and each gradient is returned in the dtype of its input. `torch.compile` breaks the
            graph once. In a transform of `torch.func`, in forward mode, when traced, and for subclasses of
            Tensor, the logits are computed in one piece by torch.

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
        """Return the summands as pairs (coefficient, loss); ((1.0, self),) unless the loss is a `Sum`."""
        return ((1.0, self),)

    @abstractmethod
    def _is_row_loss(self) -> bool:
        """Return whether every term is a `RowLoss`."""

    @abstractmethod
    def _reduced(self, batch: Batch, reduction: str, call: Call | str) -> Tensor:
        """Return the reduced loss of a batch; `call` is the kernel's call, or the reason to use torch."""

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

    def __rmul__(self, factor: object) -> "Sum":
        return self.__mul__(factor)

    def __truediv__(self, divisor: object) -> "Sum":
        return self._scaled(operator.truediv, divisor)

    def __neg__(self) -> "Sum":
        return -1.0 * self

    def _scaled(self, apply: Callable[[Any, Any], Any], number: Any) -> "Sum":
        """Return the loss with each coefficient c replaced by apply(c, number)."""
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
    """A loss with one value per row, which depends on that row only.

    A subclass is a frozen dataclass with one method, `per_row`.
    """

    @property
    def applies_class_weight(self) -> bool:
        """Whether `per_row` multiplies by class weights itself, because it uses those of several classes."""
        return False

    @abstractmethod
    def per_row(self, row: RowStatistics, /) -> Tensor:
        """Return the loss of one row, as elementwise operations on attributes of `row`."""

    def of(self, row: RowStatistics, /) -> Tensor:
        """Return the loss of one row times its class weight."""
        losses = self.per_row(row)
        return losses if self.applies_class_weight or row.class_weight is None else losses * row.weight

    def _is_row_loss(self) -> bool:
        return True

    def _reduced(self, batch: Batch, reduction: str, call: Call | str) -> Tensor:
        return reduced_rows(self, batch, reduction, call)


class BatchLoss(Loss):
    """A penalty with one value per batch, such as the divergence of the mean probabilities from uniform.

    A subclass is a frozen dataclass with one method, `of_batch`. Reduction "mean" returns the penalty, "sum"
    the penalty times the number of rows, so that sum / rows = mean. If all rows are ignored the sum is 0 and
    the mean nan, as for a `RowLoss`.
    """

    @abstractmethod
    def of_batch(self, logits: Tensor, share: Tensor, /) -> Tensor:
        """Return the penalty of logits (N, C) with row weights `shares` (N,), which sum to one."""

    def _is_row_loss(self) -> bool:
        return False

    def _reduced(self, batch: Batch, reduction: str, call: Call | str) -> Tensor:
        weight = batch.mean_weight(batch.logits)
        if weight is None:
            weight = torch.ones_like(batch.logits[:, 0])
        if batch.sample_weight is not None:
            weight = weight * batch.sample_weight
        total = weight.sum()
        empty = total == 0  # then equal shares, so that the value is finite, and its gradient times 0 is 0
        share = torch.where(empty, 1.0, weight)
        share = share / share.sum()
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
        """Return the weighted sum of those terms that are row losses."""
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
    """Cast a loss whose terms are all row losses to the type that has `of`."""
    return loss


def check_loss(name: str, value: object, rule: str) -> Loss:
    """Return a value if it is a loss, else raise TypeError: "<name> must be <rule>"."""
    if not isinstance(value, Loss):
        way = "Objective.from_config takes a text" if isinstance(value, str) else "for example CrossEntropy()"
        way = f"write {value.__name__}()" if isinstance(value, LossClass) else way
        raise TypeError(f"{name} must be {rule}, got {value!r}; {way}")
    return value
