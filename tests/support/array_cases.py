"""Arrays, tables and data sets of torch that the tests of inputs share."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import TensorDataset

from equipoise.compare.arrays import from_arrays

ROWS = 40
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(ROWS, 3))
Y = np.array(["no", "yes"])[np.arange(ROWS) % 2]
FRAME = pd.DataFrame(
    {
        "a": X[:, 0],
        "b": np.where(RANDOM.random(ROWS) < 0.5, "red", None),
        "c": np.arange(ROWS) % 7,
        "d": Y == "no",
    }
)
FRAME["d"] = RANDOM.random(ROWS) < 0.5


class Items(TorchDataset):
    def __init__(self, items):
        self.items = items
        self.reads = []

    def __len__(self):
        return len(self.items)

    def __getitem__(self, place):
        self.reads.append(place)
        return self.items[place]


def refused(says, *given, **options):
    with pytest.raises(ValueError, match=re.escape(says)) as caught:
        from_arrays(*given, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def changed(value, row=2, column=1):
    found = X.copy()
    found[row, column] = value
    return found


PAIRS = TensorDataset(torch.from_numpy(X), torch.arange(ROWS) % 2)
