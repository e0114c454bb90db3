"""Objectives for transformers' `Trainer`.

`fuse_lm_head(model, objective)` makes a causal language model compute its loss from hidden states. For other
models use `Trainer(compute_loss_func=compute_loss_func(objective, model))`. `ObjectiveCallback` advances the
schedules, and `token_metrics` returns evaluation metrics of a fused model.
"""

try:
    import transformers as _transformers
except ImportError as _error:
    raise ImportError(
        "integrations.transformers needs transformers; pip install 'equipoise[transformers]'"
    ) from _error

from equipoise.integrations.transformers.causal import FusedHead as FusedHead
from equipoise.integrations.transformers.causal import fuse_lm_head as fuse_lm_head
from equipoise.integrations.transformers.causal import token_metrics as token_metrics
from equipoise.integrations.transformers.training import ObjectiveCallback as ObjectiveCallback
from equipoise.integrations.transformers.training import compute_loss_func as compute_loss_func

del _transformers

__all__ = ["FusedHead", "ObjectiveCallback", "compute_loss_func", "fuse_lm_head", "token_metrics"]
