"""Runs made elsewhere: the numbers of scipy and of `compare_paired`, pairs by seed, and what is refused."""

import json
import math
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from equipoise.compare.runs import paired
from equipoise.compare.statistics import LEVEL, compare_paired
from support.made_runs import COLUMNS, GAINS, row, runs, values

# --- the numbers ---


def test_independent_runs_have_the_t_interval_of_scipy_for_all_comparisons_together():
    """Independent runs have the t interval of scipy, with Bonferroni over all comparisons."""
    scores = runs()
    found = paired(scores, baseline="ce")
    assert list(found.table().columns) == COLUMNS
    assert len(found.table()) == 4
    for name in ("mine", "worse"):
        for measure in ("accuracy", "nll"):
            ours = row(found, name, measure)
            test = stats.ttest_rel(values(scores, name, measure), values(scores, "ce", measure))
            right = test.confidence_interval(1 - LEVEL / 4)
            assert (ours.low, ours.high) == pytest.approx((right.low, right.high), rel=1e-12)
            assert ours.difference == pytest.approx(ours["mean"] - ours.baseline_mean)
            assert ours.runs == 10
    alone = row(paired(scores[scores["candidate"] != "worse"], baseline="ce"))
    assert alone.high - alone.low < row(found).high - row(found).low  # the control: fewer comparisons


def test_sizes_widen_the_interval_by_nadeau_and_bengio_as_compare_paired_does():
    """Sizes of test and training parts widen the interval as in `compare_paired`."""
    scores = runs()
    plain, wide = paired(scores, baseline="ce"), paired(scores, baseline="ce", test_size=40, train_size=50)
    for measure, better, least in (("accuracy", "higher", 0.005), ("nll", "lower", 0.0)):
        ours, theirs = row(wide, "mine", measure), row(plain, "mine", measure)
        assert (ours.high - ours.low) / (theirs.high - theirs.low) == pytest.approx(
            math.sqrt(1 + 10 * 40 / 50)
        )
        [expected] = compare_paired(
            [values(scores, "mine", measure)],
            values(scores, "ce", measure),
            better,
            test_ratio=0.8,
            worthwhile=least,
            comparisons=4,
        )
        assert (ours.difference, ours.low, ours.high) == pytest.approx(
            (expected.mean, expected.low, expected.high), rel=1e-12
        )
        assert ours.call == expected.call
    shares = paired(scores, baseline="ce", test_size=0.4, train_size=0.5)
    assert row(shares).low == pytest.approx(row(wide).low)


@pytest.mark.slow
def test_candidates_without_an_effect_are_rarely_called_in_any_measure():
    """Two candidates, two measures: the share of data sets with any false alarm is the level at most."""
    generator, count, wrong = np.random.default_rng(0), 200, 0
    frame = runs(8, gains={"ce": (0, 0), "a": (0, 0), "b": (0, 0)})
    for _ in range(count):
        frame[["accuracy", "nll"]] = generator.normal(size=(24, 2))
        found = paired(frame, baseline="ce", worthwhile={"accuracy": 0})
        wrong += bool({"better", "worse"} & {*found.table()["call"]})
    assert 0 < wrong / count <= LEVEL + 2 * math.sqrt(LEVEL * (1 - LEVEL) / count)


def test_the_interval_by_hand():
    """The interval has its hand-computed ends."""
    found = paired({"ce": {"f1": [0.5, 0.6, 0.7]}, "mine": {"f1": [0.6, 0.8, 1.0]}}, baseline="ce")
    ours = row(
        found, measure="f1"
    )  # differences .1, .2, .3: mean .2, deviation .1, and t of 2 degrees 4.302653
    assert ours.difference == pytest.approx(0.2)
    assert ours.low == pytest.approx(0.2 - 4.302653 * 0.1 / math.sqrt(3), abs=1e-7)


def test_order_of_rows_and_kind_of_seed_do_not_matter():
    """The result does not depend on the order of rows or the type of the seeds."""
    scores = runs()
    first = paired(scores, baseline="ce")
    mixed = scores.sample(frac=1, random_state=0).rename(index=lambda place: f"row {place}")
    names = {
        "text": lambda each: f"seed {each}",
        "float": float,
        "tuple": lambda each: (each, "a"),
        "date": lambda each: pd.Timestamp(2026, 1, 1 + each),
    }
    for kind, name in names.items():
        again = paired(mixed.assign(seed=mixed["seed"].map(name)), baseline="ce")
        for candidate in ("mine", "worse"):
            ours, theirs = row(again, candidate, "nll"), row(first, candidate, "nll")
            assert (ours.low, ours.call) == (pytest.approx(theirs.low), theirs.call), kind
    # The control: seeds that do not belong together hide what pairing shows.
    turned = scores.assign(
        seed=np.where(scores["candidate"] == "ce", (scores["seed"] + 3) % 10, scores["seed"])
    )
    assert row(paired(turned, baseline="ce")).call == "undecided"
    assert row(first).call == "better"


