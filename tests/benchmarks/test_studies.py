"""Studies of a fair trial: wrong labels as stated, rules for the epoch, tables that say what was found."""

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
RATES = (0.2, 0.3, 0.6)


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


def _module(name: str) -> ModuleType:
    return import_module(f"benchmarks.{name}")


@pytest.fixture
def wine(_importable: None) -> Any:
    return _module("datasets").named("wine").dataset()


def test_each_data_set_is_there_and_as_stated() -> None:
    """Each data set has the rows, columns and classes that its entry states."""
    from equipoise.compare.encode import Encoder

    sources = _module("datasets").SOURCES
    assert len({source.name for source in sources}) == len(sources)
    for source in sources:
        dataset = source.dataset()
        assert (len(dataset.labels), len(dataset.classes)) == (source.rows, source.classes), source.name
        assert set(dataset.labels) == set(range(source.classes))
        numbers = Encoder(dataset, np.arange(0, source.rows, 2)).transform(dataset.features)
        assert np.isfinite(numbers).all()
        constant = (np.ptp(numbers, axis=0) == 0).sum()
        assert constant == (3 if source.name == "digits" else 0), source.name  # corners of the images


def test_an_unknown_data_set_is_named() -> None:
    """An unknown name of a data set is refused with the known names."""
    with pytest.raises(ValueError, match=r"data set must be one of iris.*got 'irises'"):
        _module("datasets").named("irises")


def test_a_data_set_whose_package_is_missing_says_so() -> None:
    """A data set of a package that is not installed names the package."""
    with pytest.raises(ImportError, match="needs no_such_package; pip install"):
        _module("datasets")._file("no_such_package", "rows.csv")


@pytest.mark.parametrize("kind", ["symmetric", "class-dependent", "instance-dependent"])
@pytest.mark.parametrize("rate", RATES)
def test_the_rate_of_wrong_labels_is_exact_and_the_seed_decides(kind: str, rate: float, wine: Any) -> None:
    """The rate of wrong labels is exact, and the seed alone decides which labels are wrong."""
    make = _module("label_noise").NOISES[kind]
    first, again, other = (make(wine.features, wine.labels, rate, seed) for seed in (0, 0, 1))
    for observed in (first, other):
        assert (observed != wine.labels).sum() == round(rate * len(wine.labels))
        assert observed.min() >= 0
        assert observed.max() < 3
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_a_rate_outside_its_range_is_refused(rate: float, wine: Any) -> None:
    """A rate outside [0, 1) is refused."""
    for make in _module("label_noise").NOISES.values():
        with pytest.raises(ValueError, match=rf"rate must be a share in \[0, 1\), got {rate}"):
            make(wine.features, wine.labels, rate, 0)


def test_wrong_labels_by_class_go_to_the_next_one(wine: Any) -> None:
    """Paired noise moves a label to the next class; symmetric noise does not."""
    noise = _module("label_noise")
    for make, fixed in ((noise.pairs, True), (noise.symmetric, False)):
        observed = make(wine.features, wine.labels, 0.4, 0)
        wrong = observed != wine.labels
        assert np.array_equal(observed[wrong], (wine.labels[wrong] + 1) % 3) == fixed


def _middle_rank(observed: NDArray[np.int64], clean: NDArray[np.int64], margin: NDArray[np.float64]) -> float:
    """Where among all margins, from 0 to 1, those of wrong labels lie on average."""
    ranks = margin.argsort().argsort() / (len(margin) - 1)
    return float(ranks[observed != clean].mean())


def test_instance_dependent_noise_follows_the_weak_model_and_the_others_do_not() -> None:
    """Instance-dependent noise hits rows of small margin; the other kinds do not depend on the margin."""
    noise = _module("label_noise")
    digits = _module("datasets").named("digits").dataset()
    margin, runner_up = noise.margins(digits.features, digits.labels, 0)
    observed = noise.instance_dependent(digits.features, digits.labels, 0.3, 0)
    wrong = observed != digits.labels
    assert np.array_equal(observed[wrong], runner_up[wrong])
    assert (runner_up != digits.labels).all()
    # Chances 2 rate (1 - u) put the mean rank of a wrong label at 1/3; where it is drawn blindly it is 1/2.
    assert abs(_middle_rank(observed, digits.labels, margin) - 1 / 3) < 0.03
    for control in (noise.symmetric, noise.pairs):
        blind = control(digits.features, digits.labels, 0.3, 0)
        assert abs(_middle_rank(blind, digits.labels, margin) - 1 / 2) < 0.05


