"""Runs that are interrupted or killed, and two runs at once: nothing is lost and nothing is left over."""

import contextlib
import os
import signal
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from equipoise.compare import runner
from equipoise.compare.runner import run_missing
from equipoise.compare.store import Store
from support import processes
from support.stored_tasks import TRAININGS, right, tasks, twice

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent.parent


SCRIPT = """
    import sys
    from pathlib import Path
    sys.path.insert(0, {here!r})
    from support.stored_tasks import tasks
    from equipoise.compare.runner import run_missing
    from equipoise.compare.store import Store
    folder = Path(sys.argv[1])
    try:
        run_missing(
            tasks(folder / sys.argv[2], int(sys.argv[3]), float(sys.argv[4])),
            Store(folder / "trials"),
            int(sys.argv[5]),
            lambda done, total: print(done, flush=True),
        )
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


@pytest.fixture
def start(environment, tmp_path):
    """Start a run in a session of its own, and kill what is left of it in the end."""
    started = []

    def run(log="log", count=12, seconds=0.2, jobs=2):
        code = textwrap.dedent(SCRIPT.format(here=str(HERE)))
        words = [tmp_path, log, *map(str, (count, seconds, jobs))]
        command = [sys.executable, "-W", "error::ResourceWarning", "-c", code, *words]
        made = processes.start(command, environment)
        started.append(made)
        return made

    yield run
    for each in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(each.pid, signal.SIGKILL)
        each.communicate()


def alive(session):
    """Processes of a session that have not ended."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, owner = status.read_text().rpartition(")")[2].split()[:4]
            if int(owner) == session and state != "Z":
                found.append(int(status.parent.name))
    return found


def assert_all_end(session):
    deadline = time.monotonic() + 15
    while alive(session):
        assert time.monotonic() < deadline
        time.sleep(0.05)


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")


@needs_proc
@pytest.mark.parametrize("delay", [0.0, 0.02, 0.05, 1.0])
def test_an_interrupt_is_never_lost_and_leaves_no_process_and_no_traceback(start, tmp_path, delay):
    """At the start, while processes start, while they import, while they work."""
    run = start(count=100, seconds=0.3)
    assert run.stdout.readline() == "0\n"
    time.sleep(delay)
    os.killpg(run.pid, signal.SIGINT)
    out, err = run.communicate(timeout=30)
    assert out.splitlines()[-1] == "interrupted"
    assert err == ""
    assert run.returncode == 0
    assert_all_end(run.pid)


@pytest.mark.parametrize(("method", "kept"), [("write", 1), ("prepare", 0)])
@pytest.mark.parametrize("delayed", [True, False])
def test_an_interrupt_waits_until_the_store_has_written(store, log, monkeypatch, method, kept, delayed):
    """The finished training is kept; the control, without the delay, loses it."""
    original = getattr(store, method)

    def interrupted(*arguments):
        signal.raise_signal(signal.SIGINT)
        original(*arguments)

    monkeypatch.setattr(store, method, interrupted)
    if not delayed:
        monkeypatch.setattr(runner, "_interrupt_delayed", contextlib.nullcontext)
    with pytest.raises(KeyboardInterrupt):
        run_missing(tasks(log, 3), store, 1)
    assert store.folder.exists() == (delayed or method == "write")
    assert len(list(store.folder.glob("*.json"))) == (kept if delayed else 0)


def test_stopping_hides_an_error_of_loky_and_no_other(store, log, monkeypatch):
    """loky's thread looks for a task after stopping has removed it."""
    reported = []
    monkeypatch.setattr(threading, "excepthook", lambda error: reported.append(error.exc_type))
    manager = runner._ExecutorManagerThread
    flag = manager.flag_executor_shutting_down
    raised = []

    def fail(self):
        flag(self)
        raised.append(KeyError if len(raised) == 0 else RuntimeError)
        raise raised[-1]

    monkeypatch.setattr(manager, "flag_executor_shutting_down", fail)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            run_missing(tasks(log, 8, 0.05), Store(None), 2, lambda done, total: done and 1 / 0)
    assert raised == [KeyError, RuntimeError]
    assert reported == [RuntimeError]


@needs_proc
def test_a_killed_run_leaves_no_process_and_resumes(start, tmp_path, log, store):
    run = start()
    while run.stdout.readline() != "6\n":
        assert run.poll() is None
    kept = {number for number in range(12) if store.read(f"{number:04d}")}
    assert len(kept) >= 3
    os.kill(run.pid, signal.SIGKILL)
    assert_all_end(run.pid)
    assert run_missing(tasks(log, 12), store, 2) >= TRAININGS * len(kept)
    assert right(store, 12)
    assert not twice(log) & kept


def test_two_runs_in_one_folder_are_both_right(start, store, tmp_path):
    """Of the same comparison and of a larger one."""
    runs = [start("first", 8, 0.05, 1), start("second", 8, 0.05, 1), start("third", 14, 0.05, 2)]
    for run in runs:
        _, err = run.communicate(timeout=120)
        assert (run.returncode, err) == (0, "")
    assert right(store, 14)
    assert not any(twice(tmp_path / name) for name in ("first", "second", "third"))
    assert not list(store.folder.glob("*.tmp"))
