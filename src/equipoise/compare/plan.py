"""`Plan` of a comparison; all inputs are checked before anything is written or trained."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import equipoise
from equipoise.compare.checks import warn_of_parts
from equipoise.compare.codes import with_code
from equipoise.compare.context import COMMONEST, TREES
from equipoise.compare.dataset import Dataset
from equipoise.compare.matrices import (
    as_costs,
    as_noise,
    as_similarity,
    costs_from_similarity,
    looks_transposed,
)
from equipoise.compare.measures import MEASURES, Measure
from equipoise.compare.networks import require_memory, try_network
from equipoise.compare.objectives import Candidate, read_objective
from equipoise.compare.runner import Task
from equipoise.compare.settings import Settings
from equipoise.compare.splits import splits
from equipoise.compare.store import Store, digest
from equipoise.compare.trial import Conditions, Unit, for_trees, run_beside, run_unit
from equipoise.compare.tuning import draw
from equipoise.losses.cost_sensitive import in_order
from equipoise.training import separable

__all__ = ["BASELINE", "Plan", "prepare", "shared_key", "units_of"]

BASELINE = "CrossEntropy()"
FORMAT = 1  # of stored trainings; a new number invalidates the old ones
MOST = 6  # default candidates


@dataclass(frozen=True)
class Plan:
    """A comparison with checked inputs.

    Attributes:
        settings: Options of training and evaluation.
        conditions: The conditions shared by all trainings.
        matrices: Matrices that a text may name.
        costs_from: Origin of the costs: "costs", "similarity" or None.
        given: Description of the matrices and the noise as given, by name.
        candidates: The candidates, plain cross entropy first.
        units: All units, candidate by candidate; equal ones have the same key.
        context_keys: Keys of the stored context models, one per split of the first repeat.
        versions: Versions of the libraries that influence a result.
        out: Folder of all files, or None.
        warnings: Probable mistakes in the input.
    """

    settings: Settings
    conditions: Conditions
    matrices: Mapping[str, NDArray[Any]]
    costs_from: str | None
    given: Mapping[str, Any]
    candidates: tuple[Candidate, ...]
    units: tuple[Unit, ...]
    context_keys: tuple[str, ...]
    versions: Mapping[str, str]
    out: Path | None
    warnings: tuple[str, ...] = ()

    @cached_property
    def store(self) -> Store:
        """The store of finished trainings."""
        return Store(None if self.out is None else self.out / "trials")

    @property
    def noise_name(self) -> str:
        """Name of the label noise in one word."""
        given = self.given.get("noise", 0.0)
        return str(given) if isinstance(given, str | Path | int | float) else "a matrix"

    @property
    def measures(self) -> tuple[Measure, ...]:
        """The measures that are available with or without costs."""
        return tuple(m for m in MEASURES if self.costs_from or not m.needs_costs)

    @property
    def deciding(self) -> tuple[str, ...]:
        """Names of the deciding measures; with costs, only the cost of decisions."""
        return ("decided_cost",) if self.costs_from == "costs" else ("accuracy", "calibrated_nll")

    @property
    def tasks(self) -> list[Task]:
        """All tasks, each once; the trainings of plain cross entropy, which take longest, come first."""
        units = {unit.key: unit for unit in self.units}
        trained = [
            Task(key, partial(run_unit, unit, self.conditions), len(unit.places))
            for key, unit in units.items()
        ]
        return trained + [
            Task(key, partial(run_beside, place, self.conditions), 0)
            for place, key in enumerate(self.context_keys)
        ]

    @property
    def trials(self) -> int:
        """Number of trainings."""
        return sum(task.trainings for task in self.tasks)

    @property
    def one_test(self) -> bool:
        """Whether there is one test part."""
        return self.conditions.dataset.one_test

    @property
    def test_ratio(self) -> float:
        """Test rows for each row of the training and validation parts, on average over splits."""
        parts = self.conditions.splits
        return float(np.mean([len(s.test) / (len(s.train) + len(s.validation)) for s in parts]))


def prepare(
    dataset: Dataset,
    objectives: Sequence[Any] | Mapping[str, Any],
    settings: Settings,
    *,
    costs: Any = None,
    similarity: Any = None,
    noise: Any = 0.0,
    out: Path | None = None,
) -> Plan:
    """Check all inputs and return the plan, without writing anything.

    Raises:
        ValueError: If an input is invalid.
    """
    classes = dataset.classes
    matrices: dict[str, NDArray[Any]] = {}
    if costs is not None:
        matrices["costs"] = as_costs(costs, classes)
    if similarity is not None:
        matrices["similarity"] = as_similarity(similarity, classes)
    costs_from = next(iter(matrices), None)
    weighed = None
    if costs_from is not None:
        weighed = (
            matrices["costs"] if costs_from == "costs" else costs_from_similarity(matrices["similarity"])
        )
    parts = splits(dataset, settings.folds, settings.repeats, settings.random_state)
    conditions = Conditions(dataset, parts, settings, as_noise(noise, classes), weighed)
    try_network(settings, dataset, parts[0].train)
    candidates = _candidates(objectives or _default_objectives(matrices), matrices, classes)
    if out is not None:
        _require_keys(settings, candidates)
    shared = shared_key(conditions)
    units = [unit for of, each in enumerate(candidates) for unit in units_of(of, each, conditions, shared)]
    columns = int(np.prod(dataset.features.shape[1:]))
    widest = max(unit.setting.width for unit in units)
    require_memory(settings, widest, columns, len(classes), max(len(unit.places) for unit in units))
    counts = np.bincount(dataset.labels, minlength=len(classes))
    given = {"noise": noise, "costs": costs, "similarity": similarity}
    transposed = [
        warning
        for name, matrix in matrices.items()
        for warning in looks_transposed(name, given[name], matrix, classes, counts)
    ]
    warnings = (
        *dataset.warnings,
        *warn_of_parts(dataset, parts[: len(conditions.of_repeat(0))]),
        *transposed,
        *([_no_trees(dataset)] if dataset.features.ndim == 2 and not for_trees(dataset) else []),
    )
    return Plan(
        settings,
        conditions,
        matrices,
        costs_from,
        {name: value for name, value in given.items() if value is not None},
        tuple(candidates),
        tuple(units),
        tuple(digest([shared, "context", place])[:24] for place in conditions.of_repeat(0)),
        {name: version(name) for name in ("torch", "numpy", "scikit-learn")}
        | {"equipoise": equipoise.__version__},
        out,
        warnings,
    )


def _candidates(
    objectives: Sequence[Any] | Mapping[str, Any],
    matrices: Mapping[str, NDArray[Any]],
    classes: tuple[str, ...],
) -> list[Candidate]:
    """Return plain cross entropy and the candidates, each once."""
    named = objectives.items() if isinstance(objectives, Mapping) else [(None, each) for each in objectives]
    found = [read_objective(BASELINE, matrices)]
    for name, given in named:
        candidate = read_objective(given, matrices, name)
        if repr(in_order(candidate.loss, classes)) != repr(
            candidate.loss
        ):  # the code of the winner has this order
            raise ValueError(
                f"objectives must have matrices in the order of the classes, {', '.join(classes)}, got "
                f"{candidate.name!r}; give the matrix as costs or similarity, which are matched by name"
            )
        if any(
            candidate.same(other) for other in found
        ):  # a duplicate would widen all simultaneous intervals
            continue
        if candidate.name in (COMMONEST, TREES) or any(candidate.name == other.name for other in found):
            raise ValueError(
                f"objectives must have different names, got {candidate.name!r} twice; rename one"
            )
        _try(candidate, len(classes))
        found.append(candidate)
    if len(found) == 1:
        raise ValueError(
            "objectives must have a candidate beside plain cross entropy, got only CrossEntropy(); "
            "leave them out for one setting of each family"
        )
    return found


def _default_objectives(matrices: Mapping[str, NDArray[Any]]) -> tuple[str, ...]:
    """Return one setting of each family of losses."""
    families = (
        "GammaCrossEntropy(gamma=0.5)",
        "CrossEntropy(label_smoothing=0.1)",
        "GammaCrossEntropy(gamma=Linear(0, 0.5))",
        "GeneralizedCrossEntropy(q=0.7)",
        "SymmetricCrossEntropy(alpha=0.1, beta=1.0)",
    )
    named = []
    if "similarity" in matrices:
        named.append("SimilarityCrossEntropy(similarity)")
    if "costs" in matrices:
        named.append("ExpectedCost(costs)")
        if not matrices["costs"].diagonal().any():
            named.append("PairwiseCrossEntropy(costs)")
    return (*families[: MOST - len(named)], *named)


def _no_trees(dataset: Dataset) -> str:
    rows, columns = dataset.features.shape
    return with_code(
        "EQ011",
        f"{TREES} is not shown beside the candidates: on {rows:,} rows x {columns:,} columns it would take "
        "longer than they do",
    )


def _try(candidate: Candidate, classes: int) -> None:
    """Call the objective once, so that a matrix or option that does not fit raises before training."""
    logits = torch.linspace(-1, 1, 2 * classes).reshape(2, classes).requires_grad_()
    try:
        candidate.objective(1)(logits, torch.tensor([0, classes - 1])).backward()
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{candidate.name} must be computable for {classes} classes, got an error; {reason}"
        ) from error


def _require_keys(settings: Settings, candidates: Sequence[Candidate]) -> None:
    """Raise if a model or an objective has no key under which its trainings can be stored."""
    if settings.own_model and settings.model_name is None:
        raise ValueError(
            f"model_name must be given with out and a model of your own, got None for {settings.title}; "
            "model_name identifies the model among stored trainings: change the name when the model changes"
        )
    for candidate in candidates:
        if not candidate.stable:
            raise ValueError(
                f"objectives must be defined in a file where out is given, got {candidate.name}; define the "
                "loss in a module, or leave out out="
            )


def units_of(
    of: int,
    candidate: Candidate,
    conditions: Conditions,
    shared: Mapping[str, Any],
) -> list[Unit]:
    """Return the units of a candidate: a setting on all splits of a repeat, or on one if trained alone."""
    settings = conditions.settings
    alone = settings.own_model or not separable(candidate.objective(1))
    drawn = draw(candidate, settings, max(settings.tune, 1), len(conditions.dataset.classes))
    found = []
    for repeat in range(settings.repeats):
        places = tuple(conditions.of_repeat(repeat))
        groups = [(place,) for place in places] if alone else [places]
        for tried, (numbered, setting) in enumerate(drawn):
            # Without a key there is no folder, and the index of the candidate is the key
            trained = [numbered.key or [numbered.text, of], setting.lr, setting.weight_decay, setting.width]
            for group in groups:
                key = digest([dict(shared), trained, group, of == 0])[:24]
                found.append(Unit(key, of, tried, numbered, setting, group))
    return found


def shared_key(conditions: Conditions) -> dict[str, Any]:
    """Return the key shared by all trainings: data, splits, settings, and the version of this package."""
    costs = conditions.costs
    first = conditions.splits[: len(conditions.of_repeat(0))]
    parts = [
        [digest(np.ascontiguousarray(part).tobytes()) for part in (each.train, each.validation, each.test)]
        for each in first
    ]
    return {
        "version": [equipoise.__version__, FORMAT],
        "data": conditions.dataset.fingerprint(),
        "splits": digest(parts),
        "settings": conditions.settings.of_training,
        "noise": digest(conditions.noise.tobytes()),
        "costs": None if costs is None else digest(costs.tobytes()),
    }
