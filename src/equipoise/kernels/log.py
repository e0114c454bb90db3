"""The log of which code computed a loss: the logger "equipoise.kernels", at level DEBUG."""

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
    """Log by what a loss is computed, where the level is DEBUG and nothing is being compiled.

    All arguments are attributes of the record, `tensor` as its `shape`, `dtype` and `device`.

    Args:
        what: "loss", "loss.linear" or "gradient".
        loss: The loss.
        tensor: Logits or hidden states.
        backend: "cpp", "triton" or "torch".
        why_torch: Why the loss, or a part of it, is computed in plain torch; empty if it is not.
        shape: Instead of that of the tensor.
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
