"""Calibration on labels that may be wrong: a temperature, and the share of wrong labels with it.

`probs` is for labels known to be noisy. Where labels are clean but ambiguous, use `observed_probs`.
"""

from equipoise import naming
from equipoise.calibration.fit import Calibration, fit
from equipoise.calibration.solve import Prior

__all__ = ["Calibration", "Prior", "fit"]

naming.answer_names(__name__)
