"""`read_scores`: files with scores for `paired`. Wrong paths raise before pandas is imported."""

import os
import warnings
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equipoise.compare.refusal import printable

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["read_scores"]

SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl", ".ndjson")
MISSING = ["", "NA", "N/A", "nan", "NaN", "None", "null", "NULL"]  # cells without a value


def read_scores(path: str | PathLike[str]) -> "pd.DataFrame":
    """Read the scores of runs for `paired` from a CSV, TSV, Parquet or JSON-lines file.

    Raises:
        ValueError: If the file cannot be read; the message is one line.
        ImportError: If a Parquet file is given and pyarrow is missing.
    """
    suffix, shown = Path(path).suffix.lower(), printable(str(path))
    if suffix not in SUFFIXES:
        raise ValueError(
            f"scores must be a file ending in {', '.join(SUFFIXES)}, got {shown}; save it as one"
        )
    try:
        if "://" not in str(path):  # pandas also reads URLs
            os.stat(os.path.expanduser(path))
        return _read(path, suffix)
    except ImportError:
        raise ImportError(f"{shown} needs pyarrow; pip install 'equipoise[parquet]'") from None
    except Exception as error:  # pyarrow raises many kinds for a file it cannot read
        said = (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"scores must be a table that can be read, got {shown}: {said}") from None


def _read(path: Any, suffix: str) -> "pd.DataFrame":
    import pandas as pd

    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header
        if suffix in (".csv", ".tsv"):
            return _table(path, "," if suffix == ".csv" else "\t")
        if suffix == ".parquet":
            return pd.read_parquet(path)
        read_json: Any = pd.read_json  # its annotations lack dtype=False
        return read_json(path, lines=True, dtype=False, precise_float=True)


def _table(path: Any, separator: str) -> "pd.DataFrame":
    """Return the table of a CSV file; a candidate named 007 or NA stays text."""
    import pandas as pd

    read = partial(pd.read_csv, sep=separator, skipinitialspace=True, index_col=False, keep_default_na=False)
    others = [name for name in read(path, nrows=0) if name != "candidate"]
    return read(path, dtype={"candidate": str}, na_values=dict.fromkeys(others, MISSING))
