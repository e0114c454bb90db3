"""Choosing gamma; gamma as a floor of the probabilities, and as a rate of symmetric label noise.

The cross entropy of floored probabilities is gamma cross entropy, scaled and shifted. It is also cross
entropy corrected for symmetric label noise, which replaces a label with probability rho by one of the n - 1
others. `convert` computes gamma, floor and rate from each other.
"""

from dataclasses import dataclass
from math import sqrt
from typing import NamedTuple, final

import torch
from torch import Tensor

from equipoise import naming
from equipoise._checks import check_number
from equipoise.losses.robust import GAMMA_HINT


class Equivalent(NamedTuple):
    """Three parameters of the same loss.

    Args:
        gamma: gamma of `GammaCrossEntropy`, in [0, 1].
        floor: floor of `FlooredCrossEntropy`, in [0, 1/n].
        noise: The rate of symmetric label noise that the loss corrects for, in [0, (n - 1)/n].
    """

    gamma: float
    floor: float
    noise: float


def convert(
    num_classes: int, *, gamma: float | None = None, floor: float | None = None, noise: float | None = None
) -> Equivalent:
    r"""Return gamma, the floor and the rate of symmetric label noise that give the same loss.

    .. math:: f = \frac{\gamma}{1 + (n - 1)\gamma}, \qquad \gamma = \frac{f}{1 - (n - 1) f}, \qquad
       \rho = (n - 1) f

    Args:
        num_classes: n, at least 2.
        gamma: In [0, 1].
        floor: f in [0, 1/n].
        noise: rho in [0, (n - 1)/n]; the probability that a label is replaced by one of the others.

    Raises:
        TypeError: Unless exactly one of the three is given.
        ValueError: If an argument is outside its range.

    Example:
        >>> convert(10, gamma=0.1)
        Equivalent(gamma=0.1, floor=0.0526..., noise=0.4736...)
        >>> convert(10, noise=0.4).gamma
        0.0740...
    """
    given = [
        name for name, value in (("gamma", gamma), ("floor", floor), ("noise", noise)) if value is not None
    ]
    if len(given) != 1:
        raise TypeError(
            f"one of gamma, floor and noise must be given, got {' and '.join(given) or 'none'}; "
            "the other two follow from it"
        )
    _check_num_classes(num_classes)
    others, most = num_classes - 1, 1 / num_classes  # `min` below: rounding may exceed the end of the range
    if gamma is not None:
        check_number("gamma", gamma, 0, 1, GAMMA_HINT)
        floor = min(gamma / (1 + others * gamma), most)
    elif noise is not None:
        largest = others / num_classes
        hint = f"with {num_classes} classes a label says nothing at {largest:.6g}"
        check_number("noise", noise, 0, largest, hint)
        floor = min(noise / others, most)
    else:
        assert floor is not None
        check_number("floor", floor, 0, most, f"the largest floor of {num_classes} classes")
    return Equivalent(
        min(floor / (1 - others * floor), 1.0) if gamma is None else gamma,
        floor,
        min(others * floor, others / num_classes) if noise is None else noise,
    )


def steepest_prob(gamma: float) -> float:
    r"""Return the target probability at which gamma cross entropy is steepest in the target's logit.

    Its size is :math:`p (1 - p) / (\gamma + (1 - \gamma) p)`, which is largest at :math:`\sqrt\gamma / (1 +
    \sqrt\gamma)`.

    Args:
        gamma: In [0, 1].

    Raises:
        ValueError: If gamma is outside [0, 1].

    Example:
        >>> steepest_prob(0.1)
        0.2402...
    """
    check_number("gamma", gamma, 0, 1, GAMMA_HINT)
    return sqrt(gamma) / (1 + sqrt(gamma))


def floored_probs(logits: Tensor, gamma: float, *, dim: int = -1) -> Tensor:
    r"""Return the floored probabilities of a model trained with gamma cross entropy.

    .. math:: \frac{\gamma + (1 - \gamma)\,p_k}{1 + (n - 1)\gamma}

    They estimate the distribution of the training labels; under symmetric label noise, softmax(z) estimates
    that of the clean labels. Masked classes have probability 0, and n does not count them.

    Args:
        logits: Floating; minus infinity masks a class. Half precision is computed in float32.
        gamma: In [0, 1]; its value at the end of training.
        dim: The class dimension.

    Returns:
        Probabilities of the shape of the logits.

    Raises:
        ValueError: If gamma is outside [0, 1].

    Example:
        >>> floored_probs(torch.tensor([9.0, 0.0, 0.0]), gamma=0.1)
        tensor([0.8331, 0.0834, 0.0834])
    """
    return floored_log_probs(logits, gamma, dim=dim).exp()


