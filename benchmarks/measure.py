"""Fair timing: every repeat runs each contender once, in random order; ratios are taken within a repeat."""

import gc
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import final

import torch

from benchmarks.contenders import Contender, Runner
from benchmarks.peers import CHUNKER, chunker_reports
from benchmarks.problems import Problem

LEAST = 3  # repeats, however slow
SLOW = 2.5  # times the median contender: such a one runs in fewer repeats
Clock = Callable[[Callable[[], object]], float]


@final
@dataclass(frozen=True)
class Spread:
    """A median over repeats, with the smallest and the largest."""

    median: float
    low: float
    high: float
    repeats: int

    @classmethod
    def of(cls, numbers: Sequence[float]) -> "Spread":
        """Return the median and the range of some numbers."""
        ordered, half = sorted(numbers), len(numbers) // 2
        median = ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
        return cls(median, ordered[0], ordered[-1], len(ordered))


@final
@dataclass
class Race:
    """Seconds of every contender, by repeat.

    Args:
        seconds: By name, then by repeat.
        notes: By name: what is worth knowing of a contender.
    """

    seconds: dict[str, dict[int, float]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def time(self, name: str) -> Spread:
        """Return the seconds of a contender."""
        return Spread.of(list(self.seconds[name].values()))

    def ratio(self, name: str, other: str) -> Spread:
        """Return the time of one contender over that of another, in the repeats both ran in."""
        mine, theirs = self.seconds[name], self.seconds[other]
        return Spread.of([mine[index] / theirs[index] for index in mine if index in theirs])

    def fastest(self, names: Sequence[str]) -> str:
        """Return the contender with the least median."""
        return min(names, key=lambda name: self.time(name).median)


def race(runners: Sequence[Runner], problem: Problem, clock: Clock, *, repeats: int, budget: float) -> Race:
    """Time the contenders against each other.

    Args:
        runners: Who runs.
        problem: On what.
        clock: Returns the seconds of a call.
        repeats: At most so many.
        budget: Seconds the repeats may take together; at least three are run.
    """
    result = Race()
    torch.compiler.reset()
    expected = {runner.name: _warm_up(runner, problem, clock, result.notes) for runner in runners}
    total = sum(expected.values())
    repeats = max(min(repeats, LEAST), min(repeats, int(budget / total)))
    typical = Spread.of(list(expected.values())).median
    shuffle = random.Random(0)
    gc.collect()
    gc.disable()
    try:
        for index in range(repeats):
            for runner in shuffle.sample(list(runners), len(runners)):
                if index >= LEAST and expected[runner.name] > SLOW * typical:
                    continue
                result.seconds.setdefault(runner.name, {})[index] = _timed(runner, problem, clock)
    finally:
        gc.enable()
    return result


def _timed(runner: Runner, problem: Problem, clock: Clock) -> float:
    problem.forget()
    taken = clock(lambda: runner.step(problem))
    problem.forget()
    return taken


def _warm_up(runner: Runner, problem: Problem, clock: Clock, notes: dict[str, str]) -> float:
    """Run once, twice where the first run compiles, and return the seconds of the last."""
    if isinstance(runner, Contender) and runner.compiled:
        if CHUNKER in runner.name:
            with chunker_reports() as reports:
                _timed(runner, problem, clock)
            notes[runner.name] = "; ".join(dict.fromkeys(reports)) or "not chunked: too small"
        else:
            _timed(runner, problem, clock)
    return _timed(runner, problem, clock)
