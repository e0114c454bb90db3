"""Schedules: functions from the training step to the value of an option.

A schedule has no state: the same step always gives the same value, so a resumed run needs only its step.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import cos, pi
from typing import final

from equipoise import naming
from equipoise._checks import check_number


class Schedule(ABC):
    """A value that changes during training.

    A subclass is a frozen dataclass. All its values must lie between the two that `bounds` returns.
    """

    @abstractmethod
    def __call__(self, step: float, /) -> float:
        """Return the value at a step; 0 is before the first step, and fractions are allowed."""

    @abstractmethod
    def bounds(self) -> tuple[float, float]:
        """Return two numbers between which all values lie; `Objective` checks these two."""


@final
@dataclass(frozen=True)
class Linear(Schedule):
    """A straight line from one value to another, then constant.

    Args:
        start: Value before the first step.
        end: Value from `steps` on.
        steps: How many steps it takes; at least 1.

    Raises:
        ValueError: If steps is below 1 or a value is not finite.

    Example:
        >>> [Linear(0, 1, steps=4)(step) for step in (0, 1, 4, 9)]
        [0.0, 0.25, 1.0, 1.0]
    """

    start: float
    end: float
    steps: int

    def __post_init__(self) -> None:
        _check_line(self)

    def __call__(self, step: float, /) -> float:
        """Return the value at a step."""
        return _between(self.start, self.end, step / self.steps)

    def bounds(self) -> tuple[float, float]:
        """Return start and end."""
        return float(self.start), float(self.end)


@final
@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from one value to another, slow at both ends, then constant.

    Args:
        start: Value before the first step.
        end: Value from `steps` on.
        steps: How many steps it takes; at least 1.

    Raises:
        ValueError: If steps is below 1 or a value is not finite.

    Example:
        >>> [round(Cosine(0, 1, steps=4)(step), 4) for step in (0, 1, 2, 4, 9)]
        [0.0, 0.1464, 0.5, 1.0, 1.0]
    """

    start: float
    end: float
    steps: int

    def __post_init__(self) -> None:
        _check_line(self)

    def __call__(self, step: float, /) -> float:
        """Return the value at a step."""
        return _between(self.start, self.end, (1 - cos(pi * min(max(step / self.steps, 0.0), 1.0))) / 2)

    def bounds(self) -> tuple[float, float]:
        """Return start and end."""
        return float(self.start), float(self.end)


def _between(start: float, end: float, progress: float) -> float:
    """Return start + share * (end - start); exactly start for share <= 0 and end for share >= 1."""
    if progress <= 0:
        return float(start)
    return float(end) if progress >= 1 else start + (end - start) * progress


def _check_line(schedule: Linear | Cosine) -> None:
    check_number("start", schedule.start)
    check_number("end", schedule.end)
    if not isinstance(schedule.steps, int) or schedule.steps < 1:
        raise ValueError(f"steps must be an integer of at least 1, got {schedule.steps}")


SCHEDULES: tuple[type[Schedule], ...] = (Linear, Cosine)

__all__ = ["Cosine", "Linear", "Schedule", "SCHEDULES"]

naming.answer_names(__name__)
