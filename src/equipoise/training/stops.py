"""The values by which the best epoch of a training can be chosen."""

from typing import Literal, get_args

__all__ = ["SCORES", "STOPS", "Score", "Stop"]

Stop = Literal["calibrated", "own", "accuracy", "nll", "none"]
Score = Literal["calibrated", "own", "accuracy", "nll"]
STOPS: tuple[str, ...] = get_args(Stop)
SCORES: tuple[Score, ...] = get_args(Score)
