"""Losses and statistics of hidden states and a weight matrix, without the logits they would make.

`loss.linear(hidden, linear_weight, target)` is `loss(hidden @ linear_weight.T, target)`, value and gradients,
and holds a block of the logits at a time. `row_statistics` gives the statistics themselves, for any use;
`explain` says how something will be computed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from equipoise import naming
from equipoise.linear.head import Head
from equipoise.linear.memory import empty_cache
from equipoise.linear.orders import Again, Forward, Job, Statistics
from equipoise.linear.plan import Plan
from equipoise.linear.reading import (
    Lora,
    check_rows,
    is_traced,
    open_backend,
    read_head,
    read_job,
    read_sample_weight,
    read_softcap,
    read_target,
)
from equipoise.linear.sharded import find_classes, plan_share, take_share
from equipoise.reduction import IGNORE_INDEX, Targets, left_out, no_autocast, reduce, without
from equipoise.rows import RowStatistics, applies_class_weight, row_losses
from equipoise.sharded import whole
from equipoise.stats import (
    ClassCount,
    Entropy,
    Group,
    Largest,
    LogOdds,
    LogSumExp,
    LogSumExpGap,
    Margin,
    MeanLogit,
    Rank,
    Smallest,
    Stat,
    ask_all,
    tried,
)

T = TypeVar("T")

__all__ = ["ROW_OPTIONS", "STATS", "Lora", "Plan", "empty_cache", "explain", "reduced", "row_statistics"]

# Of the options of `Loss.linear`, those that `row_statistics` has too, but for the class weights.
ROW_OPTIONS = ("ignore_index", "logit_scale", "softcap", "lora", "block_bytes", "backend")

STATS: tuple[Stat, ...] = (
    LogOdds(),
    LogSumExp(),
    LogSumExpGap(),
    Entropy(),
    MeanLogit(),
    ClassCount(),
    Largest(),
    Smallest(),
    Margin(),
    Rank(),
)


def _prepare(
    loss: Any,
    hidden: Tensor,
    linear_weight: Tensor,
    target: Tensor | None = None,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
    ignore_index: int = IGNORE_INDEX,
    reduction: str = "mean",
    denominator: float | Tensor | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    lora: Lora | None = None,
    grad: str = "auto",
    block_bytes: int | None = None,
    backend: str = "auto",
    compare: bool = True,
) -> tuple[Head, Job, Callable[[Tensor], Tensor]] | Tensor:
    """Return what is to be computed, and of what; or the loss itself where a tracer must see it computed."""
    hidden, target, weight = whole(hidden), whole(target), whole(weight)
    sample_weight, denominator = whole(sample_weight), whole(denominator)
    classes = find_classes(
        linear_weight,
        lora,
        compare=compare,
        hidden=hidden,
        target=target,
        linear_bias=linear_bias,
        weight=weight,
        sample_weight=sample_weight,
        denominator=denominator,
        options=(ignore_index, reduction, logit_scale, softcap, grad, block_bytes, backend),
    )
    head = read_head(hidden, linear_weight, linear_bias, lora, logit_scale)
    shape = hidden.shape[:-1]
    per_row = read_sample_weight(sample_weight, shape, head, denominator, reduction)
    targets = read_target(head, shape, target, weight, ignore_index)
    head = _without(head, left_out(targets, per_row, applies_class_weight=applies_class_weight(loss)))
    reasons = ["reduction is 'none'"] if reduction == "none" else []
    reasons += ["sample_weight needs a gradient"] if per_row is not None and per_row.requires_grad else []
    if isinstance(denominator, Tensor):
        reasons += ["denominator needs a gradient"] if denominator.requires_grad else []
        denominator = denominator.reshape(()).to(head.hidden.device)
    check_rows(loss)
    softcap = read_softcap(softcap)

    def finish(losses: Tensor) -> Tensor:
        return reduce(losses, targets, reduction, sample_weight=per_row, denominator=denominator)

    if is_traced(head, backend):
        logits = _capped(head, softcap)
        return finish(row_losses(loss, logits, targets.target, targets.soft, class_weight=targets.weight))
    job = read_job(
        loss,
        head,
        targets,
        softcap=softcap,
        grad=grad,
        reasons=reasons,
        block_bytes=block_bytes,
        backend=backend,
        classes=classes,
    )
    if classes is not None:
        head, job = take_share(head, job, classes)
    return head, job, finish


def _capped(head: Head, softcap: float | None) -> Tensor:
    """Return all the logits, capped."""
    logits = head.all_logits()
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def _without(head: Head, out: Tensor | None) -> Head:
    """Return the head without what could be nan in rows that are left out."""
    if out is None:
        return head
    # A sum is not finite if one of its terms is not, and quicker than looking at each.
    return replace(
        head, hidden=without(head.hidden, out, lambda rows: rows.sum(1, dtype=head.work_dtype).isfinite())
    )


def reduced(loss: Any, *args: Any, **options: Any) -> Tensor:
    """Return `loss.linear(*args, **options)`."""
    return _traced_around(_reduced, loss, *args, **options)


def _traced_around(function: Callable[..., T], *args: Any, **options: Any) -> T:
    """Call a function whose loops and gradients are its own: one graph break for a compiler."""
    if torch.compiler.is_compiling():
        return torch.compiler.disable(function)(*args, **options)  # pyright: ignore[reportReturnType]
    return function(*args, **options)


def _reduced(loss: Any, *args: Any, **options: Any) -> Tensor:
    prepared = _prepare(loss, *args, **options)
    if isinstance(prepared, Tensor):
        return prepared
    head, job, finish = prepared
    scales = head.lora_scale, head.scale
    with no_autocast(head.hidden.device):
        if job.plan.grad == "forward":
            answer: Any = Forward.apply(job, finish, scales, *head.parameters)
            return answer
        if job.whole:
            losses: Any = Again.apply(job, scales, *head.parameters)
            return finish(losses)
        return finish(job.losses(_statistics(job, head), slice(None)))


def _statistics(job: Job, head: Head) -> Sequence[Tensor]:
    with no_autocast(head.hidden.device):
        values: Any = Statistics.apply(job, (head.lora_scale, head.scale), *head.parameters)
    return values


def explain(loss: Any, *args: Any, **options: Any) -> Plan:
    """Return how `loss.linear(*args, **options)` will be computed, without computing it.

    Args:
        loss: The loss.
        args: As for `Loss.linear`.
        options: As for `Loss.linear`.

    Raises:
        TypeError: As `Loss.linear`.
        ValueError: As `Loss.linear`.

    Example:
        >>> from equipoise.losses import GammaCrossEntropy
        >>> hidden, weight = torch.randn(6, 4, requires_grad=True), torch.randn(10, 4, requires_grad=True)
        >>> print(explain(GammaCrossEntropy(0.1), hidden, weight, torch.arange(6), backend="torch"))
        shape     6 rows, 4 features, 10 classes
        gradient  forward: the loss is a sum over rows with weights known beforehand
        backend   torch
        blocks    6 rows x 10 classes
        products  3 of 6 x 4 x 10
        memory    240 bytes for a block of logits (all of them: 240 bytes), 256 bytes for gradients
    """
    prepared = _prepare(loss, *args, **options, compare=False)
    if isinstance(prepared, Tensor):
        raise ValueError("hidden must not be traced or transformed, got one that is; explain it outside")
    return prepared[1].plan


def row_statistics(
    hidden: Tensor,
    linear_weight: Tensor,
    target: Tensor | None = None,
    *,
    linear_bias: Tensor | None = None,
    stats: Sequence[Stat] | None = None,
    weight: Tensor | None = None,
    ignore_index: int = IGNORE_INDEX,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    lora: Lora | None = None,
    block_bytes: int | None = None,
    backend: Literal["auto", "torch", "cpp", "triton"] = "auto",
) -> RowStatistics:
    r"""Return the rows of the logits :math:`x W^\top`, for any use of their statistics; no logits are held.

    The statistics are differentiable, so what is made of them may be any function, of several rows too:
    losses of a policy gradient, weights for each token, an entropy bonus, metrics. The logits are made once
    for all of `stats`, and once more for the gradient.

    Args:
        hidden: (..., D), the hidden states x.
        linear_weight: (V, D), as in `torch.nn.Linear`.
        target: (...) class of each row; None for statistics that need none. A row with `ignore_index` is
            answered as if its class were 0: leave it out of what you make of the answers.
        linear_bias: (V,).
        stats: What will be asked; None for everything that `RowStatistics` answers at scale 1.
        weight: (V,) class weights, for losses that read them.
        ignore_index: As in `Loss.linear`.
        logit_scale: As in `Loss.linear`.
        softcap: As in `Loss.linear`.
        lora: As in `Loss.linear`.
        block_bytes: As in `Loss.linear`.
        backend: As in `Loss.linear`.

    Shapes:
        Answers are (N,), the rows in the order of `hidden.reshape(-1, D)`.

    Raises:
        TypeError: As `Loss.linear`.
        ValueError: As `Loss.linear`, and if a statistic is asked for that is not among `stats`.

    Numerics:
        As `Loss.linear`.

    Example:
        >>> hidden, weight = torch.randn(6, 4, requires_grad=True), torch.randn(10, 4, requires_grad=True)
        >>> row = row_statistics(hidden, weight, torch.arange(6))
        >>> advantage = torch.randn(6)
        >>> log_prob = torch.nn.functional.logsigmoid(row.log_odds())
        >>> loss = -(advantage * log_prob).mean() - 0.01 * row.entropy.mean()
        >>> loss.backward()
        >>> accuracy = row.correct.float().mean()
    """
    hidden, target, weight = whole(hidden), whole(target), whole(weight)
    classes = find_classes(
        linear_weight,
        lora,
        hidden=hidden,
        target=target,
        linear_bias=linear_bias,
        weight=weight,
        options=(stats, ignore_index, logit_scale, softcap, block_bytes, backend),
    )
    head = read_head(hidden, linear_weight, linear_bias, lora, logit_scale)
    targets = read_target(head, hidden.shape[:-1], target, weight, ignore_index)
    head, softcap = _without(head, left_out(targets, None)), read_softcap(softcap)
    if stats is None:
        stats = [stat for stat in STATS if target is not None or not stat.reads_target]
        if classes is not None:
            stats = [stat for stat in stats if stat != Rank()]  # it needs whole rows
    group = Group(tuple(stats))
    if targets.target is None and group.reads_target:
        raise ValueError("target must be given, got None; only penalties can do without one")
    if is_traced(head, backend):
        known = ask_all(group.stats, _capped(head, softcap), targets.target)
        return _row(known, len(linear_weight), targets)
    name, opened = open_backend(backend, head.hidden.device)
    plan = plan_share(
        head,
        classes,
        grad="recompute",
        reasons=["the rows may be used in any way"],
        whole=False,
        marked=bool(tried(group, head.hidden.device)[1].marks),
        backend=name,
        block_bytes=block_bytes,
    )
    job = Job(group, targets, softcap, plan, opened)
    if classes is not None:
        head, job = take_share(head, job, classes)
    values = _traced_around(_statistics, job, head)
    return _row(dict(zip(group.stats, values, strict=True)), len(linear_weight), targets)


def _row(known: Mapping[Stat, Tensor], num_classes: int, targets: Targets) -> RowStatistics:
    """Return a row that answers what is known."""

    def answer(stat: Stat) -> Tensor:
        if stat not in known:
            raise ValueError(
                f"stats must hold {stat!r} for it to be asked, got {', '.join(map(repr, known))}; "
                "the logits are gone"
            )
        return known[stat]

    return RowStatistics(answer, num_classes=num_classes, target=targets.target, class_weight=targets.weight)


naming.answer_names(__name__)
