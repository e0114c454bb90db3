"""`Head`, which computes blocks of logits from hidden states, and `Gradients` of its parameters."""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from equipoise.kernels import cpu
from equipoise.linear.buffers import Buffers

LINE = 64  # bytes of a cache line
HALF = (torch.bfloat16, torch.float16)
RUN = 2**20  # numbers of a weight, or of a product that is added to its gradient, per step
SMALL = 2**19  # largest weight, in numbers, for which each thread may have its own block and sums
SHARE = 2**26  # smallest number of multiplications per thread for a split of the classes over threads


def row_stride(classes: int, dtype: torch.dtype) -> int:
    """Return the stride of the rows of a block, in numbers.

    Long rows are aligned to cache lines: for 50 257 classes the product takes a quarter less time. The stride
    is not a multiple of 4 KiB, which would map rows to the same cache sets and cost a tenth or more of the
    time for 32 768 classes, except in half precision.
    """
    line = LINE // dtype.itemsize
    if classes < 8 * line:
        return classes
    length = _round_up(classes, line)
    return length + (4 * line if dtype not in HALF and length % (64 * line) == 0 else 0)


def _round_up(count: int, step: int) -> int:
    return -(-count // step) * step


@final
@dataclass(frozen=True)
class Head:
    r"""A linear layer that computes its logits block by block.

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
    def from_parameters(cls, parts: Sequence[Tensor | None], scales: tuple[float, float]) -> "Head":
        """Return the head of `parameters` and `scales`."""
        hidden, weight, bias, down, up = parts
        assert hidden is not None
        assert weight is not None
        return cls(hidden, weight, bias, down, up, *scales)

    @property
    def parameters(self) -> tuple[Tensor | None, ...]:
        """The tensors of the layer, hidden states included, in the order of `Gradients.result`."""
        return self.hidden, self.weight, self.bias, self.down, self.up

    @property
    def scales(self) -> tuple[float, float]:
        """The scale and the scale of LoRA."""
        return self.lora_scale, self.scale

    @property
    def work_dtype(self) -> torch.dtype:
        """Dtype of statistics and sums: float32 at least."""
        return torch.float32 if self.hidden.dtype in HALF else self.hidden.dtype

    @property
    def logit_dtype(self) -> torch.dtype:
        """Dtype of the output of the matrix product."""
        return self.work_dtype if self.hidden.is_cuda else self.hidden.dtype

    def inputs(self, rows: slice) -> Tensor:
        """Return the hidden states of some rows, scaled."""
        return self.hidden[rows] if self.scale == 1 else self.hidden[rows] * self.scale

    def all_logits(self) -> Tensor:
        """Return the logits (N, V), by operations that autograd and tracers can record."""
        inputs = self.inputs(slice(None))
        z = F.linear(inputs, self.weight, self.bias)
        if self.down is not None and self.up is not None:
            z = z + F.linear(F.linear(inputs, self.down) * self.lora_scale, self.up)
        return z.to(self.work_dtype)

    def write_logits(self, rows: slice, out: Tensor) -> None:
        """Write the logits of some rows to `out`."""
        inputs, weight, bias = self.inputs(rows), self.weight, self.bias
        low = None if self.down is None else (inputs @ self.down.t()) * self.lora_scale

        def write(classes: slice) -> None:
            to, of_classes = out[:, classes], weight[classes].t()
            if out.dtype != inputs.dtype:
                torch.mm(inputs, of_classes, out_dtype=out.dtype, out=to)
            elif bias is None:
                torch.mm(inputs, of_classes, out=to)
            else:
                torch.addmm(bias[classes], inputs, of_classes, out=to)
            if low is not None and self.up is not None:
                if out.dtype == low.dtype:
                    to.addmm_(low, self.up[classes].t())
                else:
                    to.add_(low @ self.up[classes].t())
            if bias is not None and out.dtype != inputs.dtype:
                to.add_(bias[classes])

        _for_classes(weight, len(inputs), write)


def _for_classes(weight: Tensor, rows: int, work: Callable[[slice], None]) -> None:
    """Call `work` with slices of the classes of a weight, in parallel threads if that is faster on a CPU.

    A product of few rows takes up to a quarter less time than with torch's own parallel matrix product.
    """
    threads, size = torch.get_num_threads(), weight.numel()
    shared = weight.device.type == "cpu" and threads > 1 and size > SMALL and rows * size >= threads * SHARE
    if not shared or not cpu.available():
        work(slice(None))
        return
    share = _round_up(-(-len(weight) // threads), LINE)  # aligned to cache lines
    run = _round_up(max(1, RUN // weight.shape[1]), LINE)

    def of_thread(thread: int) -> None:
        stop = min(len(weight), share * (thread + 1))
        for start in range(share * thread, stop, run):
            work(slice(start, min(start + run, stop)))

    cpu.run_in_threads(threads, of_thread)


@final
class Gradients:
    """The gradients of a head, summed over blocks of rows.

    Half precision is summed in float32 if there are several blocks.

    Args:
        head: The head.
        wanted: Whether each of its parameters requires a gradient.
        several: Whether there are several blocks of rows.
        buffers: Source of memory for sums; None if the sums themselves are returned.
    """

    def __init__(self, head: Head, wanted: Sequence[bool], *, several: bool, buffers: Buffers | None) -> None:
        self._head = head
        in_sums = (head.down is not None, several, several, several, several)
        self._sums = [
            self._memory(part, buffers, summed=summed) if part is not None and needed else None
            for part, needed, summed in zip(head.parameters, wanted, in_sums, strict=True)
        ]
        self._begun: set[tuple[int, int]] = set()
        self._product: dict[int, Tensor] = {}

    def add(self, rows: slice, gradient: Tensor) -> None:
        """Add the gradients of the parameters for the gradient (R, V) of the logits of some rows."""
        head = self._head
        inputs = head.inputs(rows)
        self._add(0, rows, gradient, head.weight)
        self._add(1, slice(None), gradient.t(), inputs)
        if (bias := self._sums[2]) is not None:
            summed = gradient.sum(0, dtype=bias.dtype)
            bias.copy_(summed) if self._is_first(2, 0) else bias.add_(summed)
        if head.down is None or head.up is None:
            return
        if self._sums[4] is not None:
            self._add(4, slice(None), gradient.t(), (inputs @ head.down.t()) * head.lora_scale)
        if self._sums[0] is not None or self._sums[3] is not None:
            low = (gradient @ head.up) * head.lora_scale
            self._add(0, rows, low, head.down)
            self._add(3, slice(None), low.t(), inputs)

    def beside(self) -> "Gradients":
        """Return separate sums, for the rows of another thread; the hidden states' gradient is shared."""
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

    def result(self, *, cast: bool) -> tuple[Tensor | None, ...]:
        """Return the gradients of `Head.parameters`, in their dtypes if `cast`."""
        if self._sums[0] is not None and self._head.scale != 1:
            self._sums[0].mul_(self._head.scale)
        return tuple(
            None if summed is None or part is None else summed.to(part.dtype) if cast else summed
            for summed, part in zip(self._sums, self._head.parameters, strict=True)
        )

    def _add(self, index: int, rows: slice, one: Tensor, two: Tensor) -> None:
        summed = self._sums[index]
        if summed is None:
            return
        part, first = summed[rows], self._is_first(index, rows.start or 0)
        if part.dtype == one.dtype:
            torch.mm(one, two, out=part) if first else part.addmm_(one, two)
            return
        # In slices on a CPU: a slice of the product stays in the cache until it is added.
        size = max(1, RUN // max(1, part.shape[1])) if part.device.type == "cpu" else len(part)
        memory = self._product.get(index)
        if memory is None or memory.numel() < min(size, len(part)) * part.shape[1]:
            memory = one.new_empty(min(size, len(part)) * part.shape[1])
            self._product[index] = memory
        for start in range(0, len(part), size):
            to = part[start : start + size]
            product = torch.mm(one[start : start + size], two, out=memory[: to.numel()].view(to.shape))
            if part.device.type == "cpu" and cpu.available():
                cpu.add(product, to, begin=first)
            elif first:
                to.copy_(product)
            else:
                to.add_(product)

    def _memory(self, part: Tensor, buffers: Buffers | None, *, summed: bool) -> Tensor:
        """Return memory for a gradient, or for its float32 sum."""
        dtype = self._head.work_dtype if summed else part.dtype
        if dtype == part.dtype or buffers is None:
            return torch.empty_like(part, dtype=dtype)
        return buffers.take(part.numel(), dtype).view(part.shape)

    def _is_first(self, index: int, start: int) -> bool:
        """Return whether this is the first addition to a slice of a gradient."""
        first = (index, start) not in self._begun
        self._begun.add((index, start))
        return first
