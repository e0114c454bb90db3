"""Intervals and calls of paired differences: formulas, laws, and how often they are wrong."""

import numpy as np
import pytest
from scipy import stats

from equipoise.compare.statistics import LEVEL, Difference, call, compare_paired, compare_rows

SPLITS = 10
OVERLAP = 1 / 9  # ten folds


def noise(seed, size=0.01, count=SPLITS):
    return size * np.random.default_rng(seed).normal(size=count)


def ends(found: Difference):
    return found.mean, found.low, found.high


# --- over splits ---


def test_without_overlap_it_is_the_t_interval_of_scipy():
    plain, candidate = noise(4), noise(5) + 0.01
    [found] = compare_paired([candidate], plain, "higher")
    right = stats.ttest_rel(candidate, plain).confidence_interval(1 - LEVEL)
    assert ends(found) == pytest.approx(((candidate - plain).mean(), right.low, right.high))


def test_overlap_widens_it_by_nadeau_and_bengio_and_comparisons_by_bonferroni():
    plain, candidate = noise(4), noise(5) + 0.01
    [narrow] = compare_paired([candidate], plain, "higher")
    [wide] = compare_paired([candidate], plain, "higher", test_ratio=OVERLAP)
    assert (wide.high - wide.low) / (narrow.high - narrow.low) == pytest.approx(
        np.sqrt((1 / 10 + OVERLAP) * 10)
    )
    [wider] = compare_paired([candidate], plain, "higher", test_ratio=OVERLAP, comparisons=12)
    quantiles = stats.t.isf(0.05 / 24, 9) / stats.t.isf(0.025, 9)
    assert (wider.high - wider.low) / (wide.high - wide.low) == pytest.approx(quantiles)
    both = compare_paired([candidate, candidate], plain, "higher", test_ratio=OVERLAP)
    assert both == compare_paired([candidate] * 2, plain, "higher", test_ratio=OVERLAP, comparisons=2)


class Normals:
    """R's rnorm after set.seed: Mersenne Twister, and inversion of 59 bits of two uniform numbers."""

    def __init__(self, seed):
        words = []
        for place in range(50 + 625):
            seed = (69069 * seed + 1) % 2**32
            if place >= 50:
                words.append(seed)
        self.generator = np.random.RandomState()
        self.generator.set_state(("MT19937", np.array(words[1:], dtype=np.uint32), 624))

    def uniform(self):
        [word] = self.generator.randint(0, 2**32, size=1, dtype=np.uint32)
        return float(word) * 2.3283064365386963e-10

    def draw(self, count, mean, sd):
        found = []
        for _ in range(count):
            first = int(2**27 * self.uniform())
            found.append(mean + sd * stats.norm.ppf((first + self.uniform()) / 2**27))
        return np.array(found)


@pytest.fixture(scope="module")
def documented():
    """The data of correctR's vignette, `set.seed(123)`: x and y, and the values of two models."""
    normals = Normals(123)
    return [normals.draw(count, mean, 0.1) for count, mean in ((30, 0.6), (30, 0.4), (60, 0.6), (60, 0.4))]


def statistic(found, count, level=LEVEL):
    """The corrected t that belongs to an interval."""
    return found.mean / ((found.high - found.low) / 2) * stats.t.isf(level / 2, count - 1)


def test_the_numbers_of_r_are_drawn_again():
    np.testing.assert_allclose(Normals(123).draw(3, 0, 1), [-0.56047565, -0.23017749, 1.55870831], atol=5e-9)


def test_it_agrees_with_correctr_on_its_documented_example(documented):
    x, y, _, _ = documented
    # resampled_ttest(x = x, y = y, n = 30, n1 = 80, n2 = 20) prints 2.407318 and 0.02265982.
    [found] = compare_paired([x], y, "higher", test_ratio=20 / 80)
    t = statistic(found, 30)
    assert t == pytest.approx(2.407318, abs=5e-7)
    assert 2 * stats.t.sf(t, 29) == pytest.approx(0.02265982, abs=5e-9)
    # Control: the same without the overlap is another number.
    assert statistic(compare_paired([x], y, "higher")[0], 30) > 6


def test_where_correctr_counts_otherwise_its_printed_numbers_follow_from_ours(documented):
    x, y, first, second = documented
    # Its example of repeated folds gives 60 pairs but k = 2 and r = 2, and it counts k r = 4 of them.
    [found] = compare_paired([first], second, "higher", test_ratio=20 / 80)
    t = statistic(found, 60) * np.sqrt((1 / 60 + 1 / 4) / (1 / 4 + 1 / 4))
    assert t == pytest.approx(1.97102, abs=5e-6)
    assert stats.t.sf(t, 3) == pytest.approx(0.07165217, abs=5e-9)
    # Its example of folds gives 30 pairs but n = 100, k = 30, and the code multiplies the variance by
    # (1 / n + 1 / k) / (1 - 1 / k), where its own page has 1 / n + (1 / k) / (1 - 1 / k), as here.
    [found] = compare_paired([x], y, "higher", test_ratio=1 / 29)
    theirs = (1 / 100 + 1 / 30) / (1 - 1 / 30)
    t = statistic(found, 30) * np.sqrt((1 / 30 + 1 / 29) / theirs)
    assert t == pytest.approx(6.052149, abs=5e-7)
    assert stats.t.sf(t, 99) == pytest.approx(1.281991e-08, rel=1e-6)


