"""Matrices over classes: costs, similarities and label noise, read from a file or made from a rate."""

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from equipoise.spelling import nearest
from equipoise.targets import from_groups
from equipoise.targets import read as read_named
from equipoise.targets.files import corner_is_predicted, matrix_cells, number

__all__ = ["lost_similarity", "looks_transposed", "read_costs", "read_noise", "read_similarity"]

Matrix = NDArray[np.float64]


def read_costs(path: str, classes: tuple[str, ...]) -> Matrix:
    """Costs indexed [true, predicted], (C, C) in the order of the classes.

    Args:
        path: A file, or groups such as "horse, zebra | whale, shark".
        classes: Names of the classes.
    """
    costs = _read("costs", path, classes)
    if (costs < 0).any():
        raise ValueError(
            f"costs must be 0 or more, got {costs.min():g} in {path}; add a constant to every entry"
        )
    true, wrong = divmod(int((costs - costs.diagonal()[:, None]).argmin()), len(classes))
    if costs[true, wrong] < costs[true, true]:
        turned = (costs >= costs.diagonal()).all()
        way = (
            "each is smallest in its column, so it looks transposed: exchange rows and columns"
            if turned
            else "are they gains? take the largest gain minus each"
        )
        raise ValueError(
            f"costs must be smallest where [true, predicted] agree, got {costs[true, true]:g} for "
            f"{classes[true]!r} as itself and {costs[true, wrong]:g} as {classes[wrong]!r} in {path}; {way}"
        )
    return costs


def read_similarity(path: str, classes: tuple[str, ...]) -> Matrix:
    """Similarities indexed [true, class], (C, C) with rows that sum to one.

    Args:
        path: A file, or groups such as "horse, zebra | whale, shark".
        classes: Names of the classes.
    """
    return _with_rows_of_one("similarity", path, _read("similarity", path, classes), classes)


def lost_similarity(similarity: Matrix) -> Matrix:
    """Costs that a similarity implies: how much less alike the predicted class is than the true one.

    This is 1 - similarity wherever a class is wholly alike to itself, and 0 on the diagonal always.
    """
    return similarity.diagonal()[:, None] - similarity


def read_noise(noise: str, classes: tuple[str, ...]) -> Matrix:
    """Label noise as a transition matrix [true, observed], from a rate or from a file."""
    count = len(classes)
    try:
        rate = float(noise)
    except ValueError:
        if not Path(noise).exists():
            raise ValueError(
                f"noise must be a share in [0, 1) or a matrix file, got {noise!r}; write for example 0.4"
            ) from None
        return _with_rows_of_one("noise", noise, _read("noise", noise, classes), classes)
    if not 0 <= rate < 1:
        raise ValueError(f"noise must be a share in [0, 1), got {noise}; 0.4 flips four labels in ten")
    return np.full((count, count), rate / (count - 1)) + (1 - rate - rate / (count - 1)) * np.eye(count)


def looks_transposed(
    name: str, path: str, matrix: Matrix, classes: tuple[str, ...], counts: NDArray[np.int64]
) -> tuple[str, ...]:
    """Warnings if a matrix may have its rows and columns the wrong way round.

    It may if its corner says so; and costs may if confusions get dearer the commoner the missed class is and
    the rarer the class it is taken for, where it is the rare class that is usually dear to miss.

    Args:
        name: "costs" or "similarity".
        path: Where it is from.
        matrix: Indexed [true, class].
        classes: Names of the classes.
        counts: Rows of each class, (C,).
    """
    found = []
    if Path(path).is_file() and Path(path).suffix.lower() not in (".npy", ".toml"):
        corner = matrix_cells(path, name)[1][0][0]
        if corner_is_predicted(corner):
            found.append(
                f"{name} may be transposed: {path} has {corner!r} in its corner, and its rows are read as "
                "true classes; if they are predictions, exchange rows and columns"
            )
    if name == "costs" and len(classes) > 1 and counts.max() >= 1.5 * counts.min():
        others = matrix * (1 - np.eye(len(classes)))
        missed, taken = _slope(others.sum(axis=1), counts), _slope(others.sum(axis=0), counts)
        if missed > 0.5 and taken < -0.5:
            rare, common = classes[int(counts.argmin())], classes[int(counts.argmax())]
            found.append(
                f"costs may be transposed: read as [true, predicted], it is dearer to miss the common "
                f"{common!r} than the rare {rare!r}; if it should be the other way round, "
                "exchange rows and columns"
            )
    return tuple(found)


