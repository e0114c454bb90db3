"""What a comparison is going to do: everything is read and checked before anything is written or trained."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from equipoise import spelling
from equipoise.compare import spec
from equipoise.compare.checks import warn_of_parts
from equipoise.compare.matrices import (
    looks_transposed,
    lost_similarity,
    read_costs,
    read_noise,
    read_similarity,
)
from equipoise.compare.measures import MEASURES, Measure
from equipoise.compare.read import read
from equipoise.compare.settings import Settings
from equipoise.compare.spec import Spelled
from equipoise.compare.splits import splits
from equipoise.compare.store import Store, digest
from equipoise.compare.trial import Conditions, Unit, shared_key, unit_key
from equipoise.compare.tuning import draw
from equipoise.losses.costs import in_order

__all__ = ["BASELINE", "Candidate", "Plan", "prepare"]

BASELINE = "CrossEntropy()"
MOST = 6  # candidates unless they are named


@dataclass(frozen=True)
class Candidate:
    """An objective to train.

    Attributes:
        spec: Its normalised spelling.
        loss: The objective itself, scheduled numbers at their start.
        units: For each repeat, a unit for each setting to try.
    """

    spec: str
    loss: Any
    units: tuple[tuple[Unit, ...], ...]


@dataclass(frozen=True)
class Plan:
    """A comparison whose input is known to be good.

    Attributes:
        settings: As given.
        conditions: What all trainings share.
        matrices: Those that an objective may name.
        costs_from: "costs", "similarity" or None: what the costs are made from.
        candidates: Plain cross entropy first.
        shared: What decides the result of every training.
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
        """The finished units."""
        return Store(self.out / "trials")

    @property
    def measures(self) -> tuple[Measure, ...]:
        """The measures that can be had."""
        return tuple(m for m in MEASURES if self.costs_from or not m.needs_costs)

    @property
    def deciding(self) -> tuple[str, ...]:
        """Names of the measures that decide: the cost of decisions where costs are given."""
        return ("decided_cost",) if self.costs_from == "costs" else ("accuracy", "calibrated_nll")

    @property
    def units(self) -> list[Unit]:
        """All units, those of the first repeat first; one that two candidates share is there once.

        Candidates of one family are tuned by the same draws.
        """
        found = {
            unit.key: unit
            for repeat in range(self.settings.repeats)
            for each in self.candidates
            for unit in each.units[repeat]
        }
        return [*found.values()]

    @property
    def context_keys(self) -> list[str]:
        """Names of what is kept of the models beside, one per split of the first repeat."""
        return [digest([dict(self.shared), "context", place])[:24] for place in self.conditions.of_repeat(0)]

    @property
    def trials(self) -> int:
        """Number of trainings."""
        return len(self.units) * len(self.conditions.of_repeat(0))

    @property
    def one_test(self) -> bool:
        """Whether there is one test part."""
        return self.conditions.dataset.one_test

    @property
    def test_ratio(self) -> float:
        """Test rows for each row of the training and validation parts, on average over splits."""
        return float(
            np.mean([len(s.test) / (len(s.train) + len(s.validation)) for s in self.conditions.splits])
        )


def prepare(settings: Settings) -> Plan:
    """Read and check all input, writing nothing.

    Raises:
        ValueError: If any of it is bad.
    """
    dataset = read(
        settings.data,
        settings.target,
        settings.drop,
        test=settings.test,
        clean=settings.clean,
        group=settings.group,
        time=settings.time,
    )
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
    parts = splits(dataset, settings.folds, settings.repeats)
    conditions = Conditions(dataset, parts, settings.repeats, settings.training, noise, costs)
    shared = shared_key(conditions)
    texts = settings.objectives or default_objectives(matrices)
    candidates: list[Candidate] = []
    known: list[Spelled] = []
    for text in dict.fromkeys([BASELINE, *(spelling.normalise(text) for text in texts)]):
        spelled = spec.read(text, matrices)
        loss = spelled.loss
        if repr(in_order(loss, classes)) != repr(loss):  # the code to paste has the order of the text
            raise ValueError(
                f"objective must name the classes in their order, {', '.join(classes)}, got {text!r}; give "
                "the matrix as --costs or --similarity, which are matched by name"
            )
        if spelled in known:  # Focal() is Focal(gamma=2), and one more interval would make all of them wider
            continue
        known.append(spelled)
        _try(text, spelled, len(classes))
        candidates.append(_candidate(text, spelled, matrices, shared, settings, len(classes)))
    if len(candidates) == 1:
        raise ValueError(
            "objective must name a candidate beside plain cross entropy, got only CrossEntropy(); "
            "leave it out for one setting of each family"
        )
    counts = np.bincount(dataset.labels, minlength=len(classes))
    transposed = [
        warning
        for name, matrix in matrices.items()
        for warning in looks_transposed(name, str(getattr(settings, name)), matrix, classes, counts)
    ]
    first = parts[: len(parts) // settings.repeats]
    warnings = (*dataset.warnings, *warn_of_parts(dataset, first), *transposed)
    out = Path(settings.out)
    plan = Plan(settings, conditions, matrices, costs_from, tuple(candidates), shared, out, warnings)
    _require_writable(plan.out)
    return plan


def default_objectives(matrices: Mapping[str, NDArray[Any]]) -> tuple[str, ...]:
    """One sensible setting of each family."""
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


def _candidate(
    text: str,
    spelled: Spelled,
    matrices: Mapping[str, NDArray[Any]],
    shared: Mapping[str, Any],
    settings: Settings,
    classes: int,
) -> Candidate:
    """The candidate with the units that it takes."""
    drawn = draw(text, settings.training, max(settings.tune, 1), classes, 0)
    units = tuple(
        tuple(
            Unit(
                unit_key(shared, setting, matrices, repeat),
                spec.read(setting.objective, matrices),
                setting,
                repeat,
                text == BASELINE,
            )
            for setting in drawn
        )
        for repeat in range(settings.repeats)
    )
    return Candidate(text, spelled.loss, units)


def _try(text: str, spelled: Spelled, classes: int) -> None:
    """Call the objective once, so that a matrix or an option that does not fit the classes is found now."""
    logits = torch.linspace(-1, 1, 2 * classes).reshape(2, classes).requires_grad_()
    try:
        spelled.objective(1)(logits, torch.tensor([0, classes - 1])).backward()
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
