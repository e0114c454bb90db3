"""Run the tasks that are missing in a store: in this process, in several, or on a Dask cluster."""

import multiprocessing
import os
import pickle
import signal
import socket
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from multiprocessing import resource_tracker
from typing import Any
from urllib.parse import urlsplit

import cloudpickle
import numpy as np
from joblib import Parallel, cpu_count, delayed, parallel_config
from joblib.externals.loky.backend import resource_tracker as loky_resource_tracker
from joblib.externals.loky.process_executor import TerminatedWorkerError, _ExecutorManagerThread
from joblib.parallel import BACKENDS, get_active_backend
from numpy.typing import NDArray

from equipoise.compare.early import require_jobs
from equipoise.compare.refusal import refusal
from equipoise.compare.store import Store, digest

__all__ = ["Call", "Task", "Watch", "on_dask", "run_missing"]

Call = Callable[[], tuple[Mapping[str, Any], Mapping[str, NDArray[Any]]]]
Watch = Callable[[int, int], None]
Outcome = tuple[str, Any, str]  # key, result or error, and traceback of an error in another process

MOST_LOSSES = 3  # of workers in a row, without a finished task in between
LARGE = 100_000  # bytes of an array that is sent once, not with every task
CONNECT = 10  # seconds
KEPT = "finished trainings are kept if out is given"

_ALONE = threading.RLock()  # trainings use torch's generator, one per process


@dataclass(frozen=True)
class Task:
    """A call whose result is stored under a key, and the number of trainings that it is."""

    key: str
    call: Call
    trainings: int


def run_missing(tasks: Sequence[Task], store: Store, jobs: int | None, watch: Watch | None = None) -> int:
    """Run the tasks that are missing in the store, store each result at once, and count trainings.

    `jobs` is the number of processes; 1 for this one, None for joblib's setting, or one per available core.
    `watch` is called with the number of finished trainings and of all trainings, at the start and whenever
    some finish. Return the number of trainings that were already stored.
    """
    require_jobs(jobs)
    total = sum(task.trainings for task in tasks)
    left = {task.key: task for task in tasks if store.read(task.key) is None}
    before = done = total - sum(task.trainings for task in left.values())
    if watch is not None:
        watch(done, total)
    if left:
        with _interrupt_delayed():
            store.prepare()
    losses, fewest = 0, 1
    while left:
        waiting = len(left)
        with closing(_outcomes(list(left.values()), jobs, fewest)) as outcomes:
            for key, outcome, trace in outcomes:
                if isinstance(outcome, Exception):
                    if trace:
                        outcome.__cause__ = RuntimeError(trace)
                    raise outcome
                with _interrupt_delayed():
                    store.write(key, *outcome)
                task = left.pop(key)
                done += task.trainings
                if watch is not None and task.trainings:
                    watch(done, total)
        fewest = 2  # a task that kills its process must not run in this one
        losses = losses + 1 if len(left) == waiting else 0
        if losses == MOST_LOSSES:
            raise _killed(losses)
    return before


def _killed(times: int) -> Exception:
    got, way = f"workers killed by the system {times} times in a row", f"use fewer jobs; {KEPT}"
    return refusal("jobs", "leave each process enough memory", got, way, ChildProcessError)


def _outcomes(tasks: Sequence[Task], jobs: int | None, fewest: int) -> Generator[Outcome]:
    """Yield the outcome of each task when it has finished, without those whose process died."""
    backend, configured = get_active_backend()
    if jobs is None and configured is None and isinstance(backend, BACKENDS["loky"]):
        jobs = cpu_count()
    jobs = None if jobs is None else max(min(jobs, len(tasks)), fewest)
    if jobs == 1:
        return (_attempt(task.key, task.call) for task in tasks)
    if (client := getattr(backend, "client", None)) is not None:
        return _on_cluster(client, tasks)
    if getattr(backend, "supports_sharedmem", False):
        calls = (delayed(_attempt)(task.key, task.call) for task in tasks)
    else:
        pack = _Packer()
        calls = (delayed(_attempt_there)(task.key, os.getpid(), *pack(task.call)) for task in tasks)
    return _by_joblib(calls, jobs)


def _by_joblib(calls: Iterable[Any], jobs: int | None) -> Generator[Outcome]:
    # One task at a time, so that a dead worker loses one; "c", as torch warns about read-only arrays.
    options: dict[str, Any] = {"return_as": "generator_unordered", "batch_size": 1, "mmap_mode": "c"}
    workers = Parallel(jobs, **options)
    with warnings.catch_warnings(), _loky_stops_quietly():
        warnings.filterwarnings("ignore", category=UserWarning, module="joblib")  # of unfinished tasks
        outcomes: Any = (each for each in ())
        try:
            with _interrupts_held():
                outcomes = workers(calls)
            yield from outcomes
        except TerminatedWorkerError:
            return
        finally:
            outcomes.close()


@contextmanager
def _loky_stops_quietly() -> Iterator[None]:
    """Do not report the KeyError of loky's thread for a task that was submitted while the workers are killed.

    The thread removes all tasks, kills the workers and then looks for the task, so nothing is left behind.
    """
    report = threading.excepthook

    def report_others(error: threading.ExceptHookArgs) -> None:
        if not (error.exc_type is KeyError and isinstance(error.thread, _ExecutorManagerThread)):
            report(error)

    threading.excepthook = report_others
    try:
        yield
    finally:
        threading.excepthook = report


