"""Options, shapes and meshes, what must raise, and planted faults that the comparison must find."""

import ast
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from cases import Head, close, dense, fused, outcome, rows, same_outcome, share
from torch import Tensor
from torch.distributed._functional_collectives import AsyncCollectiveTensor, all_reduce
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

from equipoise import Objective, distributed, linear, sharded
from equipoise.distributed import full_tensor, is_dtensor
from equipoise.losses import CrossEntropy, GammaCrossEntropy, PairwiseCrossEntropy, RowLoss
from equipoise.penalties import Balance, Entropy, Gini
from equipoise.schedules import Linear
from equipoise.statistics import Rank, RowStatistics
from equipoise.statistics.states import Sums
from support.definitions import ring

SOURCES = [Path(str(module.__file__)) for module in (distributed, sharded)]
MIX = GammaCrossEntropy(0.2) + 0.1 * Entropy()
Call = Callable[[], Any]


def both(
    mesh: DeviceMesh, logits: Tensor, call: Callable[[Any], Tensor], placements: list[Any] | None = None
) -> None:
    """A call gives the same on logits that are complete and that are sharded."""
    one = logits.clone().requires_grad_()
    parts = share(logits, mesh, placements or [Shard(1)]).requires_grad_()
    plain, value = call(one), call(parts)
    assert not isinstance(value, DTensor)
    ones = torch.ones_like(plain)
    same_outcome(outcome(value, [parts], ones), outcome(plain, [one], ones), 40)


@dataclass(frozen=True)
class Above(RowLoss):
    """How many classes are likelier than the target, beside a loss with a gradient."""

    def per_row(self, row: RowStatistics, /) -> Tensor:
        return row.rank - row.log_odds()


def shapes(mesh: DeviceMesh) -> None:
    images, pixels = torch.randn(3, 11, 2, 2).double(), torch.randint(11, (3, 2, 2))
    both(mesh, images, lambda z: MIX(z, pixels))
    both(mesh, images, lambda z: MIX(z, pixels, reduction="none"))
    both(mesh, torch.randn(11).double(), lambda z: MIX(z, torch.tensor(3)), [Shard(0)])
    both(mesh, torch.randn(0, 11).double(), lambda z: MIX(z, torch.zeros(0).long(), reduction="sum"))
    both(mesh, torch.randn(7, 11).double(), lambda z: MIX(z, pixels.reshape(-1)[:7]), [Shard(-1)])
    both(mesh, torch.randn(7, 11).double(), lambda z: MIX(z, pixels.reshape(-1)[:7]), [Shard(0)])
    both(mesh, torch.randn(7, 11).double(), lambda z: MIX(z, pixels.reshape(-1)[:7]), [Replicate()])
    big = torch.randn(600, 7001).double()  # several pieces of rows
    both(mesh, big, lambda z: MIX(z, torch.arange(600)))


def logits_that_still_travel(mesh: DeviceMesh) -> None:
    """The result of a collective is waited for."""
    logits, target = torch.randn(7, 11).double(), torch.randint(11, (7,))
    local: Any = all_reduce(logits / mesh.size(), "sum", mesh)
    assert type(local) is AsyncCollectiveTensor
    parts = DTensor.from_local(local, mesh, [Replicate()], run_check=False)
    assert type(parts.to_local()) is AsyncCollectiveTensor
    close(MIX(parts, target), MIX(logits, target))
    leaf: Any = parts.detach().requires_grad_()
    one = logits.clone().requires_grad_()
    same_outcome(outcome(MIX(leaf, target), [leaf], None), outcome(MIX(one, target), [one], None), 40)


def dense_options(mesh: DeviceMesh) -> None:
    logits, target = rows(11)
    probs, weight = torch.randn(7, 11).double().softmax(1), torch.rand(11).double()
    shared_target = share(target, mesh, [Shard(0)])
    shared_weight = share(weight, mesh, [Shard(0)])
    per_row = torch.rand(7).double()
    both(mesh, logits, lambda z: MIX(z, target, weight=weight))
    both(mesh, logits, lambda z: MIX(z, target.clamp(min=0), weight=weight, ignore_index=3, reduction="sum"))
    both(mesh, logits, lambda z: MIX(z, target, sample_weight=per_row))
    given = {False: (target, weight), True: (shared_target, shared_weight)}
    both(mesh, logits, lambda z: MIX(z, given[is_dtensor(z)][0], weight=given[is_dtensor(z)][1]))
    both(mesh, logits, lambda z: CrossEntropy(label_smoothing=0.1)(z, target, weight=weight))
    both(mesh, torch.randn(7, 11).double(), lambda z: MIX(z, probs))
    both(mesh, torch.randn(7, 11).double(), lambda z: Gini()(z))
    both(mesh, logits, lambda z: (Above() + Balance())(z, target))
    half = torch.randn(7, 11).bfloat16().requires_grad_()
    parts = share(half, mesh, [Shard(1)]).requires_grad_()
    one, several = (outcome(MIX(z, target), [z], None) for z in (half, parts))
    torch.testing.assert_close(several[0], one[0])
    torch.testing.assert_close(full_tensor(several[1]), one[1])
    with torch.no_grad():
        close(MIX(share(logits, mesh, [Shard(1)]), target), MIX(logits, target), 40)
    gamma = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    found = [
        torch.autograd.grad(GammaCrossEntropy(gamma)(z, target), gamma)[0]  # pyright: ignore[reportArgumentType]
        for z in (logits, share(logits, mesh, [Shard(1)]))
    ]
    close(found[1], found[0])


