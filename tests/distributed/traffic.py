"""What ranks that share the classes send to one another."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from cases import TABLE, Head, fits, share
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Shard

from equipoise.losses import CrossEntropy, GammaCrossEntropy, Loss, SimilarityCrossEntropy, rows
from equipoise.penalties import Entropy
from support.definitions import TEST_CLASSES

MIX = GammaCrossEntropy(0.2) + 0.1 * Entropy()
NUMBERS = 5  # of its state: base, max_exp, rest_exp, rest_gap and target_logit


@contextmanager
def collectives() -> Iterator[list[tuple[int, ...]]]:
    """Note the shape of what this rank sends, call by call."""
    sent: list[tuple[int, ...]] = []

    def noting(call: Callable[..., Any], which: int) -> Callable[..., Any]:
        def noted(*args: Any, **options: Any) -> Any:
            sent.append(tuple(args[which].shape))
            return call(*args, **options)

        return noted

    with (
        patch.object(dist, "all_gather", noting(dist.all_gather, 1)),
        patch.object(dist, "all_reduce", noting(dist.all_reduce, 0)),
    ):
        yield sent


def traffic(mesh: DeviceMesh) -> None:
    """What travels: marks to compare, a few numbers per row, and the gradient of the hidden states once."""
    logits, target, head = torch.randn(7, 11).double(), torch.randint(11, (7,)), Head.make(11).shared(mesh)
    with collectives() as sent:
        value = MIX(share(logits, mesh, [Shard(1)]).requires_grad_(), target)
        assert sent[1:] == [(NUMBERS, 7)]
        value.backward()
        assert len(sent) == 2
        for grad, blocks in (("forward", 4), ("recompute", 4), ("forward", 1)):
            sent.clear()
            block_bytes = 2 * 6 * 8 if blocks == 4 else None
            value = MIX.linear(head.hidden, head.weight, target, grad=grad, block_bytes=block_bytes)
            assert [shape[0] for shape in sent[1:]] == [NUMBERS] * blocks
            assert sum(shape[1] for shape in sent[1:]) == 7
            sent.clear()
            value.backward()
            assert sent == [(7, 5)]


def check_two(loss: Loss, mesh: DeviceMesh, classes: int) -> None:
    """A call sends twice, marks to compare and what all ranks need, and its backward pass nothing."""
    logits, target = torch.randn(7, classes).double(), torch.randint(classes, (7,))
    for weight in (None, torch.rand(classes).double(), torch.rand(classes).double()):  # one per call
        parts = share(logits, mesh, [Shard(1)]).requires_grad_()
        with collectives() as sent:
            value = loss(parts, target, weight)
            assert len(sent) == 2, (loss, sent)
            torch.autograd.grad(value, parts, allow_unused=True)
            assert len(sent) == 2, (loss, sent)


def dense_sends_twice(mesh: DeviceMesh) -> None:
    smoothed = CrossEntropy(label_smoothing=0.2)
    for loss in [*TABLE, smoothed, MIX + smoothed]:
        check_two(loss, mesh, 11 if fits(loss, 11) else TEST_CLASSES)
    for _ in range(2):  # equal losses, each with a table of its own
        check_two(SimilarityCrossEntropy(0.5 * torch.eye(11) + 0.5 / 11), mesh, 11)


def another_gather_is_found(mesh: DeviceMesh) -> None:
    def of_another_call(loss: Any, found: Any, *args: Any) -> Any:
        return found.statistics

    with patch.object(rows, "statistics_of_call", of_another_call):
        try:
            check_two(CrossEntropy(label_smoothing=0.3), mesh, 11)
        except AssertionError:
            return
    raise AssertionError("a loss that gathers twice was not found")


def of(mesh: DeviceMesh) -> dict[str, Callable[[], None]]:
    """Return the cases for two ranks."""
    checks = (traffic, dense_sends_twice, another_gather_is_found)
    return {check.__name__: partial(check, mesh) for check in checks}
