"""`Encoder`, which converts features to numbers for a model."""

import math
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from equipoise.compare.dataset import Dataset

__all__ = ["Encoder"]

LARGEST_SCALED = 1e30  # sums over features and hidden units stay finite in float32
MOST_CATEGORIES = 64  # a column of identifiers would give one column per row


class Encoder:
    """Imputation, one-hot categories and scaling, fitted to some rows of a data set."""

    def __init__(self, dataset: Dataset, rows: NDArray[np.int64]) -> None:
        features = dataset.features
        if not isinstance(features, pd.DataFrame):
            self._columns: list[Any] = [*range(1, math.prod(features.shape[1:]) + 1)]
            self._fitted: Any = StandardScaler().fit(_flat(features[rows]))
            return
        self._columns = [name for name, kind in features.dtypes.items() if kind == np.float64]
        filled = SimpleImputer(strategy="median", keep_empty_features=True, add_indicator=True)
        one_hot = OneHotEncoder(
            handle_unknown="infrequent_if_exist", max_categories=MOST_CATEGORIES, sparse_output=False
        )
        steps = [
            ("numbers", make_pipeline(filled, StandardScaler()), self._columns),
            ("categories", one_hot, [name for name in features.columns if name not in self._columns]),
        ]
        self._fitted = ColumnTransformer(steps, sparse_threshold=0).fit(features.iloc[rows])

    def transform(self, features: pd.DataFrame | NDArray[Any]) -> NDArray[np.float32]:
        """Return features in the same format, of any rows, as numbers (M, D).

        Raises:
            FloatingPointError: If a row is so far from the fitted ones that its logits could overflow
                float32.
        """
        table = isinstance(features, pd.DataFrame)
        scaled = np.asarray(self._fitted.transform(features if table else _flat(features)))
        row, column = divmod(int(np.abs(scaled).argmax()), scaled.shape[1]) if scaled.size else (0, 0)
        if scaled.size and abs(scaled[row, column]) > LARGEST_SCALED:
            raise FloatingPointError(
                f"features must be below {LARGEST_SCALED:g} standard deviations of the training rows, got "
                f"{scaled[row, column]:g} in {features.index[row] if table else f'row {row + 1}'}, column "
                f"{self._columns[column]!r}; rescale the column or leave the cell empty"
            )
        return scaled.astype(np.float32)


def _flat(features: NDArray[Any]) -> NDArray[np.float64]:
    return features.reshape(len(features), math.prod(features.shape[1:])).astype(np.float64)
