"""Check of data files: whether they exist, and their format by suffix."""

import os
from pathlib import Path

from equipoise.compare.refusal import refusal

__all__ = ["kind"]

SUFFIXES = {
    **dict.fromkeys((".csv", ".tsv", ".tab"), "text"),
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
    ".npz": "npz",
}


def kind(path: str, option: str) -> str:
    """Return the format of an existing file, by its suffix."""
    if not os.path.isfile(path):
        why = "which is no file" if os.path.exists(path) else "which is not there"
        raise refusal(option, "be a file", f"{path!r}, {why}", "check the path")
    if (suffix := Path(path).suffix.lower()) not in SUFFIXES:
        raise refusal(option, "end in .csv, .tsv, .parquet or .npz", repr(path), "convert it to one of these")
    return SUFFIXES[suffix]
