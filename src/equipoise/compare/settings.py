"""What a comparison is asked to do, as one immutable value."""

import math
import os
import shlex
from dataclasses import dataclass, field, fields

__all__ = ["MODELS", "Settings", "Training"]

MODELS = ("mlp", "linear")


@dataclass(frozen=True)
class Training:
    """How every candidate is trained: the same for all of them.

    Attributes:
        model: "mlp" (one hidden layer of ReLU) or "linear".
        width: Hidden units of the mlp.
        epochs: Passes over the training part; there is no early stopping.
        batch_size: Rows per step.
        lr: Learning rate of AdamW.
        weight_decay: Weight decay of AdamW.
    """

    model: str = "mlp"
    width: int = 128
    epochs: int = 100
    batch_size: int = 128
    lr: float = 3e-3
    weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise ValueError(
                f"model must be one of {', '.join(MODELS)}, got {self.model!r}; the default is mlp"
            )
        for name in ("width", "epochs", "batch_size"):
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
        objectives: Candidates as the Python that makes them; empty means one setting of each family.
        noise: Share of training and validation labels to flip, or a transition matrix file.
        costs: Matrix file indexed [true, predicted], or groups "a, b | c, d".
        similarity: Matrix file indexed [true, class], rows summing to one, or groups.
        seeds: How many times every candidate is trained, each on another split.
        out: Folder for the report, the results and the trials.
        jobs: Processes; None means one per core.
        training: How every candidate is trained.
    """

    data: str | None = None
    target: str | None = None
    drop: tuple[str, ...] = ()
    objectives: tuple[str, ...] = ()
    noise: str = "0"
    costs: str | None = None
    similarity: str | None = None
    seeds: int = 8
    out: str = "comparison"
    jobs: int | None = None
    training: Training = field(default_factory=Training)

    def __post_init__(self) -> None:
        _require_count("seeds", self.seeds)
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
            option = "--" + name.removesuffix("s" if name == "objectives" else "").replace("_", "-")
            for each in value if isinstance(value, tuple) else (value,):
                words += [option, str(each)]
        return shlex.join(words)


def _require_count(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} must be 1 or more, got {value}; leave it out for the default")


_DEFAULT = Settings()
