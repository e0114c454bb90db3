"""Rows as they were given, from files or from Python: checked, and made a data set."""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api.types import infer_dtype

from equipoise.compare.checks import alike, warn_of_columns
from equipoise.compare.dataset import UNKNOWN, Dataset, decimal, printable
from equipoise.spelling import nearest
from equipoise.targets.files import NUMBER

__all__ = [
    "ARRAYS",
    "FILES",
    "MISSING",
    "NPZ",
    "Rows",
    "build",
    "converted",
    "feature",
    "require_finite",
    "words",
]

LARGEST = float(np.finfo(np.float32).max)  # models are trained in float32
FEWEST_ROWS = 20  # of ten folds, parts of two rows
SMALLEST_CLASS = 5  # any fewer and what is said of a class, or learnt of it, is chance
DATES = 0.9  # share of the cells of a column that are dates, to call it that
MISSING = {  # what pandas takes for a missing value, in lower case
    *("", "#n/a", "#n/a n/a", "#na", "-1.#ind", "-1.#qnan", "-nan", "1.#ind", "1.#qnan"),
    *("<na>", "n/a", "na", "nan", "none", "null"),
}
_NUMERIC = ("floating", "exact", "nothing")
_KINDS = {
    **dict.fromkeys(("floating", "mixed-integer-float"), "floating"),
    **dict.fromkeys(("integer", "decimal"), "exact"),
    **dict.fromkeys(("string", "boolean"), "words"),
    **dict.fromkeys(
        ("datetime64", "datetime", "date", "time", "timedelta64", "timedelta", "period"), "times"
    ),
    "empty": "nothing",
}
# 1,234 and 0,5 and $3 and 40 %, and dates and times
_LIKE_A_NUMBER = re.compile(r"\W{0,3}\d[\d.,'\u2019_\s:/+TZ-]*(?:[eE][+-]?\d+)?\W{0,2}")
_ARGUMENTS = ("y", "clean", "groups", "time", "sample_weight")  # names of columns from Python
_NO_TEXT = re.compile(r"[\ud800-\udfff]")
_DATE = re.compile(
    r"(?:\d{4}([-/.])\d\d?\1\d\d?|\d\d?([-/.])\d\d?\2\d{2,4}|\d\d?[ -][a-z]{3,9}\.?[ -]\d{2,4}"
    r"|[a-z]{3,9}\.? \d\d?,? \d{4})(?:[T ]+\d\d?:\d\d.*)?",
    re.ASCII | re.IGNORECASE,
)
Column = Any  # a pd.Series, whose index says where each value is
Parse = Callable[[Column, str], tuple[Column, list[str]]]


class Names(NamedTuple):
    """What errors call the data, its features, labels and groups."""

    data: str
    features: str
    target: str
    groups: str


FILES = Names("data", "features", "target", "group")
NPZ = FILES._replace(features="X", target="y")
ARRAYS = Names("X", "X", "y", "groups")


@dataclass(frozen=True)
class Rows:
    """Rows before anything is converted.

    Attributes:
        source: What they are from, "t.csv" or "X".
        features: Columns of any type, or an array of numbers (N, ...).
        labels: Class of each row.
        roles: Other columns by what they are: clean, group, time, weight.
    """

    source: str
    features: pd.DataFrame | NDArray[Any]
    labels: Column
    roles: dict[str, Column]

    def take(self, kept: NDArray[np.bool_]) -> "Rows":
        """Some of the rows."""
        roles = {role: column[kept] for role, column in self.roles.items()}
        return replace(self, features=self.features[kept], labels=self.labels[kept], roles=roles)

    def join(self, more: "Rows") -> "Rows":
        """The rows with those of a test part after them."""
        mine: Any = self.features
        theirs: Any = more.features
        table = isinstance(mine, pd.DataFrame)
        if table != isinstance(theirs, pd.DataFrame) or (not table and mine.shape[1:] != theirs.shape[1:]):
            raise ValueError(
                f"test must have X and y like those of {self.source}, got "
                f"{type(theirs).__name__} {theirs.shape[1:]} in {more.source} for {type(mine).__name__} "
                f"{mine.shape[1:]}; make both alike"
            )
        if table:
            for name in mine:
                if name not in theirs:
                    raise ValueError(
                        f"test must have the columns of {self.source}, got no {name!r} in {more.source}; "
                        f"{nearest(name, [*theirs])}"
                    )
            columns = {name: self._join(mine[name], theirs[name], more).array for name in mine}
            features = pd.DataFrame(columns, mine.index.append(theirs.index))
        else:
            features = np.concatenate([mine, theirs])
        roles = {}
        for role, column in more.roles.items():
            nothing = pd.Series(None, self.labels.index, dtype=object, name=column.name)
            roles[role] = self._join(self.roles.get(role, nothing), column, more)
        return Rows(self.source, features, self._join(self.labels, more.labels, more), roles)

    def _join(self, first: Column, second: Column, more: "Rows") -> Column:
        kinds = [kind(first), kind(second)]
        if len({*kinds} - {"nothing"}) > 1 and not {*kinds}.issubset(_NUMERIC):
            raise ValueError(
                f"test must have columns like those of {self.source}, got {kinds[1]} in {second.name!r} of "
                f"{more.source} for {kinds[0]}; write both alike"
            )
        same = first.dtype == second.dtype
        return pd.concat([each if same else each.astype(object) for each in (first, second)])


