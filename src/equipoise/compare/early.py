"""Checks that need neither data nor objectives; the command makes them before it imports torch."""

import math
import os
import sys
from collections.abc import Mapping
from dataclasses import fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from equipoise.compare.refusal import refusal
from equipoise.compare.settings import Settings

__all__ = ["check", "flip_share", "is_size", "require_jobs", "require_matrix", "suffix_of", "test_ratio"]


def check(given: Mapping[str, Any]) -> None:
    """Raise if arguments of `compare` are invalid for any data and objectives."""
    Settings(**{each.name: given[each.name] for each in fields(Settings) if each.name in given})
    require_jobs(given.get("jobs"))
    for name in ("costs", "similarity", "noise"):
        matrix = given.get(name)
        if isinstance(matrix, str) and not (name == "noise" and flip_share(matrix) is not None):
            require_matrix(matrix, name)


def require_jobs(jobs: Any) -> None:
    """Raise unless `jobs` is a number of processes, or None."""
    if jobs is not None and (not isinstance(jobs, Integral) or jobs < 1):
        raise refusal("jobs", "be a whole number from 1", repr(jobs), "leave it out for one per core")


def flip_share(noise: Any) -> float | None:
    """Return the share of labels to flip; None if the noise is not a number, and so must be a matrix."""
    text = str(noise).strip() if isinstance(noise, str | Real) else ""
    try:
        # float() alone would accept 1_000 and digits of other scripts
        share = float(text) if text.isascii() and "_" not in text else None
    except ValueError:
        return None
    if share is not None and not 0 <= share < 1:
        raise ValueError(f"noise must be a share in [0, 1), got {noise}; 0.4 flips four labels in ten")
    return share


def require_matrix(text: str, name: str) -> None:
    """Raise unless a text is the path of an existing file, or can be groups of classes."""
    if suffix_of(text) is None and "|" not in text:
        what, way = "groups such as 'a, b | c' or a CSV, TOML or NPY file", "check the path"
        if name == "noise":
            what, way = "a share in [0, 1) or a matrix file", "write for example 0.4, or check the path"
        raise ValueError(f"{name} must be {what}, got {text!r}, which is not there; {way}")


def suffix_of(given: Any) -> str | None:
    """Return the suffix of an existing file, else None."""
    found = isinstance(given, str | os.PathLike) and os.path.isfile(
        given
    )  # also False for a path that is too long
    return Path(given).suffix.lower() if found else None


def test_ratio(test_size: float | None, train_size: float | None) -> float | None:
    """Return test rows over training rows; None if no sizes are given."""
    if test_size is None and train_size is None:
        return None
    if test_size is None or train_size is None:
        raise ValueError(
            f"test_size and train_size must be given together, got {test_size} and {train_size}; give "
            "neither if every run has data of its own"
        )
    for name, size in (("test_size", test_size), ("train_size", train_size)):
        if not is_size(size, math.ulp(0.0)):
            raise ValueError(
                f"{name} must be above 0, got {size!r}; it is a number of rows or a share of them"
            )
    if (test_size < 1) != (train_size < 1):
        raise ValueError(
            f"test_size and train_size must both be rows or both shares, got {test_size} and {train_size}; "
            "give numbers of rows"
        )
    return test_size / train_size


def is_size(value: Any, smallest: float = 0.0) -> bool:
    """Return whether a value is a finite number of at least `least` that converts to a float."""
    import numpy as np

    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        return False
    return bool(smallest <= value <= sys.float_info.max)
