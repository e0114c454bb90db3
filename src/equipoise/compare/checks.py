"""Warnings of probable mistakes in the data: columns, classes, copied rows."""

import re
import unicodedata
from collections.abc import Sequence
from decimal import Decimal
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import cohen_kappa_score
from sklearn.metrics.cluster import contingency_matrix
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.tree import DecisionTreeClassifier

from equipoise.compare.dataset import Dataset, decimal

if TYPE_CHECKING:
    from equipoise.compare.splits import Split

__all__ = ["alike", "warn_of_cells", "warn_of_columns", "warn_of_header", "warn_of_parts"]

LEAK = 0.99  # balanced accuracy from one column alone
LABEL = 0.4  # Cohen's kappa of a column whose values are class names: two labels agree by more than chance
COPIED = 0.02  # share of test rows with the features of a training row
SAMPLE = 1000  # rows for a tree on one column
TEXTS = 0.9  # smallest share of dates in a column of dates, and of numbers in one of numbers with commas
Labels = NDArray[np.int64]
_IDENTIFIER_NAME = re.compile(
    r"(?:^|[^a-z])(?:id|ids|uid|uuid|guid|identifier|index|idx|key|nr|no|number|row|serial|unnamed)(?:[^a-z]|$)"
)
_DATE = re.compile(
    r"(?:\d{4}([-/.])\d\d?\1\d\d?|\d\d?([-/.])\d\d?\2\d{2,4}|\d\d?[ -][a-z]{3,9}\.?[ -]\d{2,4}"
    r"|[a-z]{3,9}\.? \d\d?,? \d{4})(?:[T ]+\d\d?:\d\d.*)?",
    re.ASCII | re.IGNORECASE,
)

_COMMA = re.compile(r"\s*[-+]?\d+(?:,\d+)?\s*", re.ASCII)


def warn_of_columns(
    features: pd.DataFrame | NDArray[Any],
    labels: Labels,
    classes: tuple[str, ...],
    different: Sequence[int] | None = None,
) -> list[str]:
    """Return warnings of columns that look like an identifier or like the class, and of constant ones.

    A column looks like the class if a tree on it alone has a balanced accuracy of at least `LEAK` on held-out
    rows, or if its values are names of classes with a kappa of at least `LABEL` with the labels; a real
    measurement can be so too. Missing words are nan; features with more than two dimensions have no columns;
    `different` is the number of different values of each column in the file.
    """
    if features.ndim > 2 or not len(labels):
        return []
    found: list[str] = []
    constant: list[str] = []
    sample = _balanced_sample(labels)
    for place, (name, column) in enumerate(pd.DataFrame(features).items()):
        title = repr(str(name)) if isinstance(features, pd.DataFrame) else f"column {place + 1} of X"
        values: NDArray[Any] = column.to_numpy()
        codes, levels = pd.factorize(values, use_na_sentinel=False)
        count = len(levels) if different is None else different[place]
        if what := _identifier(title, values, count):
            found.append(
                f"{title} may be an identifier or a row number: it has {what}; if it is, leave it out with "
                "drop"
            )
        elif len(levels) == 1:
            constant.append(title)
        elif (accuracy := _accuracy_alone(values, codes, len(levels), labels, sample)) >= LEAK:
            found.append(
                f"{title} may be the class in another form: alone it tells the classes apart with a balanced "
                f"accuracy of {100 * accuracy:.3g} %; if it is made from the class, or known only after it, "
                "leave it out with drop"
            )
        elif agreement := _agreement(levels, codes, labels, classes):
            found.append(
                f"{title} may be another label: all its values are classes, those of the target in "
                f"{agreement:.0%} of the rows; if it is one, leave it out, or give the better of the two as "
                "clean"
            )
    if constant:
        found.append(
            f"the same value in every row tells nothing of the class, got that in {_some(constant)}; check "
            "the data, or leave such columns out"
        )
    return found


