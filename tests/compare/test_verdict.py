"""The rule that chooses the winner, and what is said of it."""

import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from equipoise.compare.records import Setting
from equipoise.compare.statistics import Difference
from equipoise.compare.verdict import decide, judge
from support.made_verdicts import DECIDING, Stub, candidate, outcome, result

AGAINST = "plain cross entropy, best epoch, calibrated"
GAMMA = "GammaCrossEntropy(gamma=0.5)"
FOCAL = "Focal(gamma=2.0)"
BRIER = "Brier()"
SURE = "; 95 % intervals that hold for all {} comparisons together."
DATA = (
    " Data: digits, 1,797 rows, 10 classes; wrong labels found: 25.5 % (95 % interval 20.1 to 31.0 %); "
    "10-fold cross-validation."
)


# --- the rule ---

words = st.sampled_from(["better", "equal", "worse", "undecided"])
tables = st.integers(1, 3).flatmap(
    lambda measures: st.lists(st.lists(words, min_size=measures, max_size=measures), min_size=1, max_size=5)
)


def ranked(table, seed=0):
    nll = np.random.default_rng(seed).integers(0, 3, size=len(table)) / 10  # with ties
    return [(value, f"candidate {place}") for place, value in enumerate(nll)]


@given(tables, st.integers(0, 2**31), st.randoms())
def test_the_order_of_candidates_and_measures_never_matters(table, seed, random):
    """The verdict does not depend on the order of candidates and measures."""
    ranks, order, columns = ranked(table, seed), list(range(len(table))), list(range(len(table[0])))
    random.shuffle(order)
    random.shuffle(columns)
    said, winner, choice = decide(table, ranks)
    again = decide([[table[k][c] for c in columns] for k in order], [ranks[k] for k in order])
    assert again[0] == said
    assert (None if again[1] is None else order[again[1]]) == winner
    assert [order[k] for k in again[2]] == choice


@given(tables, st.integers(0, 2**31), st.floats(-1, 1))
def test_a_clone_of_the_baseline_changes_nothing(table, seed, nll):
    """A copy of the baseline does not change the verdict."""
    ranks = ranked(table, seed)
    clone = [*table, ["equal"] * len(table[0])]
    assert decide(clone, [*ranks, (nll, "a clone")]) == decide(table, ranks)


@given(tables, st.integers(0, 2**31))
def test_the_winner_is_better_in_one_and_worse_in_none_and_of_these_the_best(table, seed):
    """The winner is better in a measure, worse in none, and has the best NLL of these."""
    ranks = ranked(table, seed)
    said, winner, choice = decide(table, ranks)
    fit = [k for k, each in enumerate(table) if "better" in each and "worse" not in each]
    mixed = [k for k, each in enumerate(table) if "better" in each and "worse" in each]
    assert (winner is None) == (not fit)
    assert (said == "better") == bool(fit)
    if fit:
        assert winner == min(fit, key=lambda k: ranks[k])
        assert choice == []
    else:
        assert sorted(choice) == mixed
        assert (said == "equal") == (set(itertools.chain(*table)) <= {"equal", "worse"})


@given(tables, st.integers(0, 2**31))
def test_mirrored_calls_never_win_both_ways(table, seed):
    """A table and its mirror image do not both have a winner."""
    mirror = {"better": "worse", "worse": "better"}
    turned = [[mirror.get(call, call) for call in each] for each in table]
    said, winner, _ = decide(table, ranked(table, seed))
    other, loser, _ = decide(turned, ranked(table, seed))
    if said == other == "better":
        assert winner != loser
    if said == "equal" and other == "equal":
        assert set(itertools.chain(*table)) == {"equal"}


# --- what is said ---


def test_the_winner_is_named_with_how_much_how_sure_against_what_and_on_what():
    """The sentence names the winner, its differences, their intervals, the baseline and the data."""
    best = outcome(GAMMA, "undecided", "better", nll=0.3)
    good = outcome(BRIER, "better", "better", nll=0.4)
    mixed = outcome(FOCAL, "better", "worse", nll=0.1)
    given_ = result(good, best, mixed)
    said = judge(given_)
    assert (said.call, said.winner, said.against, said.choice) == ("better", best, AGAINST, ())
    assert said.sentence == (
        f"Use {GAMMA}: against plain cross entropy, best epoch, calibrated, calibrated NLL of the observed "
        "labels is 0.046 lower (-0.071 to -0.021) and accuracy is undecided (-0.4 to +2.0 points)"
        + SURE.format(6)
        + DATA
    )
    assert "Also better: Brier()." in said.others
    assert (
        f"With {FOCAL}, accuracy is 4.6 points higher (+2.1 to +7.1) but calibrated NLL of the observed "
        "labels is 0.030 higher (+0.010 to +0.050)."
    ) in said.others
    assert said.code == f"loss = {GAMMA}  # {{}}"