def _slope(costs: NDArray[np.float64], counts: NDArray[np.int64]) -> float:
    """Correlation of costs with the logarithm of how often a class occurs; 0 for equal costs."""
    if np.ptp(costs) <= 1e-9 * max(costs.max(), 1e-300):
        return 0.0
    return float(np.corrcoef(costs, np.log(counts))[0, 1])


def _with_rows_of_one(name: str, path: str, matrix: Matrix, classes: tuple[str, ...]) -> Matrix:
    """The matrix, if its rows are probabilities."""
    if (matrix < 0).any():
        raise ValueError(f"{name} must be 0 or more, got {matrix.min():g} in {path}; its rows are shares")
    sums = matrix.sum(axis=1)
    worst = int(np.abs(sums - 1).argmax())
    if abs(sums[worst] - 1) > 1e-6:
        turned = np.abs(matrix.sum(axis=0) - 1).max() <= 1e-6
        way = (
            "its columns do, so it looks transposed: exchange rows and columns"
            if turned
            else "divide each row by its sum"
        )
        raise ValueError(
            f"{name} must have rows that sum to one, got {sums[worst]:g} for class {classes[worst]!r} "
            f"in {path}; {way}"
        )
    return matrix / sums[:, None]


def _read(name: Literal["costs", "similarity", "noise"], path: str, classes: tuple[str, ...]) -> Matrix:
    """A finite (C, C) matrix in the order of the classes."""
    if name != "noise" and "|" in path and not Path(path).is_file():
        named = from_groups(path, name)
        return named.array[np.ix_(*[_places(name, repr(path), list(named.classes), classes)] * 2)]
    if not Path(path).is_file():
        raise ValueError(
            f"{name} must be a CSV or NPY file, got {path!r}, which is not there; check the path"
        )
    if Path(path).suffix.lower() == ".npy":
        matrix = _read_array(name, path, len(classes))
    elif Path(path).suffix.lower() == ".toml" and name != "noise":
        named = read_named(path, name)
        matrix = named.array[np.ix_(*[_places(name, path, list(named.classes), classes)] * 2)]
    else:
        matrix = _read_text(name, path, classes)
    if not np.isfinite(matrix).all():
        raise ValueError(f"{name} must be finite, got nan or infinity in {path}; fill in every entry")
    return matrix


def _read_array(name: str, path: str, count: int) -> Matrix:
    try:
        matrix = np.load(path, allow_pickle=False)
        if not isinstance(matrix, np.ndarray):
            raise ValueError("it holds several arrays")
        matrix = matrix.astype(np.float64)
    except (ValueError, TypeError, OSError, EOFError) as error:
        raise ValueError(f"{name} must hold numbers, got {path!r}; {_first_line(error)}") from error
    _require_size(name, path, matrix.shape, count)
    return matrix


def _read_text(name: str, path: str, classes: tuple[str, ...]) -> Matrix:
    """A matrix with class names around it, matched by name, or bare numbers in the order of the classes."""
    lines, rows = matrix_cells(path, name)
    width = len(rows[0]) if rows else 0
    if (len(rows), width) == (len(classes) + 1, len(classes) + 1):
        columns = _places(name, path, rows[0][1:], classes)
        order = _places(name, path, [row[0] for row in rows[1:]], classes)
        lines, rows = lines[1:], [row[1:] for row in rows[1:]]
    else:
        _require_size(name, path, (len(rows), width), len(classes))
        columns = order = list(range(len(classes)))
    return np.array([[number(f"{path}, line {lines[i]}", name, rows[i][j]) for j in columns] for i in order])


def _places(name: str, path: str, names: list[str], classes: tuple[str, ...]) -> list[int]:
    """Where each class is among the names around a matrix."""
    for given in names:
        if given not in classes:
            raise ValueError(
                f"{name} must name the classes of the data, got {given!r} in {path}; "
                f"{nearest(given, classes)}"
            )
    for wanted in classes:
        if wanted not in names:
            raise ValueError(f"{name} must name every class once, got none for {wanted!r} in {path}; add it")
    return [names.index(wanted) for wanted in classes]


def _require_size(name: str, path: str, shape: tuple[int, ...], count: int) -> None:
    if shape != (count, count):
        given = " x ".join(str(size) for size in shape)
        raise ValueError(
            f"{name} must be {count} x {count}, a row and a column for each class, got {given} in {path}; "
            "class names around it are allowed"
        )


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def as_costs(given, classes, where="costs"):
    return read_costs(given, classes) if isinstance(given, str) else np.asarray(given, dtype=float)


def as_similarity(given, classes, where="similarity"):
    return read_similarity(given, classes) if isinstance(given, str) else np.asarray(given, dtype=float)


def as_noise(given, classes):
    return read_noise(str(given), classes)
