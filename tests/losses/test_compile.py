"""Losses under `torch.compile`: one graph for all sizes of a batch; values and gradients of eager."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from equipoise.losses import LOSSES, CrossEntropy, GammaCrossEntropy, Loss, RankedProbabilityScore, RowLoss
from equipoise.penalties import PENALTIES, Entropy, LogitRange
from equipoise.statistics import RowStatistics
from support.definitions import TEST_CLASSES, settings_of
from support.linear_cases import THREE, case

pytestmark = [
    pytest.mark.slow,
    # what torch says of itself
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
]

SIZES = 5, 11  # of batches; none is the number of classes
# One setting of each entry, as a compilation takes a second and the settings differ in numbers.
TABLE = [pytest.param(settings_of(entry)[-1], id=entry.name) for entry in LOSSES + PENALTIES]
IGNORED = 1
SMOOTHED = CrossEntropy(label_smoothing=0.1)


@final
@dataclass(frozen=True)
class Option:
    """Arguments beside logits and classes, for a batch of any size.

    Args:
        make: Returns them, given logits (N, C).
        target: Returns the target, given logits (N, C) and classes (N,).
        spoilt: What the first row, which is then ignored, holds.
    """

    make: Callable[[Tensor], dict[str, Any]] = lambda logits: {}
    target: Callable[[Tensor, Tensor], Tensor] = lambda logits, classes: classes
    spoilt: float | None = None


OPTIONS = {
    "class weights": Option(lambda z: {"weight": torch.linspace(0, 2, z.shape[1], dtype=z.dtype)}),
    "sample weights, none": Option(
        lambda z: {"sample_weight": torch.arange(len(z), dtype=z.dtype), "reduction": "none"}
    ),
    "ignored rows": Option(lambda z: {"ignore_index": IGNORED}, spoilt=torch.nan),
    "a mask of classes, sum": Option(
        lambda z: {"mask": torch.arange(z.shape[1]) % 3 != 2, "reduction": "sum"}
    ),
    "a mask of rows": Option(lambda z: {"mask": torch.rand_like(z) < 0.8}),
    "soft targets": Option(target=lambda z, classes: torch.rand_like(z).softmax(1)),
    "all weights": Option(
        lambda z: {
            "weight": torch.linspace(0, 2, z.shape[1], dtype=z.dtype),
            "sample_weight": torch.arange(len(z), dtype=z.dtype),
            "ignore_index": IGNORED,
            "reduction": "sum",
        },
        spoilt=torch.inf,
    ),
}


def compile_whole(function: Callable[..., Tensor], backend: str) -> tuple[Any, CompileCounterWithBackend]:
    """Return a function compiled in one graph, and what counts its compilations."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend(backend)
    return torch.compile(function, backend=counter, fullgraph=True), counter


def check(
    loss: Loss,
    option: Option = Option(),
    backend: str = "aot_eager",
    dtype: torch.dtype = torch.float64,
    **tolerance: float,
) -> int:
    """Compare a loss compiled with the same in eager; return how many times it was compiled."""
    run, counter = compile_whole(lambda *args, **options: loss(*args, **options), backend)
    for size in SIZES:
        logits = 3 * torch.randn(size, TEST_CLASSES, dtype=dtype)
        classes = torch.arange(size) % TEST_CLASSES
        if option.spoilt is not None:
            classes[0], logits[0, 3] = IGNORED, option.spoilt
        target, arguments = option.target(logits, classes), option.make(logits)
        found = []
        for function in (run, loss):
            leaf = logits.clone().requires_grad_()
            for tensor in (leaf, target, *arguments.values()):
                if isinstance(tensor, Tensor) and len(tensor) == size:  # not guessed from a second batch
                    torch._dynamo.maybe_mark_dynamic(tensor, 0)
            value = function(leaf, target, **arguments)
            found.append((value.detach(), torch.autograd.grad(value.sum(), leaf)[0]))
        (value, grad), (expected, expected_grad) = found
        if option.spoilt is not None:
            assert expected.isfinite().all()
        torch.testing.assert_close(value, expected, **tolerance)
        torch.testing.assert_close(grad, expected_grad, **tolerance)
    return counter.frame_count


