"""Codes of the warnings about data and objectives; each has a page in docs/warnings."""

from dataclasses import dataclass
from typing import final

__all__ = ["WARNINGS", "Kind", "with_code"]


@final
@dataclass(frozen=True)
class Kind:
    """A kind of warning.

    Args:
        code: EQ and three digits; a code is never given to another kind.
        title: What the warning says, in a few words.
    """

    code: str
    title: str


WARNINGS = (
    Kind("EQ001", "A column may be an identifier or a row number"),
    Kind("EQ002", "Columns have the same value in every row"),
    Kind("EQ003", "A column may be the class in another form"),
    Kind("EQ004", "A column may be another label"),
    Kind("EQ005", "A column holds dates and is read as words"),
    Kind("EQ006", "Two classes look alike"),
    Kind("EQ007", "Test parts lack rows of some classes"),
    Kind("EQ008", "Test rows have the features of rows that were trained on"),
    Kind("EQ009", "A matrix says in its corner that it is transposed"),
    Kind("EQ010", "Costs are dearest where a common class is missed"),
    Kind("EQ011", "Boosted trees are left out"),
    Kind("EQ012", "A calibration finds more noise than the data have"),
    Kind("EQ013", "The winner is not shown to be better than the commonest class"),
    Kind("EQ014", "An objective diverged"),
    Kind("EQ015", "A column holds numbers with commas and is read as words"),
    Kind("EQ016", "The first line of a file looks like a row"),
)


def with_code(code: str, text: str) -> str:
    """Return a warning with its code at the end.

    Raises:
        KeyError: If no kind has the code.

    Example:
        >>> with_code("EQ002", "column 3 of X is constant")
        'column 3 of X is constant [EQ002]'
    """
    if code not in {kind.code for kind in WARNINGS}:
        raise KeyError(f"a warning must have a code of `WARNINGS`, got {code!r}")
    return f"{text} [{code}]"
