"""The log says which code computed a loss and why it was plain torch, and `explain` says the same before."""

import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx

from equipoise import linear
from equipoise.kernels import cpu
from equipoise.losses import CrossEntropy, ExpectedCost, GammaCrossEntropy, Loss, RowLoss, explain
from equipoise.penalties import Balance, Decisiveness, Entropy
from equipoise.statistics import RowStatistics
from support.backend_records import recorded

COMPILED = pytest.mark.skipif(not cpu.available(), reason="the kernel was not compiled")
LOSS = GammaCrossEntropy(0.1)
N, C = 6, 8
TARGET = torch.arange(N)
READS_ROWS = ExpectedCost(torch.ones(C, C) - torch.eye(C))
MANY = sum((Decisiveness(k) for k in range(2, 5)), CrossEntropy())


class Subclass(torch.Tensor):
    """A tensor by another name."""


@dataclass(frozen=True)
class Running(RowLoss):
    """A loss that adds up rows."""

    def per_row(self, row: RowStatistics, /) -> Tensor:
        return row.entropy.cumsum(0)


@dataclass
class Changing(RowLoss):
    """A loss without a hash."""

    factor: list[float] = field(default_factory=lambda: [1.0])

    def per_row(self, row: RowStatistics, /) -> Tensor:
        return self.factor[0] * row.entropy


@dataclass(frozen=True, eq=False)
class Scaled(RowLoss):
    """A loss with a tensor in it."""

    factor: Tensor

    def per_row(self, row: RowStatistics, /) -> Tensor:
        return self.factor * row.entropy


@pytest.fixture
def records() -> Iterator[list[Any]]:
    with recorded() as found:
        yield found


def said(records: list[Any]) -> list[tuple[str, str, str]]:
    """Return what was computed by what, and why it was plain torch, and forget it."""
    found = [(record.what, record.backend, record.why_torch) for record in records]
    records.clear()
    return found


def logits(**options: Any) -> Tensor:
    return torch.randn(N, C, **options)


def number() -> Tensor:
    return torch.tensor(2.0, requires_grad=True)


Case = Callable[[], tuple[Loss, tuple[Any, ...], dict[str, Any]]]
DENSE: dict[str, tuple[Case, str, str]] = {
    "plain": (lambda: (LOSS, (logits(), TARGET), {}), "cpp", ""),
    "with a gradient": (lambda: (LOSS, (logits(requires_grad=True), TARGET), {}), "cpp", ""),
    "half": (lambda: (LOSS, (logits(dtype=torch.bfloat16), TARGET), {}), "cpp", ""),
    "of pictures": (lambda: (LOSS, (torch.randn(2, C, 3), TARGET.view(2, 3)), {}), "cpp", ""),
    "mask": (lambda: (LOSS, (logits(), TARGET), {"mask": torch.ones(C).bool()}), "cpp", ""),
    "weights": (
        lambda: (LOSS, (logits(), TARGET, torch.ones(C)), {"sample_weight": torch.ones(N)}),
        "cpp",
        "",
    ),
    "number": (lambda: (Scaled(torch.tensor(2.0)), (logits(),), {}), "cpp", ""),
    "batch": (lambda: (Balance(), (logits(),), {}), "torch", "a penalty has one value for the whole batch"),
    "batch, too": (
        lambda: (LOSS + Balance(), (logits(), TARGET), {}),
        "cpp",
        "a penalty has one value for the whole batch",
    ),
    "probabilities": (lambda: (LOSS, (logits(), logits().softmax(1)), {}), "torch", "target holds prob"),
    "complete rows": (lambda: (READS_ROWS, (logits(), TARGET), {}), "torch", "it reads complete rows"),
    "not elementwise": (lambda: (Running(), (logits(),), {}), "torch", "it is not elementwise, .*: cumsum"),
    "no hash": (lambda: (Changing(), (logits(),), {}), "torch", "it has no hash"),
    "many scales": (lambda: (MANY, (logits(), TARGET), {}), "torch", "it reads more than 4 scales"),
    "number to learn": (lambda: (Scaled(number()), (logits(),), {}), "torch", "a number in the loss needs"),
    "number elsewhere": (
        lambda: (Scaled(torch.tensor(2.0).as_subclass(Subclass)), (logits(),), {}),
        "torch",
        "a tensor is of a subclass",
    ),
    "class weights to learn": (
        lambda: (LOSS, (logits(), TARGET, torch.ones(C, requires_grad=True)), {}),
        "torch",
        "weight needs a gradient",
    ),
    "sample weights to learn": (
        lambda: (LOSS, (logits(), TARGET), {"sample_weight": torch.ones(N, requires_grad=True)}),
        "torch",
        "sample_weight needs a gradient",
    ),
    "subclass": (
        lambda: (LOSS, (logits().as_subclass(Subclass), TARGET), {}),
        "torch",
        "a tensor is of a sub",
    ),
    "meta": (
        lambda: (LOSS, (logits(device="meta"), TARGET.to("meta")), {}),
        "torch",
        "a tensor is not on a CPU",
    ),
}


