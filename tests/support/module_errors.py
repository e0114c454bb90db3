"""Errors of suggested gammas, schedules, objectives and fused losses, and of misplaced arguments."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from equipoise import Objective, linear
from equipoise.kernels.block import Block, CppBackend
from equipoise.kernels.triton import TritonBackend
from equipoise.label_noise import convert, floored_log_probs, floored_probs, steepest_prob, suggest_gamma
from equipoise.losses import (
    CrossEntropy,
    FlooredCrossEntropy,
    Focal,
    GammaCrossEntropy,
    PairwiseCrossEntropy,
    RowLoss,
)
from equipoise.penalties import Balance, Decisiveness, Entropy, LogitRange, matched_weight
from equipoise.schedules import Cosine, Linear
from equipoise.statistics import LogOdds, LogSumExp, RowStatistics
from equipoise.statistics.states import StateName
from support.error_cases import COSTS, GAMMA, LEAST, Case, inf, kind, logits, nan, probs, target, value

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