def build(
    name: str, rows: Rows, test: Rows | None, names: Names, notes: list[str], parse: Parse | None = None
) -> Dataset:
    """Return a data set, once its rows are known to be of use; `parse` makes numbers of a column of text."""
    target, size, notes = str(rows.labels.name), len(rows.labels), [*notes]
    if test is not None and isinstance(test.features, pd.DataFrame):
        extra = ", ".join(repr(each) for each in test.features if each not in rows.features)
        left_out = f"columns of {test.source} that are not in {rows.source} were left out: {extra}"
        notes += [left_out] if extra and isinstance(rows.features, pd.DataFrame) else []
    weighted = _weighted(rows)
    rows = rows if test is None else rows.join(test)
    weighted = np.append(weighted, np.ones(len(rows.labels) - size, dtype=bool))
    if "time" in rows.roles and (test or "group" in rows.roles):
        other = "test; that is the test part" if test else f"{names.groups}; a group may be early and late"
        raise ValueError(f"time must be left out, got {rows.roles['time'].name!r} with {other}")
    found = _classes(rows.labels, names.target)
    known = np.array([label is not None for label in found], dtype=bool)
    if names is not FILES:
        _require(known, rows.labels, names.target)
    for left, missing in ((f"a value in {printable(target)}", ~known), ("weight", ~weighted)):
        if missing.any():
            notes.append(f"{missing.sum()} rows without {left} were left out")
    kept = known & weighted
    rows, main = rows.take(kept), int(kept[:size].sum())
    of_test = None if test is None else np.arange(kept.sum()) >= main
    found = [label for label, keep in zip(found, kept, strict=True) if label is not None and keep]
    counts = Counter(found[:main])
    numeric = all(decimal(label) is not None for label in counts)
    classes = tuple(sorted(counts, key=lambda label: (decimal(label) if numeric else 0, label)))
    labels = _places(found, classes, "test", rows.labels, target)
    features, different, said = _features(rows, main, names, parse)
    notes += said
    fields: dict[str, Any] = {}
    for role, column in rows.roles.items():
        if role == "clean":
            fields["clean"], said = _clean(column, labels, classes, of_test, target)
            notes += said
        elif role == "group":
            fields["groups"] = _groups(column, of_test, names)
        else:
            fields[role] = _times(column) if role == "time" else _floats(column)
    notes += [
        f"{label!r} in {target!r} is a class of {count} rows; leave its cells empty if the class is unknown"
        for label, count in counts.items()
        if label.lower() in MISSING
    ]
    dataset = Dataset(name, features, labels, classes, tuple(notes), test=of_test, **fields)
    _require_enough(dataset, main, f", column {target!r}" if names is FILES else "", names, numeric)
    warnings: list[str] = alike(target, classes)
    if isinstance(features, pd.DataFrame):
        warnings = warn_of_columns(features.iloc[:main], labels[:main], classes, different) + warnings
        warnings += _dates(features.iloc[:main])
    elif features.ndim == 2:  # the numbers of images and sequences are no columns
        warnings = warn_of_columns(features[:main].astype(np.float64), labels[:main], classes) + warnings
    return replace(dataset, warnings=tuple(warnings))


