"""What tests of transformers' Trainer and of its kin set alike: steps that can be compared to the digit."""

from typing import Any

OPTIONS: dict[str, Any] = {
    "max_steps": 3,
    "lr_scheduler_type": "constant",
    "optim": "sgd",
    "max_grad_norm": 0.0,
    "logging_steps": 1,
    "report_to": [],
    "save_strategy": "no",
    "use_cpu": True,
    "disable_tqdm": True,
}
