"""A real cluster of two processes: one is killed in the middle, all of them, or the scheduler."""

import os
import signal
import socket
import sys
import threading
import time
from functools import partial

import joblib
import numpy as np
import pytest

from equipoise.compare.runner import Task, on_dask, run_missing
from equipoise.compare.store import Store
from support import stored_tasks
from support.stored_tasks import TRAININGS, ran, right, tasks, twice

dask, distributed = pytest.importorskip("dask"), pytest.importorskip("distributed")
# Its threads close their sockets after the test that started them.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore:unclosed:ResourceWarning", "default::pytest.PytestUnraisableExceptionWarning"
    ),
]


def start():
    return distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0", silence_logs=100
    )


@pytest.fixture
def cluster():
    """For tests that break it."""
    with start() as made:
        yield made


@pytest.fixture(scope="module")
def shared():
    """For those that do not."""
    with start() as made:
        yield made


def workers(cluster):
    return [nanny.process.pid for nanny in cluster.workers.values()]


@pytest.mark.parametrize("how", ["one", "all"])
def test_a_killed_worker_loses_what_it_was_running_and_no_more(cluster, log, store, how):
    """Also the large array that all tasks share and that only the workers had."""
    before, seen, stored, shared = workers(cluster), [], set(), np.ones(500_000)
    todo = tasks(log, 12, seconds=0.2, beside=shared)

    def watch(done, total):
        seen.append((done, total))
        if done == 8:
            stored.update(number for number in range(12) if store.read(todo[number].key))
            for victim in before if how == "all" else before[:1]:
                os.kill(victim, signal.SIGKILL)

    with on_dask(cluster.scheduler_address):
        assert run_missing(todo, store, None, watch) == 0
    assert right(store, 12)
    assert {store.read(task.key)["sum"] for task in todo} == {10.0}
    assert seen == [(done, 24) for done in range(0, 25, 2)]
    assert len(stored) == 4
    assert not twice(log) & stored  # what was finished, but had not arrived, is run again
    assert len(ran(log)) < 18
    used = {int(line.split()[1]) for line in log.read_text().splitlines()}
    assert how == "one" or used - set(before)  # the cluster has started others
    assert os.getpid() not in used
    assert run_missing(todo, store, None) == 12 * TRAININGS


def test_control_what_is_run_twice_is_seen(shared, log, store):
    with on_dask(shared.scheduler_address):
        run_missing(tasks(log, 4), store, None)
        assert twice(log) == set()
        run_missing(tasks(log, 2), Store(None), None)
    assert twice(log) == {0, 1}


def test_the_cluster_that_joblib_is_set_to_is_used(shared, log, store):
    with distributed.Client(shared), joblib.parallel_config(backend="dask"):
        run_missing(tasks(log, 4, seconds=0.1), store, None)
    assert right(store, 4)
    assert {int(line.split()[1]) for line in log.read_text().splitlines()} <= set(workers(shared))


def test_an_error_reaches_the_caller_and_the_rest_is_called_off(shared, log, store):
    error = FloatingPointError("features must be within float32, got 1e300")
    todo = tasks(log, 60, seconds=0.2)  # those of a worker run in their order, the first before the ninth
    todo[8] = Task("0008", partial(stored_tasks.fail, error), TRAININGS)
    with on_dask(shared.scheduler_address):
        with pytest.raises(FloatingPointError) as caught:
            run_missing(todo, store, None)
        before = len(ran(log))
        time.sleep(1.5)
        assert len(ran(log)) <= before + 4  # two of each worker may be under way; it would be 15 else
    assert str(caught.value) == str(error)
    assert "in fail" in str(caught.value.__cause__)
    assert any(store.read(task.key) for task in todo)


def test_a_task_that_kills_every_worker_ends_in_one_line(store, log):
    todo = [*tasks(log, 2), Task("0002", stored_tasks.die, TRAININGS)]
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        start() as cluster,
        on_dask(cluster.scheduler_address),
        pytest.raises(ChildProcessError, match="got workers killed by the system 2 times in a row;"),
    ):
        run_missing(todo, store, None)


def test_a_scheduler_that_goes_away_ends_in_one_line(cluster, log, store):
    def watch(done, total):
        if done == 4:
            cluster.close()

    with (
        pytest.raises(ConnectionError, match="finished trainings are kept") as caught,
        on_dask(cluster.scheduler_address),
    ):
        run_missing(tasks(log, 12, seconds=0.2), store, None, watch)
    assert len(str(caught.value).splitlines()) == 1
    assert sum(store.read(task.key) is not None for task in tasks(log, 12)) >= 2
    run_missing(tasks(log, 12), store, 1)
    assert right(store, 12)


def test_an_address_where_nothing_is(log):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    began = time.monotonic()
    with (
        pytest.raises(ConnectionError, match=f"dask must be .*, got '{address}', .*for example"),
        on_dask(address),
    ):
        pass
    assert time.monotonic() - began < 15


@pytest.mark.parametrize("address", ["nonsense", "nonsense:8786", "tcp://", "ftp://127.0.0.1:1", ""])
def test_what_is_no_address(address):
    with pytest.raises(ConnectionError, match=f"dask must be .*, got '{address}'"), on_dask(address):
        pass


@pytest.mark.parametrize("greeting", [None, b""])
def test_what_is_no_scheduler(monkeypatch, greeting):
    """A service that is silent, and one that hangs up."""
    monkeypatch.setattr("equipoise.compare.runner.CONNECT", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        if greeting is not None:
            threading.Thread(target=lambda: server.accept()[0].close(), daemon=True).start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(ConnectionError, match=f"dask must be .*, got '{address}'"), on_dask(address):
            pass


def test_a_cluster_without_workers(monkeypatch):
    monkeypatch.setattr("equipoise.compare.runner.CONNECT", 1)
    with (
        distributed.LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0") as empty,
        pytest.raises(ConnectionError, match="dask must be a cluster with workers, got none"),
        on_dask(empty.scheduler_address),
    ):
        pass


def test_without_dask(monkeypatch):
    """Where dask is not installed, the error says what to install."""
    monkeypatch.setitem(sys.modules, "distributed", None)
    with (
        pytest.raises(ImportError, match=r"dask must be installed .*; pip install 'equipoise\[dask\]'"),
        on_dask("x"),
    ):
        pass


def test_what_cannot_be_sent_is_said_with_the_way_out(shared, store):
    lock = threading.Lock()
    todo = [Task(str(number), lambda: ({"locked": lock.locked()}, {}), 1) for number in range(2)]
    with on_dask(shared.scheduler_address), pytest.raises(TypeError, match="model must be picklable"):
        run_missing(todo, store, None)
