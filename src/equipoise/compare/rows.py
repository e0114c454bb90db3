"""Rows as they were given, from files or from Python: checked, and made a data set."""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from numbers import Real
from typing import Any, NamedTuple, NoReturn

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api.types import infer_dtype

from equipoise.compare.checks import alike, warn_of_columns
from equipoise.compare.dataset import UNKNOWN, Dataset, decimal, drop_option
from equipoise.spelling import nearest
from equipoise.targets.files import NUMBER

__all__ = [
    "ARRAYS",
    "FILES",
    "MISSING",
    "NPZ",
    "Rows",
    "as_words",
    "build",
    "converted",
    "feature",
    "require_finite",
]

LARGEST = float(np.finfo(np.float32).max)  # models are trained in float32
FEWEST_ROWS = 20  # of ten folds, parts of two rows
DATES = 0.9  # share of a column that has to be dates to be called that
SMALLEST_CLASS = 5  # any fewer and what is said of a class, or learnt of it, is chance
MISSING = {  # what pandas takes for a missing value, in lower case
    *("#n/a", "#n/a n/a", "#na", "-1.#ind", "-1.#qnan", "-nan", "1.#ind", "1.#qnan"),
    *("<na>", "n/a", "na", "nan", "none", "null"),
}
_NUMERIC = ("floating", "exact", "nothing")
_KINDS = {
    **dict.fromkeys(("floating", "mixed-integer-float"), "floating"),
    **dict.fromkeys(("integer", "decimal"), "exact"),
    **dict.fromkeys(("string", "boolean", "categorical"), "words"),
    **dict.fromkeys(
        ("datetime64", "datetime", "date", "time", "timedelta64", "timedelta", "period"), "times"
    ),
    "empty": "nothing",
}
# 1,234 and 0,5 and $3 and 40 %, and dates and times
_LIKE_A_NUMBER = re.compile(r"\W{0,3}\d[\d.,'\u2019_\s:/+TZ-]*(?:[eE][+-]?\d+)?\W{0,2}")
_DATE = re.compile(
    r"(?:\d{4}([-/.])\d{1,2}\1\d{1,2}|\d{1,2}([-/.])\d{1,2}\2\d{2,4}|\d{1,2}[ -][a-z]{3,9}\.?[ -]\d{2,4}"
    r"|[a-z]{3,9}\.? \d{1,2},? \d{4})(?:[T ]+\d{1,2}:\d\d.*)?",
    re.ASCII | re.IGNORECASE,
)


Parse = Callable[[pd.Series, str], tuple[pd.Series, list[str]]]


class Words(NamedTuple):
    """What errors call the rows, their features, their labels and their groups."""

    data: str
    features: str
    target: str
    groups: str


FILES = Words("data", "features", "target", "group")
NPZ = Words("data", "X", "y", "group")
ARRAYS = Words("X", "X", "y", "groups")


