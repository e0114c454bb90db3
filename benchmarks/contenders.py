"""Contenders: equipoise, its peers, and the bare matrix products as a lower bound."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.problems import Problem
from equipoise.losses import Loss

Function = Callable[..., Tensor]
Mode = Literal["both", "frozen", "forward"]


@final
@dataclass(frozen=True)
class Contender:
    """A way to compute a loss and its gradients.

    Args:
        name: As the tables show it.
        run: `run(*inputs, target, **options)` returns the loss, one number.
        truth: `truth(logits, target)`, the same by its textbook formula.
        ours: Whether it is equipoise's; the correctness of these decides whether anything is timed.
        options: Passed to `run`.
        mode: Both gradients, "frozen" for that of the hidden states alone, "forward" for none.
        compiled: Whether the first call compiles.
    """

    name: str
    run: Function
    truth: Function
    ours: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    mode: Mode = "both"
    compiled: bool = False

    def step(self, problem: Problem) -> Tensor:
        """Run forward and backward once, and return the loss."""
        return self._go(self.run, problem, **self.options)

    def prepare(self, problem: Problem) -> Callable[[], object]:
        """Return a function that runs forward and backward once, and does nothing else."""
        if self.mode != "both":
            return lambda: self.step(problem)
        run = partial(self.run, *problem.inputs, problem.target, **self.options)
        return lambda: run().backward()

    def exact(self, problem: Problem) -> Tensor:
        """Run the textbook formula, forward and backward."""
        return self._go(self._textbook, problem)

    def _textbook(self, *tensors: Tensor) -> Tensor:
        *inputs, target = tensors
        return self.truth(F.linear(*inputs) if len(inputs) == 2 else inputs[0], target)

    def _go(self, run: Function, problem: Problem, **options: Any) -> Tensor:
        if self.mode == "forward":
            with torch.no_grad():
                return run(*problem.inputs, problem.target, **options)
        inputs = problem.inputs
        if self.mode == "frozen":
            inputs = (inputs[0], inputs[1].detach())
        loss = run(*inputs, problem.target, **options)
        loss.backward()
        return loss.detach()

    def having(self, name: str, **options: Any) -> "Contender":
        """Return the same with another name and further options."""
        return replace(self, name=name, options={**self.options, **options})


@final
@dataclass(frozen=True)
class Products:
    """The bare matrix products of a linear layer and a loss: logits, both gradients, and logits again."""

    count: int

    @property
    def name(self) -> str:
        """As the tables show it."""
        return f"{self.count} bare product{'s' if self.count > 1 else ''}"

    @torch.no_grad()
    def step(self, problem: Problem) -> None:
        """Multiply; the gradients are fresh memory, as they are for every contender."""
        hidden, weight = problem.inputs
        logits = torch.mm(hidden, weight.T, out=problem.logit_buffer)
        if self.count > 3:
            torch.mm(hidden, weight.T, out=problem.logit_buffer)
        if self.count > 1:
            hidden.grad = logits @ weight
        if self.count > 2:
            weight.grad = logits.T @ hidden

    def prepare(self, problem: Problem) -> Callable[[], object]:
        """Return a function that multiplies once."""
        return lambda: self.step(problem)


Runner = Contender | Products


@final
@dataclass(frozen=True)
class Absent:
    """A peer that cannot run here, and why."""

    name: str
    reason: str


def summed(loss: Function) -> Function:
    """Return a loss without reduction, summed outside: its backward meets an upstream gradient per row."""
    return lambda *tensors, **options: loss(*tensors, reduction="none", **options).float().sum()


def linear(loss: Loss, name: str | None = None, truth: Function | None = None, **fields: Any) -> Contender:
    """Return our fused linear layer and loss.

    Args:
        loss: The loss.
        name: As the tables show it, if not as the loss prints.
        truth: Its textbook formula; the loss on logits itself, which has tests of its own, if None.
        fields: Further fields of `Contender`.
    """
    return Contender(f"ours: {name or repr(loss)}", loss.linear, truth or loss, ours=True, **fields)


def dense(loss: Loss, truth: Function | None = None, name: str | None = None) -> Contender:
    """Return our loss on logits in memory."""
    return Contender(f"ours: {name or repr(loss)}", loss, truth or loss, ours=True)