def test_better_in_one_and_worse_in_another_is_a_choice_and_the_headline_names_it():
    """If candidates are better in one measure and worse in another, the headline says so."""
    mixed, other = outcome(FOCAL, "better", "worse", nll=0.7), outcome(BRIER, "worse", "better", nll=0.3)
    given_ = result(mixed, other, outcome(GAMMA, "equal", "equal"))
    said = judge(given_)
    assert (said.call, said.winner) == ("undecided", given_.baseline)
    assert said.choice == ("CrossEntropy()", BRIER, FOCAL)
    assert said.sentence.startswith(
        f"Undecided, the choice between CrossEntropy(), {BRIER} and {FOCAL} is yours: with {BRIER}, "
        f"against {AGAINST}, calibrated NLL of the observed labels is 0.046 lower (-0.071 to -0.021) but "
        "accuracy is 3.0 points lower (-5.0 to -1.0); 95 % intervals"
    )
    assert f"With {FOCAL}, accuracy is 4.6 points higher" in said.others


@pytest.mark.parametrize(("calls", "worse"), [(("equal", "equal"), ""), (("worse", "equal"), " or worse")])
def test_what_is_equal_or_worse_leaves_the_baseline(calls, worse):
    """If all candidates are equal or worse, the baseline is kept."""
    given_ = result(outcome(GAMMA, *calls), outcome(BRIER, "equal", "equal"))
    said = judge(given_)
    assert (said.call, said.winner, said.choice) == ("equal", given_.baseline, ())
    assert said.sentence == (
        f"Keep {AGAINST}: none of 2 candidates is better, each is equal{worse} (equal: within accuracy "
        f"0.5 points, calibrated NLL of the observed labels 0.01){SURE.format(4)}" + DATA
    )
    assert said.code == "loss = CrossEntropy()  # {}"
    [alone] = [judge(result(outcome(GAMMA, *calls)))]
    assert alone.sentence.startswith(f"Keep {AGAINST}: with {GAMMA}, ")
    assert "is equal within 0.01 (-0.004 to +0.002)" in alone.sentence


def test_what_is_undecided_says_what_would_settle_it():
    """An undecided verdict says what would decide it."""
    far = outcome(BRIER, "worse", "undecided")
    given_ = result(far, outcome(GAMMA, "undecided", "equal"))
    said = judge(given_)
    assert (said.call, said.winner) == ("undecided", given_.baseline)
    assert said.sentence == (
        f"Undecided, so keep {AGAINST}: none of 2 candidates is shown to be better. Nearest is {GAMMA}: "
        "calibrated NLL of the observed labels is equal within 0.01 (-0.004 to +0.002) and accuracy is "
        f"undecided (-0.4 to +2.0 points){SURE.format(4)} For accuracy, about 4 repeats of 10 folds would "
        "settle it if the difference stays as it is." + DATA
    )


def test_the_headline_is_whole_whatever_candidates_and_data_are_called():
    """A full stop in a name ends no sentence."""
    said = judge(result(outcome("Focal v1. Mine", "better", "better")))
    assert said.headline.startswith("Use Focal v1. Mine: against plain cross entropy, ")
    assert said.sentence == said.headline + DATA
    said = judge(result(outcome("v. B", "undecided", "equal"), outcome(GAMMA, "worse", "equal")))
    assert said.headline.endswith("calibrated: none of 2 candidates is shown to be better.")
    assert said.sentence.startswith(f"{said.headline} Nearest is v. B: ")


def test_without_an_interval_the_reason_is_given():
    """Without an interval, the sentence gives the reason."""
    unknown = Difference(0.1, np.nan, np.nan, "undecided", "2 paired splits, and fewer than 3 show nothing")
    few = Stub(SimpleNamespace(name=GAMMA), outcome(GAMMA).means, dict.fromkeys(DECIDING, unknown))
    said = judge(result(few))
    assert said.sentence.startswith(
        f"Undecided, so keep {AGAINST}: 2 paired splits, and fewer than 3 show nothing; use folds=10. Data:"
    )


def test_noise_that_the_command_put_there_and_one_test_part_are_said():
    """The sentence mentions flipped labels and a single test part."""
    said = judge(result(outcome(GAMMA, "better", "better"), noisy=True, one_test=True))
    assert "calibrated NLL of the clean labels" in said.sentence
    assert said.sentence.endswith(
        "wrong labels found: 25.5 % (95 % interval 20.1 to 31.0 %), including flipped ones; 40 % of the "
        "training labels flipped (noise=0.4), validation labels in the same way, no test labels; one test "
        "part: this is valid for these 360 test rows only."
    )
    assert "cross-validation, 5 times." in judge(result(outcome(GAMMA, "equal", "equal"), repeats=5)).sentence


def test_what_is_tuned_is_said_and_the_code_is_that_of_the_setting_most_splits_chose():
    """The sentence mentions tuning, and the code has the setting that most splits chose."""
    settings = {gamma: Setting(f"GammaCrossEntropy(gamma={gamma})", 0.01, 0.0, 64) for gamma in (0.2, 0.3)}
    records = tuple(SimpleNamespace(setting=settings[gamma]) for gamma in (0.2, 0.3, 0.3))
    units = [
        SimpleNamespace(of=of, setting=setting, candidate=candidate(f"{setting.objective} of {of}"))
        for setting in settings.values()
        for of in (0, 1)
    ]
    best = outcome(GAMMA, "better", "better", records=records)
    said = judge(result(best, tune=8, units=units))
    assert said.against == f"{AGAINST}, tuned alike"
    assert said.against in said.sentence
    assert "; 8 settings of each objective tried on validation rows; 10-fold" in said.sentence
    assert said.code == (
        "# chosen by 2 of 3 splits, with lr 0.01, weight decay 0, width 64\n"
        "loss = GammaCrossEntropy(gamma=0.3) of 1  # {}"
    )


