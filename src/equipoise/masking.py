"""The `mask` argument of losses, maps and distributions."""

import torch
from torch import Tensor


def apply_mask(logits: Tensor, mask: Tensor | None, dim: int) -> Tensor:
    """Return the logits with minus infinity for every class that the mask does not allow.

    Args:
        logits: Floating, any shape.
        mask: Bool, True where a class is allowed, of shape (C,) or that of the logits; None allows all.
        dim: The class dimension.

    Raises:
        TypeError: If the mask is not a bool tensor.
        ValueError: If it has another shape; nothing else is broadcast.
    """
    if mask is None:
        return logits
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(
            f"mask must be a bool tensor, True where a class is allowed, got {kind}; "
            "use torch.as_tensor(mask, dtype=torch.bool)"
        )
    classes = logits.shape[dim]
    if mask.shape == (classes,) and logits.ndim > 1:
        mask = mask.reshape([classes if axis == dim % logits.ndim else 1 for axis in range(logits.ndim)])
    elif mask.shape != logits.shape:
        raise ValueError(
            f"mask must be ({classes},), one for every class, or of the shape of the logits, "
            f"{tuple(logits.shape)}, got {tuple(mask.shape)}; expand it first"
        )
    return logits.masked_fill(~mask.to(logits.device), -torch.inf)