def fused_options(mesh: DeviceMesh) -> None:
    head, classes = Head.make(11), 11
    low, up = torch.randn(2, 5).double().requires_grad_(), torch.randn(classes, 2).double().requires_grad_()
    sample_weight, class_weight = torch.rand(7).double().requires_grad_(), torch.rand(classes).double()
    probs = torch.randn(7, classes).double().softmax(1)
    extra = [low, up, sample_weight]
    weights = {"weight": class_weight, "sample_weight": sample_weight}

    def compare(loss: Any, target: Tensor | None, up_placement: Any = None, **options: Any) -> None:
        parts = head.shared(mesh)
        a, b, c = (part.detach().clone().requires_grad_() for part in extra)
        if up_placement is not None:
            b = share(b, mesh, [up_placement]).requires_grad_()
        given = options | ({"sample_weight": c} if "sample_weight" in options else {})
        plain = loss.linear(
            head.hidden, head.weight, target, linear_bias=head.bias, lora=(low, up, 0.5), **options
        )
        value = loss.linear(
            parts.hidden, parts.weight, target, linear_bias=parts.bias, lora=(a, b, 0.5), **given
        )
        ones = torch.ones_like(plain)
        same_outcome(
            outcome(value, [*parts.leaves, a, b, c], ones), outcome(plain, [*head.leaves, *extra], ones), 40
        )

    compare(MIX, head.target, logit_scale=0.7, softcap=2.0, denominator=5.0, **weights)
    compare(MIX, head.target, Shard(0), block_bytes=200)
    compare(MIX, head.target, Replicate(), grad="recompute", softcap=1.5)
    compare(MIX, probs)
    compare(MIX, probs, reduction="none", block_bytes=1)
    compare(Entropy() - 2 * Gini(), None, softcap=1.0)
    compare(PairwiseCrossEntropy(ring(classes, 0.5, 3.0)), head.target, softcap=1.5, block_bytes=200)


def some_parts_may_be_replicated(mesh: DeviceMesh) -> None:
    """A bias that is no DTensor, hidden states that are one, a weight that is replicated."""
    head = Head.make(11)
    theirs = outcome(
        MIX.linear(head.hidden, head.weight, head.target, linear_bias=head.bias), head.leaves, None
    )
    hidden, weight, bias = (part.detach() for part in head.leaves)
    for of_hidden, of_weight, of_bias in [
        (None, Shard(0), None),
        (Replicate(), Shard(0), Replicate()),
        (Shard(0), Shard(0), Shard(0)),
        (Replicate(), Replicate(), Replicate()),
        (None, Replicate(), None),
    ]:
        leaves = [
            (part.clone() if place is None else share(part, mesh, [place])).requires_grad_()
            for part, place in ((hidden, of_hidden), (weight, of_weight), (bias, of_bias))
        ]
        target = share(head.target, mesh, [Replicate()])
        ours = outcome(MIX.linear(leaves[0], leaves[1], target, linear_bias=leaves[2]), leaves, None)
        same_outcome(ours, theirs, 40)


def half_precision(mesh: DeviceMesh) -> None:
    """As near the truth as one process comes, in bfloat16 as such and under autocast."""
    head = Head.make(11)
    truth = outcome(
        MIX.linear(head.hidden, head.weight, head.target, linear_bias=head.bias), head.leaves, None
    )
    for dtype, autocast in ((torch.bfloat16, False), (torch.float32, True)):
        plain = Head(*(part.detach().to(dtype).requires_grad_() for part in head.leaves), head.target)
        parts = plain.shared(mesh)
        with torch.autocast("cpu", enabled=autocast):
            found = [
                outcome(
                    MIX.linear(one.hidden, one.weight, one.target, linear_bias=one.bias), one.leaves, None
                )
                for one in (plain, parts)
            ]
        for true, one, several in zip(truth, *found, strict=True):
            wrong = [(full_tensor(ours).double() - true).abs().max().item() for ours in (one, several)]
            assert wrong[1] <= 2 * wrong[0] + 1e-3, wrong


