"""Errors of calls of losses, and of their options."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from equipoise.linear import explain
from equipoise.losses import (
    CrossEntropy,
    FlooredCrossEntropy,
    Focal,
    GammaCrossEntropy,
    GeneralizedCrossEntropy,
    PairwiseCrossEntropy,
    Poly,
    Reweighted,
    SimilarityCrossEntropy,
    SoftmaxMargin,
    SymmetricCrossEntropy,
    TaiLrWeight,
)
from equipoise.maps import Softmax
from equipoise.penalties import Balance, Decisiveness, Entropy, LogitRange, matched_weight
from equipoise.schedules import Linear
from equipoise.statistics import RowStatistics, row_statistics
from support.error_cases import COSTS, EYE, GAMMA, LEAST, Case, inf, kind, logits, nan, probs, target, value


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
