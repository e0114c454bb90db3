"""Settings are the same for every candidate but for its own numbers, and a split's choice is its own."""

import subprocess
import sys
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from equipoise import Objective
from equipoise.compare.objectives import Scheduled, read_objective
from equipoise.compare.tuning import LR, OPTIONS, WEIGHT_DECAY, WIDTHS, choose, draw
from equipoise.losses import LOSSES, CrossEntropy, Focal, GammaCrossEntropy, RowLoss
from equipoise.parameters import parameter_paths, value_at
from equipoise.penalties import PENALTIES, Entropy
from equipoise.schedules import Linear, Schedule
from equipoise.statistics import RowStatistics
from support.definitions import settings_of

CANDIDATES = (
    "CrossEntropy()",
    "CrossEntropy(label_smoothing=0.1)",
    "GammaCrossEntropy(gamma=0.5)",
    "GeneralizedCrossEntropy(0.7)",
    "SymmetricCrossEntropy()",
    "CrossEntropy() - 0.1 * Entropy()",
    "CrossEntropy() + LogitRange(width=8) + 0.5 * Gini()",
)
COUNT = 32


@dataclass(frozen=True)
class Settings:
    """The defaults that draws begin with."""

    model: Any = "mlp"
    width: int = 128
    lr: float = 3e-3
    weight_decay: float = 1e-4
    random_state: int = 0


@cache
def tried(candidate, count=COUNT, classes=10, **settings):
    return draw(read_objective(candidate, {}), Settings(**settings), count, classes)


def drawn(candidate, count=COUNT, classes=10, seed=0, **settings):
    return tuple(setting for _, setting in tried(candidate, count, classes, random_state=seed, **settings))


def lost(candidate, count=COUNT, classes=10):
    """The losses that were drawn, without the first."""
    return [made.loss for made, _ in tried(candidate, count, classes)[1:]]


def numbers(candidate, path, classes=10, count=COUNT):
    """The numbers at a path that were drawn, without the first."""
    return np.array([value_at(loss, parameter_paths(loss)[path]) for loss in lost(candidate, count, classes)])


@pytest.mark.parametrize("candidate", CANDIDATES)
def test_the_first_setting_is_the_candidate_as_it_is(candidate):
    """The first setting is the candidate as given."""
    first = drawn(candidate, 3, lr=0.5, weight_decay=0.0, width=100)[0]  # outside every range
    made = tried(candidate, 3)[0][0]
    assert made.same(read_objective(candidate, {}))
    assert first.objective == made.text
    assert (first.lr, first.weight_decay, first.width) == (0.5, 0.0, 100)
    assert drawn(candidate, 1) == drawn(candidate)[:1]


def test_what_training_is_told_is_the_same_for_every_candidate():
    """All candidates try the same learning rates, weight decays and widths."""
    shared = [[(s.lr, s.weight_decay, s.width) for s in drawn(candidate)] for candidate in CANDIDATES]
    assert all(each == shared[0] for each in shared)
    assert len(set(shared[0])) == COUNT  # and no setting is another
    another = [(s.lr, s.weight_decay, s.width) for s in drawn("CrossEntropy()", seed=1)]
    assert another[0] == shared[0][0]
    assert not set(another[1:]) & set(shared[0])


def test_settings_depend_on_the_seed_alone_and_more_of_them_begin_alike():
    """Settings depend on the seed only, and more settings begin with the same ones."""
    for candidate in CANDIDATES:
        assert drawn(candidate) == drawn(candidate)
        assert drawn(candidate, 8) == drawn(candidate)[:8]
        if candidate != "CrossEntropy()":
            here, there = drawn(candidate)[1:], drawn(candidate, seed=1)[1:]
            assert not {s.objective for s in here} & {s.objective for s in there}


def test_the_ranges_of_training_are_used_from_end_to_end():
    """The ranges of the training settings are covered."""
    settings = drawn("CrossEntropy()")[1:]
    for name, range_ in (("lr", LR), ("weight_decay", WEIGHT_DECAY)):
        place = np.log([getattr(s, name) for s in settings])
        low, high = np.log([range_.low, range_.high])
        unit = (place - low) / (high - low)
        assert ((unit > -0.01) & (unit < 1.01)).all()
        assert np.histogram(unit, bins=4, range=(-0.01, 1.01))[0].min() >= 5, name  # 31 draws
    assert {s.width for s in settings} == set(WIDTHS)
    assert {s.width for s in drawn("CrossEntropy()", model="linear", width=7)} == {7}


