"""Fair timing: every repeat times each contender once, in random order; ratios are taken within a repeat.

A contender that takes microseconds is called many times in a row for one timing.
"""

import gc
import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import final

import numpy as np
import torch

from benchmarks.contenders import Contender, Runner
from benchmarks.peers import CHUNKER, chunker_reports
from benchmarks.problems import Problem

LEAST = 3  # repeats, however slow
SLOW = 2.5  # times the median contender, and more than a tenth of a second: such a one runs in fewer repeats
SHORTEST = 0.004  # seconds of one timing, made of as many calls as it takes
MORE = 5  # times as many repeats where a timing of everyone takes less than a second
Clock = Callable[[Callable[[], object]], float]


@final
@dataclass(frozen=True)
class Spread:
    """A median over repeats, with the smallest and the largest, and the quartiles.

    Args:
        median: Of the numbers.
        low: The smallest.
        high: The largest.
        repeats: How many numbers there are.
        quartiles: Between these two lies half of the numbers.
    """

    median: float
    low: float
    high: float
    repeats: int
    quartiles: tuple[float, float] = (math.nan, math.nan)

    @classmethod
    def of(cls, numbers: Sequence[float]) -> "Spread":
        """Return the median and the range of some numbers."""
        low, first, median, third, high = np.quantile(numbers, (0, 0.25, 0.5, 0.75, 1)).tolist()
        return cls(median, low, high, len(numbers), (first, third))


@final
@dataclass
class Timings:
    """Seconds of a call of every contender, by repeat.

    Args:
        seconds: By name, then by repeat.
        notes: By name: what is worth saying of a contender.
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


def time_contenders(
    runners: Sequence[Runner], problem: Problem, clock: Clock, *, repeats: int, budget: float
) -> Timings:
    """Time the contenders in turn.

    Args:
        runners: Who runs.
        problem: On what.
        clock: Returns the seconds of a call.
        repeats: At most so many; five times as many where everyone together takes less than a second.
        budget: Seconds the repeats may take together; at least three are run.
    """
    result = Timings()
    torch.compiler.reset()
    calls: dict[str, int] = {}
    expected: dict[str, float] = {}
    for runner in runners:
        calls[runner.name], expected[runner.name] = _warm_up(runner, problem, clock, result.notes)
    total = sum(expected.values())
    repeats *= MORE if total < 1 else 1
    repeats = max(min(repeats, LEAST), min(repeats, int(budget / total)))
    slow = max(0.1, SLOW * Spread.of(list(expected.values())).median)
    shuffle = random.Random(0)
    with _no_collection():
        for index in range(repeats):
            gc.collect()
            for runner in shuffle.sample(list(runners), len(runners)):
                if index >= LEAST and expected[runner.name] > slow:
                    continue
                taken = _timed(runner, problem, clock, calls[runner.name])
                result.seconds.setdefault(runner.name, {})[index] = taken
    return result


@contextmanager
def _no_collection() -> Iterator[None]:
    """Collect garbage where asked alone, and of what is made from here on."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def _timed(runner: Runner, problem: Problem, clock: Clock, calls: int = 1) -> float:
    """Return the seconds of one of several calls in a row."""
    step = runner.prepare(problem)

    def several() -> None:
        for _ in range(calls):
            forget()
            step()

    forget = problem.forget
    forget()
    taken = clock(step if calls == 1 else several) / calls
    forget()
    return taken


def _warm_up(runner: Runner, problem: Problem, clock: Clock, notes: dict[str, str]) -> tuple[int, float]:
    """Warm up, and return the number of calls per timing, and the seconds of a timing."""
    if isinstance(runner, Contender) and runner.compiled:
        if CHUNKER in runner.name:
            with chunker_reports() as reports:
                _timed(runner, problem, clock)
            notes[runner.name] = "; ".join(dict.fromkeys(reports)) or "not chunked: too small"
        else:
            _timed(runner, problem, clock)
    taken = _timed(runner, problem, clock)
    if taken < SHORTEST:  # the first calls are slower than the next
        taken = _timed(runner, problem, clock, math.ceil(SHORTEST / taken))
        taken = _timed(runner, problem, clock, math.ceil(SHORTEST / taken))
    calls = max(1, math.ceil(SHORTEST / taken))
    return calls, calls * taken
