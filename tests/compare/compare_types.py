"""What a comparison hands to its report, until `equipoise.compare.results` has these types."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equipoise.compare.measures import Measure, Predictions
from equipoise.compare.statistics import Difference

Array = NDArray[Any]


@dataclass(frozen=True)
class Split:
    train: Array
    validation: Array
    test: Array


@dataclass(frozen=True)
class Setting:
    objective: str
    lr: float
    weight_decay: float
    width: int


@dataclass(frozen=True)
class Record:
    split: int
    setting: Setting
    epoch: int
    temperature: float
    noise: float
    score: float
    curve: list[dict[str, Any]]
    measures: dict[str, float | None]
    finite: bool
    seconds: float
    key: str = ""


@dataclass(frozen=True)
class Candidate:
    spec: str
    loss: Any


@dataclass(frozen=True)
class Outcome:
    candidate: Candidate
    records: tuple[Record, ...]
    values: Mapping[str, Array]
    differences: Mapping[str, Difference]
    predictions: Predictions
    rows: Array
    split: Array

    def mean(self, measure: str) -> float:
        known = self.values[measure][np.isfinite(self.values[measure])]
        return float(known.mean()) if len(known) else float("nan")

    def call(self, measure: str) -> str | None:
        return self.differences[measure].call if measure in self.differences else None

    @property
    def diverged(self) -> int:
        return sum(not record.finite for record in self.records)


@dataclass(frozen=True)
class Noise:
    rate: float
    low: float
    high: float


@dataclass(frozen=True)
class Context:
    name: str
    values: Mapping[str, Array]


@dataclass(frozen=True)
class Conditions:
    dataset: Any
    noise: Array

    @property
    def noisy(self) -> bool:
        return not np.array_equal(self.noise, np.eye(len(self.noise)))


@dataclass(frozen=True)
class Plan:
    settings: Any
    conditions: Conditions
    matrices: Mapping[str, Array]
    costs_from: str | None
    candidates: tuple[Candidate, ...]
    measures: tuple[Measure, ...]
    splits: tuple[Split, ...]
    test_ratio: float
    one_test: bool
    out: Any
    store: Any
    shared: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    plan: Plan
    outcomes: tuple[Outcome, ...]
    last_epoch: Outcome
    context: tuple[Context, ...]
    noise: Noise
    nll_of: str
    reused: int

    @property
    def baseline(self) -> Outcome:
        return self.outcomes[0]

    @property
    def trials(self) -> int:
        return sum(len(outcome.records) for outcome in self.outcomes)


@dataclass(frozen=True)
class Verdict:
    call: str
    winner: Outcome
    against: str
    choice: tuple[str, ...]
    sentence: str
    others: str
    code: str