@pytest.mark.parametrize("seed", range(20))
def test_eight_settings_spread_over_the_range(seed):
    """Eight settings are spread over the ranges."""
    made = tried("GammaCrossEntropy(gamma=0.5)", 8, random_state=seed)[1:]
    own: list[float] = [each.loss.gamma for each, _ in made]  # pyright: ignore[reportAttributeAccessIssue]
    assert max(own) - min(own) > 0.5
    assert {s.width for s in drawn("CrossEntropy()", 8, seed=seed)[1:]} == set(WIDTHS)


OWN = (
    ("CrossEntropy(label_smoothing=0.1)", "label_smoothing", 0.01, 0.5, True),
    ("GammaCrossEntropy(gamma=0.5)", "gamma", 0.05, 0.95, False),
    ("GammaCrossEntropy()", "gamma", 0.05, 0.95, False),
    ("GeneralizedCrossEntropy(0.7)", "q", 0.05, 0.95, False),
    ("Focal()", "gamma", 0.5, 5, False),
    ("Poly(epsilon=1)", "epsilon", -0.5, 5, False),
    ("SymmetricCrossEntropy()", "alpha", 0.01, 10, True),
    ("SymmetricCrossEntropy(beta=2.0)", "beta", 0.1, 10, True),
    ("FlooredCrossEntropy()", "floor", 1e-5, 0.05, True),
    ("CrossEntropy() - 0.1 * Entropy()", "Entropy", -1, -0.01, True),
    ("CrossEntropy() + LogitRange(width=8)", "LogitRange", 0.1, 10, True),
    ("CrossEntropy() + LogitRange(width=8)", "LogitRange.width", 2, 20, True),
)


@pytest.mark.parametrize(("candidate", "path", "low", "high", "log"), OWN)
def test_a_losss_own_numbers_are_used_from_end_to_end(candidate, path, low, high, log):
    """The ranges of the options of a loss are covered."""
    values = numbers(candidate, path)
    scale = (lambda x: np.log(np.abs(x))) if log else np.asarray
    unit = (scale(values) - scale(low)) / (scale(high) - scale(low))
    assert np.sign(values).min() >= np.sign(low) if low < 0 and not log else (values * low > 0).all()
    assert ((unit > -0.01) & (unit < 1.01)).all()
    assert np.histogram(unit, bins=4, range=(-0.01, 1.01))[0].min() >= 4


def test_a_floor_is_relative_to_the_number_of_classes():
    """The range of a floor scales with 1 over the number of classes."""
    many = numbers("FlooredCrossEntropy()", "floor", classes=100)
    assert many.max() < 0.5 / 100 * 1.01
    assert numbers("FlooredCrossEntropy()", "floor", classes=2).max() > 0.5 / 100


def test_what_is_switched_off_or_has_no_range_stays_as_it_is():
    """Options that are switched off or have no range keep their values."""
    assert {s.objective for s in drawn("CrossEntropy()")} == {"CrossEntropy()"}
    assert {s.objective for s in drawn("Brier()")} == {"Brier()"}
    gamma: list[Any] = [made.loss for made, _ in tried("GammaCrossEntropy(0.3, min_weight=0.2)")]
    assert {loss.min_weight for loss in gamma} == {0.2}
    assert len({loss.gamma for loss in gamma}) == COUNT
    assert set(numbers("CrossEntropy() + 0.5 * LogitRange(low=-2, high=3)", "LogitRange.high")) == {3}
    assert set(numbers("0.3 * CrossEntropy() + Gini()", "CrossEntropy")) == {0.3}


