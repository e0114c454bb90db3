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

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    torch.set_deterministic_debug_mode("default")  # the peers need not be deterministic


def _module(name: str) -> ModuleType:
    from importlib import import_module

    return import_module(f"benchmarks.{name}")


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.run", "--small", "--threads", "1", "--repeats", "3"]
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
    check, cpu, problems = _module("check"), _module("cpu"), _module("problems")
    shape = problems.Shape("tiny", rows=32, classes=16, features=8)

    def run(hidden: Tensor, weight: Tensor, target: Tensor, **options: int) -> Tensor:
        return _faulty(1.5 if "block_bytes" in options else 1.0)(hidden, weight, target)

    assert not check.check([replace(cpu.OURS, run=run)], shape, torch.float32).open


def test_nothing_is_timed_behind_a_closed_gate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run, cpu = _module("run"), _module("cpu")
    monkeypatch.setattr(cpu, "OURS", replace(cpu.OURS, run=_faulty(1.01)))
    monkeypatch.setattr(cpu.peers, "compiled", lambda peer, **_: cpu.Absent(peer.name, "not in this test"))
    monkeypatch.setattr(_module("heats").Heat, "run", lambda *_: pytest.fail("timed"))
    arguments = ["--small", "--part", "cpu", "--shapes", "A", "--dtypes", "float32", "--threads", "1"]
    assert run.main([*arguments, "--out", str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "ours: cross entropy" in printed.err
    assert not list(tmp_path.iterdir())


def test_a_race_measures_time_and_its_ratios() -> None:
    measure, cpu, peers, problems = (_module(name) for name in ("measure", "cpu", "peers", "problems"))
    problem = problems.Problem.make(problems.Shape("tiny", 8, 8, 4), torch.float32)

    def waiting(seconds: float) -> Any:
        def run(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
            time.sleep(seconds)
            return _faulty(1.0)(hidden, weight, target)

        return replace(cpu.OURS, name=f"{seconds}", run=run)

    runners = [waiting(0.01), waiting(0.02), waiting(0.1)]
    result = measure.race(runners, problem, peers.seconds, repeats=5, budget=5.0)
    assert 1.5 < result.ratio("0.02", "0.01").median < 2.5
    assert result.time("0.01").repeats == 5
    assert result.time("0.1").repeats == 3  # slow ones run less often
    assert result.fastest(["0.1", "0.02"]) == "0.02"
    assert all(one is None for one in problem.gradients())


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_memory_beyond_the_gradients_is_what_a_contender_holds() -> None:
    memory, problems = _module("memory"), _module("problems")
    shape = problems.Shape("tiny", rows=4096, classes=2048, features=16)
    logits = 4096 * 2048 * 4
    taken = memory.extra("eager", shape, "float32", threads=1)
    # Logits, their log-softmax, and at most two gradients; the textbook formula holds two of them at once.
    assert 1.9 * logits < taken < 4.1 * logits
    ours = memory.extra("ours", shape, "float32", threads=1, block_bytes=logits // 8)
    assert ours < logits / 2


def test_the_whole_runs_small(tmp_path: Path) -> None:
    done = _run("--part", "cpu", "--shapes", "C", "--dtypes", "float32", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "| time over the three bare products | <= 1.05 |" in done.stdout
    (path,) = tmp_path.iterdir()
    found = json.loads(path.read_text())
    assert found["about"]["torch"] == torch.__version__
    assert {"commit", "processor", "cores", "date"} <= found["about"].keys()
    titles = [section["title"].split(",")[0] for section in found["sections"]]
    assert titles == ["Linear and loss", "Reduction none", "Every loss of the table"]
    ours = found["sections"][0]["results"]["ours: cross entropy"]
    assert ours["finding"]["right"]
    assert ours["seconds"]["repeats"] >= 3
    verdicts = found["sections"][0]["verdicts"]
    assert {verdict["held"] for verdict in verdicts} <= {True, False, None}
    assert "limits held\n" in done.stdout


def test_the_gpu_part_claims_nothing_without_a_gpu(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = _run("--part", "gpu", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "the GPU part was not run, and claims nothing" in done.stdout
    assert "MISSED" not in done.stdout


def test_the_contenders_of_the_gpu_part_are_right_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, problems, peers = _module("gpu"), _module("problems"), _module("peers")
    monkeypatch.setattr(peers, "compiled", lambda peer, **_: peers.Absent(peer.name, "not in this test"))
    heat = gpu.heat(problems.Shape("tiny", rows=64, classes=96, features=16), device="cpu")
    gate = heat.check()
    assert not gate.faults()
    assert {one.name for one in gate.findings if one.ours} == {one.name for one in gpu.ALL}
    assert {name for name, _, _ in peers._KERNELS} <= {one.name for one in heat.runners}
