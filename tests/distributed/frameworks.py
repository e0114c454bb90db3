"""fully_shard, parallelize_module and loss_parallel themselves."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from cases import close, share
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Partial, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, loss_parallel, parallelize_module

from equipoise.distributed import full_tensor
from equipoise.losses import CrossEntropy, GammaCrossEntropy
from equipoise.penalties import Entropy

MIX = GammaCrossEntropy(0.2) + 0.1 * Entropy()
Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]


class Model(nn.Module):
    """A body, a head, and one of several ways to take a loss of the two."""

    def __init__(self, take: Loss) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Linear(4, 5, dtype=torch.float64)
        self.head = nn.Linear(5, 11, bias=False, dtype=torch.float64)
        self.take = take

    def forward(self, inputs: Tensor, target: Tensor) -> Tensor:
        return self.take(self.head, torch.tanh(self.body(inputs)), target)


class LossHead(nn.Linear):
    """A head whose forward is the loss."""

    def forward(self, hidden: Tensor, target: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return MIX.linear(hidden, self.weight, target)


def fused(head: Any, hidden: Tensor, target: Tensor) -> Tensor:
    return MIX.linear(hidden, head.weight, target)


def unsharded(head: Any, hidden: Tensor, target: Tensor) -> Tensor:
    head.unshard()
    return MIX.linear(hidden, head.weight, target)


def full(head: Any, hidden: Tensor, target: Tensor) -> Tensor:
    return MIX.linear(hidden, head.weight.full_tensor(), target)


def averaged(head: Any, hidden: Tensor, target: Tensor) -> Tensor:
    return MIX.linear(hidden, head.weight.full_tensor(grad_placements=[Partial("avg")]), target)


def rows_of(rank: int) -> tuple[Tensor, Tensor]:
    """Each rank has other rows, and another number of them."""
    seed = torch.Generator().manual_seed(rank)
    inputs = torch.randn(6 + rank, 4, dtype=torch.float64, generator=seed)
    return inputs, torch.randint(11, (6 + rank,), generator=seed)


def sharded_model(mesh: DeviceMesh, take: Loss, *, separate_group: bool) -> Model:
    model = Model(take)
    if separate_group:
        fully_shard(model.head, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def wrong_by(mesh: DeviceMesh, model: nn.Module) -> float:
    """Return by how much the head's gradient differs from that of one process, in the second step."""
    rank = mesh.get_local_rank()
    model(*rows_of(rank)).backward()
    model.zero_grad()
    value = model(*rows_of(rank))
    value.backward()
    single = Model(fused)
    torch.stack([single(*rows_of(rank)) for rank in range(mesh.size())]).mean().backward()
    close(value, single(*rows_of(rank)))
    close(full_tensor(model.get_parameter("body.weight").grad), single.get_parameter("body.weight").grad)
    ours, theirs = (
        full_tensor(model.get_parameter("head.weight").grad),
        single.get_parameter("head.weight").grad,
    )
    assert theirs is not None
    return ((ours - theirs).norm() / theirs.norm()).item()


def fsdp_head_in_the_root_group(mesh: DeviceMesh) -> None:
    assert wrong_by(mesh, sharded_model(mesh, fused, separate_group=False)) < 1e-14


def fsdp_head_unsharded_by_hand(mesh: DeviceMesh) -> None:
    assert wrong_by(mesh, sharded_model(mesh, unsharded, separate_group=True)) < 1e-14


def fsdp_loss_in_the_forward_of_the_head(mesh: DeviceMesh) -> None:
    model = Model(lambda head, hidden, target: head(hidden, target))
    model.head = LossHead(5, 11, bias=False, dtype=torch.float64)
    model.head.load_state_dict(Model(fused).head.state_dict())
    fully_shard(model.head, mesh=mesh)
    fully_shard(model, mesh=mesh)
    assert wrong_by(mesh, model) < 1e-14


def fsdp_head_in_parts_is_refused(mesh: DeviceMesh) -> None:
    model = sharded_model(mesh, fused, separate_group=True)
    with pytest.raises(
        ValueError, match="must be the same on all 2 ranks that share the linear_weight"
    ) as caught:
        model(*rows_of(dist.get_rank()))
    assert "unshard()" in str(caught.value)
    model = sharded_model(mesh, fused, separate_group=True)
    assert model(*rows_of(0)) is not None  # the same rows on each rank are tensor parallel


