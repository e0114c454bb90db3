"""scikit-learn classifiers: a network trained with any objective, and calibration on noisy labels."""

from equipoise.integrations.sklearn.calibrated import NoisyCalibratedClassifier
from equipoise.integrations.sklearn.network import ObjectiveClassifier

__all__ = ["NoisyCalibratedClassifier", "ObjectiveClassifier"]
