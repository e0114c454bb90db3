"""What each backend must get right of a block of logits: states and gradients are those of the reference.

The reference is `statistics.reference` in float64, and autograd through it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from equipoise.kernels.block import CONSTANTS, Backend, Block
from equipoise.kernels.differentiable import capped
from equipoise.statistics.base import Statistic
from equipoise.statistics.extremes import Largest, Margin, Rank, Smallest
from equipoise.statistics.mean import ClassCount, MeanLogit
from equipoise.statistics.reference import partial, row_statistics
from equipoise.statistics.soft_target import ExpectedLogProb
from equipoise.statistics.softmax import Entropy, LogOdds, LogSumExp, LogSumExpGap
from equipoise.statistics.states import RowStates, SoftTargets, StateName, Sums, merge
from equipoise.statistics.trace import states_of

CLASSES, TILE = 21, 8  # three tiles of a kernel, the last of them ragged
ROWS = 14
FEW = [0, 3, 4, 8, 9, 12, 13]
INF = torch.inf
FURTHEST = 1e9  # what stands for infinity depends on the dtype
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
SCALES = (0.5, 1.0, 2.0)
KINDS = ("base", "max_gap", "rest_gap", "min_base", "min_exp", "sum_logit", "count")
SOFT = ("max_soft", "rest_soft", "max_soft_gap", "rest_soft_gap")


def work(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def rows(dtype: torch.dtype, reach: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return rows of all sorts and targets, between numbers in memory that are enormous."""
    z = torch.randn(ROWS, CLASSES, dtype=torch.float64)
    y = (torch.arange(ROWS) * 5) % CLASSES
    z[1, y[1]] = reach  # a target far above the others
    z[2, (y[2] + 1) % CLASSES] = reach  # and one far below
    z[3, [2, 9, 10, 19]] = 4.0  # the largest in three tiles
    z[4, ::3] = -INF
    z[4, y[4]] = 0.5
    z[5] = 0.25
    z[5, y[5]] = -INF
    z[6, y[6]] = -INF
    z[7] = -INF
    z[7, y[7]] = 1.0
    z[8] = torch.linspace(-reach, reach, CLASSES)  # the largest moves with each tile
    z[9] = torch.linspace(reach, -reach, CLASSES)
    z[10] = 2.0
    z[11, :TILE] = -INF
    z[12, 1:] = -reach
    z[13] = (z[13] * 2).round() / 2  # ties
    wide = torch.full((ROWS, CLASSES + 9), 6e4, dtype=torch.float64)
    wide[:, 4 : 4 + CLASSES] = z
    return wide.to(device, dtype)[:, 4 : 4 + CLASSES], y.to(device)


def tables(classes: int, dtype: torch.dtype, device: torch.device) -> tuple[SoftTargets, SoftTargets]:
    """Return soft targets with a row for each class, and others for all."""
    of_class = torch.rand(classes, classes, dtype=torch.float64).softmax(1)
    return SoftTargets(of_class.to(device, dtype)), SoftTargets(of_class[-1].to(device, dtype))


def names_of(separate: bool, softs: Sequence[SoftTargets]) -> list[StateName]:
    """Return the names of all numbers of a state."""
    names = [StateName(kind) for kind in KINDS]
    names += [StateName(kind, scale) for kind in ("max_exp", "rest_exp") for scale in SCALES]
    names += [StateName(kind, soft) for kind in SOFT for soft in softs]
    if separate:
        names += [StateName("target_logit"), StateName("greater")]
        names += [StateName("target_soft", soft) for soft in softs]
    return names


def statistics(classes: int, dtype: torch.dtype, device: torch.device) -> list[Statistic]:
    """Return statistics of all kinds."""
    one, two = (soft.table for soft in tables(classes, dtype, device))
    simple = [Entropy(), MeanLogit(), ClassCount(), Largest(), Smallest(), Margin()]
    odds = [LogOdds(), LogOdds(0.5), LogSumExp(), LogSumExp(2.0), LogSumExpGap(1.0, exclude_target=True)]
    return [*odds, *simple, ExpectedLogProb(one), ExpectedLogProb(two)]


