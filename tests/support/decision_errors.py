"""Wrong calls of `decide` and `top_k`, and what the error says."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from equipoise.costs import decide, ordinal, top_k

COSTS = np.array([[0.0, 1.0, 2.0], [5.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
ILL = [[0.0, 1.0], [20.0, 0.0]]  # well, ill
PROBS = np.array([[0.5, 0.25, 0.25]])
MESSAGES: list[tuple[type[Exception], Callable[[], Any], str]] = [
    (
        TypeError,
        lambda: decide([0.5, 0.5], ILL),
        "probs must be an array or a tensor, got list; use numpy.asarray(probs)",
    ),
    (
        TypeError,
        lambda: decide(np.array([0, 1]), ILL),
        "probs must be floating, got int64; pass probabilities, not classes",
    ),
    (
        TypeError,
        lambda: decide(torch.tensor([0, 1]), ILL),
        "probs must be floating, got torch.int64; pass probabilities, not classes",
    ),
    (
        ValueError,
        lambda: decide(np.array(0.5), ILL),
        "probs must be (..., C), got (); give a probability per class",
    ),
    (
        ValueError,
        lambda: decide(np.array([np.nan, 1.0]), ILL),
        "probs must be finite, got nan; check whether the model diverged",
    ),
    (
        ValueError,
        lambda: decide(torch.tensor([[0.5, 0.5], [1.0, np.nan]]), ILL, abstain=0.1),
        "probs must be finite, got nan in row 1; check whether the model diverged",
    ),
    (
        ValueError,
        lambda: top_k(np.array([[[0.5, 0.5], [0.5, 0.5]], [[0.5, 0.5], [np.nan, np.nan]]]), ILL, 1),
        "probs must be finite, got nan in row (1, 1); check whether the model diverged",
    ),
    (
        ValueError,
        lambda: decide(np.array([[0.5, 0.5], [np.inf, 0.0]]), ILL),
        "probs must be finite, got nan or infinity; check whether the model diverged",
    ),
    (
        ValueError,
        lambda: decide(torch.tensor([[2.0, -1.0]]), ILL),
        "probs must be 0 or more and sum to one in each row, got -1; pass probabilities, not logits",
    ),
    (
        ValueError,
        lambda: decide(np.array([[0.5, 0.5], [0.5, 0.75]]), ILL),
        "probs must be 0 or more and sum to one in each row, got a row off by 0.25; pass "
        "probabilities, not logits",
    ),
    (
        ValueError,
        lambda: decide(PROBS, ILL),
        "costs[true, decision] must have 3 rows, one per class, got (2, 2); give a row per true "
        "class, a column per decision",
    ),
    (
        ValueError,
        lambda: decide(PROBS, np.ones((2, 3))),
        "costs[true, decision] must have 3 rows, one per class, got (2, 3); it looks transposed: "
        "exchange rows and columns",
    ),
    (
        ValueError,
        lambda: decide(PROBS, [["a"], ["b"], ["c"]]),
        "costs must be a (C, A) matrix of numbers, got [['a'], ['b'], ['c']]; give a row per true class",
    ),
    (
        ValueError,
        lambda: decide(PROBS, [1.0, 2.0, 3.0]),
        "costs must be (C, A), got (3,); give a row per true class, a column per decision",
    ),
    (
        ValueError,
        lambda: decide(PROBS, np.full((3, 3), np.inf)),
        "costs must be finite, got nan or infinity; use a large cost for a decision that must not happen",
    ),
    (
        ValueError,
        lambda: decide(PROBS, ordinal(3, "similarity")),
        "costs must be of kind 'costs', got a ClassMatrix of kind 'similarity'; make it with kind='costs'",
    ),
    (
        TypeError,
        lambda: decide(PROBS, COSTS, abstain=True),
        "abstain must be a number, got True; it is one cost for all rows",
    ),
    (
        ValueError,
        lambda: decide(PROBS, COSTS, abstain=np.nan),
        "abstain must be finite, got nan; leave abstain out to decide for every row",
    ),
    (
        ValueError,
        lambda: top_k(PROBS, COSTS, 4),
        "k must be an integer in [1, 3], got 4; the costs have that many decisions",
    ),
    (
        ValueError,
        lambda: top_k(PROBS, COSTS, 0),
        "k must be an integer in [1, 3], got 0; the costs have that many decisions",
    ),
]