def statistics(mesh: DeviceMesh) -> None:
    head = Head.make(11)
    parts = head.shared(mesh)
    target = head.target.clamp(min=0)
    found = []
    for one in (head, parts):
        row = linear.row_statistics(one.hidden, one.weight, target, linear_bias=one.bias, block_bytes=200)
        value = (row.margin * row.entropy).sum() + row.smallest.sum() + row.lse().square().mean()
        found.append(outcome(value + (row.class_count * row.mean_logit).sum(), one.leaves, None))
        assert row.num_classes == 11
    same_outcome(found[1], found[0], 100)


def objectives(mesh: DeviceMesh) -> None:
    """Class weights and a schedule, on logits and fused."""
    head, class_weight = Head.make(11), torch.rand(11).double()
    parts, target = head.shared(mesh), share(head.target, mesh, [Replicate()])
    logits = head.logits.detach()
    found = []
    for z, one, y in (
        (logits, head, head.target),
        (share(logits, mesh, [Shard(1)]), parts, target),
    ):
        objective = Objective(MIX, weight=class_weight, schedules={"gamma": Linear(0.0, 0.8, steps=4)})
        value = objective(z, y)
        objective.step()
        fused_ones = outcome(
            objective.linear(one.hidden, one.weight, y, linear_bias=one.bias), one.leaves, None
        )
        found.append([value, *fused_ones])
    same_outcome(found[1], found[0], 40)


def plans(mesh: DeviceMesh) -> None:
    """A plan is made without a message to other ranks, and is the same on all."""
    head = Head.make(11).shared(mesh)
    if mesh.get_local_rank() == 0:
        plan = linear.explain(MIX, head.hidden, head.weight, head.target, block_bytes=100)
        assert (plan.ranks, plan.shape, plan.rows, plan.products) == (2, (7, 5, 11), 2, 3)
        assert "7 rows, 5 features, 11 classes" in str(plan)
        assert "2 rows x 6 classes" in str(plan)
        assert "ranks     2: a gather for each block of rows, a sum of hidden's gradient" in str(plan)
        matrix = PairwiseCrossEntropy(ring(11, 0.5, 3.0))
        assert linear.explain(matrix, head.hidden, head.weight, head.target, block_bytes=200).rows == 2


def messages(mesh: DeviceMesh) -> None:
    """Raised on each rank, with these words, so that none waits; and the next call is right."""
    rank, logits, head = mesh.get_local_rank(), torch.randn(7, 11).double(), Head.make(11)
    z, parts = share(logits, mesh, [Shard(1)]), head.shared(mesh)
    x, w, y = parts.hidden, parts.weight, head.target
    other = y if rank else y.roll(1)
    leaf = z.detach().clone().requires_grad_()
    turned = share(head.weight, mesh, [Shard(1)])
    shape: Any = {"shape": logits.shape, "stride": (11, 1), "run_check": False}
    cut = DTensor.from_local(logits[:, : 5 + rank], mesh, [Shard(1)], **shape)
    summed = DTensor.from_local(logits, mesh, [Partial()])

    def second(value: Tensor, leaf: Tensor) -> None:
        torch.autograd.grad(value, leaf, create_graph=True)

    hint = (
        "; where each rank has other rows, as under fully_shard, compute the loss in the forward of the "
        "module that is sharded, or call its unshard() first"
    )
    must = "must be the same on all 2 ranks that share the linear_weight, got different ones"
    table: list[tuple[Call, str]] = [
        (lambda: MIX(z), "target must be given, got None; only penalties can do without one"),
        (lambda: MIX(z, y + 11), "target must be in [0, 11) or ignore_index=-100, got "),
        (
            lambda: MIX(z, other),
            "target must be the same on all 2 ranks that share the logits, got different ones; a mesh "
            "dimension over which rows differ must be Shard(0), with all targets on each rank",
        ),
        (
            lambda: MIX(summed, y),
            "logits must be replicated, or Shard(1) for classes or Shard(0) for rows on one dimension of the "
            "mesh, got (Partial(sum),); use logits.redistribute(placements=...)",
        ),
        (
            lambda: MIX(cut, y),
            "logits must be sharded as by torch.chunk, got (Shard(dim=1),) of (7, 11) sharded otherwise; "
            "use distribute_tensor",
        ),
        (
            lambda: MIX.linear(x, turned, y),
            "linear_weight must be replicated, or Shard(0) for classes on one dimension of the mesh, got "
            "(Shard(dim=1),); use linear_weight.redistribute(placements=...)",
        ),
        (lambda: MIX.linear(x, w, other), f"target {must}{hint}"),
        (lambda: MIX.linear(x + 3 * rank, w, y), f"hidden {must}{hint}"),
        (lambda: MIX.linear(x[: 6 + rank], w, y[: 6 + rank]), f"hidden {must}{hint}"),
        (lambda: MIX.linear(x, w, y, softcap=1.0 + rank), f"options {must}{hint}"),
        (
            lambda: MIX.linear(x, w, y, linear_bias=torch.zeros(3).double()),
            "linear_bias must be (11,), one number per class",
        ),
        (lambda: (MIX + Balance()).linear(x, w, y), "a fused loss must depend on one row at a time"),
        (lambda: linear.row_statistics(x, w, y).rank, "stats must hold Rank() to compute it, got "),
        (
            lambda: linear.row_statistics(x, w, y, stats=[Rank()]),
            "logits must have all classes of a row for Rank, got shards; use Margin",
        ),
        (
            lambda: second(MIX(leaf, y), leaf),
            "create_graph must be False for classes that are sharded over ranks, got True; for second "
            "derivatives use logits.full_tensor()",
        ),
        (lambda: second(Balance()(leaf), leaf), "create_graph must be False for classes that are sharded"),
        (lambda: second(MIX.linear(x, w, y), x), "create_graph must be False for a fused loss"),
        (
            lambda: MIX(z, y, mask=torch.ones(11, dtype=torch.bool)),
            "mask must be left out where logits are a DTensor, got (11,); put minus infinity into the logits",
        ),
        (
            lambda: torch.func.grad(lambda h: MIX.linear(h, w, y))(x),
            "linear_weight must be a full tensor under a transform of torch.func, forward mode or a tracer, "
            "got a DTensor; use linear_weight.full_tensor()",
        ),
    ]
    reached: set[tuple[Any, int]] = set()
    for call, says in table:
        with pytest.raises((ValueError, RuntimeError, NotImplementedError), match=re.escape(says)) as caught:
            call()
        reached |= {(entry.path, entry.lineno + 1) for entry in caught.traceback}
        torch.manual_seed(0)
        dense(MIX, mesh, 11)  # the process is as clean as before
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Raise):
                lines = {(source, line) for line in range(node.lineno, (node.end_lineno or 0) + 1)}
                assert reached & lines, f"{source}:{node.lineno} is not raised"


