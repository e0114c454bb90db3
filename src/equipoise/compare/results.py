"""`Result` of a comparison, with an `Outcome` for each candidate."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from equipoise.compare.measures import Predictions
from equipoise.compare.objectives import Candidate
from equipoise.compare.plan import Plan
from equipoise.compare.records import Record, mean
from equipoise.compare.statistics import Difference
from equipoise.compare.trial import Unit

__all__ = ["Context", "Noise", "Outcome", "Pooled", "Result"]

Values = Mapping[str, NDArray[np.float64]]  # measure to values over splits (S,), nan if missing


@dataclass(frozen=True)
class Pooled:
    """Predictions of the test rows of all splits: M rows, with index in the data and split of each."""

    predictions: Predictions
    rows: NDArray[np.int64]
    split: NDArray[np.int64]

    def by_training(self, score: Callable[[Predictions], NDArray[np.float64]]) -> NDArray[np.float64]:
        """Return scores (R, M) of the M rows of one test part, in their order, for each of R trainings."""
        order = np.lexsort((self.rows, self.split))
        return score(self.predictions)[order].reshape(len(np.unique(self.split)), -1)


@dataclass(frozen=True)
class Context:
    """A context model, which is shown with the candidates but not compared."""

    name: str
    values: Values

    def mean(self, measure: str) -> float:
        """Mean over the splits that have a value."""
        return mean(self.values[measure])


@dataclass(frozen=True)
class Outcome:
    """A candidate after all its trainings.

    Attributes:
        candidate: The candidate.
        records: Records, one per split.
        values: Values of each measure.
        differences: Difference from plain cross entropy, by measure; empty for plain cross entropy itself.
        load: Function that reads the predictions, called on first use.
        files: File of the predictions of each record, relative to the folder, or "".
    """

    candidate: Candidate
    records: tuple[Record, ...]
    values: Values
    differences: Mapping[str, Difference]
    load: Callable[[], Pooled] = field(repr=False)
    files: tuple[str, ...] = ()

    @cached_property
    def pooled(self) -> Pooled:
        """Predictions of the test rows of all splits, each by a model that was not trained on the row."""
        return self.load()

    @property
    def predictions(self) -> Predictions:
        """`pooled` without rows and splits."""
        return self.pooled.predictions

    def mean(self, measure: str) -> float:
        """Mean over the splits that have a value."""
        return mean(self.values[measure])

    def call(self, measure: str) -> str | None:
        """Return the call of the candidate in a measure."""
        return self.differences[measure].call if measure in self.differences else None

    def chance_ece(self) -> tuple[float, float]:
        """Median and 95 % quantile of the calibration error of a perfectly calibrated model."""
        drawn = [value for record in self.records for value in record.chance_ece]
        if not drawn:
            return float("nan"), float("nan")
        return float(np.median(drawn)), float(np.quantile(drawn, 0.95))

    @property
    def diverged(self) -> int:
        """Number of splits on which training ended with logits that are not finite."""
        return sum(not record.finite for record in self.records)


@dataclass(frozen=True)
class Noise:
    """The share of wrong labels in the data, fitted with the baseline, and the ends of its 95 % interval."""

    rate: float
    low: float
    high: float


@dataclass(frozen=True)
class Result:
    """A finished comparison.

    Attributes:
        plan: The plan.
        outcomes: Plain cross entropy first, then the candidates in the given order.
        last_epoch: Plain cross entropy after its last epoch, not calibrated; for information only.
        context: Context models.
        noise: The share of wrong labels in the data.
        reused: Number of trainings that were already stored.
    """

    plan: Plan
    outcomes: tuple[Outcome, ...]
    last_epoch: Outcome
    context: tuple[Context, ...]
    noise: Noise
    reused: int

    @property
    def baseline(self) -> Outcome:
        """Plain cross entropy, best epoch, calibrated."""
        return self.outcomes[0]

    def chosen(self, outcome: Outcome) -> tuple[Unit, int]:
        """Return a unit with the setting that most splits of an outcome chose, and their number."""
        ((setting, times),) = Counter(record.setting for record in outcome.records).most_common(1)
        units = (each for each in self.plan.units if self.plan.candidates[each.of] is outcome.candidate)
        return next(each for each in units if each.setting == setting), times

    @property
    def nll_of(self) -> str:
        """Label of the calibrated probabilities: "observed" or "clean"."""
        return self.plan.conditions.nll_of

    @property
    def trials(self) -> int:
        """Number of trainings."""
        return self.plan.trials

    @property
    def one_test(self) -> bool:
        """Whether there is one test part, so that the result is valid for its rows only."""
        return self.plan.one_test
