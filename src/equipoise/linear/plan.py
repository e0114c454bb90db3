"""In which order, in which blocks and with what memory a fused loss is computed."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from equipoise.linear.head import LANE, RUN, Head, width
from equipoise.stats import PIECE

GRADS = ("auto", "forward", "recompute")
BLOCK_BYTES = 2**27
FEWEST = 1024  # rows of a block for which going over the weight's gradient once more costs little
ROOM = 2**26  # bytes of a block in pieces: with more, what is done once for a block hardly costs less


@final
@dataclass(frozen=True)
class Plan:
    """What a fused loss will do; prints as a table.

    Args:
        grad: "forward" where the gradient is made together with the loss, "recompute" where the logits are
            made again in the backward pass, "none" where nothing needs a gradient.
        why: Reason for that.
        backend: "torch", "cpp" or "triton".
        shape: N, D and V.
        rows: Rows of a block in the forward pass.
        piece: Rows of a piece of it, of which the matrix products are made.
        lanes: In how many threads there is one at a time.
        again: Rows and classes of a block when the logits are made again.
        products: Matrix products of N x D x V, forward and backward.
        block_bytes: Memory for the blocks of logits that there are at a time.
        logit_bytes: Memory that the logits would take.
        gradient_bytes: Memory of the gradients; in half precision, where there are several blocks, also of
            the float32 sums that they are made from and of a product to add.
        ranks: Over how many the classes are shared out; blocks, products and memory are of the one that has
            most of them.
    """

    grad: str
    why: str
    backend: str
    shape: tuple[int, int, int]
    rows: int
    piece: int
    lanes: int
    again: tuple[int, int]
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
            "blocks": f"{self.rows} rows x {v} classes",
            "products": f"{self.products} of {n} x {d} x {v}",
            "memory": f"{_size(self.block_bytes)} for a block of logits (all of them: "
            f"{_size(self.logit_bytes)}), {_size(self.gradient_bytes)} for gradients",
        }
        if self.piece < self.rows:
            lines["blocks"] += f", made in pieces of {self.piece} rows"
        if self.lanes > 1:
            lines["blocks"] += f", one in each of {self.lanes} threads"
        if self.grad == "recompute":
            lines["blocks"] += f"; again {self.again[0]} rows x {self.again[1]} classes"
        if self.ranks > 1:
            lines["ranks"] = f"{self.ranks}: a gather for each block of rows, a sum of hidden's gradient"
        return "\n".join(f"{name:9} {text}" for name, text in lines.items())


def make_plan(
    head: Head,
    *,
    grad: str,
    reasons: list[str],
    whole: bool,
    marked: bool,
    backend: str,
    block_bytes: int | None,
    alone: bool = True,
) -> Plan:
    """Return the plan for a head.

    Args:
        head: The head.
        grad: What the user asked for.
        reasons: Why the gradient cannot be made in the forward pass; none if it can.
        whole: Whether every logit of a row must be there at once.
        marked: Whether a slope looks for the logits that were the largest or smallest: they are made again by
            the same matrix products then, to be the same to the last bit.
        backend: "torch", "cpp" or "triton".
        block_bytes: Memory for a block of logits, or None.
        alone: Whether no other rank waits for each block.
    """
    if grad not in GRADS:
        raise ValueError(f"grad must be one of {', '.join(GRADS)}, got {grad!r}")
    if grad == "forward" and reasons:
        raise ValueError(f"grad must be 'auto' or 'recompute' here, got 'forward': {reasons[0]}")
    if block_bytes is not None and (not isinstance(block_bytes, int) or block_bytes < 1):
        raise ValueError(f"block_bytes must be a positive number of bytes, got {block_bytes!r}")
    n, d = head.hidden.shape
    v = len(head.weight)
    needed = [part for part in head.parameters if part is not None and part.requires_grad]
    if not needed:
        taken, why = "none", "nothing needs one"
    elif reasons:
        taken, why = "recompute", reasons[0]
    elif grad == "recompute":
        taken, why = "recompute", "asked for"
    else:
        taken, why = "forward", "the loss is a sum over rows with weights known beforehand"
    item = head.logit_dtype.itemsize
    row = item * v  # bytes
    on_cpu = head.hidden.device.type == "cpu"
    budget = block_bytes or (BLOCK_BYTES if on_cpu else max(2 * BLOCK_BYTES, _bytes(head.weight)))
    rows = piece = max(1, min(n, budget // row))
    lanes = 1
    if on_cpu and block_bytes is None and rows < n and item < head.work_dtype.itemsize:
        rows = piece = max(min(rows, FEWEST), (budget - 4 * head.weight.numel()) // row)
    if on_cpu:
        cached = 4 * PIECE // row
        if cached >= FEWEST or item == head.work_dtype.itemsize:
            piece = min(rows, max(FEWEST, cached))
        if backend != "cpp" or whole or not alone:
            rows = piece = rows if block_bytes else piece
        else:
            if taken == "forward" and cached >= FEWEST and head.weight.numel() <= LANE:
                lanes = max(1, min(torch.get_num_threads(), n // FEWEST, rows // FEWEST))
            rows, piece = rows // lanes, max(FEWEST, piece // lanes)
            if block_bytes is None:
                rows = min(rows, max(piece, ROOM // row))
    share = -(-n // lanes)
    piece = max(1, _even(share, min(piece, rows)))
    rows = piece * max(1, _even(-(-share // piece), rows // piece))
    classes = max(1, min(v, max(256, budget // (item * max(1, n)))))
    again = (max(1, min(n, budget // (item * classes))), classes)
    if whole or marked:
        again = (rows if whole else piece, v)
    products = 1 + (0 if taken == "none" else (taken == "recompute") + _wanted(head))
    sums = head.work_dtype != head.hidden.dtype and (piece < n or (taken == "recompute" and again != (n, v)))
    shown = again if taken == "recompute" else (rows, v)
    return Plan(
        taken,
        why,
        backend,
        (n, d, v),
        rows,
        piece,
        lanes,
        again,
        products,
        item * max(lanes * rows * width(v, head.logit_dtype), shown[0] * width(shown[1], head.logit_dtype)),
        item * n * v,
        sum(_bytes(part) + (_summed(part, on_cpu=on_cpu) if sums else 0) for part in needed),
    )


def _summed(part: Tensor, *, on_cpu: bool) -> int:
    """Bytes of a float32 sum, and of a product to add to it."""
    product = min(RUN, part.numel()) if on_cpu else part.numel()
    return 4 * part.numel() + product * part.element_size()


def _even(length: int, size: int) -> int:
    """Return a size that cuts a length into as many runs, the last of which is not much smaller."""
    return -(-length // max(1, -(-length // max(1, size))))


def _wanted(head: Head) -> int:
    return int(head.hidden.requires_grad) + int(head.weight.requires_grad)


def _bytes(part: Tensor) -> int:
    return part.numel() * part.element_size()


def _size(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} GiB"
