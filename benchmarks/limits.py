"""The limits that `make bench` applies: one table, a limit and a goal for each ratio."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

CROSS_ENTROPY = "CrossEntropy() over F.cross_entropy"
BY_HAND = "over the same formula by hand"
SPREAD_BY_HAND = "entropy and logit range over the same formula by hand"
SUM_BY_HAND = "a sum of two terms over both by hand"
COMPILED = "compiled over the same formula by hand, compiled"
MEMORY = "memory beyond the gradient, as a share of the logits"
LINEAR = "time over the three bare products"
LINEAR_THREE_TERMS = "three terms over the three bare products"
LINEAR_TORCH = "backend torch over the three bare products"
LINES = "lines of the engine"
FILE_LINES = "lines of its longest file"

TINY = ("32 x 10", "128 x 10", "128 x 1000")
SMALL = (*TINY, "512 x 1000", "4096 x 1000")


@final
@dataclass(frozen=True)
class Limit:
    """Limit and goal of a number.

    Args:
        limit: The largest number that is accepted.
        goal: The number to reach; None if there is only a limit.
    """

    limit: float
    goal: float | None = None


@final
@dataclass(frozen=True)
class Row:
    """A row of the table.

    Args:
        what: One of the names above.
        shapes: Names of the shapes it is for.
        limit: The limit and the goal.
        dtypes: Names of the dtypes it is for.
        amx: Whether it is for processors with AMX or for those without; None for both.
    """

    what: str
    shapes: tuple[str, ...]
    limit: Limit
    dtypes: tuple[str, ...] = ("float32",)
    amx: bool | None = None


# The sum of three terms has limits in float32 only. The limits of the torch backend are 1.5 times 1.08 and
# 1.72, which were measured with one thread for an earlier implementation.
TABLE = (
    Row(CROSS_ENTROPY, ("32 x 10",), Limit(1.7, 1.2)),
    Row(CROSS_ENTROPY, ("128 x 10",), Limit(1.2, 0.9)),
    Row(CROSS_ENTROPY, ("128 x 1000", "512 x 1000"), Limit(0.7, 0.5)),
    Row(CROSS_ENTROPY, ("4096 x 1000",), Limit(0.4, 0.3)),
    Row(CROSS_ENTROPY, ("2048 x 32768",), Limit(0.5, 0.4), ("bfloat16",)),
    Row(BY_HAND, TINY, Limit(0.7, 0.5)),
    Row(SPREAD_BY_HAND, TINY, Limit(0.95, 0.75)),
    Row(SUM_BY_HAND, SMALL, Limit(0.6, 0.35)),
    Row(COMPILED, ("128 x 10", "4096 x 1000"), Limit(1.1)),
    Row(
        MEMORY, ("2048 x 32768",), Limit(0.01, 0.001), ("bfloat16",)
    ),  # the goal is 0, rounded to a thousandth
    Row(LINEAR, ("A",), Limit(0.95, 0.92), amx=False),
    Row(LINEAR, ("B",), Limit(0.92, 0.88), amx=False),
    Row(LINEAR, ("C",), Limit(1.0, 0.95), amx=False),
    Row(LINEAR, ("A",), Limit(1.04, 1.0), ("bfloat16",), amx=False),
    Row(LINEAR, ("C",), Limit(1.13, 1.05), ("bfloat16",), amx=False),
    Row(LINEAR_THREE_TERMS, ("C",), Limit(1.1, 1.0), amx=False),
    Row(LINEAR, ("A",), Limit(1.12, 1.05), amx=True),
    Row(LINEAR, ("C",), Limit(1.17, 1.05), amx=True),
    Row(LINEAR, ("A",), Limit(1.2, 1.1), ("bfloat16",), amx=True),
    Row(LINEAR, ("C",), Limit(1.9, 1.5), ("bfloat16",), amx=True),
    Row(LINEAR_TORCH, ("A",), Limit(1.62), amx=False),
    Row(LINEAR_TORCH, ("C",), Limit(2.58), amx=False),
    Row(LINES, (), Limit(3600, 3200), ()),
    Row(FILE_LINES, (), Limit(400), ()),
)


def find_limit(what: str, shape: str = "", dtype: str = "", *, amx: bool = False) -> Limit | None:
    """Return the limit of a ratio; None where the table has none for this shape, dtype and processor.

    Args:
        what: One of the names of this module.
        shape: Name of the shape.
        dtype: Name of the dtype.
        amx: Whether the processor has AMX.
    """
    rows = [row for row in TABLE if row.what == what]
    if not rows:
        raise KeyError(f"what must be a row of the table, got {what!r}")
    found = [row.limit for row in rows if _fits(row, shape, dtype) and row.amx in (None, amx)]
    return found[0] if found else None


def cells(*, amx: bool) -> Iterator[tuple[str, str, str]]:
    """Yield the comparison, shape and dtype of every limit for a kind of processor."""
    for row in TABLE:
        if row.amx in (None, amx):
            yield from (
                (row.what, shape, dtype) for shape in row.shapes or ("",) for dtype in row.dtypes or ("",)
            )


def _fits(row: Row, shape: str, dtype: str) -> bool:
    return shape in (row.shapes or ("",)) and dtype in (row.dtypes or ("",))
