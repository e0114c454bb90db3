"""Run the trainings of a plan that are missing, in several processes."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from joblib import Parallel, delayed

from equipoise.compare.collect import collect
from equipoise.compare.plan import Plan
from equipoise.compare.results import Result
from equipoise.compare.trial import run_beside, run_unit

__all__ = ["Watch", "execute"]

Watch = Callable[[int, int], None]


def execute(plan: Plan, watch: Watch | None = None) -> Result:
    """Run the trainings that are missing and compare.

    Args:
        plan: From `prepare`.
        watch: Called with the number of finished trainings and of all, whenever some finish.

    Raises:
        FloatingPointError: If plain cross entropy itself diverges, so that there is nothing to compare with,
            or a row is too far from the training rows for float32.
        OSError: If the folder cannot be written.
    """
    plan.store.folder.mkdir(parents=True, exist_ok=True)
    plan.store.tidy()
    each = len(plan.conditions.of_repeat(0))
    waiting = [unit for unit in plan.units if plan.store.read(unit.key) is None]
    total, reused = plan.trials, plan.trials - each * len(waiting)
    if watch is not None:
        watch(reused, total)
    jobs = [  # first, as they are no part of the progress shown
        delayed(run_beside)(key, place, plan.conditions, plan.store.folder)
        for place, key in enumerate(plan.context_keys)
        if plan.store.read(key) is None
    ]
    jobs += [delayed(run_unit)(unit, plan.conditions, plan.store.folder) for unit in waiting]
    workers = Parallel(
        n_jobs=min(plan.settings.processes, max(len(jobs), 1)), return_as="generator_unordered"
    )
    with _deaf_to_interrupts():
        finished = workers(jobs)
    done = reused
    for count in filter(None, finished):
        done += count
        if watch is not None:
            watch(done, total)
    return collect(plan, reused)


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Start processes that leave Ctrl-C to this one: they inherit that it is ignored.

    Blocking the signal instead would lose nothing meanwhile, but starting a resource tracker unblocks it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
