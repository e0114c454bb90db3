"""The vocabulary example trains, and holds less than its logits would take."""

import importlib.util
import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.slow

PATH = Path(__file__).parents[2] / "examples" / "vocabulary.py"
SMALL = ["--tokens", "1024", "--steps", "6", "--vocabulary", "3000", "--width", "16"]

# Peak memory is that of a process, so each way has one of its own; part of the text is enough for it.
CHILD = """
import importlib.util, itertools, json, sys
import torch
torch.set_num_threads(1)
spec = importlib.util.spec_from_file_location("vocabulary_example", sys.argv[1])
example = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = example
spec.loader.exec_module(example)
words = example.words
example.words = lambda: itertools.islice(words(), 40)
if sys.argv[2] == "dense":
    example.GammaCrossEntropy.linear = lambda self, hidden, linear_weight, target: self(
        hidden.flatten(0, 1) @ linear_weight.T, target.flatten()
    )
run = example.main(["--tokens", "8192", "--steps", sys.argv[3], "--width", "16"])
print(json.dumps(vars(run)))
"""


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("vocabulary_example", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    words = module.words
    monkeypatch.setattr(module, "words", lambda: islice(words(), 40))
    yield module
    del sys.modules[spec.name]


def test_small_run(
    example: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small run learns, and prints the losses and the bytes that it returns."""
    run = example.main(SMALL)
    printed = capsys.readouterr().out
    steps = re.findall(r"^step +(\d+) loss (\d+\.\d{3}), \d+\.\d s$", printed, re.M)
    assert steps == [(str(k), f"{loss:.3f}") for k, loss in enumerate(run.losses, start=1)]
    assert len(run.losses) == len(run.seconds) == 6
    gib = [float(number) for number in re.findall(r"(\d+\.\d\d) GiB", printed.splitlines()[-1])]
    assert gib == [round(b / 2**30, 2) for b in (run.logit_bytes, run.machine_bytes, run.peak_bytes)]
    assert run.logit_bytes == 4 * 1024 * 3000
    assert "shape     1024 rows, 16 features, 3000 classes" in printed
    assert "(all of them: 11.72 MiB)" in printed
    assert re.search(r"^text +\d{6} words of the standard library, \d{4,5} different$", printed, re.M)

    assert run.losses[0] == pytest.approx(math.log(3000), abs=0.1)  # it knows nothing yet
    assert run.losses[-1] < run.losses[0] - 1
    adam = torch.optim.Adam
    monkeypatch.setattr(torch.optim, "Adam", lambda part, lr: adam(part, lr=0 * lr))
    still = example.main(SMALL)  # the control: nothing is learnt
    assert still.losses[0] == run.losses[0]
    assert still.losses[-1] == pytest.approx(run.losses[0], abs=0.1)


def test_the_rarest_words_are_one(example: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Words beyond the vocabulary share index 0, and the others are numbered by frequency."""
    monkeypatch.setattr(example, "words", lambda: iter([["a", "b", "a"], ["c", "a", "b", "d"]]))
    for vocabulary, numbers in ((3, [1, 2, 1, 0, 1, 2, 0]), (9, [1, 2, 1, 3, 1, 2, 4])):
        text, distinct = example.read_text(vocabulary)
        assert text.tolist() == numbers
        assert distinct == 4


def test_the_batch_outgrows_the_machine_unless_asked(
    example: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The default batch has logits larger than the memory of the machine."""
    found: list[Any] = []
    monkeypatch.setattr(example, "train", lambda *given: found.append(given))
    example.main([])
    example.main(SMALL)
    tokens, steps, vocabulary, width = found[0]
    assert (steps, vocabulary, width) == (3, 50257, 32)
    assert 4 * tokens * vocabulary > example.machine_bytes() >= 4 * (tokens - 64) * vocabulary
    assert found[1] == (1024, 6, 3000, 16)
    with pytest.raises(SystemExit):
        example.main(["--tokens", "63"])
    assert "--tokens must be at least 64" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is of Linux")
def test_memory_is_what_the_system_says(example: ModuleType) -> None:
    """Memory sizes are those that the operating system reports."""
    told = re.search(r"MemTotal: +(\d+) kB", Path("/proc/meminfo").read_text())
    assert told is not None
    assert example.machine_bytes() == 1024 * int(told[1])
    before = example.peak_bytes()
    held = torch.ones(before // 4 + 2**24)  # as much again, and 64 MiB
    assert example.peak_bytes() > before + 2**26
    del held
    assert example.peak_bytes() > before + 2**26  # a peak, not what is held now


def child(way: str, steps: int) -> dict[str, Any]:
    call = [sys.executable, "-c", CHILD, str(PATH), way, str(steps)]
    done = subprocess.run(call, capture_output=True, text=True, check=True, timeout=300)
    return json.loads(done.stdout.splitlines()[-1])


def test_the_peak_is_below_what_the_logits_would_take() -> None:
    """The peak memory of the fused loss is below the size of the logits."""
    fused, dense = child("fused", 2), child("dense", 1)
    assert fused["logit_bytes"] == dense["logit_bytes"] == 4 * 8192 * 50257
    assert fused["losses"][0] == pytest.approx(dense["losses"][0], rel=1e-5)
    assert fused["losses"][1] < fused["losses"][0]
    assert fused["peak_bytes"] < 0.6 * fused["logit_bytes"]
    assert dense["peak_bytes"] > dense["logit_bytes"]  # the control: a process that does hold them
