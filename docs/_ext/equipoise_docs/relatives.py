"""Which loss, penalty, map or schedule is which other one at some setting; each statement is computed."""

import ast
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equipoise import losses, maps, penalties, schedules
from equipoise.losses import Loss
from equipoise.maps import Map
from equipoise.schedules import Schedule
from equipoise_docs.names import FAMILIES

EQUALS, VALUES, GRADIENT = "equals", "has the values of", "has the gradient of"
LIMIT, SHIFTED = "tends to", "equals, but for a constant,"
OWN, CROSS = (
    "is the mean, over classes drawn from the model's own probabilities, of",
    "is cross entropy after",
)
TWICE, BOUND = "is the first of these maps after the second:", "guarantees the same minimum probability as"
ZERO, DRAWN, MEETS = "is 0 where nothing is clipped by", "has as its largest entry a draw from", "meets"
EXACT = 1e-11  # relative to the largest value
CLOSER = 0.2  # in a limit, each setting's error is at most this share of the error of the one before


@dataclass(frozen=True)
class Relation:
    """A statement about two expressions in the names of the package.

    Args:
        left: Expression; with `along` it has a field for the option that changes.
        kind: One of the constants above, which is also how the statement reads.
        right: Expression; two of them with `TWICE`, separated by " after ".
        where: Condition of the statement, in words.
        classes: Number of classes for which it is computed.
        scale: Factor on the standard normal logits.
        unit: Whether the logits have norm 1.
        along: Settings of a limit, each nearer to it.
    """

    left: str
    kind: str
    right: str
    where: str = ""
    classes: int = 5
    scale: float = 3.0
    unit: bool = False
    along: tuple[float, ...] = ()

    @property
    def objectives(self) -> tuple[str, ...]:
        """Return the names of the losses, penalties, maps and schedules, in the order of the statement."""
        return tuple(dict.fromkeys([*objectives_in(self.left), *objectives_in(self.right)]))

    def __str__(self) -> str:
        """Return the statement in Markdown."""
        left = self.left.replace("={}", "")
        right = " after ".join(f"`{part}`" for part in self.right.split(" after "))
        return f"`{left}` {self.kind} {right}{', ' if self.where else ''}{self.where}."


RELATIVES = (
    Relation("GammaCrossEntropy(gamma=0)", EQUALS, "CrossEntropy()"),
    Relation("GammaCrossEntropy(gamma=1)", EQUALS, "GeneralizedCrossEntropy(q=1)", "which is 1 - p_y"),
    Relation("GammaCrossEntropy(gamma=0.1, min_weight=1)", EQUALS, "CrossEntropy()"),
    Relation(
        "FlooredCrossEntropy(floor=1 / 14)",
        SHIFTED,
        "0.9 * GammaCrossEntropy(gamma=0.1)",
        "for five classes: floor = gamma / (1 + (n - 1) gamma), see `label_noise.convert`",
    ),
    Relation("FlooredCrossEntropy(floor=0)", EQUALS, "CrossEntropy()"),
    Relation("FlooredCrossEntropy(floor=0.02)", CROSS, "Floored(floor=0.02)"),
    Relation(
        "GeneralizedCrossEntropy(q={})", LIMIT, "CrossEntropy()", "as q falls to 0", along=(0.1, 0.01, 0.001)
    ),
    Relation("Focal(gamma=0)", EQUALS, "CrossEntropy()"),
    Relation("Poly(epsilon=0)", EQUALS, "CrossEntropy()"),
    Relation("Poly(epsilon=0.5)", EQUALS, "SymmetricCrossEntropy(alpha=1, beta=0.5, log_zero=-1)"),
    Relation("SymmetricCrossEntropy(alpha=1, beta=0)", EQUALS, "CrossEntropy()"),
    Relation("SymmetricCrossEntropy(alpha=0, beta=1, log_zero=-1)", EQUALS, "GeneralizedCrossEntropy(q=1)"),
    Relation(
        "Reweighted(TaiLrWeight(gamma=0.1, min_weight=0.2))",
        GRADIENT,
        "GammaCrossEntropy(gamma=0.1, min_weight=0.2)",
    ),
    Relation("Reweighted(DFTWeight())", GRADIENT, "GeneralizedCrossEntropy(q=1)"),
    Relation("SimilarityCrossEntropy(identity)", EQUALS, "CrossEntropy()"),
    Relation(
        "SimilarityCrossEntropy(0.9 * identity + 0.1 / 5)",
        EQUALS,
        "CrossEntropy(label_smoothing=0.1)",
        "for five classes",
    ),
    Relation("PairwiseCrossEntropy(1 - identity)", EQUALS, "CrossEntropy()", "for two classes", classes=2),
    Relation("ExpectedCost(1 - identity)", EQUALS, "GeneralizedCrossEntropy(q=1)"),
    Relation("SoftmaxMargin(0 * identity)", EQUALS, "CrossEntropy()"),
    Relation("HierarchicalCrossEntropy(((0, 1), (2, (3, 4))), alpha=0)", EQUALS, "CrossEntropy()"),
    Relation("RankedProbabilityScore()", EQUALS, "0.5 * Brier()", "for two classes", classes=2),
    Relation("Entropy()", OWN, "CrossEntropy()"),
    Relation("Gini()", OWN, "Brier()"),
    Relation("Decisiveness()", EQUALS, "Gini()", "for two classes", classes=2),
    Relation("Balance()", SHIFTED, "-Entropy()", "for a batch of one row"),
    Relation("LogitRange(low=-2, high=2)", ZERO, "ClippedLogits(low=-2, high=2)"),
    Relation("Floored(floor=0)", EQUALS, "Softmax()"),
    Relation(
        "Projected(floor=0.01)", EQUALS, "Softmax()", "where no probability is below the floor", scale=0.3
    ),
    Relation(
        "Clipped(floor=0.01)", EQUALS, "Softmax()", "where no probability is below the floor", scale=0.3
    ),
    Relation("ClippedLogits(low=-2, high=2)", EQUALS, "Softmax()", "where no logit is clipped", scale=0.3),
    Relation("ClippedLogits(low=-2, high=2)", BOUND, "SoftCapped(cap=2)"),
    Relation("SoftCapped(cap={})", LIMIT, "Softmax()", "as the cap grows", along=(10.0, 100.0, 1000.0)),
    Relation(
        "LogitNorm(temperature=0.5)", VALUES, "Softmax(temperature=0.5)", "for logits of norm 1", unit=True
    ),
    Relation("Resoftmax(alpha=20)", TWICE, "Softmax(temperature=1 / 20) after Softmax()"),
    Relation("Entmax(alpha=2)", EQUALS, "Sparsemax()"),
    Relation("Entmax(alpha={})", LIMIT, "Softmax()", "as alpha falls to 1", along=(1.1, 1.01, 1.001)),
    Relation(
        "Softmax(temperature={})",
        LIMIT,
        "StraightThrough(Softmax())",
        "as the temperature falls to 0, in value",
        along=(1.0, 0.1, 0.001),
    ),
    Relation("StraightThrough(Softmax())", GRADIENT, "Softmax()"),
    Relation("GumbelSoftmax()", DRAWN, "Softmax()"),
    Relation(
        "Cosine(0, 1, steps=100)", MEETS, "Linear(0, 1, steps=100)", "at the start, the middle and the end"
    ),
)


