"""Cache of CPU memory: page faults of newly allocated memory take longer than the computation."""

import mmap
from threading import Lock
from typing import Any, Self, final

import torch
from torch import Tensor

KEPT = 2**28  # largest number of bytes in the cache
WIDE = 4  # largest ratio of the size of a reused buffer to the size needed
PAGE = 2**21  # bytes of a large page

_free: list[Tensor] = []  # uint8, the most recently used last
_lock = Lock()


@final
class Buffers:
    """Memory that is returned to the cache at the end of a `with` statement, unless it ends by an exception.

    Args:
        device: The device; only CPU memory is cached, as allocators of other devices cache memory themselves.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._used: list[Tensor] = []

    def take(self, count: int, dtype: torch.dtype) -> Tensor:
        """Return an uninitialised tensor; it can be written in every mode and thread."""
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
    """Free the memory that is cached for the next fused loss, at most 256 MiB.

    Example:
        >>> empty_cache()
    """
    with _lock:
        _free.clear()


def _take_free(size: int) -> Tensor | None:
    """Return the smallest cached buffer that is large enough and at most `WIDE` times too large, or None.

    If there is none, delete the buffers that the new one can replace.
    """
    with _lock:
        fitting = [index for index, buffer in enumerate(_free) if size <= len(buffer) <= WIDE * size]
        if fitting:
            return _free.pop(min(fitting, key=lambda index: len(_free[index])))
        _free[:] = [buffer for buffer in _free if not len(buffer) <= size <= WIDE * len(buffer)]
        return None


def _fresh(size: int) -> Tensor:
    """Return newly allocated memory, in huge pages if the system provides them on request."""
    if size < 2 * PAGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(size, dtype=torch.uint8)
    memory = mmap.mmap(-1, size + PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    buffer = torch.frombuffer(memory, dtype=torch.uint8)
    return buffer[-buffer.data_ptr() % PAGE :][:size]