def warn_of_cells(features: pd.DataFrame) -> list[str]:
    """Return warnings of columns of text that hold dates, or numbers with commas."""
    found: list[str] = []
    for name in features:
        column: Any = features[name].dropna()
        if not len(column) or column.dtype == np.float64:
            continue
        if column.map(_DATE.fullmatch).notna().mean() >= TEXTS:
            found.append(
                f"{name!r} holds dates, such as {column.iloc[0]!r} in {column.index[0]}, and each is read as "
                "a category; make numbers of them, such as days since the first, give the column as time, or "
                "leave it out"
            )
        comma = column[column.map(lambda cell: "," in cell)]
        if len(comma) and column.map(_COMMA.fullmatch).notna().mean() >= TEXTS:
            found.append(
                f"{name!r} holds numbers with commas, such as {comma.iloc[0]!r} in {comma.index[0]}, and "
                "each is read as a category; write decimal points, and no separators of thousands"
            )
    return found


def warn_of_header(names: Sequence[str], source: str) -> list[str]:
    """Return a warning of a file whose names of columns are numbers, as if its first row were the header.

    Numbers in a row, such as 0, 1, 2, are names that a table without names is written with.
    """
    numbers = [number for name in names if (number := decimal(name)) is not None]
    in_a_row = all(one + 1 == other for one, other in pairwise(numbers)) and numbers[:1] <= [Decimal(1)]
    if 2 * len(numbers) < len(names) or in_a_row:
        return []
    shown = _some([repr(name) for name in names])
    return [
        f"line 1 of {source} has the names of the columns, got {shown}; if it is a row, write names above it"
    ]


def warn_of_parts(dataset: Dataset, splits: "Sequence[Split]") -> list[str]:
    """Return warnings of classes absent from test parts, and of rows copied across parts, in one repeat."""
    return [*_lacking(dataset, splits), *_copied(dataset, splits)]


def alike(target: str, classes: tuple[str, ...]) -> list[str]:
    """Return warnings of classes that are equal as numbers, or as words up to case, blanks and marks."""
    first: dict[Any, str] = {}
    found = [(first.setdefault(_key(label), label), label) for label in classes]
    return [
        f"{one!r} and {other!r} in {target!r} are two classes, although they look alike; spell them alike if "
        "they are one"
        for one, other in found
        if one != other
    ]


def _key(label: str) -> Any:
    """Return a key that is equal for labels equal as numbers, or as words up to case, blanks and marks."""
    plain = unicodedata.normalize("NFKC", label)
    letters = "".join(letter for letter in plain if unicodedata.category(letter) != "Cf")
    number = decimal(letters)
    return " ".join(letters.casefold().split()) if number is None else number


