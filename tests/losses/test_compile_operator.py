"""The operator of a loss under `torch.compile`: its place in the graph, its gradients, what it keeps."""

import gc
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from equipoise.costs import ClassMatrix
from equipoise.losses import (
    LOSSES,
    Brier,
    CrossEntropy,
    GammaCrossEntropy,
    Loss,
    PairwiseCrossEntropy,
    Reweighted,
    RowLoss,
    TaiLrWeight,
    compiled,
)
from equipoise.penalties import PENALTIES, Entropy
from equipoise.statistics import RowStatistics
from support.definitions import TEST_CLASSES, settings_of

TABLE = [
    pytest.param(loss, id=f"{entry.name}-{index}")
    for entry in LOSSES + PENALTIES
    for index, loss in enumerate(settings_of(entry))
]
GAMMA = GammaCrossEntropy(0.1)
SUM = GAMMA - 0.1 * Entropy()
ROWS = 6
SLOW = [
    pytest.mark.slow,
    # what torch says of itself
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning"),
]


def slow(function: Callable[..., None]) -> Callable[..., None]:
    """Mark a test that compiles."""
    for mark in SLOW:
        function = mark(function)
    return function


@final
@dataclass(frozen=True)
class Own(RowLoss):
    """A loss of a user, which must be traced, as it may branch on a value."""

    scale: float = 1.0

    def per_row(self, row: RowStatistics, /) -> Tensor:
        return -self.scale * row.log_odds()


def inputs(dtype: torch.dtype = torch.float64, rows: int = ROWS) -> tuple[Tensor, Tensor]:
    """Return logits that require a gradient, and classes."""
    source = torch.Generator().manual_seed(rows)
    logits = 3 * torch.randn(rows, TEST_CLASSES, generator=source, dtype=dtype)
    return logits.requires_grad_(), torch.arange(rows) % TEST_CLASSES


def whole(function: Callable[..., Any], backend: Any = "aot_eager") -> Any:
    """Return a function compiled in one graph."""
    torch._dynamo.reset()
    return torch.compile(function, backend=backend, fullgraph=True)


def operators(function: Callable[..., Any], *arguments: Any) -> int:
    """Return how often the operator stands in the graph of a function."""
    found: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, examples: Any) -> Any:
        found.append(graph)
        return graph

    whole(function, backend)(*arguments)
    (graph,) = found
    return sum("equipoise.loss" in str(node.target) for node in graph.graph.nodes)


def structure(loss: object) -> tuple[Any, list[Tensor]]:
    """Return the structure of a loss, and its tensors."""
    tensors: list[Tensor] = []
    return compiled.structure_of(loss, tensors), tensors


@pytest.mark.parametrize("loss", TABLE)
def test_a_structure_determines_the_loss(loss: Loss) -> None:
    """A loss made from its structure, pickled and without the object, equals it."""
    found, tensors = structure(loss)
    again = compiled.value_of(pickle.loads(pickle.dumps(found)), tensors)
    assert type(again) is type(loss)
    assert repr(again) == repr(loss)
    assert structure(again)[0] == found
    logits, target = inputs()
    assert torch.equal(loss(logits, target), again(logits, target))


def test_tensors_of_a_loss_are_arguments() -> None:
    """Numbers that are tensors are not part of the structure."""
    gamma, other = torch.tensor(0.1), torch.tensor(0.2)
    first, tensors = structure(GammaCrossEntropy(gamma) + 0.5 * Entropy())
    second, _ = structure(GammaCrossEntropy(other) + 0.5 * Entropy())
    assert first == second
    assert tensors == [gamma]
    assert compiled.value_of(first, [other]).terms()[0][1].gamma is other


def test_losses_that_differ_have_different_structures() -> None:
    """No two settings of the table have one name."""
    names = [compiled._name(structure(param.values[0])[0]) for param in TABLE]
    known = [name for name in names if name is not None]
    assert len(set(known)) == len(known)
    assert len(known) > len(names) - 3  # those with a function
    assert all(compiled._digest() in name for name in known)


@pytest.mark.parametrize(
    "loss", [Own(), GAMMA + Own(), Reweighted(lambda p: p)], ids=["own", "sum", "function"]
)
def test_a_loss_with_foreign_code_has_no_name(loss: Loss) -> None:
    """A loss of a user, and one with a function, are not determined by a text; one with a dataclass is."""
    assert compiled._name(structure(loss)[0]) is None
    assert compiled._name(structure(Reweighted(TaiLrWeight(0.1)))[0]) is not None