def agree(ours: Tensor, expected: Tensor, logits: Tensor, dtype: torch.dtype) -> None:
    """Agree to 16 eps (1 + max|z|) of a dtype, which is how far a difference of logits is rounded."""
    tolerance = 16 * torch.finfo(dtype).eps * (1 + torch.where(logits.isfinite(), logits, 0.0).abs().max())
    assert ours.shape == expected.shape
    ours, expected = ours.double(), expected.double()
    good = (
        (ours == expected)
        | (ours.isnan() & expected.isnan())
        | ((ours - expected).abs() <= tolerance * (1 + expected.abs()))
    )
    assert good.all(), f"{ours[~good]} is not {expected[~good]}"


def grads_of(names: Sequence[StateName], like: Tensor) -> dict[StateName, Tensor]:
    """Return a gradient for each number and row."""
    grid = torch.linspace(-1.0, 1.5, len(names) * len(like), dtype=work(like.dtype), device=like.device)
    return dict(zip(names, grid.reshape(len(names), -1), strict=True))


def in_double(block: Block) -> Block:
    return replace(block, logits=block.logits.double())


class Reference:
    """The states of `statistics.reference`, and autograd through them."""

    def states(self, block: Block) -> dict[StateName, Tensor]:
        states = _partial(block, block.logits)
        return {name: states.number(name) for name in block.names}

    def write_gradient(
        self, block: Block, states: Mapping[StateName, Tensor], grads: Mapping[StateName, Tensor], out: Tensor
    ) -> None:
        leaf = block.logits.detach().clone().requires_grad_()
        base, min_base = (states.get(StateName(kind)) for kind in ("base", "min_base"))
        found = _partial(block, leaf, base=base, min_base=min_base)
        pairs = [(found.number(name), grad) for name, grad in grads.items()]
        pairs = [(number, grad) for number, grad in pairs if number.requires_grad]
        numbers, upstream = zip(*pairs, strict=True) if pairs else ([leaf.sum()], [torch.zeros(())])
        out.copy_(torch.autograd.grad(numbers, leaf, [g.to(leaf.dtype) for g in upstream])[0])


def _partial(block: Block, logits: Tensor, **bases: Tensor | None) -> RowStates:
    z = capped(logits.to(block.dtype), block.softcap)
    return partial(z, block.target, separate=block.separate, start=block.start, **bases)


def check(backend: Backend, block: Block) -> None:
    """States and gradients of a block are those of the reference."""
    names, dtype = block.names, block.dtype
    expected = Reference().states(in_double(block))
    ours = backend.states(block)
    assert set(ours) == set(names)
    for name in names:
        assert ours[name].dtype == dtype, name
        furthest = torch.finfo(dtype).max / 8  # stands for infinity where there is no class
        one, two = (number.clamp(-furthest, furthest) for number in (ours[name], expected[name]))
        agree(one, two, block.logits, dtype)
    grads = grads_of(names, block.logits)
    exact = torch.empty_like(block.logits, dtype=torch.float64)
    Reference().write_gradient(in_double(block), expected, {n: g.double() for n, g in grads.items()}, exact)
    exact[block.logits == -INF] = 0.0  # where the reference leaves that to statistics
    written = torch.empty_like(block.logits, dtype=dtype, memory_format=torch.contiguous_format)
    backend.write_gradient(block, ours, grads, written)
    agree(written, exact, block.logits, dtype)


def values_of(
    stats: Sequence[Statistic], numbers: Mapping[StateName, Tensor], separate: bool
) -> list[Tensor]:
    states = RowStates.read(numbers.__getitem__, separate=separate)
    return [statistic.finalize(states) * states.valid for statistic in stats]


