"""Objectives are read from texts, losses and modules, are told apart, and are written as code that runs."""

import pickle
import re
import time
from dataclasses import dataclass
from typing import Any, final

import cloudpickle
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from equipoise import Objective
from equipoise.compare.objectives import Candidate
from equipoise.losses import (
    LOSSES,
    CrossEntropy,
    ExpectedCost,
    Focal,
    GammaCrossEntropy,
    HierarchicalCrossEntropy,
    Reweighted,
    RowLoss,
    SimilarityCrossEntropy,
    TaiLrWeight,
)
from equipoise.penalties import PENALTIES, Entropy, LogitRange
from equipoise.schedules import Cosine, Linear, Schedule
from equipoise.statistics import RowStatistics
from support.definitions import settings_of
from support.read_objectives import COSTS, read

ALL = [loss for entry in (*LOSSES, *PENALTIES) for loss in settings_of(entry)]


@final
@dataclass(frozen=True)
class Own(RowLoss):
    """A loss as a user writes it."""

    power: float = 1.0

    def per_row(self, row: RowStatistics, /) -> Tensor:
        return row.entropy * self.power


@final
@dataclass(frozen=True)
class Holds(RowLoss):
    """One that compares by a tensor, which Python cannot."""

    values: Any

    def per_row(self, row: RowStatistics, /) -> Tensor:
        return row.entropy


class Plain(RowLoss):
    """One that is no dataclass."""

    def per_row(self, row: RowStatistics, /) -> Tensor:
        return row.entropy


@final
@dataclass(frozen=True)
class Stairs(Schedule):
    def __call__(self, step: float, /) -> float:
        return float(step > 1)

    def bounds(self) -> tuple[float, float]:
        return 0.0, 1.0


def test_a_matrix_goes_by_its_name():
    assert read("ExpectedCost(costs)", {"costs": COSTS}).loss == ExpectedCost(COSTS)
    assert read("ExpectedCost(costs)", {"costs": COSTS}).loss != ExpectedCost(COSTS.T)
    assert read("ExpectedCost( costs )", {"costs": COSTS}).name == "ExpectedCost(costs)"
    fixed = COSTS.copy()
    fixed.setflags(write=False)
    assert read("ExpectedCost(costs)", {"costs": fixed}).loss == ExpectedCost(COSTS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "ExpectedCost(costs)",
            "objectives must name matrices that are given, got 'ExpectedCost(costs)'; give costs",
        ),
        ("ExpectedCost(cost)", "must use a known name, got 'cost'; did you mean costs?"),
        ("ExpectedCost(", "must be Python such as"),
        ("Liner(0, 1) * Entropy()", "must use a known name, got 'Liner'; did you mean Linear?"),
    ],
)
def test_a_bad_text_is_refused_with_the_way_out(text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        read(text)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Focal, "got the class Focal; write Focal()"),
        (Objective, "got the class Objective; write Objective()"),
        (nn.CrossEntropyLoss, "got the class CrossEntropyLoss; write a loss of your own as"),
        (
            nn.CrossEntropyLoss(),
            "got a CrossEntropyLoss; write a loss of your own as docs/fused.md does: a frozen",
        ),
        (torch.nn.functional.cross_entropy, "got a function; write a loss of your own"),
        (lambda logits, target: logits.sum(), "got a function; write a loss of your own"),
        (0.5, "got a float"),
        (None, "got a NoneType"),
        (["Focal()"], "got a list"),
        (Linear(0, 1, 5), "got a Linear"),
    ],
)
def test_what_is_no_objective_is_named_with_the_way_out(given, message):
    rule = "objectives must be losses of equipoise, their texts or Objectives, "
    with pytest.raises(TypeError, match=re.escape(rule + message)):
        read(given)


def test_the_loss_that_the_way_out_points_to_is_one():
    space: dict[str, Any] = {"torch": torch, "__name__": __name__}
    page = __import__("pathlib").Path(__file__).parents[2] / "docs" / "fused.md"
    (code,) = re.findall(
        r"```python\n(from dataclasses import.*?)\n\nEntropyWeighted", page.read_text(), re.S
    )
    exec(code, space)
    assert read(space["EntropyWeighted"]()).objective(1)(torch.zeros(2, 3), torch.tensor([0, 1])).isfinite()


