"""Runs made elsewhere: the numbers of scipy and of `compare_paired`, pairs by seed, and what is refused."""

import json
import math
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from equipoise.compare.paired import Paired, paired, read_scores
from equipoise.compare.statistics import LEVEL, compare_paired

COLUMNS = ["candidate", "measure", "runs", "mean", "baseline_mean"]
COLUMNS += ["difference", "low", "high", "call", "reason"]
GAINS = {"ce": (0.0, 0.0), "mine": (0.03, 0.0), "worse": (-0.05, 0.1)}


def runs(
    count: int = 10, *, seed: int = 0, gains=None, shared: float = 0.05, own: float = 0.004
) -> pd.DataFrame:
    """Accuracy and NLL of candidates over seeds, most of whose spread they share."""
    generator = np.random.default_rng(seed)
    common = shared * generator.normal(size=count)
    rows = [
        {
            "candidate": name,
            "seed": each,
            "accuracy": 0.8 + common[each] + up + own * generator.normal(),
            "nll": 0.5 - common[each] + more + own * generator.normal(),
        }
        for name, (up, more) in (gains or GAINS).items()
        for each in range(count)
    ]
    return pd.DataFrame(rows)


def values(scores: pd.DataFrame, name: str, measure: str) -> np.ndarray:
    return scores[scores["candidate"] == name].sort_values("seed")[measure].to_numpy()


def row(found: Paired, candidate: str = "mine", measure: str = "accuracy") -> pd.Series:
    table = found.table()
    [at] = np.flatnonzero((table["candidate"] == candidate) & (table["measure"] == measure))
    return table.iloc[at]


# --- the numbers ---


def test_independent_runs_have_the_t_interval_of_scipy_for_all_comparisons_together():
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
    found = paired({"ce": {"f1": [0.5, 0.6, 0.7]}, "mine": {"f1": [0.6, 0.8, 1.0]}}, baseline="ce")
    ours = row(
        found, measure="f1"
    )  # differences .1, .2, .3: mean .2, deviation .1, and t of 2 degrees 4.302653
    assert ours.difference == pytest.approx(0.2)
    assert ours.low == pytest.approx(0.2 - 4.302653 * 0.1 / math.sqrt(3), abs=1e-7)


def test_order_of_rows_and_kind_of_seed_do_not_matter():
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
    same = paired(
        runs(gains={"ce": (0, 0), "twin": (0, 0)}), baseline="ce", worthwhile={"accuracy": 1, "nll": 1}
    )
    assert (same.call, same.winner) == ("equal", "ce")
    assert same.verdict.startswith("Keep ce: with twin, accuracy is equal within 1 (")
    worse = paired(runs(gains={"ce": (0, 0), "a": (-0.1, 0.1), "b": (-0.2, 0.1)}), baseline="ce")
    assert (worse.call, worse.winner) == ("equal", "ce")
    assert worse.verdict.startswith("Keep ce: none of 2 candidates is better; with ")
    doubt = paired(runs(gains={"ce": (0, 0), "twin": (0, 0), "far": (-0.1, 0.1)}), baseline="ce")
    assert (doubt.call, doubt.winner) == ("undecided", "ce")
    assert doubt.verdict.startswith("Undecided, so keep ce: none of 2 candidates is shown to be better.")
    assert "Nearest is twin, accuracy is " in doubt.verdict
    assert "For nll, " in doubt.verdict
    assert "runs would settle it" in doubt.verdict
    mixed = paired(runs(gains={"ce": (0, 0), "bold": (0.1, 0.1)}), baseline="ce")
    assert (mixed.call, mixed.winner) == ("undecided", "ce")
    assert mixed.verdict.startswith(
        "Undecided, the choice between ce and bold is yours: with bold, accuracy is "
    )
    assert " but nll is " in mixed.verdict


