"""Checks of rows from files or from Python, and their conversion to a `Dataset`."""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api.types import infer_dtype

from equipoise.compare.checks import alike, warn_of_cells, warn_of_columns
from equipoise.compare.dataset import UNKNOWN, Dataset, decimal
from equipoise.compare.refusal import Names, printable, refusal
from equipoise.costs.io import NUMBER
from equipoise.parsing import nearest

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
    "weights",
    "words",
]

LARGEST = float(np.finfo(np.float32).max)  # models are trained in float32
FEWEST_ROWS = 20  # ten folds of two rows
SMALLEST_CLASS = 5  # smaller classes can neither be learnt nor evaluated
MISSING = {  # texts that pandas takes for a missing value, in lower case
    *("", "#n/a", "#n/a n/a", "#na", "-1.#ind", "-1.#qnan", "-nan", "1.#ind", "1.#qnan"),
    *("<na>", "n/a", "na", "nan", "none", "null"),
}
_NUMERIC = ("floating", "exact", "nothing")
_KINDS = {  # by the type that pandas infers
    **dict.fromkeys(("floating", "mixed-integer-float"), "floating"),
    **dict.fromkeys(("integer", "decimal"), "exact"),
    **dict.fromkeys(("string", "boolean", "categorical"), "words"),
    **dict.fromkeys(("datetime64", "datetime", "date", "time"), "times"),
    **dict.fromkeys(("timedelta64", "timedelta", "period"), "times"),
    "empty": "nothing",
}
# 1,234 and 0,5 and $3 and 40 %, and dates and times
_LIKE_A_NUMBER = re.compile(r"\W{0,3}\d[\d.,'\u2019_\s:/+TZ-]*(?:[eE][+-]?\d+)?\W{0,2}")
_NO_TEXT = re.compile(r"[\ud800-\udfff]")
Labels = NDArray[np.int64]
Mask = NDArray[np.bool_] | None
Table = Any  # a pd.DataFrame
Column = Any  # a pd.Series, indexed by the description of each value's place
Parse = Callable[[Column, str], tuple[Column, list[str]]]

FILES = Names("data", "features", "target", "group")
NPZ = FILES._replace(features="X", target="y")
ARRAYS = Names("X", "X", "y", "groups")


@dataclass
class Rows:
    """Rows before conversion, from a source such as "t.csv" or "X"."""

    source: str
    features: pd.DataFrame | NDArray[Any]
    known: pd.DataFrame  # other columns by role: label, clean, group, time, weight
    called: dict[str, str] = field(default_factory=dict)  # names of these columns, by role

    def __setitem__(self, role: str, column: Column) -> None:
        self.known[role], self.called[role] = column, str(column.name)

    def __getitem__(self, role: str) -> Column:
        column: Column = self.known[role]
        return column.rename(self.called[role])

    def join(self, more: "Rows") -> "Rows":
        """Return the rows followed by those of a test part."""
        mine: Any = self.features
        theirs: Any = more.features
        table = isinstance(mine, pd.DataFrame)
        if table != isinstance(theirs, pd.DataFrame) or (not table and mine.shape[1:] != theirs.shape[1:]):
            got, own = (f"{type(each).__name__} {each.shape[1:]}" for each in (theirs, mine))
            got = f"{got} in {more.source} for {own}"
            raise refusal("test", f"have X and y like those of {self.source}", got, "give both one shape")
        for name in mine if table else ():
            if name not in theirs:
                rule, got = f"have the columns of {self.source}", f"no {name!r} in {more.source}"
                raise refusal("test", rule, got, nearest(name, [*theirs]))
        features = self._join(mine, theirs[[*mine]], more) if table else np.concatenate([mine, theirs])
        absent = dict.fromkeys(role for role in more.called if role not in self.called)
        known = self._join(self.known.assign(**absent)[[*more.known]], more.known, more, more.called)
        return Rows(self.source, features, known, more.called)

    def _join(
        self, first: Table, second: Table, more: "Rows", called: Mapping[str, str] | None = None
    ) -> Table:
        """Return concatenated columns, of dtype object if types differ, so that no number is rounded."""
        for name in first:
            kinds = [kind(first[name]), kind(second[name])]
            if len({*kinds} - {"nothing"}) > 1 and not {*kinds}.issubset(_NUMERIC):
                shown = called[name] if called else name
                got = f"{kinds[1]} in {shown!r} of {more.source} for {kinds[0]}"
                raise refusal("test", f"have columns like those of {self.source}", got, "write both alike")
        other = dict.fromkeys((name for name in first if first[name].dtype != second[name].dtype), object)
        return pd.concat([first.astype(other), second.astype(other)])


