"""The words of every error, and that no error is without a test of its words."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import equipoise
from equipoise.kernels import cpu
from equipoise.losses import CrossEntropy
from support.error_cases import Case
from support.loss_errors import OPTIONS, READING
from support.matrix_errors import MATRICES
from support.module_errors import CHOOSING, COMPILED, DOORS, FUSED, SCHEDULES
from support.raises import never_raised

SOURCE = Path(str(equipoise.__file__)).parent
OUTSIDE = (
    "calibration",
    "compare",
    "explorer",  # tests/explorer
    "cli.py",
    "maps",
    "metrics.py",
    "training",
    "costs",
    "distributions.py",
    "integrations",
    "naming.py",
    "parsing.py",
    "distributed.py",
    "sharded.py",
)  # these have tests of their own

CASES = READING + OPTIONS + MATRICES + CHOOSING + SCHEDULES + FUSED + DOORS + COMPILED * cpu.available()
NEEDS_KERNELS = pytest.mark.skipif(
    not cpu.available(), reason="the kernels were not compiled when the package was installed"
)


def claim(says: str) -> str:
    """Return argument, rule and value of an error, without the way out."""
    return says.partition("; ")[0]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.says[:50])
def test_what_an_error_says(case: Case) -> None:
    """An error names the argument, the rule and the value, and ends in a way out where there is one."""
    with pytest.raises(case.error) as caught:
        case.call()
    assert type(caught.value) is case.error
    said = str(caught.value)
    assert claim(said) == claim(case.says)
    assert ("; " in said) == ("; " in case.says)  # the way out, in any words
    name, must, rest = said.partition(" must ")
    assert must
    assert name[0].islower()
    assert not said.endswith(".")
    address = name.startswith("schedules['")  # the value is the address itself
    assert address or ", got " in rest or " got a" in rest


@NEEDS_KERNELS
def test_every_error_is_raised_by_some_case() -> None:
    """Every `raise` has a case."""
    assert never_raised(SOURCE, [case.call for case in CASES], outside=OUTSIDE) == set()


@NEEDS_KERNELS
def test_an_error_without_a_case_is_found(tmp_path: Path) -> None:
    """A `raise` without a case is found."""
    without = [case.call for case in CASES if "is that of the whole batch" not in case.says]
    (missing,) = never_raised(SOURCE, without, outside=OUTSIDE)
    assert missing.startswith("losses/rows.py:")
    (tmp_path / "planted.py").write_text("def of(x):\n    if x:\n        raise ValueError(x)\n")
    assert never_raised(tmp_path, [case.call for case in CASES]) == {"planted.py:3"}


@pytest.mark.parametrize(
    "call",
    [
        lambda: CrossEntropy() + 1,
        lambda: 1 + CrossEntropy(),
        lambda: CrossEntropy() - 1,
        lambda: CrossEntropy() * "2",
        lambda: CrossEntropy() * True,
        lambda: CrossEntropy() * CrossEntropy(),
    ],
)
def test_losses_add_to_losses_and_scale_by_numbers_alone(call: Callable[[], Any]) -> None:
    """A loss can be added to losses and multiplied by numbers only."""
    with pytest.raises(TypeError, match=r"unsupported operand type|can't multiply"):
        call()
