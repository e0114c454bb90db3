"""Losses for ordered classes, and for classes in a tree."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from equipoise._checks import check_number, refuse_batch
from equipoise._tensors import ConstantTensor, like
from equipoise.losses.base import RowLoss
from equipoise.losses.table import Entry
from equipoise.statistics import FullLogits, RowStatistics
from equipoise.statistics.functions import softplus
from equipoise.statistics.states import finite_limit


@final
@dataclass(frozen=True)
class RankedProbabilityScore(RowLoss):
    r"""Squared distance between the cumulative probabilities and those of the label, for ordered classes.

    With p = softmax(z), target class y and :math:`F_k = \sum_{j \le k} p_j`, a row costs

    .. math:: \sum_k \left(F_k - [k \ge y]\right)^2.

    A mistake costs more the more classes lie between it and the label. Proper: the optimum is the true
    probabilities. Bounded by C - 1, so the gradient is small for confident mistakes; add cross entropy if
    training is slow to start.

    Shapes:
        See `Loss.__call__`.

    Numerics:
        With m the likeliest class, :math:`F_k` is a sum from the first class for k < m, and :math:`1 - F_k` a
        sum from the last class for k >= m, so that neither sum contains :math:`p_m`. The complement of either
        is not small, so 1 minus the sum is exact. A masked class is removed from the order.

    Example:
        >>> near, far = torch.tensor([[0.0, 4.0, 0.0]]), torch.tensor([[0.0, 0.0, 4.0]])
        >>> loss, target = RankedProbabilityScore(), torch.tensor([0])
        >>> loss(near, target), loss(far, target)
        (tensor(0.9653), tensor(1.8956))

    Source:
        Epstein 1969 (ranked probability score); Hou, Yu and Samaras, arXiv:1611.05916 (squared earth mover's
        distance).
    """

    def per_row(self, row: RowStatistics, /) -> Tensor:
        """Return the loss of one row."""
        full = row.full_logits
        probs = full.logits.softmax(1)
        places = torch.arange(row.num_classes, device=probs.device, dtype=probs.dtype)
        late = _from_on(places, probs.detach().argmax(1, keepdim=True))
        up_to = probs.cumsum(1)  # F_k
        beyond = F.pad(_from_the_end(probs)[:, 1:], (0, 1))  # 1 - F_k
        rest = up_to * (1 - late) - beyond * late  # F_k - late: the sum without the likeliest class
        present = (full.logits != -torch.inf).to(probs.dtype)  # a nan is present
        if full.target is not None:
            return ((rest + (late - _from_on(places, full.target[:, None]))).square() * present).sum(1)
        below = (rest + late).square() * present  # for a target above k
        above = (rest + (late - 1)).square() * present  # for a target up to k
        return F.pad(below.cumsum(1)[:, :-1], (1, 0)) + _from_the_end(above)


def _from_on(places: Tensor, first: Tensor) -> Tensor:
    """Return 1 for classes from `first` on, 0 for those before."""
    return (places - first + 1).clamp(0, 1)


def _from_the_end(values: Tensor) -> Tensor:
    return values.flip(1).cumsum(1).flip(1)


Tree = tuple[Any, ...]
SUMS = 8  # partial sums per sum: consecutive additions to one address wait for each other


@final
@dataclass(frozen=True)
class HierarchicalCrossEntropy(RowLoss):
    r"""Weighted sum of the cross entropies of the branch choices from the root of a tree to the class.

    With p = softmax(z), the nodes :math:`v_0 = y, v_1, \dots, v_L` from the target's leaf to the root, and
    h(v) the number of steps from the root down to a node, a row costs

    .. math:: -\sum_{l < L} e^{-\alpha h(v_l)} \log p(v_l \mid v_{l+1}),
       \qquad p(v \mid u) = \frac{\sum_{k \in v} p_k}{\sum_{k \in u} p_k}.

    Cross entropy at alpha = 0. The larger alpha, the larger the weight of choices near the root relative to
    those between the classes of one branch, which are learnt more slowly then. Proper: each term is a cross
    entropy, so the optimum is the true probabilities.

    Args:
        tree: Nested tuples or lists of class indices, `((0, 1), (2, (3, 4)))`; `costs.index_tree` makes them
            from groups or a graph.
        alpha: At least 0; each step down multiplies the weight of a choice by exp(-alpha).

    Shapes:
        See `Loss.__call__`. With target probabilities it needs (N, C, C) numbers.

    Raises:
        TypeError: If alpha is not a number.
        ValueError: If tree does not contain each class from 0 on once, or alpha is negative, or, when called,
            if the logits have another number of classes.

    Numerics:
        -log p(v | u) = softplus(a - b), a the log-sum-exp over the leaves of u outside v, b that over v: no
        probability is divided by another, so the loss is exact where probabilities underflow. A masked class
        is left out.

    Example:
        >>> loss = HierarchicalCrossEntropy(((0, 1), (2, 3)), alpha=0.5)  # horse, zebra, whale, shark
        >>> zebra, whale = torch.tensor([[0.0, 4.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, 4.0, 0.0]])
        >>> loss(zebra, torch.tensor([0])), loss(whale, torch.tensor([0]))
        (tensor(1.4996), tensor(2.2931))

    Source:
        Bertinetto et al., CVPR 2020, arXiv:1912.09393.
    """

    tree: Tree
    alpha: float | Tensor = 0.1

    def __post_init__(self) -> None:
        check_number("alpha", self.alpha, 0, hint="0 is cross entropy")
        refuse_batch("tree", self.tree)
        tree = _tuples(self.tree)
        object.__setattr__(self, "tree", tree)
        object.__setattr__(self, "_levels", tuple(map(ConstantTensor, _levels(tree))))

    def per_row(self, row: RowStatistics, /) -> Tensor:
        """Return the loss of one row."""
        full = row.full_logits
        levels, depths = self.__dict__["_levels"]
        levels, depths = levels.fit(full.logits, torch.int16), depths.fit(full.logits)
        if len(levels) != row.num_classes:
            raise ValueError(
                f"tree must hold each of {row.num_classes} classes once, got {len(levels)} classes"
            )
        joining = _log_sums(full, levels, depths.shape[1] + 1)
        below = torch.ones(*joining.shape[-1:] * 2, dtype=torch.bool, device=joining.device).tril()[:-1]
        limit = finite_limit(joining.dtype)
        branch = torch.where(below, joining[..., None, :], -limit).logsumexp(-1)
        weights = torch.exp(-like(self.alpha, joining) * full.rows(depths))
        return (weights * softplus(joining[..., 1:] - branch)).sum(-1)


def _log_sums(full: FullLogits, levels: Tensor, count: int) -> Tensor:
    """Return the log-sum-exp of the logits at each level; of no classes, a large negative number.

    Args:
        full: The logits (N, C).
        levels: (C, C), indexed [target, class]: the partial sum of the class, level * `SUMS` + class %
            `SUMS`.
        count: Number of levels.
    """
    classes, place = torch.broadcast_tensors(full.classes, full.rows(levels).long())
    shape = (*classes.shape[:-1], count * SUMS)
    least = classes.new_full(shape, -finite_limit(classes.dtype))
    largest = least.scatter_reduce(-1, place, classes.detach(), "amax")
    base = largest.unflatten(-1, (count, SUMS)).amax(-1, keepdim=True)
    terms = torch.exp(classes - base.expand(*base.shape[:-1], SUMS).flatten(-2).gather(-1, place))
    total = torch.zeros_like(least).scatter_add(-1, place, terms).unflatten(-1, (count, SUMS)).sum(-1)
    return base[..., 0] + torch.where(total == 0, 1.0, total).log()


def _tuples(tree: Any) -> Any:
    """Return the tree with lists converted to tuples; raise unless its leaves are integers."""
    if isinstance(tree, tuple | list):
        return tuple(_tuples(node) for node in tree)
    if isinstance(tree, bool) or not isinstance(tree, int):
        raise ValueError(
            f"tree must be tuples around class indices, got {tree!r}; use costs.index_tree for names"
        )
    return tree


@lru_cache(maxsize=64)
def _levels(tree: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the partial sum of each pair of classes (C, C), and the depth of each ancestor (C, L).

    Level l of a target has the classes below its l-th ancestor that are not below the one before; level 0 is
    the target. The partial sum of a class is level * `SUMS` + class % `SUMS`.
    """
    paths: dict[int, list[list[int]]] = {}

    def walk(node: Any) -> list[int]:
        if isinstance(node, int):
            if node in paths:
                raise ValueError(f"tree must hold each class once, got {node} twice; a class has one place")
            paths[node] = [[node]]
            return [node]
        leaves = [leaf for child in node for leaf in walk(child)]
        for leaf in leaves:
            paths[leaf].append(leaves)
        return leaves

    leaves = walk(tree)
    if isinstance(tree, int) or not leaves or sorted(leaves) != list(range(len(leaves))):
        raise ValueError(f"tree must hold the classes from 0 on, got {tree}; for example ((0, 1), (2, 3))")
    size, steps = len(leaves), max(map(len, paths.values())) - 1
    levels = np.zeros((size, size), dtype=np.int16)
    depths = np.zeros((size, steps), dtype=np.int16)
    for leaf, path in paths.items():
        for level in reversed(range(len(path))):
            levels[leaf, path[level]] = level
        depths[leaf, : len(path) - 1] = range(len(path) - 1, 0, -1)
    return levels * SUMS + np.arange(size, dtype=np.int16) % SUMS, depths


ENTRIES = (
    Entry(
        RankedProbabilityScore,
        source="Epstein 1969; Hou et al., arXiv:1611.05916",
        proper=lambda loss: True,
        bounded=lambda loss: True,
    ),
    Entry(
        HierarchicalCrossEntropy, source="Bertinetto et al. 2020, arXiv:1912.09393", proper=lambda loss: True
    ),
)
