"""`matched_weight`: the coefficient of a penalty, from the norms of gradients."""

import torch
from torch import Tensor

from equipoise._batch import IGNORE_INDEX
from equipoise._checks import check_number
from equipoise.losses.base import Loss, check_loss


def matched_weight(
    loss: Loss | Tensor,
    penalty: Loss,
    logits: Tensor,
    target: Tensor | None = None,
    *,
    share: float = 1.0,
    weight: Tensor | None = None,
    ignore_index: int = IGNORE_INDEX,
) -> float:
    r"""Return the coefficient that makes a penalty's gradient a given share of the loss's, in norm.

    The norms are those of the gradients by the logits z,

    .. math:: \text{share} \cdot \lVert \nabla_z \text{loss} \rVert \,/\, \lVert \nabla_z \text{penalty}
    \rVert,

    so the coefficient depends on the logits: take those of a model at the stage of training at which the
    penalty is added.

    The logits of a gate have no target: pass the value of the whole model's loss, and the gate's logits from
    which the model computed it.

    Args:
        loss: The loss of the logits; or a scalar tensor computed from them, whose graph is kept for
            `backward`.
        penalty: The penalty.
        logits: As in `Loss.__call__`; a representative batch.
        target: As in `Loss.__call__`.
        share: Above 0; the norm of the penalty's gradient over that of the loss's.
        weight: Class weights, as in `Loss.__call__`.
        ignore_index: As in `Loss.__call__`.

    Returns:
        The factor for `loss + factor * penalty`.

    Raises:
        TypeError: If loss is neither a loss nor a tensor, or penalty not a loss.
        ValueError: If share is not positive, one of the gradients is 0, or the value is not a scalar computed
            from the logits.

    Example:
        >>> from equipoise.losses import CrossEntropy
        >>> from equipoise.penalties import Entropy
        >>> logits, target = torch.tensor([[2.0, 0.0, -1.0], [0.0, 3.0, 0.0]]), torch.tensor([0, 2])
        >>> factor = matched_weight(CrossEntropy(), Entropy(), logits, target, share=0.1)
        >>> round(factor, 4)
        0.279
        >>> objective = CrossEntropy() + factor * Entropy()

        With a gate whose sections each return a number:

        >>> gate, sections = torch.randn(8, 4, requires_grad=True), torch.randn(8, 4)
        >>> value = ((gate.softmax(1) * sections).sum(1) ** 2).mean()
        >>> (value + matched_weight(value, Entropy(), gate, share=0.1) * Entropy()(gate)).backward()
    """
    check_number("share", share, 0, hint="1 makes both gradients equal in norm", open_low=True)
    pulls = []
    for name, term in (("loss", loss), ("penalty", penalty)):
        if isinstance(term, Tensor) and name == "loss":
            gradient = _gradient(term, logits)
        else:
            leaf, of = logits.detach().clone().requires_grad_(), check_loss(name, term, "a loss of equipoise")
            gradient = _gradient(of(leaf, target, weight=weight, ignore_index=ignore_index), leaf)
        pull = gradient.double().norm().item()
        if not 0 < pull < float("inf"):
            raise ValueError(
                f"{name} must have a gradient at these logits, got one of norm {pull} from {term!r}; use a "
                "batch with a gradient"
            )
        pulls.append(pull)
    return share * pulls[0] / pulls[1]


def _gradient(value: Tensor, logits: Tensor) -> Tensor:
    """Return the gradient of a value by the logits; the graph is kept."""
    if value.ndim > 0:
        raise ValueError(f"loss must be one number, got a value of shape {tuple(value.shape)}; take its mean")
    found: Tensor | None = None
    if value.requires_grad and logits.requires_grad:
        (found,) = torch.autograd.grad(value, logits, retain_graph=True, allow_unused=True)
    if found is None:
        raise ValueError(
            "loss must be computed from the logits, got a value whose gradient does not reach them; pass "
            "the tensor of logits from which loss was computed"
        )
    return found
