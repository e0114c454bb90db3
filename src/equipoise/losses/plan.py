"""`explain`: which backend computes the loss of given logits, and why."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from equipoise._batch import IGNORE_INDEX, Reduction, check_reduction, no_autocast
from equipoise.kernels.dense import Call
from equipoise.losses.base import Loss, check_loss
from equipoise.losses.rows import backend_of, kernel_call, read
from equipoise.statistics.record import uses


@final
@dataclass(frozen=True)
class DensePlan:
    """How the loss of given logits is computed; prints as a table.

    Args:
        backend: "cpp" for the compiled kernel, "torch", or "triton" (for classes sharded over ranks).
        why_torch: Reason why the loss, or one of its terms, is computed by torch; empty if none is.
        shape: N rows and C classes, of this rank.
        dtype: Dtype of the computation.
        instructions: Length of the kernel's program, which computes the loss of a row from states that one
            pass over its logits gives; 0 without a program, or if the loss is one of these states.
        states: Number of states that the program reads; 0 without a program.
    """

    backend: str
    why_torch: str
    shape: tuple[int, int]
    dtype: torch.dtype
    instructions: int
    states: int

    @property
    def program(self) -> bool:
        """Whether the kernel runs a program for the loss, or for some of its terms."""
        return self.states > 0

    def __str__(self) -> str:
        n, classes = self.shape
        said = f"a program in the kernel: {self.instructions} instructions on {self.states} states of a row"
        why = f"in torch: {self.why_torch}"
        if self.program and self.why_torch:
            said = f"{said}; in part {why}"
        lines = {
            "shape": f"{n} rows, {classes} classes",
            "backend": self.backend,
            "loss": said if self.program else why,
            "dtype": str(self.dtype).removeprefix("torch."),
        }
        return "\n".join(f"{name:9} {text}" for name, text in lines.items())


def explain(
    loss: Loss,
    logits: Tensor,
    target: Tensor | None = None,
    weight: Tensor | None = None,
    *,
    sample_weight: Tensor | None = None,
    mask: Tensor | None = None,
    ignore_index: int = IGNORE_INDEX,
    reduction: Reduction = "mean",
) -> DensePlan:
    """Return which backend `loss(logits, target, ...)` uses, and why, without computing the loss.

    The backward pass uses the same backend, except with `create_graph` or `is_grads_batched`, where it uses
    torch. The logger "equipoise.kernels" logs the backend of each call at level DEBUG. For `loss.linear` use
    `equipoise.linear.explain`.

    Args:
        loss: The loss.
        logits: As in `Loss.__call__`, like the other arguments. If they are sharded, all ranks must call
            this function.
        target: Class indices or probabilities.
        weight: Weight of each class.
        sample_weight: Weight of each row.
        mask: True where a class is allowed.
        ignore_index: Rows with this class index are ignored.
        reduction: "mean", "sum" or "none".

    Raises:
        TypeError: As `Loss.__call__`, and if loss is not a loss.
        ValueError: As `Loss.__call__`.

    Example:
        >>> from equipoise.losses import GammaCrossEntropy
        >>> logits, target = torch.randn(6, 10), torch.arange(6)
        >>> print(explain(GammaCrossEntropy(0.1), logits, logits.softmax(1)))
        shape     6 rows, 10 classes
        backend   torch
        loss      in torch: target holds probabilities
        dtype     float32
        >>> explain(GammaCrossEntropy(0.1), logits, target).backend in ("cpp", "torch")  # if compiled
        True
    """
    check_loss("loss", loss, "a loss of equipoise")
    check_reduction(reduction)
    batch = read(
        loss,
        logits,
        target,
        weight,
        sample_weight=sample_weight,
        mask=mask,
        ignore_index=ignore_index,
        reduction=reduction,
    )
    with no_autocast(batch.logits.device):
        call = kernel_call(loss, batch, reduction)
    backend, why_torch = backend_of(loss, batch, call)
    program = call.loss.trace.program if isinstance(call, Call) else None
    return DensePlan(
        backend,
        why_torch,
        (len(batch.logits), batch.num_classes),
        batch.logits.dtype,
        0 if program is None else len(program.instructions),
        0 if program is None else len(uses(program)),
    )