def kind(column: Column) -> str:
    """What a column holds: floating, exact, words, times or nothing; the type of a value if none of these."""
    if column.dtype == "category":
        return "words"
    values = column if isinstance(column.dtype, np.dtype) else column.astype(object)
    if found := _KINDS.get(infer_dtype(values, skipna=True)):
        return found
    plain = (str, Real, Decimal, np.bool_)
    return next((type(each).__name__ for each in values.dropna() if not isinstance(each, plain)), "words")


def feature(column: Column, names: Names, source: str = "") -> tuple[NDArray[Any], list[str]]:
    """A column as floats, or as words with nan where missing, and what was converted."""
    what = kind(column)
    if what == "words":
        return words(column, names.features), _like_numbers(column, source)
    if what not in _NUMERIC:
        raise ValueError(
            f"{names.features} must be numbers or categories, got {what} in {column.name!r} of {source}; "
            "turn it into numbers, or leave it out"
        )
    numbers = _floats(column)
    bad = np.flatnonzero(np.abs(numbers) > LARGEST)
    if bad.size:
        value = numbers[bad[0]]
        shown = "infinity" if np.isinf(value) else f"{value:g}, which float32 cannot hold,"
        raise ValueError(
            f"{names.features} must be finite or missing, got {shown} in {column.index[bad[0]]}, column "
            f"{column.name!r}; rescale it, leave it empty if it is unknown, or leave it out"
        )
    exact = column.dtype == object or (what == "exact" and (np.abs(numbers) >= 2**53).any())
    pairs = enumerate(zip(column.astype(object), numbers.tolist(), strict=True)) if exact else ()
    lost = [row for row, (value, number) in pairs if not np.isnan(number) and value != number]
    return numbers, converted(column, numbers, lost, source)


def words(column: Column, option: str = "X") -> NDArray[Any]:
    """The values as text without surrounding blanks, nan where nothing is left."""
    values, found = column.astype(object), np.full(len(column), np.nan, dtype=object)
    for row, (value, missing) in enumerate(zip(values, values.isna(), strict=True)):
        found[row] = np.nan if missing else str(value).strip() or np.nan
        if not missing and _NO_TEXT.search(str(value)):
            raise ValueError(
                f"{option} must hold text in Unicode, got {value!a} in {_at(column, row)}; rewrite it"
            )
    return found


def converted(column: Column, numbers: NDArray[Any], rows: list[int], source: str) -> list[str]:
    """A note of the first of the rows whose value was converted, and of how many there are."""
    if not rows:
        return []
    number, place = float(numbers[rows[0]]), column.index[rows[0]].removesuffix(f" of {source}")
    shown = "missing" if np.isnan(number) else repr(number)
    more = f", and {len(rows) - 1} more such cells" if len(rows) > 1 else ""
    return [f"{column.name!r} is read as numbers: {str(column.iloc[rows[0]])!r} in {place} as {shown}{more}"]


def require_finite(features: NDArray[Any], places: pd.Index) -> None:
    """Refuse an array with a number that float32 cannot hold."""
    bad = ~(np.abs(features) <= LARGEST)  # nan among them
    if features.dtype.kind == "f" and bad.any():
        row, *column = np.argwhere(bad)[0].tolist()
        where = column[0] + 1 if len(column) == 1 else tuple(column)
        rows = int(bad.reshape(len(bad), -1).any(axis=1).sum())
        raise ValueError(
            f"X must be finite in float32, got {features[row, *column]:g} in {places[row]}, column {where}, "
            f"and {rows} such rows; remove, fill in or rescale them"
        )


def _classes(column: Column, option: str) -> list[str | None]:
    """The class of each row, None if it has none: integers where all floats are whole, else as it is."""
    what = kind(column)
    if what not in (*_NUMERIC, "words", "times"):
        row = next((k for k, each in enumerate(column.astype(object)) if type(each).__name__ == what), 0)
        raise ValueError(
            f"{option} must hold names or numbers, got {what} in {_at(column, row)}; write it as text"
        )
    if what != "floating":
        return [None if word != word else word for word in words(column, option)]
    numbers = _floats(column)
    _require(~np.isinf(numbers), column, option)
    known = numbers[~np.isnan(numbers)]
    whole = (known == np.round(known)).all() and (np.abs(known) < 2**63).all()
    own = numbers if column.dtype == object else column.to_numpy()  # 0.1 of float32 is not 0.10000000149
    return [
        None if np.isnan(n) else str(int(n) if whole else each) for n, each in zip(numbers, own, strict=True)
    ]


