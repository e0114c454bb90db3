r"""Choosing gamma, and what a gamma means: a floor under the softmax, or a rate of label noise.

Three descriptions of one thing, for n classes. Cross entropy of probabilities with a floor f is gamma cross
entropy, scaled and shifted; and it is cross entropy corrected for symmetric label noise, where a label is
replaced with chance rho by one of the n - 1
others:

.. math:: f = \frac{\gamma}{1 + (n - 1)\gamma}, \qquad \gamma = \frac{f}{1 - (n - 1) f}, \qquad \rho = (n - 1)
f.
"""

from dataclasses import dataclass
from math import sqrt
from typing import final

import torch
from torch import Tensor

from equipoise import naming
from equipoise.losses.options import check_number
from equipoise.losses.robust import GAMMA_HINT


def floor_from_gamma(gamma: float, num_classes: int) -> float:
    """Return the floor under the softmax that gamma amounts to: gamma / (1 + (n - 1) gamma).

    Args:
        gamma: In [0, 1].
        num_classes: n, at least 2.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> floor_from_gamma(0.1, num_classes=10)
        0.0526...
    """
    _check(gamma, num_classes)
    return min(gamma / (1 + (num_classes - 1) * gamma), 1 / num_classes)


def gamma_from_floor(floor: float, num_classes: int) -> float:
    """Return the gamma that amounts to a floor under the softmax: f / (1 - (n - 1) f).

    Args:
        floor: In [0, 1/n].
        num_classes: n, at least 2.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> gamma_from_floor(0.05, num_classes=10)
        0.0909...
    """
    _check(0.0, num_classes)
    check_number("floor", floor, 0, 1 / num_classes, f"the largest floor of {num_classes} classes")
    return min(floor / (1 - (num_classes - 1) * floor), 1.0)


def noise_from_gamma(gamma: float, num_classes: int) -> float:
    """Return the rate of symmetric label noise that gamma corrects for: (n - 1) gamma / (1 + (n - 1) gamma).

    Args:
        gamma: In [0, 1].
        num_classes: n, at least 2.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> noise_from_gamma(0.1, num_classes=10)
        0.4736...
    """
    return noise_from_floor(floor_from_gamma(gamma, num_classes), num_classes)


def gamma_from_noise(noise: float, num_classes: int) -> float:
    """Return the gamma that corrects for a rate of symmetric label noise: rho / ((n - 1) (1 - rho)).

    Args:
        noise: rho in [0, (n - 1)/n]; the chance that a label is replaced by one of the others.
        num_classes: n, at least 2.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> gamma_from_noise(0.4, num_classes=10)
        0.0740...
    """
    return gamma_from_floor(floor_from_noise(noise, num_classes), num_classes)


def floor_from_noise(noise: float, num_classes: int) -> float:
    """Return the floor under the softmax that amounts to a rate of symmetric label noise: rho / (n - 1).

    Args:
        noise: rho in [0, (n - 1)/n].
        num_classes: n, at least 2.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> floor_from_noise(0.45, num_classes=10)
        0.05
    """
    _check(0.0, num_classes)
    most = (num_classes - 1) / num_classes
    check_number("noise", noise, 0, most, f"with {num_classes} classes a label says nothing at {most:.6g}")
    return min(noise / (num_classes - 1), 1 / num_classes)


def noise_from_floor(floor: float, num_classes: int) -> float:
    """Return the rate of symmetric label noise that a floor under the softmax amounts to: (n - 1) f.

    Args:
        floor: In [0, 1/n].
        num_classes: n, at least 2.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> noise_from_floor(0.05, num_classes=10)
        0.45
    """
    gamma_from_floor(floor, num_classes)  # checks both
    return min((num_classes - 1) * floor, (num_classes - 1) / num_classes)


