"""Samples of rows for laws of statistics, and the statistics that there are."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from equipoise.statistics import (
    ClassCount,
    Entropy,
    ExpectedLogProb,
    Largest,
    LogOdds,
    LogSumExp,
    LogSumExpGap,
    Margin,
    MeanLogit,
    Rank,
    Smallest,
    Statistic,
)

EPS = torch.finfo(torch.float64).eps
SCALES = (0.5, 1.0, 2.0)
SPREAD = 300.0


@dataclass(frozen=True)
class Kind:
    """A statistic for any number of classes, and how it moves when the logits do."""

    name: str
    make: Callable[[int], Statistic]
    shift: float = 0.0


def soft_rows(*shape: int) -> Tensor:
    """Return soft targets that are the same every time, with zeros among them."""
    size = torch.Size(shape).numel()
    weights = torch.arange(size, dtype=torch.float64).mul(0.61).frac().reshape(shape)
    weights = torch.where(weights < 0.2, 0.0, weights)
    return (weights + 0.1 * (weights.sum(-1, keepdim=True) == 0)) / weights.sum(-1, keepdim=True).clamp(min=1)


KINDS = [
    *[Kind(f"LogOdds({c})", lambda n, c=c: LogOdds(c)) for c in SCALES],
    Kind("Margin()", lambda n: Margin()),
    *[Kind(f"LogSumExp({c})", lambda n, c=c: LogSumExp(c), shift=c) for c in SCALES],
    *[Kind(f"LogSumExpGap({c})", lambda n, c=c: LogSumExpGap(c)) for c in SCALES],
    Kind("LogSumExpGap(2.0, True)", lambda n: LogSumExpGap(2.0, exclude_target=True)),
    Kind("Entropy()", lambda n: Entropy()),
    Kind("MeanLogit()", lambda n: MeanLogit(), shift=1),
    Kind("ClassCount()", lambda n: ClassCount()),
    Kind("Largest()", lambda n: Largest(), shift=1),
    Kind("Smallest()", lambda n: Smallest(), shift=1),
    Kind("ExpectedLogProb((C, C))", lambda n: ExpectedLogProb(soft_rows(n, n))),
    Kind("ExpectedLogProb((C,))", lambda n: ExpectedLogProb(soft_rows(n))),
]
OF_WHOLE_ROWS = {Rank}
EVERY_KIND = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
# These are sums of non-negative terms: they are held to their size, with nothing absolute.
RELATIVE = (LogSumExpGap, Entropy, ClassCount, ExpectedLogProb)


@dataclass(frozen=True)
class Sample:
    """Logits (N, C), targets (N,), an order of the classes, and where to cut them in this order."""

    logits: Tensor
    target: Tensor
    order: tuple[int, ...]
    cuts: tuple[int, ...] = ()

    @property
    def classes(self) -> int:
        return self.logits.shape[1]

    @property
    def alive(self) -> Tensor:
        """Rows in which some class is not masked."""
        return (self.logits > -torch.inf).any(1)

    def of_alive(self) -> "Sample":
        """Return the rows in which some class is not masked."""
        return Sample(self.logits[self.alive], self.target[self.alive], self.order, self.cuts)


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    """Rows wide and narrow, with ties and with masked classes, cut anywhere, in any sets."""
    rows, classes = draw(st.integers(2, 6)), draw(st.integers(1, 7))
    spread, step = draw(st.sampled_from([1e-3, 1.0, 30.0, SPREAD])), draw(st.sampled_from([0.0, 0.0, 0.5]))
    hidden = draw(st.sampled_from([0.0, 0.4, 0.7, 0.7]))
    cuts = draw(st.sets(st.integers(1, classes - 1))) if classes > 1 else set()
    order = draw(st.permutations(range(classes)))
    source = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    logits = torch.rand(rows, classes, dtype=torch.float64, generator=source) * 2 - 1
    logits = spread * ((logits / step).round() * step if step else logits)
    logits[torch.rand(rows, classes, generator=source) < hidden] = -torch.inf
    target = torch.randint(classes, (rows,), generator=source)
    return Sample(logits, target, tuple(order), tuple(sorted(cuts)))


def _row(values: list[float], target: int, order: tuple[int, ...], cuts: tuple[int, ...]) -> Sample:
    return Sample(torch.tensor([values], dtype=torch.float64), torch.tensor([target]), order, cuts)


INF = torch.inf
HARD = [
    _row([0.5, -2.0, 1.0, 3.0], 1, (0, 1, 2, 3), (1, 3)),
    _row([0.5, -INF, -INF, 3.0], 0, (3, 1, 0, 2), (1, 3)),
    _row([300.0, -300.0, 0.0], 1, (0, 1, 2), (1, 2)),
    _row([1.0, 1.0, 1.0], 2, (2, 0, 1), (1,)),
    _row([-INF, -INF, -INF], 0, (0, 1, 2), (1,)),
]


def search(run: Callable[[Kind, Sample], None], kind: Kind) -> None:
    """Look for a sample on which a law does not hold for a kind of statistic."""

    @settings(max_examples=25)
    @given(samples())
    def check(sample: Sample) -> None:
        run(kind, sample)

    check()


def finds(run: Callable[[Kind, Sample], None], kind: Kind) -> bool:
    """Return whether a law does not hold for a kind of statistic on some sample."""

    @settings(max_examples=200, phases=[Phase.generate])
    @given(samples())
    def check(sample: Sample) -> None:
        run(kind, sample)

    try:
        check()
    except AssertionError:
        return True
    return False


def law(run: Callable[[Kind, Sample], None]) -> Callable[[Kind], None]:
    """Return a test that a law holds for a kind of statistic, on many samples."""

    @EVERY_KIND
    def test(kind: Kind) -> None:
        for sample in HARD:
            run(kind, sample)
        search(run, kind)

    return test