def _floats(column: Column) -> NDArray[np.float64]:
    """The values of a column of numbers, nan where missing."""
    if isinstance(column.dtype, np.dtype) and column.dtype != object:
        return column.to_numpy(np.float64)
    values = column.astype(object)
    return np.array(
        [_float(each, gone) for each, gone in zip(values, values.isna(), strict=True)], dtype=np.float64
    )


def _float(value: Any, missing: bool) -> float:
    try:
        return np.nan if missing else float(value)
    except OverflowError:  # an int past all floats
        return np.inf


def _features(
    rows: Rows, main: int, names: Names, parse: Parse | None
) -> tuple[Any, list[int] | None, list[str]]:
    """Features as they are kept, how many different values each column had, and what was converted."""
    given: Any = rows.features
    if not isinstance(given, pd.DataFrame):
        require_finite(given, rows.labels.index)
        return given, None, []
    columns, different, notes = {}, [], []
    for name in given:
        column: Column = given[name]
        column, parsed = parse(column, rows.source) if parse else (column, [])
        columns[name], said = feature(column, names, rows.source)
        different.append(int(column[:main].nunique(dropna=False)))
        notes += parsed + said
    index = [place.removesuffix(f" of {rows.source}") for place in given.index]
    return pd.DataFrame(columns, pd.Index(index, dtype=object)), different, notes


def _like_numbers(column: Column, source: str) -> list[str]:
    """A note of text most of which looks like numbers."""
    cells = [each.strip() if isinstance(each, str) else "" for each in column.astype(object)]
    if 2 * sum(bool(_LIKE_A_NUMBER.fullmatch(cell)) for cell in cells) <= sum(map(bool, cells)):
        return []
    odd = [row for row, cell in enumerate(cells) if cell.lower() not in MISSING]
    row = next((row for row in odd if not NUMBER.fullmatch(cells[row])), odd[0])
    what = "text" if NUMBER.fullmatch(cells[row]) else "no number"
    place = column.index[row].removesuffix(f" of {source}")
    return [f"{column.name!r} is read as categories: {cells[row]!r} in {place} is {what}"]


def _dates(features: Any) -> list[str]:
    """Warnings of columns of words nearly all of which are dates."""
    cells = {name: features[name].dropna() for name in features if features[name].dtype != np.float64}
    return [
        f"{name!r} holds dates, such as {column.iloc[0]!r} in {column.index[0]}, and each is read as a "
        "category; make numbers of them, such as days since the first, give the column as time, or leave it "
        "out"
        for name, column in cells.items()
        if len(column) and np.mean([bool(_DATE.fullmatch(cell)) for cell in column]) >= DATES
    ]


def _places(
    found: Sequence[str | None], classes: tuple[str, ...], option: str, column: Column, target: str
) -> NDArray[np.int64]:
    """Classes (N,) as places in `classes`, `UNKNOWN` where there is none."""
    known: dict[str | None, int] = {name: place for place, name in enumerate(classes)} | {None: UNKNOWN}
    for row, name in enumerate(found):
        if name is not None and name not in known:
            raise ValueError(
                f"{option} must have only classes that {target!r} has, got {name!r} in {column.index[row]}; "
                f"{nearest(name, classes)}"
            )
    return np.array([known[name] for name in found], dtype=np.int64)


def _clean(
    column: Column,
    labels: NDArray[np.int64],
    classes: tuple[str, ...],
    test: NDArray[np.bool_] | None,
    target: str,
) -> tuple[NDArray[np.int64], list[str]]:
    clean = _places(_classes(column, "clean"), classes, "clean", column, target)
    known = clean != UNKNOWN
    judged = np.ones(len(clean), dtype=bool) if test is None else test
    if not (known & judged).any():
        raise ValueError(
            f"clean must name the class of some {'' if test is None else 'test '}rows, got none in "
            f"{column.name!r}; leave it out"
        )
    if column.name == target:  # the labels of a test part are better themselves
        return clean, []
    differing, left = int((clean[known] != labels[known]).sum()), int((judged & ~known).sum())
    notes = [
        f"{differing} of {known.sum()} labels ({differing / known.sum():.1%}) differ from those in "
        f"{column.name!r}, which test rows are judged by"
    ]
    if left:
        notes.append(f"{left} rows without a value in {column.name!r} are never test rows")
    return clean, notes