def _some(names: Sequence[str]) -> str:
    """Return the first five names and the number of the others, as text."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _identifier(name: str, values: NDArray[Any], different: int) -> str:
    """Return why a column looks like an identifier or a row number; "" if it does not.

    A column of integers does if all differ, and they are monotonic, or the column has a name such as id, or
    that many random integers would hardly all differ. A column of words does if nine in ten differ.
    """
    rows = len(values)
    if values.dtype.kind not in "biuf":
        return "another word in nearly every row" if different > 0.9 * rows else ""
    values = values.astype(np.float64)
    if different < max(rows, 2) or not np.isfinite(values).all() or (values != np.round(values)).any():
        return ""
    # Random values of this spread have about rows^2 / (7 spread) equal pairs; if that is above 5, no equal
    # pair is unlikely.
    crowded = rows**2 > 35 * values.std()
    named = _IDENTIFIER_NAME.search(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
    order = pd.Index(values)
    sorted_by = order.is_monotonic_increasing or order.is_monotonic_decreasing
    return "another whole number in every row" if sorted_by or crowded or named else ""


def _balanced_sample(labels: Labels) -> Labels:
    """Return rows with about equal numbers per class, in random order; [] if a class has fewer than two."""
    counts = np.bincount(labels)
    if counts.min() < 2 or len(counts) < 2:
        return np.zeros(0, dtype=np.int64)
    mixed = pd.Series(labels).sample(frac=1, random_state=0)
    return mixed.groupby(mixed).head(max(SAMPLE // len(counts), 20)).index.to_numpy()


def _accuracy_alone(
    values: NDArray[Any], codes: Labels, levels: int, labels: Labels, sample: Labels
) -> float:
    """Return the balanced accuracy of a prediction of the class from one column, on held-out rows."""
    if not len(sample):
        return 0.0
    if values.dtype.kind not in "biuf" or 5 * levels <= len(values):
        if 2 * levels > len(values):
            return 0.0
        # Predict the most frequent class of the other rows with the same value
        table: Any = contingency_matrix(labels, codes)
        second, first = np.sort(table, axis=0)[-2:]
        right = (table == first) & (table - 1 > second)
        return float(((right * table).sum(axis=1) / table.sum(axis=1)).mean())
    values, labels = values[sample], labels[sample]
    classes = len(np.unique(labels))
    changes = np.diff(labels[np.lexsort((labels, values))]).astype(bool).sum()
    if changes > 2 * classes + 0.1 * len(sample):  # no tree with this many leaves could be right
        return 0.0
    tree = DecisionTreeClassifier(max_leaf_nodes=2 * classes, random_state=0)
    cut = StratifiedKFold(2)
    return float(cross_val_score(tree, values[:, None], labels, cv=cut, scoring="balanced_accuracy").mean())


def _agreement(levels: Any, codes: Labels, labels: Labels, classes: tuple[str, ...]) -> float:
    """Return the share of rows where a column names the class; 0 unless kappa is at least `LABEL`."""
    if not 3 <= len(levels) <= len(classes) + 1:
        return 0.0
    places: dict[Any, int] = {name: place for place, name in enumerate(classes)}
    if np.asarray(levels).dtype.kind in "biuf":
        places = {float(name): place for name, place in places.items() if decimal(name) is not None}
    known = [-1 if pd.isna(level) else places.get(level) for level in levels]
    if None in known or len({*known} - {-1}) < 3:
        return 0.0
    named = np.array(known)[codes]
    return float((named == labels).mean()) if cohen_kappa_score(named, labels) >= LABEL else 0.0


def _lacking(dataset: Dataset, splits: "Sequence[Split]") -> list[str]:
    every = np.arange(len(dataset.classes))
    empty = np.sum([~np.isin(every, dataset.target[split.test]) for split in splits], axis=0)
    lacking = [repr(dataset.classes[place]) for place in np.argsort(-empty, kind="stable") if empty[place]]
    if not lacking:
        return []
    who, way = f"up to {empty.max()} of {len(splits)} test parts lack", ", or lower folds"
    if dataset.one_test:
        who, way = "the test part lacks", ""
    return [
        f"{who} rows of {_some(lacking)}, and cannot say how well they are recognised; merge or remove such "
        f"classes{way}"
    ]


def _copied(dataset: Dataset, splits: "Sequence[Split]") -> list[str]:
    """Return a warning of test rows whose features equal those of a training row.

    If columns have few values, rows can be equal by chance. So equal rows are also counted with each column
    shuffled; there is a warning only if there are more than twice as many as that.
    """
    features: Any = dataset.features
    if isinstance(features, pd.DataFrame):
        features = np.transpose([pd.factorize(column)[0] for _, column in features.items()])
    features = features.reshape(len(features), -1) + 0  # 0 and -0 are equal
    rows = sum(len(split.test) for split in splits)
    equal, contradicted = _count_copied(features, dataset.labels, splits)
    if equal < COPIED * rows:
        return []
    shuffled = np.random.default_rng(0).permuted(features, axis=0)
    if equal < 2 * _count_copied(shuffled, dataset.labels, splits)[0]:
        return []
    return [
        f"{equal} of {rows} test rows ({equal / rows:.1%}) have the features of a row that was trained on, "
        f"{contradicted} of them with another class; if they are copies, remove them, or keep them in one "
        "part with groups"
    ]


def _count_copied(features: NDArray[Any], labels: Labels, splits: "Sequence[Split]") -> tuple[int, int]:
    """Return the number of test rows with the features of a training row, and of those with another class."""
    codes = pd.factorize(np.array([hash(row.tobytes()) for row in features]))[0]
    pairs = pd.factorize(codes * (int(labels.max()) + 1) + labels)[0]
    equal = contradicted = 0
    for split in splits:
        seen = np.concatenate([split.train, split.validation])
        same = np.bincount(codes[seen], minlength=len(codes))[codes[split.test]]
        agreeing = np.bincount(pairs[seen], minlength=len(codes))[pairs[split.test]]
        equal += int((same > 0).sum())
        contradicted += int((same > agreeing).sum())
    return equal, contradicted
