"""Grids of parameters, of which `make test` runs some cells and `make test-slow` the others."""

from collections.abc import Collection, Iterable
from itertools import product
from typing import Any

import pytest


def grid(*axes: Iterable[Any], fast: Collection[tuple[Any, ...]]) -> list[Any]:
    """Return every combination of the axes for `parametrize`; those that are not in `fast` are slow.

    The fast ones should have each value of each axis once.
    """
    cells = list(product(*axes))
    assert set(fast) <= set(cells)
    return [pytest.param(*cell, marks=() if cell in fast else pytest.mark.slow) for cell in cells]
