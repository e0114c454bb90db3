"""Processes that tests start: the ranks of a distributed run, and programs that are interrupted."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any


def run_ranks(file: str, folder: Path, ranks: int, *, timeout: float) -> None:
    """Run a file with a folder as argument as each rank of a distributed run, and check that all succeed."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(ranks),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    running = [
        subprocess.Popen(
            [sys.executable, file, str(folder)],
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(ranks)
    ]
    assert [process.wait(timeout=timeout) for process in running] == [0] * ranks


def start(command: Sequence[Any], environment: Mapping[str, str]) -> subprocess.Popen[str]:
    """Start a command that SIGINT interrupts, in a session of its own, with pipes for its output."""
    return subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell that runs the tests in the background may ignore interrupts, which is inherited.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
