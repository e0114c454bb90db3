"""`Plan` of a fused loss: when gradients are computed, size of the blocks, memory."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from equipoise.linear.head import RUN, SMALL, row_stride
from equipoise.linear.inputs import Inputs

GRADS = ("auto", "forward", "recompute")
BLOCK_BYTES = 2**27
CACHE_BYTES = 2**23  # of logits that stay in the last cache from one product to the next
FEWEST = 1024  # rows of a block, for which another addition to the weight's gradient costs little


@final
@dataclass(frozen=True)
class Plan:
    """How a fused loss is computed; prints as a table.

    Args:
        grad: "forward" if the forward pass computes the gradients, "recompute" if the backward pass
            recomputes the logits, "none" if no input requires a gradient.
        why: Reason for that.
        backend: "torch", "cpp" or "triton".
        program: Whether the kernel runs a program for the loss, in one call per block.
        why_torch: Reason why it does not; empty if it does.
        shape: N, D and V.
        rows: Rows of a block, in the backward pass too.
        threads: Number of threads that work on separate blocks in parallel.
        products: Matrix products of N x D x V, forward and backward.
        block_bytes: Memory of all blocks of logits at the same time.
        logit_bytes: Memory that all logits would need.
        gradient_bytes: Memory of the gradients; in half precision with several blocks, including their
            float32 sums and a product to add.
        ranks: Number of ranks over which the classes are sharded; blocks, products and memory are those of
            the rank with most classes.
    """

    grad: str
    why: str
    backend: str
    program: bool
    why_torch: str
    shape: tuple[int, int, int]
    rows: int
    threads: int
    products: int
    block_bytes: int
    logit_bytes: int
    gradient_bytes: int
    ranks: int = 1

    def __str__(self) -> str:
        n, d, classes = self.shape
        v = -(-classes // self.ranks)
        lines = {
            "shape": f"{n} rows, {d} features, {classes} classes",
            "gradient": f"{self.grad}: {self.why}",
            "backend": self.backend,
            "loss": "a program in the kernel" if self.program else f"in torch: {self.why_torch}",
            "blocks": f"{self.rows} rows x {v} classes",
            "products": f"{self.products} of {n} x {d} x {v}",
            "memory": f"{_size(self.block_bytes)} for a block of logits (all of them: "
            f"{_size(self.logit_bytes)}), {_size(self.gradient_bytes)} for gradients",
        }
        if self.threads > 1:
            lines["blocks"] += f", one in each of {self.threads} threads"
        if self.ranks > 1:
            lines["ranks"] = f"{self.ranks}: a gather for each block of rows, a sum of hidden's gradient"
        return "\n".join(f"{name:9} {text}" for name, text in lines.items())


def make_plan(inputs: Inputs, *, reasons: list[str], full_logits: bool, backend: str, why_torch: str) -> Plan:
    """Return the plan for inputs; it is the same on every rank, as ranks communicate once per block.

    Args:
        inputs: The inputs.
        reasons: Reasons why the forward pass cannot compute the gradients; empty if it can.
        full_logits: Whether the loss needs complete rows of logits.
        backend: "torch", "cpp" or "triton".
        why_torch: Reason why the kernel cannot run a program for the loss; empty if it can.
    """
    head, grad, block_bytes, classes = inputs.head, inputs.grad, inputs.block_bytes, inputs.classes
    if grad not in GRADS:
        raise ValueError(f"grad must be one of {', '.join(GRADS)}, got {grad!r}")
    if grad == "forward" and reasons:
        raise ValueError(f"grad must be 'auto' or 'recompute' here, got 'forward': {reasons[0]}")
    if block_bytes is not None and (not isinstance(block_bytes, int) or block_bytes < 1):
        raise ValueError(f"block_bytes must be a positive number of bytes, got {block_bytes!r}")
    n, d = head.hidden.shape
    v = len(head.weight) if classes is None else classes.chunk  # of the rank with most classes
    ranks = 1 if classes is None else classes.ranks
    needed = [part for part in head.parameters if part is not None and part.requires_grad]
    if not needed:
        taken, why = "none", "nothing needs one"
    elif reasons:
        taken, why = "recompute", reasons[0]
    elif grad == "recompute":
        taken, why = "recompute", "asked for"
    else:
        taken, why = "forward", "the loss is a sum over rows with weights known beforehand"
    if taken == "recompute":
        why_torch = why_torch or "the logits are recomputed for the gradient"
    rows, threads = _rows(inputs, n, v, in_threads=taken == "forward" and not why_torch)
    width = v
    if full_logits and ranks > 1:  # complete rows are gathered
        rows, width = max(1, rows // ranks), inputs.num_classes
    wanted = int(head.hidden.requires_grad) + int(head.weight.requires_grad)
    products = 1 + (0 if taken == "none" else (taken == "recompute") + wanted)
    item, on_cpu = head.logit_dtype.itemsize, head.hidden.device.type == "cpu"
    in_sums = head.work_dtype != head.hidden.dtype and rows < n
    gradient_bytes = 0
    for part in needed:
        count = part.numel() // max(1, len(part)) * (v if _has_classes(inputs, part) else len(part))
        gradient_bytes += count * part.element_size()
        if in_sums:
            gradient_bytes += 4 * count + (min(RUN, count) if on_cpu else count) * part.element_size()
    return Plan(
        taken,
        why,
        backend,
        not why_torch,
        why_torch,
        (n, d, inputs.num_classes),
        rows,
        threads,
        products,
        item * threads * rows * row_stride(width, head.logit_dtype),
        item * n * v,
        gradient_bytes,
        ranks,
    )


def _has_classes(inputs: Inputs, part: Tensor) -> bool:
    head = inputs.head
    return any(part is one for one in (head.weight, head.bias, head.up))


def _rows(inputs: Inputs, n: int, v: int, *, in_threads: bool) -> tuple[int, int]:
    """Return the number of rows of a block, and of threads that work on separate blocks."""
    head, block_bytes = inputs.head, inputs.block_bytes
    item = head.logit_dtype.itemsize
    row = item * v  # bytes
    if head.hidden.device.type != "cpu":
        budget = block_bytes or max(2 * BLOCK_BYTES, v * head.weight.shape[1] * item)
        return _even(n, max(1, min(n, budget // row))), 1
    budget, half = block_bytes or BLOCK_BYTES, item < head.work_dtype.itemsize
    rows, threads, weight = max(1, min(n, budget // row)), 1, v * head.weight.shape[1]
    if block_bytes is None and rows < n and half:  # each block rounds, and is summed in float32
        rows = max(min(rows, FEWEST), (budget - 4 * weight) // row)
    if CACHE_BYTES // row >= FEWEST or not half:
        if in_threads and weight <= SMALL and CACHE_BYTES // row >= FEWEST:
            threads = max(1, min(torch.get_num_threads(), n // FEWEST, rows // FEWEST))
        rows = min(rows, max(FEWEST, CACHE_BYTES // row // threads))
    share = -(-n // threads)
    return _even(share, min(rows, max(1, share))), threads


def _even(length: int, size: int) -> int:
    """Return the smallest block size that gives as many blocks of a length as `size` does."""
    return max(1, -(-length // max(1, -(-length // max(1, size)))))


def _size(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} GiB"
