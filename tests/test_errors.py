"""The words of every error, and that no error is without a test of its words."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import equipoise
from equipoise import Objective, linear
from equipoise.kernels import cpu
from equipoise.kernels.block import Block, CppBackend
from equipoise.kernels.triton import TritonBackend
from equipoise.label_noise import (
    convert,
    floored_log_probs,
    floored_probs,
    steepest_prob,
    suggest_gamma,
)
from equipoise.linear import explain
from equipoise.losses import (
    CrossEntropy,
    ExpectedCost,
    FlooredCrossEntropy,
    Focal,
    GammaCrossEntropy,
    GeneralizedCrossEntropy,
    HierarchicalCrossEntropy,
    PairwiseCrossEntropy,
    Poly,
    Reweighted,
    RowLoss,
    SimilarityCrossEntropy,
    SoftmaxMargin,
    SymmetricCrossEntropy,
    TaiLrWeight,
)
from equipoise.maps import Softmax
from equipoise.penalties import Balance, Decisiveness, Entropy, LogitRange, matched_weight
from equipoise.schedules import Cosine, Linear
from equipoise.statistics import LogOdds, LogSumExp, RowStatistics, row_statistics
from equipoise.statistics.states import StateName
from support.raises import never_raised

SOURCE = Path(str(equipoise.__file__)).parent
OUTSIDE = (
    "calibration",
    "compare",
    "cli.py",
    "maps",
    "metrics.py",
    "training",
    "costs",
    "distributions.py",
    "integrations",
    "naming.py",
    "parsing.py",
    "distributed.py",
    "sharded.py",
)  # these have tests of their own

inf, nan = float("inf"), float("nan")
logits = torch.zeros(8, 5)
target = torch.zeros(8, dtype=torch.long)


def probs(*shape: int) -> Tensor:
    return torch.full(shape, 0.2)


def put(matrix: list[list[float]], row: int, column: int, value: float) -> list[list[float]]:
    return [
        [value if (i, k) == (row, column) else x for k, x in enumerate(line)] for i, line in enumerate(matrix)
    ]


EYE = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
COSTS = [[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0]]


@dataclass(frozen=True)
class Case:
    """A call, and what it should say."""

    call: Callable[[], Any]
    error: type[Exception]
    says: str


def value(call: Callable[[], Any], says: str) -> Case:
    return Case(call, ValueError, says)


def kind(call: Callable[[], Any], says: str) -> Case:
    return Case(call, TypeError, says)


def bare_row() -> RowStatistics:
    return RowStatistics(row_statistics(logits, target).compute, num_classes=5)


def traced(call: Callable[[Tensor], Tensor]) -> Callable[[], Any]:
    return lambda: torch.func.grad(call)(logits)


READING = [
    value(
        traced(lambda z: CrossEntropy().linear(z, logits, target, backend="cpp")),
        "backend must be 'auto' or 'torch' under a transform of torch.func, forward mode or a tracer, "
        "got 'cpp'; leave it out",
    ),
    value(
        traced(lambda z: explain(CrossEntropy(), z, logits, target)),  # pyright: ignore[reportArgumentType]
        "hidden must not be traced or transformed, got one that is; explain it outside",
    ),
    kind(
        lambda: Softmax().probs(logits, mask=probs(5)),
        "mask must be a bool tensor, True where a class is allowed, got torch.float32; "
        "use torch.as_tensor(mask, dtype=torch.bool)",
    ),
    value(
        lambda: Softmax().probs(logits, mask=probs(1) > 0),
        "mask must be (5,), one for every class, or of the shape of the logits, (8, 5), got (1,); "
        "expand it first",
    ),
    kind(
        lambda: CrossEntropy()([[0.0]], target),  # pyright: ignore[reportArgumentType]
        "logits must be a floating tensor, got list; pass the scores before any softmax",
    ),
    kind(
        lambda: CrossEntropy()(logits.long(), target),
        "logits must be a floating tensor, got torch.int64; pass the scores before any softmax",
    ),
    value(
        lambda: CrossEntropy()(torch.tensor(0.0), target),
        "logits must be (C,), (N, C) or (N, C, d1, ...), got a single number; add a class dimension",
    ),
    value(
        lambda: CrossEntropy()(torch.zeros(8, 0), target),
        "logits must have at least one class, got shape (8, 0); classes are dimension 1",
    ),
    value(
        lambda: CrossEntropy()(torch.zeros(0), target),
        "logits must have at least one class, got shape (0,); classes are dimension 0",
    ),
    kind(
        lambda: CrossEntropy()(logits, [0] * 8),  # pyright: ignore[reportArgumentType]
        "target must be a tensor, got list; use torch.as_tensor(target)",
    ),
    kind(
        lambda: CrossEntropy()(logits, 3),  # pyright: ignore[reportArgumentType]
        "target must be a tensor, got int; use torch.as_tensor(target)",
    ),
    value(
        lambda: CrossEntropy()(logits, probs(8, 4)),
        "target must have the shape of the logits when it holds probabilities, got (8, 4) and (8, 5); class "
        "indices must be integers",
    ),
    value(
        lambda: CrossEntropy()(logits, probs(8)),
        "target must have the shape of the logits when it holds probabilities, got (8,) and (8, 5); class "
        "indices must be integers",
    ),
    value(
        lambda: CrossEntropy()(logits, probs(8, 5), ignore_index=0),
        "ignore_index must be left out when target holds probabilities, got 0; drop those rows instead",
    ),
    kind(
        lambda: CrossEntropy()(logits, target.bool()),
        "target must be class indices or probabilities, got torch.bool; use target.long()",
    ),
    value(
        lambda: CrossEntropy()(logits, target[:7]),
        "target must have the shape of the logits without the class dimension, (8,), or with it as "
        "probabilities, got (7,) for logits (8, 5)",
    ),
    value(
        lambda: CrossEntropy()(torch.zeros(2, 5, 3), torch.zeros(2, 5, dtype=torch.long)),
        "target must have the shape of the logits without the class dimension, (2, 3), or with it as "
        "probabilities, got (2, 5) for logits (2, 5, 3)",
    ),
    value(
        lambda: CrossEntropy()(logits[0], target[:1]),
        "target must have the shape of the logits without the class dimension, (), or with it as "
        "probabilities, got (1,) for logits (5,)",
    ),
    value(
        lambda: CrossEntropy()(logits, target + 5),
        "target must be in [0, 5) or ignore_index=-100, got 5",
    ),
    value(
        lambda: CrossEntropy()(logits, target - 1, ignore_index=7),
        "target must be in [0, 5) or ignore_index=7, got -1",
    ),
    value(
        lambda: CrossEntropy()(logits, target, reduction="average"),
        "reduction must be one of none, mean, sum, got 'average'",
    ),
    value(
        lambda: CrossEntropy()(logits, target, sample_weight=torch.ones(5)),
        "sample_weight must be a tensor (8,), one number per row, got (5,)",
    ),
    value(
        lambda: CrossEntropy()(logits, target, sample_weight=[1.0] * 8),  # pyright: ignore[reportArgumentType]
        "sample_weight must be a tensor (8,), one number per row, got list",
    ),
    value(
        lambda: Entropy()(logits, weight=torch.ones(5)),
        "target must be given with class weights, got None; a weight is that of the target's class",
    ),
    value(
        lambda: CrossEntropy()(logits, target, weight=torch.ones(4)),
        "weight must be (5,), one number per class, got (4,)",
    ),
    value(
        lambda: CrossEntropy()(logits), "target must be given, got None; only penalties can do without one"
    ),
    value(
        lambda: SimilarityCrossEntropy(EYE)(logits[:, :3]),
        "target must be given, got None; only penalties can do without one",
    ),
    value(
        lambda: PairwiseCrossEntropy(COSTS)(logits[:, :3]),
        "target must be given, got None; only penalties can do without one",
    ),
    value(
        lambda: SoftmaxMargin(COSTS)(logits[:, :3]),
        "target must be given, got None; only penalties can do without one",
    ),
    value(
        lambda: Balance()(logits, reduction="none"),
        "reduction must be 'mean' or 'sum' with Balance(), got 'none'; it looks at the batch as a whole",
    ),
    value(
        lambda: row_statistics(logits).log_odds(),
        "target must be given, got None; only penalties can do without one",
    ),
    value(
        lambda: row_statistics(logits).expected_log_prob(torch.eye(5)),
        "target must be given, got None; only penalties can do without one",
    ),
    kind(
        lambda: CrossEntropy()(logits, target, weight=[1.0] * 5),  # pyright: ignore[reportArgumentType]
        "weight must be a tensor, got list; use torch.as_tensor(weight)",
    ),
    kind(
        lambda: CrossEntropy()(logits, target, ignore_index=None),  # pyright: ignore[reportArgumentType]
        "ignore_index must be an integer, got None; leave it out for -100",
    ),
    value(
        lambda: row_statistics(logits, target).weight,
        "class_weight must be given to weigh a row, got None",
    ),
    Case(
        lambda: bare_row().full_logits,
        NotImplementedError,
        "the logits of a row must be complete for this loss, got them in parts; pass logits",
    ),
    Case(
        lambda: PairwiseCrossEntropy(COSTS).per_row(bare_row()),
        NotImplementedError,
        "the logits of a row must be complete for this loss, got them in parts; pass logits",
    ),
]

GAMMA = "gamma must be in [0, 1], got {}; 0 is cross entropy, 1 is 1 - p_y"
LEAST = "min_weight must be in [0, 1], got {}; 1 is cross entropy"

OPTIONS = [
    value(lambda: GammaCrossEntropy(gamma=-1.0), GAMMA.format(-1.0)),
    value(lambda: GammaCrossEntropy(gamma=1.5), GAMMA.format(1.5)),
    value(lambda: GammaCrossEntropy(gamma=nan), GAMMA.format(nan)),
    value(lambda: GammaCrossEntropy(min_weight=2), LEAST.format(2)),
    value(lambda: TaiLrWeight(gamma=1.1), GAMMA.format(1.1)),
    value(lambda: TaiLrWeight(min_weight=-0.1), LEAST.format(-0.1)),
    kind(
        lambda: GammaCrossEntropy(gamma="0.1"),  # pyright: ignore[reportArgumentType]
        "gamma must be a Python number, got '0.1'; to change it in training give Objective a schedule",
    ),
    kind(
        lambda: GammaCrossEntropy(gamma=Linear(0, 1, 9)),  # pyright: ignore[reportArgumentType]
        "gamma must be a Python number, got Linear(start=0, end=1, steps=9); to change it in training give "
        "Objective a schedule",
    ),
    kind(
        lambda: Focal(gamma=True),
        "gamma must be a Python number, got True; to change it in training give Objective a schedule",
    ),
    value(
        lambda: CrossEntropy(label_smoothing=1.01),
        "label_smoothing must be in [0, 1], got 1.01; 0 is plain cross entropy",
    ),
    value(
        lambda: FlooredCrossEntropy(floor=-1e-9), "floor must be in [0, 1], got -1e-09; it is a probability"
    ),
    value(
        lambda: FlooredCrossEntropy(floor=0.3)(logits, target),
        "floor must be at most 1/5 = 0.2 for 5 classes, got 0.3; the floors may not sum to more than 1",
    ),
    value(lambda: Focal(gamma=-0.5), "gamma must be finite and at least 0, got -0.5; 0 is cross entropy"),
    value(lambda: Focal(gamma=inf), "gamma must be finite and at least 0, got inf; 0 is cross entropy"),
    value(lambda: Poly(epsilon=-1.5), "epsilon must be finite and at least -1, got -1.5; 0 is cross entropy"),
    value(
        lambda: GeneralizedCrossEntropy(q=2), "q must be in [0, 1], got 2; 0 is cross entropy, 1 is 1 - p_y"
    ),
    value(lambda: SymmetricCrossEntropy(alpha=-1), "alpha must be finite and at least 0, got -1"),
    value(lambda: SymmetricCrossEntropy(beta=-1), "beta must be finite and at least 0, got -1"),
    value(
        lambda: SymmetricCrossEntropy(log_zero=4.0),
        "log_zero must be in [-inf, 0], got 4.0; it stands for the log of zero",
    ),
    kind(
        lambda: Reweighted(0.5),  # pyright: ignore[reportArgumentType]
        "weight must be a function of target probabilities, got 0.5; try TaiLrWeight()",
    ),
    value(
        lambda: Reweighted(lambda p: p[None])(logits, target),
        "weight must return one number per probability, (8,), got (1, 8); write it elementwise",
    ),
    value(lambda: CrossEntropy() * inf, "a coefficient must be finite, got inf"),
    value(lambda: nan * CrossEntropy(), "a coefficient must be finite, got nan"),
    value(
        lambda: LogitRange(),
        "a logit range must have either width, or low and high, got width=None, low=None, high=None",
    ),
    value(
        lambda: LogitRange(width=1.0, low=0.0, high=1.0),
        "a logit range must have either width, or low and high, got width=1.0, low=0.0, high=1.0",
    ),
    value(
        lambda: LogitRange(low=0.0),
        "a logit range must have either width, or low and high, got width=None, low=0.0, high=None",
    ),
    value(
        lambda: LogitRange(width=-1.0),
        "width must be finite and at least 0, got -1.0; it is the range that is free",
    ),
    value(lambda: LogitRange(low=-inf, high=0.0), "low must be finite, got -inf"),
    value(lambda: LogitRange(low=0.0, high=inf), "high must be finite, got inf"),
    value(lambda: LogitRange(low=2.0, high=1.0), "low must be at most high, got 2.0 and 1.0"),
    value(
        lambda: LogitRange.for_floor(0.1, num_classes=1),
        "num_classes must be at least 2, got 1; one class always has probability 1",
    ),
    value(
        lambda: LogitRange.for_floor(0.3, num_classes=4),
        "floor must be in (0, 0.25], got 0.3; the largest floor of 4 classes",
    ),
    value(
        lambda: LogitRange.for_floor(0.0, num_classes=4),
        "floor must be in (0, 0.25], got 0.0; the largest floor of 4 classes",
    ),
    value(
        lambda: Decisiveness(num_classes=1),
        "num_classes must be an integer of at least 2, got 1; None counts the logits",
    ),
    value(
        lambda: Decisiveness(num_classes=2.5),  # pyright: ignore[reportArgumentType]
        "num_classes must be an integer of at least 2, got 2.5; None counts the logits",
    ),
    value(
        lambda: matched_weight(CrossEntropy(), Entropy(), logits, target, share=0.0),
        "share must be finite and above 0, got 0.0; 1 makes both pull alike",
    ),
    value(
        lambda: matched_weight(CrossEntropy(), LogitRange(width=9.0), logits, target),
        "penalty must pull at these logits, got a gradient of norm 0.0 from LogitRange(width=9.0); use a "
        "batch where it does",
    ),
    value(
        lambda: matched_weight(CrossEntropy(), Entropy(), logits, target - 100),
        "loss must pull at these logits, got a gradient of norm 0.0 from CrossEntropy(label_smoothing=0.0); "
        "use a batch where it does",
    ),
]

MATRICES = [
    value(
        lambda: ExpectedCost([["a", "b"], ["c", "d"]]),
        "costs must be a (C, C) matrix of numbers, got [['a', 'b'], ['c', 'd']]; give a row per true class",
    ),
    value(
        lambda: ExpectedCost([[0], [0, 1]]),
        "costs must be a (C, C) matrix of numbers, got [[0], [0, 1]]; give a row per true class",
    ),
    value(
        lambda: ExpectedCost([[0.0, 1.0]]),
        "costs must be (C, C), got (1, 2); give a row per true class and a column per class",
    ),
    value(
        lambda: PairwiseCrossEntropy([]),
        "weights must be (C, C), got (0,); give a row per true class and a column per class",
    ),
    value(
        lambda: ExpectedCost(put(COSTS, 1, 2, nan)),
        "costs must be finite, got nan or infinity for true class '1' and class '2'; fill in every entry",
    ),
    value(
        lambda: ExpectedCost(COSTS)(logits, target),
        "costs must have a row and a column for each of 5 classes, got (3, 3); the logits have as "
        "many classes",
    ),
    value(
        lambda: PairwiseCrossEntropy(COSTS)(logits, target),
        "weights must have a row and a column for each of 5 classes, got (3, 3); the logits have as "
        "many classes",
    ),
    value(
        lambda: SimilarityCrossEntropy(EYE)(logits, target),
        "similarity must have a row and a column for each of 5 classes, got (3, 3); the logits have "
        "as many classes",
    ),
    value(
        lambda: SimilarityCrossEntropy(put(EYE, 2, 0, -0.5)),
        "similarity must not be negative, got -0.5 for true class '2' and class '0'; an entry is a "
        "share of the target",
    ),
    value(
        lambda: SimilarityCrossEntropy(put(EYE, 1, 0, 0.25)),
        "similarity[true, class] must have rows that sum to 1, got 1.25 for true class '1'; divide each "
        "by its sum",
    ),
    value(
        lambda: SimilarityCrossEntropy([[0.8, 0.3], [0.2, 0.7]]),
        "similarity[true, class] must have rows that sum to 1, got 1.1 for true class '0'; its columns "
        "do, so it looks transposed: exchange rows and columns",
    ),
    value(
        lambda: PairwiseCrossEntropy(put(COSTS, 0, 2, -1.0)),
        "weights must not be negative, got -1 for true class '0' and class '2'; a weight of 0 leaves "
        "a class out",
    ),
    value(
        lambda: PairwiseCrossEntropy(put(COSTS, 2, 2, 3.0)),
        "weights[true, class] must be 0 on the diagonal, got 3 for class '2'; subtract it from its row",
    ),
    value(
        lambda: ExpectedCost(put(COSTS, 1, 1, 4.0)),
        "costs[true, predicted] must be smallest where a class is called itself, got 4 for '1' as itself and "
        "1 as '0'; if it holds gains, pass its negative",
    ),
    value(
        lambda: SoftmaxMargin(put(COSTS, 0, 2, -1.0)),
        "costs[true, predicted] must be smallest where a class is called itself, got 0 for '0' as itself and "
        "-1 as '2'; if it holds gains, pass its negative",
    ),
    value(
        lambda: SoftmaxMargin(put(COSTS, 2, 2, 0.5)),
        "costs[true, class] must be 0 on the diagonal, got 0.5 for class '2'; subtract it from its row",
    ),
    value(
        lambda: HierarchicalCrossEntropy(((0, 1), 2))(logits, target),
        "tree must hold each of 5 classes once, got 3 classes",
    ),
    value(
        lambda: HierarchicalCrossEntropy((0, "horse")),
        "tree must be tuples around class indices, got 'horse'; use costs.index_tree for names",
    ),
    value(
        lambda: HierarchicalCrossEntropy(((0, 1), (1, 2))),
        "tree must hold each class once, got 1 twice; a class has one place",
    ),
    value(
        lambda: HierarchicalCrossEntropy(((0, 1), 3)),
        "tree must hold the classes from 0 on, got ((0, 1), 3); for example ((0, 1), (2, 3))",
    ),
    value(
        lambda: HierarchicalCrossEntropy((0, 1), alpha=-1.0),
        "alpha must be finite and at least 0, got -1.0; 0 is cross entropy",
    ),
]

CHOOSING = [
    kind(
        lambda: convert(10),
        "one of gamma, floor and noise must be given, got none; the other two follow from it",
    ),
    kind(
        lambda: convert(10, gamma=0.1, floor=0.01),
        "one of gamma, floor and noise must be given, got gamma and floor; the other two follow from it",
    ),
    value(lambda: convert(10, gamma=2.0), GAMMA.format(2.0)),
    value(lambda: convert(10, gamma=-0.1), GAMMA.format(-0.1)),
    value(lambda: steepest_prob(1.2), GAMMA.format(1.2)),
    value(lambda: floored_probs(logits, 1.2), GAMMA.format(1.2)),
    value(lambda: floored_log_probs(logits, -1), GAMMA.format(-1)),
    value(lambda: convert(1, gamma=0.1), "num_classes must be an integer of at least 2, got 1"),
    value(lambda: convert(1, floor=0.1), "num_classes must be an integer of at least 2, got 1"),
    value(lambda: convert(1, noise=0.1), "num_classes must be an integer of at least 2, got 1"),
    value(lambda: suggest_gamma(num_classes=1), "num_classes must be an integer of at least 2, got 1"),
    value(
        lambda: suggest_gamma(num_classes=2.5),  # pyright: ignore[reportArgumentType]
        "num_classes must be an integer of at least 2, got 2.5",
    ),
    value(
        lambda: convert(4, floor=0.3),
        "floor must be in [0, 0.25], got 0.3; the largest floor of 4 classes",
    ),
    value(
        lambda: convert(4, floor=-0.1),
        "floor must be in [0, 0.25], got -0.1; the largest floor of 4 classes",
    ),
    value(
        lambda: convert(10, noise=0.95),
        "noise must be in [0, 0.9], got 0.95; with 10 classes a label says nothing at 0.9",
    ),
    value(
        lambda: suggest_gamma(noise=-0.1, num_classes=10),
        "noise must be in [0, 0.9], got -0.1; with 10 classes a label says nothing at 0.9",
    ),
    value(
        lambda: suggest_gamma(task="translation", num_classes=3),
        "task must stand alone, got noise or num_classes with it; drop one or the other",
    ),
    value(
        lambda: suggest_gamma(task="translation", noise=0.0),
        "task must stand alone, got noise or num_classes with it; drop one or the other",
    ),
    value(
        lambda: suggest_gamma(task="chess"),
        "task must be one of 'language modelling', 'translation', 'summarisation', got 'chess'",
    ),
    value(
        lambda: suggest_gamma(),
        "num_classes must be given unless task is, got None; gamma means little without it",
    ),
    value(
        lambda: suggest_gamma(noise=0.2),
        "num_classes must be given unless task is, got None; gamma means little without it",
    ),
]


def scheduled(loss: Any, **schedules: Any) -> Objective:
    return Objective(loss, schedules={name.replace("__", "."): each for name, each in schedules.items()})


SCHEDULES = [
    value(lambda: Linear(nan, nan, 1), "start must be finite, got nan"),
    value(lambda: Linear(0, inf, 10), "end must be finite, got inf"),
    value(lambda: Cosine(-inf, 0, 10), "start must be finite, got -inf"),
    value(lambda: Linear(0, 1, 0), "steps must be an integer of at least 1, got 0"),
    value(lambda: Cosine(0, 1, -3), "steps must be an integer of at least 1, got -3"),
    value(
        lambda: Linear(0, 1, 2.5),  # pyright: ignore[reportArgumentType]
        "steps must be an integer of at least 1, got 2.5",
    ),
    kind(
        lambda: Objective(torch.nn.CrossEntropyLoss()),  # pyright: ignore[reportArgumentType]
        "loss must be a loss of equipoise, got CrossEntropyLoss(); for example CrossEntropy()",
    ),
    value(
        lambda: Objective(CrossEntropy(), reduction="batch"),
        "reduction must be one of none, mean, sum, got 'batch'",
    ),
    kind(
        lambda: scheduled(Focal(), gamma=0.5),
        "schedules['gamma'] must be a schedule, got 0.5; for one value use Constant",
    ),
    value(
        lambda: scheduled(Focal(), gamma=Linear(1, 1, 1), Focal__gamma=Linear(2, 2, 1)),
        "schedules must each have a value of their own, got gamma, Focal.gamma",
    ),
    value(
        lambda: scheduled(Focal() + GammaCrossEntropy(), gamma=Linear(1, 1, 1)),
        "schedules['gamma'] must say which of Focal.gamma, GammaCrossEntropy.gamma it means",
    ),
    value(
        lambda: scheduled(Focal(), alpha=Linear(1, 1, 1)),
        "schedules['alpha'] must name a value of Focal(gamma=2.0), one of Focal.gamma, gamma",
    ),
    value(
        lambda: scheduled(Focal() + 0.5 * Entropy(), beta=Linear(1, 1, 1)),
        "schedules['beta'] must name a value of Focal(gamma=2.0) + 0.5 * Entropy(), one of Focal, "
        "Focal.gamma, Entropy, gamma",
    ),
    value(
        lambda: scheduled(Entropy(), Entropy=Linear(1, 1, 1)),
        "schedules['Entropy'] must name a value of Entropy(), one of none, it has no numbers",
    ),
    value(
        lambda: Objective.from_config(loss="Focal()", schedule={}),
        "config must have only keys it knows, got 'schedule'; did you mean schedules?",
    ),
    value(
        lambda: Objective.from_config(reduction="sum"),
        'config must have a loss, got reduction; for example loss = "CrossEntropy()"',
    ),
    value(Objective.from_config, 'config must have a loss, got nothing; for example loss = "CrossEntropy()"'),
    kind(
        lambda: Objective.from_config(loss={"gamma": 0.1}),
        "loss must be a loss of equipoise, got {'gamma': 0.1}; for example CrossEntropy()",
    ),
    kind(
        lambda: Objective.from_config(loss="Focal()", schedules="Linear(0, 1, 9)"),
        "schedules must be a mapping, got 'Linear(0, 1, 9)'; for example {'gamma': 'Linear(0.0, 0.5, 1000)'}",
    ),
    value(
        lambda: Objective.from_config(loss="Focal()", weight="balanced"),
        "weight must be a list of numbers, one per class, got 'balanced'",
    ),
    value(
        lambda: Objective.from_config(loss="Focal()", weight=2.0),
        "weight must be a list of numbers, one per class, got 2.0",
    ),
    value(lambda: scheduled(GammaCrossEntropy(), gamma=Linear(0, 2, 9)), GAMMA.format(2.0)),
    value(lambda: scheduled(GammaCrossEntropy(), min_weight=Linear(-1, 0, 9)), LEAST.format(-1.0)),
    value(
        lambda: scheduled(LogitRange(width=1.0), width=Cosine(1, -1, 9)),
        "width must be finite and at least 0, got -1.0; it is the range that is free",
    ),
    value(
        lambda: scheduled(FlooredCrossEntropy(), floor=Linear(0, 0.5, 9))(logits, target),
        "floor must be at most 1/5 = 0.2 for 5 classes, got 0.5; the floors may not sum to more than 1",
    ),
]

hidden, head = torch.zeros(8, 3, requires_grad=True), torch.zeros(5, 3, requires_grad=True)


def fused(**options: Any) -> Any:
    given = {"hidden": hidden, "linear_weight": head, "target": target, **options}
    return lambda: CrossEntropy().linear(**given)


def learnt_in_whole() -> Any:
    weights = torch.ones(3, requires_grad=True)
    return PairwiseCrossEntropy(COSTS).linear(hidden, torch.zeros(3, 3), target, weight=weights)


def twice() -> Any:
    return torch.autograd.grad(fused()(), head, create_graph=True)


@dataclass(frozen=True)
class Centred(RowLoss):
    def per_row(self, row: RowStatistics, /) -> Tensor:
        return row.log_odds() - row.log_odds().mean()

    def __repr__(self) -> str:
        return "Centred()"


FUSED = [
    kind(fused(hidden=[[0.0]]), "hidden must be a floating tensor, got list"),
    kind(fused(linear_weight=head.long()), "linear_weight must be a floating tensor, got torch.int64"),
    kind(fused(lora=[head, head]), "lora must be (A, B) or (A, B, scale), got list"),
    kind(
        fused(logit_scale=torch.ones(())),
        "logit_scale must be a Python number, got Tensor; multiply hidden by a learnable one",
    ),
    value(fused(logit_scale=inf), "logit_scale must be finite, got inf"),
    value(
        fused(linear_weight=head.double()),
        "linear_weight must have the dtype and device of hidden, torch.float32 on cpu, got torch.float64 on "
        "cpu; use linear_weight.to(hidden) or autocast",
    ),
    value(
        fused(linear_weight=head.T),
        "linear_weight must be (V, D) and hidden (..., D), got (3, 5) and (8, 3); a class is a row of "
        "linear_weight",
    ),
    value(fused(linear_bias=torch.zeros(3)), "linear_bias must be (5,), one number per class, got (3,)"),
    value(
        fused(lora=(torch.zeros(2, 3), torch.zeros(2, 5))),
        "lora must be A (r, 3) and B (5, r), got (2, 3) and (2, 5)",
    ),
    value(fused(softcap=0.0), "softcap must be above 0, got 0.0; None for no cap"),
    value(
        fused(denominator=3, reduction="sum"),
        "denominator must be left out unless reduction is 'mean', got 'sum'",
    ),
    value(fused(denominator=torch.ones(2)), "denominator must be one number, got shape (2,)"),
    value(fused(denominator=0), "denominator must be above 0, got 0"),
    value(
        fused(sample_weight=torch.ones(5)),
        "sample_weight must be a tensor (8,), one number per row, got (5,)",
    ),
    value(fused(weight=torch.ones(3)), "weight must be (5,), one number per class, got (3,)"),
    value(fused(target=None), "target must be given, got None; only penalties can do without one"),
    value(fused(target=target + 5), "target must be in [0, 5) or ignore_index=-100, got 5"),
    value(fused(backend="cuda"), "backend must be one of auto, torch, cpp, triton, got 'cuda'"),
    value(
        fused(
            backend="triton",
            hidden=hidden.to("meta"),
            linear_weight=head.to("meta"),
            target=target.to("meta"),
        ),
        "backend must be 'torch' or 'auto' here, got 'triton', which is not there for meta",
    ),
    value(
        fused(
            backend="cpp", hidden=hidden.to("meta"), linear_weight=head.to("meta"), target=target.to("meta")
        ),
        "backend must be 'torch' or 'auto' here, got 'cpp', which is not there for meta; it is compiled with "
        "the package where there is g++ on Linux",
    ),
    value(fused(grad="backward"), "grad must be one of auto, forward, recompute, got 'backward'"),
    value(
        fused(grad="forward", reduction="none"),
        "grad must be 'auto' or 'recompute' here, got 'forward': reduction is 'none'",
    ),
    value(fused(block_bytes=0), "block_bytes must be a positive number of bytes, got 0"),
    value(
        lambda: (CrossEntropy() + Balance()).linear(hidden, head, target),
        "a fused loss must look at one row at a time, got Balance(); pass logits: "
        "loss(hidden @ linear_weight.T, target)",
    ),
    value(
        lambda: Centred().linear(hidden, head, target),
        "a fused loss must look at one row at a time, got Centred(), whose loss of a row depends on the rows "
        "beside it; pass logits: loss(hidden @ linear_weight.T, target)",
    ),
    value(
        learnt_in_whole,
        "numbers in the loss and class weights must need no gradient with complete rows, got one that does; "
        "pass logits: loss(hidden @ linear_weight.T, target)",
    ),
    value(
        lambda: linear.row_statistics(hidden, head, stats=[LogOdds()]),
        "target must be given, got None; only penalties can do without one",
    ),
    value(
        lambda: linear.row_statistics(hidden, head, stats=[LogSumExp()]).entropy,
        "stats must hold Entropy() for it to be asked, got LogSumExp(scale=1.0); the logits are gone",
    ),
    Case(
        twice,
        RuntimeError,
        "create_graph must be False for a fused loss, got True; for second derivatives use "
        "loss(hidden @ linear_weight.T, target)",
    ),
    value(
        lambda: TritonBackend().states(Block(torch.zeros(3, 4).T, [StateName("base")], separate=False)),
        "logits must have the classes of a row side by side, got strides (1, 4); pass logits.contiguous()",
    ),
]

BATCH = (
    "{} must be no tensor, got one of shape {}; make it first, then call it: loss(logits, target), or "
    "map(logits)"
)
CLASS = "a loss must be made before it is combined, got the class {0}; write {0}()"
COEFFICIENT = (
    "a coefficient must be a Python number, got a tensor; use .item(), or multiply the value: "
    "factor * loss(logits, target)"
)
one_hot = torch.nn.functional.one_hot(target, 5)

DOORS = [
    kind(lambda: GammaCrossEntropy(logits, target), BATCH.format("gamma", (8, 5))),  # pyright: ignore[reportArgumentType]
    kind(lambda: Decisiveness(logits), BATCH.format("num_classes", (8, 5))),  # pyright: ignore[reportArgumentType]
    kind(lambda: 0.1 * Entropy, CLASS.format("Entropy")),
    kind(lambda: CrossEntropy() / torch.tensor(2.0), COEFFICIENT),
    kind(
        lambda: Objective(CrossEntropy),  # pyright: ignore[reportArgumentType]
        "loss must be a loss of equipoise, got <class 'equipoise.losses.cross_entropy.CrossEntropy'>; write "
        "CrossEntropy()",
    ),
    kind(
        lambda: Objective("Focal()"),  # pyright: ignore[reportArgumentType]
        "loss must be a loss of equipoise, got 'Focal()'; Objective.from_config takes a text",
    ),
    kind(
        lambda: scheduled(Focal(), gamma="Linear(2, 0, 9)"),
        "schedules['gamma'] must be a schedule, got 'Linear(2, 0, 9)'; Objective.from_config takes a text",
    ),
    kind(
        lambda: scheduled(Focal(), gamma=Linear),
        "schedules['gamma'] must be a schedule, got <class 'equipoise.schedules.Linear'>; make one of it",
    ),
    kind(
        lambda: Objective.from_config({"loss": "Focal()"}),  # pyright: ignore[reportArgumentType]
        "loss must be a loss of equipoise or its text, got {'loss': 'Focal()'}; write from_config(**config)",
    ),
    kind(
        lambda: CrossEntropy()(logits, one_hot),
        "target must be floating when it has the shape of the logits, got torch.int64; use "
        "target.to(logits.dtype) for one-hot rows, target.argmax(1) for their classes",
    ),
    value(
        fused(target=probs(8, 5).requires_grad_()),
        "target must need no gradient in a fused loss, got probabilities that do; pass target.detach(), or "
        "logits: loss(hidden @ linear_weight.T, target)",
    ),
    value(
        lambda: matched_weight(torch.zeros(2), Entropy(), logits),
        "loss must be one number, got a value of shape (2,); take its mean",
    ),
    value(
        lambda: matched_weight(torch.tensor(1.0), Entropy(), logits),
        "loss must be computed from the logits, got a value whose gradient does not reach them; pass the "
        "very tensor that the model used",
    ),
]

COMPILED = [
    value(
        lambda: CppBackend().states(
            Block(logits, [StateName("target_logit")], separate=True, target=target - 100)
        ),
        "target must be in [0, 5), got -100; leave such rows out",
    ),
]

CASES = READING + OPTIONS + MATRICES + CHOOSING + SCHEDULES + FUSED + DOORS + COMPILED * cpu.available()
NEEDS_KERNELS = pytest.mark.skipif(
    not cpu.available(), reason="the kernels were not compiled when the package was installed"
)


def claim(says: str) -> str:
    """Return argument, rule and value of an error, without the way out."""
    return says.partition("; ")[0]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.says[:50])
def test_what_an_error_says(case: Case) -> None:
    """An error names the argument, the rule and the value, and ends in a way out where there is one."""
    with pytest.raises(case.error) as caught:
        case.call()
    assert type(caught.value) is case.error
    said = str(caught.value)
    assert claim(said) == claim(case.says)
    assert ("; " in said) == ("; " in case.says)  # the way out, in any words
    name, must, rest = said.partition(" must ")
    assert must
    assert name[0].islower()
    assert not said.endswith(".")
    address = name.startswith("schedules['")  # the value is the address itself
    assert address or ", got " in rest or " got a" in rest


@NEEDS_KERNELS
def test_every_error_is_raised_by_some_case() -> None:
    assert never_raised(SOURCE, [case.call for case in CASES], outside=OUTSIDE) == set()


@NEEDS_KERNELS
def test_an_error_without_a_case_is_found(tmp_path: Path) -> None:
    without = [case.call for case in CASES if "looks at the batch as a whole" not in case.says]
    (missing,) = never_raised(SOURCE, without, outside=OUTSIDE)
    assert missing.startswith("losses/rows.py:")
    (tmp_path / "planted.py").write_text("def of(x):\n    if x:\n        raise ValueError(x)\n")
    assert never_raised(tmp_path, [case.call for case in CASES]) == {"planted.py:3"}


@pytest.mark.parametrize(
    "call",
    [
        lambda: CrossEntropy() + 1,
        lambda: 1 + CrossEntropy(),
        lambda: CrossEntropy() - 1,
        lambda: CrossEntropy() * "2",
        lambda: CrossEntropy() * True,
        lambda: CrossEntropy() * CrossEntropy(),
    ],
)
def test_losses_add_to_losses_and_scale_by_numbers_alone(call: Callable[[], Any]) -> None:
    with pytest.raises(TypeError, match=r"unsupported operand type|can't multiply"):
        call()