def test_of_several_winners_the_first_measure_decides():
    scores = runs(gains={"ce": (0, 0), "good": (0.1, -0.2), "best": (0.2, -0.1), "odd": (0.3, 0.1)})
    found = paired(scores, baseline="ce")
    assert (found.call, found.winner) == ("better", "best")
    assert "good is better too. odd is better too, but worse in a measure." in found.verdict
    assert paired(scores[["candidate", "seed", "nll", "accuracy"]], baseline="ce").winner == "good"


def test_an_undecided_run_with_sizes_asks_for_runs_and_not_for_folds():
    scores = runs(gains={"ce": (0, 0), "mine": (0.002, 0)})
    found = paired(scores, baseline="ce", test_size=10, train_size=90)
    assert "folds" not in found.verdict
    assert "runs would settle it" in found.verdict


@pytest.mark.parametrize("count", [1, 2])
def test_few_runs_decide_nothing_and_say_so(count):
    found = paired(runs(count), baseline="ce")
    assert (found.call, found.winner) == ("undecided", "ce")
    assert found.verdict.startswith(
        f"Undecided, so keep ce: {count} paired runs, and fewer than 3 show nothing."
    )
    assert {*found.table()["call"]} == {"undecided"}
    assert np.isnan(row(found).low)


def test_missing_and_diverged_runs_are_left_out_said_and_not_forgiven():
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
    for name in names.split():
        scores = runs(gains={"ce": (0, 0), "mine": (0.1 * way, 0)})
        found = paired(scores.drop(columns="nll").rename(columns={"accuracy": name}), baseline="ce")
        assert found.call == "better", name


def test_which_way_is_better_is_told_for_other_measures_alone_or_by_name():
    scores = runs(gains={"ce": (0, 0), "mine": (-0.1, -0.1)}).rename(columns={"accuracy": "wer"})
    assert paired(scores, baseline="ce", higher_is_better=False).call == "better"
    assert paired(scores, baseline="ce", higher_is_better=True).call == "undecided"  # nll stays known
    assert paired(scores, baseline="ce", higher_is_better={"wer": np.False_}).call == "better"
    turned = paired(scores, baseline="ce", higher_is_better={"wer": False, "nll": True})
    assert [*turned.table()["call"]] == ["better", "worse"]


def test_smallest_differences_worth_having():
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
    found = paired(runs(2), baseline="ce", test_size=1, train_size=2)
    read = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert {"call", "winner", "verdict", "baseline", "test_ratio", "comparisons"} <= {*read}
    assert (read["independent"], read["test_ratio"], read["comparisons"]) == (False, 0.5, 4)
    assert [*read["differences"][0]] == COLUMNS
    assert read["differences"][0]["low"] is None
    assert read["differences"][0]["runs"] == 2


# --- what may be given ---


def test_a_mapping_of_lists_is_paired_by_place():
    scores = runs()
    lists = {
        name: {measure: values(scores, name, measure).tolist() for measure in ("accuracy", "nll")}
        for name in GAINS
    }
    pd.testing.assert_frame_equal(paired(lists, baseline="ce").table(), paired(scores, baseline="ce").table())


def test_numbers_may_be_of_any_type():
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
    scores = runs()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for size in (1e149, 1e-9):
            found = paired(scores.assign(accuracy=size * scores["accuracy"]), baseline="ce")
            assert np.isfinite(found.table()[["difference", "low", "high"]].to_numpy()).all()
            assert row(found).low == pytest.approx(size * row(paired(scores, baseline="ce")).low)
            assert "nan" not in found.verdict


def twice(scores):
    return pd.concat([scores, scores.iloc[:1]])


