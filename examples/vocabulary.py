"""Training of a model with 50257 words, whose logits would not fit in memory, with the fused loss.

The text is the source of Python's standard library. The batch is so large that its logits alone exceed the
memory of the machine: with 24 GiB and two cores a step takes about half a minute.
"""

import argparse
import os
import re
import resource
import sys
import sysconfig
import time
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor, nn

from equipoise import linear
from equipoise.losses import GammaCrossEntropy

WINDOW = 64  # words that the model reads in a row
GIB = 2**30


def words() -> Iterator[list[str]]:
    """Yield the words and signs of each file of the standard library."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(folder.rglob("*.py")):
        if "-packages" not in str(path.relative_to(folder)):  # installed packages differ between machines
            yield re.findall(r"\w+|[^\w\s]", path.read_text(encoding="utf-8", errors="replace"))


def read_text(vocabulary: int) -> tuple[Tensor, int]:
    """Return the text as numbers of its words, the rarest all 0, and how many different words it has."""
    counts: Counter[str] = Counter()
    for file in words():
        counts.update(file)
    number = {word: k for k, (word, _) in enumerate(counts.most_common(vocabulary - 1), start=1)}
    text = array("i")
    for file in words():  # read again, as all the words at once would take more than the training
        text.extend(number.get(word, 0) for word in file)
    return torch.frombuffer(text, dtype=torch.int32), len(counts)


@final
class Model(nn.Module):
    """Reads words and returns a hidden state after each, for a head that has a row per word."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.reader = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, read: Tensor) -> Tensor:
        """Return the hidden states (B, T, D) of words (B, T)."""
        return self.reader(self.embedding(read))[0]


@final
@dataclass(frozen=True)
class Run:
    """Losses, times and memory of a training.

    Args:
        losses: Loss of each step, before the step.
        seconds: Time of each step.
        logit_bytes: Memory of the logits of a step in float32.
        machine_bytes: Memory of this machine.
        peak_bytes: Peak memory of this process.
    """

    losses: list[float]
    seconds: list[float]
    logit_bytes: int
    machine_bytes: int
    peak_bytes: int


def machine_bytes() -> int:
    """Return the memory of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def peak_bytes() -> int:
    """Return the peak memory of this process."""
    status = Path("/proc/self/status")
    # On Linux a new process inherits the maxrss of its parent, but has its own VmHWM.
    if status.exists() and (found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def train(tokens: int, steps: int, vocabulary: int, width: int) -> Run:
    """Train on `tokens` words per step, in random windows, and print the progress."""
    torch.manual_seed(0)
    text, distinct = read_text(vocabulary)
    print(f"text      {len(text)} words of the standard library, {distinct} different")
    model, loss = Model(vocabulary, width), GammaCrossEntropy(1e-7)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.1)
    losses, seconds, windows = [], [], tokens // WINDOW
    for step in range(steps):
        begun = time.perf_counter()
        start = torch.randint(len(text) - WINDOW, (windows, 1))
        window = text[start + torch.arange(WINDOW + 1)].long()
        hidden, target = model(window[:, :-1]), window[:, 1:]
        if step == 0:
            print(linear.explain(loss, hidden, model.head.weight, target))
        value = loss.linear(hidden, model.head.weight, target)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        losses.append(value.item())
        seconds.append(time.perf_counter() - begun)
        print(f"step {step + 1:4} loss {losses[-1]:.3f}, {seconds[-1]:.1f} s", flush=True)
    run = Run(losses, seconds, 4 * windows * WINDOW * vocabulary, machine_bytes(), peak_bytes())
    print(
        f"memory    the logits would take {run.logit_bytes / GIB:.2f} GiB, the machine has "
        f"{run.machine_bytes / GIB:.2f} GiB, the peak of this process was {run.peak_bytes / GIB:.2f} GiB"
    )
    return run


def main(argv: Sequence[str] | None = None) -> Run:
    """Train the model."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tokens", type=int, help="words a step; by default the logits outgrow the machine")
    for option, value in (("--steps", 3), ("--vocabulary", 50257), ("--width", 32)):
        parser.add_argument(option, type=int, default=value)
    given = parser.parse_args(argv)
    tokens = given.tokens
    if tokens is None:
        tokens = (machine_bytes() // (4 * given.vocabulary * WINDOW) + 1) * WINDOW
    if tokens < WINDOW:
        parser.error(f"--tokens must be at least {WINDOW}, one window, got {tokens}")
    return train(tokens, given.steps, given.vocabulary, given.width)


if __name__ == "__main__":
    main()
