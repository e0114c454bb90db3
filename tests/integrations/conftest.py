"""What tests of several integrations share."""

from typing import Any

import pytest
import torch


@pytest.fixture
def plain_memory() -> None:
    torch.set_deterministic_debug_mode("default")  # fresh memory need not be poisoned for whole trainings


@pytest.fixture(scope="module")
def data() -> tuple[Any, Any]:
    """Return three overlapping clouds with named classes."""
    from sklearn.datasets import make_blobs

    from support.sklearn_cases import NAMES

    rows, labels, *_ = make_blobs(90, 4, cluster_std=4.0, random_state=1)
    return rows, NAMES[labels]
