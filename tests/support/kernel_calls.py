"""Programs for the CPU kernel, calls of it on tensors, and its states in plain torch."""

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from equipoise.kernels import cpu

SLOTS = {"max_exp": 5, "rest_exp": 9}
NAMES = [
    *list(cpu.STATES)[:5],
    *(f"{name}{slot}" for name in SLOTS for slot in range(cpu.SCALES)),
    *list(cpu.STATES)[7:],
]  # one for each number
assert len(NAMES) == 23
DIFFERENTIABLE = NAMES[: cpu.DIFFERENTIABLE]


def work_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


class Compiled:
    """A program in the kernel's form.

    Args:
        inputs: Names of states, as in `NAMES`.
        constants: Numbers.
        code: Operations, each a name and the registers it works on.
        result: Register of the loss.
        separate: Whether the target is kept out of the sums.
        scales: Of the exponentials.
        used: Further states.
    """

    def __init__(
        self,
        inputs: Sequence[str],
        constants: Sequence[float] = (),
        code: Sequence[tuple[Any, ...]] = (),
        result: int = 0,
        *,
        separate: bool = True,
        scales: Sequence[float] = (1.0,),
        used: Sequence[str] = (),
    ) -> None:
        ids = [NAMES.index(name) for name in inputs]
        bits = {*ids, *(NAMES.index(name) for name in used)}
        self.used = sorted(bits)
        lines = [cpu.Instruction(cpu.OPS[op], *[*registers, 0, 0][:3]) for op, *registers in code]
        self.struct = cpu.Program(
            separate,
            len(scales),
            (ctypes.c_double * cpu.SCALES)(*scales),
            sum(1 << bit for bit in bits),
            len(ids),
            (ctypes.c_int32 * max(1, len(ids)))(*ids),
            len(constants),
            (ctypes.c_double * max(1, len(constants)))(*constants),
            len(lines),
            (cpu.Instruction * max(1, len(lines)))(*lines),
            result,
        )
        self.address = ctypes.addressof(self.struct)
        self.kept = cpu.library().equipoise_kept(self.address)


def combination(factors: Mapping[str, float], **options: Any) -> Compiled:
    """Return the program of a linear combination of states."""
    count = len(factors)
    code: list[tuple[Any, ...]] = [("mul", k, count + k) for k in range(count)]
    result = 2 * count
    for k in range(1, count):
        code.append(("add", result, 2 * count + k))
        result = 2 * count + len(code) - 1
    return Compiled(list(factors), list(factors.values()), code, result, **options)


@dataclass
class Rows:
    """Rows of logits and what weighs them."""

    logits: Tensor
    target: Tensor | None = None
    weight: Tensor | None = None
    sample_weight: Tensor | None = None
    soft: Tensor | None = None
    softcap: float = 0.0
    start: int = -1
    ignore_index: int = -100
    skip_zero_weight: bool = False
    threads: int = 1

    @property
    def work(self) -> torch.dtype:
        return work_dtype(self.logits.dtype)

    def packed(self) -> bytes:
        z, soft = self.logits, self.soft
        assert z.shape[1] < 2 or z.stride(1) == 1
        return cpu.pack_logits(
            z.data_ptr(), cpu.KINDS[z.dtype], z.stride(0), *z.shape, address(self.target) or 0, self.start,
            self.softcap, address(soft) or 0, soft.stride(0) if soft is not None and soft.ndim == 2 else 0,
            self.threads,
        )  # fmt: skip

    def weights(self) -> tuple[Any, ...]:
        return self.ignore_index, address(self.weight), address(self.sample_weight), self.skip_zero_weight


def address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def states(program: Compiled, rows: Rows) -> dict[str, Tensor]:
    out = torch.empty(len(program.used), len(rows.logits), dtype=rows.work)
    assert cpu.library().equipoise_states(program.address, rows.packed(), out.data_ptr()) == 1
    return {NAMES[bit]: number for bit, number in zip(program.used, out, strict=True)}


def losses(program: Compiled, rows: Rows) -> tuple[Tensor, Tensor, list[float]]:
    """Return the losses (N,), what is kept (N, K), and the two sums."""
    count = len(rows.logits)
    out, kept = torch.empty(count, dtype=rows.work), torch.empty(count, program.kept, dtype=rows.work)
    result = (ctypes.c_double * 2)()
    status = cpu.library().equipoise_losses(
        program.address,
        rows.packed(),
        *rows.weights(),
        out.data_ptr(),
        kept.data_ptr(),
        ctypes.addressof(result),
    )
    assert status == 0, status
    return out, kept, list(result)