def check_statistics(backend: Backend, stats: Sequence[Statistic], block: Block) -> None:
    """Statistics and their gradient are those of logits in float64."""
    block = replace(block, names=states_of(stats, block.dtype), separate=True)
    leaf = block.logits.double().requires_grad_()
    capped = leaf if block.softcap is None else block.softcap * torch.tanh(leaf / block.softcap)
    row = row_statistics(capped, block.target)
    exact = {statistic: row.compute(statistic) for statistic in stats}
    states = backend.states(block)
    numbers = {n: v if n.kind in CONSTANTS else v.clone().requires_grad_() for n, v in states.items()}
    values = values_of(stats, numbers, separate=True)
    reached = capped.detach()
    upstream = torch.linspace(-1.0, 1.5, len(stats) * len(leaf), dtype=leaf.dtype, device=leaf.device)
    upstream = upstream.reshape(len(stats), -1)
    for value, statistic in zip(values, stats, strict=True):
        value, truth = (number.clamp(-FURTHEST, FURTHEST) for number in (value, exact[statistic]))
        agree(value, truth, reached, block.dtype)
    leaves = [number for number in numbers.values() if number.requires_grad]
    total = torch.stack(values)
    found = torch.autograd.grad(total, leaves, upstream.to(total.dtype), allow_unused=True)
    pairs = zip((name for name, number in numbers.items() if number.requires_grad), found, strict=True)
    grads = {name: grad for name, grad in pairs if grad is not None}
    written = torch.empty_like(block.logits, dtype=block.dtype, memory_format=torch.contiguous_format)
    backend.write_gradient(block, states, grads, written)
    truth = torch.stack([exact[statistic] for statistic in stats])
    (expected,) = torch.autograd.grad(truth, leaf, upstream)
    agree(written, expected, reached, block.dtype)


