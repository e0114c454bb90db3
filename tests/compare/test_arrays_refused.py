"""Arrays, tables and data sets that cannot be used: the error names the argument and the way out."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from torch.utils.data import DataLoader, IterableDataset

from support.array_cases import FRAME, PAIRS, ROWS, Items, X, Y, changed, refused


class Stream(IterableDataset):
    def __iter__(self):
        return iter([(torch.zeros(2), 0)])


COMPLEX = X + 0j
RECORDS = np.zeros(ROWS, dtype=[("a", "f8"), ("b", "i4")])
REFUSED = {
    "a nan": ((changed(np.nan), Y), {}, "X must be finite in float32, got nan in row 3, column 2, and 1 suc"),
    "1e300": ((changed(1e300), Y), {}, "X must be finite in float32, got 1e+300 in row 3, column 2"),
    "1e200 in a table": ((FRAME.assign(a=1e200), Y), {}, "X must be finite or missing, got 1e+200, which fl"),
    "infinity in a table": ((FRAME.assign(a=[10**400] * ROWS), Y), {}, "got infinity in index 0, column 'a'"),
    "a nan in images": ((changed(np.nan).reshape(10, 3, 2, 2), Y[:10]), {},
     "got nan in row 1, column (1, 1, 1)"),
    "masked": ((np.ma.masked_greater(X, 2), Y), {}, "X must be finite in float32, got nan in row"),
    "words": ((Y[:, None], Y), {}, "X must hold real numbers, got <U3; give categories in a DataFrame"),
    "complex": ((COMPLEX, Y), {}, "X must hold real numbers, got complex128"),
    "objects": ((X.astype(object), Y), {}, "X must hold real numbers, got object"),
    "records": ((RECORDS[:, None], Y), {}, "X must hold real numbers, got [('a',"),
    "uint64": ((np.full((ROWS, 2), 2**64 - 1, dtype=np.uint64), Y), {},
     "X must be below 2^63, got 1844674407370"),
    "one dimension": ((X[:, 0], Y), {}, "X must be (N, D) or have more dimensions, got (40,); give one row"),
    "a path": (("t.csv", Y), {}, "X must be (N, D) or have more dimensions, got 't.csv'"),
    "a series": ((FRAME["a"], Y), {}, "X must be (N, D) or have more dimensions, got (40,)"),
    "nothing": ((None, Y), {}, "got NoneType"),
    "unequal rows": (([[1, 2], [3]] * 20, Y), {}, "X must be an array (N, D) or of more dimensions, got lis"),
    "unequal tensors": (([torch.zeros(2), torch.zeros(3)] * 20, Y), {},
     "X must be an array (N, D) or of more"),
    "sparse": ((sparse.csr_matrix(X), Y), {}, "X must be dense, got csr_matrix; give X.toarray()"),
    "a sparse array": ((sparse.coo_array(X), Y), {}, "X must be dense, got coo_array; give X.toarray()"),
    "a sparse tensor": ((torch.from_numpy(X).to_sparse(), Y), {}, "X must be dense, got Tensor; give X.to_d"),
    "dates": ((FRAME.assign(a=pd.Timestamp("2024")), Y), {},
     "got times in 'a' of X; turn it into numbers, or leave it out"),
    "lists in a table": ((FRAME.assign(a=[[1]] * ROWS), Y), {}, "X must be numbers or categories, got list "),
    "names twice": ((pd.concat([FRAME, FRAME], axis=1), Y), {}, "X must have columns of different names, go"),
    "no columns": ((FRAME[[]], Y), {}, "X must have rows and columns beside the classes, got 40 rows and 0 "),
    "no numbers": ((X[:, :0], Y), {}, "X must have rows and columns beside the classes, got 40 rows and 0 c"),
    "no rows": ((X[:0], Y[:0]), {}, "X must have rows and columns beside the classes, got 0 rows and 3 colu"),
    "no y": ((X,), {}, "y must be given with X, got None"),
    "y too short": ((X, Y[:39]), {}, "y must be an array (40,), got (39,); give one value per row"),
    "a column": ((X, np.arange(ROWS)[:, None]), {}, "y must be an array (N,), got (40, 1); take its one col"),
    "a table of one": ((X, pd.DataFrame({"y": Y})), {}, "y must be an array (N,), got (40, 1); take its one"),
    "one-hot": ((X, np.eye(2)[np.arange(ROWS) % 2]), {}, "y must be an array (N,), got (40, 2); give one va"),
    "one label": ((X, 3), {}, "y must be an array (N,), got int"),
    "nan labels": ((X, np.where(np.arange(ROWS) == 3, np.nan, 1.0)), {},
     "y must be known of every row, got none in row 4, and 0"),
    "None": ((X, [None, *Y[1:]]), {}, "y must be known of every row, got none in row 1, and 0 more such row"),
    "infinite labels": ((X, [np.inf] * ROWS), {}, "y must be known of every row, got 'inf' in row 1"),
    "records in y": ((X, RECORDS), {}, "y must be an array (N,), got [('a',"),
    "complex y": ((X, COMPLEX[:, 0]), {}, "y must hold names or numbers, got complex in row 1; write it as "),
    "lists in y": ((X, [1, [2]] * 20), {}, "y must hold names or numbers, got list in row 2; write it as "),
    "one class": ((X, ["a"] * ROWS), {}, "X must have two classes or more, got only 'a' in data from Python"),
    "a rare class": ((X, ["a"] * 38 + ["b"] * 2), {}, "every class must have 5 rows or more, got 2 of class"),
    "few rows": ((X[:16], Y[:16]), {}, "X must have 20 rows or more, got 16 in"),
    "regression": ((X, X[:, 0]), {},
     "y must hold classes, got 40 different numbers in 40 rows of data from Python: it looks like numbers t"),
    "a loader": ((DataLoader(PAIRS),), {}, "X must be a data set of torch, got a DataLoader; pass its .dat"),
    "a loader of test rows": ((X, Y), {"test": DataLoader(PAIRS)}, "got a DataLoader; pass its .dataset"),
    "dicts of other keys": ((Items([({k: 1}, 0) for k in "ab"]),), {},
     "X must be a data set whose inputs are tensors of one shape"),
    "an int past all floats": ((FRAME.assign(a=[None, -(10**400)] * 20), Y), {},
     "X must be finite or missing, got infinity in index 1, column 'a'"),
    "a stream": ((Stream(),), {}, "X must be a data set with a length, got Stream; collect its items in a T"),
    "no pairs": ((Items([torch.zeros(2)] * ROWS),), {}, "X must be a data set of (inputs, label) pairs, got"),
    "triples": ((Items([(1, 2, 3)] * ROWS),), {}, "(inputs, label) pairs, got tuple in row 1"),
    "half a letter": ((X, ["\ud800", "a"] * 20), {}, "y must hold text in Unicode, got '\\ud800' in row 1"),
    "half a letter in X": ((FRAME.assign(b=pd.Series(["\udce9"] * ROWS, dtype=object)), Y), {},
                           "X must hold text in Unicode, got '\\udce9' in index 0, column 'b'"),
    "a data set and y": ((Items([]), Y), {}, "y must be left out with a data set of torch, got ndarray; it "),
    "inputs of two shapes": ((Items([(torch.zeros(k), 0) for k in (2, 3)]),), {},
     "X must be a data set whose inputs are tensors of one shape"),
    "pictures": ((Items([(object(), 0)] * ROWS),), {}, "X must be a data set whose inputs are tensors of on"),
    "dicts": ((Items([({"x": torch.zeros(2)}, 0)] * ROWS),), {}, "got dict"),
    "single numbers": ((Items([(1.0, 0)] * ROWS),), {}, "X must be (N, D) or have more dimensions, got (40,"),
    "an empty data set": ((Items([]),), {}, "X must have rows and columns beside the classes, got 0 rows"),
    "a test of three": ((X, Y), {"test": (X, Y, Y)}, "test must be a pair (X, y) or a data set of torch, go"),
    "a test array": ((X, Y), {"test": X}, "test must be a pair (X, y) or a data set of torch, got ndarray"),
    "a test without labels": ((X, Y), {"test": (X, None)}, "y must be given with X, got None"),
    "a test of other columns": ((X, Y), {"test": (X[:, :2], Y)},
     "test must have X and y like those of X, got ndarray (2,) in X of test for ndarray (3,)"),
    "a test table": ((X, Y), {"test": (FRAME, Y)}, "got DataFrame (4,) in X of test for ndarray (3,)"),
    "a test column less": ((FRAME, Y), {"test": (FRAME[["a"]], Y)},
     "test must have the columns of X, got no 'b' in X of test"),
    "a test column of words": ((FRAME, Y), {"test": (FRAME.assign(a="x"), Y)},
     "got words in 'a' of X of test for floating"),
    "test labels of a kind": ((X, Y), {"test": (X, range(ROWS))}, "got exact in 'y' of X of test for words"),
    "a nan in test": ((X, Y), {"test": (changed(np.nan), Y)}, "got nan in row 3 of the test rows, column 2"),
    "a test row too few": ((X, Y), {"test": (X, Y[1:])}, "y must be an array (40,), got (39,) in test"),
    "another test class": ((X, Y), {"test": (X, ["maybe"] * ROWS)},
     "test must have only classes that 'y' has, got 'maybe' in row 1 of the test rows"),
    "no test rows": ((X, Y), {"test": (X[:0], Y[:0])}, "test must have rows with a class, got none beside t"),
    "clean of all rows": ((X, Y), {"test": (X[:5], Y[:5]), "clean": Y},
     "clean must be an array (5,), got (40,)"),
    "another class": ((X, Y), {"clean": ["maybe", *Y[1:]]}, "clean must have only classes that 'y' has, got"),
    "no better label": ((X, Y), {"clean": [None] * ROWS}, "clean must name the class of some rows, got none"),
    "a group too few": ((X, Y), {"groups": range(39)}, "groups must be an array (40,), got (39,)"),
    "an unknown group": ((X, Y), {"groups": [np.nan, *range(39)]}, "groups must be known of every row, got "),
    "a group in both": ((X, Y), {"test": (X, Y), "groups": [0] * 80},
     "groups must be different in test rows, got '0' and 0 more"),
    "time and groups": ((X, Y), {"groups": range(ROWS), "time": range(ROWS)},
     "time must be left out, got 'time' with groups; a"),
    "time and test": ((X, Y), {"test": (X, Y), "time": range(80)}, "time must be left out, got 'time' with"),
    "no times": ((X, Y), {"time": ["soon"] * ROWS}, "time must hold numbers or ISO dates such as 2024-01-31"),
    "a negative weight": ((X, Y), {"sample_weight": [-1, *range(39)]},
     "sample_weight must be 0 or more and finite, got '-1' in row 1"),
    "a nan weight": ((X, Y), {"sample_weight": [np.nan] * ROWS}, "sample_weight must be 0 or more and finit"),
    "a weight of words": ((X, Y), {"sample_weight": Y}, "sample_weight must be 0 or more and finite, got 'n"),
    "weights of words and a test": ((X, Y), {"test": (X, Y), "sample_weight": Y},
                                    "sample_weight must be 0 or more and finite, got 'no' in row 1"),
    "no weight at all": ((X, Y), {"sample_weight": [0] * ROWS}, "X must have rows and columns beside the cl"),
    "weights of test rows": ((X, Y), {"test": (X, Y), "sample_weight": [1] * 80},
     "sample_weight must be an array (40,), got (80,)"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_refused_by_argument(case):
    given, options, says = REFUSED[case]
    refused(says, *given, **options)