@dataclass(frozen=True)
class Rows:
    """Rows before anything is converted; the index of a column says where its values are.

    Attributes:
        source: What they are from, "t.csv" or "X".
        features: Columns of any type, or an array of numbers (N, ...).
        labels: Class of each row.
        roles: Other columns by what they are: clean, groups, time, weight.
    """

    source: str
    features: pd.DataFrame | NDArray[Any]
    labels: pd.Series
    roles: Mapping[str, pd.Series]

    def take(self, kept: NDArray[np.bool_]) -> "Rows":
        """Some of the rows."""
        roles = {role: column[kept] for role, column in self.roles.items()}
        return Rows(self.source, self.features[kept], self.labels[kept], roles)

    def join(self, more: "Rows") -> tuple["Rows", list[str]]:
        """The rows with those of a test part after them, and notes."""
        mine, theirs, notes = self.features, more.features, []
        if isinstance(mine, pd.DataFrame) and isinstance(theirs, pd.DataFrame):
            for name in mine:
                if name not in theirs:
                    raise ValueError(
                        f"test must have the columns of {self.source}, got no {name!r} in {more.source}; "
                        f"{nearest(name, [*theirs])}"
                    )
            columns = {name: self._join(mine[name], theirs[name], more) for name in mine}
            features = (
                pd.concat(columns, axis=1) if columns else pd.DataFrame(index=[*mine.index, *theirs.index])
            )
            extra = ", ".join(repr(name) for name in theirs if name not in mine)
            if extra:
                notes = [f"columns of {more.source} that are not in {self.source} were left out: {extra}"]
        elif (
            isinstance(mine, np.ndarray)
            and isinstance(theirs, np.ndarray)
            and mine.shape[1:] == theirs.shape[1:]
        ):
            features = np.concatenate([mine, theirs])
        else:
            raise ValueError(
                f"test must have X and y like those of {self.source}, got {_shape(theirs)} in {more.source} for "
                f"{_shape(mine)}; make both alike"
            )
        roles = {}
        for role, column in more.roles.items():
            nothing = pd.Series(None, self.labels.index, dtype=object, name=column.name)
            roles[role] = self._join(self.roles.get(role, nothing), column, more)
        return Rows(self.source, features, self._join(self.labels, more.labels, more), roles), notes

    def _join(self, first: pd.Series, second: pd.Series, more: "Rows") -> pd.Series:
        kinds = [kind(first), kind(second)]
        if len({*kinds} - {"nothing"}) > 1 and not {*kinds}.issubset(_NUMERIC):
            raise ValueError(
                f"test must have columns like those of {self.source}, got {kinds[1]} in {second.name!r} of "
                f"{more.source} for {kinds[0]}; write both alike"
            )
        same = first.dtype == second.dtype
        return pd.concat([each if same else each.astype(object) for each in (first, second)])


def build(
    name: str, rows: Rows, test: Rows | None, words: Words, notes: list[str], parse: Parse | None = None
) -> Dataset:
    """Return a data set, once its rows are known to be of use.

    Args:
        name: What to call it.
        rows: All rows, or all but those of a test part.
        test: Rows of a test part.
        words: What errors call them.
        notes: How they were read.
        parse: Makes a column of text one of numbers, if it is, and says what that changes.

    Raises:
        ValueError: If there is anything that training could not work with.
    """
    target, size, notes = str(rows.labels.name), len(rows.labels), [*notes]
    if test is not None:
        rows, said = rows.join(test)
        notes += said
    names = class_names(rows.labels, words.target)
    known, weighted = np.array([label is not None for label in names], dtype=bool), _weighted(rows)
    if words is not FILES and not known.all():
        _refuse_missing(words.target, rows.labels, known)
    for left, missing in (("a value in " + _line(target), ~known), ("weight", ~weighted)):
        if missing.any():
            notes.append(f"{missing.sum()} rows without {left} were left out")
    kept = known & weighted
    rows, main = rows.take(kept), int(kept[:size].sum())
    of_test = None if test is None else np.arange(kept.sum()) >= main
    kept_names = [label for label, keep in zip(names, kept, strict=True) if label is not None and keep]
    counts = Counter(kept_names[:main])
    numeric = all(decimal(label) is not None for label in counts)
    classes = tuple(sorted(counts, key=lambda label: (decimal(label) if numeric else 0, label)))
    labels = _class_places([*kept_names], classes, "test", target, rows.labels)
    features, different, said = _features(rows, main, words, parse)
    fields, clean_notes = _roles(rows, labels, classes, of_test, words)
    notes += said + clean_notes
    notes += [
        f"{label!r} in {target!r} is a class of {count} rows; leave its cells empty if the class is unknown"
        for label, count in counts.items()
        if label.lower() in MISSING
    ]
    dataset = Dataset(name, features, labels, classes, tuple(notes), test=of_test, **fields)
    _require_enough(dataset, main, rows.labels, words, numeric)
    found = alike(target, classes)
    if isinstance(features, pd.DataFrame):
        found = warn_of_columns(features[:main], labels[:main], classes, different) + found
        found += _dates(features[:main], words)
    elif features.ndim == 2:  # the numbers of images and sequences are no columns
        found = warn_of_columns(features[:main].astype(np.float64), labels[:main], classes) + found
    return replace(dataset, warnings=tuple(found))