def test_the_code_loads_the_matrices_of_the_folder_or_says_to_save_them():
    """The code loads stored matrices, or says that they must be saved."""
    best = outcome(GAMMA, "better", "better")
    kept = judge(result(best, matrices={"costs": np.eye(3)}, out=Path("out"))).code
    assert kept == f"loss = {GAMMA}  # {{'costs': '{Path('out/trials/costs.npy')}'}}"
    none = judge(result(best, matrices={"costs": np.eye(3)})).code
    assert none.startswith("# save the matrix costs as costs.npy: numpy.save\n")
    assert none.endswith(f"loss = {GAMMA}  # {{'costs': 'costs.npy'}}")


def test_without_early_stopping_the_baseline_is_not_called_its_best_epoch():
    """Without early stopping, the baseline is called its last epoch."""
    said = judge(result(outcome(GAMMA, "better", "better"), stop="none"))
    assert said.against == "plain cross entropy, last epoch, calibrated"
    assert said.against in said.sentence


def test_costs_decide_along_with_the_others():
    """With costs, the cost of decisions is a deciding measure."""
    deciding = (*DECIDING, "decided_cost")
    cheap = outcome(GAMMA, "undecided", "equal", "better", deciding=deciding)
    said = judge(result(cheap, deciding=deciding))
    assert said.winner is cheap
    assert "the mean cost of decisions is 0.046 lower (-0.071 to -0.021)" in said.sentence
    keep = judge(result(outcome(GAMMA, "equal", "equal", "equal", deciding=deciding), deciding=deciding))
    assert "the mean cost of decisions is equal within 0.02" in keep.sentence  # 2 % of the baseline's 1.0


def test_a_candidate_that_does_only_what_a_temperature_does_is_said_to():
    """A candidate that gains only what a temperature gains is named."""
    low, wide = (-0.1, -0.15, -0.05), (-0.1, -0.25, 0.05)
    scaled = outcome(FOCAL, "worse", "equal", raw=low)
    given_ = result(
        scaled,
        outcome(BRIER, "equal", "equal", raw=wide),
        outcome(GAMMA, "equal", "better", raw=low),
        outcome("Poly(epsilon=1.0)", "undecided", "equal", raw=low),
    )
    said = judge(given_).others
    assert f"{FOCAL} does only what a temperature does: its raw NLL differs by -0.100" in said
    assert said.count("what a temperature does") == 1


def test_divergence_is_said():
    """The verdict says on how many splits a candidate diverged."""
    said = judge(result(outcome(GAMMA, "undecided", "undecided", diverged=3)))
    assert f"{GAMMA} diverged on 3 of 10 splits" in said.others
    assert "it is not called better or equal [EQ014]." in said.others


def beside(name, accuracy, nll=0.9, spread=0.012):
    made = Stub(SimpleNamespace(name=name), {"accuracy": accuracy, "calibrated_nll": nll}, spread=spread)
    return SimpleNamespace(name=name, values=made.values)


def test_a_winner_that_is_no_better_than_the_commonest_class_is_warned_of():
    """A winner no better than the commonest class causes a warning."""
    best = outcome(GAMMA, "better", "better")
    near, far = (
        result(best, context=(beside("commonest class", 0.8499),)),
        result(best, context=(beside("commonest class", 0.4),)),
    )
    assert judge(far).others == judge(result(best)).others == ""
    assert judge(near).others == (
        f"Warning: {GAMMA} is not shown to be more accurate than always naming the commonest class "
        "(85.0 % against 85.0 %) [EQ013]."
    )


def test_trees_that_beat_the_network_are_mentioned_and_never_chosen():
    """Trees that are better than the network are mentioned and never win."""
    best = outcome(GAMMA, "better", "better")
    trees = "HistGradientBoostingClassifier"
    ahead, behind = result(best, context=(beside(trees, 0.93),)), result(best, context=(beside(trees, 0.84),))
    assert (
        judge(ahead).others
        == f"{trees} does better than this network on these data: accuracy 93.0 % against 85.0 %."
    )
    assert judge(behind).others == ""
    assert judge(ahead).winner is judge(behind).winner is best
    # One test part has one value and no interval: the value itself is told.
    single = SimpleNamespace(name=trees, values={"accuracy": np.array([0.93])})
    said = judge(result(best, context=(single,), one_test=True, repeats=2)).others
    assert said == (
        f"{trees} does better than this network on these test rows in the first repeat: accuracy 93.0 % "
        f"against {100 * best.values['accuracy'][0]:.1f} %, which is too few splits to say how sure that is."
    )