# Names


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("CrossEntropy( )+.1*Entropy()", "CrossEntropy() + 0.1 * Entropy()"),
        (CrossEntropy(), "CrossEntropy()"),
        (CrossEntropy(0.1) - 0.5 * Entropy(), "CrossEntropy(label_smoothing=0.1) - 0.5 * Entropy()"),
        (-Entropy() + CrossEntropy() / 2, "-Entropy() + 0.5 * CrossEntropy()"),
        (GammaCrossEntropy(), "GammaCrossEntropy(gamma=0.1)"),
        (np.float64(0.5) * Focal(np.float64(3)), "0.5 * Focal(gamma=3.0)"),
        (Reweighted(TaiLrWeight(0.3)), "Reweighted(TaiLrWeight(gamma=0.3))"),
        (LogitRange(low=-1, high=2) + CrossEntropy(), "LogitRange(low=-1, high=2) + CrossEntropy()"),
        (ExpectedCost(COSTS), "ExpectedCost(costs)"),
        (SimilarityCrossEntropy(np.eye(2)), "SimilarityCrossEntropy(similarity)"),
        (ExpectedCost(COSTS.T), "ExpectedCost([[0.0, 1.0], [2.0, 0.0]])"),
        (CrossEntropy() + 2 * Own(), "CrossEntropy() + 2.0 * Own(power=1.0)"),
        (
            Objective(Focal() + Entropy(), schedules={"Entropy": Cosine(1, 0, 9)}),
            "Focal(gamma=2.0) + Cosine(start=1, end=0, steps=9) * Entropy()",
        ),
        (Objective(GammaCrossEntropy(), schedules={"gamma": Stairs()}), "GammaCrossEntropy(gamma=Stairs())"),
    ],
)
def test_an_objective_is_called_by_its_text(given, name):
    assert read(given, {"costs": COSTS, "similarity": np.eye(2)}).name == name


def test_names_of_classes_stay_as_they_are_in_code():
    named = "ExpectedCost(ClassMatrix([[0.0, 1.0], [1.0, 0.0]], ['a + -b', 'b * -c'], kind='costs'))"
    code = read(f"CrossEntropy() - 2 * {named} - {named}").code({})
    assert f"loss = CrossEntropy() - 2.0 * {named} - {named}\n" in code


def test_ones_own_name_stands_before_the_text():
    made = read(Focal(), name="mine")
    assert (made.name, made.text) == ("mine", "Focal(gamma=2.0)")
    assert read("Focal()", name="mine").name == "mine"


def test_long_matrices_and_trees_are_cut_and_not_mixed_up():
    matrix = np.random.default_rng(0).random((9, 9)) * (1 - np.eye(9))
    tree = tuple((3 * k, 3 * k + 1, 3 * k + 2) for k in range(9))
    other = (*tree[:-1], tree[-1][::-1])
    losses = [ExpectedCost(matrix), ExpectedCost(matrix.T), HierarchicalCrossEntropy(tree)]
    made = [read(loss) for loss in (*losses, HierarchicalCrossEntropy(other))]
    assert len({each.name for each in made}) == len({each.key for each in made}) == 4
    assert all(len(each.name) < 80 and "\n" not in each.name for each in made)
    assert read(ExpectedCost(matrix.copy())).name == made[0].name
    assert (
        read(ExpectedCost(matrix), {"similarity": np.eye(9), "costs": matrix}).name == "ExpectedCost(costs)"
    )


@pytest.mark.parametrize("loss", ALL, ids=lambda loss: repr(loss)[:40])
def test_every_loss_of_the_tables_is_spelled_so_that_it_is_read_again(loss):
    made = read(0.5 * loss - CrossEntropy())
    space: dict[str, Any] = {"logits": torch.zeros(3, 8), "target": torch.arange(3)}
    exec(made.code({}), space)
    assert space["loss"] == made.loss == 0.5 * loss - CrossEntropy()
    if "<" not in made.text:
        assert read(made.text).same(made)
    assert made.stable