SCORES = runs(4)
REFUSED = [
    (lambda: paired([1, 2], baseline="ce"),  # pyright: ignore
     "scores must be a DataFrame with columns candidate, seed and one"),
    (lambda: paired(SCORES.drop(columns="seed"), baseline="ce"),
     "scores must have a column 'seed', got candid"),
    (lambda: paired(SCORES.drop(columns="candidate"), baseline="ce"), "a column 'candidate', got seed, acc"),
    (lambda: paired(SCORES[:0], baseline="ce"), "scores must have a row for each run, got none"),
    (lambda: paired(SCORES[["candidate", "seed"]], baseline="ce"),
     "a column for each measure, got candidate and"),
    (lambda: paired(SCORES.set_axis(["candidate", "seed", "nll", "nll"], axis=1), baseline="ce"),
     "'nll' twice"),
    (lambda: paired(SCORES.replace({"candidate": {"mine": None}}), baseline="ce"),
     "candidate must be given for"),
    (lambda: paired(SCORES.replace({"seed": {2: math.nan}}), baseline="ce"), "got none in row 2; fill it in"),
    (lambda: paired(twice(SCORES), baseline="ce"), "one run for each seed, got another of 'ce' with seed 0;"),
    (lambda: paired(SCORES.assign(seed=7), baseline="ce"),
     "with seed 7, the seed of all rows; number the runs"),
    (lambda: paired(SCORES.assign(seed=[[1]] * 12), baseline="ce"),
     "seed must be a number, a text or the like"),
    (lambda: paired(SCORES.assign(seed=[*range(4), *"0123", *range(4)]), baseline="ce"),
     "got 0 as a number and"),
    (lambda: paired(SCORES, baseline="mien"),
     "baseline must be a candidate of scores, got 'mien'; did you mean"),
    (lambda: paired(SCORES[:4], baseline="ce"), "must have a candidate beside the baseline, got 'ce' alone"),
    (lambda: paired(SCORES.assign(nll="good"), baseline="ce"),
     "must be numbers, got 'good' in row 0 of column"),
    (lambda: paired(SCORES.assign(on=pd.Timestamp(0)), baseline="ce"),
     "leave the column out with scores.drop("),
    (lambda: paired(SCORES.assign(nll=1j), baseline="ce"), "measures must be numbers, got 1j in row 0"),
    (lambda: paired(SCORES.assign(nll=math.nan), baseline="ce"),
     "must have values, got none in column 'nll'"),
    (lambda: paired(SCORES.assign(nll=1e200), baseline="ce"), "must be below 1e+150 in size, got 1e+200 in"),
    (lambda: paired(SCORES.assign(wer=1.0), baseline="ce"),
     "must say whether more of 'wer' is better, got nothing"),
    (lambda: paired(SCORES, baseline="ce", higher_is_better=True),
     "all measures are known by name, got True"),
    (lambda: paired(SCORES, baseline="ce", higher_is_better={"acuracy": True}),
     "got 'acuracy'; did you mean acc"),
    (lambda: paired(SCORES, baseline="ce", higher_is_better={"nll": "no"}),  # pyright: ignore
     "True or False, got 'no' for 'nll'"),
    (lambda: paired(SCORES, baseline="ce", test_size=4),
     "be given together, got 4 and None; give neither if"),
    (lambda: paired(SCORES, baseline="ce", train_size=4),
     "be given together, got None and 4; give neither if"),
    (lambda: paired(SCORES, baseline="ce", test_size=0, train_size=4),
     "test_size must be above 0, got 0; it is"),
    (lambda: paired(SCORES, baseline="ce", test_size=1, train_size=math.inf),
     "train_size must be above 0, got i"),
    (lambda: paired(SCORES, baseline="ce", test_size=True, train_size=4),
     "test_size must be above 0, got True"),
    (lambda: paired(SCORES, baseline="ce", test_size=0.2, train_size=80),
     "both be rows or both shares, got 0.2"),
    (lambda: paired(SCORES, baseline="ce", worthwhile={"nnl": 1}),
     "worthwhile must name measures, got 'nnl'; did"),
    (lambda: paired(SCORES, baseline="ce", worthwhile={"nll": -1}),
     "worthwhile must be 0 or more, got -1 for 'nl"),
    (lambda: paired({"ce": {"nll": [1, 2]}, "a": 3}, baseline="ce"),  # pyright: ignore
     "map each candidate to a mapping from meas"),
    (lambda: paired({"ce": {"nll": [1, 2], "f1": [1]}}, baseline="ce"),
     "must map each candidate to a mapping"),
    (lambda: paired({}, baseline="ce"), "must map each candidate to a mapping from measure to values, got"),
    (lambda: read_scores("runs.xlsx"),
     "must be a file ending in .csv, .tsv, .parquet, .jsonl, .ndjson, got runs"),
    (lambda: read_scores("no/runs.csv"), "that can be read, got no/runs.csv: No such file or directory"),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "words"), REFUSED)
