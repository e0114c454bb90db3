"""Addresses of the numbers in a loss, for whatever changes them: schedules, searches.

An address is the option's name, `"gamma"`; the loss and the option, `"Focal.gamma"`, where several terms of a
sum have that option; or the loss alone, `"Entropy"`, for the coefficient of a term. Where a sum has a loss
twice, its terms are `"Entropy[0]"` and `"Entropy[1]"`.
"""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

from equipoise.losses.base import Loss, Sum

Place = tuple[int, str | None]  # a term and its option; no option for its coefficient


def places(loss: Loss) -> dict[str, Place]:
    """Return every address of a loss with its place, the shortest of a place last.

    Example:
        >>> from equipoise.losses import CrossEntropy
        >>> from equipoise.penalties import LogitRange
        >>> loss = CrossEntropy() + 0.5 * LogitRange(width=8)
        >>> list(places(loss))[-3:]
        ['LogitRange.width', 'label_smoothing', 'width']
    """
    found: dict[str, Place] = {}
    kinds = [type(term).__name__ for _, term in loss.terms()]
    for index, (_, term) in enumerate(loss.terms()):
        kind = kinds[index]
        label = kind if kinds.count(kind) == 1 else f"{kind}[{kinds[:index].count(kind)}]"
        if isinstance(loss, Sum):
            found[label] = (index, None)
        for option in fields(term) if is_dataclass(term) else ():
            if isinstance(getattr(term, option.name), (int, float)):
                found[f"{label}.{option.name}"] = (index, option.name)
    options = [option for _, option in found.values()]
    short = {option: place for place in found.values() if (option := place[1]) and options.count(option) == 1}
    return found | short


def find(loss: Loss, address: str, name: str) -> Place:
    """Return the place of an address.

    Args:
        loss: The loss.
        address: The address.
        name: What to call the address in an error.

    Raises:
        ValueError: If it fits nothing or several things.
    """
    known = places(loss)
    if address in known:
        return known[address]
    meant = [full for full in known if full.endswith(f".{address}")]
    if meant:
        raise ValueError(f"{name} must say which of {', '.join(meant)} it means")
    listed = ", ".join(known) or "none, it has no numbers"
    raise ValueError(f"{name} must name a value of {loss!r}, one of {listed}")


def get(loss: Loss, place: Place) -> Any:
    """Return the value in a place."""
    index, option = place
    coefficient, term = loss.terms()[index]
    return coefficient if option is None else getattr(term, option)


def put(loss: Loss, values: Mapping[Place, Any]) -> Loss:
    """Return the loss with other values in some places, all changed at once."""
    parts = []
    for index, (coefficient, term) in enumerate(loss.terms()):
        options = {option: value for (at, option), value in values.items() if at == index and option}
        changed: Any = replace(term, **options) if options else term  # pyright: ignore[reportArgumentType]
        parts.append((values.get((index, None), coefficient), changed))
    return Sum(tuple(parts)) if isinstance(loss, Sum) else parts[0][1]


__all__ = ["Place", "find", "get", "places", "put"]