def test_systematic_draws_are_distinct_and_as_likely_as_asked() -> None:
    """Systematic sampling draws distinct rows, each with its given probability."""
    draw = _module("label_noise")._systematic
    share, counts = np.linspace(0.1, 0.9, 40), np.zeros(40)
    for seed in range(2000):
        places = draw(share, 20, np.random.default_rng(seed))
        assert len(np.unique(places)) == 20
        counts[places] += 1
    assert np.abs(counts / 2000 - share).max() < 0.05


def test_label_wave_stops_before_predictions_move_again() -> None:
    """Label Wave chooses the last epoch before predictions change more again."""
    stopping = _module("stopping")
    falling = np.array([90.0, 60.0, 40.0, 20.0, 10.0])
    rising = np.array([30.0, 50.0, 60.0])
    changes = np.concatenate([falling, rising])
    assert stopping.label_wave(changes, window=1) == 5  # the epoch, from 0, after the smallest change
    assert stopping.label_wave(falling, window=1) == 5  # it never rises: the last epoch
    assert stopping.label_wave(rising, window=1) == 1
    single = np.array([90.0, 60.0, 61.0, 30.0, 10.0, 10.0, 40.0, 90.0])
    assert stopping.label_wave(single, window=1) == 2
    assert stopping.label_wave(single, window=3) == 6  # a mean of three does not see the single rise
    assert stopping.label_wave(rising, window=10) == 3


def test_prediction_changes_are_counted_between_epochs() -> None:
    """Changed predictions are counted between consecutive epochs."""
    predictions = torch.tensor([[0, 1, 2], [0, 1, 1], [1, 0, 1]])
    assert _module("stopping").prediction_changes(predictions).tolist() == [1.0, 2.0]


def test_the_first_best_epoch_is_kept_within_the_patience() -> None:
    """The first best epoch is the minimum before `patience` epochs without a smaller value; nan never is."""
    first_best = _module("stopping").first_best
    values = np.array([3.0, 2.0, np.nan, 2.0, 2.5, 1.0])
    assert first_best(values, patience=20) == 5
    assert first_best(values, patience=3) == 1
    assert first_best(np.full(4, np.nan), patience=2) == 0


def _recording(rule_values: dict[str, list[float]], test: torch.Tensor, validation: torch.Tensor) -> Any:
    from equipoise.training import Trained

    epochs = len(test)
    curve: list[Any] = [{"epoch": 0} | dict.fromkeys(rule_values, 0.0)]
    curve += [
        {"epoch": epoch + 1} | {name: values[epoch] for name, values in rule_values.items()}
        for epoch in range(epochs)
    ]
    predictions = torch.zeros(epochs, 1, 5, dtype=torch.int64)
    return _module("copies").Recording([Trained(curve=curve)], validation, test, predictions)


def test_each_rule_reads_its_own_curve_and_calibration_what_it_may() -> None:
    """Each rule uses its own curve, and each calibration only the labels it is allowed to use."""
    stopping = _module("stopping")
    torch.manual_seed(0)
    clean = torch.randint(0, 3, (60,))
    right = 4 * torch.nn.functional.one_hot(clean, 3).float() + torch.randn(60, 3)
    test = torch.stack([torch.randn(60, 3), right, 8 * right, torch.randn(60, 3)])[:, None]
    curves = {
        "calibrated": [3.0, 1.0, 2.0, 4.0],
        "own": [1.0, 2.0, 3.0, 4.0],
        "accuracy": [0.1, 0.2, 0.9, 0.3],
        "nll": [4.0, 3.0, 2.0, 1.0],
    }
    recording = _recording(curves, test, test.clone())
    chosen = {rule: epochs[0] for rule, epochs in stopping.choices(recording, [clean]).items()}
    assert chosen["calibrated"] == 1
    assert (chosen["own"], chosen["accuracy"], chosen["nll"], chosen["last"]) == (0, 2, 3, 3)
    assert chosen["best"] == 1
    found = stopping.measure(recording, [clean], [clean], 0.0)
    assert set(found) == set(stopping.RULES)
    sharp = {name: found["accuracy"][name][0] for name in stopping.CALIBRATIONS}
    assert sharp["best T"] == min(sharp.values())
    assert sharp["T alone"] == pytest.approx(sharp["best T"], rel=1e-9)  # here both see the same rows
    assert sharp["raw"] > 1.05 * sharp["best T"]
    result = {"data": "made", "noise": "none", "rate": 0.0, "loss": "CrossEntropy()", "rules": found}
    text = stopping.tables([result])
    for rule in stopping.RULES:
        assert f"| {rule} |" in text


def test_the_paired_interval_is_students() -> None:
    """The paired interval is that of Student's t in scipy."""
    from scipy import stats

    paired, random = _module("stopping").paired, np.random.default_rng(0)
    values, reference = random.normal(size=8), random.normal(size=8)
    mean, half = paired(values, reference)
    outside = stats.ttest_rel(values, reference).confidence_interval(0.95)
    assert (mean - half, mean + half) == pytest.approx((outside.low, outside.high))