def faults(mesh: DeviceMesh) -> None:
    """What the comparison is for: a merge that forgets ranks, and gradients that are not summed."""

    def unsummed(*args: Any, **options: Any) -> None:
        pass

    def first(one: Sums, two: Sums) -> Sums:
        return one

    for check in (dense, fused):
        for loss in (MIX, CrossEntropy(), Gini()):
            with patch.object(sharded, "merge", first), pytest.raises(AssertionError, match="not close"):
                check(loss, mesh, 11)
    with patch.object(dist, "all_reduce", unsummed), pytest.raises(AssertionError, match="not close"):
        fused(MIX, mesh, 11)


def on_a_grid(mesh: DeviceMesh) -> dict[str, Call]:
    """Two by two ranks: rows over the first dimension, classes over the second."""
    torch.manual_seed(0)
    logits, target = torch.randn(7, 11).double(), torch.randint(11, (7,))
    images, pixels = torch.randn(3, 11, 2).double(), torch.randint(11, (3, 2))
    cases: dict[str, Call] = {}
    one = logits[:1]  # a rank without rows
    for placements in ([Shard(0), Shard(1)], [Shard(1), Shard(0)], [Replicate(), Shard(1)]):
        name = f"grid {placements} "
        cases[name + "rows"] = partial(both, mesh, logits, lambda z: MIX(z, target), placements)
        cases[name + "none"] = partial(
            both, mesh, logits, lambda z: MIX(z, target, reduction="none"), placements
        )
        cases[name + "one"] = partial(both, mesh, one, lambda z: MIX(z, target[:1]), placements)
        cases[name + "images"] = partial(both, mesh, images, lambda z: MIX(z, pixels), placements)
        cases[name + "Balance"] = partial(
            both, mesh, logits, lambda z: (MIX + Balance())(z, target), placements
        )

    def twice() -> None:
        with pytest.raises(ValueError, match="on one dimension of the mesh"):
            MIX(share(logits, mesh, [Shard(1), Shard(1)]), target)

    return cases | {"grid classes twice": twice}


def of(mesh: DeviceMesh) -> dict[str, Call]:
    """Return the cases for two ranks."""
    checks = (
        shapes,
        logits_that_still_travel,
        dense_options,
        fused_options,
        some_parts_may_be_replicated,
        half_precision,
        statistics,
        objectives,
        plans,
        messages,
        faults,
    )
    return {check.__name__: partial(check, mesh) for check in checks}