def kind(column: pd.Series) -> str:
    """What a column holds: floating, exact, words, times or nothing; the type of a value if none of these."""
    values = column if isinstance(column.dtype, np.dtype) else column.astype(object)
    found = "words" if column.dtype == "category" else _KINDS.get(infer_dtype(values, skipna=True))
    if found is not None:
        return found
    plain = (str, Real, Decimal, np.bool_)
    odd = [type(value).__name__ for value in values.astype(object).dropna() if not isinstance(value, plain)]
    return odd[0] if odd else "words"


def feature(column: pd.Series, words: Words, source: str = "") -> tuple[NDArray[Any], list[str]]:
    """A column as floats, or as words with nan where missing, and what was converted."""
    what, name = kind(column), str(column.name)
    way = f"X.drop(columns={name!r})" if words is ARRAYS else drop_option(name)
    if what not in (*_NUMERIC, "words"):
        raise ValueError(
            f"{'X' if words is ARRAYS else 'columns'} must be numbers or categories, got {what} in {name!r}"
            f"{f' of {source}' if words is FILES else ''}; turn it into numbers or leave it out with {way}"
        )
    if what == "words":
        return as_words(column), _like_numbers(column, source)
    numbers = _floats(column)
    bad = np.flatnonzero(np.abs(numbers) > LARGEST)
    if bad.size:
        value = numbers[bad[0]]
        shown = "infinity" if np.isinf(value) else f"{value:g}, which float32 cannot hold,"
        raise ValueError(
            f"{words.features} must be finite or missing, got {shown} in {column.index[bad[0]]}, column {name!r}; "
            f"rescale the column, leave the cell empty if it is unknown, or leave it out with {way}"
        )
    rows = range(len(column)) if column.dtype == object else np.flatnonzero(np.abs(numbers) >= 2**53)
    exact = [int(row) for row in rows if what == "exact" and not np.isnan(numbers[row])]
    return numbers, converted(
        column, numbers, [row for row in exact if column.iloc[row] != numbers[row]], source
    )


def as_words(column: pd.Series) -> NDArray[Any]:
    """The values as text without surrounding blanks, nan where nothing is left."""
    return np.array([np.nan if word is None else word for word in _words(column)], dtype=object)


def converted(column: pd.Series, numbers: NDArray[Any], rows: list[int], source: str = "") -> list[str]:
    """A note of the first of the rows whose value was converted, and of how many there are."""
    if not rows:
        return []
    number, place = float(numbers[rows[0]]), _short(column, rows[0], source)
    shown = "missing" if np.isnan(number) else repr(number)
    more = f", and {len(rows) - 1} more such cells" if len(rows) > 1 else ""
    first = str(column.iloc[rows[0]])
    return [f"{column.name!r} is read as numbers: {first!r} in {place} as {shown}{more}"]


def require_finite(features: NDArray[Any], places: Any) -> None:
    """Refuse an array with a number that float32 cannot hold."""
    bad = ~(np.abs(features) <= LARGEST)  # nan among them
    if features.dtype.kind == "f" and bad.any():
        row, *column = np.argwhere(bad)[0].tolist()
        where = column[0] + 1 if len(column) == 1 else tuple(column)
        raise ValueError(
            f"X must be finite in float32, got {features[row, *column]:g} in {places[row]}, column {where}, and "
            f"{bad.reshape(len(bad), -1).any(axis=1).sum() - 1} more such rows; remove, fill in or rescale them"
        )