def _line(difference: float, spread: float, seed: int, pool: str = "made") -> dict[str, Any]:
    random = np.random.default_rng(seed)

    def pair(splits: int) -> list[dict[str, list[float]]]:
        base = random.normal(0.8, 0.01, splits)
        step = random.normal(difference, spread, splits)
        names = ("accuracy", "last_accuracy")
        plain = {name: base.tolist() for name in names} | {
            n: base.tolist() for n in ("calibrated_nll", "last_nll")
        }
        other = {name: (base + step).tolist() for name in names}
        return [plain, other | {name: (base - step).tolist() for name in ("calibrated_nll", "last_nll")}]

    return {"pool": pool, "seed": seed, "designs": {"10x1": pair(10), "old": pair(8)}}


def test_false_calls_are_counted_and_none_are_where_there_are_none() -> None:
    """The share of false calls is 0 without differences and 1 with planted ones."""
    tables = _module("alarm_tables")
    none = tables.null_table([_line(0.0, 0.005, seed) for seed in range(20)])
    planted = tables.null_table([_line(0.05, 0.005, seed) for seed in range(20)])
    assert "| all | 0.000 ± 0.000 (0 of 20) | 0.147 | yes |" in none
    assert "| all | 1.000 ± 0.000 (20 of 20) | 0.147 | **no** |" in planted


def test_contradictions_are_told_apart() -> None:
    """A call that contradicts the true difference is told from one that does not."""
    tables = _module("alarm_tables")

    def said(call: str, true: float) -> str | None:
        return tables.contradiction(tables.Difference(0, 0, 0, call), true, "lower", 0.01)

    assert said("better", -0.02) is None
    assert said("better", -0.005) == "size"
    assert said("better", 0.005) == "sign"
    assert said("worse", 0.02) is None
    assert said("worse", -0.02) == "sign"
    assert said("equal", 0.005) is None
    assert said("equal", -0.02) == "equal"
    assert said("undecided", 0.5) is None


def test_close_losses_are_held_against_the_known_truth() -> None:
    """Calls between close losses are compared with their true differences."""
    tables = _module("alarm_tables")
    lines = [_line(0.05, 0.005, seed) for seed in range(10)]
    zeros = [0.0] * 4
    plain = {"accuracy": zeros, "calibrated_nll": zeros}

    def text(step: float) -> str:
        true = [plain, {"accuracy": [step, step, step, step], "calibrated_nll": [-step] * 4}]
        return tables.close_table(lines, true)

    assert "| 0.000 ± 0.000 (0 of 10) | 0.188 | yes |" in text(0.05)
    assert "| 1.000 ± 0.000 (10 of 10) | 0.188 | **no** |" in text(-0.05)
    assert "run `python -m benchmarks.alarms truth` first" in tables.close_table(lines, [])


def test_draws_that_share_test_rows_count_as_one() -> None:
    """Draws that share test rows count as one in the interval of the truth."""
    tables = _module("alarm_tables")
    block = tables.TRUTH_BLOCK
    plain = dict.fromkeys(tables.DECIDING, [0.0] * (2 * block))
    other = dict.fromkeys(tables.DECIDING, [0.0] * block + [1.0] * block)
    assert tables.differences([plain, other], 1)["accuracy"] == pytest.approx((0.5, 0.5))


def test_power_is_counted_by_splits() -> None:
    """The table of power has a line for each number of splits."""
    tables = _module("alarm_tables")
    text = tables.power_table([_line(0.05, 0.005, seed) for seed in range(5)])
    assert "| made | 8 old splits, new rule | 1.000 ± 0.000 (5 of 5) |" in text
    assert "| made | 10 folds, 1x | 1.000 ± 0.000 (5 of 5) |" in text
    assert "| made | 8 old splits, old rule | 1.000 ± 0.000 (5 of 5) |" in text


def test_the_old_rule_is_the_old_rule() -> None:
    """The former rule gives its known calls on fixed numbers."""
    old_rule = _module("old_rule").old_rule
    baseline = [0.81, 0.85, 0.82, 0.80]
    same = [0.92, 0.95, 0.91, 0.93]
    assert old_rule([same, baseline], baseline, "higher") == ["better", "undecided"]
    assert old_rule([same], baseline, "lower") == ["worse"]
    # Corrected over ten candidates the same values decide nothing.
    noisy = [0.83, 0.86, 0.835, 0.82]
    assert old_rule([noisy], baseline, "higher") == ["better"]
    others = [np.add(baseline, [0.01, -0.01, 0.01, -0.01]).tolist()] * 40
    assert old_rule([noisy, *others], baseline, "higher")[0] == "undecided"


