"""Real processes: killed, interrupted, starved of memory, and two runs at once."""

import contextlib
import errno
import os
import re
import threading
import time
from functools import partial

import joblib
import numpy as np
import pytest

from equipoise.compare import runner
from equipoise.compare.runner import Task, run_missing
from equipoise.compare.store import Store
from support import stored_tasks
from support.stored_tasks import TRAININGS, ran, right, tasks, twice

pytestmark = pytest.mark.slow


@pytest.fixture
def watched():
    seen = []
    return seen, lambda done, total: seen.append((done, total))


def process_ids(log):
    return {int(line.split()[1]) for line in log.read_text().splitlines()}


# What is run


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_is_missing_is_run_once_and_counted(log, store, watched, jobs):
    seen, watch = watched
    todo = [*tasks(log, 4), Task("beside", partial(stored_tasks.work, log, 99), 0)]
    assert run_missing(todo[1:3], store, 1) == 0
    log.unlink()
    assert run_missing(todo, store, jobs, watch) == 2 * TRAININGS
    assert ran(log) == [0, 3, 99]
    assert right(store, 4)
    assert store.read("beside")["number"] == 99
    assert seen == [(4, 8), (6, 8), (8, 8)]
    assert run_missing(todo, store, jobs, watch) == 8
    assert seen[3:] == [(8, 8)]
    assert ran(log) == [0, 3, 99]
    assert (process_ids(log) == {os.getpid()}) == (jobs == 1)


def test_control_what_is_run_twice_is_seen(log, store):
    run_missing(tasks(log, 3), store, 1)
    assert twice(log) == set()
    run_missing(tasks(log, 1), Store(None), 1)
    assert twice(log) == {0}


@pytest.mark.parametrize(
    ("jobs", "config", "count", "expected"),
    [
        (None, {}, 3, 3),
        (None, {}, 9, 5),
        (4, {}, 3, 3),
        (4, {}, 9, 4),
        (None, {"n_jobs": 3}, 9, 3),
        (None, {"backend": "loky"}, 9, 5),
        (2, {"n_jobs": 3}, 9, 2),
        (None, {"backend": "threading"}, 9, None),
        (None, {"backend": "threading", "n_jobs": 2}, 9, None),
        (2, {"backend": "threading"}, 9, 2),
    ],
)
def test_how_many_processes(log, monkeypatch, jobs, config, count, expected):
    """One per available core but no more than tasks, unless joblib is told otherwise."""
    asked = []

    def spy(n_jobs, **options):
        made = joblib.Parallel(n_jobs, **options)
        asked.append(made.n_jobs if expected and not jobs else n_jobs)
        made.n_jobs = 1
        return made

    monkeypatch.setattr(runner, "cpu_count", lambda: 5)
    monkeypatch.setattr(runner, "Parallel", spy)
    with joblib.parallel_config(**config) if config else contextlib.nullcontext():
        run_missing(tasks(log, count), Store(None), jobs)
    assert asked == [expected]


def test_one_task_runs_in_this_process(log, store):
    run_missing(tasks(log, 1), store, None)
    assert process_ids(log) == {os.getpid()}


def test_threads_run_one_task_at_a_time(store):
    """As torch has one generator per process, a training would otherwise depend on what runs beside it."""
    running, most = [], []

    def work(number):
        running.append(number)
        most.append(len(running))
        time.sleep(0.01)
        running.remove(number)
        return {"number": number}, {"lock": np.zeros(1)}

    todo = [Task(str(number), partial(work, number), 1) for number in range(8)]
    with joblib.parallel_config(backend="threading", n_jobs=4):
        run_missing(todo, store, None)
    assert set(most) == {1}
    assert [store.read(str(number)) for number in range(8)] == [{"number": number} for number in range(8)]


def test_another_thread_than_the_main_one(log, store):
    thread = threading.Thread(target=run_missing, args=(tasks(log, 4), store, 2))
    thread.start()
    thread.join()
    assert right(store, 4)


@pytest.mark.parametrize("jobs", [0, -1, 2.5, "2"])
def test_jobs_are_a_whole_number_of_processes(log, store, jobs):
    says = rf"jobs must be a whole number from 1, got {jobs!r}; leave it out for one per core"
    with pytest.raises(ValueError, match=re.escape(says)):
        run_missing(tasks(log, 2), store, jobs)
    assert not log.exists()


# What is sent


def test_a_large_array_is_sent_once(log):
    large, small = np.ones(1_000_000), np.ones(10)
    pack = runner._Packer()
    packed = [pack(partial(stored_tasks.work, log, number, beside=large)) for number in range(3)]
    assert all(len(whole) < 1000 for whole, _ in packed)
    assert len({id(array) for _, array in packed}) == 1
    assert len(pack(partial(stored_tasks.work, log, 0, beside=small))) == 1
    _, array = pack(partial(stored_tasks.work, log, 0, beside=large.copy()))  # as some classes pickle a copy
    assert array is packed[0][1]
    _, other = pack(partial(stored_tasks.work, log, 0, beside=large + 1))
    assert other is not array


