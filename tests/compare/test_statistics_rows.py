"""The interval over the rows of one test part, beside resampling by scipy and by hand."""

import itertools
import warnings

import numpy as np
import pytest
from scipy import stats

from equipoise.compare.statistics import LEVEL, Difference, compare_paired, compare_rows


def ends(found: Difference):
    return found.mean, found.low, found.high


@pytest.mark.parametrize("comparisons", [1, 12])
@pytest.mark.parametrize("kind", ["normal", "skewed", "classes"])
def test_the_interval_of_one_test_part_is_that_of_scipy_without_its_seed(kind, comparisons):
    """The interval of one test part is scipy's bootstrap interval without its random seed."""
    generator = np.random.default_rng(0)
    rows = {
        "normal": generator.normal(size=60),
        "skewed": generator.exponential(size=60) ** 2,
        "classes": generator.choice([-1.0, 0.0, 1.0], p=[0.1, 0.7, 0.2], size=60),
    }[kind]
    [found] = compare_rows([rows[None]], np.zeros((1, 60)), "higher", comparisons=comparisons)
    level = 1 - 2 * stats.norm.cdf(-np.sqrt(60 / 59) * stats.t.isf(0.025 / comparisons, 59))
    drawn = np.array(
        [
            stats.bootstrap(
                (rows,), np.mean, n_resamples=10_000, confidence_level=level, method="percentile", rng=seed
            ).confidence_interval
            for seed in range(4)
        ]
    )
    # Within what the seeds differ by, and for classes a step of the mean.
    error = 4 * drawn.std(axis=0, ddof=1) + (1 / 60 if kind == "classes" else 1e-3)
    assert (np.abs(np.array(ends(found)[1:]) - drawn.mean(axis=0)) < error).all()
    # Control: another level is found out.
    [other] = compare_rows([rows[None]], np.zeros((1, 60)), "higher", comparisons=20 * comparisons)
    assert (np.abs(np.array(ends(other)[1:]) - drawn.mean(axis=0)) > error).all()


def test_few_rows_have_a_wider_interval_than_the_plain_bootstrap():
    """For few rows, the interval is wider than the plain bootstrap interval."""
    rows = np.random.default_rng(0).normal(size=8)
    [found] = compare_rows([rows], np.zeros(8), None, comparisons=1)
    ends_at = {}
    for name, tail in (
        ("wider", stats.norm.cdf(-np.sqrt(8 / 7) * stats.t.isf(0.025, 7))),
        ("plain", 0.025),
    ):
        drawn = stats.bootstrap(
            (rows,), np.mean, n_resamples=100_000, confidence_level=1 - 2 * tail, method="percentile", rng=0
        )
        ends_at[name] = np.array(drawn.confidence_interval)
    assert ends(found)[1:] == pytest.approx(ends_at["wider"], abs=0.02)
    assert (np.abs(np.array(ends(found)[1:]) - ends_at["plain"]) > 0.05).all()


def test_few_steps_are_counted_exactly():
    """30 rows without a difference and 9 with one: the sum is binomial, and its quantile an integer."""
    rows = np.repeat([0.0, 1.0], [30, 9])
    [found] = compare_rows([rows[None]], np.zeros((1, 39)), "higher", comparisons=12)
    tail = stats.norm.cdf(-np.sqrt(39 / 38) * stats.t.isf(0.05 / 24, 38))
    low, high = (stats.binom.ppf(q, 39, 9 / 39) / 39 for q in (tail, 1 - tail))
    assert ends(found)[1:] == pytest.approx((low, high), abs=2e-3)


def test_rows_that_never_differ_the_other_way_need_to_be_many():
    """If rows differ in one direction only, few differing rows are undecided."""
    rows = np.zeros((1, 100))
    rows[0, :8] = 1
    [found] = compare_rows([rows], np.zeros((1, 100)), "higher", comparisons=12)
    assert (found.call, found.reason) == ("undecided", "8 of 100 test rows differ, too few to show anything")
    rows[0, :12] = 1
    assert compare_rows([rows], np.zeros((1, 100)), "higher", comparisons=12)[0].call == "better"


def test_scores_are_averaged_over_repeats_before_rows_are_drawn():
    """Scores are averaged over repeats before rows are resampled."""
    generator = np.random.default_rng(1)
    plain, candidate = generator.normal(size=(2, 5, 40))
    [found] = compare_rows([candidate], plain, "lower")
    [once] = compare_rows([candidate.mean(axis=0)], plain.mean(axis=0), "lower")
    assert ends(found) == pytest.approx(ends(once))
    candidate[2, 7] = np.nan
    [lost] = compare_rows([candidate - 5], plain, "lower")
    kept = [0, 1, 3, 4]
    assert lost.mean == pytest.approx((candidate[kept] - 5 - plain[kept]).mean())
    assert (lost.call, lost.reason) == ("undecided", "1 of 5 repeats have no score to pair")
    [nothing] = compare_rows([np.full((1, 40), np.nan)], plain[:1], "lower")
    assert nothing.reason == "0 paired rows, and fewer than 3 show nothing"