# What is one, and what is kept in files


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("GammaCrossEntropy(0.5)", "GammaCrossEntropy(gamma=0.5)"),
        ("GammaCrossEntropy(gamma=0.5)", GammaCrossEntropy(0.5)),
        ("1*CrossEntropy()", "CrossEntropy()"),
        (1 * CrossEntropy(), CrossEntropy()),
        ("Focal()", "Focal(gamma=2)"),
        ("CrossEntropy() + 0 * Entropy()", CrossEntropy()),
        ("CrossEntropy() + 0 * ExpectedCost([[0, 1], [1, 0]])", "CrossEntropy()"),
        ("CrossEntropy() + Entropy() / 10", "0.1 * Entropy() + CrossEntropy()"),
        ("ExpectedCost(costs)", ExpectedCost(COSTS)),
        ("ExpectedCost(costs)", "ExpectedCost([[0, 2], [1, 0]])"),
        ("GammaCrossEntropy(Linear(0, 0.5))", "GammaCrossEntropy(gamma=Linear(0.0, end=0.5, steps=1.0))"),
        (
            "GammaCrossEntropy(Linear(0, 0.5, 9))",
            Objective(GammaCrossEntropy(), schedules={"gamma": Linear(0, 0.5, 9)}),
        ),
        (Own(), Own(1.0)),
        ("0 * CrossEntropy()", 0 * CrossEntropy()),
    ],
)
def test_candidates_that_train_the_same_are_one(one, two):
    first, second = read(one, {"costs": COSTS}), read(two, {"costs": COSTS})
    assert first.same(second)
    assert second.same(first)
    assert first.same(first)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("2 * CrossEntropy()", "CrossEntropy()"),  # another one under weight decay
        ("GammaCrossEntropy(0.5)", "GammaCrossEntropy(0.4)"),
        ("CrossEntropy() + Entropy()", "CrossEntropy()"),
        ("CrossEntropy()", "CrossEntropy() + Entropy()"),
        ("GammaCrossEntropy(Linear(0, 0.5))", "GammaCrossEntropy(Linear(0, 0.5, 0.5))"),
        ("GammaCrossEntropy(Linear(0, 0.5))", "GammaCrossEntropy(0)"),
        ("GammaCrossEntropy(Linear(0, 0.5))", "GammaCrossEntropy(Cosine(0, 0.5))"),
        ("CrossEntropy() + Linear(0, 1) * Entropy()", "CrossEntropy()"),
        ("Linear(1, 1, 1) * CrossEntropy()", "CrossEntropy()"),
        ("ExpectedCost(costs)", "ExpectedCost([[0, 1], [2, 0]])"),
        ("CrossEntropy()", "0 * CrossEntropy()"),
        ("Focal() + Focal() + CrossEntropy()", "Focal() + CrossEntropy() + CrossEntropy()"),
        (Own(), Entropy()),
        (Holds(torch.ones(3)), Holds(torch.ones(3))),  # who knows
    ],
)
def test_control_others_are_not(one, two):
    assert not read(one, {"costs": COSTS}).same(read(two, {"costs": COSTS}))


def test_a_key_has_the_numbers_of_matrices_and_the_code_of_ones_own():
    assert read("ExpectedCost(costs)", {"costs": COSTS}).key == read(ExpectedCost(COSTS)).key
    assert read("ExpectedCost(costs)", {"costs": COSTS}).key != read(ExpectedCost(COSTS.T)).key
    assert read("1 * Focal()").key == read(Focal()).key == "Focal(gamma=2.0)"
    key = read(CrossEntropy() + Own(2.0)).key
    assert key is not None
    assert key.startswith("CrossEntropy() + Own(power=2.0)\n")
    assert "return row.entropy * self.power" in key
    scheduled = read(Objective(GammaCrossEntropy(), schedules={"gamma": Stairs()})).key
    assert scheduled is not None
    assert "return float(step > 1)" in scheduled