def floored_log_probs(logits: Tensor, gamma: float, *, dim: int = -1) -> Tensor:
    """Return the logarithm of `floored_probs`, computed in log space.

    Args:
        logits: Floating; minus infinity masks a class. Half precision is computed in float32.
        gamma: In [0, 1].
        dim: The class dimension.

    Returns:
        Log-probabilities of the shape of the logits; minus infinity for masked classes.

    Raises:
        ValueError: If gamma is outside [0, 1].

    Example:
        >>> floored_log_probs(torch.tensor([0.0, 200.0]), gamma=0.01)
        tensor([-4.6151, -0.0100])
    """
    check_number("gamma", gamma, 0, 1, GAMMA_HINT)
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    masked = logits == -torch.inf
    count = (~masked).sum(dim, keepdim=True).to(logits.dtype)
    level = logits.new_tensor(gamma)
    lifted = torch.logaddexp(
        level.log(), torch.log1p(-level) + logits.log_softmax(dim).masked_fill(masked, 0.0)
    )
    answer = (lifted - torch.log1p((count - 1) * level)).masked_fill(masked, -torch.inf)
    return answer.masked_fill(count == 0, torch.nan)


@final
@dataclass(frozen=True)
class Suggestion:
    """A value of gamma with the reason for it.

    Args:
        gamma: The value to start from.
        reason: The reason, in words.
        steepest: Target probability at which the gradient by the target's logit is largest: `steepest_prob`.
    """

    gamma: float
    reason: str
    steepest: float


_PUBLISHED = {
    "language modelling": (1e-7, "training a language model from scratch, as published"),
    "translation": (0.1, "training translation from scratch, as published"),
    "summarisation": (0.8, "fine-tuning a pretrained model for summarisation, as published"),
}


AGAINST_MEMORISING = 0.5
MOST_MEASURED = 100  # largest number of classes in the experiments


def suggest_gamma(
    *, noise: float | None = None, num_classes: int | None = None, task: str | None = None
) -> Suggestion:
    """Suggest a gamma to start from, with the reason.

    Give one of: the rate of symmetric label noise and the number of classes; the number of classes alone, for
    a model trained from scratch; a task with a published value.

    With label noise and up to 100 classes the suggestion is 0.5. This is more than `convert` returns: that
    gamma corrects for the rate, but a network trained for many epochs memorises wrong labels unless their
    weight is smaller. On digits with 20 to 60 % wrong labels all gammas from 0.25 to 0.9 were about equally
    good; at 40 %, gamma = 0.1, near the value of `convert`, had a quarter of the gain. With 100 classes all
    gammas from 0.05 to 0.9 were equally good, and the value of `convert` had two thirds of the gain. For more
    classes, where only language models were measured, the suggestion is the value of `convert`.

    Args:
        noise: Probability that a label is replaced by one of the others, in [0, (n - 1)/n].
        num_classes: n, at least 2.
        task: "language modelling", "translation" or "summarisation".

    Raises:
        ValueError: If the arguments are not one of the three combinations, or outside their range.

    Example:
        >>> suggest_gamma(num_classes=1000).gamma
        0.001
        >>> suggest_gamma(noise=0.4, num_classes=10).gamma
        0.5
        >>> print(suggest_gamma(task="translation").reason)
        training translation from scratch, as published

    Source:
        Published values: Ji et al., ICLR 2023, arXiv:2302.13344, as set in the scripts of thu-coai/TaiLr,
        where each is used with a min_weight of 0.2 or 0.3.
    """
    if task is not None:
        if noise is not None or num_classes is not None:
            raise ValueError(
                "task must be given without noise and num_classes, got them together; leave out one or the "
                "other"
            )
        if task not in _PUBLISHED:
            raise ValueError(f"task must be one of {', '.join(map(repr, _PUBLISHED))}, got {task!r}")
        gamma, reason = _PUBLISHED[task]
    elif num_classes is None:
        raise ValueError(
            "num_classes must be given unless task is, got None; the effect of gamma depends on the number "
            "of classes"
        )
    elif noise is not None:
        corrects = convert(num_classes, noise=noise).gamma
        keeps = noise > 0 and num_classes <= MOST_MEASURED
        gamma = max(corrects, AGAINST_MEMORISING) if keeps else corrects
        reason = f"{corrects:.2g} corrects for symmetric label noise of {noise:g} among {num_classes} classes"
        if gamma > corrects:
            reason += f"; {gamma:g} keeps a network from learning wrong labels by heart, as 0.25 to 0.9 do"
    else:
        _check_num_classes(num_classes)
        gamma = 1 / num_classes
        reason = (
            f"from scratch a row of {num_classes} equally likely classes counts 1 / (1 + {num_classes - 1} "
            "gamma): about half here, less with more gamma"
        )
    return Suggestion(gamma, reason, steepest_prob(gamma))


def _check_num_classes(num_classes: int) -> None:
    if not isinstance(num_classes, int) or num_classes < 2:
        raise ValueError(f"num_classes must be an integer of at least 2, got {num_classes}")


__all__ = [
    "Equivalent",
    "Suggestion",
    "convert",
    "floored_log_probs",
    "floored_probs",
    "steepest_prob",
    "suggest_gamma",
]

naming.answer_names(__name__)
