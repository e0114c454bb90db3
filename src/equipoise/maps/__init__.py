"""Maps from logits to probabilities: sharper than softmax, or with a floor that is guaranteed."""

from equipoise.maps import floors as _floors
from equipoise.maps import sharp as _sharp
from equipoise.maps.base import Map, MapEntry, emit_log_probs
from equipoise.maps.floors import Clipped, ClippedLogits, Floored, Normalized, Projected, SoftCapped
from equipoise.maps.sharp import (
    Entmax,
    GumbelSoftmax,
    Resoftmax,
    Sharpened,
    Softmax,
    Sparsemax,
    StraightThrough,
)

MAPS: tuple[MapEntry, ...] = (*_sharp.ENTRIES, *_floors.ENTRIES)

__all__ = [
    "MAPS",
    "Clipped",
    "ClippedLogits",
    "Entmax",
    "Floored",
    "GumbelSoftmax",
    "Map",
    "MapEntry",
    "Normalized",
    "Projected",
    "Resoftmax",
    "Sharpened",
    "SoftCapped",
    "Softmax",
    "Sparsemax",
    "StraightThrough",
    "emit_log_probs",
]