def steepest_prob(gamma: float) -> float:
    r"""Return the target probability at which gamma cross entropy pulls hardest at the target's logit.

    The pull is :math:`p (1 - p) / (\gamma + (1 - \gamma) p)`, largest at :math:`\sqrt\gamma / (1 +
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


def read_out(logits: Tensor, gamma: float, *, dim: int = -1) -> Tensor:
    r"""Return the floored probabilities of a model trained with gamma cross entropy.

    .. math:: \frac{\gamma + (1 - \gamma)\,p_k}{1 + (n - 1)\gamma}

    These, not softmax(z), estimate how the labels that were trained on are distributed; under symmetric label
    noise softmax(z) itself estimates the clean labels. Masked classes keep probability 0 and do not count in
    n.

    Args:
        logits: Floating; minus infinity masks a class. Half precision is computed in float32.
        gamma: In [0, 1]; the one in force at the end of training.
        dim: The class dimension.

    Returns:
        Probabilities of the shape of the logits.

    Raises:
        ValueError: If gamma is outside [0, 1].

    Example:
        >>> read_out(torch.tensor([9.0, 0.0, 0.0]), gamma=0.1)
        tensor([0.8331, 0.0834, 0.0834])
    """
    return log_read_out(logits, gamma, dim=dim).exp()


def log_read_out(logits: Tensor, gamma: float, *, dim: int = -1) -> Tensor:
    """Return the logarithm of `read_out`, computed in log space.

    Args:
        logits: Floating; minus infinity masks a class. Half precision is computed in float32.
        gamma: In [0, 1].
        dim: The class dimension.

    Returns:
        Log-probabilities of the shape of the logits; minus infinity for masked classes.

    Raises:
        ValueError: If gamma is outside [0, 1].

    Example:
        >>> log_read_out(torch.tensor([0.0, 200.0]), gamma=0.01)
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
    """A gamma with its reason.

    Args:
        gamma: The value to start from.
        reason: Why this one.
        steepest: Target probability at which the loss then pulls hardest at the target's logit.
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
MOST_MEASURED = 100  # classes up to which it was tried


def suggest_gamma(
    *, noise: float | None = None, num_classes: int | None = None, task: str | None = None
) -> Suggestion:
    """Suggest a gamma to start from, with its reason.

    Say one of: the rate of symmetric label noise and the number of classes; the number of classes alone, for
    a model trained from scratch; a task with a published value.

    With label noise and up to 100 classes this is 0.5, which is more than `gamma_from_noise` says: that value
    corrects for the rate, but a network that sees its rows many times learns wrong labels by heart unless
    they count for less. On digits with 20 to 60 % wrong labels every gamma from 0.25 to 0.9 was about as
    good; at 40 % a gamma of 0.1, near the value from the rate, had a quarter of the gain. With 100 classes
    every gamma from 0.05 to 0.9 was as good, and the value from the rate had two thirds. For more classes,
    measured in language models alone, it is the value from the rate.

    Args:
        noise: Chance that a label is replaced by one of the others, in [0, (n - 1)/n].
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
            raise ValueError("task must stand alone, got noise or num_classes with it; drop one or the other")
        if task not in _PUBLISHED:
            raise ValueError(f"task must be one of {', '.join(map(repr, _PUBLISHED))}, got {task!r}")
        gamma, reason = _PUBLISHED[task]
    elif num_classes is None:
        raise ValueError("num_classes must be given unless task is, got None; gamma means little without it")
    elif noise is not None:
        corrects = gamma_from_noise(noise, num_classes)
        keeps = noise > 0 and num_classes <= MOST_MEASURED
        gamma = max(corrects, AGAINST_MEMORISING) if keeps else corrects
        reason = f"{corrects:.2g} corrects for symmetric label noise of {noise:g} among {num_classes} classes"
        if gamma > corrects:
            reason += f"; {gamma:g} keeps a network from learning wrong labels by heart, as 0.25 to 0.9 do"
    else:
        _check(0.0, num_classes)
        gamma = 1 / num_classes
        reason = (
            f"from scratch a row of {num_classes} equally likely classes counts 1 / (1 + {num_classes - 1} "
            "gamma): about half here, less with more gamma"
        )
    return Suggestion(gamma, reason, steepest_prob(gamma))


# The minima above keep what is at the end of one range, but for rounding, at the end of the other.


def _check(gamma: float, num_classes: int) -> None:
    check_number("gamma", gamma, 0, 1, GAMMA_HINT)
    if not isinstance(num_classes, int) or num_classes < 2:
        raise ValueError(f"num_classes must be an integer of at least 2, got {num_classes}")


__all__ = [
    "Suggestion",
    "floor_from_gamma",
    "floor_from_noise",
    "gamma_from_floor",
    "gamma_from_noise",
    "log_read_out",
    "noise_from_floor",
    "noise_from_gamma",
    "read_out",
    "steepest_prob",
    "suggest_gamma",
]

naming.answer_names(__name__)
