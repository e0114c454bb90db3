"""Memory that is used again: on a CPU, the first use of fresh memory takes longer than the work in it."""

import mmap
from threading import Lock
from typing import Any, Self, final

import torch
from torch import Tensor

KEPT = 2**28  # bytes at most that are kept for later
WIDE = 4  # how many times the memory that is needed a buffer may be
PAGE = 2**21  # bytes of a large page

_free: list[Tensor] = []  # of bytes; what was used last is last
_lock = Lock()


@final
class Buffers:
    """Memory that may be used again at the end of a `with` statement, unless that ends by an error.

    Args:
        device: All but a CPU have an allocator that keeps memory itself.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._used: list[Tensor] = []

    def take(self, count: int, dtype: torch.dtype) -> Tensor:
        """Return memory for so many numbers, which hold anything; writable in every mode and thread."""
        size = count * dtype.itemsize
        with torch.inference_mode(mode=False):
            if self._device.type != "cpu" or size > KEPT:
                return torch.empty(count, dtype=dtype, device=self._device)
            buffer = _take_free(size)
            self._used.append(_fresh(size) if buffer is None else buffer)
            return self._used[-1][:size].view(dtype)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: Any, *_: object) -> None:
        if error is not None:
            return
        with _lock:
            _free.extend(self._used)
            while sum(map(len, _free)) > KEPT:
                del _free[0]


def empty_cache() -> None:
    """Give memory that is kept for the next fused loss back to the system; it is 256 MiB at most.

    Example:
        >>> empty_cache()
    """
    with _lock:
        _free.clear()


def _take_free(size: int) -> Tensor | None:
    """Return the smallest buffer that is large enough, and not far too large, or None.

    If there is none, buffers that the new one can stand for are deleted.
    """
    with _lock:
        fitting = [index for index, buffer in enumerate(_free) if size <= len(buffer) <= WIDE * size]
        if fitting:
            return _free.pop(min(fitting, key=lambda index: len(_free[index])))
        _free[:] = [buffer for buffer in _free if not len(buffer) <= size <= WIDE * len(buffer)]
        return None


def _fresh(size: int) -> Tensor:
    """Return memory that was not used before, in large pages where the system has them on demand."""
    if size < 2 * PAGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(size, dtype=torch.uint8)
    memory = mmap.mmap(-1, size + PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    buffer = torch.frombuffer(memory, dtype=torch.uint8)
    return buffer[-buffer.data_ptr() % PAGE :][:size]
