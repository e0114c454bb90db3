"""Tasks for processes that import them: they sleep, write down that they ran, and return what is known."""

import os
import signal
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np

from equipoise.compare.runner import Task

TRAININGS = 2


def work(log, number, seconds=0.0, beside=None):
    """Sleep, write a line, and return a record and arrays that tell the number."""
    time.sleep(seconds)
    with log.open("a") as file:
        file.write(f"{number} {os.getpid()}\n")
    total = 0.0 if beside is None else float(beside[:10].sum())
    return {"number": number, "sum": total}, {"logits": np.full((2, 3), number, dtype=np.float32)}


def die_once(log, number, flag, seconds=0.0):
    """As `work`, but where there is no flag yet the process is killed."""
    if not flag.exists():
        flag.touch()
        die()
    return work(log, number, seconds)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def fail(error):
    raise error


class AwkwardError(Exception):
    """Pickles, but does not come back."""

    def __init__(self, left, right):
        super().__init__(f"{left} and {right}")


def fail_awkwardly(kind):
    raise AwkwardError("a", "b") if kind == "AwkwardError" else ValueError(threading.Lock())


def tasks(log, count, seconds=0.0, **options):
    return [
        Task(f"{number:04d}", partial(work, log, number, seconds, **options), TRAININGS)
        for number in range(count)
    ]


def ran(log: Path) -> list[int]:
    """Numbers of the tasks that were finished, as often as they were."""
    return sorted(int(line.split()[0]) for line in log.read_text().splitlines()) if log.exists() else []


def twice(log: Path) -> set[int]:
    numbers = ran(log)
    return {number for number in numbers if numbers.count(number) > 1}


def right(store, count):
    """Whether a store has what all the tasks return."""
    for number in range(count):
        record = store.read(f"{number:04d}")
        if record is None or record["number"] != number:
            return False
        if not np.array_equal(store.arrays(f"{number:04d}")["logits"], np.full((2, 3), number)):
            return False
    return True