def test_groups_are_drawn_whole():
    """Groups are resampled whole."""
    generator = np.random.default_rng(2)
    groups = np.repeat(np.arange(30), generator.integers(1, 8, size=30))
    rows = (generator.normal(size=30)[groups] + 0.1 * generator.normal(size=len(groups)))[None]
    [alone] = compare_rows([rows], np.zeros_like(rows), "higher")
    [found] = compare_rows([rows], np.zeros_like(rows), "higher", groups=groups)
    assert found.mean == pytest.approx(rows.mean())
    assert found.high - found.low > 1.5 * (alone.high - alone.low)
    # Resampled by hand, as a ratio of sums.
    sums, sizes = np.bincount(groups, weights=rows[0]), np.bincount(groups)
    drawn = generator.integers(0, 30, size=(10_000, 30))
    tail = stats.norm.cdf(-np.sqrt(30 / 29) * stats.t.isf(0.025, 29))
    low, high = np.quantile(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1), [tail, 1 - tail])
    assert ends(found)[1:] == pytest.approx((low, high), abs=0.1 * (high - low) / 2)
    names = np.array([f"patient {group}" for group in groups])
    assert compare_rows([rows], np.zeros_like(rows), "higher", groups=names)[0].call == found.call
    [few] = compare_rows([rows], np.zeros_like(rows), "higher", groups=groups % 2)
    assert few.reason == "2 paired groups, and fewer than 3 show nothing"


def test_an_undecided_test_part_says_how_many_rows_it_would_take():
    """An undecided test part says how many rows would decide it."""
    rows = np.random.default_rng(3).normal(size=200)
    rows += 0.1 - rows.mean()
    [found] = compare_rows([rows[None]], np.zeros((1, 200)), "higher")
    count = int(str(found.needed).removeprefix("about ").split()[0].replace(",", ""))
    assert count == pytest.approx(200 * ((found.high - found.low) / 2 / 0.1) ** 2, rel=0.06)
    assert str(found.needed).endswith("test rows would settle it if the difference stays as it is")


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "differ"), [(40, 0.3), (200, 0.1)])
def test_false_alarms_of_one_test_part(rows, differ):
    """Rows that two models get right or wrong alike, but a share that falls either way."""
    generator, count = np.random.default_rng(2), 300
    nulls = generator.choice([-1.0, 0.0, 1.0], p=[differ / 2, 1 - differ, differ / 2], size=(count, 1, rows))
    for comparisons in (1, 12):
        found = compare_rows(nulls, np.zeros((1, rows)), "higher", comparisons=comparisons)
        alarms = np.mean([each.call in ("better", "worse") for each in found])
        level = LEVEL / comparisons
        assert alarms <= level + 2 * np.sqrt(level * (1 - level) / count)


def test_grid_and_order_do_not_decide():
    """The same scores in other units give the same ends, to the digits that are shown."""
    rows = np.random.default_rng(5).exponential(size=(1, 300)) - 0.9
    first, *others = (
        np.array(ends(compare_rows([scale * rows], 0 * rows, "higher")[0])) / scale
        for scale in (1.0, 100.0, 1e-3, np.pi)
    )
    for other in others:
        np.testing.assert_allclose(other, first, atol=1e-9)
    assert len(set(itertools.chain(first))) == 3


@pytest.mark.parametrize("size", [1e-200, 1e-9, 1e150])
def test_costs_of_any_size_have_an_interval_and_words(size):
    """Whatever the unit of costs, squares do not overflow and nothing is nan."""
    spread = 0.02 * np.random.default_rng(7).normal(size=10)
    for values in (spread, spread - spread.mean(), spread + 0.02, np.zeros(10)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            rows = np.tile(values, 30)
            for compare, given_ in ((compare_paired, values), (compare_rows, rows)):
                options = {"test_ratio": 1 / 9, "rows": 1000} if compare is compare_paired else {}
                [found] = compare([size * given_], np.zeros(len(given_)), "lower", **options)
                [plain] = compare([given_], np.zeros(len(given_)), "lower", **options)
                assert np.isfinite(ends(found)).all()
                assert ends(found) == pytest.approx(size * np.array(ends(plain)), rel=1e-6, abs=1e-12 * size)
                assert found.call == plain.call
    [tiny] = compare_paired([1e-5 + 1e150 * (spread - spread.mean())], np.zeros(10), "lower", rows=9)
    assert "would settle it" in str(tiny.needed)