def _on_cluster(client: Any, tasks: Sequence[Task]) -> Generator[Outcome]:
    """Yield outcomes from a Dask cluster; joblib's Dask backend would wait for ever for a cancelled task."""
    from distributed import KilledWorker, as_completed

    pack, sent, futures = _Packer(), {}, set()
    try:
        for task in tasks:
            packed, *arrays = pack(task.call)
            for array in arrays:
                if id(array) not in sent:
                    sent[id(array)] = client.scatter(array, broadcast=True, hash=False)
            beside = [sent[id(array)] for array in arrays]
            futures.add(client.submit(_attempt_there, task.key, None, packed, *beside, pure=False))
        for future, outcome in as_completed(futures, client.loop, True, raise_errors=False):
            if future.status == "finished":
                yield outcome
            elif future.status == "error":
                _, error, _ = outcome
                raise _killed(error.allowed_failures + 1) if isinstance(error, KilledWorker) else error
            elif client.status != "running":  # else only a worker with its arrays is lost
                got = "a lost connection to it"
                raise refusal("dask", "keep its scheduler running", got, KEPT, ConnectionError)
            futures.discard(future)
    finally:
        if client.status == "running":
            client.cancel(list(futures))


@contextmanager
def on_dask(address: str) -> Iterator[None]:
    """Make `run_missing` with `jobs=None` use the Dask cluster of a scheduler, inside the context."""
    try:
        from distributed import Client
    except ImportError as error:
        rule, way = "be installed to run on a cluster", "pip install 'equipoise[dask]'"
        raise refusal("dask", rule, "none", way, ImportError) from error
    try:
        at = urlsplit(address if "://" in address else f"tcp://{address}")
        with socket.create_connection((at.hostname or "", at.port or 0), CONNECT) as probe:
            # A scheduler sends first. A Client would wait for ever without one, for any timeout.
            if at.scheme == "tcp" and not probe.recv(1):
                raise OSError("the connection was closed")
        client = Client(address, timeout=CONNECT, set_as_default=False)
    except (OSError, ValueError) as error:
        rule, got = "be the address of a Dask scheduler that runs", f"{address!r}, where none answers"
        way = "for example tcp://127.0.0.1:8786"
        raise refusal("dask", rule, got, way, ConnectionError) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=CONNECT)
        except TimeoutError as error:
            got, way = f"none at {address!r}", f"start some: dask worker {address}"
            raise refusal("dask", "be a cluster with workers", got, way, ConnectionError) from error
        with parallel_config(backend="dask", client=client):
            yield


class _Packer:
    """Pickles calls without their large arrays, which are returned separately, one object per array."""

    def __init__(self) -> None:
        self._known: dict[Any, NDArray[np.uint8]] = {}

    def __call__(self, call: Call) -> tuple[Any, ...]:
        beside = []

        def stays_inside(buffer: pickle.PickleBuffer) -> bool:
            array = np.frombuffer(buffer.raw(), np.uint8)
            if array.nbytes < LARGE:
                return True
            place = array.ctypes.data, array.nbytes
            if place not in self._known:
                known = self._known.setdefault(digest(array.tobytes()), array)
                if known is not array:  # a copy made by pickling, freed after this call
                    beside.append(known)
                    return False
                self._known[place] = array
            beside.append(self._known[place])
            return False

        try:
            packed = cloudpickle.dumps(call, protocol=5, buffer_callback=stays_inside)
        except Exception as error:
            rule, got = "be picklable to be trained in other processes", f"{type(error).__name__}: {error}"
            raise refusal("model", rule, got, "use jobs=1", TypeError) from error
        return packed, *beside


def _attempt(key: str, call: Call) -> Outcome:
    """Return the result of a call, or its exception, so that earlier results are stored before a raise."""
    try:
        with _ALONE:
            return key, call(), ""
    except Exception as error:
        return key, error, ""


def _attempt_there(key: str, parent: int | None, packed: bytes, *arrays: NDArray[Any]) -> Outcome:
    """As `_attempt`, in another process or on another machine."""
    if parent is not None:
        _end_with(parent)
    key, outcome, trace = _attempt(key, lambda: pickle.loads(packed, buffers=arrays)())
    if isinstance(outcome, Exception):
        trace = "".join(traceback.format_exception(outcome))
        try:
            pickle.loads(cloudpickle.dumps(outcome))
        except Exception:  # unpickling it would kill the receiving process
            outcome = RuntimeError(f"{type(outcome).__name__}: {outcome}")
    return key, outcome, trace


@cache
def _end_with(parent: int) -> None:
    """Ignore SIGINT in a worker, and end the worker when its parent ends for any reason."""
    if getattr(multiprocessing.current_process(), "_parent_pid", None) != parent:
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _interrupt_delayed() -> Iterator[None]:
    """Raise a KeyboardInterrupt of the main thread at the end of the block, not inside it."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or handler is None:
        yield
        return
    received = []
    signal.signal(signal.SIGINT, lambda *ignored: received.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if received:
            signal.raise_signal(signal.SIGINT)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Start workers with SIGINT blocked, so that only the parent handles Ctrl-C, after the context."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    for tracker in (resource_tracker, loky_resource_tracker):
        tracker.ensure_running()  # now, as its start unblocks SIGINT
    with _interrupt_delayed():  # a thread of a library may receive a blocked signal
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