def test_equal_matrices_share_a_table_as_long_as_one_exists() -> None:
    """The entries are found by their hash after any of two equal matrices is gone, and not after both are."""
    rows = [[0.0, 1.0], [7.0, 0.0]]
    one, two = (
        ClassMatrix(rows, kind="weights"),
        pickle.loads(pickle.dumps(ClassMatrix(rows, kind="weights"))),
    )
    digest = one.digest
    assert two.digest == digest
    del one
    gc.collect()
    assert ClassMatrix.existing("weights", digest) == two
    assert ClassMatrix.existing("costs", digest).kind == "costs"
    del two
    gc.collect()
    with pytest.raises(KeyError):
        ClassMatrix.existing("weights", digest)


@slow
@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (GAMMA, 1),
        (SUM, 1),
        (PairwiseCrossEntropy(1 - torch.eye(TEST_CLASSES)), 1),
        (Own(), 0),
        (SUM + Own(), 0),
    ],
)
def test_the_graph_has_one_operator(loss: Loss, expected: int) -> None:
    """The graph of a loss of the package is one operator; that of a user's loss has none."""
    assert operators(lambda logits, target: loss(logits, target), *inputs()) == expected


@slow
def test_where_the_code_is_read_instead() -> None:
    """A mask, soft targets, and `torch.vmap` are traced, as is a strict export."""
    logits, target = inputs()
    mask = torch.ones(TEST_CLASSES, dtype=torch.bool)
    assert operators(lambda z, y: GAMMA(z, y), logits, target) == 1
    assert operators(lambda z, y: GAMMA(z, y, mask=mask), logits, target) == 0
    assert operators(lambda z, y: GAMMA(z, y), logits, logits.detach().softmax(1)) == 0
    assert operators(torch.vmap(lambda z, y: GAMMA(z, y)), logits, target) == 0

    class Criterion(torch.nn.Module):
        def forward(self, logits: Tensor, target: Tensor) -> Tensor:
            return GAMMA(logits, target)

    exported = torch.export.export(Criterion(), (logits.detach(), target), strict=True).run_decompositions()
    assert not any("equipoise" in str(node.target) for node in exported.graph.nodes)


@slow
@pytest.mark.parametrize("shape", [(TEST_CLASSES,), (3, TEST_CLASSES), (3, TEST_CLASSES, 4)], ids=str)
@pytest.mark.parametrize("loss", [GAMMA, SUM])
def test_a_gradient_per_row(loss: Loss, shape: tuple[int, ...]) -> None:
    """With reduction "none" each row's gradient is multiplied by its own number."""
    places = shape[:-1] if len(shape) < 3 else (shape[0], shape[2])
    logits = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    target, factor = torch.randint(TEST_CLASSES, places), torch.rand(places, dtype=torch.float64)

    def total(logits: Tensor) -> Tensor:
        return (factor * loss(logits, target, reduction="none")).sum()

    (ours,) = torch.autograd.grad(whole(total)(logits), logits)
    (expected,) = torch.autograd.grad(total(logits), logits)
    torch.testing.assert_close(ours, expected)
    assert ours.abs().amin() > 0


@slow
def test_other_inputs_that_need_a_gradient_get_one() -> None:
    """Class weights, sample weights and parameters get the gradients of eager, also without the logits'."""
    logits, target = inputs()
    gamma = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(TEST_CLASSES, dtype=torch.float64, requires_grad=True)
    sample_weight = torch.rand(ROWS, dtype=torch.float64, requires_grad=True)

    def value(logits: Tensor, gamma: Tensor) -> Tensor:
        return GammaCrossEntropy(gamma)(logits, target, weight, sample_weight=sample_weight)

    for given in (logits, logits.detach()):
        leaves = [leaf for leaf in (given, gamma, weight, sample_weight) if leaf.requires_grad]
        ours = torch.autograd.grad(whole(value)(given, gamma), leaves)
        expected = torch.autograd.grad(value(given, gamma), leaves)
        torch.testing.assert_close(ours, expected)


@slow
@pytest.mark.parametrize("transform", [torch.func.grad, torch.func.hessian, torch.func.jacfwd])
@pytest.mark.parametrize("loss", [GAMMA, Brier()])
def test_transforms_inside(loss: Loss, transform: Any) -> None:
    """Transforms of `torch.func` inside a compiled function, second derivatives among them, are exact."""
    logits, target = inputs()
    run = transform(lambda logits: loss(logits, target))
    torch.testing.assert_close(whole(run)(logits.detach()), run(logits.detach()))