def class_names(column: pd.Series, option: str) -> list[str | None]:
    """The class of each row, None if it has none: whole floats as integers, anything else as it is written."""
    what = kind(column)
    if what not in (*_NUMERIC, "words", "times"):
        raise ValueError(
            f"{option} must hold names or numbers, got {what} in {column.name!r} of {column.index[0]}; "
            "write it as text"
        )
    if what == "floating":
        numbers = _floats(column)
        if np.isinf(numbers).any():
            _refuse_missing(option, column, ~np.isinf(numbers), "infinity")
        known = numbers[~np.isnan(numbers)]
        whole = (known == np.round(known)).all() and (np.abs(known) < 2**63).all()
        return [None if np.isnan(n) else str(int(n) if whole else n) for n in numbers.tolist()]
    return _words(column)


def _words(column: pd.Series) -> list[str | None]:
    """The values as text without surrounding blanks, None where nothing is left."""
    values = column.astype(object)
    missing = values.isna()
    return [None if gone else str(value).strip() or None for value, gone in zip(values, missing, strict=True)]


def _floats(column: pd.Series) -> NDArray[np.float64]:
    """The values of a column of numbers, nan where missing."""
    if isinstance(column.dtype, np.dtype) and column.dtype != object:
        return column.to_numpy(np.float64)
    values = column.astype(object)
    return np.array(
        [_float(v, gone) for v, gone in zip(values, values.isna(), strict=True)], dtype=np.float64
    )


def _float(value: Any, missing: bool) -> float:
    try:
        return np.nan if missing else float(value)
    except OverflowError:  # an int past all floats
        return np.inf


def _features(
    rows: Rows, main: int, words: Words, parse: Parse | None
) -> tuple[pd.DataFrame | NDArray[Any], list[int] | None, list[str]]:
    """Features as they are kept, how many different values each column had, and what was converted."""
    given, source = rows.features, rows.source
    if not isinstance(given, pd.DataFrame):
        require_finite(given, rows.labels.index)
        return given, None, []
    columns, different, notes = {}, [], []
    for name in given:
        column, parsed = parse(given[name], source) if parse else (given[name], [])
        columns[name], said = feature(column, words, source)
        different.append(int(column.iloc[:main].nunique(dropna=False)))
        notes += parsed + said
    index = [place.removesuffix(f" of {source}") for place in given.index]
    return pd.DataFrame(columns, pd.Index(index, dtype=object)), different, notes


def _like_numbers(column: pd.Series, source: str) -> list[str]:
    """A note of text most of which looks like numbers."""
    cells = [cell.strip() if isinstance(cell, str) else "" for cell in column.astype(object)]
    if 2 * sum(bool(_LIKE_A_NUMBER.fullmatch(cell)) for cell in cells) <= sum(map(bool, cells)):
        return []
    odd = [row for row, cell in enumerate(cells) if cell.lower() not in MISSING | {""}]
    row = next((row for row in odd if not NUMBER.fullmatch(cells[row])), odd[0])
    what = "text" if NUMBER.fullmatch(cells[row]) else "no number"
    return [
        f"{column.name!r} is read as categories: {cells[row]!r} in {_short(column, row, source)} is {what}"
    ]


def _dates(features: pd.DataFrame, words: Words) -> list[str]:
    """Warnings of columns of words nearly all of which are dates."""
    found = []
    for name in features.columns[features.dtypes == object]:
        cells = features[name].dropna()
        if len(cells) and np.mean([bool(_DATE.fullmatch(cell)) for cell in cells]) >= DATES:
            way = f"X.drop(columns={name!r})" if words is ARRAYS else drop_option(name)
            found.append(
                f"{name!r} holds dates, such as {cells.iloc[0]!r} in {cells.index[0]}, and each is read as a "
                "category of its own; make numbers of them, such as days since the first, give the column as "
                f"time, or leave it out with {way}"
            )
    return found


