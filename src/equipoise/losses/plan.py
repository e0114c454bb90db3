"""By what the loss of logits is computed."""

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
    """What a loss of logits will do; prints as a table.

    Args:
        backend: "cpp" for the compiled kernel, "torch", or "triton" where ranks share the classes.
        why_torch: Reason why the loss, or a part of it, is computed in plain torch; empty if it is not.
        shape: N rows and C classes, of this rank.
        dtype: In which it is computed.
        instructions: Of the program that the kernel runs for each row, after a pass over its logits; 0 where
            there is none, or the loss is a number of that pass itself.
        states: How many numbers of that pass the program reads; 0 where there is none.
    """

    backend: str
    why_torch: str
    shape: tuple[int, int]
    dtype: torch.dtype
    instructions: int
    states: int

    @property
    def program(self) -> bool:
        """Whether the loss, or a part of it, runs as a program in the kernel."""
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
    """Return by what `loss(logits, target, ...)` will be computed, and why, without computing it.

    The gradient is computed by the same, but in plain torch under `create_graph` and `is_grads_batched`. The
    logger "equipoise.kernels" says the same of each call, at level DEBUG. `equipoise.linear.explain` is this
    for `loss.linear`.

    Args:
        loss: The loss.
        logits: As for `Loss.__call__`, as is all that follows. If they are sharded, all ranks must call it.
        target: Class indices or probabilities.
        weight: Weight of each class.
        sample_weight: Weight of each row.
        mask: True where a class is allowed.
        ignore_index: The class index of rows that are left out.
        reduction: "mean", "sum" or "none".

    Raises:
        TypeError: As `Loss.__call__`, and if loss is none.
        ValueError: As `Loss.__call__`.

    Example:
        >>> from equipoise.losses import GammaCrossEntropy
        >>> logits, target = torch.randn(6, 10), torch.arange(6)
        >>> print(explain(GammaCrossEntropy(0.1), logits, logits.softmax(1)))
        shape     6 rows, 10 classes
        backend   torch
        loss      in torch: target holds probabilities
        dtype     float32
        >>> explain(GammaCrossEntropy(0.1), logits, target).backend in ("cpp", "torch")  # as it was installed
        True
    """
    check_loss("loss", loss, "a loss of equipoise")
    check_reduction(reduction)
    batch = read(loss, logits, target, weight, sample_weight, mask, ignore_index, reduction)
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
