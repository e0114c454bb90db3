"""The OpenMP library in whose threads torch computes: libgomp, LLVM's libomp or Intel's libiomp5.

The kernels link none, so they bring no second one into a process; they are given the functions of torch's.
"""

import ctypes
import sys
from functools import cache
from typing import Any

import torch

_LLVM = ("__kmpc_global_thread_num", "__kmpc_push_num_threads", "__kmpc_fork_call")
_BOTH = ("omp_get_thread_num", "omp_get_num_threads")


class OpenMP(ctypes.Structure):
    """Addresses of the functions of an OpenMP library, as in `cpu/threads.h`; 0 for none."""

    _fields_ = tuple(
        (name, ctypes.c_void_p) for name in ("parallel", "thread", "push", "fork", "number", "count")
    )


def functions(library: Any) -> OpenMP | None:
    """Return the functions of a library and those it depends on, or None if it lacks one."""
    found = {
        name: ctypes.cast(getattr(library, name), ctypes.c_void_p).value
        for name in ("GOMP_parallel", *_LLVM, *_BOTH)
        if hasattr(library, name)
    }
    if not {"GOMP_parallel", *_BOTH} <= found.keys() and not {*_LLVM, *_BOTH} <= found.keys():
        return None
    return OpenMP(*(found.get(name) for name in ("GOMP_parallel", *_LLVM, *_BOTH)))


@cache
def of_torch() -> OpenMP | None:
    """Return the functions of torch's OpenMP library, or None if torch computes without one."""
    if not torch.backends.openmp.is_available():
        return None
    for library in _searched():
        found = functions(library)
        if found is not None:
            return found
    return None


def _searched() -> list[Any]:
    """Return what is searched, in the order in which torch's own calls are resolved."""
    if sys.platform == "win32":
        name = "libiomp5md.dll"
        kernel32: Any = getattr(ctypes, "windll").kernel32  # noqa: B009 - type checkers know it on Windows only
        return [ctypes.CDLL(name)] if kernel32.GetModuleHandleW(name) else []
    depends = ctypes.CDLL(torch._C.__file__)  # loaded already, and with it all that it depends on
    # On Linux what is loaded for all, such as by LD_PRELOAD, goes first; on macOS a library names its own.
    return [depends] if sys.platform == "darwin" else [ctypes.CDLL(None), depends]
