"""Plain PyTorch and Accelerate: denominators of one's own, several processes, mixed precision."""

import os
import socket
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parameters_to_vector
from torch.utils.data import DataLoader

from equipoise import Objective
from equipoise.losses import LOSSES, CrossEntropy, GammaCrossEntropy, Loss, RowLoss
from equipoise.penalties import PENALTIES, Entropy
from equipoise.schedules import Linear
from equipoise.statistics import RowStatistics
from support.definitions import settings_of

LOSS = GammaCrossEntropy(0.1) - 0.05 * Entropy()
RANKS, MICRO = 2, 2
COUNTS = (9, 1, 3, 14)  # tokens that count in each micro-batch: two of rank 0, then two of rank 1


class Net(nn.Module):
    """A body, a head and their loss, from logits or without them."""

    def __init__(self, loss: Any = LOSS, fused: bool = False) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 11)
        self.loss, self.fused = loss, fused

    def forward(self, inputs: Tensor, target: Tensor, reduction: Any = "sum") -> Tensor:
        hidden = self.body(inputs).tanh()
        if self.fused:
            return self.loss.linear(
                hidden, self.head.weight, target, linear_bias=self.head.bias, reduction=reduction
            )
        return self.loss(self.head(hidden).movedim(-1, 1), target, reduction=reduction)


def batches() -> list[tuple[Tensor, Tensor]]:
    """Return micro-batches (2, 8) of tokens, of which some count."""
    source = torch.Generator().manual_seed(1)
    found = []
    for count in COUNTS:
        target = torch.randint(11, (16,), generator=source)
        target[torch.randperm(16, generator=source)[count:]] = -100
        found.append((torch.randn(2, 8, 6, generator=source), target.view(2, 8)))
    return found


def gradient(net: nn.Module) -> Tensor:
    return torch.cat([each.grad.flatten() for each in net.parameters() if each.grad is not None])


def of_one_batch(fused: bool = False) -> Tensor:
    """Return the gradient of the mean over the tokens of all micro-batches, in one process."""
    net = Net(fused=fused)
    inputs, target = (torch.cat(parts) for parts in zip(*batches(), strict=True))
    net(inputs, target, "mean").backward()
    return gradient(net)


def with_ddp(mine: list[tuple[Tensor, Tensor]], fused: bool, reduction: str) -> Tensor:
    """Return the gradient of a step over the micro-batches of all ranks."""
    model = DistributedDataParallel(Net(fused=fused))
    count = sum((target != -100).sum() for _, target in mine)
    assert isinstance(count, Tensor)
    dist.all_reduce(count)
    for index, (inputs, target) in enumerate(mine):
        model.require_backward_grad_sync = index == len(mine) - 1
        loss = model(inputs, target, reduction)
        (loss * RANKS / count if reduction == "sum" else loss / MICRO).backward()
    return gradient(model)


