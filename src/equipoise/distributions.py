"""A categorical distribution over any map."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributions
from torch.distributions.kl import register_kl

from equipoise.maps import GumbelSoftmax, Map, StraightThrough


class Categorical(distributions.Categorical):
    """A `torch.distributions.Categorical` whose probabilities are those of a map of the logits.

    A policy acts by it and is scored by it: `log_prob`, `entropy`, `sample` and the Kullback-Leibler
    divergence all belong to the map's probabilities. Acting by a floor but scoring by the softmax of the
    logits gives a biased gradient.

    Args:
        logits: The scores; minus infinity masks a class.
        map: Such as `Floored(0.01)`. Not one that draws at random or chooses: it has no probabilities to
            sample by.
        validate_args: As in torch.

    Attributes:
        map: The map.
        raw_logits: The scores that were given. `logits` are the log-probabilities, as in torch.

    Shapes:
        logits (..., C); samples and their log-probabilities sample_shape + (...).

    Raises:
        TypeError: If map is not a map.
        ValueError: If the map draws or chooses, or does not fit the number of classes.

    Numerics:
        `probs` are the map's own, so a floor is kept as the map keeps it. The entropy counts 0 log 0 as 0.

    Example:
        >>> from equipoise.maps import Floored
        >>> policy = Categorical(torch.tensor([50.0, 0.0, 0.0]), Floored(floor=0.1))
        >>> policy.probs
        tensor([0.8000, 0.1000, 0.1000])
        >>> policy.log_prob(torch.tensor(2))
        tensor(-2.3026)
    """

    def __init__(self, logits: Tensor, map: Map, validate_args: bool | None = None) -> None:
        if not isinstance(map, Map):
            raise TypeError(f"map must be a map, got {map!r}; for example maps.Floored(0.01)")
        if isinstance(map, (GumbelSoftmax, StraightThrough)):
            raise ValueError(
                f"map must give probabilities to sample by, got {map!r}; use Softmax and sample()"
            )
        self.map = map
        self.raw_logits = logits
        super().__init__(logits=map.log_probs(logits), validate_args=validate_args)
        self.probs = map.probs(logits)  # pyright: ignore[reportAttributeAccessIssue]

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "Categorical":  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the distribution with another batch shape, as `torch.distributions` does."""
        new: Any = self._get_checked_instance(Categorical, _instance)
        super().expand(torch.Size(batch_shape), _instance=new)
        new.map = self.map
        new.raw_logits = self.raw_logits.expand(*batch_shape, self.raw_logits.shape[-1])
        return new


@register_kl(Categorical, Categorical)
@register_kl(Categorical, distributions.Categorical)
@register_kl(distributions.Categorical, Categorical)
def _divergence(one: distributions.Categorical, two: distributions.Categorical) -> Tensor:
    """Return the divergence of two categoricals, infinite where the second has none of what the first has.

    torch's own takes minus infinity from minus infinity for a masked class, and its gradient is nan.
    """
    present = one.probs > 0
    missing = present & (two.probs == 0)
    ours = one.logits.masked_fill(~present, 0.0)
    theirs = two.logits.masked_fill(~present | missing, 0.0)
    return (one.probs * (ours - theirs)).masked_fill(missing, torch.inf).sum(-1)


__all__ = ["Categorical"]
