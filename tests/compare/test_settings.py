"""Every number of a comparison is checked before anything is read or trained."""

import numpy as np
import pytest

from equipoise.compare.early import check
from equipoise.compare.settings import COUNTS, Settings


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("value", [-1, 2.5, "3", None, True, 10**22, float("nan")], ids=str)
def test_counts_are_whole_and_not_absurd(name, value):
    """Counts must be integers within their range."""
    with pytest.raises(ValueError, match=rf"^{name} must be an integer from \d+ to \d+, got .*; the default"):
        Settings(**{name: value})


def test_a_huge_number_is_not_written_out():
    """A huge number is not printed in full."""
    with pytest.raises(ValueError, match="got a number of 1329 bits") as caught:
        Settings(width=10**400)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(("name", "value"), [("lr", 0), ("lr", -1.0), ("weight_decay", -1e-9)])
@pytest.mark.parametrize("other", [None, float("nan"), float("inf"), "0.1", True], ids=str)
def test_rates_are_finite_numbers(name, value, other):
    """Rates must be finite numbers in their range."""
    for each in (value, other):
        with pytest.raises(ValueError, match=f"^{name} must be a finite number .*; the default is "):
            Settings(**{name: each})


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"model": "cnn"}, "model must be 'mlp', 'linear' or a function .* got 'cnn'; the default is 'mlp'"),
        ({"model": 3}, "model must be .* got 3"),
        ({"stop": "early"}, "stop must be one of calibrated, own, .* got 'early'; the default is"),
        ({"class_weight": "equal"}, "class_weight must be 'balanced' or None, got 'equal'; .* sample_weight"),
        ({"worthwhile": {"f1": 1.0}}, "worthwhile must give accuracy, .* got 1.0 for 'f1'; write"),
        ({"worthwhile": {"accuracy": -1.0}}, "worthwhile must .* got -1.0 for 'accuracy'"),
    ],
)
def test_what_is_wrong_is_named(given, says):
    """An invalid setting is refused with its name."""
    with pytest.raises(ValueError, match=says):
        Settings(**given)


def test_a_smallest_difference_that_is_left_out_keeps_its_default():
    """A smallest difference that is not given keeps its default."""
    given = Settings(worthwhile={"accuracy": 0.02})
    assert given.worthwhile == {"accuracy": 0.02, "calibrated_nll": 0.01}


def test_numbers_of_numpy_are_numbers():
    """Numpy numbers are accepted and converted."""
    given = Settings(folds=np.int64(5), lr=np.float32(0.5), random_state=np.uint8(3))
    assert given == Settings(folds=5, lr=0.5, random_state=3)
    assert type(given.folds) is int


def test_a_device_that_torch_does_not_have_is_refused():
    """A device is checked with torch, and the default is not."""
    with pytest.raises(ValueError, match=r"^device must be 'cpu', 'cuda' or 'cuda:N', got 'tpu'"):
        Settings(device="tpu")
    assert Settings(device="cpu").device == "cpu"


def test_jobs_are_a_positive_number():
    """A number of jobs below 1, or one that is no integer, is refused before anything is read."""
    for jobs in (0, -1, 1.5, "two"):
        with pytest.raises(ValueError, match=r"^jobs must be a whole number from 1, got "):
            check({"jobs": jobs})
    check({"jobs": 1})
    check({"jobs": None})