def build(
    name: str, rows: Rows, test: Rows | None, names: Names, notes: list[str], parse: Parse | None = None
) -> Dataset:
    """Check rows and return them as a data set; `parse` converts a column of text to numbers."""
    target, main, notes = rows.called["label"], len(rows.known), [*notes]
    if test is not None:
        source, rows = rows.source, rows.join(test)
        if isinstance(test.features, pd.DataFrame):
            extra = [repr(name) for name in test.features if name not in rows.features]
            left_out = f"columns of {test.source} that are not in {source} were left out: {', '.join(extra)}"
            notes += [left_out] if extra else []
    other = "test" if test else names.groups if "group" in rows.called else ""
    if other and "time" in rows.called:
        way = "that is the test part" if test else "a group may be early and late"
        raise refusal("time", "be left out", f"{rows.called['time']!r} with {other}", way)
    found = _classes(rows["label"], names.target)
    known = ~pd.isna(found)
    if names is not FILES:
        _require(known, rows["label"], names.target)
    weighted = np.array(rows.known.get("weight", np.ones(len(found)))) > 0
    for left, missing in ((f"a value in {printable(target)}", ~known), ("weight", ~weighted)):
        if missing.any():
            notes.append(f"{missing.sum()} rows without {left} were left out")
    kept = known & weighted
    rows = replace(rows, features=rows.features[kept], known=rows.known[kept])
    found, main = found[kept], int(kept[:main].sum())
    of_test = None if test is None else np.arange(len(found)) >= main
    counts = Counter(found[:main].tolist())
    numeric = all(decimal(label) is not None for label in counts)
    classes = tuple(sorted(counts, key=lambda label: (decimal(label) if numeric else 0, label)))
    labels = _places(found, classes, "test", rows["label"], target)
    features, different = _features(rows, main, names, parse, notes)
    fields: dict[str, Any] = {}
    if "clean" in rows.called:
        clean = _places(_classes(rows["clean"], "clean"), classes, "clean", rows["clean"], target)
        notes += _notes_of_clean(rows["clean"], clean, labels, of_test, target)
        fields["clean"] = clean
    if "group" in rows.called:
        fields["groups"] = _groups(rows["group"], of_test, names)
    if "time" in rows.called:
        fields["time"] = _times(rows["time"])
    if "weight" in rows.called:
        fields["weight"] = rows.known["weight"].to_numpy()
    notes += [
        f"{label!r} in {target!r} is a class of {count} rows; leave its cells empty if the class is unknown"
        for label, count in counts.items()
        if label.lower() in MISSING
    ]
    dataset = Dataset(name, features, labels, classes, tuple(notes), test=of_test, **fields)
    _require_enough(dataset, main, f", column {target!r}" if names is FILES else "", names, numeric)
    warnings: list[str] = alike(target, classes)
    if features.ndim == 2:  # images and sequences have no columns
        columns = features[:main] if different else features[:main].astype(np.float64)
        warnings = warn_of_columns(columns, labels[:main], classes, different) + warnings
    if different:
        warnings += warn_of_cells(features[:main])
    return replace(dataset, warnings=tuple(warnings))


