"""The peers: eager torch, `torch.compile`, `F.linear_cross_entropy`, and on a GPU others' fused kernels."""

import importlib
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import formulas
from benchmarks.contenders import Absent, Contender, Function
from benchmarks.problems import Problem

CHUNKER = "auto-chunker"

EAGER = Contender("eager F.linear + F.cross_entropy", formulas.linear_cross_entropy, formulas.cross_entropy)
EAGER_NONE = Contender("eager, reduction none", formulas.linear_cross_entropies, formulas.cross_entropies)
EAGER_GAMMA = Contender(
    "eager gamma cross entropy", formulas.linear_gamma_cross_entropy, formulas.gamma_cross_entropy
)


def compiled_name(peer: Contender) -> str:
    """Return the name of a peer under `torch.compile`."""
    return f"torch.compile, {peer.name.removeprefix('eager ')}"


def _with_own_code(run: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function with a code object of its own, as one in a user's program has.

    Dynamo looks among all compilations of a code object, and stops at eight. Those of callable objects share
    one.
    """

    def call(*arguments: Any) -> Any:
        return run(*arguments)

    call.__code__ = call.__code__.replace()
    return call


def compiled(peer: Contender, *, chunker: bool = False) -> Contender | Absent:
    """Return a contender under `torch.compile`, with static shapes.

    Args:
        peer: What to compile.
        chunker: Whether Inductor may cut the graph into chunks by itself.
    """
    name = compiled_name(peer) + (f", {CHUNKER}" if chunker else "")
    if not torch.cuda.is_available() and shutil.which("g++") is None and shutil.which("clang++") is None:
        return Absent(name, "no C++ compiler")
    options: dict[str, Any] = {}
    if chunker:  # its threshold would leave these shapes alone
        options = {"auto_chunker.enable": True, "auto_chunker.amplify_ratio_threshold": 0}
    # A graph break in a loss of ours is a fault; `F.linear_cross_entropy` and others may have theirs.
    compiled_run: Any = torch.compile(
        _with_own_code(peer.run), dynamic=False, fullgraph=peer.ours, options=options
    )
    return Contender(name, compiled_run, peer.truth, ours=peer.ours, compiled=True)


@contextmanager
def chunker_reports() -> Iterator[list[str]]:
    """Collect what the auto-chunker did: it says so in a debug log alone, and never where a cache hits."""
    importlib.import_module("torch._inductor.inductor_prims")  # the chunker's module needs it
    from torch._functorch import config as functorch
    from torch._inductor import config as inductor

    auto_chunker: Any = importlib.import_module("torch._inductor.fx_passes.auto_chunker")
    reports: list[str] = []
    chunk = auto_chunker.chunk

    def reporting(graph: Any) -> Any:
        try:
            cut = chunk(graph)
        except auto_chunker.CantChunk as error:
            reports.append(f"not chunked: {str(error).split(': %')[0]}")
            raise
        reports.append("chunked")
        return cut

    with (
        mock.patch.object(auto_chunker, "chunk", reporting),
        inductor.patch(fx_graph_cache=False),
        functorch.patch(enable_autograd_cache=False),
    ):
        yield reports


def _torch_run(hidden: Tensor, weight: Tensor, target: Tensor, **options: Any) -> Tensor:
    chosen = torch.nn.LinearCrossEntropyOptions(**options)
    return F.linear_cross_entropy(hidden, weight, target, options=chosen)


def _torch_none(hidden: Tensor, weight: Tensor, target: Tensor, **options: Any) -> Tensor:
    chosen = torch.nn.LinearCrossEntropyOptions(**options)
    losses = F.linear_cross_entropy(hidden, weight, target, options=chosen, reduction="none")
    return losses.float().sum()


TORCH = Contender("F.linear_cross_entropy, defaults", _torch_run, formulas.cross_entropy)
TORCH_NONE = Contender(
    "F.linear_cross_entropy, reduction none, defaults", _torch_none, formulas.cross_entropies
)


def torch_best(problem: Problem, clock: Callable[[Callable[[], object]], float]) -> Contender:
    """Return `F.linear_cross_entropy` with the fastest of its options.

    A small search: first how it accumulates, at blocks of 1024 rows, then the rows of a block.

    Args:
        problem: The problem it will be timed on.
        clock: Returns the seconds of a call.
    """
    half = problem.dtype.itemsize < 4
    rows = problem.inputs[0].shape[0]
    kinds: list[dict[str, Any]] = [{"acc_policy": "compact"}, {"acc_policy": "accurate"}]
    if half:
        wide = {"acc_dtype": torch.float32}
        kinds += [kind | wide for kind in kinds]
    found: dict[float, dict[str, Any]] = {}

    def attempt(options: dict[str, Any]) -> None:
        step = TORCH.having("", **options).step
        problem.forget()
        found[clock(lambda: step(problem))] = options
        problem.forget()

    for kind in kinds:
        attempt({"batch_chunk_size": min(1024, rows), **kind})
    for blocks in ((2048, 4096, 8192), (512, 256)):  # upwards, then downwards, while it helps
        for block in blocks:
            before = min(found)
            if block < rows:
                attempt(found[before] | {"batch_chunk_size": block})
            if min(found) == before:
                break
    best = found[min(found)]
    said = ", ".join(str(value).removeprefix("torch.") for value in best.values())
    return TORCH.having(f"F.linear_cross_entropy, best options ({said})", **best)


def _liger() -> Function:
    kernels = importlib.import_module("liger_kernel.transformers.functional")
    return kernels.liger_fused_linear_cross_entropy


def _quack() -> Function:
    return importlib.import_module("quack.linear_cross_entropy").chunked_linear_cross_entropy


def _cce() -> Function:
    return importlib.import_module("cut_cross_entropy").linear_cross_entropy


_KERNELS: tuple[tuple[str, Callable[[], Function], dict[str, Any]], ...] = (
    ("Liger, defaults", _liger, {}),
    ("Liger, chunk_mem_const 16", _liger, {"chunk_mem_const": 16}),
    ("quack, scaled exp off", _quack, {"use_scaled_exp": False}),
    ("quack, scaled exp on", _quack, {"use_scaled_exp": True}),
    ("cce", _cce, {"impl": "cce"}),
    ("cce_exact", _cce, {"impl": "cce_exact"}),
)


def kernels() -> list[Contender | Absent]:
    """Return the fused kernels of other libraries, as far as they are installed."""
    found: list[Contender | Absent] = []
    for name, load, options in _KERNELS:
        try:
            found.append(Contender(name, load(), formulas.cross_entropy, options=options))
        except (ImportError, AttributeError, RuntimeError) as error:
            found.append(Absent(name, str(error).splitlines()[0]))
    return found


def seconds(call: Callable[[], object]) -> float:
    """Return the seconds of a call on a CPU."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def cpu_seconds(call: Callable[[], object]) -> float:
    """Return the seconds that a call kept a core busy, in all threads of this process.

    With one thread these are its seconds on a machine that does nothing else.
    """
    begin = time.process_time()
    call()
    return time.process_time() - begin


def cuda_seconds(call: Callable[[], object]) -> float:
    """Return the seconds of a call on a GPU."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    call()
    end.record()
    while not end.query():  # the next call begins on an idle GPU
        pass
    return begin.elapsed_time(end) / 1000
