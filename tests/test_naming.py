"""A wrong name in a module of the package: the error says the nearest name."""

import importlib

import pytest

import equipoise
from equipoise import losses, schedules
from equipoise.naming import nearest

SLIPS = [
    ("losses", "FocalLoss", "did you mean Focal?"),
    ("losses", "GamaCrossEntropy", "did you mean GammaCrossEntropy?"),
    ("losses", "CrossEntropyLoss", "did you mean CrossEntropy?"),
    ("losses", "focal_loss", "did you mean Focal?"),
    ("losses", "GCE", "did you mean GeneralizedCrossEntropy?"),
    ("losses", "SquaredCDF", "did you mean RankedProbabilityScore?"),
    ("losses", "Matrix", "did you mean equipoise.costs.ClassMatrix?"),
    ("maps", "Normalized", "did you mean LogitNorm?"),
    ("maps", "Sharpened", "did you mean Softmax?"),
    ("losses", "Entropy", "did you mean equipoise.penalties.Entropy?"),
    ("losses", "zzzzzzz", "there is CrossEntropy, GammaCrossEntropy, "),
    ("penalties", "Entrpy", "did you mean Entropy?"),
    ("penalties", "Focal", "did you mean equipoise.losses.Focal?"),
    ("maps", "Flored", "did you mean Floored?"),
    ("maps", "softmax", "did you mean Softmax?"),
    ("schedules", "Liner", "did you mean Linear?"),
    ("costs", "from_group", "did you mean from_groups?"),
    ("calibration", "Calibrate", "did you mean Calibration?"),
    ("distributions", "categorical", "did you mean MapCategorical?"),
    ("label_noise", "floored_prob", "did you mean floored_probs?"),
    ("label_noise", "read_out", "did you mean floored_probs?"),
    ("label_noise", "gamma_from_noise", "did you mean convert?"),
    ("linear", "explains", "did you mean explain?"),
    ("metrics", "severities", "did you mean severity?"),
    ("", "CrossEntropy", "did you mean equipoise.losses.CrossEntropy?"),
    ("", "GamaCrossEntropy", "did you mean equipoise.losses.GammaCrossEntropy?"),
    ("", "FocalLoss", "did you mean equipoise.losses.Focal?"),
    ("", "targets", "did you mean costs?"),
    ("", "gamma", "did you mean label_noise?"),
    ("", "decide", "did you mean equipoise.costs.decide?"),
    ("", "severity", "did you mean equipoise.metrics.severity?"),
    ("", "Objectiv", "did you mean Objective?"),
]


class TestWrongNames:
    @pytest.mark.parametrize(("module", "name", "way"), SLIPS)
    def test_the_name_that_was_meant_is_said(self, module: str, name: str, way: str) -> None:
        path = f"equipoise.{module}".strip(".")
        there = getattr(equipoise, module) if module else equipoise
        with pytest.raises(AttributeError) as caught:
            getattr(there, name)
        assert str(caught.value).startswith(f"module {path!r} has no attribute {name!r}; {way}")

    def test_a_known_name_is_not_taken_for_another(self) -> None:
        """A word with another meaning in the package is looked up as it is where that meaning is absent."""
        assert nearest("gamma", ["gamma2", "low"]) == "did you mean gamma2?"
        assert nearest("gamma", ["label_noise", "low"]) == "did you mean label_noise?"

    def test_every_public_module_answers(self) -> None:
        modules = {name for name in equipoise.__all__ if type(getattr(equipoise, name)) is type(equipoise)}
        assert modules == {module for module, _, _ in SLIPS if module}

    def test_what_only_looks_is_answered_as_before(self) -> None:
        for there in (equipoise, losses, schedules):
            assert not hasattr(there, "__wrapped__")
            assert not hasattr(there, "nothing")
        assert importlib.import_module("equipoise.integrations") is equipoise.integrations
        with pytest.raises(ImportError, match="cannot import name 'FocalLoss'"):
            exec("from equipoise.losses import FocalLoss")
