"""`Comparison`: contenders that are timed on a problem, and the limits for the result."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch

from benchmarks.check import Gate, check
from benchmarks.contenders import Absent, Contender, Function, Products, Runner
from benchmarks.limits import Limit, find_limit
from benchmarks.measure import Timings, time_contenders
from benchmarks.peers import cpu_seconds, cuda_seconds, seconds, torch_best
from benchmarks.problems import Problem, Shape
from benchmarks.report import Section, Verdict, timing_section

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
NUMBERS = {1: "one thread", 2: "two threads"}


@final
@dataclass(frozen=True)
class Settings:
    """Settings of the measurement.

    Args:
        repeats: Largest number of repeats of a comparison; more if they take milliseconds.
        budget: Seconds for a comparison, but at least three repeats.
        threads: Number of torch's threads.
        amx: Whether the limits of a processor with AMX apply.
    """

    repeats: int = 9
    budget: float = 15.0
    threads: int = 2
    amx: bool = False


@final
@dataclass(frozen=True)
class Outcome:
    """Result of a comparison, with methods that compare it with limits.

    Args:
        shape: Shape of the problem.
        dtype: Dtype of the problem.
        result: The times.
        gate: The errors.
        runners: The contenders that ran.
        expected: Names of all contenders that should have run.
        amx: Whether the limits of a processor with AMX apply.
    """

    shape: Shape
    dtype: torch.dtype
    result: Timings
    gate: Gate
    runners: Sequence[Runner]
    expected: frozenset[str]
    amx: bool

    def best_peer(self, truth: Function) -> str | None:
        """Return the fastest peer that computes the same and is right, if there is one."""
        wrong = {one.name for one in self.gate.findings if not one.right}
        names = [
            one.name
            for one in self.runners
            if isinstance(one, Contender)
            and not one.ours
            and one.mode == "both"
            and one.truth is truth
            and one.name not in wrong
        ]
        return self.result.fastest(names) if names else None

    def compare(
        self,
        requirement: str,
        name: str,
        other: str | None,
        limit: float | Limit | None = None,
        *,
        at_least: bool = False,
    ) -> list[Verdict]:
        """Return the verdict on the time of one over that of another.

        None where one is no part of this comparison; not measured where one could not run.
        """
        if not isinstance(limit, Limit):
            limit = None if limit is None else Limit(limit)
        if other is None or not {name, other} <= self.result.seconds.keys() | self.expected:
            return []
        if not {name, other} <= self.result.seconds.keys():
            return [Verdict(requirement, float("nan"), limit, at_least)]
        return [Verdict.of(requirement, self.result.ratio(name, other), limit, at_least=at_least)]

    def apply(self, what: str, name: str, other: str, requirement: str | None = None) -> list[Verdict]:
        """Return the verdict with the limit that the table has for this shape, dtype and processor, if any.

        Args:
            what: Row of the table.
            name: Whose time.
            other: Over whose time.
            requirement: In words, if not as the row says.
        """
        return self.compare(requirement or what, name, other, self._limit(what))

    def _limit(self, what: str) -> Limit | None:
        return find_limit(what, self.shape.name, dtype_name(self.dtype), amx=self.amx)

    def precision(self, name: str, limit: float | None) -> Verdict:
        """Return the verdict on the gradient error over that of eager torch, in one block and in several."""
        (finding,) = (one for one in self.gate.findings if one.name == name)
        requirement = f"{name}: gradient error over that of eager torch"
        return Verdict(requirement, finding.over_plain, None if limit is None else Limit(limit))

    def slowest(
        self, requirement: str, names: Sequence[str], other: str, limit: float | None = None
    ) -> list[Verdict]:
        """Return the verdict on the slowest of several."""
        ran = [name for name in names if name in self.result.seconds]
        if not ran or other not in self.result.seconds:
            return []
        worst = max(ran, key=lambda name: self.result.ratio(name, other).median)
        return self.compare(f"{requirement}; slowest: {worst}", worst, other, limit)


@final
@dataclass(frozen=True)
class Comparison:
    """Contenders that are timed against each other.

    Args:
        title: What is compared.
        shape: Of the problem.
        dtype: Of the problem.
        runners: Who runs.
        baseline: Whose time is 1 in the table.
        judge: Returns the verdicts.
        search: Whether `F.linear_cross_entropy` with its best options joins, or what takes its place.
        device: Where.
        threads: Of torch; None for those of the settings.
        brief: Whether the report shows the time of the baseline alone; the file has them all.
    """

    title: str
    shape: Shape
    dtype: torch.dtype
    runners: Sequence[Runner | Absent]
    baseline: Runner
    judge: Callable[[Outcome], list[Verdict]]
    search: Callable[[Contender], Contender] | None = None
    device: str = "cpu"
    threads: int | None = None
    brief: bool = False

    def check(self) -> Gate:
        """Return what the gate says of the contenders."""
        torch.compiler.reset()
        return check(_contenders(self.runners), self.shape, self.dtype, self.device)

    def run(self, gate: Gate, settings: Settings) -> Section:
        """Time the contenders and compare the times with the limits."""
        threads = self.threads or settings.threads
        torch.set_num_threads(threads)
        try:
            return self._run(gate, settings, threads)
        finally:
            torch.set_num_threads(settings.threads)

    def _run(self, gate: Gate, settings: Settings, threads: int) -> Section:
        clock = cuda_seconds if self.device == "cuda" else cpu_seconds if threads == 1 else seconds
        problem = Problem.make(self.shape, self.dtype, self.device)
        ready, failed = gate.passed(_contenders(self.runners))
        absent = [*failed, *(one for one in self.runners if isinstance(one, Absent))]
        runners: list[Runner] = [*(one for one in self.runners if isinstance(one, Products)), *ready]
        if self.search is not None:
            best = self.search(torch_best(problem, clock))
            found = check([best], self.shape, self.dtype, self.device)
            gate = Gate(gate.findings + found.findings)
            if found.findings[0].error is not None:
                runners.append(best)
        result = time_contenders(runners, problem, clock, repeats=settings.repeats, budget=settings.budget)
        verdicts = self.verdicts(result, gate, runners, amx=settings.amx)
        said = NUMBERS.get(threads, f"{threads} threads")
        title = f"{self.title}, {self.shape}, {dtype_name(self.dtype)}"
        title += f", {said}" if self.threads is not None else ""
        section = timing_section(title, result, gate, absent, verdicts, self.baseline.name, brief=self.brief)
        return replace(section, column=f"{self.shape.name}, {said}")

    def verdicts(self, result: Timings, gate: Gate, runners: Sequence[Runner], *, amx: bool) -> list[Verdict]:
        """Return the times of the runners beside the limits."""
        expected = frozenset(one.name for one in self.runners)
        return self.judge(Outcome(self.shape, self.dtype, result, gate, runners, expected, amx))


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name of a dtype without torch's."""
    return str(dtype).removeprefix("torch.")


def _contenders(runners: Sequence[Runner | Absent]) -> list[Contender]:
    return [one for one in runners if isinstance(one, Contender)]
