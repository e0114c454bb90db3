"""What is the same however the classes are sharded: all losses, on logits and fused."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import permutations
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, Shard

from equipoise.kernels import cpu
from equipoise.losses import LOSSES, GammaCrossEntropy, Loss, RankedProbabilityScore, RowLoss, explain
from equipoise.penalties import PENALTIES, Entropy, Gini, ZLoss
from support.backend_records import recorded
from support.definitions import TEST_CLASSES, settings_of

EPS = torch.finfo(torch.float64).eps
THREE = GammaCrossEntropy(0.1) + 0.1 * Entropy() - 0.01 * ZLoss()
TABLE = [loss for entry in LOSSES + PENALTIES for loss in settings_of(entry)] + [THREE]
ENTRIES = [
    settings_of(entry)[0] for entry in LOSSES + PENALTIES if isinstance(settings_of(entry)[0], RowLoss)
]
PAIRS = Random(0).sample(list(permutations(ENTRIES, 2)), 12)
TRIPLES = Random(0).sample(list(permutations(ENTRIES, 3)), 8)
SUMS: list[Loss] = [
    RankedProbabilityScore() + 0.3 * Gini(),
    Gini() + 0.3 * RankedProbabilityScore(),
    *(one + 0.3 * two for one, two in PAIRS),
    *(0.5 * one - 0.25 * two + three for one, two, three in TRIPLES),
]
ORDERS = [("mean", "auto", None), ("sum", "recompute", 200), ("mean", "forward", 100), ("none", "auto", 1)]


def close(ours: Tensor, theirs: Tensor, reach: float = 1.0) -> None:
    size = max(1.0, reach, theirs.detach().abs().nan_to_num().max().item() if theirs.numel() else 0.0)
    torch.testing.assert_close(ours, theirs, rtol=64 * EPS, atol=64 * EPS * size, equal_nan=True)


def fits(loss: Loss, classes: int) -> bool:
    try:
        loss(torch.zeros(1, classes), torch.zeros(1, dtype=torch.long))
    except ValueError:
        return False
    return True


def rows(classes: int, count: int = 7) -> tuple[Tensor, Tensor]:
    """Rows of logits: random, confident and right or wrong, tied over all ranks, masked, ignored."""
    logits = 3 * torch.randn(count, classes, dtype=torch.float64)
    target = torch.randint(classes, (count,))
    logits[1, target[1]] = 40.0
    logits[2, target[2]] = -40.0
    logits[3] = 1.0
    logits[4, torch.arange(classes) != target[4]] = -torch.inf
    target[5] = -100
    logits[5, 0] = torch.nan
    return logits, target


def share(full: Tensor, mesh: DeviceMesh, placements: Sequence[Placement]) -> Tensor:
    """Return what distribute_tensor does of a tensor that all ranks have, without a message to the others."""
    part = full.detach()
    for dim, placement in enumerate(placements):
        if isinstance(placement, Shard):
            pieces, rank = part.chunk(mesh.size(dim), placement.dim), mesh.get_local_rank(dim)
            part = pieces[rank] if rank < len(pieces) else pieces[0].narrow(placement.dim, 0, 0)
    options: Any = {"shape": full.shape, "stride": full.stride(), "run_check": False}
    return DTensor.from_local(part, mesh, placements, **options)


def outcome(value: Tensor, leaves: list[Tensor], upstream: Tensor | None) -> list[Tensor]:
    """Return a value and its gradients, on all rows and classes or as DTensors."""
    grads = torch.autograd.grad(value, leaves, upstream, allow_unused=True)
    found = [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves, grads, strict=True)]
    for leaf, grad in zip(leaves, found, strict=True):
        assert getattr(grad, "placements", None) == getattr(leaf, "placements", None)
    return [value, *found]


def same_outcome(ours: list[Tensor], theirs: list[Tensor], reach: float) -> None:
    for one, two in zip(ours, theirs, strict=True):
        if isinstance(one, DTensor):  # each rank compares its part
            one, two = one.to_local(), share(two, one.device_mesh, one.placements).to_local()
        close(one, two, reach)


def dense(loss: Loss, mesh: DeviceMesh, classes: int, *, weighted: bool = False) -> None:
    """Logits sharded over classes give what complete ones give."""
    logits, target = rows(classes)
    weight = torch.rand(classes, dtype=torch.float64) if weighted else None
    for reduction in ("mean", "none") if isinstance(loss, RowLoss) else ("mean", "sum"):
        one = logits.clone().requires_grad_()
        plain = loss(one, target, weight=weight, reduction=reduction)
        upstream = torch.randn_like(plain)
        parts = share(logits, mesh, [Shard(1)]).requires_grad_()
        value = loss(parts, target, weight=weight, reduction=reduction)
        same_outcome(outcome(value, [parts], upstream), outcome(plain, [one], upstream), 40.0)


def dense_of_bad_rows(loss: Loss, mesh: DeviceMesh, classes: int) -> None:
    """A row with a nan or plus infinity, or without a class, is nan on each rank, and no other row."""
    logits, target = rows(classes)
    logits[0, classes // 2], logits[1], logits[2], logits[3, 0] = torch.nan, torch.nan, -torch.inf, torch.inf
    parts = share(logits, mesh, [Shard(1)]).requires_grad_()
    losses = loss(parts, target, reduction="none")
    assert losses.isnan().tolist() == [True] * 4 + [False] * 3
    (grad,) = torch.autograd.grad(losses, parts, torch.ones_like(losses))
    part: Any = grad
    assert part.to_local()[:4].isnan().all()
    assert part.to_local()[4:].isfinite().all()


@dataclass
class Head:
    hidden: Tensor
    weight: Tensor
    bias: Tensor
    target: Tensor

    @classmethod
    def make(cls, classes: int) -> "Head":
        target = torch.randint(classes, (7,))
        target[2] = -100
        hidden, weight, bias = torch.randn(7, 5), torch.randn(classes, 5), torch.randn(classes)
        hidden[2, 1] = torch.nan
        return cls(*(part.double().requires_grad_() for part in (hidden, weight, bias)), target)

    @property
    def leaves(self) -> list[Tensor]:
        return [self.hidden, self.weight, self.bias]

    @property
    def logits(self) -> Tensor:
        return F.linear(self.hidden.nan_to_num(), self.weight, self.bias)  # torch's product has 0 times nan

    def shared(self, mesh: DeviceMesh) -> "Head":
        parts = [share(part, mesh, [Shard(0)]) for part in (self.weight, self.bias)]
        hidden = self.hidden.detach().clone()
        return Head(*(part.requires_grad_() for part in (hidden, *parts)), self.target)


def fused(loss: Loss, mesh: DeviceMesh, classes: int) -> None:
    """A head sharded over classes gives what complete logits give, in each order."""
    head = Head.make(classes)
    for reduction, grad, block_bytes in ORDERS:
        plain = loss(head.logits, head.target, reduction=reduction)
        upstream = torch.randn_like(plain)
        parts = head.shared(mesh)
        value = loss.linear(
            parts.hidden,
            parts.weight,
            parts.target,
            linear_bias=parts.bias,
            reduction=reduction,
            grad=grad,
            block_bytes=block_bytes,
        )
        reach = 1 + head.logits.abs().max().item()
        same_outcome(outcome(value, parts.leaves, upstream), outcome(plain, head.leaves, upstream), reach)


def fused_with_a_bad_row(loss: Loss, mesh: DeviceMesh, classes: int) -> None:
    """A hidden state with a nan is nan on each rank, and no other row."""
    parts = Head.make(classes).shared(mesh)
    with torch.no_grad():
        parts.hidden[4, 0] = torch.nan
    options: Any = {"reduction": "none", "block_bytes": 100}
    losses = loss.linear(parts.hidden, parts.weight, parts.target, linear_bias=parts.bias, **options)
    assert losses.isnan().tolist() == [row == 4 for row in range(7)]
    (grad,) = torch.autograd.grad(losses, parts.hidden, torch.ones_like(losses))
    assert grad.isnan().any(1).tolist() == [row == 4 for row in range(7)]


def log_of_backends(mesh: DeviceMesh) -> None:
    """The log and `explain` say what computes the parts of a rank, and why the program is in torch."""
    logits, target = rows(11)
    parts = share(logits, mesh, [Shard(1)])
    sharded, backend = "the classes are sharded", "cpp" if cpu.available() else "torch"
    reads_rows = RankedProbabilityScore()  # whose logits are gathered
    with recorded() as records:
        for loss in (THREE, reads_rows):
            loss(parts, target)
    whys = [sharded, "it reads complete rows of logits"]
    assert [(record.backend, record.why_torch) for record in records] == list(
        zip((backend, "torch"), whys, strict=True)
    )
    for record in records:
        plan = explain(record.loss, parts, target)
        assert (plan.backend, plan.why_torch, plan.shape) == (record.backend, record.why_torch, (7, 11))


def of_any_size(mesh: DeviceMesh, *sizes: int) -> dict[str, Callable[[], None]]:
    """Return the cases of the losses that take any number of classes."""
    taken = {classes: [loss for loss in TABLE if fits(loss, classes)] for classes in sizes}
    made = {name: case for classes, losses in taken.items() for name, case in _of(losses, mesh, classes)}
    return made | {"log_of_backends": partial(log_of_backends, mesh)}


def of_one_size(mesh: DeviceMesh) -> dict[str, Callable[[], None]]:
    """Return the cases of the others, whose matrices have eight, and of sums with them."""
    return dict(_of([loss for loss in TABLE if not fits(loss, TEST_CLASSES + 1)] + SUMS, mesh, TEST_CLASSES))


def _of(losses: list[Loss], mesh: DeviceMesh, classes: int) -> Iterator[tuple[str, Callable[[], None]]]:
    for index, loss in enumerate(losses):
        name = f"{mesh.size()} ranks, {classes} classes, {index}: {loss!r:.60}"
        yield f"dense, {name}", partial(dense, loss, mesh, classes)
        if isinstance(loss, RowLoss):
            yield f"dense, bad rows, {name}", partial(dense_of_bad_rows, loss, mesh, classes)
        if all(isinstance(term, RowLoss) for _, term in loss.terms()):
            yield f"fused, {name}", partial(fused, loss, mesh, classes)
            yield f"fused, bad row, {name}", partial(fused_with_a_bad_row, loss, mesh, classes)
