"""What a comparison finds: an outcome for each candidate, and the result."""

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

Values = Mapping[str, NDArray[np.float64]]  # for each measure, its values over splits (S,), nan for none


@dataclass(frozen=True)
class Pooled:
    """Predictions of the test rows of all splits: M rows, the row of the data and the split of each."""

    predictions: Predictions
    rows: NDArray[np.int64]
    split: NDArray[np.int64]

    def by_training(self, score: Callable[[Predictions], NDArray[np.float64]]) -> NDArray[np.float64]:
        """Scores (R, M) of the rows of one test part, in the order of the rows, by each of R trainings."""
        order = np.lexsort((self.rows, self.split))
        return score(self.predictions)[order].reshape(len(np.unique(self.split)), -1)


@dataclass(frozen=True)
class Context:
    """A model that is shown beside the candidates and never compared."""

    name: str
    values: Values

    def mean(self, measure: str) -> float:
        """Mean over the splits that have a value."""
        return mean(self.values[measure])


@dataclass(frozen=True)
class Outcome:
    """A candidate after all its trainings.

    Attributes:
        candidate: Which one.
        records: One per split.
        values: Of each measure.
        differences: For each measure, the difference from plain cross entropy; empty for itself.
        load: Reads the predictions when they are first asked for.
        files: For each record, the file of its predictions relative to the folder; "" where there is none.
    """

    candidate: Candidate
    records: tuple[Record, ...]
    values: Values
    differences: Mapping[str, Difference]
    load: Callable[[], Pooled] = field(repr=False)
    files: tuple[str, ...] = ()

    @cached_property
    def pooled(self) -> Pooled:
        """Predictions of the test rows of all splits, each row by the model that has not seen it."""
        return self.load()

    @property
    def predictions(self) -> Predictions:
        """The same without rows and splits."""
        return self.pooled.predictions

    def mean(self, measure: str) -> float:
        """Mean over the splits that have a value."""
        return mean(self.values[measure])

    def call(self, measure: str) -> str | None:
        """What the candidate is called in a measure."""
        return self.differences[measure].call if measure in self.differences else None

    def chance_ece(self) -> tuple[float, float]:
        """Median and 95 % value of the calibration error of a perfectly calibrated model of this size."""
        drawn = [value for record in self.records for value in record.chance_ece]
        if not drawn:
            return float("nan"), float("nan")
        return float(np.median(drawn)), float(np.quantile(drawn, 0.95))

    @property
    def diverged(self) -> int:
        """Number of splits on which training ended in infinite or undefined logits."""
        return sum(not record.finite for record in self.records)


@dataclass(frozen=True)
class Noise:
    """The share of wrong labels in the data, found by the baseline, with the ends of its 95 % interval."""

    rate: float
    low: float
    high: float


@dataclass(frozen=True)
class Result:
    """A finished comparison.

    Attributes:
        plan: What was asked.
        outcomes: Plain cross entropy first, then the candidates as given.
        last_epoch: Plain cross entropy after its last epoch, not calibrated; never what others are held
            against.
        context: Models shown beside.
        noise: The share of wrong labels in the data.
        reused: How many trainings were there before.
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
        """A unit of the setting that most splits of an outcome chose, and how many did."""
        ((setting, times),) = Counter(record.setting for record in outcome.records).most_common(1)
        units = (each for each in self.plan.units if self.plan.candidates[each.of] is outcome.candidate)
        return next(each for each in units if each.setting == setting), times

    @property
    def nll_of(self) -> str:
        """Which labels the calibrated probabilities are of: "observed" or "clean"."""
        return self.plan.conditions.nll_of

    @property
    def trials(self) -> int:
        """Number of trainings."""
        return self.plan.trials

    @property
    def one_test(self) -> bool:
        """Whether there is one test part, so that the result speaks of its rows alone."""
        return self.plan.one_test
