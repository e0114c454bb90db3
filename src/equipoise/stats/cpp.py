"""Statistics and slopes of a block of logits by compiled kernels: the counterpart of `FastTile` on a CPU."""

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self, final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from equipoise.stats import kernels
from equipoise.stats.base import Group, State
from equipoise.stats.block import Block
from equipoise.stats.slope import Slope
from equipoise.stats.sums import Sums, laid_out, tried

ASKED = ("ties", "level", "lowest", "larger")  # bit by bit
NUMBERS = 9  # per row, before those of scales and soft targets


@final
@dataclass(frozen=True)
class _Reading:
    """What the first kernel is asked for.

    Args:
        scales: Of the exponentials, the smallest first.
        whole: For each, whether its sum is of all classes.
        totals: Scales whose sum of all classes is asked for where that of the smaller ones is.
        soft: Soft targets.
        bits: Which of `ASKED`; ties are counted where smaller exponentials are summed.
        keeps: Whether the slope needs the exponentials at the first scale and no logits.
    """

    scales: tuple[float, ...]
    whole: tuple[bool, ...]
    totals: tuple[float, ...]
    soft: tuple[Tensor, ...]
    bits: int
    keeps: bool

    @classmethod
    def of(cls, group: Group, device: torch.device) -> Self:
        """Return what a group needs."""
        asked, slope = tried(group, device)
        smaller = {key[1] for key in asked if key[0] == "smaller"} | ({1.0} if "spread" in asked else set())
        totals = {key[1] for key in asked if key[0] == "total"}
        scales = tuple(sorted(smaller | totals))
        bits = sum(
            1 << bit for bit, name in enumerate(ASKED) if name in asked and not (name == "ties" and smaller)
        )
        squares = all(two == 2 * one for one, two in pairwise(scales))
        return cls(
            scales,
            tuple(scale not in smaller for scale in scales),
            tuple(totals & smaller),
            tuple(key[1] for key in asked if key[0] == "soft"),
            bits,
            bool(scales) and squares and slope.gap is None and not slope.marks,
        )


_readings: WeakKeyDictionary[Group, _Reading] = WeakKeyDictionary()


def _reading(group: Group, device: torch.device) -> _Reading:
    if group not in _readings:
        _readings[group] = _Reading.of(group, device)
    return _readings[group]


