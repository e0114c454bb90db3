"""A comparison from settings to result: everything is checked before anything is written or trained."""

import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from joblib import Parallel, delayed
from numpy.typing import NDArray

from equipoise import spelling
from equipoise.compare import spec
from equipoise.compare.data import load
from equipoise.compare.matrices import (
    looks_transposed,
    lost_similarity,
    read_costs,
    read_noise,
    read_similarity,
)
from equipoise.compare.measures import MEASURES, Measure
from equipoise.compare.settings import Settings
from equipoise.compare.statistics import Difference, compare_paired
from equipoise.compare.store import Store
from equipoise.compare.trial import Conditions, run_trial, shared_key, trial_key
from equipoise.losses import CrossEntropy
from equipoise.losses.costs import in_order

__all__ = ["BASELINE", "Candidate", "Outcome", "Plan", "Result", "execute", "free_rule", "prepare"]

BASELINE = "CrossEntropy()"
Watch = Callable[[int, int], None]


@dataclass(frozen=True)
class Candidate:
    """An objective to train.

    Attributes:
        spec: Its normalised spelling.
        loss: The objective itself.
        keys: Names of its trials, one per seed.
    """

    spec: str
    loss: Any
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """A comparison whose input is known to be good.

    Attributes:
        settings: As given.
        conditions: What all trials share.
        matrices: Those that an objective may name.
        costs_from: "costs", "similarity" or None: what the costs are made from.
        candidates: Plain cross entropy first.
        shared: What decides the result of every trial.
        out: Folder for everything that is written.
        warnings: What looks wrong in the input without being certainly wrong.
    """

    settings: Settings
    conditions: Conditions
    matrices: Mapping[str, NDArray[Any]]
    costs_from: str | None
    candidates: tuple[Candidate, ...]
    shared: Mapping[str, Any]
    out: Path
    warnings: tuple[str, ...] = ()

    @property
    def store(self) -> Store:
        """The finished trials."""
        return Store(self.out / "trials")

    @property
    def measures(self) -> tuple[Measure, ...]:
        """The measures that can be had."""
        return tuple(m for m in MEASURES if self.costs_from or not m.needs_costs)

    def finished(self) -> set[str]:
        """Names of the trials that need not be run."""
        return {key for each in self.candidates for key in each.keys if self.store.read(key) is not None}


@dataclass(frozen=True)
class Outcome:
    """A candidate after all its trials.

    Attributes:
        candidate: Which one.
        records: What each trial kept.
        values: For each measure, its values over seeds (S,).
        differences: For each measure, the difference from plain cross entropy; empty for itself.
    """

    candidate: Candidate
    records: tuple[dict[str, Any], ...]
    values: Mapping[str, NDArray[np.float64]]
    differences: Mapping[str, Difference]

    def mean(self, measure: str) -> float:
        """Mean over the seeds that have a value."""
        known = self.values[measure][np.isfinite(self.values[measure])]
        return float(known.mean()) if len(known) else float("nan")

    def chance_ece(self) -> tuple[float, float]:
        """Median and 95 % value of the calibration error of a perfectly calibrated model of this size."""
        pooled = [value for record in self.records for value in record["chance_ece"]]
        if not pooled:
            return float("nan"), float("nan")
        return float(np.median(pooled)), float(np.quantile(pooled, 0.95))

    @property
    def diverged(self) -> int:
        """Number of trials that ended in infinite or undefined logits."""
        return sum(not record["finite"] for record in self.records)

    def call(self, measure: str) -> str | None:
        """What the candidate is called in a measure."""
        return self.differences[measure].call if measure in self.differences else None


@dataclass(frozen=True)
class Result:
    """A finished comparison.

    Attributes:
        plan: What was asked.
        outcomes: Plain cross entropy first, then the candidates as given.
        reused: How many trials were there before.
    """

    plan: Plan
    outcomes: tuple[Outcome, ...]
    reused: int

    @property
    def baseline(self) -> Outcome:
        """Plain cross entropy."""
        return self.outcomes[0]

    @property
    def trials(self) -> int:
        """Number of trials."""
        return sum(len(outcome.records) for outcome in self.outcomes)


def prepare(settings: Settings) -> Plan:
    """Read and check all input, writing nothing.

    Raises:
        ValueError: If any of it is bad.
    """
    dataset = load(settings.data, settings.target, settings.drop)
    classes = dataset.classes
    matrices: dict[str, NDArray[Any]] = {}
    if settings.costs is not None:
        matrices["costs"] = read_costs(settings.costs, classes)
    if settings.similarity is not None:
        matrices["similarity"] = read_similarity(settings.similarity, classes)
    costs_from = next(iter(matrices), None)
    costs = None
    if costs_from is not None:
        costs = matrices["costs"] if costs_from == "costs" else lost_similarity(matrices["similarity"])
    noise = read_noise(settings.noise, classes)
    conditions = Conditions(dataset, settings.training, noise, costs)
    shared = shared_key(conditions)
    texts = settings.objectives or default_objectives(len(classes), matrices)
    candidates = []
    for text in dict.fromkeys([BASELINE, *(spelling.normalise(text) for text in texts)]):
        loss = spec.parse(text, matrices)
        if repr(in_order(loss, classes)) != repr(loss):  # the code to paste has the order of the text
            raise ValueError(
                f"objective must name the classes in their order, {', '.join(classes)}, got {text!r}; give "
                "the matrix as --costs or --similarity, which are matched by name"
            )
        if text != BASELINE and loss == CrossEntropy():
            continue
        _try(text, loss, len(classes))
        keys = tuple(trial_key(shared, text, matrices, seed) for seed in range(settings.seeds))
        candidates.append(Candidate(text, loss, keys))
    if len(candidates) == 1:
        raise ValueError(
            "objective must name a candidate beside plain cross entropy, got only CrossEntropy(); "
            "leave it out for one setting of each family"
        )
    counts = np.bincount(dataset.labels, minlength=len(classes))
    warnings = dataset.warnings + tuple(
        warning
        for name, matrix in matrices.items()
        for warning in looks_transposed(name, str(getattr(settings, name)), matrix, classes, counts)
    )
    out = Path(settings.out)
    plan = Plan(settings, conditions, matrices, costs_from, tuple(candidates), shared, out, warnings)
    _require_writable(plan.out)
    return plan