def gradient(
    program: Compiled,
    rows: Rows,
    kept: Tensor,
    row_gradient: Tensor | None = None,
    scale: float = 1.0,
    out: Tensor | None = None,
) -> Tensor:
    out = torch.empty_like(rows.logits, memory_format=torch.contiguous_format) if out is None else out
    cpu.library().equipoise_gradient(
        program.address, rows.packed(), kept.data_ptr(), *kept.stride(), address(row_gradient), scale,
        out.data_ptr(), out.stride(0), out.dtype == rows.work,
    )  # fmt: skip
    return out


def losses_and_gradient(
    program: Compiled,
    rows: Rows,
    row_gradient: Tensor | None = None,
    scale: float = 1.0,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor, list[float]]:
    values = torch.empty(len(rows.logits), dtype=rows.work)
    out = torch.empty_like(rows.logits, memory_format=torch.contiguous_format) if out is None else out
    result = (ctypes.c_double * 2)()
    status = cpu.library().equipoise_losses_and_gradient(
        program.address, rows.packed(), *rows.weights(), address(row_gradient), scale, values.data_ptr(),
        out.data_ptr(), out.stride(0), out.dtype == rows.work, ctypes.addressof(result),
    )  # fmt: skip
    assert status == 0, status
    return values, out, list(result)


def states_in_torch(rows: Rows, z: Tensor, *, separate: bool, scales: Sequence[float]) -> dict[str, Tensor]:
    """Return every state (N,) of logits in float64, differentiable."""
    if rows.softcap:
        z = rows.softcap * torch.tanh(z / rows.softcap)
    count, classes = z.shape
    limit = torch.finfo(rows.work).max / 8
    column = torch.full((count,), -1) if rows.target is None else rows.target - max(0, rows.start)
    here = torch.arange(classes) == column[:, None]
    found = here.any(1)
    place = column.clamp(0, classes - 1)[:, None]
    present = z != -torch.inf
    among = present & ~here if separate else present
    safe = torch.where(among, z, 0.0)
    base = torch.where(among, z.detach(), -torch.inf).amax(1)
    least = torch.where(among, z.detach(), torch.inf).amin(1)
    at_max = among & (z == base[:, None])
    below = among & ~at_max
    g = torch.where(among, safe - base.nan_to_num(neginf=0.0)[:, None], 0.0)
    target = torch.where(found, z.gather(1, place)[:, 0], -torch.inf)

    def total(which: Tensor, numbers: Tensor) -> Tensor:
        return torch.where(which, numbers, 0.0).sum(1)

    at_min = among & (z == least[:, None])
    out = {
        "target_logit": target,
        "max_gap": total(at_max, g * g.exp()),
        "rest_gap": total(below, g * g.exp()),
        "min_exp": total(at_min, (safe - least.nan_to_num(posinf=0.0)[:, None]).where(at_min, 0.0).exp()),
        "sum_logit": total(among, safe),
        "base": torch.where(among.any(1), base, -limit),
        "min_base": torch.where(among.any(1), least, limit),
        "count": among.sum(1).double(),
        "greater": (among & (z > target[:, None])).sum(1).double(),
        "class_weight": torch.ones(count, dtype=torch.float64),
    }
    for slot, scale in enumerate(scales):
        out[f"max_exp{slot}"] = total(at_max, (scale * g).exp())
        out[f"rest_exp{slot}"] = total(below, (scale * g).exp())
    if rows.soft is not None:
        table = rows.soft.double()
        first = max(0, rows.start)
        every = table[rows.target] if table.ndim == 2 else table.expand(count, -1)
        t = every[:, first : first + classes]
        out["max_soft"], out["rest_soft"] = total(at_max, t), total(below, t)
        out["max_soft_gap"], out["rest_soft_gap"] = total(at_max, t * g), total(below, t * g)
        if rows.target is not None:
            out["target_soft"] = every.gather(1, rows.target[:, None])[:, 0]
    wrong = (z.isnan() | (z == torch.inf)).any(1)
    return {name: torch.where(wrong, torch.nan, number) for name, number in out.items()}


def expected_gradient(
    rows: Rows, factors: Mapping[str, float], row_factor: Tensor, *, separate: bool, scales: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Return the combination (N,) of states and its gradient (N, C) in float64, by autograd.

    Rows with nan or +inf, and rows of masked classes alone, have nan in both.
    """
    z = rows.logits.double().requires_grad_()
    found = states_in_torch(rows, z, separate=separate, scales=scales)
    value = torch.stack([factor * found[name] for name, factor in factors.items()]).sum(0)
    (gradient,) = torch.autograd.grad((value * row_factor).sum(), z, materialize_grads=True)
    capped = torch.zeros_like(z) if rows.softcap else z
    wrong = (z.isnan() | (capped == torch.inf)).any(1) | (capped == -torch.inf).all(1)
    gradient = torch.where(capped == -torch.inf, 0.0, gradient.detach())
    return torch.where(wrong, torch.nan, value.detach()), torch.where(wrong[:, None], torch.nan, gradient)
