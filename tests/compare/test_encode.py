"""Features as numbers: learnt from the rows given, and the same for other rows."""

import pickle

import numpy as np
import pandas as pd
import pytest

from equipoise.compare.dataset import Dataset
from equipoise.compare.encode import MOST_CATEGORIES, Encoder

ROWS = 50
RANDOM = np.random.default_rng(0)
LABELS = np.arange(ROWS) % 2
TABLE = pd.DataFrame(
    {"word": ["a", "b", np.nan, "c", "a"] * 10, "x": RANDOM.normal(3, 2, ROWS), "gap": [np.nan, 2.0] * 25},
    index=[f"line {k + 2}" for k in range(ROWS)],
)


def made(features):
    return Dataset("made", features, LABELS, ("no", "yes"))


def test_a_table_is_scaled_filled_and_one_hot_as_the_given_rows_say():
    """Numbers are scaled and filled, and words one-hot, by the statistics of the fitted rows only."""
    rows = np.arange(1, ROWS)
    found = Encoder(made(TABLE), rows).transform(TABLE)
    assert found.dtype == np.float32
    assert found.shape == (ROWS, 2 + 1 + 4)  # two numbers, where one is missing, and four words
    x = TABLE["x"].to_numpy()
    np.testing.assert_allclose(found[:, 0], (x - x[1:].mean()) / x[1:].std(), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found[:, 1], 0)  # one value alone
    np.testing.assert_array_equal(found[:, 3:].sum(axis=1), 1)


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int64])
@pytest.mark.parametrize("shape", [(6,), (1, 2, 3), (2, 3)])
def test_arrays_are_scaled_and_flattened(kind, shape):
    """Arrays are scaled by the fitted rows and flattened."""
    numbers = (100 * RANDOM.normal(size=(ROWS, *shape))).astype(kind)
    encoder = Encoder(made(numbers), np.arange(40))
    flat = numbers.reshape(ROWS, 6).astype(np.float64)
    expected = (flat - flat[:40].mean(axis=0)) / flat[:40].std(axis=0)
    np.testing.assert_allclose(encoder.transform(numbers), expected, rtol=1e-5, atol=1e-6)


def test_other_rows_are_read_as_the_fitted_ones():
    """Other rows are encoded with the statistics and words of the fitted rows."""
    encoder = Encoder(made(TABLE), np.arange(ROWS))
    other = TABLE.iloc[[3, 1]].assign(word=["never seen", "a"], x=[np.nan, 1.0])
    found = pickle.loads(pickle.dumps(encoder)).transform(other)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found[0, -4:], 0)
    np.testing.assert_array_equal(encoder.transform(TABLE)[7], encoder.transform(TABLE.iloc[7:8])[0])


def test_words_of_every_row_are_few_columns():
    """A column with a different word in each row has a limited number of columns."""
    names = pd.DataFrame({"name": [f"n{k}" for k in range(200)]})
    dataset = Dataset("made", names, np.arange(200) % 2, ("no", "yes"))
    assert Encoder(dataset, np.arange(200)).transform(names).shape[1] == MOST_CATEGORIES


@pytest.mark.parametrize("table", [True, False])
def test_rows_too_far_away_are_refused_by_place(table):
    """Values too far from the fitted rows are refused with their row and column."""
    numbers = np.c_[RANDOM.normal(size=ROWS), np.arange(ROWS) % 7 * 1e-9]
    numbers[5, 1] = 1e37
    columns = pd.DataFrame(numbers, TABLE.index, ["a", "b"])
    features = columns if table else numbers.astype(np.float32)
    where = "line 7, column 'b'" if table else "row 6, column 2"
    says = (
        rf"features must be below 1e\+30 standard deviations of the training rows, got .* in {where}; rescale"
    )
    with pytest.raises(FloatingPointError, match=says):
        Encoder(made(features), np.delete(np.arange(ROWS), 5)).transform(features)
    assert np.isfinite(Encoder(made(features), np.arange(ROWS)).transform(features)).all()
