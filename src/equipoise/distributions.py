"""`MapCategorical`, a categorical distribution with the probabilities of a map."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributions
from torch.distributions.kl import register_kl

from equipoise import naming
from equipoise.maps import GumbelSoftmax, Map, StraightThrough
from equipoise.maps.base import mask_logits


class MapCategorical(distributions.Categorical):
    """A `torch.distributions.Categorical` whose probabilities are those of a map of the logits.

    `sample`, `log_prob`, `entropy` and the Kullback-Leibler divergence all use the map's probabilities. A
    policy that samples from floored probabilities, but computes `log_prob` from the softmax of the logits,
    has a biased gradient.

    Args:
        map: The map, such as `Floored(0.01)`. `GumbelSoftmax` and `StraightThrough` raise: they have no
            probabilities to sample from.
        logits: The scores; minus infinity masks an action.
        mask: Bool, True where an action is allowed, of shape (C,) or that of the logits; None allows all.
            See `Map` for what else is masked.
        validate_args: As in torch. If False, a row with no allowed action, a nan or plus infinity has
            probabilities of nan.

    Attributes:
        map: The map.
        raw_logits: The argument `logits`, before the mask. `logits` are the log-probabilities, as in torch.

    Shapes:
        logits (..., C); samples and their log-probabilities sample_shape + (...).

    Raises:
        TypeError: If map is not a map, or the mask is not a bool tensor.
        ValueError: If the map is random or one-hot, or does not fit the number of classes, if the mask has
            another shape, or, with validate_args, if a row has no allowed action or is not finite.

    Numerics:
        `probs` are computed by the map and not renormalised, so none is below the map's floor. In the
        entropy, 0 log 0 = 0.

    Example:
        >>> from equipoise.maps import Floored
        >>> policy = MapCategorical(Floored(floor=0.1), logits=torch.tensor([50.0, 0.0, 0.0]))
        >>> policy.probs
        tensor([0.8000, 0.1000, 0.1000])
        >>> policy.log_prob(torch.tensor(2))
        tensor(-2.3026)
    """

    probs: Tensor

    def __init__(
        self, map: Map, *, logits: Tensor, mask: Tensor | None = None, validate_args: bool | None = None
    ) -> None:
        if not isinstance(map, Map):
            raise TypeError(
                f"map must be a Map of equipoise.maps, got {map!r}; for example maps.Floored(0.01)"
            )
        if isinstance(map, (GumbelSoftmax, StraightThrough)):
            raise ValueError(
                f"map must have probabilities to sample from, got {map!r}; use Softmax and sample()"
            )
        self.map = map
        self.raw_logits = logits
        log_probs = map.log_probs(logits, mask=mask)
        if self._validate_args if validate_args is None else validate_args:
            masked = (mask_logits(logits, mask) == -torch.inf).all(-1)
            if masked.any():
                raise ValueError(
                    f"each row must have an allowed action, got every action masked{_first(masked)}; "
                    "end the episode there, or allow an action that does nothing"
                )
        super().__init__(logits=log_probs, validate_args=validate_args)
        self.probs = map.probs(logits, mask=mask)  # pyright: ignore[reportIncompatibleVariableOverride]

    @property
    def mode(self) -> Tensor:
        """The likeliest action; raises ValueError if the probabilities of a row are nan."""
        self._require_probs()
        return self.probs.argmax(-1)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Return actions drawn by the probabilities; raises ValueError if those of a row are nan."""
        self._require_probs()
        return super().sample(torch.Size(sample_shape))

    def _require_probs(self) -> None:
        if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
            return  # values cannot be read
        broken = self.probs.isnan().any(-1)
        if broken.any():
            raise ValueError(
                f"probs must be finite to choose an action, got nan{_first(broken)}; "
                "either every action is masked there, or a logit is nan or infinite"
            )

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "MapCategorical":  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the distribution with another batch shape, as `torch.distributions` does."""
        new: Any = self._get_checked_instance(MapCategorical, _instance)
        super().expand(torch.Size(batch_shape), _instance=new)
        new.map = self.map
        new.raw_logits = self.raw_logits.expand(*batch_shape, self.raw_logits.shape[-1])
        return new


def _first(rows: Tensor) -> str:
    """Return the index of the first True, as text for an error."""
    where = rows.nonzero()[0].tolist()
    return f" in row {where[0] if len(where) == 1 else tuple(where)}" if where else ""


@register_kl(MapCategorical, MapCategorical)
@register_kl(MapCategorical, distributions.Categorical)
@register_kl(distributions.Categorical, MapCategorical)
def _divergence(one: distributions.Categorical, two: distributions.Categorical) -> Tensor:
    """Return the Kullback-Leibler divergence, infinite where p > 0 for a class with q = 0.

    torch's function subtracts minus infinity from minus infinity for a masked class, so its gradient is nan.
    """
    present = one.probs > 0
    missing = present & (two.probs == 0)
    ours = one.logits.masked_fill(~present, 0.0)
    theirs = two.logits.masked_fill(~present | missing, 0.0)
    return (one.probs * (ours - theirs)).masked_fill(missing, torch.inf).sum(-1)


__all__ = ["MapCategorical"]

naming.answer_names(__name__)