def kind(column: Column) -> str:
    """Return the kind of a column: floating, exact, words, times or nothing; else the type of a value."""
    as_it_is = isinstance(column.dtype, np.dtype | pd.CategoricalDtype)
    values = column if as_it_is else column.astype(object)
    if found := _KINDS.get(infer_dtype(values, skipna=True)):
        return found
    plain = (str, Real, Decimal, np.bool_)
    return next((type(each).__name__ for each in values.dropna() if not isinstance(each, plain)), "words")


def feature(column: Column, names: Names, source: str = "") -> tuple[NDArray[Any], list[str]]:
    """Return a column as floats, or as words with nan for missing ones, and notes of conversions."""
    what = kind(column)
    if what == "words":
        return words(column, names.features), _like_numbers(column, source)
    if what not in _NUMERIC:
        got = f"{what} in {column.name!r} of {source}"
        way = "convert the column to numbers, or leave the column out"
        raise refusal(names.features, "be numbers or categories", got, way)
    numbers = _floats(column)
    bad = np.flatnonzero(np.abs(numbers) > LARGEST)
    if bad.size:
        value = numbers[bad[0]]
        shown = "infinity" if np.isinf(value) else f"{value:g}, which float32 cannot hold,"
        got = f"{shown} in {_at(column, bad[0])}"
        way = "rescale the column, leave unknown cells empty, or leave the column out"
        raise refusal(names.features, "be finite or missing", got, way)
    exact = column.dtype == object or (what == "exact" and (np.abs(numbers) >= 2**53).any())
    pairs = enumerate(zip(column.astype(object), numbers.tolist(), strict=True)) if exact else ()
    lost = [row for row, (value, number) in pairs if not np.isnan(number) and value != number]
    return numbers, converted(column, numbers, lost, source)


def words(column: Column, option: str = "X") -> NDArray[Any]:
    """Return the values as text without surrounding blanks, nan if empty."""
    values = column.astype(object)
    pairs = zip(values, values.isna(), strict=True)
    found = [np.nan if missing else str(value).strip() or np.nan for value, missing in pairs]
    for row, word in enumerate(found):
        if isinstance(word, str) and _NO_TEXT.search(word):
            got = f"{word!a} in {_at(column, row, option)}"
            raise refusal(option, "hold text in Unicode", got, "rewrite the value")
    return np.array(found, dtype=object)


def converted(column: Column, numbers: NDArray[Any], rows: list[int], source: str) -> list[str]:
    """Return a note of the first row whose value was converted, and of the number of such rows."""
    if not rows:
        return []
    number = float(numbers[rows[0]])
    shown = "missing" if np.isnan(number) else repr(number)
    more = f", and {len(rows) - 1} more such cells" if len(rows) > 1 else ""
    cell, place = str(column.iloc[rows[0]]), column.index[rows[0]].removesuffix(f" of {source}")
    return [f"{column.name!r} is read as numbers: {cell!r} in {place} as {shown}{more}"]


def require_finite(features: NDArray[Any], places: pd.Index) -> None:
    """Raise if an array has a number outside the range of float32, or nan."""
    bad = ~(np.abs(features) <= LARGEST)  # including nan
    if features.dtype.kind == "f" and bad.any():
        row, *column = np.argwhere(bad)[0].tolist()
        where = column[0] + 1 if len(column) == 1 else tuple(column)
        rows = int(bad.reshape(len(bad), -1).any(axis=1).sum())
        got = f"{features[row, *column]:g} in {places[row]}, column {where}, and {rows} such rows"
        raise refusal("X", "be finite in float32", got, "remove, fill in or rescale these values")


def weights(column: Column) -> Column:
    """Return weights as floats; raise unless they are finite and at least 0."""
    numbers = _floats(column) if kind(column) in _NUMERIC else np.full(len(column), np.nan)
    rule = "be 0 or more and finite"
    _require(np.isfinite(numbers) & (numbers >= 0), column, "sample_weight", rule)
    return pd.Series(numbers, column.index, name=column.name)


