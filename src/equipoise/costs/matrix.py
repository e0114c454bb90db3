"""`ClassMatrix`, a checked matrix over named classes, indexed [true class, class]."""

import difflib
import hashlib
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Literal, final, get_args
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor

from equipoise._tensors import ConstantTensor

Kind = Literal["similarity", "costs", "weights"]
KINDS: tuple[str, ...] = get_args(Kind)
Floats = np.ndarray[Any, np.dtype[np.float64]]
Bools = np.ndarray[Any, np.dtype[np.bool_]]
TOLERANCE = 1e-6  # of the sum of a row of similarities, which should be 1
_TENSORS: "WeakValueDictionary[str, ConstantTensor]" = WeakValueDictionary()  # equal matrices share one
TRANSPOSED = "it looks transposed: exchange rows and columns"


@final
class ClassMatrix:
    """An immutable (C, C) matrix over named classes, indexed [true class, class] and checked for its kind.

    Losses, `decide`, `unmix`, `calibration.fit` and the scikit-learn estimators accept it, as well as arrays,
    nested lists and data frames; losses convert these to it. `print` shows it as a table.

    Args:
        values: (C, C) nested sequence, array, data frame or tensor.
        classes: Name of each class. None for the labels of a data frame or the names of a `ClassMatrix`, else
            the class indices. A matrix that has names is reordered to these.
        kind: "similarity": non-negative rows that sum to 1, each the target distribution of its true class.
            "costs": the diagonal is smallest in each row. "weights": non-negative with a zero diagonal.

    Raises:
        ValueError: If the values are not a finite (C, C) matrix of this kind with C different names.

    Numerics:
        float64. Rows of similarities may sum to 1 within 1e-6, and are divided by their sum.

    Example:
        >>> similarity = ClassMatrix([[0.75, 0.25], [0.5, 0.5]], ["horse", "zebra"], kind="similarity")
        >>> similarity
        ClassMatrix([[0.75, 0.25], [0.5, 0.5]], ['horse', 'zebra'], kind='similarity')
        >>> print(similarity)
        similarity[true, class]
                horse  zebra
        horse    0.75   0.25
        zebra     0.5    0.5
    """

    __match_args__ = ("kind", "digest")

    def __init__(self, values: Any, classes: Sequence[object] | None = None, *, kind: Kind) -> None:
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}; see ClassMatrix")
        values, names = labelled(values, kind)
        if names is not None and classes is not None:
            values, names = ClassMatrix(values, names, kind=kind).ordered(classes), None
        classes = names if classes is None else classes
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
            array = self._checked_similarity(array)
        elif kind == "costs":
            self._check_costs(array)
        else:
            self._check_weights(array)
        array.setflags(write=False)
        self.array: Floats = array
        digest = hashlib.sha256(array.tobytes()).hexdigest()
        tensor = _TENSORS.get(digest)
        _TENSORS[digest] = self._tensor = ConstantTensor(array) if tensor is None else tensor
        self.digest: str = digest  # from here on the matrix is immutable

    def _place(self, wrong: Bools) -> str:
        row, column = np.argwhere(wrong)[0]
        return f"for true class {self.classes[row]!r} and class {self.classes[column]!r}"

    def _check_sign(self, array: Floats, way: str) -> None:
        if (array < 0).any():
            raise ValueError(
                f"{self.kind} must not be negative, got {array.min():g} {self._place(array < 0)}; {way}"
            )

    def _checked_similarity(self, array: Floats) -> Floats:
        """Return the rows, divided by their sums unless these are 1 to rounding."""
        self._check_sign(array, "an entry is a share of the target")
        sums = array.sum(1)
        worst = int(np.abs(sums - 1).argmax())
        if abs(sums[worst] - 1) > TOLERANCE:
            turned = np.abs(array.sum(0) - 1).max() <= TOLERANCE
            way = f"its columns do, so {TRANSPOSED}" if turned else "divide each by its sum"
            raise ValueError(
                f"similarity[true, class] must have rows that sum to 1, got {sums[worst]:.6g} for true class "
                f"{self.classes[worst]!r}; {way}"
            )
        rounding = len(array) * np.finfo(np.float64).eps
        return np.where(np.abs(sums - 1) <= rounding, 1.0, 1 / sums)[:, None] * array

    def _check_weights(self, array: Floats) -> None:
        self._check_sign(array, "a weight of 0 leaves a class out")
        self.require_zero_diagonal(array)

    def require_zero_diagonal(self, array: Floats | None = None) -> None:
        """Raise unless every class has 0 for itself."""
        diagonal = np.diag(self.array if array is None else array)
        if diagonal.any():
            place = int(np.abs(diagonal).argmax())
            raise ValueError(
                f"{self.kind}[true, class] must be 0 on the diagonal, got {diagonal[place]:g} for class "
                f"{self.classes[place]!r}; subtract it from its row"
            )

    def _check_costs(self, array: Floats) -> None:
        right = np.diag(array)
        dear = right[:, None] > array
        if dear.any():
            row, column = np.argwhere(dear)[0]
            turned = not (right[None, :] > array).any()
            way = "if the entries are gains, pass their negatives"
            if turned:
                way = f"each is smallest in its column, so {TRANSPOSED}"
            raise ValueError(
                "costs[true, predicted] must be smallest on the diagonal, got "
                f"{array[row, row]:g} for {self.classes[row]!r} predicted as itself and "
                f"{array[row, column]:g} as {self.classes[column]!r}; {way}"
            )

    @classmethod
    def of(cls, values: Any, kind: Kind) -> "ClassMatrix":
        """Return the values as a matrix of a kind; costs can be converted to weights and the reverse.

        Raises:
            ValueError: If the values are similarities and the kind is not, or the reverse, or if they are no
                matrix of this kind.
        """
        if not isinstance(values, ClassMatrix) or values.kind == kind:
            return values if isinstance(values, ClassMatrix) else cls(values, kind=kind)
        if "similarity" in (values.kind, kind):
            raise ValueError(
                f"{kind} must be of kind {kind!r}, got a ClassMatrix of kind {values.kind!r}; "
                f"make it with kind={kind!r}"
            )
        return cls(values, kind=kind)

    @classmethod
    def existing(cls, kind: Kind, digest: str) -> "ClassMatrix":
        """Return a matrix equal to one that exists, without the names of its classes.

        Args:
            kind: Its kind.
            digest: Its attribute `digest`, a hash of its entries.
        """
        return cls(_TENSORS[digest].array, kind=kind)

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(ClassMatrix, kind=self.kind), (self.array, self.classes)

    @property
    def is_named(self) -> bool:
        """Whether the classes have names other than their numbers."""
        return self.classes != tuple(map(str, range(len(self))))

    def fit(self, like: Tensor, num_classes: int) -> Tensor:
        """Return the matrix as a tensor with the dtype and device of `like`; raise unless C = num_classes."""
        if len(self) != num_classes:
            raise ValueError(
                f"{self.kind} must have a row and a column for each of {num_classes} classes, got "
                f"{self.shape}; "
                "the logits have as many classes"
            )
        return self._tensor.fit(like)

    @property
    def T(self) -> "ClassMatrix":  # noqa: N802 - numpy's name
        """The transposed matrix, checked again."""
        return ClassMatrix(self.array.T, self.classes, kind=self.kind)

    @property
    def shape(self) -> tuple[int, int]:
        """(C, C)."""
        return len(self), len(self)

    def ordered(self, classes: Sequence[object]) -> "ClassMatrix":
        """Return the same matrix with its classes in another order.

        Args:
            classes: The same names.

        Raises:
            ValueError: If a name is missing or unknown.

        Example:
            >>> print(ClassMatrix([[0, 1], [6, 0]], ["well", "ill"], kind="costs").ordered(["ill", "well"]))
            costs[true, predicted]
                  ill  well
            ill     0     6
            well    1     0
        """
        wanted = check_names(classes)
        for name in self.classes:
            if name not in wanted:
                raise ValueError(
                    f"{self.kind} must name only requested classes, got {name!r}; {_near(name, wanted)}"
                )
        return self.part(wanted)

    def part(self, classes: Sequence[object]) -> "ClassMatrix":
        """Return the part of the matrix for some of its classes, in the order given.

        Args:
            classes: Names of the classes to keep.

        Raises:
            ValueError: If a name is unknown, or a similarity to a class that is left out is not 0.

        Example:
            >>> costs = ClassMatrix([[0, 1, 2], [6, 0, 3], [5, 4, 0]], ["well", "ill", "dead"], kind="costs")
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
        return ClassMatrix(kept, wanted, kind=self.kind)

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, place: Any) -> Any:
        """Return entries by [true class, class] names, or by numpy indexing."""
        if isinstance(place, tuple) and all(isinstance(each, str) for each in place):
            true, other = (self.classes.index(each) for each in place)
            return float(self.array[true, other])
        return self.array[place]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        return np.array(self.array, dtype=dtype, copy=copy)

    def __dlpack__(self, **options: Any) -> Any:
        del options  # dtype, copy or version: torch gets a new writable array in every case
        return torch.tensor(self.array).__dlpack__()

    def __dlpack_device__(self) -> Any:
        return torch.tensor(0.0).__dlpack_device__()

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, ClassMatrix)
            and (self.kind, self.classes) == (other.kind, other.classes)
            and np.array_equal(self.array, other.array)
        )

    def __hash__(self) -> int:
        return hash((self.kind, self.classes, self.digest))

    def __setattr__(self, name: str, value: object) -> None:
        if "digest" in self.__dict__:
            raise AttributeError(f"{name} must not be changed, got {value!r}; make another ClassMatrix")
        super().__setattr__(name, value)

    def __repr__(self) -> str:
        names = f", {list(self.classes)!r}" if self.is_named else ""
        return f"ClassMatrix({self.array.tolist()!r}{names}, kind={self.kind!r})"

    def __str__(self) -> str:
        lines = [["", *self.classes]]
        lines += [
            [name, *(f"{value:.4g}" for value in row)]
            for name, row in zip(self.classes, self.array, strict=True)
        ]
        first = max(len(line[0]) for line in lines)
        widths = [max(map(len, column)) + 2 for column in zip(*(line[1:] for line in lines), strict=True)]
        head = f"{self.kind}[true, {'predicted' if self.kind == 'costs' else 'class'}]"
        body = (line[0].ljust(first) + "".join(map(str.rjust, line[1:], widths)) for line in lines)
        return "\n".join([head, *body])


def cost_array(costs: Any) -> Floats:
    """Return finite costs (C, A), [true class, decision], of an array, tensor, nested list or `ClassMatrix`.

    Raises:
        ValueError: If costs are not (C, A) and finite, or a `ClassMatrix` of another kind.
    """
    if isinstance(costs, ClassMatrix):
        return ClassMatrix.of(costs, "costs").array
    try:
        array = np.asarray(costs.detach().cpu() if isinstance(costs, Tensor) else costs, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"costs must be a (C, A) matrix of numbers, got {costs!r}; give a row per true class"
        ) from error
    if array.ndim != 2 or not array.size:
        raise ValueError(
            f"costs must be (C, A), got {array.shape}; give a row per true class, a column per decision"
        )
    if not np.isfinite(array).all():
        raise ValueError(
            "costs must be finite, got nan or infinity; use a large cost for a decision that must not happen"
        )
    return array


def labelled(values: Any, kind: str) -> tuple[Any, tuple[str, ...] | None]:
    """Return a matrix of numbers and the names of its classes, or None without names.

    Names are the labels of a data frame, whose columns are sorted as its rows, or those of a `ClassMatrix`.
    Labels that are the class indices are no names.
    """
    if isinstance(values, Tensor):
        return values.detach().cpu().numpy(), None
    names: tuple[str, ...] | None = None
    if hasattr(values, "columns") and hasattr(values, "index"):
        values, names = matched(np.asarray(values), values.index, values.columns, kind)
    elif isinstance(values, ClassMatrix):
        names, values = values.classes, values.array
    return values, None if names and names == tuple(map(str, range(len(names)))) else names


def matched(
    values: np.ndarray[Any, Any], rows: Iterable[object], columns: Iterable[object], kind: str, at: str = ""
) -> tuple[np.ndarray[Any, Any], tuple[str, ...]]:
    """Return a matrix with its columns in the order of its rows, and the names of the rows.

    Args:
        values: The matrix.
        rows: Names of its rows.
        columns: Names of its columns.
        kind: Name of the matrix in errors.
        at: Origin of the matrix in errors, " in FILE" or "".

    Raises:
        ValueError: If a name is twice among the rows or the columns, or is the name of one of them only.
    """
    names, across = check_names(rows), check_names(columns)
    if odd := sorted(set(names) ^ set(across)):
        raise ValueError(
            f"{kind} must have the same names across and down, got {odd[0]!r} in one only{at}; name each "
            "class in both"
        )
    return values[:, [across.index(name) for name in names]], names


def check_names(names: Iterable[object]) -> tuple[str, ...]:
    """Return the names of classes as strings; raise unless they differ."""
    found = tuple(str(name) for name in names)
    for name in found:
        if found.count(name) > 1:
            raise ValueError(f"classes must have different names, got {name!r} twice; rename one")
    return found


def _near(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else f"the names are {', '.join(known)}"