@slow
@pytest.mark.parametrize("loss", [GAMMA, Brier()])
def test_second_derivatives_are_right_or_refused(loss: Loss) -> None:
    """With the backend "eager" they are those of eager; compiled code raises, and does not return zeros."""
    logits, target = inputs()

    def twice(run: Callable[[Tensor], Tensor]) -> Tensor:
        (grad,) = torch.autograd.grad(run(logits), logits, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), logits)[0]

    def value(logits: Tensor) -> Tensor:
        return loss(logits, target)

    torch.testing.assert_close(twice(whole(value, "eager")), twice(value))
    loss_value = whole(value)(logits)
    (grad,) = torch.autograd.grad(loss_value, logits, create_graph=True)
    with pytest.raises(RuntimeError, match="double backward"):  # as in training with a gradient penalty
        (loss_value + grad.square().sum()).backward()


@slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_scaled_gradient_of_half_precision_does_not_underflow(dtype: torch.dtype) -> None:
    """A gradient that a scale lifts above the smallest number of a dtype is that of eager."""
    logits, target = inputs(torch.float32)
    half = (logits.detach() * 3).to(dtype).requires_grad_()
    scale = 2.0**15

    def scaled(half: Tensor) -> Tensor:
        return scale * GAMMA(half, target, reduction="sum") / 1e4

    (ours,) = torch.autograd.grad(whole(scaled)(half), half)
    (expected,) = torch.autograd.grad(scaled(half), half)
    torch.testing.assert_close(ours, expected)
    (unscaled,) = torch.autograd.grad(scaled(half) / scale, half)
    if dtype == torch.float16:  # the test can fail: computed before the scale, entries would be lost
        assert ((unscaled == 0) & (expected != 0)).any()


@slow
@pytest.mark.parametrize("loss", [GAMMA, SUM, Brier()])
def test_the_forward_pass_keeps_the_gradient_alone(loss: Loss) -> None:
    """One tensor is kept between the passes, the gradient; of a loss that is traced more is kept."""
    logits, target = inputs(torch.float32)

    def kept(loss: Loss) -> tuple[Tensor, list[Tensor]]:
        value = whole(lambda logits: loss(logits, target, reduction="sum"), "inductor")(logits)
        return value, list(value.grad_fn.saved_tensors)

    value, (grad,) = kept(loss)
    torch.testing.assert_close(grad, torch.autograd.grad(value, logits)[0])
    assert len(kept(Own())[1]) > 1


@slow
def test_nothing_is_kept_without_a_gradient() -> None:
    """Under `no_grad`, and for logits without a gradient, the value alone is computed."""
    logits, target = inputs()
    run = whole(lambda logits: GAMMA(logits, target))
    with torch.no_grad():
        assert run(logits).grad_fn is None
    assert run(logits.detach()).grad_fn is None
    torch.testing.assert_close(run(logits.detach()), GAMMA(logits, target).detach())


@slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": torch.zeros(3, dtype=torch.long)}, "target must have the shape of the logits without"),
        ({"weight": torch.ones(3)}, "weight must be"),
        ({"sample_weight": torch.ones(3)}, "sample_weight must be a tensor"),
        ({"reduction": "average"}, "reduction must be one of"),
        ({"target": torch.ones(ROWS, dtype=torch.bool)}, "target must be class indices"),
        ({"target": [0] * ROWS}, "target must be a tensor"),
        ({"ignore_index": 0.5}, "ignore_index must be an integer"),
    ],
    ids=["target", "weight", "sample_weight", "reduction", "dtype", "list", "ignore_index"],
)
def test_errors_are_those_of_eager(arguments: dict[str, Any], message: str) -> None:
    """A wrong argument raises the package's error, not one of the compiler."""
    logits, target = inputs()
    torch._dynamo.reset()
    run = torch.compile(lambda **given: CrossEntropy()(logits, **given), backend="aot_eager")
    with pytest.raises((TypeError, ValueError), match=message):
        run(**{"target": target} | arguments)


@slow
def test_an_equal_loss_does_not_compile_again_and_another_does() -> None:
    """Losses are compared by value: two equal ones have one graph, another number another."""
    logits, target = inputs()
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    run = torch.compile(lambda loss, *rows: loss(*rows), backend=counter, fullgraph=True)

    def compilations(loss: Loss) -> int:
        before = counter.frame_count
        torch.testing.assert_close(run(loss, logits, target), loss(logits, target))
        return counter.frame_count - before

    for gamma in (0.1, 0.2, 0.3):
        assert compilations(GammaCrossEntropy(gamma)) > 0
        assert compilations(GammaCrossEntropy(gamma)) == 0
