"""What each backend must get right of a block of logits: states and gradients are those of the reference.

The reference is `statistics.reference` in float64, and autograd through it.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from equipoise.kernels.block import CONSTANTS, Block
from equipoise.statistics.base import Statistic
from equipoise.statistics.extremes import Largest, Margin, Rank, Smallest
from equipoise.statistics.mean import ClassCount, MeanLogit
from equipoise.statistics.soft_target import ExpectedLogProb
from equipoise.statistics.softmax import Entropy, LogOdds, LogSumExp, LogSumExpGap
from equipoise.statistics.states import SoftTargets, StateName, Sums, merge
from equipoise.statistics.trace import states_of
from support.block_checks import (
    CLASSES,
    FURTHEST,
    INF,
    KINDS,
    ROWS,
    TILE,
    Reference,
    agree,
    check,
    check_statistics,
    grads_of,
    rows,
    tables,
    values_of,
    work,
)

FEW = [0, 3, 4, 8, 9, 12, 13]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
SCALES = (0.5, 1.0, 2.0)
SOFT = ("max_soft", "rest_soft", "max_soft_gap", "rest_soft_gap")


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