def with_accelerate(mine: list[tuple[Tensor, Tensor]], fused: bool) -> tuple[Tensor, int]:
    """Return the same gradient, and how often a schedule has stepped."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=MICRO)
    net = Net(fused=fused)
    objective = Objective(LOSS, schedules={"gamma": Linear(0.1, 1.0, steps=100)})
    plain = torch.optim.SGD(net.parameters(), lr=0.1)
    plain.register_step_post_hook(lambda *_: objective.step())
    model, optimizer = accelerator.prepare(net, plain)
    count = accelerator.reduce(sum((target != -100).sum() for _, target in mine))
    for inputs, target in mine:
        with accelerator.accumulate(model):
            loss = model(inputs, target)
            factor = accelerator.num_processes * accelerator.gradient_accumulation_steps
            accelerator.backward(loss * factor / count)
            found = gradient(net)
            optimizer.step()
            optimizer.zero_grad()
    return found, objective.steps


def with_lightning(mine: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, dict[str, float]]:
    """Return the same gradient, from how far the parameters have moved, and what is logged of the step."""
    from lightning.pytorch import LightningModule, Trainer

    from equipoise.integrations.lightning import ConfidenceMonitor, ScheduleCallback

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net(Objective(LOSS, schedules={"gamma": Linear(0.1, 1.0, steps=100)}))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            count = sum(COUNTS)  # a data set would give it with the batch
            return self.net(*batch) * MICRO * self.trainer.world_size / count

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=1.0)

    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False)
    trainer = Trainer(
        **{"accelerator": "cpu", "devices": RANKS, "strategy": "ddp", "max_epochs": 1, **quiet},
        use_distributed_sampler=False,
        accumulate_grad_batches=MICRO,
        log_every_n_steps=1,
        callbacks=[ScheduleCallback(), ConfidenceMonitor()],
    )
    module = Module()
    before = parameters_to_vector(module.parameters()).detach()
    trainer.fit(module, DataLoader(mine, batch_size=None))
    moved = before - parameters_to_vector(module.parameters()).detach()
    seen = {name.rpartition("/")[2]: value.item() for name, value in trainer.callback_metrics.items()}
    return moved, seen | {"steps": module.net.loss.steps}


def work(rank: int, port: int, folder: Path) -> None:
    """Run every case as one of two processes, and keep what came out."""
    where = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": RANKS, "RANK": rank}
    os.environ |= {name: str(value) for name, value in {**where, "LOCAL_RANK": rank}.items()}
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    mine = batches()[rank * MICRO : (rank + 1) * MICRO]
    found: dict[str, Any] = {
        f"ddp {fused} {reduction}": with_ddp(mine, fused, reduction)
        for fused in (False, True)
        for reduction in ("sum", "mean")
    }
    found |= {f"accelerate {fused}": with_accelerate(mine, fused) for fused in (False, True)}
    found["lightning"] = with_lightning(mine)
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found."""
    for library in ("accelerate", "lightning"):
        pytest.importorskip(library, reason=f"{library} is not installed")
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(Path(__file__).parents[2]))  # where a new process finds this module
        torch.multiprocessing.spawn(work, (port, folder), RANKS)
    return [torch.load(folder / f"{rank}.pt") for rank in range(RANKS)]


@pytest.mark.slow
@pytest.mark.parametrize("fused", [False, True])
def test_two_ranks_of_two_micro_batches_are_one_batch(ranks: list[dict[str, Any]], fused: bool) -> None:
    """Two ranks with two micro-batches each take the step of one batch."""
    wanted = of_one_batch(fused)
    for found in ranks:
        torch.testing.assert_close(found[f"ddp {fused} sum"], wanted, rtol=1e-5, atol=1e-7)
        accelerated, steps = found[f"accelerate {fused}"]
        torch.testing.assert_close(accelerated, wanted, rtol=1e-5, atol=1e-7)
        assert steps == 1
        wrong = (found[f"ddp {fused} mean"] - wanted).norm() / wanted.norm()
        assert wrong > 0.1  # control: a mean for each micro-batch is another thing


@pytest.mark.slow
def test_lightning_takes_the_same_step_and_logs_the_rows_of_all_ranks(ranks: list[dict[str, Any]]) -> None:
    """Lightning on two ranks takes the same step and logs the mean over all ranks."""
    net = Net()
    inputs, target = (torch.cat(parts) for parts in zip(*batches(), strict=True))
    probs = net.head(net.body(inputs).tanh()).softmax(-1)[target != -100]
    own = probs.gather(1, target[target != -100][:, None])
    wanted = {"target_prob": own.mean().item(), "entropy": torch.special.entr(probs).sum(1).mean().item()}
    for found in ranks:
        moved, logged = found["lightning"]
        torch.testing.assert_close(moved, of_one_batch(), rtol=1e-5, atol=1e-7)
        assert logged == pytest.approx({**wanted, "gamma": 0.1, "steps": 1}, rel=1e-5)
    means = [part.mean().item() for part in own.split(COUNTS)]
    assert sum(means) / len(means) != pytest.approx(wanted["target_prob"], rel=1e-2)  # control


def follow(optimizer: torch.optim.Optimizer, objective: Objective) -> None:
    """Let the objective step whenever the optimiser has; the recipe of the documents."""

    def stepped(optimizer: Any, *_: Any) -> None:
        if not getattr(optimizer, "found_inf", False):
            objective.step()

    optimizer.register_step_post_hook(stepped)


def tokens(count: int) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(2)
    return torch.randn(count, 6, generator=source), torch.randint(11, (count,), generator=source)


