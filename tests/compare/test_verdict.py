import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from equipoise.compare.experiment import Candidate, Outcome, Result
from equipoise.compare.measures import MEASURES
from equipoise.compare.statistics import Difference
from equipoise.compare.verdict import deciding_measures, judge

BEST = "GammaCrossEntropy(gamma=0.5)"


def outcome(spec, means, calls, finite=True):
    """An outcome with the given means and calls in accuracy, NLL and the cost of decisions."""
    names = ("accuracy", "nll", "decided_cost")
    values = {name: np.full(8, mean) for name, mean in zip(names, means, strict=True)}
    differences = {
        name: Difference(0.01, 0.005, 0.015, 0.001, 0.001, call)
        for name, call in zip(names, calls, strict=False)
    }
    return Outcome(Candidate(spec, None, ()), ({"finite": finite},) * 8, values, differences)


def result(*candidates, costs_from=None, seeds=8):
    plain = outcome("CrossEntropy()", (0.8, 0.5, 2.0), ())
    plan = SimpleNamespace(
        costs_from=costs_from,
        measures=tuple(m for m in MEASURES if m.name in plain.values),
        settings=SimpleNamespace(seeds=seeds),
        out=SimpleNamespace(__truediv__=lambda *_: "x"),
    )
    return Result(plan, (plain, *candidates), 0)  # pyright: ignore[reportArgumentType]


def test_the_winner_is_better_in_one_and_worse_in_none_and_of_these_the_least_surprised():
    good = outcome("Brier()", (0.9, 0.4, 1.0), ("better", "better", "better"))
    best = outcome(BEST, (0.85, 0.3, 1.0), ("undecided", "better", "undecided"))
    mixed = outcome("Focal()", (0.99, 0.9, 1.0), ("better", "worse", "better"))
    said = judge(result(good, best, mixed))
    assert said.winner is best
    assert said.sentence.startswith(
        f"Use {BEST}. Against plain cross entropy, on 8 random splits of the data,"
    )
    assert "accuracy is not shown to differ" in said.sentence
    assert "(NLL) falls from 0.500 to 0.300" in said.sentence
    assert "Also better than plain cross entropy: Brier()." in said.others
    assert "Focal() is worse in surprise at the true classes (NLL) but better in accuracy." in said.others
    assert said.code.endswith(f"loss = {BEST}\nloss(logits, target)")


@pytest.mark.parametrize("calls", [("undecided", "undecided"), ("worse", "undecided"), ("better", "worse")])
def test_plain_cross_entropy_stays_when_nothing_is_better_without_a_loss(calls):
    given = result(outcome(BEST, (0.9, 0.4, 1.0), (*calls, "better")))
    said = judge(given)
    assert said.winner is given.baseline
    assert said.sentence.startswith("Keep plain cross entropy: on 8 random splits of the data")
    assert (
        said.code
        == "from equipoise.losses import CrossEntropy\n\nloss = CrossEntropy()\nloss(logits, target)"
    )


def test_costs_decide_when_there_are_costs_but_not_a_similarity():
    cheap = outcome(BEST, (0.7, 0.9, 1.0), ("worse", "worse", "better"))
    assert judge(result(cheap, costs_from="costs")).winner is cheap
    kept = result(cheap, costs_from="similarity")
    assert judge(kept).winner is kept.baseline
    assert deciding_measures(kept.plan) == ("nll", "accuracy")


def test_too_few_seeds_and_divergence_are_said():
    few = judge(result(outcome(BEST, (0.9, 0.4, 1.0), ("undecided", "undecided")), seeds=2))
    assert few.sentence == (
        "Undecided, so keep plain cross entropy: 2 random splits of the data cannot tell a difference "
        "from luck; use --seeds 3 or more, 8 if you can."
    )
    lost = judge(result(outcome(BEST, (0.9, 0.4, 1.0), ("undecided", "undecided"), finite=False)))
    assert f"{BEST} diverged in 8 of 8 trials, which are left out of its numbers." in lost.others


def test_the_calibration_error_does_not_choose():
    plain_ece = outcome(BEST, (0.8, 0.5, 2.0), ("undecided", "undecided"))
    calm = dataclasses.replace(plain_ece, values=dict(plain_ece.values) | {"ece": np.zeros(8)})
    given = result(calm)
    assert judge(given).winner is given.baseline
