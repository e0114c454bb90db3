"""The textbook definition of every map on exact probabilities, and the settings to test."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from equipoise.maps import (
    Clipped,
    ClippedLogits,
    Entmax,
    Floored,
    GumbelSoftmax,
    LogitNorm,
    Map,
    MapEntry,
    Projected,
    Resoftmax,
    SoftCapped,
    Softmax,
    Sparsemax,
    StraightThrough,
)
from support.definitions import Exact


@dataclass(frozen=True)
class MapDefinition:
    """The settings of a map to test, for up to eight classes, and its formula; None if it is random."""

    settings: tuple[Map, ...]
    value: Callable[[Any, Exact], list[Any]] | None


def _normalised(values: list[Any], e: Exact) -> list[Any]:
    total = e.mp.fsum(values)
    return [value / total for value in values]


def _one_hot(e: Exact) -> list[Any]:
    best = max(range(len(e.z)), key=lambda k: e.z[k])
    return [e.mp.mpf(k == best) for k in range(len(e.z))]


def _entmax_definition(alpha: Any, e: Exact) -> list[Any]:
    """Solve for the threshold by bisection, in exact arithmetic."""
    scaled = [(alpha - 1) * z for z in e.z]
    low, high = max(scaled) - 1, max(scaled)
    for _ in range(400):
        middle = (low + high) / 2
        values = [max(e.mp.mpf(0), s - middle) ** (1 / (alpha - 1)) for s in scaled]
        low, high = (middle, high) if e.mp.fsum(values) > 1 else (low, middle)
    return [max(e.mp.mpf(0), s - low) ** (1 / (alpha - 1)) for s in scaled]


def _projected(m: Any, e: Exact) -> list[Any]:
    """Fix the classes that fall below the floor, one after another, and share the rest."""
    free = list(range(len(e.p)))
    while True:
        room = 1 - (len(e.p) - len(free)) * m.floor
        total = e.mp.fsum(e.p[k] for k in free)
        if m.metric == "kl":
            values = {k: room * e.p[k] / total for k in free}
        else:
            values = {k: e.p[k] - (total - room) / len(free) for k in free}
        low = [k for k in free if values[k] < m.floor]
        if not low or len(free) == 1:
            return [values.get(k, m.floor) for k in range(len(e.p))]
        free.remove(min(low, key=lambda k: values[k]))


def _clipped(m: Any, e: Exact) -> list[Any]:
    values = [max(p, m.floor) for p in e.p]
    return [value / e.mp.fsum(values) for value in values]


def _softmax(values: list[Any], e: Exact) -> list[Any]:
    terms = [e.mp.exp(value) for value in values]
    return [term / e.mp.fsum(terms) for term in terms]


DEFINITIONS = {
    Softmax: MapDefinition(
        (Softmax(), Softmax(temperature=0.25)),
        lambda m, e: _normalised([e.mp.exp(z / m.temperature) for z in e.z], e),
    ),
    Resoftmax: MapDefinition(
        (Resoftmax(alpha=20.0),), lambda m, e: _normalised([e.mp.exp(m.alpha * p) for p in e.p], e)
    ),
    StraightThrough: MapDefinition((StraightThrough(Softmax()),), lambda m, e: _one_hot(e)),
    GumbelSoftmax: MapDefinition((GumbelSoftmax(temperature=0.7),), None),
    Sparsemax: MapDefinition((Sparsemax(),), lambda m, e: _entmax_definition(e.mp.mpf(2), e)),
    Entmax: MapDefinition((Entmax(alpha=1.5),), lambda m, e: _entmax_definition(m.alpha, e)),
    Floored: MapDefinition(
        (Floored(floor=0.01), Floored(floor=0.0), Floored(floor=0.125)),
        lambda m, e: [m.floor + (1 - len(e.p) * m.floor) * p for p in e.p],
    ),
    Clipped: MapDefinition((Clipped(floor=0.01), Clipped(floor=0.125)), _clipped),
    Projected: MapDefinition(
        (
            Projected(floor=0.01),
            Projected(floor=0.1),
            Projected(floor=0.125),
            Projected(floor=0.01, metric="euclidean"),
            Projected(floor=0.1, metric="euclidean"),
        ),
        _projected,
    ),
    ClippedLogits: MapDefinition(
        (ClippedLogits(low=-2.0, high=2.0),),
        lambda m, e: _softmax([min(max(z, m.low), m.high) for z in e.z], e),
    ),
    SoftCapped: MapDefinition(
        (SoftCapped(cap=2.0),), lambda m, e: _softmax([m.cap * e.mp.tanh(z / m.cap) for z in e.z], e)
    ),
    LogitNorm: MapDefinition(
        (LogitNorm(temperature=0.5), LogitNorm()),
        lambda m, e: _softmax(
            [z / (m.temperature * e.mp.sqrt(e.mp.fsum(x * x for x in e.z))) for z in e.z], e
        ),
    ),
}


def settings_of(entry: MapEntry) -> tuple[Map, ...]:
    """Return the settings of a map to test."""
    return DEFINITIONS[entry.make].settings


def definition_of(entry: MapEntry) -> Callable[[Any, Exact], list[Any]] | None:
    """Return the textbook formula of a map: the list of its probabilities; None if it is random."""
    return DEFINITIONS[entry.make].value
