"""Calibration of predictions on validation rows, for candidates and for context models."""

from typing import Any

import numpy as np

from equipoise.calibration import Calibration
from equipoise.calibration.solve import fit_batch

__all__ = ["calibrated_probs", "fitted"]


def fitted(logits: Any, labels: Any) -> Calibration | None:
    """Return the calibration of validation logits (V, C), without an interval; None if one is not finite."""
    fit = fit_batch(logits[None], labels[None])
    if not np.isfinite(fit.temperature[0]):
        return None
    return Calibration(float(fit.temperature[0]), float(fit.noise[0]), None, logits.shape[1])


def calibrated_probs(fit: Calibration, logits: Any, nll_of: str) -> Any:
    """Return probabilities (M, C) of the test labels, which are "observed" or "clean" ones."""
    return (fit.probs if nll_of == "clean" else fit.observed_probs)(logits)