@final
class CppBlock(Block):
    """A block of logits, read and differentiated by two kernels in float32, or float64 if it is in that.

    Args:
        group: What to compute.
        z: (N, B) raw logits; the classes of a row side by side in memory.
        target: (N,) class of each row, counted over all classes; None where no statistic reads it.
        start: Class of the first column; None where every class is there.
        softcap: s, where the logits are s tanh(z / s).
        spare: Whether z may be overwritten when it is read.
    """

    def __init__(
        self,
        group: Group,
        z: Tensor,
        target: Tensor | None,
        start: int | None = None,
        *,
        softcap: float | None = None,
        spare: bool = False,
    ) -> None:
        super().__init__(group, None if target is None else target.to(torch.int64).contiguous())
        self.z = z if z.shape[1] < 2 or z.stride(1) == 1 else z.contiguous()
        self.start = -1 if start is None else start
        self.softcap = softcap
        self._work = torch.float64 if z.dtype == torch.float64 else torch.float32
        self._spare = spare and start is None and softcap is None and z.dtype == self._work
        self._kept: Tensor | None = None  # what the exponentials that are now in z are relative to
        self._numbers: Tensor | None = None  # what was read

    def read(self, rows: slice) -> None:
        """Look at some rows, whose logits are there by now."""
        reading = _reading(self.group, self.z.device)
        if self._numbers is None:
            count = NUMBERS + len(reading.scales) + 2 * len(reading.soft)
            self._numbers = self.z.new_empty(count, len(self.z), dtype=self._work)
            self._kept = self._numbers[1] if self._spare and reading.keeps else None
            self._sums = self._call(reading.scales, reading.whole, reading.soft, apart=self.group.apart)
        place = self._place(self._sums, rows, self._numbers)
        if not kernels.library().equipoise_sums(self._sums, kernels.KINDS[self.z.dtype], reading.bits, place):
            assert self.target is not None
            wrong = self.target[(self.target < 0) | (self.target >= self.z.shape[1])]
            raise ValueError(
                f"target must be in [0, {self.z.shape[1]}), got {int(wrong[0])}; leave such rows out"
            )

    def states(self) -> list[State]:
        """Return the states of the group's statistics; looks at all rows if that has not been done."""
        reading = _reading(self.group, self.z.device)
        scales, soft = reading.scales, reading.soft
        if self._numbers is None:
            self.read(slice(None))
        assert self._numbers is not None
        own, top, ties, total, classes, bottom, lows, larger, spread, *sums = self._numbers.unbind()
        self._kept = None if self._kept is None else top
        known: dict[Any, Any] = {
            "top": top,
            "ties": ties,
            "level": (total, classes),
            "lowest": (bottom, lows),
            "larger": larger,
            "spread": spread,
        }
        for scale, whole, number in zip(scales, reading.whole, sums, strict=False):
            known["total" if whole else "smaller", scale] = number
        for scale in reading.totals:
            known["total", scale] = ties + known["smaller", scale]
        of_soft = sums[len(scales) :]
        known |= {("soft", t): (of_soft[2 * k], of_soft[2 * k + 1]) for k, t in enumerate(soft)}
        return self.group.of(Sums(own if self.group.apart else None, self.target, known))

    def write(self, slope: Slope, out: Tensor) -> None:
        """Write a slope, times that of the soft cap, to `out` (N, B), which may be z itself."""
        self.writer(slope)(slice(None), out)

    def writer(self, slope: Slope) -> Callable[[slice, Tensor], None]:
        """Return what writes a slope of some rows to as many rows, which may be those of z themselves."""
        least: tuple[float, ...] = ()
        if self._kept is not None:
            slope, least = slope.relative_to(self._kept), _reading(self.group, self.z.device).scales
        scales, soft, numbers = laid_out(slope, self.z.new_empty(len(self.z), dtype=self._work), least)
        call = self._call(scales, soft=soft, apart=slope.own is not None)

        def write(rows: slice, out: Tensor) -> None:
            if out.dtype not in (self.z.dtype, self._work):
                raise ValueError(
                    f"out must be {self.z.dtype} or {self._work}, got {out.dtype}; use torch.empty_like(z)"
                )
            if out.shape[1] > 1 and out.stride(1) != 1:
                raise ValueError(
                    f"out must have the classes of a row side by side, got strides {out.stride()}; "
                    "pass out.contiguous()"
                )
            place, wide = self._place(call, rows, numbers), out.dtype == self._work
            kernels.library().equipoise_slope(
                call,
                kernels.KINDS[self.z.dtype],
                len(slope.marks),
                place,
                out.data_ptr(),
                out.stride(0),
                wide,
            )

        return write

    def _place(self, call: kernels.Call, rows: slice, numbers: Tensor) -> int:
        """Have a call be for some rows, and return where the first of their numbers is."""
        start, stop, _ = rows.indices(len(self.z))
        call.logits = self.z.data_ptr() + start * self.z.stride(0) * self.z.element_size()
        call.rows = stop - start
        if self.target is not None:
            call.target = self.target.data_ptr() + start * self.target.element_size()
        return numbers.data_ptr() + start * numbers.element_size()

    def _call(
        self,
        scales: Sequence[float],
        whole: Sequence[bool] = (),
        soft: Sequence[Tensor] = (),
        *,
        apart: bool,
    ) -> kernels.Call:
        """Return what the kernels are told of the block, but for the rows."""
        tables = [t.to(self._work).contiguous() for t in soft]
        call = kernels.Call(
            None,
            self.z.stride(0),
            *self.z.shape,
            len(self.z),
            None,
            self.start,
            self.softcap or 0.0,
            apart,
            torch.get_num_threads(),
            len(scales),
            (ctypes.c_double * len(scales))(*scales),
            (ctypes.c_int64 * len(whole))(*whole),
            len(tables),
            (ctypes.c_void_p * len(tables))(*(t.data_ptr() for t in tables)),
            (ctypes.c_int64 * len(tables))(*(t.stride(0) if t.ndim == 2 else 0 for t in tables)),
            self._kept is not None,
        )
        call.tables = tables  # they must live as long as it
        return call
