"""Networks are trained on the device that is asked for."""

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from equipoise.losses import GammaCrossEntropy
from equipoise.objective import Objective
from equipoise.schedules import Linear
from equipoise.training import Alone, Copies, Options, Trainer, loop
from support.training_cases import fit, layers, rows, same


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("meta", "device must be 'cpu', 'cuda' or 'cuda:N', got 'meta'"),
        ("gpu", "device must be 'cpu', 'cuda' or 'cuda:N', got 'gpu'"),
        (None, "device must be 'cpu', 'cuda' or 'cuda:N', got None"),
        ("cuda:99", "device must be one that torch can use, got 'cuda:99' with"),
    ],
)
def test_a_device_that_is_not_there_is_refused(device: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        fit(layers(), device=device)


@pytest.mark.parametrize("many", [False, True])
def test_everything_is_moved_to_the_device(many: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's device without numbers stands in: mixing devices raises, as does reading a number back."""
    monkeypatch.setattr(loop, "find_device", lambda device: torch.device(device))
    monkeypatch.setattr(loop, "_adam", lambda model: torch.optim.AdamW(model.parameters()))  # not fused there
    options = Options(batch_size=16, stop="none", alpha=1.0, device="meta")
    model = Copies([layers(), layers()]) if many else Alone(layers(nn.BatchNorm1d(6)))
    objective = Objective(GammaCrossEntropy(), schedules={"gamma": Linear(0, 0.5, steps=9)})
    count = 2 if many else 1
    trainer = Trainer(model, objective, options, range(count))
    weighted = [replace(rows(seed), weight=torch.ones(70)) for seed in range(count)]
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        next(trainer.run(weighted))
    assert objective.steps == 5  # all steps of the pass: what raised is the mean loss that comes back
    devices = {each.device.type for each in (*model.parameters(), *model.buffers(), *objective.buffers())}
    assert devices == {"meta"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_training_on_a_cuda_device_is_that_on_the_cpu() -> None:
    near, far = (
        fit(layers(nn.BatchNorm1d(6)).double(), device=device, stop="calibrated")
        for device in ("cpu", torch.device("cuda"))
    )
    assert {str(each.device) for each in (*far.state, *far.last)} == {"cpu"}
    torch.testing.assert_close(far.last, near.last, rtol=1e-6, atol=1e-9)
    before = torch.cuda.get_rng_state()
    one, other = (fit(layers(nn.Dropout(0.5)), device="cuda") for _ in range(2))
    assert same(one, other)
    assert torch.equal(torch.cuda.get_rng_state(), before)
