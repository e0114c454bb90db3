"""Calibration on labels that may be wrong: a temperature, fitted together with the rate of wrong labels.

`Calibration.probs` is for noisy labels; for clean but ambiguous labels use `Calibration.observed_probs`.
"""

from equipoise import naming
from equipoise.calibration.fit import Calibration, fit
from equipoise.calibration.solve import Prior

__all__ = ["Calibration", "Prior", "fit"]

naming.answer_names(__name__)
