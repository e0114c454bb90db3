"""Memory that is lent: on a CPU, to touch fresh memory for the first time costs more than to use it."""

import mmap
from threading import Lock
from typing import Any, Self, final

import torch
from torch import Tensor

KEPT = 2**28  # bytes at most that wait for the next who asks
WIDE = 4  # how many times the memory that is asked for may be lent
PAGE = 2**21  # bytes of a large page

_waiting: list[Tensor] = []  # of bytes; what was given back last is last
_lock = Lock()


@final
class Loan:
    """Memory that is given back at the end of a `with` statement, unless that ends by an error.

    Args:
        device: Where. All but a CPU have an allocator that keeps memory itself.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._lent: list[Tensor] = []

    def __call__(self, count: int, dtype: torch.dtype) -> Tensor:
        """Return memory for so many numbers, with something left in it; writable in every mode and thread."""
        size = count * dtype.itemsize
        with torch.inference_mode(mode=False):
            if self._device.type != "cpu" or size > KEPT:
                return torch.empty(count, dtype=dtype, device=self._device)
            room = _taken(size)
            self._lent.append(_fresh(size) if room is None else room)
            return self._lent[-1][:size].view(dtype)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: Any, *_: object) -> None:
        if error is not None:
            return
        with _lock:
            _waiting.extend(self._lent)
            while sum(map(len, _waiting)) > KEPT:
                del _waiting[0]


def empty_cache() -> None:
    """Give memory that waits for the next fused loss back to the system; 256 MiB at most do.

    Example:
        >>> empty_cache()
    """
    with _lock:
        _waiting.clear()


def _taken(size: int) -> Tensor | None:
    """Take the smallest memory that is large enough, and not far too large, if some waits.

    If none does, a new one will do for those that are not far smaller, too: they are let go of before.
    """
    with _lock:
        fitting = [index for index, room in enumerate(_waiting) if size <= len(room) <= WIDE * size]
        if fitting:
            return _waiting.pop(min(fitting, key=lambda index: len(_waiting[index])))
        _waiting[:] = [room for room in _waiting if not len(room) <= size <= WIDE * len(room)]
        return None


def _fresh(size: int) -> Tensor:
    """Return memory that was not used before, in large pages where the system gives them to those who ask."""
    if size < 2 * PAGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(size, dtype=torch.uint8)
    memory = mmap.mmap(-1, size + PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    room = torch.frombuffer(memory, dtype=torch.uint8)
    return room[-room.data_ptr() % PAGE :][:size]
