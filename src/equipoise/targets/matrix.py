"""A checked matrix over named classes, indexed [true class, class]."""

import difflib
import hashlib
from collections.abc import Sequence
from typing import Any, Literal, final, get_args

import numpy as np
import torch
from torch import Tensor

Kind = Literal["similarity", "costs"]
KINDS: tuple[str, ...] = get_args(Kind)
Floats = np.ndarray[Any, np.dtype[np.float64]]
Bools = np.ndarray[Any, np.dtype[np.bool_]]
TOLERANCE = 1e-6  # how far from one a row of shares may sum


@final
class Matrix:
    """Similarities or costs between named classes, checked, immutable and compared by what it holds.

    Rows are true classes, columns the classes they may be taken for. Pass it to `SimilarityCrossEntropy`,
    `ExpectedCost`, `decisions.decide`, `numpy.asarray` or `torch.as_tensor`; print it to see whether it says
    what was meant.

    Args:
        values: (C, C) nested sequence, array, data frame or tensor, indexed [true class, class].
        kind: "similarity", each row a target distribution, or "costs", being right costing least in its row.
        classes: Name of each class; None for those that values have, the labels of a data frame or the names
            of another matrix, and else for their numbers. Of values with names these are put in this order.

    Raises:
        ValueError: If it is not a finite (C, C) matrix of its kind with C different names.

    Numerics:
        float64. Similarity rows may be off by 1e-6 and are divided by their sum.

    Example:
        >>> alike = Matrix([[0.8, 0.2], [0.3, 0.7]], "similarity", ["horse", "zebra"])
        >>> alike
        Matrix(similarity of 2 classes: horse, zebra)
        >>> print(alike)
        similarity[true, class]
                horse  zebra
        horse     0.8    0.2
        zebra     0.3    0.7
    """

    def __init__(self, values: Any, kind: Kind, classes: Sequence[object] | None = None) -> None:
        _require_kind(kind)
        values, own = labelled(values, kind)
        if own is not None and classes is not None:
            values, own = Matrix(values, kind, own).ordered(classes), None
        classes = own if classes is None else classes
        try:
            array = np.array(values, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{kind} must be a (C, C) matrix of numbers, got {values!r}; give a row per true class"
            ) from error
        if array.ndim != 2 or array.shape[0] != array.shape[1] or not array.size:
            raise ValueError(
                f"{kind} must be (C, C), got {array.shape}; give a row per true class and a column per class"
            )
        self.kind: Kind = kind
        self.classes: tuple[str, ...] = check_names(range(len(array)) if classes is None else classes)
        if len(self.classes) != len(array):
            raise ValueError(
                f"classes must name each of {len(array)} classes, got {len(self.classes)} names; "
                "leave them out for numbers"
            )
        if not np.isfinite(array).all():
            raise ValueError(
                f"{kind} must be finite, got nan or infinity {self._place(~np.isfinite(array))}; "
                "fill in every entry"
            )
        if kind == "similarity":
            self._check_similarity(array)
            array = array / array.sum(1, keepdims=True)
        else:
            self._check_costs(array)
        array.setflags(write=False)
        self.array: Floats = array
        self._digest = hashlib.sha256(array.tobytes()).hexdigest()

    def _place(self, wrong: Bools) -> str:
        row, column = np.argwhere(wrong)[0]
        return f"for true class {self.classes[row]!r} and class {self.classes[column]!r}"

    def _check_similarity(self, array: Floats) -> None:
        if (array < 0).any():
            raise ValueError(
                f"similarity must not be negative, got {array.min():g} {self._place(array < 0)}; "
                "an entry is a share of the target"
            )
        sums = array.sum(1)
        worst = int(np.abs(sums - 1).argmax())
        if abs(sums[worst] - 1) > TOLERANCE:
            turned = np.abs(array.sum(0) - 1).max() <= TOLERANCE
            way = "divide each by its sum"
            if turned:
                way = "its columns do, so it looks transposed: exchange rows and columns"
            raise ValueError(
                f"similarity[true, class] must have rows that sum to 1, got {sums[worst]:.6g} for true class "
                f"{self.classes[worst]!r}; {way}"
            )

    def _check_costs(self, array: Floats) -> None:
        right = np.diag(array)
        dear = right[:, None] > array
        if dear.any():
            row, column = np.argwhere(dear)[0]
            turned = not (right[None, :] > array).any()
            way = "if it holds gains, pass its negative"
            if turned:
                way = "each is smallest in its column, so it looks transposed: exchange rows and columns"
            raise ValueError(
                "costs[true, predicted] must be smallest where a class is called itself, got "
                f"{array[row, row]:g} for {self.classes[row]!r} as itself and {array[row, column]:g} as "
                f"{self.classes[column]!r}; {way}"
            )

    @property
    def T(self) -> "Matrix":  # noqa: N802 - numpy's word
        """The matrix with the true and the other class exchanged, checked again."""
        return Matrix(self.array.T, self.kind, self.classes)

    @property
    def shape(self) -> tuple[int, int]:
        """(C, C)."""
        return len(self), len(self)

    def ordered(self, classes: Sequence[object]) -> "Matrix":
        """Return the same matrix with its classes in another order.

        Args:
            classes: The same names.

        Raises:
            ValueError: If a name is missing or too many.

        Example:
            >>> print(Matrix([[0, 1], [6, 0]], "costs", ["well", "ill"]).ordered(["ill", "well"]))
            costs[true, predicted]
                  ill  well
            ill     0     6
            well    1     0
        """
        wanted = check_names(classes)
        for name in self.classes:
            if name not in wanted:
                raise ValueError(
                    f"{self.kind} must name the classes asked for, got {name!r}; {_near(name, wanted)}"
                )
        return self.part(wanted)

    def part(self, classes: Sequence[object]) -> "Matrix":
        """Return the part of the matrix for some of its classes, in the order given.

        Args:
            classes: Names of the classes to keep.

        Raises:
            ValueError: If a name is missing, or similarities lose a share to a class that is left out.

        Example:
            >>> costs = Matrix([[0, 1, 2], [6, 0, 3], [5, 4, 0]], "costs", ["well", "ill", "dead"])
            >>> print(costs.part(["dead", "well"]))
            costs[true, predicted]
                  dead  well
            dead     0     5
            well     2     0
        """
        wanted = check_names(classes)
        for name in wanted:
            if name not in self.classes:
                way = _near(name, self.classes)
                raise ValueError(f"{self.kind} must name every class once, got none for {name!r}; {way}")
        places = [self.classes.index(name) for name in wanted]
        kept = self.array[np.ix_(places, places)]
        if self.kind == "similarity" and (kept.sum(1) < 1 - TOLERANCE).any():
            worst = int(kept.sum(1).argmin())
            raise ValueError(
                f"similarity must give no share to a class that is left out, got {1 - kept[worst].sum():.6g} "
                f"for true class {wanted[worst]!r}; keep all classes"
            )
        return Matrix(kept, self.kind, wanted)

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, place: Any) -> Any:
        """Return an entry or rows: by [true, class] names, or as numpy indexes."""
        if isinstance(place, tuple) and all(isinstance(each, str) for each in place):
            true, other = (self.classes.index(each) for each in place)
            return float(self.array[true, other])
        return self.array[place]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        return np.array(self.array, dtype=dtype, copy=copy)

    def __dlpack__(self, **options: Any) -> Any:
        del options  # torch asks for a copy or a version, and gets a fresh one it may write to
        return torch.tensor(self.array).__dlpack__()

    def __dlpack_device__(self) -> Any:
        return torch.tensor(0.0).__dlpack_device__()

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Matrix)
            and (self.kind, self.classes) == (other.kind, other.classes)
            and np.array_equal(self.array, other.array)
        )

    def __hash__(self) -> int:
        return hash((self.kind, self.classes, self._digest))

    def __setattr__(self, name: str, value: object) -> None:
        if "_digest" in self.__dict__:
            raise AttributeError(f"{name} must stay as it is, got {value!r}; make another Matrix")
        super().__setattr__(name, value)

    def __repr__(self) -> str:
        shown = ", ".join(self.classes[:6]) + (", ..." if len(self) > 6 else "")
        return f"Matrix({self.kind} of {len(self)} classes: {shown})"

    def __str__(self) -> str:
        lines = [["", *self.classes]]
        lines += [
            [name, *(f"{value:.4g}" for value in row)]
            for name, row in zip(self.classes, self.array, strict=True)
        ]
        first = max(len(line[0]) for line in lines)
        widths = [max(map(len, column)) + 2 for column in zip(*(line[1:] for line in lines), strict=True)]
        head = f"{self.kind}[true, {'class' if self.kind == 'similarity' else 'predicted'}]"
        body = (line[0].ljust(first) + "".join(map(str.rjust, line[1:], widths)) for line in lines)
        return "\n".join([head, *body])