def objectives_in(text: str) -> list[str]:
    """Return the names of losses, penalties, maps and schedules in an expression, in its order."""
    known = {made.__name__ for family in FAMILIES.values() for made in family}
    tree = ast.parse(text.replace("{}", "0").replace(" after ", ", "))
    called = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    return [node.id for node in sorted(called, key=lambda node: node.col_offset) if node.id in known]


def relatives_of(name: str) -> list[Relation]:
    """Return the statements that have a loss, penalty, map or schedule in them."""
    return [each for each in RELATIVES if name in each.objectives]


def false_relations(relations: tuple[Relation, ...] = RELATIVES) -> list[str]:
    """Return the statements that do not hold, each with how far from it the values are."""
    found = []
    for each in relations:
        generator = torch.Generator().manual_seed(7)
        rows = 1 if "Balance" in each.left else 64
        logits = each.scale * torch.randn(rows, each.classes, dtype=torch.float64, generator=generator)
        if each.unit:
            logits = logits / logits.norm(dim=1, keepdim=True)
        target = torch.randint(each.classes, (rows,), generator=generator)
        if error := _CHECKS[each.kind](each, logits, target):
            found.append(f"{each} It does not hold: {error}.")
    return found


def made(expression: str, classes: int) -> Any:
    """Return the value of an expression in the public names of losses, penalties, maps and schedules."""
    space = {
        name: getattr(module, name)
        for module in (losses, penalties, maps, schedules)
        for name in module.__all__
    }
    return eval(expression, {**space, "identity": np.eye(classes)})


