"""Warnings of what looks wrong in the data without being certainly wrong: columns, classes, copied rows."""

import re
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.util import hash_pandas_object
from sklearn.metrics import balanced_accuracy_score, cohen_kappa_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.tree import DecisionTreeClassifier

from equipoise.compare.dataset import Dataset, decimal

if TYPE_CHECKING:
    from equipoise.compare.splits import Split

__all__ = ["alike", "warn_of_columns", "warn_of_parts"]

LEAK = 0.99  # balanced accuracy from one column alone
LABEL = 0.4  # Cohen's kappa of a column whose values are class names: two labels agree by more than chance
COPIED = 0.02  # share of test rows whose features a training row has
SAMPLE = 1000  # rows for a tree on one column
_IDENTIFIER_NAME = re.compile(
    r"(?:^|[^a-z])(?:id|ids|uid|uuid|guid|identifier|index|idx|key|nr|no|number|row|serial|unnamed)(?:[^a-z]|$)"
)


def drop_option(name: str) -> str:
    """The argument that leaves a column out."""
    return f"drop={name!r}"


def warn_of_columns(
    features: pd.DataFrame | NDArray[np.float64],
    labels: NDArray[np.int64],
    classes: tuple[str, ...],
    different: Sequence[int] | None = None,
) -> list[str]:
    """Return a warning of each column that looks like an identifier or like the class, and of constant ones.

    A column looks like the class if it alone predicts it with a balanced accuracy of `LEAK` in rows that were
    not used to learn how, or if its values are names of classes and agree with the labels with a kappa of
    `LABEL`. Columns of real measurements can do that too, where the classes are that far apart.

    Args:
        features: Columns of floats, or of strings with nan where missing; or an array (N, D) of floats.
        labels: Classes (N,) as places in `classes`.
        classes: Names of the classes.
        different: Number of different values of each column, as they were in the file; None to count them.
    """
    found: list[str] = []
    constant: list[tuple[str, str]] = []
    sample = _balanced_sample(labels)
    table = isinstance(features, pd.DataFrame)
    for place in range(features.shape[1] if len(labels) else 0):
        values: Any = features.iloc[:, place].to_numpy() if table else features[:, place]
        title = str(features.columns[place]) if table else f"column {place + 1} of X"
        name, way = (repr(title), f"with {drop_option(title)}") if table else (title, "of X")
        codes, levels = pd.factorize(values, use_na_sentinel=False)
        count = len(levels) if different is None else different[place]
        if what := _looks_like_identifier(title, values, count):
            found.append(
                f"{name} may be an identifier or a row number: it has {what}; if it is, leave it out {way}"
            )
        elif len(levels) == 1:
            constant.append((name, drop_option(title) if table else ""))
        elif (accuracy := _accuracy_alone(values, codes, len(levels), labels, sample)) >= LEAK:
            found.append(
                f"{name} may be the class in another form: alone it tells the classes apart with a balanced "
                f"accuracy of {100 * accuracy:.3g} %; if it is made from the class, or known only after it, "
                f"leave it out {way}"
            )
        elif agreement := _agreement(levels, codes, labels, classes):
            found.append(
                f"{name} may be another label: all its values are classes, those of the target in "
                f"{agreement:.0%} of the rows; if it is one, leave it out {way}, or give the better of the "
                "two as --clean"
            )
    if constant:
        names, drops = zip(*constant[:5], strict=True)
        more = f" and {len(constant) - 5} more" if len(constant) > 5 else ""
        way = f"with {' '.join(drops)}" if table else "of X"
        found.append(
            f"{', '.join(names)}{more} {'is' if len(constant) == 1 else 'are'} the same in every row and tell"
            f"{'s' if len(constant) == 1 else ''} nothing of the class; check the file, or leave "
            f"{'it' if len(constant) == 1 else 'them'} out {way}"
        )
    return found


def warn_of_parts(dataset: Dataset, splits: "Sequence[Split]") -> list[str]:
    """Return warnings of classes that test parts lack, and of rows that are copied across parts.

    Rows with equal features in a test part and in what was trained on let a model that memorises look good.
    Where columns have few values, rows are equal by chance; so they are counted once more with each column
    shuffled, and there is a warning only if there are twice as many as that.

    Args:
        dataset: Rows with classes.
        splits: Those of one repeat.
    """
    return [*_lacking(dataset, splits), *_copied(dataset, splits)]


def alike(target: str, classes: tuple[str, ...]) -> list[str]:
    """Return warnings of classes that are the same number, or word but for case, blanks and marks."""
    first: dict[Any, str] = {}
    return [
        f"{first[key]!r} and {label!r} in {target!r} are two classes, although they look alike; "
        "spell them alike if they are one"
        for label in classes
        for key in [_key(label)]
        if first.setdefault(key, label) != label
    ]


def _key(label: str) -> Any:
    """What labels have in common that are spelled nearly alike."""
    letters = "".join(
        letter for letter in unicodedata.normalize("NFKC", label) if unicodedata.category(letter) != "Cf"
    )
    number = decimal(letters)
    return " ".join(letters.casefold().split()) if number is None else number