@pytest.mark.parametrize(
    ("candidate", "tuned"),
    [
        ("GammaCrossEntropy(gamma=Linear(0, 0.5))", "GammaCrossEntropy(gamma=Linear(0, {}))"),
        ("GammaCrossEntropy(Cosine(0.0, end=0.5))", "GammaCrossEntropy(gamma=Cosine(0.0, {}))"),
        ("GammaCrossEntropy(Linear(0, 0.5, 0.5))", "GammaCrossEntropy(gamma=Linear(0, {}, steps=0.5))"),
        ("GammaCrossEntropy(gamma=Linear(0.5, 0))", "GammaCrossEntropy(gamma=Linear({}, 0))"),
        ("CrossEntropy(label_smoothing=Linear(0.1, 0.0))", "CrossEntropy(label_smoothing=Linear({}, 0.0))"),
        ("Reweighted(TaiLrWeight(0.5))", "Reweighted(TaiLrWeight(gamma={}))"),
    ],
)
def test_a_schedule_is_tuned_where_it_is_not_nothing(candidate, tuned):
    """The end of a schedule is tuned if it is not zero."""
    before, after = tuned.split("{}")
    for setting in drawn(candidate)[1:]:
        assert setting.objective.startswith(before)
        assert setting.objective.endswith(after)
        assert 0.009 < float(setting.objective[len(before) : -len(after)]) < 0.96
    assert len({s.objective for s in drawn(candidate)}) == COUNT


@pytest.mark.parametrize(
    ("candidate", "factor"),
    [
        ("CrossEntropy() - 0.1 * Entropy()", -0.1),
        ("CrossEntropy() + Entropy() * 0.2", 0.2),
        ("CrossEntropy() + Entropy()", 1),
        ("CrossEntropy() - Entropy() / 4", -0.25),
        ("-0.5 * (Entropy() + Gini()) + CrossEntropy()", -0.5),
        ("-Entropy() + CrossEntropy()", -1),
    ],
)
def test_a_penalty_keeps_its_sign_and_changes_its_size(candidate, factor):
    """The coefficient of a penalty keeps its sign and varies in size."""
    values = numbers(candidate, "Entropy")
    assert ((values / factor > 0.099) & (values / factor < 10.1)).all()
    assert (values / factor).min() < 0.3
    assert (values / factor).max() > 3


def test_the_schedule_of_a_penalty_changes_its_size():
    """The schedule of a penalty is scaled as a whole."""
    for made, _ in tried("CrossEntropy() - Linear(0.1, 0.2) * Entropy()")[1:]:
        schedule: Any = made.schedules["Entropy"].over(5)
        assert schedule.end / schedule.start == pytest.approx(2, rel=0.02)  # of three digits
        assert -2.1 < schedule.end < -0.019
    assert len(set(drawn("CrossEntropy() - Linear(0.1, 0.2) * Entropy()"))) == COUNT


def test_matrices_stay_the_names_that_they_are():
    """Matrices keep their names in tuned texts."""
    matrices = {"similarity": np.eye(10)}
    candidate = read_objective("SimilarityCrossEntropy(similarity) + 0.1 * Entropy()", matrices)
    for made, setting in draw(candidate, Settings(), COUNT, 10):
        assert setting.objective.startswith("SimilarityCrossEntropy(similarity) + ")
        assert read_objective(setting.objective, matrices).same(made)


@pytest.mark.parametrize("entry", [*LOSSES, *PENALTIES], ids=lambda entry: entry.name)
def test_every_loss_of_the_tables_is_drawn(entry):
    """Settings of every loss of the tables can be drawn."""
    for loss in settings_of(entry):
        settings = tried(loss, 4)
        assert settings[0][0].loss == loss
        for made, setting in settings:
            assert type(made.loss.terms()[0][1]) is type(loss)
            assert made.name == made.text == setting.objective
            if "<" not in made.text:
                assert read_objective(made.text, {}).same(made)


def test_every_range_is_of_an_option_that_there_is():
    """Every tuned option exists."""
    for kind, option in OPTIONS:
        assert option in {field.name for field in fields(kind)}


@dataclass(frozen=True)
class Own(RowLoss):
    gamma: float = 0.5

    def per_row(self, row: RowStatistics, /) -> Tensor:
        return row.entropy * self.gamma


@dataclass(frozen=True)
class Stairs(Schedule):
    def __call__(self, step: float, /) -> float:
        return 0.25 if step < 3 else 0.5

    def bounds(self) -> tuple[float, float]:
        return 0.25, 0.5


