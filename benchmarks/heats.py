"""A heat: who runs against whom on what, and what is demanded of the result."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import torch

from benchmarks.check import Gate, check
from benchmarks.contenders import Absent, Contender, Function, Products, Runner
from benchmarks.measure import Race, race
from benchmarks.peers import cuda_seconds, seconds, torch_best
from benchmarks.problems import Problem, Shape
from benchmarks.report import Section, Verdict, race_section
from equipoise.losses import LOSSES, RowLoss
from equipoise.rows import needs
from equipoise.stats import Stat

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@final
@dataclass(frozen=True)
class Settings:
    """How much is measured.

    Args:
        repeats: At most so many of each race.
        budget: Seconds a race may take, as far as three repeats allow.
        threads: Of torch.
    """

    repeats: int = 9
    budget: float = 15.0
    threads: int = 2


@final
@dataclass(frozen=True)
class Standing:
    """How a race ended, for those who judge it."""

    result: Race
    gate: Gate
    runners: Sequence[Runner]

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
        self, demand: str, name: str, other: str | None, limit: float | None, *, at_least: bool = False
    ) -> list[Verdict]:
        """Return the verdict on the time of one over that of another; none where one did not run."""
        if other is None or not {name, other} <= self.result.seconds.keys():
            return []
        return [Verdict.of(demand, self.result.ratio(name, other), limit, at_least=at_least)]

    def precision(self, name: str, limit: float | None) -> Verdict:
        """Return the verdict on the gradient error over that of eager torch, in one block and in several."""
        (finding,) = (one for one in self.gate.findings if one.name == name)
        return Verdict(f"{name}: gradient error over that of eager torch", finding.over_plain, limit)

    def slowest(self, demand: str, names: Sequence[str], other: str, limit: float) -> list[Verdict]:
        """Return the verdict on the slowest of several."""
        worst = max(names, key=lambda name: self.result.ratio(name, other).median)
        return self.compare(f"{demand}; slowest: {worst}", worst, other, limit)


@final
@dataclass(frozen=True)
class Heat:
    """One race.

    Args:
        title: What is raced.
        shape: Of the problem.
        dtype: Of the problem.
        runners: Who runs.
        floor: Whose time is 1 in the table.
        judge: Returns the verdicts.
        absent: Who cannot run, known beforehand.
        search: Whether `F.linear_cross_entropy` with its best options joins, or what takes its place.
        device: Where.
    """

    title: str
    shape: Shape
    dtype: torch.dtype
    runners: Sequence[Runner | Absent]
    floor: Runner
    judge: Callable[[Standing], list[Verdict]]
    search: Callable[[Contender], Contender] | None = None
    device: str = "cpu"

    def check(self) -> Gate:
        """Return what the gate says of the contenders."""
        torch.compiler.reset()
        return check(_contenders(self.runners), self.shape, self.dtype, self.device)

    def run(self, gate: Gate, settings: Settings) -> Section:
        """Run the race and judge it."""
        clock = cuda_seconds if self.device == "cuda" else seconds
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
        result = race(runners, problem, clock, repeats=settings.repeats, budget=settings.budget)
        verdicts = self.judge(Standing(result, gate, runners))
        dtype = str(self.dtype).removeprefix("torch.")
        title = f"{self.title}, {self.shape}, {dtype}"
        return race_section(title, result, gate, absent, verdicts, self.floor.name)


def _contenders(runners: Sequence[Runner | Absent]) -> list[Contender]:
    return [one for one in runners if isinstance(one, Contender)]


@final
@dataclass(frozen=True)
class Sample:
    """A loss of the table as it can run on so many classes, or why it cannot."""

    name: str
    loss: RowLoss | None = None
    stats: tuple[Stat, ...] = ()
    reason: str = ""


def table_of_losses(num_classes: int) -> list[Sample]:
    """Return every loss of the table in a typical setting that fits the number of classes."""
    return [_sample(entry.name, entry.at, num_classes) for entry in LOSSES]


def _sample(name: str, settings: Sequence[object], num_classes: int) -> Sample:
    half = len(settings) // 2
    logits, target = torch.zeros(2, num_classes), torch.tensor([0, num_classes - 1])
    reason = "not a loss of a row"
    for loss in (*settings[half:], *settings[:half]):  # the first setting is often the degenerate one
        if not isinstance(loss, RowLoss):
            continue
        if any(isinstance(value, torch.Tensor) for value in _fields(loss)):
            reason = "needs a matrix of (V, V)"
            continue
        asked = needs(loss, num_classes, logits)
        if asked.whole:
            reason = "needs whole rows of logits"
            continue
        try:
            loss(logits, target)
        except ValueError as error:
            reason = str(error)
            continue
        return Sample(name, loss, asked.stats)
    return Sample(name, reason=reason)


def _fields(loss: object) -> list[object]:
    assert dataclasses.is_dataclass(loss)
    return [getattr(loss, one.name) for one in dataclasses.fields(loss)]
