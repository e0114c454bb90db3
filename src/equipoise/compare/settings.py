"""What a comparison is asked to do, as one immutable value."""

import math
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, fields

from equipoise.training import STOPS

__all__ = ["MODELS", "Settings", "Training", "worthwhile"]

MODELS = ("mlp", "linear")
WORTHWHILE = (("accuracy", 0.005), ("calibrated_nll", 0.01))


@dataclass(frozen=True)
class Training:
    """How every candidate is trained: the same for all of them.

    Attributes:
        model: "mlp" (one hidden layer of ReLU) or "linear".
        width: Hidden units of the mlp.
        epochs: Passes over the training part at most.
        batch_size: Rows per step.
        lr: Learning rate of AdamW.
        weight_decay: Weight decay of AdamW.
        stop: What chooses the epoch, on validation rows: see `training.Options`.
        patience: Epochs without a better one after which training stops.
        class_weight: "balanced", for classes that count alike whatever their size, or None.
    """

    model: str = "mlp"
    width: int = 128
    epochs: int = 100
    batch_size: int = 128
    lr: float = 3e-3
    weight_decay: float = 1e-4
    stop: str = "calibrated"
    patience: int = 20
    class_weight: str | None = None

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise ValueError(
                f"model must be one of {', '.join(MODELS)}, got {self.model!r}; the default is mlp"
            )
        if self.stop not in STOPS:
            raise ValueError(
                f"stop must be one of {', '.join(STOPS)}, got {self.stop!r}; the default is calibrated"
            )
        if self.class_weight not in (None, "balanced"):
            raise ValueError(
                f"class-weight must be balanced, got {self.class_weight!r}; leave it out for rows that count "
                "alike"
            )
        for name in ("width", "epochs", "batch_size", "patience"):
            _require_count(name.replace("_", "-"), getattr(self, name))
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ValueError(f"lr must be positive and finite, got {self.lr}; the default is 0.003")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise ValueError(
                f"weight-decay must be 0 or more, got {self.weight_decay}; the default is 0.0001"
            )


@dataclass(frozen=True)
class Settings:
    """Everything that `equipoise compare` can be told.

    Attributes:
        data: CSV, TSV, Parquet or NPZ file; None is scikit-learn's digits.
        target: Column with the classes, for a table.
        drop: Columns to leave out, for a table.
        test: File with the test rows; None to take them from the data.
        clean: Column with better labels, which test rows are held against.
        group: Column of groups that must not be in different parts.
        time: Column of times; the latest rows are the test part.
        objectives: Candidates as the Python that makes them; empty means one setting of each family.
        noise: Share of training and validation labels to flip, or a transition matrix file.
        costs: Matrix file indexed [true, predicted], or groups "a, b | c, d".
        similarity: Matrix file indexed [true, class], rows summing to one, or groups.
        folds: Number of test parts that the rows are divided into.
        repeats: How many times they are divided anew, or trained anew where there is one test part.
        tune: Settings to try for every candidate, the default included; 0 for the default alone.
        worthwhile: For each deciding measure, the smallest difference worth having; one that is left out
            keeps its default.
        out: Folder for the report, the results and the trials.
        jobs: Processes; None means one per core.
        training: How every candidate is trained.
    """

    data: str | None = None
    target: str | None = None
    drop: tuple[str, ...] = ()
    test: str | None = None
    clean: str | None = None
    group: str | None = None
    time: str | None = None
    objectives: tuple[str, ...] = ()
    noise: str = "0"
    costs: str | None = None
    similarity: str | None = None
    folds: int = 10
    repeats: int = 1
    tune: int = 0
    worthwhile: tuple[tuple[str, float], ...] = WORTHWHILE
    out: str = "comparison"
    jobs: int | None = None
    training: Training = field(default_factory=Training)

    def __post_init__(self) -> None:
        for name in ("drop", "objectives"):
            given = getattr(self, name)
            object.__setattr__(self, name, (given,) if isinstance(given, str) else tuple(given))
        for name in ("folds", "repeats"):
            _require_count(name, getattr(self, name))
        if self.folds < 2:
            raise ValueError(f"folds must be 2 or more, got {self.folds}; the default is 10")
        if not isinstance(self.tune, int) or self.tune < 0:
            raise ValueError(f"tune must be an integer, 0 or more, got {self.tune}; 0 tunes nothing")
        known = [name for name, _ in WORTHWHILE] + ["decided_cost"]
        given = tuple((dict(WORTHWHILE) | dict(self.worthwhile)).items())
        object.__setattr__(self, "worthwhile", given)
        for name, least in given:
            if name not in known or not (math.isfinite(least) and least >= 0):
                raise ValueError(
                    f"worthwhile must be {', '.join(known)} with a number of 0 or more, got {name}={least}; "
                    "write for example accuracy=0.005"
                )
        if self.jobs is not None:
            _require_count("jobs", self.jobs)

    @property
    def processes(self) -> int:
        """Number of processes to use."""
        if self.jobs is not None:
            return self.jobs
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    @property
    def command(self) -> str:
        """The command line that asks for this, without what is at its default or decides no result."""
        words = ["equipoise", "compare", *([self.data] if self.data is not None else [])]
        given = [(each.name, getattr(self, each.name), getattr(_DEFAULT, each.name)) for each in fields(self)]
        given += [
            (each.name, getattr(self.training, each.name), getattr(_DEFAULT.training, each.name))
            for each in fields(self.training)
        ]
        for name, value, default in given:
            if value == default or name in ("data", "training", "jobs"):
                continue
            if name == "worthwhile":
                words += ["--worthwhile", *(f"{key}={least:g}" for key, least in value)]
                continue
            option = "--" + name.removesuffix("s" if name == "objectives" else "").replace("_", "-")
            for each in value if isinstance(value, tuple) else (value,):
                words += [option, str(each)]
        return shlex.join(words)


def _require_count(name: str, value: int) -> None:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be an integer, 1 or more, got {value}; leave it out for the default")


def worthwhile(given: Sequence[str]) -> tuple[tuple[str, float], ...]:
    """Read smallest differences worth having, `accuracy=0.005`.

    Raises:
        ValueError: If one is not a name and a number.
    """
    found: dict[str, float] = {}
    for each in given:
        name, _, number = each.partition("=")
        try:
            found[name] = float(number)
        except ValueError:
            raise ValueError(
                f"worthwhile must be a measure and a number, got {each!r}; write for example accuracy=0.005"
            ) from None
    return tuple(found.items())


_DEFAULT = Settings()