def test_alarms_train_really_and_pairs_differ_only_in_what_they_should() -> None:
    """Studies of alarms train networks, and paired trainings differ only in what the study varies."""
    alarms = _module("alarms")
    pool = alarms.Pool("wine", 60, 0.2)
    null = alarms.Study("null", (pool,), alarms.PLAIN, (alarms.PLAIN,), ((3, 1),), 1, same_seeds=False)
    same = alarms.Study("same", (pool,), alarms.PLAIN, (alarms.PLAIN,), ((3, 1),), 1, same_seeds=True)
    (other,), (equal,) = (alarms.compare_block(study, pool, [7]) for study in (null, same))
    for name, splits in (("3x1", 3), ("old", 8)):
        plain, again = equal["designs"][name]
        assert len(plain["accuracy"]) == splits
        assert np.allclose(plain["calibrated_nll"], again["calibrated_nll"], rtol=0, atol=0)
        plain, again = other["designs"][name]
        assert not np.allclose(plain["calibrated_nll"], again["calibrated_nll"])


def test_the_population_is_the_same_in_all_draws() -> None:
    """The class means of the simulated population are the same for every seed."""
    alarms = _module("alarms")
    means = []
    for seed in (0, 1):
        drawn = alarms.population(20_000, seed)
        means.append(np.stack([drawn.features[drawn.labels == k].mean(axis=0) for k in range(5)]))
    assert np.abs(means[0] - means[1]).max() < 0.1
    assert np.ptp(means[0], axis=0).min() > 0.2


def test_the_second_look_uses_clean_labels_and_the_temperature_of_each_split() -> None:
    """The second measurement uses clean labels and the temperature of each split."""
    second_look = _module("fair").second_look
    logits = np.array([[2.0, 0.0], [0.0, 2.0], [4.0, 0.0], [4.0, 0.0]])
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    clean, split = np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1])
    found = second_look(probs, clean, split, np.array([1.0, 2.0]))
    assert found["clean_accuracy"] == [1.0, 0.5]
    near, far = np.log1p(np.exp(-2.0)), np.log1p(np.exp(2.0))
    assert found["clean_nll"] == pytest.approx([near, (near + far) / 2])


def _comparison(data: str, follow: float | None) -> dict[str, Any]:
    base = np.array([0.80, 0.81, 0.79, 0.80, 0.82])

    def one(step: float) -> dict[str, Any]:
        accuracy, nll = base + step * (1 + 0.01 * np.arange(5)), 0.5 - base * 0.1 - step
        values = {"accuracy": accuracy.tolist(), "calibrated_nll": nll.tolist()}
        return {"values": values, "clean_accuracy": accuracy.tolist(), "clean_nll": nll.tolist()}

    followed = {} if follow is None else {"GammaCrossEntropy(gamma=FollowConfidence(0, 0.5))": one(follow)}
    return {
        "data": data,
        "kind": "symmetric",
        "wrong": 0.3,
        "test_ratio": 0.25,
        "noise": {"rate": 0.29, "low": 0.2, "high": 0.4},
        "objectives": {
            "CrossEntropy()": one(0.0),
            "GammaCrossEntropy(gamma=Linear(0, 0.5))": one(-0.03),
        }
        | followed,
    }


def test_the_page_says_who_wins_where() -> None:
    """The page names the conditions in which each candidate wins or loses."""
    tables = _module("fair_tables")
    text = tables.page([_comparison("a", 0.05), _comparison("b", 0.05)])
    assert "## 30% wrong labels, symmetric" in text
    assert "+5.1, -0.050; +5.1 **wins**" in text
    assert "-3.1, +0.030; -3.1 **loses**" in text
    assert "| a | better | GammaCrossEntropy(gamma=FollowConfidence(0, 0.5)) | +0.051 | -0.050 |" in text
    assert "Over all: 2 wins, 0 equal, 0 undecided, 0 both, 0 loses." in text
    losing = tables.page([_comparison("a", -0.03), _comparison("b", -0.03)])
    assert "**wins**" not in losing
    assert "| a | better |" not in losing
    assert "Over all: 0 wins, 2 equal, 0 undecided, 0 both, 0 loses." in losing
    without = tables.page([_comparison("a", None)])  # results made since that schedule was removed
    assert "-3.1, +0.030; -3.1 **loses**" in without
    assert "FollowConfidence" not in without
    assert "FollowConfidence" in losing


def test_outcomes_follow_the_calls() -> None:
    """The outcome of a condition follows from its calls."""
    outcome = _module("fair_tables").outcome
    assert outcome(["better", "better"]) == "wins"
    assert outcome(["better", "worse"]) == "both"
    assert outcome(["undecided", "worse"]) == "loses"
    assert outcome(["equal", "equal"]) == "equal"
    assert outcome([None, "equal"]) == "undecided"
