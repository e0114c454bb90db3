"""Correctness check before the timing: losses and gradients of equipoise, on random and on peaked logits.

The reference is the textbook formula on float64 logits. The error of equipoise, in one block and in several,
must be at most twice that of the formula in the dtype of the inputs, or within the tolerance of the tests;
the report has the errors. Peers with a large error are listed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from benchmarks.contenders import Absent, Contender
from benchmarks.problems import Problem, Shape

ROUGH = 301, 8209  # rows and classes for ours: no block divides them
SMOOTH = 512, 8192  # for the peers, some of which take nothing else
BLOCKS = 4


@final
@dataclass(frozen=True)
class Error:
    """Relative errors of a result; those of gradients by the norm of the difference.

    Args:
        loss: Error of the loss.
        gradient: The larger of the errors of the gradients.
    """

    loss: float
    gradient: float

    def within(self, other: "Error") -> bool:
        """Return whether both errors are at most those of another; False for nan."""
        return self.loss <= other.loss and self.gradient <= other.gradient

    def at_least(self, other: "Error") -> "Error":
        """Return the larger of each; nan wins."""
        pairs = ((self.loss, other.loss), (self.gradient, other.gradient))
        return Error(*(one if one != one or one >= two else two for one, two in pairs))


@final
@dataclass(frozen=True)
class Finding:
    """Result of the check of a contender.

    Args:
        name: Name of the contender.
        ours: Whether it is equipoise's.
        right: Whether its errors are within the tolerance.
        error: The largest of its errors; None if it could not run.
        over_plain: Largest ratio of its gradient error to that of the textbook formula in the same dtype.
        reason: Reason why it could not run.
    """

    name: str
    ours: bool
    right: bool
    error: Error | None
    over_plain: float = 0.0
    reason: str = ""


@final
@dataclass(frozen=True)
class Gate:
    """Results of the check of all contenders."""

    findings: tuple[Finding, ...]

    @property
    def open(self) -> bool:
        """Whether all contenders of equipoise are right."""
        return all(one.right for one in self.findings if one.ours)

    def passed(self, contenders: Sequence[Contender]) -> tuple[list[Contender], list[Absent]]:
        """Return the contenders that ran, right or wrong, and those that could not."""
        failed = {one.name: one.reason for one in self.findings if one.reason}
        return (
            [one for one in contenders if one.name not in failed],
            [Absent(one.name, failed[one.name]) for one in contenders if one.name in failed],
        )

    def faults(self) -> list[str]:
        """Return a line for each contender of ours that is wrong."""
        return [
            f"{one.name}: {one.reason or f'relative error {one.error}'}"
            for one in self.findings
            if one.ours and not one.right
        ]


def check(contenders: Sequence[Contender], shape: Shape, dtype: torch.dtype, device: str = "cpu") -> Gate:
    """Compare every contender with the reference, on a slice of the shape."""
    rough, smooth = (
        [
            Problem.make(shape.at_most(*size, shape.features), dtype, device, peaked=peaked)
            for peaked in (False, True)
        ]
        for size in (ROUGH, SMOOTH)
    )
    return Gate(tuple(_judge(one, rough if one.ours else smooth) for one in contenders))


def _judge(contender: Contender, problems: list[Problem]) -> Finding:
    error, right, over = Error(0.0, 0.0), True, 0.0
    for problem in problems:
        truth = _result(contender.exact, problem.double())
        plain = _error(_result(contender.exact, problem), truth)
        allowed = _allowed(contender, plain, problem.dtype, problem.largest_logit)
        for version in _versions(contender, problem):
            try:
                found = _error(_result(version.step, problem), truth)
            except Exception as fault:  # whatever a peer raises, it is named and the others run
                reason = f"{type(fault).__name__}: {str(fault).splitlines()[0] if str(fault) else ''}"
                return Finding(contender.name, contender.ours, False, None, reason=reason)
            error, right = found.at_least(error), right and found.within(allowed)
            if plain.gradient:
                over = max(over, found.gradient / plain.gradient)
    return Finding(contender.name, contender.ours, right, error, over)


def _versions(contender: Contender, problem: Problem) -> list[Contender]:
    """Return the contender, and ours in several blocks too."""
    if not contender.ours or len(problem.inputs) == 1:
        return [contender]
    block = max(1, problem.logit_bytes // BLOCKS)
    return [contender, contender.having(contender.name, block_bytes=block)]


def _allowed(contender: Contender, plain: Error, dtype: torch.dtype, largest: float) -> Error:
    eps, half = torch.finfo(dtype).eps, dtype.itemsize < 4
    # The formula's loss is one number and may be exact by luck. Gradients are compared by their norm, and may
    # be off by as much as the tests of the losses allow each entry.
    least = Error(2 * eps if half else 16 * eps, 0.0 if half else 64 * eps * (1 + largest))
    factor = 2.0
    if not contender.ours:
        factor, least = 10.0, Error(4 * eps, 2 * eps) if half else Error(1e-4, 1e-4)
    return Error(factor * plain.loss, factor * plain.gradient).at_least(least)


Result = tuple[Tensor, list[Tensor | None]]


def _result(step: Callable[[Problem], Tensor], problem: Problem) -> Result:
    problem.forget()
    loss = step(problem)
    gradients = problem.gradients()
    problem.forget()
    return loss.double(), gradients


def _error(found: Result, truth: Result) -> Error:
    (loss, gradients), (exact, exact_gradients) = found, truth
    worst = 0.0
    for gradient, expected in zip(gradients, exact_gradients, strict=True):
        if expected is None:
            continue
        off = 1.0 if gradient is None else float((gradient.double() - expected).norm() / expected.norm())
        worst = off if off != off or off > worst else worst
    return Error(float((loss - exact).abs() / exact.abs()), worst)