def _groups(column: Column, test: NDArray[np.bool_] | None, names: Names) -> NDArray[np.int64]:
    found = words(column, names.groups)
    _require(~pd.isna(found), column, names.groups)
    groups, values = pd.factorize(found)
    both = [] if test is None else np.intersect1d(groups[test], groups[~test])
    if len(both):
        raise ValueError(
            f"{names.groups} must be different in test rows, got {values[both[0]]!r} and "
            f"{len(both) - 1} more of {column.name!r} in both; remove their rows from one"
        )
    return groups.astype(np.int64)


def _times(column: Column) -> NDArray[np.float64]:
    """Numbers as they are, or ISO dates as seconds since 1970, in which a time without zone is UTC."""
    found = words(column, "time")
    if kind(column) in _NUMERIC:
        times = _floats(column)
    elif all(isinstance(word, str) and NUMBER.fullmatch(word) for word in found):
        times = found.astype(np.float64)
    else:
        read = pd.to_datetime(pd.Series(found, dtype=object), format="ISO8601", utc=True, errors="coerce")
        times = (read - pd.Timestamp(0, tz="UTC").as_unit("s")).dt.total_seconds().to_numpy(dtype=np.float64)
    _require(np.isfinite(times), column, "time", "hold numbers or ISO dates such as 2024-01-31")
    return times


def _weighted(rows: Rows) -> NDArray[np.bool_]:
    """Which rows have a weight above 0, all without weights."""
    weight = rows.roles.get("weight", pd.Series(1.0, rows.labels.index))
    numbers = _floats(weight) if kind(weight) in _NUMERIC else np.full(len(weight), np.nan)
    _require(np.isfinite(numbers) & (numbers >= 0), weight, "sample_weight", "be 0 or more and finite")
    return numbers > 0


def _require_enough(dataset: Dataset, main: int, column: str, names: Names, numeric: bool) -> None:
    """Refuse rows that are too few to compare anything on."""
    classes, width = dataset.classes, math.prod(dataset.features.shape[1:])
    where = f"{dataset.name}{column}"
    if not main or not width:
        raise ValueError(
            f"{names.data} must have rows and columns beside the classes, got {main} rows and {width} "
            f"columns in {dataset.name}; check it"
        )
    if dataset.test is not None and not dataset.test.any():
        raise ValueError(
            f"test must have rows with a class, got none beside those of {dataset.name}; check it"
        )
    if len(classes) < 2:
        raise ValueError(
            f"{names.data} must have two classes or more, got only {''.join(classes)!r} in {where}; "
            f"check {names.target}"
        )
    counts = np.bincount(dataset.labels[:main])
    smallest = int(counts.argmin())
    if counts[smallest] < SMALLEST_CLASS and numeric and len(classes) > max(10, main / 10):
        raise ValueError(
            f"{names.target} must hold classes, got {len(classes)} different numbers in {main} rows of "
            f"{where}: it looks like numbers to predict (regression); make ranges of them with pandas.cut"
        )
    if counts[smallest] < SMALLEST_CLASS:
        place = dataset.place(int((dataset.labels == smallest).argmax()))
        raise ValueError(
            f"every class must have {SMALLEST_CLASS} rows or more, got {counts[smallest]} of class "
            f"{classes[smallest]!r} in {where}, {place} ({len(classes)} classes); merge or "
            "remove small classes"
        )
    if main < FEWEST_ROWS:
        raise ValueError(
            f"{names.data} must have {FEWEST_ROWS} rows or more, got {main} in {where}; add rows"
        )


def _require(
    good: NDArray[np.bool_], column: Column, option: str, rule: str = "be known of every row"
) -> None:
    """Refuse a column some of whose values are not good."""
    if not good.all():
        value = words(column.iloc[[good.argmin()]], option)[0]
        raise ValueError(
            f"{option} must {rule}, got {repr(value) if isinstance(value, str) else 'none'} in "
            f"{_at(column, good.argmin())}, and {(~good).sum() - 1} more such rows; rewrite or remove them"
        )


def _at(column: Column, row: Any) -> str:
    """Where a value is: its row, and the name of its column in a file or table."""
    place = str(column.index[row]) if len(column) else "no row"
    return place if column.name in _ARGUMENTS else f"{place}, column {column.name!r}"