def fsdp_gathered_by_hand_is_wrong(mesh: DeviceMesh) -> None:
    """What this file is there to find: a full_tensor whose gradients nobody sums."""
    assert wrong_by(mesh, sharded_model(mesh, full, separate_group=True)) > 0.5
    assert wrong_by(mesh, sharded_model(mesh, averaged, separate_group=True)) < 1e-14


def plan_of_torch(mesh: DeviceMesh) -> None:
    """A head under ColwiseParallel: its logits as a DTensor, or its weight, in and out of loss_parallel."""
    inputs, target = rows_of(0)
    for context in (nullcontext, loss_parallel):
        for take in (lambda head, hidden, y: MIX(head(hidden), y), fused):
            single, model = Model(take), Model(take)
            style = ColwiseParallel(output_layouts=Shard(-1), use_local_output=False)
            parallelize_module(model, mesh, {"head": style})
            single(inputs, target).backward()
            with context():
                value = model(inputs, target)
                value.backward()
            close(value, single(inputs, target))
            for (name, ours), theirs in zip(model.named_parameters(), single.parameters(), strict=True):
                assert ours.grad is not None
                assert theirs.grad is not None
                close(full_tensor(ours.grad), theirs.grad)
                assert ("head" in name) == (getattr(ours.grad, "placements", None) == (Shard(0),))


def entropy_by_hand(mesh: DeviceMesh) -> None:
    """Ours is right inside loss_parallel, where an entropy by hand is wrong without a warning."""
    logits, target = 3 * torch.randn(7, 11).double(), torch.randint(11, (7,))

    def by_hand(z: Tensor) -> Tensor:
        log_probs = F.log_softmax(z, 1)
        return -(log_probs.exp() * log_probs).sum(1).mean()

    one = logits.clone().requires_grad_()
    (truth,) = torch.autograd.grad(Entropy()(one), one)
    close(torch.autograd.grad(by_hand(one), one)[0], truth)

    wrong = {}
    for name, loss in {"ours": Entropy(), "by hand": by_hand}.items():
        parts = share(logits, mesh, [Shard(1)]).requires_grad_()
        with loss_parallel():
            (grad,) = torch.autograd.grad(loss(parts), parts)
        wrong[name] = (full_tensor(grad) - truth).abs().max().item()
    assert wrong["ours"] < 1e-14
    assert wrong["by hand"] > 0.01
    parts = share(logits, mesh, [Shard(1)])
    with loss_parallel():
        close(CrossEntropy()(parts, target), full_tensor(F.cross_entropy(parts, target)))


def compiled(mesh: DeviceMesh) -> None:
    """One graph break, and the same numbers."""
    logits, target = torch.randn(7, 11).double(), torch.randint(11, (7,))
    parts = share(logits, mesh, [Shard(1)]).requires_grad_()
    found = []
    for loss in (MIX, torch.compile(MIX, backend="aot_eager")):
        value = loss(parts, target)
        found.append((value, *torch.autograd.grad(value, parts)))
    close(found[1][0], found[0][0])
    close(found[1][1].to_local(), found[0][1].to_local())


def fsdp_over_tensor_parallel(grid: DeviceMesh) -> None:
    """Rows over the first dimension of a mesh, classes over the second."""
    model = Model(fused)
    parallelize_module(model, grid["classes"], {"head": ColwiseParallel(use_local_output=False)})
    fully_shard(model, mesh=grid["rows"])
    assert wrong_by(grid["rows"], model) < 1e-14
    with pytest.raises(ValueError, match="linear_weight must be replicated, or Shard"):
        MIX.linear(torch.zeros(3, 5).double(), model.head.weight, torch.zeros(3).long())


def of(mesh: DeviceMesh) -> dict[str, Callable[[], None]]:
    """Return the cases for two ranks."""
    checks = (
        fsdp_head_in_the_root_group,
        fsdp_head_unsharded_by_hand,
        fsdp_loss_in_the_forward_of_the_head,
        fsdp_head_in_parts_is_refused,
        fsdp_gathered_by_hand_is_wrong,
        plan_of_torch,
        entropy_by_hand,
        compiled,
    )
    return {check.__name__: partial(check, mesh) for check in checks}


def on_a_grid(grid: DeviceMesh) -> dict[str, Callable[[], None]]:
    """Return the case for two by two ranks."""
    return {"fully_shard over tensor parallel": partial(fsdp_over_tensor_parallel, grid)}