def test_what_nothing_can_stand_for_is_not_stable():
    space: dict[str, Any] = {"Own": Own, "RowLoss": RowLoss, "dataclass": dataclass, "__name__": __name__}
    exec("@dataclass(frozen=True)\nclass Typed(RowLoss):\n    per_row = Own.per_row", space)
    typed = space["Typed"]()
    large = Holds(np.arange(5000))
    for loss in (
        Plain(),
        Reweighted(torch.sqrt),
        Reweighted(lambda p: p),
        CrossEntropy() + Plain(),
        large,
        typed,
    ):
        assert not read(loss).stable, loss
    for loss in (Own(), Reweighted(TaiLrWeight()), Holds((1, 2)), CrossEntropy()):
        assert read(loss).stable, loss


def test_a_long_text_is_no_name():
    long = "ExpectedCost(" + str((1 - np.eye(40)).tolist()) + ")"
    made = read(long + " + Linear(0, 1) * Entropy()")
    assert made.name.startswith("ExpectedCost(<40 rows, ")
    assert made.name.endswith(">) + Linear(0.0, 1.0) * Entropy()")
    assert read(long, name="mine").name == "mine"
    for text in (
        long + " + Linear(0, 1)",
        long + " + Linear(1, 0) * Linear(0, 1) * Entropy()",
        long + "+ X(costs)",
    ):
        with pytest.raises(ValueError, match="must") as caught:
            read(text)
        assert len(str(caught.value)) < 400


# Code


def test_code_to_paste_runs_and_makes_the_same_loss(tmp_path):
    np.save(tmp_path / "costs.npy", COSTS)
    named = "ExpectedCost(ClassMatrix([[0, 1], [1, 0]], ['ill', 'well'], kind='costs'))"
    text = f"GammaCrossEntropy(gamma=0.5) + 0.5*ExpectedCost(costs) + Entropy() / 2 + {named}"
    made = read(text, {"costs": COSTS, "similarity": np.eye(2)})
    code = made.code({"costs": str(tmp_path / "costs.npy")})
    space = {"logits": torch.zeros(3, 2), "target": torch.tensor([0, 1, 1])}
    exec(code, space)
    assert space["loss"] == made.loss
    assert "from equipoise.losses import ExpectedCost, GammaCrossEntropy" in code
    assert "from equipoise.penalties import Entropy" in code
    assert "from equipoise.costs import ClassMatrix" in code
    assert read(made.loss, {"costs": COSTS}).code({"costs": "c.npy"}) == made.code({"costs": "c.npy"})


def test_code_of_ones_own_loss_says_so():
    loss = CrossEntropy() + Own()
    space: dict[str, Any] = {"logits": torch.zeros(3, 2), "target": torch.tensor([0, 1, 1]), "loss": loss}
    code = read(loss).code({})
    assert "# loss = CrossEntropy() + Own(power=1.0), with code of your own" in code
    exec(code, space)
    given = Objective(loss, schedules={"power": Linear(0, 1, 9)})
    exec(read(given).code({}), space)
    assert space["objective"].schedules == given.schedules


def test_a_candidate_is_sent_to_another_process():
    made = read("GammaCrossEntropy(Linear(0, 0.5)) + ExpectedCost(costs)", {"costs": COSTS})
    again: Candidate = pickle.loads(pickle.dumps(made))
    assert again.same(made)
    assert (again.name, again.text, again.key) == (made.name, made.text, made.key)
    assert repr(again.objective(9)) == repr(made.objective(9))

    @dataclass(frozen=True)
    class Local(RowLoss):
        def per_row(self, row: RowStatistics, /) -> Tensor:
            return row.entropy

    assert cloudpickle.loads(cloudpickle.dumps(read(Local()))).name == read(Local()).name


def test_reading_six_objectives_takes_milliseconds():
    texts = (
        "CrossEntropy()",
        "GammaCrossEntropy(gamma=0.5)",
        "CrossEntropy(label_smoothing=0.1)",
        "GammaCrossEntropy(gamma=Linear(0, 0.5))",
        "GeneralizedCrossEntropy(q=0.7)",
        "ExpectedCost(costs)",
    )
    matrices = {"costs": 1 - np.eye(100)}
    best = float("inf")
    for _ in range(5):
        begin = time.process_time()
        for text in texts:
            read(text, matrices)
        best = min(best, time.process_time() - begin)
    assert best < 0.1
