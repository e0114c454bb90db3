"""Objectives as the command line spells them: with matrices by name, with schedules, and as code to paste."""

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from equipoise import addresses, losses, penalties, schedules, spelling
from equipoise.losses import Loss
from equipoise.objective import Objective
from equipoise.schedules import SCHEDULES, Schedule

__all__ = ["MATRICES", "Spelled", "paste", "parse", "read"]

MATRICES = ("costs", "similarity")
_NO_MATRICES: Mapping[str, NDArray[Any]] = MappingProxyType({})


@dataclass(frozen=True)
class Spelled:
    """An objective with its schedules, before it is known how many steps training has.

    Attributes:
        loss: The loss, each scheduled number at its start.
        schedules: For each address of a scheduled number, the text of its schedule.
    """

    loss: Loss
    schedules: Mapping[str, str]

    def objective(self, steps: int, weight: Tensor | None = None) -> Objective:
        """Return the objective for a training of this many steps.

        Args:
            steps: Number of steps of the whole training.
            weight: (C,) class weights.
        """
        made = {address: _schedule(text, steps) for address, text in self.schedules.items()}
        return Objective(self.loss, weight=weight, schedules=made)


def read(text: str, matrices: Mapping[str, NDArray[Any]] = _NO_MATRICES) -> Spelled:
    """Read an objective in which a number may be a schedule, `GammaCrossEntropy(gamma=Linear(0, 0.5))`.

    The `steps` of a schedule are a share of the whole training, 1 if left out.

    Args:
        text: The objective.
        matrices: What the bare names ``costs`` and ``similarity`` stand for, (C, C) each.

    Raises:
        ValueError: As `parse`, and if a schedule does not change a number of the loss.

    Example:
        >>> read("GammaCrossEntropy(gamma=Linear(0, 0.5))").schedules
        {'gamma': 'Linear(0, 0.5)'}
    """
    written = _schedules_in(text)
    ends = {each: _schedule(each, 1).bounds() for each in written}
    starts = {each: bounds[0] for each, bounds in ends.items()}
    loss = parse(_filled(text, starts), matrices)
    found: dict[str, str] = {}
    for each in written:
        changed = parse(_filled(text, starts | {each: ends[each][1]}), matrices)
        places = addresses.places(loss)
        differ = [key for key, at in places.items() if addresses.get(loss, at) != addresses.get(changed, at)]
        if len({places[key] for key in differ}) != 1:
            raise ValueError(
                f"a schedule must change one number of the objective, got {each} in {text!r}, which changes "
                f"{len({places[key] for key in differ})}; start and end must differ"
            )
        found[min(differ, key=len)] = each
    return Spelled(loss, found)


def _schedules_in(text: str) -> list[str]:
    """The schedules in a text, as text."""
    names = {made.__name__ for made in SCHEDULES}
    tree = ast.parse(spelling.normalise(text), mode="eval")
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [ast.unparse(call) for call in calls if isinstance(call.func, ast.Name) and call.func.id in names]


def _filled(text: str, values: Mapping[str, float]) -> str:
    """The text with numbers in place of its schedules."""
    filled = spelling.normalise(text)
    for written, number in values.items():
        filled = filled.replace(written, f"({number!r})")
    return filled


def _schedule(text: str, steps: int) -> Schedule:
    """The schedule of a text whose steps are a share of training."""
    call: Any = ast.parse(text, mode="eval").body
    made = getattr(schedules, call.func.id)
    if "steps" not in made.__annotations__:
        return spelling.parse_schedule(text)
    given = [word for word in call.keywords if word.arg == "steps"]
    share = 1.0
    if given or len(call.args) > 2:
        node = given[0].value if given else call.args.pop()
        share = node.value if isinstance(node, ast.Constant) else float("nan")
        if not isinstance(share, int | float) or not 0 < share <= 1:
            raise ValueError(
                f"steps must be a share of training in (0, 1], got {ast.unparse(node)} in {text!r}; "
                "leave it out for the whole of it"
            )
    call.keywords = [word for word in call.keywords if word.arg != "steps"]
    call.keywords.append(ast.keyword("steps", ast.Constant(max(1, round(share * steps)))))
    return spelling.parse_schedule(ast.unparse(call))


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