def test_what_is_refused_names_argument_rule_value_and_the_way_out(wrong, words):
    with pytest.raises((ValueError, TypeError)) as caught:
        wrong()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value)[0].islower()


# --- files ---


def written(scores, path):
    suffix = path.suffix
    if suffix == ".parquet":
        scores.to_parquet(path)
    elif suffix in (".csv", ".tsv"):
        scores.to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ",")
    else:
        scores.to_json(path, orient="records", lines=True, double_precision=15)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".jsonl", ".ndjson", ".CSV"])
def test_files_are_read_as_they_were_written(tmp_path, suffix):
    scores = runs().replace({"candidate": {"worse": "none"}})
    path = tmp_path / f"runs{suffix}"
    read = read_scores(written(scores, path if suffix != ".CSV" else tmp_path / "a.csv").rename(path))
    pd.testing.assert_frame_equal(read, scores, check_dtype=False, rtol=1e-14)
    assert paired(read, baseline="none").winner == "mine"


def test_candidates_keep_their_names_and_gaps_are_missing_runs(tmp_path):
    path = tmp_path / "runs.csv"
    lines = [
        f"{name}, {seed}, {value}" for name in ("007", "nan") for seed, value in enumerate((0.1, 0.2, 0.4))
    ]
    path.write_text("\n".join(["candidate, seed, nll", *lines, "nan, 3,"]))
    found = paired(read_scores(path), baseline="007")
    assert [*found.table()["candidate"]] == ["nan"]
    assert row(found, "nan", "nll").reason == "1 of 4 runs have no value to pair"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.csv", b""),
        ("long.csv", b"candidate,seed,nll\na,1,2,3\n"),
        ("binary.csv", bytes(range(256))),
        ("text.parquet", b"candidate,seed"),
        ("empty.parquet", b""),
        ("broken.jsonl", b'{"candidate": "a"\n'),
        ("text.jsonl", b"candidate,seed"),
    ],
)
def test_files_that_cannot_be_read_are_one_line(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"scores must be a table that can be read, got .*: ") as caught:
        read_scores(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


odd = st.one_of(st.floats(), st.integers(-3, 3), st.text(max_size=3), st.none(), st.booleans(), st.just([1]))
names = st.one_of(st.sampled_from(["ce", "mine"]), st.sampled_from(["ce", "mine"]), odd)
seeds = st.one_of(st.integers(0, 4), st.integers(0, 4), odd)
scored = st.one_of(st.floats(), st.floats(-1, 1), st.floats(-1, 1), st.floats(-1, 1), odd)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(names, seeds, scored), max_size=8, unique_by=lambda row: (str(row[0]), str(row[1]))),
    st.sampled_from(["nll", "odd", "seed", ""]),
    st.sampled_from([{}, {"test_size": 1, "train_size": 3}, {"higher_is_better": True}]),
)
def test_any_table_is_answered_or_refused_in_one_line(rows, name, options):
    scores = pd.DataFrame(rows, columns=["candidate", "seed", name])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            found = paired(scores, baseline="ce", **options)
        except ValueError as error:
            refused = str(error)
            assert "\n" not in refused, refused
            assert " must " in refused, refused
            return
    assert found.call in ("better", "equal", "undecided")
    json.dumps(found.to_dict(), allow_nan=False)