# --- the answer ---


def test_a_winner_is_named_with_its_interval_and_runs_count_as_independent_unless_sizes_are_given():
    """The verdict names the winner and its interval; without sizes, runs count as independent."""
    scores = runs()
    found = paired(scores, baseline="ce")
    assert (found.call, found.winner, found.baseline, found.test_ratio) == ("better", "mine", "ce", None)
    low, high = (f"{row(found)[end]:+.3g}" for end in ("low", "high"))
    assert found.verdict.startswith(f"Use mine: against ce, accuracy is {row(found).difference:.3g} higher")
    for words in (f"({low} to {high})", "all 4 comparisons together", "taken as independent", "test_size"):
        assert words in found.verdict
    shared = paired(scores, baseline="ce", test_size=5, train_size=50)
    assert "split the same rows, 5 to test for 50 to train on" in shared.verdict
    assert "independent" not in shared.verdict
    assert shared.test_ratio == 0.1
    assert "Use 'mi\\nne'" in paired(scores.replace("mine", "mi\nne"), baseline="ce").verdict


def test_equal_undecided_and_mixed_candidates_leave_the_baseline():
    """If no candidate wins, the baseline is kept, with the reason."""
    same = paired(
        runs(gains={"ce": (0, 0), "twin": (0, 0)}), baseline="ce", worthwhile={"accuracy": 1, "nll": 1}
    )
    assert (same.call, same.winner) == ("equal", "ce")
    assert same.verdict.startswith("Keep ce: with twin, accuracy is equal within 1 (")
    worse = paired(runs(gains={"ce": (0, 0), "a": (-0.1, 0.1), "b": (-0.2, 0.1)}), baseline="ce")
    assert (worse.call, worse.winner) == ("equal", "ce")
    assert worse.verdict.startswith("Keep ce: none of 2 candidates is better, each is equal or worse (")
    assert "(equal: within accuracy 0.005, nll 0); 95 % intervals" in worse.verdict
    doubt = paired(runs(gains={"ce": (0, 0), "twin": (0, 0), "far": (-0.1, 0.1)}), baseline="ce")
    assert (doubt.call, doubt.winner) == ("undecided", "ce")
    assert doubt.verdict.startswith("Undecided, so keep ce: none of 2 candidates is shown to be better.")
    assert "Nearest is twin: accuracy is " in doubt.verdict
    assert "For nll, " in doubt.verdict
    assert "runs would settle it" in doubt.verdict
    mixed = paired(runs(gains={"ce": (0, 0), "bold": (0.1, 0.1)}), baseline="ce")
    assert (mixed.call, mixed.winner) == ("undecided", "ce")
    assert mixed.verdict.startswith(
        "Undecided, the choice between ce and bold is yours: with bold, against ce, accuracy is "
    )
    assert " but nll is " in mixed.verdict


def test_of_several_winners_the_first_measure_decides():
    """Of several winners, the best in the first measure is chosen."""
    scores = runs(gains={"ce": (0, 0), "good": (0.1, -0.2), "best": (0.2, -0.1), "odd": (0.3, 0.1)})
    found = paired(scores, baseline="ce")
    assert (found.call, found.winner) == ("better", "best")
    assert "Also better: good. With odd, accuracy is 0.3" in found.verdict
    assert " but nll is 0.1" in found.verdict
    assert paired(scores[["candidate", "seed", "nll", "accuracy"]], baseline="ce").winner == "good"


def test_an_undecided_run_with_sizes_asks_for_runs_and_not_for_folds():
    """An undecided result with sizes recommends more runs."""
    scores = runs(gains={"ce": (0, 0), "mine": (0.002, 0)})
    found = paired(scores, baseline="ce", test_size=10, train_size=90)
    assert "folds" not in found.verdict
    assert "runs would settle it" in found.verdict


@pytest.mark.parametrize("count", [1, 2])
def test_few_runs_decide_nothing_and_say_so(count):
    """Fewer than three runs decide nothing."""
    found = paired(runs(count), baseline="ce")
    assert (found.call, found.winner) == ("undecided", "ce")
    assert found.verdict.startswith(
        f"Undecided, so keep ce: {count} paired runs, and fewer than 3 show nothing."
    )
    assert {*found.table()["call"]} == {"undecided"}
    assert np.isnan(row(found).low)


