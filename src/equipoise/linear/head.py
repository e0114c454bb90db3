"""How the logits of a block are made from hidden states, and where their gradient goes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

HALF = (torch.bfloat16, torch.float16)


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
    """

    def __init__(self, head: Head, wanted: tuple[bool, ...], blocks: tuple[int, int]) -> None:
        self._head = head
        rows, classes = blocks
        several = (classes + (head.down is not None), rows, rows, rows * classes, rows)
        self._sums = [
            torch.empty_like(part, dtype=head.work_dtype if count > 1 else part.dtype)
            if part is not None and needed
            else None
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
        held = self._product.get(index)
        if held is None or held.numel() < part.numel():
            held = self._product[index] = torch.empty(part.numel(), dtype=one.dtype, device=one.device)
        product = torch.mm(one, two, out=held[: part.numel()].view(part.shape))
        part.copy_(product) if new else part.add_(product)

    def _new(self, index: int, where: slice) -> bool:
        """Whether nothing has been added to a part of a gradient yet."""
        key = index, where.start or 0
        new = key not in self._begun
        self._begun.add(key)
        return new
