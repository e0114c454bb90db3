"""Objectives as the command line spells them: with matrices by name, with schedules, and as code to paste."""

import ast
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from numpy.typing import NDArray

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

    def objective(self, steps: int) -> Objective:
        """Return the objective for a training of this many steps."""
        made = {address: _schedule(text, steps) for address, text in self.schedules.items()}
        return Objective(self.loss, schedules=made)


def read(text: str, matrices: Mapping[str, NDArray[Any]] = _NO_MATRICES) -> Spelled:
    """Read an objective in which a number may be a schedule, `GammaCrossEntropy(gamma=Linear(0, 0.5))`.

    The `steps` of a schedule are a share of the whole training, 1 if left out. It may have a sign or a factor
    in front of it, `CrossEntropy() - Linear(0, 0.1) * Entropy()`: its start and end then are those of the
    number that it changes.

    Args:
        text: The objective.
        matrices: What the bare names ``costs`` and ``similarity`` stand for, (C, C) each.

    Raises:
        ValueError: As `parse`, and if a schedule does not change one number of the loss, in proportion.

    Example:
        >>> read("GammaCrossEntropy(gamma=Linear(0, 0.5))").schedules
        {'gamma': 'Linear(0, 0.5)'}
        >>> read("CrossEntropy() - Linear(0, 0.1) * Entropy()").schedules
        {'Entropy': 'Linear(0.0, -0.1)'}
    """
    text = spelling.normalise(text)
    calls = _schedules_in(text)
    written = [ast.unparse(call) for call in calls]
    ends = [_schedule(each, 1).bounds() for each in written]
    starts = [start for start, _ in ends]

    def at(place: int, value: float) -> Loss:
        values = [*starts[:place], value, *starts[place + 1 :]]
        return parse(_filled(text, calls, values), matrices)

    loss = parse(_filled(text, calls, starts), matrices)
    places = addresses.places(loss)
    found: dict[str, str] = {}
    for place, (each, (start, end)) in enumerate(zip(written, ends, strict=True)):
        changed, middle = at(place, end), at(place, (start + end) / 2)
        differ = [
            key for key, one in places.items() if addresses.get(loss, one) != addresses.get(changed, one)
        ]
        count = len({places[key] for key in differ})
        if count != 1:
            raise ValueError(
                f"a schedule must change one number of the objective, got {each} in {text!r}, which changes "
                f"{count}; start and end must differ"
            )
        address = min(differ, key=len)
        first, half, last = (addresses.get(made, places[address]) for made in (loss, middle, changed))
        if address in found or not math.isclose(2 * half, first + last, rel_tol=1e-9, abs_tol=1e-12):
            raise ValueError(
                f"a schedule must be a number of the objective but for a factor, got {each} in {text!r}; "
                "give the number one schedule, with its values at start and end"
            )
        found[address] = each if (first, last) == (start, end) else _between(each, first, last)
    return Spelled(loss, found)


def _schedules_in(text: str) -> list[ast.Call]:
    """The calls that make schedules, in the order of the text."""
    names = {made.__name__ for made in SCHEDULES}
    calls = [node for node in ast.walk(ast.parse(text, mode="eval")) if isinstance(node, ast.Call)]
    found = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id in names]
    return sorted(found, key=lambda call: call.col_offset)


def _filled(text: str, calls: Sequence[ast.Call], values: Sequence[float]) -> str:
    """The text, of one line, with numbers in place of its schedules."""
    raw = text.encode()  # as the offsets count
    for call, value in reversed(list(zip(calls, values, strict=True))):
        raw = raw[: call.col_offset] + f"({value!r})".encode() + raw[call.end_col_offset :]
    return raw.decode()


def _schedule(text: str, steps: int) -> Schedule:
    """The schedule of a text whose steps are a share of training."""
    call, share = _steps(text)
    if share is not None:
        call.keywords.append(ast.keyword("steps", ast.Constant(max(1, round(share * steps)))))
    return spelling.parse_schedule(ast.unparse(call))


def _steps(text: str) -> tuple[ast.Call, float | None]:
    """The call of a schedule without its steps, and these as a share of training; None if it has no steps."""
    call: Any = ast.parse(text, mode="eval").body
    if "steps" not in getattr(schedules, call.func.id).__annotations__:
        return call, None
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
    return call, share


def _between(text: str, start: float, end: float) -> str:
    """The text of a schedule with another start and end."""
    call: Any = ast.parse(text, mode="eval").body
    values = [ast.Constant(value + 0.0) for value in (start, end)]  # never -0.0
    others = [word for word in call.keywords if word.arg not in ("start", "end")]
    return ast.unparse(ast.Call(call.func, [*values, *call.args[2:]], others))


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


def paste(
    text: str, matrix_file: Callable[[str], str], matrices: Mapping[str, NDArray[Any]] = _NO_MATRICES
) -> str:
    """Code to paste that makes the objective and uses it.

    Args:
        text: The objective.
        matrix_file: Where the matrix of a name is kept.
        matrices: As for `read`.
    """
    names = spelling.names(text)
    used = [name for name in MATRICES if name in names]
    lines = ["import numpy as np", "import torch", ""] if used else []
    text = spelling.normalise(text)
    calls = _schedules_in(text)
    if calls:
        lines.append("from equipoise import Objective")
    listed_in = {
        "losses": losses.__all__,
        "penalties": penalties.__all__,
        "schedules": schedules.__all__,
        "targets": ["Matrix"],
    }
    for module, listed in listed_in.items():
        imported = sorted({name for name in names if name in listed})
        if imported:
            lines.append(f"from equipoise.{module} import {', '.join(imported)}")
    lines += ["", *(f"{name} = torch.from_numpy(np.load({matrix_file(name)!r}))" for name in used)]
    if not calls:
        return "\n".join([*lines, f"loss = {text}", "loss(logits, target)"])
    starts = [_schedule(ast.unparse(call), 1).bounds()[0] for call in calls]
    made = [f"    {address!r}: {_pasted(each)}," for address, each in read(text, matrices).schedules.items()]
    lines += [
        "steps = 1000  # of the optimiser, in the whole training",
        f"loss = {spelling.normalise(_filled(text, calls, starts))}",
        "objective = Objective(loss, schedules={",
        *made,
        "})",
        "objective(logits, target)",
        "objective.step()  # after each step of the optimiser",
    ]
    return "\n".join(lines)


def _pasted(text: str) -> str:
    """Code of a schedule, its steps a share of the variable of that name."""
    call, share = _steps(text)
    if share is not None:
        steps = "steps" if share == 1 else f"max(1, round({share!r} * steps))"
        call.keywords.append(ast.keyword("steps", ast.parse(steps, mode="eval").body))
    return ast.unparse(call)
