"""Objectives as the command line spells them: with names for the matrices given, and as code to paste."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from numpy.typing import NDArray

from equipoise import losses, penalties, spelling
from equipoise.losses import Loss

__all__ = ["MATRICES", "paste", "parse"]

MATRICES = ("costs", "similarity")
_NO_MATRICES: Mapping[str, NDArray[Any]] = MappingProxyType({})


def parse(text: str, matrices: Mapping[str, NDArray[Any]] = _NO_MATRICES) -> Loss:
    """Make the objective that a text spells; see `spelling.parse`.

    Args:
        text: The objective.
        matrices: What the bare names ``costs`` and ``similarity`` stand for, (C, C) each.

    Raises:
        ValueError: As `spelling.parse`, and if it names a matrix that was not given.
    """
    for name in spelling.names(text):
        if name in MATRICES and name not in matrices:
            raise ValueError(
                f"objective must have the matrix it names, got {name!r} without it; add --{name} FILE"
            )
    return spelling.parse(text, dict.fromkeys(MATRICES) | dict(matrices))


def paste(text: str, matrix_file: Callable[[str], str]) -> str:
    """Code to paste that makes the objective and uses it.

    Args:
        text: The objective.
        matrix_file: Where the matrix of a name is kept.
    """
    names = spelling.names(text)
    used = [name for name in MATRICES if name in names]
    lines = ["import numpy as np", "import torch", ""] if used else []
    listed_in = {"losses": losses.__all__, "penalties": penalties.__all__, "targets": ["Matrix"]}
    for module, listed in listed_in.items():
        imported = sorted({name for name in names if name in listed})
        if imported:
            lines.append(f"from equipoise.{module} import {', '.join(imported)}")
    lines += ["", *(f"{name} = torch.from_numpy(np.load({matrix_file(name)!r}))" for name in used)]
    return "\n".join([*lines, f"loss = {spelling.normalise(text)}", "loss(logits, target)"])
