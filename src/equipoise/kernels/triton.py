"""The Triton backend: states of blocks of logits, and gradients, by two kernels on a GPU.

One kernel computes all states in one pass over a block, the other writes the gradient. In the kernels, the
prefix `i_` is an index, `o_` offsets, `m_` a mask and `b_` a block in registers.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, lru_cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, TypeAlias, final

import torch
from torch import Tensor

from equipoise.kernels.block import Block
from equipoise.statistics.states import FAR, SoftTargets, StateName, finite_limit

BLOCK = 4096  # largest number of logits in the registers of a Triton program
SUMS: tuple[str, ...] = (
    "target_logit",
    "base",
    "max_exp",
    "sum_logit",
    "count",
    "min_base",
    "min_exp",
    "greater",
    "rest_gap",
)

# Names of Triton in the kernels: `_kernels` imports Triton on its first call, as the import is slow.
tl: Any = None
_capped: Any = None
constexpr: TypeAlias = Any


def available(device: torch.device) -> bool:
    """Return whether the kernels can run on a device: a GPU, or any with TRITON_INTERPRET=1."""
    if find_spec("triton") is None:
        return False
    return device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"


@final
class TritonBackend:
    """Two kernels, in float32, or in float64 for float64 logits; see `Backend`."""

    name = "triton"

    def states(self, block: Block) -> dict[StateName, Tensor]:
        """Return the states (N,) by name; all are nan for a row with a nan or plus infinity."""
        kinds = {name.kind for name in block.names}
        scales = _scales(block.names)
        tables = _tables(block.names)
        count = len(SUMS) + len(scales) + 3 * len(tables)
        out = block.logits.new_empty(count, len(block.logits), dtype=block.dtype)
        info = torch.finfo(block.dtype)
        _launch(
            0,
            block,
            scales,
            tables,
            (out,),
            level=not kinds.isdisjoint(("sum_logit", "count")),
            least=not kinds.isdisjoint(("min_base", "min_exp")),
            greater="greater" in kinds,
            gap="rest_gap" in kinds,
            lowest=info.min,
        )
        numbers = dict(zip(SUMS, out, strict=False))
        rest_exp = dict(zip(scales, out[len(SUMS) :], strict=False))
        of_tables = out[len(SUMS) + len(scales) :].unflatten(0, (3, len(tables))).unbind(1)
        soft = dict(zip(tables, of_tables, strict=True))

        def read(name: StateName) -> Tensor:
            kind, parameter = name
            if kind in ("max_gap", "max_soft_gap"):
                return numbers["base"] - numbers["base"]  # nan for a bad row
            if kind == "rest_exp":
                assert isinstance(parameter, float | int)
                return rest_exp[parameter]
            if kind == "target_soft":
                assert isinstance(parameter, SoftTargets)
                return _target_soft(block, parameter)
            if isinstance(parameter, SoftTargets):
                return soft[parameter][("max_soft", "rest_soft", "rest_soft_gap").index(kind)]
            return numbers[kind]

        return {name: read(name) for name in block.names}

    def write_gradient(
        self, block: Block, states: Mapping[StateName, Tensor], grads: Mapping[StateName, Tensor], out: Tensor
    ) -> None:
        """Write the gradient of the logits to `out`, nan in each entry of a bad row."""
        _check(out, "out")
        scales, tables = _scales(grads), _tables(grads)
        zero = block.logits.new_zeros(len(block.logits), dtype=block.dtype)

        def grad(kind: str, parameter: float | SoftTargets | None = None) -> Tensor:
            found = grads.get(StateName(kind, parameter))
            return zero if found is None else found.to(block.dtype)

        at_max = grad("max_gap")
        for name, found in grads.items():
            if name.kind == "max_exp":
                at_max = at_max + name.parameter * found.to(block.dtype)  # pyright: ignore[reportOperatorIssue]
        least = StateName("min_exp") in grads
        coefficients = [
            at_max,
            grad("sum_logit"),
            grad("target_logit"),
            grad("rest_gap"),
            grad("min_exp"),
            *(scale * grad("rest_exp", scale) for scale in scales),
            *(grad("max_soft_gap", table) for table in tables),
            *(grad("rest_soft_gap", table) for table in tables),
        ]
        base = states[StateName("base")]
        min_base = states[StateName("min_base")] if least else zero
        numbers = torch.stack([base, min_base, *coefficients])
        numbers[0].masked_fill_(numbers.isnan().any(0), torch.nan)  # of a bad row, only the base is read
        _launch(
            1,
            block,
            scales,
            tables,
            (numbers, out, out.stride(0)),
            least=least,
            gap=StateName("rest_gap") in grads,
        )


def _scales(names: Iterable[StateName]) -> tuple[float, ...]:
    """Return the scales of exponentials below the base; 1 comes first if `rest_gap` is among the names."""
    found = [name.parameter for name in names if name.kind == "rest_exp"]
    first = [1.0] if any(name.kind == "rest_gap" for name in names) else []
    return tuple(dict.fromkeys([*first, *found]))  # pyright: ignore[reportReturnType]


def _tables(names: Iterable[StateName]) -> tuple[SoftTargets, ...]:
    """Return the soft targets of sums over the classes."""
    found = [name.parameter for name in names if name.kind != "target_soft"]
    return tuple(dict.fromkeys(parameter for parameter in found if isinstance(parameter, SoftTargets)))


def _target_soft(block: Block, soft: SoftTargets) -> Tensor:
    assert block.target is not None
    table = soft.table.detach().to(block.logits.device, block.dtype)
    return table[block.target] if table.ndim == 1 else table[block.target, block.target]


def _launch(
    kernel: int,
    block: Block,
    scales: tuple[float, ...],
    softs: Sequence[SoftTargets],
    arguments: tuple[Any, ...],
    **constants: Any,
) -> None:
    z, target = block.logits, block.target
    _check(z, "logits")
    size = min(BLOCK, _padded(z.shape[1]))
    tables = [soft.table.detach().to(z.device) for soft in softs]
    tables = tuple(table if table.stride(-1) == 1 else table.contiguous() for table in tables)
    grid = (len(z),) if kernel == 0 else (len(z), -(-z.shape[1] // size))
    with torch.cuda.device_of(z):
        _kernels()[kernel][grid](
            z,
            z.stride(0),
            *z.shape,
            block.start or 0,
            None if target is None else target.contiguous(),
            _constants((block.softcap or 1.0, *scales), block.dtype, z.device),
            tables,
            tuple(table.stride(0) if table.ndim == 2 else 0 for table in tables),
            *arguments,
            **constants,
            scales=len(scales),
            soft=len(tables),
            padded=_padded(max(len(scales), len(tables))),
            separate=block.separate,
            capped=block.softcap is not None,
            far=-FAR,
            limit=-finite_limit(block.dtype),
            block=size,
            num_warps=max(1, min(8, size // 256)),
            # both kernels must give equal bits for a capped logit, as they compare logits with the largest
            enable_fp_fusion=block.softcap is None,
        )


@lru_cache(maxsize=128)
def _constants(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    # Constants, as arguments would be rounded to float32.
    return torch.tensor(values, dtype=dtype, device=device)


def _padded(number: int) -> int:
    """Return the smallest power of two that is at least a number."""
    return 1 << max(0, number - 1).bit_length()


def _check(block: Tensor, name: str) -> None:
    if block.shape[1] > 1 and block.stride(1) != 1:
        raise ValueError(
            f"{name} must have contiguous rows, got strides {block.stride()}; pass {name}.contiguous()"
        )


@cache
def _kernels() -> tuple[Any, Any]:
    triton: Any = import_module("triton")
    language: Any = import_module("triton.language")
    globals().update(tl=language, constexpr=language.constexpr, _capped=triton.jit(_cap))
    return triton.jit(_sums), triton.jit(_gradient)


def _cap(b_z, s):
    """Return s tanh(z / s) and its derivative, both without cancellation."""
    b_x = b_z / s
    b_q = b_x * b_x
    b_t = tl.exp(-2 * tl.abs(b_x))
    b_near = b_q * (-17 / 315 + b_q * (62 / 2835 - b_q * (1382 / 155925)))
    b_near = b_x * (1 + b_q * (-1 / 3 + b_q * (2 / 15 + b_near)))
    b_far = tl.where(b_x < 0, b_t - 1, 1 - b_t) / (1 + b_t)
    return s * tl.where(tl.abs(b_x) < 0.1, b_near, b_far), 4 * b_t / ((1 + b_t) * (1 + b_t))


def _sums(
    z, z_stride, rows, width, start, target, constants, tables, table_strides, out,
    scales: constexpr, soft: constexpr, padded: constexpr, separate: constexpr, capped: constexpr,
    level: constexpr, least: constexpr, greater: constexpr, gap: constexpr,
    lowest: constexpr, far: constexpr, limit: constexpr, block: constexpr,
):  # fmt: skip
    """Write the states of a row, in one pass: rescale the sums whenever a larger logit is found."""
    i_n = tl.program_id(0).to(tl.int64)
    work = out.dtype.element_ty
    z += i_n * z_stride
    out += i_n
    s = tl.load(constants)
    o_k = tl.arange(0, padded).to(tl.int64)
    b_c = tl.load(constants + 1 + o_k, mask=o_k < scales, other=1.0)
    y = tl.full((), 0, tl.int64)
    if target is not None:
        y = tl.load(target + i_n).to(tl.int64)
    column = y - start
    target_logit = tl.full((), -float("inf"), work)
    if separate:
        m_y = (column >= 0) & (column < width)
        target_logit = tl.load(z + column, mask=m_y, other=0.0).to(work)
        if capped:
            target_logit = _capped(target_logit, s)[0]
        target_logit = tl.where(m_y, target_logit, -float("inf"))

    top = tl.full((), -float("inf"), work)
    bottom = tl.full((), float("inf"), work)
    ties = tl.zeros((), work)
    lows = tl.zeros((), work)
    total = tl.zeros((), work)
    classes = tl.zeros((), work)
    above = tl.zeros((), work)
    bad = tl.zeros((), work)
    below = tl.zeros((padded,), work)
    rest_gap = tl.zeros((), work)
    max_soft = tl.zeros((padded,), work)
    rest_soft = tl.zeros((padded,), work)
    soft_gap = tl.zeros((padded,), work)
    for i_b in range(0, width, block):
        o_b = i_b + tl.arange(0, block)
        m_b = o_b < width
        b_z = tl.load(z + o_b, mask=m_b, other=0.0).to(work)
        if capped:
            b_z = _capped(b_z, s)[0]
        b_z = tl.where(m_b, b_z, -float("inf"))
        bad += tl.sum(tl.where((b_z != b_z) | (b_z == float("inf")), 1.0, 0.0), 0).to(work)
        if separate:
            b_z = tl.where(o_b == column, -float("inf"), b_z)
        m_z = b_z == -float("inf")
        if level:
            total += tl.sum(tl.where(m_z, 0.0, b_z), 0)
            classes += tl.sum(tl.where(m_z, 0.0, 1.0), 0).to(work)
        if least:
            lower = tl.minimum(bottom, tl.min(tl.where(m_z, float("inf"), b_z), 0))
            lows = tl.where(lower == bottom, lows, 0.0)
            lows += tl.sum(tl.where((b_z == lower), 1.0, 0.0), 0).to(work)
            bottom = lower
        if greater:
            above += tl.sum(tl.where(b_z > target_logit, 1.0, 0.0), 0).to(work)

        higher = tl.maximum(top, tl.max(b_z, 0))
        base = tl.where(higher == -float("inf"), 0.0, higher)
        m_top = (b_z == higher) & (b_z != -float("inf"))
        m_rest = (b_z != higher) & (b_z != -float("inf"))
        b_gap = tl.where(m_rest, b_z - base, 0.0)
        b_near = tl.maximum(b_gap, far)
        beaten = tl.where(top == higher, 0.0, ties)
        drop = tl.maximum(top - base, far)
        if gap:
            one = tl.sum(tl.where(o_k == 0, below, 0.0), 0)
            rest_gap = tl.exp(drop) * (rest_gap + drop * (one + beaten))
        below = tl.exp(b_c * drop) * (below + beaten)
        for k in tl.static_range(scales):
            b_e = tl.where(m_rest, tl.exp(tl.load(constants + 1 + k) * b_near), 0.0)
            below += tl.where(o_k == k, tl.sum(b_e, 0), 0.0)
            if gap and k == 0:
                rest_gap += tl.sum(b_e * b_near, 0)
        if soft > 0:
            drop = tl.maximum(top - base, limit)
            b_gap = tl.maximum(b_gap, limit)
            lost = tl.where(top == higher, 0.0, max_soft)
            soft_gap += drop * (rest_soft + lost)
            rest_soft += lost
            max_soft -= lost
        for j in tl.static_range(soft):
            t = tables[j] + tl.maximum(y, 0) * table_strides[j] + start
            b_t = tl.load(t + o_b, mask=m_top | m_rest, other=0.0).to(work)
            max_soft += tl.where(o_k == j, tl.sum(tl.where(m_top, b_t, 0.0), 0), 0.0)
            rest_soft += tl.where(o_k == j, tl.sum(tl.where(m_top, 0.0, b_t), 0), 0.0)
            soft_gap += tl.where(o_k == j, tl.sum(b_t * b_gap, 0), 0.0)
        ties = tl.where(top == higher, ties, 0.0) + tl.sum(tl.where(m_top, 1.0, 0.0), 0).to(work)
        top = higher

    # A row with all classes masked is not bad; a maximum may ignore nan.
    usable = tl.where(bad > 0, float("nan"), 0.0).to(work)
    tl.store(out, target_logit + usable)
    tl.store(out + rows, tl.where(top == -float("inf"), lowest, top) + usable)
    out += 2 * rows
    tl.store(out, ties + usable)
    tl.store(out + rows, total + usable)
    out += 2 * rows
    tl.store(out, classes + usable)
    tl.store(out + rows, tl.where(bottom == float("inf"), -lowest, bottom) + usable)
    out += 2 * rows
    tl.store(out, lows + usable)
    tl.store(out + rows, above + usable)
    out += 2 * rows
    tl.store(out, rest_gap + usable)
    out += rows
    tl.store(out + o_k * rows, below + usable, mask=o_k < scales)
    out += scales * rows
    tl.store(out + o_k * rows, max_soft + usable, mask=o_k < soft)
    out += soft * rows
    tl.store(out + o_k * rows, rest_soft + usable, mask=o_k < soft)
    out += soft * rows
    tl.store(out + o_k * rows, soft_gap + usable, mask=o_k < soft)


def _gradient(
    z, z_stride, rows, width, start, target, constants, tables, table_strides, numbers, out, out_stride,
    scales: constexpr, soft: constexpr, padded: constexpr, separate: constexpr, capped: constexpr,
    least: constexpr, gap: constexpr, far: constexpr, limit: constexpr, block: constexpr,
):  # fmt: skip
    """Write the gradient of a part of a row; the rows of `numbers` are the bases and the coefficients."""
    i_n = tl.program_id(0).to(tl.int64)
    work = numbers.dtype.element_ty
    numbers += i_n
    s = tl.load(constants)
    y = tl.full((), 0, tl.int64)
    if target is not None:
        y = tl.load(target + i_n).to(tl.int64)
    o_b = tl.program_id(1) * block + tl.arange(0, block)
    m_b = o_b < width
    b_z = tl.load(z + i_n * z_stride + o_b, mask=m_b, other=0.0).to(work)
    b_d = tl.full((block,), 1.0, work)
    if capped:
        b_z, b_d = _capped(b_z, s)

    base = tl.load(numbers)
    m_top = b_z == base
    b_gap = tl.where(m_top, 0.0, b_z - base)
    b_near = tl.maximum(b_gap, far)
    b_rest = tl.zeros((block,), work)
    of = numbers + 7 * rows
    for k in tl.static_range(scales):
        b_e = tl.exp(tl.load(constants + 1 + k) * b_near)
        b_rest += tl.load(of) * b_e
        if gap and k == 0:
            b_rest += tl.load(numbers + 5 * rows) * ((1 + b_near) * b_e)
        of += rows
    b_g = tl.where(m_top, tl.load(numbers + 2 * rows), b_rest)
    for j in tl.static_range(soft):
        t = tables[j] + tl.maximum(y, 0) * table_strides[j] + start
        b_t = tl.load(t + o_b, mask=m_b, other=0.0).to(work)
        b_low = tl.load(of + soft * rows)
        b_g += b_t * tl.where(m_top, tl.load(of), tl.where(b_gap >= limit, b_low, 0.0))
        of += rows
    b_g += tl.load(numbers + 3 * rows)
    if least:
        b_g += tl.where(b_z == tl.load(numbers + rows), tl.load(numbers + 6 * rows), 0.0)
    if separate:
        b_g = tl.where(o_b == y - start, tl.load(numbers + 4 * rows), b_g)
    b_g = tl.where(b_z == -float("inf"), 0.0, b_g * b_d)
    b_g = tl.where((base != base) | (base == float("inf")), float("nan"), b_g)
    tl.store(out + i_n * out_stride + o_b, b_g.to(out.dtype.element_ty), mask=m_b)