@COMPILED
@pytest.mark.parametrize("name", DENSE)
def test_a_call_of_a_dense_loss_is_one_record(name: str, records: list[Any]) -> None:
    """A call of a dense loss is logged once, with the backend that `explain` states."""
    make, backend, why = DENSE[name]
    loss, args, options = make()
    plan = explain(loss, *args, **options)
    assert not records  # it computes nothing
    loss(*args, **options)
    (record,) = records
    assert vars(record).items() >= {"loss": loss, "shape": args[0].shape, "dtype": args[0].dtype}.items()
    assert repr(loss) in record.getMessage()
    [(what, *found)] = said(records)
    assert what == "loss"
    assert found == [plan.backend, plan.why_torch]
    assert found[0] == backend
    assert re.match(why or "$", plan.why_torch)


HIDDEN = torch.randn(N, 4)
HEAD = torch.randn(C, 4)
FUSED: dict[str, tuple[Loss, dict[str, Any], str, str]] = {
    "plain": (LOSS, {}, "cpp", ""),
    "no gradient": (LOSS, {"hidden": HIDDEN}, "cpp", ""),
    "each row": (LOSS, {"reduction": "none"}, "cpp", "the logits are recomputed"),
    "backend": (LOSS, {"backend": "torch"}, "torch", "backend is torch"),
    "probabilities": (LOSS, {"target": torch.full((N, C), 1 / C)}, "torch", "target holds prob"),
    "complete rows": (READS_ROWS, {}, "torch", "it reads complete rows"),
    "no hash": (Changing(), {}, "cpp", "it has no hash"),
    "many scales": (MANY, {}, "torch", "it reads more than 4 scales"),
}


@COMPILED
@pytest.mark.parametrize("name", FUSED)
def test_a_call_of_a_fused_loss_is_one_record(name: str, records: list[Any]) -> None:
    """A call of a fused loss is logged once, with the backend that `explain` states."""
    loss, options, backend, why = FUSED[name]
    options = {"hidden": HIDDEN.clone().requires_grad_(), "linear_weight": HEAD, "target": TARGET} | options
    plan = linear.explain(loss, **options)
    assert not records
    loss.linear(**options).sum()
    [(what, *found)] = said(records)
    assert what == "loss.linear"
    assert found == [plan.backend, plan.why_torch]
    assert found[0] == backend
    assert re.match(why or "$", plan.why_torch)


def doubly(run: Callable[[Tensor], Tensor]) -> None:
    z = logits(requires_grad=True)
    (gradient,) = torch.autograd.grad(run(z), z, create_graph=True)
    gradient.sum().backward()


def batched(run: Callable[[Tensor], Tensor]) -> None:
    z = logits(requires_grad=True)
    torch.autograd.grad(run(z), z, torch.ones(2), is_grads_batched=True)


def forward(run: Callable[[Tensor], Tensor]) -> None:
    with forward_ad.dual_level():
        run(forward_ad.make_dual(logits(), logits()))


