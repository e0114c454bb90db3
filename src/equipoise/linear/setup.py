"""`Setup` of a fused loss: backend, states, program and plan."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, final
from weakref import WeakSet

import torch
from torch import Tensor

from equipoise._batch import Targets
from equipoise.distributed import Run
from equipoise.kernels import cpu
from equipoise.kernels.block import Backend, Block, CppBackend, fits
from equipoise.kernels.dense import Prepared, prepared
from equipoise.kernels.differentiable import TorchBackend
from equipoise.kernels.gate import TRACED
from equipoise.kernels.program import TOO_MUCH, Compiled
from equipoise.linear.inputs import Inputs, learns, read_inputs
from equipoise.linear.plan import Plan, make_plan
from equipoise.sharded import ShardedBackend
from equipoise.statistics import RowStatistics, Statistic
from equipoise.statistics.reference import row_statistics_plus
from equipoise.statistics.row import FullLogits, RowFunction, require_target
from equipoise.statistics.states import RowStates, StateName
from equipoise.statistics.trace import Trace, states_of, statistics_of_call

BACKENDS = ("auto", "torch", "cpp", "triton")


@final
@dataclass(frozen=True)
class Setup:
    """The computation of a fused loss or of statistics.

    Args:
        loss: The loss, or None for statistics only.
        names: The states that are read.
        separate: Whether the sums are over the classes without the target.
        full_logits: Whether the loss needs complete rows of logits, or targets are probabilities.
        compiled: The program of the loss for the kernel, or None.
        skip_zero_weight: Whether rows are left out if the weight of their class is 0.
        targets: The targets and class weights.
        softcap: Cap s on the logits, s tanh(z / s), or None.
        backend: The backend of states and gradients.
        plan: The plan, with the size of blocks.
        classes: The classes of this rank if they are sharded, or None.
    """

    loss: RowFunction | None
    names: tuple[StateName, ...]
    separate: bool
    full_logits: bool
    compiled: Compiled | None
    skip_zero_weight: bool
    targets: Targets
    softcap: float | None
    backend: Backend
    plan: Plan
    classes: Run | None

    def block(self, logits: Tensor, rows: slice) -> Block:
        """Return a block of the logits of some rows."""
        target = None if self.targets.target is None else self.targets.target[rows]
        return Block(logits, self.names, self.separate, target, softcap=self.softcap)

    def states(self, numbers: Mapping[StateName, Tensor]) -> RowStates:
        """Return `RowStates` of the given states (N,)."""
        return RowStates.read(numbers.__getitem__, separate=self.separate)

    def losses(self, states: RowStates, target: Tensor | None) -> Tensor:
        """Return the losses (N,) of rows from their states and targets."""
        assert self.loss is not None
        weight = self.targets.weight
        row = RowStatistics(
            lambda statistic: statistic.finalize(states) * states.valid,
            num_classes=self.plan.shape[2],
            class_weight=weight,
            weight=None if weight is None or target is None else weight[target],
        )
        return self.loss.of(row)


def setup_of_loss(loss: RowFunction, inputs: Inputs) -> Setup:
    """Return the setup of a loss."""
    name, backend, why_torch = _open(inputs.backend, inputs.head.hidden.device)
    targets, soft = inputs.targets, inputs.targets.soft
    found = prepared(loss, inputs.num_classes, inputs.head.work_dtype, targets.weight)
    trace, compiled = found.trace, found.compiled
    full_logits = trace.reads_full_logits or soft is not None
    if soft is None and trace.reads_target:
        require_target(targets.target)
    _check_row_wise(loss, found, inputs)
    if soft is not None and soft.requires_grad:
        raise ValueError(
            "target must need no gradient in a fused loss, got probabilities that do; pass target.detach(), "
            "or logits: loss(hidden @ linear_weight.T, target)"
        )
    reasons = inputs.reasons()
    if learns(loss, targets.weight):
        if full_logits:
            raise ValueError(
                "numbers in the loss and class weights must need no gradient in a loss of complete rows, "
                "got a tensor that does; pass logits: loss(hidden @ linear_weight.T, target)"
            )
        reasons.append("a number in the loss or a class weight needs a gradient")
    names = trace.states if full_logits else _names(loss, trace, inputs)
    if full_logits or (name == "cpp" and not fits(names)):
        name, backend, why_torch = "torch", TorchBackend(), TOO_MUCH
    if soft is not None:
        why_torch = "target holds probabilities"
    elif name != "cpp":
        why_torch = trace.reason or why_torch
    elif compiled is None:
        why_torch = found.reason
    elif inputs.classes is not None:
        why_torch = "the classes are sharded"
    plan = make_plan(inputs, reasons=reasons, full_logits=full_logits, backend=name, why_torch=why_torch)
    return Setup(
        loss,
        names,
        trace.separate,
        full_logits,
        compiled if plan.program else None,
        found.skips_zero_weight,
        targets,
        inputs.softcap,
        backend if inputs.classes is None else ShardedBackend(backend, inputs.classes),
        plan,
        inputs.classes,
    )


def _names(loss: RowFunction, trace: Trace, inputs: Inputs) -> tuple[StateName, ...]:
    """Return the states that a loss reads, with the soft targets of this call."""
    head = inputs.head
    like = head.hidden.new_empty(0, dtype=head.work_dtype)
    read = statistics_of_call(loss, trace, inputs.num_classes, inputs.targets.weight, like)
    return states_of(read, head.work_dtype)


def setup_of_statistics(statistics: Sequence[Statistic], inputs: Inputs) -> Setup:
    """Return the setup of statistics."""
    name, backend, _ = _open(inputs.backend, inputs.head.hidden.device)
    if any(statistic.reads_target for statistic in statistics):
        require_target(inputs.targets.target)
    names = states_of(statistics, inputs.head.work_dtype)
    if name == "cpp" and not fits(names):
        name, backend = "torch", TorchBackend()
    reasons = ["the statistics may be used in any way"]
    plan = make_plan(inputs, reasons=reasons, full_logits=False, backend=name, why_torch="there is no loss")
    separate = any(statistic.separates_target for statistic in statistics)
    backend = backend if inputs.classes is None else ShardedBackend(backend, inputs.classes)
    return Setup(
        None,
        names,
        separate,
        False,
        None,
        False,
        inputs.targets,
        inputs.softcap,
        backend,
        plan,
        inputs.classes,
    )


def explain(loss: RowFunction, *args: Any, **options: Any) -> Plan:
    """Return the plan of `loss.linear(*args, **options)`, without computing it.

    Args:
        loss: The loss.
        args: As in `Loss.linear`.
        options: As in `Loss.linear`.

    Raises:
        TypeError: As `Loss.linear`.
        ValueError: As `Loss.linear`.

    Example:
        >>> from equipoise.losses import GammaCrossEntropy
        >>> hidden, weight = torch.randn(6, 4, requires_grad=True), torch.randn(10, 4, requires_grad=True)
        >>> print(explain(GammaCrossEntropy(0.1), hidden, weight, torch.arange(6), backend="torch"))
        shape     6 rows, 4 features, 10 classes
        gradient  forward: the loss is a sum over rows with weights known beforehand
        backend   torch
        loss      in torch: backend is torch
        blocks    6 rows x 10 classes
        products  3 of 6 x 4 x 10
        memory    240 bytes for a block of logits (all of them: 240 bytes), 256 bytes for gradients
    """
    inputs = read_inputs(loss, *args, **options, alone=True)
    if inputs.traced:
        raise ValueError(
            "hidden must not be traced or transformed, got a traced one; call explain outside the transform"
        )
    return setup_of_loss(loss, inputs).plan


def check_traced_backend(inputs: Inputs) -> None:
    """Raise if the given backend is one that a tracer or transform cannot record."""
    if _open(inputs.backend, inputs.head.hidden.device)[0] != "torch" and inputs.backend != "auto":
        raise ValueError(f"backend must be 'auto' or 'torch' {TRACED}, got {inputs.backend!r}; leave it out")


def _open(backend: str, device: torch.device) -> tuple[str, Backend, str]:
    """Return the name of the backend for a device, the backend, and the reason why it is not "cpp"."""
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    why_torch = f"there is no kernel for {device.type}" if backend == "auto" else f"backend is {backend}"
    if backend == "triton" or (backend == "auto" and device.type == "cuda"):
        from equipoise.kernels import triton

        if triton.available(device):
            return "triton", triton.TritonBackend(), "backend is triton"
        if backend == "triton":
            raise ValueError(
                f"backend must be 'torch' or 'auto' here, got 'triton', which does not run on {device.type}"
            )
        why_torch = "Triton does not run here"
    if backend == "cpp" or (backend == "auto" and device.type == "cpu"):
        if device.type == "cpu" and cpu.available():
            return "cpp", CppBackend(), ""
        if backend == "cpp":
            raise ValueError(
                f"backend must be 'torch' or 'auto' here, got 'cpp', which does not run on {device.type}; "
                "the kernels are compiled with the package on Linux with g++"
            )
        why_torch = cpu.MISSING
    return "torch", TorchBackend(), why_torch


_row_wise: WeakSet[Prepared] = WeakSet()  # losses without a program that passed `_check_row_wise`


def _check_row_wise(loss: RowFunction, found: Prepared, inputs: Inputs) -> None:
    """Raise if the loss of a row depends on other rows, tested on example statistics.

    A loss with a program is elementwise, and needs no test.
    """
    if found.trace.program is not None or found in _row_wise:
        return
    device, classes, weight = inputs.head.hidden.device, inputs.num_classes, inputs.targets.weight
    statistics = dict.fromkeys(found.trace.statistics)

    def made_up(*shape: int) -> Tensor:
        numbers = torch.linspace(
            0.5, 1.5, torch.Size(shape).numel(), dtype=inputs.head.work_dtype, device=device
        )
        return numbers.reshape(shape)

    values = dict(zip(statistics, made_up(max(1, len(statistics)), 2), strict=False))
    logits = made_up(classes, 2).t() if found.trace.reads_full_logits else None
    target = torch.tensor([0, classes - 1], device=device)

    def losses(rows: slice) -> Tensor:
        return loss.of(
            RowStatistics(
                lambda statistic: values[statistic][rows],
                num_classes=classes,
                class_weight=weight,
                weight=None if weight is None else weight[target[rows]],
                full_logits=None if logits is None else partial(FullLogits, logits[rows], target[rows]),
                plus=None if logits is None else partial(row_statistics_plus, logits[rows], target[rows]),
            )
        )

    with torch.no_grad():
        both, each = losses(slice(2)), [losses(slice(1)), losses(slice(1, 2))]
    if both.shape != (2,) or not torch.allclose(both, torch.cat(each), rtol=1e-4, atol=0, equal_nan=True):
        raise ValueError(
            f"a fused loss must depend on one row at a time, got {loss!r}, whose loss of a row depends on "
            "the "
            "rows beside it; pass logits: loss(hidden @ linear_weight.T, target)"
        )
    _row_wise.add(found)
