"""The words of the errors of calibration."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import equipoise.calibration as package
from equipoise.calibration import Calibration, Prior, fit
from support.raises import never_raised

LOGITS, TARGET = np.zeros((4, 3)), np.array([0, 1, 2, 0])
DONE = Calibration(temperature=1.0, noise=0.1, noise_interval=None, num_classes=3)
CASES: list[tuple[Any, type[Exception], str]] = [
    (lambda: fit([[0.0, 1.0]], [0]), TypeError, "logits must be a floating array or tensor, got list"),
    (lambda: fit(np.zeros((4, 3), int), TARGET), TypeError, "logits must be .*, got int64; pass the scores"),
    (lambda: fit(LOGITS, TARGET[:3]), ValueError, r"logits must be \(N, C\) .* got \(4, 3\) and \(3,\)"),
    (lambda: fit(LOGITS[:, :1], TARGET), ValueError, r"with C at least 2, .* got \(4, 1\)"),
    (
        lambda: fit(LOGITS, TARGET, sample_weight=[1, 2]),
        ValueError,
        r"sample_weight must be \(4,\), got \(2,",
    ),
    (lambda: fit(LOGITS, TARGET, sample_weight=[1, -1, 1, 1]), ValueError, "sample_weight .*, got -1"),
    (lambda: fit(LOGITS, TARGET, sample_weight=np.zeros(4)), ValueError, "not 0 for all, got 0 for each"),
    (lambda: fit(LOGITS, TARGET.astype(float)), TypeError, "target must be integer classes, got float64"),
    (lambda: fit(LOGITS, TARGET + 1), ValueError, r"target must be in \[0, 3\), got 3 in row 2"),
    (lambda: fit(LOGITS, LOGITS + 0.5), ValueError, "probabilities that sum to 1, got 1.5 in row 0; divide"),
    (lambda: fit(LOGITS * np.nan, TARGET), ValueError, r"finite, got .* in 4 of 4 rows \(0, 1, 2, 3\)"),
    (lambda: fit(LOGITS, TARGET, noise="some"), ValueError, "noise must be 'fit', a rate .*, got 'some'"),
    (lambda: fit(LOGITS, TARGET, noise=None), TypeError, "noise must be .*, got None; 0 is no noise"),
    (lambda: fit(LOGITS, TARGET, noise=0.7), ValueError, r"noise must be in \[0, 0.666667\], got 0.7"),
    (
        lambda: fit(LOGITS, TARGET, noise=np.ones((3, 3))),
        ValueError,
        r"noise must .*\[true, observed\].* got 3",
    ),
    (lambda: fit(LOGITS, TARGET, noise=np.eye(2)), ValueError, "matrix .* of 3 classes, got one of kind"),
    (lambda: fit(LOGITS, TARGET, prior=1.0), TypeError, "prior must be 'auto', None or a Prior, got 1.0"),  # pyright: ignore[reportArgumentType]
    (lambda: Calibration(0.0, 0.1, None, 3), ValueError, "temperature must be finite and above 0, got 0.0"),
    (
        lambda: Calibration(1.0, 0.7, None, 3),
        ValueError,
        r"noise must be in \[0, 0.666667\], got 0.7; with 3",
    ),
    (lambda: Prior(logit=0.0), ValueError, "logit must be above 0, got 0.0; it is a standard deviation"),
    (lambda: Prior(centre=np.inf), ValueError, "centre must be finite, got inf"),
    (lambda: DONE.probs(np.zeros((4, 2))), ValueError, "logits must have the 3 classes of the fit, got 2"),
    (lambda: DONE.wrong_label_probs(LOGITS, LOGITS + 1 / 3), ValueError, r"target must be \(N,\) .*\(4, 3\)"),
]


@pytest.mark.parametrize(("call", "kind", "said"), CASES)
def test_errors_say_the_rule_the_value_and_the_way_out(call: Any, kind: type[Exception], said: str) -> None:
    """Each error of calibration names the argument, the rule and a way out."""
    with pytest.raises(kind, match=said) as caught:
        call()
    assert re.search(r"[;:] \S", str(caught.value))


def test_every_error_has_a_case() -> None:
    """Every `raise` of the package has a case; with cases left out, one is missing."""
    folder = Path(str(package.__file__)).parent
    assert never_raised(folder, [call for call, _, _ in CASES]) == set()
    assert len(never_raised(folder, [call for call, _, _ in CASES[1:-1]])) == 1  # the control
