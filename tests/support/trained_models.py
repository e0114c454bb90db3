"""What the tests of training with transformers share."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers", reason="transformers is not installed", exc_type=ImportError)

from transformers import TrainingArguments

from equipoise.losses import GammaCrossEntropy
from equipoise.penalties import Entropy
from support.causal_models import V, batch
from support.trainer_options import OPTIONS

LOSS = GammaCrossEntropy(gamma=0.2) + 0.1 * Entropy()


TEXT = [
    {"input_ids": tokens, "labels": torch.where(torch.arange(12) < i, -100, tokens)}
    for i, tokens in enumerate(batch(8, 12)[0])
]


def arguments(folder: Path, **options: Any) -> TrainingArguments:
    given: dict[str, Any] = dict(
        output_dir=str(folder),
        per_device_train_batch_size=8,
        per_device_eval_batch_size=5,
        learning_rate=0.5,
    )
    return TrainingArguments(**OPTIONS | given | options)


def dense(model: Any, tokens: Tensor, labels: Tensor, loss: Any = LOSS) -> Tensor:
    logits = model(input_ids=tokens).logits
    return loss(logits[:, :-1].reshape(-1, V), labels[:, 1:].reshape(-1))