def default_objectives(classes: int, matrices: Mapping[str, NDArray[Any]]) -> tuple[str, ...]:
    """One sensible setting of each family."""
    texts = [
        "GammaCrossEntropy(gamma=0.5)",
        "CrossEntropy(label_smoothing=0.1)",
        f"FlooredCrossEntropy(floor={0.1 / classes:.2g})",
        "Focal(gamma=2.0)",
        "GeneralizedCrossEntropy(q=0.7)",
        "Poly(epsilon=1.0)",
        "Brier()",
        "SymmetricCrossEntropy(alpha=0.1, beta=1.0)",
        "CrossEntropy() - 0.1 * Entropy()",
        "CrossEntropy() + 0.1 * LogitRange(width=8.0)",
    ]
    if "similarity" in matrices:
        texts.append("SimilarityCrossEntropy(similarity)")
    if "costs" in matrices:
        texts.append("ExpectedCost(costs)")
        if not matrices["costs"].diagonal().any():
            texts.append("PairwiseCrossEntropy(costs)")
    return tuple(texts)


def execute(plan: Plan, watch: Watch | None = None) -> Result:
    """Run the trials that are missing and compare.

    Args:
        plan: From `prepare`.
        watch: Called with the number of finished trials and of all trials, whenever one finishes.

    Raises:
        FloatingPointError: If plain cross entropy itself diverges, so that there is nothing to compare with,
            or a row is too far from the training rows for float32.
        OSError: If the folder cannot be written.
    """
    plan.store.folder.mkdir(parents=True, exist_ok=True)
    plan.store.tidy()
    done = plan.finished()
    reused = len(done)
    waiting = [
        (key, candidate.loss, seed)
        for seed in range(plan.settings.seeds)
        for candidate in plan.candidates
        for key in [candidate.keys[seed]]
        if key not in done
    ]
    total = reused + len(waiting)
    if watch is not None:
        watch(reused, total)
    workers = Parallel(
        n_jobs=min(plan.settings.processes, max(len(waiting), 1)), return_as="generator_unordered"
    )
    jobs = (delayed(run_trial)(*trial, plan.conditions, plan.store.folder) for trial in waiting)
    with _deaf_to_interrupts():
        finished = workers(jobs)
    for count, _ in enumerate(finished, start=reused + 1):
        if watch is not None:
            watch(count, total)
    return _compare(plan, reused)


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


def _compare(plan: Plan, reused: int) -> Result:
    """The result, from what the trials kept."""
    records = [tuple(_read(plan, key) for key in candidate.keys) for candidate in plan.candidates]
    if not all(record["finite"] for record in records[0]):
        raise FloatingPointError(
            f"plain cross entropy must stay finite to compare with, got infinite logits; lower --lr from "
            f"{plan.settings.training.lr:g}"
        )
    values = [
        {m.name: np.array([_value(record, m.name) for record in kept]) for m in plan.measures}
        for kept in records
    ]
    differences: list[dict[str, Difference]] = [{} for _ in plan.candidates]
    for measure in plan.measures:
        found = compare_paired(
            [each[measure.name] for each in values[1:]], values[0][measure.name], measure.better
        )
        for place, difference in enumerate(found, start=1):
            differences[place][measure.name] = difference
    outcomes = tuple(map(Outcome, plan.candidates, records, values, differences))
    return Result(plan, outcomes, reused)


def free_rule(result: Result) -> tuple[float, float, Difference] | None:
    """Mean cost of plain cross entropy, likeliest class taken and cheapest taken, and their difference.

    None without costs. This is what a decision by cost is worth before anything is trained differently.
    """
    if result.plan.costs_from is None:
        return None
    likeliest, cheapest = (result.baseline.values[name] for name in ("cost", "decided_cost"))
    (difference,) = compare_paired([cheapest], likeliest, "lower")
    return float(likeliest.mean()), float(cheapest.mean()), difference


def _read(plan: Plan, key: str) -> dict[str, Any]:
    record = plan.store.read(key)
    if record is None:
        raise OSError(
            f"a trial just written must be readable, got a damaged {plan.store.record(key)}; run it again"
        )
    return record


def _value(record: Mapping[str, Any], measure: str) -> float:
    value = record["measures"].get(measure)
    return float("nan") if value is None else float(value)


def _try(text: str, loss: Any, classes: int) -> None:
    """Call the objective once, so that a matrix or an option that does not fit the classes is found now."""
    logits = torch.linspace(-1, 1, 2 * classes).reshape(2, classes).requires_grad_()
    try:
        loss(logits, torch.tensor([0, classes - 1])).backward()
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{text} must fit {classes} classes, got an error; {reason}") from error


def _require_writable(out: Path) -> None:
    """Find out whether the folder can be written, and leave nothing behind."""
    nearest = next(path for path in [out, *out.absolute().parents] if path.exists())
    try:
        if not nearest.is_dir():
            raise NotADirectoryError(20, "Not a directory", str(nearest))
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ValueError(
            f"out must be a folder that can be written, got {str(out)!r}; {reason.lower()}"
        ) from error
