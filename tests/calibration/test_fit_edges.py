"""A fit to hard rows: separable, not finite, without information, of any kind."""

import numpy as np
import pytest
import torch

from equipoise.calibration import Calibration, fit
from equipoise.maps import Softmax
from support.simulated_labels import Floats, simulated

pytestmark = pytest.mark.slow  # fits to simulated data


def test_probabilities_keep_the_kind_of_the_logits() -> None:
    logits, target = simulated(8, 90, 4, noise=0.2)
    found = fit(torch.tensor(logits), torch.tensor(target))
    assert found == fit(logits, target)
    for given in (torch.tensor(logits).float(), torch.tensor(logits).bfloat16(), logits.astype(np.float32)):
        answers = (found.probs(given), found.observed_probs(given), found.wrong_label_probs(given, target))
        assert {type(each) for each in answers} == {type(given)}
        assert {str(each.dtype).split(".")[-1] for each in answers} == {"float64"}
        assert fit(given, target).temperature == pytest.approx(found.temperature, rel=0.02)
    np.testing.assert_allclose(found.map.probs(torch.tensor(logits)), found.probs(logits), rtol=1e-12)
    assert found.map == Softmax(temperature=found.temperature)
    np.testing.assert_allclose(found.probs(logits.reshape(3, 30, 4)).reshape(90, 4), found.probs(logits))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_nan_and_no_other(bad: float) -> None:
    logits, target = simulated(9, 20, 3)
    found = fit(logits, target)
    broken = logits.copy()
    broken[3, 1] = bad
    for one, other in (
        (found.probs(broken), found.probs(logits)),
        (found.observed_probs(broken), found.observed_probs(logits)),
        (found.wrong_label_probs(broken, target)[:, None], found.wrong_label_probs(logits, target)[:, None]),
    ):
        assert np.isnan(one[3]).all()
        np.testing.assert_array_equal(np.delete(one, 3, 0), np.delete(other, 3, 0))
    assert np.isnan(found.nll(broken, target))
    weight = (np.arange(20) != 3).astype(float)
    assert fit(broken, target, sample_weight=weight).temperature > 0
    with pytest.raises(ValueError, match=r"logits must be finite, got nan or infinity in 1 of 20 rows \(3\)"):
        fit(broken, target)


def finite(found: Calibration, logits: Floats) -> bool:
    numbers = [found.temperature, found.noise, *(found.noise_interval or ())]
    return bool(np.isfinite(numbers).all() and np.isfinite(found.probs(logits)).all())


def test_hard_rows_are_finite_and_said() -> None:
    logits, target = simulated(10, 400, 4, noise=0.2)
    target = np.where(target == 2, 1, target)
    absent = fit(logits, target)
    assert absent.notes == ("no row of class 2: what is said of it follows from the other classes",)
    logits, target = simulated(10, 20, 4)
    few = fit(logits, target)
    low, high = few.noise_interval or (0, 0)
    assert few.notes[0].startswith("only 20 rows: noise anywhere from ")
    assert (low, high > 0.15) == (0.0, True)
    separated = fit(logits, logits.argmax(1))
    assert separated.notes[1:] == ("every label is the likeliest class: no row keeps the temperature from 0",)
    bound = fit(logits, logits.argmax(1), noise=0)
    assert bound.notes[1:] == separated.notes[1:]
    assert fit(logits, logits.argmin(1), noise=0).notes[1:] == (
        "log T is at its bound, 10: the rows have no finite best temperature",
    )
    same_logits = fit(np.zeros((500, 4)), np.arange(500) % 4)
    assert same_logits.noise_interval == (0.0, 0.75)  # such rows say nothing
    huge = fit(1e8 * logits, target)
    for found in (absent, few, separated, bound, same_logits, huge, fit(logits[:1], target[:1])):
        assert finite(found, logits)
    assert fit(*simulated(10, 400, 4, noise=0.2)).notes == ()  # the control


def test_where_every_temperature_is_as_good_it_stays_1() -> None:
    found = fit(np.zeros((1, 3)), np.array([1]), noise=0)
    assert found.temperature == 1
    assert found.notes[0] == "only 1 row"
