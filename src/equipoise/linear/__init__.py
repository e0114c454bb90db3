"""Fused losses and statistics of a linear layer, which never materialise all logits.

`loss.linear(hidden, linear_weight, target)` has the value and gradients of
`loss(hidden @ linear_weight.T, target)`, with one block of the logits in memory. `row_statistics` returns
differentiable statistics; `explain` returns the plan of a computation.
"""

from equipoise import naming
from equipoise.linear.autograd import reduced
from equipoise.linear.buffers import empty_cache
from equipoise.linear.inputs import Lora
from equipoise.linear.plan import Plan
from equipoise.linear.row_statistics import ROW_OPTIONS, STATS, row_statistics
from equipoise.linear.setup import explain

__all__ = ["ROW_OPTIONS", "STATS", "Lora", "Plan", "empty_cache", "explain", "reduced", "row_statistics"]

naming.answer_names(__name__)