def computed(of: Loss | Map, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the values of a loss, or the probabilities of a map, and a gradient by the logits."""
    leaf = logits.clone().requires_grad_()
    if isinstance(of, Map):
        values = of.probs(leaf)
        weights = torch.linspace(-1, 1, values.numel(), dtype=values.dtype).reshape(values.shape)
        total = (weights * values).sum()
    else:
        whole = any(not each._is_row_loss() for _, each in of.terms())
        values = of(leaf, target, reduction="mean" if whole else "none")
        total = values.sum()
    (gradient,) = torch.autograd.grad(total, leaf)
    return values.detach(), gradient


def _apart(one: Tensor, other: Tensor) -> str:
    """Return the largest difference in words; "" if it is within rounding."""
    error = (one - other).abs().max().item()
    return "" if error <= EXACT * max(1.0, other.abs().max().item()) else f"they differ by {error:.3g}"


def _equal(it: Relation, logits: Tensor, target: Tensor) -> str:
    one, other = (computed(made(each, it.classes), logits, target) for each in (it.left, it.right))
    return _apart(one[0], other[0]) or _apart(one[1], other[1])


def _limit(it: Relation, logits: Tensor, target: Tensor) -> str:
    goal, _ = computed(made(it.right, it.classes), logits, target)
    errors = [
        (computed(made(it.left.format(value), it.classes), logits, target)[0] - goal).abs().mean().item()
        for value in it.along
    ]
    nearer = all(b <= CLOSER * a for a, b in pairwise(errors))
    return (
        "" if len(errors) > 2 and nearer else f"the errors are {', '.join(f'{each:.3g}' for each in errors)}"
    )


def _same_values(it: Relation, logits: Tensor, target: Tensor) -> str:
    one, other = (computed(made(each, it.classes), logits, target) for each in (it.left, it.right))
    return _apart(one[0], other[0]) or ("" if _apart(one[1], other[1]) else "the gradients are equal too")


def _same_gradient(it: Relation, logits: Tensor, target: Tensor) -> str:
    one, other = (computed(made(each, it.classes), logits, target) for each in (it.left, it.right))
    return _apart(one[1], other[1]) or ("" if _apart(one[0], other[0]) else "the values are equal too")


def _shifted(it: Relation, logits: Tensor, target: Tensor) -> str:
    one, other = (computed(made(each, it.classes), logits, target) for each in (it.left, it.right))
    moved, again = (computed(made(each, it.classes), 0.5 * logits, target)[0] for each in (it.left, it.right))
    difference = (one[0] - other[0]).reshape(-1)
    constant = difference[:1].expand_as(difference)
    shift = (moved - again).reshape(-1)
    return _apart(one[1], other[1]) or _apart(difference, constant) or _apart(shift, constant)


def _own_mean(it: Relation, logits: Tensor, target: Tensor) -> str:
    del target
    penalty, loss = made(it.left, it.classes), made(it.right, it.classes)
    return _apart(penalty(logits, reduction="none"), loss(logits, logits.softmax(1), reduction="none"))


def _cross_entropy_after(it: Relation, logits: Tensor, target: Tensor) -> str:
    loss, map_ = made(it.left, it.classes), made(it.right, it.classes)
    plain = torch.nn.functional.nll_loss(map_.log_probs(logits), target, reduction="none")
    return _apart(loss(logits, target, reduction="none"), plain)


def _twice(it: Relation, logits: Tensor, target: Tensor) -> str:
    del target
    outer, inner = (made(each, it.classes) for each in it.right.split(" after "))
    return _apart(made(it.left, it.classes).probs(logits), outer.probs(inner.probs(logits)))


def _same_bound(it: Relation, logits: Tensor, target: Tensor) -> str:
    del logits, target
    one, other = (torch.tensor(made(each, it.classes).min_prob(it.classes)) for each in (it.left, it.right))
    return _apart(one, other)


def _zero(it: Relation, logits: Tensor, target: Tensor) -> str:
    del target
    free = made(it.left, it.classes)(logits, reduction="none") == 0
    same = (made(it.right, it.classes).probs(logits) - logits.softmax(1)).abs().amax(1) < EXACT
    mixed = 0 < int(same.sum()) < len(same)
    return "" if mixed and bool((free == same).all()) else f"{int((free != same).sum())} rows differ"


def _drawn(it: Relation, logits: Tensor, target: Tensor) -> str:
    del target
    map_, probs = made(it.left, it.classes), made(it.right, it.classes).probs(logits[0] / it.scale)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = map_.probs((logits[0] / it.scale).expand(40_000, -1)).argmax(1)
    shares = drawn.bincount(minlength=it.classes) / len(drawn)
    error = (shares - probs).abs().max().item()
    return "" if error < 0.01 else f"the shares differ by {error:.3g}"


def _meets(it: Relation, logits: Tensor, target: Tensor) -> str:
    del logits, target
    one, other = (made(each, it.classes) for each in (it.left, it.right))
    assert isinstance(one, Schedule)
    near = [abs(one(step) - other(step)) for step in (0, 50, 100, 200)]
    apart = abs(one(25) - other(25))
    return "" if max(near) < EXACT < apart else f"they differ by {max(near):.3g}, elsewhere by {apart:.3g}"


_CHECKS: dict[str, Callable[[Relation, Tensor, Tensor], str]] = {
    EQUALS: _equal,
    VALUES: _same_values,
    LIMIT: _limit,
    GRADIENT: _same_gradient,
    SHIFTED: _shifted,
    OWN: _own_mean,
    CROSS: _cross_entropy_after,
    TWICE: _twice,
    BOUND: _same_bound,
    ZERO: _zero,
    DRAWN: _drawn,
    MEETS: _meets,
}