def test_of_ones_own_loss_only_the_training_is_tuned():
    """For a loss of the user's own, only the training is tuned."""
    for name in ("Own", "Focal"):  # whatever it is called
        kind = dataclass(frozen=True)(type(name, (Own,), {"__annotations__": {}}))
        assert {made.loss for made, _ in tried(kind())} == {kind()}
        assert len({setting.lr for setting in drawn(kind())}) == COUNT
    mixed = [made.loss.terms() for made, _ in tried(Own() + 0.5 * Entropy() + Focal())[1:]]
    assert {(terms[0], terms[2][0]) for terms in mixed} == {((1.0, Own()), 1.0)}
    assert len({terms[1][0] for terms in mixed}) == len({terms[2][1] for terms in mixed}) == COUNT - 1


def test_ones_own_schedule_stays():
    """A schedule of the user's own is not tuned."""
    for loss, at in ((GammaCrossEntropy(), "gamma"), (CrossEntropy() + Entropy(), "Entropy")):
        candidate = read_objective(Objective(loss, schedules={at: Stairs()}), {})
        for made, _ in draw(candidate, Settings(), 5, 10):
            assert made.schedules == {at: Scheduled(Stairs(), None)}


def test_an_objective_is_tuned_and_named_by_its_numbers():
    """A tuned objective has its numbers in its name."""
    given = Objective(GammaCrossEntropy(), schedules={"gamma": Linear(0, 0.5, 70)})
    candidate = read_objective(given, {}, "mine")
    (first, _), *others = draw(candidate, Settings(), 5, 10)
    assert first is candidate
    for made, setting in others:
        assert made.name == setting.objective
        (schedule,) = (each.over(10) for each in made.schedules.values())
        assert schedule == Linear(0, read_objective(made.name, {}).schedules["gamma"].ends["end"], 70)


def test_a_model_of_ones_own_keeps_its_width():
    """A model of the user's own keeps its width."""
    assert {s.width for s in drawn("Focal()", model=lambda features, classes: None, width=7)} == {7}


def test_the_smallest_score_is_chosen_and_nan_last():
    """The setting of the smallest score is chosen, and nan never before a number."""
    nan, inf = float("nan"), float("inf")
    scores = np.array(
        [[0.5, nan, nan, nan, 0.3, inf], [0.2, 0.9, nan, inf, 0.3, nan], [0.4, 0.8, nan, nan, 0.3, 5.0]]
    )
    assert choose(scores).tolist() == [1, 2, 0, 1, 0, 2]
    assert choose(-scores)[0] == 0  # the control: the other way round
    assert choose(scores).shape == (6,)


def test_a_split_chooses_by_its_own_scores():
    """A split chooses by its own scores only."""
    scores = np.random.default_rng(0).normal(size=(5, 7))
    changed = scores.copy()
    changed[:, 3] = -changed[:, 3]
    assert (choose(scores) != choose(changed)).nonzero()[0].tolist() == [3]


@pytest.mark.parametrize("count", [0, -1])
def test_there_is_a_first_setting(count):
    """A number of settings below 1 is refused."""
    with pytest.raises(ValueError, match=rf"count must be 1 or more, got {count}; the first setting is"):
        drawn("CrossEntropy()", count)


@pytest.mark.slow
def test_optuna_says_nothing_and_is_imported_when_it_draws(environment):
    """optuna is imported when settings are drawn, and prints nothing."""
    program = (
        "import sys, warnings\nwarnings.simplefilter('error')\n"
        "from types import SimpleNamespace\n"
        "from equipoise.compare.objectives import read_objective\nfrom equipoise.compare.tuning import draw\n"
        "given = SimpleNamespace(model='mlp', width=8, lr=0.1, weight_decay=0.0, random_state=0)\n"
        "candidate = read_objective('Focal()', {})\n"
        "draw(candidate, given, 1, 3)\n"
        "assert 'optuna' not in sys.modules\n"
        "settings = draw(candidate, given, 5, 3)\n"
        "import optuna\nassert optuna.logging.get_verbosity() == optuna.logging.INFO\n"
        "print(len(settings))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("5\n", "")


def test_without_optuna_it_says_what_to_install(monkeypatch):
    """Without optuna, the command that installs it is named."""
    monkeypatch.setitem(sys.modules, "optuna", None)
    candidate = read_objective("Focal()", {})
    assert len(draw(candidate, Settings(), 1, 3)) == 1
    with pytest.raises(ImportError, match=r"tune needs optuna; pip install 'equipoise\[tune\]'"):
        draw(candidate, Settings(), 2, 3)
