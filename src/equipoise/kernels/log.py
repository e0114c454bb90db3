"""The logger "equipoise.kernels", which logs the backend of each loss at level DEBUG."""

import logging
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.compiler import is_compiling

LOG = logging.getLogger("equipoise.kernels")


def log_backend(
    what: str,
    loss: Any,
    tensor: Tensor,
    backend: str,
    why_torch: str = "",
    shape: Sequence[int] | None = None,
) -> None:
    """Log the backend of a loss, if the level is DEBUG and nothing is being compiled.

    The arguments are attributes of the record; `shape`, `dtype` and `device` replace `tensor`.

    Args:
        what: "loss", "loss.linear" or "gradient".
        loss: The loss.
        tensor: Logits or hidden states.
        backend: "cpp", "triton" or "torch".
        why_torch: Reason why the loss, or a part of it, is computed by torch; empty if it is not.
        shape: Replaces the shape of the tensor.
    """
    if is_compiling() or not LOG.isEnabledFor(logging.DEBUG):
        return
    said: dict[str, Any] = {
        "what": what,
        "loss": loss,
        "shape": tuple(tensor.shape if shape is None else shape),
        "dtype": tensor.dtype,
        "device": tensor.device,
        "backend": backend,
        "why_torch": why_torch,
    }
    text = "%(what)s of %(loss)r, %(shape)s %(dtype)s on %(device)s: %(backend)s"
    if why_torch:
        text += ": %(why_torch)s" if backend == "torch" else ", in part torch: %(why_torch)s"
    LOG.debug(text, said, extra=said)
