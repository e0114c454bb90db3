"""The compiled kernels of `kernels.cpp`: found, loaded and called.

They are compiled where the package is built, once for each kind of vector instructions that the processor may
have, and run on torch's own threads.
"""

import ctypes
import platform
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

KINDS = {torch.float64: 0, torch.float32: 1, torch.bfloat16: 2, torch.float16: 3}


class Call(ctypes.Structure):
    """What the kernels call a block."""

    tables: list[Tensor]  # of soft targets

    _fields_ = (
        ("logits", ctypes.c_void_p),
        ("stride", ctypes.c_int64),
        ("rows", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("pitch", ctypes.c_int64),
        ("target", ctypes.c_void_p),
        ("start", ctypes.c_int64),
        ("cap", ctypes.c_double),
        ("apart", ctypes.c_int64),
        ("threads", ctypes.c_int64),
        ("powers", ctypes.c_int64),
        ("scales", ctypes.POINTER(ctypes.c_double)),
        ("whole", ctypes.POINTER(ctypes.c_int64)),
        ("soft", ctypes.c_int64),
        ("softs", ctypes.POINTER(ctypes.c_void_p)),
        ("soft_strides", ctypes.POINTER(ctypes.c_int64)),
        ("kept", ctypes.c_int64),
    )


def add(numbers: Tensor, total: Tensor, *, begin: bool) -> None:
    """Add numbers of half precision to a sum in float32, or begin it with them: a tenth of torch's time.

    Args:
        numbers: Without gaps in memory.
        total: Likewise, of the same shape.
        begin: Whether what is in `total` is overwritten.
    """
    assert numbers.is_contiguous()
    assert total.is_contiguous()
    assert numbers.shape == total.shape
    kind, threads = KINDS[numbers.dtype], torch.get_num_threads()
    library().equipoise_add(numbers.data_ptr(), kind, numbers.numel(), threads, begin, total.data_ptr())


def in_lanes(lanes: int, work: Callable[[int], None]) -> None:
    """Call `work` for each lane, each in a thread of torch's where what torch does is not shared out again.

    No gradients are recorded there. What one raises is raised when all have ended. Where a mode looks at what
    torch does, which other threads would not show it, all are called in this thread.
    """
    ended: list[Future[None]] = [Future() for _ in range(lanes)]

    @ctypes.CFUNCTYPE(None, ctypes.c_int64)
    def call(lane: int) -> None:
        try:
            with torch.no_grad():
                ended[lane].set_result(work(lane))
        except BaseException as error:  # nothing may leave a function that C calls
            ended[lane].set_exception(error)

    if torch._C._len_torch_dispatch_stack() or torch._C._len_torch_function_stack():
        for lane in range(lanes):
            call(lane)
    else:
        library().equipoise_lanes(lanes, call)
    for end in ended:
        end.result(timeout=0)


def available() -> bool:
    """Whether the kernels were compiled with the package, and load here."""
    return library() is not None


@cache
def library() -> Any:
    """Return the kernels, or None where there are none."""
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
    loaded = ctypes.CDLL(str(path))
    pointer, number, block = ctypes.c_void_p, ctypes.c_int64, ctypes.POINTER(Call)
    loaded.equipoise_sums.argtypes = (block, number, number, pointer)
    loaded.equipoise_sums.restype = number
    loaded.equipoise_slope.argtypes = (block, number, number, pointer, pointer, number, number)
    loaded.equipoise_slope.restype = None
    loaded.equipoise_add.argtypes = (pointer, number, number, number, number, pointer)
    loaded.equipoise_add.restype = None
    loaded.equipoise_lanes.argtypes = (number, pointer)
    loaded.equipoise_lanes.restype = None
    return loaded
