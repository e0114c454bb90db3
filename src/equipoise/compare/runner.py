"""Shim."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    key: str
    call: object
    trainings: int


def run_missing(tasks, store, jobs, watch):
    reused = 0
    for t in tasks:
        if store.read(t.key) is None:
            store.write(t.key, *t.call())
        else:
            reused += t.trainings
    return reused
