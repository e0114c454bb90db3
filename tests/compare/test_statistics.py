import numpy as np
import pytest
from scipy import stats

from equipoise.compare.statistics import compare_paired, holm

SEEDS = 8


def noise(seed, size=0.01):
    return size * np.random.default_rng(seed).normal(size=SEEDS)


def test_a_planted_effect_is_called_in_its_direction_and_only_then():
    plain = 0.8 + noise(0, 0.05)
    up, same = plain + 0.05 + noise(1), plain + noise(2)
    calls = [found.call for found in compare_paired([up, same], plain, "higher")]
    assert calls == ["better", "undecided"]
    calls = [found.call for found in compare_paired([up, same], plain, "lower")]
    assert calls == ["worse", "undecided"]


def test_pairing_finds_what_unpaired_values_hide():
    plain = np.linspace(0.5, 0.9, SEEDS)
    candidate = plain + 0.02 + noise(3, 0.002)
    assert compare_paired([candidate], plain, "higher")[0].call == "better"
    shuffled = candidate[np.random.default_rng(0).permutation(SEEDS)]
    assert compare_paired([shuffled], plain, "higher")[0].call == "undecided"


def test_false_calls_are_rare_without_an_effect_and_the_correction_is_why():
    corrected = uncorrected = 0
    for repeat in range(60):
        generator = np.random.default_rng(repeat)
        plain = generator.normal(size=SEEDS)
        candidates = plain + generator.normal(size=(10, SEEDS))
        found = compare_paired(list(candidates), plain, "higher")
        corrected += any(each.call != "undecided" for each in found)
        uncorrected += any(each.p < 0.05 for each in found)
    assert corrected <= 0.15 * 60
    assert uncorrected >= 0.25 * 60


def test_the_numbers_are_those_of_scipy():
    plain, candidate = noise(4), noise(5) + 0.01
    found = compare_paired([candidate], plain, "higher")[0]
    assert found.mean == pytest.approx((candidate - plain).mean())
    assert found.p == pytest.approx(stats.ttest_rel(candidate, plain).pvalue)
    assert found.corrected == found.p
    assert found.low < found.mean < found.high


@pytest.mark.parametrize("seeds", [1, 2])
def test_fewer_than_three_seeds_decide_nothing_and_say_so(seeds):
    plain = np.zeros(seeds)
    found = compare_paired([plain + 10.0 + np.arange(seeds)], plain, "higher")[0]
    assert found.call == "undecided"
    assert found.reason == f"{seeds} paired seeds, and fewer than 3 show nothing"
    assert np.isnan(found.p)
    three = np.zeros(3)
    assert compare_paired([three + 10 + 0.01 * np.arange(3)], three, "higher")[0].reason is None


def test_equal_differences_are_no_certainty():
    plain = np.linspace(0, 1, SEEDS)
    zero, ahead = compare_paired([plain, plain + 0.5], plain, "higher")
    assert (zero.p, zero.low, zero.high, zero.call) == (1.0, 0.0, 0.0, "undecided")
    assert ahead.p == pytest.approx(2.0 ** (1 - SEEDS))
    assert ahead.call == "better"
    few = plain[:3]
    assert compare_paired([few + 0.5], few, "higher")[0].call == "undecided"


def test_missing_values_are_left_out_in_pairs():
    plain = np.array([0.1, 0.2, np.nan, 0.4, 0.5])
    candidate = np.array([1.1, np.nan, 1.3, 1.41, 1.52])
    found = compare_paired([candidate], plain, "higher")[0]
    assert found.mean == pytest.approx(np.mean([1.0, 1.01, 1.02]))
    nothing = compare_paired([np.full(5, np.nan)], plain, "higher")[0]
    assert nothing.call == "undecided"
    assert np.isnan(nothing.mean)


def test_no_direction_no_call():
    plain = noise(6)
    assert compare_paired([plain + 1 + noise(7)], plain, None)[0].call is None


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []
    mixed = holm([0.01, float("nan"), 0.02])
    assert mixed[0] == pytest.approx(0.02)
    assert np.isnan(mixed[1])
    assert mixed[2] == pytest.approx(0.02)


def test_holm_agrees_with_statsmodels():
    multitest = pytest.importorskip("statsmodels.stats.multitest", reason="statsmodels is not installed")
    p = np.random.default_rng(0).random(20) ** 3
    assert holm(list(p)) == pytest.approx(multitest.multipletests(p, method="holm")[1])
