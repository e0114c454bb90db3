"""`Candidate`: an objective to compare, made from a text, a loss or an `Objective`, and written as Python."""

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from equipoise import costs, losses, parameters, parsing, penalties, schedules
from equipoise.losses import LOSSES, WEIGHTS, Loss, Reweighted, Sum
from equipoise.losses.cost_sensitive import ClassMatrix
from equipoise.objective import Objective
from equipoise.penalties import PENALTIES
from equipoise.schedules import SCHEDULES, Cosine, Linear, Schedule

__all__ = ["Candidate", "Scheduled", "candidate_of", "read_objective"]

MATRICES = ("costs", "similarity")
_OF_TABLES = {entry.make for entry in (*LOSSES, *PENALTIES)} | {*WEIGHTS, *SCHEDULES}
_LONGEST = 60  # characters of a matrix or a tree in a name
_LONGEST_NAME = 200  # characters of a text that is its own name


class Scheduled(float):
    """The first value of a schedule: a float whose products and quotients with numbers are scheduled too.

    `share` is the length of the schedule as a share of training; None for the schedule's own steps. `origin`
    is the value of which this is a multiple.
    """

    schedule: Schedule
    share: float | None
    origin: "Scheduled"

    def __new__(cls, schedule: Schedule, share: float | None, origin: "Scheduled | None" = None) -> Self:
        """Return a new value."""
        made = super().__new__(cls, schedule(0))
        made.schedule, made.share = schedule, share
        made.origin = made if origin is None else origin
        return made

    def over(self, steps: int) -> Schedule:
        """Return the schedule for a training of this number of steps."""
        given: Any = self.schedule
        return given if self.share is None else replace(given, steps=max(1, round(self.share * steps)))

    @property
    def ends(self) -> dict[str, float]:
        """The two values between which it moves, by name; empty for a schedule class of the user."""
        known = ("start", "end", "value") if type(self.schedule) in SCHEDULES else ()
        return {name: getattr(self.schedule, name) for name in known if hasattr(self.schedule, name)}

    def changed(self, change: Callable[[float], float], *names: str) -> "Scheduled":
        """Return a copy with changed values at some ends, or at all."""
        given: Any = self.schedule
        ends = {name: change(self.ends[name]) + 0.0 for name in names or self.ends}  # never -0.0
        return Scheduled(replace(given, **ends), self.share, self.origin)

    def written(self, training: str = "") -> str:
        """Return the schedule as Python; `training` is the text for the steps of training, None omits it."""
        if self.share is None:
            return _one_line(self.schedule)
        part = f"max(1, round({self.share!r} * {training}))" if training else repr(self.share)
        steps = training if self.share == 1 else part
        given = [*map(repr, self.ends.values()), *([f"steps={steps}"] if steps else [])]
        return f"{type(self.schedule).__name__}({', '.join(given)})"

    def __repr__(self) -> str:
        return self.written()

    def __mul__(self, other: float) -> float:
        plain = type(other) in (int, float)  # an operation on two schedules gives a plain number
        return self.changed(lambda value: value * other) if plain else super().__mul__(other)

    def __rmul__(self, other: float) -> float:
        return self.__mul__(other)

    def __truediv__(self, other: float) -> float:
        plain = type(other) in (int, float)
        return self.changed(lambda value: value / other) if plain else super().__truediv__(other)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Scheduled) and (self.schedule, self.share) == (other.schedule, other.share)

    def __ne__(self, other: object) -> bool:  # float's would be used otherwise
        return not self == other

    def __hash__(self) -> int:
        return hash((self.schedule, self.share))

    def __reduce__(self) -> tuple[Any, ...]:
        return Scheduled, (self.schedule, self.share)