def _roles(
    rows: Rows,
    labels: NDArray[np.int64],
    classes: tuple[str, ...],
    test: NDArray[np.bool_] | None,
    words: Words,
) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """The fields of a data set that are no features, and notes."""
    fields: dict[str, NDArray[Any]] = {}
    notes = []
    if "clean" in rows.roles:
        fields["clean"], notes = _clean(rows, labels, classes, test)
    if "groups" in rows.roles:
        fields["groups"] = _groups(rows.roles["groups"], test, words)
    if "time" in rows.roles:
        fields["time"] = _times(rows.roles["time"])
    if "weight" in rows.roles:
        fields["weight"] = _floats(rows.roles["weight"])
    return fields, notes


def _class_places(
    names: list[str | None], classes: tuple[str, ...], option: str, target: str, column: pd.Series
) -> NDArray[np.int64]:
    """The classes (N,) as places in `classes`, `UNKNOWN` where there is none."""
    known: dict[str | None, int] = {name: place for place, name in enumerate(classes)} | {None: UNKNOWN}
    for row, name in enumerate(names):
        if name is not None and name not in known:
            raise ValueError(
                f"{option} must have only classes that {target!r} has, got {name!r} in {column.index[row]}; "
                f"{nearest(name, classes)}"
            )
    return np.array([known[name] for name in names], dtype=np.int64)


def _clean(
    rows: Rows, labels: NDArray[np.int64], classes: tuple[str, ...], test: NDArray[np.bool_] | None
) -> tuple[NDArray[np.int64], list[str]]:
    column, target = rows.roles["clean"], str(rows.labels.name)
    clean = _class_places(class_names(column, "clean"), classes, "clean", target, column)
    known = clean != UNKNOWN
    judged = known if test is None else known & test
    if not judged.any():
        raise ValueError(
            f"clean must name the class of some {'' if test is None else 'test '}rows, got none"
            f"{_column(column, ' in {}')}; leave it out"
        )
    if column.name == target:  # the labels of a test part are better themselves
        return clean, []
    name = column.name or "clean"
    differing = int((clean[known] != labels[known]).sum())
    notes = [
        f"{differing} of {known.sum()} labels ({differing / known.sum():.1%}) differ from those in "
        f"{name!r}, which test rows are judged by"
    ]
    left = int((~known).sum() if test is None else (test & ~known).sum())
    if left:
        notes.append(f"{left} rows without a value in {name!r} are never test rows")
    return clean, notes


def _groups(column: pd.Series, test: NDArray[np.bool_] | None, words: Words) -> NDArray[np.int64]:
    found = _words(column)
    if None in found:
        _refuse_missing(words.groups, column, np.array([word is not None for word in found]))
    groups, names = pd.factorize(np.array(found, dtype=object))
    both = [] if test is None else np.intersect1d(groups[test], groups[~test])
    if len(both):
        raise ValueError(
            f"{words.groups} must be different in test rows, got {names[both[0]]!r} and {len(both) - 1} more"
            f"{_column(column, ' of {}')} in both; remove their rows from one"
        )
    return groups.astype(np.int64)


def _times(column: pd.Series) -> NDArray[np.float64]:
    """Numbers as they are, or ISO dates as seconds since 1970, in which a time without zone is UTC."""
    found = _words(column)
    if kind(column) in _NUMERIC:
        times = _floats(column)
    elif all(word is not None and NUMBER.fullmatch(word) for word in found):
        times = np.array(found, dtype=np.float64)
    else:
        read = pd.to_datetime(pd.Series(found, dtype=object), format="ISO8601", utc=True, errors="coerce")
        times = (read - pd.Timestamp(0, tz="UTC").as_unit("s")).dt.total_seconds().to_numpy(dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(times))
    if bad.size:
        raise ValueError(
            f"time must hold numbers or ISO dates such as 2024-01-31, got "
            f"{'nothing' if found[bad[0]] is None else repr(found[bad[0]])} in {column.index[bad[0]]}"
            f"{_column(column, ', column {}')}, and {bad.size - 1} more such rows; rewrite them, or remove those "
            "rows"
        )
    return times