@pytest.mark.parametrize("loss", TABLE)
def test_a_loss_is_one_graph_for_batches_of_any_size(loss: Loss) -> None:
    """A compiled loss is one graph for all batch sizes."""
    assert check(loss, rtol=1e-11, atol=1e-13) == 1


@pytest.mark.parametrize(
    ("loss", "option"),
    [(SMOOTHED, option) for option in OPTIONS]
    + [(RankedProbabilityScore(), option) for option in ("ignored rows", "a mask of rows", "all weights")],
)
def test_weights_masks_ignored_rows_and_reductions(loss: Loss, option: str) -> None:
    """Weights, masks, ignored rows and reductions compile to one graph."""
    assert check(loss, OPTIONS[option], rtol=1e-11, atol=1e-13) == 1


@pytest.mark.parametrize(
    ("loss", "option"),
    [
        (CrossEntropy(), "ignored rows"),
        (GammaCrossEntropy(0.1) + 0.1 * Entropy() + LogitRange(width=2.0), "all weights"),
    ],
)
def test_the_default_backend(loss: Loss, option: str) -> None:
    """Inductor compiles a loss once for all sizes of a batch, with the eager value."""
    assert check(loss, OPTIONS[option], "inductor", torch.float32, rtol=1e-5, atol=1e-6) == 1


@pytest.mark.parametrize("differentiated", [False, True])
def test_a_class_that_does_not_exist_is_an_error(differentiated: bool) -> None:
    """An invalid target raises in compiled code."""
    run, _ = compile_whole(CrossEntropy(), "inductor")
    logits, target = torch.zeros(5, TEST_CLASSES, requires_grad=differentiated), torch.arange(5)
    run(logits, target)
    for wrong in (TEST_CLASSES, -1):
        target[2] = wrong
        with pytest.raises(RuntimeError, match="index out of bounds"):
            run(logits, target)


@final
@dataclass(frozen=True)
class Planted(RowLoss):
    """Cross entropy with a fault in it."""

    fault: Callable[[Tensor], Any]

    def per_row(self, row: RowStatistics, /) -> Tensor:
        odds = row.log_odds()
        return -torch.nn.functional.logsigmoid(odds) * self.fault(odds)


def test_a_loss_that_branches_on_a_number_is_found_out() -> None:
    """A loss that branches on a value is found."""
    with pytest.raises(torch._dynamo.exc.Unsupported, match="Data-dependent branching"):
        check(Planted(lambda odds: 1.0 if odds.detach().amax() > 0 else 2.0))


def test_a_loss_that_branches_on_the_size_of_the_batch_is_found_out() -> None:
    """A loss that branches on the batch size is found."""
    assert check(Planted(lambda odds: 2.0 if len(odds) == SIZES[1] else 1.0)) > 1


def test_a_loss_that_is_another_when_compiled_is_found_out() -> None:
    """A loss that differs when compiled is found."""
    for fault in (lambda odds: 1.0, lambda odds: odds.detach() / odds):  # of the value, of the gradient
        planted = Planted(lambda odds, fault=fault: fault(odds) if torch.compiler.is_compiling() else 2.0)
        with pytest.raises(AssertionError, match="not close"):
            check(planted)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_fused_loss_breaks_the_graph_once() -> None:
    """A fused loss breaks the graph once."""
    c = case(16, 9, 4, dtype=torch.float32)

    def once(hidden: Tensor, weight: Tensor) -> Tensor:
        return 2 * THREE.linear(torch.tanh(hidden), weight, c.target)

    def twice(hidden: Tensor, weight: Tensor) -> Tensor:  # with a break that is planted
        first = THREE.linear(torch.tanh(hidden), weight, c.target)
        return first * THREE.linear(torch.sin(hidden), weight, c.target)

    for step, breaks in ((once, 1), (twice, 2)):
        compiled = torch.compile(step, backend="eager")
        torch.testing.assert_close(compiled(c.hidden, c.weight), step(c.hidden, c.weight))
        assert torch._dynamo.explain(step)(c.hidden, c.weight).graph_break_count == breaks