@final
@dataclass(frozen=True)
class Multiplied(RowLoss):
    """A loss with a matrix product."""

    def per_row(self, row: RowStatistics, /) -> Tensor:
        logits = row.full_logits.logits
        return (logits @ torch.full((8, 2), 1 / 3)).square().sum(1)


def in_autocast(loss: Loss, dtype: torch.dtype, on: bool) -> tuple[Tensor, Tensor]:
    """Return the value and the gradient for logits in half precision, with autocast or without."""
    source = torch.Generator().manual_seed(2)
    logits = (4 * torch.randn(20, 8, generator=source)).to(dtype).requires_grad_()
    target = torch.randint(8, (20,), generator=source)
    with torch.autocast("cpu", dtype=dtype, enabled=on):
        value = loss(logits, target)
    (slope,) = torch.autograd.grad(value, logits)
    return value, slope


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_autocast_changes_no_loss(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Autocast does not change a loss of given logits."""

    def same(loss: Loss) -> bool:
        return all(map(torch.equal, in_autocast(loss, dtype, True), in_autocast(loss, dtype, False)))

    settings = [
        loss
        for entry in LOSSES + PENALTIES
        for loss in (*settings_of(entry), settings_of(entry)[0] + Entropy())
    ]
    settings.append(Multiplied())
    assert [loss for loss in settings if not same(loss)] == []
    monkeypatch.setattr("equipoise.losses.base.no_autocast", lambda device: nullcontext())
    assert not same(Multiplied())  # control: what is multiplied in half precision


@pytest.mark.parametrize("fused", [False, True])
def test_autocast_is_no_worse_than_plain_cross_entropy(fused: bool) -> None:
    """Under autocast, the gradient is no worse than that of plain cross entropy."""
    inputs, target = tokens(200)

    def of(net: nn.Module, dtype: torch.dtype | None) -> Tensor:
        with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
            loss = net(inputs.to(net.body.weight.dtype), target, "mean")
        assert loss.dtype == net.body.weight.dtype  # half precision is left before the loss
        loss.backward()
        return gradient(net).double()

    exact = of(Net(CrossEntropy()).double(), None)
    plain = (of(Net(F.cross_entropy), torch.bfloat16) - exact).norm()
    ours = (of(Net(CrossEntropy(), fused), torch.bfloat16) - exact).norm()
    assert 1e-4 < plain / exact.norm() < 1e-1
    assert ours <= 1.02 * plain


@pytest.mark.parametrize("fused", [False, True])
def test_a_scaled_loss_keeps_slopes_that_float16_loses(fused: bool) -> None:
    """A scaled loss keeps gradients that underflow in float16."""
    inputs, target = tokens(20)
    small = 2.0**-18

    def of(half: bool, scale: float) -> Tensor:
        net, scaler = Net(fused=fused), torch.amp.GradScaler("cpu", init_scale=scale)
        optimizer = torch.optim.SGD(net.parameters())
        with torch.autocast("cpu", dtype=torch.float16, enabled=half):
            loss = net(inputs, target, "mean") * small
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        return gradient(net)

    wanted = of(False, 1.0)
    assert (of(True, 2.0**16) - wanted).norm() < 0.005 * wanted.norm()
    assert (of(True, 1.0) - wanted).norm() > 0.05 * wanted.norm()  # control


@pytest.mark.parametrize("fused_optimizer", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_a_schedule_waits_for_steps_that_were_not_skipped(fused: bool, fused_optimizer: bool) -> None:
    """A scaler does not call an optimiser it skips; a fused one is called, and skips by itself."""
    net, (inputs, target) = Net(fused=fused), tokens(20)
    objective = Objective(LOSS, schedules={"gamma": Linear(0.1, 1.0, steps=100)})
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=fused_optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24, backoff_factor=1 / 8)
    follow(optimizer, objective)
    net.loss, moved = objective, []
    for _ in range(6):
        before = net.head.weight.detach().clone()
        with torch.autocast("cpu", dtype=torch.float16):
            loss = net(inputs, target, "mean")
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        moved.append(not torch.equal(net.head.weight, before))
        assert net.head.weight.isfinite().all()
    assert moved[0] is False
    assert moved[-1] is True
    assert objective.steps == sum(moved)
