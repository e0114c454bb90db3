"""Intervals of paired differences, with and without overlapping training sets."""

from types import ModuleType

import numpy as np
import pytest

pytestmark = pytest.mark.slow

stats = pytest.importorskip("scipy.stats", reason="the example needs the extra compare")


def test_it_is_the_t_interval_where_seeds_are_independent(example: ModuleType) -> None:
    """For independent seeds, the interval is the paired t interval."""
    values, plain = np.random.default_rng(0).normal(size=(2, 9))
    found = example.interval(values, plain)
    right = stats.ttest_rel(values, plain).confidence_interval()
    np.testing.assert_allclose(found, ((values - plain).mean(), right.low, right.high), rtol=1e-12)


def test_overlap_widens_it_by_nadeau_and_bengio(example: ModuleType) -> None:
    """Overlap widens the interval by the factor of Nadeau and Bengio."""
    values, plain = np.random.default_rng(0).normal(size=(2, 10))
    mean, low, high = example.interval(values, plain)
    other, lower, higher = example.interval(values, plain, overlap=0.25)
    assert other == mean
    # variance times (1 / 10 + 1 / 4) in place of 1 / 10
    assert (higher - lower) / (high - low) == pytest.approx(np.sqrt(3.5))


def test_bold_means_clear_of_zero(example: ModuleType) -> None:
    """An interval that excludes zero is printed in bold."""
    assert example.shown((1.0, 0.5, 1.5), 1) == "**+1.0 (+0.5 to +1.5)**"
    assert example.shown((-1.0, -1.5, -0.5), 1) == "**-1.0 (-1.5 to -0.5)**"
    assert example.shown((1.0, -0.5, 2.5), 1) == "+1.0 (-0.5 to +2.5)"