def _classes(column: Column, option: str) -> NDArray[Any]:
    """Return the class of each row, nan if missing; floats become integers if all are whole numbers."""
    what = kind(column)
    if what not in (*_NUMERIC, "words", "times"):
        row = next((k for k, each in enumerate(column.astype(object)) if type(each).__name__ == what), 0)
        got = f"{what} in {_at(column, row, option)}"
        raise refusal(option, "hold names or numbers", got, "write the classes as text")
    if what == "floating":
        numbers = _floats(column)
        _require(~np.isinf(numbers), column, option)
        known = numbers[~np.isnan(numbers)]
        if (known == np.round(known)).all() and (np.abs(known) < 2**63).all():
            return words(pd.Series(numbers).astype("Int64"))
        if column.dtype != object:  # pandas would convert 0.1 of float32 to 0.10000000149
            return words(pd.Series([*(column.to_numpy() + 0)], dtype=object))  # -0.0 + 0 is 0.0
        return words(pd.Series(numbers + 0))
    return words(column, option)


def _floats(column: Column) -> NDArray[np.float64]:
    """Return the values of a column of numbers, nan if missing."""
    try:
        return column.to_numpy(np.float64, na_value=np.nan)
    except OverflowError:  # an int above the largest float
        values = column.map(lambda value: float(str(value)), na_action="ignore")
        return values.to_numpy(np.float64, na_value=np.nan)


def _features(rows: Rows, main: int, names: Names, parse: Parse | None, notes: list[str]) -> tuple[Any, Any]:
    """Return the converted features, and the number of different values of each column of a table."""
    given: Any = rows.features
    if not isinstance(given, pd.DataFrame):
        require_finite(given, rows.known.index)
        return given, None
    columns, different = {}, []
    for name in given:
        column: Column = given[name]
        column, parsed = parse(column, rows.source) if parse else (column, [])
        columns[name], said = feature(column, names, rows.source)
        different.append(int(column[:main].nunique(dropna=False)))
        notes += parsed + said
    places = [place.removesuffix(f" of {rows.source}") for place in given.index]
    return pd.DataFrame(columns, pd.Index(places, dtype=object)), different


def _like_numbers(column: Column, source: str) -> list[str]:
    """Return a note about a column of text in which most cells look like numbers."""
    cells = [each.strip() if isinstance(each, str) else "" for each in column.astype(object)]
    if 2 * sum(bool(_LIKE_A_NUMBER.fullmatch(cell)) for cell in cells) <= sum(map(bool, cells)):
        return []
    odd = [row for row, cell in enumerate(cells) if cell.lower() not in MISSING]
    row = next((row for row in odd if not NUMBER.fullmatch(cells[row])), odd[0])
    what = "text" if NUMBER.fullmatch(cells[row]) else "no number"
    place = column.index[row].removesuffix(f" of {source}")
    return [f"{column.name!r} is read as categories: {cells[row]!r} in {place} is {what}"]


def _places(found: Any, classes: tuple[str, ...], option: str, column: Column, target: str) -> Labels:
    """Return classes (N,) as indices into `classes`, `UNKNOWN` for missing ones."""
    places = pd.Index(classes, dtype=object).get_indexer(found)  # -1, which is UNKNOWN, for all others
    other = np.flatnonzero((places == UNKNOWN) & ~pd.isna(found))
    if other.size:
        name, place = str(found[other[0]]), column.index[other[0]]
        rule = f"have only classes that {target!r} has"
        raise refusal(option, rule, f"{name!r} in {place}", nearest(name, classes))
    return places.astype(np.int64)


