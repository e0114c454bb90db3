"""Checks of scores for `paired`, and their conversion to a data frame per candidate."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from equipoise.compare.refusal import printable

__all__ = ["by_candidate"]

LARGEST = 1e150  # squares of larger scores are infinite


def by_candidate(scores: Any) -> dict[str, pd.DataFrame]:
    """Return, for each candidate in order, a data frame of measures by seed; values not finite become nan."""
    frame = _frame(scores)
    measures = {name: _numbers(name, frame[name]) for name in frame if name not in ("candidate", "seed")}
    if not measures:
        raise ValueError("scores must have a column for each measure, got candidate and seed alone; add one")
    seeds = _places(frame["seed"])
    values = pd.DataFrame(measures, index=[frame["candidate"].map(str), seeds])
    again = np.flatnonzero(values.index.duplicated())
    if again.size:
        name, seed = values.index[again[0]][0], frame["seed"].tolist()[again[0]]
        same = ", the seed of all rows" if not seeds.any() else ""
        raise ValueError(
            f"a candidate must have one run for each seed, got another of {name!r} with seed {seed!r}{same}; "
            "number the runs, or take their mean"
        )
    return {str(name): part.droplevel(0) for name, part in values.groupby(level=0, sort=False)}


def _frame(scores: Any) -> pd.DataFrame:
    """Return the data frame; raise unless it has rows, and complete columns candidate and seed."""
    if isinstance(scores, Mapping):  # without a seed, positions of values are the seeds
        try:
            if not all(isinstance(each, Mapping | pd.DataFrame) for each in scores.values()):
                raise TypeError("a value that is none")
            tables = {name: pd.DataFrame(each) for name, each in scores.items()}
            for name, each in tables.items():
                tables[name] = each.set_index("seed") if "seed" in each else each
            scores = pd.concat(tables, names=["candidate", "seed"])
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"scores must map each candidate to a mapping from measure to values, got {error}; write "
                "{'mine': {'accuracy': [0.9, 0.8]}}, or pass pandas.DataFrame(scores)"
            ) from None
    if not isinstance(scores, pd.DataFrame):
        raise TypeError(
            "scores must be a DataFrame with columns candidate, seed and one for each measure, got "
            f"{type(scores).__name__}; pandas.DataFrame makes one"
        )
    levels = [name for name in ("candidate", "seed") if name in scores.index.names and name not in scores]
    frame = (scores.reset_index(levels) if levels else scores).rename(columns=str)
    if frame.columns.has_duplicates:
        twice = frame.columns[frame.columns.duplicated()][0]
        raise ValueError(f"columns of scores must have different names, got {twice!r} twice; rename one")
    for name, means in (("candidate", "names what was run"), ("seed", "runs that belong together share")):
        if name not in frame:
            there = ", ".join(map(printable, frame.columns[:10])) + ", ..." * (frame.shape[1] > 10) or "none"
            raise ValueError(f"scores must have a column {name!r}, got {there}; rename the one that {means}")
        missing = np.flatnonzero(frame[name].isna() | (frame[name].map(str) == ""))
        if missing.size:
            raise ValueError(f"{name} must be given for each run, got none in row {missing[0]}; fill it in")
    if frame.empty:
        raise ValueError("scores must have a row for each run, got none; add the runs")
    return frame


def _places(seeds: Any) -> NDArray[np.int64]:
    """Return a number for each seed, equal for equal seeds."""
    try:
        places = pd.factorize(seeds.to_numpy(dtype=object))[0]
    except TypeError as error:
        raise ValueError(f"seed must be a number, a text or the like, got {error}; number the runs") from None
    kinds = pd.Series(places).groupby([*seeds.map(str)]).nunique()
    if kinds.to_numpy().max(initial=0) > 1:
        raise ValueError(
            f"seed must be of one type, got {kinds.idxmax()} as a number and as text; use "
            "scores['seed'].astype(str)"
        )
    return places


def _numbers(name: Any, column: Any) -> NDArray[np.float64]:
    """Return a measure as floats, nan if missing or infinite."""
    numbers = np.full(len(column), math.nan)
    for row, value in enumerate(column):
        try:
            numbers[row] = math.nan if value is None or value is pd.NA else float(value)
        except (OverflowError, TypeError, ValueError):
            raise ValueError(
                f"measures must be numbers, got {value!r} in row {row} of column {name!r}; leave the column "
                f"out with scores.drop(columns={name!r})"
            ) from None
    numbers[np.isinf(numbers)] = math.nan
    if np.isnan(numbers).all():
        raise ValueError(f"measures must have values, got none in column {name!r}; leave the column out")
    largest = np.nanmax(np.abs(numbers))
    if largest > LARGEST:
        raise ValueError(
            f"measures must be below {LARGEST:g} in size, got {largest:g} in column {name!r}; rescale it"
        )
    return numbers
