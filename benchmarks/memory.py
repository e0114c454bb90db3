"""Peak memory of one forward and backward, in a fresh process: `python -m benchmarks.memory SPEC`.

The result is the peak of resident memory, minus the memory resident before, minus the gradients.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks import formulas, peers
from benchmarks.contenders import Contender, Products, Runner, dense, linear, summed
from benchmarks.problems import Problem, Shape
from equipoise.losses import CrossEntropy, GammaCrossEntropy

MIB = 2**20
ROOT = Path(__file__).parents[1]
TINY = 64
CONTENDERS: dict[str, Callable[[], Runner]] = {
    "bare products": lambda: Products(3),
    "ours": lambda: linear(CrossEntropy()),
    "ours, gamma cross entropy": lambda: linear(GammaCrossEntropy(formulas.GAMMA)),
    "ours, reduction none": lambda: _none(linear(CrossEntropy())),
    "eager": lambda: peers.EAGER,
    "F.linear_cross_entropy": lambda: peers.TORCH,
    "dense ours": lambda: dense(CrossEntropy()),
    "dense ours, gamma cross entropy": lambda: dense(GammaCrossEntropy(formulas.GAMMA)),
    "dense F.cross_entropy": lambda: Contender("", formulas.cross_entropy, formulas.cross_entropy),
}


def _none(contender: Contender) -> Contender:
    return Contender(contender.name, summed(contender.run), formulas.cross_entropies, ours=True)


def extra(name: str, shape: Shape, dtype: str, *, threads: int, **options: Any) -> int | None:
    """Return the bytes a contender takes beyond its gradients, or None where they cannot be measured.

    Args:
        name: A key of `CONTENDERS`.
        shape: Shape of the problem.
        dtype: Name of torch's dtype.
        threads: Number of torch's threads.
        options: Options of the contender.
    """
    if not Path("/proc/self/status").exists():
        return None
    spec = {"name": name, "shape": vars(shape), "dtype": dtype, "threads": threads, "options": options}
    # Freed memory returns to the system at once, so that resident memory is memory in use.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", json.dumps(spec)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{name} on {shape} failed: {done.stderr.strip().splitlines()[-1]}")
    return int(done.stdout)


def main(spec: dict[str, Any]) -> int:
    """Measure in this process, which must be fresh, and return the bytes."""
    torch.set_num_threads(spec["threads"])
    shape, dtype = Shape(**spec["shape"]), getattr(torch, spec["dtype"])
    contender = CONTENDERS[spec["name"]]()
    if isinstance(contender, Contender):
        contender = contender.having("", **spec["options"])
    # Load the libraries and start the threads on a problem of negligible memory.
    contender.step(Problem.make(shape.at_most(TINY, TINY, shape.features and TINY), dtype))
    problem = Problem.make(shape, dtype)
    if isinstance(contender, Products):
        problem.logit_buffer.zero_()  # so that only the workspace of the matrix product is counted
    before = _status("VmRSS")
    with _peak() as peak:
        contender.step(problem)
    return peak() - before - problem.gradient_bytes


def _status(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


@contextlib.contextmanager
def _peak() -> Iterator[Callable[[], int]]:
    """Yield a function that returns the peak of resident memory since the start."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak that the operating system records
    except OSError:
        pass
    else:
        yield lambda: _status("VmHWM")
        return
    seen, done = [_status("VmRSS")], threading.Event()

    def watch() -> None:
        while not done.wait(0.0005):
            seen.append(_status("VmRSS"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield lambda: max(seen)
    finally:
        done.set()
        watcher.join()


if __name__ == "__main__":
    print(main(json.loads(sys.argv[1])))