@dataclass(frozen=True, eq=False)
class Candidate:
    """An objective to train.

    Attributes:
        name: Name in all output.
        marked: The loss, with `Scheduled` for scheduled parameters.
        matrices: Matrices by name.
    """

    name: str
    marked: Loss
    matrices: Mapping[str, NDArray[Any]]

    @property
    def loss(self) -> Loss:
        """The loss, with scheduled parameters at their start."""
        return parameters.replace(
            self.marked, {place: float(each) for place, each in self._scheduled().values()}
        )

    @property
    def schedules(self) -> dict[str, Scheduled]:
        """The schedules of parameters, by path."""
        return {key: each for key, (_, each) in self._scheduled().items()}

    @property
    def text(self) -> str:
        """The loss as Python; named matrices by name, long matrices without a name shortened to a digest."""
        return _written(self.marked, self.matrices)

    @property
    def key(self) -> str | None:
        """Key in files: the loss as Python, without names of matrices, and the source of the user's classes.

        None if the text has a memory address, or a class has no source file.
        """
        text = _written(self.marked, {})
        try:
            code = sorted(map(inspect.getsource, self._own_classes()))
        except (OSError, TypeError):
            return None
        return None if " at 0x" in text or "..." in text else "\n".join([text, *code])

    @property
    def stable(self) -> bool:
        """Whether it has a key."""
        return self.key is not None

    def objective(self, steps: int) -> Objective:
        """Return the objective for a training of this number of steps."""
        return Objective(self.loss, schedules={key: each.over(steps) for key, each in self.schedules.items()})

    def same(self, other: "Candidate") -> bool:
        """Return whether both have equal terms with equal schedules, in any order."""
        one, two = self.marked.terms(), other.marked.terms()
        counts = [[sum(_equal(each, term) for term in terms) for each in one] for terms in (one, two)]
        return len(one) == len(two) and counts[0] == counts[1]

    def code(self, matrices: Mapping[str, str]) -> str:
        """Return Python code that makes and uses the objective, with matrices loaded from these NPY files."""
        times, own = self.schedules, self._own_classes()
        text = _written(self.loss, self.matrices, longest=None)
        words = {type(each.schedule).__name__ for each in times.values()}
        words |= set() if own else set(parsing.names(text))
        used = [name for name in self.matrices if name in words]
        lines = ["import numpy as np", "import torch", ""] if used else []
        lines += ["from equipoise import Objective"] if times else []
        for module in (losses, penalties, schedules, costs):
            if imported := sorted(words.intersection(module.__all__)):
                lines.append(f"from {module.__name__} import {', '.join(imported)}")
        lines += ["", *(f"{name} = torch.from_numpy(np.load({matrices[name]!r}))" for name in used)]
        lines.append(f"# loss = {text}, with code of your own" if own else f"loss = {text}")
        if not times:
            return "\n".join([*lines, "loss(logits, target)"])
        lines += ["steps = 1000  # of the optimiser, in the whole training"]
        lines += ["objective = Objective(loss, schedules={"]
        lines += [f"    {key!r}: {each.written('steps')}," for key, each in times.items()]
        lines += ["})", "objective(logits, target)", "objective.step()  # after each step of the optimiser"]
        return "\n".join(lines)

    def _scheduled(self) -> dict[str, tuple[parameters.Place, Scheduled]]:
        """Return (term, field) of each scheduled parameter, by its shortest path."""
        shortest = {place: key for key, place in parameters.parameter_paths(self.marked).items()}
        found = {key: (place, parameters.value_at(self.marked, place)) for place, key in shortest.items()}
        return {key: each for key, each in found.items() if isinstance(each[1], Scheduled)}

    def _own_classes(self) -> set[type]:
        terms = [term for _, term in self.marked.terms()]
        weights = [term.weight for term in terms if isinstance(term, Reweighted)]
        times = [each.schedule for each in self.schedules.values()]
        return {type(part) for part in (*terms, *weights, *times)} - _OF_TABLES


def read_objective(
    given: str | Loss | Objective, matrices: Mapping[str, NDArray[Any]], name: str | None = None
) -> Candidate:
    """Return the candidate of a text, loss or `Objective`.

    In a text, a number may be a schedule, or a number times a schedule. Its steps are a share of training, by
    default 1, or a number of 2 or more.

    Raises:
        TypeError: If the argument is none of these.
        ValueError: If a text is no loss or names an unknown matrix, or a schedule is not that of one
            parameter.

    Example:
        >>> read_objective("CrossEntropy() - Linear(0, 0.1) * Entropy()", {}).schedules
        {'Entropy': Linear(0.0, -0.1)}
    """
    made: list[Scheduled] = []
    if isinstance(given, str):
        text = parsing.normalize(given)
        name = name or (text if len(text) <= _LONGEST_NAME else None)
        marked = _parsed(given, matrices, made)
    elif isinstance(given, Objective):
        marked = _marked(given)
    elif isinstance(given, Loss):
        marked = given
    else:
        raise TypeError(_no_objective(given))
    parts = [part for part in marked.terms() if part[0] != 0] or marked.terms()
    candidate = candidate_of(parts, matrices, name)
    found = [each.origin for each in candidate.schedules.values()]
    for each in made:
        if sum(each is other for other in found) != 1:
            raise ValueError(
                "a schedule must replace one number of the objective, at most multiplied by a factor, got "
                f"{parsing.short(repr(each))} in {parsing.short(str(given))}; give that number a schedule "
                "with its own values at start and end"
            )
    try:
        candidate.objective(1)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{parsing.short(candidate.name)}: {error}") from error
    return candidate


