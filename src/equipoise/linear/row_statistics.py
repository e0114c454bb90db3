"""`row_statistics`: differentiable statistics of the logits of a linear layer, without materialising them."""

from collections.abc import Callable, Sequence
from typing import Literal

from torch import Tensor

from equipoise._batch import IGNORE_INDEX, Targets, no_autocast
from equipoise.linear.autograd import outside_graph, recomputed_numbers
from equipoise.linear.inputs import Lora, read_inputs
from equipoise.linear.setup import check_traced_backend, setup_of_statistics
from equipoise.statistics import (
    ClassCount,
    Entropy,
    Largest,
    LogOdds,
    LogSumExp,
    LogSumExpGap,
    Margin,
    MeanLogit,
    Rank,
    RowStatistics,
    Smallest,
    Statistic,
    reference,
)

# Options that `row_statistics` shares with `Loss.linear`, except the class weights.
ROW_OPTIONS = ("ignore_index", "logit_scale", "softcap", "lora", "block_bytes", "backend")

STATS: tuple[Statistic, ...] = (
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


def row_statistics(
    hidden: Tensor,
    linear_weight: Tensor,
    target: Tensor | None = None,
    *,
    linear_bias: Tensor | None = None,
    stats: Sequence[Statistic] | None = None,
    weight: Tensor | None = None,
    ignore_index: int = IGNORE_INDEX,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    lora: Lora | None = None,
    block_bytes: int | None = None,
    backend: Literal["auto", "torch", "cpp", "triton"] = "auto",
) -> RowStatistics:
    r"""Return statistics of the rows of the logits :math:`x W^\top` without materialising the logits.

    The statistics are differentiable, and may be used in any function, also of several rows: a policy
    gradient, weights per token, an entropy bonus, metrics. The logits are computed once for all of `stats`,
    and recomputed once for the gradient.

    Args:
        hidden: (..., D), the hidden states x.
        linear_weight: (V, D), as in `torch.nn.Linear`.
        target: (...) class of each row; None for statistics without a target. The statistics of a row with
            `ignore_index` are those of class 0: exclude the row from your result.
        linear_bias: (V,).
        stats: The statistics to compute; None for all those of `RowStatistics` at scale 1.
        weight: (V,) class weights, for losses that read them.
        ignore_index: As in `Loss.linear`.
        logit_scale: As in `Loss.linear`.
        softcap: As in `Loss.linear`.
        lora: As in `Loss.linear`.
        block_bytes: As in `Loss.linear`.
        backend: As in `Loss.linear`.

    Shapes:
        Statistics are (N,), the rows in the order of `hidden.reshape(-1, D)`.

    Raises:
        TypeError: As `Loss.linear`.
        ValueError: As `Loss.linear`; also, when used, for a statistic that is not among `stats`.

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
    inputs = read_inputs(
        None,
        hidden,
        linear_weight,
        target,
        linear_bias=linear_bias,
        weight=weight,
        ignore_index=ignore_index,
        reduction="none",
        logit_scale=logit_scale,
        softcap=softcap,
        lora=lora,
        grad="recompute",
        block_bytes=block_bytes,
        backend=backend,
    )
    targets = inputs.targets
    if stats is None:
        stats = [stat for stat in STATS if targets.target is not None or not stat.reads_target]
        if inputs.classes is not None:
            stats = [stat for stat in stats if stat != Rank()]  # which needs complete rows
    if inputs.traced:
        check_traced_backend(inputs)
        plain = reference.row_statistics(inputs.all_logits(), targets.target)
        return _answering(stats, plain.compute, inputs.num_classes, targets)
    setup = setup_of_statistics(stats, inputs)
    with no_autocast(hidden.device):
        states = setup.states(outside_graph(recomputed_numbers)(setup, inputs.head))
    return _answering(
        stats, lambda statistic: statistic.finalize(states) * states.valid, inputs.num_classes, targets
    )


def _answering(
    stats: Sequence[Statistic], compute: Callable[[Statistic], Tensor], classes: int, targets: Targets
) -> RowStatistics:
    """Return a function that returns the given statistics, and raises for others."""

    def answer(statistic: Statistic) -> Tensor:
        if statistic not in stats:
            raise ValueError(
                f"stats must hold {statistic!r} to compute it, got {', '.join(map(repr, stats))}; the "
                "logits are not kept"
            )
        return compute(statistic)

    weight, target = targets.weight, targets.target
    of_rows = None if weight is None or target is None else weight[target]
    return RowStatistics(answer, num_classes=classes, class_weight=weight, weight=of_rows)