def test_a_candidate_of_few_runs_is_named_beside_others_of_many():
    """A candidate with few runs is named beside others with many."""
    scores = runs()
    few = scores[(scores["candidate"] != "mine") | (scores["seed"] < 2)]
    verdict = paired(few, baseline="ce").verdict
    assert "Nearest is mine: accuracy is undecided (2 paired runs, and fewer than 3 show nothing)" in verdict


def test_missing_and_diverged_runs_are_left_out_said_and_not_forgiven():
    """Missing and diverged runs are left out, are reported and prevent a win."""
    scores = runs()
    assert row(paired(scores, baseline="ce")).call == "better"
    absent = scores[(scores["candidate"] != "mine") | (scores["seed"] > 1)]
    for worst in (math.nan, math.inf, -math.inf, None):
        diverged = scores.astype({"accuracy": object, "nll": object})
        diverged.loc[(diverged["candidate"] == "mine") & (diverged["seed"] < 2), ["accuracy", "nll"]] = worst
        for given_ in (diverged, absent):
            found = paired(given_, baseline="ce")
            ours = row(found)
            assert (ours.call, ours.runs) == ("undecided", 8)
            assert ours.reason == "2 of 10 runs have no value to pair"
            kept = values(scores, "mine", "accuracy")[2:] - values(scores, "ce", "accuracy")[2:]
            assert ours.difference == pytest.approx(kept.mean())
            assert ours["mean"] == pytest.approx(values(scores, "mine", "accuracy")[2:].mean())
            assert row(found, "worse").call == "worse"
            assert row(found, "worse").reason == ""  # its own runs are all there
            assert found.call == "undecided"
    lost = scores[(scores["candidate"] != "worse") | (scores["seed"] < 5)]
    assert row(paired(lost, baseline="ce"), "worse").call == "worse"  # what is worse stays so


def test_seeds_that_only_others_have_are_no_loss():
    """Seeds that only other candidates have do not matter."""
    scores = runs()
    more = scores[scores["candidate"] == "worse"].assign(seed=lambda frame: frame["seed"] + 100)
    found = paired(pd.concat([scores, more]), baseline="ce")
    assert row(found).reason == ""
    assert row(found, "worse").reason == "10 of 20 runs have no value to pair"
    apart = scores.assign(seed=scores["candidate"] + scores["seed"].astype(str))
    found = paired(apart, baseline="ce")
    assert (found.call, row(found).runs) == ("undecided", 0)
    assert "0 paired runs" in found.verdict


# --- measures ---


@pytest.mark.parametrize(
    ("names", "way"),
    [
        (
            "accuracy Accuracy acc test_accuracy eval/acc f1 macro-f1 ROC_AUC neg_log_loss balanced_accuracy",
            1,
        ),
        ("nll NLL log_loss val_loss Brier test_brier_score ece neg_accuracy error calibrated_nll", -1),
    ],
)
def test_measures_known_by_name(names, way):
    """Measures with known names have their direction by default."""
    for name in names.split():
        scores = runs(gains={"ce": (0, 0), "mine": (0.1 * way, 0)})
        found = paired(scores.drop(columns="nll").rename(columns={"accuracy": name}), baseline="ce")
        assert found.call == "better", name


def test_which_way_is_better_is_told_for_other_measures_alone_or_by_name():
    """The direction of other measures is given for all or by name."""
    scores = runs(gains={"ce": (0, 0), "mine": (-0.1, -0.1)}).rename(columns={"accuracy": "wer"})
    assert paired(scores, baseline="ce", higher_is_better=False).call == "better"
    assert paired(scores, baseline="ce", higher_is_better=True).call == "undecided"  # nll stays known
    assert paired(scores, baseline="ce", higher_is_better={"wer": np.False_}).call == "better"
    turned = paired(scores, baseline="ce", higher_is_better={"wer": False, "nll": True})
    assert [*turned.table()["call"]] == ["better", "worse"]


def test_smallest_differences_worth_having():
    """The default smallest difference that matters is 0.005 in accuracy, and `worthwhile` changes it."""
    gains = {"ce": (0, 0), "mine": (0.004, -0.004)}
    scores = runs(gains=gains, own=1e-4)
    found = paired(scores, baseline="ce")
    assert found.worthwhile == {"accuracy": 0.005, "nll": 0}
    assert [*found.table()["call"]] == ["equal", "better"]
    told = paired(scores, baseline="ce", worthwhile={"nll": 0.01, "accuracy": 0.001})
    assert [*told.table()["call"]] == ["better", "equal"]
    percent = paired(scores.assign(accuracy=100 * scores["accuracy"]), baseline="ce")
    assert percent.worthwhile["accuracy"] == 0.5
    assert row(percent).call == "equal"
    costs = scores.rename(columns={"accuracy": "decided_cost", "nll": "calibrated_nll"})
    own = values(costs, "ce", "decided_cost").mean()
    assert paired(costs, baseline="ce").worthwhile == {
        "decided_cost": pytest.approx(0.02 * own),
        "calibrated_nll": 0.01,
    }