class BackendTests:
    """What a backend must get right; a subclass says which it is and where."""

    device: ClassVar[torch.device] = torch.device("cpu")
    backend: ClassVar[Any]
    tables: ClassVar[int] = 2  # of soft targets that it takes at once

    def rows(self, dtype: torch.dtype = torch.float64, reach: float = 300.0) -> tuple[Tensor, Tensor]:
        return rows(dtype, reach, self.device)

    def softs(self, dtype: torch.dtype = torch.float64, classes: int = CLASSES) -> list[SoftTargets]:
        return list(tables(classes, dtype, self.device))[: self.tables]

    def statistics(self, dtype: torch.dtype = torch.float64, classes: int = CLASSES) -> list[Statistic]:
        found = statistics(classes, dtype, self.device)
        return found[: len(found) - (2 - self.tables)]

    def block(self, separate: bool = True, dtype: torch.dtype = torch.float64) -> Block:
        z, y = self.rows(dtype)
        return Block(z, names_of(separate, self.softs(work(dtype))), separate, y)

    def few_rows(self, separate: bool = True) -> Block:
        """Return a block of the rows that differ most."""
        block = self.block(separate)
        assert block.target is not None
        return replace(block, logits=block.logits[FEW], target=block.target[FEW])

    @pytest.mark.parametrize("separate", [True, False])
    def test_each_number(self, separate: bool) -> None:
        block = self.few_rows(separate)
        bases = [StateName("base"), StateName("min_base")]
        for name in block.names:
            check(self.backend, replace(block, names=list(dict.fromkeys([*bases, name]))))

    def test_targets_between_other_numbers(self) -> None:
        """Targets of any stride, as a column of a matrix has."""
        block = self.block()
        assert block.target is not None
        column = torch.stack([block.target, (block.target + 1) % CLASSES], 1)[:, 0]
        assert not column.is_contiguous()
        check(self.backend, replace(block, target=column))

    @pytest.mark.parametrize("separate", [True, False])
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_all_numbers(self, dtype: torch.dtype, separate: bool) -> None:
        check(self.backend, self.block(separate, dtype))

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_statistics(self, dtype: torch.dtype) -> None:
        z, y = self.rows(dtype)
        check_statistics(self.backend, self.statistics(work(dtype)), Block(z, (), True, y))

    @pytest.mark.parametrize("classes", [1, 2, TILE, TILE + 1])
    def test_few_classes(self, classes: int) -> None:
        z = torch.randn(3, classes, dtype=torch.float64, device=self.device)
        y = torch.tensor([0, classes - 1, 0], device=self.device)
        for separate in (True, False):
            names = names_of(separate, self.softs(classes=classes))
            check(self.backend, Block(z, names, separate, y))

    def test_no_rows(self) -> None:
        block = self.block()
        block = replace(block, logits=block.logits[:0], target=torch.empty(0, dtype=torch.long))
        states = self.backend.states(block)
        assert all(number.shape == (0,) for number in states.values())
        self.backend.write_gradient(block, states, states, block.logits)

    def test_no_target(self) -> None:
        z, _ = self.rows()
        check(self.backend, Block(z, names_of(False, self.softs()[1:]), False))

    @pytest.mark.parametrize("cuts", [(0, 9, 10, CLASSES)])
    @pytest.mark.parametrize("separate", [True, False])
    def test_runs_of_classes(self, separate: bool, cuts: Sequence[int]) -> None:
        """States of runs merge to those of all, and so do the gradients."""
        block = self.block(separate)
        names = [name for name in block.names if name.kind != "greater"]
        block = replace(block, names=names)
        parts = [replace(block, logits=block.logits[:, a:b], start=a) for a, b in pairwise(cuts)]
        found = [self.backend.states(part) for part in parts]
        exact = Reference().states(block)
        sums = reduce(merge, [Sums(states.__getitem__) for states in found])
        merged = dict(found[0])
        for name in names:
            if name.kind == "target_logit":
                merged[name] = reduce(torch.maximum, [states[name] for states in found])
            elif name.kind != "target_soft":
                merged[name] = sums.number(name)
            one, two = (number.clamp(-FURTHEST, FURTHEST) for number in (merged[name], exact[name]))
            agree(one, two, block.logits, block.dtype)
        grads = grads_of(names, block.logits)
        written, expected = torch.empty_like(block.logits), torch.empty_like(block.logits)
        Reference().write_gradient(block, exact, grads, expected)
        for part, (start, stop) in zip(parts, pairwise(cuts), strict=True):
            self.backend.write_gradient(part, merged, grads, written[:, start:stop])
        expected[block.logits == -INF] = 0.0
        agree(written, expected, block.logits, block.dtype)

    @pytest.mark.parametrize(("dtype", "cap"), [(torch.float64, 30.0), (torch.float32, 2.3)])
    def test_soft_cap(self, dtype: torch.dtype, cap: float) -> None:
        z, y = self.rows(dtype, reach=15 * cap)
        check_statistics(self.backend, self.statistics(work(dtype)), Block(z, (), True, y, softcap=cap))

    def test_a_soft_cap_keeps_the_digits_of_small_logits(self) -> None:
        z = torch.logspace(-9, 1, 12, dtype=torch.float64, device=self.device)[:, None]
        z = torch.cat((z, -z))
        name = StateName("sum_logit")
        for dtype in (torch.float64, torch.float32):
            for cap in (1.0, 30.0):
                block = Block(z.to(dtype), [name], False, softcap=cap)
                expected = cap * torch.tanh(z.to(dtype).double()[:, 0] / cap)
                found = self.backend.states(block)[name].double()
                torch.testing.assert_close(found, expected, rtol=16 * torch.finfo(dtype).eps, atol=0)

    @pytest.mark.parametrize(
        ("dtype", "cap"), [(torch.float32, None), (torch.float32, 30.0), (torch.bfloat16, None)]
    )
    def test_the_gradient_in_place(self, dtype: torch.dtype, cap: float | None) -> None:
        block = replace(self.block(dtype=dtype), softcap=cap)
        z = block.logits
        states, grads = self.backend.states(block), grads_of(block.names, z)
        beside = torch.empty_like(z)
        self.backend.write_gradient(block, states, grads, beside)
        self.backend.write_gradient(block, states, grads, z)
        assert torch.equal(z, beside)
        base = z._base
        assert base is not None
        assert (base[:, :4] == torch.tensor(6e4, dtype=dtype)).all()
        assert (base[:, 4 + CLASSES :] == torch.tensor(6e4, dtype=dtype)).all()

    def test_a_gradient_without_terms_is_0(self) -> None:
        for separate in (True, False):
            block = self.block(separate)
            written = torch.empty_like(block.logits)
            self.backend.write_gradient(block, self.backend.states(block), {}, written)
            assert (written == 0).all()

    def test_a_gradient_that_is_a_little_wrong_is_found(self) -> None:
        block = self.few_rows()
        states, grads = self.backend.states(block), grads_of(block.names, block.logits)
        expected, written = torch.empty_like(block.logits), torch.empty_like(block.logits)
        Reference().write_gradient(block, states, grads, expected)
        for name in block.names:
            if name.kind in CONSTANTS:
                continue
            self.backend.write_gradient(block, states, grads | {name: grads[name] + 1e-7}, written)
            with pytest.raises(AssertionError, match="is not"):
                agree(written, expected, torch.zeros(1), block.dtype)

    @pytest.mark.parametrize("places", [[1], [CLASSES - 1], [4], list(range(CLASSES))])
    @pytest.mark.parametrize("bad", [torch.nan, INF, -INF])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_what_is_not_finite_is_not_hidden(
        self, bad: float, places: list[int], dtype: torch.dtype
    ) -> None:
        """A bad row has nan for each statistic and in each entry of its gradient."""
        z = torch.randn(3, CLASSES, device=self.device).to(dtype)
        y = torch.tensor([3, 4, 5], device=self.device)
        z[1, places] = bad
        usable = [True, bad == -INF and len(places) == 1, True]
        stats = self.statistics(work(dtype))
        names = states_of(stats, work(dtype))
        block = Block(z, names, True, y)
        states = self.backend.states(block)
        numbers = {n: v if n.kind in CONSTANTS else v.clone().requires_grad_() for n, v in states.items()}
        values = torch.stack(values_of(stats, numbers, separate=True))
        assert all(value.isfinite().tolist() == usable for value in values)
        leaves = {name: number for name, number in numbers.items() if number.requires_grad}
        found = torch.autograd.grad(values.sum(), list(leaves.values()), allow_unused=True)
        grads = {name: grad for name, grad in zip(leaves, found, strict=True) if grad is not None}
        for start in (0, 10):  # all classes, and a run with or without the bad ones
            part = replace(block, logits=z[:, start:], start=start or None)
            written = torch.empty_like(part.logits)
            self.backend.write_gradient(part, states, grads, written)
            assert written.isfinite().all(1).tolist() == usable
            assert written.isnan().all(1).tolist() == [not good for good in usable]

    def test_a_row_of_the_least_number_there_is(self) -> None:
        least = torch.finfo(torch.float32).min  # masks of other libraries
        z = torch.randn(3, CLASSES, device=self.device)
        z[0], z[1, :TILE], z[2, 3] = least, least, least
        stats = [LogSumExp(), Entropy(), Largest()]
        block = Block(z, states_of(stats, z.dtype), False)
        states = self.backend.states(block)
        values = values_of(stats, states, separate=False)
        assert all(value.isfinite().all() for value in values)
        torch.testing.assert_close(values[1][0].item(), torch.tensor(CLASSES).log().item())
        self.backend.write_gradient(block, states, grads_of(block.names, z), z)
        assert z.isfinite().all()

    def test_rank(self) -> None:
        z, y = self.rows()
        z = z.nan_to_num(neginf=-1e3)
        block = Block(z, states_of([Rank()], z.dtype), True, y)
        expected = (z > z.gather(1, y[:, None])).sum(1).double()
        assert torch.equal(values_of([Rank()], self.backend.states(block), separate=True)[0], expected)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_the_gradient_in_the_dtype_of_the_logits(self, dtype: torch.dtype) -> None:
        block = self.block(dtype=dtype)
        states, grads = self.backend.states(block), grads_of(block.names, block.logits)
        expected = torch.empty(ROWS, CLASSES, device=self.device)
        self.backend.write_gradient(block, states, grads, expected)
        written = torch.empty(ROWS, CLASSES, dtype=dtype, device=self.device)
        self.backend.write_gradient(block, states, grads, written)
        agree(written, expected, torch.zeros(1), dtype)

    def test_rows_far_from_one_another(self, tmp_path: Path) -> None:
        """Rows with more than 2^31 elements between them, in a file without pages."""
        step = 2**31 + 5
        flat = torch.from_file(str(tmp_path / "rows"), shared=True, size=step + 64, dtype=torch.bfloat16)
        z = flat.as_strided((2, CLASSES), (step, 1)).to(self.device)
        z.copy_(torch.randn(2, CLASSES))
        y = torch.tensor([0, 7], device=self.device)
        check(self.backend, Block(z, names_of(True, self.softs(torch.float32)), True, y))