def candidate_of(
    parts: Sequence[tuple[Any, Any]], matrices: Mapping[str, NDArray[Any]], name: str | None = None
) -> Candidate:
    """Return the candidate of factors and terms, with its text as the default name."""
    marked = parts[0][1] if len(parts) == 1 and parts[0][0] == 1 else Sum(tuple(parts))
    return Candidate(name or _written(marked, matrices), marked, matrices)


def _parsed(text: str, matrices: Mapping[str, NDArray[Any]], made: list[Scheduled]) -> Loss:
    """Return the loss of a text, and the schedules made while parsing it."""

    def note(schedule: Schedule, share: float | None = None) -> Scheduled:
        made.append(Scheduled(schedule, share))
        return made[-1]

    def line(kind: type[Linear | Cosine], start: float, end: float, steps: float = 1) -> Scheduled:
        if isinstance(steps, int | float) and 0 < steps <= 1:
            return note(kind(start, end, 1), float(steps))
        if not isinstance(steps, int) or steps < 2:
            raise ValueError(
                f"steps must be a share of training in (0, 1] or an integer of 2 or more, got {steps!r}; "
                "leave it out for the whole of training"
            )
        return note(kind(start, end, steps))

    lacking = [each for each in parsing.names(text) if each in MATRICES and each not in matrices]
    if lacking:
        said = parsing.short(text)
        raise ValueError(f"objectives must name matrices that are given, got {said}; give {lacking[0]}")
    makers = {kind.__name__: partial(line, kind) for kind in (Linear, Cosine)}
    return parsing.from_text(text, {**dict.fromkeys(MATRICES), **matrices}, makers=makers)


def _marked(given: Objective) -> Loss:
    """Return the loss of an objective, with `Scheduled` for scheduled parameters."""
    default = Objective(given.loss)
    for option in ("weight", "ignore_index", "reduction"):
        value = getattr(given, option)
        if str(value) != str(getattr(default, option)):
            raise ValueError(
                f"objectives must leave {option} at its default, got {_one_line(value)} in {given}; "
                "class_weight and sample_weight weigh classes and rows for all objectives alike"
            )
    times = {key: Scheduled(each, None) for key, each in given.schedules.items()}
    return parameters.replace(
        given.loss, {parameters.resolve(given.loss, key, key): times[key] for key in times}
    )


def _no_objective(given: object) -> str:
    """Return the error for a value that is no objective."""
    kind = given if isinstance(given, type) else type(given)
    way = "write a loss of your own as docs/fused.md does: a frozen dataclass of RowLoss, with per_row"
    if isinstance(given, type) and issubclass(given, Loss | Objective):
        way = f"write {kind.__name__}()"
    said = f"{'the class' if kind is given else 'a'} {kind.__name__}"
    return f"objectives must be losses of equipoise, their texts or Objectives, got {said}; {way}"


def _written(made: Any, matrices: Mapping[str, NDArray[Any]], longest: int | None = _LONGEST) -> str:
    """Return a loss or option as Python, without options that are off by default, long arrays shortened."""
    write = partial(_written, matrices=matrices, longest=longest)
    if isinstance(made, Sum):
        said = ""
        for factor, term in made.parts:
            part = ("" if factor == 1 else "-" if factor == -1 else f"{factor!r} * ") + write(term)
            sign, part = (" - ", part[1:]) if said and part.startswith("-") else (" + ", part)
            said += f"{sign if said else ''}{part}"
        return said
    if type(made) in _OF_TABLES:
        given = []
        for field in fields(made):
            value = getattr(made, field.name)
            if (
                field.default or value != field.default
            ):  # fields without a default have MISSING, which is true
                nested = isinstance(value, ClassMatrix) or is_dataclass(value)
                given.append(write(value) if nested else f"{field.name}={write(value)}")
        return f"{type(made).__name__}({', '.join(given)})"
    if isinstance(made, ClassMatrix) and not made.is_named:
        for name, each in matrices.items():
            if np.array_equal(each, made.array):
                return name
    said = _one_line(made.array.tolist() if isinstance(made, ClassMatrix) and not made.is_named else made)
    if longest is None or len(said) <= longest or not isinstance(made, ClassMatrix | tuple):
        return said
    return f"<{len(made)} rows, {hashlib.sha256(said.encode()).hexdigest()[:12]}>"


def _one_line(made: object) -> str:
    with np.printoptions(legacy="1.25"):  # numpy's numbers print as Python's
        return " ".join(repr(made).split())


def _equal(one: object, other: object) -> bool:
    try:
        return bool(one == other)
    except (RuntimeError, TypeError, ValueError):  # tensors and arrays in a loss of the user
        return False
