"""Statistics and slopes of a block of logits by two compiled kernels: the counterpart of `FastTile` on a CPU.

The kernels, `kernels.cpp`, are compiled where the package is built, once for each kind of vector instructions
that the processor may have. They run on torch's own threads.
"""

import ctypes
import platform
import sys
import warnings
from functools import cache
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from equipoise.stats.base import Group, State
from equipoise.stats.slope import Slope
from equipoise.stats.sums import Sums, asked_by, laid_out
from equipoise.stats.tile import finite_limit

KINDS = {torch.float64: 0, torch.float32: 1, torch.bfloat16: 2, torch.float16: 3}
ASKED = ("ties", "spread", "level", "lowest", "larger")  # bit by bit
NUMBERS = 9  # per row, before those of scales and soft targets


class _Block(ctypes.Structure):
    """What the kernels call a block."""

    _fields_ = (
        ("logits", ctypes.c_void_p),
        ("stride", ctypes.c_int64),
        ("rows", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("target", ctypes.c_void_p),
        ("start", ctypes.c_int64),
        ("cap", ctypes.c_double),
        ("apart", ctypes.c_int64),
        ("threads", ctypes.c_int64),
        ("powers", ctypes.c_int64),
        ("scales", ctypes.c_void_p),
        ("whole", ctypes.c_void_p),
        ("soft", ctypes.c_int64),
        ("softs", ctypes.c_void_p),
        ("soft_strides", ctypes.c_void_p),
        ("kept", ctypes.c_void_p),
    )


@final
class CppBlock:
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
        self.group = group
        self.z = z if z.shape[1] < 2 or z.stride(1) == 1 else z.contiguous()
        self.target = None if target is None else target.to(torch.int64).contiguous()
        self.start = -1 if start is None else start
        self.softcap = softcap
        self._work = torch.float64 if z.dtype == torch.float64 else torch.float32
        alone = start is None and softcap is None and z.dtype == self._work
        self._keeps = spare and alone and group.light is not None
        self._kept: Tensor | None = None  # what the exponentials that are now in z are relative to

    def states(self) -> list[State]:
        """Return the states of the group's statistics, after one look at the block."""
        asked = asked_by(self.group, self.z.device)
        smaller = [key[1] for key in asked if key[0] == "smaller"]
        if "spread" in asked and 1.0 not in smaller:
            smaller.append(1.0)
        whole = [key[1] for key in asked if key[0] == "total" and key[1] not in smaller]
        soft = [key[1] for key in asked if key[0] == "soft"]
        scales = (*smaller, *whole)
        out = self.z.new_empty(NUMBERS + len(scales) + 2 * len(soft), len(self.z), dtype=self._work)
        kinds = [False] * len(smaller) + [True] * len(whole)
        block, held = self._block(scales, kinds, soft, self.group.apart, keep=self._keeps)
        bits = sum(
            1 << bit for bit, name in enumerate(ASKED) if name in asked or (name == "ties" and smaller)
        )
        if not _library().equipoise_sums(block, KINDS[self.z.dtype], bits, out.data_ptr()):
            assert self.target is not None
            wrong = self.target[(self.target < 0) | (self.target >= self.z.shape[1])]
            raise ValueError(
                f"target must be in [0, {self.z.shape[1]}), got {int(wrong[0])}; leave such rows out"
            )
        del held
        own, top, ties, total, classes, bottom, lows, larger, spread, *sums = out.unbind()
        known: dict[Any, Any] = {
            "top": top,
            "ties": ties,
            "level": (total, classes),
            "lowest": (bottom, lows),
            "larger": larger,
            "spread": spread,
        }
        self._kept = top if self._keeps else None
        known |= {("smaller", scale): sums[k] for k, scale in enumerate(smaller)}
        known |= {("total", scale): ties + sums[k] for k, scale in enumerate(smaller)}
        known |= {("total", scale): sums[len(smaller) + k] for k, scale in enumerate(whole)}
        of_soft = sums[len(scales) :]
        known |= {("soft", t): (of_soft[2 * k], of_soft[2 * k + 1]) for k, t in enumerate(soft)}
        return self.group.of(Sums(own if self.group.apart else None, self.target, known))

    def write(self, slope: Slope, out: Tensor) -> None:
        """Write a slope, times that of the soft cap, to `out` (N, B), which may be z itself."""
        if out.dtype not in (self.z.dtype, self._work):
            raise ValueError(
                f"out must be {self.z.dtype} or {self._work}, got {out.dtype}; use torch.empty_like(z)"
            )
        if out.shape[1] > 1 and out.stride(1) != 1:
            raise ValueError(
                f"out must have the classes of a row side by side, got strides {out.stride()}; "
                "pass out.contiguous()"
            )
        if self._kept is not None:
            return self._write_kept(slope, self._kept, out)
        scales, soft, numbers = laid_out(slope, self.z.new_empty(len(self.z), dtype=self._work))
        block, held = self._block(scales, [True] * len(scales), soft, slope.own is not None)
        _library().equipoise_slope(
            block,
            KINDS[self.z.dtype],
            len(slope.marks),
            numbers.data_ptr(),
            out.data_ptr(),
            out.stride(0),
            out.dtype == self._work,
        )
        del held

    def _write_kept(self, slope: Slope, top: Tensor, out: Tensor) -> None:
        """Write a slope that is a multiple of what was kept, but for the target."""
        scale = self.group.light
        assert scale is not None
        factor = slope.powers.get(scale)
        if factor is None or slope.top is None:
            out.zero_()
        else:
            if slope.top is not top:
                low = -finite_limit(top.dtype)
                factor = factor * torch.exp(scale * (top.clamp(min=low) - slope.top.clamp(min=low)))
            torch.mul(self.z, factor[:, None], out=out)
        if slope.own is not None:
            assert self.target is not None
            out.scatter_(1, self.target[:, None], slope.own[:, None])

    def _block(
        self,
        scales: tuple[float, ...],
        whole: list[bool],
        softs: list[Tensor],
        apart: bool,
        *,
        keep: bool = False,
    ) -> tuple[Any, Any]:
        """Return what the kernels call a block, and what must live as long as it is used."""
        tables = [t.to(self._work).contiguous() for t in softs]
        held = (
            (ctypes.c_double * len(scales))(*scales),
            (ctypes.c_int64 * len(scales))(*whole),
            (ctypes.c_void_p * len(tables))(*(t.data_ptr() for t in tables)),
            (ctypes.c_int64 * len(tables))(*(t.stride(0) if t.ndim == 2 else 0 for t in tables)),
        )
        numbers, kinds, places, strides = (ctypes.addressof(part) for part in held)
        block = _Block(
            self.z.data_ptr(),
            self.z.stride(0),
            *self.z.shape,
            None if self.target is None else self.target.data_ptr(),
            self.start,
            self.softcap or 0.0,
            apart,
            torch.get_num_threads(),
            len(scales),
            numbers,
            kinds,
            len(tables),
            places,
            strides,
            self.z.data_ptr() if keep else None,
        )
        return ctypes.byref(block), (held, tables, block)


def available() -> bool:
    """Whether the kernels were compiled with the package, and load here."""
    return _library() is not None


@cache
def _library() -> Any:
    capability = torch.backends.cpu.get_cpu_capability()
    kind = {"AVX512": "avx512", "AVX2": "avx2"}.get(capability, platform.machine())
    path = Path(__file__).with_name(f"kernels.{kind}.so")
    if sys.platform != "linux" or not path.exists():
        return None
    try:
        return load(path)
    except OSError as error:  # such as another OpenMP than the one that torch has loaded where it was built
        reason = f"the compiled kernels do not load, losses run in plain torch: {error}"
        warnings.warn(reason, RuntimeWarning, stacklevel=2)
        return None


def load(path: Path) -> Any:
    """Return the kernels that were compiled into a file."""
    library = ctypes.CDLL(str(path))
    library.equipoise_sums.argtypes = (ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
    library.equipoise_slope.argtypes = (
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int64,
    )
    library.equipoise_sums.restype = ctypes.c_int64
    library.equipoise_slope.restype = None
    return library
