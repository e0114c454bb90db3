"""How strong to make a penalty."""

import torch
from torch import Tensor

from equipoise.losses.base import Loss, check_number
from equipoise.reduction import IGNORE_INDEX


def matched_weight(
    loss: Loss,
    penalty: Loss,
    logits: Tensor,
    target: Tensor | None = None,
    *,
    share: float = 1.0,
    weight: Tensor | None = None,
    ignore_index: int = IGNORE_INDEX,
) -> float:
    r"""Return the weight at which a penalty pulls as hard as a given share of the loss.

    The pull is the norm of the gradient with respect to the logits,

    .. math:: \text{share} \cdot \lVert \nabla_z \text{loss} \rVert \,/\, \lVert \nabla_z \text{penalty}
    \rVert,

    so the answer belongs to these logits: take them from the model at the stage of training the penalty is
    meant for.

    Args:
        loss: The loss.
        penalty: The penalty.
        logits: As in `Loss.__call__`; a representative batch.
        target: As in `Loss.__call__`.
        share: Above 0; how hard the penalty should pull, as a share of the loss.
        weight: Class weights, as in `Loss.__call__`.
        ignore_index: As in `Loss.__call__`.

    Returns:
        The factor for `loss + factor * penalty`.

    Raises:
        ValueError: If share is not positive, or one of the two does not pull at all on these logits.

    Example:
        >>> from equipoise.losses import CrossEntropy
        >>> from equipoise.penalties import Entropy
        >>> logits, target = torch.tensor([[2.0, 0.0, -1.0], [0.0, 3.0, 0.0]]), torch.tensor([0, 2])
        >>> factor = matched_weight(CrossEntropy(), Entropy(), logits, target, share=0.1)
        >>> round(factor, 4)
        0.279
        >>> objective = CrossEntropy() + factor * Entropy()
    """
    check_number("share", share, 0, hint="1 makes both pull alike", open_low=True)
    pulls = []
    for name, term in (("loss", loss), ("penalty", penalty)):
        leaf = logits.detach().clone().requires_grad_()
        value = term(leaf, target, weight=weight, ignore_index=ignore_index)
        pull = torch.autograd.grad(value, leaf)[0].double().norm().item()
        if not 0 < pull < float("inf"):
            raise ValueError(
                f"{name} must pull at these logits, got a gradient of norm {pull} from {term!r}; "
                "use a batch where it does"
            )
        pulls.append(pull)
    return share * pulls[0] / pulls[1]
