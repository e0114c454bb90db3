"""The benchmark runs small from end to end, times nothing if a loss is wrong, and measures what it says."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from equipoise.losses import LOSSES
from equipoise.penalties import PENALTIES

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    torch.set_deterministic_debug_mode("default")  # the peers need not be deterministic


def _module(name: str) -> ModuleType:
    from importlib import import_module

    return import_module(f"benchmarks.{name}")


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.run", "--small", "--threads", "1", "--repeats", "1"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    return subprocess.run(
        [*command, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def _faulty(factor: float) -> Any:
    """Cross entropy whose gradient is off by a factor, and whose value is right."""

    def run(hidden: Tensor, weight: Tensor, target: Tensor, **options: int) -> Tensor:
        del options
        loss = F.cross_entropy(F.linear(hidden, weight), target)
        return loss * factor - (loss * (factor - 1)).detach()

    return run


@pytest.mark.parametrize(("dtype", "factor"), [(torch.float32, 1.0001), (torch.bfloat16, 1.03)])
def test_the_gate_finds_a_wrong_gradient(dtype: torch.dtype, factor: float) -> None:
    """A gradient scaled by a planted factor closes the gate; the right one opens it."""
    check, cpu, problems = _module("check"), _module("cpu"), _module("problems")
    shape = problems.Shape("tiny", rows=96, classes=64, features=16)
    right, wrong = (replace(cpu.OURS, run=_faulty(one)) for one in (1.0, factor))
    assert check.check([right], shape, dtype).open
    gate = check.check([right, replace(wrong, name="planted")], shape, dtype)
    assert not gate.open
    assert [fault.split(":")[0] for fault in gate.faults()] == ["planted"]
    # The same fault in a peer is named, and stops nothing.
    peer = replace(wrong, ours=False, run=_faulty(1.2))
    gate = check.check([peer], shape, dtype)
    assert gate.open
    assert not gate.findings[0].right


def test_the_gate_finds_nan_a_missing_gradient_and_an_error() -> None:
    """The gate reports nan, a missing gradient and a raised error."""
    check, cpu, problems = _module("check"), _module("cpu"), _module("problems")
    shape = problems.Shape("tiny", rows=32, classes=16, features=8)

    def fails(*tensors: Tensor, **options: int) -> Tensor:
        raise RuntimeError("out of order")

    def detached(hidden: Tensor, weight: Tensor, target: Tensor, **options: int) -> Tensor:
        return _faulty(1.0)(hidden, weight.detach(), target)

    for run in (_faulty(float("nan")), detached, fails):
        gate = check.check([replace(cpu.OURS, run=run)], shape, torch.float32)
        assert not gate.open
    assert "RuntimeError: out of order" in gate.faults()[0]


def test_blocks_are_checked_too() -> None:
    """A fault that appears only with several blocks is found."""
    check, cpu, problems = _module("check"), _module("cpu"), _module("problems")
    shape = problems.Shape("tiny", rows=32, classes=16, features=8)

    def run(hidden: Tensor, weight: Tensor, target: Tensor, **options: int) -> Tensor:
        return _faulty(1.5 if "block_bytes" in options else 1.0)(hidden, weight, target)

    assert not check.check([replace(cpu.OURS, run=run)], shape, torch.float32).open


def test_nothing_is_timed_behind_a_closed_gate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """If a loss is wrong, the run reports the fault and times nothing."""
    run, cpu = _module("run"), _module("cpu")
    monkeypatch.setattr(cpu, "OURS", replace(cpu.OURS, run=_faulty(1.01)))
    monkeypatch.setattr(cpu.peers, "compiled", lambda peer, **_: cpu.Absent(peer.name, "not in this test"))
    monkeypatch.setattr(_module("comparisons").Comparison, "run", lambda *_: pytest.fail("timed"))
    arguments = ["--small", "--part", "cpu", "--shapes", "A", "--dtypes", "float32", "--threads", "1"]
    assert run.main([*arguments, "--out", str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "ours: cross entropy" in printed.err
    assert not list(tmp_path.iterdir())


def _waiting(seconds: float) -> Any:
    def run(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
        time.sleep(seconds)
        return _faulty(1.0)(hidden, weight, target)

    return replace(_module("cpu").OURS, name=f"{seconds}", run=run)


def test_a_comparison_measures_time_and_its_ratios() -> None:
    """A comparison measures the time of each contender and the ratios within a repeat."""
    measure, peers, problems = (_module(name) for name in ("measure", "peers", "problems"))
    problem = problems.Problem.make(problems.Shape("tiny", 8, 8, 4), torch.float32)
    runners = [_waiting(0.01), _waiting(0.02), _waiting(0.15)]
    result = measure.time_contenders(runners, problem, peers.seconds, repeats=1, budget=5.0)
    assert 1.5 < result.ratio("0.02", "0.01").median < 2.5
    assert result.time("0.01").repeats == 5  # more than asked, as they are short
    assert result.time("0.15").repeats == 3  # slow ones run less often
    assert result.fastest(["0.15", "0.02"]) == "0.02"
    assert all(one is None for one in problem.gradients())


def test_a_short_contender_is_called_many_times_for_one_timing() -> None:
    """A contender that takes microseconds is called many times for one timing."""
    measure, dense, peers, problems = (_module(name) for name in ("measure", "dense", "peers", "problems"))
    problem = problems.Problem.make(problems.SMALL[0], torch.float32)
    calls: list[None] = []

    def counted(logits: Tensor, target: Tensor) -> Tensor:
        calls.append(None)
        return F.cross_entropy(logits, target)

    runners = [
        dense.TORCH,
        replace(dense.TORCH, name="again"),
        replace(dense.TORCH, name="counted", run=counted),
    ]
    result = measure.time_contenders(runners, problem, peers.cpu_seconds, repeats=3, budget=5.0)
    assert len(calls) > 10 * result.time("counted").repeats
    assert 0.8 < result.ratio("again", "F.cross_entropy").median < 1.25  # the same twice


def test_with_one_thread_time_is_what_the_core_works() -> None:
    """With one thread, the time is that of the processor: waiting does not count."""
    peers = _module("peers")
    assert peers.seconds(lambda: time.sleep(0.05)) >= 0.05
    assert peers.cpu_seconds(lambda: time.sleep(0.05)) < 0.02
    begin = time.process_time()

    def work() -> None:
        while time.process_time() < begin + 0.05:
            pass

    assert peers.cpu_seconds(work) >= 0.04


def test_quartiles_are_those_of_numpy() -> None:
    """Quartiles agree with numpy's."""
    numbers = [3.0, 1.0, 4.0, 1.5, 9.0, 2.6]
    found = _module("measure").Spread.of(numbers)
    expected = np.quantile(numbers, [0.25, 0.5, 0.75])
    assert np.allclose([found.quartiles[0], found.median, found.quartiles[1]], expected)


