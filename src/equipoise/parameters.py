"""Paths of the parameters of a loss, for schedules and searches.

A path is the option's name, `"gamma"`; the loss and the option, `"Focal.gamma"`, if several terms of a sum
have that option; or the loss alone, `"Entropy"`, for the coefficient of a term. If a sum has a loss twice,
its terms are `"Entropy[0]"` and `"Entropy[1]"`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from equipoise.losses.base import Loss, Sum

Place = tuple[int, str | None]  # (term, field), or (term, None) for the coefficient of the term


def parameter_paths(loss: Loss) -> dict[str, Place]:
    """Map each parameter path ("Focal.gamma", "gamma") to (term, field); the shortest path comes last.

    Example:
        >>> from equipoise.losses import CrossEntropy
        >>> from equipoise.penalties import LogitRange
        >>> loss = CrossEntropy() + 0.5 * LogitRange(width=8)
        >>> list(parameter_paths(loss))[-3:]
        ['LogitRange.width', 'label_smoothing', 'width']
    """
    found: dict[str, Place] = {}
    kinds = [type(term).__name__ for _, term in loss.terms()]
    for index, (_, term) in enumerate(loss.terms()):
        kind = kinds[index]
        label = kind if kinds.count(kind) == 1 else f"{kind}[{kinds[:index].count(kind)}]"
        if isinstance(loss, Sum):
            found[label] = (index, None)
        for option in dataclasses.fields(term) if dataclasses.is_dataclass(term) else ():
            if isinstance(getattr(term, option.name), (int, float)):
                found[f"{label}.{option.name}"] = (index, option.name)
    options = [option for _, option in found.values()]
    short = {option: place for place in found.values() if (option := place[1]) and options.count(option) == 1}
    return found | short


def resolve(loss: Loss, path: str, name: str) -> Place:
    """Return the term and field of a path.

    Args:
        loss: The loss.
        path: The path.
        name: Name of the path in errors.

    Raises:
        ValueError: If the path matches no field or several.
    """
    known = parameter_paths(loss)
    if path in known:
        return known[path]
    meant = [full for full in known if full.endswith(f".{path}")]
    if meant:
        raise ValueError(f"{name} must be one of {', '.join(meant)}, which all end in {path!r}")
    listed = ", ".join(known) or "none: the loss has no numbers"
    raise ValueError(f"{name} must name an option of {loss!r}, one of {listed}")


def value_at(loss: Loss, place: Place) -> Any:
    """Return the value of a field, or the coefficient of a term."""
    index, option = place
    coefficient, term = loss.terms()[index]
    return coefficient if option is None else getattr(term, option)


def replace(loss: Loss, values: Mapping[Place, Any]) -> Loss:
    """Return the loss with new values of some fields and coefficients; each term is made and checked once."""
    parts = []
    for index, (coefficient, term) in enumerate(loss.terms()):
        options: Any = {option: value for (at, option), value in values.items() if at == index and option}
        changed: Any = dataclasses.replace(term, **options) if options else term  # pyright: ignore[reportArgumentType]
        parts.append((values.get((index, None), coefficient), changed))
    return Sum(tuple(parts)) if isinstance(loss, Sum) else parts[0][1]


__all__ = ["Place", "parameter_paths", "replace", "resolve", "value_at"]
