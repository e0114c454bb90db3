"""Blocks of logits: their states, and their gradient given that of the states, by a kernel or in plain torch."""

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, final

import torch
from torch import Tensor

from equipoise.kernels import cpu
from equipoise.statistics.reference import partial
from equipoise.statistics.states import RowStates, SoftTargets, StateName

CONSTANTS = ("base", "min_base", "count", "greater", "max_soft", "rest_soft", "target_soft")  # no gradient


@final
@dataclass(frozen=True)
class Block:
    """Logits of some rows, of all classes or a run of them.

    Args:
        logits: (N, B) as a matrix product gave them, classes side by side.
        names: The numbers of the state that are wanted.
        separate: Whether the target is kept out of the sums.
        target: (N,) class of each row, counted over all classes; None where no statistic reads it.
        start: Class of the first column; None where all classes are there.
        softcap: s, where the logits are s tanh(z / s); None for no cap.
    """

    logits: Tensor
    names: Sequence[StateName]
    separate: bool
    target: Tensor | None = None
    start: int | None = None
    softcap: float | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the states: float32 at least."""
        return torch.float32 if self.logits.dtype.itemsize < 4 else self.logits.dtype


class Backend(Protocol):
    """How the states of blocks and their gradients are computed."""

    name: str

    def states(self, block: Block) -> dict[StateName, Tensor]:
        """Return the numbers (N,) of the state."""
        ...

    def write_gradient(
        self, block: Block, states: Mapping[StateName, Tensor], grads: Mapping[StateName, Tensor], out: Tensor
    ) -> None:
        """Write the gradient of the logits, before the soft cap, to `out` (N, B), which may be the logits.

        Args:
            block: The block.
            states: Its states, or those of all classes where it is a run of them: `base` and `min_base` count.
            grads: The gradients (N,) of numbers of the state; those that are missing are 0.
            out: In the dtype of the logits or of the states.
        """
        ...


@final
class TorchBackend:
    """Plain torch; the gradient is autograd's."""

    name = "torch"

    def states(self, block: Block) -> dict[StateName, Tensor]:
        """Return the numbers (N,) of the state."""
        with torch.no_grad():
            states = _partial(block, block.logits)
            return {name: _number(states, name) for name in block.names}

    def write_gradient(
        self, block: Block, states: Mapping[StateName, Tensor], grads: Mapping[StateName, Tensor], out: Tensor
    ) -> None:
        """Write the gradient of the logits to `out`."""
        leaf = block.logits.detach().requires_grad_()
        with torch.enable_grad():
            found = _partial(block, leaf, states.get(StateName("base")), states.get(StateName("min_base")))
            pairs = [(_number(found, name), grad) for name, grad in grads.items()]
            pairs = [(number, grad) for number, grad in pairs if number.requires_grad]
            if not pairs:
                out.zero_()
                return
            (result,) = torch.autograd.grad(
                [number for number, _ in pairs], leaf, [grad for _, grad in pairs]
            )
        out.copy_(result)


def _partial(
    block: Block, logits: Tensor, base: Tensor | None = None, min_base: Tensor | None = None
) -> RowStates:
    logits = logits.to(block.dtype)
    if block.softcap is not None:
        logits = block.softcap * torch.tanh(logits / block.softcap)
    return partial(
        logits, block.target, separate=block.separate, start=block.start, base=base, min_base=min_base
    )


def _number(states: RowStates, name: StateName) -> Tensor:
    if name.kind == "target_logit":
        return states.target_logit
    if name.kind == "target_soft":
        assert isinstance(name.parameter, SoftTargets)
        return states.target_soft(name.parameter)
    return (states.others if states.separate else states.all).number(name)


@final
class CppBackend:
    """The compiled kernel, on a CPU."""

    name = "cpp"

    def states(self, block: Block) -> dict[StateName, Tensor]:
        """Return the numbers (N,) of the state."""
        program, scales, soft = _request(block.names, block.separate)
        table = None if soft is None else soft.table.detach().to(block.dtype).contiguous()
        order = sorted(dict.fromkeys(block.names), key=lambda name: _state_id(name, scales))
        out = block.logits.new_empty(len(order), len(block.logits), dtype=block.dtype)
        logits = call(block, table)
        if not cpu.library().equipoise_states(
            ctypes.addressof(program), ctypes.addressof(logits), out.data_ptr()
        ):
            assert block.target is not None
            classes = block.logits.shape[1]
            wrong = block.target[(block.target < 0) | (block.target >= classes)]
            raise ValueError(f"target must be in [0, {classes}), got {int(wrong[0])}; leave such rows out")
        return dict(zip(order, out.unbind(), strict=True))

    def write_gradient(
        self, block: Block, states: Mapping[StateName, Tensor], grads: Mapping[StateName, Tensor], out: Tensor
    ) -> None:
        """Write the gradient of the logits to `out`."""
        names = [name for name in grads if name.kind not in CONSTANTS]
        program, scales, soft = _request(names, block.separate)
        table = None if soft is None else soft.table.detach().to(block.dtype).contiguous()
        names.sort(key=lambda name: _state_id(name, scales))
        constants = [StateName("base"), StateName("min_base")][: 1 + any(n.kind == "min_exp" for n in names)]
        kept = torch.stack(
            [*(states[name] for name in constants), *(grads[name].to(block.dtype) for name in names)]
        )
        logits = call(block, table)
        cpu.library().equipoise_gradient(
            ctypes.addressof(program),
            ctypes.addressof(logits),
            kept.data_ptr(),
            1,
            kept.shape[1],
            None,
            1.0,
            out.data_ptr(),
            out.stride(0),
            out.dtype == block.dtype,
        )


def call(block: Block, table: Tensor | None) -> cpu.Logits:
    """Return a block as the kernel reads it; the tensors must outlive the call."""
    target = block.target
    return cpu.Logits(
        block.logits.data_ptr(),
        cpu.KINDS[block.logits.dtype],
        block.logits.stride(0),
        *block.logits.shape,
        None if target is None else target.data_ptr(),
        -1 if block.start is None else block.start,
        block.softcap or 0.0,
        None if table is None else table.data_ptr(),
        0 if table is None or table.ndim == 1 else table.stride(0),
        torch.get_num_threads(),
    )


def _request(
    names: Sequence[StateName], separate: bool
) -> tuple[cpu.Program, list[float], SoftTargets | None]:
    """Return a program without instructions that asks for numbers of a state, its scales and soft targets."""
    scales = sorted({n.parameter for n in names if n.kind in ("max_exp", "rest_exp")})  # pyright: ignore[reportArgumentType]
    soft = next((name.parameter for name in names if isinstance(name.parameter, SoftTargets)), None)
    used = sum(1 << number for number in {_state_id(name, scales) for name in names})
    return (
        cpu.Program(separate, len(scales), (ctypes.c_double * 4)(*scales), used, 0, None, 0, None, 0, None, 0),
        scales,
        soft,
    )


def _state_id(name: StateName, scales: Sequence[float]) -> int:
    if name.kind in ("max_exp", "rest_exp"):
        assert isinstance(name.parameter, float | int)
        return cpu.STATES[name.kind] + scales.index(name.parameter)
    return cpu.STATES[name.kind]
