"""Losses and statistics of hidden states and a weight matrix, without the logits they would make.

`loss.linear(hidden, linear_weight, target)` is `loss(hidden @ linear_weight.T, target)`, value and gradients,
and holds a block of the logits at a time. `row_statistics` gives the statistics themselves, for any use;
`explain` says how something will be computed.
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