def _looks_like_identifier(name: str, values: NDArray[Any], different: int) -> str:
    """What makes a column look like an identifier or a row number; nothing if it does not.

    Whole numbers do if all differ and they never fall (or never rise) from row to row, or their column has
    a name for it, or so many would hardly differ by chance. Words do if nine in ten differ.
    """
    rows = len(values)
    if values.dtype == np.float64:
        if different < max(rows, 2) or not np.isfinite(values).all() or (values != np.round(values)).any():
            return ""
        steps = np.diff(values)
        # Of values with this spread, rows^2 / (7 spread) pairs are equal by chance: above 5, none is unlikely
        crowded = rows**2 > 35 * values.std()
        named = _IDENTIFIER_NAME.search(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
        whole = (steps >= 0).all() or (steps <= 0).all() or crowded or named
        return "another whole number in every row" if whole else ""
    return "another word in nearly every row" if different > 0.9 * rows else ""


def _balanced_sample(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows with about as many of each class, in a random order; none if a class has fewer than two."""
    counts = np.bincount(labels)
    if not len(labels) or counts.min() < 2 or len(counts) < 2:
        return np.zeros(0, dtype=np.int64)
    rows = np.random.default_rng(0).permutation(len(labels))
    rank = pd.Series(labels[rows]).groupby(labels[rows]).cumcount().to_numpy()
    return rows[rank < max(SAMPLE // len(counts), 20)]


def _accuracy_alone(
    values: NDArray[Any],
    codes: NDArray[np.int64],
    levels: int,
    labels: NDArray[np.int64],
    sample: NDArray[np.int64],
) -> float:
    """Balanced accuracy with which a column alone predicts the class of rows left out."""
    if not len(sample):
        return 0.0
    classes = int(labels.max()) + 1
    if values.dtype != np.float64 or 5 * levels <= len(values):
        if 2 * levels > len(values):
            return 0.0
        # The commonest class of the other rows with the same value
        table = np.bincount(codes * classes + labels, minlength=levels * classes).reshape(levels, classes)
        second, first = np.sort(table, axis=1)[:, -2:].T[..., None]
        right = np.where(table == first, table - 1 > second, False)
        return float(((right * table).sum(axis=0) / table.sum(axis=0)).mean())
    values, labels = values[sample], labels[sample]
    changes = np.diff(labels[np.lexsort((labels, values))]).astype(bool).sum()
    if changes > 2 * classes + 0.1 * len(sample):  # no tree with this many leaves could be right
        return 0.0
    tree = DecisionTreeClassifier(max_leaf_nodes=2 * classes, random_state=0)
    predicted = cross_val_predict(tree, values[:, None], labels, cv=StratifiedKFold(2))
    return float(balanced_accuracy_score(labels, predicted))


def _agreement(
    levels: Any, codes: NDArray[np.int64], labels: NDArray[np.int64], classes: tuple[str, ...]
) -> float:
    """Share of rows whose class a column names, if it names three or more and kappa is `LABEL`; else 0."""
    if not 3 <= len(levels) <= len(classes) + 1:
        return 0.0
    names: dict[Any, int] = {name: place for place, name in enumerate(classes)}
    if np.asarray(levels).dtype == np.float64:
        names = {float(name): place for place, name in enumerate(classes) if decimal(name) is not None}
    known = [-1 if pd.isna(level) else names.get(level) for level in levels]
    if None in known or len({*known} - {-1}) < 3:
        return 0.0
    named = np.array(known)[codes]
    return float((named == labels).mean()) if cohen_kappa_score(named, labels) >= LABEL else 0.0


def _lacking(dataset: Dataset, splits: "Sequence[Split]") -> list[str]:
    empty = np.zeros(len(dataset.classes), dtype=np.int64)
    for split in splits:
        empty += np.bincount(dataset.labels[split.test], minlength=len(empty)) == 0
    lacking = [repr(dataset.classes[place]) for place in np.argsort(-empty, kind="stable") if empty[place]]
    if not lacking:
        return []
    more = f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""
    names = f"class {lacking[0]} has" if len(lacking) == 1 else f"classes {', '.join(lacking[:5])}{more} have"
    most = f"{'' if len(lacking) == 1 else 'up to '}{empty.max()} of {len(splits)} test parts"
    if len(splits) == 1:
        return [f"{names} no row in the test part, so it says nothing of them; merge or remove such classes"]
    return [f"{names} no row in {most}; lower --folds, or merge or remove such classes"]


def _copied(dataset: Dataset, splits: "Sequence[Split]") -> list[str]:
    features = pd.DataFrame(dataset.features).reset_index(drop=True)
    rows = sum(len(split.test) for split in splits)
    equal, contradicted = _count_copied(features, dataset.labels, splits)
    if equal < COPIED * rows:
        return []
    shuffle = np.random.default_rng(0).permutation
    shuffled = {
        place: features.iloc[shuffle(len(features)), place].to_numpy() for place in range(features.shape[1])
    }
    if equal < 2 * _count_copied(pd.DataFrame(shuffled), dataset.labels, splits)[0]:
        return []
    return [
        f"{equal} of {rows} test rows ({equal / rows:.1%}) have the features of a row that was trained on, "
        f"{contradicted} of them with another class; if they are copies, remove them, or keep them in one "
        "part with --group"
    ]


def _count_copied(
    features: pd.DataFrame, labels: NDArray[np.int64], splits: "Sequence[Split]"
) -> tuple[int, int]:
    """Test rows whose features a training or validation row has, and those of them with another class."""
    hashing: Any = hash_pandas_object
    codes = pd.factorize(np.asarray(hashing(features, index=False)))[0]
    pairs = pd.factorize(codes * (int(labels.max()) + 1) + labels)[0]
    equal = contradicted = 0
    for split in splits:
        seen = np.concatenate([split.train, split.validation])
        same = np.bincount(codes[seen], minlength=codes.max() + 1)[codes[split.test]]
        agreeing = np.bincount(pairs[seen], minlength=pairs.max() + 1)[pairs[split.test]]
        equal += int((same > 0).sum())
        contradicted += int((same > agreeing).sum())
    return equal, contradicted