def test_every_loss_of_a_row_is_timed_beside_the_same_by_hand() -> None:
    """Every row loss of the tables is timed or has a reason why it is not."""
    table = _module("row_losses")
    timed = {type(one.loss).__name__ for one in (table.CROSS_ENTROPY, *table.timed_losses(10))} - {"Sum"}
    assert timed | table.NOT_TIMED.keys() == {entry.name for entry in (*LOSSES, *PENALTIES)}
    assert not timed & table.NOT_TIMED.keys()
    logits = torch.randn(7, 10, dtype=torch.float64, requires_grad=True)
    target = torch.randint(10, (7,))
    for one in (table.CROSS_ENTROPY, *table.timed_losses(10)):
        ours, by_hand = one.loss(logits, target), one.formula(logits, target)
        torch.testing.assert_close(ours, by_hand, msg=one.name, rtol=1e-9, atol=1e-12)
        (found,), (expected,) = (torch.autograd.grad(value, logits) for value in (ours, by_hand))
        torch.testing.assert_close(found, expected, msg=one.name, rtol=1e-8, atol=1e-12)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_memory_beyond_the_gradients_is_what_a_contender_holds() -> None:
    """Memory beyond the gradients is that of the logits that a contender holds."""
    memory, problems = _module("memory"), _module("problems")
    shape = problems.Shape("tiny", rows=4096, classes=2048, features=16)
    logits = 4096 * 2048 * 4
    taken = memory.extra("eager", shape, "float32", threads=1)
    # Logits, their log-softmax, and at most two gradients; the textbook formula holds two of them at once.
    assert 1.9 * logits < taken < 4.1 * logits
    ours = memory.extra("ours", shape, "float32", threads=1, block_bytes=logits // 8)
    assert ours < logits / 2


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("name", ["ours", "ours, reduction none"])
def test_memory_beyond_the_gradients_does_not_grow_with_the_rows(name: str) -> None:
    """The memory of the fused loss does not grow with the number of rows; that of plain torch does."""
    memory, problems = _module("memory"), _module("problems")
    row_of_logits = 512 * 4

    def taken(name: str, rows: int) -> int:
        shape = problems.Shape("rows", rows=rows, classes=512, features=64)
        return memory.extra(name, shape, "float32", threads=1)

    sizes = [2**13, 2**15, 2**17]
    few, more, many = (taken(name, rows) for rows in sizes)
    for held, rows in ((more, sizes[1]), (many, sizes[2])):
        # Numbers of a row, such as its target and its weight, are held, but no part of its logits.
        assert held - few < (rows - sizes[0]) * row_of_logits / 32 + 2**20
    assert many < sizes[2] * row_of_logits / 8
    growth = taken("eager", sizes[1]) - taken("eager", sizes[0])
    assert growth > (sizes[1] - sizes[0]) * row_of_logits  # the control holds full logits


def test_the_linear_part_runs_small(tmp_path: Path) -> None:
    """The part for the linear layer runs on a small problem and writes its verdicts."""
    done = _run("--part", "cpu", "--shapes", "C", "--dtypes", "float32", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "| time over the three bare products | <= " in done.stdout
    (path,) = tmp_path.iterdir()
    found = json.loads(path.read_text())
    assert found["about"]["torch"] == torch.__version__
    assert {"commit", "processor", "kind", "cores", "date"} <= found["about"].keys()
    titles = [section["title"].split(",")[0] for section in found["sections"]]
    assert titles == ["Linear and loss", "Reduction none", "Without kernels", "Every loss of the table"]
    ours = found["sections"][0]["results"]["ours: cross entropy"]
    assert ours["finding"]["right"]
    assert ours["seconds"]["repeats"] >= 3
    statuses = {verdict["status"] for one in found["sections"] for verdict in one["verdicts"]}
    assert statuses <= {"goal met", "limit met", "missed", "unsteady", "reported"}
    assert "## Of " in done.stdout


def test_the_part_for_small_batches_runs(tmp_path: Path) -> None:
    """The part for small batches runs and writes its sections."""
    done = _run("--part", "small", "--shapes", "32x10", "--budget", "1", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.iterdir()
    sections = json.loads(path.read_text())["sections"]
    assert [one["title"] for one in sections] == [
        f"Small batches, 32 x 10, float32, {threads}" for threads in ("one thread", "two threads")
    ]
    first, second = ([verdict["requirement"] for verdict in one["verdicts"]] for one in sections)
    assert first == second
    assert first[0] == "CrossEntropy() over F.cross_entropy"
    assert all(verdict["limit"] for one in sections for verdict in one["verdicts"])
    assert "| CrossEntropy() over F.cross_entropy | <= 1.7 | <= 1.2 |" in done.stdout
    assert "|  | 32 x 10, one thread | 32 x 10, two threads |" in done.stdout  # all ratios in one table


def test_the_gpu_part_claims_nothing_without_a_gpu(tmp_path: Path) -> None:
    """Without a GPU, the part for GPUs reports that it did not run."""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = _run("--part", "gpu", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "There is no GPU: the GPU part was not run." in done.stdout
    assert "missed" not in done.stdout


def test_the_contenders_of_the_gpu_part_are_right_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The contenders of the part for GPUs give right results on a CPU."""
    gpu, problems, peers = _module("gpu"), _module("problems"), _module("peers")
    monkeypatch.setattr(peers, "compiled", lambda peer, **_: peers.Absent(peer.name, "not in this test"))
    comparison = gpu.comparison(problems.Shape("tiny", rows=64, classes=96, features=16), device="cpu")
    gate = comparison.check()
    assert not gate.faults()
    assert {one.name for one in gate.findings if one.ours} == {one.name for one in gpu.ALL}
    assert {name for name, _, _ in peers._KERNELS} <= {one.name for one in comparison.runners}
