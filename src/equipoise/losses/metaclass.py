"""`LossClass`: the metaclass of losses, which refuses arithmetic with a class."""

from abc import ABCMeta
from typing import Never, NoReturn


class LossClass(ABCMeta):
    """Metaclass of losses: arithmetic with a class, as in 0.1 * Entropy, raises TypeError."""

    def _refuse(cls, *other: Never) -> NoReturn:
        del other
        raise TypeError(
            f"a loss must be an instance to be combined, got the class {cls.__name__}; write {cls.__name__}()"
        )

    def __add__(cls, other: Never) -> NoReturn:
        cls._refuse(other)

    def __radd__(cls, other: Never) -> NoReturn:
        cls._refuse(other)

    def __sub__(cls, other: Never) -> NoReturn:
        cls._refuse(other)

    def __rsub__(cls, other: Never) -> NoReturn:
        cls._refuse(other)

    def __mul__(cls, other: Never) -> NoReturn:
        cls._refuse(other)

    def __rmul__(cls, other: Never) -> NoReturn:
        cls._refuse(other)

    def __truediv__(cls, other: Never) -> NoReturn:
        cls._refuse(other)

    def __neg__(cls) -> NoReturn:
        cls._refuse()

    __array_ufunc__ = None  # as in `Loss`