def test_a_large_array_arrives_and_may_be_written(store):
    large = np.arange(300_000.0)

    def work(number):
        found = large.sum()
        large[:] = 0  # of this process alone
        return {"sum": found}, {"beside": large[:2]}

    run_missing([Task(str(number), partial(work, number), 1) for number in range(6)], store, 2)
    assert {store.read(str(number))["sum"] for number in range(6)} == {np.arange(300_000.0).sum()}


def test_a_lambda_or_closure_goes_to_another_process(store):
    scale = 3
    todo = [
        Task(str(number), lambda number=number: ({"number": scale * number}, {}), 1) for number in range(2)
    ]
    run_missing(todo, store, 2)
    assert store.read("1") == {"number": 3}


def test_what_cannot_be_sent_is_said_with_the_way_out(store, log):
    lock = threading.Lock()
    todo = [Task(str(number), lambda: ({"locked": lock.locked()}, {}), 1) for number in range(2)]
    with pytest.raises(TypeError, match=r"model must be picklable .*, got TypeError: .*lock.*; use jobs=1"):
        run_missing(todo, store, 2)
    run_missing(todo, store, 1)
    assert store.read("0") == {"locked": False}


# What goes wrong in a task


def failing(log, error, place=3, seconds=0.0):
    todo = tasks(log, 12, seconds)
    todo[place] = Task(todo[place].key, partial(stored_tasks.fail, error), TRAININGS)
    return todo


@pytest.mark.parametrize("backend", ["this process", "threading", "loky"])
def test_an_error_reaches_the_caller_as_it_is(log, store, backend):
    error = FloatingPointError("features must be within float32 of the training rows, got 1e300")
    options = {"this process": {"jobs": 1}, "threading": {"jobs": 2}, "loky": {"jobs": 2}}[backend]
    config = {"backend": "threading"} if backend == "threading" else {"backend": "loky"}
    began = time.monotonic()
    with joblib.parallel_config(**config), pytest.raises(FloatingPointError) as caught:
        run_missing(failing(log, error, seconds=0.1 if backend == "loky" else 0), store, **options)
    assert str(caught.value) == str(error)
    assert type(caught.value) is FloatingPointError
    if backend == "loky":
        assert "in fail" in str(caught.value.__cause__)  # where it was raised
    kept = [number for number in range(12) if store.read(f"{number:04d}")]
    assert len(kept) >= 2  # two of the first three had finished when the fourth began
    run_missing(tasks(log, 12), store, **options)
    assert right(store, 12)
    assert not twice(log) & set(kept)
    assert time.monotonic() - began < 60


def test_what_runs_elsewhere_is_not_waited_for(log, store):
    todo = [Task("0", partial(stored_tasks.fail, KeyError("x")), 1), *tasks(log, 3, seconds=60)[1:]]
    began = time.monotonic()
    with pytest.raises(KeyError, match="x"):
        run_missing(todo, store, 2)
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("error", ["AwkwardError", "ValueError"])
def test_an_error_that_cannot_be_sent_is_told_by_name(store, error):
    todo = [Task(str(number), partial(stored_tasks.fail_awkwardly, error), 1) for number in range(2)]
    with pytest.raises(RuntimeError, match=f"^{error}: "):
        run_missing(todo, store, 2)


def test_a_store_that_cannot_be_written_is_found_before_anything_runs(log, tmp_path):
    (tmp_path / "trials").write_text("somebody's own")
    with pytest.raises(OSError, match="must be writable"):
        run_missing(tasks(log, 2), Store(tmp_path / "trials"), 1)
    assert ran(log) == []


def test_a_store_that_is_full_ends_the_run_and_keeps_what_is_there(log, store, monkeypatch):
    write, room = Store.write, iter([True] * 3)

    def full(self, *given):
        if next(room, False):
            return write(self, *given)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Store, "write", full)
    with pytest.raises(OSError, match="No space left"):
        run_missing(tasks(log, 12), store, 1)
    monkeypatch.undo()
    assert run_missing(tasks(log, 12), store, 1) == 3 * TRAININGS
    assert right(store, 12)


# What goes wrong with processes


def test_a_killed_worker_loses_what_it_was_running_and_no_more(log, store, watched):
    seen, watch = watched
    todo = tasks(log, 10, seconds=0.1)
    todo[8] = Task("0008", partial(stored_tasks.die_once, log, 8, log.with_name("flag"), 0.1), TRAININGS)
    stored = set()

    def count(done, total):
        watch(done, total)
        if not log.with_name("flag").exists():
            stored.update(number for number in range(10) if store.read(f"{number:04d}"))

    run_missing(todo, store, 2, count)
    assert len(stored) >= 3
    assert right(store, 10)
    assert not twice(log) & stored
    assert len(ran(log)) <= 13  # what the other worker does until it is killed with its pool is lost
    assert seen == [(done, 20) for done in range(0, 21, 2)]


def test_workers_killed_again_and_again_end_in_one_line(log, store):
    todo = tasks(log, 3)
    todo[2] = Task("0002", stored_tasks.die, TRAININGS)
    with pytest.raises(ChildProcessError) as caught:
        run_missing(todo, store, 2)
    assert str(caught.value) == (
        "jobs must leave each process enough memory, got workers killed by the system 3 times in a row; "
        "use fewer jobs; finished trainings are kept if out is given"
    )
    assert store.read("0000")
