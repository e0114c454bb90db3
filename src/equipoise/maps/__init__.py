"""Maps from logits to probabilities: sharper than softmax, or with a guaranteed minimum probability."""

from equipoise import naming
from equipoise.maps import bounded as _bounded
from equipoise.maps import floors as _floors
from equipoise.maps import sharpening as _sharpening
from equipoise.maps import sparse as _sparse
from equipoise.maps.base import Map, MapEntry, emit_log_probs
from equipoise.maps.bounded import ClippedLogits, LogitNorm, SoftCapped
from equipoise.maps.floors import Clipped, Floored, Projected
from equipoise.maps.sharpening import GumbelSoftmax, Resoftmax, Softmax, StraightThrough
from equipoise.maps.sparse import Entmax, Sparsemax

MAPS: tuple[MapEntry, ...] = (
    *_sharpening.ENTRIES,
    *_sparse.ENTRIES,
    *_floors.ENTRIES,
    *_bounded.ENTRIES,
)

__all__ = [
    "MAPS",
    "Clipped",
    "ClippedLogits",
    "Entmax",
    "Floored",
    "GumbelSoftmax",
    "Map",
    "MapEntry",
    "LogitNorm",
    "Projected",
    "Resoftmax",
    "SoftCapped",
    "Softmax",
    "Sparsemax",
    "StraightThrough",
    "emit_log_probs",
]

naming.answer_names(__name__)
