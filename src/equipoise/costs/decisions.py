"""Decisions from probabilities and costs, without training.

Costs are indexed [true class, decision]. `conditional_risk` is the expected cost of each decision under the
model's probabilities; `metrics.mean_cost` is the mean cost of decisions, given the true classes.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from equipoise.costs.matrix import TRANSPOSED, cost_array
from equipoise.costs.soft_targets import Probs, check_probs, times

__all__ = ["ABSTAIN", "decide", "conditional_risk", "top_k"]

ABSTAIN = -1  # a rejected row: no decision


def conditional_risk(probs: Probs, costs: Any) -> Probs:
    r"""Return the expected cost of each decision.

    .. math:: R_a = \sum_y p_y C_{ya}

    Args:
        probs: Probabilities of the true class, which should be calibrated. If the model was trained with soft
            targets, apply `costs.unmix` first.
        costs: Indexed [true class, decision], an array, a tensor or a `ClassMatrix`, such as
            `ExpectedCost(...).costs`. The set of decisions may differ from the classes.

    Shapes:
        probs (..., C); costs (C, A); result (..., A), of the type of probs (array or tensor), float32 at
        least.

    Raises:
        TypeError: If probs are not a floating array or tensor.
        ValueError: If probs are not probabilities, or costs are not finite with a row per class.

    Numerics:
        One matrix product. It is differentiable for tensors. A nan in a row gives nan for that row.

    Example:
        >>> conditional_risk(np.array([0.9, 0.1]), [[0, 1], [20, 0]])  # missing class 1 costs 20
        array([2. , 0.9])

    Source:
        Elkan, IJCAI 2001.
    """
    return times(probs, _costs(probs, costs))


def decide(probs: Probs, costs: Any, *, abstain: float | None = None) -> Probs:
    r"""Return the decision of smallest expected cost.

    .. math:: \arg\min_a \sum_y p_y C_{ya}

    Of several minima, the first. With `abstain`, the result is `ABSTAIN` (-1) if the expected cost of every
    decision is larger than `abstain`. A row with a nan raises, with `abstain` too: otherwise a diverged model
    would look like a cautious one.

    Args:
        probs: Probabilities of the true class; see `conditional_risk`.
        costs: Indexed [true class, decision].
        abstain: Cost of no decision, for example of asking a person; None if a decision is required.

    Shapes:
        probs (..., C); costs (C, A); result (...), int64, of the type of probs (array or tensor).

    Raises:
        TypeError: If probs are not a floating array or tensor, or abstain is not a number.
        ValueError: If probs are not probabilities or have a nan, costs are not finite with a row per class,
            or abstain is not finite.

    Example:
        >>> costs = [[0, 1], [20, 0]]  # well or ill
        >>> decide(np.array([[0.99, 0.01], [0.9, 0.1]]), costs)
        array([0, 1])
        >>> decide(np.array([[0.99, 0.01], [0.9, 0.1]]), costs, abstain=0.5)
        array([ 0, -1])

    Source:
        Chow, 1970, for abstention; Elkan, IJCAI 2001, for costs.
    """
    risk = _finite(conditional_risk(probs, costs))
    if abstain is not None:
        _check_abstain(abstain)
    if isinstance(risk, Tensor):
        best, choice = risk.amin(-1), risk.argmin(-1)
    else:
        best, choice = risk.min(-1), np.asarray(risk.argmin(-1), dtype=np.int64)
    where: Any = torch.where if isinstance(risk, Tensor) else np.where
    found: Any = choice if abstain is None else where(best > abstain, ABSTAIN, choice)
    return found


def top_k(probs: Probs, costs: Any, k: int) -> Probs:
    """Return the k decisions of smallest expected cost, the smallest first.

    Args:
        probs: Probabilities of the true class; see `conditional_risk`.
        costs: Indexed [true class, decision].
        k: Number of decisions to return, at least 1.

    Shapes:
        probs (..., C); costs (C, A); result (..., k), int64, of the type of probs (array or tensor).

    Raises:
        TypeError: If probs are not a floating array or tensor.
        ValueError: If probs are not probabilities or have a nan, costs are not finite with a row per class,
            or k is out of range.

    Example:
        >>> top_k(torch.tensor([0.5, 0.3, 0.2]), [[0, 1, 9], [1, 0, 9], [1, 1, 0]], 2)
        tensor([0, 1])

    Source:
        Karthik et al., ICLR 2021, arXiv:2104.00795, rank classes in this way.
    """
    risk = _finite(conditional_risk(probs, costs))
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= risk.shape[-1]:
        raise ValueError(
            f"k must be an integer in [1, {risk.shape[-1]}], got {k!r}; the costs have that many decisions"
        )
    tensor = isinstance(risk, Tensor)
    order: Any = risk.argsort(dim=-1, stable=True) if tensor else risk.argsort(-1, kind="stable")
    return order[..., :k]


def _costs(probs: Any, costs: Any) -> np.ndarray[Any, Any]:
    """Return the costs as an array; raise unless costs and probs fit. Rows of probs may have a nan."""
    if isinstance(probs, Tensor | np.ndarray) and probs.ndim > 0:
        same: Any = probs == probs
        check_probs(probs[same.all(-1)])
    else:
        check_probs(probs)
    array = cost_array(costs)
    classes = probs.shape[-1]
    if array.shape[0] != classes:
        way = TRANSPOSED if array.shape[1] == classes else "give a row per true class, a column per decision"
        raise ValueError(
            f"costs[true, decision] must have {classes} rows, one per class, got {array.shape}; {way}"
        )
    return array


def _finite(risk: Any) -> Any:
    """Return the expected costs (..., A); raise if a row is nan, as a decision is an integer."""
    lost = np.argwhere(np.isnan(np.asarray(risk.detach().cpu() if isinstance(risk, Tensor) else risk)))
    if len(lost):
        row = tuple(lost[0][:-1].tolist())
        where = f" in row {row[0] if len(row) == 1 else row}" if row else ""
        raise ValueError(f"probs must be finite, got nan{where}; look for a model that diverged")
    return risk


def _check_abstain(abstain: Any) -> None:
    if isinstance(abstain, bool) or not isinstance(abstain, int | float):
        raise TypeError(f"abstain must be a number, got {abstain!r}; it is one cost for all rows")
    if not np.isfinite(abstain):
        raise ValueError(f"abstain must be finite, got {abstain}; leave abstain out to decide for every row")