def labelled(values: Any, kind: str) -> tuple[Any, tuple[str, ...] | None]:
    """Return a matrix of numbers and the names of its classes, None where it has none.

    A data frame is labelled by class, its columns in any order; a matrix of this package has names. Names
    that are the numbers of the classes say nothing.
    """
    if isinstance(values, Tensor):
        return values.detach().cpu().numpy(), None
    names: tuple[str, ...] | None = None
    if hasattr(values, "columns") and hasattr(values, "index"):
        names, across = check_names(values.index), check_names(values.columns)
        if odd := sorted(set(names) ^ set(across)):
            raise ValueError(
                f"{kind} must have the same names across and down, got {odd[0]!r} in one only; name each "
                "class in both"
            )
        values = np.asarray(values)[:, [across.index(name) for name in names]]
    elif hasattr(values, "classes") and hasattr(values, "array"):
        names, values = values.classes, values.array
    return values, None if names and names == tuple(map(str, range(len(names)))) else names


def check_names(names: Sequence[object]) -> tuple[str, ...]:
    """Return names of classes as text, each different."""
    found = tuple(str(name) for name in names)
    for name in found:
        if found.count(name) > 1:
            raise ValueError(f"classes must have different names, got {name!r} twice; rename one")
    return found


def _require_kind(kind: str) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind must be 'similarity' or 'costs', got {kind!r}; costs are what to avoid")


def _near(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else f"there is {', '.join(known)}"
