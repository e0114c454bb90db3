"""Texts and plain data make the objective they spell, are never evaluated, and are got back from it."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import pytest
import torch
from torch import Tensor

from equipoise import Objective
from equipoise.costs import ClassMatrix
from equipoise.losses import (
    LOSSES,
    CrossEntropy,
    ExpectedCost,
    Focal,
    GammaCrossEntropy,
    Loss,
    Reweighted,
    RowLoss,
    TaiLrWeight,
)
from equipoise.parsing import from_text, names, normalize, schedule_from_text, to_text
from equipoise.penalties import PENALTIES, Entropy, LogitRange
from equipoise.schedules import SCHEDULES, Cosine, Linear, Schedule
from equipoise.statistics import RowStatistics
from support.definitions import settings_of

COSTS = np.array([[0.0, 2.0], [1.0, 0.0]])
ALL = [loss for entry in (*LOSSES, *PENALTIES) for loss in settings_of(entry)]
TIMES = [Linear(0.25, 0.25, 1), Linear(0, 0.5, 1000), Cosine(0.5, 0, 7)]


@pytest.mark.parametrize(
    ("text", "loss"),
    [
        ("CrossEntropy()", CrossEntropy()),
        (" GammaCrossEntropy( gamma = 0.5 ) ", GammaCrossEntropy(gamma=0.5)),
        ("GammaCrossEntropy(0.5, 0.2)", GammaCrossEntropy(gamma=0.5, min_weight=0.2)),
        ("GammaCrossEntropy(0.5, min_weight=0.2)", GammaCrossEntropy(gamma=0.5, min_weight=0.2)),
        ("GammaCrossEntropy(gamma=1 - 0.5)", GammaCrossEntropy(gamma=0.5)),
        ("CrossEntropy() - 0.1 * Entropy()", CrossEntropy() + -0.1 * Entropy()),
        ("-Entropy()", -1 * Entropy()),
        (
            "CrossEntropy() + LogitRange(low=-4, high=+4) * 0.5",
            CrossEntropy() + 0.5 * LogitRange(low=-4, high=4),
        ),
        ("CrossEntropy() / 2", CrossEntropy() / 2),
        ("Focal(gamma=1 / 4)", Focal(gamma=0.25)),
        (
            "ExpectedCost(ClassMatrix([[0, 2], [1, 0]], ['ill', 'well'], kind='costs'))",
            ExpectedCost(ClassMatrix(COSTS, ["ill", "well"], kind="costs")),
        ),
        ("2 * (CrossEntropy() + Entropy())", 2 * CrossEntropy() + 2 * Entropy()),
        ("Reweighted(TaiLrWeight(gamma=0.1))", Reweighted(TaiLrWeight(gamma=0.1))),
        ("ExpectedCost([[0, 2], [1, 0]])", ExpectedCost(COSTS)),
        ("ExpectedCost(costs)", ExpectedCost(COSTS)),
    ],
)
def test_a_text_makes_the_loss_it_spells(text: str, loss: Loss) -> None:
    assert from_text(text, {"costs": COSTS}) == loss


def test_numbers_that_torch_cannot_take_as_integers_are_floats() -> None:
    made: Any = from_text("SymmetricCrossEntropy(alpha=10000000000000000000, beta=9007199254740992)")
    assert (type(made.alpha), type(made.beta)) == (float, int)
    assert made.alpha == 1e19
    assert made(torch.zeros(2, 3), torch.tensor([0, 1])).isfinite()
    product: Any = from_text("Focal(gamma=9007199254740992 * 9007199254740992)")
    assert type(product.gamma) is float


def test_a_text_may_be_as_deep_as_python_takes() -> None:
    def on_top_of(frames: int, text: str) -> Loss:
        return on_top_of(frames - 1, text) if frames else from_text(text)

    for text in ("CrossEntropy()" + " + CrossEntropy()" * 97, "-" * 97 + "CrossEntropy()"):
        assert len(on_top_of(300, text).terms()) in (98, 1)
        assert on_top_of(300, text) == from_text(normalize(text))


def test_a_long_list_is_read() -> None:
    costs = 1 - np.eye(300)
    assert from_text(f"ExpectedCost({costs.tolist()})") == ExpectedCost(costs)


def test_a_sum_of_one_is_spelled_as_its_term() -> None:
    assert to_text(1 * Focal()) == "Focal(gamma=2.0)"
    with pytest.raises(ValueError, match="keep the code that makes it"):
        to_text(Pretender())


def test_a_text_calls_further_makers() -> None:
    assert from_text("Focal(gamma=half(3))", makers={"half": lambda number: number / 2}) == Focal(1.5)
    with pytest.raises(ValueError, match=r"must use a known name, got 'hlaf'; did you mean half\?"):
        from_text("Focal(gamma=hlaf(3))", makers={"half": lambda number: number / 2})


def test_a_matrix_that_cannot_be_written_to_goes_by_its_name() -> None:
    fixed = COSTS.copy()
    fixed.setflags(write=False)
    assert from_text("ExpectedCost(costs)", {"costs": fixed}) == ExpectedCost(COSTS)


def test_another_text_makes_another_loss() -> None:
    assert from_text("Focal(gamma=2.0)") != from_text("Focal(gamma=3.0)")
    assert schedule_from_text("Linear(0, 1, 9)") != schedule_from_text("Linear(0, 1, 8)")


def test_one_spelling_and_the_names_in_it() -> None:
    assert normalize("CrossEntropy( )+.1*Entropy()") == "CrossEntropy() + 0.1 * Entropy()"
    assert set(names("CrossEntropy() + ExpectedCost(costs)")) == {"CrossEntropy", "ExpectedCost", "costs"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("GamaCrossEntropy()", "must use a known name, got 'GamaCrossEntropy'; did you mean"),
        ("focal()", "must use a known name, got 'focal'; did you mean Focal?"),
        ("Zzz()", "must use a known name, got 'Zzz'; there is CrossEntropy, "),
        ("Linear(0, 1, 9)", "must use a known name, got 'Linear'; "),
        ("Focal(gama=1)", "Focal must be given an option it has, got 'gama'; did you mean gamma?"),
        ("Focal(alpha=1)", "Focal must be given an option it has, got 'alpha'"),
        ("Entropy(weight=1)", "Entropy must be given an option it has, got 'weight'; there is none"),
        ("Focal(1, 2, 3)", "Focal must have at most 1 options, got 3; it has gamma"),
        ("Entropy(1)", "Entropy must have at most 0 options, got 1; it has none"),
        ("Focal(**{})", "Focal must be given an option it has"),
        ("CrossEntropy", "must call what it names, got 'CrossEntropy'; write CrossEntropy()"),
        ("Focal(", "must be Python such as CrossEntropy() + 0.1 * Entropy(), got 'Focal('; '(' was never"),
        ("", "must be Python such as"),
        ("CrossEntropy() = 1", "must be Python such as"),
        ("3", "must be a loss, got '3'; write for example"),
        ("[1, 2]", "must be a loss, got '[1, 2]'"),
        ("TaiLrWeight()", "must be a loss, got 'TaiLrWeight()'"),
        ("CrossEntropy() + 1", "must add losses to losses and multiply them by numbers"),
        ("CrossEntropy() * Focal()", "must add losses to losses and multiply them by numbers"),
        ("2 / CrossEntropy()", "must add losses to losses and multiply them by numbers"),
        ("CrossEntropy() / 0", "must have finite numbers, got 'CrossEntropy() / 0'; float division by zero"),
        ("1e999 * CrossEntropy()", "must have finite numbers, got '1e309 * CrossEntropy()'; a coefficient"),
        ("CrossEntropy() ** 2", "must use only names, options, numbers, texts, lists, +, -, * and /"),
        ("'CrossEntropy()'", "must be a loss, got "),
        ("ClassMatrix([[0, 1], [1, 0]], kind='costs')", "must be a loss, got "),
        ("[1] + CrossEntropy()", "must combine losses and numbers, got '[1]' beside a sign"),
        ("-TaiLrWeight()", "must combine losses and numbers, got 'TaiLrWeight()' beside a sign"),
        ("ExpectedCost(costs)", "must use a known name, got 'costs'; write numbers out, [[0, 1], [1, 0]]"),
        ("Crossentropy", "must use a known name, got 'Crossentropy'; did you mean CrossEntropy?"),
        ("ExpectedCost([[0, 1]])", "ExpectedCost: costs must be (C, C)"),
        ("GammaCrossEntropy(gamma=-1)", "GammaCrossEntropy: gamma must be in [0, 1], got -1"),
        ("GammaCrossEntropy(gamma='a')", "GammaCrossEntropy: gamma must be a Python number, got 'a'"),
        ("-" * 100_000 + "1", "must be Python such as"),
        ("Focal(gamma=1, gamma=2)", "Focal must be given each option once, got 'gamma' 2 times; keep one"),
        ("Focal(1, gamma=2)", "Focal must be given each option once, got 'gamma' 2 times; keep one"),
        ("Focal(gamma=1, **{'gamma': 2})", "Focal must be given an option it has, got '**'"),
        (
            "CrossEntropy()" + " + CrossEntropy()" * 899,
            "must be at most 100 operations deep, got 'CrossEntropy()",
        ),
        ("-" * 801 + "CrossEntropy()", "must be at most 100 operations deep, got '-----"),
        ("Focal(" * 101 + ")" * 101, "must be at most 100 operations deep, got 'Focal("),
        ("ExpectedCost(" + "[" * 101 + "]" * 101 + ")", "must be at most 100 operations deep, got 'Expected"),
        ("Focal(gamma=" + "9" * 400 + ")", "must have finite numbers, got 'Focal(gamma=999"),
        ("Focal(gamma=0x" + "f" * 9000 + ")", "must have finite numbers, got 'Focal(gamma=0xfff"),
        ("Focal(gamma=" + "9" * 9000 + ")", "must be Python such as"),
        (
            "ExpectedCost([[0, 1" + "_000" * 140 + "], [1, 0]])",
            "must have finite numbers, got 'ExpectedCost([[0",
        ),
        ("9" * 400 + " * CrossEntropy()", "must have finite numbers, got '999"),
        ("Focal(gamma=" + "9" * 200 + " * " + "9" * 200 + ")", "must have finite numbers, got '999"),
        ("Focal(gamma=1e300 * 1e300)", "must have finite numbers, got '1e+300 * 1e+300'; it is inf"),
        ("Focal(gamma=1e400)", "Focal: gamma must be finite and at least 0, got inf"),
        (
            "Focal(gamma=True)",
            "must use only names, options, numbers, texts, lists, +, -, * and /, got 'True'",
        ),
        ("ExpectedCost([[False, True], [True, False]])", "must use only names, options, numbers, "),
        ("Focal(gamma=1j)", "must use only names, options, numbers"),
        ("Focal(gamma=b'1')", "must use only names, options, numbers"),
        ("Focal(gamma=(x := 1))", "must use only names, options, numbers"),
        ("Focal(*[1])", "must use only names, options, numbers"),
        ("CrossEntropy()\x00", "must be Python such as"),
        ("CrossEntropy()\n+ Focal()", "must be Python such as"),
        ("'\ud800'", "must be Python such as"),
        ("x" * 100_000, "must use a known name, got 'xxx"),
    ],
)
def test_a_bad_text_is_refused_with_the_way_out(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        from_text(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Liner(0, 1, 9)", "schedule must use a known name, got 'Liner'; did you mean Linear?"),
        ("Linear", "schedule must call what it names, got 'Linear'; write Linear()"),
        ("Linear(0, 1, step=9)", "Linear must be given an option it has, got 'step'; did you mean steps?"),
        ("Linear(0, 1)", "Linear: "),
        ("Linear(0, 1, 0)", "Linear: steps must be an integer of at least 1, got 0"),
        ("0.5", "schedule must be a schedule, got '0.5'; write for example Linear(0.0, 0.5, steps=1000)"),
        ("2 * Linear(0, 1, 9)", "schedule must combine numbers alone, got 'Linear(0, 1, 9)' beside a sign"),
        ("CrossEntropy()", "schedule must use a known name, got 'CrossEntropy'; there is Linear, Cosine"),
        ("Linear(", "schedule must be Python such as Linear(0.0, 0.5, steps=1000), got 'Linear('"),
    ],
)
def test_a_bad_text_of_a_schedule_is_refused_with_the_way_out(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        schedule_from_text(text)


ATTACKS = [
    "__import__('pathlib').Path('{path}').touch()",
    "().__class__.__base__.__subclasses__()",
    "(lambda: open('{path}', 'w'))()",
    "Focal(gamma=open('{path}', 'w'))",
    "Focal(gamma=[open('{path}', 'w') for _ in [1]])",
    "CrossEntropy().__class__",
    "CrossEntropy() if open('{path}', 'w') else CrossEntropy()",
    'f\'{{open("{path}", "w")}}\'',
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_text_is_never_evaluated(attack: str, tmp_path: Path) -> None:
    path = tmp_path / "evaluated"
    text = attack.format(path=path)
    with pytest.raises(ValueError, match="loss must"):
        Objective.from_config(loss=text)
    with pytest.raises(ValueError, match=r"schedules\['gamma'\] must"):
        Objective.from_config(loss="Focal()", schedules={"gamma": text})
    assert not path.exists()


def test_control_the_attacks_would_be_seen_if_evaluated(tmp_path: Path) -> None:
    path = tmp_path / "evaluated"
    eval(ATTACKS[0].format(path=path))
    assert path.exists()


def there_and_back(objective: Objective) -> Objective:
    """Return what is made anew of the plain data, after a journey through JSON."""
    return Objective.from_config(**json.loads(json.dumps(objective.to_config())))


@pytest.mark.parametrize("loss", ALL, ids=lambda loss: repr(loss)[:40])
def test_every_loss_and_penalty_goes_there_and_back(loss: Loss) -> None:
    again = there_and_back(Objective(0.5 * loss - CrossEntropy(label_smoothing=0.1), reduction="sum"))
    assert again.loss == 0.5 * loss - CrossEntropy(label_smoothing=0.1)
    assert there_and_back(Objective(loss)).loss == loss
    assert again.reduction == "sum"


def test_every_schedule_goes_there_and_back() -> None:
    assert {type(schedule) for schedule in TIMES} == set(SCHEDULES)
    for schedule in TIMES:
        objective = Objective(GammaCrossEntropy() + 0.5 * Entropy(), schedules={"Entropy": schedule})
        again = there_and_back(objective)
        assert again.schedules == {"Entropy": schedule}
        assert again.scheduled() == objective.scheduled()


@final
@dataclass(frozen=True)
class Own(RowLoss):
    def per_row(self, row: RowStatistics, /) -> Tensor:
        return row.entropy


@final
@dataclass(frozen=True)
class Pretender(RowLoss):
    def per_row(self, row: RowStatistics, /) -> Tensor:
        return row.entropy

    def __repr__(self) -> str:
        return "Entropy()"


@final
@dataclass(frozen=True)
class Stairs(Schedule):
    def __call__(self, shown: float, /) -> float:
        return float(shown > 1)

    def bounds(self) -> tuple[float, float]:
        return 0.0, 1.0


def test_what_has_no_text_is_refused_with_the_way_out() -> None:
    for loss in (Own(), Pretender(), Reweighted(torch.sqrt), CrossEntropy() + Own()):
        with pytest.raises(ValueError, match=r"loss must be made of what the tables name .* keep the code"):
            Objective(loss).to_config()
    objective = Objective(GammaCrossEntropy(), schedules={"gamma": Stairs()})
    with pytest.raises(ValueError, match=r"schedules\['gamma'\] must be made of .*, got 'Stairs\(\)'"):
        objective.to_config()