def test_a_loss_against_itself_is_exactly_nothing():
    plain = noise(0)
    for found in (
        compare_paired([plain], plain, "higher", test_ratio=OVERLAP)[0],
        compare_rows([plain[None]], plain[None], "lower")[0],
    ):
        assert found == Difference(0.0, 0.0, 0.0, "equal")
        assert str(found.high) == "0.0"


def test_a_planted_effect_is_called_in_its_direction_and_only_then():
    plain = 0.8 + noise(0, 0.05)
    up, same = plain + 0.05 + noise(1), plain + noise(2)
    options = {"test_ratio": OVERLAP, "worthwhile": 0.005}
    assert [each.call for each in compare_paired([up, same], plain, "higher", **options)] == [
        "better",
        "undecided",
    ]
    assert [each.call for each in compare_paired([up, same], plain, "lower", **options)] == [
        "worse",
        "undecided",
    ]
    assert compare_paired([up], plain, None)[0].call is None


def test_pairing_finds_what_unpaired_values_hide():
    plain = np.linspace(0.5, 0.9, SPLITS)
    candidate = plain + 0.02 + noise(3, 0.002)
    assert compare_paired([candidate], plain, "higher")[0].call == "better"
    shuffled = candidate[np.random.default_rng(0).permutation(SPLITS)]
    assert compare_paired([shuffled], plain, "higher")[0].call == "undecided"


@pytest.mark.parametrize("splits", [1, 2])
def test_fewer_than_three_splits_have_no_interval_and_say_so(splits):
    plain = np.zeros(splits)
    [found] = compare_paired([plain + 10.0 + np.arange(splits)], plain, "higher")
    assert found.call == "undecided"
    assert found.reason == f"{splits} paired splits, and fewer than 3 show nothing"
    assert np.isnan([found.low, found.high]).all()
    assert found.mean == 10 + (splits - 1) / 2
    three = np.zeros(3)
    assert compare_paired([three + 10 + 0.01 * np.arange(3)], three, "higher")[0].reason is None


def test_equal_differences_of_few_splits_are_no_certainty():
    plain = np.linspace(0, 1, SPLITS)
    [ahead] = compare_paired([plain + 0.5], plain, "higher", comparisons=12)
    assert (ahead.call, ahead.reason) == ("better", None)
    [few] = compare_paired([plain[:5] + 0.5], plain[:5], "higher", comparisons=12)
    assert few.call == "undecided"
    assert few.reason == "the same difference in all 5 splits, and so no spread to judge by"


def test_diverged_splits_are_left_out_said_and_not_forgiven():
    plain = noise(1)
    ahead, behind = plain + 1 + noise(2), plain - 1 + noise(2)
    whole = compare_paired([ahead, behind, plain], plain, "higher")
    for each in (ahead, behind):
        each[3] = np.nan
    lost = compare_paired([ahead, behind, np.where(np.isnan(ahead), np.nan, plain)], plain, "higher")
    assert [each.call for each in whole] == ["better", "worse", "equal"]
    assert [each.call for each in lost] == ["undecided", "worse", "undecided"]
    assert {each.reason for each in lost} == {"1 of 10 splits have no value to pair"}
    assert lost[0].mean == pytest.approx(np.nanmean(ahead - plain))
    [nothing] = compare_paired([np.full(SPLITS, np.nan)], plain, "higher")
    assert (nothing.call, np.isnan(nothing.mean)) == ("undecided", True)


@pytest.mark.parametrize("size", [1e-14, 1e-13, 1e-6, 1.0, 1e12])
@pytest.mark.parametrize("compare", [compare_paired, compare_rows])
def test_the_unit_of_the_values_does_not_decide(size, compare):
    """Costs of 1e-14 that double are not equal, and costs that differ by rounding alone are."""
    plain = 1 + noise(1, 0.1, 30)
    twice, same = 2 * plain + noise(2, count=30), plain * 3 / 3 * (1 + 2e-16)
    found = compare([size * twice, size * same], size * plain, "lower")
    assert [each.call for each in found] == ["worse", "equal"]
    assert ends(found[1]) == (0, 0, 0)
    assert compare([size * same], size * plain, "higher")[0].call == "equal"
    least = 0.02 * size  # a difference worth having, but for rounding
    below = np.nextafter(least, 0)
    assert call(below, 0.5 * below, 2 * below, "higher", least) == "better"
    assert call(0.9 * least, 0.5 * least, 2 * least, "higher", least) == "undecided"
    assert call(0.5 * least, -least, np.nextafter(least, np.inf), "higher", least) == "equal"
    assert call(0.5 * least, -least, 1.1 * least, "higher", least) == "undecided"


# --- what would settle it ---