def test_it_goes_into_json_without_nan():
    """`to_dict` is valid JSON without nan."""
    found = paired(runs(2), baseline="ce", test_size=1, train_size=2)
    read = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert {"call", "winner", "verdict", "baseline", "test_ratio", "comparisons"} <= {*read}
    assert (read["independent"], read["test_ratio"], read["comparisons"]) == (False, 0.5, 4)
    assert [*read["differences"][0]] == COLUMNS
    assert read["differences"][0]["low"] is None
    assert read["differences"][0]["runs"] == 2


# --- what may be given ---


def test_a_mapping_of_lists_is_paired_by_place():
    """A mapping of lists is paired by position."""
    scores = runs()
    lists = {
        name: {measure: values(scores, name, measure).tolist() for measure in ("accuracy", "nll")}
        for name in GAINS
    }
    indexed = scores.set_index(["seed", "candidate"])
    for given in (lists, {name: pd.DataFrame(each) for name, each in lists.items()}, indexed):
        found, expected = paired(given, baseline="ce"), paired(scores, baseline="ce")
        pd.testing.assert_frame_equal(found.table(), expected.table())
        assert found.verdict == expected.verdict


def test_tables_of_a_mapping_are_paired_by_seeds_that_they_have():
    """A mapping of data frames is paired by their seeds."""
    scores = runs()
    parts = {str(name): part for name, part in scores.drop(columns="candidate").groupby(scores["candidate"])}
    parts["mine"] = parts["mine"][::-1]
    expected = paired(scores, baseline="ce").table().set_index(["candidate", "measure"]).sort_index()
    for given in (parts, {name: part.set_index("seed") for name, part in parts.items()}):
        found = paired(given, baseline="ce").table().set_index(["candidate", "measure"]).sort_index()
        pd.testing.assert_frame_equal(found, expected)
    placed = {name: part.to_dict("list") for name, part in parts.items()}
    assert row(paired(placed, baseline="ce")).call == "better"  # by the lists of seeds
    for part in placed.values():
        del part["seed"]
    assert row(paired(placed, baseline="ce")).call == "undecided"  # the control: by place


def test_an_index_may_repeat_a_column():
    """A data frame may have a column as its index too."""
    scores = runs()
    for given in (scores.set_index("candidate", drop=False), scores.set_index(["seed", "nll"], drop=False)):
        assert paired(given, baseline="ce").verdict == paired(scores, baseline="ce").verdict


def test_numbers_may_be_of_any_type():
    """Numbers may be of any dtype, and texts of numbers."""
    scores = runs()
    first = paired(scores, baseline="ce")
    for kind in ("float32", "Float64", object, str):
        again = paired(scores.astype({"accuracy": kind}), baseline="ce")
        assert row(again).low == pytest.approx(row(first).low, abs=1e-6)
    numbered = scores.assign(candidate=scores["candidate"].map({"ce": 0, "mine": 1, "worse": 2}))
    assert paired(numbered, baseline=0).winner == "1"  # pyright: ignore[reportArgumentType]
    right = paired(scores.assign(accuracy=scores["accuracy"] > 0.8), baseline="ce")
    assert row(right)["mean"] == (values(scores, "mine", "accuracy") > 0.8).mean()


def test_large_and_small_numbers_stay_finite():
    """Very large and very small numbers give finite results without warnings."""
    scores = runs()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for size in (1e149, 1e-9, 1e-200):
            found = paired(scores.assign(accuracy=size * scores["accuracy"]), baseline="ce")
            assert np.isfinite(found.table()[["difference", "low", "high"]].to_numpy()).all()
            low = size * row(paired(scores, baseline="ce")).low
            assert row(found).low == pytest.approx(low, rel=1e-9, abs=0)
            assert "nan" not in found.verdict


def test_measures_may_be_numbered():
    """Columns of measures may have integer names."""
    scores = runs(gains={"ce": (0, 0), "mine": (-0.1, -0.1)}).rename(columns={"accuracy": 7})
    found = paired(scores, baseline="ce", higher_is_better={7: False}, worthwhile={7: 0.01})  # pyright: ignore
    assert found.call == "better"
    assert found.worthwhile == {"7": 0.01, "nll": 0.0}
