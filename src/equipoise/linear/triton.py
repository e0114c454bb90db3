"""Statistics and slopes of a block of logits by two Triton kernels: the counterpart of `FastTile` on a GPU.

A matrix product of torch's made the block. One kernel reads it once for every sum that is asked for, the
other turns it into its derivative. In the kernels `i_` is an index, `o_` are offsets, `m_` is a mask and `b_`
a block in registers.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache, lru_cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, TypeAlias, final

import torch
from torch import Tensor

from equipoise.stats.base import Group, State
from equipoise.stats.block import Block
from equipoise.stats.slope import Slope
from equipoise.stats.sums import Sums, laid_out, tried
from equipoise.stats.tile import finite_limit

BLOCK = 4096  # most logits that a program holds at a time

# What the kernels name of Triton: `_kernels` finds it when first needed, as importing this must be light.
tl: Any = None
_capped: Any = None
constexpr: TypeAlias = Any


def available(device: torch.device) -> bool:
    """Whether the kernels can run there: on a GPU, or anywhere if TRITON_INTERPRET=1 was set in time."""
    if find_spec("triton") is None:
        return False
    return device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"


@final
class TritonBlock(Block):
    """A block of logits, read and differentiated by two kernels in float32, or float64 if it is in that.

    Args:
        group: What to compute.
        z: (N, B) raw logits; the classes of a row side by side in memory.
        target: (N,) class of each row, counted over all classes; None where no statistic reads it.
        start: Class of the first column; None where every class is there.
        softcap: s, where the logits are s tanh(z / s).
    """

    def __init__(
        self,
        group: Group,
        z: Tensor,
        target: Tensor | None,
        start: int | None = None,
        *,
        softcap: float | None = None,
    ) -> None:
        _check(z, "z")
        super().__init__(group, None if target is None else target.contiguous())
        self.z = z
        self.start = start or 0
        self.softcap = softcap
        self._work = torch.float64 if z.dtype == torch.float64 else torch.float32

    def states(self) -> list[State]:
        """Return the states of the group's statistics, after one look at the block."""
        asked, _ = tried(self.group, self.z.device)
        scales = tuple(dict.fromkeys(key[1] for key in asked if key[0] in ("smaller", "total")))
        soft = tuple(key[1] for key in asked if key[0] == "soft")
        spread = "spread" in asked
        if spread and 1.0 not in scales:
            scales = (*scales, 1.0)
        count = len(scales)
        out = self.z.new_empty(7 + 2 * count + 2 * len(soft), len(self.z), dtype=self._work)
        self._launch(
            0,
            (len(self.z),),
            scales,
            soft,
            out,
            apart=self.group.apart,
            spread=spread,
            level="level" in asked,
            lowest="lowest" in asked,
        )
        own, top, ties, total, classes, bottom, lows, *sums = out
        known: dict[Any, Any] = {
            "top": top,
            "ties": ties,
            "empty": top == -torch.inf,
            "level": (total, classes),
            "lowest": (bottom, lows),
        }
        known |= {("smaller", scale): sums[k] for k, scale in enumerate(scales)}
        known |= {
            ("total", scale): ties + sums[k] for k, scale in enumerate(scales) if ("total", scale) in asked
        }
        if "larger" in asked and self.target is not None:  # whole rows: the cap changes no order
            raw = self.z.gather(1, self.target[:, None])
            known["larger"] = (self.z > raw).sum(1).to(self._work)
        if spread:
            known["spread"] = sums[count + scales.index(1.0)]
        of_soft = zip(sums[2 * count :][: len(soft)], sums[2 * count + len(soft) :], strict=True)
        known |= {("soft", t): pair for t, pair in zip(soft, of_soft, strict=True)}
        return self.group.of(Sums(own if self.group.apart else None, self.target, known))

    def write(self, slope: Slope, out: Tensor) -> None:
        """Write a slope, times that of the soft cap, to `out` (N, B) of any dtype, which may be z itself."""
        _check(out, "out")
        scales, soft, numbers = laid_out(slope, self.z.new_empty(len(self.z), dtype=self._work))
        self._launch(
            1,
            (len(self.z), -(-self.z.shape[1] // self._block)),
            scales,
            soft,
            numbers,
            out,
            out.stride(0),
            marks=len(slope.marks),
            own=slope.own is not None,
        )

    @property
    def _block(self) -> int:
        return min(BLOCK, _power_of_two(self.z.shape[1]))

    def _launch(
        self,
        kernel: int,
        grid: tuple[int, ...],
        scales: tuple[float, ...],
        soft: Sequence[Tensor],
        numbers: Tensor,
        *arguments: Any,
        **constants: Any,
    ) -> None:
        soft = tuple(t if t.stride(-1) == 1 else t.contiguous() for t in soft)
        with torch.cuda.device_of(self.z):
            _kernels()[kernel][grid](
                self.z,
                self.z.stride(0),
                *self.z.shape,
                self.start,
                self.target,
                _constants((self.softcap or 1.0, *scales), self._work, self.z.device),
                soft,
                tuple(t.stride(0) if t.ndim == 2 else 0 for t in soft),
                numbers,
                *arguments,
                **constants,
                powers=len(scales),
                soft=len(soft),
                padded=_power_of_two(max(len(scales), len(soft))),
                capped=self.softcap is not None,
                far=-finite_limit(self._work) / 8,
                block=self._block,
                num_warps=max(1, min(8, self._block // 256)),
                # a capped logit must be the same to the bit in both kernels, as the largest are compared
                enable_fp_fusion=self.softcap is None,
            )


@lru_cache(maxsize=128)
def _constants(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    # Not arguments of the kernel: it would round them to float32.
    return torch.tensor(values, dtype=dtype, device=device)


def _power_of_two(number: int) -> int:
    return 1 << max(0, number - 1).bit_length()


def _check(block: Tensor, name: str) -> None:
    if block.shape[1] > 1 and block.stride(1) != 1:
        raise ValueError(
            f"{name} must have the classes of a row side by side, got strides {block.stride()}; "
            f"pass {name}.contiguous()"
        )


@cache
def _kernels() -> tuple[Any, Any]:
    triton: Any = import_module("triton")
    language: Any = import_module("triton.language")
    globals().update(tl=language, constexpr=language.constexpr, _capped=triton.jit(_cap))
    return triton.jit(_statistics), triton.jit(_gradient)


def _cap(b_z, s):
    """Return s tanh(z / s) and its derivative, neither of which cancels."""
    b_x = b_z / s
    b_q = b_x * b_x
    b_t = tl.exp(-2 * tl.abs(b_x))
    b_near = b_q * (-17 / 315 + b_q * (62 / 2835 - b_q * (1382 / 155925)))
    b_near = b_x * (1 + b_q * (-1 / 3 + b_q * (2 / 15 + b_near)))
    b_far = tl.where(b_x < 0, b_t - 1, 1 - b_t) / (1 + b_t)
    return s * tl.where(tl.abs(b_x) < 0.1, b_near, b_far), 4 * b_t / ((1 + b_t) * (1 + b_t))


def _statistics(
    z, z_stride, rows, width, start, target, constants, softs, soft_strides, out,
    powers: constexpr, apart: constexpr, spread: constexpr, level: constexpr, lowest: constexpr,
    soft: constexpr, padded: constexpr, capped: constexpr, far: constexpr, block: constexpr,
):  # fmt: skip
    """Write the sums of a row: relative to its largest logit so far, and moved when a larger one comes."""
    i_n = tl.program_id(0).to(tl.int64)
    work = out.dtype.element_ty
    z += i_n * z_stride
    out += i_n
    s = tl.load(constants)
    o_k = tl.arange(0, padded)
    b_c = tl.load(constants + 1 + o_k, mask=o_k < powers, other=1.0)
    y = tl.full((), 0, tl.int64)
    if target is not None:
        y = tl.load(target + i_n).to(tl.int64)
    column = y - start
    if apart:
        here = (column >= 0) & (column < width)
        own = tl.load(z + column, mask=here, other=0.0).to(work)
        if capped:
            own = _capped(own, s)[0]
        tl.store(out, tl.where(here, own, -float("inf")))

    top = tl.full((), -float("inf"), work)
    bottom = tl.full((), float("inf"), work)
    ties = tl.zeros((), work)
    lows = tl.zeros((), work)
    total = tl.zeros((), work)
    classes = tl.zeros((), work)
    bad = tl.zeros((), work)
    smaller = tl.zeros((padded,), work)
    gaps = tl.zeros((padded,), work)
    soft_gaps = tl.zeros((padded,), work)
    soft_sums = tl.zeros((padded,), work)
    for i_b in range(0, width, block):
        o_b = i_b + tl.arange(0, block)
        m_b = o_b < width
        b_z = tl.load(z + o_b, mask=m_b, other=0.0).to(work)
        if capped:
            b_z = _capped(b_z, s)[0]
        b_z = tl.where(m_b, b_z, -float("inf"))
        bad += tl.sum(tl.where((b_z != b_z) | (b_z == float("inf")), 1.0, 0.0), 0).to(work)
        if level:
            m_z = b_z == -float("inf")
            total += tl.sum(tl.where(m_z, 0.0, b_z), 0)
            classes += tl.sum(tl.where(m_z, 0.0, 1.0), 0).to(work)
        if apart:
            b_z = tl.where(o_b == column, -float("inf"), b_z)
        m_z = b_z == -float("inf")
        if lowest:
            lower = tl.minimum(bottom, tl.min(tl.where(m_z, float("inf"), b_z), 0))
            lows = tl.where(lower == bottom, lows, 0.0)
            lows += tl.sum(tl.where(b_z == lower, 1.0, 0.0), 0).to(work)
            bottom = lower

        higher = tl.maximum(top, tl.max(b_z, 0))
        base = tl.where(higher == -float("inf"), 0.0, higher)
        m_top = b_z == higher
        # At the largest the gap is zero, or nan where that is infinite, as it should be for its sums.
        b_gap = tl.where(m_z, far, b_z - base)
        b_gap = tl.where(b_gap < far, far, b_gap)
        drop = tl.where(top - base < far, far, top - base)
        if powers > 0:
            b_r = tl.exp(b_c * drop)
            if spread:
                gaps = b_r * gaps - (b_r * drop) * (smaller + ties)
            smaller = b_r * (smaller + tl.where(top == higher, 0.0, ties))
            for k in tl.static_range(powers):
                b_e = tl.exp(tl.load(constants + 1 + k) * b_gap)
                b_e = tl.where(m_z, 0.0, tl.where(m_top, b_gap, b_e))
                smaller += tl.where(o_k == k, tl.sum(b_e, 0), 0.0)
                if spread:
                    gaps -= tl.where(o_k == k, tl.sum(b_e * b_gap, 0), 0.0)
        soft_gaps -= drop * soft_sums
        for j in tl.static_range(soft):
            t = softs[j] + tl.maximum(y, 0) * soft_strides[j] + start
            b_t = tl.load(t + o_b, mask=b_z != -float("inf"), other=0.0).to(work)
            soft_gaps -= tl.where(o_k == j, tl.sum(b_t * b_gap, 0), 0.0)
            soft_sums += tl.where(o_k == j, tl.sum(b_t, 0), 0.0)
        ties = tl.where(top == higher, ties, 0.0)
        ties += tl.sum(tl.where(m_top & (b_z != -float("inf")), 1.0, 0.0), 0).to(work)
        top = higher

    tl.store(out + rows, tl.where(bad > 0, float("nan"), top))  # a maximum may leave nan out
    tl.store(out + 2 * rows, ties)
    tl.store(out + 3 * rows, total)
    tl.store(out + 4 * rows, classes)
    tl.store(out + 5 * rows, bottom)
    tl.store(out + 6 * rows, lows)
    out += 7 * rows
    tl.store(out + o_k * rows, smaller, mask=o_k < powers)
    tl.store(out + (powers + o_k) * rows, gaps, mask=o_k < powers)
    out += 2 * powers * rows
    tl.store(out + o_k * rows, soft_gaps, mask=o_k < soft)
    tl.store(out + (soft + o_k) * rows, soft_sums, mask=o_k < soft)


def _gradient(
    z, z_stride, rows, width, start, target, constants, softs, soft_strides, numbers, out, out_stride,
    powers: constexpr, marks: constexpr, own: constexpr,
    soft: constexpr, padded: constexpr, capped: constexpr, far: constexpr, block: constexpr,
):  # fmt: skip
    """Write the slope over a part of a row; `numbers` holds what it is made of, a row for each number."""
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
    m_z = b_z == -float("inf")

    top = tl.load(numbers)
    b_gap = tl.where(m_z, far, b_z - tl.where(top == -float("inf"), 0.0, top))
    b_gap = tl.where(b_gap < far, far, b_gap)
    b_s = tl.zeros((block,), work) + tl.load(numbers + rows)
    of = numbers + 3 * rows
    for k in tl.static_range(powers):
        b_e = tl.exp(tl.load(constants + 1 + k) * b_gap)
        b_s += tl.load(of + k * rows) * b_e + tl.load(of + (powers + k) * rows) * (b_e * b_gap)
    of += 2 * powers * rows
    for k in tl.static_range(marks):
        b_s += tl.where(b_z == tl.load(of + k * rows), tl.load(of + (marks + k) * rows), 0.0)
    of += 2 * marks * rows
    for j in tl.static_range(soft):
        t = softs[j] + tl.maximum(y, 0) * soft_strides[j] + start
        b_t = tl.load(t + o_b, mask=m_b, other=0.0).to(work)
        b_s += tl.load(of + j * rows) * b_t
    b_s = tl.where(m_z, 0.0, b_s)
    if own:
        b_s = tl.where(o_b == y - start, tl.load(numbers + 2 * rows), b_s)
    tl.store(out + i_n * out_stride + o_b, (b_s * b_d).to(out.dtype.element_ty), mask=m_b)