def test_repeats_settle_what_the_overlap_allows_and_rows_the_rest():
    plain, spread = np.zeros(SPLITS), noise(7, 0.02)
    spread -= spread.mean()
    options = {"test_ratio": OVERLAP, "worthwhile": 0.005, "comparisons": 4, "rows": 1797}
    sd = spread.std(ddof=1)
    least = stats.norm.isf(0.05 / 8) * sd * np.sqrt(OVERLAP)  # no number of repeats is narrower
    [found] = compare_paired([spread + 1.1 * least], plain, "higher", **options)
    assert found.call == "undecided"
    assert found.needed == "about 7 repeats of 10 folds would settle it if the difference stays as it is"
    # The number does what it says, and one less does not.
    for repeats, called in ((6, "undecided"), (7, "better")):
        # As many values with the same mean and the same variance with divisor S - 1.
        more = np.tile(spread, repeats)
        more *= sd / more.std(ddof=1)
        [again] = compare_paired(
            [more + 1.1 * least], np.zeros(len(more)), "higher", **options, repeats=repeats
        )
        assert again.call == called
    [found] = compare_paired([spread + 0.7 * least], plain, "higher", **options)
    assert found.needed is not None
    assert found.needed.startswith("no number of repeats of 10 folds would settle it; about ")
    assert found.needed.endswith(" rows would settle it if the difference stays as it is")
    half = (found.high - found.low) / 2
    rows = int(found.needed.split("; about ")[1].split()[0].replace(",", ""))
    assert rows == pytest.approx(1797 * (half / found.mean) ** 2, rel=0.06)
    [found] = compare_paired([spread + 0.7 * least], plain, "higher", test_ratio=OVERLAP, worthwhile=0.005)
    assert "times as many rows" in str(found.needed)


def test_a_difference_not_worth_having_is_settled_by_a_narrower_interval_that_makes_it_equal():
    spread, mean, least = noise(7, 0.009), 0.002, 0.005
    spread += mean - spread.mean()
    [found] = compare_paired([spread], np.zeros(SPLITS), "higher", worthwhile=least, rows=1000)
    count = int(str(found.needed).removeprefix("about ").split()[0])
    widths = [stats.t.isf(0.025, n - 1) * spread.std(ddof=1) / np.sqrt(n) for n in (count - 1, count)]
    assert found.call == "undecided"
    assert widths[1] < least - mean <= widths[0]


def test_independent_runs_can_always_settle_a_difference_but_none():
    plain, spread = np.zeros(SPLITS), noise(7, 0.02)
    [found] = compare_paired([spread - spread.mean() + 0.005], plain, "higher")
    assert found.needed is not None
    assert found.needed.endswith("runs would settle it if the difference stays as it is")
    [none] = compare_paired([spread - spread.mean()], plain, "higher")
    assert none.needed is not None
    assert none.needed.startswith("no number of runs")


def test_what_is_decided_needs_nothing():
    plain = noise(0)
    assert compare_paired([plain + 1 + noise(1)], plain, "higher")[0].needed is None
    assert compare_paired([plain], plain, "higher")[0].needed is None


# --- how often it is wrong ---


def correlated(generator, count, overlap, repeats=1, folds=SPLITS):
    """Null differences over folds, two of which have correlation test / (test + train)."""
    rho = overlap / (1 + overlap)
    shared = generator.normal(size=(count, 1)) * np.sqrt(rho)
    return shared + np.sqrt(1 - rho) * generator.normal(size=(count, folds * repeats))


@pytest.mark.slow
@pytest.mark.parametrize("repeats", [1, 5])
def test_false_alarms_of_correlated_folds_are_at_the_level_and_uncorrected_ones_are_not(repeats):
    count = 4000
    nulls = correlated(np.random.default_rng(0), count, OVERLAP, repeats)
    plain = np.zeros(nulls.shape[1])
    alarms = {
        overlap: np.mean(
            [
                found.low > 0 or found.high < 0
                for found in compare_paired(
                    nulls, plain, None, test_ratio=overlap, comparisons=1, repeats=repeats
                )
            ]
        )
        for overlap in (OVERLAP, 0.0)
    }
    error = np.sqrt(LEVEL * (1 - LEVEL) / count)
    assert alarms[OVERLAP] == pytest.approx(LEVEL, abs=2 * error)
    assert alarms[0.0] > 0.14  # the control: the paired t without the correction


@pytest.mark.slow
def test_intervals_hold_together_over_comparisons():
    """Six candidates, two measures: the share of comparisons with any false alarm is the level at most."""
    generator, count, wrong, each_wrong = np.random.default_rng(1), 500, 0, 0
    plain = np.zeros(SPLITS)
    for _ in range(count):
        nulls = correlated(generator, 12, OVERLAP)
        found = compare_paired(nulls, plain, "higher", test_ratio=OVERLAP)
        alone = compare_paired(nulls, plain, "higher", test_ratio=OVERLAP, comparisons=1)
        wrong += any(each.call in ("better", "worse") for each in found)
        each_wrong += any(each.call in ("better", "worse") for each in alone)
    assert wrong / count <= LEVEL + 2 * np.sqrt(LEVEL * (1 - LEVEL) / count)
    assert each_wrong / count > 0.3  # the control
