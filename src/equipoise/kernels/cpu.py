"""Binding of the compiled kernel `cpu/kernels.cpp`: its tables and structs, loading and calls.

It is compiled when the package is built, on x86 once for each set of vector instructions (AVX2, AVX-512), and
runs on torch's threads.
"""

import ctypes
import platform
import struct
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from equipoise.kernels import openmp

KINDS = {torch.float64: 0, torch.float32: 1, torch.bfloat16: 2, torch.float16: 3}

# Number of each operation of a program, as in `Op` of `cpu/program.h`.
OPS = {
    name: number
    for number, name in enumerate(
        [
            "neg",
            "add",
            "sub",
            "mul",
            "div",
            "exp",
            "log",
            "log1p",
            "expm1",
            "logsigmoid",
            "sigmoid",
            "softplus",
            "tanh",
            "sqrt",
            "relu",
            "abs",
            "maximum",
            "minimum",
            "pow",
            "gt",
            "lt",
            "eq",
            "ne",
            "ge",
            "le",
            "and",
            "or",
            "not",
            "where",
            "clamp",
            "detach",
        ]
    )
}

# Number of each state, as in `State` of `cpu/program.h`; it is also the bit in `Program.used`. `max_exp` and
# `rest_exp` have one number per scale, counted from the first.
STATES = {
    "target_logit": 0,
    "max_gap": 1,
    "rest_gap": 2,
    "min_exp": 3,
    "sum_logit": 4,
    "max_exp": 5,
    "rest_exp": 9,
    "max_soft_gap": 13,
    "rest_soft_gap": 14,
    "base": 15,
    "min_base": 16,
    "count": 17,
    "greater": 18,
    "max_soft": 19,
    "rest_soft": 20,
    "target_soft": 21,
    "class_weight": 22,
}
DIFFERENTIABLE = 15  # states before this number have a derivative with respect to the logits
SCALES = 4  # at most, in a program
MISSING = "no kernel was compiled with the package, or it does not load"
REGISTERS = 192  # at most, in a program


class Instruction(ctypes.Structure):
    """An operation on registers, numbered: first inputs, then constants, then instructions."""

    _fields_ = (("op", ctypes.c_int32), ("a", ctypes.c_int32), ("b", ctypes.c_int32), ("c", ctypes.c_int32))


class Program(ctypes.Structure):
    """A loss as elementwise instructions on the states of a row; the owner must keep the arrays alive."""

    _fields_ = (
        ("separate", ctypes.c_int64),
        ("scales", ctypes.c_int64),
        ("scale", ctypes.c_double * SCALES),
        ("used", ctypes.c_int64),
        ("inputs", ctypes.c_int64),
        ("input", ctypes.POINTER(ctypes.c_int32)),
        ("constants", ctypes.c_int64),
        ("constant", ctypes.POINTER(ctypes.c_double)),
        ("length", ctypes.c_int64),
        ("code", ctypes.POINTER(Instruction)),
        ("result", ctypes.c_int64),
    )


class Logits(ctypes.Structure):
    """A block of logits; addresses are integers, 0 for none."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("kind", ctypes.c_int64),
        ("stride", ctypes.c_int64),
        ("rows", ctypes.c_int64),
        ("classes", ctypes.c_int64),
        ("target", ctypes.c_void_p),
        ("start", ctypes.c_int64),
        ("softcap", ctypes.c_double),
        ("soft", ctypes.c_void_p),
        ("soft_stride", ctypes.c_int64),
        ("threads", ctypes.c_int64),
    )


# Return the fields of `Logits` as bytes, which a call accepts as a pointer to the struct: it takes a third of
# the time of a ctypes structure, and each thread has its own.
pack_logits: Callable[..., bytes] = struct.Struct("PqqqqPqdPqq").pack


def add(numbers: Tensor, total: Tensor, *, begin: bool) -> None:
    """Add half precision numbers to a float32 sum, or overwrite it with them, in a tenth of torch's time.

    Args:
        numbers: Contiguous, bfloat16 or float16.
        total: Contiguous, float32, of the same shape.
        begin: Whether `total` is overwritten.
    """
    assert numbers.is_contiguous()
    assert total.is_contiguous()
    assert numbers.shape == total.shape
    kind, threads = KINDS[numbers.dtype], torch.get_num_threads()
    library().equipoise_add(numbers.data_ptr(), kind, numbers.numel(), threads, begin, total.data_ptr())


def run_in_threads(count: int, work: Callable[[int], None]) -> None:
    """Call `work` for each number below `count`, in parallel, each in one of torch's threads.

    torch operations inside `work` are single-threaded, and record no gradient. An exception is raised after
    all calls have ended. Under a dispatch or function mode, which is per thread, this thread makes all calls.
    """
    results: list[Future[None]] = [Future() for _ in range(count)]

    @ctypes.CFUNCTYPE(None, ctypes.c_int64)
    def call(number: int) -> None:
        try:
            with torch.no_grad():
                results[number].set_result(work(number))
        except BaseException as error:  # an exception must not pass through C
            results[number].set_exception(error)

    if torch._C._len_torch_dispatch_stack() or torch._C._len_torch_function_stack():
        for number in range(count):
            call(number)
    else:
        library().equipoise_run_in_threads(count, call)
    for result in results:
        result.result(timeout=0)


def available() -> bool:
    """Return whether the kernel was compiled with the package, and loads here."""
    return library() is not None


@cache
def library() -> Any:
    """Return the kernel's functions, or None if it was not compiled or does not load."""
    capability = torch.backends.cpu.get_cpu_capability()
    kind = {"AVX512": "avx512", "AVX2": "avx2"}.get(capability, platform.machine().lower())
    end = "dll" if sys.platform == "win32" else "so"
    path = Path(__file__).with_name(f"kernels.{kind}.{end}")
    if not path.exists():
        return None
    try:
        return load(path)
    except OSError as error:  # for example, built for another processor
        reason = f"the compiled kernel does not load, losses run in plain torch: {error}"
        warnings.warn(reason, RuntimeWarning, stacklevel=2)
        return None


def load(path: Path) -> Any:
    """Return the functions of a shared library; they use torch's threads, and take addresses as integers."""
    loaded = ctypes.CDLL(str(path))
    address, integer, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
    rows = (integer, address, address, integer)  # ignore_index, weight, sample_weight, skip_zero_weight
    out = (address, integer, integer)  # address, stride, whether in the dtype of the computation
    signatures: dict[str, tuple[tuple[Any, ...], Any]] = {
        "states": ((address, address, address), integer),
        "kept": ((address,), integer),
        "losses": ((address, address, *rows, address, address, address), integer),
        "gradient": ((address, address, address, integer, integer, address, number, *out), None),
        "losses_and_gradient": ((address, address, *rows, address, number, address, *out, address), integer),
        "add": ((address, integer, integer, integer, integer, address), None),
        "run_in_threads": ((integer, address), None),
        "use_openmp": ((address,), None),
    }
    for name, (arguments, result) in signatures.items():
        function = getattr(loaded, f"equipoise_{name}")
        function.argtypes, function.restype = arguments, result
    threads = openmp.of_torch()
    if threads is not None:
        loaded.equipoise_use_openmp(ctypes.byref(threads))
    return loaded