UNDER: dict[str, tuple[Callable[[Callable[[Tensor], Tensor]], Any], list[tuple[str, str, str]]]] = {
    "autograd": (lambda run: run(logits(requires_grad=True)).backward(), [("loss", "cpp", "")]),
    "create_graph": (doubly, [("loss", "cpp", ""), ("gradient", "torch", "create_graph is True")]),
    "batched": (batched, [("loss", "cpp", ""), ("gradient", "torch", "is_grads_batched is True")]),
    "torch.func": (
        lambda run: torch.func.grad(run)(logits()),
        [("loss", "torch", "under a transform of torch.func")],
    ),
    "forward mode": (forward, [("loss", "torch", "in forward mode")]),
    "make_fx": (lambda run: make_fx(run)(logits()), [("loss", "torch", "under a dispatch mode")]),
    "jit": (
        lambda run: torch.jit.trace(run, (logits(),), check_trace=False),
        [("loss", "torch", "under torch.jit.trace")],
    ),
}


@COMPILED
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*might cause the trace to be incorrect.*")
@pytest.mark.parametrize("name", UNDER)
def test_what_follows_the_operations_is_named(name: str, records: list[Any]) -> None:
    """Transforms, modes and subclasses are logged as the reason for torch."""
    act, expected = UNDER[name]
    act(lambda z: LOSS(z, TARGET))
    assert said(records) == expected


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_nothing_is_logged_under_a_compiler(records: list[Any]) -> None:
    """Nothing is logged under torch.compile."""
    compiled = torch.compile(lambda z: LOSS(z, TARGET), fullgraph=True, backend="aot_eager")
    z = logits(requires_grad=True)
    compiled(z).backward()
    assert not records
    LOSS(z, TARGET)  # control
    assert len(records) == 1


@pytest.mark.usefixtures("_no_kernels")
def test_without_kernels_the_log_says_so(records: list[Any]) -> None:
    """Without compiled kernels, the log gives this reason."""
    LOSS(logits(), TARGET)
    LOSS.linear(HIDDEN, HEAD, TARGET)
    assert said(records) == [("loss", "torch", cpu.MISSING), ("loss.linear", "torch", cpu.MISSING)]
    assert "no kernel was compiled" in str(explain(LOSS, logits(), TARGET))


def test_nothing_is_logged_unless_it_is_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is logged above level DEBUG."""
    caplog.set_level(logging.INFO, logger="equipoise.kernels")
    doubly(lambda z: LOSS(z, TARGET))
    LOSS.linear(HIDDEN, HEAD, TARGET)
    assert not caplog.records


@COMPILED
def test_explain_prints_what_the_kernel_runs() -> None:
    """`explain` prints shape, backend, program and dtype."""
    plan = explain(Entropy() + Balance(), logits(dtype=torch.float16), TARGET)
    assert (plan.shape, plan.dtype, plan.program) == ((N, C), torch.float32, True)
    assert plan.instructions > plan.states > 1
    lines = dict(line.split(maxsplit=1) for line in str(plan).splitlines())
    assert lines.keys() == {"shape", "backend", "loss", "dtype"}
    assert re.match(
        r"a program in the kernel: \d+ instructions on \d+ states.*; in part in torch", lines["loss"]
    )
    more = explain(Entropy() + LOSS, logits(), TARGET)
    assert more.instructions > plan.instructions


def test_explain_raises_as_the_loss_does() -> None:
    """`explain` raises the error of the loss."""
    for args, options in (
        ((logits(), TARGET + C), {}),
        ((logits(), TARGET[1:]), {}),
        ((logits(), TARGET), {"reduction": "all"}),
    ):
        with pytest.raises(ValueError, match="must") as ours:
            explain(LOSS, *args, **options)
        with pytest.raises(ValueError, match="must") as theirs:
            LOSS(*args, **options)
        assert str(ours.value) == str(theirs.value)
    with pytest.raises(TypeError, match="loss must be a loss of equipoise, got 'Focal'"):
        explain("Focal", logits(), TARGET)  # pyright: ignore[reportArgumentType]