def _weighted(rows: Rows) -> NDArray[np.bool_]:
    """Which rows have a weight above 0, all without weights."""
    if "weight" not in rows.roles:
        return np.ones(len(rows.labels), dtype=bool)
    weight = rows.roles["weight"]
    numbers = _floats(weight) if kind(weight) in _NUMERIC else np.full(len(weight), np.nan)
    bad = np.flatnonzero(~(np.isfinite(numbers) & (numbers >= 0)))
    if bad.size:
        raise ValueError(
            f"sample_weight must be 0 or more and finite, got {weight.iloc[bad[0]]!r} in {weight.index[bad[0]]}, "
            f"and {bad.size - 1} more such rows; give each row a weight"
        )
    return numbers > 0


def _require_enough(dataset: Dataset, main: int, labels: pd.Series, words: Words, numeric: bool) -> None:
    """Refuse rows that are too few to compare anything on."""
    classes, width = dataset.classes, math.prod(dataset.features.shape[1:])
    source = "" if words is ARRAYS else f" in {dataset.name}"
    where = f"{source}, column {labels.name!r}" if words is FILES else source
    if not main or not width:
        raise ValueError(
            f"{words.data} must have rows and columns beside the classes, got {main} rows and {width} columns"
            f"{source}; check what you give"
        )
    if dataset.test is not None and not dataset.test.any():
        raise ValueError(
            f"test must have rows with a class, got none beside those of {dataset.name}; check what you give"
        )
    if len(classes) < 2:
        raise ValueError(
            f"{words.data} must have two classes or more, got only {''.join(classes)!r}{where}; "
            f"check {words.target}"
        )
    counts = np.bincount(dataset.labels[:main])
    smallest = int(counts.argmin())
    if counts[smallest] < SMALLEST_CLASS and numeric and len(classes) > max(10, main / 10):
        raise ValueError(
            f"{words.target} must hold classes, got {len(classes)} different numbers in {main} rows{where}: it "
            f"looks like numbers to predict (regression); make ranges of them, for example with pandas.cut"
        )
    if counts[smallest] < SMALLEST_CLASS:
        place = dataset.place(int((dataset.labels == smallest).argmax()))
        raise ValueError(
            f"every class must have {SMALLEST_CLASS} rows or more, got {counts[smallest]} of class "
            f"{classes[smallest]!r}{where}, {place} ({len(classes)} classes); merge or remove small classes"
        )
    if main < FEWEST_ROWS:
        raise ValueError(f"{words.data} must have {FEWEST_ROWS} rows or more, got {main}{where}; add rows")


def _refuse_missing(option: str, column: pd.Series, known: NDArray[np.bool_], what: str = "none") -> NoReturn:
    row, more = int((~known).argmax()), int((~known).sum()) - 1
    raise ValueError(
        f"{option} must be known of every row, got {what} in {column.index[row]}{_column(column, ', column {}')}, "
        f"and {more} more such rows; fill it in, or remove those rows"
    )


def _column(column: pd.Series, words: str) -> str:
    """Words with the name of a column, nothing for an array without one."""
    return words.format(repr(column.name)) if column.name else ""


def _short(column: pd.Series, row: int, source: str) -> str:
    return str(column.index[row]).removesuffix(f" of {source}")


def _line(name: str) -> str:
    """A name, in one line."""
    return name if name.isprintable() else repr(name)


def _shape(features: pd.DataFrame | NDArray[Any]) -> str:
    return (
        "columns with names" if isinstance(features, pd.DataFrame) else f"rows of shape {features.shape[1:]}"
    )