def _notes_of_clean(column: Column, clean: Labels, labels: Labels, test: Mask, target: str) -> list[str]:
    """Return notes about differences between clean and observed labels; raise if no clean label is given."""
    known, judged = clean != UNKNOWN, np.ones(len(clean), dtype=bool) if test is None else test
    if not (known & judged).any():
        rule = f"name the class of some {'' if test is None else 'test '}rows"
        raise refusal("clean", rule, f"none in {column.name!r}", "leave clean out")
    if column.name == target:  # the labels of the test part are the clean ones
        return []
    differing, left = int((clean[known] != labels[known]).sum()), int((judged & ~known).sum())
    share = f"{differing} of {known.sum()} labels ({differing / known.sum():.1%})"
    notes = [f"{share} differ from those in {column.name!r}, which test rows are judged by"]
    return notes + [f"{left} rows without a value in {column.name!r} are never test rows"] * (left > 0)


def _groups(column: Column, test: Mask, names: Names) -> Labels:
    """Return groups as numbers; raise if one is both in the test part and outside."""
    found = words(column, names.groups)
    _require(~pd.isna(found), column, names.groups)
    groups, values = pd.factorize(found)
    both = [] if test is None else np.intersect1d(groups[test], groups[~test])
    if len(both):
        got = f"{values[both[0]]!r} and {len(both) - 1} more of {column.name!r} in both"
        way = "remove the rows of these groups from one part"
        raise refusal(names.groups, "be different in test rows", got, way)
    return groups.astype(np.int64)


def _times(column: Column) -> NDArray[np.float64]:
    """Return numbers unchanged, or ISO dates as seconds since 1970; times without zone are UTC."""
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


def _require_enough(dataset: Dataset, main: int, column: str, names: Names, numeric: bool) -> None:
    """Raise if there are too few rows or classes for a comparison."""
    classes, width = dataset.classes, math.prod(dataset.features.shape[1:])
    where, data = f"{dataset.name}{column}", names.data
    if not main or not width:
        got = f"{main} rows and {width} columns in {dataset.name}"
        raise refusal(data, "have rows and columns beside the classes", got, "check the data")
    if dataset.test is not None and not dataset.test.any():
        got = f"none beside those of {dataset.name}"
        raise refusal("test", "have rows with a class", got, "check the test data")
    if len(classes) < 2:
        got = f"only {''.join(classes)!r} in {where}"
        raise refusal(data, "have two classes or more", got, f"check {names.target}")
    counts = np.bincount(dataset.labels[:main])
    smallest = int(counts.argmin())
    few, name = counts[smallest], classes[smallest]
    if few < SMALLEST_CLASS and numeric and len(classes) > max(10, main / 10):
        numbers = f"{len(classes)} different numbers in {main} rows"
        got = f"{numbers} of {where}: the target looks like a number to predict (regression)"
        raise refusal(names.target, "hold classes", got, "divide the numbers into ranges with pandas.cut")
    if few < SMALLEST_CLASS:
        place = dataset.place(int((dataset.labels == smallest).argmax()))
        got = f"{few} of class {name!r} in {where}, {place} ({len(classes)} classes)"
        raise refusal(
            "every class", f"have {SMALLEST_CLASS} rows or more", got, "merge or remove small classes"
        )
    if main < FEWEST_ROWS:
        raise refusal(data, f"have {FEWEST_ROWS} rows or more", f"{main} in {where}", "add rows")


def _require(good: Any, column: Column, option: str, rule: str = "be known of every row") -> None:
    """Raise if some values of a column are not good."""
    if not good.all():
        value = words(column.iloc[[good.argmin()]], option)[0]
        shown = repr(value) if isinstance(value, str) else "none"
        got = f"{shown} in {_at(column, good.argmin(), option)}, and {(~good).sum() - 1} more such rows"
        raise refusal(option, rule, got, "rewrite or remove these values")


def _at(column: Column, row: Any, option: str = "") -> str:
    """Return the place of a value: its row, and its column unless that has the name of the option."""
    place = str(column.index[row]) if len(column) else "no row"
    return place if column.name == option else f"{place}, column {column.name!r}"
