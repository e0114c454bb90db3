"""Random search: settings of a candidate, all drawn before training, and the choice of one per split."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from equipoise import losses
from equipoise.compare.objectives import Candidate, Scheduled, candidate_of
from equipoise.compare.records import Setting
from equipoise.penalties import PENALTIES, LogitRange

__all__ = ["OPTIONS", "Range", "WIDTHS", "choose", "draw"]

WIDTHS = (32, 64, 128, 256)


@final
@dataclass(frozen=True)
class Range:
    """The distribution of a random number."""

    low: float
    high: float
    log: bool = False  # log-uniform
    per_class: bool = False  # low and high are divided by the number of classes
    off: float | None = None  # a value that switches an option off, and is not changed


LR = Range(3e-4, 3e-2, log=True)
WEIGHT_DECAY = Range(1e-6, 1e-1, log=True)
WIDTH = Range(0.0, len(WIDTHS) - 1e-3)  # index into WIDTHS, rounded down
FACTOR = Range(0.1, 10.0, log=True)  # on the coefficient of a penalty

OPTIONS: dict[tuple[type, str], Range] = {
    (losses.CrossEntropy, "label_smoothing"): Range(0.01, 0.5, log=True, off=0.0),
    (losses.FlooredCrossEntropy, "floor"): Range(1e-4, 0.5, log=True, per_class=True),
    (losses.Focal, "gamma"): Range(0.5, 5.0),
    (losses.Poly, "epsilon"): Range(-0.5, 5.0),
    (losses.GammaCrossEntropy, "gamma"): Range(0.05, 0.95),
    (losses.TaiLrWeight, "gamma"): Range(0.05, 0.95),
    (losses.GeneralizedCrossEntropy, "q"): Range(0.05, 0.95),
    (losses.SymmetricCrossEntropy, "alpha"): Range(0.01, 10.0, log=True),
    (losses.SymmetricCrossEntropy, "beta"): Range(0.1, 10.0, log=True),
    (losses.HierarchicalCrossEntropy, "alpha"): Range(0.05, 1.0),
    (LogitRange, "width"): Range(2.0, 20.0, log=True),
}
"""Where the options of losses are drawn from; any other keeps its value, as do those of one's own losses."""

_PENALTIES = {entry.make for entry in PENALTIES}


def draw(
    candidate: Candidate, settings: Any, count: int, classes: int
) -> tuple[tuple[Candidate, Setting], ...]:
    """Return the settings of a candidate: first the given one, then random ones.

    All splits use the same settings, drawn before training: an adaptive search would need settings per split,
    and could not be resumed in any order. Learning rate, weight decay and width are the same draws for every
    candidate; the parameters of the loss (`OPTIONS` and the coefficients of penalties) are drawn too, to
    three digits. Of a schedule, the end is tuned, or the start if the end is 0.

    Args:
        candidate: An objective.
        settings: The defaults of lr, weight_decay, width and model, and the random_state of the draws.
        count: Number of settings, at least 1.
        classes: Number of classes, by which the range of floors is divided.
    """
    if count < 1:
        raise ValueError(f"count must be 1 or more, got {count}; the first setting is the candidate as it is")
    first = Setting(candidate.text, settings.lr, settings.weight_decay, settings.width)
    drawn = [(candidate, first)]
    terms = candidate.marked.terms()
    tuned = [(place, *each) for place, term in enumerate(terms) for each in _numbers(*term)]
    ranges = [LR, WEIGHT_DECAY, WIDTH, *(range_ for _, range_, _ in tuned)]
    for lr, weight_decay, width, *own in _draws(ranges, count - 1, classes, settings.random_state):
        parts = list(terms)
        for (place, _, path), value in zip(tuned, own, strict=True):
            factor, term = parts[place]
            value = _rounded(value)
            parts[place] = (factor, _put(term, path, value)) if path else (_times(factor, value), term)
        made = candidate_of(parts, candidate.matrices)
        units = WIDTHS[int(width)] if settings.model == "mlp" else settings.width
        drawn.append((made, Setting(made.name, _rounded(lr), _rounded(weight_decay), units)))
    return tuple(drawn)


def choose(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the index of the chosen setting of each split: that with the smallest score, first if equal.

    Scores (settings, splits) are those of validation rows; nan, from a diverged training, comes last.
    """
    return np.argsort(scores, axis=0, kind="stable")[0]  # numpy sorts nan last


def _draws(ranges: list[Range], count: int, classes: int, seed: int) -> list[list[float]]:
    """Return `count` draws of each number; draws of a number do not depend on the numbers after it."""
    if not count:
        return []
    try:
        import optuna  # an extra
    except ImportError:
        raise ImportError("tune needs optuna; pip install 'equipoise[tune]'") from None
    kinds: dict[str, Any] = {}
    for place, each in enumerate(ranges):
        ends = np.array([each.low, each.high]) / (classes if each.per_class else 1)
        kinds[f"number {place}"] = optuna.distributions.FloatDistribution(*ends.tolist(), log=each.log)
    said = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.QMCSampler(qmc_type="halton", scramble=True, seed=seed)
        study = optuna.create_study(sampler=sampler)
        study.tell(study.ask(kinds), 0.0)  # a first trial defines the search space of the sampler
        return [list(study.ask(kinds).params.values()) for _ in range(count)]
    finally:
        optuna.logging.set_verbosity(said)


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


def _numbers(coefficient: Any, term: Any) -> Iterator[tuple[Range, tuple[str, ...]]]:
    """Return the path and range of each number to tune in a term; the path of the coefficient is empty."""
    if type(term) in _PENALTIES and not (isinstance(coefficient, Scheduled) and not coefficient.ends):
        yield FACTOR, ()
    for (kind, option), range_ in OPTIONS.items():
        if type(term) is kind:
            value = getattr(term, option)
            if _end(value) if isinstance(value, Scheduled) else value not in (None, range_.off):
                yield range_, (option,)
    if isinstance(term, losses.Reweighted):
        for range_, path in _numbers(1.0, term.weight):
            yield range_, ("weight", *path)


def _end(scheduled: Scheduled) -> list[str]:
    """Return the end of a schedule that is tuned, if one is."""
    return [end for end in ("value", "end", "start") if scheduled.ends.get(end)][:1]


def _put(made: Any, path: tuple[str, ...], value: float) -> Any:
    """Return a term, option or number with the number at a path replaced."""
    if path:
        return replace(made, **{path[0]: _put(getattr(made, path[0]), path[1:], value)})
    return made.changed(lambda _: value, *_end(made)) if isinstance(made, Scheduled) else value


def _times(coefficient: Any, factor: float) -> float:
    if isinstance(coefficient, Scheduled):
        return coefficient.changed(lambda value: _rounded(value * factor))
    return _rounded(coefficient * factor)
