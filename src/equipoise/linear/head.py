"""How the logits of a block are made from hidden states, and where their gradient goes."""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from equipoise.linear.memory import Loan
from equipoise.stats import kernels

HALF = (torch.bfloat16, torch.float16)
RUN = 2**20  # numbers of a product in half precision that are added to a sum at a time


def width(classes: int, dtype: torch.dtype) -> int:
    """Return how many numbers apart the rows of a block begin.

    Long ones begin where a cache line does: for 50 257 classes the product takes a quarter less time.
    """
    line = 64 // dtype.itemsize
    return classes if classes < 8 * line else -(-classes // line) * line


@final
@dataclass(frozen=True)
class Head:
    r"""A linear layer whose logits are made a block at a time.

    .. math:: z = s\,x W^\top + a s\,(x A^\top) B^\top + b

    Args:
        hidden: x, (N, D).
        weight: W, (V, D).
        bias: b, (V,).
        down: A, (r, D).
        up: B, (V, r).
        lora_scale: a.
        scale: s.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None = None
    down: Tensor | None = None
    up: Tensor | None = None
    lora_scale: float = 1.0
    scale: float = 1.0

    @classmethod
    def of(cls, parts: Sequence[Tensor | None], scales: tuple[float, float]) -> "Head":
        """Return the head of `parameters`, `lora_scale` and `scale`."""
        hidden, weight, bias, down, up = parts
        assert hidden is not None
        assert weight is not None
        return cls(hidden, weight, bias, down, up, *scales)

    @property
    def parameters(self) -> tuple[Tensor | None, ...]:
        """Everything the logits are made of, in the order of `Gradients.found`."""
        return self.hidden, self.weight, self.bias, self.down, self.up

    @property
    def work_dtype(self) -> torch.dtype:
        """Dtype of statistics and sums: float32 at least."""
        return torch.float32 if self.hidden.dtype in HALF else self.hidden.dtype

    @property
    def logit_dtype(self) -> torch.dtype:
        """Dtype in which the matrix product gives the logits."""
        return self.work_dtype if self.hidden.is_cuda else self.hidden.dtype

    def inputs(self, rows: slice) -> Tensor:
        """Return the hidden states of some rows, scaled."""
        return self.hidden[rows] if self.scale == 1 else self.hidden[rows] * self.scale

    def logits(self, rows: slice, classes: slice, out: Tensor) -> Tensor:
        """Write the logits of some rows and classes to `out`."""
        inputs, weight = self.inputs(rows), self.weight[classes].t()
        if out.dtype != inputs.dtype:
            torch.mm(inputs, weight, out_dtype=out.dtype, out=out)
        elif self.bias is None:
            torch.mm(inputs, weight, out=out)
        else:
            torch.addmm(self.bias[classes], inputs, weight, out=out)
        if self.down is not None and self.up is not None:
            low = (inputs @ self.down.t()) * self.lora_scale
            if out.dtype == low.dtype:
                out.addmm_(low, self.up[classes].t())
            else:
                out.add_(low @ self.up[classes].t())
        if self.bias is not None and out.dtype != inputs.dtype:
            out.add_(self.bias[classes])
        return out


@final
class Gradients:
    """The gradients of a head, summed over blocks of rows and classes.

    Half precision is summed in float32 where there are several blocks to sum.

    Args:
        head: The head.
        wanted: Which of its parameters need one.
        blocks: Into how many blocks rows and classes are cut.
        lend: Where memory for sums is from, if they are not returned themselves.
    """

    def __init__(
        self, head: Head, wanted: tuple[bool, ...], blocks: tuple[int, int], lend: Loan | None
    ) -> None:
        self._head = head
        rows, classes = blocks
        several = (classes + (head.down is not None), rows, rows, rows * classes, rows)
        self._sums = [
            self._sum(part, lend, several=count > 1) if part is not None and needed else None
            for part, needed, count in zip(head.parameters, wanted, several, strict=True)
        ]
        self._begun: set[tuple[int, int]] = set()
        self._product: dict[int, Tensor] = {}

    def add(self, rows: slice, classes: slice, slope: Tensor) -> None:
        """Add what a block's derivative (R, B) with respect to the logits gives to each."""
        head = self._head
        inputs = head.inputs(rows)
        self._add(0, rows, slope, head.weight[classes])
        self._add(1, classes, slope.t(), inputs)
        if (bias := self._sums[2]) is not None:
            total = slope.sum(0, dtype=bias.dtype)
            bias[classes] = total if self._new(2, classes) else bias[classes] + total
        if head.down is None or head.up is None:
            return
        if self._sums[4] is not None:
            self._add(4, classes, slope.t(), (inputs @ head.down.t()) * head.lora_scale)
        if self._sums[0] is not None or self._sums[3] is not None:
            low = (slope @ head.up[classes]) * head.lora_scale
            self._add(0, rows, low, head.down)
            self._add(3, slice(None), low.t(), inputs)

    def beside(self) -> "Gradients":
        """Return further sums, for other rows; those of the hidden states are shared."""
        other = copy(self)
        other._sums = [
            self._sums[0],
            *(part if part is None else torch.empty_like(part) for part in self._sums[1:]),
        ]
        other._begun, other._product = set(), {}
        return other

    def join(self, other: "Gradients") -> None:
        """Add the sums over other rows."""
        for mine, theirs in zip(self._sums[1:], other._sums[1:], strict=True):
            if mine is not None and theirs is not None:
                mine.add_(theirs)

    def found(self, *, cast: bool = True) -> tuple[Tensor | None, ...]:
        """Return the gradients of `Head.parameters`, in their dtypes unless these are left for later."""
        if self._sums[0] is not None and self._head.scale != 1:
            self._sums[0].mul_(self._head.scale)
        return tuple(
            None if total is None or part is None else total.to(part.dtype) if cast else total
            for total, part in zip(self._sums, self._head.parameters, strict=True)
        )

    def _add(self, index: int, where: slice, one: Tensor, two: Tensor) -> None:
        total = self._sums[index]
        if total is None:
            return
        part, new = total[where], self._new(index, where)
        if part.dtype == one.dtype:
            torch.mm(one, two, out=part) if new else part.addmm_(one, two)
            return
        # A run of the product stays in cache until it is added; on a GPU it is added at once.
        size = max(1, RUN // max(1, part.shape[1])) if part.device.type == "cpu" else len(part)
        held = self._product.get(index)
        if held is None or held.numel() < min(size, len(part)) * part.shape[1]:
            held = one.new_empty(min(size, len(part)) * part.shape[1])
            self._product[index] = held
        for start in range(0, len(part), size):
            to = part[start : start + size]
            product = torch.mm(one[start : start + size], two, out=held[: to.numel()].view(to.shape))
            if part.device.type == "cpu" and kernels.available():
                kernels.add(product, to, begin=new)
            elif new:
                to.copy_(product)
            else:
                to.add_(product)

    def _sum(self, part: Tensor, lend: Loan | None, *, several: bool) -> Tensor:
        """Return memory for the gradient, or for a sum that it is made from."""
        dtype = self._head.work_dtype if several else part.dtype
        if dtype == part.dtype or lend is None:
            return torch.empty_like(part, dtype=dtype)
        return lend(part.numel(), dtype).view(part.shape)

    def _new(self, index: int, where: slice) -> bool:
        """Whether nothing has been added to a part of a gradient yet."""
        key = index, where.start or 0
        new = key not in self._begun
        self._begun.add(key)
        return new
